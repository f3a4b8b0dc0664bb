//! How fresh a row is: the newer of its own write and the confirmation of its bucket, wherever it is asked for.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Timelike, Utc};
use ethtally_testbed::Chain;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{
    chains::{still_chain, transfer, wide_chain},
    database::{Database, on_both_databases},
    metrics::Metrics,
    program::{Ethtally, ethtally, eventually},
    table::store_unread,
    verify::{set_balance, verify},
    wallets::{address, random_seed},
    watch::{served_at, start, watch},
};
use alloy::primitives::U256;

on_both_databases! {
    status_says_what_a_pass_over_the_view_finds
    status_of_a_large_table_says_the_same
    the_view_finds_a_wallet_by_an_index
    verify_says_when_a_row_was_last_read
    a_row_is_compared_where_it_was_confirmed
    an_endpoint_far_behind_the_confirmations_is_passed_over
    a_dry_run_says_what_a_sweep_then_reads
    a_sweep_takes_what_was_not_confirmed_for_longest
    a_sweep_takes_every_bucket_however_uneven_they_are
    watch_serves_when_the_stalest_row_was_confirmed
    an_adopted_profile_takes_confirmations_back
}

/// A row as it is written, and how fresh it is.
struct StoredRow {
    wallet: String,
    updated_at: NaiveDateTime,
    created_at: NaiveDateTime,
    is_failing: bool,
}

/// A bucket, and when it was confirmed; `None` for never.
type Confirmations = Vec<(String, Option<NaiveDateTime>)>;

fn text(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.f").to_string()
}

impl StoredRow {
    /// Of any age that is not near the end of an age band.
    fn random(random: &mut StdRng, now: NaiveDateTime, confirmations: &Confirmations) -> Self {
        let digits: String = (0..40).map(|_| format!("{:x}", random.random_range(0..16))).collect();
        let wallet = format!("0x{digits}");
        let confirmed = confirmed(confirmations, &wallet).unwrap_or_else(|| age(random, now));
        let ms = TimeDelta::milliseconds(random.random_range(1..1_000));
        let updated_at = match random.random_range(0..8) {
            0 => DateTime::UNIX_EPOCH.naive_utc(),
            1 => confirmed,
            2 => confirmed + ms,
            3 => confirmed - ms,
            _ => age(random, now) + ms,
        };
        let created_at = match random.random_range(0..4) {
            0 => confirmed + ms,
            1 => confirmed,
            _ => now - TimeDelta::days(100),
        };
        Self { wallet, updated_at, created_at, is_failing: random.random_range(0..8) == 0 }
    }

    fn fresh_at(&self, confirmations: &Confirmations) -> NaiveDateTime {
        let second = |time: NaiveDateTime| time.with_nanosecond(0).unwrap();
        match confirmed(confirmations, &self.wallet) {
            Some(confirmed)
                if !self.is_failing
                    && second(self.updated_at) != DateTime::UNIX_EPOCH.naive_utc()
                    && self.updated_at < confirmed
                    && self.created_at < confirmed =>
            {
                confirmed
            }
            _ => self.updated_at,
        }
    }
}

fn confirmed(confirmations: &Confirmations, wallet: &str) -> Option<NaiveDateTime> {
    confirmations.iter().find(|(bucket, _)| wallet.starts_with(bucket))?.1
}

/// A time up to two weeks ago. The ends of age bands are whole minutes ago.
fn age(random: &mut StdRng, now: NaiveDateTime) -> NaiveDateTime {
    now - TimeDelta::minutes(random.random_range(0..20_000_i64)) - TimeDelta::seconds(30)
}

fn buckets(digits: usize) -> impl Iterator<Item = String> {
    (0..16_u32.pow(digits as u32)).map(move |n| format!("0x{n:0digits$x}"))
}

