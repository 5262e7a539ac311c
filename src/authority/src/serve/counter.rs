//! Raising the rollback counter while the authority runs: a leaf that tells the next value, a commit that makes its head's signature durable,
//! then the raise.

use super::{Authority, tasks};
use crate::api::problem::Refused;
use crate::counter::CounterFault;
use crate::sequence::{Append, Entry, Outcome, SequenceFault};
use countersign_core::leaf::Kind;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often to look whether it is time.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why the counter wasn't raised.
#[derive(Debug, thiserror::Error)]
enum NotRaised {
    #[error(transparent)]
    Counter(#[from] CounterFault),
    #[error("the leaf: {0}")]
    Log(#[from] SequenceFault),
    #[error("the leaf was refused: {}", .0.code().as_str())]
    Refused(Refused),
}

/// Raises it at once, unless an earlier process did minutes ago, and from then on by the hour.
pub(super) fn spawn(authority: &Arc<Authority>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    if authority.counter.is_none() {
        return;
    }
    tasks.spawn(tasks::every(LOOK_EVERY, stop.clone(), Arc::clone(authority), async |authority| {
        if authority.counter.as_ref().is_none_or(|counter| !counter.is_due(authority.now_ms())) {
            return;
        }
        let worker = Arc::clone(authority);
        let done = authority.run(move || {
            worker.raise_counter();
            Ok(())
        });
        if let Err(refused) = done.await {
            tracing::warn!(code = refused.code().as_str(), "the rollback counter wasn't raised");
        }
    }));
}

impl Authority {
    /// Tells the counter's next value in a leaf, and raises it. Blocks, for the signed head and the TPM.
    pub(super) fn raise_counter(&self) {
        if let Err(error) = self.try_raise() {
            tracing::error!(%error, "the rollback counter wasn't raised");
            self.metrics.counter_failed();
            if let Some(counter) = &self.counter {
                counter.failed();
            }
        }
    }

    fn try_raise(&self) -> Result<(), NotRaised> {
        let Some(counter) = &self.counter else { return Ok(()) };
        let (value, body) = counter.next()?;
        let leaf = self.append_one(body)?;
        // Signatures are attached without a sync of their own. A power cut between the raise and the next commit would leave a leaf that no signed
        // head covers and a counter that says it was; this commit syncs what is before it.
        self.append_one(Heartbeat(HeartbeatReason::Idle).encode())?;
        Ok(counter.told(leaf, value)?)
    }

    /// Appends a heartbeat and waits until it is under a signed head; its index.
    fn append_one(&self, body: Vec<u8>) -> Result<u64, NotRaised> {
        let entry = Entry::plain(Kind::Heartbeat, body);
        let pending = self.submit(Append::of(vec![entry])).map_err(NotRaised::Refused)?;
        let (Outcome::Appended(receipts) | Outcome::Existing(receipts)) = pending.wait()? else {
            return Err(NotRaised::Log(SequenceFault::LogUnavailable));
        };
        Ok(receipts.leaves.first().ok_or(SequenceFault::LogUnavailable)?.index)
    }
}
