//! From the crontab's lines to the alerts: files of metrics, a real node_exporter, and a real Prometheus with the rules
//! of `cron/prometheus`.

use std::{collections::BTreeSet, fs};

use crate::support::{
    broken::Broken,
    cron::Machine,
    kubernetes::root,
    prometheus::{NodeExporter, Prometheus},
};

const CHECK: &str = "EthtallyCheckFailing";
const EMPTY: &str = "EthtallyTableEmpty";
const FAILING: &str = "EthtallySweepFailing";
const SKIPPED: &str = "EthtallySweepSkipped";
const STALE: &str = "EthtallyTableStale";

/// A machine on which sweeps stay as they are for a day, and the alerts that must fire.
struct Case {
    name: &'static str,
    machine: Machine,
    alerts: &'static [&'static str],
}

/// The rules for machines without `watch`: without the alert that their head says to leave out.
fn rules() -> String {
    let rules = fs::read_to_string(root().join("cron/prometheus/rules.yaml")).unwrap();
    let (before, rest) = rules.split_once("      # Also if no `watch`").expect("the alert");
    let (alert, after) = rest.split_once("\n\n").expect("its end");
    assert!(alert.contains("- alert: EthtallyNobodyActive\n"), "{alert}");
    format!("{before}{after}")
}

/// The alerts that fire in a Prometheus of this machine's metrics.
fn alerts(machine: &Machine, rules: &str) -> BTreeSet<String> {
    let exporter = NodeExporter::of_files(machine.home.path());
    Prometheus::alerting("node", &exporter.address, rules).alerts()
}

/// Makes the runs on record as old as the rows of `Broken::stale`.
async fn age_runs(broken: &Broken) {
    let aged = "update eth_wallet_runs set started_at = datetime(started_at, '-13 hours'), \
                ended_at = datetime(ended_at, '-13 hours') where outcome <> 'running'";
    broken.database.sql(aged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_sweeps_are_alerted_by_their_metrics() {
    let healthy = Broken::not().await;
    let [skipped, skipped_quietly] = [Broken::skipped().await, Broken::skipped().await];
    for broken in [&skipped, &skipped_quietly] {
        age_runs(broken).await;
    }
    let empty = Broken::empty().await;
    let cut_short = Broken::cut_short().await;
    let partly = Broken::partly_failing().await;
    let node = |broken: &Broken| format!("ETH_RPC_URL={}\n", broken.node);
    let database = |broken: &Broken| format!("DATABASE_URL={}\n", broken.database.url);
    let both = |broken: &Broken| Machine::with(&(node(broken) + &database(broken)));
    let slowly = "ETHTALLY_CHUNK=1\nETHTALLY_CONCURRENCY=1\n";
    let slowly = Machine::with(&(node(&cut_short) + &database(&cut_short) + slowly));
    let case = |name, machine, alerts| Case { name, machine, alerts };
    let cases = [
        case("healthy", both(&healthy), &[][..]),
        case("skipped", both(&skipped), &[CHECK, FAILING, SKIPPED, STALE]),
        case(
            "skipped, and content with it",
            both(&skipped_quietly).edit(" --fail-if-locked", ""),
            &[CHECK, SKIPPED, STALE],
        ),
        case("empty", both(&empty), &[CHECK, EMPTY]),
        // Neither reaches the record of runs, so no earlier success is known.
        case("no node", Machine::with(&database(&healthy)), &[CHECK, FAILING, SKIPPED]),
        case("no database", Machine::with(&node(&healthy)), &[CHECK, FAILING, SKIPPED]),
        case("cut short", slowly.edit("--max-duration 50s", "--max-duration 3s"), &[CHECK, STALE]),
        case("partly failing", both(&partly), &[CHECK, STALE]),
        case("not started", Machine::with(""), &[SKIPPED]),
    ];
    let rules = rules();
    std::thread::scope(|scope| {
        let seen = cases.each_ref().map(|case| {
            scope.spawn(|| {
                if case.name != "not started" {
                    case.machine.run_each_line();
                }
                alerts(&case.machine, &rules)
            })
        });
        for (case, seen) in cases.iter().zip(seen) {
            let expected = case.alerts.iter().map(|alert| (*alert).to_owned()).collect();
            let seen = seen.join().expect("no panic");
            assert_eq!(seen, expected, "{}: {}", case.name, case.machine.results());
        }
    });
}
