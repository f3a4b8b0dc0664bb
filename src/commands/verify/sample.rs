//! `verify --sample N`: random rows, page by page.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    drift::{Drift, Drifted, Judgement},
    fix::fix,
    judge::Judge,
    page::{Check, PageReader, Target},
    stale::Stale,
};
use crate::{
    app::App,
    cli::VerifyArgs,
    report::{BAD, Bar, CommandOutput, GOOD, RunOutcome, Styler, Verdict},
    store::Store,
    tally::{RunError, Wallet},
};

/// Rows that are read at one block: few enough that a node still has its state at the end, however slowly it is asked.
const PAGE: usize = 100;
/// Pages in a row of which nothing could be checked, before the others are left out.
const FRUITLESS_PAGES: usize = 2;

/// The result for a sample.
#[derive(Serialize)]
struct VerifiedSample {
    command: &'static str,
    sampled: u64,
    in_sync: u64,
    drifted: usize,
    moved: usize,
    wrong: usize,
    unreadable: u64,
    unchecked: u64,
    drifted_wallets: Vec<Wallet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<u64>,
    /// For people: how it ended, and why each row differs.
    #[serde(skip)]
    ending: RunOutcome,
    #[serde(skip)]
    drifts: Vec<Drift>,
}

impl CommandOutput for VerifiedSample {
    fn text(&self, styler: &Styler) -> String {
        let style = if self.drifted == 0 { GOOD } else { BAD };
        let drifted = styler.style(style, &format!("drifted:{}", self.drifted));
        let Self { ending, sampled, in_sync, moved, wrong, unreadable, unchecked, .. } = self;
        let mut text = format!(
            "verify {ending} sampled:{sampled} in_sync:{in_sync} {drifted} moved:{moved} \
             wrong:{wrong} unreadable:{unreadable} unchecked:{unchecked}"
        );
        if let Some(fixed) = self.fixed {
            text.push_str(&format!(" fixed:{fixed}"));
        }
        for (wallet, drift) in self.drifted_wallets.iter().zip(&self.drifts) {
            let drift = match drift {
                Drift::Moved => "moved",
                Drift::Wrong => "wrong",
            };
            text.push_str(&format!("\n{wallet} {drift}"));
        }
        text
    }

    fn outcome(&self) -> RunOutcome {
        match self.ending {
            RunOutcome::Complete if self.unreadable > 0 => RunOutcome::Partial,
            ending => ending,
        }
    }
}

/// A sample that is being checked.
struct Sample<'a> {
    app: &'a App,
    pages: &'a PageReader<'a>,
    judge: Judge<'a>,
    store: &'a dyn Store,
    args: &'a VerifyArgs,
    bar: Bar,
    /// Rows drawn that were still there when it was their turn, or will be.
    sampled: u64,
    in_sync: u64,
    unreadable: u64,
    fixed: u64,
    drifts: BTreeMap<Wallet, Drift>,
    /// How many rows could not be compared, and one of them.
    stale: Option<(u64, Stale)>,
    /// Why rows were left unchecked, first.
    error: Option<RunError>,
}

pub(super) async fn run(
    app: &App,
    pages: &PageReader<'_>,
    judge: Judge<'_>,
    store: &dyn Store,
    args: &VerifyArgs,
) -> Result<Verdict, RunError> {
    let wallets = store.sample(args.sample.unwrap_or_default()).await?;
    let sampled = wallets.len() as u64;
    if sampled == 0 {
        app.report.note("the table is empty; there is nothing to verify");
    }
    let mut sample = Sample {
        app,
        pages,
        judge,
        store,
        args,
        bar: app.report.bar("verify", sampled),
        sampled,
        in_sync: 0,
        unreadable: 0,
        fixed: 0,
        drifts: BTreeMap::new(),
        stale: None,
        error: None,
    };
    if let Err(error) = sample.check(&wallets).await {
        sample.error.get_or_insert(error);
    }
    let judgement = sample.judge.by_events().await;
    sample.judged(judgement);
    sample.end()
}

