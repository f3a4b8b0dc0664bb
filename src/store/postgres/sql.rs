//! The SQL of the store in PostgreSQL. [`Statements`] lists the parameters of each statement.
//!
//! The columns of times are `timestamp`, or `timestamptz` in some databases of the original. [`UTC`] makes both mean the
//! same. Indexes serve comparisons between the two types, so only what a query returns is cast.

use super::{
    super::{columns::Template, dialect::Statements},
    coverage::COVERAGE,
};

/// The confirmed bucket `confirmed` of the row `stored`.
macro_rules! its_bucket {
    () => {
        "confirmed.block is not null and confirmed.bucket = left(stored.wallet,
                 (select length(bucket) from eth_wallet_confirmations limit 1))"
    };
}

/// The same, if it counts for the row: apart from the record of failures.
macro_rules! counts_for_row {
    () => {
        concat!(
            its_bucket!(),
            " and stored.updated_at >= timestamp '1970-01-02'
                 and stored.updated_at < confirmed.selected_at
                 and stored.created_at < confirmed.selected_at"
        )
    };
}

/// The columns of parts that the table has.
macro_rules! part_columns {
    () => {
        "select column_name, holds from eth_wallet_parts
             join pg_attribute on attrelid = to_regclass('eth_wallet_balances')
                 and attname = column_name::name and not attisdropped
             order by column_name"
    };
}

