//! The commit that the build script finds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The build script as cargo compiles it, and a folder to run it in.
struct BuildScript {
    folder: TempDir,
}

impl BuildScript {
    fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/build.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let arguments = ["--edition", "2024", "--crate-name", "build_script", "-o"];
        let mut rustc = Command::new(rustc);
        rustc.args(arguments).arg(folder.path().join("script")).arg(script);
        assert!(rustc.status().expect("rustc starts").success());
        fs::create_dir(folder.path().join("package")).expect("a folder");
        Self { folder }
    }

    fn package(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    fn run(&self, given: Option<&str>) -> Output {
        let mut script = Command::new(self.folder.path().join("script"));
        script.current_dir(self.package()).env("CARGO_PKG_VERSION", "1.2.3");
        // No repository above the temporary folder counts.
        script.env("GIT_CEILING_DIRECTORIES", self.folder.path());
        script.env_remove("GIT_DIR").env_remove("ETHTALLY_COMMIT");
        given.map(|commit| script.env("ETHTALLY_COMMIT", commit));
        script.output().expect("the script starts")
    }

    /// The version and the commit that the crate sees.
    fn sees(&self, given: Option<&str>) -> (String, String) {
        let ran = self.run(given);
        assert!(ran.status.success(), "{ran:?}");
        let text = String::from_utf8(ran.stdout).expect("UTF-8");
        let value = |name: &str| {
            let lines = text.lines();
            let mut values =
                lines.filter_map(|line| line.strip_prefix("cargo:rustc-env=")?.strip_prefix(name));
            values.next().expect("it is set")[1..].to_owned()
        };
        (value("ETHTALLY_VERSION"), value("ETHTALLY_COMMIT"))
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
    let mut git = Command::new("git");
    let ran = git.args(identity).args(arguments).current_dir(folder).output().expect("git starts");
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).expect("UTF-8").trim().to_owned()
}

fn version_of(commit: &str) -> (String, String) {
    let commit = &commit[..12];
    (format!("1.2.3 ({commit})"), commit.to_owned())
}

fn version_alone() -> (String, String) {
    ("1.2.3".to_owned(), String::new())
}

#[test]
fn the_commit_is_the_packagers_the_packages_or_gits() {
    let script = BuildScript::compile();
    assert_eq!(script.sees(None), version_alone());
    assert_eq!(script.sees(Some(COMMIT)), version_of(COMMIT));

    let package = script.package();
    git(&package, &["init", "--quiet"]);
    git(&package, &["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let head = git(&package, &["rev-parse", "HEAD"]);
    assert_eq!(script.sees(None), version_of(&head));
    assert_eq!(script.sees(Some("")), version_alone());

    let info = format!("{{\n  \"git\": {{\n    \"sha1\": \"{COMMIT}\"\n  }}\n}}\n");
    fs::write(package.join(".cargo_vcs_info.json"), info).unwrap();
    assert_eq!(script.sees(None), version_of(COMMIT));
}

#[test]
fn the_commit_of_a_repository_around_the_sources_does_not_count() {
    let script = BuildScript::compile();
    git(script.folder.path(), &["init", "--quiet"]);
    git(script.folder.path(), &["commit", "--quiet", "--allow-empty", "--message", "other"]);
    let mut ran = Command::new(script.folder.path().join("script"));
    ran.current_dir(script.package()).env("CARGO_PKG_VERSION", "1.2.3");
    let ran = ran.env_remove("GIT_DIR").env_remove("ETHTALLY_COMMIT").output().unwrap();
    assert!(String::from_utf8(ran.stdout).unwrap().contains("ETHTALLY_VERSION=1.2.3\n"));
}

#[test]
fn a_packagers_commit_that_is_none_ends_the_build() {
    let ran = BuildScript::compile().run(Some("v1.2.3"));
    assert!(!ran.status.success());
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(text.contains("ETHTALLY_COMMIT must be a commit of at least 7"), "{text}");
}
