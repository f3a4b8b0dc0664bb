-- The columns of the original indexer's tables. Totals are TEXT: NUMERIC would make large integers floats.
create table if not exists eth_wallet_balances (
    wallet      text primary key,                        -- lower-case 0x hex
    balance     text not null default '0',               -- the total, wei, decimal
    blocknumber bigint,                                  -- newest event block seen for the wallet; null if never by an event
    updated_at  timestamp not null default current_timestamp,
    created_at  timestamp not null default current_timestamp
);

create index if not exists eth_wallet_balances_updated_at_idx on eth_wallet_balances (updated_at);

create table if not exists eth_indexer_checkpoints (
    name       text primary key,
    last_block bigint not null,
    updated_at timestamp not null default current_timestamp
);
