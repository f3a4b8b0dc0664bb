//! What clients and files cannot do: keep a probe out, or be read by others.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{
    chains::still_chain,
    database::Database,
    program::{ethtally, eventually},
    table::store_unread,
    wallets::address,
    watch::{get, served_at, start_connected, watch},
};

/// Whether the server has ended this connection.
fn has_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let _ = stream.write(b"x");
    match stream.read(&mut [0; 1024]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_keep_no_probe_out_and_lose_their_connections() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let node = still_chain().await.url().to_owned();
    let watching = start_connected(watch("--listen 127.0.0.1:0", node, &database));
    let listens_at = served_at(&watching);
    let mut clients = Vec::new();
    for n in 0..1_100 {
        let mut client = TcpStream::connect(&listens_at).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        if n % 2 == 0 {
            let _ = client.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ");
        }
        clients.push(client);
        if n % 100 == 99 {
            assert_ne!(get(&listens_at, "/healthz").status, 0);
        }
    }
    let open = || clients.iter().filter(|client| !has_ended(client)).count();
    eventually("at most 100 connections", || open() <= 100);
    assert_ne!(get(&listens_at, "/metrics").status, 0);
    // Each of them is sent a byte at every look.
    eventually("no slow client is connected", || open() == 0);
    assert_ne!(get(&listens_at, "/healthz").status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn database_files_are_made_for_the_owner_and_those_that_exist_keep_their_mode() {
    let database = Database::sqlite();
    let mode = |name: &fs::DirEntry| name.metadata().unwrap().permissions().mode() & 0o777;
    let node = still_chain().await.url().to_owned();
    let watching = start_connected(watch("--track all", node.clone(), &database));
    let files = fs::read_dir(database.folder()).unwrap().map(Result::unwrap);
    let modes: Vec<_> = files.map(|file| (file.file_name(), mode(&file))).collect();
    assert!(modes.len() >= 3, "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
    drop(watching);
    for file in fs::read_dir(database.folder()).unwrap().map(Result::unwrap) {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o664)).unwrap();
    }
    ethtally(["refresh", &address(0)]).node(node).database(&database).run().expect(0);
    for file in fs::read_dir(database.folder()).unwrap().map(Result::unwrap) {
        assert_eq!(mode(&file), 0o664, "{file:?}");
    }
}
