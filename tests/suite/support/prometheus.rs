//! A real Prometheus, and promtool; tests/testbed/install-prometheus installs both.

use std::{
    fs,
    io::Write,
    net::TcpListener,
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

/// A Prometheus that scrapes one target every second.
pub(crate) struct Prometheus {
    process: Child,
    address: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one, and waits until it has scraped `target`, `HOST:PORT`.
    #[track_caller]
    pub(crate) fn scraping(target: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yaml");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: ethtally\n    \
             static_configs: [{{ targets: ['{target}'] }}]\n"
        );
        fs::write(&config, text).expect("a file");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let address = free.expect("a free port").to_string();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .expect("Prometheus is installed: see tests/testbed/install-prometheus");
        let started = Self { process, address, _folder: folder };
        eventually("Prometheus listens", || std::net::TcpStream::connect(&started.address).is_ok());
        eventually("the target is up", || started.values("up") == [1.0]);
        started
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
