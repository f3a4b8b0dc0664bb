//! Rounds over a table of which a part changed on the chain: what each way of writing costs the database.
//!
//! Both ways sweep a table of their own after the same changes, in turns, and no vacuum runs between the rounds. Beside each
//! round that writes only changes, all wallets are read alone.

use std::{collections::HashMap, fmt, time::Duration};

use alloy::primitives::U256;
use clap::ValueEnum;
use ethtally_testbed::{genesis::holding, wallet};
use procfs::process::{Process, all_processes};

use crate::{
    Bench, Method, alone, fixture::Fixture, mean, program::Usage, report::say, table::Table,
};

/// How a sweep writes, as in the program's --write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Write {
    /// Every row
    All,
    /// Rows whose total changed
    Changed,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Changed => "changed",
        })
    }
}

/// The mean of several rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) write: Write,
    /// Of a hundred rows.
    pub(crate) changed_percent: f64,
    pub(crate) wallets: u64,
    pub(crate) time: Duration,
    /// How long reading alone takes, where it was measured beside.
    pub(crate) reading: Option<Duration>,
    pub(crate) peak_kib: Option<u64>,
    /// The program's CPU time.
    pub(crate) cpu: Duration,
    pub(crate) cost: DatabaseCost,
}

/// What the database spent, where it tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DatabaseCost {
    /// CPU time of all its processes; `None` for SQLite, which runs in the program.
    pub(crate) cpu: Option<Duration>,
    /// Bytes of WAL; `None` for SQLite, which reuses its file.
    pub(crate) wal: Option<u64>,
    /// Bytes by which table and indexes grew.
    pub(crate) growth: u64,
}

/// Counters of a database at one time.
struct Counters {
    cpu: Option<Duration>,
    wal: Option<u64>,
    size: u64,
}

impl Counters {
    async fn of(table: &Table) -> anyhow::Result<Self> {
        let size = table.size().await?;
        let Some(mut connection) = table.postgres_connection().await? else {
            return Ok(Self { cpu: None, wal: None, size });
        };
        let (session, wal): (i32, i64) = sqlx::query_as(
            "select pg_backend_pid(), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint",
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Self { cpu: Some(server_cpu(session)?), wal: Some(wal.unsigned_abs()), size })
    }

    fn cost_until(&self, later: &Self) -> DatabaseCost {
        DatabaseCost {
            cpu: later.cpu.zip(self.cpu).map(|(later, earlier)| later.saturating_sub(earlier)),
            wal: later.wal.zip(self.wal).map(|(later, earlier)| later - earlier),
            growth: later.size.saturating_sub(self.size),
        }
    }
}

/// The CPU time of a server, of whose sessions this process is one. A session that has ended counts with the server's
/// own process.
pub(crate) fn server_cpu(session: i32) -> anyhow::Result<Duration> {
    let server = Process::new(Process::new(session)?.stat()?.ppid)?.stat()?;
    let ended = server.cutime.saturating_add(server.cstime).unsigned_abs();
    let mut ticks = server.utime + server.stime + ended;
    for process in all_processes()? {
        // Another process may end meanwhile.
        if let Ok(process) = process.and_then(|process| process.stat())
            && process.ppid == server.pid
        {
            ticks += process.utime + process.stime;
        }
    }
    Ok(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64))
}

/// A table that is swept in one way.
struct Contender {
    write: Write,
    table: Table,
    rounds: Vec<(Usage, DatabaseCost)>,
    /// How long reading alone took beside each round.
    readings: Vec<Duration>,
}