/// Stores what was confirmed, at block 7.
async fn confirm(database: &Database, confirmations: &Confirmations) {
    database.sql("delete from eth_wallet_confirmations").await;
    let row = |(bucket, time): &(String, Option<NaiveDateTime>)| match time {
        Some(time) => format!("('{bucket}', 7, '{}', 5)", text(*time)),
        None => format!("('{bucket}', null, null, null)"),
    };
    let rows: Vec<_> = confirmations.iter().map(row).collect();
    let insert =
        "insert into eth_wallet_confirmations (bucket, block, selected_at, wallets) values";
    database.sql(&format!("{insert} {}", rows.join(", "))).await;
}

/// How fresh the view says that rows are, by wallet.
async fn view(database: &Database) -> Vec<(String, NaiveDateTime)> {
    let rows =
        database.sql("select wallet, fresh_at from eth_wallet_freshness order by wallet").await;
    let row = |row: &String| {
        let (wallet, time) = row.split_once('|').expect("two columns");
        let time = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.f").expect("a time");
        (wallet.to_owned(), time)
    };
    rows.iter().map(row).collect()
}

/// Panics unless `status` says what these times say.
fn assert_status_is_of(database: &Database, mut fresh_at: Vec<NaiveDateTime>, seed: u64) {
    let metrics = database.folder().join("status.prom");
    let limit = 5_000 * 60;
    let arguments = ["status", "--json", "--max-age", "5000m", "--metrics-file"];
    let ran = ethtally(arguments.into_iter().chain(metrics.to_str())).database(database).run();
    let seen = ran.json();
    fresh_at.sort_unstable();
    let rows = fresh_at.len();
    // When it looked, to half a second. No age is as near as that to the end of a band.
    let oldest_age = seen["age_seconds"]["max"].as_i64().unwrap();
    let now = fresh_at[0] + TimeDelta::seconds(oldest_age) + TimeDelta::milliseconds(500);
    assert!((Utc::now().naive_utc() - now).num_seconds() < 60, "SEED={seed} {seen:#}");
    let age = |time: NaiveDateTime| (now - time).num_seconds();

    let first_day = NaiveDateTime::parse_from_str("1970-01-02 00:00:00", "%F %T").unwrap();
    let unread = fresh_at.iter().filter(|time| **time < first_day).count();
    assert_eq!((&seen["wallets"], &seen["never_read"]), (&json!(rows), &json!(unread)));
    let oldest = fresh_at[0].and_utc();
    let seen_oldest: DateTime<Utc> = seen["oldest_updated_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(seen_oldest, oldest, "SEED={seed}");
    for (name, rank) in [
        ("p50", rows - (rows * 5).div_ceil(10)),
        ("p90", rows - (rows * 9).div_ceil(10)),
        ("max", 0),
    ] {
        let expected = age(fresh_at[rank]);
        let seen = seen["age_seconds"][name].as_i64().unwrap();
        assert!((seen - expected).abs() <= 1, "SEED={seed} {name}: {seen}, not {expected}");
    }
    let mut from = -100;
    for band in seen["age_bands"].as_array().unwrap() {
        let under = band["under_seconds"].as_i64();
        let is_in = |time: &&NaiveDateTime| {
            age(**time) >= from && under.map_or(**time >= first_day, |under| age(**time) < under)
        };
        assert_eq!(band["wallets"], fresh_at.iter().filter(is_in).count(), "SEED={seed} {seen:#}");
        from = under.unwrap_or(0);
    }
    let stale = fresh_at.iter().filter(|time| age(**time) > limit).count();
    assert_eq!((&seen["stale"], ran.status), (&json!(stale), i32::from(stale > 0)));
    let metrics = Metrics::parse(&std::fs::read_to_string(metrics).unwrap());
    let oldest_read = fresh_at.get(unread).map(|time| time.and_utc().timestamp() as f64);
    assert_eq!(metrics.get("ethtally_oldest_row_timestamp_seconds"), oldest_read);
    assert_eq!(metrics.get("ethtally_stale_rows"), Some(stale as f64));
}

async fn status_says_what_a_pass_over_the_view_finds(database: Database) {
    let seed = random_seed();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..6 {
        let database = database.another();
        let (zone, utc) = match round % 2 {
            1 if !database.is_sqlite() => ("timestamptz", "+00"),
            _ => ("timestamp", ""),
        };
        let table = format!(
            "create table eth_wallet_balances (
                 wallet text primary key, balance {} not null default 0, blocknumber bigint,
                 updated_at {zone} not null default current_timestamp,
                 created_at {zone} not null default current_timestamp)",
            if database.is_sqlite() { "text" } else { "numeric" }
        );
        if zone == "timestamptz" {
            database.sql(&table).await;
        }
        ethtally(["migrate"]).database(&database).run().expect(0);
        let now = Utc::now().naive_utc().with_nanosecond(0).unwrap();
        let digits = random.random_range(1..=2);
        let confirmations: Confirmations = buckets(digits)
            .map(|bucket| {
                let is_confirmed = match round {
                    0 => false,
                    1 | 2 => true,
                    _ => random.random_range(0..4) > 0,
                };
                (bucket, is_confirmed.then(|| age(&mut random, now)))
            })
            .collect();
        let count = random.random_range(1..300);
        let rows: Vec<_> =
            (0..count).map(|_| StoredRow::random(&mut random, now, &confirmations)).collect();
        confirm(&database, &confirmations).await;
        let values: Vec<_> = rows
            .iter()
            .map(|StoredRow { wallet, updated_at, created_at, .. }| {
                let (updated_at, created_at) = (text(*updated_at), text(*created_at));
                format!("('{wallet}', '5', '{updated_at}{utc}', '{created_at}{utc}')")
            })
            .collect();
        let insert =
            "insert into eth_wallet_balances (wallet, balance, updated_at, created_at) values";
        database.sql(&format!("{insert} {}", values.join(", "))).await;
        for row in rows.iter().filter(|row| row.is_failing) {
            let failure = format!(
                "insert into eth_wallet_read_failures values ('{}', 1, 'no', '{}', '{}')",
                row.wallet,
                text(now),
                text(now)
            );
            database.sql(&failure).await;
        }

        let mut expected: Vec<_> =
            rows.iter().map(|row| (row.wallet.clone(), row.fresh_at(&confirmations))).collect();
        expected.sort_unstable();
        assert_eq!(view(&database).await, expected, "SEED={seed}, round {round}");
        let fresh_at = expected.into_iter().map(|(_, time)| time).collect();
        assert_status_is_of(&database, fresh_at, seed);
    }
}

