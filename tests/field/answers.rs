//! What a node that works answers, from what a backend sees of the chain.

use std::fmt::Write;

use alloy::primitives::{Address, B256, B256 as Topic, hex, keccak256};
use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    chain::{Block, Chain},
    contracts::Outcome,
    faults::Kind,
    node::{Asked, Node, Overrides, Sight, address_of, bytes_of, hash_of, number_of},
    words::Meaning,
};

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The backend does not have what another one has.
    Late(Meaning),
    /// The same, and it says so by an empty list.
    LateAndEmpty,
    /// It is so.
    Says(Meaning),
    /// The request makes no sense.
    BadRequest,
}

/// The result as JSON.
pub(crate) fn answer(
    node: &Node,
    asked: &Asked,
    sight: Sight,
    kind: Option<Kind>,
) -> Result<String, Trouble> {
    let chain = node.field.chain();
    let head = head(&chain, sight);
    let params = &asked.params;
    let other_chain = sight.other_chain || kind == Some(Kind::OtherChain);
    match asked.method.as_str() {
        "eth_chainId" => {
            let id = chain.contracts.chain_id + u64::from(other_chain);
            Ok(format!("\"{id:#x}\""))
        }
        "eth_blockNumber" => Ok(format!("\"{:#x}\"", chain.blocks[head].number)),
        "eth_syncing" => Ok("false".to_owned()),
        "eth_getCode" => {
            let address = address_of(&params[0]).ok_or(Trouble::BadRequest)?;
            let code =
                if sight.is_new || !chain.contracts.has_code(address) { "0x" } else { "0x6001" };
            Ok(format!("\"{code}\""))
        }
        "eth_getBlockByNumber" | "eth_getBlockByHash" => {
            let block = match asked.method.as_str() {
                "eth_getBlockByHash" => by_hash(node, &chain, head, sight, &params[0]),
                _ => by_tag(&chain, head, &params[0])?,
            };
            let Some(mut block) = block else { return Ok("null".to_owned()) };
            if kind == Some(Kind::OtherHeader) {
                block = chain.blocks[block].parent;
            }
            Ok(header(&chain, block, other_chain))
        }
        "eth_getLogs" => logs(node, &chain, head, sight, &params[0], kind),
        "eth_call" => call(node, &chain, head, sight, asked, kind),
        _ => Err(Trouble::BadRequest),
    }
}

fn head(chain: &Chain, sight: Sight) -> usize {
    if sight.is_new {
        return 0;
    }
    let head = chain.head_at(sight.time);
    let number = chain.blocks[head].number.saturating_sub(sight.back);
    chain.ancestor(head, number).unwrap_or(0)
}

/// The block of this tag or number, if there is one.
fn by_tag(chain: &Chain, head: usize, tag: &Value) -> Result<Option<usize>, Trouble> {
    let newest = chain.blocks[head].number;
    let number = match tag.as_str() {
        Some("latest" | "pending") => newest,
        Some("safe") => newest.saturating_sub(8),
        Some("finalized") => newest.saturating_sub(16),
        Some("earliest") => 0,
        _ => number_of(tag).ok_or(Trouble::BadRequest)?,
    };
    Ok(chain.ancestor(head, number))
}

/// The block with this hash, if the backend has it.
fn by_hash(node: &Node, chain: &Chain, head: usize, sight: Sight, hash: &Value) -> Option<usize> {
    let block = chain.find(&hash_of(hash)?)?;
    let made = &chain.blocks[block];
    let is_known =
        !sight.is_new && made.at <= sight.time && made.number <= chain.blocks[head].number + 64;
    let is_on_chain = chain.ancestor(head, made.number) == Some(block);
    let has_it = sight.back == 0 && !node.character.forgets_replaced || is_on_chain;
    (is_known && has_it).then_some(block)
}

fn header(chain: &Chain, block: usize, other_chain: bool) -> String {
    let made = &chain.blocks[block];
    let of_chain = |hash: B256| if other_chain { keccak256(hash) } else { hash };
    let parent = chain.blocks[made.parent].hash;
    json!({
        "number": format!("{:#x}", made.number),
        "hash": of_chain(made.hash),
        "parentHash": of_chain(if made.number == 0 { B256::ZERO } else { parent }),
        "timestamp": format!("{:#x}", made.timestamp),
        "logsBloom": made.bloom,
        "transactions": if made.logs.is_empty() { vec![] } else { vec![keccak256(made.hash)] },
        "gasLimit": "0x1c9c380",
        "gasUsed": format!("{:#x}", made.logs.len() * 50_000),
    })
    .to_string()
}

/// Which logs a filter asks for.
struct Wanted {
    addresses: Vec<Address>,
    topics: Vec<Vec<Topic>>,
}

impl Wanted {
    fn of(filter: &Value) -> Self {
        fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
            match value {
                Value::Array(values) => values.iter().filter_map(read).collect(),
                value => read(value).into_iter().collect(),
            }
        }
        let topics = filter["topics"].as_array().cloned().unwrap_or_default();
        Self {
            addresses: list(&filter["address"], address_of),
            topics: topics.iter().map(|topic| list(topic, hash_of)).collect(),
        }
    }

    fn write(&self, block: &Block, logs: &mut Vec<String>) {
        for (index, log) in block.logs.iter().enumerate() {
            let topics_fit = self.topics.iter().enumerate().all(|(at, any)| {
                any.is_empty() || log.topics.get(at).is_some_and(|topic| any.contains(topic))
            });
            if topics_fit && (self.addresses.is_empty() || self.addresses.contains(&log.address)) {
                let mut text = format!("{{\"address\":\"{}\",\"topics\":[", log.address);
                for (at, topic) in log.topics.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(text, "{comma}\"{topic}\"").expect("a text takes all");
                }
                write!(
                    text,
                    "],\"data\":\"0x\",\"blockNumber\":\"{:#x}\",\"blockHash\":\"{}\",\
                     \"transactionHash\":\"{}\",\"transactionIndex\":\"0x0\",\"logIndex\":\"{index:#x}\",\
                     \"removed\":false}}",
                    block.number,
                    block.hash,
                    keccak256(block.hash)
                )
                .expect("a text takes all");
                logs.push(text);
            }
        }
    }
}