impl Bench {
    /// Sweeps in both ways for each share of changed rows.
    pub(crate) async fn rounds(&self, method: Method) -> anyhow::Result<Vec<Rounds>> {
        let mut contenders = Vec::new();
        for &write in &self.arguments.write {
            let table = self.fixture.table().await?;
            say(format_args!("--write {write}, {method}: first round …"));
            self.round(method, write, &table)?;
            let (rounds, readings) = (Vec::new(), Vec::new());
            contenders.push(Contender { write, table, rounds, readings });
        }
        let (fixture, added) = (&self.fixture, HashMap::new());
        let mut changes = Changes { fixture, rounds: 0, added, sum: fixture.sum };
        let mut means = Vec::new();
        for percent in &self.arguments.changed {
            for contender in &mut contenders {
                contender.table.compact().await?;
                contender.rounds.clear();
                contender.readings.clear();
            }
            for round in 0..self.arguments.rounds {
                changes.make(*percent).await?;
                // Who goes first alternates.
                contenders.reverse();
                for Contender { write, table, rounds, readings } in &mut contenders {
                    if *write == Write::Changed {
                        let row = alone::reading(fixture, method, &self.arguments).await?;
                        readings.push(row.time);
                    }
                    let before = Counters::of(table).await?;
                    let usage = self.round(method, *write, table)?;
                    let cost = before.cost_until(&Counters::of(table).await?);
                    say(format_args!(
                        "{percent} %, round {round}, --write {write}: {usage:?}, {cost:?}"
                    ));
                    table.check_sum(changes.sum).await?;
                    rounds.push((usage, cost));
                }
            }
            contenders.sort_by_key(|contender| contender.write as u8);
            let wallets = self.arguments.wallets;
            means.extend(contenders.iter().map(|contender| Rounds {
                changed_percent: *percent,
                wallets,
                ..contender.mean()
            }));
        }
        for contender in contenders {
            contender.table.drop().await?;
        }
        // The next measurement expects the chain as it was.
        changes.undo().await?;
        Ok(means)
    }

    fn round(&self, method: Method, write: Write, table: &Table) -> anyhow::Result<Usage> {
        let node = self.fixture.chain.url();
        let command = self.command("sweep --all --write", method, &node, table);
        self.program.run(&[command.arg(write.to_string())])
    }
}

impl Contender {
    fn mean(&self) -> Rounds {
        let of_usage =
            |of: &dyn Fn(&Usage) -> Duration| mean(self.rounds.iter().map(|(usage, _)| of(usage)));
        let of_cost = |of: &dyn Fn(&DatabaseCost) -> Option<u64>| {
            let all: Option<Vec<u64>> = self.rounds.iter().map(|(_, cost)| of(cost)).collect();
            Some(all?.iter().sum::<u64>() / self.rounds.len() as u64)
        };
        let micros = |time: Duration| time.as_micros() as u64;
        Rounds {
            write: self.write,
            changed_percent: 0.0,
            wallets: 0,
            time: of_usage(&|usage| usage.time),
            reading: Some(self.readings.iter().copied())
                .filter(|readings| readings.len() > 0)
                .map(mean),
            peak_kib: self.rounds.iter().filter_map(|(usage, _)| usage.peak_kib).max(),
            cpu: of_usage(&|usage| usage.cpu),
            cost: DatabaseCost {
                cpu: of_cost(&|cost| cost.cpu.map(micros)).map(Duration::from_micros),
                wal: of_cost(&|cost| cost.wal),
                growth: of_cost(&|cost| Some(cost.growth)).unwrap_or_default(),
            },
        }
    }
}

/// Changes of balances on the chain.
struct Changes<'a> {
    fixture: &'a Fixture,
    /// How often balances changed.
    rounds: u64,
    /// What wallets have more than at genesis, by number.
    added: HashMap<u64, u64>,
    /// The sum of all totals.
    sum: U256,
}

impl Changes<'_> {
    /// Gives this share of the wallets other balances than before, in a new block.
    async fn make(&mut self, percent: f64) -> anyhow::Result<()> {
        self.rounds += 1;
        let count = self.fixture.wallets.len() as u64;
        let changed = (count as f64 * percent / 100.0).round() as u64;
        let mut balances = Vec::new();
        for index in 0..changed {
            // Others each time: a page that changes again costs less WAL.
            let number = (index * count / changed + self.rounds) % count;
            let added = self.rounds;
            let before = self.added.insert(number, added).unwrap_or_default();
            self.sum += U256::from(added - before);
            balances.push((wallet(number), holding(number).balance + U256::from(added)));
        }
        self.fixture.chain.set_balances(&balances).await?;
        self.fixture.chain.mine(1).await
    }

    /// Gives all wallets their balances at genesis back.
    async fn undo(self) -> anyhow::Result<()> {
        let balance = |number: &u64| (wallet(*number), holding(*number).balance);
        let balances: Vec<_> = self.added.keys().map(balance).collect();
        self.fixture.chain.set_balances(&balances).await?;
        self.fixture.chain.mine(1).await
    }
}