impl Sample<'_> {
    /// Checks these rows, page by page, as they are when it is their turn.
    async fn check(&mut self, wallets: &[Wallet]) -> Result<(), RunError> {
        let mut fruitless = 0;
        for wallets in wallets.chunks(PAGE) {
            let rows = self.store.rows(wallets).await?;
            let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.wallet, row)).collect();
            self.sampled -= (wallets.len() - rows.len()) as u64;
            let targets = wallets.iter().filter_map(|wallet| rows.remove_entry(wallet));
            let targets = targets.map(|(wallet, row)| Target { wallet, row: Some(row) }).collect();
            let page = self.pages.read(targets, Some(&self.bar)).await;
            fruitless = if page.checks.is_empty() { fruitless + 1 } else { 0 };
            self.count(page.checks).await?;
            if let Some(error) = page.error {
                self.error.get_or_insert(error);
            }
            if page.is_last || fruitless == FRUITLESS_PAGES {
                break;
            }
        }
        Ok(())
    }

    /// Counts a page, and stores what `--fix` asks for.
    async fn count(&mut self, checks: Vec<(Target, Check)>) -> Result<(), RunError> {
        let (mut drifted, mut fixed) = (Vec::new(), Ok(()));
        for (Target { wallet, row }, check) in checks {
            match (check, row) {
                (Check::Read(on_chain), row) if on_chain.fits(row.as_ref()) => self.in_sync += 1,
                (Check::Read(on_chain), row) => {
                    if self.args.fix && fixed.is_ok() {
                        let stored =
                            fix(self.app, self.store, wallet, row.as_ref(), &on_chain).await;
                        fixed = stored.map(|is_fixed| self.fixed += u64::from(is_fixed));
                    }
                    drifted.extend(row.map(|row| Drifted::new(row, &on_chain)));
                }
                (Check::Unreadable(reason), _) => {
                    self.app.report.note(&format!("wallet {wallet} could not be read: {reason}"));
                    self.unreadable += 1;
                }
                (Check::Stale(stale), _) => {
                    let (count, worst) = self.stale.unwrap_or((0, stale));
                    let worst = if stale.row > worst.row { stale } else { worst };
                    self.stale = Some((count + 1, worst));
                }
            }
        }
        let judgement = self.judge.by_state(drifted).await;
        self.judged(judgement);
        fixed
    }

    fn judged(&mut self, judgement: Judgement) {
        for judged in judgement.judged {
            if judged.drift == Drift::Wrong {
                self.app
                    .report
                    .note(&format!("wallet {} is wrong: {}", judged.wallet, judged.reason));
            }
            self.drifts.insert(judged.wallet, judged.drift);
        }
        if let Some(error) = judgement.error {
            self.error.get_or_insert(error);
        }
    }

    /// Reports it, and decides the verdict.
    fn end(mut self) -> Result<Verdict, RunError> {
        drop(self.bar);
        if let Some((count, stale)) = self.stale {
            let rows = format!("{count} of {} rows", self.sampled);
            self.error.get_or_insert_with(|| stale.error(self.app.settings.node.block, &rows));
        }
        let wrong = self.drifts.values().filter(|drift| **drift == Drift::Wrong).count();
        let drifted = self.drifts.len();
        let (sampled, unreadable) = (self.sampled, self.unreadable);
        self.app.report.result(&VerifiedSample {
            command: "verify",
            sampled,
            in_sync: self.in_sync,
            drifted,
            moved: drifted - wrong,
            wrong,
            unreadable,
            unchecked: sampled - self.in_sync - drifted as u64 - unreadable,
            drifted_wallets: self.drifts.keys().copied().collect(),
            fixed: self.args.fix.then_some(self.fixed),
            ending: match &self.error {
                None => RunOutcome::Complete,
                Some(error) if error.is_stopped() => RunOutcome::Interrupted,
                Some(_) => RunOutcome::Failed,
            },
            drifts: self.drifts.into_values().collect(),
        })?;
        if let Some(error) = self.error {
            return Err(error);
        }
        if unreadable > 0 && unreadable == sampled {
            return Err(RunError::Unreadable(format!(
                "not one of {sampled} wallets could be read; check the profile and --block"
            )));
        }
        let counts = if self.args.ignore_moved { wrong } else { drifted };
        let no = sampled == 0 || counts > 0 || self.args.strict.strict && unreadable > 0;
        Ok(if no { Verdict::Fail } else { Verdict::Pass })
    }
}
