//! `watch`: what it writes to stdout and stderr, and that it continues if these are closed or full.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};

use crate::support::{
    database::Database,
    program::ethtally,
    table::store_unread,
    watch::{Lines, TextWatch, caught_up, checkpoint, masked_objects},
};

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
    let noted =
        "note: --from-block is for a table without a checkpoint; this one goes on at block 1";
    let logged = format!("INFO {}: chain 1, every contract has code", chain.url());
    for (more, expected) in [(["--from-block", "7"], noted), (["-v", "-v"], &logged)] {
        let arguments = ["watch", "--json"].into_iter().chain(more);
        let talking = TextWatch::start(ethtally(arguments).node(chain.url()).database(&database));
        talking.until(["\"websocket\"", "\"websocket\""], 1);
        let (stdout, stderr) = talking.stop();
        assert!(masked_objects(&stdout).len() >= 3, "{stdout:?}");
        assert!(stderr.iter().any(|line| line.trim_start() == expected), "{stderr:?}");
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
        assert!(stderr.iter().all(|line| line.starts_with("note: ")), "{stderr:?}");
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
    let says = " WARN the result could not be written to stdout: No space left on device";
    assert!(
        stderr.iter().all(|line| line.trim_start().starts_with(says.trim_start())),
        "{stderr:?}"
    );
}
