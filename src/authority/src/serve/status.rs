//! How the authority is: whether it would serve, its counters, its witnesses.

use super::metrics::Snapshot;
use super::{Authority, lock, sequence_fault};
use crate::api::problem::Refused;
use crate::counter::RollbackCounter;
use crate::sequence::Health;
use crate::store::SignedHead;
use crate::witness::Witnesses;
use countersign_core::api::Readiness;
use countersign_core::note::NoteSignature;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Authority {
    /// Who cosigns heads, and what they said.
    #[must_use]
    pub const fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// The newest signed head, if there is one yet.
    #[must_use]
    pub fn newest_signed(&self) -> Option<Arc<SignedHead>> {
        self.sequencer.signed_head()
    }

    /// Keeps cosignatures with their head.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn attach(&self, size: u64, lines: Vec<NoteSignature>) -> Result<(), Refused> {
        let written = self.sequencer.attach(size, lines).map_err(sequence_fault)?;
        written.done().await.map_err(sequence_fault)
    }

    /// Whether requests would be served (DESIGN, "Faults that are normal"). It closes nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let head = self.sequencer.signed_head();
        let head_time = head.as_ref().map_or(0, |head| head.body().time_ms);
        let head_age_ms = self.now_ms().saturating_sub(head_time);
        let head_young =
            head.is_some() && head_age_ms <= self.config.limits.ready_head_secs.saturating_mul(1_000);
        let policy_active = self.control().policy().is_some();
        let signer_available = *self.sequencer.health().borrow() != Health::SignerDown;
        let witnesses_agree = !self.witnesses.has_alarm();
        let counter_current = self.counter.as_ref().is_none_or(RollbackCounter::is_current);
        Readiness {
            ready: head_young && policy_active && witnesses_agree && counter_current,
            head_young,
            head_age_ms,
            policy_active,
            signer_available,
            witnesses_agree,
            counter_current,
            size: head.map_or(0, |head| head.size()),
        }
    }

    /// All metrics as text.
    #[must_use]
    pub fn render_metrics(&self) -> String {
        let readiness = self.readiness();
        let counts = self.sequencer.counts();
        let connections =
            lock(&self.connections).iter().map(|open| open.load(Ordering::Relaxed)).sum::<usize>();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let signers: Vec<_> = lock(&self.head_keys).iter().map(|key| key.handle().counts()).collect();
        let busy: Duration = signers.iter().map(|signer| signer.busy).sum();
        self.metrics.render(&Snapshot {
            size: gauge(readiness.size),
            head_age_ms: gauge(readiness.head_age_ms),
            ready: readiness.ready,
            workers_waiting: i64::try_from(self.pool.waiting()).unwrap_or(i64::MAX),
            connections: i64::try_from(connections).unwrap_or(i64::MAX),
            sequencer_waiting: gauge(counts.waiting),
            batches: gauge(counts.batches),
            leaves: gauge(counts.leaves),
            signatures: gauge(counts.signed),
            signer_signatures: gauge(signers.iter().map(|signer| signer.signatures).sum()),
            signer_busy_us: i64::try_from(busy.as_micros()).unwrap_or(i64::MAX),
            witnessed_size: gauge(self.witnesses.witnessed().map_or(0, |head| head.size())),
            witness_alarm: i64::from(self.witnesses.has_alarm()),
        })
    }
}
