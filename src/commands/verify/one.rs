//! `verify ADDR`: one wallet, part by part.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use super::{
    both_ways::OnChain,
    drift::{Drift, Drifted, Judgement},
    fix::fix,
    judge::Judge,
    page::{Check, PageReader, Target},
    prove::{Proof, Prover},
};
use crate::{
    app::App,
    cli::VerifyArgs,
    report::{BAD, CommandOutput, GOOD, Styler, Verdict},
    store::{Row, Store},
    tally::{RunError, Wallet},
};

/// Pairs as a JSON object in their order.
pub(in crate::commands) fn as_object<T: Serialize, S: Serializer>(
    pairs: &[(String, T)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, amount)| (name, amount)))
}

/// The result for one wallet; amounts in wei, decimal.
#[derive(Serialize)]
struct VerifiedWallet {
    command: &'static str,
    wallet: Wallet,
    block: u64,
    /// A name and an amount each, in the profile's order.
    #[serde(serialize_with = "as_object")]
    parts: Vec<(String, String)>,
    chain_total: Option<String>,
    batched_total: Option<String>,
    stored_total: Option<String>,
    stored_read_block: Option<i64>,
    stored_blocknumber: Option<i64>,
    updated_at: Option<String>,
    /// When the row was last read, changed or not; only where rows are confirmed.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    freshness: Option<RowFreshness>,
    /// The columns of parts; `null` for one that was never read.
    #[serde(serialize_with = "as_object", skip_serializing_if = "Vec::is_empty")]
    stored_parts: Vec<(String, Option<String>)>,
    /// Those of them that do not hold what was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    drifted_parts: Option<Vec<String>>,
    /// `null` if the row could not be compared.
    in_sync: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    /// True if the node's newest block is older than the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_node: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    /// For people: a name and an amount on each line.
    #[serde(skip)]
    lines: Vec<(String, String)>,
    /// For people: what is behind the answer.
    #[serde(skip)]
    reason: Option<String>,
}

/// How fresh a row is, by its own write and the confirmation of its bucket.
#[derive(Serialize)]
struct RowFreshness {
    /// When it was last read.
    fresh_at: String,
    /// The newest block at which it was read.
    fresh_block: Option<i64>,
}

impl CommandOutput for VerifiedWallet {
    fn text(&self, styler: &Styler) -> String {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines = self.lines.iter().map(|(name, amount)| format!("  {name:width$}  {amount}\n"));
        let reason = match (&self.reason, self.drift) {
            (Some(reason), Some(Drift::Moved)) => format!("moved: {reason}\n"),
            (Some(reason), Some(Drift::Wrong)) => format!("wrong: {reason}\n"),
            (Some(reason), None) => format!("stale_node: {reason}\n"),
            (None, _) => String::new(),
        };
        let answer = match (self.in_sync, self.fixed) {
            (Some(true), _) => styler.style(GOOD, "in sync"),
            (Some(false), Some(true)) => styler.style(BAD, "drifted; fixed"),
            (Some(false), Some(false)) => styler.style(BAD, "drifted; not fixed"),
            (Some(false), None) if self.stored_total.is_none() => {
                styler.style(BAD, "not in the table; refresh adds it")
            }
            (Some(false), None) => styler.style(BAD, "drifted"),
            (None, Some(_)) => styler.style(BAD, "not compared; not fixed"),
            (None, None) => styler.style(BAD, "not compared"),
        };
        let lines = lines.collect::<String>();
        format!("{} at block {}\n{lines}{reason}{answer}", self.wallet, self.block)
    }
}

impl VerifiedWallet {
    fn of(app: &App, wallet: Wallet, block: u64, row: Option<&Row>) -> Self {
        let shown = |stored: &str| match stored.parse() {
            Ok(wei) => app.amount(wei).to_string(),
            Err(_) => format!("{stored}, which is no uint256"),
        };
        let total = row.map_or_else(|| "no row".to_owned(), |row| shown(&row.total));
        let mut lines = vec![("stored total".to_owned(), total)];
        for (name, stored) in row.iter().flat_map(|row| &row.parts) {
            let stored = stored.as_deref().map_or_else(|| "never read".to_owned(), shown);
            lines.push((format!("stored {name}"), stored));
        }
        let no_parts = || app.profile.columns().map(|(name, _)| (name.to_owned(), None)).collect();
        Self {
            command: "verify",
            wallet,
            block,
            parts: Vec::new(),
            chain_total: None,
            batched_total: None,
            stored_total: row.map(|row| row.total.clone()),
            stored_read_block: row.and_then(|row| row.read_block),
            stored_blocknumber: row.and_then(|row| row.blocknumber),
            updated_at: row.map(|row| rfc3339(row.updated_at)),
            freshness: None,
            stored_parts: row.map_or_else(no_parts, |row| row.parts.clone()),
            drifted_parts: None,
            in_sync: None,
            drift: None,
            stale_node: None,
            fixed: None,
            proof: None,
            lines,
            reason: None,
        }
    }

