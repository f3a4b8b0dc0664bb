//! Random rows: those that follow random addresses, found by the key alone.
//!
//! A table need not be read, nor be one that can be read by its pages: partitioned and distributed ones are drawn from the
//! same way. Addresses are hashes, so that each row is as likely as another, or nearly.

use std::collections::BTreeSet;

use alloy::primitives::{Address, U256};
use rand::seq::SliceRandom as _;

use super::{
    backend::Backend,
    dialect::{Purpose, Value},
    error::StoreError,
    rows::{wallet_of, wallets_of},
    session::Database,
};
use crate::tally::Wallet;

/// The wallets of `count` rows, or of all if there are fewer.
pub(super) async fn draw<D: Backend>(
    database: &Database<D>,
    count: u32,
) -> Result<Vec<Wallet>, StoreError> {
    let count = count as usize;
    let mut drawn: Vec<_> = match bounds(database).await? {
        Some((first, last)) => {
            // Several may be followed by the same row.
            let addresses: Vec<_> =
                (0..2 * count + 10).map(|_| between(first, last).to_string()).collect();
            let values = [Value::List(&addresses)];
            let keys: Vec<(Option<String>,)> =
                database.fetch(Purpose::ByIndex, D::SQL.first_from, &values).await?;
            keys.into_iter().filter_map(|(key,)| key).collect::<BTreeSet<_>>().into_iter().collect()
        }
        None => Vec::new(),
    };
    if drawn.len() < count {
        // The table is small, or its addresses are no hashes.
        let any = "select wallet from eth_wallet_balances order by random() limit $1";
        let keys: Vec<(String,)> =
            database.fetch(Purpose::Read, any, &[Value::Number(count as i64)]).await?;
        drawn = keys.into_iter().map(|(key,)| key).collect();
    }
    drawn.shuffle(&mut rand::rng());
    drawn.truncate(count);
    Ok(wallets_of(drawn))
}

/// The first and the last wallet of the table.
async fn bounds<D: Backend>(
    database: &Database<D>,
) -> Result<Option<(Wallet, Wallet)>, StoreError> {
    let bounds = "select min(wallet), max(wallet) from eth_wallet_balances";
    let rows: Vec<(Option<String>, Option<String>)> =
        database.fetch(Purpose::ByIndex, bounds, &[]).await?;
    let wallets = |(first, last): &(Option<String>, Option<String>)| {
        Some((wallet_of(first.as_deref()?)?, wallet_of(last.as_deref()?)?))
    };
    Ok(rows.first().and_then(wallets))
}

/// A random address from `first` to `last`.
fn between(first: Wallet, last: Wallet) -> Wallet {
    let number = |wallet: Wallet| U256::from_be_bytes(wallet.address().into_word().0);
    let first = number(first);
    let count = number(last).saturating_sub(first) + U256::from(1);
    let random = U256::from_be_bytes(rand::random::<[u8; 32]>()) % count;
    Wallet::from(Address::from_word((first + random).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_lie_between_the_bounds_and_reach_them() {
        let wallet = |n| Wallet::from(Address::with_last_byte(n));
        let drawn: BTreeSet<_> = (0..500).map(|_| between(wallet(3), wallet(6))).collect();
        assert_eq!(drawn, [3, 4, 5, 6].map(wallet).into());
        assert_eq!(between(wallet(7), wallet(7)), wallet(7));
        let (zero, all) = (Wallet::from(Address::ZERO), Wallet::from(Address::repeat_byte(0xff)));
        assert!(between(zero, all) > zero);
    }
}