/// More rows than are looked at one by one: written before and after the confirmations of their buckets, some never read,
/// some failing.
async fn status_of_a_large_table_says_the_same(database: Database) {
    ethtally(["migrate"]).database(&database).run().expect(0);
    let seed = random_seed();
    let mut random = StdRng::seed_from_u64(seed);
    for unconfirmed in [0, 3] {
        let now = Utc::now().naive_utc().with_nanosecond(0).unwrap();
        let confirmations: Confirmations = buckets(2)
            .enumerate()
            .map(|(n, bucket)| (bucket, (n >= unconfirmed).then(|| age(&mut random, now))))
            .collect();
        confirm(&database, &confirmations).await;
        database.sql("delete from eth_wallet_balances").await;
        database.sql("delete from eth_wallet_read_failures").await;
        let now = text(now);
        // Ages are whole minutes and a half, and seven weeks of them.
        let rows = match database.is_sqlite() {
            true => format!(
                "with recursive n (n) as (select 1 union all select n + 1 from n limit 120000)
                 insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
                 select '0x' || lower(hex(randomblob(20))), '5',
                     case when n % 10 = 0 then '1970-01-01 00:00:00'
                         else strftime('%Y-%m-%d %H:%M:%S', '{now}', format('-%d seconds', n * 7919 % 70000 * 60 + 30)) end,
                     '2020-01-01 00:00:00'
                 from n"
            ),
            false => format!(
                "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
                 select '0x' || md5(n::text) || substr(md5((-n)::text), 1, 8), 5,
                     case when n % 10 = 0 then timestamp '1970-01-01'
                         else timestamp '{now}' - interval '1 minute' * (n::bigint * 7919 % 70000) - interval '30 s' end,
                     '2020-01-01'
                 from generate_series(1, 120000) n"
            ),
        };
        database.sql(&rows).await;
        let failing = format!(
            "insert into eth_wallet_read_failures
             select wallet, 1, 'no', '{now}', '{now}' from eth_wallet_balances where wallet like '0x%77'"
        );
        database.sql(&failing).await;
        let fresh_at = view(&database).await.into_iter().map(|(_, time)| time).collect();
        assert_status_is_of(&database, fresh_at, seed);
    }
}

