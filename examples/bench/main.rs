//! How fast ethtally is, what it costs, and how that compares with the original's way; all in one run.
//!
//! Starts its own Anvil and PostgreSQL. These share the machine with the program, as they do not in
//! production: the ratios hold, the absolute numbers are of this machine.
//!
//! `examples/bench.sh --wallets 3150000`, or with Anvil and PostgreSQL at hand
//! `cargo run --release --example bench -- --wallets 300000 --database sqlite --only reading,writing,sweep`
//!
//! - `ground`: the chain, and tables that are alike for each measure; `program`: the real program, measured
//! - `alone`: reading without writing and the reverse; `original`: the system that ethtally comes from
//! - `price`: gas and bytes a wallet; `report`: what is shown of all that

mod alone;
mod ground;
mod original;
mod price;
mod program;
mod report;

use std::{fmt, time::Duration};

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use ethtally_testbed::Delay;

use ground::{Ground, Table};
use program::{Order, Program};
use report::{Report, Row, What, say};

/// Processes that share the wallets among them.
const SHARDS: u32 = 4;

#[derive(Parser)]
struct Arguments {
    /// How many wallets the chain and the table have, in whole thousands
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    wallets: u64,
    /// Where the table is
    #[arg(long, value_enum, default_value = "postgres")]
    database: Backend,
    /// What its rows are before a measure
    #[arg(long, value_enum, default_value = "swept")]
    rows: Rows,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Measure::ALL)]
    only: Vec<Measure>,
    /// How to read; the last is the one for backfill, shards and distance
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Method::Multicall3, Method::Packed])]
    readers: Vec<Method>,
    /// Wallets in one eth_call [default: the program's own]
    #[arg(long)]
    chunk: Option<u32>,
    /// eth_calls in flight
    #[arg(long, default_value_t = 4)]
    concurrency: u32,
    /// Milliseconds from the program to the node and back, for `delay`
    #[arg(long, default_value_t = 50)]
    round_trip: u64,
    /// How many ticks of the original are timed
    #[arg(long, default_value_t = 200)]
    ticks: u64,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Postgres,
    Sqlite,
}

/// What a table holds before a measure. Either way the rows lie in no order of their keys.
#[derive(Clone, Copy, ValueEnum)]
enum Rows {
    /// What the original leaves after a round: 50 rows of one age, half a minute between them
    Swept,
    /// Placeholders, all of one age, so that a sweep goes by key
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Gas and bytes a wallet
    Price,
    /// Reading alone
    Reading,
    /// Writing alone
    Writing,
    /// The whole sweep
    Sweep,
    /// Backfill of a CSV file into an empty table
    Backfill,
    /// Four processes at once
    Shards,
    /// The original's way
    Original,
    /// With a long way between program and node
    Delay,
}

impl Measure {
    const ALL: [Self; 8] = [
        Self::Price,
        Self::Reading,
        Self::Writing,
        Self::Sweep,
        Self::Backfill,
        Self::Shards,
        Self::Original,
        Self::Delay,
    ];
}

/// How wallets are read, in the program's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Multicall3,
    Packed,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multicall3 => "multicall3",
            Self::Packed => "packed",
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    arguments.wallets = arguments.wallets.next_multiple_of(1_000);
    let program = Program::build()?;
    let ground = Ground::prepare(arguments.wallets, arguments.database, arguments.rows).await?;
    let report = Report::new(&ground, arguments.round_trip).await?;
    let mut bench = Bench { arguments, program, ground, report, failures: 0 };
    for measure in bench.arguments.only.clone() {
        bench.measure(measure).await;
    }
    bench.report.print(bench.arguments.markdown)?;
    ensure!(bench.failures == 0, "{} measures failed: see above", bench.failures);
    Ok(())
}

