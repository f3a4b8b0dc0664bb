//! One profile a table: the first run that stores something records its profile, and runs of another one are refused.

use std::{fs, path::PathBuf};

use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, STAKING},
};

use crate::support::{
    chains::still_chain,
    database::{Database, on_both_databases},
    original::original_database,
    program::{Ethtally, Output, ethtally},
    table::{dump, read_wallets},
    wallets::{address, address_lines, addresses},
};

on_both_databases! {
    a_run_of_another_profile_is_refused_whatever_the_command
    a_renamed_profile_and_another_notation_are_the_same
    commands_that_only_read_record_nothing
    a_run_that_stores_nothing_records_nothing
    the_profile_is_replaced_with_adopt_profile_only
    another_chain_can_be_adopted
    of_two_first_runs_one_wins
}

/// A profile on this chain that sums these reads.
fn profile(chain: u64, reads: &[(String, &str)]) -> String {
    let reads: String = reads
        .iter()
        .map(|(contract, function)| {
            format!("[[read]]\ncontract = \"{contract}\"\nfunction = \"{function}\"\n")
        })
        .collect();
    format!(
        "name = \"points\"\nchain_id = {chain}\nsymbol = \"POINT\"\ndecimals = 6\n\
         checkpoint = \"point_transfers\"\n{reads}\
         [[event]]\ncontract = \"{AUDIO}\"\n\
         event = \"Transfer(address indexed from, address indexed to, uint256 value)\"\n\
         wallets = [\"from\", \"to\"]\n"
    )
}

fn held() -> (String, &'static str) {
    (AUDIO.to_string(), "balanceOf(address)")
}

fn staked() -> (String, &'static str) {
    (STAKING.to_string(), "totalStakedFor(address)")
}

/// Writes a profile into the test's folder; returns its path.
fn written(database: &Database, name: &str, text: &str) -> PathBuf {
    let file = database.folder().join(name);
    fs::write(&file, text).unwrap();
    file
}

fn with(
    profile: &std::path::Path,
    database: &Database,
    node: &str,
    arguments: &[&str],
) -> Ethtally {
    let ran =
        ethtally(arguments.iter().copied()).env("ETHTALLY_PROFILE", profile.to_str().unwrap());
    ran.node(node).database(database).input(address_lines(0..5))
}

async fn recorded(database: &Database) -> Vec<String> {
    database.sql("select name from eth_wallet_profile").await
}

async fn a_run_of_another_profile_is_refused_whatever_the_command(database: Database) {
    let chain = still_chain().await;
    let backfill = ethtally(["backfill", "--from-csv", "-"]).input(address_lines(0..5));
    backfill.node(chain.url()).database(&database).run().expect(0);
    assert_eq!(recorded(&database).await, ["audius"]);
    let other = written(&database, "p.toml", &profile(1, &[held(), staked()]));
    let before = dump(&database).await;
    let wallet = address(1);
    for command in [
        &["sweep"][..],
        &["sweep", "--all", "--dry-run"],
        &["refresh", &wallet],
        &["backfill", "--from-csv", "-"],
        &["backfill", "--from-csv", "-", "--placeholders"],
        &["verify", &wallet],
        &["verify", "--sample", "3"],
        &["verify", &wallet, "--fix"],
        &["watch"],
        &["watch", "--track", "all"],
        &["status"],
    ] {
        let ran = with(&other, &database, &chain.url(), command).run().expect(2);
        let error = ran.error();
        for word in [
            "profile \"audius\", not of \"points\"",
            "with getTotalDelegatorStake(address) of 0x",
            "--profile",
            "--database-url",
            "`ethtally migrate --adopt-profile`",
        ] {
            assert!(error.contains(word), "{command:?}: {error}");
        }
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    assert_eq!(dump(&database).await, before);
    assert_eq!(recorded(&database).await, ["audius"]);
    // Another chain is named, too, without a node.
    let other = written(&database, "p.toml", &profile(5, &[held(), staked()]));
    let ran = with(&other, &database, "http://127.0.0.1:1", &["refresh", &wallet]).run().expect(2);
    assert!(ran.error().contains("(chain 1, not 5, "), "{ran:?}");
    // The profile of the table still serves.
    for command in [&["sweep"][..], &["refresh", &wallet], &["status"]] {
        ethtally(command.iter().copied()).node(chain.url()).database(&database).run().expect(0);
    }
}

async fn a_renamed_profile_and_another_notation_are_the_same(database: Database) {
    let chain = still_chain().await;
    let first = written(&database, "first.toml", &profile(1, &[held(), staked()]));
    with(&first, &database, &chain.url(), &["backfill", "--from-csv", "-"]).run().expect(0);
    let (contract, function) = held();
    let lower = (contract.to_lowercase(), function);
    let text = profile(1, &[staked(), lower])
        .replace("\"points\"", "\"renamed\"")
        .replace("decimals = 6", "decimals = 8\nmax_head_age = \"3h\"");
    let text = &text[..text.find("[[event]]").unwrap()];
    let second = written(&database, "second.toml", text);
    for command in [&["sweep", "--all"][..], &["verify", "--sample", "5"], &["status"]] {
        with(&second, &database, &chain.url(), command).run().expect(0);
    }
    assert_eq!(recorded(&database).await, ["points"]);
}

async fn commands_that_only_read_record_nothing(database: Database) {
    let chain = still_chain().await;
    let other = written(&database, "p.toml", &profile(1, &[held()]));
    ethtally(["migrate"]).database(&database).run().expect(0);
    with(&other, &database, &chain.url(), &["status"]).run().expect(0);
    with(&other, &database, &chain.url(), &["verify", &address(1)]).run().expect(1);
    with(&other, &database, &chain.url(), &["sweep", "--dry-run"]).run().expect(0);
    assert!(recorded(&database).await.is_empty());
    // Not even if the tables are complete but for this row, as after an upgrade.
    let refresh = ethtally(["refresh", &address(1)]);
    refresh.node(chain.url()).database(&database).run().expect(0);
    assert_eq!(recorded(&database).await, ["audius"]);
}

async fn a_run_that_stores_nothing_records_nothing(database: Database) {
    // The wrong profile for this node: no one would want the table to be of it.
    let chain = still_chain().await;
    let other = written(&database, "p.toml", &profile(5, &[held()]));
    with(&other, &database, &chain.url(), &["refresh", &address(1)]).run().expect(2);
    with(&other, &database, &chain.url(), &["watch"]).run().expect(2);
    assert!(recorded(&database).await.is_empty());
    let refresh = ethtally(["refresh", &address(1)]);
    refresh.node(chain.url()).database(&database).run().expect(0);
    assert_eq!(recorded(&database).await, ["audius"]);
}

async fn the_profile_is_replaced_with_adopt_profile_only(database: Database) {
    let chain = still_chain().await;
    let first = written(&database, "first.toml", &profile(1, &[held(), staked()]));
    let second =
        written(&database, "second.toml", &profile(1, &[held()]).replace("points", "held"));
    let run = |profile: &PathBuf, command: &[&str], status| -> Output {
        with(profile, &database, &chain.url(), command).run().expect(status)
    };
    run(&first, &["backfill", "--from-csv", "-"], 0);
    let read = "select count(*) from eth_wallet_balances where read_block is not null";
    run(&second, &["migrate"], 0);
    run(&second, &["sweep"], 2);
    let ran = run(&second, &["migrate", "--adopt-profile", "--json"], 0);
    assert_eq!(ran.json()["adopted_profile"], "held");
    assert!(ran.stderr.contains("rows have totals of profile \"points\""), "{ran:?}");
    assert_eq!(database.value(read).await, "5");
    run(&first, &["sweep"], 2);
    run(&second, &["sweep", "--all"], 0);
    run(&second, &["verify", "--sample", "5"], 0);
    // Again it changes nothing.
    let ran = run(&second, &["migrate", "--adopt-profile"], 0);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("migrate complete: the tables were up to date; profile: held\n", "")
    );
}

