//! Checks of single values. Each error says in a few words what is wrong or what to write.

use std::{
    fmt::Display,
    num::{IntErrorKind, ParseIntError},
    ops::{Bound, RangeBounds},
    str::FromStr,
    time::Duration,
};

use crate::tally::{Shard, ShardError};

/// The variable by which a Kubernetes Indexed Job numbers its pods.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

/// A parser of whole numbers in an inclusive or open range.
pub(super) fn whole_number<T>(
    range: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr<Err = ParseIntError> + PartialOrd + Display + 'static,
{
    move |text| {
        let too_small = || match range.start_bound() {
            Bound::Included(least) | Bound::Excluded(least) => {
                format!("must be at least {least}")
            }
            Bound::Unbounded => "too small".to_owned(),
        };
        let number = match text.parse::<T>() {
            Ok(number) => number,
            // An unsigned number has no minus sign, whatever follows it.
            Err(error) => {
                let digits = text.strip_prefix('-').unwrap_or_default();
                let is_negative =
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                return Err(match error.kind() {
                    IntErrorKind::PosOverflow => "too large".to_owned(),
                    IntErrorKind::Zero => too_small(),
                    _ if is_negative => too_small(),
                    _ => "not a whole number".to_owned(),
                });
            }
        };
        match (range.contains(&number), range.end_bound()) {
            (true, _) => Ok(number),
            (false, Bound::Included(most)) if number > *most => {
                Err(format!("must be at most {most}"))
            }
            (false, _) => Err(too_small()),
        }
    }
}

/// How old the newest block may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadAge {
    /// Of any age, as the chain stands still.
    Off,
    /// At most this old.
    AtMost(Duration),
}

/// An age, or `off`.
pub(super) fn head_age(text: &str) -> Result<HeadAge, String> {
    match text {
        "off" => Ok(HeadAge::Off),
        text => humantime::parse_duration(text)
            .map(HeadAge::AtMost)
            .map_err(|_| "write off, or a time such as 90s, 10m or 2h".to_owned()),
    }
}

/// A time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a time such as 50s, 90m, 6h or 2d".to_owned())
}

/// An address to listen on as `HOST:PORT`; a port alone is one of 127.0.0.1.
pub(super) fn listen(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
    match port.parse::<u16>() {
        Ok(port) if is_host => Ok(format!("{host}:{port}")),
        _ => Err("write a port, such as 1325, or HOST:PORT".to_owned()),
    }
}

/// A shard as `I/N`, or as `/N` or `N` with I from the environment.
pub(super) fn shard(text: &str) -> Result<Shard, String> {
    let count = match text.split_once('/') {
        Some(("", count)) => count,
        Some(_) => return text.parse().map_err(|error: ShardError| error.to_string()),
        None => text,
    };
    let index = std::env::var(JOB_COMPLETION_INDEX)
        .map_err(|_| format!("write I/N, such as 0/4; {JOB_COMPLETION_INDEX} is not set"))?;
    format!("{index}/{count}").parse().map_err(|error: ShardError| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_whole_number_is_in_its_range_or_told_why_not() {
        let from_one_to_ten = whole_number(1u32..=10);
        assert_eq!((from_one_to_ten("1"), from_one_to_ten("10")), (Ok(1), Ok(10)));
        for (text, error) in [
            ("0", "must be at least 1"),
            ("-1", "must be at least 1"),
            ("-99999999999999999999", "must be at least 1"),
            ("11", "must be at most 10"),
            ("4294967296", "too large"),
            ("99999999999999999999", "too large"),
            ("5k", "not a whole number"),
            ("1.5", "not a whole number"),
            ("-1.5", "not a whole number"),
            ("-", "not a whole number"),
            ("", "not a whole number"),
        ] {
            assert_eq!(from_one_to_ten(text), Err(error.to_owned()), "{text}");
        }
        assert_eq!(whole_number(0u64..)("0"), Ok(0));
        assert_eq!(whole_number(0u64..)("-1"), Err("must be at least 0".to_owned()));
        let not_zero = whole_number(NonZeroU32::MIN..);
        assert_eq!(not_zero("0"), Err("must be at least 1".to_owned()));
        assert_eq!(not_zero("7").map(NonZeroU32::get), Ok(7));
    }

    #[test]
    fn an_address_to_listen_on_is_a_port_or_host_and_port() {
        assert_eq!(listen("1325").unwrap(), "127.0.0.1:1325");
        for address in ["0.0.0.0:1325", "[::1]:1325", "localhost:0"] {
            assert_eq!(listen(address).unwrap(), address);
        }
        for text in ["", "host", ":1325", "::1:1325", "host:65536", "host:port"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
