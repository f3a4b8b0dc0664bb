//! `--metrics-file`: how a run ended, for node_exporter's textfile collector.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use chrono::Utc;
use ethtally_testbed::stub::{Fault, Stub, When};

use crate::support::{
    chains::{chain_and_stub, still_chain},
    database::{Database, on_both_databases},
    metrics::Metrics,
    program::{Ethtally, ethtally},
    prometheus::assert_promtool_is_content,
    table::{store_unread, unread_table},
    wallets::address,
};

on_both_databases! { a_run_leaves_its_result }

/// What a file says; promtool has nothing to say about it.
#[track_caller]
fn parsed(path: &Path) -> Metrics {
    let text = fs::read_to_string(path).expect("the file");
    assert_promtool_is_content(&text);
    Metrics::parse(&text)
}

fn series(name: &str, labels: &str) -> String {
    format!("ethtally_{name}{{{labels}}}")
}

/// When a command last ended like this.
fn ended(metrics: &Metrics, command: &str, outcome: &str) -> Option<f64> {
    let labels = format!("command=\"{command}\",outcome=\"{outcome}\"");
    metrics.get(&series("last_run_timestamp_seconds", &labels))
}

#[track_caller]
fn assert_is_now(time: Option<f64>) {
    let age = Utc::now().timestamp() as f64 - time.expect("a time");
    assert!((0.0..60.0).contains(&age), "{age}");
}

async fn a_run_leaves_its_result(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sweep.prom");
    let node = still_chain().await.url();
    store_unread(&database, 0..10);
    let sweep = |options: &[&str]| {
        ethtally([&["sweep", "--retries", "0"], options].concat())
            .database(&database)
            .env("ETHTALLY_METRICS_FILE", path.to_str().unwrap())
    };
    sweep(&["--batch", "4"]).node(&node).run().expect(0);
    let first = parsed(&path);
    assert_is_now(ended(&first, "sweep", "complete"));
    assert_eq!(ended(&first, "sweep", "failed"), None);
    assert_eq!(first.value(&series("last_run_exit_status", "command=\"sweep\"")), 0.0);
    for (result, count) in [("requested", 4.0), ("updated", 4.0), ("failed", 0.0)] {
        let labels = format!("command=\"sweep\",result=\"{result}\"");
        assert_eq!(first.value(&series("last_run_wallets", &labels)), count);
    }
    assert!(first.value(&series("last_run_duration_seconds", "command=\"sweep\"")) > 0.0);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert!(mode & 0o004 != 0, "the collector may read it: {mode:o}");
    // A failure does not make the success before it newer, and has a file too.
    for (run, status) in [
        (sweep(&[]).node(Stub::dead()), 3),
        (sweep(&["--profile", "/no/such.toml"]).node(&node), 2),
        (sweep(&[]).node(&node).env("DATABASE_URL", "postgres://127.0.0.1:1/x"), 4),
    ] {
        run.run().expect(status);
        let metrics = parsed(&path);
        assert_is_now(ended(&metrics, "sweep", "failed"));
        assert_eq!(ended(&metrics, "sweep", "complete"), ended(&first, "sweep", "complete"));
        let exit = metrics.value(&series("last_run_exit_status", "command=\"sweep\""));
        assert_eq!(exit, f64::from(status));
    }
    // What the record knows needs no file before it.
    fs::remove_file(&path).unwrap();
    sweep(&["--batch", "2"]).node(&node).run().expect(0);
    assert_is_now(ended(&parsed(&path), "sweep", "failed"));
    // A dry run is not a sweep.
    fs::remove_file(&path).unwrap();
    sweep(&["--dry-run"]).node(&node).run().expect(0);
    assert!(!path.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_two_commands_never_hold_the_same_series() {
    let folder = tempfile::tempdir().unwrap();
    let database = unread_table(3);
    let node = still_chain().await.url();
    let wallet = address(0);
    let mut all = Vec::new();
    for arguments in [
        &["migrate"][..],
        &["refresh", &wallet],
        &["sweep"],
        &["verify", "--sample", "2"],
        &["verify", &wallet],
        &["status", "--max-age", "1d"],
        &["doctor"],
    ] {
        let name = format!("{}.prom", arguments.join("-").replace(['/', ' '], ""));
        let path = folder.path().join(name);
        let file = ["--metrics-file", path.to_str().unwrap()];
        ethtally([arguments, &file].concat()).node(&node).database(&database).run();
        let text = fs::read_to_string(&path).expect("a file");
        if arguments != ["verify", &wallet] {
            let of_file = text.lines().filter(|line| !line.starts_with('#'));
            all.extend(of_file.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()));
        }
        parsed(&path);
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "{all:#?}");
    for name in [
        "ethtally_rows",
        "ethtally_rows_never_read",
        "ethtally_unreadable_wallets",
        "ethtally_stale_rows",
        "ethtally_oldest_row_timestamp_seconds",
        "ethtally_verify_drifted_wallets{kind=\"moved\"}",
        "ethtally_verify_drifted_wallets{kind=\"wrong\"}",
        "ethtally_last_run_wallets{command=\"verify\",result=\"sampled\"}",
    ] {
        assert!(all.contains(&name.to_owned()), "{name} in {all:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_leaves_its_result_too() {
    let (_chain, stub) = chain_and_stub().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sweep.prom");
    let database = unread_table(3);
    stub.fault(Fault::Hang, When::eth_call());
    let running = ethtally(["sweep", "--metrics-file", path.to_str().unwrap()])
        .node(stub.url())
        .database(&database)
        .start();
    crate::support::program::eventually("it reads", || stub.count("eth_call") > 0);
    running.signal("TERM");
    running.wait().expect(143);
    let metrics = parsed(&path);
    assert_is_now(ended(&metrics, "sweep", "interrupted"));
    assert_eq!(metrics.value(&series("last_run_exit_status", "command=\"sweep\"")), 143.0);
}

#[test]
fn a_file_that_cannot_be_written_is_said_and_changes_nothing() {
    let database = unread_table(1);
    let status = |path: &str, options: &[&str]| -> Ethtally {
        ethtally([&["status", "--metrics-file", path], options].concat()).database(&database)
    };
    for options in [&[][..], &["-q"]] {
        let ran = status("/no/such/folder/x.prom", options).run().expect(0);
        let says = "error: --metrics-file /no/such/folder/x.prom: cannot be written: ";
        assert!(ran.error().starts_with(says), "{ran:?}");
    }
    // A watch has its own way, so that one environment serves all.
    let ran = ethtally(["profile"]).env("ETHTALLY_METRICS_FILE", "/no/such/folder/x.prom");
    assert_eq!(ran.run().expect(0).stderr, "");
}
