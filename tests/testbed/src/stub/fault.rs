//! What can go wrong with a node.

use std::time::Duration;

use serde_json::{Value, json};

use super::aggregate3;

/// One way in which a node fails.
///
/// In a batch, faults of a whole HTTP answer ([`Fault::Status`], [`Fault::NotJson`], [`Fault::Truncated`], [`Fault::BrokenOff`],
/// [`Fault::Reset`], [`Fault::Hang`], [`Fault::Delay`]) hit the batch if they hit one of its requests; all others hit their request
/// alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// No fault: the request passes, and no later rule is asked.
    Pass,
    /// An HTTP status other than 200. See [`Fault::status`].
    Status {
        /// The status code.
        status: u16,
        /// Headers, beside those that every answer has.
        headers: Vec<(String, String)>,
        /// The body; HTML if it begins with `<`, JSON if it begins with `{`, else plain text.
        body: String,
    },
    /// A JSON-RPC error in an HTTP 200. See [`Fault::error`].
    Error {
        /// The error's code.
        code: i64,
        /// The error's message.
        message: String,
        /// The error's data, if it has any.
        data: Option<Value>,
    },
    /// This result, without asking the node: null for a block it doesn't know, `[]` for logs it doesn't have.
    Answer(Value),
    /// HTTP 200 with a page of HTML.
    NotJson,
    /// The true answer, cut in half: a well-formed HTTP answer with broken JSON.
    Truncated,
    /// The true answer, whose connection is closed half way.
    BrokenOff,
    /// The connection is reset, without an answer.
    Reset,
    /// The request is taken and never answered.
    Hang,
    /// The request is held up; the rules after this one decide what then becomes of it.
    Delay(Duration),
    /// The true answer to an `aggregate3` without its last element.
    Short,
    /// In place of the answer to an `aggregate3`, as many random bytes: it can't be decoded.
    Garbage,
    /// The answer to an `aggregate3` with all elements, each of which succeeded and returned random bytes.
    GarbageReturns,
    /// An `aggregate3` with more than this many calls (not wallets, which may take several) answers "out of gas", -32000.
    OutOfGasAbove(usize),
    /// An `aggregate3` with more than this many calls answers "response too large", -32003, as geth does.
    ResponseTooLargeAbove(usize),
    /// An `eth_getLogs` over more than this many blocks answers -32602 with this text, in which providers hide how many they
    /// allow. A range that ends at a tag other than `earliest` passes, and so does a single block by its hash.
    LogsWiderThan(u64, String),
    /// The node is this many blocks behind: `eth_blockNumber` and all that asks for `latest` answer as of then, logs after it are
    /// missing without an error, and anything else at a later block answers "header not found", -32000. That goes for
    /// `eth_getBlockByNumber` too, to which some nodes answer null: for that there is [`Fault::Answer`].
    Lagging(u64),
    /// `eth_chainId` and `net_version` answer this chain.
    ChainId(u64),
    /// `eth_getCode` answers that there is no contract.
    NoCode,
}

impl Fault {
    /// An HTTP status with its usual phrase for a body.
    pub fn status(status: u16) -> Self {
        let phrase = axum::http::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or_default();
        Self::Status { status, headers: Vec::new(), body: phrase.to_owned() }
    }

