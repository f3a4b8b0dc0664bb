//! `watch`: what it says, and to whom.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use chrono::{DateTime, TimeDelta, Utc};
use ethtally_testbed::{
    Chain,
    socket::Socket,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::{
    harness::{Database, Ethtally, Running, ethtally},
    watching::caught_up,
    world::store_unread,
};

/// A watch whose two streams are kept apart, line by line.
pub(crate) struct Talking {
    running: Running,
    stdout: Lines,
    stderr: Lines,
}

/// What comes over a stream.
pub(crate) struct Lines {
    so_far: Arc<Mutex<Vec<String>>>,
    reader: thread::JoinHandle<()>,
}

impl Lines {
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let so_far = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&so_far);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { so_far, reader }
    }

    fn so_far(&self) -> Vec<String> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them, once the stream has ended.
    pub(crate) fn all(self) -> Vec<String> {
        self.reader.join().expect("the stream is read");
        std::mem::take(&mut self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Talking {
    pub(crate) fn start(watch: Ethtally) -> Self {
        let mut running = watch.start();
        let (stdout, stderr) = running.output();
        Self { running, stdout: Lines::of(stdout), stderr: Lines::of(stderr) }
    }

    /// Waits until there are so many lines with one of these in them, on whichever stream.
    #[track_caller]
    pub(crate) fn until(&self, parts: [&str; 2], count: usize) {
        let started = Instant::now();
        loop {
            let lines = [self.stdout.so_far(), self.stderr.so_far()].concat();
            let told = |line: &&String| parts.iter().any(|part| line.contains(part));
            if lines.iter().filter(told).count() >= count {
                return;
            }
            // A minute's counts take that long.
            assert!(started.elapsed() < Duration::from_secs(120), "no {parts:?} in {lines:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it by Ctrl-C; returns all that it said on stdout and on stderr.
    #[track_caller]
    pub(crate) fn stop(self) -> (Vec<String>, Vec<String>) {
        self.running.signal("INT");
        self.running.wait().expect(130);
        (self.stdout.all(), self.stderr.all())
    }
}

/// Everything that there is to tell of happens to three watches with these arguments, the second of
/// which stands by, and the third of which comes after them; returns what each said on stdout and on stderr.
async fn eventful(arguments: &[&str]) -> [(Vec<String>, Vec<String>); 3] {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) =
        (Socket::in_front_of(&chain.ws_url()).unwrap(), Stub::in_front_of(&chain.url()).unwrap());
    let database = Database::sqlite();
    store_unread(&database, 0..10);
    let url = socket.url();
    let settings = ["watch", "--listen", "0", "--retries", "0", "--ws-url", &url];
    let prepared =
        || ethtally([&settings, arguments].concat()).node(stub.url()).database(&database);
    let transfer = async || {
        chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    };
    let first = Talking::start(prepared());
    first.until(["connected to ws", "\"websocket\""], 1);
    caught_up(&chain, &database).await;
    transfer().await;
    caught_up(&chain, &database).await;

    // A block in the time between two connections: while it stands still it makes none.
    first.running.signal("STOP");
    socket.cut();
    transfer().await;
    first.running.signal("CONT");
    first.until(["gap filled", "\"gap_filled\""], 1);

    chain.reorg(1).await.unwrap();
    first.until(["reorganisation", "\"reorg\""], 1);
    chain.mine(1).await.unwrap();
    caught_up(&chain, &database).await;

    stub.fault(Fault::status(401).with_body("no such key"), When::method("eth_getLogs").times(1));
    transfer().await;
    first.until(["no such key", "no such key"], 1);
    caught_up(&chain, &database).await;

    let second = Talking::start(prepared());
    second.until(["standing by", "\"standby\""], 1);
    let second = second.stop();

    socket.refuse(true);
    first.until(["polling ", "\"http\""], 1);
    socket.refuse(false);
    first.until(["connected to ws", "\"websocket\""], 3);
    let first = first.stop();

    // The next one finds the checkpoint.
    let third = Talking::start(prepared());
    third.until(["connected to ws", "\"websocket\""], 1);
    [in_order(first), second, third.stop()]
}

/// The checkpoint is made while the connection is: which of the two is told first is of no account.
fn in_order((stdout, stderr): (Vec<String>, Vec<String>)) -> (Vec<String>, Vec<String>) {
    let in_order = |mut lines: Vec<String>| {
        let at = |words: [&str; 2]| {
            lines.iter().position(|line| words.iter().any(|words| line.contains(words)))
        };
        let began = at(["there was no checkpoint", "\"began\""]);
        let connected = at(["connected to", "\"connected\""]);
        if let (Some(began), Some(connected)) = (began, connected)
            && connected < began
        {
            lines.swap(connected, began);
        }
        lines
    };
    (in_order(stdout), in_order(stderr))
}

/// A line without what differs from run to run: ports and times.
fn masked(line: &str) -> String {
    let mut masked = line.to_owned();
    for (before, after, mask) in
        [("127.0.0.1:", "", "PORT"), ("next try in ", " s", "N"), (" in ", " ms", "N")]
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

#[tokio::test(flavor = "multi_thread")]
async fn people_read_notes_on_stderr_and_the_end_on_stdout() {
    let [first, second, third] = eventful(&[]).await;
    let told = |lines: &[String]| lines.iter().map(|line| masked(line)).collect::<Vec<_>>();
    assert_eq!(
        told(&first.1),
        [
            "note: health and metrics at http://127.0.0.1:PORT",
            "note: following the chain",
            "note: there was no checkpoint; it is at block 0 now",
            "note: connected to ws://127.0.0.1:PORT",
            "note: not connected: the connection broke; next try in N s",
            "note: connected to ws://127.0.0.1:PORT",
            "note: gap filled: blocks 2 to 2 logs:1 updated:2 in N ms",
            "note: reorganisation: blocks 2 to 2 went; wallets to read again: 2",
            "note: failed: http://127.0.0.1:PORT: HTTP 401 Unauthorized: no such key; check the URL and its key; \
             next try in N s",
            "note: not connected: the connection broke; next try in N s",
            "note: not connected: no WebSocket at ws://127.0.0.1:PORT: HTTP error: 503 Service Unavailable; \
             next try in N s",
            "note: polling http://127.0.0.1:PORT; the WebSocket is tried again meanwhile",
            "note: connected to ws://127.0.0.1:PORT",
        ]
    );
    // Two wallets of each transfer, and those of the block that went once more; for the last time a few
    // blocks later.
    let end = "watch interrupted blocks:5 logs:3 updated:8 failed:0 superseded:0 calls:4 reorgs:1 errors:4 \
               checkpoint:4";
    assert_eq!(first.0, [end]);

    let nothing = "blocks:0 logs:0 updated:0 failed:0 superseded:0 calls:0 reorgs:0 errors:0";
    assert_eq!(
        told(&second.1),
        [
            "note: health and metrics at http://127.0.0.1:PORT",
            "note: another watch of this database is running; standing by to take over",
        ]
    );
    assert_eq!(second.0, [format!("watch interrupted {nothing} checkpoint:none")]);
    assert_eq!(
        told(&third.1),
        [
            "note: health and metrics at http://127.0.0.1:PORT",
            "note: following the chain from the checkpoint at block 4",
            "note: connected to ws://127.0.0.1:PORT",
        ]
    );
    assert_eq!(third.0, [format!("watch interrupted {nothing} checkpoint:4")]);
}

/// The lines as JSON, each with what all have, which is taken out, and without ports and times.
#[track_caller]
pub(crate) fn objects(lines: &[String]) -> Vec<Value> {
    let mut before = None;
    let object = |line: &String| {
        let mut object: Value = serde_json::from_str(&masked(line)).expect("JSON");
        let fields = object.as_object_mut().expect("an object");
        assert_eq!(fields.remove("command"), Some(json!("watch")), "{line}");
        let time = fields.remove("time").expect("a time");
        let time: DateTime<Utc> = time.as_str().expect("a text").parse().expect("RFC 3339");
        assert!((Utc::now() - time).abs() < TimeDelta::minutes(10), "{time}");
        // In order, but for the two that `in_order` may have put so.
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

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_one_object_a_line_on_stdout() {
    let [first, second, third] = eventful(&["--json"]).await;
    let disconnected =
        |reason: &str| json!({"event": "disconnected", "reason": reason, "retry_in_ms": "N"});
    let connected = |via: &str, endpoint: &str| {
        let endpoint = format!("{endpoint}://127.0.0.1:PORT");
        json!({"event": "connected", "via": via, "endpoint": endpoint})
    };
    let websocket = connected("websocket", "ws");
    let listening = json!({"event": "listening", "address": "127.0.0.1:PORT"});
    assert_eq!(
        objects(&first.0),
        [
            listening.clone(),
            json!({"event": "active", "checkpoint_block": null}),
            json!({"event": "began", "checkpoint_block": 0}),
            websocket.clone(),
            disconnected("the connection broke"),
            websocket.clone(),
            json!({"event": "gap_filled", "from_block": 2, "to_block": 2, "logs": 1, "updated": 2, "elapsed_ms": "N"}),
            json!({"event": "reorg", "from_block": 2, "to_block": 2, "wallets": 2}),
            json!({
                "event": "error",
                "error": "http://127.0.0.1:PORT: HTTP 401 Unauthorized: no such key; check the URL and its key",
                "retry_in_ms": "N",
            }),
            disconnected("the connection broke"),
            disconnected(
                "no WebSocket at ws://127.0.0.1:PORT: HTTP error: 503 Service Unavailable"
            ),
            connected("http", "http"),
            websocket.clone(),
            json!({
                "event": "stopped", "blocks": 5, "logs": 3, "updated": 8, "failed": 0, "superseded": 0,
                "calls": 4, "reorgs": 1, "errors": 4, "checkpoint_block": 4, "interrupted": true,
            }),
        ]
    );
    let stopped = |checkpoint: Option<u64>| {
        json!({
            "event": "stopped", "blocks": 0, "logs": 0, "updated": 0, "failed": 0, "superseded": 0,
            "calls": 0, "reorgs": 0, "errors": 0, "checkpoint_block": checkpoint, "interrupted": true,
        })
    };
    let standby = json!({"event": "standby"});
    assert_eq!(objects(&second.0), [listening.clone(), standby, stopped(None)]);
    let active = json!({"event": "active", "checkpoint_block": 4});
    assert_eq!(objects(&third.0), [listening, active, websocket, stopped(Some(4))]);
    for watch in [first, second, third] {
        assert_eq!(watch.1, [""; 0]);
    }
}

/// The counts of a minute take a minute to come, so two watches wait for theirs at once.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_told_once_a_minute() {
    let chain = Chain::builder().start().await.unwrap();
    let databases = [Database::sqlite(), Database::sqlite()];
    // The chain stands still all the while, and that is no reason to connect anew here.
    let still = ["watch", "--max-lag", "600"];
    let watches = [still.to_vec(), [&still[..], &["--json"]].concat()];
    let mut talking = Vec::new();
    for (database, arguments) in databases.iter().zip(watches) {
        store_unread(database, 0..10);
        talking.push(Talking::start(ethtally(arguments).node(chain.url()).database(database)));
    }
    for (talking, database) in talking.iter().zip(&databases) {
        talking.until(["connected to ws", "\"websocket\""], 1);
        caught_up(&chain, database).await;
    }
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    for talking in &talking {
        talking.until(["in the last minute", "\"counts\""], 1);
    }
    let [text, json] = <[Talking; 2]>::try_from(talking).ok().expect("two").map(Talking::stop);
    let counts = text.1.last().expect("a line");
    let done = "blocks:1 logs:1 updated:2 failed:0 superseded:0 calls:1 reorgs:0 errors:0";
    assert_eq!(*counts, format!("note: in the last minute {done} head:1 checkpoint:1"));
    assert_eq!(text.0.len(), 1, "{text:?}");
    let counts = objects(&json.0).into_iter().rev().nth(1).expect("a line");
    assert_eq!(
        counts,
        json!({
            "event": "counts", "blocks": 1, "logs": 1, "updated": 2, "failed": 0, "superseded": 0, "calls": 1,
            "reorgs": 0, "errors": 0, "head_block": 1, "checkpoint_block": 1,
        })
    );
}
