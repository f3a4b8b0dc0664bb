//! The metrics of a `watch --listen`, parsed.

use std::collections::BTreeMap;

use crate::support::watch::get;

/// The metrics at one moment, parsed as by Prometheus.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// The type of each metric by name.
    pub(crate) kinds: BTreeMap<String, String>,
    /// The values by name with labels.
    values: BTreeMap<String, f64>,
}

impl Metrics {
    /// Fetches the metrics from this address.
    #[track_caller]
    pub(crate) fn of(address: &str) -> Self {
        let response = get(address, "/metrics");
        assert_eq!(response.status, 200);
        let kind: Vec<_> = response.content_type.split(';').map(str::trim).collect();
        assert!(kind.contains(&"text/plain") && kind.contains(&"version=0.0.4"), "{kind:?}");
        Self::parse(&response.body)
    }

    /// Parses a HELP line, a TYPE line and the values of each metric.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "{text}");
        let mut metrics = Self { kinds: BTreeMap::new(), values: BTreeMap::new() };
        let (mut help, mut family) = (None, None);
        for line in text.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                // A value in a label may have blanks.
                _ if line.starts_with("ethtally_") && line.contains('{') => {
                    let (name, value) = line.rsplit_once(' ').expect("a value");
                    let twice = metrics.values.insert(name.to_owned(), value.parse().unwrap());
                    assert_eq!(twice, None, "{name}");
                }
                ["#", "HELP", name, text] if !text.is_empty() => help = Some(name),
                ["#", "TYPE", name, kind @ ("counter" | "gauge" | "histogram")] => {
                    assert_eq!(help, Some(name), "HELP comes before TYPE");
                    let twice = metrics.kinds.insert(name.to_owned(), kind.to_owned());
                    assert_eq!(twice, None, "{name}");
                    family = Some((name, kind));
                }
                [name, value] => {
                    let (family, kind) = family.expect("TYPE comes before the values");
                    let suffix = name.split('{').next().unwrap().strip_prefix(family);
                    let suffixes: &[_] =
                        if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                    assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line}");
                    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                    let twice = metrics.values.insert(name.to_owned(), value);
                    assert_eq!(twice, None, "{name}");
                }
                _ => panic!("{line}"),
            }
        }
        metrics
    }

    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("no {name}: {self:#?}"))
    }

    /// The value, if there is one.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// The sum over all labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let start = format!("{name}{{");
        self.values.iter().filter(|(key, _)| key.starts_with(&start)).map(|(_, value)| value).sum()
    }

    /// Panics if a counter has decreased.
    #[track_caller]
    pub(crate) fn follows(self, before: &Self) -> Self {
        for (name, value) in &before.values {
            let family = name.split(['{']).next().unwrap();
            let is_gauge = self.kinds.get(family).is_some_and(|kind| kind == "gauge");
            assert!(is_gauge || self.value(name) >= *value, "{name}: {value}, then {self:#?}");
        }
        self
    }

    /// Panics unless the buckets are cumulative, and the last one is the count.
    #[track_caller]
    pub(crate) fn assert_histogram(&self, name: &str) {
        let mark = format!("{name}_bucket{{le=\"");
        let bound = |key: &str| match key.strip_prefix(&mark)?.strip_suffix("\"}")? {
            "+Inf" => Some(f64::INFINITY),
            bound => Some(bound.parse().expect("a number")),
        };
        let mut buckets: Vec<(f64, f64)> =
            self.values.iter().filter_map(|(key, count)| Some((bound(key)?, *count))).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.len() > 5 && buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
        let (bound, all) = *buckets.last().unwrap();
        let (count, sum) =
            (self.value(&format!("{name}_count")), self.value(&format!("{name}_sum")));
        assert_eq!((bound, all), (f64::INFINITY, count));
        assert!(count > 0.0 && sum >= 0.0 && sum < 60.0 * count, "{sum} s in {count}");
    }
}
