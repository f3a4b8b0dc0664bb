//! Which requests a fault affects.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::fault::Fault;

type Condition = dyn Fn(&Value) -> bool + Send + Sync;

/// Selects requests. All conditions must hold; the requests that match are counted, and the count decides:
///
/// ```
/// use ethtally_testbed::stub::When;
/// let second_and_third = When::method("eth_call").larger_than(100_000).after(1).times(2);
/// ```
#[derive(Clone, Default)]
pub struct When {
    method: Option<String>,
    larger_than: Option<usize>,
    conditions: Vec<Arc<Condition>>,
    after: usize,
    every: Option<usize>,
    times: Option<usize>,
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("When")
            .field("method", &self.method)
            .field("larger_than", &self.larger_than)
            .field("conditions", &self.conditions.len())
            .field("after", &self.after)
            .field("every", &self.every)
            .field("times", &self.times)
            .finish()
    }
}

impl When {
    /// Every request.
    pub fn always() -> Self {
        Self::default()
    }

    /// The first `n` requests.
    pub fn first(n: usize) -> Self {
        Self::default().times(n)
    }

    /// Requests of one method, for example `eth_call`.
    pub fn method(method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..Self::default() }
    }

    /// `eth_call` requests.
    pub fn eth_call() -> Self {
        Self::method("eth_call")
    }

    /// Only requests whose HTTP body has more than this many bytes.
    #[must_use]
    pub fn larger_than(mut self, bytes: usize) -> Self {
        self.larger_than = Some(bytes);
        self
    }

    /// Only requests for which this returns true. It gets the whole JSON-RPC request, with `method` and `params`.
    #[must_use]
    pub fn matching(mut self, condition: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(condition));
        self
    }

    /// Only requests whose parameters contain this text, ignoring case and a leading `0x`: with an address, every chunk with
    /// that wallet.
    #[must_use]
    pub fn mentioning(self, text: &str) -> Self {
        let text = text.trim_start_matches("0x").to_lowercase();
        self.matching(move |request| mentions(&request["params"], &text))
    }

    /// Skips the first `n` matches.
    #[must_use]
    pub fn after(mut self, n: usize) -> Self {
        self.after = n;
        self
    }

    /// Only every `n`-th match, counted after [`When::after`]: with 3, the third, the sixth and so on.
    #[must_use]
    pub fn every(mut self, n: usize) -> Self {
        self.every = Some(n.max(1));
        self
    }

    /// At most `n` times.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.times = Some(n);
        self
    }

    pub(super) fn with_fault(self, fault: Fault) -> Rule {
        Rule::new(self, Faults::Same(fault))
    }

    pub(super) fn with_script(self, faults: Vec<Fault>) -> Rule {
        Rule::new(self, Faults::Script(faults))
    }

    fn holds(&self, request: &Value, context: &RequestContext) -> bool {
        self.method.as_ref().is_none_or(|method| request["method"] == method.as_str())
            && self.larger_than.is_none_or(|limit| context.bytes > limit)
            && self.conditions.iter().all(|condition| condition(request))
    }
}

fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text) || string.to_lowercase().contains(text),
        Value::Array(values) => values.iter().any(|value| mentions(value, text)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What a rule may depend on besides the request.
#[derive(Debug)]
pub(super) struct RequestContext {
    /// When it arrived.
    pub(super) at: Instant,
    /// The size of its HTTP body.
    pub(super) bytes: usize,
    /// Number of HTTP requests in flight, including this one.
    pub(super) in_flight: usize,
    /// The node's newest block, if a rule needs it.
    pub(super) head: Option<u64>,
}

/// A condition with its faults, and how often it matched and applied.
#[derive(Debug)]
pub(super) struct Rule {
    when: When,
    faults: Faults,
    held: usize,
    happened: usize,
    meter: Meter,
}

#[derive(Debug)]
enum Faults {
    Same(Fault),
    Script(Vec<Fault>),
}

impl Rule {
    fn new(when: When, faults: Faults) -> Self {
        Self { when, faults, held: 0, happened: 0, meter: Meter::default() }
    }

    /// Whether its faults depend on the node's newest block.
    pub(super) fn needs_head(&self) -> bool {
        let drops = |fault: &Fault| matches!(fault, Fault::StateDroppedAfter(_));
        match &self.faults {
            Faults::Same(fault) => drops(fault),
            Faults::Script(faults) => faults.iter().any(drops),
        }
    }

    /// The fault for this request, if any. A request that the fault cannot affect is not counted.
    pub(super) fn meet(&mut self, request: &Value, context: &RequestContext) -> Option<Fault> {
        if self.when.times.is_some_and(|times| self.happened >= times) {
            return None;
        }
        let fault = match &self.faults {
            Faults::Same(fault) => fault,
            Faults::Script(faults) => faults.get(self.happened)?,
        };
        if !self.when.holds(request, context) || !fault.concerns(request, context) {
            return None;
        }
        if let Fault::ComputeUnits(budget) = fault
            && self.meter.takes(request, context.at, *budget)
        {
            return None;
        }
        self.held += 1;
        let counted = self.held.checked_sub(self.when.after).filter(|counted| *counted > 0)?;
        if self.when.every.is_some_and(|every| counted % every != 0) {
            return None;
        }
        self.happened += 1;
        Some(fault.clone())
    }
}

/// The compute units of the last second.
#[derive(Debug, Default)]
struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    /// Charges a request if the budget of the last second allows it.
    fn takes(&mut self, request: &Value, at: Instant, budget: u64) -> bool {
        while self.0.front().is_some_and(|(then, _)| *then + Duration::from_secs(1) <= at) {
            self.0.pop_front();
        }
        let price = if request["method"] == "eth_call" { 26 } else { 10 };
        let spent: u64 = self.0.iter().map(|(_, price)| price).sum();
        let fits = spent + price <= budget;
        if fits {
            self.0.push_back((at, price));
        }
        fits
    }
}
