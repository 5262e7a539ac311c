//! The gate: what every door asks before it admits. It brings the snapshot up to date, bounded to one pull per admission.
//!
//! Comes in: a receipt, or nothing, and the state directory. Goes out: [`Ready`], all that [`crate::admit::admit`] needs of the log. It refuses
//! nothing itself, with one exception: an authority that shows two histories.

use super::{PullFault, PullLimits, backoff, pull};
use crate::admit::Rules;
use crate::clock::ClockReading;
use crate::outcome::OutcomeSpool;
use crate::refusal::Refusal;
use crate::snapshot::advance::{AdvanceRefused, Advanced, hashes};
use crate::snapshot::store::{LockedState, StateDir};
use crate::snapshot::{LinkProof, Snapshot};
use crate::source::Source;
use countersign_core::api::Acknowledgement;
use countersign_core::artifact::Receipt;
use countersign_core::bundle::TrustBundle;
use countersign_core::refusal::RefusalCode;
use countersign_core::verified_heads::VerifiedHeads;
use std::time::{Duration, Instant};

/// A head is renewed when a third of the lease is over: two more pulls may fail before anybody notices.
const RENEW_FRACTION: u64 = 3;

/// One gateway's way to its log.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a, S> {
    /// The authority.
    pub source: &'a S,
    /// Whose trust is pinned.
    pub bundle: &'a TrustBundle,
    /// Memory.
    pub state: &'a StateDir,
    /// Name, audiences, lease.
    pub rules: &'a Rules,
    /// Bounds.
    pub limits: &'a PullLimits,
    /// Heads whose signatures were verified before.
    pub verified: &'a VerifiedHeads,
}

/// What an admission reads of the log.
#[derive(Debug)]
pub struct Ready {
    /// What is held; `None` if nothing was ever pulled.
    pub snapshot: Option<Snapshot>,
    /// From the receipt's head to the newest, when it isn't remembered.
    pub link: Option<LinkProof>,
    /// Why the pull failed that this admission would have needed.
    pub fault: Option<PullFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Good to have; a failure changes nothing.
    Renewal,
    /// Without it the admission is refused.
    Pull,
}

