-- The block at which `balance` was read: a write whose read is older changes nothing.
alter table eth_wallet_balances add column if not exists read_block bigint;

-- A sweep goes by age, and by wallet among rows of one age: placeholders all have the same.
-- The index holds all that it selects.
create index if not exists eth_wallet_balances_sweep_idx on eth_wallet_balances (updated_at, wallet);

-- Wallets that could not be read, and when a sweep may try them again.
create table if not exists eth_wallet_read_failures (
    wallet         text primary key,
    failures       bigint not null,                      -- in a row; a success deletes the row
    last_error     text not null,
    last_failed_at timestamp not null,
    next_try_at    timestamp not null
);
