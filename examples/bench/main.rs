//! Measures ethtally's speed and cost, and compares them with the original system, in one run.
//!
//! Starts its own Anvil and PostgreSQL. Unlike in production, these share the machine with the program: the ratios
//! are meaningful, the absolute numbers are specific to this machine.
//!
//! `examples/bench.sh --wallets 3150000`, or with Anvil and PostgreSQL installed
//! `cargo run --locked --release --example bench -- --wallets 300000 --database sqlite --only reading,writing,sweep`
//!
//! - `fixture`: the chain, and an identical `table` for each measurement; `program`: runs and measures the real program
//! - `rounds`: what each way of writing costs the database; `scale`: the same in large tables; `against`: another build
//! - `alone`: reading without writing, and the reverse; `snapshot`: the table as a file; `original`: the original system
//! - `price`: gas and bytes per wallet; `report`: the output

mod against;
mod alone;
mod fixture;
mod original;
mod price;
mod program;
mod report;
mod rounds;
mod scale;
mod snapshot;
mod table;

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use ethtally_testbed::LatencyProxy;

use fixture::Fixture;
use program::{CommandLine, Program};
use report::{Report, Row, What, say};
use rounds::Write;
use table::Table;

/// Number of processes in measurements with shards.
const SHARDS: u32 = 4;

#[derive(Parser)]
struct Arguments {
    /// Wallets on the chain and in the table, in whole thousands
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    wallets: u64,
    /// The database of the table
    #[arg(long, value_enum, default_value = "postgres")]
    database: Backend,
    /// The rows of the table before a measurement
    #[arg(long, value_enum, default_value = "swept")]
    rows: Rows,
    /// Partitions of the table, by hash of the wallet; 0 for a plain table
    #[arg(long, default_value_t = 0)]
    partitions: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Measure::ALL)]
    only: Vec<Measure>,
    /// Readers; the last one is used for backfill, shards and latency
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Method::Multicall3, Method::Packed])]
    readers: Vec<Method>,
    /// Wallets per eth_call [default: the program's]
    #[arg(long)]
    chunk: Option<u32>,
    /// eth_calls in flight
    #[arg(long, default_value_t = 4)]
    concurrency: u32,
    /// Round-trip time between program and node in milliseconds, for `delay` and `far-against`
    #[arg(long, default_value_t = 50)]
    round_trip: u64,
    /// Gas that the node allows in a call
    #[arg(long, default_value_t = 50_000_000)]
    gas_limit: u64,
    /// Ticks of the original to time
    #[arg(long, default_value_t = 200)]
    ticks: u64,
    /// Another build of ethtally: `--only against` sweeps with it and with this one in turns
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// How many turns each of the two builds has
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Percentages of rows that change between two sweeps, for `rounds`
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1, 1.0, 10.0])]
    changed: Vec<f64>,
    /// How rows are written, for `rounds`
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Write::All, Write::Changed])]
    write: Vec<Write>,
    /// How often each is measured, for `rounds` and `snapshot`
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Rows of the tables for `scale`
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000, 30_000_000])]
    scale: Vec<u64>,
    /// Print the tables as Markdown
    #[arg(long)]
    markdown: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Postgres,
    Sqlite,
}

/// What a table contains before a measurement. The rows are not stored in key order.
#[derive(Clone, Copy, ValueEnum)]
enum Rows {
    /// As after a round of the original: 50 rows of the same age, then half a minute later the next 50
    Swept,
    /// Placeholders of the same age, so that a sweep reads in key order
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Gas and bytes per wallet
    Price,
    /// Reading alone
    Reading,
    /// Writing alone
    Writing,
    /// A whole sweep
    Sweep,
    /// Sweeps by `--write all` and `--write changed` beside each other, of a table of which a part changed
    Rounds,
    /// Backfill from a CSV file into an empty table
    Backfill,
    /// A snapshot of the table as CSV
    Snapshot,
    /// Four concurrent processes
    Shards,
    /// The original system
    Original,
    /// With latency between program and node
    Delay,
    /// The SQL of one shard of a hundred, in large PostgreSQL tables; takes 12 GB of disk
    Scale,
    /// `sweep --all` of another build
    Against,
    /// `sweep --all` of another build, with latency between program and node
    FarAgainst,
}

impl Measure {
    const ALL: [Self; 10] = [
        Self::Price,
        Self::Reading,
        Self::Writing,
        Self::Sweep,
        Self::Rounds,
        Self::Backfill,
        Self::Snapshot,
        Self::Shards,
        Self::Original,
        Self::Delay,
    ];
}