fn logs(
    node: &Node,
    chain: &Chain,
    head: usize,
    sight: Sight,
    filter: &Value,
    kind: Option<Kind>,
) -> Result<String, Trouble> {
    let character = &node.character;
    let wanted = Wanted::of(filter);
    let unknown = match character.empty_when_unknown {
        true => Trouble::LateAndEmpty,
        false => Trouble::Late(Meaning::UnknownBlock),
    };
    let mut found = Vec::new();
    let indexed = sight.time.saturating_sub(character.indexing);
    let mut take = |mut block: usize| {
        if kind == Some(Kind::OtherLogs) {
            block = chain.blocks[block].parent;
        }
        let made = &chain.blocks[block];
        if made.at.is_zero() || made.at <= indexed {
            wanted.write(made, &mut found);
            return true;
        }
        made.logs.is_empty()
    };
    let mut is_whole = true;
    if let Some(hash) = filter.get("blockHash") {
        is_whole &= take(by_hash(node, chain, head, sight, hash).ok_or(unknown)?);
    } else {
        let newest = chain.blocks[head].number;
        let bound = |name: &str| match &filter[name] {
            Value::Null => Ok(newest),
            tag if tag.as_str() == Some("latest") => Ok(newest),
            tag => number_of(tag).ok_or(Trouble::BadRequest),
        };
        let (from, to) = (bound("fromBlock")?, bound("toBlock")?);
        if to.saturating_sub(from) >= character.range {
            return Err(Trouble::Says(Meaning::RangeTooWide));
        }
        if to > newest && !character.empty_when_unknown {
            return Err(unknown);
        }
        is_whole &= to <= newest;
        for number in from..=to.min(newest) {
            is_whole &= take(chain.ancestor(head, number).expect("not above the head"));
        }
    }
    if kind == Some(Kind::NoLogs) || !is_whole && found.is_empty() {
        return Err(Trouble::LateAndEmpty);
    }
    Ok(format!("[{}]", found.join(",")))
}

fn call(
    node: &Node,
    chain: &Chain,
    head: usize,
    sight: Sight,
    asked: &Asked,
    kind: Option<Kind>,
) -> Result<String, Trouble> {
    let character = &node.character;
    let says = |meaning| Err(Trouble::Says(meaning));
    let (call, at, overrides) = (&asked.params[0], &asked.params[1], &asked.params[2]);
    let to = address_of(&call["to"]).ok_or(Trouble::BadRequest)?;
    let data =
        bytes_of(&call["data"]).or_else(|| bytes_of(&call["input"])).ok_or(Trouble::BadRequest)?;
    if asked.bytes > character.bytes {
        return says(Meaning::TooLarge);
    }
    if !overrides.is_null() && character.overrides == Overrides::Refuses {
        return says(Meaning::NoOverrides);
    }
    let late = Trouble::Late(Meaning::UnknownBlock);
    let named = match at {
        Value::Object(_) if !character.hashes => return says(Meaning::NoHashes),
        Value::Object(_) => match at.get("blockHash") {
            Some(hash) => by_hash(node, chain, head, sight, hash),
            None => by_tag(chain, head, &at["blockNumber"])?,
        },
        tag => by_tag(chain, head, tag)?,
    };
    let block = match (sight.is_new, named) {
        (true, _) => return Ok("\"0x\"".to_owned()),
        (false, block) => block.ok_or(late)?,
    };
    let newest = chain.blocks[head].number;
    if newest.saturating_sub(chain.blocks[block].number) >= character.keeps {
        return match character.empty_when_gone {
            true => Ok("\"0x\"".to_owned()),
            false => says(Meaning::StateGone),
        };
    }
    let block = match kind {
        Some(Kind::OlderBlock) => {
            let back = node.random(1, 20);
            chain.ancestor(block, chain.blocks[block].number.saturating_sub(back)).unwrap_or(0)
        }
        Some(Kind::Newest) => head,
        _ => block,
    };
    let mut made = chain.blocks[block].clone();
    if sight.other_chain || kind == Some(Kind::OtherChain) {
        made.chain += 1;
        made.parts = std::sync::Arc::new(made.parts.iter().map(|part| part / 2 + 3).collect());
    }
    if chain.contracts.breaks(&data) {
        return says(Meaning::Broken);
    }
    let overridden = overrides
        .as_object()
        .is_some_and(|accounts| accounts.keys().any(|account| account.parse() == Ok(to)));
    let outcome = match overridden && character.overrides == Overrides::Takes {
        true => chain.contracts.packed(&made, &data, character.gas),
        false if !chain.contracts.has_code(to) => Outcome::Returns(Vec::new()),
        false => chain.contracts.call(&made, to, &data, character.gas),
    };
    match outcome {
        Outcome::Returns(bytes) if 2 * bytes.len() > character.bytes => says(Meaning::TooLarge),
        Outcome::Returns(bytes) => Ok(format!("\"{}\"", hex::encode_prefixed(bytes))),
        Outcome::Reverts => says(Meaning::Reverted),
        Outcome::OutOfGas => says(Meaning::TooLarge),
    }
}

impl Node {
    fn random(&self, from: u64, to: u64) -> u64 {
        self.with_random(|random| random.random_range(from..to))
    }
}
