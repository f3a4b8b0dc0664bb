//! How long a provider asks to wait: in a header, in the fields of an error, or in its message.

#[cfg(test)]
mod tests;

use std::{sync::LazyLock, time::Duration};

use chrono::{DateTime, NaiveDateTime, Utc};
use regex::Regex;
use serde_json::Value;

use super::transport::HeaderMap;

/// Longer waits are mistakes.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The longest wait until a window of requests ends that is taken beside one that was asked for this request.
const LONGEST_BESIDE: Duration = Duration::from_secs(120);
/// Larger numbers are points in time since 1970, in seconds or in milliseconds, rather than spans.
const EPOCH_SECONDS: f64 = 1e9;
const EPOCH_MILLISECONDS: f64 = 1e12;
/// How deep in an error's data a wait is looked for.
const DEPTH: usize = 3;
/// Characters of a message that are looked at.
const LENGTH: usize = 2_000;

/// A wait in words, such as "try again in 4ms", "please wait at least 1m30s" or "resets in 1 minute".
static WORDED: LazyLock<Regex> = LazyLock::new(|| {
    let span = r"((?:[0-9]+(?:\.[0-9]+)?[ -]*(?:milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?-u:\b)?[ ,]*(?:and )?)+)";
    let bare = r"retry[ _-]?after(?: |: ?|=)([0-9]+(?:\.[0-9]+)?)(?-u:\b)";
    let verb = "try[ _]again|retry|again|wait|back ?off|resets?|available|unblocked|expires?";
    Regex::new(&format!(r"(?-u:\b)(?:(?:{verb})[^a-z0-9][^0-9]{{0,40}}?{span}|{bare})"))
        .expect("a valid pattern")
});

/// A number with its unit.
static SPAN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([0-9]+(?:\.[0-9]+)?)[ -]*(ms|mil|mse|s|m|h|d)").expect("a valid pattern")
});

/// How long a provider asks to wait; the longest of what it says.
pub(super) fn asked(
    headers: &HeaderMap,
    data: Option<&Value>,
    message: &str,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    // Asked for this request.
    let direct = [
        header("retry-after").and_then(|text| point(text, now)),
        header("retry-after-ms").and_then(|text| number(text, 0.001)),
        header("x-retry-after-ms").and_then(|text| number(text, 0.001)),
        header("x-ratelimit-reset-after").and_then(|text| point(text, now)),
        data.and_then(|data| in_data(data, DEPTH, now)),
        worded(message),
    ];
    // When a window of requests ends, which may not be the one that was exceeded.
    let is_left =
        |name: &str| header(name).is_some_and(|left| number(left, 1.0) > Some(Duration::ZERO));
    let mut ends = vec![header("ratelimit").and_then(fields)];
    for prefix in ["x-ratelimit", "ratelimit", "x-rate-limit"] {
        if !is_left(&format!("{prefix}-remaining")) {
            ends.push(header(&format!("{prefix}-reset")).and_then(|text| point(text, now)));
        }
    }
    let longest = |waits: &mut dyn Iterator<Item = Duration>| waits.max();
    let asked = longest(&mut direct.into_iter().flatten());
    let end = longest(&mut ends.into_iter().flatten());
    asked.max(end.filter(|end| asked.is_none() || *end <= LONGEST_BESIDE))
}

/// A span or a point in time: seconds, a number with a unit, seconds or milliseconds since 1970, or a date.
fn point(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    let until = |date: DateTime<Utc>| (date - now).to_std().ok();
    let first = text.split([',', ';']).next().unwrap_or(text).trim();
    if let Ok(number) = first.parse::<f64>() {
        return of_number(number, now);
    }
    if let Some(span) = span(first).filter(|_| first.starts_with(|c: char| c.is_ascii_digit()))
        && !first.contains(['T', ':', '/'])
    {
        return Some(span);
    }
    let date = DateTime::parse_from_rfc2822(text).or_else(|_| DateTime::parse_from_rfc3339(text));
    let old = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let old = || old.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let date = date.ok().map(|date| date.to_utc()).or_else(|| Some(old()?.and_utc()))?;
    until(date).and_then(sensible)
}

/// Seconds from now, or since 1970 where there are that many.
fn of_number(number: f64, now: DateTime<Utc>) -> Option<Duration> {
    let since = now.timestamp_millis() as f64 / 1_000.0;
    let seconds = match number {
        _ if number >= EPOCH_MILLISECONDS => number / 1_000.0 - since,
        _ if number >= EPOCH_SECONDS => number - since,
        _ => number,
    };
    seconds_of(seconds)
}

