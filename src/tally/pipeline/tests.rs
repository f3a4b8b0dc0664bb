use std::sync::Mutex;

use alloy::primitives::{Address, B256, U256};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::sleep;

use super::*;
use crate::tally::Pages;

/// Gives chunks of these numbers of wallets, each after its pause.
struct Slow(Vec<(u64, Duration)>);

impl Reader for Slow {
    fn read<'a>(&'a self, _: Pages<'a>) -> BoxStream<'a, Chunk> {
        let chunks = stream::iter(&self.0).then(async |(wallets, pause)| {
            sleep(*pause).await;
            let wallet =
                |number: u64| Wallet::from(Address::left_padding_from(&number.to_be_bytes()));
            let reading = |number| (wallet(number), Ok(U256::from(1).into()));
            Chunk {
                block: 1,
                requested: *wallets,
                readings: (0..*wallets).map(reading).collect(),
                error: None,
            }
        });
        chunks.boxed()
    }

    fn read_block<'a>(&'a self, pages: Pages<'a>, _: u64, _: B256) -> BoxStream<'a, Chunk> {
        self.read(pages)
    }
}

/// Notes how many totals are stored when.
struct Noting {
    started: Instant,
    stored: Mutex<Vec<(usize, Duration)>>,
}

#[async_trait]
impl Ledger for Noting {
    async fn record(&self, totals: &[TotalRead], _: &[Unreadable]) -> Result<Recorded, RunError> {
        self.stored.lock().unwrap().push((totals.len(), self.started.elapsed()));
        Ok(Recorded { updated: totals.len() as u64, ..Recorded::default() })
    }
}

struct Silent;

impl Progress for Silent {
    fn wallets(&self, _: u64, _: u64) {}
}

/// Which batches are stored, and when, if chunks of these sizes come after these pauses in milliseconds.
async fn stored(chunks: &[(u64, u64)]) -> Vec<(usize, u128)> {
    let pause = |(wallets, millis): &(u64, u64)| (*wallets, Duration::from_millis(*millis));
    let reader = Slow(chunks.iter().map(pause).collect());
    let ledger = Noting { started: Instant::now(), stored: Mutex::default() };
    let (shutdown, retries) = (&Shutdown::default(), &Retries::default());
    let pipeline =
        Pipeline { reader: &reader, ledger: &ledger, shutdown, progress: &Silent, retries };
    let run = pipeline.run(stream::empty(), |_, _, _| {}).await;
    assert!(run.error.is_none());
    let stored = ledger.stored.into_inner().unwrap();
    stored.into_iter().map(|(totals, at)| (totals, at.as_millis())).collect()
}

#[tokio::test(start_paused = true)]
async fn half_a_batch_is_stored_when_nothing_comes_for_a_moment() {
    let moment = MOMENT.as_millis();
    assert_eq!(stored(&[(3_000, 0), (100, 500)]).await, [(3_000, moment), (100, 500)]);
    // Less waits for more.
    assert_eq!(stored(&[(1_000, 0), (1_400, 300), (10, 300)]).await, [(2_410, 600)]);
    assert_eq!(stored(&[(1_000, 0), (1, 2_000)]).await, [(1_000, 1_000), (1, 2_000)]);
    // What comes at once is one batch.
    assert_eq!(stored(&[(3_000, 0), (2_000, 0), (10, 0)]).await, [(5_000, 0), (10, 0)]);
}
