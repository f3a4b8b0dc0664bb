//! What nodes say when something does not work: known wordings, and words that nobody has said yet.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

/// What an error is meant to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meaning {
    /// There is no such block, or not yet.
    UnknownBlock,
    /// The block's state is not kept.
    StateGone,
    /// A call asks for too much.
    TooLarge,
    /// A range of blocks is too wide.
    RangeTooWide,
    /// A block cannot be named by its hash in a call.
    NoHashes,
    /// A call has no third parameter.
    NoOverrides,
    /// The whole call reverted.
    Reverted,
    /// A call that some wallet breaks.
    Broken,
    /// A request is refused, this time.
    Refused,
    /// There were too many requests.
    RateLimited,
}

pub(crate) const MEANINGS: [Meaning; 10] = [
    Meaning::UnknownBlock,
    Meaning::StateGone,
    Meaning::TooLarge,
    Meaning::RangeTooWide,
    Meaning::NoHashes,
    Meaning::NoOverrides,
    Meaning::Reverted,
    Meaning::Broken,
    Meaning::Refused,
    Meaning::RateLimited,
];

/// How a node says it.
#[derive(Clone, Debug)]
pub(crate) struct Wording {
    pub(crate) status: u16,
    pub(crate) code: i64,
    pub(crate) message: String,
    /// Bytes of the message as they stand in JSON, behind it.
    pub(crate) raw: &'static str,
}

const WORDS: [&str; 40] = [
    "shard",
    "beacon",
    "keeper",
    "vault",
    "replica",
    "ledger",
    "cursor",
    "lantern",
    "quorum",
    "harbour",
    "could",
    "cannot",
    "must",
    "was",
    "did",
    "not",
    "serve",
    "find",
    "resolve",
    "open",
    "this",
    "that",
    "upstream",
    "frontier",
    "snapshot",
    "segment",
    "worker",
    "region",
    "table",
    "epoch",
    "operation",
    "denied",
    "failed",
    "missing",
    "absent",
    "exceeded",
    "unexpected",
    "condition",
    "policy",
    "busy",
];
/// Codes that mean nothing in particular.
const CODES: [i64; 9] = [-32000, -32001, -32003, -32010, -32603, -32099, -39001, 100, -1];

/// Words that were seen in the field.
fn known(meaning: Meaning) -> &'static [(u16, i64, &'static str)] {
    match meaning {
        Meaning::UnknownBlock => &[
            (200, -32000, "header not found"),
            (200, -32000, "header for hash not found"),
            (200, -32001, "Resource not found"),
            (200, -32000, "hash is not currently canonical"),
            (200, -32602, "blockHash cannot be found"),
            (200, -32000, "unknown block"),
        ],
        Meaning::StateGone => &[
            (200, -32000, "missing trie node 1f2e (path )"),
            (200, -32000, "historical state 5f3c is not available"),
            (200, -32002, "No state available for block 0x5f"),
            (200, -32603, "Internal error: MissingTrieNodeException"),
            (200, -32603, "state at block #95 is pruned"),
            (200, -32000, "old data not available due to pruning"),
            (200, -32000, "World state unavailable"),
        ],
        Meaning::TooLarge => &[
            (200, -32000, "out of gas"),
            (200, -32603, "context deadline exceeded"),
            (400, -32600, "provider-specified max eth_call gas limit exceeded"),
            (413, -32600, "request entity too large"),
            (200, -32000, "execution timeout"),
        ],
        Meaning::RangeTooWide => &[
            (200, -32005, "limit exceeded"),
            (200, -32603, "query timeout exceeded"),
            (200, -32005, "query returned more than 10000 results"),
            (400, -32602, "block range is too wide"),
        ],
        Meaning::NoHashes => &[
            (200, -32602, "invalid argument 1: hex string expected"),
            (200, -32602, "json: cannot unmarshal object into Go value of type string"),
        ],
        Meaning::NoOverrides => {
            &[(200, -32602, "too many arguments, want at most 2"), (200, -32602, "Invalid params")]
        }
        Meaning::Reverted => &[
            (200, 3, "execution reverted"),
            (200, -32000, "execution reverted"),
            (200, -32015, "VM execution error."),
            (
                200,
                -32603,
                "VM Exception while processing transaction: reverted with an unrecognized reason",
            ),
        ],
        Meaning::Broken => &[
            (200, 3, "execution reverted: rate limit"),
            (200, -32603, "Transaction reverted without a reason string"),
            (500, -32603, "Internal error"),
        ],
        Meaning::Refused => &[
            (200, -32603, "Internal error"),
            (500, -32000, "no backend is ready"),
            (200, -32000, "upstream connect error or disconnect/reset before headers"),
        ],
        Meaning::RateLimited => &[
            (429, -32005, "too many requests"),
            (429, 429, "slow down"),
            (200, -32005, "daily request rate exceeded"),
            (200, -32000, "rate limit reached"),
        ],
    }
}

/// Words at random, with a number now and then.
fn some_words(random: &mut StdRng) -> String {
    let count = random.random_range(1..7);
    let mut words: Vec<String> =
        (0..count).map(|_| (*WORDS.choose(random).expect("words")).to_owned()).collect();
    if random.random_bool(0.3) {
        words.push(format!("0x{:x}", random.random_range(0..99_999)));
    }
    words.join(" ")
}

impl Wording {
    /// How some node says this.
    pub(crate) fn of(meaning: Meaning, random: &mut StdRng) -> Self {
        let (status, code, message) = match random.random_bool(0.5) {
            true => {
                let (status, code, message) = known(meaning).choose(random).expect("a wording");
                (*status, *code, (*message).to_owned())
            }
            false => {
                // These two are known by positive evidence only.
                let code = match meaning {
                    Meaning::NoHashes => -32602,
                    Meaning::Reverted => 3,
                    Meaning::RateLimited => 429,
                    _ => *CODES.choose(random).expect("a code"),
                };
                let status = match meaning {
                    Meaning::RateLimited => 429,
                    Meaning::NoHashes | Meaning::NoOverrides => {
                        *[200, 400].choose(random).expect("a status")
                    }
                    _ => *[200, 200, 200, 400, 500].choose(random).expect("a status"),
                };
                (status, code, some_words(random))
            }
        };
        let (mut message, mut raw) = (message, "");
        if random.random_bool(0.1) {
            match random.random_range(0..4) {
                0 => message.push_str(" \0\u{1b}[31m\u{1b}]0;own\u{7}"),
                1 => raw = " \\ud800 \\u0000",
                2 => message.push_str(&" and so on".repeat(2_000)),
                _ => message = format!("line one\r\nline two\t{message}"),
            }
        }
        Self { status, code, message, raw }
    }

    /// The error in a response to the request with this id.
    pub(crate) fn body(&self, id: &str) -> String {
        let mut message = serde_json::to_string(&self.message).expect("a text");
        message.insert_str(message.len() - 1, self.raw);
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{},"message":{message}}}}}"#,
            self.code
        )
    }
}