/// A number of a unit of this many seconds.
fn number(text: &str, unit: f64) -> Option<Duration> {
    seconds_of(text.trim().parse::<f64>().ok()? * unit)
}

fn seconds_of(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().and_then(sensible)
}

fn sensible(wait: Duration) -> Option<Duration> {
    Some(wait).filter(|wait| *wait <= LONGEST)
}

/// The fields of a `RateLimit` header: `"default";r=0;t=30`, or `limit=10, remaining=0, reset=30`.
fn fields(text: &str) -> Option<Duration> {
    let field = |names: [&str; 2]| {
        let mut fields = text.split([';', ',']).filter_map(|field| field.trim().split_once('='));
        fields.find(|(name, _)| names.contains(name)).and_then(|(_, value)| number(value, 1.0))
    };
    let is_left = field(["r", "remaining"]) > Some(Duration::ZERO);
    field(["t", "reset"]).filter(|_| !is_left)
}

/// A wait in the fields of an error's data.
fn in_data(data: &Value, depth: usize, now: DateTime<Utc>) -> Option<Duration> {
    match data {
        Value::String(text) => worded(text),
        Value::Array(items) if depth > 0 => {
            items.iter().filter_map(|item| in_data(item, depth - 1, now)).max()
        }
        Value::Object(members) => {
            let wait = |(name, value): (&String, &Value)| {
                field(name, value, now).or_else(|| {
                    let deeper =
                        (value.is_object() || value.is_array() || value.is_string()) && depth > 0;
                    deeper.then(|| in_data(value, depth - 1, now))?
                })
            };
            members.iter().filter_map(wait).max()
        }
        _ => None,
    }
}

/// The wait in one field, if its name is one for that.
fn field(name: &str, value: &Value, now: DateTime<Utc>) -> Option<Duration> {
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let name = name.to_lowercase();
    let milliseconds =
        ["milliseconds", "millis", "ms"].iter().find_map(|unit| name.strip_suffix(unit));
    let seconds =
        ["inseconds", "seconds", "secs", "sec"].iter().find_map(|unit| name.strip_suffix(unit));
    let stem = milliseconds.or(seconds).unwrap_or(&name);
    let stems = [
        "retryafter",
        "retryin",
        "retrydelay",
        "tryagainin",
        "tryagainafter",
        "backoff",
        "wait",
        "waitfor",
        "waittime",
        "reset",
        "resetin",
        "resetafter",
        "resetat",
        "resets",
        "resetsin",
        "resettime",
        "cooldown",
        "nextretry",
        "retryat",
    ];
    if !stems.contains(&stem) {
        return None;
    }
    match value {
        Value::Number(number)
            if milliseconds.is_some() && number.as_f64()? < EPOCH_MILLISECONDS =>
        {
            seconds_of(number.as_f64()? / 1_000.0)
        }
        Value::Number(number) => of_number(number.as_f64()?, now),
        Value::String(text) if milliseconds.is_some() => self::number(text, 0.001),
        Value::String(text) => point(text, now),
        _ => None,
    }
}

/// The wait in a message.
fn worded(message: &str) -> Option<Duration> {
    let end = message.char_indices().nth(LENGTH).map_or(message.len(), |(end, _)| end);
    let text = message[..end].to_lowercase();
    let found = WORDED.captures_iter(&text);
    let wait = |found: regex::Captures<'_>| match (found.get(1), found.get(2)) {
        (Some(words), _) => span(words.as_str()),
        (None, Some(seconds)) => number(seconds.as_str(), 1.0),
        (None, None) => None,
    };
    found.filter_map(wait).max()
}

/// A span in words: "1m30s", "2 seconds", "1 hour and 5 minutes".
fn span(words: &str) -> Option<Duration> {
    let words = words.to_lowercase();
    let mut sum = None;
    for part in SPAN.captures_iter(&words) {
        let unit = match &part[2] {
            "ms" | "mil" | "mse" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => 86_400.0,
        };
        let seconds = part[1].parse::<f64>().ok()? * unit;
        sum = Some(sum.unwrap_or(0.0) + seconds);
    }
    seconds_of(sum?)
}

/// A wait in its two largest units, such as "1 h 2 min".
pub(super) fn in_words(wait: Duration) -> String {
    let mut seconds = wait.as_secs();
    let mut parts = Vec::new();
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")] {
        if seconds >= unit && parts.len() < 2 {
            parts.push(format!("{} {name}", seconds / unit));
            seconds %= unit;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.join(" ")
}
