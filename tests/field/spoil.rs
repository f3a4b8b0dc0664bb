//! What a fault makes of a response.

use std::time::Duration;

use ethtally::rpc::{HeaderMap, HttpError, HttpResponse};
use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    faults::{Hint, Kind},
    field::Fate,
    node::{Asked, Node, Response},
    words::Meaning,
};

impl Node {
    /// The response that a fault makes of it.
    pub(crate) async fn spoilt(
        &self,
        asked: &Asked,
        kind: Kind,
        now: Duration,
        key: u64,
    ) -> (Response, Fate) {
        let struck = Fate::Struck(kind.name());
        let result = |json: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{json}}}"#, asked.id);
            self.page(200, body)
        };
        match kind {
            Kind::Dead => {
                (Err(HttpError::NoConnection { cause: "connection refused".into() }), struck)
            }
            Kind::Breaks => (Err(HttpError::Broken { cause: "connection reset".into() }), struck),
            Kind::Silent => {
                self.field.note(key, struck);
                std::future::pending().await
            }
            Kind::Page => {
                let status = [500, 502, 503, 504, 520, 524][self.state().random.random_range(0..6)];
                let page = [
                    "<html><h1>Bad Gateway</h1></html>",
                    "<html>a page about payment required, limits per second and invalid api keys</html>",
                    "upstream connect error",
                    "",
                ][self.state().random.random_range(0..4)];
                (self.page(status, page), struck)
            }
            Kind::Redirect => {
                let mut headers = HeaderMap::new();
                headers.insert("location", "https://elsewhere.test/k3y".parse().expect("a header"));
                self.field.book().statuses.insert(307);
                (Ok(HttpResponse { status: 307, headers, body: Vec::new() }), struck)
            }
            Kind::Refuses => (self.error(Meaning::Refused, &asked.id), struck),
            Kind::Limits => (self.error(Meaning::RateLimited, &asked.id), Fate::Limited),
            Kind::Tells(hint) => (self.told_limit(asked, hint, now), Fate::Told),
            Kind::Forbids(status) => {
                let body = match self.state().random.random_range(0..3) {
                    0 => "no entry",
                    1 => {
                        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32002,"message":"rejected due to project ID settings"}}"#
                    }
                    _ => r#"{"error":"not for you"}"#,
                };
                (self.page(status, body), struck)
            }
            Kind::Repeats => {
                let last = self.state().last_answer.clone();
                match last {
                    Some(body) => (self.page(200, body), struck),
                    None => self.answer(asked, None, now),
                }
            }
            Kind::NullResult => (result("null"), struck),
            Kind::EmptyCall => (result("\"0x\""), struck),
            Kind::OddNumbers => {
                let odd = ["\"0x1ffffffffffffffff\"", "-1", "\"latest\"", "1e30"]
                    [self.state().random.random_range(0..4)];
                if asked.method == "eth_blockNumber" {
                    return (result(odd), struck);
                }
                let (response, fate) = self.answer(asked, None, now);
                let spoil = |mut response: HttpResponse| {
                    let mut value: Value = serde_json::from_slice(&response.body).ok()?;
                    *value.get_mut("result")?.get_mut("number")? =
                        serde_json::from_str(odd).expect("JSON");
                    response.body = value.to_string().into_bytes();
                    Some(response)
                };
                match response.clone().ok().and_then(spoil) {
                    Some(spoilt) => (Ok(spoilt), struck),
                    None => (response, fate),
                }
            }
            Kind::Cut => {
                let (response, _) = self.answer(asked, None, now);
                let cut = response.map(|mut response| {
                    response.body.truncate(response.body.len() * 2 / 3);
                    response
                });
                (cut, struck)
            }
            Kind::Odd => {
                let (response, fate) = self.answer(asked, None, now);
                let odd = response.map(|mut response| {
                    if let Ok(mut value) = serde_json::from_slice::<Value>(&response.body)
                        && value.get("result").is_some()
                    {
                        value["error"] = Value::Null;
                        value["id"] = json!(asked.id);
                        response.body = value.to_string().into_bytes();
                    }
                    response
                });
                (odd, fate)
            }
            _ => self.answer(asked, Some(kind), now),
        }
    }
}

impl Node {
    /// A rate limit that tells how long it lasts.
    fn told_limit(&self, asked: &Asked, hint: Hint, now: Duration) -> Response {
        let ends = self.faults_now(now).filter(|fault| fault.kind == Kind::Tells(hint));
        let left = ends.map(|fault| fault.to - now).max().unwrap_or_default().as_secs() + 1;
        let mut headers = HeaderMap::new();
        if let Some(header) = hint.header() {
            headers.insert(header, left.into());
        }
        let (message, data) = match hint {
            Hint::Message => (format!("too many requests, try again in {left}s"), "null".into()),
            Hint::Backoff => {
                let data = format!(r#"{{"rate":{{"allowed_rps":1,"backoff_seconds":{left}}}}}"#);
                ("project ID request rate exceeded".to_owned(), data)
            }
            _ => ("too many requests".to_owned(), "null".to_owned()),
        };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32005,"message":"{message}","data":{data}}}}}"#,
            asked.id
        );
        self.field.book().statuses.insert(429);
        Ok(HttpResponse { status: 429, headers, body: body.into_bytes() })
    }
}