    /// Adds how fresh the row is.
    fn with_freshness(mut self, row: &Row) -> Self {
        let (fresh_at, fresh_block) = (rfc3339(row.fresh_at()), row.fresh_block());
        let fresh = match fresh_block {
            Some(block) => format!("at block {block}, {fresh_at}"),
            None if row.is_placeholder() => "never".to_owned(),
            None => fresh_at.clone(),
        };
        self.lines.push(("last read".to_owned(), fresh));
        self.freshness = Some(RowFreshness { fresh_at, fresh_block });
        self
    }

    /// Adds what was read.
    fn read(&mut self, app: &App, on_chain: &OnChain, row: Option<&Row>) {
        let amount = |wei| app.amount(wei).to_string();
        let totals = [("chain total", on_chain.total.sum), ("batched total", on_chain.batched.sum)];
        let parts = on_chain.parts.iter().map(|(name, part)| (name.clone(), amount(*part)));
        let totals = totals.map(|(name, total)| (name.to_owned(), amount(total)));
        self.lines.splice(0..0, parts.chain(totals));
        self.parts =
            on_chain.parts.iter().map(|(name, part)| (name.clone(), part.to_string())).collect();
        self.chain_total = Some(on_chain.total.sum.to_string());
        self.batched_total = Some(on_chain.batched.sum.to_string());
        self.drifted_parts = row.filter(|row| !row.parts.is_empty()).map(|row| {
            row.parts_other_than(&on_chain.total).map(|(name, ..)| name.to_owned()).collect()
        });
    }

    /// Adds what is proven of it.
    fn proven(&mut self, proof: Proof) {
        self.lines.extend(proof.lines());
        self.proof = Some(proof);
    }
}

pub(super) async fn run(
    app: &App,
    pages: &PageReader<'_>,
    judge: Judge<'_>,
    prover: Option<Prover<'_>>,
    store: &dyn Store,
    wallet: Wallet,
    args: &VerifyArgs,
) -> Result<Verdict, RunError> {
    let row = store.row(wallet).await?;
    let is_confirmed = store.bucket_digits().await?.is_some();
    let verified = |block| {
        let verified = VerifiedWallet::of(app, wallet, block, row.as_ref());
        match &row {
            Some(row) if is_confirmed => verified.with_freshness(row),
            _ => verified,
        }
    };
    let mut page = pages.read(vec![Target { wallet, row: row.clone() }], None).await;
    let on_chain = match page.checks.pop() {
        Some((_, Check::Read(on_chain))) => on_chain,
        Some((_, Check::Unreadable(reason))) => {
            let text = format!("wallet {wallet} could not be read: {reason}");
            return Err(RunError::Unreadable(text));
        }
        Some((_, Check::Stale(stale))) => {
            if pages.follows_the_head() {
                app.report.result(&VerifiedWallet {
                    stale_node: Some(true),
                    fixed: args.fix.then_some(false),
                    reason: Some(stale.to_string()),
                    ..verified(stale.newest)
                })?;
            }
            return Err(stale.error(app.settings.node.block, &format!("the row of {wallet}")));
        }
        None => return Err(page.error.unwrap_or_else(RunError::stopped)),
    };
    let in_sync = on_chain.fits(row.as_ref());
    let mut verified = verified(on_chain.block);
    verified.read(app, &on_chain, row.as_ref());
    verified.in_sync = Some(in_sync);
    if let Some(prover) = prover {
        verified.proven(prover.prove(wallet, &on_chain).await?);
    }
    let fixed = match args.fix && !in_sync {
        true => fix(app, store, wallet, row.as_ref(), &on_chain).await?,
        false => false,
    };
    verified.fixed = args.fix.then_some(fixed);
    let mut judgement = match row.filter(|_| !in_sync) {
        Some(row) => why(judge, Drifted::new(row, &on_chain)).await,
        None => Judgement::default(),
    };
    if let Some(judged) = judgement.judged.pop() {
        (verified.drift, verified.reason) = (Some(judged.drift), Some(judged.reason));
    }
    app.report.result(&verified)?;
    match judgement.error {
        Some(error) => Err(error),
        None if in_sync || args.ignore_moved && verified.drift == Some(Drift::Moved) => {
            Ok(Verdict::Pass)
        }
        None => Ok(Verdict::Fail),
    }
}

async fn why(mut judge: Judge<'_>, drifted: Drifted) -> Judgement {
    let mut judgement = judge.by_state(vec![drifted]).await;
    judgement.merge(judge.by_events().await);
    judgement
}

/// A time as JSON shows it, in UTC.
pub(in crate::commands) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
