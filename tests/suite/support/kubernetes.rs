//! The manifests in `cron/kubernetes`, as kustomize builds them, and the tools that check them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    database::Database,
    program::{Ethtally, ethtally},
};

/// The overlays, each of which is applied on its own.
pub(crate) const OVERLAYS: [&str; 5] =
    ["full-round", "migrate", "production", "sweeps", "watch-once"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of the virtual environment that `tests/testbed/install-kubernetes-tools` makes.
pub(crate) fn tool(name: &str) -> Command {
    let path = root().join("target/testbed/kubernetes/bin").join(name);
    assert!(path.is_file(), "there is no {name}: run tests/testbed/install-kubernetes-tools");
    Command::new(path)
}

/// Runs it to its end; returns stdout.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub(crate) fn overlay(name: &str) -> PathBuf {
    root().join("cron/kubernetes/overlays").join(name)
}

/// What kustomize makes of an overlay, as YAML.
pub(crate) fn build(name: &str) -> String {
    succeeds(tool("kubectl").arg("kustomize").arg(overlay(name)))
}

/// The resources of an overlay.
pub(crate) fn resources(name: &str) -> Vec<Value> {
    documents(&build(name))
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut python = tool("python")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut input = python.stdin.take().expect("stdin is piped");
    let text = text.to_owned();
    std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let output = python.wait_with_output().expect("an output");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The pod of a CronJob, Job or Deployment.
pub(crate) fn pod(resource: &Value) -> Option<&Value> {
    let spec = &resource["spec"];
    match resource["kind"].as_str()? {
        "CronJob" => Some(&spec["jobTemplate"]["spec"]["template"]["spec"]),
        "Job" | "Deployment" => Some(&spec["template"]["spec"]),
        _ => None,
    }
}

/// The specification of the Job of a CronJob or Job.
pub(crate) fn job(resource: &Value) -> Option<&Value> {
    match resource["kind"].as_str()? {
        "CronJob" => Some(&resource["spec"]["jobTemplate"]["spec"]),
        "Job" => Some(&resource["spec"]),
        _ => None,
    }
}

/// The Secret's files, as they are mounted.
pub(crate) struct Secrets {
    folder: TempDir,
}

impl Secrets {
    pub(crate) fn of(node: Option<&str>, database: &Database) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [("rpc-url", node), ("database-url", Some(&*database.url))];
        for (name, secret) in files {
            let write = |secret| fs::write(folder.path().join(name), secret).expect("a file");
            secret.map(write);
        }
        Self { folder }
    }
}

/// Prepares the container of a resource as Kubernetes would run it; `edit` changes its arguments.
pub(crate) fn container(
    resource: &Value,
    secrets: &Secrets,
    edit: impl Fn(&str) -> String,
) -> Ethtally {
    let container = &pod(resource).expect("a pod")["containers"][0];
    let arguments: Vec<String> =
        serde_json::from_value(container["args"].clone()).expect("arguments");
    let arguments: Vec<_> = arguments.iter().map(|word| edit(word)).collect();
    let mut run = ethtally(arguments.iter().map(String::as_str));
    for variable in container["env"].as_array().expect("variables") {
        let [name, value] = ["name", "value"].map(|key| variable[key].as_str().expect("a text"));
        let folder = secrets.folder.path().display().to_string();
        run = run.env(name, &value.replace("/run/secrets/ethtally", &folder));
    }
    run
}
