//! Counters and gauges, in the OpenMetrics text format. Labels come from closed lists, so there is a bound on their number.

use countersign_core::refusal::RefusalCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, seconds: from below one fsync to the request timeout.
const BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0];

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    path: &'static str,
    code: &'static str,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

/// Values that are read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Size of the newest signed head.
    pub size: i64,
    /// Its age, ms.
    pub head_age_ms: i64,
    /// Whether the authority is ready.
    pub ready: bool,
    /// Calls that wait for a worker.
    pub workers_waiting: i64,
    /// Open connections of both listeners.
    pub connections: i64,
    /// Appends that wait for the sequencer.
    pub sequencer_waiting: i64,
    /// Batches since start.
    pub batches: i64,
    /// Leaves since start.
    pub leaves: i64,
    /// Signatures of heads since start.
    pub signatures: i64,
    /// Signatures that the head keys' devices made since start.
    pub signer_signatures: i64,
    /// Time that those devices took, microseconds.
    pub signer_busy_us: i64,
    /// Size of the newest head that enough witnesses cosigned.
    pub witnessed_size: i64,
    /// 1 while a witness refuses this log and no officer has decided.
    pub witness_alarm: i64,
}

/// The authority's metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    seconds: Family<PathLabel, Histogram>,
    custody_failures: Counter,
    counter_failures: Counter,
    gauges: Gauges,
}

#[derive(Default)]
struct Gauges {
    size: Gauge,
    head_age_ms: Gauge,
    ready: Gauge,
    workers_waiting: Gauge,
    connections: Gauge,
    sequencer_waiting: Gauge,
    batches: Gauge,
    leaves: Gauge,
    signatures: Gauge,
    signer_signatures: Gauge,
    signer_busy_us: Gauge,
    witnessed_size: Gauge,
    witness_alarm: Gauge,
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let calls = Family::<CallLabels, Counter>::default();
        registry.register("calls", "Calls by endpoint and answer", calls.clone());
        let seconds = Family::<PathLabel, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("call_seconds", "Time from the head of a call to its answer", seconds.clone());
        let custody_failures = Counter::default();
        registry.register("custody_failures", "Custody read-backs that failed", custody_failures.clone());
        let counter_failures = Counter::default();
        let help = "Raises of the rollback counter that failed";
        registry.register("rollback_counter_failures", help, counter_failures.clone());
        let gauges = Gauges::default();
        let named = [
            ("log_size", "Leaves under the newest signed head", &gauges.size),
            ("head_age_ms", "Age of the newest signed head", &gauges.head_age_ms),
            ("ready", "Whether the authority is ready", &gauges.ready),
            ("workers_waiting", "Calls that wait for a worker", &gauges.workers_waiting),
            ("connections", "Open connections", &gauges.connections),
            ("sequencer_waiting", "Appends that wait for the sequencer", &gauges.sequencer_waiting),
            ("sequencer_batches", "Batches since start", &gauges.batches),
            ("sequencer_leaves", "Leaves since start", &gauges.leaves),
            ("sequencer_signatures", "Head signatures since start", &gauges.signatures),
            (
                "head_signer_signatures",
                "Signatures by the head keys' devices since start",
                &gauges.signer_signatures,
            ),
            ("head_signer_busy_us", "Time that those devices took, microseconds", &gauges.signer_busy_us),
            (
                "witnessed_size",
                "Leaves under the newest head with a quorum of witnesses",
                &gauges.witnessed_size,
            ),
            ("witness_alarm", "Whether a witness refuses this log", &gauges.witness_alarm),
        ];
        for (name, help, gauge) in named {
            registry.register(name, help, gauge.clone());
        }
        Self { registry: Mutex::new(registry), calls, seconds, custody_failures, counter_failures, gauges }
    }

    /// A call was answered.
    pub fn call(&self, path: &'static str, code: Option<RefusalCode>, took: Duration) {
        let code = code.map_or("ok", RefusalCode::as_str);
        self.calls.get_or_create(&CallLabels { path, code }).inc();
        self.seconds.get_or_create(&PathLabel { path }).observe(took.as_secs_f64());
    }

    /// The rollback counter wasn't raised.
    pub fn counter_failed(&self) {
        self.counter_failures.inc();
    }

    /// A custody read-back failed.
    pub fn custody_failed(&self) {
        self.custody_failures.inc();
    }

    /// The text.
    #[must_use]
    pub fn render(&self, now: &Snapshot) -> String {
        let gauges = &self.gauges;
        gauges.size.set(now.size);
        gauges.head_age_ms.set(now.head_age_ms);
        gauges.ready.set(i64::from(now.ready));
        gauges.workers_waiting.set(now.workers_waiting);
        gauges.connections.set(now.connections);
        gauges.sequencer_waiting.set(now.sequencer_waiting);
        gauges.batches.set(now.batches);
        gauges.leaves.set(now.leaves);
        gauges.signatures.set(now.signatures);
        gauges.signer_signatures.set(now.signer_signatures);
        gauges.signer_busy_us.set(now.signer_busy_us);
        gauges.witnessed_size.set(now.witnessed_size);
        gauges.witness_alarm.set(now.witness_alarm);
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
