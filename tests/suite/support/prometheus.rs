//! A real Prometheus, promtool and node_exporter; tests/testbed/install-prometheus installs them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{program::eventually, watch::get};

/// Panics unless `promtool check metrics` has nothing to say about this text.
#[track_caller]
pub(crate) fn assert_promtool_is_content(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: see tests/testbed/install-prometheus");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("UTF-8"));
    assert!(output.status.success() && said.concat().is_empty(), "{said:?} about\n{text}");
}

/// A free address of this machine.
fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.expect("a free port").to_string()
}

/// A node_exporter that serves the `.prom` files of a folder, and nothing else.
pub(crate) struct NodeExporter {
    process: Child,
    pub(crate) address: String,
}

impl NodeExporter {
    #[track_caller]
    pub(crate) fn of_files(folder: &Path) -> Self {
        let address = free_address();
        let process = Command::new("prometheus-node-exporter")
            .args(["--collector.disable-defaults", "--collector.textfile", "--log.level=error"])
            .arg(format!("--collector.textfile.directory={}", folder.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .spawn()
            .expect("node_exporter is installed: see tests/testbed/install-prometheus");
        let started = Self { process, address };
        let listens = || std::net::TcpStream::connect(&started.address).is_ok();
        eventually("node_exporter listens", listens);
        started
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The start of the name of an alert that `Prometheus::alerting` adds to each group of rules.
const SETTLED: &str = "Settled";

/// A Prometheus that scrapes one target every second.
pub(crate) struct Prometheus {
    process: Child,
    address: String,
    /// Groups of rules.
    groups: usize,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one, and waits until it has scraped `target`, `HOST:PORT`.
    #[track_caller]
    pub(crate) fn scraping(target: &str) -> Self {
        let started = Self::start("ethtally", target, "groups: []\n");
        eventually("the target is up", || started.values("up") == [1.0]);
        started
    }

    /// Starts one with these rules, whose alerts fire after a second instead of their `for`.
    #[track_caller]
    pub(crate) fn alerting(job: &str, target: &str, rules: &str) -> Self {
        let mut groups = 0;
        let mut text = String::new();
        for line in rules.lines() {
            match line.trim() {
                "rules:" => {
                    let expression = "{ expr: up == 1, for: 5s, alert";
                    text += &format!("{line}\n      - {expression}: {SETTLED}{groups} }}\n");
                    groups += 1;
                }
                duration if duration.starts_with("for: ") => text += "        for: 1s\n",
                _ => text += &format!("{line}\n"),
            }
        }
        let mut started = Self::start(job, target, &text);
        started.groups = groups;
        started
    }

    fn start(job: &str, target: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n  - job_name: {job}\n    \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        fs::write(at("prometheus.yaml"), text).expect("a file");
        fs::write(at("rules.yaml"), rules).expect("a file");
        let address = free_address();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", at("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", at("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .expect("Prometheus is installed: see tests/testbed/install-prometheus");
        let started = Self { process, address, groups: 0, _folder: folder };
        eventually("Prometheus listens", || std::net::TcpStream::connect(&started.address).is_ok());
        started
    }

    /// The alerts that are firing, once all had the time to.
    #[track_caller]
    pub(crate) fn alerts(&self) -> BTreeSet<String> {
        let firing = "group by (alertname) (ALERTS{alertstate='firing'})";
        let name =
            |alert: &Value| alert["metric"]["alertname"].as_str().expect("a name").to_owned();
        let mut alerts = BTreeSet::new();
        eventually("each group of rules has settled", || {
            alerts = self.query(firing).iter().map(name).collect();
            let all = alerts.len();
            alerts.retain(|alert| !alert.starts_with(SETTLED));
            all - alerts.len() == self.groups
        });
        alerts
    }

    /// The results of an expression, each with its labels.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Vec<Value> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let response = get(&self.address, &format!("/api/v1/query?query={query}"));
        // The body may come in chunks.
        let (start, end) = (response.body.find('{'), response.body.rfind('}'));
        let Some((start, end)) = start.zip(end) else { return Vec::new() };
        let answer: Value = serde_json::from_str(&response.body[start..=end]).unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The values of an expression.
    #[track_caller]
    pub(crate) fn values(&self, expression: &str) -> Vec<f64> {
        let value = |result: &Value| result["value"][1].as_str()?.parse().ok();
        self.query(expression).iter().filter_map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