async fn another_chain_can_be_adopted(database: Database) {
    let first = still_chain().await;
    let backfill = ethtally(["backfill", "--from-csv", "-"]).input(address_lines(0..5));
    backfill.node(first.url()).database(&database).run().expect(0);
    // Its blocks have far lower numbers.
    database.sql("update eth_wallet_balances set read_block = 21000000").await;
    let chain = Chain::builder().chain_id(5).start().await.unwrap();
    let other = written(&database, "p.toml", &profile(5, &[held()]));
    let run = |command: &[&str]| with(&other, &database, &chain.url(), command).run().expect(0);
    run(&["migrate", "--adopt-profile"]);
    let ran = run(&["sweep", "--all", "--json"]).json();
    assert_eq!((&ran["updated"], &ran["superseded"]), (&5.into(), &0.into()));
    run(&["verify", "--sample", "5"]);
}

async fn of_two_first_runs_one_wins(database: Database) {
    let chain = still_chain().await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    for round in 0..5 {
        let started: Vec<_> = [0, 1, 2, 3]
            .into_iter()
            .map(|n| {
                let reads = [held(), staked()];
                let text = profile(1, &reads[..1 + n % 2]).replace("points", &format!("points{n}"));
                let file = written(&database, &format!("{round}-{n}.toml"), &text);
                with(&file, &database, &chain.url(), &["backfill", "--from-csv", "-"]).start()
            })
            .collect();
        let mut statuses: Vec<_> = started.into_iter().map(|run| run.wait().status).collect();
        let winner = recorded(&database).await;
        assert_eq!(winner.len(), 1);
        let even = winner[0] == "points0" || winner[0] == "points2";
        assert_eq!(statuses.len(), 4);
        let others: Vec<_> = (0..4).filter(|n| (n % 2 == 0) != even).collect();
        for n in others {
            assert_eq!(std::mem::replace(&mut statuses[n], 0), 2, "round {round}");
        }
        assert_eq!(statuses, [0; 4], "round {round}");
        assert_eq!(read_wallets(&database).await, addresses(0..5));
        database.sql("delete from eth_wallet_profile").await;
        database.sql("delete from eth_wallet_balances").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_from_before_is_of_the_first_profile_that_writes() {
    let chain = still_chain().await;
    let database = original_database(&format!(
        "insert into eth_wallet_balances (wallet, balance) values ('{}', 5)",
        address(1)
    ));
    ethtally(["migrate"]).database(&database).run().expect(0);
    assert!(recorded(&database).await.is_empty());
    let other = written(&database, "p.toml", &profile(1, &[held()]));
    with(&other, &database, &chain.url(), &["sweep"]).run().expect(0);
    assert_eq!(recorded(&database).await, ["points"]);
    let ran = ethtally(["sweep"]).node(chain.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("profile \"points\", not of \"audius\""), "{ran:?}");
}
