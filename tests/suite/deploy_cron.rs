//! `cron/crontab` and `cron/logrotate.conf`, run by Debian's cron and logrotate.

use std::{collections::BTreeSet, fs, process::Command};

use ethtally_testbed::stub::Stub;

use crate::support::{
    broken::Broken,
    cron::{Cron, Machine},
};

/// A machine with a name, its mails expected as `command status`.
struct Case {
    name: &'static str,
    machine: Machine,
    mails: &'static [&'static str],
}

/// The line that is offered in the crontab, and as it is taken.
const OFFER: &str = "\n# * * * * * eval";
const TAKEN: &str = "\n* * * * * eval";
/// The machines on which it is.
const FOLLOWS: [&str; 2] = ["healthy, with watch --once", "no node, with watch --once"];

fn settings(broken: &Broken) -> String {
    format!("ETH_RPC_URL={}\nDATABASE_URL={}\n", broken.node, broken.database.url)
}

/// Each way in which a broken sweep would stay green for a day is mailed, once, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn cron_mails_what_is_wrong_once() {
    let healthy = Broken::not().await;
    let skipped = Broken::skipped().await;
    let empty = Broken::empty().await;
    let cut_short = Broken::cut_short().await;
    let partly = Broken::partly_failing().await;
    let drifted = Broken::drifted().await;
    let (followed, unfollowed) = (Broken::not().await, Broken::not().await);
    let [down_long, down_briefly] = [Broken::stale().await, Broken::stale().await];
    let database = |broken: &Broken| format!("DATABASE_URL={}\n", broken.database.url);
    let down = format!("ETH_RPC_URL={}\nETHTALLY_RETRIES=0\n", Stub::dead());
    let case = |name, machine, mails| Case { name, machine, mails };
    let cases = [
        case("healthy", Machine::with(&settings(&healthy)), &[][..]),
        case(
            "skipped for 20 minutes",
            Machine::with(&settings(&skipped)).succeeded("sweep", 20),
            &["status 1", "sweep 5"],
        ),
        case(
            "skipped for 5 minutes",
            Machine::with(&settings(&skipped)).succeeded("sweep", 5),
            &["status 1"],
        ),
        case("empty", Machine::with(&settings(&empty)), &["status 1", "verify 1"]),
        case("no node", Machine::with(&database(&healthy)), &["sweep 2", "verify 2"]),
        case(
            "no database",
            Machine::with(&format!("ETH_RPC_URL={}\n", healthy.node)),
            &["status 2", "sweep 2", "verify 2"],
        ),
        case(
            "cut short",
            Machine::with(&(settings(&cut_short) + "ETHTALLY_CHUNK=1\nETHTALLY_CONCURRENCY=1\n"))
                .edit("--max-duration 50s", "--max-duration 3s"),
            &["status 1"],
        ),
        case("partly failing", Machine::with(&settings(&partly)), &["status 1"]),
        case("drifted", Machine::with(&settings(&drifted)), &["verify 1"]),
        case(
            "node down",
            Machine::with(&(down.clone() + &database(&down_long))).succeeded("sweep", 20),
            &["status 1", "sweep 3", "verify 3"],
        ),
        case(
            "node down for a moment",
            Machine::with(&(down + &database(&down_briefly))).succeeded("sweep", 5),
            &["status 1", "verify 3"],
        ),
        case(FOLLOWS[0], Machine::with(&settings(&followed)).edit(OFFER, TAKEN), &[]),
        case(
            FOLLOWS[1],
            Machine::with(&database(&unfollowed)).edit(OFFER, TAKEN),
            &["sweep 2", "verify 2", "watch 2"],
        ),
    ];
    let machines: Vec<_> = cases.iter().map(|case| &case.machine).collect();
    let mut cron = Cron::start(&machines);
    let runs = |machine: &Machine, command: &str| {
        let results = machine.results();
        results.matches(&format!("{{\"command\":\"{command}\"")).count()
    };
    cron.until("every line has run twice", |_| {
        let twice = |Case { name, machine, .. }: &Case| {
            let watch = FOLLOWS.contains(name).then_some("watch");
            let commands = ["sweep", "verify", "status"].into_iter().chain(watch);
            commands.into_iter().all(|command| runs(machine, command) >= 2)
        };
        cases.iter().all(twice)
    });
    let mails = cron.mails();
    for Case { name, machine, mails: expected } in &cases {
        let home = format!("HOME={}", machine.home.path().display());
        let mine: Vec<_> = mails.iter().filter(|mail| mail.contains(&home)).collect();
        let said = |mail: &&String| {
            let body = mail.split_once("\n\n").expect("a body").1;
            let first = body.lines().next().expect("a line");
            let (command, status) = first.split_once(": exit status ").expect("what is wrong");
            let command = command.split(' ').nth(1).expect("a command");
            // The result is shown too.
            assert!(body.contains(&format!("{{\"command\":\"{command}\"")), "{body}");
            format!("{command} {status}")
        };
        let seen: Vec<_> = mine.iter().map(said).collect::<BTreeSet<_>>().into_iter().collect();
        assert_eq!(seen, *expected, "{name}: {mine:#?}\n{}", machine.results());
        assert_eq!(mine.len(), expected.len(), "once each: {name}: {mine:#?}");
    }
    let results =
        |name: &str| cases.iter().find(|case| case.name == name).expect("a case").machine.results();
    assert!(results("cut short").contains("\"outcome\":\"cut_short\""), "{}", results("cut short"));
    for name in ["healthy", FOLLOWS[0]] {
        assert!(!results(name).contains("\"error\":\""), "{}", results(name));
    }
}

#[test]
fn results_are_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = fs::read_to_string("cron/logrotate.conf").unwrap();
    let owner = |format: &str| {
        let output = Command::new("id").arg(format).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let config = config
        .replace("/var/lib/ethtally", &folder.path().display().to_string())
        .replace("su ethtally ethtally", &format!("su {} {}", owner("-un"), owner("-gn")));
    fs::write(at("config"), config).unwrap();
    for round in 1..=3 {
        fs::write(at("ethtally.json"), format!("{{\"round\":{round}}}\n")).unwrap();
        let rotated = Command::new("logrotate")
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .args(["--force", "--state"])
            .args([at("state"), at("config")])
            .output()
            .expect("logrotate is missing; run tests/testbed/install-cron");
        assert!(rotated.status.success(), "{rotated:?}");
        assert!(!at("ethtally.json").exists(), "the next run creates it");
    }
    for number in 1..=3 {
        assert!(at(&format!("ethtally.json.{number}.gz")).is_file(), "{number}");
    }
}