async fn the_view_finds_a_wallet_by_an_index(database: Database) {
    store_unread(&database, 0..1_000);
    let confirmations: Confirmations =
        buckets(2).map(|bucket| (bucket, Some(Utc::now().naive_utc()))).collect();
    confirm(&database, &confirmations).await;
    let explain = if database.is_sqlite() { "explain query plan" } else { "analyze; explain" };
    let query = format!(
        "{explain} select balance, fresh_at from eth_wallet_freshness where wallet = '{}'",
        address(5)
    );
    let plan = database.sql(&query).await.join("\n");
    let (by_index, whole) = match database.is_sqlite() {
        true => (["SEARCH stored USING", "SEARCH bucket USING"], "SCAN stored"),
        false => (
            ["Index Scan using eth_wallet_balances_pkey", "Index"],
            "Seq Scan on eth_wallet_balances",
        ),
    };
    assert!(by_index.iter().all(|part| plan.contains(part)) && !plan.contains(whole), "{plan}");
}

fn sweep_changed(database: &Database, node: &str, options: &[&str]) -> Ethtally {
    let sweep = ["sweep", "--write", "changed", "--json"];
    ethtally(sweep.into_iter().chain(options.iter().copied())).node(node).database(database)
}

/// In SQLite, a confirmation does not count for rows that were written in the same second.
async fn next_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
}

/// A chain whose wallets were read and confirmed: written at block 0, confirmed at block 3.
async fn confirmed_table(database: &Database, wallets: u64) -> Chain {
    let chain = Chain::builder().start().await.expect("a chain");
    store_unread(database, 0..wallets);
    sweep_changed(database, &chain.url(), &["--all"]).run().expect(0);
    next_second().await;
    chain.mine(3).await.unwrap();
    let ran = sweep_changed(database, &chain.url(), &["--all"]).run().expect(0).json();
    assert_eq!((&ran["unchanged"], &ran["updated"]), (&json!(wallets), &json!(0)));
    chain
}

