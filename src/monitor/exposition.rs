//! Metrics as Prometheus reads them: only series whose value is known.

use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder,
    proto::{LabelPair, Metric, MetricFamily},
};

/// The metric with the ends of runs, without the prefix of all names.
pub const RUN_ENDS: &str = "last_run_timestamp_seconds";

/// Metrics of the process and of the node, which profiles share.
const SHARED: [&str; 5] = [
    "ethtally_build_info",
    "ethtally_eth_calls_total",
    "ethtally_requests_total",
    "ethtally_retries_total",
    "process_",
];

/// The metrics of several profiles as text: each series has the name of its profile as a label, but for those that
/// profiles share.
pub fn encode_each(of_profiles: impl IntoIterator<Item = (String, Vec<MetricFamily>)>) -> String {
    let mut all: Vec<MetricFamily> = Vec::new();
    for (profile, families) in of_profiles {
        for family in families {
            let is_shared = SHARED.iter().any(|name| family.name().starts_with(name));
            let before = all.iter_mut().find(|other| other.name() == family.name());
            match before {
                Some(_) if is_shared => {}
                None if is_shared => all.push(family),
                Some(before) => add(before, labelled(family, &profile)),
                None => all.push(labelled(family, &profile)),
            }
        }
    }
    encode(all)
}

/// Metrics as text, sorted by name.
pub fn encode(mut families: Vec<MetricFamily>) -> String {
    families.sort_by(|one, other| one.name().cmp(other.name()));
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&families, &mut text);
    encoded.expect("what is registered can be written to memory");
    String::from_utf8(text).expect("names and numbers are UTF-8")
}

/// Values at one moment, as text.
#[derive(Default)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Adds a gauge, if its value is known.
    pub fn gauge(&self, name: &str, help: &str, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let gauge = Gauge::new(format!("ethtally_{name}"), help).expect("a good name");
        gauge.set(value);
        self.registry.register(Box::new(gauge)).expect("each name once");
    }

    /// Adds a gauge with labels: a value for each list of their values.
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([String; N], f64)>,
    ) {
        let opts = Opts::new(format!("ethtally_{name}"), help);
        let gauge = GaugeVec::new(opts, &labels).expect("a good name");
        for (values, value) in series {
            gauge.with_label_values(&values).set(value);
        }
        self.registry.register(Box::new(gauge)).expect("each name once");
    }

    /// The same for a counter.
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        series: impl IntoIterator<Item = ([String; N], u64)>,
    ) {
        let opts = Opts::new(format!("ethtally_{name}"), help);
        let counter = IntCounterVec::new(opts, &labels).expect("a good name");
        for (values, value) in series {
            counter.with_label_values(&values).inc_by(value);
        }
        self.registry.register(Box::new(counter)).expect("each name once");
    }

    /// Adds when the newest run of each command and outcome ended, in seconds since 1970.
    pub fn run_ends(&self, ends: impl IntoIterator<Item = ([String; 2], f64)>) {
        let help = "When the newest run of this command with this outcome ended";
        self.gauges(RUN_ENDS, help, ["command", "outcome"], ends);
    }

    /// All of it, with these others.
    pub fn families(&self, others: Vec<MetricFamily>) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        families.extend(others);
        families
    }

    /// Adds what every text of this program has: its version.
    pub fn build_info(&self) {
        let commit = option_env!("ETHTALLY_COMMIT").unwrap_or_default();
        let values = [env!("CARGO_PKG_VERSION").to_owned(), commit.to_owned()];
        let help = "The version of ethtally and the commit that was built; always 1";
        self.gauges("build_info", help, ["version", "commit"], [(values, 1.0)]);
    }
}

/// The family, whose series have the profile as a label.
fn labelled(mut family: MetricFamily, profile: &str) -> MetricFamily {
    let label = |mut metric: Metric| {
        let mut pair = LabelPair::default();
        pair.set_name("profile".to_owned());
        pair.set_value(profile.to_owned());
        let mut labels = metric.take_label();
        labels.push(pair);
        metric.set_label(labels);
        metric
    };
    let metrics = family.take_metric().into_iter().map(label).collect();
    family.set_metric(metrics);
    family
}

/// Adds the series of a family to another one of the same name.
fn add(to: &mut MetricFamily, mut more: MetricFamily) {
    let mut metrics = to.take_metric();
    metrics.extend(more.take_metric());
    to.set_metric(metrics);
}
