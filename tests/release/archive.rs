//! The archive of a release, and its way from a download to the first refreshed wallet.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

use ethtally_testbed::wallet;
use serde_json::Value;

use crate::support::{Release, TARGET, commit, commit_time, entries, node, root, run};

#[test]
fn the_checksums_are_those_of_the_files() {
    let sums = Release::files().file("SHA256SUMS");
    let folder = sums.parent().unwrap();
    run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder));
    let files = fs::read_dir(folder).unwrap().count();
    assert_eq!(fs::read_to_string(&sums).unwrap().lines().count(), files - 1);
}

#[test]
fn the_archive_has_the_program_its_manual_completions_licences_and_deployment() {
    let entries = entries(&Release::files().archive());
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted, "in this order whoever packs it");

    let help = run(Command::new(env!("CARGO_BIN_EXE_ethtally")).arg("-h"));
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let pages =
        commands.filter(|name| *name != "help").map(|name| format!("man/ethtally-{name}.1"));
    let others = "ethtally README.md LICENSE-APACHE LICENSE-MIT THIRD-PARTY-LICENSES man/ethtally.1 \
        completions/_ethtally completions/ethtally.bash completions/ethtally.fish cron/README.md cron/crontab";
    for name in others.split(' ').map(str::to_owned).chain(pages) {
        let name = format!("{}/{name}", Release::name());
        assert!(names.contains(&name.as_str()), "{name} is missing in {names:?}");
    }
    for entry in &entries {
        let is_program = entry.name.ends_with("/ethtally");
        let mode = match (entry.mode.starts_with('d'), is_program) {
            (true, _) => "drwxr-xr-x",
            (false, true) => "-rwxr-xr-x",
            (false, false) => &entry.mode,
        };
        assert_eq!((entry.mode.as_str(), entry.owner.as_str()), (mode, "0/0"), "{entry:?}");
        assert!(!entry.mode[5..].contains('w'), "{entry:?}");
        assert_eq!(entry.time, commit_time(), "{entry:?}");
    }
}

/// The paths that a Markdown text links to, without those on the web.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

#[test]
fn the_readme_of_the_archive_leads_nowhere_outside_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Release::files().unpack(folder.path());
    let readme = fs::read_to_string(unpacked.join("README.md")).unwrap();
    let links = links(&readme);
    assert!(links.len() > 20, "{links:?}");
    // The tests are in the sources only.
    for link in links.into_iter().filter(|link| !link.starts_with("tests/")) {
        assert!(unpacked.join(link).is_file(), "{link}");
    }
}

#[test]
fn binstall_finds_the_program_in_the_archive() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let binstall = &manifest["package"]["metadata"]["binstall"];
    let filled = |key: &str| {
        let values = [
            ("{ repo }", "https://host"),
            ("{ name }", "ethtally"),
            ("{ bin }", "ethtally"),
            ("{ binary-ext }", ""),
            ("{ version }", env!("CARGO_PKG_VERSION")),
            ("{ target }", TARGET),
        ];
        let template = binstall[key].as_str().unwrap().to_owned();
        values.iter().fold(template, |text, (name, value)| text.replace(name, value))
    };
    let archive = Release::files().archive();
    let url = filled("pkg-url");
    assert_eq!(url.rsplit('/').next(), archive.file_name().unwrap().to_str());
    assert_eq!(binstall["pkg-fmt"].as_str(), Some("tgz"));
    let program = filled("bin-dir");
    assert!(entries(&archive).iter().any(|entry| entry.name == program), "{program}");
}

#[test]
fn a_released_binary_is_static_names_its_commit_and_no_path_of_the_machine() {
    let release = Release::files();
    if !release.is_real() {
        return; // `cron/release --check` runs this test on a release.
    }
    let folder = tempfile::tempdir().unwrap();
    let program = release.unpack(folder.path()).join("ethtally");
    let version = run(Command::new(&program).arg("--version"));
    let expected = format!("ethtally {} ({})\n", env!("CARGO_PKG_VERSION"), &commit()[..12]);
    assert_eq!(version, expected);
    let headers = run(Command::new("readelf").arg("-lW").arg(&program));
    assert!(headers.contains("DYN") && !headers.contains("INTERP"), "{headers}");
    let bytes = fs::read(&program).unwrap();
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME")).unwrap();
    for path in [&*home, folder.path().parent().unwrap().to_str().unwrap()] {
        let path = format!("{path}/");
        assert!(!bytes.windows(path.len()).any(|part| part == path.as_bytes()), "{path}");
    }
}

/// The commands of README.md with which the archive is installed, up to the first refreshed wallet.
fn install_commands() -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("## Install\n").expect("the section");
    let (_, block) = section.split_once("```console\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let commands = block.lines().map(|line| line.strip_prefix("$ ").expect("a command"));
    commands.map(|line| line.split("   #").next().unwrap().to_owned() + "\n").collect()
}

#[tokio::test]
async fn the_readmes_commands_lead_from_the_archive_to_a_refreshed_wallet() {
    let node = node().await;
    let release = Release::files();
    let folder = tempfile::tempdir().unwrap();
    for file in [release.archive(), release.file("SHA256SUMS")] {
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let commands = install_commands();
    let script = commands
        .replace("sudo ", "")
        .replace("/usr/bin/", &format!("{}/", bin.display()))
        .replace("/usr/share/", &format!("{}/", bin.display()))
        .replace("https://your-node", &node)
        .replace("ADDR", &wallet(1).to_string());
    assert!(script.contains(&node) && script.contains(&wallet(1).to_string()), "{commands}");
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script]).current_dir(folder.path()).env_clear();
    shell.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let printed = run(shell.env("ETHTALLY_MAX_HEAD_AGE", "3h"));
    assert!(printed.contains(" AUDIO ("), "{printed}");
}

/// A root file system that has nothing but what the machine adds to a container's: the names of hosts.
fn empty_root(folder: &Path) {
    Release::files().add_libraries(folder);
    fs::create_dir(folder.join("etc")).unwrap();
    fs::write(folder.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    // The user's own, for the database.
    fs::create_dir(folder.join("data")).unwrap();
    chown(folder.join("data"), Some(65532), Some(65532)).expect("the tests run as root");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_program_of_the_archive_sweeps_on_an_empty_root_file_system() {
    let node = node().await;
    let folder = tempfile::tempdir().unwrap();
    empty_root(folder.path());
    let program = Release::files().unpack(folder.path()).join("ethtally");
    fs::rename(program, folder.path().join("ethtally")).unwrap();
    let ethtally = |arguments: &str| {
        let mut chroot = Command::new("chroot");
        chroot.env_clear().env("PATH", std::env::var("PATH").unwrap());
        chroot.arg("--userspec=65532:65532").arg(folder.path()).arg("/ethtally");
        chroot.args(arguments.split(' ')).env("ETH_RPC_URL", &node);
        chroot.env("DATABASE_URL", "sqlite:/data/ethtally.db").env("ETHTALLY_MAX_HEAD_AGE", "3h");
        run(&mut chroot)
    };
    ethtally(&format!("refresh {} {} {}", wallet(1), wallet(2), wallet(3)));
    let swept: Value = serde_json::from_str(&ethtally("sweep --all --json")).unwrap();
    assert_eq!((&swept["outcome"], &swept["updated"]), (&"complete".into(), &3.into()), "{swept}");
}
