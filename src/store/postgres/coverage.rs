//! The SQL about rows that need no read, in PostgreSQL. [`CoverageStatements`] lists the parameters of each statement.

use super::super::dialect::CoverageStatements;

/// The bucket of a wallet.
macro_rules! bucket_of {
    ($wallet:literal) => {
        concat!(
            "left(",
            $wallet,
            ", (select length(bucket) from eth_wallet_confirmations limit 1))"
        )
    };
}

/// The time up to which rows may have been written from reads before the first covered block without being noted.
macro_rules! followed_since {
    () => {
        "(select coalesce(max(followed_since), 'infinity') from eth_watch_coverage
             where checkpoint = $1 and followed_from >= $2::bigint)"
    };
}

/// Whether a row is failing or missed.
macro_rules! is_exception {
    ($row:literal) => {
        concat!(
            "(exists (
                 select from eth_wallet_read_failures failed where failed.wallet = ",
            $row,
            ".wallet)
             or exists (
                 select from eth_watch_uncovered missed
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
            "(not coalesce(stored.read_block >= $2::bigint and stored.read_block >= ",
            missed_block!(),
            ", false)
                 and not ((select coalesce(max(block), -1) from eth_wallet_confirmations) >= $2::bigint and exists (
                     select from eth_wallet_confirmations confirmed
                     where confirmed.bucket = ",
            bucket_of!("stored.wallet"),
            "        and confirmed.block >= $2::bigint and confirmed.block >= ",
            missed_block!(),
            "            and ($3::bigint is null or confirmed.block < $3::bigint)
                         and stored.updated_at < confirmed.selected_at
                         and stored.created_at < confirmed.selected_at
                         and stored.updated_at >= timestamp '1970-01-02'))
             or coalesce(stored.read_block >= $3::bigint, false)
             or exists (select from eth_wallet_read_failures failed where failed.wallet = stored.wallet))
             and stored.wallet >= $4 and ($5::text is null or stored.wallet < $5::text)"
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
                 select found.* from eth_wallet_confirmations bucket
                 cross join lateral (
                     select wallet, read_block, updated_at, created_at from eth_wallet_balances
                     where wallet >= bucket.bucket and wallet < bucket.bucket || 'g'
                     order by wallet offset 0) found
                 where $6 = 1 and not coalesce(bucket.block >= $2 and ($3::bigint is null or bucket.block < $3::bigint), false)
                     and found.read_block < $2
                 union all
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances late
                 where $6 = 1 and read_block < $2
                     and updated_at >= (select min(selected_at) from eth_wallet_confirmations where block >= $2)
                     and exists (
                         select from eth_wallet_confirmations bucket
                         where bucket.bucket = ",
            bucket_of!("late.wallet"),
            "            and bucket.block >= $2 and ($3::bigint is null or bucket.block < $3::bigint))
                     and not ",
            is_exception!("late"),
            "    union all
                 select found.wallet, found.read_block, found.updated_at, found.created_at
                 from (
                     select wallet from eth_wallet_read_failures
                     union
                     select wallet from eth_watch_uncovered where checkpoint = $1) exceptions
                 cross join lateral (
                     select * from eth_wallet_balances where wallet = exceptions.wallet offset 0) found
                 where (found.read_block >= $2 or $6 = 0 and found.updated_at > ",
            followed_since!(),
            "    or $6 = 1 and found.read_block < $2 and exists (
                         select from eth_wallet_confirmations bucket
                         where bucket.bucket = ",
            bucket_of!("found.wallet"),
            "            and bucket.block >= $2 and ($3::bigint is null or bucket.block < $3::bigint)))
                 union all
                 select wallet, read_block, updated_at, created_at from eth_wallet_balances doubted
                 where read_block >= greatest($2, $3::bigint) and $3::bigint is not null
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
             select from eth_wallet_read_failures failed where failed.wallet = stored.wallet) and "
    };
}

pub(super) const COVERAGE: CoverageStatements = CoverageStatements {
    begin: "insert into eth_watch_coverage as stored (checkpoint, events, followed_from, last_block)
         select $1, $2, greatest(last_block, (
                 select followed_from from eth_watch_coverage where checkpoint = '')), last_block
         from (select coalesce(
                 (select last_block from eth_indexer_checkpoints where name = $1), $3::bigint) as last_block) given
         on conflict (checkpoint) do update set
             events = excluded.events,
             followed_from = greatest(stored.followed_from, excluded.followed_from),
             last_block = excluded.last_block
         where stored.events <> excluded.events or stored.last_block <> excluded.last_block",
    extend: "update eth_watch_coverage set
             followed_from = greatest(followed_from, $2),
             last_block = (select last_block from eth_indexer_checkpoints where name = $1),
             doubt_from = case when $3 = 0 then doubt_from end,
             doubt_to = case when $3 = 0 then doubt_to end,
             doubted_at = case when $3 = 0 then doubted_at end
         where checkpoint = $1",
    doubt: "insert into eth_watch_coverage as stored
             (checkpoint, events, followed_from, last_block, doubt_from, doubt_to, doubted_at)
         select name, '', last_block, last_block, $2, $3, clock_timestamp() at time zone 'utc'
         from eth_indexer_checkpoints where name = $1
         on conflict (checkpoint) do update set
             doubt_from = least(stored.doubt_from, excluded.doubt_from),
             doubt_to = greatest(stored.doubt_to, excluded.doubt_to),
             doubted_at = excluded.doubted_at",
    doubt_of: "select doubt_from, doubt_to,
             extract(epoch from (clock_timestamp() at time zone 'utc') - doubted_at)::bigint
         from eth_watch_coverage where checkpoint = $1 and doubt_from is not null",
    uncover: "insert into eth_watch_uncovered as stored (checkpoint, wallet, block)
         select $1, missed.wallet, missed.block
         from unnest($2::text[], $3::bigint[]) as missed (wallet, block)
         order by missed.wallet
         on conflict (checkpoint, wallet) do update set block = greatest(stored.block, excluded.block)",
    early_reads: "select followed.checkpoint, read.wallet,
             case when known.read_block is null then greatest(last_block, followed_from) else followed_from end
         from unnest($1::text[], $2::bigint[]) as read (wallet, block)
         join eth_watch_coverage followed
             on greatest(followed.last_block, followed.followed_from) > read.block and followed.checkpoint <> ''
         left join eth_wallet_balances known on known.wallet = read.wallet
         where known.read_block is null
             or greatest(known.read_block, read.block) < followed.followed_from
         order by 1, 2",
    lock_checkpoint: Some(
        "select pg_advisory_xact_lock(to_regclass('eth_wallet_confirmations')::oid::int, 16)",
    ),
    share_checkpoint: Some(
        "select pg_advisory_xact_lock_shared(to_regclass('eth_wallet_confirmations')::oid::int, 16)",
    ),
    follow_since: "update eth_watch_coverage set followed_since = greatest(
             clock_timestamp() at time zone 'utc', (select max(updated_at)::timestamp from eth_wallet_balances))
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
                 where failed.wallet >= $4 and ($5::text is null or failed.wallet < $5::text) and exists (
                     select from eth_wallet_balances known where known.wallet = failed.wallet))"
    ),
    list: uncovered!("stored.wallet, stored.updated_at < timestamp '1970-01-02'", not_failing!()),
    page: concat!(
        "select stored.wallet, stored.updated_at < timestamp '1970-01-02' from eth_wallet_balances stored
         where stored.wallet > $6 and ",
        not_failing!(),
        is_uncovered!(),
        " order by stored.wallet limit $7"
    ),
    buckets: concat!(
        "select bucket from eth_wallet_confirmations bucket
         where not coalesce(block >= $2 and ($3::bigint is null or block < $3::bigint), false)
             and (select count(*) < 2 * count(*) filter (where ",
        is_uncovered!(),
        ") from (
                 select * from eth_wallet_balances
                 where wallet >= bucket.bucket and wallet < bucket.bucket || 'g'
                 order by wallet offset 0) stored)
         order by bucket"
    ),
};
