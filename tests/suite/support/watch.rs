//! A `watch` in the background: its output, its HTTP endpoints, and what it has stored.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use ethtally_testbed::{Chain, wallet};
use serde_json::{Value, json};

use crate::support::{
    database::Database,
    program::{Ethtally, Output, Running, ethtally, eventually_async},
    table::stored_totals,
    wallets::address,
};

/// The lines of an output stream, read in the background.
pub(crate) struct Lines {
    so_far: Arc<Mutex<Vec<String>>>,
    reader: thread::JoinHandle<()>,
}

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let so_far = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&so_far);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { so_far, reader }
    }

    pub(crate) fn so_far(&self) -> Vec<String> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All lines, once the stream has ended.
    pub(crate) fn all(self) -> Vec<String> {
        self.reader.join().expect("the stream is read");
        std::mem::take(&mut self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A `watch --json` in the background.
pub(crate) struct JsonWatch {
    running: Running,
    stdout: Lines,
    stderr: Lines,
}

/// Prepares `watch --json` with more arguments, separated by spaces.
pub(crate) fn watch(arguments: &str, node: impl Into<String>, database: &Database) -> Ethtally {
    let arguments = ["watch", "--json"].into_iter().chain(arguments.split_whitespace());
    ethtally(arguments).node(node).database(database)
}

/// Starts a prepared `watch --json`.
pub(crate) fn start(watch: Ethtally) -> JsonWatch {
    let mut running = watch.start();
    let (stdout, stderr) = running.output();
    JsonWatch { running, stdout: Lines::of(stdout), stderr: Lines::of(stderr) }
}

/// Starts a prepared `watch --json` and waits until it is connected.
#[track_caller]
pub(crate) fn start_connected(watch: Ethtally) -> JsonWatch {
    let watching = start(watch);
    watching.until("connected", 1);
    watching
}

/// Lines as JSON; a line that is not JSON becomes a string.
fn parsed(lines: Vec<String>) -> Vec<Value> {
    let parse = |line: String| serde_json::from_str(&line).unwrap_or(Value::String(line));
    lines.into_iter().map(parse).collect()
}

impl JsonWatch {
    /// The lines on stdout so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        parsed(self.stdout.so_far())
    }

    /// The lines with this event so far.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for the `count`th line with this event and returns it.
    #[track_caller]
    pub(crate) fn until(&self, event: &str, count: usize) -> Value {
        let started = Instant::now();
        loop {
            if let Some(line) = self.events(event).into_iter().nth(count - 1) {
                return line;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "no line {count} with event {event}: {:#?}",
                self.lines()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by name, such as `TERM` or `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Waits until it ends; returns its status and stderr, and the lines on stdout.
    pub(crate) fn wait(self) -> (Output, Vec<Value>) {
        let mut output = self.running.wait();
        for line in self.stderr.all() {
            output.stderr += &(line + "\n");
        }
        (output, parsed(self.stdout.all()))
    }

    /// Stops it with SIGTERM, as Kubernetes does; returns the lines on stdout, of which the last is `stopped`.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<Value> {
        let started = Instant::now();
        self.signal("TERM");
        while !self.has_ended() {
            let lines = self.lines();
            assert!(started.elapsed() < Duration::from_secs(10), "it does not end: {lines:#?}");
            thread::sleep(Duration::from_millis(10));
        }
        let (output, lines) = self.wait();
        output.expect(143);
        assert_eq!(lines.last().expect("a last line")["event"], "stopped");
        lines
    }
}

/// A `watch` in the background whose stdout and stderr are kept apart, line by line.
pub(crate) struct TextWatch {
    running: Running,
    stdout: Lines,
    stderr: Lines,
}

impl TextWatch {
    /// Sends a signal by name, such as `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    /// Starts a prepared `watch`.
    pub(crate) fn start(watch: Ethtally) -> Self {
        let mut running = watch.start();
        let (stdout, stderr) = running.output();
        Self { running, stdout: Lines::of(stdout), stderr: Lines::of(stderr) }
    }

    /// Waits until `count` lines on either stream contain one of these texts.
    #[track_caller]
    pub(crate) fn until(&self, parts: [&str; 2], count: usize) {
        let started = Instant::now();
        loop {
            let lines = [self.stdout.so_far(), self.stderr.so_far()].concat();
            let matches = |line: &&String| parts.iter().any(|part| line.contains(part));
            if lines.iter().filter(matches).count() >= count {
                return;
            }
            // The counts of a minute take a minute to appear.
            assert!(started.elapsed() < Duration::from_secs(120), "no {parts:?} in {lines:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it with SIGINT, as Ctrl-C does; returns the lines on stdout and on stderr.
    #[track_caller]
    pub(crate) fn stop(self) -> (Vec<String>, Vec<String>) {
        self.running.signal("INT");
        self.running.wait().expect(130);
        (self.stdout.all(), self.stderr.all())
    }
}

/// A line of output with ports and times masked, which differ between runs.
pub(crate) fn masked(line: &str) -> String {
    let is_time = |time: &str| time.ends_with('Z') && DateTime::parse_from_rfc3339(time).is_ok();
    let mut masked = match line.split_once(' ') {
        Some((time, rest)) if is_time(time) => format!("TIME {rest}"),
        _ => line.to_owned(),
    };
    for (before, after, mask) in
        [("127.0.0.1:", "", "PORT"), ("retrying in ", " s", "N"), (" in ", " ms", "N")]
    {
        let mut parts = masked.split(before);
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let digits = part.len()
                - part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
            let is_time = digits > 0 && part[digits..].starts_with(after);
            text += before;
            text += if is_time { mask } else { &part[..digits] };
            text += &part[digits..];
        }
        masked = text;
    }
    masked
}

/// JSON lines as objects, with ports and durations masked, and without the fields that all have.
#[track_caller]
pub(crate) fn masked_objects(lines: &[String]) -> Vec<Value> {
    let mut before = None;
    let object = |line: &String| {
        let mut object: Value = serde_json::from_str(&masked(line)).expect("JSON");
        let fields = object.as_object_mut().expect("an object");
        assert_eq!(fields.remove("command"), Some(json!("watch")), "{line}");
        let time = fields.remove("time").expect("a time");
        let time: DateTime<Utc> = time.as_str().expect("a text").parse().expect("RFC 3339");
        assert!((Utc::now() - time).abs() < TimeDelta::minutes(10), "{time}");
        // In order; a test may have swapped two lines of the same moment.
        let in_order = |before: DateTime<Utc>| before <= time + TimeDelta::seconds(2);
        assert!(before.replace(time).is_none_or(in_order), "{line}");
        for name in ["elapsed_ms", "retry_in_ms"] {
            if let Some(value) = fields.get_mut(name) {
                assert!(value.is_u64(), "{line}");
                *value = json!("N");
            }
        }
        object
    };
    lines.iter().map(object).collect()
}

/// The checkpoint of the built-in profile, if there is one.
pub(crate) async fn checkpoint(database: &Database) -> Option<u64> {
    let last = "select last_block from eth_indexer_checkpoints where name = 'audio_transfers'";
    database.sql(last).await.first().map(|block| block.parse().expect("a number"))
}

/// Waits until the checkpoint has reached the chain's head; returns the head.
pub(crate) async fn caught_up(chain: &Chain, database: &Database) -> u64 {
    let head = chain.block_number().await.expect("the chain answers");
    eventually_async(&format!("the checkpoint is at block {head}"), async || {
        checkpoint(database).await.is_some_and(|block| block >= head)
    })
    .await;
    head
}

/// A wallet's row as `balance|blocknumber|read_block`.
pub(crate) async fn row(database: &Database, n: u64) -> String {
    let wallet = address(n);
    let columns = "balance, blocknumber, read_block";
    let row = format!("select {columns} from eth_wallet_balances where wallet = '{wallet}'");
    database.value(&row).await
}

/// The stored total of a wallet, wei.
pub(crate) async fn stored_total(database: &Database, n: u64) -> String {
    row(database, n).await.split('|').next().expect("a column").to_owned()
}

/// Panics unless the stored totals of these wallets match the chain.
pub(crate) async fn assert_matches_chain(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) {
    for n in wallets {
        let expected = chain.total(wallet(n)).await.expect("the chain answers").to_string();
        assert_eq!(stored_total(database, n).await, expected, "wallet {n}");
    }
}

/// A response to an HTTP request.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

impl HttpResponse {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json", "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a GET request, over a new connection each time, as a probe does.
#[track_caller]
pub(crate) fn get(address: &str, path: &str) -> HttpResponse {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    let content_type = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or_else(String::new, |(_, content_type)| content_type.to_owned());
    HttpResponse { status, content_type, body: body.to_owned() }
}

/// The address that a watch with `--listen` serves.
#[track_caller]
pub(crate) fn served_at(watching: &JsonWatch) -> String {
    watching.until("listening", 1)["address"].as_str().expect("a text").to_owned()
}

/// The wallets whose stored total differs from the chain's, each with both totals.
pub(crate) async fn mismatches(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) -> Vec<(u64, [String; 2])> {
    // One query for all wallets: each query of PostgreSQL runs a process.
    let stored = stored_totals(database).await;
    let mut mismatches = Vec::new();
    for n in wallets {
        let expected = chain.total(wallet(n)).await.expect("the chain answers").to_string();
        let stored = stored.get(&address(n)).map_or("no row", String::as_str).to_owned();
        if stored != expected {
            mismatches.push((n, [stored, expected]));
        }
    }
    mismatches
}

/// Waits until the stored totals of these wallets match the chain, which must not change meanwhile.
pub(crate) async fn until_matches_chain(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) {
    let started = Instant::now();
    let mut left: Vec<u64> = wallets.into_iter().collect();
    loop {
        let mismatches = mismatches(chain, database, left).await;
        if mismatches.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "stored and on chain: {mismatches:?}");
        left = mismatches.into_iter().map(|(n, _)| n).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