/// The statements of the store.
pub(super) const SQL: Statements = Statements {
    create_migrations: "create table if not exists _ethtally_migrations (
             version bigint primary key,
             description text not null,
             installed_on timestamptz not null default now(),
             success boolean not null,
             checksum bytea not null,
             execution_time bigint not null)",
    migrations: "select version from _ethtally_migrations where success",
    migration: "select version from _ethtally_migrations where version = $1",
    record_migration: "insert into _ethtally_migrations
                 (version, description, success, checksum, execution_time)
             values ($1, $2, true, $3, 0)",
    now: "select clock_timestamp() at time zone 'utc'",
    first_age: "-infinity",
    // Without `stored.` the order would be that of the text in the result.
    stale_page: "select wallet, updated_at::timestamp::text from eth_wallet_balances stored
             where updated_at < $1 and (updated_at, wallet) > ($2::text::timestamp, $3)
                 and wallet >= $4 and ($5::text is null or wallet < $5)
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)
             order by stored.updated_at, stored.wallet
             limit $6",
    count_stale: "select count(*) from eth_wallet_balances stored
             where updated_at < $1
                 and wallet >= $2 and ($3::text is null or wallet < $3)
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)",
    // A subquery for each failure: a join might read the whole table of totals first.
    due_page: "select wallet, next_try_at::text from eth_wallet_read_failures failed
             where next_try_at <= $1 and (next_try_at, wallet) > ($2::text::timestamp, $3)
                 and wallet >= $4 and ($5::text is null or wallet < $5)
                 and coalesce((
                     select stored.updated_at < $6 from eth_wallet_balances stored
                     where stored.wallet = failed.wallet), true)
             order by failed.next_try_at, failed.wallet
             limit $7",
    count_due: "select count(*) from eth_wallet_read_failures failed
             where next_try_at <= $1
                 and wallet >= $2 and ($3::text is null or wallet < $3)
                 and coalesce((
                     select stored.updated_at < $4 from eth_wallet_balances stored
                     where stored.wallet = failed.wallet), true)",
    claim_profile: "insert into eth_wallet_profile (id, name, identity, recorded_at)
             values (1, $1, $2, now() at time zone 'utc')
             on conflict (id) do nothing",
    adopt_profile: "insert into eth_wallet_profile (id, name, identity, recorded_at)
             values (1, $1, $2, now() at time zone 'utc')
             on conflict (id) do update set
                 name = excluded.name, identity = excluded.identity, recorded_at = excluded.recorded_at",
    insert_placeholders: "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
             select wallet, 0, timestamp '1970-01-01', statement_timestamp() at time zone 'utc'
             from unnest($1::text[]) as new (wallet)
             order by wallet
             on conflict (wallet) do nothing",
    with_read_total: "select wallet from eth_wallet_balances
             where wallet = any($1)
                 and (read_block is not null or updated_at >= timestamp '1970-01-02')",
    known: "select wallet from eth_wallet_balances where wallet = any($1)",
    rows: Template(concat!(
        "select stored.wallet, trim_scale(balance)::text, read_block, blocknumber,
                 updated_at::timestamp, json_build_array({parts})::text,
                 confirmed.block, confirmed.selected_at
             from eth_wallet_balances stored
             left join eth_wallet_confirmations confirmed on ",
        counts_for_row!(),
        "
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)
             where stored.wallet = any($1)"
    )),
    nth_written: "select updated_at::timestamp from eth_wallet_balances stored
             where stored.updated_at >= $1 and stored.updated_at < $2
             order by stored.updated_at limit 1 offset $3",
    nth_own: concat!(
        "select stored.updated_at::timestamp from eth_wallet_balances stored
             left join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= $1 and stored.updated_at < $2
                 and (confirmed.bucket is null or stored.updated_at >= confirmed.selected_at
                     or stored.updated_at < timestamp '1970-01-02')
             order by stored.updated_at limit 1 offset $3"
    ),
    // In subqueries the times are parsed once, not for each row.
    count_own: concat!(
        "select width_bucket(stored.updated_at::timestamp, (select $1::text[]::timestamp[]))::bigint - 1,
                 confirmed.selected_at, count(*)
             from eth_wallet_balances stored
             left join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= (select ($1::text[])[1]::timestamp)
                 and stored.updated_at < (select ($2::text[])[cardinality($2)]::timestamp)
                 and (confirmed.bucket is null or stored.updated_at >= confirmed.selected_at
                     or stored.updated_at < timestamp '1970-01-02')
             group by 1, 2"
    ),
    rows_by_confirmation: "select case when confirmed.block is not null then confirmed.selected_at end,
                 sum(stored.rows)::bigint
             from eth_wallet_confirmations confirmed
             cross join lateral (
                 select count(*) as rows from eth_wallet_balances
                 where wallet >= confirmed.bucket and wallet < confirmed.bucket || 'g'
                     and left(wallet, length(confirmed.bucket)) = confirmed.bucket) stored
             where exists (select from eth_wallet_confirmations where block is not null)
             group by 1",
    failing_rows: concat!(
        "select confirmed.selected_at, stored.updated_at::timestamp
             from eth_wallet_read_failures failed
             cross join lateral (
                 select wallet, updated_at from eth_wallet_balances
                 where wallet = failed.wallet offset 0) stored
             join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= timestamp '1970-01-02'
                 and stored.updated_at < confirmed.selected_at"
    ),
    late_rows: concat!(
        "select confirmed.selected_at, stored.updated_at::timestamp
             from eth_wallet_balances stored
             join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= timestamp '1970-01-02'
                 and stored.updated_at < confirmed.selected_at
                 and stored.created_at >= confirmed.selected_at
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)"
    ),
    checkpoint: "select name, last_block, updated_at::timestamp
             from eth_indexer_checkpoints where name = $1",
    standing: concat!(
        "select column_name, holds, (select max(block) from eth_wallet_confirmations),
                 (select max(greatest(followed_from, last_block)) from eth_watch_coverage where checkpoint <> '')
             from (select 1) one left join (",
        part_columns!(),
        ") parts on true"
    ),
    record_totals: Template(
        "insert into eth_wallet_balances as stored
                 (wallet, balance, read_block, blocknumber, updated_at, created_at{columns})
             select wallet, total::numeric, read_block, event_block,
                 statement_timestamp() at time zone 'utc', statement_timestamp() at time zone 'utc'{values}
             from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]{arrays})
                 as read (wallet, total, read_block, event_block{names})
             order by wallet
             on conflict (wallet) do update set
                 balance = excluded.balance,
                 read_block = excluded.read_block,
                 blocknumber = greatest(stored.blocknumber, excluded.blocknumber),
                 updated_at = excluded.updated_at{set}
             where (stored.read_block is null or stored.read_block <= excluded.read_block){condition}",
    ),
    if_not_confirmed_since: concat!(
        "
                 and not exists (
                     select from eth_wallet_confirmations confirmed
                     where confirmed.block > excluded.read_block and ",
        counts_for_row!(),
        ")"
    ),
    part_value: |number| format!("part_{number}::numeric"),
    part_columns: part_columns!(),
    table_columns: "select attname::text from pg_attribute
             where attrelid = to_regclass('eth_wallet_balances') and not attisdropped",
    part_type: "numeric",
    raise_event_blocks: "update eth_wallet_balances stored set blocknumber = event.block
             from unnest($1::text[], $2::bigint[]) as event (wallet, block)
             where stored.wallet = event.wallet
                 and (stored.blocknumber is null or stored.blocknumber < event.block)",
    forget_failures: Template(
        "delete from eth_wallet_read_failures failed
             where wallet = any($1){condition}",
    ),
    if_not_superseded: concat!(
        " and not exists (
                 select from eth_wallet_balances stored
                 join eth_wallet_confirmations confirmed on ",
        counts_for_row!(),
        "
                 where stored.wallet = failed.wallet
                     and confirmed.block > coalesce(stored.read_block, -1))"
    ),
    on_record: "select wallet from eth_wallet_read_failures where wallet = any($1)",
    record_failures: "insert into eth_wallet_read_failures as stored
                 (wallet, failures, last_error, last_failed_at, next_try_at)
             select distinct on (wallet) wallet, 1, reason, now() at time zone 'utc',
                 now() at time zone 'utc' + interval '1 minute'
             from unnest($1::text[], $2::text[]) as failed (wallet, reason)
             order by wallet
             on conflict (wallet) do update set
                 failures = stored.failures + 1,
                 last_error = excluded.last_error,
                 last_failed_at = excluded.last_failed_at,
                 next_try_at = excluded.last_failed_at + least(
                     interval '1 day',
                     interval '1 minute' * (1 << least(stored.failures, 11)::int))",
    orphan_blocks: "insert into eth_watch_blocks
                 (checkpoint, number, hash, wallets, gone, redo_from)
             select $1, number, hash, wallets, true, $2
             from unnest($3::bigint[], $4::text[], $5::text[]) as orphaned (number, hash, wallets)
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = true, redo_from = excluded.redo_from",
    move_checkpoint: "insert into eth_indexer_checkpoints as stored (name, last_block, updated_at)
             values ($1, $2, now() at time zone 'utc')
             on conflict (name) do update set
                 last_block = excluded.last_block, updated_at = excluded.updated_at
             where stored.last_block < excluded.last_block",
    finish_rereads: "update eth_watch_blocks set redo_from = null
             where checkpoint = $1 and hash = any($2)",
    forget_blocks: "delete from eth_watch_blocks
             where checkpoint = $1
                 and (hash = any($3)
                     or number < $2 and hash like '0x%' and not hash = any($4))",
    insert_run: "insert into eth_wallet_runs
                 (command, shard, started_at, ended_at, outcome, exit_status, counts, error)
             values ($1, $2, now() at time zone 'utc' - interval '1 millisecond' * $3::bigint,
                 now() at time zone 'utc', $4, $5, $6, $7)
             returning id",
    update_run: "update eth_wallet_runs
             set ended_at = now() at time zone 'utc', outcome = $2, exit_status = $3, counts = $4, error = $5
             where id = $1",
    hints: "select endpoint, kind, accepted, refused, seen_at < now() at time zone 'utc' - interval '1 day'
             from eth_wallet_node_hints
             where seen_at >= now() at time zone 'utc' - interval '7 days'",
    record_hint: "insert into eth_wallet_node_hints (endpoint, kind, accepted, refused, seen_at)
             values ($1, $2, $3, $4, now() at time zone 'utc')
             on conflict (endpoint, kind) do update set
                 accepted = excluded.accepted, refused = excluded.refused, seen_at = excluded.seen_at",
    forget_hints: "delete from eth_wallet_node_hints where seen_at < now() at time zone 'utc' - interval '30 days'",
    first_from: "select (
                 select wallet from eth_wallet_balances where wallet >= address order by wallet limit 1)
             from unnest($1::text[]) as address",
    rows_read_at: "select wallet, read_block from eth_wallet_balances
             where updated_at >= now() at time zone 'utc' - interval '1 second' * $3::bigint
                 and read_block between $1 and $2
             order by updated_at",
    // Sorted, so that two that wait for each other's locks do not wait for ever.
    lock_buckets: Some(
        "select pg_advisory_xact_lock(to_regclass('eth_wallet_confirmations')::oid::int, digit::int)
             from (select unnest($1::bigint[]) as digit order by 1) digits",
    ),
    create_buckets: "insert into eth_wallet_confirmations (bucket) select unnest($1::text[])
             on conflict (bucket) do nothing",
    stale_buckets: "select bucket, coalesce(selected_at, '-infinity')::text
             from eth_wallet_confirmations
             where (selected_at is null or selected_at < $1)
                 and (coalesce(selected_at, '-infinity'), bucket) > ($2::text::timestamp, $3)
                 and bucket >= $4 and ($5::text is null or bucket < $5)
             order by coalesce(selected_at, '-infinity'), bucket
             limit $6",
    count_in_buckets: "select given.bucket, count(*)
             from unnest($1::text[]) as given (bucket)
             cross join lateral (
                 select wallet, updated_at from eth_wallet_balances
                 where wallet >= given.bucket and wallet < given.bucket || 'g'
                 order by wallet offset 0) stored
             where stored.updated_at >= timestamp '1970-01-02' and not exists (
                 select from eth_wallet_read_failures failed where failed.wallet = stored.wallet)
             group by 1
             having bool_or(stored.updated_at < $2)",
    failures_in_ranges: "select wallet
             from unnest($1::text[], $2::text[]) as given (first, last)
             cross join lateral (
                 select wallet from eth_wallet_read_failures
                 where wallet >= given.first and wallet < given.last || 'g' offset 0) failed",
    // One range is read in the order of the table's pages, several one after another.
    selects_neighbours: true,
    rows_in_ranges: Template(
        "select stored.wallet, stored.balance::text, stored.read_block,
                 (stored.updated_at < $3 and stored.created_at < $3
                     and stored.updated_at >= timestamp '1970-01-02')::int
                 + (stored.updated_at < $4)::int * 2
                 + (stored.updated_at < timestamp '1970-01-02')::int * 4{, parts}
             from unnest($1::text[], $2::text[]) as given (first, last)
             cross join lateral (
                 select * from eth_wallet_balances
                 where wallet >= given.first and wallet < given.last || 'g' offset 0) stored",
    ),
    written_since: "select wallet
             from (
                 select wallet from eth_wallet_balances
                 where updated_at >= $1
                 order by updated_at, wallet offset 0) stored
             where left(wallet, $2::int) = any($3)",
    rows_now: Template(
        "select stored.wallet, stored.balance::text, stored.read_block,
                 (stored.updated_at < given.at::timestamp and stored.created_at < given.at::timestamp
                     and stored.updated_at >= timestamp '1970-01-02')::int{, parts}
             from unnest($1::text[], $2::text[]) as given (wallet, at)
             cross join lateral (
                 select * from eth_wallet_balances
                 where wallet = given.wallet offset 0) stored",
    ),
    confirm_buckets: "update eth_wallet_confirmations stored
             set block = read.block, selected_at = read.at::timestamp, wallets = read.wallets
             from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[])
                 as read (bucket, block, at, wallets)
             where stored.bucket = read.bucket
                 and (stored.block is null or read.block is null or stored.block <= read.block)",
    coverage: COVERAGE,
};

