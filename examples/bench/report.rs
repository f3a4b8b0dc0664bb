//! The results as a table and as ratios on stdout; progress on stderr.

use std::{
    fmt, fs,
    io::{self, Write},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use alloy::providers::Provider;
use chrono::Utc;

use crate::{
    Method, SHARDS,
    fixture::Fixture,
    price::Price,
    program::Usage,
    rounds::{Rounds, Write as WriteChoice},
};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints progress with the time since the start.
pub(crate) fn say(what: impl fmt::Display) {
    let since = STARTED.elapsed().as_secs_f64();
    // Stderr may be closed.
    let _ = writeln!(io::stderr(), "{since:>7.1} s  {what}");
}

/// The kinds of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Reading(Method),
    Writing,
    Sweep(Method),
    Backfill(Method),
    Snapshot(Method),
    /// Several processes, with together as many calls in flight as one sweep.
    Shards(Method),
    Original,
    FarOriginal,
    FarSweep(Method),
    /// One process with one call in flight.
    FarOne(Method),
    /// Several processes with one call in flight each.
    FarShards(Method),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading(method) => write!(f, "reading alone, {method}"),
            Self::Writing => f.write_str("writing alone"),
            Self::Sweep(method) => write!(f, "sweep --all, {method}"),
            Self::Backfill(method) => write!(f, "backfill from CSV, {method}"),
            Self::Snapshot(method) => write!(f, "snapshot, {method}"),
            Self::Shards(method) => write!(f, "{SHARDS} concurrent shards, {method}"),
            Self::Original => f.write_str("the original's way"),
            Self::FarOriginal => f.write_str("far node: the original's way"),
            Self::FarSweep(method) => write!(f, "far node: sweep --all, {method}"),
            Self::FarOne(method) => write!(f, "far node: --concurrency 1, {method}"),
            Self::FarShards(method) => {
                write!(f, "far node: {SHARDS} shards, --concurrency 1, {method}")
            }
        }
    }
}

impl What {
    fn is_far(self) -> bool {
        matches!(self, Self::FarOriginal | Self::FarSweep(_) | Self::FarOne(_) | Self::FarShards(_))
    }

    /// The reader, if it reads; `Some(None)` is the original, which has its own price.
    fn method(self) -> Option<Option<Method>> {
        match self {
            Self::Writing => None,
            Self::Original | Self::FarOriginal => Some(None),
            Self::Reading(method)
            | Self::Sweep(method)
            | Self::Backfill(method)
            | Self::Snapshot(method)
            | Self::Shards(method)
            | Self::FarSweep(method)
            | Self::FarOne(method)
            | Self::FarShards(method) => Some(Some(method)),
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: What,
    pub(crate) wallets: u64,
    /// For all wallets.
    pub(crate) time: Duration,
    pub(crate) calls: Option<u64>,
    pub(crate) cpu: Option<Duration>,
    pub(crate) peak_kib: Option<u64>,
    /// How the time was estimated, if it was not measured for all wallets.
    pub(crate) note: Option<String>,
}

impl Row {
    pub(crate) fn new(what: What, wallets: u64) -> Self {
        let time = Duration::ZERO;
        Self { what, wallets, time, calls: None, cpu: None, peak_kib: None, note: None }
    }

    pub(crate) fn of_program(what: What, wallets: u64, usage: &Usage) -> Self {
        Self {
            time: usage.time,
            calls: Some(usage.calls),
            cpu: Some(usage.cpu),
            peak_kib: usage.peak_kib,
            ..Self::new(what, wallets)
        }
    }

    fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }
}

/// All results.
pub(crate) struct Report {
    title: String,
    pub(crate) round_trip: u64,
    pub(crate) rows: Vec<Row>,
    /// By method; `None` is the original.
    pub(crate) prices: Vec<(Option<Method>, Price)>,
    pub(crate) rounds: Vec<Rounds>,
    /// Sentences about this build beside another one.
    pub(crate) comparisons: Vec<String>,
}

const HEAD: [&str; 8] = [
    "",
    "seconds",
    "wallets/s",
    "eth_calls",
    "gas per wallet",
    "bytes per wallet",
    "CPU-s per million",
    "peak MiB",
];

const HEAD_OF_ROUNDS: [&str; 10] = [
    "changed rows",
    "--write",
    "seconds",
    "of --write all",
    "of reading alone",
    "database CPU-s per million",
    "WAL MB",
    "growth MB",
    "our CPU-s per million",
    "peak MiB",
];

impl Report {
    pub(crate) async fn new(fixture: &Fixture, round_trip: u64) -> anyhow::Result<Self> {
        let node = fixture.chain.provider().get_client_version().await?;
        let title = format!(
            "{} wallets, {}, {}, {}, {}",
            grouped(fixture.wallets.len() as f64),
            Utc::now().format("%Y-%m-%d"),
            fixture.database_version().await?,
            node.split('-').next().unwrap_or(&node),
            machine()
        );
        Ok(Self {
            title,
            round_trip,
            rows: Vec::new(),
            prices: Vec::new(),
            rounds: Vec::new(),
            comparisons: Vec::new(),
        })
    }

    /// Prints the tables to stdout, followed by the conclusions.
    pub(crate) fn print(&self, markdown: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}\n", self.title)?;
        if !self.rows.is_empty() {
            let lines = self.rows.iter().map(|row| self.cells(row)).collect();
            print_table(&mut out, HEAD, lines, markdown)?;
        }
        if !self.rounds.is_empty() {
            let lines = self.rounds.iter().map(|rounds| self.cells_of_rounds(rounds)).collect();
            print_table(&mut out, HEAD_OF_ROUNDS, lines, markdown)?;
        }
        for conclusion in self.conclusions().iter().chain(&self.comparisons) {
            writeln!(out, "{}{conclusion}", if markdown { "- " } else { "" })?;
        }
        Ok(())
    }