    /// HTTP 429 with a `Retry-After` of this many seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        Self::status(429).with_header("Retry-After", &retry_after.to_string())
    }

    /// HTTP 502 with the page of a load balancer.
    pub fn bad_gateway() -> Self {
        Self::status(502).with_body(
            "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n",
        )
    }

    /// A JSON-RPC error in an HTTP 200.
    pub fn error(code: i64, message: &str) -> Self {
        Self::Error { code, message: message.to_owned(), data: None }
    }

    /// Adds a header to an HTTP status; any other fault stays as it is.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Self::Status { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Gives an HTTP status this body; any other fault stays as it is.
    #[must_use]
    pub fn with_body(mut self, text: &str) -> Self {
        if let Self::Status { body, .. } = &mut self {
            text.clone_into(body);
        }
        self
    }

    /// Adds data to a JSON-RPC error; any other fault stays as it is.
    #[must_use]
    pub fn with_data(mut self, value: Value) -> Self {
        if let Self::Error { data, .. } = &mut self {
            *data = Some(value);
        }
        self
    }

    /// What the journal calls it: `status 429`, `error -32005`, `out of gas`, …, and `passed` for no fault.
    pub fn name(&self) -> String {
        match self {
            Self::Pass => "passed",
            Self::Status { status, .. } => return format!("status {status}"),
            Self::Error { code, .. } => return format!("error {code}"),
            Self::Answer(_) => "answer",
            Self::NotJson => "not JSON",
            Self::Truncated => "truncated",
            Self::BrokenOff => "broken off",
            Self::Reset => "reset",
            Self::Hang => "hang",
            Self::Delay(_) => "delay",
            Self::Short => "short",
            Self::Garbage => "garbage",
            Self::GarbageReturns => "garbage returns",
            Self::OutOfGasAbove(_) => "out of gas",
            Self::ResponseTooLargeAbove(_) => "response too large",
            Self::LogsWiderThan(..) => "logs wider than",
            Self::Lagging(_) => "lagging",
            Self::ChainId(_) => "chain id",
            Self::NoCode => "no code",
        }
        .to_owned()
    }

    /// Whether it would make a difference to this request.
    pub(super) fn concerns(&self, request: &Value) -> bool {
        let method = request["method"].as_str().unwrap_or_default();
        match self {
            Self::OutOfGasAbove(limit) | Self::ResponseTooLargeAbove(limit) => {
                aggregate3::calls(request).is_some_and(|calls| calls > *limit)
            }
            Self::Short | Self::Garbage | Self::GarbageReturns => {
                aggregate3::calls(request).is_some()
            }
            Self::LogsWiderThan(limit, _) => {
                method == "eth_getLogs"
                    && blocks(&request["params"][0]).is_some_and(|blocks| blocks > *limit)
            }
            Self::Lagging(_) => {
                matches!(method, "eth_blockNumber" | "eth_getLogs")
                    || block_parameter(method).is_some()
            }
            Self::ChainId(_) => matches!(method, "eth_chainId" | "net_version"),
            Self::NoCode => method == "eth_getCode",
            _ => true,
        }
    }

    /// The answer that needs no node: a `result` or an `error` field with its value.
    pub(super) fn own_answer(&self, request: &Value) -> Option<(&'static str, Value)> {
        Some(match self {
            Self::Error { code, message, data } => {
                let mut error = json!({ "code": code, "message": message });
                if let Some(data) = data {
                    error["data"] = data.clone();
                }
                ("error", error)
            }
            Self::Answer(value) => ("result", value.clone()),
            Self::OutOfGasAbove(_) => ("error", json!({ "code": -32000, "message": "out of gas" })),
            Self::ResponseTooLargeAbove(_) => {
                ("error", json!({ "code": -32003, "message": "response too large" }))
            }
            Self::LogsWiderThan(_, message) => {
                ("error", json!({ "code": -32602, "message": message }))
            }
            Self::ChainId(id) if request["method"] == "net_version" => {
                ("result", json!(id.to_string()))
            }
            Self::ChainId(id) => ("result", json!(format!("{id:#x}"))),
            Self::NoCode => ("result", json!("0x")),
            _ => return None,
        })
    }

    /// Whether it is done to the node's answer, which then has to be understood.
    pub(super) fn tampers(&self) -> bool {
        matches!(self, Self::Short | Self::Garbage | Self::GarbageReturns)
    }

    /// Does it. An error of the node's stays as it is.
    pub(super) fn tamper(&self, response: &mut Value) {
        let Some(answer) = response["result"].as_str() else {
            return;
        };
        let tampered = match self {
            Self::Short => aggregate3::shortened(answer),
            Self::Garbage => Some(aggregate3::garbage(answer)),
            Self::GarbageReturns => aggregate3::with_garbage_returns(answer),
            _ => None,
        };
        if let Some(tampered) = tampered {
            response["result"] = tampered.into();
        }
    }
}

/// What a node whose last block is `head` does with a request: it may turn `latest` into that block, or answer by itself.
pub(super) fn lag(request: &mut Value, head: u64) -> Option<(&'static str, Value)> {
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    match (method.as_str(), block_parameter(&method)) {
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
    /// Or at the head itself, or by hash, or by a tag that is never the head.
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

/// How many blocks a filter of logs spans, if it says so in numbers.
fn blocks(filter: &Value) -> Option<u64> {
    let bound = |name| match filter[name].as_str()? {
        "earliest" => Some(0),
        number => hex(number),
    };
    let (from, to) = (bound("fromBlock")?, bound("toBlock")?);
    Some(to.checked_sub(from)?.saturating_add(1))
}

fn hex(number: &str) -> Option<u64> {
    u64::from_str_radix(number.trim_start_matches("0x"), 16).ok()
}

/// Where a method's block is among its parameters.
fn block_parameter(method: &str) -> Option<usize> {
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
