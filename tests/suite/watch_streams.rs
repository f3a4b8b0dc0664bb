//! `watch`: what it writes to stdout and stderr, and that it continues if these are closed or full.

use std::{
    fs,
    io::{BufRead, BufReader, PipeReader, pipe},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};

use crate::support::{
    chains::{stub_of, transfer},
    database::Database,
    program::{ethtally, eventually, unstamped},
    table::store_unread,
    watch::{Lines, TextWatch, caught_up, checkpoint, get, masked_objects, until_matches_chain},
};

/// A `watch --json -vv` whose stdout and stderr are one pipe, as in a container, that nobody reads.
struct Unread {
    child: Child,
    reader: PipeReader,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Unread {
    /// Starts it and keeps it busy until the pipe and the queue are full; it must follow the chain all the same.
    async fn until_full(chain: &Chain, database: &Database) -> Self {
        store_unread(database, 0..10);
        let stub = stub_of(chain);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (reader, writer) = pipe().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ethtally"))
            .args(["watch", "--json", "-vv", "--listen", &address, "--rpc-url", &stub.url()])
            .args(["--ws-url", &chain.ws_url(), "--database-url", &database.url])
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let unread = Self { child, reader };
        caught_up(chain, database).await;
        // A log line each; a pipe holds less than a thousand of them, the queue 1,024.
        let requests =
            || ["eth_call", "eth_getLogs", "eth_getBlockByNumber"].map(|name| stub.count(name));
        let mut from = 0;
        while requests().iter().sum::<usize>() < 3_000 {
            transfer(chain, from, from + 1, U256::ONE).await;
            from = (from + 1) % 9;
            caught_up(chain, database).await;
        }
        chain.reorg(1).await.unwrap();
        chain.mine(1).await.unwrap();
        caught_up(chain, database).await;
        until_matches_chain(chain, database, 0..10).await;
        let health = get(&address, "/healthz");
        assert_eq!(health.status, 200, "{health:?}");
        unread
    }

    /// Sends SIGTERM, which must end it in time.
    fn terminate(&mut self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let signalled = Instant::now();
        eventually("it ends", || self.child.try_wait().unwrap().is_some());
        assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
        assert_eq!(self.child.wait().unwrap().code(), Some(143));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_stops_neither_watch_nor_its_end() {
    let chain = Chain::builder().start().await.unwrap();
    let mut unread = Unread::until_full(&chain, &Database::sqlite()).await;
    unread.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_resumes_learns_how_many_lines_were_dropped() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    let mut unread = Unread::until_full(&chain, &database).await;
    let lines = Lines::of(unread.reader.try_clone().unwrap());
    let dropped = |line: &String| line.contains("dropped because nobody was reading");
    eventually("the number of dropped lines", || lines.so_far().iter().any(dropped));
    unread.terminate();
    let lines = lines.all();
    let at = lines.iter().position(|line| line.contains("\"lines_dropped\"")).expect("an event");
    let event = &masked_objects(&lines[at..=at])[0];
    // What is told of the reorganisation is what was to go to stdout.
    assert!(event["count"].as_u64() > Some(0), "{event}");
    assert!(!lines.iter().any(|line| line.contains("\"reorg\"")), "{lines:#?}");
    let note = lines.iter().find(|line| dropped(line)).expect("a note");
    let note = unstamped(note);
    let count =
        note.strip_prefix("warning: ").and_then(|rest| rest.split_once(" lines were dropped"));
    assert!(count.expect("a count").0.parse::<u64>().unwrap() > 100, "{note}");
    assert!(lines.last().unwrap().contains("\"stopped\""), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hides_notes_and_json_keeps_them_on_stderr() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let quiet = ["watch", "-q", "--listen", "0"];
    let talking = TextWatch::start(ethtally(quiet).node(chain.url()).database(&database));
    caught_up(&chain, &database).await;
    let (stdout, stderr) = talking.stop();
    assert_eq!((stdout.len(), stderr), (1, vec![]), "{stdout:?}");
    assert!(stdout[0].starts_with("watch interrupted blocks:0 "), "{stdout:?}");
    // Notes and logs are on stderr, never in the JSON.
    let noted = "note: --from-block is ignored: the table has a checkpoint; continuing at block 1";
    let logged = format!("note: {}: chain 1, every contract has code", chain.url());
    for (more, expected) in [(["--from-block", "7"], noted), (["-v", "-v"], &logged)] {
        let arguments = ["watch", "--json"].into_iter().chain(more);
        let talking = TextWatch::start(ethtally(arguments).node(chain.url()).database(&database));
        talking.until(["\"websocket\"", "\"websocket\""], 1);
        let (stdout, stderr) = talking.stop();
        assert!(masked_objects(&stdout).len() >= 3, "{stdout:?}");
        assert!(stderr.iter().any(|line| unstamped(line) == expected), "{stderr:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_does_not_end_watch() {
    let chain = Chain::builder().start().await.unwrap();
    for arguments in [&["watch", "--json"][..], &["watch"]] {
        let database = Database::sqlite();
        store_unread(&database, 0..10);
        let mut running =
            ethtally(arguments.iter().copied()).node(chain.url()).database(&database).start();
        let (stdout, stderr) = running.output();
        let stderr = Lines::of(stderr);
        if arguments.len() > 1 {
            // Like `head -1`.
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            assert_eq!(masked_objects(&[line.trim_end().to_owned()])[0]["event"], "active");
        } else {
            drop(stdout);
        }
        caught_up(&chain, &database).await;
        chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
        let head = caught_up(&chain, &database).await;
        assert_eq!(checkpoint(&database).await, Some(head));
        running.signal("TERM");
        running.wait().expect(143);
        let stderr = stderr.all();
        assert!(stderr.iter().all(|line| unstamped(line).starts_with("note: ")), "{stderr:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_end_watch() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..10);
    let full = fs::File::create("/dev/full").unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_ethtally"))
        .args(["watch", "--json", "--listen", "0", "--rpc-url", &chain.url()])
        .args(["--database-url", &database.url])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = Lines::of(watch.stderr.take().unwrap());
    caught_up(&chain, &database).await;
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    caught_up(&chain, &database).await;
    assert!(watch.try_wait().unwrap().is_none(), "it continues");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let stderr = stderr.all();
    assert_eq!(stderr.len(), 1, "{stderr:?}");
    let says = "warning: cannot write to stdout: No space left on device (os error 28); lines are lost until there is \
                room again";
    assert_eq!(unstamped(&stderr[0]), says);
}
