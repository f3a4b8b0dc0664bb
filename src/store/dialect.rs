//! What differs between the databases: their statements, how values are bound, how to connect.
//!
//! [`super::sql_store::SqlStore`] does with a [`Dialect`] all that a store does.

use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use chrono::NaiveDateTime;
use sqlx::{Database, FromRow, SqlStr, postgres::PgRow, sqlite::SqliteRow};

use super::{
    columns::Template,
    error::{RowFault, StoreError},
};
use crate::tally::RunError;

/// A database, as a dialect of SQL.
#[async_trait]
pub(super) trait Dialect: Send + Sync + Sized + 'static {
    /// Its driver.
    type Database: Database;

    /// How long beginning a transaction may take.
    const BEGIN_LIMIT: Duration;

    /// Its statements.
    const SQL: Statements;

    /// Opens a connection.
    async fn connect(&self) -> Result<ConnectionOf<Self>, StoreError>;

    /// Begins a transaction.
    async fn begin(
        &self,
        connection: &mut ConnectionOf<Self>,
        purpose: Purpose,
    ) -> sqlx::Result<Begun>;

    /// Looks from a second connection at what a session is waiting for.
    async fn look(&self, id: Option<SessionId>) -> Look;

    /// Executes statements without parameters.
    async fn run(connection: &mut ConnectionOf<Self>, sql: SqlStr) -> sqlx::Result<()>;

    /// Executes a statement and returns the number of rows it affected.
    async fn execute(
        connection: &mut ConnectionOf<Self>,
        sql: SqlStr,
        values: &[Value<'_>],
    ) -> sqlx::Result<u64>;

    /// Executes a query and gives its rows away, one by one.
    async fn each<T: AnyRow>(
        connection: &mut ConnectionOf<Self>,
        sql: SqlStr,
        values: &[Value<'_>],
        take: &mut (impl FnMut(T) + Send),
    ) -> sqlx::Result<()>;

    /// True if a transaction failed only because of another one, so that a retry may succeed.
    fn is_conflict(error: &StoreError) -> bool;

    /// Why the database refuses a row; `None` if the error may not be about a row.
    fn row_fault(error: &sqlx::Error) -> Option<RowFault>;

    /// The database without secrets, such as `database sqlite:tally.db`.
    fn label(&self) -> String;

    /// Why there is no connection, and the remedy.
    fn cannot_connect(&self, error: &sqlx::Error) -> RunError;

    /// What is wrong, and the remedy. `is_upgrade` if the tables were being created or upgraded.
    fn describe(&self, error: &sqlx::Error, is_upgrade: bool) -> Explained;
}

/// An error in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Explained {
    /// True if the settings are wrong, so that trying again does not help.
    pub(super) is_settings: bool,
    /// What is wrong, and the remedy.
    pub(super) text: String,
}

impl Explained {
    /// As the error of a run, with the database's name before it.
    pub(super) fn of(self, label: &str) -> RunError {
        let text = format!("{label}: {}", self.text);
        if self.is_settings { RunError::settings(text) } else { RunError::Database(anyhow!(text)) }
    }
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Writing.
    Write,
    /// Writing totals: no bucket is confirmed meanwhile.
    Totals,
    /// Comparing rows, read in the order of an index, and confirming their buckets.
    Confirm,
    /// Reading rows in the order of an index.
    ByIndex,
    /// Reading many rows that an index finds, in the order of the table's pages.
    ByPage,
    /// Any other reading.
    Read,
}

/// A transaction that has begun.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    /// What [`Dialect::look`] finds its session by.
    pub(super) session: Option<SessionId>,
    /// A statement that is to be executed first, as it may take long: it waits for others.
    pub(super) first: Option<&'static str>,
}

/// What the server calls a session.
pub(super) type SessionId = i32;

/// What a session is doing, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It cannot be told.
    Unknown,
    /// It is at work.
    Working,
    /// It waits for a lock that this session holds.
    Blocked(String),
    /// The server does not know it, or does not answer.
    Missing,
}

/// A connection of a dialect's driver.
pub(super) type ConnectionOf<D> = <<D as Dialect>::Database as Database>::Connection;

/// A type that a row of either database can be read into.
pub(super) trait AnyRow:
    for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}

