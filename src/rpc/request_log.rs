//! How many requests were sent, by method, endpoint and outcome.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{endpoint_id::EndpointId, kind::ErrorKind};
use crate::tally::RequestSeries;

/// The outcome of a request that nobody waited for to the end.
const ABANDONED: &str = "abandoned";
/// The outcome of a request that was answered.
const OK: &str = "ok";

/// Counts requests.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    counts: Mutex<BTreeMap<(&'static str, EndpointId, &'static str), u64>>,
}

/// A request under way, which is counted when it ends, however it ends.
pub(super) struct Sent<'a> {
    log: &'a RequestLog,
    method: &'static str,
    endpoint: &'a EndpointId,
    outcome: &'static str,
}

impl RequestLog {
    /// A request is sent.
    pub(super) const fn sent<'a>(
        &'a self,
        method: &'static str,
        endpoint: &'a EndpointId,
    ) -> Sent<'a> {
        Sent { log: self, method, endpoint, outcome: ABANDONED }
    }

    /// What was counted so far; endpoints of one host and port are one.
    pub(super) fn series(&self) -> Vec<RequestSeries> {
        let mut series = BTreeMap::new();
        for ((method, endpoint, outcome), count) in self.counts().iter() {
            let label = endpoint.to_string();
            let host = label.split_once("://").map_or(&*label, |(_, host)| host).to_owned();
            *series.entry((*method, host, *outcome)).or_insert(0) += *count;
        }
        let series = series.into_iter();
        series
            .map(|((method, endpoint, outcome), count)| RequestSeries {
                method,
                endpoint,
                outcome,
                count,
            })
            .collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<(&'static str, EndpointId, &'static str), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent<'_> {
    /// It ended like this.
    pub(super) const fn ended(&mut self, error: Option<ErrorKind>) {
        self.outcome = match error {
            None => OK,
            Some(kind) => kind.name(),
        };
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let key = (self.method, self.endpoint.clone(), self.outcome);
        *self.log.counts().entry(key).or_insert(0) += 1;
    }
}
