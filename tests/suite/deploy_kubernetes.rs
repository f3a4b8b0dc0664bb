//! The real program, run as the manifests in `cron/kubernetes` say: what `deploy_alerts` does not run.

use std::{fs, process::Command};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};
use serde_json::{Value, json};

use crate::support::{
    chains::still_chain,
    database::Database,
    kubernetes::{Secrets, container, documents, pod, resources, root, succeeds, tool},
    program::eventually,
    table::{assert_nothing_stored, assert_read_at_genesis, store_unread},
    watch::{assert_matches_chain, caught_up, get, served_at, start},
};

/// The only resource of a kind in an overlay.
fn only(overlay: &str, kind: &str) -> Value {
    let mut all = resources(overlay);
    all.retain(|resource| resource["kind"] == kind);
    assert_eq!(all.len(), 1, "{overlay}: {kind}");
    all.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_migrate_and_sweep_a_full_round() {
    let database = Database::postgres();
    let node = still_chain().await.url();
    let secrets = Secrets::of(Some(&node), &database);
    // It needs no node, and may run again.
    for node in [None, Some(&*node)] {
        let secrets = Secrets::of(node, &database);
        container(&only("migrate", "Job"), &secrets, str::to_owned).run().expect(0);
    }
    assert_nothing_stored(&database).await;
    store_unread(&database, 0..200);
    let round = only("full-round", "Job");
    let pods = round["spec"]["completions"].as_u64().expect("a number");
    assert_eq!(round["spec"]["parallelism"], pods);
    let start = |index: u64| {
        let pod = container(&round, &secrets, str::to_owned);
        pod.env("JOB_COMPLETION_INDEX", &index.to_string()).start()
    };
    let pods: Vec<_> = (0..pods).map(start).collect();
    let updated = pods.into_iter().map(|pod| {
        let result = pod.wait().expect(0).json();
        result["updated"].as_u64().expect("a number")
    });
    let updated: Vec<_> = updated.collect();
    assert!(updated.iter().sum::<u64>() == 200 && !updated.contains(&0), "{updated:?}");
    assert_read_at_genesis(&database, 200, &[]).await;
}

/// What the kubelet gets from a probe of the container.
fn probed(address: &str, probe: &Value) -> u16 {
    assert_eq!(probe["httpGet"]["port"], "http");
    get(address, probe["httpGet"]["path"].as_str().expect("a path")).status
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployment_watches_with_a_standby() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::postgres();
    store_unread(&database, 0..3);
    let secrets = Secrets::of(Some(&chain.url()), &database);
    let deployment = only("production", "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 2);
    // Two pods on one machine need a port each.
    let free_port = |word: &str| word.replace("0.0.0.0:1325", "127.0.0.1:0");
    let pod_of = || start(container(&deployment, &secrets, free_port));
    let active = pod_of();
    active.until("connected", 1);
    let standby = pod_of();
    standby.until("standby", 1);
    let container = &pod(&deployment).unwrap()["containers"][0];
    for pod in [&active, &standby] {
        let address = served_at(pod);
        eventually("it is ready", || probed(&address, &container["readinessProbe"]) == 200);
    }
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    caught_up(&chain, &database).await;
    assert_matches_chain(&chain, &database, 0..2).await;
    // Kubernetes sends SIGTERM; the standby takes over.
    active.stop();
    standby.until("connected", 1);
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    caught_up(&chain, &database).await;
    assert_matches_chain(&chain, &database, 0..2).await;
}

#[test]
fn all_name_the_port_on_which_watch_listens() {
    let deployment = only("production", "Deployment");
    let container = &pod(&deployment).unwrap()["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("0.0.0.0:1325")), "{arguments:?}");
    assert_eq!(container["ports"], json!([{ "name": "http", "containerPort": 1325 }]));
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "1325");
    let mut policies = resources("production");
    policies.retain(|resource| {
        resource["kind"] == "NetworkPolicy" && resource["metadata"]["name"] == "ethtally-watch"
    });
    let ingress = &policies[0]["spec"]["ingress"][0]["ports"];
    assert_eq!(*ingress, json!([{ "protocol": "TCP", "port": 1325 }]));
}

/// Panics unless the models of the Prometheus Operator take this resource, with every field of it.
fn assert_operator_takes(resource: &Value) {
    let script = "import json, sys
from cloudcoil.models.prometheus_operator import v1
given = json.loads(sys.argv[1])
model = getattr(v1, given['kind']).model_validate(given)
taken = model.model_dump(by_alias=True, exclude_none=True, mode='json')
sys.exit(0 if taken == given else f'taken: {taken}')";
    succeeds(tool("python").args(["-c", script]).arg(resource.to_string()));
}

#[test]
fn the_prometheus_operator_takes_pod_monitor_and_rules() {
    let folder = tempfile::tempdir().unwrap();
    let kubernetes = folder.path().join("kubernetes");
    let mut copy = Command::new("cp");
    succeeds(copy.arg("-r").arg(root().join("cron/kubernetes")).arg(&kubernetes));
    // As the component's head says.
    let overlay = kubernetes.join("overlays/production");
    let file = overlay.join("kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text + "components:\n  - ../../components/pod-monitor\n").unwrap();
    let built = succeeds(tool("kubectl").arg("kustomize").arg(overlay));
    let resources = documents(&built);
    let monitor = resources.iter().find(|resource| resource["kind"] == "PodMonitor").unwrap();
    assert_operator_takes(monitor);
    // It selects the pods of `watch`, by a port that they have, and names the job of the alerts.
    let pods = &only("production", "Deployment")["spec"]["template"];
    let labels = &pods["metadata"]["labels"];
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], *labels);
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], pods["spec"]["containers"][0]["ports"][0]["name"]);
    assert_eq!(labels[monitor["spec"]["jobLabel"].as_str().unwrap()], "ethtally");

    let readme = fs::read_to_string(root().join("cron/README.md")).unwrap();
    let (_, command) = readme.split_once("\n$ (echo '").expect("the command that wraps the rules");
    let (command, _) = command.split_once(" | kubectl apply").expect("its end");
    let mut shell = Command::new("bash");
    let wrapped = succeeds(shell.args(["-c", &format!("(echo '{command}")]).current_dir(root()));
    let wrapped = documents(&wrapped);
    assert_eq!(wrapped[0]["kind"], "PrometheusRule");
    assert_eq!(wrapped[0]["spec"]["groups"].as_array().unwrap().len(), 3);
    assert_operator_takes(&wrapped[0]);
}
