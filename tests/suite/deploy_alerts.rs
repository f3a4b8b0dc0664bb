//! `cron/prometheus` and `cron/grafana`: the alerts fire when they should, and name metrics that exist.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;

use crate::support::{
    broken::Broken,
    kubernetes::{Secrets, container, job, resources, root, succeeds},
    metrics::Metrics,
    program::ethtally,
    watch::{served_at, start, watch},
};

/// Metrics of kube-state-metrics and of Prometheus itself.
const FOREIGN: [&str; 4] = [
    "kube_cronjob_created",
    "kube_cronjob_status_last_successful_time",
    "kube_job_status_failed",
    "up",
];

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(root().join("cron/prometheus"));
    command
}

#[test]
fn rules_pass_their_unit_tests() {
    succeeds(&mut promtool(&["check", "rules", "rules.yaml"]));
    succeeds(&mut promtool(&["test", "rules", "rules_test.yaml"]));
    let rules = fs::read_to_string(root().join("cron/prometheus/rules.yaml")).unwrap();
    let tests = fs::read_to_string(root().join("cron/prometheus/rules_test.yaml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let tested = |line: &&str| line.trim() == format!("alertname: {alert}");
        assert!(tests.lines().filter(tested).count() > 1, "{alert} is not tested");
    }
}

/// The metrics of ethtally that an expression names, without the suffixes of a histogram.
fn names(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression
        .split(|c| !is_name(c))
        .filter(|word| {
            ["ethtally_", "process_", "kube_"].iter().any(|start| word.starts_with(start))
                || *word == "up"
        })
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

fn expressions_of_rules() -> String {
    let rules = fs::read_to_string(root().join("cron/prometheus/rules.yaml")).unwrap();
    let is_text = |line: &&str| {
        let line = line.trim();
        !line.starts_with('#') && !line.contains("summary:") && !line.contains("description:")
    };
    rules.lines().filter(is_text).filter(|line| !line.contains("name: ")).collect()
}

fn expressions_of_dashboard() -> String {
    let text = fs::read_to_string(root().join("cron/grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut all: String = targets.map(|target| format!("{} ", target["expr"])).collect();
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        all.push_str(&variable["query"].to_string());
    }
    all
}

/// The metrics in the files of a sweep, a verify that checks one row, and a status.
fn of_files(broken: &Broken) -> Vec<String> {
    let file = broken.database.folder().join("run.prom");
    let mut names = Vec::new();
    for run in ["sweep --all", "verify --sample 1", "status --max-age 1h"] {
        let run = ethtally(run.split(' ')).env("ETHTALLY_METRICS_FILE", file.to_str().unwrap());
        run.node(&broken.node).database(&broken.database).run().expect(0);
        let text = fs::read_to_string(&file).expect("a metrics file");
        let name = |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned());
        names.extend(text.lines().filter_map(name));
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_dashboard_name_metrics_that_exist() {
    let broken = Broken::not().await;
    let of_files = of_files(&broken);
    let watching = start(watch("--listen 0", &broken.node, &broken.database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    let mut served = Metrics::of(&address).kinds;
    let last = ["ethtally_head_timestamp_seconds", "ethtally_checkpoint_block"];
    while last.iter().any(|name| !served.contains_key(*name)) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        served = Metrics::of(&address).kinds;
    }
    let known: BTreeSet<_> =
        served.into_keys().chain(FOREIGN.map(str::to_owned)).chain(of_files).collect();
    for text in [expressions_of_rules(), expressions_of_dashboard()] {
        let used = names(&text);
        assert!(used.len() > 10, "{used:?}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    drop(watching);
}

/// What Kubernetes reports of the CronJobs of a system that stays so, as series of kube-state-metrics for a day.
fn series(node: Option<&str>, broken: &Broken) -> String {
    let secrets = Secrets::of(node, &broken.database);
    let mut lines = String::new();
    let mut add = |series: &str, values: &str| {
        lines.push_str(&format!("      - {{ series: '{series}', values: '{values}' }}\n"));
    };
    for resource in resources("sweeps").iter().filter(|resource| job(resource).is_some()) {
        let name = resource["metadata"]["name"].as_str().unwrap();
        let run = container(resource, &secrets, |word| word.replace("50s", "3s"));
        let run = run.env("ETHTALLY_CHUNK", "1").env("ETHTALLY_CONCURRENCY", "1").run();
        let failed = run.status != 0;
        let labels = format!("{{namespace=\"ethtally\",cronjob=\"{name}\"}}");
        add(&format!("kube_cronjob_created{labels}"), "0x1440");
        if !failed {
            add(&format!("kube_cronjob_status_last_successful_time{labels}"), "0+60x1440");
        }
        let labels = format!("{{namespace=\"ethtally\",job_name=\"{name}-1\"}}");
        add(&format!("kube_job_status_failed{labels}"), &format!("{}x1440", u8::from(failed)));
    }
    lines
}

/// The alerts of Kubernetes that are firing after a day, as `alert job`.
fn alerts(series: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let rules = root().join("cron/prometheus/rules.yaml");
    let all = ["EthtallyJobFailed", "EthtallySweepJobFailing"];
    let checks: String = all
        .iter()
        .map(|alert| format!("      - {{ eval_time: 1d, alertname: {alert}, exp_alerts: [] }}\n"))
        .collect();
    let test = format!(
        "rule_files: [{}]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{series}    alert_rule_test:\n{checks}",
        rules.display()
    );
    let file = folder.path().join("test.yaml");
    fs::write(&file, test).unwrap();
    let output = promtool(&["test", "rules"]).arg(file).output().expect("promtool runs");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    // What it got, and none of it was expected.
    let mut alerts = BTreeSet::new();
    for line in said.lines().filter(|line| line.contains("Labels:{alertname=")) {
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let about = value("job_name").or_else(|| value("cronjob")).expect("a job");
        alerts.insert(format!("{} {about}", value("alertname").expect("a name")));
    }
    assert!(output.status.success() == alerts.is_empty(), "{said}");
    alerts.into_iter().collect()
}

const STATUS: &str = "EthtallyJobFailed ethtally-status-1";
const VERIFY: &str = "EthtallyJobFailed ethtally-verify-1";
const SWEEP: &str = "EthtallySweepJobFailing ethtally-sweep";

/// Each way in which a broken sweep would stay green for a day, from the manifests to the alerts.
#[tokio::test(flavor = "multi_thread")]
async fn broken_sweeps_in_kubernetes_are_alerted() {
    let table: [(&str, Broken, bool, &[&str]); 6] = [
        ("healthy", Broken::not().await, true, &[]),
        ("skipped", Broken::skipped().await, true, &[STATUS, SWEEP]),
        ("empty", Broken::empty().await, true, &[STATUS, VERIFY]),
        ("forgotten URL", Broken::not().await, false, &[VERIFY, SWEEP]),
        ("cut short", Broken::cut_short().await, true, &[STATUS]),
        ("partly failing", Broken::partly_failing().await, true, &[STATUS]),
    ];
    for (name, broken, has_node, expected) in &table {
        let node = has_node.then_some(broken.node.as_str());
        assert_eq!(alerts(&series(node, broken)), *expected, "{name}");
    }
}
