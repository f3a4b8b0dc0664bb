//! What is in `cron/`, held to the tools that check such files, and to each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::kubernetes::{OVERLAYS, build, job, pod, resources, root, succeeds, tool};

const SERVICES: [&str; 6] = [
    "ethtally-alert@",
    "ethtally-status",
    "ethtally-sweep",
    "ethtally-verify",
    "ethtally-watch",
    "ethtally-watch-once",
];

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn unit(name: &str) -> PathBuf {
    root().join("cron/systemd").join(name)
}

/// The manual pages and the program, which are not installed here.
fn is_not_installed(line: &str) -> bool {
    line.contains("Command 'man ") || line.contains("/usr/bin/ethtally is not executable")
}

#[test]
fn systemd_accepts_every_unit() {
    let units = fs::read_dir(root().join("cron/systemd")).unwrap();
    let units: Vec<_> = units
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "service" || kind == "timer"))
        .collect();
    assert_eq!(units.len(), SERVICES.len() + 4);
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output();
    let output = output.expect("systemd-analyze is missing; run tests/testbed/install-cron");
    let said = String::from_utf8(output.stderr).unwrap();
    let complaints: Vec<_> = said.lines().filter(|line| !is_not_installed(line)).collect();
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn services_are_sandboxed() {
    for service in SERVICES {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=yes", "--threshold=20", "--no-pager"]);
        succeeds(analyze.arg(unit(&format!("{service}.service"))));
    }
}

#[test]
fn services_report_failures_and_keep_their_state() {
    for service in &SERVICES[1..] {
        let text = fs::read_to_string(unit(&format!("{service}.service"))).unwrap();
        for line in [
            "OnFailure=ethtally-alert@%n.service",
            "StateDirectory=ethtally",
            "User=ethtally",
            "SuccessExitStatus=143",
        ] {
            assert!(text.lines().any(|other| other == line), "{service}: {line}");
        }
    }
    let watch = fs::read_to_string(unit("ethtally-watch.service")).unwrap();
    assert!(
        watch.contains("\nRestart=always\n") && watch.contains("\nRestartPreventExitStatus=2\n")
    );
    for command in ["sweep", "verify", "status", "watch-once"] {
        assert!(unit(&format!("ethtally-{command}.timer")).is_file(), "{command}");
    }
}

#[test]
fn paths_are_the_same_everywhere() {
    let crontab = text("cron/crontab");
    let tmpfiles = text("cron/systemd/ethtally.tmpfiles");
    let sysusers = text("cron/systemd/ethtally.sysusers");
    let env = text("cron/ethtally.env");
    let readme = text("cron/README.md");
    for (path, files) in [
        ("/etc/ethtally.env", vec![&crontab, &env, &readme]),
        ("/var/lib/ethtally", vec![&crontab, &tmpfiles, &sysusers, &readme]),
        ("/var/lib/prometheus/node-exporter", vec![&crontab, &tmpfiles, &readme]),
        ("/run/secrets/ethtally/rpc-url", vec![&env]),
        ("/run/secrets/ethtally/database-url", vec![&env]),
    ] {
        for file in files {
            assert!(file.contains(path), "{path}: {file}");
        }
    }
    assert!(text("cron/logrotate.conf").contains("\n/var/lib/ethtally/ethtally.json {\n"));
    for service in &SERVICES[1..] {
        let unit = fs::read_to_string(unit(&format!("{service}.service"))).unwrap();
        let command = service.trim_start_matches("ethtally-").replace("-once", " --once");
        for line in [
            "EnvironmentFile=/etc/ethtally.env".to_owned(),
            "WorkingDirectory=/var/lib/ethtally".to_owned(),
            format!("ExecStart=/usr/bin/ethtally {command} "),
        ] {
            assert!(unit.contains(&format!("\n{line}")), "{service}: {line}");
        }
        if command != "watch" {
            let name = command.trim_end_matches(" --once");
            let file = format!("=/var/lib/prometheus/node-exporter/ethtally-{name}.prom\n");
            assert!(unit.contains(&file), "{service}");
        }
    }
    // The crontab finds the binary on its PATH, and names the files of metrics as the units do.
    assert!(crontab.contains("\nPATH=/usr/local/bin:/usr/bin:/bin\n"));
    assert!(crontab.contains("ETHTALLY_METRICS_FILE=$METRICS/ethtally-$1.prom"));
    for overlay in OVERLAYS {
        for pod in resources(overlay).iter().filter_map(pod) {
            let container = &pod["containers"][0];
            let mount = &container["volumeMounts"][0];
            assert_eq!(mount["mountPath"], "/run/secrets/ethtally");
            assert_eq!(mount["name"], pod["volumes"][0]["name"]);
            let variables: Vec<_> = container["env"].as_array().unwrap().iter().collect();
            let of = |name: &str| {
                variables.iter().find(|variable| variable["name"] == name).expect("it is set")
            };
            assert_eq!(of("ETH_RPC_URL_FILE")["value"], "/run/secrets/ethtally/rpc-url");
            assert_eq!(of("DATABASE_URL_FILE")["value"], "/run/secrets/ethtally/database-url");
        }
    }
}

