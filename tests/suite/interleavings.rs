//! Two writers and a confirmation of the same rows, in every order.
//!
//! `model` enumerates all interleavings of the steps inside their transactions. The tests here do the transactions
//! themselves, in every order, with the real store on both databases: each wallet of a table is a case of its own.

mod model;

use std::{collections::BTreeMap, time::Duration};

use alloy::primitives::{Address, U256};
use chrono::{DateTime, Utc};
use ethtally::{
    store::{Access, Store, open},
    tally::{Bucket, BucketReads, Selection, Shutdown, TotalRead, Unreadable, Wallet},
};
use futures_util::future::join_all;
use itertools::{Itertools, iproduct};

use crate::support::database::{Database, on_both_databases};

on_both_databases! {
    no_older_read_changes_a_row_in_any_order
    rows_that_were_written_since_the_selection_are_looked_at_again
}

/// The totals of a wallet at the blocks 1, 2 and 3.
type History = [u64; 3];

const HISTORIES: [History; 5] = [[7, 7, 7], [7, 7, 8], [7, 8, 8], [7, 8, 7], [7, 8, 9]];

/// How a wallet is read: at a block, or it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    At(u64),
    Fails,
}

/// A row before everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Missing,
    Placeholder,
    ReadAt(u64),
    /// Read at block 1, and on the record of failures since.
    Failing,
}

/// What happens to a wallet.
#[derive(Clone, Copy, Debug)]
struct Case {
    history: History,
    row: Row,
    /// Its reading by each writer, if that one writes it.
    writers: [Option<Read>; 2],
    /// Its reading for the confirmation.
    read: Read,
}

/// What the database does, each in a transaction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Select,
    Confirm,
    Write(usize),
}

/// The readings of a bucket for its confirmation, and the block at which it was confirmed before.
fn buckets() -> Vec<(Vec<Read>, Option<u64>)> {
    let reads = [
        vec![Read::At(1)],
        vec![Read::At(2)],
        vec![Read::At(3)],
        vec![Read::At(2), Read::At(3)],
        vec![Read::At(3), Read::Fails],
    ];
    iproduct!(reads, [None, Some(1), Some(2)]).collect()
}

/// A case for each wallet, bucket by bucket.
fn cases() -> BTreeMap<Wallet, Case> {
    let rows = [Row::Missing, Row::Placeholder, Row::ReadAt(1), Row::ReadAt(2), Row::Failing];
    let first = [None, Some(Read::At(1)), Some(Read::At(2)), Some(Read::At(3)), Some(Read::Fails)];
    let second = [None, Some(Read::At(2)), Some(Read::At(3))];
    let mut cases = BTreeMap::new();
    for (bucket, (reads, _)) in buckets().into_iter().enumerate() {
        let all = iproduct!(HISTORIES, rows, first, second, reads);
        for (number, (history, row, first, second, read)) in all.enumerate() {
            let mut address = [0; 20];
            address[0] = (bucket as u8) << 4;
            address[16..].copy_from_slice(&(number as u32).to_be_bytes());
            let case = Case { history, row, writers: [first, second], read };
            cases.insert(Wallet::from(Address::from(address)), case);
        }
    }
    cases
}

/// The readings that are given for some of the wallets.
fn readings<'a>(
    cases: impl Iterator<Item = (&'a Wallet, &'a Case)>,
    read_of: impl Fn(&Case) -> Option<Read>,
) -> (Vec<TotalRead>, Vec<Unreadable>) {
    let (mut totals, mut failures) = (Vec::new(), Vec::new());
    for (&wallet, case) in cases {
        match read_of(case) {
            Some(Read::At(read_block)) => {
                let total = U256::from(case.history[read_block as usize - 1]).into();
                totals.push(TotalRead { wallet, total, read_block, event_block: None });
            }
            Some(Read::Fails) => {
                failures.push(Unreadable { wallet, reason: "execution reverted".to_owned() });
            }
            None => {}
        }
    }
    (totals, failures)
}

/// A table whose rows are known to be right at some block.
struct Table {
    database: Database,
    store: Box<dyn Store>,
    cases: BTreeMap<Wallet, Case>,
    /// Each row's total, and the newest block at which it was known to be right at any time.
    known: BTreeMap<Wallet, (u64, Option<u64>)>,
}

