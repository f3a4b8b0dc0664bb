-- The recent blocks that `watch` has seen, each with the wallets that it read there: if a block goes,
-- even while nobody watches, they are read again.
create table if not exists eth_watch_blocks (
    checkpoint text not null,                            -- its name in eth_indexer_checkpoints
    number     bigint not null,
    hash       text not null,                            -- lower-case 0x hex
    wallets    text not null,                            -- JSON, a list of addresses
    gone       boolean not null default false,           -- it is no longer on the chain
    redo_from  bigint,                                   -- if so: from where the blocks in its place are to be
                                                         -- looked through; null once that is done
    primary key (checkpoint, hash)
);
