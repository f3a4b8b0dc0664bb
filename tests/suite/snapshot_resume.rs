//! A snapshot that was stopped is continued, and ends as one that never was.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use ethtally_testbed::stub::{Fault, Stub, When};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{
    chains::{still_chain, wide_chain, wide_stub},
    database::{Database, on_both_databases},
    program::eventually,
    snapshots::{beside, file_of, genesis_rows, manifest, snapshot},
    table::{store_unread, unread_table},
    wallets::{address_lines, random_seed},
};

on_both_databases! {
    killed_from_its_first_moment_on_it_ends_with_the_wallets_of_the_table
}

const SLOW: Fault = Fault::Delay(Duration::from_millis(40));
const OPTIONS: [&str; 5] = ["--chunk=250", "--concurrency=3", "--from-csv=-", "--resume", "--root"];

async fn slow_stub() -> Stub {
    let stub = wide_stub().await;
    stub.fault(SLOW, When::eth_call());
    stub
}

/// Takes the snapshot without any interruption.
async fn undisturbed(file: &Path) -> (Vec<u8>, serde_json::Value) {
    let url = wide_chain().await.url();
    let csv = address_lines(0..20_000);
    snapshot(&url, "0", file, &["--from-csv=-", "--root"]).input(csv).run().expect(0);
    (fs::read(file).unwrap(), manifest(file))
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "part of the failure message")]
async fn killed_at_any_time_it_is_continued_and_has_the_same_bytes() {
    let seed = random_seed();
    eprintln!("to reproduce: SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let database = Database::sqlite();
    for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
        let expected = undisturbed(&file_of(&database, &format!("all-{name}"))).await;
        let file = file_of(&database, name);
        let stub = slow_stub().await;
        let mut continued = 0;
        for kills in 0.. {
            let running =
                snapshot(&stub.url(), "0", &file, &OPTIONS).input(address_lines(0..20_000)).start();
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..2_500))).await;
            if kills < 6 {
                running.signal("KILL");
            }
            let ran = running.wait();
            continued += usize::from(ran.stderr.contains("continuing at block 0"));
            if ran.status == 0 {
                break;
            }
            assert_eq!(ran.status, -9, "{ran:?}");
        }
        assert!(continued > 0, "{name}");
        assert!(fs::read(&file).unwrap() == expected.0, "{name}");
        assert_eq!(manifest(&file), expected.1, "{name}");
        assert!(!beside(&file, ".partial.json").exists());
    }
}

