-- Since which block the events of a checkpoint are followed without a gap: a row that was read at that block or later is
-- right up to the checkpoint, as far as these events tell.
create table if not exists eth_watch_coverage (
    checkpoint    text primary key,                      -- its name in eth_indexer_checkpoints; '' for all of them:
                                                         -- what was read before `followed_from` is of another profile
    events        text not null,                         -- which events are followed: after other ones, it begins anew
    followed_from bigint not null,
    followed_since timestamp,                            -- who writes a read of an earlier block after this time puts the
                                                         -- row into eth_watch_uncovered; null: nobody does yet
    last_block    bigint not null,                       -- the checkpoint as `watch` left it: if it is another now,
                                                         -- somebody has moved it
    doubt_from    bigint,                                -- after a reorganisation, until all rows that were read at
    doubt_to      bigint,                                -- replaced blocks are read again: these blocks
    doubted_at    timestamp                              -- and since when
);

-- Rows to which that does not apply until they are read at this block or later: they could not be read when an event
-- changed their total, were read for the first time at a block that the checkpoint had passed, or were written after
-- `followed_since` from a read before `followed_from`.
create table if not exists eth_watch_uncovered (
    checkpoint text not null,
    wallet     text not null,
    block      bigint not null,
    primary key (checkpoint, wallet)
);

-- Finds the rows that were never read. Others are found by their time, so that a write costs no index more.
create index if not exists eth_wallet_balances_unread_idx on eth_wallet_balances (wallet) where read_block is null;
