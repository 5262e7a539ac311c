//! Raising the rollback counter while the authority runs: a leaf that tells the next value, then the raise.

use super::{Authority, tasks};
use crate::api::problem::Refused;
use crate::counter::CounterFault;
use crate::sequence::{Append, Entry, Outcome, SequenceFault};
use countersign_core::leaf::Kind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often to look whether it is time, and so how soon a raise that failed is tried again.
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

/// Raises it at once, since the authority has just started, and from then on by the hour.
pub(super) fn spawn(authority: &Arc<Authority>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    if authority.counter.is_none() {
        return;
    }
    tasks.spawn(tasks::every(LOOK_EVERY, stop.clone(), Arc::clone(authority), async |authority| {
        if authority.counter.as_ref().is_none_or(|counter| !counter.is_due()) {
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
        }
    }

    fn try_raise(&self) -> Result<(), NotRaised> {
        let Some(counter) = &self.counter else { return Ok(()) };
        let (value, body) = counter.next()?;
        let entry = Entry::plain(Kind::Heartbeat, body);
        let pending = self.submit(Append::of(vec![entry])).map_err(NotRaised::Refused)?;
        let (Outcome::Appended(receipts) | Outcome::Existing(receipts)) = pending.wait()? else {
            return Err(NotRaised::Log(SequenceFault::LogUnavailable));
        };
        let leaf = receipts.leaves.first().ok_or(SequenceFault::LogUnavailable)?;
        Ok(counter.told(leaf.index, value)?)
    }
}
