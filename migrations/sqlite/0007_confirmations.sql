-- Address ranges ("buckets") whose rows were all read and compared with the chain: a row that did not change since is
-- as fresh as its bucket, and costs no write. All buckets are prefixes of one length.
create table if not exists eth_wallet_confirmations (
    bucket      text primary key not null,               -- the first characters of its wallets, such as 0x3f
    block       bigint,                                  -- the block at which its rows were read; null for never
    selected_at timestamp,                               -- when its rows were selected, before they were read
    wallets     bigint                                   -- how many rows it had then
);

-- The newest confirmed block decides whether a write needs a look at single buckets.
create index if not exists eth_wallet_confirmations_block_idx on eth_wallet_confirmations (block);

-- Each row with the block and the time that it is known to be right at. A confirmation counts for rows that existed when
-- the bucket's rows were selected, had been read, were not written since, and are not on the record of failures.
create view if not exists eth_wallet_freshness as
    select stored.wallet, stored.balance,
        coalesce(max(stored.read_block, bucket.block), bucket.block, stored.read_block) as read_block,
        coalesce(max(stored.updated_at, bucket.selected_at), stored.updated_at) as fresh_at
    from eth_wallet_balances stored
    left join eth_wallet_confirmations bucket
        on bucket.bucket = substr(stored.wallet, 1,
            (select length(bucket) from eth_wallet_confirmations limit 1))
        and bucket.block is not null
        and stored.updated_at < bucket.selected_at and stored.created_at < bucket.selected_at
        and stored.updated_at >= '1970-01-02'
        and not exists (
            select 1 from eth_wallet_read_failures failed where failed.wallet = stored.wallet);
