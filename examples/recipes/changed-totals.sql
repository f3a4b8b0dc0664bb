-- Records each total that changes, and notifies who listens: run it once in ethtally's database.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f changed-totals.sql
--
-- Most reads find the total that is stored. `old.balance is distinct from new.balance` leaves them out before the
-- function is called, so that a sweep of millions of wallets records only what changed. listen.sh reads the changes.
begin;

create table if not exists wallet_changes (
    id         bigint generated always as identity primary key,
    wallet     text not null,
    old_total  numeric,                                  -- wei; null for a wallet that was not read before
    new_total  numeric not null,
    read_block bigint,                                   -- the block at which the new total was read
    changed_at timestamptz not null default now()
);

create or replace function record_wallet_change() returns trigger language plpgsql as $$
begin
    insert into wallet_changes (wallet, old_total, new_total, read_block)
    -- A placeholder has no read_block, and no total yet.
    values (new.wallet, case when tg_op = 'UPDATE' and old.read_block is not null then old.balance end,
        new.balance, new.read_block);
    -- PostgreSQL sends the same notification once per transaction, when it commits.
    perform pg_notify('wallet_changes', '');
    return null;
end
$$;

drop trigger if exists wallet_total_changed on eth_wallet_balances;
create trigger wallet_total_changed
    after update of balance on eth_wallet_balances
    for each row when (old.balance is distinct from new.balance)
    execute function record_wallet_change();

drop trigger if exists wallet_total_added on eth_wallet_balances;
create trigger wallet_total_added
    after insert on eth_wallet_balances
    for each row when (new.read_block is not null)
    execute function record_wallet_change();

commit;
