-- A sweep writes every row anew, and since `updated_at` is indexed, in every index too. That is cleared away soon enough, for the
-- next sweep to use the space again, when it is begun early and goes on quickly. What the owner has set stays, and so does
-- what the server does better.
-- Nobody but another vacuum waits behind this lock; and one that runs by itself gives way to who waits for a second.
set local lock_timeout = '5s';

do $$
declare
    wanted record;
begin
    for wanted in
        select setting, value
        from (values
            ('autovacuum_vacuum_scale_factor', '0.05',
                current_setting('autovacuum_vacuum_scale_factor')::float > 0.05),
            ('autovacuum_vacuum_cost_limit', '400',
                coalesce(nullif(current_setting('autovacuum_vacuum_cost_limit'), '-1'),
                    current_setting('vacuum_cost_limit'))::int < 400)
        ) as advised (setting, value, is_better)
        where is_better
    loop
        if not exists (
            select from pg_class, unnest(reloptions) as option
            where oid = 'eth_wallet_balances'::regclass and split_part(option, '=', 1) = wanted.setting)
        then
            execute format('alter table eth_wallet_balances set (%s = %s)', wanted.setting, wanted.value);
        end if;
    end loop;
end $$;