#[expect(clippy::print_stderr, reason = "part of the failure message")]
async fn killed_from_its_first_moment_on_it_ends_with_the_wallets_of_the_table(database: Database) {
    let seed = random_seed();
    eprintln!("to reproduce: SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    store_unread(&database, 0..20_000);
    let url = wide_chain().await.url();
    let file = file_of(&database, "a.csv");
    let run = || snapshot(&url, "0", &file, &["--resume"]).database(&database);
    for _ in 0..12 {
        let running = run().start();
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..700))).await;
        running.signal("KILL");
        running.wait();
    }
    run().run().expect(0);
    assert!(fs::read_to_string(&file).unwrap() == genesis_rows(0..20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_wallets_are_listed_it_is_as_if_it_had_not_run() {
    let stub = slow_stub().await;
    let database = Database::postgres();
    store_unread(&database, 0..2_000);
    let file = file_of(&database, "a.csv");
    let run = |options: &[&str]| {
        let options = [&["--chunk=50", "--concurrency=1"], options].concat();
        snapshot(&stub.url(), "0", &file, &options).database(&database)
    };
    let kill_while_listing = async || {
        let mut other = PgConnection::connect(&database.url).await.unwrap();
        let lock = "begin; lock table eth_wallet_balances in access exclusive mode";
        other.execute(lock).await.unwrap();
        let running = run(&[]).start();
        let listing = "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%order by wallet limit%'";
        while database.value(listing).await == "0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.signal("KILL");
        assert_eq!(running.wait().status, -9);
    };
    kill_while_listing().await;
    assert!(!beside(&file, ".partial.json").exists());

    // What an earlier run left can still be continued.
    let running = run(&["--resume"]).start();
    eventually("reading", || stub.eth_calls().len() > 10);
    running.signal("INT");
    let ran = running.wait().expect(130);
    assert!(ran.stderr.contains("there is no unfinished snapshot"), "{ran:?}");
    kill_while_listing().await;
    let ran = run(&["--resume"]).run().expect(0);
    assert!(ran.stderr.contains("continuing at block 0"), "{ran:?}");
    assert!(fs::read_to_string(&file).unwrap() == genesis_rows(0..2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_keeps_what_was_read_and_goes_on_with_the_wallets_that_it_began_with() {
    let stub = wide_stub().await;
    stub.fault(SLOW, When::eth_call());
    let database = unread_table(2_000);
    let file = file_of(&database, "a.csv");
    let options = ["--chunk=50", "--concurrency=1"];
    let running = snapshot(&stub.url(), "0", &file, &options).database(&database).start();
    eventually("reading", || stub.eth_calls().len() > 10);
    running.signal("INT");
    let ran = running.wait().expect(130);
    assert!(ran.stderr.contains("run it again with --resume to continue"), "{ran:?}");
    let rows = ran.json()["rows"].as_u64().unwrap();
    assert!(rows >= 400 && ran.json()["sha256"].is_null(), "{ran:?}");
    assert_eq!(ran.conclusion()["outcome"], "interrupted");
    assert!(!file.exists());

    // A wallet that came meanwhile is not part of it.
    store_unread(&database, 2_000..2_100);
    stub.clear();
    stub.forget();
    let other = snapshot(&stub.url(), "1", &file, &["--resume"]).database(&database).run();
    assert!(other.expect(2).error().contains("is of block 0; give --block 0"));
    let profile = fs::read_to_string("src/profile/audius.toml").unwrap();
    let profile_path = file_of(&database, "other.toml");
    fs::write(&profile_path, profile.replace("totalStakedFor(", "staked(")).unwrap();
    let profile = format!("--profile={}", profile_path.display());
    let other =
        snapshot(&stub.url(), "0", &file, &["--resume", &profile]).database(&database).run();
    assert!(other.expect(2).error().contains("give the --profile that it was taken with"));
    let ran = snapshot(&stub.url(), "finalized", &file, &["--resume", "--chunk=100"]);
    let ran = ran.database(&database).run().expect(0);
    assert_eq!(ran.json()["rows"], 2_000);
    let calls = stub.eth_calls().len() as u64;
    assert!(calls <= 2 + (2_000 - rows).div_ceil(100), "{calls}");
    assert!(fs::read_to_string(&file).unwrap() == genesis_rows(0..2_000));

    let again =
        snapshot(&stub.url(), "0", &file, &["--resume"]).database(&database).run().expect(0);
    assert!(again.stderr.contains("there is no unfinished snapshot"), "{again:?}");
    assert_eq!(again.json()["rows"], 2_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_write_to_one_file() {
    let stub = wide_stub().await;
    stub.fault(SLOW, When::eth_call());
    let database = unread_table(1_000);
    let file = file_of(&database, "a.csv");
    let options = ["--chunk=20", "--concurrency=1"];
    let running = snapshot(&stub.url(), "0", &file, &options).database(&database).start();
    eventually("begun", || beside(&file, ".partial.json").exists());
    for options in [&[][..], &["--resume"]] {
        let ran = snapshot(&stub.url(), "0", &file, options).database(&database).run().expect(2);
        assert!(ran.error().contains("another run is writing to it"), "{ran:?}");
    }
    running.wait().expect(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), genesis_rows(0..1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_one_line_and_the_file_can_be_continued() {
    let url = wide_chain().await.url();
    let database = Database::sqlite();
    for name in ["a.csv", "a.csv.gz"] {
        let expected = undisturbed(&file_of(&database, &format!("all-{name}"))).await;
        let file = file_of(&database, name);
        // A limit on the size of files stands for the full disk: there is room for the list of wallets.
        let limited = "trap '' XFSZ; ulimit -f 860; exec \"$0\" \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", limited, env!("CARGO_BIN_EXE_ethtally")])
            .args(["snapshot", "--block=0", "--from-csv=-", "--root", "--out"])
            .arg(&file)
            .envs([("ETH_RPC_URL", url.as_str()), ("ETHTALLY_MAX_HEAD_AGE", "off")])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(address_lines(0..20_000).as_bytes());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        let partial = beside(&file, ".partial");
        let start = format!("error: {}: cannot be written; free space there", partial.display());
        assert!(error.lines().any(|line| line.starts_with(&start)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");

        snapshot(&url, "0", &file, &["--resume", "--root"]).run().expect(0);
        assert!(fs::read(&file).unwrap() == expected.0, "{name}");
        assert_eq!(manifest(&file), expected.1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_file_that_was_tampered_with_is_refused() {
    let url = still_chain().await.url();
    let database = unread_table(10);
    let file = file_of(&database, "a.csv");
    let state = json!({"block": 0});
    fs::write(beside(&file, ".partial.json"), state.to_string()).unwrap();
    let ran = snapshot(&url, "0", &file, &["--resume"]).database(&database).run().expect(2);
    assert!(ran.error().contains("run without --resume to start again"), "{ran:?}");
    snapshot(&url, "0", &file, &[]).database(&database).run().expect(0);
}
