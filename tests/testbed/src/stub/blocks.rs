//! The blocks of a request, and how a node that lacks them responds.

use serde_json::{Value, json};

/// Treats a request like a node at block `head`: replaces `latest` by that block, or returns a response.
pub(super) fn lag(request: &mut Value, head: u64) -> Option<(&'static str, Value)> {
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    match (method.as_str(), parameter(&method)) {
        ("eth_blockNumber", _) => Some(("result", json!(format!("{head:#x}")))),
        ("eth_getLogs", _) => lag_logs(request["params"].get_mut(0)?.as_object_mut()?, head),
        (_, Some(position)) => {
            let params = request["params"].as_array_mut()?;
            if params.len() == position {
                params.push("latest".into());
            }
            match asked(params.get(position)?, head) {
                Asked::Latest => params[position] = json!(format!("{head:#x}")),
                Asked::Later => {
                    return Some((
                        "error",
                        json!({ "code": -32000, "message": "header not found" }),
                    ));
                }
                Asked::Earlier => {}
            }
            None
        }
        _ => None,
    }
}

/// The hash of the block that a request is about, if it names one.
pub(super) fn hash_in(request: &Value) -> Option<&str> {
    let method = request["method"].as_str()?;
    let params = &request["params"];
    match method {
        "eth_getLogs" => params[0]["blockHash"].as_str(),
        "eth_getBlockByHash" => params[0].as_str(),
        _ => params[parameter(method)?]["blockHash"].as_str(),
    }
}

/// The response of a node that does not have the block that a request names by its hash.
pub(super) fn without_block(request: &Value) -> (&'static str, Value) {
    match request["method"].as_str() {
        Some("eth_getLogs") => ("result", json!([])),
        Some("eth_getBlockByHash") => ("result", Value::Null),
        _ => ("error", json!({ "code": -32000, "message": "header not found" })),
    }
}

fn lag_logs(
    filter: &mut serde_json::Map<String, Value>,
    head: u64,
) -> Option<(&'static str, Value)> {
    if filter.contains_key("blockHash") {
        return None;
    }
    for bound in ["fromBlock", "toBlock"] {
        match asked(filter.get(bound).unwrap_or(&Value::Null), head) {
            Asked::Later if bound == "fromBlock" => return Some(("result", json!([]))),
            Asked::Later | Asked::Latest => {
                filter.insert(bound.to_owned(), json!(format!("{head:#x}")));
            }
            Asked::Earlier => {}
        }
    }
    None
}

enum Asked {
    Latest,
    Later,
    /// At or before the head, by hash, or by a tag that is never the head.
    Earlier,
}

fn asked(block: &Value, head: u64) -> Asked {
    let number = match block {
        Value::Null => return Asked::Latest,
        Value::Object(fields) => fields.get("blockNumber").and_then(Value::as_str),
        other => other.as_str(),
    };
    match number {
        Some("latest" | "pending") => Asked::Latest,
        Some(number) => match hex(number) {
            Some(number) if number > head => Asked::Later,
            _ => Asked::Earlier,
        },
        None => Asked::Earlier,
    }
}

/// Number of blocks in the range of a log filter, if both bounds are numbers.
pub(super) fn spanned(filter: &Value) -> Option<u64> {
    let bound = |name| match filter[name].as_str()? {
        "earliest" => Some(0),
        number => hex(number),
    };
    let (from, to) = (bound("fromBlock")?, bound("toBlock")?);
    Some(to.checked_sub(from)?.saturating_add(1))
}

/// Whether a request needs the state of a block before this one, given by number.
pub(super) fn needs_state_before(request: &Value, block: u64) -> bool {
    let method = request["method"].as_str().unwrap_or_default();
    let Some(position) = parameter(method).filter(|position| *position > 0) else { return false };
    let asked = &request["params"][position];
    let number = asked.as_str().or_else(|| asked["blockNumber"].as_str());
    number.and_then(hex).is_some_and(|number| number < block)
}

fn hex(number: &str) -> Option<u64> {
    u64::from_str_radix(number.trim_start_matches("0x"), 16).ok()
}

/// The position of the block among a method's parameters.
pub(super) fn parameter(method: &str) -> Option<usize> {
    match method {
        "eth_getBlockByNumber" | "eth_getBlockReceipts" => Some(0),
        "eth_call"
        | "eth_estimateGas"
        | "eth_getBalance"
        | "eth_getCode"
        | "eth_getTransactionCount" => Some(1),
        "eth_getProof" | "eth_getStorageAt" => Some(2),
        _ => None,
    }
}
