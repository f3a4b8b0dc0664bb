-- A sweep writes every row anew, and since `updated_at` is indexed, in every index too. That is cleared away soon enough, for the
-- next sweep to use the space again, when it is begun early and goes on quickly. What the owner has set stays.
-- Nobody but another vacuum waits behind this lock; and one that runs by itself gives way to who waits for a second.
set local lock_timeout = '5s';

do $$
declare
    wanted record;
begin
    for wanted in
        values ('autovacuum_vacuum_scale_factor', '0.05'), ('autovacuum_vacuum_cost_limit', '400')
    loop
        if not exists (
            select from pg_class, unnest(reloptions) as setting
            where oid = 'eth_wallet_balances'::regclass and split_part(setting, '=', 1) = wanted.column1)
        then
            execute format('alter table eth_wallet_balances set (%s = %s)', wanted.column1, wanted.column2);
        end if;
    end loop;
end $$;
