//! The faults of a node.

use std::time::Duration;

use alloy::primitives::U256;
use serde_json::{Value, json};

use super::{
    aggregate3, blocks,
    packed::{self, Corruption},
    when::RequestContext,
};

/// One way in which a node fails.
///
/// In a batch, faults of a whole HTTP response ([`Fault::Status`], [`Fault::NotJson`], [`Fault::Truncated`], [`Fault::BrokenOff`],
/// [`Fault::Reset`], [`Fault::Hang`], [`Fault::Delay`]) affect the batch if they affect one of its requests; all others affect their
/// request alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// No fault: the request passes, and no later rule applies.
    Pass,
    /// An HTTP status other than 200. See [`Fault::status`].
    Status {
        /// The status code.
        status: u16,
        /// Extra headers.
        headers: Vec<(String, String)>,
        /// The body; HTML if it starts with `<`, JSON if it starts with `{`, else plain text.
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
    /// This result, without asking the node: null for an unknown block, `[]` for missing logs.
    Answer(Value),
    /// HTTP 200 with an HTML page.
    NotJson,
    /// The first half of the true response: a well-formed HTTP response with broken JSON.
    Truncated,
    /// The true response, whose connection is closed halfway.
    BrokenOff,
    /// The connection is reset without a response.
    Reset,
    /// The request never gets a response.
    Hang,
    /// The request is delayed; later rules apply after that.
    Delay(Duration),
    /// The true result of an `aggregate3` without its last element.
    Short,
    /// Instead of the result of an `aggregate3`, as many random bytes, which cannot be decoded.
    Garbage,
    /// The result of an `aggregate3` with all elements, each a success with random bytes.
    GarbageReturns,
    /// The result of an `aggregate3` that asks first where it runs, as if the contracts of all other calls had no code.
    EmptyReturns,
    /// An `aggregate3` with more than this many calls (not wallets, which may take several), or a packed call with more than
    /// this many wallets, gets the error "out of gas", -32000.
    OutOfGasAbove(usize),
    /// An `aggregate3` with more than this many calls, or a packed call with more than this many wallets, gets the error "response
    /// too large", -32003, as from geth.
    ResponseTooLargeAbove(usize),
    /// A call with more wallets than this, packed or an `aggregate3` with this many parts per wallet, gets the error "out of gas",
    /// -32000.
    WalletsAbove {
        /// The most wallets per call.
        wallets: usize,
        /// Calls of an `aggregate3` per wallet.
        parts: usize,
    },
    /// An `eth_call` with a third parameter gets the error "too many arguments, want at most 2", -32602, as from geth.
    RefusesOverrides,
    /// The third parameter of an `eth_call` is removed.
    IgnoresOverrides,
    /// The gas of an `eth_call` is set to this, as nodes cap it silently.
    GasCap(u64),
    /// The true response with this id instead of the request's.
    WithId(Value),
    /// Instead of the true response, the one to the last request of the same method before, with its id: from a gateway that
    /// mixes up responses. The first request passes.
    ResponseBefore,
    /// The true result of a packed call, corrupted like this.
    CorruptPacked(Corruption),
    /// With more than this many requests in flight, HTTP 429. See [`super::RecordedRequest::in_flight`].
    TooManyInFlight(usize),
    /// HTTP 429 above this many compute units in any second: 26 for an `eth_call`, 10 for any other request; a refused request
    /// costs nothing.
    ComputeUnits(u64),
    /// A request that needs the state of a block, given by number, more than this many blocks behind the newest gets the error
    /// "missing trie node", -32000.
    StateDroppedAfter(u64),
    /// An `eth_getLogs` over more than this many blocks gets the error -32602 with this text, in which providers state their
    /// limit. A range that ends at a tag other than `earliest` passes, and so does a single block by its hash.
    LogsWiderThan(u64, String),
    /// The node is this many blocks behind: `eth_blockNumber` and requests at `latest` see that block, later logs are missing
    /// without an error, and any other request at a later block gets the error "header not found", -32000. That includes
    /// `eth_getBlockByNumber`, for which some nodes return null: use [`Fault::Answer`] for these.
    Lagging(u64),
    /// An `eth_call` is answered from this block, whatever block it names.
    AtBlock(u64),
    /// The request is answered by the node at this URL.
    AnsweredBy(String),
    /// Contracts see the block numbers of another chain, which has a block for every 50 of this one and is this many blocks
    /// ahead, as on Arbitrum.
    ForeignBlockNumbers(u64),
    /// Several nodes answer, one of them at random, each this far behind: a block is there so long after it was first seen
    /// here. Until then its logs are missing without an error, by its hash too, and all else about it is as if it did not exist.
    Pool(Vec<Duration>),
    /// As [`Fault::Pool`], but only the logs are missing: the nodes have the blocks, and have not indexed their receipts.
    Unindexed(Vec<Duration>),
    /// The blooms of blocks are empty, as those of some chains.
    WithoutBlooms,
    /// `eth_chainId` and `net_version` return this chain id.
    ChainId(u64),
    /// `eth_getCode` returns no code.
    NoCode,
}