/// The reader, as in the program's --reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Multicall3,
    Packed,
    Auto,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multicall3 => "multicall3",
            Self::Packed => "packed",
            Self::Auto => "auto",
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    arguments.wallets = arguments.wallets.next_multiple_of(1_000);
    let program = Program::build()?;
    let Arguments { wallets, gas_limit, database, rows, partitions, .. } = arguments;
    let fixture = Fixture::prepare(wallets, gas_limit, database, rows, partitions).await?;
    let report = Report::new(&fixture, arguments.round_trip).await?;
    let mut bench = Bench { arguments, program, fixture, report, failures: 0 };
    for measure in bench.arguments.only.clone() {
        bench.measure(measure).await;
    }
    bench.report.print(bench.arguments.markdown)?;
    ensure!(bench.failures == 0, "{} measurements failed: see above", bench.failures);
    Ok(())
}

struct Bench {
    arguments: Arguments,
    program: Program,
    fixture: Fixture,
    report: Report,
    failures: u32,
}

impl Bench {
    async fn measure(&mut self, measure: Measure) {
        let readers = self.arguments.readers.clone();
        let last = readers.last().copied().unwrap_or(Method::Multicall3);
        match measure {
            Measure::Price => {
                for method in readers {
                    let price = self.price(method).await;
                    self.keep(price, |report, price| report.prices.push((Some(method), price)));
                }
                let price = original::price(&self.fixture).await;
                self.keep(price, |report, price| report.prices.push((None, price)));
            }
            Measure::Reading => {
                for method in readers {
                    let row = alone::reading(&self.fixture, method, &self.arguments).await;
                    self.keep_row(row);
                }
            }
            Measure::Writing => {
                let row = self.writing().await;
                self.keep_row(row);
            }
            Measure::Sweep => {
                for method in readers {
                    let row = self.sweep(What::Sweep(method), None).await;
                    self.keep_row(row);
                }
            }
            Measure::Rounds => {
                let rounds = self.rounds(last).await;
                self.keep(rounds, |report, rounds| report.rounds.extend(rounds));
            }
            Measure::Backfill => {
                let row = self.backfill(last).await;
                self.keep_row(row);
            }
            Measure::Snapshot => {
                for method in readers {
                    let snapshot = self.snapshot(method).await;
                    self.keep(snapshot, |report, (row, sentence)| {
                        report.rows.push(row);
                        report.comparisons.push(sentence);
                    });
                }
            }
            Measure::Shards => {
                let row = self.sweep(What::Shards(last), None).await;
                self.keep_row(row);
            }
            Measure::Original => {
                let row = self.original(What::Original, None).await;
                self.keep_row(row);
            }
            Measure::Scale => {
                for rows in self.arguments.scale.clone() {
                    let sentences = scale::shards(&self.fixture, rows).await;
                    self.keep(sentences, |report, sentences| report.comparisons.extend(sentences));
                }
            }
            Measure::Against => {
                for method in readers {
                    let node = self.fixture.chain.url();
                    let sentence = self.against(method, &node).await;
                    self.keep(sentence, |report, sentence| report.comparisons.push(sentence));
                }
            }
            Measure::FarAgainst => {
                let delay = match self.delay() {
                    Ok(delay) => delay,
                    Err(error) => return self.keep_row(Err(error)),
                };
                for method in readers {
                    let sentence = self.against(method, &delay.url()).await;
                    self.keep(sentence, |report, sentence| {
                        let round_trip = report.round_trip;
                        report.comparisons.push(format!("{round_trip} ms round trip, {sentence}"));
                    });
                }
            }
            Measure::Delay => {
                let delay = match self.delay() {
                    Ok(delay) => delay,
                    Err(error) => return self.keep_row(Err(error)),
                };
                let row = self.original(What::FarOriginal, Some(&delay)).await;
                self.keep_row(row);
                for what in [What::FarSweep(last), What::FarOne(last), What::FarShards(last)] {
                    let row = self.sweep(what, Some(&delay)).await;
                    self.keep_row(row);
                }
            }
        }
    }

    /// Latency in front of the node.
    fn delay(&self) -> anyhow::Result<LatencyProxy> {
        let one_way = Duration::from_millis(self.arguments.round_trip) / 2;
        LatencyProxy::in_front_of(&self.fixture.chain.url(), one_way)
    }

    /// Keeps a result. A failure is counted and does not stop the other measurements.
    fn keep<T>(&mut self, found: anyhow::Result<T>, keep: impl FnOnce(&mut Report, T)) {
        match found {
            Ok(found) => keep(&mut self.report, found),
            Err(error) => {
                self.failures += 1;
                say(format_args!("FAILED: {error:#}"));
            }
        }
    }

