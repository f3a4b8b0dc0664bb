//! The package for crates.io.

use std::{collections::BTreeSet, process::Command};

use crate::support::{entries, root, run};

/// Packs it as `cargo publish` does, without the network; returns the names of its files and its manifest.
fn package() -> (BTreeSet<String>, toml::Table) {
    let target = tempfile::tempdir().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--locked", "--offline", "--no-verify", "--allow-dirty", "--quiet"]);
    cargo.args(["--package", "ethtally", "--target-dir"]).arg(target.path());
    run(cargo.current_dir(root()));
    let name = concat!("ethtally-", env!("CARGO_PKG_VERSION"));
    let archive = target.path().join("package").join(format!("{name}.crate"));
    let names = entries(&archive).into_iter().map(|entry| entry.name);
    let names = names.map(|path| path.split_once('/').unwrap().1.to_owned()).collect();
    let mut tar = Command::new("tar");
    tar.arg("-xzOf").arg(archive).arg(format!("{name}/Cargo.toml"));
    (names, run(&mut tar).parse().expect("TOML"))
}

#[test]
fn the_package_has_what_belongs_to_it_and_nothing_else() {
    let (names, manifest) = package();
    let tracked = ["ls-files", "src", "migrations", "README.md", "LICENSE-APACHE", "LICENSE-MIT"];
    let tracked = run(Command::new("git").args(tracked).current_dir(root()));
    let own = ["Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json"];
    let expected: BTreeSet<_> = tracked.lines().chain(own).map(str::to_owned).collect();
    let names: BTreeSet<_> = names;
    // Files that are not committed yet are packed too.
    assert!(names.is_superset(&expected), "{:?}", expected.difference(&names));
    let places = ["src/", "migrations/", "README.md", "LICENSE-", "Cargo.", ".cargo_vcs_info"];
    let others = names.iter().filter(|name| !places.iter().any(|place| name.starts_with(place)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());

    let package = manifest["package"].as_table().unwrap();
    for key in
        ["description", "keywords", "categories", "license", "readme", "rust-version", "build"]
    {
        assert!(package.contains_key(key), "{key}");
    }
    assert_eq!(package["publish"].as_array().unwrap()[0].as_str(), Some("crates-io"));
}
