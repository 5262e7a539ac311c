//! From a snapshot, or from the trust bundle alone, to the next snapshot (PROTOCOL §13.1). Pure: clocks are arguments.
//!
//! Comes in: a feed, all pages joined, of which nothing is believed. Goes out: [`Advanced`], a snapshot and the control leaves that it adds.
//! Refused: everything that doesn't follow from what was believed before: other logs, gaps, surplus, heads that no believed key signed, heads
//! that go back, forks, heads from the future.

use super::chain::Chain;
use super::heads::HeadMemory;
use super::{HeldHead, Snapshot};
use crate::clock::{CLOCK_LEEWAY_MS, ClockReading};
use countersign_core::api::{B64, Feed};
use countersign_core::artifact::{ArtifactError, verify_head_signature, verify_note_with};
use countersign_core::bundle::{Compromise, TrustBundle};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlError;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::merkle::{MAX_PROOF_HASHES, Sha256Tree, verify_consistency};
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::QuorumRefused;

/// Most rotation heads in one pull: more activations than a log sees in years.
pub const MAX_ROTATIONS: usize = 64;

/// Why a feed wasn't followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceRefused {
    /// A part that doesn't parse, or too many of them.
    #[error("the feed's {0} is malformed")]
    Malformed(&'static str),
    /// Control leaves are missing: not all pages were joined.
    #[error("the feed ends before the control leaves that its head covers")]
    Gap,
    /// Control leaves that the newest head doesn't cover.
    #[error("the feed has control leaves that its newest head doesn't cover")]
    Surplus,
    /// A head of another log.
    #[error("the head is of another log")]
    Origin,
    /// A control leaf that can't follow.
    #[error("control leaf: {0}")]
    Control(#[from] ControlError),
    /// A control leaf whose place in the log isn't behind the one before.
    #[error("control leaves are out of order")]
    ControlOrder,
    /// The leaves don't reproduce the digest that the head commits to.
    #[error("the control leaves aren't those that the head commits to")]
    ControlDigest,
    /// The chain doesn't begin with the trust bundle's head keys.
    #[error("the log doesn't begin with the head keys of the trust bundle")]
    BundleKeys,
    /// Only a compromised key signed the head.
    #[error("only a compromised key signed the head")]
    Compromised,
    /// No key active at the head's control number signed it.
    #[error("no active head key signed the head")]
    Unsigned,
    /// Signed, but by no key that was believed before.
    #[error("no head key that this gateway believed before signed the head")]
    Discontinuous,
    /// Smaller, earlier or with a lower control number than what is held.
    #[error(
        "the head goes back: size {size}, time {time_ms}; held are size {held_size}, time {held_time_ms}"
    )]
    Rollback {
        /// Of the head sent.
        size: u64,
        /// Of the head sent.
        time_ms: u64,
        /// Of the head held.
        held_size: u64,
        /// Of the head held.
        held_time_ms: u64,
    },
    /// A signed head that contradicts a verified one, or that nothing joins to it.
    #[error("the log is forked: a signed head of size {size} contradicts a verified one")]
    Forked {
        /// Of the head sent.
        size: u64,
        /// The head sent, as evidence.
        note: String,
    },
    /// Too few of the witnesses that this gateway demands cosigned it.
    #[error("the head of size {size}: {source}")]
    Unwitnessed {
        /// Of the head sent.
        size: u64,
        /// What is missing or wrong.
        source: QuorumRefused,
    },
    /// Later than this machine's clock.
    #[error("the head is {ahead_ms} ms ahead of this machine's clock")]
    Future {
        /// By how much.
        ahead_ms: u64,
    },
}

impl AdvanceRefused {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Origin => RefusalCode::OriginMismatch,
            Self::Unsigned | Self::Discontinuous => RefusalCode::HeadUnsigned,
            Self::Compromised => RefusalCode::KeyCompromised,
            Self::Control(error) => error.code(),
            Self::Forked { .. } => RefusalCode::HeadForked,
            Self::Future { .. } => RefusalCode::HeadInFuture,
            Self::Unwitnessed { source: QuorumRefused::Unmet { .. }, .. } => RefusalCode::WitnessQuorumUnmet,
            Self::Unwitnessed { source: QuorumRefused::Invalid { .. }, .. } => {
                RefusalCode::CosignatureInvalid
            }
            _ => RefusalCode::FeedInvalid,
        }
    }
}

