use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use alloy::primitives::B256;
use async_trait::async_trait;
use itertools::Itertools;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::rpc::{
    Ambient, Client, ClientSettings, HeaderMap, HttpError, HttpResponse, RateLimits, Transport,
};

#[test]
fn an_age_is_told_in_two_units() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (61, "1m 1s"),
        (3_661, "1h 1m"),
        (3 * 86_400 + 5, "3days"),
        (86_400 + 7_261, "1day 2h"),
    ] {
        assert_eq!(Age(Duration::from_secs(seconds)).to_string(), text);
    }
}

/// How long a round trip to [`Far`] takes.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A node of another chain until `is_right`, and far away.
#[derive(Default)]
struct Far {
    is_right: AtomicBool,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Transport for Far {
    async fn post(&self, body: Vec<u8>, _: usize) -> Result<HttpResponse, HttpError> {
        let request: Value = serde_json::from_slice(&body).unwrap();
        lock(&self.asked).push(request["method"].as_str().unwrap().to_owned());
        sleep(ROUND_TRIP).await;
        let chain_id = if self.is_right.load(Relaxed) { "0x1" } else { "0x5" };
        let result = match request["method"].as_str() {
            Some("eth_chainId") => json!(chain_id),
            Some("eth_getCode") => json!("0x00"),
            _ => json!({
                "number": "0x7", "timestamp": "0x1", "hash": B256::ZERO, "parentHash": B256::ZERO,
            }),
        };
        let body = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
        let body = body.to_string().into_bytes();
        Ok(HttpResponse { status: 200, headers: HeaderMap::new(), body })
    }
}

impl Far {
    fn is(is_right: bool) -> Arc<Self> {
        Arc::new(Self { is_right: is_right.into(), ..Self::default() })
    }

    fn client(self: &Arc<Self>) -> Arc<Client> {
        let ambient = Ambient {
            transports: vec![Arc::clone(self) as _],
            seed: 1,
            clock: Arc::new(SystemTime::now),
        };
        let settings = ClientSettings {
            urls: vec!["http://far.example".parse().unwrap()],
            rates: RateLimits::default(),
            concurrency: 4,
            retries: 0,
            timeout: Duration::from_secs(5),
            block: BlockChoice::Latest,
            contracts: Contracts::OfTotals,
            max_head_age: None,
        };
        Arc::new(Client::within(ambient, settings, &Profile::audius(), Shutdown::default()))
    }

    /// How often each method was asked for since the last time.
    fn asked(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut *lock(&self.asked)).into_iter().counts().into_iter().sorted().collect()
    }
}

fn all() -> Vec<(String, usize)> {
    [("eth_chainId", 1), ("eth_getBlockByNumber", 1), ("eth_getCode", 4)]
        .map(|(method, count)| (method.to_owned(), count))
        .into()
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_ahead_is_not_asked_again() {
    let far = Far::is(true);
    let client = far.client();
    client.check_ahead();
    sleep(ROUND_TRIP + RECENT / 2).await;
    assert_eq!(far.asked(), all());
    assert_eq!(client.block_number(BlockChoice::Latest).await.unwrap(), 7);
    assert_eq!(far.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn the_first_request_waits_for_what_was_asked_ahead() {
    let far = Far::is(true);
    let client = far.client();
    let started = Instant::now();
    client.check_ahead();
    assert_eq!(client.block_number(BlockChoice::Latest).await.unwrap(), 7);
    assert_eq!(far.asked(), all());
    assert!(started.elapsed() < ROUND_TRIP + NEAR, "all is asked at once");
}

#[tokio::test(start_paused = true)]
async fn the_newest_block_is_asked_for_again_if_it_is_not_recent() {
    let far = Far::is(true);
    let client = far.client();
    client.check_ahead();
    sleep(2 * RECENT).await;
    far.asked();
    client.block_number(BlockChoice::Latest).await.unwrap();
    assert_eq!(far.asked(), [("eth_getBlockByNumber".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_chain_that_was_seen_ahead_counts_while_it_is_recent() {
    let far = Far::is(false);
    let client = far.client();
    client.check_ahead();
    let error = client.block_number(BlockChoice::Latest).await.unwrap_err();
    assert!(error.to_string().contains("is a node of chain 5"), "{error}");
    let asked = far.asked();
    // A gateway may mistake one request.
    assert!(asked.contains(&("eth_chainId".to_owned(), 2)), "{asked:?}");

    let client = far.client();
    client.check_ahead();
    sleep(4 * RECENT).await;
    far.is_right.store(true, Relaxed);
    assert_eq!(client.block_number(BlockChoice::Latest).await.unwrap(), 7);
}