    fn keep_row(&mut self, row: anyhow::Result<Row>) {
        self.keep(row, |report, row| {
            say(format_args!("{}: {:.2} s", row.what, row.time.as_secs_f64()));
            report.rows.push(row);
        });
    }

    /// The command line for this subcommand, reader, node and table.
    fn command(&self, subcommand: &str, method: Method, node: &str, table: &Table) -> CommandLine {
        let mut command = CommandLine::new(subcommand)
            .set("ETH_RPC_URL", node)
            .set("DATABASE_URL", &table.url)
            .set("ETHTALLY_READER", method.to_string())
            .set("ETHTALLY_CONCURRENCY", self.arguments.concurrency.to_string());
        if let Some(chunk) = self.arguments.chunk {
            command = command.set("ETHTALLY_CHUNK", chunk.to_string());
        }
        command
    }

    async fn price(&self, method: Method) -> anyhow::Result<price::Price> {
        say(format_args!("price per wallet, {method}"));
        let table = self.fixture.empty_table().await?;
        let file = self.fixture.csv(self.arguments.wallets.min(price::SAMPLE))?;
        let journal = price::Journal::of(&self.fixture.chain)?;
        let command = self.command("backfill --from-csv", method, &journal.url(), &table);
        self.program.run(&[command.arg(file.path())])?;
        table.drop().await?;
        journal.price(&self.fixture.chain).await
    }

    async fn writing(&self) -> anyhow::Result<Row> {
        let table = self.fixture.table().await?;
        let row = alone::writing(&self.fixture, &table).await?;
        table.drop().await?;
        Ok(row)
    }

    /// Sweeps all wallets with the real program, as one or several processes.
    async fn sweep(&self, what: What, proxy: Option<&LatencyProxy>) -> anyhow::Result<Row> {
        let table = self.fixture.table().await?;
        say(format_args!("{what} …"));
        let node = proxy.map_or_else(|| self.fixture.chain.url(), LatencyProxy::url);
        let concurrency = self.arguments.concurrency;
        let (method, processes, in_flight) = match what {
            What::FarOne(method) => (method, 1, 1),
            What::FarShards(method) => (method, SHARDS, 1),
            // Together as many calls in flight as one process.
            What::Shards(method) => (method, SHARDS, concurrency.div_ceil(SHARDS)),
            What::Sweep(method) | What::FarSweep(method) => (method, 1, concurrency),
            _ => anyhow::bail!("{what} is not a sweep"),
        };
        let commands: Vec<CommandLine> = (0..processes)
            .map(|shard| {
                let command = self
                    .command("sweep --all --shard", method, &node, &table)
                    .set("ETHTALLY_CONCURRENCY", in_flight.to_string());
                command.arg(format!("{shard}/{processes}"))
            })
            .collect();
        let ran = self.program.run(&commands)?;
        table.check_read(&self.fixture).await?;
        table.drop().await?;
        Ok(Row::of_program(what, self.arguments.wallets, &ran))
    }

    async fn backfill(&self, method: Method) -> anyhow::Result<Row> {
        let what = What::Backfill(method);
        let table = self.fixture.empty_table().await?;
        let file = self.fixture.csv(self.arguments.wallets)?;
        say(format_args!("{what} …"));
        let node = self.fixture.chain.url();
        let command = self.command("backfill --from-csv", method, &node, &table);
        let ran = self.program.run(&[command.arg(file.path())])?;
        table.check_read(&self.fixture).await?;
        table.drop().await?;
        Ok(Row::of_program(what, self.arguments.wallets, &ran))
    }

    async fn original(&self, what: What, proxy: Option<&LatencyProxy>) -> anyhow::Result<Row> {
        let table = self.fixture.table().await?;
        say(format_args!("{what} …"));
        let node = proxy.map_or_else(|| self.fixture.chain.url(), LatencyProxy::url);
        let ticks = self.arguments.ticks.min(self.arguments.wallets / original::WALLETS_A_TICK);
        let (time, note) = original::run(&table, &node, ticks).await?;
        table.drop().await?;
        let all = self.arguments.wallets.div_ceil(original::WALLETS_A_TICK);
        Ok(Row {
            time: time.mul_f64(all as f64 / ticks as f64),
            calls: Some(all),
            note: Some(format!("{note}; estimated from {ticks} ticks, without pauses")),
            ..Row::new(what, self.arguments.wallets)
        })
    }
}

/// The mean of some times, of which there is one at least.
fn mean(times: impl ExactSizeIterator<Item = Duration>) -> Duration {
    let count = times.len() as u32;
    times.sum::<Duration>() / count
}