#[test]
fn manifests_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    for overlay in OVERLAYS {
        let file = folder.path().join(overlay);
        fs::write(&file, build(overlay)).unwrap();
        succeeds(tool("kubernetes-validate").args(["--strict", "--quiet"]).arg(&file));
    }
}

/// The files as they are, and what kustomize makes of them. The one exception is the image's digest, which only the
/// user's registry knows.
#[test]
fn checkov_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for overlay in OVERLAYS {
        fs::write(folder.path().join(format!("{overlay}.yaml")), build(overlay)).unwrap();
    }
    let output = tool("checkov")
        .args(["--quiet", "--compact", "--skip-download", "--framework", "kubernetes"])
        .args(["--output", "json", "-d"])
        .arg(root().join("cron/kubernetes"))
        .arg("-d")
        .arg(folder.path())
        .output()
        .unwrap();
    // One report for each folder.
    let reports = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let reports: Vec<_> = reports.map(|report| report.expect("JSON")).collect();
    assert_eq!(reports.len(), 2);
    for report in reports {
        assert_eq!(report["summary"]["failed"], 0, "{report:#}");
        assert!(report["summary"]["passed"].as_u64().unwrap() > 400, "{}", report["summary"]);
        assert_eq!(report["summary"]["parsing_errors"], 0);
    }
    for file in walk(&root().join("cron/kubernetes")) {
        let text = fs::read_to_string(&file).unwrap();
        let skips = text.lines().filter(|line| line.contains("checkov.io/skip"));
        skips.for_each(|line| assert!(line.contains("CKV_K8S_43="), "{}: {line}", file.display()));
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn pods_have_no_rights_and_the_settings_of_an_operator() {
    let mut seen = BTreeSet::new();
    for overlay in OVERLAYS {
        let resources = resources(overlay);
        for kind in ["Namespace", "NetworkPolicy", "ServiceAccount"] {
            assert!(resources.iter().any(|resource| resource["kind"] == kind), "{overlay}: {kind}");
        }
        for resource in &resources {
            seen.insert(resource["kind"].as_str().unwrap().to_owned());
            let Some(pod) = pod(resource) else { continue };
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["securityContext"]["runAsUser"], 65532);
            let container = &pod["containers"][0]["securityContext"];
            assert_eq!(container["readOnlyRootFilesystem"], true);
            assert_eq!(container["allowPrivilegeEscalation"], false);
            // A Job that wrong settings or the answer no have ended is not tried again.
            let Some(job) = job(resource) else { continue };
            assert_eq!(pod["restartPolicy"], "Never");
            let rules = job["podFailurePolicy"]["rules"].as_array().expect("rules");
            let fails = rules.iter().find(|rule| rule["action"] == "FailJob").expect("FailJob");
            assert_eq!(fails["onExitCodes"]["values"], serde_json::json!([1, 2]));
        }
    }
    let kinds = ["CronJob", "Deployment", "Job", "Namespace", "NetworkPolicy"];
    let kinds = kinds.into_iter().chain(["PodDisruptionBudget", "ServiceAccount"]);
    assert_eq!(seen, kinds.map(str::to_owned).collect());
    let round = resources("full-round");
    let round = round.iter().find(|resource| resource["kind"] == "Job").unwrap();
    assert_eq!(round["spec"]["completionMode"], "Indexed");
}
