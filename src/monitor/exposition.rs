//! Metrics as Prometheus reads them: only series whose value is known.

use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder, proto::MetricFamily,
};

/// The metric with the ends of runs, without the prefix of all names.
pub const RUN_ENDS: &str = "last_run_timestamp_seconds";

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

    /// All of it as text, with these others.
    pub fn text(&self, others: Vec<MetricFamily>) -> String {
        let mut families = self.registry.gather();
        families.extend(others);
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&families, &mut text);
        encoded.expect("what is registered can be written to memory");
        String::from_utf8(text).expect("names and numbers are UTF-8")
    }

    /// Adds what every text of this program has: its version.
    pub fn build_info(&self) {
        let commit = option_env!("ETHTALLY_COMMIT").unwrap_or_default();
        let values = [env!("CARGO_PKG_VERSION").to_owned(), commit.to_owned()];
        let help = "The version of ethtally and the commit that was built; always 1";
        self.gauges("build_info", help, ["version", "commit"], [(values, 1.0)]);
    }
}
