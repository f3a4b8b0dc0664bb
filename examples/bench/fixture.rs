//! The fixture of all measurements: the chain, and an identical table for each measurement.

use std::{
    fs,
    io::{BufWriter, Write},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Instant,
};

use alloy::primitives::U256;
use anyhow::ensure;
use ethtally::{
    store::{self, Access},
    tally::{Shutdown, Wallet},
};
use ethtally_testbed::{Chain, genesis::holdings, postgres::Cluster, wallet};
use sqlx::{ConnectOptions, PgConnection, SqliteConnection, postgres::PgConnectOptions};
use tempfile::{NamedTempFile, TempDir};

use crate::{Backend, Rows, report::say, table::Table};

/// A node that allows more gas than this in a call takes bodies of more than 2 MB, too.
const USUAL_GAS: u64 = 50_000_000;
/// Settings as in production: durable, with the table in memory, and without a checkpoint every few seconds.
const SETTINGS: [(&str, &str); 5] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "2GB"),
    ("max_wal_size", "8GB"),
];
/// Wallets of the same age: those of one tick of the original.
const TICK: usize = 50;
/// Wallets per statement that fills the template.
const FILL: usize = 10_000;

/// The chain, the database server, and the template of all tables.
pub(crate) struct Fixture {
    pub(crate) chain: Chain,
    /// All wallets, in the order of a sweep.
    pub(crate) wallets: Vec<Wallet>,
    /// The sum of all totals.
    pub(crate) sum: U256,
    template: Template,
    made: AtomicU32,
}

/// The database that each table is a copy of.
enum Template {
    /// URLs of databases. A database is copied and dropped over a connection to `admin`.
    Postgres {
        cluster: Cluster,
        template: String,
        admin: String,
    },
    Sqlite {
        folder: TempDir,
        template: PathBuf,
    },
}

impl Fixture {
    /// Starts the chain and the database, and fills a table.
    pub(crate) async fn prepare(
        count: u64,
        gas_limit: u64,
        backend: Backend,
        rows: Rows,
        partitions: u32,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        say(format_args!("{count} wallets: starting the chain …"));
        let mut chain = Chain::builder().wallets(count).gas_limit(gas_limit);
        if gas_limit > USUAL_GAS {
            chain = chain.arg("--no-request-size-limit");
        }
        let chain = chain.start().await?;
        let sum = holdings(count).map(|holding| holding.total()).sum();
        let mut wallets: Vec<Wallet> = (0..count).map(|n| wallet(n).into()).collect();

        say("filling a table …");
        let template = match backend {
            Backend::Postgres => {
                let cluster = Cluster::start_with(&SETTINGS)?;
                let template = cluster.create_database("template")?;
                let admin = cluster.create_database("admin")?;
                Template::Postgres { cluster, template, admin }
            }
            Backend::Sqlite => {
                let folder = tempfile::tempdir()?;
                let template = folder.path().join("template");
                Template::Sqlite { folder, template }
            }
        };
        template.fill(&wallets, rows, partitions).await?;
        // A sweep sorts by age, then by wallet.
        match rows {
            Rows::Swept => wallets.chunks_mut(TICK).for_each(<[_]>::sort_unstable),
            Rows::New => wallets.sort_unstable(),
        }
        settle();
        say(format_args!("ready after {:.0} s", started.elapsed().as_secs_f64()));
        Ok(Self { chain, wallets, sum, template, made: AtomicU32::new(0) })
    }

    /// A new table with every wallet, none of them read by ethtally.
    pub(crate) async fn table(&self) -> anyhow::Result<Table> {
        let table = self.copy().await?;
        settle();
        Ok(table)
    }

    async fn copy(&self) -> anyhow::Result<Table> {
        let number = self.made.fetch_add(1, Relaxed);
        match &self.template {
            Template::Postgres { template, admin, .. } => {
                let name = format!("copy_{number}");
                let template = name_of(template);
                let mut connection = postgres(admin).await?;
                // Faster than copying through the WAL, if the server supports it.
                let strategy = match connection.server_version_num() {
                    Some(150_000..) => "strategy file_copy",
                    _ => "",
                };
                let create = format!("create database {name} template {template} {strategy}");
                run(&mut connection, &create).await?;
                Ok(Table::postgres(admin, &name))
            }
            Template::Sqlite { folder, template } => {
                let path = folder.path().join(format!("copy-{number}"));
                fs::copy(template, &path)?;
                Ok(Table::sqlite(path))
            }
        }
    }

    /// A new database without tables.
    pub(crate) async fn empty_table(&self) -> anyhow::Result<Table> {
        match &self.template {
            Template::Postgres { cluster, admin, .. } => {
                let url = cluster.create_database("empty")?;
                settle();
                Ok(Table::postgres(admin, name_of(&url)))
            }
            Template::Sqlite { folder, .. } => {
                let number = self.made.fetch_add(1, Relaxed);
                Ok(Table::sqlite(folder.path().join(format!("empty-{number}"))))
            }
        }
    }

