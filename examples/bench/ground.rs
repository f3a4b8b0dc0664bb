//! What the measures stand on: the chain, and for each measure a table of its own that is like all others.

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
    tally::Wallet,
};
use ethtally_testbed::{Chain, genesis::holdings, postgres::Cluster, wallet};
use sqlx::{ConnectOptions, PgConnection, SqliteConnection, postgres::PgConnectOptions};
use tempfile::{NamedTempFile, TempDir};

use crate::{Backend, Rows, report::say};

/// A block that would be a small one on mainnet, and the most that an `eth_call` gets from many nodes.
const GAS_LIMIT: u64 = 50_000_000;
/// As a server for such a table runs in production: durable, with the table in its memory, and without a
/// checkpoint every few seconds.
const SETTINGS: [(&str, &str); 5] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "2GB"),
    ("max_wal_size", "8GB"),
];
/// Wallets of one age: a tick of the original.
const TICK: usize = 50;
/// Wallets in one statement while the template is filled.
const FILL: usize = 10_000;

pub(crate) struct Ground {
    pub(crate) chain: Chain,
    /// All wallets in the order in which a sweep takes them.
    pub(crate) wallets: Vec<Wallet>,
    /// What all of them hold together.
    sum: U256,
    database: Database,
    made: AtomicU32,
}

enum Database {
    /// The databases' URLs; none is copied or dropped by way of itself.
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

/// A table for one measure.
pub(crate) struct Table {
    pub(crate) url: String,
    /// Takes it away.
    end: End,
}

enum End {
    Postgres { admin: String, name: String },
    Sqlite(PathBuf),
}

impl Ground {
    /// Starts the chain and the database, and fills a table.
    pub(crate) async fn prepare(count: u64, backend: Backend, rows: Rows) -> anyhow::Result<Self> {
        let started = Instant::now();
        say(format_args!("{count} wallets: starting the chain …"));
        let chain = Chain::builder().wallets(count).gas_limit(GAS_LIMIT).start().await?;
        let sum = holdings(count).map(|holding| holding.total()).sum();
        let mut wallets: Vec<Wallet> = (0..count).map(|n| wallet(n).into()).collect();

        say("filling a table …");
        let database = match backend {
            Backend::Postgres => {
                let cluster = Cluster::start_with(&SETTINGS)?;
                let template = cluster.create_database("template")?;
                let admin = cluster.create_database("admin")?;
                Database::Postgres { cluster, template, admin }
            }
            Backend::Sqlite => {
                let folder = tempfile::tempdir()?;
                let template = folder.path().join("template");
                Database::Sqlite { folder, template }
            }
        };
        database.fill(&wallets, rows).await?;
        // A sweep goes by age, and by wallet among rows of one age.
        match rows {
            Rows::Swept => wallets.chunks_mut(TICK).for_each(<[_]>::sort_unstable),
            Rows::New => wallets.sort_unstable(),
        }
        settle();
        say(format_args!("ready after {:.0} s", started.elapsed().as_secs_f64()));
        Ok(Self { chain, wallets, sum, database, made: AtomicU32::new(0) })
    }

    /// A table that holds every wallet, none of them read by ethtally.
    pub(crate) async fn table(&self) -> anyhow::Result<Table> {
        let table = self.copy().await?;
        settle();
        Ok(table)
    }

    async fn copy(&self) -> anyhow::Result<Table> {
        let number = self.made.fetch_add(1, Relaxed);
        match &self.database {
            Database::Postgres { template, admin, .. } => {
                let name = format!("copy_{number}");
                let template = name_of(template);
                let mut connection = postgres(admin).await?;
                // Quicker than through the log, where the server has the choice.
                let strategy = match connection.server_version_num() {
                    Some(150_000..) => "strategy file_copy",
                    _ => "",
                };
                let create = format!("create database {name} template {template} {strategy}");
                run(&mut connection, &create).await?;
                Ok(Table::postgres(admin, &name))
            }
            Database::Sqlite { folder, template } => {
                let path = folder.path().join(format!("copy-{number}"));
                fs::copy(template, &path)?;
                Ok(Table::sqlite(path))
            }
        }
    }