/// The next snapshot and what it adds.
#[derive(Clone, Debug)]
pub struct Advanced {
    /// To be kept before it is used.
    pub snapshot: Snapshot,
    /// Exact bytes of the control leaves that it adds.
    pub leaves: Vec<Vec<u8>>,
}

impl Snapshot {
    /// The first snapshot under a trust bundle: the feed from size 0 and control number 0.
    pub fn first(
        bundle: &TrustBundle,
        feed: &Feed,
        began: &ClockReading,
        answered: &ClockReading,
    ) -> Result<Advanced, AdvanceRefused> {
        let mut walk = Walk {
            origin: bundle.origin().as_str(),
            bundle_keys: bundle.head_keys(),
            chain: Chain::genesis(bundle),
            believed: bundle.head_keys().to_vec(),
            remembered: &HeadMemory::default(),
            leaves: feed.control.iter(),
            held: (0, 0),
        };
        let head = walk.reach_newest(feed, answered)?;
        join(None, &head, &feed.consistency)?;
        Ok(walk.finish(head, feed, began))
    }

    /// The next snapshot: the feed from this head's size and control number. `began` is when the pull began, `answered` when its answer was
    /// there.
    pub fn advance(
        &self,
        feed: &Feed,
        began: &ClockReading,
        answered: &ClockReading,
    ) -> Result<Advanced, AdvanceRefused> {
        let control = self.chain.state();
        let mut walk = Walk {
            origin: control.origin(),
            bundle_keys: &[],
            chain: self.chain.clone(),
            believed: control.head_keys_at(control.number()).cloned().collect(),
            remembered: &self.remembered,
            leaves: feed.control.iter(),
            held: (self.head.body.size, self.head.body.time_ms),
        };
        let head = walk.reach_newest(feed, answered)?;
        join(Some(&self.head), &head, &feed.consistency)?;
        Ok(walk.finish(head, feed, began))
    }
}

/// Where the walk from believed keys to the newest head stands.
struct Walk<'a> {
    origin: &'a str,
    /// Empty once a head is held: the check was made for the first head.
    bundle_keys: &'a [VerifyingKey],
    chain: Chain,
    believed: Vec<VerifyingKey>,
    remembered: &'a HeadMemory,
    leaves: std::slice::Iter<'a, B64>,
    /// Size and time below which no head may fall.
    held: (u64, u64),
}