impl<T> AnyRow for T where
    T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    TextOrNull(Option<&'a str>),
    Number(i64),
    NumberOrNull(Option<i64>),
    Bytes(&'a [u8]),
    Time(NaiveDateTime),
    /// A list: in PostgreSQL an array, in SQLite a JSON text.
    List(&'a [String]),
    /// Rows, given as columns: in PostgreSQL an array (and a parameter) for each column, in SQLite
    /// one JSON text of rows. So no batch meets a limit of parameters.
    Rows(&'a [Column<'a>]),
}

/// A column of [`Value::Rows`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Column<'a> {
    Texts(&'a [String]),
    TextsOrNull(&'a [Option<String>]),
    Numbers(&'a [i64]),
    NumbersOrNull(&'a [Option<i64>]),
}

/// The statements that differ between the dialects, with their parameters. Times are UTC, whatever
/// the time zone of session and server.
pub(super) struct Statements {
    /// Creates the table of applied migrations.
    pub(super) create_migrations: &'static str,
    /// The versions of the applied migrations.
    pub(super) migrations: &'static str,
    /// A version; returns it if it was applied.
    pub(super) migration: &'static str,
    /// Version, name, checksum.
    pub(super) record_migration: &'static str,
    /// The database's clock.
    pub(super) now: &'static str,
    /// A time before all others, for `stale_page` and `due_page`.
    pub(super) first_age: &'static str,
    /// Before this time, behind this age and wallet, from this wallet, up to this one, limit.
    pub(super) stale_page: &'static str,
    /// Before this time, from this wallet, up to this one.
    pub(super) count_stale: &'static str,
    /// Due by this time, behind this time and wallet, from this wallet, up to this one, without a row or with one from
    /// before this time, limit.
    pub(super) due_page: &'static str,
    /// Due by this time, from this wallet, up to this one, without a row or with one from before this time.
    pub(super) count_due: &'static str,
    /// Name, identity.
    pub(super) claim_profile: &'static str,
    /// Name, identity.
    pub(super) adopt_profile: &'static str,
    /// A list of wallets.
    pub(super) insert_placeholders: &'static str,
    /// A list of wallets.
    pub(super) with_read_total: &'static str,
    /// A list of wallets.
    pub(super) known: &'static str,
    /// A list of wallets; returns the parts as JSON.
    pub(super) rows: Template,
    /// From this time, before this one, offset.
    pub(super) nth_written: &'static str,
    /// Of rows that are as fresh as their own write: from this time, before this one, offset.
    pub(super) nth_own: &'static str,
    /// Rows of from this time, before this one, without gaps; returns the row's number, the confirmation of the bucket, and
    /// how many rows are as fresh as their own write.
    pub(super) count_own: &'static str,
    /// For each time at which buckets were confirmed, how many rows they have; nothing if none was.
    pub(super) rows_by_confirmation: &'static str,
    /// The rows on the record of failures that were written before their bucket was confirmed: when it was, and they were.
    pub(super) failing_rows: &'static str,
    /// The same of rows that were created since, and are not on the record.
    pub(super) late_rows: &'static str,
    /// Name.
    pub(super) checkpoint: &'static str,
    /// The columns of parts that the table of totals has, and what each holds; nulls if there is none. In every row also
    /// the newest block of a confirmation, and the newest one from or up to which events are followed.
    pub(super) standing: &'static str,
    /// Rows of wallet, total, block of the read, block of the event, and each part.
    pub(super) record_totals: Template,
    /// The condition of `record_totals` if buckets may be confirmed at newer blocks.
    pub(super) if_not_confirmed_since: &'static str,
    /// How `record_totals` takes a part, by its number from 1.
    pub(super) part_value: fn(usize) -> String,
    /// The columns of parts that the table of totals has, and what each holds.
    pub(super) part_columns: &'static str,
    /// All columns of the table of totals.
    pub(super) table_columns: &'static str,
    /// The type of the column of a part.
    pub(super) part_type: &'static str,
    /// Rows of wallet, block of the event.
    pub(super) raise_event_blocks: &'static str,
    /// A list of wallets that were read.
    pub(super) forget_failures: Template,
    /// The condition of `forget_failures` if buckets may be confirmed at newer blocks: a confirmation that superseded the
    /// read left the wallet out, and would count for it.
    pub(super) if_not_superseded: &'static str,
    /// A list of wallets.
    pub(super) on_record: &'static str,
    /// Rows of wallet, reason.
    pub(super) record_failures: &'static str,
    /// Checkpoint, block from which to read again, rows of number, hash, wallets.
    pub(super) orphan_blocks: &'static str,
    /// Checkpoint, last block.
    pub(super) move_checkpoint: &'static str,
    /// Checkpoint, a list of hashes.
    pub(super) finish_rereads: &'static str,
    /// Checkpoint, first number that is kept, a list of hashes to forget, a list of hashes to keep.
    pub(super) forget_blocks: &'static str,
    /// Command, shard, milliseconds since it started, outcome, exit status, counts, error; returns its number.
    pub(super) insert_run: &'static str,
    /// Number, outcome, exit status, counts, error.
    pub(super) update_run: &'static str,
    /// Those of the last week.
    pub(super) hints: &'static str,
    /// Endpoint, kind, accepted, refused.
    pub(super) record_hint: &'static str,
    /// Those that are older than a month.
    pub(super) forget_hints: &'static str,
    /// A list of wallets; returns for each the first from there on that has a row, or null.
    pub(super) first_from: &'static str,
    /// From this block, up to this one, seconds since the oldest was written.
    pub(super) rows_read_at: &'static str,
    /// Numbers from 0 to 15: the first digits of buckets in which no other total may be written. `None` where all
    /// transactions that write exclude each other.
    pub(super) lock_buckets: Option<&'static str>,
    /// A list of buckets.
    pub(super) create_buckets: &'static str,
    /// Last selected before this time, behind this age and bucket, from this bucket, up to this one, limit.
    pub(super) stale_buckets: &'static str,
    /// A list of buckets, before this time.
    pub(super) count_in_buckets: &'static str,
    /// Rows of first bucket, last bucket; returns the wallets on the record of failures.
    pub(super) failures_in_ranges: &'static str,
    /// Whether `rows_in_ranges` is to be given a series of neighbouring buckets as one range.
    pub(super) selects_neighbours: bool,
    /// Rows of first bucket, last bucket; time of the selection, before this time; returns wallet, total, block of the read, a
    /// sum of flags (1 if a confirmation of that selection counts for the row, 2 if it was last written before this time, 4 if
    /// it is a placeholder) and the parts. In SQLite, a list of these in JSON for each range.
    pub(super) rows_in_ranges: Template,
    /// From this time, length of a bucket, a list of buckets.
    pub(super) written_since: &'static str,
    /// Rows of wallet, time of the selection; returns what `rows_in_ranges` does, but no flag besides 1.
    pub(super) rows_now: Template,
    /// Rows of bucket, block, time of the selection, number of rows.
    pub(super) confirm_buckets: &'static str,
    /// Those about rows that need no read.
    pub(super) coverage: CoverageStatements,
}

/// The statements about coverage that differ between the dialects. Those on rows begin with five parameters: checkpoint,
/// first covered block, first block in doubt, first wallet, the one behind the last.
pub(super) struct CoverageStatements {
    /// Checkpoint, events, last block if there is no checkpoint yet.
    pub(super) begin: &'static str,
    /// Checkpoint, newest block of which it is not known whom it affects, whether nothing is in doubt.
    pub(super) extend: &'static str,
    /// Checkpoint, first and last block.
    pub(super) doubt: &'static str,
    /// Checkpoint; returns first and last block, and how many seconds ago.
    pub(super) doubt_of: &'static str,
    /// Checkpoint, rows of wallet, block.
    pub(super) uncover: &'static str,
    /// Rows of wallet, block of the read; returns checkpoints, wallets and blocks.
    pub(super) early_reads: &'static str,
    /// Keeps others from writing totals until the end of the transaction; `None` where one excludes the other anyway.
    pub(super) lock_checkpoint: Option<&'static str>,
    /// Lets others write totals beside this transaction, but not lock the checkpoint.
    pub(super) share_checkpoint: Option<&'static str>,
    /// Checkpoint; from now on, who writes an early read notes it.
    pub(super) follow_since: &'static str,
    /// Checkpoint, first covered block, limit; returns how many rows were read before, at most `limit`.
    pub(super) count_old: &'static str,
    /// Whether rows of covered buckets are passed over; returns how many there are, and how many of them are failing.
    pub(super) count: &'static str,
    /// The same parameter; returns keys that are not failing, and whether they are placeholders.
    pub(super) list: &'static str,
    /// Behind this wallet, limit; returns the same, in order.
    pub(super) page: &'static str,
    /// Returns buckets.
    pub(super) buckets: &'static str,
}