/// Holds every confirmation off until the end of the transaction, and the checkpoint of `watch` (16): `lock_buckets`
/// excludes it.
pub(super) const HOLD_CONFIRMATIONS: &str =
    "select pg_advisory_xact_lock_shared(to_regclass('eth_wallet_confirmations')::oid::int, digit)
     from generate_series(0, 16) digit";

/// The same without waiting: whether it succeeded. Before the table exists there is nothing to lock.
pub(super) const TRY_HOLD_CONFIRMATIONS: &str = "select coalesce(bool_and(
         pg_try_advisory_xact_lock_shared(to_regclass('eth_wallet_confirmations')::oid::int, digit)), true)
     from generate_series(0, 16) digit";

/// Makes times without a zone mean UTC where they are compared with a `timestamptz` or stored in one.
pub(super) const UTC: &str = "set local timezone = 'UTC'";

/// Ends the waits of a transaction's statements, unless role, database or server have a limit of their own.
pub(super) const LIMIT_WAITS: &str = "select set_config(name, value, true)
     from (values ('lock_timeout', '30s'), ('statement_timeout', '300s')) as ours (name, value)
     where current_setting(name) = '0'";

/// Compiles no statement: those of one page look expensive, as the planner cannot know how few rows a range of keys has,
/// and compiling one takes longer than running it.
pub(super) const NO_JIT: &str = "set local jit = off";

