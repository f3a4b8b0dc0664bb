//! `watch`: which of its two streams holds what, and that it goes on where nobody reads them.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};

use crate::{
    harness::{Database, ethtally},
    watch_words::{Lines, Talking, objects},
    watching::{caught_up, checkpoint},
    world::store_unread,
};

#[tokio::test(flavor = "multi_thread")]
async fn quiet_silences_notes_and_json_keeps_them_beside_it() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let quiet = ["watch", "-q", "--listen", "0"];
    let talking = Talking::start(ethtally(quiet).node(chain.url()).database(&database));
    caught_up(&chain, &database).await;
    let (stdout, stderr) = talking.stop();
    assert_eq!((stdout.len(), stderr), (1, vec![]), "{stdout:?}");
    assert!(stdout[0].starts_with("watch interrupted blocks:0 "), "{stdout:?}");
    // What is noted and logged goes beside the JSON, never into it.
    let noted =
        "note: --from-block is for a table without a checkpoint; this one goes on at block 1";
    let logged = format!("INFO {}: chain 1, every contract has code", chain.url());
    for (more, told) in [(["--from-block", "7"], noted), (["-v", "-v"], &logged)] {
        let arguments = ["watch", "--json"].into_iter().chain(more);
        let talking = Talking::start(ethtally(arguments).node(chain.url()).database(&database));
        talking.until(["\"websocket\"", "\"websocket\""], 1);
        let (stdout, stderr) = talking.stop();
        assert!(objects(&stdout).len() >= 3, "{stdout:?}");
        assert!(stderr.iter().any(|line| line.trim_start() == told), "{stderr:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_does_not_end_it() {
    let chain = Chain::builder().start().await.unwrap();
    for arguments in [&["watch", "--json"][..], &["watch"]] {
        let database = Database::sqlite();
        store_unread(&database, 0..10);
        let mut running =
            ethtally(arguments.iter().copied()).node(chain.url()).database(&database).start();
        let (stdout, stderr) = running.output();
        let stderr = Lines::of(stderr);
        if arguments.len() > 1 {
            // As `head -1` does.
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            assert_eq!(objects(&[line.trim_end().to_owned()])[0]["event"], "active");
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
async fn a_full_disk_does_not_end_it() {
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
    assert!(watch.try_wait().unwrap().is_none(), "it goes on");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let stderr = stderr.all();
    let says = " WARN the result could not be written to stdout: No space left on device";
    assert!(
        stderr.iter().all(|line| line.trim_start().starts_with(says.trim_start())),
        "{stderr:?}"
    );
}