impl Table {
    async fn prepare(database: Database) -> Self {
        let store = open(&database.url, None, Vec::new(), Access::Write, &Shutdown::default())
            .await
            .expect("the database opens");
        store.migrate().await.expect("the tables are created");
        let table = Self { database, store, cases: cases(), known: BTreeMap::new() };
        let of_row = |wanted: &[Row]| {
            let wanted = wanted.to_vec();
            table.cases.iter().filter(move |(_, case)| wanted.contains(&case.row))
        };
        let placeholders: Vec<_> = of_row(&[Row::Placeholder]).map(|(wallet, _)| *wallet).collect();
        table.store.insert_placeholders(&placeholders).await.expect("placeholders");
        let written = [Row::ReadAt(1), Row::ReadAt(2), Row::Failing];
        let read = |case: &Case| match case.row {
            Row::ReadAt(block) => Some(Read::At(block)),
            _ => Some(Read::At(1)),
        };
        let (totals, _) = readings(of_row(&written), read);
        table.store.record(&totals, &[]).await.expect("totals");
        let (_, failures) = readings(of_row(&[Row::Failing]), |_| Some(Read::Fails));
        table.store.record(&[], &failures).await.expect("failures");
        assert_eq!(table.store.create_buckets().await.expect("buckets"), 1);
        table
    }

    /// Confirms the buckets that were confirmed before, at their block.
    async fn confirm_before(&self) {
        let selected = self.select(|(_, confirmed)| confirmed.is_some()).await;
        let confirmed = buckets();
        let block = |wallet: Wallet| confirmed[usize::from(wallet.address()[0] >> 4)].1;
        self.confirm(&selected, |wallet, _| Read::At(block(wallet).expect("a block"))).await;
    }

    async fn select(
        &self,
        is_wanted: impl Fn(&(Vec<Read>, Option<u64>)) -> bool,
    ) -> Vec<Selection> {
        let all = Bucket::all(1).zip(buckets());
        let wanted: Vec<_> = all.filter(|(_, about)| is_wanted(about)).map(|(b, _)| b).collect();
        let now = self.store.now().await.expect("the time");
        self.store.select_buckets(&wanted, Some(now)).await.expect("a selection")
    }

    async fn confirm(
        &self,
        selected: &[Selection],
        read_of: impl Fn(Wallet, &Case) -> Read,
    ) -> u64 {
        let reads = |selection: &Selection| {
            let mut reads = BucketReads::new(selection.clone(), false);
            for wallet in selection.rows.wallets() {
                let case = &self.cases[&wallet];
                let read = read_of(wallet, case);
                let (totals, failures) = readings([(&wallet, case)].into_iter(), |_| Some(read));
                assert!(totals.iter().all(|total| reads.read(total)));
                assert!(failures.iter().all(|failure| reads.fail(failure)));
            }
            assert!(reads.is_complete());
            reads
        };
        let reads: Vec<_> = selected.iter().map(reads).collect();
        self.store.confirm(&reads).await.expect("a confirmation").unchanged
    }

    /// Checks every row, and that none was changed by a read older than what was known of it.
    async fn check(&mut self, after: &[Step]) {
        let rows = "select wallet, balance, read_block from eth_wallet_freshness";
        for row in self.database.sql(rows).await {
            let [wallet, total, block] = row.split('|').collect_array().expect("three columns");
            let wallet: Wallet = wallet.parse().expect("a wallet");
            let case = &self.cases[&wallet];
            let (total, block): (u64, Option<u64>) =
                (total.parse().expect("a total"), block.parse().ok());
            if let Some(block) = block {
                let right = case.history[block as usize - 1];
                assert_eq!(total, right, "{wallet}, known at {block} after {after:?}: {case:?}");
            }
            let known = self.known.entry(wallet).or_default();
            if total != known.0 {
                assert!(
                    block >= known.1,
                    "{wallet}, {known:?} until {after:?}: {case:?}, now {row}"
                );
            }
            *known = (total, known.1.max(block));
        }
    }