impl Fault {
    /// An HTTP status with its reason phrase as the body.
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

    /// HTTP 502 with a load balancer's page.
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

    /// Its name in the journal: `status 429`, `error -32005`, `out of gas`, …, and `passed` for no fault.
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
            Self::EmptyReturns => "empty returns",
            Self::OutOfGasAbove(_) => "out of gas",
            Self::ResponseTooLargeAbove(_) => "response too large",
            Self::WalletsAbove { .. } => "too many wallets",
            Self::RefusesOverrides => "refuses overrides",
            Self::IgnoresOverrides => "ignores overrides",
            Self::GasCap(_) => "gas cap",
            Self::WithId(_) => "with id",
            Self::ResponseBefore => "response before",
            Self::CorruptPacked(_) => "corrupt packed",
            Self::TooManyInFlight(_) => "too many in flight",
            Self::ComputeUnits(_) => "compute units",
            Self::StateDroppedAfter(_) => "state dropped",
            Self::LogsWiderThan(..) => "logs wider than",
            Self::Lagging(_) => "lagging",
            Self::AtBlock(_) => "at another block",
            Self::AnsweredBy(_) => "by another node",
            Self::ForeignBlockNumbers(_) => "foreign block numbers",
            Self::Pool(_) => "pool",
            Self::WithoutBlooms => "without blooms",
            Self::Unindexed(_) => "unindexed",
            Self::ChainId(_) => "chain id",
            Self::NoCode => "no code",
        }
        .to_owned()
    }

    /// Whether it affects this request.
    pub(super) fn concerns(&self, request: &Value, context: &RequestContext) -> bool {
        let method = request["method"].as_str().unwrap_or_default();
        match self {
            Self::OutOfGasAbove(limit) | Self::ResponseTooLargeAbove(limit) => {
                aggregate3::calls(request)
                    .or_else(|| packed::wallets(request))
                    .is_some_and(|count| count > *limit)
            }
            Self::WalletsAbove { wallets, parts } => {
                wallets_of(request, *parts).is_some_and(|count| count > *wallets)
            }
            Self::RefusesOverrides | Self::IgnoresOverrides => {
                method == "eth_call" && !request["params"][2].is_null()
            }
            Self::GasCap(_) | Self::AtBlock(_) => method == "eth_call",
            Self::ForeignBlockNumbers(_) => {
                aggregate3::tells_where_it_runs(request) || packed::wallets(request).is_some()
            }
            Self::CorruptPacked(_) => packed::wallets(request).is_some(),
            Self::TooManyInFlight(limit) => context.in_flight > *limit,
            Self::StateDroppedAfter(blocks) => context.head.is_some_and(|head| {
                blocks::needs_state_before(request, head.saturating_sub(*blocks))
            }),
            Self::EmptyReturns => aggregate3::tells_where_it_runs(request),
            Self::Short | Self::Garbage | Self::GarbageReturns => {
                aggregate3::calls(request).is_some()
            }
            Self::LogsWiderThan(limit, _) => {
                method == "eth_getLogs"
                    && blocks::spanned(&request["params"][0]).is_some_and(|blocks| blocks > *limit)
            }
            Self::WithoutBlooms => method.starts_with("eth_getBlockBy"),
            Self::Unindexed(_) => method == "eth_getLogs",
            Self::Pool(_) => {
                matches!(method, "eth_blockNumber" | "eth_getLogs" | "eth_getBlockByHash")
                    || blocks::parameter(method).is_some()
            }
            Self::Lagging(_) => {
                matches!(method, "eth_blockNumber" | "eth_getLogs")
                    || blocks::parameter(method).is_some()
            }
            Self::ChainId(_) => matches!(method, "eth_chainId" | "net_version"),
            Self::NoCode => method == "eth_getCode",
            _ => true,
        }
    }

    /// The response that needs no node: a `result` or an `error` field with its value.
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
            Self::OutOfGasAbove(_) | Self::WalletsAbove { .. } => {
                ("error", json!({ "code": -32000, "message": "out of gas" }))
            }
            Self::RefusesOverrides => (
                "error",
                json!({ "code": -32602, "message": "too many arguments, want at most 2" }),
            ),
            Self::StateDroppedAfter(_) => {
                let lost = "missing trie node 1f2e3d4c5b6a79880716253443526170 (path ) state is not available";
                ("error", json!({ "code": -32000, "message": lost }))
            }
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

    /// The HTTP status that it amounts to, if any.
    pub(super) fn as_status(&self) -> Option<Self> {
        match self {
            Self::Status { .. } => Some(self.clone()),
            Self::TooManyInFlight(_) => Some(Self::status(429)),
            Self::ComputeUnits(_) => Some(Self::status(429).with_body(
                r#"{"jsonrpc":"2.0","error":{"code":429,"message":"Your app has exceeded its compute units per second capacity."}}"#,
            )),
            _ => None,
        }
    }

    /// Whether it changes the node's response.
    pub(super) fn tampers(&self) -> bool {
        matches!(
            self,
            Self::Short
                | Self::Garbage
                | Self::GarbageReturns
                | Self::EmptyReturns
                | Self::CorruptPacked(_)
                | Self::ForeignBlockNumbers(_)
                | Self::WithId(_)
                | Self::WithoutBlooms
        )
    }

    /// Changes the node's response to this request. Leaves an error as it is, but for its id.
    pub(super) fn tamper(&self, request: &Value, response: &mut Value) {
        if let Self::WithId(id) = self {
            response["id"] = id.clone();
            return;
        }
        if *self == Self::WithoutBlooms {
            if let Some(bloom) = response["result"].get_mut("logsBloom") {
                *bloom = format!("0x{}", "00".repeat(256)).into();
            }
            return;
        }
        let Some(answer) = response["result"].as_str() else {
            return;
        };
        let tampered = match self {
            Self::Short => aggregate3::shortened(answer),
            Self::Garbage => Some(aggregate3::garbage(answer)),
            Self::GarbageReturns => aggregate3::with_garbage_returns(answer),
            Self::EmptyReturns => aggregate3::with_empty_returns(answer),
            Self::CorruptPacked(corruption) => corruption.applied_to(answer),
            Self::ForeignBlockNumbers(ahead) => {
                let foreign = |number: U256| number / U256::from(50) + U256::from(*ahead);
                match packed::wallets(request) {
                    Some(_) => packed::with_block_number(answer, foreign),
                    None => aggregate3::with_block_number(answer, foreign),
                }
            }
            _ => None,
        };
        if let Some(tampered) = tampered {
            response["result"] = tampered.into();
        }
    }
}

/// Number of wallets of a call, if it is packed or an `aggregate3` with this many calls per wallet.
pub(super) fn wallets_of(request: &Value, parts: usize) -> Option<usize> {
    let called = || aggregate3::calls(request).map(|calls| calls.div_ceil(parts));
    packed::wallets(request).or_else(called)
}
