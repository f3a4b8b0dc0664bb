//! How the static binary resolves names. Its glibc knows files and DNS by itself; a module that the system's
//! nsswitch.conf lists would be one of another glibc, and crash it.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
};

use crate::support::{Release, TARGET, libraries_of, root, run};

/// Prints the addresses of names, as the standard library finds them for every connection.
const PROGRAM: &str = r#"
use std::net::ToSocketAddrs;
fn main() {
    for name in std::env::args().skip(1) {
        let addresses = (name.as_str(), 80).to_socket_addrs().expect("an address");
        println!("{name} {}", addresses.map(|address| address.ip().to_string()).next().unwrap());
    }
}
"#;

/// A module that ends every program that loads it.
const MODULE: &str = "#include <unistd.h>
__attribute__((constructor)) static void end(void) { _exit(99); }";

/// A root file system whose nsswitch.conf names a module, and the module with the libraries that it needs.
fn root_with_a_module(folder: &Path) {
    fs::create_dir_all(folder.join("etc")).unwrap();
    fs::write(folder.join("etc/nsswitch.conf"), "hosts: trap files dns\n").unwrap();
    fs::write(folder.join("etc/hosts"), "127.0.0.1 localhost\n127.0.0.9 node.internal\n").unwrap();
    fs::write(folder.join("etc/resolv.conf"), format!("nameserver {}\n", name_server())).unwrap();
    let source = folder.join("trap.c");
    fs::write(&source, MODULE).unwrap();
    let library = folder.join("libnss_trap.so.2");
    run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source));
    // Where modules are searched for.
    let modules = folder.join("lib/x86_64-linux-gnu");
    fs::create_dir_all(&modules).unwrap();
    for path in libraries_of("/bin/true").iter().chain([&library]) {
        fs::copy(path, modules.join(path.file_name().unwrap())).unwrap();
    }
}

/// Compiles the program statically, with what cron/release links in or without.
fn compile(folder: &Path, with_our_lookup: bool) {
    fs::write(folder.join("names.rs"), PROGRAM).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "--target", TARGET, "-C", "target-feature=+crt-static"]);
    if with_our_lookup {
        let object = folder.join("nss.o");
        let source = root().join("cron/image/nss.c");
        run(Command::new("cc").args(["-c", "-o"]).arg(&object).arg(source));
        rustc.arg("-C").arg(format!("link-arg={}", object.display()));
    }
    run(rustc.arg("-o").arg(folder.join("names")).arg(folder.join("names.rs")));
}

fn look_up(folder: &Path, names: &[&str]) -> Output {
    Command::new("chroot").arg(folder).arg("/names").args(names).output().expect("chroot starts")
}

/// An address of this machine that only this process uses: the port is always 53.
fn name_server() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 53, high, low)
}

/// Answers two questions, for the IPv4 and the IPv6 address of one name: only the first has an answer.
fn answer_dns() {
    let socket = UdpSocket::bind((name_server(), 53)).expect("the tests run as root");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            // The header, the name up to its empty label, type and class.
            let name = buffer[12..length].iter().position(|byte| *byte == 0).expect("a name");
            let question = &buffer[12..12 + name + 5];
            let is_ipv4 = question[name + 2] == 1;
            let counts = [0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0];
            let mut answer = [&buffer[..2], &[0x81, 0x80], &counts, question].concat();
            if is_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 7]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
}

#[test]
fn a_static_program_resolves_by_files_and_dns_and_loads_no_module() {
    let folder = tempfile::tempdir().unwrap();
    root_with_a_module(folder.path());
    answer_dns();
    let names = ["localhost", "node.internal", "eth.example.org"];

    compile(folder.path(), false);
    let ran = look_up(folder.path(), &names);
    assert_eq!(ran.status.code(), Some(99), "the module is loaded: {ran:?}");

    compile(folder.path(), true);
    let ran = look_up(folder.path(), &names);
    assert_eq!(ran.status.signal(), None, "{ran:?}");
    let found = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(found, "localhost 127.0.0.1\nnode.internal 127.0.0.9\neth.example.org 127.0.0.7\n");
}

#[test]
fn a_release_loads_no_module() {
    let release = Release::files();
    if !release.is_real() {
        return; // `cron/release --check` runs this test on a release.
    }
    let folder = tempfile::tempdir().unwrap();
    root_with_a_module(folder.path());
    let program = release.unpack(folder.path()).join("ethtally");
    fs::rename(program, folder.path().join("ethtally")).unwrap();
    let mut chroot = Command::new("chroot");
    chroot.arg(folder.path()).args(["/ethtally", "refresh", "--retries", "0", "--rpc-url"]);
    chroot.args(["http://node.internal:1", "--database-url", "sqlite:/ethtally.db"]);
    let ran = chroot.arg("0x18aaa7115705e8be94bffebde57af9bfc265b998").output().unwrap();
    // The name is found; nothing listens there.
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(3) && error.contains("refused"), "{ran:?}");
}