    /// Every wallet that was selected, and read, is known to be right at the block of its bucket or later.
    async fn check_confirmed(&self, selected: &[Selection], at: DateTime<Utc>) {
        let rows = "select wallet, read_block, fresh_at from eth_wallet_freshness";
        let rows = self.database.sql(rows).await;
        let rows: BTreeMap<Wallet, (u64, String)> = rows
            .iter()
            .map(|row| {
                let [wallet, block, fresh_at] =
                    row.split('|').collect_array().expect("three columns");
                let known = (block.parse().unwrap_or_default(), fresh_at.to_owned());
                (wallet.parse().expect("a wallet"), known)
            })
            .collect();
        let at = at.format("%Y-%m-%d %H:%M:%S").to_string();
        for (selection, (reads, before)) in selected.iter().zip(buckets()) {
            let block = reads.iter().filter_map(|read| match read {
                Read::At(block) => Some(*block),
                Read::Fails => None,
            });
            let block = block.min().expect("a read");
            // An older confirmation does not replace a newer one.
            let is_newest = before.is_none_or(|before| before <= block);
            for wallet in selection.rows.wallets() {
                let case = &self.cases[&wallet];
                // Failures are not confirmed; when they failed depends on the order.
                let reads = case.writers.iter().flatten().chain([&case.read]);
                if reads.into_iter().any(|read| *read == Read::Fails) {
                    continue;
                }
                let (known, fresh_at) = &rows[&wallet];
                let is_fresh = *known >= block && (*fresh_at >= at || !is_newest);
                assert!(is_fresh, "{wallet}: {case:?}, {known} at {fresh_at}");
            }
        }
    }
}

/// In SQLite, a confirmation does not count for rows that were written in the same second.
async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

async fn no_older_read_changes_a_row_in_any_order(database: Database) {
    let steps = [Step::Select, Step::Confirm, Step::Write(0), Step::Write(1)];
    let is_possible = |order: &Vec<Step>| {
        let place = |step: Step| order.iter().position(|other| *other == step);
        place(Step::Select) < place(Step::Confirm)
    };
    let orders: Vec<_> = steps.into_iter().permutations(4).filter(is_possible).collect();
    assert_eq!(orders.len(), 12);
    join_all(orders.into_iter().map(|order| in_this_order(database.another(), order))).await;
}

async fn in_this_order(database: Database, order: Vec<Step>) {
    let mut table = Table::prepare(database).await;
    next_second().await;
    table.confirm_before().await;
    table.check(&[]).await;
    next_second().await;
    let mut selected = Vec::new();
    for done in 1..=order.len() {
        match order[done - 1] {
            Step::Select => selected = table.select(|_| true).await,
            Step::Confirm => {
                let unchanged = table.confirm(&selected, |_, case| case.read).await;
                assert!(unchanged > 100, "only {unchanged} rows needed no write: {order:?}");
                table.check_confirmed(&selected, selected[0].at).await;
            }
            Step::Write(writer) => {
                let (totals, failures) = readings(table.cases.iter(), |case| case.writers[writer]);
                table.store.record(&totals, &failures).await.expect("a write");
            }
        }
        table.check(&order[..done]).await;
    }
    table.database.assert_no_deadlocks().await;
}

/// As many rows change in the other tests, all are looked at again there.
async fn rows_that_were_written_since_the_selection_are_looked_at_again(database: Database) {
    let store = open(&database.url, None, Vec::new(), Access::Write, &Shutdown::default())
        .await
        .expect("the database opens");
    store.migrate().await.expect("the tables are created");
    let wallets = (0..200_u8).map(|number| Wallet::from(Address::with_last_byte(number)));
    let wallets: Vec<_> = wallets.collect();
    let read = |wallet: &Wallet, total: u64, read_block| TotalRead {
        wallet: *wallet,
        total: U256::from(total).into(),
        read_block,
        event_block: None,
    };
    let at_block = |total, block| wallets.iter().map(|wallet| read(wallet, total, block)).collect();
    let first: Vec<_> = at_block(7, 1);
    store.record(&first, &[]).await.expect("totals");
    store.create_buckets().await.expect("buckets");
    next_second().await;
    let selected = store.select_buckets(&["0x0".parse().expect("a bucket")], None).await;
    let [selection] = selected.expect("a selection").try_into().expect("one bucket");

    // The total was another one between two blocks at which it is the same, and is a third one later.
    let meanwhile = [read(&wallets[3], 8, 2), read(&wallets[5], 9, 4)];
    store.record(&meanwhile, &[]).await.expect("totals");
    let totals: Vec<_> = at_block(7, 3);
    let mut reads = BucketReads::new(selection, false);
    assert!(totals.iter().all(|total| reads.read(total)));
    let confirmed = store.confirm(&[reads]).await.expect("a confirmation");
    assert_eq!((confirmed.unchanged, confirmed.updated, confirmed.superseded), (198, 1, 1));
    let rows = database.sql(
        "select balance, read_block, count(*) from eth_wallet_freshness group by 1, 2 order by 1",
    );
    assert_eq!(rows.await, ["7|3|199", "9|4|1"]);
}
