//! Waits in every usual form, as tables.

use serde_json::json;

use super::*;

const MS: fn(u64) -> Option<Duration> = |ms| Some(Duration::from_millis(ms));

/// 2026-11-25 12:00:00 UTC.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_608_000, 0).unwrap()
}

#[test]
fn headers_say_how_long_to_wait() {
    for (headers, wait) in [
        (vec![("retry-after", "7")], MS(7_000)),
        (vec![("retry-after", " 1.5 ")], MS(1_500)),
        (vec![("retry-after", "Wed, 25 Nov 2026 12:00:09 GMT")], MS(9_000)),
        (vec![("retry-after", "Wednesday, 25-Nov-26 12:00:09 GMT")], MS(9_000)),
        (vec![("retry-after", "Wed Nov 25 12:00:09 2026")], MS(9_000)),
        (vec![("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], None),
        (vec![("retry-after-ms", "250")], MS(250)),
        (vec![("x-ratelimit-reset", "12")], MS(12_000)),
        (vec![("x-ratelimit-reset", "1795608020")], MS(20_000)),
        (vec![("x-ratelimit-reset", "1795608020500")], MS(20_500)),
        (vec![("x-ratelimit-reset", "1795607000")], None),
        (vec![("x-ratelimit-reset", "6m0s")], MS(360_000)),
        (vec![("x-ratelimit-reset", "2026-11-25T12:00:30Z")], MS(30_000)),
        (vec![("x-ratelimit-reset", "40"), ("x-ratelimit-remaining", "3")], None),
        (vec![("x-ratelimit-reset-after", "0.5")], MS(500)),
        (vec![("ratelimit-reset", "50, 50;w=60")], MS(50_000)),
        (vec![("ratelimit", "\"default\";r=0;t=30")], MS(30_000)),
        (vec![("ratelimit", "limit=10, remaining=0, reset=30")], MS(30_000)),
        (vec![("ratelimit", "limit=10, remaining=4, reset=30")], None),
        (vec![("retry-after", "5"), ("x-ratelimit-reset", "20")], MS(20_000)),
        // The day's window ends later than what was asked for.
        (vec![("retry-after", "5"), ("x-ratelimit-reset", "40000")], MS(5_000)),
        (vec![("x-ratelimit-reset", "40000")], MS(40_000_000)),
        (vec![("retry-after", "-1")], None),
        (vec![("retry-after", "NaN")], None),
        (vec![("retry-after", "inf")], None),
        (vec![("retry-after", "999999999")], None),
        (vec![("retry-after", "1e300")], None),
        (vec![("retry-after", "soon")], None),
        (vec![("x-ratelimit-limit", "100")], None),
        (vec![], None),
    ] {
        let pairs =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let map = HeaderMap::from_iter(pairs);
        assert_eq!(asked(&map, None, "", now()), wait, "{headers:?}");
    }
}

#[test]
fn the_fields_of_an_error_say_how_long_to_wait() {
    for (data, wait) in [
        // Infura.
        (
            json!({ "rate": { "allowed_rps": 1, "backoff_seconds": 24, "current_rps": 3 } }),
            MS(24_000),
        ),
        (json!({ "try_again_in": "2s" }), MS(2_000)),
        (json!({ "try_again_in": "26.3ms" }), Some(Duration::from_micros(26_300))),
        (json!({ "retry_after": 3 }), MS(3_000)),
        (json!({ "retryAfter": "3" }), MS(3_000)),
        (json!({ "retryAfterMs": 300 }), MS(300)),
        (json!({ "error": { "details": [{ "retryDelay": "4s" }] } }), MS(4_000)),
        (json!({ "reset": 1_795_608_020 }), MS(20_000)),
        (json!({ "backoff": 0.5 }), MS(500)),
        (json!("please try again in 5 seconds"), MS(5_000)),
        (json!({ "a": { "b": { "c": { "d": { "retry_after": 3 } } } } }), None),
        (json!({ "allowed_rps": 10, "limit": 20 }), None),
        (json!({ "retry_after": -3 }), None),
        (json!({ "retry_after": null }), None),
        (json!([1, 2, 3]), None),
    ] {
        assert_eq!(asked(&HeaderMap::new(), Some(&data), "", now()), wait, "{data}");
    }
}

#[test]
fn a_message_says_how_long_to_wait() {
    for (message, wait) in [
        ("rate limited, try again in 4ms", MS(4)),
        ("try again in 1.5s", MS(1_500)),
        (
            "You've exceeded the RPS limit. try_again_in 250.5 ms",
            Some(Duration::from_micros(250_500)),
        ),
        ("try again in 2 minutes", MS(120_000)),
        ("Please retry in 5 s.", MS(5_000)),
        ("retry after 2 seconds", MS(2_000)),
        ("Retry-After: 30", MS(30_000)),
        ("please wait 10 seconds", MS(10_000)),
        ("wait at least 1m30s before the next request", MS(90_000)),
        ("Limit resets in 1 minute", MS(60_000)),
        ("wait 1 hour and 5 minutes", MS(3_900_000)),
        ("try again in 2 days", MS(172_800_000)),
        ("try again in a while", None),
        ("try again later", None),
        ("try again; 100 requests are allowed", None),
        ("limited to 5 requests per 1 second", None),
        ("try again in 99999999999999999999 s", None),
    ] {
        assert_eq!(worded(message), wait, "{message}");
    }
}

#[test]
fn a_long_wait_is_told_in_two_units() {
    for (seconds, words) in [
        (121, "2 min 1 s"),
        (180, "3 min"),
        (3_720, "1 h 2 min"),
        (3_605, "1 h"),
        (90_000, "1 d 1 h"),
    ] {
        assert_eq!(in_words(Duration::from_secs(seconds)), words);
    }
}