struct Bench {
    arguments: Arguments,
    program: Program,
    ground: Ground,
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
                let price = original::price(&self.ground).await;
                self.keep(price, |report, price| report.prices.push((None, price)));
            }
            Measure::Reading => {
                for method in readers {
                    let row = alone::reading(&self.ground, method, &self.arguments).await;
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
            Measure::Backfill => {
                let row = self.backfill(last).await;
                self.keep_row(row);
            }
            Measure::Shards => {
                let row = self.sweep(What::Shards(last), None).await;
                self.keep_row(row);
            }
            Measure::Original => {
                let row = self.original(What::Original, None).await;
                self.keep_row(row);
            }
            Measure::Delay => {
                let one_way = Duration::from_millis(self.arguments.round_trip) / 2;
                let delay = match Delay::in_front_of(&self.ground.chain.url(), one_way) {
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

    /// What one measure finds is kept, and the next goes on also where it fails: the rest has taken its time.
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

    /// What the program is to do: `work`, with these many calls in flight, towards this node and table.
    fn order(&self, work: &str, method: Method, node: &str, table: &Table) -> Order {
        let mut order = Order::new(work)
            .set("ETH_RPC_URL", node)
            .set("DATABASE_URL", &table.url)
            .set("ETHTALLY_READER", method.to_string())
            .set("ETHTALLY_CONCURRENCY", self.arguments.concurrency.to_string());
        if let Some(chunk) = self.arguments.chunk {
            order = order.set("ETHTALLY_CHUNK", chunk.to_string());
        }
        order
    }

    async fn price(&self, method: Method) -> anyhow::Result<price::Price> {
        say(format_args!("the price of a wallet, {method}"));
        let table = self.ground.empty_table().await?;
        let file = self.ground.csv(self.arguments.wallets.min(price::SAMPLE))?;
        let journal = price::Journal::of(&self.ground.chain)?;
        let order = self.order("backfill --from-csv", method, &journal.url(), &table);
        self.program.run(&[order.arg(file.path())])?;
        table.drop().await?;
        journal.price(&self.ground.chain).await
    }

    async fn writing(&self) -> anyhow::Result<Row> {
        let table = self.ground.table().await?;
        let row = alone::writing(&self.ground, &table).await?;
        table.drop().await?;
        Ok(row)
    }

    /// The real program goes over all wallets, alone or as several processes.
    async fn sweep(&self, what: What, way: Option<&Delay>) -> anyhow::Result<Row> {
        let table = self.ground.table().await?;
        say(format_args!("{what} …"));
        let node = way.map_or_else(|| self.ground.chain.url(), Delay::url);
        let concurrency = self.arguments.concurrency;
        let (method, processes, in_flight) = match what {
            What::FarOne(method) => (method, 1, 1),
            What::FarShards(method) => (method, SHARDS, 1),
            // As many calls in flight as the one has.
            What::Shards(method) => (method, SHARDS, concurrency.div_ceil(SHARDS)),
            What::Sweep(method) | What::FarSweep(method) => (method, 1, concurrency),
            _ => anyhow::bail!("{what} is no sweep"),
        };
        let orders: Vec<Order> = (0..processes)
            .map(|shard| {
                let order = self
                    .order("sweep --all --shard", method, &node, &table)
                    .set("ETHTALLY_CONCURRENCY", in_flight.to_string());
                order.arg(format!("{shard}/{processes}"))
            })
            .collect();
        let ran = self.program.run(&orders)?;
        table.is_read(&self.ground).await?;
        table.drop().await?;
        Ok(Row::of_program(what, self.arguments.wallets, &ran))
    }

    async fn backfill(&self, method: Method) -> anyhow::Result<Row> {
        let what = What::Backfill(method);
        let table = self.ground.empty_table().await?;
        let file = self.ground.csv(self.arguments.wallets)?;
        say(format_args!("{what} …"));
        let node = self.ground.chain.url();
        let order = self.order("backfill --from-csv", method, &node, &table);
        let ran = self.program.run(&[order.arg(file.path())])?;
        table.is_read(&self.ground).await?;
        table.drop().await?;
        Ok(Row::of_program(what, self.arguments.wallets, &ran))
    }

    async fn original(&self, what: What, way: Option<&Delay>) -> anyhow::Result<Row> {
        let table = self.ground.table().await?;
        say(format_args!("{what} …"));
        let node = way.map_or_else(|| self.ground.chain.url(), Delay::url);
        let ticks = self.arguments.ticks.min(self.arguments.wallets / original::WALLETS_A_TICK);
        let (time, note) = original::run(&table, &node, ticks).await?;
        table.drop().await?;
        let all = self.arguments.wallets.div_ceil(original::WALLETS_A_TICK);
        Ok(Row {
            time: time.mul_f64(all as f64 / ticks as f64),
            calls: Some(all),
            note: Some(format!("{note}; reckoned from {ticks} of them, without a pause")),
            ..Row::new(what, self.arguments.wallets)
        })
    }
}
