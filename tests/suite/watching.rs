//! A `watch` that goes on while a story is told: what it said so far, and what it has stored.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ethtally_testbed::{Chain, wallet};
use serde_json::Value;

use crate::{
    harness::{Database, Ethtally, Ran, Running, ethtally, eventually},
    world::address,
};

/// A `watch --json` in the background.
pub(crate) struct Watching {
    running: Running,
    told: Arc<Mutex<Vec<Value>>>,
    complained: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// `watch --json` with these further arguments, which are separated by spaces.
pub(crate) fn watch(arguments: &str, node: impl Into<String>, database: &Database) -> Ethtally {
    let arguments = ["watch", "--json"].into_iter().chain(arguments.split_whitespace());
    ethtally(arguments).node(node).database(database)
}

/// Starts it.
pub(crate) fn start(watch: Ethtally) -> Watching {
    let mut running = watch.start();
    let (stdout, mut stderr) = running.output();
    let told = Arc::<Mutex<Vec<Value>>>::default();
    let complained = Arc::<Mutex<String>>::default();
    let (lines, text) = (Arc::clone(&told), Arc::clone(&complained));
    let readers = vec![
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }),
        thread::spawn(move || {
            let mut all = String::new();
            let _ = stderr.read_to_string(&mut all);
            text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&all);
        }),
    ];
    Watching { running, told, complained, readers }
}

impl Watching {
    /// All that it told so far.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines about this event so far.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        self.told().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for the `count`th line about this event and returns it.
    #[track_caller]
    pub(crate) fn until(&self, event: &str, count: usize) -> Value {
        let started = Instant::now();
        loop {
            if let Some(line) = self.events(event).into_iter().nth(count - 1) {
                return line;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "no line {count} about {event}: {:#?}",
                self.told()
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

    /// Waits for the end; the lines on stdout are those of [`Watching::told`].
    pub(crate) fn wait(self) -> (Ran, Vec<Value>) {
        let mut ran = self.running.wait();
        for reader in self.readers {
            reader.join().expect("a reader ends");
        }
        ran.stderr = self.complained.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (ran, told)
    }

    /// Stops it as Kubernetes does, and looks at what it made of that.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<Value> {
        let started = Instant::now();
        self.signal("TERM");
        while !self.has_ended() {
            let told = self.told();
            assert!(started.elapsed() < Duration::from_secs(10), "it does not end: {told:#?}");
            thread::sleep(Duration::from_millis(10));
        }
        let (ran, told) = self.wait();
        ran.expect(143);
        assert_eq!(told.last().expect("a last line")["event"], "stopped");
        told
    }
}

/// The checkpoint, if there is one.
pub(crate) async fn checkpoint(database: &Database) -> Option<u64> {
    let last = "select last_block from eth_indexer_checkpoints where name = 'audio_transfers'";
    database.sql(last).await.first().map(|block| block.parse().expect("a number"))
}

/// Waits until everything up to the chain's head is stored; returns that block.
pub(crate) async fn caught_up(chain: &Chain, database: &Database) -> u64 {
    let head = chain.block_number().await.expect("the chain answers");
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        eventually(&format!("the checkpoint is at block {head}"), || {
            handle.block_on(checkpoint(database)).is_some_and(|block| block >= head)
        });
    });
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

/// Fails unless the stored total of each of these wallets is what the chain says now.
pub(crate) async fn assert_right(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) {
    for n in wallets {
        let expected = chain.total(wallet(n)).await.expect("the chain answers").to_string();
        assert_eq!(stored_total(database, n).await, expected, "wallet {n}");
    }
}

/// An answer to an HTTP request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The content type.
    pub(crate) kind: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.kind, "application/json", "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks what serves at `address` for `path`, as a probe does: a new connection each time.
#[track_caller]
pub(crate) fn get(address: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    let kind = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .map_or_else(String::new, |(_, kind)| kind.to_owned());
    Answer { status, kind, body: body.to_owned() }
}

/// Where a watch with `--listen` serves.
#[track_caller]
pub(crate) fn served_at(watching: &Watching) -> String {
    watching.until("listening", 1)["address"].as_str().expect("a text").to_owned()
}

/// Those of these wallets whose stored total is not what the chain says now, with both.
pub(crate) async fn wrong(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) -> Vec<(u64, [String; 2])> {
    // All in one go: each question to PostgreSQL is a process.
    let rows = database.sql("select wallet, balance from eth_wallet_balances").await;
    let stored: HashMap<_, _> = rows.iter().filter_map(|row| row.split_once('|')).collect();
    let mut wrong = Vec::new();
    for n in wallets {
        let expected = chain.total(wallet(n)).await.expect("the chain answers").to_string();
        let stored = stored.get(address(n).as_str()).copied().unwrap_or("no row").to_owned();
        if stored != expected {
            wrong.push((n, [stored, expected]));
        }
    }
    wrong
}

/// Waits until the stored total of each of these wallets is what the chain says, which must stay as it is.
pub(crate) async fn until_right(
    chain: &Chain,
    database: &Database,
    wallets: impl IntoIterator<Item = u64>,
) {
    let started = Instant::now();
    let mut left: Vec<u64> = wallets.into_iter().collect();
    loop {
        let wrong = wrong(chain, database, left).await;
        if wrong.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "stored and true: {wrong:?}");
        left = wrong.into_iter().map(|(n, _)| n).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