/// Makes statements read rows in the order of an index. Without statistics the planner would rather sort all rows of
/// one age, for every page again, or read the whole table where an index holds all that is asked.
pub(super) const BY_INDEX: &str = "set local enable_seqscan = off;
     set local enable_bitmapscan = off;
     set local enable_sort = off;
     set local enable_incremental_sort = off";

/// Session $1: its state, and those that hold a lock it waits for.
pub(super) const LOOK: &str =
    "select session.state, blocker.pid, blocker.usename::text, blocker.application_name,
         to_char(blocker.xact_start at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
     from pg_stat_activity session
     left join pg_stat_activity blocker on blocker.pid = any(pg_blocking_pids(session.pid))
     where session.pid = $1
     order by blocker.xact_start, blocker.pid";

/// Makes statements look at each page of a table once, in the table's order, for all rows that an index finds. The list of
/// rows needs this memory: with less, it names pages only, and every row of them is looked at.
pub(super) const BY_PAGE: &str = "set local enable_seqscan = off;
     set local enable_indexscan = off;
     set local enable_indexonlyscan = off;
     set local work_mem = '32MB'";

/// The session that holds the advisory lock $1.
pub(super) const HOLDER: &str = "select pid, usename::text, application_name,
         to_char(coalesce(xact_start, backend_start) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
     from pg_locks join pg_stat_activity using (pid)
     where locktype = 'advisory' and granted and objsubid = 1
         and database = (select oid from pg_database where datname = current_database())
         and (classid::bigint << 32 | objid::bigint) = $1";

/// The sessions that hold a lock on one of the tables, or the lock of upgrades; the oldest first.
pub(super) const HOLDERS_OF_TABLES: &str = "select distinct on (xact_start, pid)
         pid, usename::text, application_name,
         to_char(xact_start at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
     from pg_locks join pg_stat_activity using (pid)
     where pid <> pg_backend_pid() and granted
         and database = (select oid from pg_database where datname = current_database())
         and (relation::regclass::text like '%eth\\_%' or locktype = 'advisory' and objsubid = 1
             and (classid::bigint << 32 | objid::bigint) = 7020095870286951500)
     order by xact_start, pid";

/// Whether the role may use the schema $1; no row if there is none.
pub(super) const RIGHT_TO_USE_SCHEMA: &str =
    "select has_schema_privilege(oid, 'usage') from pg_namespace where nspname = $1";

/// Creates the schema that the transaction's search path consists of, which is written as SQL needs it.
pub(super) const CREATE_SCHEMA: &str = "do $$ begin
         execute 'create schema if not exists ' || current_setting('search_path');
     end $$";

/// The kind of the table of totals, if it exists: `r` for a plain one, `p` for a partitioned one.
pub(super) const KIND_OF_TABLE: &str =
    "select relkind::text from pg_class where oid = to_regclass('eth_wallet_balances')";

/// Gives up the advisory lock $1 of this session.
pub(super) const UNLOCK: &str = "select pg_advisory_unlock($1)";

/// Whether this session holds the advisory lock $1, on a server that takes writes.
pub(super) const HOLDS: &str = "select exists (
         select from pg_locks
         where pid = pg_backend_pid() and locktype = 'advisory' and granted and objsubid = 1
             and (classid::bigint << 32 | objid::bigint) = $1)
     and not pg_is_in_recovery() and current_setting('default_transaction_read_only') = 'off'";

/// The server as the role sees it: version, role, schema of new tables, right to create them, whether it takes no
/// writes, whether autovacuum runs.
pub(super) const SERVER: &str =
    "select current_setting('server_version'), current_user::text, current_schema()::text,
         coalesce(has_schema_privilege(current_schema()::text, 'create'), false),
         pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on',
         current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on'";

/// The rights to read and to write to those of the tables $1 that exist.
pub(super) const RIGHTS: &str = "select name, has_table_privilege(to_regclass(name), 'select'),
         has_table_privilege(to_regclass(name), 'insert') and has_table_privilege(to_regclass(name), 'update')
             and has_table_privilege(to_regclass(name), 'delete')
     from unnest($1::text[]) as wanted (name)
     where to_regclass(name) is not null";

/// Of the table of totals: whether autovacuum is off, and its dead and living rows.
pub(super) const VACUUM_OF_TABLE: &str = "select exists (
             select from pg_class, unnest(reloptions) as option
             where oid = stats.relid and option in
                 ('autovacuum_enabled=false', 'autovacuum_enabled=off', 'autovacuum_enabled=0', 'autovacuum_enabled=no')),
         n_dead_tup, n_live_tup
     from pg_stat_user_tables stats
     where relid = to_regclass('eth_wallet_balances')";
