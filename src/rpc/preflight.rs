//! What `doctor` asks of an endpoint: all that commands need of it, one check after another.

use alloy::primitives::{Address, B256, Bytes, U64, U256, address, bytes};
use serde_json::{Value, json};

use super::{
    Client,
    block::Header,
    checks::{CheckFailure, Checker},
    error::RequestError,
};
use crate::{redact, tally::Check};

/// Where nothing is deployed: code is put there by a state override.
pub(super) const NOWHERE: Address = address!("00000000000000000000000000000000e7a11e57");
/// Code that returns [`ANSWER`] as a word.
pub(super) const CODE: &str = "0x602a60005260206000f3";
pub(super) const ANSWER: u64 = 42;
/// `getBlockNumber()` of Multicall3.
const GET_BLOCK_NUMBER: Bytes = bytes!("42cbb15c");
/// How far back state is looked for, in blocks.
const DEPTHS: [u64; 5] = [1, 128, 1_024, 10_000, 100_000];
/// Fewer blocks of state than this do not last for a verify.
const ENOUGH_STATE: u64 = 128;
/// How many blocks `eth_getLogs` is asked for at once, until a number works.
const RANGES: [u64; 4] = [2_000, 500, 10, 1];
/// A range that is too narrow to catch up quickly.
const WIDE_ENOUGH: u64 = 500;

const NODE_REMEDY: &str = "check --rpc-url, and that the node is up";

/// What is needed of an endpoint.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Multicall3, where it is used.
    pub multicall3: Option<Address>,
    /// True if totals cannot be read without state overrides.
    pub overrides: bool,
    /// The contracts whose events are followed; empty if there are none.
    pub event_contracts: Vec<Address>,
}

impl Client {
    /// Checks the first endpoint, and goes on after a check that failed. One that does not answer has one check.
    pub async fn preflight(&self, needs: &Needs) -> Vec<Check> {
        let checker = self.checker(&self.endpoints[0]);
        let target = checker.endpoint.id.to_string();
        let preflight = Preflight { checker, target, needs };
        preflight.run().await
    }
}

struct Preflight<'a> {
    checker: Checker<'a>,
    target: String,
    needs: &'a Needs,
}

