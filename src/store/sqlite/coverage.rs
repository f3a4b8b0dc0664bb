//! The SQL about rows that need no read, in SQLite. [`CoverageStatements`] lists the parameters of each statement.

use super::super::dialect::CoverageStatements;

/// The bucket of a wallet.
macro_rules! bucket_of {
    ($wallet:literal) => {
        concat!(
            "substr(",
            $wallet,
            ", 1, (select length(bucket) from eth_wallet_confirmations limit 1))"
        )
    };
}

/// The time up to which rows may have been written from reads before the first covered block without being noted.
macro_rules! followed_since {
    () => {
        "(select coalesce(max(followed_since), '9999-12-31') from eth_watch_coverage
             where checkpoint = $1 and followed_from >= $2)"
    };
}

/// Whether a row is failing or missed.
macro_rules! is_exception {
    ($row:literal) => {
        concat!(
            "(exists (
                 select 1 from eth_wallet_read_failures failed where failed.wallet = ",
            $row,
            ".wallet)
             or exists (
                 select 1 from eth_watch_uncovered missed
                 where missed.checkpoint = $1 and missed.wallet = ",
            $row,
            ".wallet))"
        )
    };
}

/// The block at which the row `stored` must have been read, besides the first covered one.
macro_rules! missed_block {
    () => {
        "coalesce((
             select missed.block from eth_watch_uncovered missed
             where missed.checkpoint = $1 and missed.wallet = stored.wallet), 0)"
    };
}

/// Whether the row `stored` is not covered. What is cheap to know comes first.
macro_rules! is_uncovered {
    () => {
        concat!(
            "(not coalesce(stored.read_block >= $2 and stored.read_block >= ",
            missed_block!(),
            ", false)
                 and not ((select coalesce(max(block), -1) from eth_wallet_confirmations) >= $2 and exists (
                     select 1 from eth_wallet_confirmations confirmed
                     where confirmed.bucket = ",
            bucket_of!("stored.wallet"),
            "        and confirmed.block >= $2 and confirmed.block >= ",
            missed_block!(),
            "            and ($3 is null or confirmed.block < $3)
                         and stored.updated_at < confirmed.selected_at
                         and stored.created_at < confirmed.selected_at
                         and stored.updated_at >= '1970-01-02'))
             or coalesce(stored.read_block >= $3, false)
             or exists (select 1 from eth_wallet_read_failures failed where failed.wallet = stored.wallet))
             and stored.wallet >= $4 and ($5 is null or stored.wallet < $5)"
        )
    };
}

