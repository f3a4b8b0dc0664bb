//! JSON-RPC: the body of a request, and what a response says. Strict about which request a response belongs to,
//! liberal about everything else.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// What an endpoint answered.
#[derive(Debug)]
pub(super) enum Answer<R> {
    /// The result.
    Result(R),
    /// An error of its own.
    Error(ErrorObject),
    /// Nothing that can be an answer to this request, and why.
    Malformed(String),
}

/// A JSON-RPC error, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorObject {
    /// The code.
    pub(super) code: Option<i64>,
    /// The message; the whole error where it has none.
    pub(super) message: String,
    /// The data, as JSON.
    pub(super) data: Option<Value>,
}

/// A response with everything that matters; every member may be missing.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// `Some` also for `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The body of a request.
pub(super) fn request<P: Serialize>(id: u64, method: &str, params: &P) -> Vec<u8> {
    let params = serde_json::to_string(params).expect("parameters are JSON");
    // Some nodes insist on parameters.
    let params = if params == "null" { "[]" } else { &params };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#).into_bytes()
}

/// What a body says in answer to the request with this id.
pub(super) fn answer<R: DeserializeOwned>(id_of_request: u64, body: &[u8]) -> Answer<R> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    let envelope = match envelope(text) {
        Ok(envelope) => envelope,
        Err(error) => return Answer::Malformed(format!("the answer is not JSON-RPC: {error}")),
    };
    if let Some(error) = ErrorObject::instead_of(&envelope, text) {
        return Answer::Error(error);
    }
    let is_ours = match envelope.id {
        Some(id) if id.get() != "null" => names(id.get(), id_of_request),
        // An error may come from somewhere that could not read the request.
        _ => envelope.error.is_some(),
    };
    if !is_ours {
        return Answer::Malformed("the answer is for another request".to_owned());
    }
    match (envelope.error, envelope.result) {
        (Some(error), _) => Answer::Error(ErrorObject::read(error.get())),
        (None, Some(result)) => match serde_json::from_str(result.get()) {
            Ok(result) => Answer::Result(result),
            Err(error) => {
                Answer::Malformed(format!("the answer is not of the expected form: {error}"))
            }
        },
        (None, None) => Answer::Malformed("the answer has neither a result nor an error".into()),
    }
}

/// A response, or a list with one.
fn envelope(text: &str) -> serde_json::Result<Envelope<'_>> {
    if text.starts_with('[') {
        let [only]: [Envelope<'_>; 1] = serde_json::from_str(text)?;
        return Ok(only);
    }
    serde_json::from_str(text)
}

/// True if the JSON is this id: the number, or a text that holds it.
fn names(json: &str, id: u64) -> bool {
    json.trim_matches('"') == id.to_string()
}

impl ErrorObject {
    /// Reads the error of a response; of one that is broken, its text.
    fn read(json: &str) -> Self {
        let broken = |_| serde_json::from_str(&without_lone_surrogates(json));
        match serde_json::from_str(json).or_else(broken) {
            Ok(Value::Object(mut members)) => {
                let code = members.remove("code").and_then(|code| match code {
                    Value::String(text) => text.trim().parse().ok(),
                    code => code.as_i64().or_else(|| code.as_f64().map(|code| code as i64)),
                });
                let message = match members.remove("message") {
                    Some(Value::String(message)) => message,
                    _ => json.to_owned(),
                };
                let data = members.remove("data").filter(|data| !data.is_null());
                // Some put beside the message what belongs into the data, such as how long to wait.
                let beside = || (!members.is_empty()).then(|| Value::Object(members.clone()));
                let data = data.or_else(beside);
                Self { code, message, data }
            }
            Ok(Value::String(message)) => Self { message, ..Self::default() },
            _ => Self { message: json.to_owned(), ..Self::default() },
        }
    }

    /// The error in the body of an HTTP error, if there is one.
    pub(super) fn in_body(body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        let envelope = envelope(text).ok()?;
        match envelope.error {
            Some(error) => Some(Self::read(error.get())),
            None => Self::instead_of(&envelope, text),
        }
    }

    /// The error of a gateway that answers with a message of its own instead of JSON-RPC.
    fn instead_of(envelope: &Envelope<'_>, text: &str) -> Option<Self> {
        if envelope.id.is_some() || envelope.result.is_some() || envelope.error.is_some() {
            return None;
        }
        let Ok(Value::Object(members)) = serde_json::from_str(text) else { return None };
        let names = ["message", "msg", "detail", "details", "description", "error_description"];
        let said = names.iter().find_map(|name| members.get(*name)?.as_str());
        let said = said.or_else(|| members.get("errors")?.get(0)?.get("message")?.as_str())?;
        Some(Self { message: said.to_owned(), ..Self::read(text) })
    }
}