impl Preflight<'_> {
    async fn run(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        match self.checker.check_chain().await {
            Ok(()) => {
                checks.push(self.ok("chain", format!("chain {}", self.checker.expected.chain_id)))
            }
            Err(CheckFailure::Request(error)) => {
                checks.push(self.failed("chain", &error, NODE_REMEDY));
                return checks;
            }
            Err(CheckFailure::Unfit(unfit, _)) => {
                checks.push(self.failed(
                    "chain",
                    &RequestError::Settings(unfit.reason),
                    NODE_REMEDY,
                ));
            }
        }
        let head = match self.ask("eth_getBlockByNumber", json!(["latest", false])).await {
            Ok(head) => head,
            Err(error) => {
                checks.push(self.failed("head", &error, NODE_REMEDY));
                return checks;
            }
        };
        let Ok(head) = serde_json::from_value::<Header>(head) else {
            let remedy = "give --rpc-url an endpoint of an Ethereum node";
            checks.push(Check::fail("head", &self.target, "it has no newest block", remedy));
            return checks;
        };
        let number: u64 = head.number.to();
        checks.push(self.head(&head).await);
        checks.push(self.contracts(number).await);
        checks.extend(self.multicall3(number).await);
        checks.push(self.overrides(number).await);
        checks.push(self.state(number).await);
        if !self.needs.event_contracts.is_empty() {
            checks.push(self.logs_by_hash(head.hash).await);
            checks.push(self.logs_by_range(number).await);
        }
        checks
    }

    async fn head(&self, head: &Header) -> Check {
        let detail = format!("block {}", head.number.to::<u64>());
        match self.checker.check_age(head).await {
            Ok(()) => self.ok("head", detail),
            Err(CheckFailure::Request(error)) => self.failed("head", &error, NODE_REMEDY),
            Err(CheckFailure::Unfit(unfit, _)) => {
                let remedy = "give --rpc-url a node that follows the chain, or for a chain that stands still \
                              --max-head-age off";
                let reason = unfit.reason.replacen(&format!("{}: ", self.target), "", 1);
                Check::fail("head", &self.target, reason, remedy)
            }
        }
    }

    /// Whether every contract of the profile has code.
    async fn contracts(&self, number: u64) -> Check {
        let (block, multicall3) = (format!("{number:#x}"), self.needs.multicall3);
        let contracts = self.checker.expected.contracts.iter();
        let contracts: Vec<_> = contracts.filter(|(at, _)| Some(**at) != multicall3).collect();
        for (address, what) in &contracts {
            match self.checker.check_code(**address, what, &block).await {
                Ok(()) => {}
                Err(CheckFailure::Request(error)) => {
                    return self.failed("contracts", &error, NODE_REMEDY);
                }
                Err(CheckFailure::Unfit(..)) => {
                    let detail = format!("no code at {address} ({what})");
                    let remedy = "correct that address in the file of --profile, or give --rpc-url a node of its chain";
                    return Check::fail("contracts", &self.target, detail, remedy);
                }
            }
        }
        self.ok("contracts", format!("{} have code", contracts.len()))
    }

    /// Whether Multicall3 answers, where it is used.
    async fn multicall3(&self, number: u64) -> Option<Check> {
        let address = self.needs.multicall3?;
        let call = json!({"to": address, "data": GET_BLOCK_NUMBER});
        let remedy = "set multicall3 in the file of --profile to its address there, or to \"none\"";
        Some(match self.ask("eth_call", json!([call, U64::from(number)])).await {
            Ok(answer) if word_of(&answer).is_some() => {
                self.ok("multicall3", format!("answers at {address}"))
            }
            Ok(_) => {
                let detail = format!("no Multicall3 at {address}");
                Check::fail("multicall3", &self.target, detail, remedy)
            }
            Err(error) => self.failed("multicall3", &error, remedy),
        })
    }

    /// Whether `eth_call` takes code for an account, which the packed reader needs.
    async fn overrides(&self, number: u64) -> Check {
        let params =
            json!([{"to": NOWHERE}, U64::from(number), {NOWHERE.to_string(): {"code": CODE}}]);
        let answer = self.ask("eth_call", params).await;
        if answer.as_ref().is_ok_and(|answer| word_of(answer) == Some(U256::from(ANSWER))) {
            return self.ok("overrides", "eth_call takes state overrides");
        }
        let detail = match answer {
            Ok(_) => "eth_call ignores state overrides".to_owned(),
            Err(error) => format!("eth_call takes no state overrides: {}", text(&error)),
        };
        match self.needs.overrides {
            true => {
                let remedy =
                    "give --reader multicall3, or --rpc-url a node that takes state overrides";
                Check::fail("overrides", &self.target, detail, remedy)
            }
            false => {
                let remedy = "keep --reader multicall3; --reader packed would not work here";
                Check::warn("overrides", &self.target, detail, remedy)
            }
        }
    }

    /// How far back the state goes.
    async fn state(&self, number: u64) -> Check {
        let Some(contract) = self.checker.expected.contracts.keys().next() else {
            return self.ok("state", "the profile has no contract");
        };
        let mut deepest = None;
        let depths = DEPTHS.into_iter().filter(|depth| *depth < number).chain([number]);
        for depth in depths {
            let block = U64::from(number - depth);
            if self.ask("eth_getBalance", json!([contract, block])).await.is_err() {
                break;
            }
            deepest = Some(depth);
        }
        match deepest {
            Some(depth) if depth == number => self.ok("state", "of every block since block 0"),
            Some(depth) if depth >= ENOUGH_STATE => {
                self.ok("state", format!("of at least the last {depth} blocks"))
            }
            _ => {
                let blocks = deepest.unwrap_or(0);
                let detail = format!("only of the last {blocks} blocks or little more");
                let remedy = "lower --chunk, so that a batch ends before its block is too old, or give --rpc-url a \
                              node that keeps 128 blocks of state";
                Check::warn("state", &self.target, detail, remedy)
            }
        }
    }

    async fn logs_by_hash(&self, hash: B256) -> Check {
        let filter = json!({"blockHash": hash, "address": self.needs.event_contracts});
        match self.ask("eth_getLogs", json!([filter])).await {
            Ok(logs) if logs.is_array() => {
                self.ok("logs_by_hash", "eth_getLogs takes a block hash")
            }
            Ok(_) => {
                let remedy = "give --rpc-url a node that answers eth_getLogs";
                Check::fail("logs_by_hash", &self.target, "eth_getLogs gives no list", remedy)
            }
            Err(error) => {
                let detail = format!("eth_getLogs takes no block hash: {}", text(&error));
                let remedy = "give --confirmations 3 to watch, as it has to ask by number here, or another --rpc-url";
                Check::warn("logs_by_hash", &self.target, detail, remedy)
            }
        }
    }

    async fn logs_by_range(&self, number: u64) -> Check {
        let mut refused = None;
        for blocks in RANGES.into_iter().filter(|blocks| *blocks <= number + 1 || *blocks == 1) {
            let from = U64::from((number + 1).saturating_sub(blocks));
            let filter = json!({"fromBlock": from, "toBlock": U64::from(number),
                "address": self.needs.event_contracts});
            match self.ask("eth_getLogs", json!([filter])).await {
                Ok(logs) if logs.is_array() => {
                    let plural = if blocks == 1 { "" } else { "s" };
                    let detail = format!("eth_getLogs takes {blocks} block{plural} at once");
                    let Some(refused) = refused.filter(|_| blocks < WIDE_ENOUGH) else {
                        return self.ok("logs_by_range", detail);
                    };
                    let detail = format!("{detail}, and not more: {refused}");
                    let remedy = "give --rpc-url another plan or provider, if watch catches up too slowly after a pause";
                    return Check::warn("logs_by_range", &self.target, detail, remedy);
                }
                Ok(_) => refused = Some("it gives no list".to_owned()),
                Err(error) => refused = Some(text(&error)),
            }
        }
        let detail = format!("eth_getLogs fails: {}", refused.unwrap_or_default());
        let remedy = "give --rpc-url a node that answers eth_getLogs; without it watch cannot work, only sweep";
        Check::fail("logs_by_range", &self.target, detail, remedy)
    }

    async fn ask(&self, method: &'static str, params: Value) -> Result<Value, RequestError> {
        self.checker.ask(method, params, |answer: Value| Ok(answer)).await
    }

    fn ok(&self, name: &'static str, detail: impl Into<String>) -> Check {
        Check::ok(name, &self.target, detail)
    }

    fn failed(&self, name: &'static str, error: &RequestError, remedy: &str) -> Check {
        Check::error(name, &self.target, error, remedy)
    }
}

fn text(error: &RequestError) -> String {
    redact::clean_error(error)
}

/// A word of 32 bytes.
fn word_of(answer: &Value) -> Option<U256> {
    let bytes: Bytes = answer.as_str()?.parse().ok()?;
    (bytes.len() == 32).then(|| U256::from_be_slice(&bytes))
}
