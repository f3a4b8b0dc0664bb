//! Tests of postgres.

use std::{net::TcpStream, time::Instant};

use super::*;

const FOLDER_OF_THE_KILLED: &str = "ETHTALLY_TESTBED_KILLED";

#[test]
fn databases_are_separate_and_have_their_own_settings() {
    let cluster = shared();
    let one = cluster.create_database("Wallets of A-1").unwrap();
    let two = cluster
        .create_database_with(
            "wallets",
            &DatabaseOptions {
                locale: Some("C.UTF-8"),
                settings: &[("timezone", "America/New_York"), ("work_mem", "8MB")],
            },
        )
        .unwrap();
    assert_ne!(one, two);

    psql(
        &one,
        "CREATE TABLE wallets (id int, name text); INSERT INTO wallets VALUES (1, 'a'), (2, NULL);",
    )
    .unwrap();
    assert_eq!(psql(&one, "SELECT * FROM wallets ORDER BY id").unwrap(), "1|a\n2|");
    assert_eq!(psql(&one, "SHOW timezone").unwrap(), "UTC");

    let missing = psql(&two, "SELECT 1 FROM wallets; SELECT 2;").unwrap_err().to_string();
    assert!(missing.contains(r#"relation "wallets" does not exist"#), "{missing}");
    assert_eq!(psql(&two, "SHOW timezone; SHOW work_mem").unwrap(), "America/New_York\n8MB");
    let collation = "SELECT datcollate FROM pg_database WHERE datname = current_database()";
    assert_eq!(psql(&two, collation).unwrap(), "C.UTF-8");
}

#[test]
fn psql_reads_and_writes_more_than_a_pipe_buffer() {
    let url = shared().create_database("wide").unwrap();
    let long = "x".repeat(1_000_000);
    let rows = psql(&url, &format!("SELECT '{long}';\nSELECT '{long}';\nSELECT 3;")).unwrap();
    assert_eq!(rows, format!("{long}\n{long}\n3"));
}

#[test]
fn restart_keeps_committed_data_and_the_port() {
    let cluster = Cluster::start().unwrap();
    let url = cluster.create_database("kept").unwrap();
    psql(&url, "CREATE TABLE t (id int)").unwrap();
    for round in 1..=3 {
        psql(&url, &format!("INSERT INTO t VALUES ({round})")).unwrap();
        cluster.restart().unwrap();
        assert_eq!(psql(&url, "SELECT count(*) FROM t").unwrap(), round.to_string());
    }
    cluster.stop().unwrap();
    psql(&url, "SELECT 1").unwrap_err();
    cluster.stop().unwrap();
    cluster.restart().unwrap();
    assert_eq!(psql(&url, "SELECT count(*) FROM t").unwrap(), "3");
}

#[test]
fn settings_override_the_defaults() {
    let cluster = Cluster::start_with(&[("fsync", "on"), ("search_path", "o'clock")]).unwrap();
    let url = cluster.url("postgres");
    assert_eq!(
        psql(&url, "SHOW fsync; SHOW search_path; SHOW max_connections").unwrap(),
        "on\no'clock\n200"
    );

    let error = Cluster::start_with(&[("max_connections", "many")]).unwrap_err().to_string();
    assert!(error.contains("max_connections"), "{error}");
}

#[test]
fn a_role_with_a_password_needs_it() {
    let cluster = shared();
    let url = cluster.url_with_password("tally user", "p@ss/w:rd'%").unwrap();
    assert_eq!(psql(&url, "SELECT current_user").unwrap(), "tally user");
    psql(&url, "CREATE TABLE owned (id int)").unwrap();

    let wrong = url.replace("%25@", "@");
    let refused = psql(&wrong, "SELECT 1").unwrap_err().to_string();
    assert!(refused.contains("password authentication failed"), "{refused}");

    let again = cluster.url_with_password("tally user", "other").unwrap();
    assert_eq!(psql(&again, "SELECT 1").unwrap(), "1");
    psql(&url, "SELECT 1").unwrap_err();
}

#[test]
fn dropping_it_leaves_nothing() {
    let cluster = Cluster::start().unwrap();
    let traces = Traces::of(cluster.folder());
    assert!(traces.all_there());
    drop(cluster);
    assert!(traces.all_gone());
}

#[test]
fn a_panic_leaves_nothing() {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let cluster = Cluster::start().unwrap();
        sender.send(Traces::of(cluster.folder())).unwrap();
        std::panic::resume_unwind(Box::new("as a failing test does"));
    })
    .join()
    .unwrap_err();
    assert!(receiver.recv().unwrap().all_gone());
}

#[test]
fn killing_the_process_leaves_nothing() {
    let note = std::env::temp_dir().join(format!("ethtally-killed-{}", std::process::id()));
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "postgres::tests::starts_a_cluster_and_waits_to_be_killed", "--ignored"])
        .env(FOLDER_OF_THE_KILLED, &note)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let folder = within(Duration::from_secs(60), || {
        fs::read_to_string(&note).ok().filter(|text| text.ends_with('\n'))
    })
    .expect("the process starts a cluster");
    fs::remove_file(&note).unwrap();
    let traces = Traces::of(Path::new(folder.trim_end()));
    assert!(traces.all_there());

    process.kill().unwrap();
    process.wait().unwrap();
    within(Duration::from_secs(20), || traces.all_gone().then_some(()))
        .expect("everything is removed");
}

#[test]
#[ignore = "the process that killing_the_process_leaves_nothing starts and kills"]
fn starts_a_cluster_and_waits_to_be_killed() {
    let Some(note) = std::env::var_os(FOLDER_OF_THE_KILLED) else {
        return;
    };
    fs::write(note, format!("{}\n", shared().folder().display())).unwrap();
    thread::sleep(Duration::from_secs(60));
}

struct Traces {
    folder: PathBuf,
    process: PathBuf,
    port: u16,
}

impl Traces {
    fn of(folder: &Path) -> Self {
        let file = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        Self {
            folder: folder.to_owned(),
            process: Path::new("/proc").join(lines[0]),
            port: lines[3].parse().unwrap(),
        }
    }

    fn each(&self) -> [bool; 3] {
        let listening = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        [self.folder.exists(), self.process.exists(), listening]
    }

    fn all_there(&self) -> bool {
        self.each() == [true; 3]
    }

    fn all_gone(&self) -> bool {
        self.each() == [false; 3]
    }
}

fn within<T>(time: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        match look() {
            None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            seen => return seen,
        }
    }
}