impl<S: Source> Gate<'_, S> {
    /// Makes ready to judge `receipt`. At most one pull and one consistency proof, within the deadline.
    pub async fn ready(&self, receipt: Option<&Receipt>) -> Result<Ready, Refusal> {
        let missing = |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::SnapshotMissing, error);
        let held = self.state.load(self.bundle).map_err(|error| missing(&error))?;
        let now = ClockReading::now().map_err(|error| missing(&error))?;
        let mut ready = Ready { snapshot: held, link: None, fault: None };
        let need = self.need(ready.snapshot.as_ref(), receipt, &now);
        if need == Need::Pull || (need == Need::Renewal && !backoff::holds(self.state, &now)) {
            match self.refresh(receipt, need).await {
                Ok(snapshot) => ready.snapshot = Some(snapshot),
                // Two histories: nothing of this authority is believed while it shows them, lease or not.
                Err(fault @ PullFault::Refused(AdvanceRefused::Forked { .. })) => {
                    return Err(Refusal::new(RefusalCode::HeadForked, fault));
                }
                Err(fault) if need == Need::Pull => ready.fault = Some(fault),
                Err(fault) => tracing::warn!(
                    %fault,
                    "the authority gave nothing newer; this gateway goes on with what it knows until the lease ends"
                ),
            }
        }
        if let (Some(snapshot), Some(receipt), None) = (&ready.snapshot, receipt, &ready.fault) {
            match self.link(snapshot, receipt).await {
                Ok(link) => ready.link = link,
                Err(fault) => ready.fault = Some(fault),
            }
        }
        Ok(ready)
    }

    /// Pulls if the lease asks for it; what a timer or an operator calls. Returns whether a current snapshot is held.
    pub async fn refresh_if_needed(&self) -> Result<bool, PullFault> {
        let now = ClockReading::now()?;
        let held = self.state.load(self.bundle)?;
        match self.need(held.as_ref(), None, &now) {
            Need::Nothing => Ok(true),
            Need::Renewal if backoff::holds(self.state, &now) => Ok(true),
            need => self.refresh(None, need).await.map(|_| true),
        }
    }

    fn need(&self, held: Option<&Snapshot>, receipt: Option<&Receipt>, now: &ClockReading) -> Need {
        let Some(held) = held else { return Need::Pull };
        let Ok(age_ms) = held.age(now, self.rules.lease_ms) else { return Need::Pull };
        // Held from before the quorum was demanded, or before another one was.
        let quorum = self.rules.quorum.as_deref();
        if quorum.is_some_and(|quorum| held.head().check_witnessed(quorum, now.wall_ms).is_err()) {
            return Need::Pull;
        }
        let newest = held.head().body();
        let ahead = receipt.is_some_and(|receipt| {
            let head = receipt.head();
            head.origin == newest.origin && (head.size > newest.size || head.control_seq > newest.control_seq)
        });
        if ahead {
            Need::Pull
        } else if age_ms > self.rules.lease_ms / RENEW_FRACTION || self.is_due(held, now) {
            Need::Renewal
        } else {
            Need::Nothing
        }
    }

    /// Whether the door asks for a younger view than the lease does.
    fn is_due(&self, held: &Snapshot, now: &ClockReading) -> bool {
        let Some(after) = self.limits.renew_after else { return false };
        // A clock that went back makes no pull superfluous.
        now.boot_since(held.pulled()).is_none_or(|since_ms| u128::from(since_ms) >= after.as_millis())
    }

    /// One pull, alone among the processes that share the state directory.
    async fn refresh(&self, receipt: Option<&Receipt>, need: Need) -> Result<Snapshot, PullFault> {
        let began = Instant::now();
        let deadline = self.limits.deadline;
        // Nobody waits for a renewal that another process is making.
        let patience = if need == Need::Pull { deadline } else { Duration::ZERO };
        let locked = self.state.lock(patience).await?;
        let held = locked.load(self.bundle)?;
        // Whoever had the lock before may have pulled what is needed here.
        let now = ClockReading::now()?;
        if let (Need::Nothing, Some(held)) = (self.need(held.as_ref(), receipt, &now), &held) {
            return Ok(held.clone());
        }
        let left = deadline.saturating_sub(began.elapsed());
        let quorum = self.rules.quorum.as_deref();
        let pulled = pull(self.source, self.bundle, held.as_ref(), quorum, self.limits);
        let answer = tokio::time::timeout(left, pulled).await.unwrap_or(Err(PullFault::TimedOut(deadline)));
        match answer {
            Ok(advanced) => {
                locked.save(&advanced)?;
                backoff::succeeded(self.state);
                self.report(&locked, held.as_ref(), &advanced).await;
                Ok(advanced.snapshot)
            }
            Err(fault) => {
                backoff::failed(self.state, &now);
                if let PullFault::Refused(AdvanceRefused::Forked { size, note }) = &fault
                    && let Err(error) = locked.save_fork(held.as_ref().map(Snapshot::head), *size, note)
                {
                    tracing::error!(%error, "the evidence of a fork isn't kept");
                }
                Err(fault)
            }
        }
    }

    /// After the snapshot is kept: says so, and sends what was spooled. Failures change nothing; both are tried again with the next pull.
    async fn report(&self, _locked: &LockedState<'_>, held: Option<&Snapshot>, advanced: &Advanced) {
        let new = &advanced.snapshot;
        let (control, size) = (new.control().number(), new.head().body().size);
        if held.is_none_or(|held| held.head().digest() != new.head().digest()) {
            let ack = self.source.acknowledge(Acknowledgement { control, size });
            match tokio::time::timeout(self.limits.courtesy, ack).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the control number wasn't acknowledged"),
                Err(_) => tracing::warn!("the acknowledgement took too long"),
            }
        }
        OutcomeSpool::new(self.state).flush(self.source, self.limits.courtesy).await;
    }

    /// A proof for a receipt whose head is genuine, older than the newest and not remembered.
    async fn link(&self, snapshot: &Snapshot, receipt: &Receipt) -> Result<Option<LinkProof>, PullFault> {
        let (from, to) = (receipt.head().size, snapshot.head().body().size);
        if from >= to || snapshot.remembered().at(from).is_some() {
            return Ok(None);
        }
        // No proof is fetched for what a stranger made up.
        let Ok(signed) = receipt.clone().verify_signature_among(snapshot.control(), self.verified) else {
            return Ok(None);
        };
        let asked = self.source.consistency(from, to);
        let deadline = self.limits.deadline;
        let answer =
            tokio::time::timeout(deadline, asked).await.map_err(|_| PullFault::TimedOut(deadline))??;
        let hashes = hashes(&answer.proof).ok_or(AdvanceRefused::Malformed("consistency proof"))?;
        let proof = LinkProof { from, to, hashes };
        if snapshot.check_link(&signed, Some(&proof)).is_ok() {
            self.remember(&signed, &proof).await;
        }
        Ok(Some(proof))
    }

    /// Keeps a joined head, so that the next artifact under it costs no call. Best effort: the proof can be fetched again.
    async fn remember(&self, signed: &countersign_core::artifact::SignedReceipt, proof: &LinkProof) {
        let Ok(locked) = self.state.lock(self.limits.courtesy).await else { return };
        let Ok(Some(mut held)) = locked.load(self.bundle) else { return };
        if held.remember(signed, Some(proof)).is_ok()
            && let Err(error) = locked.save_heads(&held)
        {
            tracing::warn!(%error, "a joined head isn't remembered");
        }
    }
}

impl Ready {
    /// Completes a refusal of [`crate::admit::admit`] with what is known of the pull that failed before it.
    #[must_use]
    pub fn explain(&self, refusal: Refusal) -> Refusal {
        match &self.fault {
            None => refusal,
            Some(fault) if fault.is_verdict() && refusal.artifact().is_none() => Refusal::new(
                fault.code(),
                fault,
            )
            .because(format!("hence {}: {}", refusal.code(), refusal.explanation())),
            Some(fault) => refusal.because(fault),
        }
    }
}
