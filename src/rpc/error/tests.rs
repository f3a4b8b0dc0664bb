//! What errors say, and how a response becomes one.

use super::*;

fn label() -> EndpointId {
    EndpointId::labelled("https://host")
}

fn response(status: u16, headers: &[(&str, &str)], body: &str) -> HttpResponse {
    let headers =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    HttpResponse { status, headers: HeaderMap::from_iter(headers), body: body.into() }
}

#[test]
fn an_error_object_in_an_http_error_is_read_with_its_status() {
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"busy"}}"#;
    let failure = NodeError::of_response(&label(), &response(429, &[("retry-after", "7")], body));
    assert_eq!(failure.kind, ErrorKind::RateLimited);
    assert_eq!(failure.wait, Some(Duration::from_secs(7)));
    assert_eq!(failure.message, "HTTP 429 Too Many Requests: error -32000: busy");
}

#[test]
fn what_a_gateway_says_instead_of_json_rpc_is_shown() {
    for (status, body, shown) in [
        (
            429,
            r#"{"message":"API rate limit exceeded"}"#,
            "HTTP 429 Too Many Requests: error: API rate limit exceeded",
        ),
        (429, r#"{"error":"slow down"}"#, "HTTP 429 Too Many Requests: error: slow down"),
        (429, "Too Many Requests", "HTTP 429 Too Many Requests"),
        (401, "who are you?", "HTTP 401 Unauthorized: who are you?"),
        (524, "", "HTTP 524"),
        (
            502,
            "<html><head><title>502 Bad Gateway</title><style>b{}</style></head>\n<body></body></html>",
            "HTTP 502 Bad Gateway",
        ),
        (
            502,
            "<h1>502 Bad Gateway</h1><script>x</script><p>nginx",
            "HTTP 502 Bad Gateway: 502 Bad Gateway nginx",
        ),
        (503, "", "HTTP 503 Service Unavailable"),
    ] {
        let failure = NodeError::of_response(&label(), &response(status, &[], body));
        assert_eq!(failure.message, shown);
    }
}

#[test]
fn a_redirect_names_where_it_points_and_no_more() {
    for (location, message) in [
        (
            "https://other.example/v2/KEY0123456789",
            "https://host: HTTP 301: redirects to https://other.example, which is not followed; \
             give that endpoint as --rpc-url",
        ),
        (
            "//user:word@other.example:8545/",
            "https://host: HTTP 301: redirects to https://other.example:8545, which is not followed; \
             give that endpoint as --rpc-url",
        ),
        (
            "/login?key=KEY0123456789",
            "https://host: HTTP 301: redirects to another path, which is not followed; \
             check the path of the URL",
        ),
        (
            "https://[",
            "https://host: HTTP 301: redirects elsewhere, which is not followed; check the URL",
        ),
        (
            "javascript:alert(1)",
            "https://host: HTTP 301: redirects elsewhere, which is not followed; check the URL",
        ),
    ] {
        let failure =
            NodeError::of_response(&label(), &response(301, &[("location", location)], "moved"));
        assert_eq!((failure.to_string().as_str(), failure.kind), (message, ErrorKind::Unreachable));
    }
}

#[test]
fn a_wait_counts_only_where_the_rate_is_the_matter_and_a_long_one_is_told() {
    let wait = |status, body: &str| {
        NodeError::of_response(&label(), &response(status, &[("retry-after", "3720")], body))
    };
    let failure = wait(429, "");
    assert_eq!(
        failure.to_string(),
        "https://host: HTTP 429 Too Many Requests; it asks to wait 1 h 2 min; lower --rps or --concurrency, or raise --retries"
    );
    assert_eq!(failure.asked_wait_text().as_deref(), Some("1 h 2 min"));
    assert_eq!(wait(503, "").wait, Some(Duration::from_secs(3_720)));
    assert_eq!(wait(400, "").wait, None);
    assert_eq!(
        wait(500, r#"{"error":{"message":"bad, try again in 5 s"}}"#).kind,
        ErrorKind::RateLimited
    );
}

#[test]
fn a_remedy_helps() {
    let of_error = |code, message: &str| {
        let error = ErrorObject { code: Some(code), message: message.to_owned(), data: None };
        NodeError::of_error_object(&label(), 200, &HeaderMap::new(), &error).to_string()
    };
    let pruned = of_error(-32000, "missing trie node 1f2e (path )");
    assert!(pruned.ends_with("use an archive node or a newer --block"), "{pruned}");
    let internal = of_error(-32603, "Internal error");
    assert!(internal.contains("see its log"), "{internal}");
    let error = HttpError::NoConnection { cause: "invalid peer certificate: UnknownIssuer".into() };
    let untrusted = NodeError::of_http(&label(), error).to_string();
    assert!(untrusted.contains("install CA certificates"), "{untrusted}");
}

#[test]
fn poison_is_cleaned_and_cut() {
    let message = format!("bad\0 \u{1b}[31mred\u{1b}[0m\n{}", "x".repeat(3 << 20));
    let error = ErrorObject { code: None, message, data: None };
    let failure = NodeError::of_error_object(&label(), 200, &HeaderMap::new(), &error);
    assert!(failure.message.starts_with("error: bad red xxx"), "{}", &failure.message[..40]);
    assert_eq!(failure.message.chars().count(), 1_000);
}