impl Walk<'_> {
    fn reach_newest(&mut self, feed: &Feed, answered: &ClockReading) -> Result<HeldHead, AdvanceRefused> {
        if feed.more {
            return Err(AdvanceRefused::Gap);
        }
        if feed.rotations.len() > MAX_ROTATIONS {
            return Err(AdvanceRefused::Malformed("rotations"));
        }
        for rotation in &feed.rotations {
            self.step(rotation)?;
        }
        let head = self.step(&feed.head)?;
        if self.leaves.next().is_some() {
            return Err(AdvanceRefused::Surplus);
        }
        let ahead_ms = head.body.time_ms.saturating_sub(answered.wall_ms);
        if ahead_ms > CLOCK_LEEWAY_MS { Err(AdvanceRefused::Future { ahead_ms }) } else { Ok(head) }
    }

    /// One step of trust, from the keys believed so far to those of this head.
    fn step(&mut self, text: &str) -> Result<HeldHead, AdvanceRefused> {
        let note = SignedNote::parse(text).map_err(|_| AdvanceRefused::Malformed("head"))?;
        let body = HeadBody::parse(note.text()).map_err(|_| AdvanceRefused::Malformed("head"))?;
        if body.origin != self.origin {
            return Err(AdvanceRefused::Origin);
        }
        let known = self.chain.state().number();
        while self.chain.state().number() < body.control_seq {
            let leaf = self.leaves.next().ok_or(AdvanceRefused::Gap)?;
            self.chain.apply(&leaf.0)?;
        }
        let digest_there = self.chain.digest_at(body.control_seq);
        let same_chain = digest_there == Some(body.control_digest);
        if !same_chain && body.control_seq > known {
            return Err(AdvanceRefused::ControlDigest);
        }
        // A covered leaf stands in the log that the head covers.
        if self.chain.state().last_index().is_some_and(|last| last >= body.size) && body.control_seq > known {
            return Err(AdvanceRefused::ControlOrder);
        }
        if !self.bundle_keys.is_empty() && !self.chain.state().begins_with(self.bundle_keys) {
            return Err(AdvanceRefused::BundleKeys);
        }
        // Signed by a key active after the leaves, and by a key that was believed before them.
        let active: Vec<VerifyingKey> = self.chain.state().head_keys_at(body.control_seq).cloned().collect();
        verify_head_signature(&note, &body, self.chain.state()).map_err(|error| match error {
            ArtifactError::Compromised => AdvanceRefused::Compromised,
            _ => AdvanceRefused::Unsigned,
        })?;
        // PROTOCOL §8.5: what the recovery key said, here or in the trust bundle, comes before what was believed.
        let believed = self.chain.state().still_believed(&self.believed);
        verify_note_with(&note, self.origin, &believed).map_err(|_| AdvanceRefused::Discontinuous)?;
        // Only what is signed can be evidence of a fork (PROTOCOL §6.2).
        let digest = body.digest();
        if !same_chain || self.remembered.contradicts(body.size, &digest) {
            return Err(AdvanceRefused::Forked { size: body.size, note: text.to_owned() });
        }
        let other_last_good =
            |found: &Compromise| self.remembered.contradicts(found.last_good.size, &found.last_good.digest());
        if self.chain.state().compromises().iter().any(other_last_good) {
            return Err(AdvanceRefused::Forked { size: body.size, note: text.to_owned() });
        }
        let (held_size, held_time_ms) = self.held;
        if body.size < held_size || body.time_ms < held_time_ms || body.control_seq < known {
            let (size, time_ms) = (body.size, body.time_ms);
            return Err(AdvanceRefused::Rollback { size, time_ms, held_size, held_time_ms });
        }
        self.held = (body.size, body.time_ms);
        self.believed = active;
        Ok(HeldHead { note: text.to_owned(), body, digest })
    }

    fn finish(self, head: HeldHead, feed: &Feed, began: &ClockReading) -> Advanced {
        let mut remembered = self.remembered.clone();
        remembered.remember(head.body.size, head.digest);
        let leaves = feed.control.iter().map(|leaf| leaf.0.clone()).collect();
        let snapshot = Snapshot { head, chain: self.chain, remembered, pulled: began.clone() };
        Advanced { snapshot, leaves }
    }
}

/// The log of the held head is a prefix of the log of the new one (RFC 9162 §2.1.4.2).
fn join(held: Option<&HeldHead>, new: &HeldHead, proof: &[String]) -> Result<(), AdvanceRefused> {
    let hashes = hashes(proof).ok_or(AdvanceRefused::Malformed("consistency proof"))?;
    // There is nothing to join the first head to; its signature by a key of the bundle is what it is believed for.
    let Some(held) = held else {
        return if hashes.is_empty() { Ok(()) } else { Err(AdvanceRefused::Malformed("consistency proof")) };
    };
    if held.digest == new.digest {
        return Ok(());
    }
    let (old, body) = (&held.body, &new.body);
    verify_consistency::<Sha256Tree>(old.size, &old.sha256_root, body.size, &body.sha256_root, &hashes)
        .map_err(|_| AdvanceRefused::Forked { size: body.size, note: new.note.clone() })
}

/// Hashes of a proof in hexadecimal; `None` if one is malformed or no proof can have so many.
#[must_use]
pub fn hashes(proof: &[String]) -> Option<Vec<Sha256Digest>> {
    if proof.len() > MAX_PROOF_HASHES {
        return None;
    }
    proof.iter().map(|hash| Sha256Digest::from_hex(hash).ok()).collect()
}