/// The rows that are not covered, each found by an index: read too early (one by one, or of buckets that are not covered
/// and those written since their bucket was confirmed), never read, failing or missed. Each is found once. Those in doubt
/// are found by a pass over the table, which is rare and soon over.
macro_rules! uncovered {
    ($what:literal) => {
        uncovered!($what, "")
    };
    ($what:literal, $more:expr) => {
        concat!(
            "select ",
            $what,
            " from (
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances
                 where $6 = 0 and updated_at <= ",
            followed_since!(),
            "    and read_block < $2
                 union all
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances
                 where read_block is null
                 union all
                 select found.wallet, found.read_block, found.updated_at, found.created_at
                 from eth_wallet_confirmations bucket
                 cross join eth_wallet_balances found
                     on found.wallet >= bucket.bucket and found.wallet < bucket.bucket || 'g'
                 where $6 = 1 and not coalesce(bucket.block >= $2 and ($3 is null or bucket.block < $3), false)
                     and found.read_block < $2
                 union all
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances late
                 where $6 = 1 and read_block < $2
                     and updated_at >= (select min(selected_at) from eth_wallet_confirmations where block >= $2)
                     and exists (
                         select 1 from eth_wallet_confirmations bucket
                         where bucket.bucket = ",
            bucket_of!("late.wallet"),
            "            and bucket.block >= $2 and ($3 is null or bucket.block < $3))
                     and not ",
            is_exception!("late"),
            "    union all
                 select found.wallet, found.read_block, found.updated_at, found.created_at
                 from (
                     select wallet from eth_wallet_read_failures
                     union
                     select wallet from eth_watch_uncovered where checkpoint = $1) exceptions
                 cross join eth_wallet_balances found
                     on found.wallet = exceptions.wallet
                 where (found.read_block >= $2 or $6 = 0 and found.updated_at > ",
            followed_since!(),
            "    or $6 = 1 and found.read_block < $2 and exists (
                         select 1 from eth_wallet_confirmations bucket
                         where bucket.bucket = ",
            bucket_of!("found.wallet"),
            "            and bucket.block >= $2 and ($3 is null or bucket.block < $3)))
                 union all
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances doubted
                 where read_block >= max($2, $3) and $3 is not null
                     and not ",
            is_exception!("doubted"),
            ") stored
             where ",
            $more,
            is_uncovered!()
        )
    };
}

/// Without wallets on the record of failures.
macro_rules! not_failing {
    () => {
        "not exists (
             select 1 from eth_wallet_read_failures failed where failed.wallet = stored.wallet) and "
    };
}

pub(super) const COVERAGE: CoverageStatements = CoverageStatements {
    begin: "insert into eth_watch_coverage as stored (checkpoint, events, followed_from, last_block)
         select $1, $2, max(last_block, coalesce((
                 select followed_from from eth_watch_coverage where checkpoint = ''), 0)), last_block
         from (select coalesce(
                 (select last_block from eth_indexer_checkpoints where name = $1), $3) as last_block)
         where true
         on conflict (checkpoint) do update set
             events = excluded.events,
             followed_from = max(stored.followed_from, excluded.followed_from),
             last_block = excluded.last_block
         where stored.events <> excluded.events or stored.last_block <> excluded.last_block",
    extend: "update eth_watch_coverage set
             followed_from = max(followed_from, $2),
             last_block = (select last_block from eth_indexer_checkpoints where name = $1),
             doubt_from = case when $3 = 0 then doubt_from end,
             doubt_to = case when $3 = 0 then doubt_to end,
             doubted_at = case when $3 = 0 then doubted_at end
         where checkpoint = $1",
    doubt: "insert into eth_watch_coverage as stored
             (checkpoint, events, followed_from, last_block, doubt_from, doubt_to, doubted_at)
         select name, '', last_block, last_block, $2, $3, strftime('%Y-%m-%d %H:%M:%f', 'now')
         from eth_indexer_checkpoints where name = $1
         on conflict (checkpoint) do update set
             doubt_from = min(coalesce(stored.doubt_from, excluded.doubt_from), excluded.doubt_from),
             doubt_to = max(coalesce(stored.doubt_to, excluded.doubt_to), excluded.doubt_to),
             doubted_at = excluded.doubted_at",
    doubt_of: "select doubt_from, doubt_to, unixepoch('now') - unixepoch(doubted_at)
         from eth_watch_coverage where checkpoint = $1 and doubt_from is not null",
    uncover: "insert into eth_watch_uncovered as stored (checkpoint, wallet, block)
         select $1, missed.value ->> 0, missed.value ->> 1
         from json_each($2) as missed
         where true
         on conflict (checkpoint, wallet) do update set block = max(stored.block, excluded.block)",
    early_reads: "select followed.checkpoint, read.value ->> 0,
             case when known.read_block is null then max(last_block, followed_from) else followed_from end
         from eth_watch_coverage followed
         cross join json_each($1) as read
             on max(followed.last_block, followed.followed_from) > read.value ->> 1 and followed.checkpoint <> ''
         left join eth_wallet_balances known on known.wallet = read.value ->> 0
         where known.read_block is null
             or max(known.read_block, read.value ->> 1) < followed.followed_from
         order by 1, 2",
    lock_checkpoint: None,
    share_checkpoint: None,
    follow_since: "update eth_watch_coverage set followed_since = max(
             strftime('%Y-%m-%d %H:%M:%f', 'now'), coalesce((select max(updated_at) from eth_wallet_balances), ''))
         where checkpoint = $1",
    count_old: concat!(
        "select count(*) from (
             select 1 from eth_wallet_balances where updated_at <= ",
        followed_since!(),
        "        and read_block < $2 limit $3) old"
    ),
    count: uncovered!(
        "count(*), (
                 select count(*) from eth_wallet_read_failures failed
                 where failed.wallet >= $4 and ($5 is null or failed.wallet < $5) and exists (
                     select 1 from eth_wallet_balances known where known.wallet = failed.wallet))"
    ),
    list: uncovered!("stored.wallet, stored.updated_at < '1970-01-02'", not_failing!()),
    page: concat!(
        "select stored.wallet, stored.updated_at < '1970-01-02' from eth_wallet_balances stored
         where stored.wallet > $6 and ",
        not_failing!(),
        is_uncovered!(),
        " order by stored.wallet limit $7"
    ),
    buckets: concat!(
        "select bucket from eth_wallet_confirmations bucket
         where not coalesce(block >= $2 and ($3 is null or block < $3), false)
             and (select count(*) < 2 * count(*) filter (where ",
        is_uncovered!(),
        ") from (
                 select * from eth_wallet_balances
                 where wallet >= bucket.bucket and wallet < bucket.bucket || 'g') stored)
         order by bucket"
    ),
};