/// JSON with a replacement character for each escaped half of a character without its other half.
fn without_lone_surrogates(json: &str) -> String {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        clean.push_str(before);
        let (kept, len) = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => (&escape[..12], 12),
            (Some(0xd800..0xe000), _) => ("\\ufffd", 6),
            (Some(_), _) => (&escape[..6], 6),
            (None, _) => {
                let len = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                (&escape[..len], len)
            }
        };
        clean.push_str(kept);
        rest = &escape[len..];
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_always_has_parameters() {
        assert_eq!(
            String::from_utf8(request(7, "eth_chainId", &())).unwrap(),
            r#"{"jsonrpc":"2.0","id":7,"method":"eth_chainId","params":[]}"#
        );
        let body = request(8, "m", &("latest", false));
        assert!(body.ends_with(br#""params":["latest",false]}"#));
    }

    fn result(body: &str) -> Option<Option<u64>> {
        match answer(7, body.as_bytes()) {
            Answer::Result(result) => Some(result),
            _ => None,
        }
    }

    #[test]
    fn a_result_counts_only_for_the_request_that_it_names() {
        for body in [
            r#"{"jsonrpc":"2.0","id":7,"result":1}"#,
            r#"{"result":1,"error":null,"id":"7"}"#,
            "\u{feff}{\"id\":7,\"result\":1,\"extra\":{}}\n",
            r#"[{"id":7,"result":1}]"#,
        ] {
            assert_eq!(result(body), Some(Some(1)), "{body}");
        }
        assert_eq!(result(r#"{"id":7,"result":null}"#), Some(None));
        for body in [
            r#"{"id":8,"result":1}"#,
            r#"{"id":70,"result":1}"#,
            r#"{"id":null,"result":1}"#,
            r#"{"result":1}"#,
            r#"{"id":7}"#,
            r#"{"id":7,"result":"x"}"#,
            r#"[{"id":7,"result":1},{"id":8,"result":2}]"#,
            r#"{"id":7,"result":1"#,
            "[]",
            "1",
            "",
            "<html>",
        ] {
            let answer: Answer<u64> = answer(7, body.as_bytes());
            assert!(matches!(answer, Answer::Malformed(_)), "{body}: {answer:?}");
        }
    }

    fn error(body: &str) -> ErrorObject {
        match answer::<u64>(7, body.as_bytes()) {
            Answer::Error(error) => error,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn an_error_is_read_however_odd_it_is() {
        let object =
            |code, message: &str| ErrorObject { code, message: message.to_owned(), data: None };
        for (body, expected) in [
            (r#"{"id":7,"error":{"code":-32000,"message":"busy"}}"#, object(Some(-32000), "busy")),
            (r#"{"id":null,"error":{"code":"-32005","message":"x"}}"#, object(Some(-32005), "x")),
            (r#"{"error":"over capacity"}"#, object(None, "over capacity")),
            (r#"{"error":{"message":"no code"}}"#, object(None, "no code")),
            (r#"{"id":7,"error":{"code":-1.0}}"#, object(Some(-1), r#"{"code":-1.0}"#)),
            (r#"{"id":7,"error":false}"#, object(None, "false")),
            (r#"{"message":"Too Many Requests"}"#, object(None, "Too Many Requests")),
            (
                r#"{"jsonrpc":"2.0","code":-32005,"message":"slow"}"#,
                ErrorObject {
                    data: Some(json!({ "jsonrpc": "2.0" })),
                    ..object(Some(-32005), "slow")
                },
            ),
            (
                r#"{"id":7,"error":{"code":3,"message":"a\ud800b\udc00\ud83d\ude00\\ud800"}}"#,
                object(Some(3), "a\u{fffd}b\u{fffd}\u{1f600}\\ud800"),
            ),
        ] {
            assert_eq!(error(body), expected, "{body}");
        }
        let with_data = error(r#"{"id":7,"error":{"code":3,"message":"m","data":"0x08"}}"#);
        assert_eq!(with_data.data, Some(json!("0x08")));
        let beside = error(r#"{"id":7,"error":{"message":"slow","retry_after":2}}"#);
        assert_eq!(beside.data, Some(json!({ "retry_after": 2 })));
        let other = answer::<u64>(7, br#"{"id":9,"error":{"code":3,"message":"m"}}"#);
        assert!(matches!(other, Answer::Malformed(_)));
    }
}
