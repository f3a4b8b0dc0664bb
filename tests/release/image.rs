//! The image of a release, run by podman as a cluster runs it: another user than root, and a read-only root.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use ethtally_testbed::wallet;
use serde_json::Value;

use crate::support::{Release, commit, commit_time, entries, node, run};

/// A file of the image's archive.
fn file(name: &str) -> String {
    run(Command::new("tar").arg("-xOf").arg(Release::files().image()).arg(format!("./{name}")))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&file(name)).expect("JSON")
}

fn blob(of: &Value) -> String {
    format!("blobs/{}", of["digest"].as_str().expect("a digest").replace(':', "/"))
}

#[test]
fn the_image_is_small_of_one_commit_and_without_rights() {
    let manifest = json(&blob(&json("index.json")["manifests"][0]));
    let image = json(&blob(&manifest["config"]));
    let config = &image["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/ethtally"]));
    assert_eq!(config["Labels"]["org.opencontainers.image.revision"], commit());
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(image["created"].as_str().unwrap()[..19], commit_time()[..19]);
    let layers = manifest["layers"].as_array().unwrap();
    let size: u64 = layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    // What a registry stores; unpacked it is about twice that.
    assert!(size < 25_000_000, "{size}");
    let release = Release::files();
    if release.is_real() {
        let folder = tempfile::tempdir().unwrap();
        let program = release.unpack(folder.path()).join("ethtally");
        assert!(fs::metadata(program).unwrap().len() < 24_000_000, "unpacked it counts too");
    }
}

#[test]
fn the_image_has_nothing_but_the_program_certificates_and_the_user() {
    let manifest = json(&blob(&json("index.json")["manifests"][0]));
    let folder = tempfile::tempdir().unwrap();
    let image = Release::files().image();
    run(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(folder.path()));
    let mut files = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        for entry in entries(&folder.path().join(blob(layer))) {
            assert_eq!(entry.time, commit_time(), "{entry:?}");
            let owner = if entry.name.starts_with("data") { "65532/65532" } else { "0/0" };
            assert_eq!(entry.owner, owner, "{entry:?}");
            if !entry.mode.starts_with('d') {
                assert!(!entry.mode[5..].contains('w'), "{entry:?}");
                files.push(entry.name);
            }
        }
    }
    files.sort();
    let expected =
        ["etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/bin/ethtally"];
    assert_eq!(files, expected);
}

/// podman with a storage of its own, in which the image is.
struct Podman {
    storage: tempfile::TempDir,
}

impl Podman {
    fn load() -> Self {
        let podman = Self { storage: tempfile::tempdir().unwrap() };
        run(podman.command().arg("load").arg("--quiet").arg("-i").arg(Release::files().image()));
        podman
    }

    /// In a form that works without systemd and inside of containers.
    fn command(&self) -> Command {
        let path = |name: &str| self.storage.path().join(name);
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(path("root")).arg("--runroot").arg(path("run"));
        podman.arg("--tmpdir").arg(path("tmp")).args(["--storage-driver", "vfs"]);
        podman.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        // Debian has it where other users do not look.
        podman.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
        podman
    }

    /// A run with a read-only root, no rights and a volume for the database.
    fn ethtally(&self, arguments: &[&str]) -> Command {
        let mut podman = self.command();
        podman.args(["run", "--rm", "--network", "host", "--read-only", "--read-only-tmpfs=false"]);
        podman.args(["--cap-drop", "all", "--security-opt", "no-new-privileges"]);
        podman.args(["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1000:1000"]);
        podman.args(["--volume", "data:/data", "--env", "ETH_RPC_URL"]);
        podman.args(["--env", "ETHTALLY_MAX_HEAD_AGE=3h"]);
        for library in &Release::files().libraries {
            let path = library.display();
            podman.arg("--volume").arg(format!("{path}:{path}:ro"));
        }
        podman.arg(concat!("ethtally:", env!("CARGO_PKG_VERSION"))).args(arguments);
        podman
    }

    fn volume(&self) -> std::path::PathBuf {
        self.storage.path().join("root/volumes/data/_data")
    }
}

impl Drop for Podman {
    /// Unmounts what podman leaves mounted.
    fn drop(&mut self) {
        let _ = self.command().args(["system", "reset", "--force"]).output();
    }
}

fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap())
}

#[tokio::test]
async fn the_image_sweeps_as_its_user_with_a_read_only_root() {
    let node = node().await;
    let podman = Podman::load();
    let wallets = [wallet(1), wallet(2), wallet(3)].map(|wallet| wallet.to_string());
    let refresh: Vec<_> =
        ["refresh"].into_iter().chain(wallets.iter().map(String::as_str)).collect();
    run(podman.ethtally(&refresh).env("ETH_RPC_URL", &node));
    let swept = run(podman.ethtally(&["sweep", "--all", "--json"]).env("ETH_RPC_URL", &node));
    let swept: Value = serde_json::from_str(&swept).unwrap();
    assert_eq!((&swept["outcome"], &swept["updated"]), (&"complete".into(), &3.into()), "{swept}");
    assert_eq!(owner(&podman.volume().join("ethtally.db")), 65532);

    let elsewhere = ["migrate", "--database-url", "sqlite:/usr/ethtally.db"];
    let ran = podman.ethtally(&elsewhere).env("ETH_RPC_URL", &node).output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert!(error.contains("Read-only file system"), "{error}");
}

/// A server whose certificate nobody has signed.
struct TlsServer(Child, u16);

impl TlsServer {
    fn start(folder: &Path) -> Self {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args([
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        run(openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-www", "-quiet", "-key", "key.pem", "-cert", "cert.pem"]);
        openssl.arg("-accept").arg(format!("127.0.0.1:{port}")).current_dir(folder);
        let server = Self(openssl.stdin(Stdio::piped()).spawn().expect("it starts"), port);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_in_the_image_knows_certificate_authorities() {
    let podman = Podman::load();
    let server = TlsServer::start(podman.storage.path());
    let url = format!("https://localhost:{}", server.1);
    let wallet = wallet(1).to_string();
    let refresh = ["refresh", &wallet, "--retries", "0"];
    let refused = |podman: &mut Command| {
        let ran = podman.env("ETH_RPC_URL", &url).output().unwrap();
        assert_eq!(ran.status.code(), Some(3), "{ran:?}");
        String::from_utf8(ran.stderr).unwrap()
    };
    let error = refused(&mut podman.ethtally(&refresh));
    assert!(error.contains("UnknownIssuer"), "{error}");
}
