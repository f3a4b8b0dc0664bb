//! The SBOM of a release.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

use crate::support::{Release, commit, commit_time, root, run};

fn sbom() -> Value {
    let name = concat!("ethtally-", env!("CARGO_PKG_VERSION"), ".cdx.json");
    let text = fs::read_to_string(Release::files().file(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The names and versions in Cargo.lock, each with its checksum.
fn locked() -> BTreeMap<String, String> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    let packages = packages.filter_map(|package| {
        let text = |key| package.get(key).and_then(toml::Value::as_str);
        let (name, version) = (text("name")?, text("version")?);
        Some((format!("pkg:cargo/{name}@{version}"), text("checksum")?.to_owned()))
    });
    packages.collect()
}

#[test]
fn it_is_of_this_commit_and_binary() {
    let sbom = sbom();
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let metadata = &sbom["metadata"];
    let component = &metadata["component"];
    assert_eq!(metadata["timestamp"], commit_time());
    assert_eq!(component["purl"], concat!("pkg:cargo/ethtally@", env!("CARGO_PKG_VERSION")));
    assert_eq!(component["properties"][0]["value"], commit());
    let folder = tempfile::tempdir().unwrap();
    let program = Release::files().unpack(folder.path()).join("ethtally");
    let sum = run(Command::new("sha256sum").arg(program));
    assert_eq!(component["hashes"][0]["content"].as_str(), sum.split(' ').next());
}

#[test]
fn it_has_every_part_of_the_binary_with_licence_and_checksum_and_no_part_of_the_tests() {
    let sbom = sbom();
    let locked = locked();
    let components = sbom["components"].as_array().unwrap();
    let refs: BTreeSet<_> =
        components.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(refs.len(), components.len(), "each is there once");
    for component in components {
        let purl = component["purl"].as_str().unwrap();
        if purl.starts_with("pkg:cargo/") {
            assert_eq!(component["hashes"][0]["content"], locked[purl], "{purl}");
        }
        assert!(component["licenses"][0].is_object(), "{component}");
    }
    let has = |name: &str| components.iter().any(|part| part["name"] == name);
    for name in ["alloy", "ring", "rustls", "sqlx", "libsqlite3-sys", "sqlite", "glibc", "rust-std"]
    {
        assert!(has(name), "{name} is missing");
    }
    // Of the tests, of build scripts, of other systems.
    for name in ["ethtally-testbed", "insta", "proptest", "cc", "windows-sys", "security-framework"]
    {
        assert!(!has(name), "{name} is not in the binary");
    }
}

#[test]
fn its_dependencies_lead_from_the_program_to_every_part() {
    let sbom = sbom();
    let own = sbom["metadata"]["component"]["bom-ref"].as_str().unwrap();
    let uses: BTreeMap<_, _> = sbom["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let on = entry["dependsOn"].as_array().into_iter().flatten();
            (
                entry["ref"].as_str().unwrap(),
                on.map(|part| part.as_str().unwrap()).collect::<Vec<_>>(),
            )
        })
        .collect();
    let (mut reached, mut open) = (BTreeSet::new(), vec![own]);
    while let Some(part) = open.pop() {
        if reached.insert(part) {
            open.extend(&uses[part]);
        }
    }
    let components = sbom["components"].as_array().unwrap().iter();
    let all = components.map(|part| part["bom-ref"].as_str().unwrap()).chain([own]).collect();
    assert_eq!(reached, all);
}
