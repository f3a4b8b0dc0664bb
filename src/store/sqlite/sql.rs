//! The SQL of the store in SQLite. [`Statements`] lists the parameters of each statement.
//!
//! Times are stored as `YYYY-MM-DD HH:MM:SS[.fff]`, which sorts as text.

use super::{
    super::{columns::Template, dialect::Statements},
    coverage::COVERAGE,
};

/// The confirmed bucket `confirmed` of the row `stored`.
macro_rules! its_bucket {
    () => {
        "confirmed.block is not null and confirmed.bucket = substr(stored.wallet, 1,
                 (select length(bucket) from eth_wallet_confirmations limit 1))"
    };
}

/// The same, if it counts for the row: apart from the record of failures.
macro_rules! counts_for_row {
    () => {
        concat!(
            its_bucket!(),
            " and stored.updated_at >= '1970-01-02'
                 and stored.updated_at < confirmed.selected_at
                 and stored.created_at < confirmed.selected_at"
        )
    };
}

/// The columns of parts that the table has.
macro_rules! part_columns {
    () => {
        "select column_name, holds from eth_wallet_parts
             join pragma_table_info('eth_wallet_balances') on name = column_name
             order by column_name"
    };
}

/// The statements of the store.
pub(super) const SQL: Statements = Statements {
    create_migrations: "create table if not exists _ethtally_migrations (
             version bigint primary key,
             description text not null,
             installed_on timestamp not null default current_timestamp,
             success boolean not null,
             checksum blob not null,
             execution_time bigint not null)",
    migrations: "select version from _ethtally_migrations where success",
    migration: "select version from _ethtally_migrations where version = $1",
    record_migration: "insert into _ethtally_migrations
                 (version, description, success, checksum, execution_time)
             values ($1, $2, true, $3, 0)",
    now: "select strftime('%Y-%m-%d %H:%M:%f', 'now')",
    first_age: "",
    stale_page: "select wallet, updated_at
             from eth_wallet_balances stored indexed by eth_wallet_balances_sweep_idx
             where updated_at < $1 and (updated_at, wallet) > ($2, $3)
                 and wallet >= $4 and ($5 is null or wallet < $5)
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)
             order by stored.updated_at, stored.wallet
             limit $6",
    count_stale: "select count(*) from eth_wallet_balances stored
             where updated_at < $1
                 and wallet >= $2 and ($3 is null or wallet < $3)
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)",
    due_page: "select wallet, next_try_at from eth_wallet_read_failures failed
             where next_try_at <= $1 and (next_try_at, wallet) > ($2, $3)
                 and wallet >= $4 and ($5 is null or wallet < $5)
                 and coalesce((
                     select stored.updated_at < $6 from eth_wallet_balances stored
                     where stored.wallet = failed.wallet), true)
             order by failed.next_try_at, failed.wallet
             limit $7",
    count_due: "select count(*) from eth_wallet_read_failures failed
             where next_try_at <= $1
                 and wallet >= $2 and ($3 is null or wallet < $3)
                 and coalesce((
                     select stored.updated_at < $4 from eth_wallet_balances stored
                     where stored.wallet = failed.wallet), true)",
    claim_profile: "insert into eth_wallet_profile (id, name, identity, recorded_at)
             values (1, $1, $2, strftime('%Y-%m-%d %H:%M:%f', 'now'))
             on conflict (id) do nothing",
    adopt_profile: "insert into eth_wallet_profile (id, name, identity, recorded_at)
             values (1, $1, $2, strftime('%Y-%m-%d %H:%M:%f', 'now'))
             on conflict (id) do update set
                 name = excluded.name, identity = excluded.identity, recorded_at = excluded.recorded_at",
    // `where true` tells the parser that `on conflict` does not belong to a join.
    insert_placeholders: "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
             select value, '0', '1970-01-01 00:00:00', strftime('%Y-%m-%d %H:%M:%f', 'now')
             from json_each($1)
             where true
             on conflict (wallet) do nothing",
    with_read_total: "select wallet from eth_wallet_balances
             where wallet in (select value from json_each($1))
                 and (read_block is not null or updated_at >= '1970-01-02')",
    known: "select wallet from eth_wallet_balances
             where wallet in (select value from json_each($1))",
    rows: Template(concat!(
        "select stored.wallet, stored.balance, stored.read_block, stored.blocknumber,
                 strftime('%Y-%m-%d %H:%M:%f', stored.updated_at), json_array({parts}), confirmed.block,
                 strftime('%Y-%m-%d %H:%M:%f', confirmed.selected_at)
             from eth_wallet_balances stored
             left join eth_wallet_confirmations confirmed on ",
        counts_for_row!(),
        "
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)
             where stored.wallet in (select value from json_each($1))"
    )),
    nth_written: "select strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_wallet_balances
             where updated_at >= $1 and updated_at < $2
             order by updated_at limit 1 offset $3",
    nth_own: concat!(
        "select strftime('%Y-%m-%d %H:%M:%f', stored.updated_at)
             from eth_wallet_balances stored indexed by eth_wallet_balances_sweep_idx
             left join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= $1 and stored.updated_at < $2
                 and (confirmed.bucket is null or stored.updated_at >= confirmed.selected_at
                     or stored.updated_at < '1970-01-02')
             order by stored.updated_at limit 1 offset $3"
    ),
    count_own: concat!(
        "select given.key, strftime('%Y-%m-%d %H:%M:%f', confirmed.selected_at), count(*)
             from json_each($1) as given
             cross join eth_wallet_balances stored indexed by eth_wallet_balances_sweep_idx
                 on stored.updated_at >= given.value ->> 0 and stored.updated_at < given.value ->> 1
             left join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where confirmed.bucket is null or stored.updated_at >= confirmed.selected_at
                 or stored.updated_at < '1970-01-02'
             group by 1, 2"
    ),
    rows_by_confirmation: "select
                 case when confirmed.block is not null
                     then strftime('%Y-%m-%d %H:%M:%f', confirmed.selected_at) end,
                 sum((
                     select count(*) from eth_wallet_balances
                     where wallet >= confirmed.bucket and wallet < confirmed.bucket || 'g'))
             from eth_wallet_confirmations confirmed
             where exists (select 1 from eth_wallet_confirmations where block is not null)
             group by 1",
    failing_rows: concat!(
        "select strftime('%Y-%m-%d %H:%M:%f', confirmed.selected_at),
                 strftime('%Y-%m-%d %H:%M:%f', stored.updated_at)
             from eth_wallet_read_failures failed
             cross join eth_wallet_balances stored on stored.wallet = failed.wallet
             cross join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= '1970-01-02' and stored.updated_at < confirmed.selected_at"
    ),
    late_rows: concat!(
        "select strftime('%Y-%m-%d %H:%M:%f', confirmed.selected_at),
                 strftime('%Y-%m-%d %H:%M:%f', stored.updated_at)
             from eth_wallet_balances stored
             cross join eth_wallet_confirmations confirmed on ",
        its_bucket!(),
        "
             where stored.updated_at >= '1970-01-02' and stored.updated_at < confirmed.selected_at
                 and stored.created_at >= confirmed.selected_at
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet)"
    ),
    checkpoint: "select name, last_block, strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_indexer_checkpoints where name = $1",
    standing: concat!(
        "select column_name, holds, (select max(block) from eth_wallet_confirmations),
                 (select max(max(followed_from, last_block)) from eth_watch_coverage where checkpoint <> '')
             from (select 1) one left join (",
        part_columns!(),
        ") parts on true"
    ),
    record_totals: Template(
        "insert into eth_wallet_balances as stored
                 (wallet, balance, read_block, blocknumber, updated_at, created_at{columns})
             select value ->> 0, value ->> 1, value ->> 2, value ->> 3,
                 strftime('%Y-%m-%d %H:%M:%f', 'now'), strftime('%Y-%m-%d %H:%M:%f', 'now'){values}
             from json_each($1)
             where true
             on conflict (wallet) do update set
                 balance = excluded.balance,
                 read_block = excluded.read_block,
                 blocknumber = coalesce(max(stored.blocknumber, excluded.blocknumber),
                     excluded.blocknumber, stored.blocknumber),
                 updated_at = excluded.updated_at{set}
             where (stored.read_block is null or stored.read_block <= excluded.read_block){condition}",
    ),
    if_not_confirmed_since: concat!(
        "
                 and not exists (
                     select 1 from eth_wallet_confirmations confirmed
                     where confirmed.block > excluded.read_block and ",
        counts_for_row!(),
        ")"
    ),
    part_value: |number| format!("value ->> {}", number + 3),
    part_columns: part_columns!(),
    table_columns: "select name from pragma_table_info('eth_wallet_balances')",
    part_type: "text",
    raise_event_blocks: "update eth_wallet_balances as stored set blocknumber = event.value ->> 1
             from json_each($1) as event
             where stored.wallet = event.value ->> 0
                 and event.value ->> 1 is not null
                 and (stored.blocknumber is null or stored.blocknumber < event.value ->> 1)",
    forget_failures: Template(
        "delete from eth_wallet_read_failures as failed
             where wallet in (select value from json_each($1)){condition}",
    ),
    if_not_superseded: concat!(
        " and not exists (
                 select 1 from eth_wallet_balances stored
                 join eth_wallet_confirmations confirmed on ",
        counts_for_row!(),
        "
                 where stored.wallet = failed.wallet
                     and confirmed.block > coalesce(stored.read_block, -1))"
    ),
    on_record: "select wallet from eth_wallet_read_failures
             where wallet in (select value from json_each($1))",
    record_failures: "insert into eth_wallet_read_failures as stored
                 (wallet, failures, last_error, last_failed_at, next_try_at)
             select value ->> 0, 1, value ->> 1, strftime('%Y-%m-%d %H:%M:%f', 'now'),
                 strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 minute')
             from json_each($1)
             where true
             group by 1
             on conflict (wallet) do update set
                 failures = stored.failures + 1,
                 last_error = excluded.last_error,
                 last_failed_at = excluded.last_failed_at,
                 next_try_at = strftime('%Y-%m-%d %H:%M:%f', excluded.last_failed_at,
                     format('+%d minutes', min(1440, 1 << min(stored.failures, 11))))",
    orphan_blocks: "insert into eth_watch_blocks
                 (checkpoint, number, hash, wallets, gone, redo_from)
             select $1, value ->> 0, value ->> 1, value ->> 2, true, $2
             from json_each($3)
             where true
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = true, redo_from = excluded.redo_from",
    move_checkpoint: "insert into eth_indexer_checkpoints as stored (name, last_block, updated_at)
             values ($1, $2, strftime('%Y-%m-%d %H:%M:%f', 'now'))
             on conflict (name) do update set
                 last_block = excluded.last_block, updated_at = excluded.updated_at
             where stored.last_block < excluded.last_block",
    finish_rereads: "update eth_watch_blocks set redo_from = null
             where checkpoint = $1 and hash in (select value from json_each($2))",
    forget_blocks: "delete from eth_watch_blocks
             where checkpoint = $1
                 and (hash in (select value from json_each($3))
                     or number < $2 and hash like '0x%'
                         and hash not in (select value from json_each($4)))",
    insert_run: "insert into eth_wallet_runs
                 (command, shard, started_at, ended_at, outcome, exit_status, counts, error)
             values ($1, $2,
                 strftime('%Y-%m-%d %H:%M:%f', 'now', format('-%.3f seconds', $3 / 1000.0)),
                 strftime('%Y-%m-%d %H:%M:%f', 'now'), $4, $5, $6, $7)
             returning id",
    update_run: "update eth_wallet_runs
             set ended_at = strftime('%Y-%m-%d %H:%M:%f', 'now'), outcome = $2, exit_status = $3, counts = $4,
                 error = $5
             where id = $1",
    hints: "select endpoint, kind, accepted, refused, seen_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 day')
             from eth_wallet_node_hints
             where seen_at >= strftime('%Y-%m-%d %H:%M:%f', 'now', '-7 days')",
    record_hint: "insert into eth_wallet_node_hints (endpoint, kind, accepted, refused, seen_at)
             values ($1, $2, $3, $4, strftime('%Y-%m-%d %H:%M:%f', 'now'))
             on conflict (endpoint, kind) do update set
                 accepted = excluded.accepted, refused = excluded.refused, seen_at = excluded.seen_at",
    forget_hints: "delete from eth_wallet_node_hints where seen_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-30 days')",
    first_from: "select (
                 select wallet from eth_wallet_balances where wallet >= address.value order by wallet limit 1)
             from json_each($1) as address",
    rows_read_at: "select wallet, read_block from eth_wallet_balances
             where updated_at >= strftime('%Y-%m-%d %H:%M:%f', 'now', format('-%d seconds', $3))
                 and read_block between $1 and $2",
    lock_buckets: None,
    create_buckets: "insert into eth_wallet_confirmations (bucket) select value from json_each($1)
             where true
             on conflict (bucket) do nothing",
    stale_buckets: "select bucket, coalesce(selected_at, '') from eth_wallet_confirmations
             where (selected_at is null or selected_at < $1)
                 and (coalesce(selected_at, ''), bucket) > ($2, $3)
                 and bucket >= $4 and ($5 is null or bucket < $5)
             order by coalesce(selected_at, ''), bucket
             limit $6",
    count_in_buckets: "select given.value, count(*)
             from json_each($1) as given
             cross join eth_wallet_balances stored
                 on stored.wallet >= given.value and stored.wallet < given.value || 'g'
             where stored.updated_at >= '1970-01-02' and not exists (
                 select 1 from eth_wallet_read_failures failed where failed.wallet = stored.wallet)
             group by 1
             having max(stored.updated_at < $2)",
    failures_in_ranges: "select failed.wallet
             from json_each($1) as given
             cross join eth_wallet_read_failures failed
                 on failed.wallet >= given.value ->> 0 and failed.wallet < (given.value ->> 1) || 'g'",
    selects_neighbours: false,
    rows_in_ranges: Template(
        "select (
                 select json_group_array(json_array(
                     cast(stored.wallet as text), cast(stored.balance as text), stored.read_block,
                     (stored.updated_at < strftime('%Y-%m-%d %H:%M:%S', $2)
                         and stored.created_at < strftime('%Y-%m-%d %H:%M:%S', $2)
                         and stored.updated_at >= '1970-01-02')
                     + (stored.updated_at < $3) * 2
                     + (stored.updated_at < '1970-01-02') * 4,
                     json_array({parts})))
                 from eth_wallet_balances stored
                 where stored.wallet >= given.value ->> 0 and stored.wallet < (given.value ->> 1) || 'g')
             from json_each($1) as given",
    ),
    // From the whole second, as other programs write times.
    written_since: "select wallet from eth_wallet_balances
             where updated_at >= strftime('%Y-%m-%d %H:%M:%S', $1)
                 and substr(wallet, 1, $2) in (select value from json_each($3))",
    rows_now: Template(
        "select stored.wallet, cast(stored.balance as text), stored.read_block,
                 stored.updated_at < strftime('%Y-%m-%d %H:%M:%S', given.value ->> 1)
                     and stored.created_at < strftime('%Y-%m-%d %H:%M:%S', given.value ->> 1)
                     and stored.updated_at >= '1970-01-02'{, parts}
             from json_each($1) as given
             cross join eth_wallet_balances stored on stored.wallet = given.value ->> 0",
    ),
    // In whole seconds, as other programs write times: a row of the same second may be a later one.
    confirm_buckets: "update eth_wallet_confirmations as stored
             set block = read.value ->> 1,
                 selected_at = strftime('%Y-%m-%d %H:%M:%S', read.value ->> 2),
                 wallets = read.value ->> 3
             from json_each($1) as read
             where stored.bucket = read.value ->> 0
                 and (stored.block is null or read.value ->> 1 is null
                     or stored.block <= read.value ->> 1)",
    coverage: COVERAGE,
};
