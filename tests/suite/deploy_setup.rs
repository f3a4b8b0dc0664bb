//! The commands of `cron/README.md` that set up a machine, run as root on copies of its folders.

use std::fs;

use crate::support::{chains::still_chain, cron::as_root, kubernetes::root};

/// The commands of the first blocks of a section, as a script.
fn commands(section: &str, blocks: usize) -> String {
    let readme = fs::read_to_string(root().join("cron/README.md")).unwrap();
    let (_, text) = readme.split_once(&format!("\n### {section}\n")).expect("the section");
    let (text, _) = text.split_once("\n### ").expect("its end");
    let console = text.split("```console\n").skip(1).take(blocks);
    let blocks = console.map(|block| block.split("```").next().expect("a block"));
    let lines = blocks.flat_map(str::lines).map(|line| line.strip_prefix("$ ").expect("a command"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Runs a script in a mount namespace where changes of `/etc`, `/usr` and `/var` stay, and the program is installed.
fn on_a_machine(script: &str) -> String {
    let program = env!("CARGO_BIN_EXE_ethtally");
    let script = format!(
        "set -euo pipefail
        changes=$(mktemp --directory); trap 'umount --lazy $changes; rmdir $changes' EXIT
        mount -t tmpfs tmpfs $changes
        for folder in etc usr var; do
            mkdir -p $changes/$folder/{{upper,work}}
            mount -t overlay overlay /$folder \\
                -o lowerdir=/$folder,upperdir=$changes/$folder/upper,workdir=$changes/$folder/work
        done
        touch /usr/bin/ethtally; mount --bind {program} /usr/bin/ethtally
        {script}"
    );
    let mut machine = as_root("unshare");
    let ran = machine.args(["--mount", "bash", "-c", &script]).current_dir(root()).output();
    let ran = ran.expect("unshare runs");
    let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(ran.status.success(), "{said}");
    said
}

/// What is left to the reader: the settings.
fn edit_settings(node: &str) -> String {
    format!(
        "sed -i -e \"s|^ETH_RPC_URL=.*|ETH_RPC_URL='{node}'|\" \
         -e \"s|^DATABASE_URL=.*|DATABASE_URL='sqlite:ethtally.db'|\" /etc/ethtally.env
         echo ETHTALLY_MAX_HEAD_AGE=3h >>/etc/ethtally.env\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_cron_set_up_a_machine() {
    let node = still_chain().await.url();
    let setup = commands("cron", 1);
    let by_hand = commands("cron", 2);
    let by_hand = by_hand.strip_prefix(&setup).expect("it comes next");
    let look = "crontab -u ethtally -l | cmp - cron/crontab
        stat --format '%a %U %G' /etc/ethtally.env
        logrotate --debug /etc/logrotate.d/ethtally 2>&1 | grep 'considering log'\n";
    let said = on_a_machine(&[&setup, &*edit_settings(&node), by_hand, look].concat());
    assert!(said.contains("migrate complete"), "{said}");
    assert!(said.contains("ok   chain") && !said.contains("fail "), "{said}");
    assert!(said.contains("\n640 root ethtally\n"), "{said}");
    assert!(said.contains("/var/lib/ethtally/ethtally.json"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_systemd_set_up_a_machine() {
    let node = still_chain().await.url();
    // No systemd runs here: units are enabled, and not started.
    let setup = commands("systemd", 1).replace("enable --now", "enable");
    let by_hand = commands("cron", 2).lines().last().expect("it is the last").to_owned();
    let look = "\nsystemctl is-enabled ethtally-{sweep,verify,status}.timer ethtally-watch.service
        stat --format '%a %U %G' /var/lib/ethtally /var/lib/prometheus/node-exporter\n";
    let said = on_a_machine(&[&setup, &*edit_settings(&node), &by_hand, look].concat());
    assert!(said.contains("migrate complete") && !said.contains("fail "), "{said}");
    assert_eq!(said.lines().filter(|line| *line == "enabled").count(), 4, "{said}");
    assert!(said.contains("750 ethtally ethtally\n2775 root ethtally\n"), "{said}");
}
