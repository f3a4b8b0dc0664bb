//! The price of a wallet: gas at the node, and bytes of request and response.

use alloy::{primitives::Bytes, providers::Provider};
use alloy::{providers::bindings::IMulticall3::aggregate3Call, sol_types::SolCall};
use anyhow::Context;
use ethtally::profile::Profile;
use ethtally_testbed::{
    Chain,
    stub::{RecordedRequest, Stub},
};
use serde_json::{Value, json};

/// Enough wallets for the chunk size to reach its limit.
pub(crate) const SAMPLE: u64 = 60_000;

/// The price per wallet in a large call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    /// Gas used by the call, including its base cost of 21,000 and its data.
    pub(crate) gas: f64,
    /// Bytes of request and response as JSON.
    pub(crate) bytes: f64,
    /// Wallets in that call.
    pub(crate) wallets: u64,
}

/// Records what the program sends.
pub(crate) struct Journal(Stub);

impl Journal {
    pub(crate) fn of(chain: &Chain) -> anyhow::Result<Self> {
        Ok(Self(Stub::in_front_of(&chain.url())?))
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// The price in the largest call that the node accepted.
    pub(crate) async fn price(&self, chain: &Chain) -> anyhow::Result<Price> {
        let mut calls = self.0.requests();
        calls.retain(|seen| seen.method == "eth_call");
        calls.sort_by_key(|seen| std::cmp::Reverse(seen.bytes));
        let mut refused = None;
        for RecordedRequest { params, .. } in calls {
            let Some(wallets) = wallets_in(&params) else { continue };
            match of_call(chain, params, wallets).await {
                Ok(price) => return Ok(price),
                // Calls that were too large are recorded too.
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        Err(refused.context("the program sent no eth_call")?)
    }
}

/// The price of an `eth_call` with this many wallets.
pub(crate) async fn of_call(chain: &Chain, params: Value, wallets: u64) -> anyhow::Result<Price> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params });
    let returned: Bytes = chain.provider().raw_request("eth_call".into(), &params).await?;
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": returned });
    // A trace has the gas used. An estimate has the gas needed, which is less if parts may fail, and more if
    // each part needs its stipend.
    let tracer = json!({
        "tracer": "callTracer",
        "tracerConfig": { "onlyTopCall": true },
        "stateOverrides": params[2],
    });
    let trace = json!([params[0], params[1], tracer]);
    let trace: Value = chain.provider().raw_request("debug_traceCall".into(), trace).await?;
    let gas = trace["gasUsed"].as_str().context("a trace without gasUsed")?;
    let gas = u64::from_str_radix(gas.trim_start_matches("0x"), 16)?;
    let of_each = |sum: usize| sum as f64 / wallets as f64;
    Ok(Price {
        gas: gas as f64 / wallets as f64,
        bytes: of_each(request.to_string().len() + answer.to_string().len()),
        wallets,
    })
}

/// Number of wallets in these parameters of an `eth_call`, with Multicall3 or packed.
fn wallets_in(params: &Value) -> Option<u64> {
    let data: Bytes = params[0]["data"].as_str()?.parse().ok()?;
    let count = match aggregate3Call::abi_decode(&data) {
        Ok(call) => call.calls.len() / Profile::audius().reads.len(),
        // The table of parts comes first.
        Err(_) => (data.len() - 8 - 24 * Profile::audius().reads.len()) / 20,
    };
    (count > 0).then_some(count as u64)
}
