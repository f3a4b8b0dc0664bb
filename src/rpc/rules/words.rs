//! The words of a message that are the node's own: no URL, host, path or markup, and nothing that a contract says.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// Characters of a text that are looked at; what matters stands at the beginning.
const LENGTH: usize = 2_000;
/// How deep in an error's data a message is looked for.
const DEPTH: usize = 3;

/// What stands for nothing: URLs, markup, hosts, paths, and long hexadecimal data.
static NO_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let url = r"[A-Za-z][A-Za-z0-9+.-]*://[^\s]+";
    let markup = r"<[^>]*>";
    // Three labels, or two of which the second is a usual one; type names with dots have capitals.
    let host = r"(?-u:\b)[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:[a-z0-9-]+\.[a-z][a-z0-9-]+|com|org|net|io|dev|xyz|network|cloud|local|internal|example|test|invalid)(?-u:\b)(?::[0-9]+)?(?:/[^\s]*)?";
    let path = r#"(?:^|[\s"'(=])/[A-Za-z][^\s]*"#;
    let data = r"0x[0-9a-fA-F]{65,}";
    Regex::new(&[url, markup, host, path, data].join("|")).expect("a valid pattern")
});

/// How the text of a revert begins; from there on it is the contract's.
static REVERT: LazyLock<Regex> = LazyLock::new(|| {
    // geth, Erigon, reth, Nethermind, Besu: "execution reverted". Ganache and Hardhat: "VM Exception … revert",
    // "… reverted with reason string". Hardhat: "Transaction reverted: …". OpenEthereum's data: "Reverted 0x…".
    let begins = r"execution (?:was )?reverted|vm exception while processing transaction: rever|transaction reverted|reverted 0x|reverted with (?:reason|custom|panic|an unrec)|^revert(?:ed)?(?-u:\b)";
    Regex::new(begins).expect("a valid pattern")
});

/// The selectors of `Error(string)` and `Panic(uint256)`, which only a revert returns.
const REVERT_DATA: [&str; 2] = ["0x08c379a0", "0x4e487b71"];

/// The node's own words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// In lower case.
    pub(super) text: String,
    /// True if a contract's words followed, or its data.
    pub(super) is_revert: bool,
}

impl Words {
    /// The words of a message and its data.
    pub(super) fn of(message: &str, data: Option<&Value>) -> Self {
        let mut words = Self::default();
        words.add(message);
        if let Some(data) = data.filter(|_| !words.is_revert) {
            words.add_data(data, DEPTH);
        }
        words
    }

    fn add(&mut self, text: &str) {
        let end = text.char_indices().nth(LENGTH).map_or(text.len(), |(end, _)| end);
        let text = NO_WORDS.replace_all(&text[..end], " ").to_lowercase();
        let own = REVERT.find(&text).map_or(text.len(), |found| found.start());
        self.is_revert |= own < text.len();
        // Words of two texts never make a phrase.
        self.text.push_str(&text[..own]);
        self.text.push('\n');
    }

    fn add_data(&mut self, data: &Value, depth: usize) {
        match data {
            Value::String(text) if text.starts_with("0x") => {
                self.is_revert |= REVERT_DATA.iter().any(|selector| text.starts_with(selector));
            }
            Value::String(text) => self.add(text),
            Value::Object(members) if depth > 0 => {
                let names = ["message", "details", "description", "error", "cause", "data"];
                for member in names.iter().filter_map(|name| members.get(*name)) {
                    if !self.is_revert {
                        self.add_data(member, depth - 1);
                    }
                }
            }
            _ => {}
        }
    }
}

/// True if a text is an HTML page.
pub(super) fn is_page(text: &str) -> bool {
    let begin: String = text.trim_start().chars().take(200).collect();
    let begin = begin.to_lowercase();
    begin.starts_with('<') || begin.contains("<html") || begin.contains("<!doctype")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_nodes_own_words_are_left() {
        for (message, own) in [
            ("see https://host/rate-limit?too many requests", "see   many requests"),
            ("no route to rate.limit.example.com:8545/x", "no route to  "),
            ("POST /security failed", "post  failed"),
            ("limit of 6000/sec", "limit of 6000/sec"),
            ("<b>Too Many</b> Requests", " too many  requests"),
            (
                "Nethermind.Trie.MissingTrieNodeException: X",
                "nethermind.trie.missingtrienodeexception: x",
            ),
            ("limit exceeded.Try again", "limit exceeded.try again"),
        ] {
            assert_eq!(Words::of(message, None).text.trim_end_matches('\n'), own, "{message}");
        }
    }

    #[test]
    fn what_follows_a_revert_is_the_contracts() {
        for (message, data) in [
            ("execution reverted: rate limit", json!(null)),
            (
                "Error: VM Exception while processing transaction: reverted with reason string 'out of gas'",
                json!(null),
            ),
            ("VM execution error.", json!("Reverted 0x08c379a0")),
            ("Internal error", json!({ "message": "Execution reverted: too many requests" })),
            ("Transaction failed", json!({ "data": "0x4e487b710000" })),
        ] {
            let words = Words::of(message, Some(&data));
            assert!(words.is_revert, "{message}");
            for word in ["rate", "gas", "requests"] {
                assert!(!words.text.contains(word), "{message}: {words:?}");
            }
        }
        assert!(!Words::of("VM execution error.", Some(&json!("Out of gas"))).is_revert);
    }
}