    fn cells_of_rounds(&self, rounds: &Rounds) -> [String; HEAD_OF_ROUNDS.len()] {
        let none = || "–".to_owned();
        let millions = rounds.wallets as f64 / 1e6;
        let per_million = |cpu: Duration| format!("{:.2}", cpu.as_secs_f64() / millions);
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let all = self.rounds.iter().find(|other| {
            other.write == WriteChoice::All && other.changed_percent == rounds.changed_percent
        });
        let ratio = |of: Duration| format!("{:.2}", rounds.time.div_duration_f64(of));
        [
            format!("{} %", rounds.changed_percent),
            rounds.write.to_string(),
            seconds(rounds.time),
            all.map_or_else(none, |all| ratio(all.time)),
            rounds.reading.map_or_else(none, ratio),
            rounds.cost.cpu.map_or_else(none, per_million),
            rounds.cost.wal.map_or_else(none, megabytes),
            megabytes(rounds.cost.growth),
            per_million(rounds.cpu),
            rounds.peak_kib.map_or_else(none, |kib| grouped(kib as f64 / 1024.0)),
        ]
    }

    fn cells(&self, row: &Row) -> [String; HEAD.len()] {
        let none = || "–".to_owned();
        let price = row.what.method().and_then(|method| {
            self.prices.iter().find(|(of, _)| *of == method).map(|(_, price)| *price)
        });
        let about = if row.note.is_some() { "≈ " } else { "" };
        let millions = row.wallets as f64 / 1e6;
        [
            row.what.to_string(),
            format!("{about}{}", seconds(row.time)),
            grouped(row.wallets as f64 / row.seconds()),
            row.calls.map_or_else(none, |calls| grouped(calls as f64)),
            price.map_or_else(none, |price| grouped(price.gas)),
            price.map_or_else(none, |price| grouped(price.bytes)),
            row.cpu.map_or_else(none, |cpu| format!("{:.1}", cpu.as_secs_f64() / millions)),
            row.peak_kib.map_or_else(none, |kib| grouped(kib as f64 / 1024.0)),
        ]
    }

    fn row(&self, what: What) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what)
    }

    /// The conclusions that the measurements allow.
    fn conclusions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for method in [Method::Multicall3, Method::Packed, Method::Auto] {
            lines.extend(self.against_floor(method));
            lines.extend(self.against(What::Original, What::Sweep(method)));
            lines.extend(self.against(What::FarOriginal, What::FarSweep(method)));
            for (what, of) in [
                (What::Backfill(method), What::Sweep(method)),
                (What::Shards(method), What::Sweep(method)),
                (What::FarShards(method), What::FarOne(method)),
            ] {
                lines.extend(self.row(what).zip(self.row(of)).map(|(row, of)| {
                    format!(
                        "{what}: {:.2} times as fast as {of_what}",
                        of.seconds() / row.seconds(),
                        of_what = of.what
                    )
                }));
            }
        }
        for (method, price) in &self.prices {
            let of = method.map_or_else(|| "the original".to_owned(), |method| method.to_string());
            lines.push(format!(
                "{of}: gas and bytes are from a call with {} wallets",
                grouped(price.wallets as f64)
            ));
        }
        for row in &self.rows {
            lines.extend(row.note.as_ref().map(|note| format!("{}: {note}", row.what)));
        }
        if self.rows.iter().any(|row| row.what.is_far()) {
            lines.push(format!(
                "far node: {} ms round-trip time between program and node",
                self.round_trip
            ));
        }
        lines
    }

    /// Compares a sweep with reading and then writing without overlap.
    fn against_floor(&self, method: Method) -> Option<String> {
        let sweep = self.row(What::Sweep(method))?;
        let (reading, writing) = (self.row(What::Reading(method))?, self.row(What::Writing)?);
        let floor = reading.seconds() + writing.seconds();
        Some(format!(
            "{}: {:.2} times the speed of reading and then writing, which take {floor:.1} s together",
            sweep.what,
            floor / sweep.seconds()
        ))
    }

    fn against(&self, original: What, sweep: What) -> Option<String> {
        let (original, sweep) = (self.row(original)?, self.row(sweep)?);
        Some(format!(
            "{}: {:.1} times faster than the original's way, with {:.0} times fewer eth_calls",
            sweep.what,
            original.seconds() / sweep.seconds(),
            original.calls? as f64 / sweep.calls? as f64
        ))
    }
}

/// Prints a table whose first column is aligned to the left, and an empty line.
fn print_table<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    mut lines: Vec<[String; N]>,
    markdown: bool,
) -> io::Result<()> {
    lines.insert(0, head.map(str::to_owned));
    if markdown {
        let mut rule = ["---:"; N].map(str::to_owned);
        rule[0] = "---".to_owned();
        lines.insert(1, rule);
        for line in lines {
            writeln!(out, "| {} |", line.join(" | "))?;
        }
    } else {
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths = std::array::from_fn::<_, N, _>(|column| width(column).unwrap_or(0));
        for line in &lines {
            write!(out, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(widths).skip(1) {
                write!(out, "  {cell:>width$}")?;
            }
            writeln!(out)?;
        }
    }
    writeln!(out)
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 100.0 { format!("{seconds:.1}") } else { grouped(seconds) }
}

/// A number without decimals, with thousands separators.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Number and model of the processors, as far as known.
fn machine() -> String {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let model = model.map(|model| format!(" ({model})")).unwrap_or_default();
    format!("{count} processors{model} for node, database and program together")
}