    /// The first `count` wallets as a CSV file.
    pub(crate) fn csv(&self, count: u64) -> anyhow::Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        let mut out = BufWriter::new(file.as_file_mut());
        writeln!(out, "wallet")?;
        for n in 0..count {
            writeln!(out, "{:#x}", wallet(n))?;
        }
        out.flush()?;
        drop(out);
        Ok(file)
    }

    /// The database's name and version, for the report.
    pub(crate) async fn database_version(&self) -> anyhow::Result<String> {
        match &self.template {
            Template::Postgres { admin, .. } => {
                let version: String = sqlx::query_scalar("show server_version")
                    .fetch_one(&mut postgres(admin).await?)
                    .await?;
                let number = version.split_whitespace().next().unwrap_or_default();
                Ok(format!("PostgreSQL {number}"))
            }
            Template::Sqlite { .. } => {
                let version: String = sqlx::query_scalar("select sqlite_version()")
                    .fetch_one(&mut sqlite("sqlite::memory:").await?)
                    .await?;
                Ok(format!("SQLite {version}"))
            }
        }
    }
}

impl Template {
    /// Fills the template.
    async fn fill(&self, wallets: &[Wallet], rows: Rows, partitions: u32) -> anyhow::Result<()> {
        let url = match self {
            Self::Postgres { template, .. } => template.clone(),
            Self::Sqlite { template, .. } => format!("sqlite:{}", template.display()),
        };
        if partitions > 0 {
            ensure!(matches!(self, Self::Postgres { .. }), "SQLite has no partitions");
            run(&mut postgres(&url).await?, &partitioned(partitions)).await?;
        }
        let store =
            store::open(&url, None, Vec::new(), Access::Write, &Shutdown::default()).await?;
        store.migrate().await?;
        match rows {
            Rows::New => {
                for page in wallets.chunks(FILL) {
                    store.insert_placeholders(page).await?;
                }
            }
            Rows::Swept => self.fill_swept(&url, wallets).await?,
        }
        // A database with connections cannot be copied.
        store.close().await;
        match self {
            Self::Postgres { .. } => {
                let mut connection = postgres(&url).await?;
                run(&mut connection, "vacuum analyze").await?;
                sqlx::Connection::close(connection).await?;
            }
            Self::Sqlite { .. } => {
                let mut connection = sqlite(&url).await?;
                for statement in ["analyze", "pragma wal_checkpoint(truncate)"] {
                    sqlx::raw_sql(statement).execute(&mut connection).await?;
                }
                sqlx::Connection::close(connection).await?;
            }
        }
        Ok(())
    }

    /// Fills the template with rows as after a round of the original.
    async fn fill_swept(&self, url: &str, wallets: &[Wallet]) -> anyhow::Result<()> {
        let mut ticks = (0_i64..).flat_map(|tick| [tick; TICK]);
        for page in wallets.chunks(FILL) {
            let texts: Vec<_> = page.iter().map(Wallet::to_string).collect();
            let ticks: Vec<_> = ticks.by_ref().take(page.len()).collect();
            match self {
                Self::Postgres { .. } => {
                    sqlx::query(
                        "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
                         select wallet, 1e21, timestamp '2020-01-01' + tick * interval '30 s',
                             timestamp '2020-01-01'
                         from unnest($1::text[], $2::bigint[]) as swept (wallet, tick)",
                    )
                    .bind(texts)
                    .bind(ticks)
                    .execute(&mut postgres(url).await?)
                    .await?;
                }
                Self::Sqlite { .. } => {
                    let rows: Vec<_> = texts.iter().zip(ticks).collect();
                    sqlx::query(
                        "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
                         select value ->> 0, '1000000000000000000000',
                             datetime('2020-01-01', ((value ->> 1) * 30) || ' seconds'),
                             '2020-01-01 00:00:00'
                         from json_each($1)",
                    )
                    .bind(serde_json::to_string(&rows)?)
                    .execute(&mut sqlite(url).await?)
                    .await?;
                }
            }
        }
        Ok(())
    }
}

/// Creates the table of totals, hash-partitioned by wallet. `migrate` adds the rest.
fn partitioned(partitions: u32) -> String {
    let mut sql = "create table eth_wallet_balances (
            wallet text primary key, balance numeric not null default 0, blocknumber bigint,
            updated_at timestamp not null default (now() at time zone 'utc'),
            created_at timestamp not null default (now() at time zone 'utc')) partition by hash (wallet);"
        .to_owned();
    for number in 0..partitions {
        sql += &format!(
            "create table eth_wallet_balances_{number} partition of eth_wallet_balances
                 for values with (modulus {partitions}, remainder {number});"
        );
    }
    sql
}

/// Flushes earlier writes to disk, so that they do not slow down the next measurement.
pub(crate) fn settle() {
    // Optional: without `sync` the disk is busier.
    let _ = Command::new("sync").status();
}

/// The name of the database in a URL.
pub(crate) fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// Runs a statement.
pub(crate) async fn run(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(())
}

pub(crate) async fn postgres(url: &str) -> anyhow::Result<PgConnection> {
    Ok(url.parse::<PgConnectOptions>()?.connect().await?)
}

/// A connection with the program's settings.
pub(crate) async fn sqlite(url: &str) -> anyhow::Result<SqliteConnection> {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
    let options: SqliteConnectOptions = url.parse()?;
    let options =
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal);
    Ok(options.connect().await?)
}