async fn verify_says_when_a_row_was_last_read(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    let seen = verify(&database, &chain.url(), &["--json", &address(1)]).expect(1).json();
    assert_eq!(seen["fresh_at"], Value::Null, "{seen}");
    let chain = confirmed_table(&database, 3).await;
    chain.mine(1).await.unwrap();
    let seen = verify(&database, &chain.url(), &["--json", &address(1)]).expect(0).json();
    let confirmed = format!(
        "select selected_at from eth_wallet_confirmations where bucket = '{}'",
        &address(1)[..3]
    );
    let confirmed = database.value(&confirmed).await;
    let confirmed = NaiveDateTime::parse_from_str(&confirmed, "%Y-%m-%d %H:%M:%S%.f").unwrap();
    let fresh_at: DateTime<Utc> = seen["fresh_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(fresh_at.naive_utc(), confirmed);
    assert_eq!((&seen["fresh_block"], &seen["stored_read_block"]), (&json!(3), &json!(0)));
    assert_ne!(seen["updated_at"], seen["fresh_at"]);
    let said = verify(&database, &chain.url(), &[&address(1)]).expect(0).stdout;
    assert!(said.contains(" at block 3, 20"), "{said}");
}

async fn a_row_is_compared_where_it_was_confirmed(database: Database) {
    let chain = confirmed_table(&database, 100).await;
    let seen = verify(&database, &chain.url(), &["--json", "--block=2", &address(1)]).expect(2);
    assert!(seen.error().contains("--block 2 is older than the read at block 3"), "{seen:?}");
    transfer(&chain, 90, 91, U256::from(7)).await;
    let seen = verify(&database, &chain.url(), &[&address(90)]).expect(1).stdout;
    assert!(seen.contains("moved: the stored total was right at block 3"), "{seen}");
    let seen = verify(&database, &chain.url(), &["--json", "--sample", "100"]).expect(1).json();
    assert_eq!((&seen["moved"], &seen["wrong"]), (&json!(2), &json!(0)));
    // As if the confirmation had been wrong.
    set_balance(&database, 95, "1").await;
    let seen = verify(&database, &chain.url(), &[&address(95)]).expect(1).stdout;
    assert!(seen.contains("wrong: the total at block 3, where it was read, is"), "{seen}");
}

async fn an_endpoint_far_behind_the_confirmations_is_passed_over(database: Database) {
    let behind = Chain::builder().start().await.unwrap();
    behind.mine_every(150, 12).await.unwrap();
    store_unread(&database, 0..10);
    sweep_changed(&database, &behind.url(), &["--all"]).run().expect(0);
    next_second().await;
    let ahead = Chain::builder().start().await.unwrap();
    ahead.mine_every(650, 12).await.unwrap();
    let ran = sweep_changed(&database, &ahead.url(), &["--all"]).run().expect(0).json();
    assert_eq!((&ran["unchanged"], &ran["block"]), (&json!(10), &json!(650)));
    let refresh = ethtally(["refresh", &address(1)]).without("ETHTALLY_MAX_HEAD_AGE");
    let ran = refresh.node(behind.url()).database(&database).run().expect(3);
    let says = "the newest block, 150, is 500 blocks, about 1h 40m, behind the newest block";
    assert!(ran.error().contains(says), "{}", ran.error());
}

async fn a_dry_run_says_what_a_sweep_then_reads(database: Database) {
    let chain = confirmed_table(&database, 600).await;
    next_second().await;
    // Some were never read, some rows are younger than their bucket's confirmation.
    store_unread(&database, 600..640);
    ethtally(["refresh", &address(1), &address(2)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);
    let hour = "strftime('%Y-%m-%d %H:%M:%S', 'now', '-1 hour')";
    let hour =
        if database.is_sqlite() { hour } else { "now() at time zone 'utc' - interval '1 hour'" };
    for write in ["all", "changed"] {
        let confirmed = format!(
            "update eth_wallet_confirmations set selected_at = {hour} where bucket < '0x8'"
        );
        let rows = format!(
            "update eth_wallet_balances set updated_at = {hour} where wallet < '0x9' and updated_at > '1970-01-02'"
        );
        database.sql(&confirmed).await;
        database.sql(&rows).await;
        for options in [
            &["--all"][..],
            &["--older-than", "30m", "--all"],
            &["--batch", "10"],
            &["--batch", "100"],
            &["--shard", "0/2", "--all"],
            &["--older-than", "2h", "--all"],
        ] {
            let options = [options, &["--write", write]].concat();
            let sweep = |more: &[&str]| {
                let arguments = [&["sweep", "--json"], &options[..], more].concat();
                ethtally(arguments).node(chain.url()).database(&database).run().expect(0).json()
            };
            let planned = sweep(&["--dry-run"])["wallets"].clone();
            assert_eq!(sweep(&[])["requested"], planned, "{options:?}");
            // As it was.
            database.sql(&confirmed).await;
            database.sql(&rows).await;
        }
        store_unread(&database, 640..700);
    }
}

async fn a_sweep_takes_what_was_not_confirmed_for_longest(database: Database) {
    let chain = confirmed_table(&database, 600).await;
    let old = "update eth_wallet_confirmations set selected_at = '2026-01-02 00:00:00' where bucket = '0x7'";
    database.sql(old).await;
    let rows = "update eth_wallet_balances set updated_at = '2026-01-01 00:00:00'";
    database.sql(rows).await;
    let stale = "select count(*) from eth_wallet_freshness where fresh_at < '2026-01-03'";
    let stale: u64 = database.value(stale).await.parse().unwrap();
    assert!(stale > 10, "{stale}");
    let status =
        |age: &str| ethtally(["status", "--json", "--max-age", age]).database(&database).run();
    assert_eq!(status("1h").expect(1).json()["stale"], stale);
    // Other rows are of that day, too, but were confirmed since.
    let ran =
        sweep_changed(&database, &chain.url(), &["--older-than", "1h"]).run().expect(0).json();
    assert_eq!(ran["requested"], stale);
    assert_eq!(status("1h").expect(0).json()["stale"], 0);
    let ran =
        sweep_changed(&database, &chain.url(), &["--older-than", "1h"]).run().expect(0).json();
    assert_eq!(ran["requested"], 0);
}

async fn a_sweep_takes_every_bucket_however_uneven_they_are(database: Database) {
    ethtally(["migrate"]).database(&database).run().expect(0);
    confirm(&database, &buckets(1).map(|bucket| (bucket, None)).collect()).await;
    // More than a page in buckets that are selected at once after those with a row each.
    let mut rows = Vec::new();
    for n in 0..16 {
        rows.extend((0..if n < 8 { 1 } else { 1_500 }).map(|i| format!("('0x{n:x}{i:039x}')")));
    }
    database.sql("create table new_wallets (wallet text)").await;
    database.sql(&format!("insert into new_wallets values {}", rows.join(", "))).await;
    let insert = "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
         select wallet, '5', '2020-01-01 00:00:00', '2020-01-01 00:00:00' from new_wallets";
    database.sql(insert).await;
    let chain = wide_chain().await;
    let planned = sweep_changed(&database, &chain.url(), &["--all", "--dry-run"]).run().expect(0);
    let ran = sweep_changed(&database, &chain.url(), &["--all"]).run().expect(0);
    assert_eq!(ran.json()["requested"], rows.len());
    assert_eq!(planned.json()["wallets"], rows.len());
    let left = "select count(*) from eth_wallet_confirmations where block is null";
    assert_eq!(database.value(left).await, "0");
}

async fn watch_serves_when_the_stalest_row_was_confirmed(database: Database) {
    let chain = confirmed_table(&database, 20).await;
    database.sql("update eth_wallet_balances set updated_at = '2026-01-01 00:00:00'").await;
    let oldest = "select min(fresh_at) from eth_wallet_freshness";
    let oldest = database.value(oldest).await;
    let oldest = NaiveDateTime::parse_from_str(&oldest, "%Y-%m-%d %H:%M:%S%.f").unwrap();
    let watching = start(watch("--listen 127.0.0.1:0", chain.url(), &database));
    let at = served_at(&watching);
    let name = "ethtally_oldest_row_timestamp_seconds";
    eventually("it has looked", || Metrics::of(&at).get(name).is_some());
    assert_eq!(Metrics::of(&at).get(name), Some(oldest.and_utc().timestamp() as f64));
    watching.stop();
}

async fn an_adopted_profile_takes_confirmations_back(database: Database) {
    let chain = confirmed_table(&database, 20).await;
    let profile = ethtally(["profile"]).run().expect(0).stdout;
    // One part less.
    let last = profile.rfind("[[read]]").expect("reads");
    let events = profile.find("[[event]]").expect("events");
    let file = database.folder().join("other.toml");
    std::fs::write(&file, format!("{}{}", &profile[..last], &profile[events..])).unwrap();
    let run = |arguments: &[&str]| {
        let ran =
            ethtally(arguments.iter().copied()).env("ETHTALLY_PROFILE", file.to_str().unwrap());
        ran.node(chain.url()).database(&database).run()
    };
    run(&["sweep", "--write", "changed"]).expect(2);
    run(&["migrate", "--adopt-profile"]).expect(0);
    let confirmed = "select count(*) from eth_wallet_confirmations where block is not null or selected_at is not null";
    assert_eq!(database.value(confirmed).await, "0");
    let differ = "select count(*) from eth_wallet_freshness fresh join eth_wallet_balances stored
         on stored.wallet = fresh.wallet where fresh.fresh_at <> stored.updated_at";
    assert_eq!(database.value(differ).await, "0");
    run(&["sweep", "--write", "changed", "--all"]).expect(0);
    run(&["verify", "--sample", "20"]).expect(0);
}
