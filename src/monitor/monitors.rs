//! What one `watch` serves: the monitor of its profile, or those of several together.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Health, Monitor,
    exposition::{encode, encode_each},
};

/// The monitors of each profile, in order; at least one.
#[derive(Clone)]
pub struct Monitors(Arc<[Arc<Monitor>]>);

/// The health of one profile, or of each.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum HealthBody<'a> {
    One(Health),
    Each { status: &'static str, reasons: Vec<String>, profiles: Vec<OfProfile<'a>> },
}

/// The health of one of several profiles.
#[derive(Serialize)]
pub(super) struct OfProfile<'a> {
    profile: &'a str,
    #[serde(flatten)]
    health: Health,
}

impl From<Arc<Monitor>> for Monitors {
    fn from(monitor: Arc<Monitor>) -> Self {
        Self([monitor].into())
    }
}

impl FromIterator<Arc<Monitor>> for Monitors {
    fn from_iter<T: IntoIterator<Item = Arc<Monitor>>>(monitors: T) -> Self {
        Self(monitors.into_iter().collect())
    }
}

impl Monitors {
    /// The monitor of the profile with this name, or of the first one.
    pub(super) fn of(&self, profile: Option<&str>) -> &Monitor {
        let named = self.0.iter().find(|monitor| Some(monitor.profile()) == profile);
        named.unwrap_or(&self.0[0])
    }

    /// The names of the profiles, where there are several.
    pub(super) fn names(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|monitor| monitor.profile());
        (self.0.len() > 1).then(|| names.collect())
    }

    /// Whether all are healthy, and how they are.
    pub(super) fn health(&self) -> (bool, HealthBody<'_>) {
        if let [monitor] = &*self.0 {
            let health = monitor.health();
            return (health.is_well(), HealthBody::One(health));
        }
        let of_each = self.0.iter().map(|monitor| {
            let (profile, health) = (monitor.profile(), monitor.health());
            OfProfile { profile, health }
        });
        let profiles: Vec<_> = of_each.collect();
        let reasons = profiles.iter().flat_map(|OfProfile { profile, health }| {
            health.reasons.iter().map(move |reason| format!("{profile}: {reason}"))
        });
        let reasons: Vec<_> = reasons.collect();
        let is_well = reasons.is_empty();
        let status = if is_well { "ok" } else { "unhealthy" };
        (is_well, HealthBody::Each { status, reasons, profiles })
    }

    /// Whether all do their job.
    pub(super) fn readiness(&self) -> (bool, Value) {
        let of = |monitor: &Arc<Monitor>| {
            let health = monitor.health();
            let body = json!({
                "ready": health.is_ready(),
                "role": health.role,
                "checkpoint_block": health.checkpoint_block,
                "head_block": health.head_block,
            });
            (health.is_ready(), body)
        };
        if let [monitor] = &*self.0 {
            return of(monitor);
        }
        let of_each = self.0.iter().map(|monitor| {
            let (is_ready, mut body) = of(monitor);
            body["profile"] = json!(monitor.profile());
            (is_ready, body)
        });
        let (ready, bodies): (Vec<bool>, Vec<Value>) = of_each.unzip();
        let ready = ready.into_iter().all(|ready| ready);
        (ready, json!({ "ready": ready, "profiles": bodies }))
    }

    /// All metrics as Prometheus text. Where there are several profiles, each series of one has its name as a label.
    pub(super) fn metrics(&self) -> String {
        if let [monitor] = &*self.0 {
            return encode(monitor.metric_families());
        }
        let of_each =
            self.0.iter().map(|monitor| (monitor.profile().to_owned(), monitor.metric_families()));
        encode_each(of_each)
    }
}
