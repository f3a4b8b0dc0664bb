-- The tables as the original indexer makes them; on its database every statement does nothing.
create table if not exists eth_wallet_balances (
    wallet      text primary key,                        -- lower-case 0x hex
    balance     numeric not null default 0,              -- the total, wei
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
