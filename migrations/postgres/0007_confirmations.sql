-- Address ranges ("buckets") whose rows were all read and compared with the chain: a row that did not change since is
-- as fresh as its bucket, and costs no write. All buckets are prefixes of one length.
create table if not exists eth_wallet_confirmations (
    bucket      text primary key,                        -- the first characters of its wallets, such as 0x3f
    block       bigint,                                  -- the block at which its rows were read; null for never
    selected_at timestamp,                               -- when its rows were selected, before they were read
    wallets     bigint                                   -- how many rows it had then
);

-- The newest confirmed block decides whether a write needs a look at single buckets.
create index if not exists eth_wallet_confirmations_block_idx on eth_wallet_confirmations (block);

-- Each row with the block and the time that it is known to be right at. A confirmation counts for rows that existed when
-- the bucket's rows were selected, had been read, were not written since, and are not on the record of failures.
do $$
declare
    utc text := case (
        select atttypid::regtype::text from pg_attribute
        where attrelid = 'eth_wallet_balances'::regclass and attname = 'updated_at')
        when 'timestamp with time zone' then 'stored.updated_at at time zone ''utc'''
        else 'stored.updated_at' end;
    created text := case (
        select atttypid::regtype::text from pg_attribute
        where attrelid = 'eth_wallet_balances'::regclass and attname = 'created_at')
        when 'timestamp with time zone' then 'stored.created_at at time zone ''utc'''
        else 'stored.created_at' end;
begin
    execute format('create or replace view eth_wallet_freshness as
        select stored.wallet, stored.balance,
            greatest(stored.read_block, bucket.block) as read_block,
            greatest(%1$s, bucket.selected_at) as fresh_at
        from eth_wallet_balances stored
        left join eth_wallet_confirmations bucket
            on bucket.bucket = left(stored.wallet,
                (select length(bucket) from eth_wallet_confirmations limit 1))
            and bucket.block is not null
            and %1$s < bucket.selected_at and %2$s < bucket.selected_at
            and %1$s >= timestamp ''1970-01-02''
            and not exists (
                select from eth_wallet_read_failures failed where failed.wallet = stored.wallet)',
        utc, created);
end $$;
