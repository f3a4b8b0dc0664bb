//! `--fix`: stores what was read, where both ways of reading agree and the table holds no newer read.

use super::both_ways::OnChain;
use crate::{
    app::App,
    store::{Row, Store},
    tally::{RunError, TotalRead, Wallet},
};

/// Stores a wallet's total; returns whether it did, and says so if it did not.
pub(super) async fn fix(
    app: &App,
    store: &dyn Store,
    wallet: Wallet,
    row: Option<&Row>,
    on_chain: &OnChain,
) -> Result<bool, RunError> {
    let not_fixed =
        |reason: &str| app.report.note(&format!("wallet {wallet} is not fixed: {reason}"));
    if !on_chain.agrees() {
        not_fixed("its parts and what Multicall3 returns differ");
        return Ok(false);
    }
    if row.and_then(Row::since).is_some_and(|since| since > on_chain.block) {
        not_fixed("the row is newer than the node");
        return Ok(false);
    }
    let (total, read_block) = (on_chain.total.clone(), on_chain.block);
    let read = TotalRead { wallet, total, read_block, event_block: None };
    app.claim_table(store).await?;
    let stored = store.record(&[read], &[]).await?;
    match stored.refused.first() {
        _ if stored.updated == 1 => return Ok(true),
        Some(refused) => not_fixed(&refused.reason),
        None => not_fixed("the table holds a newer read by now"),
    }
    Ok(false)
}