    /// A database without tables.
    pub(crate) async fn empty_table(&self) -> anyhow::Result<Table> {
        match &self.database {
            Database::Postgres { cluster, admin, .. } => {
                let url = cluster.create_database("empty")?;
                settle();
                Ok(Table::postgres(admin, name_of(&url)))
            }
            Database::Sqlite { folder, .. } => {
                let number = self.made.fetch_add(1, Relaxed);
                Ok(Table::sqlite(folder.path().join(format!("empty-{number}"))))
            }
        }
    }

    /// The first `count` wallets as a file.
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

    /// What the table is kept by, for the report.
    pub(crate) async fn database_version(&self) -> anyhow::Result<String> {
        match &self.database {
            Database::Postgres { admin, .. } => {
                let version: String = sqlx::query_scalar("show server_version")
                    .fetch_one(&mut postgres(admin).await?)
                    .await?;
                let number = version.split_whitespace().next().unwrap_or_default();
                Ok(format!("PostgreSQL {number}"))
            }
            Database::Sqlite { .. } => {
                let version: String = sqlx::query_scalar("select sqlite_version()")
                    .fetch_one(&mut sqlite("sqlite::memory:").await?)
                    .await?;
                Ok(format!("SQLite {version}"))
            }
        }
    }
}

impl Database {
    /// Fills the template.
    async fn fill(&self, wallets: &[Wallet], rows: Rows) -> anyhow::Result<()> {
        let url = match self {
            Self::Postgres { template, .. } => template.clone(),
            Self::Sqlite { template, .. } => format!("sqlite:{}", template.display()),
        };
        let store = store::open(&url, Access::Write).await?;
        store.migrate().await?;
        match rows {
            Rows::New => {
                for page in wallets.chunks(FILL) {
                    store.insert_placeholders(page).await?;
                }
            }
            Rows::Swept => self.fill_swept(&url, wallets).await?,
        }
        // No database is copied that somebody is connected to.
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

    /// Rows of a round of the original.
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

impl Table {
    fn postgres(admin: &str, name: &str) -> Self {
        let server = admin.strip_suffix(name_of(admin)).unwrap_or(admin);
        let end = End::Postgres { admin: admin.to_owned(), name: name.to_owned() };
        Self { url: format!("{server}{name}"), end }
    }

    fn sqlite(path: PathBuf) -> Self {
        Self { url: format!("sqlite:{}", path.display()), end: End::Sqlite(path) }
    }

    /// Checks that every wallet was read, and that all totals together are what the chain began with.
    pub(crate) async fn is_read(&self, ground: &Ground) -> anyhow::Result<()> {
        const COUNT: &str = "select count(*) from eth_wallet_balances where read_block is not null";
        let read: i64 = match &self.end {
            End::Postgres { .. } => {
                let mut connection = postgres(&self.url).await?;
                let sum: String =
                    sqlx::query_scalar("select sum(balance)::text from eth_wallet_balances")
                        .fetch_one(&mut connection)
                        .await?;
                ensure!(
                    sum == ground.sum.to_string(),
                    "the totals are not the chain's: {sum} wei in all"
                );
                sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?
            }
            // It has no numbers as large as the sum.
            End::Sqlite(_) => {
                sqlx::query_scalar(COUNT).fetch_one(&mut sqlite(&self.url).await?).await?
            }
        };
        ensure!(read as usize == ground.wallets.len(), "only {read} wallets were read");
        Ok(())
    }

    /// Takes the table away, so that the disk need hold but one copy.
    pub(crate) async fn drop(self) -> anyhow::Result<()> {
        match self.end {
            End::Postgres { admin, name } => {
                run(&mut postgres(&admin).await?, &format!("drop database {name} with (force)"))
                    .await?;
            }
            End::Sqlite(path) => fs::remove_file(path)?,
        }
        Ok(())
    }
}

/// Lets the disk come to rest: what was written before a measure is not its to pay.
fn settle() {
    // Without that program the disk is busier, and the table is the same.
    let _ = Command::new("sync").status();
}

/// The database of a URL.
fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

async fn run(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(connection).await?;
    Ok(())
}

pub(crate) async fn postgres(url: &str) -> anyhow::Result<PgConnection> {
    Ok(url.parse::<PgConnectOptions>()?.connect().await?)
}

/// A connection as the program makes it.
pub(crate) async fn sqlite(url: &str) -> anyhow::Result<SqliteConnection> {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
    let options: SqliteConnectOptions = url.parse()?;
    let options =
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal);
    Ok(options.connect().await?)
}
