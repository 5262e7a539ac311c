//! What a gateway holds of the log: newest verified head, control state, remembered heads, and when it was pulled (PROTOCOL §13.1).
//!
//! Comes in: feeds ([`advance`]) and what was kept on disk ([`store`]). Goes out: a [`Snapshot`], which always has a verified head and a control
//! chain that reproduces what the head commits to. Refused: heads that don't follow, and by [`Snapshot::age`] every use after the lease.

pub mod advance;
pub mod chain;
pub mod heads;
pub mod store;

use crate::clock::{CLOCK_LEEWAY_MS, ClockReading};
use chain::Chain;
use countersign_core::artifact::SignedReceipt;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{Sha256Tree, verify_consistency};
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::{Quorum, QuorumRefused, Witnessed};
use heads::HeadMemory;

/// A head whose signatures and place in the log were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldHead {
    note: String,
    body: HeadBody,
    digest: Sha256Digest,
}

impl HeldHead {
    /// The signed note.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// What it states.
    #[must_use]
    pub const fn body(&self) -> &HeadBody {
        &self.body
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// Whether enough witnesses cosigned it, by the clock `now_ms` (PROTOCOL §15.4).
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn check_witnessed(&self, quorum: &Quorum, now_ms: u64) -> Result<Witnessed, QuorumRefused> {
        // It was parsed when it was verified; what doesn't parse has nobody's cosignature.
        let note = SignedNote::parse(&self.note).map_err(|_| QuorumRefused::Unmet { counted: Vec::new() })?;
        quorum.check(&note, self.body.time_ms, now_ms)
    }
}

/// Why a snapshot may not be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseEnd {
    /// The head is from the future.
    #[error("the newest head is {ahead_ms} ms ahead of this machine's clock")]
    Future {
        /// By how much.
        ahead_ms: u64,
    },
    /// The machine booted since the pull, or went back in boot time.
    #[error("the machine was restarted since the last pull, so the head's age can't be known")]
    Rebooted,
    /// The wall clock was moved.
    #[error("the wall clock moved by {by_ms} ms against boot time since the last pull")]
    Stepped {
        /// By how much.
        by_ms: u64,
    },
    /// Too old.
    #[error("the newest head is {age_ms} ms old, the lease is {lease_ms} ms")]
    Over {
        /// Age.
        age_ms: u64,
        /// Lease.
        lease_ms: u64,
    },
}

impl LeaseEnd {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Future { .. } => RefusalCode::HeadInFuture,
            Self::Rebooted | Self::Stepped { .. } | Self::Over { .. } => RefusalCode::LeaseExpired,
        }
    }
}

/// A consistency proof from the head of a receipt to the newest head, as the authority sent it. Believed only when verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkProof {
    /// Size of the receipt's head.
    pub from: u64,
    /// Size of the newest head.
    pub to: u64,
    /// SHA-256 hashes.
    pub hashes: Vec<Sha256Digest>,
}

/// Why a receipt's head isn't part of the log that this gateway follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefused {
    /// It contradicts a verified head.
    #[error("the artifact's head of size {size} contradicts what this gateway has verified")]
    Forked {
        /// Its size.
        size: u64,
    },
    /// Not remembered and not joined.
    #[error("the artifact's head of size {size} isn't joined to the newest head of size {newest}")]
    Unlinked {
        /// Its size.
        size: u64,
        /// Size of the newest.
        newest: u64,
    },
}

/// A verified view of the log at one pull.
#[derive(Clone, Debug)]
pub struct Snapshot {
    head: HeldHead,
    chain: Chain,
    remembered: HeadMemory,
    pulled: ClockReading,
}

impl Snapshot {
    /// The newest verified head.
    #[must_use]
    pub const fn head(&self) -> &HeldHead {
        &self.head
    }

    /// Control state at that head.
    #[must_use]
    pub const fn control(&self) -> &ControlState {
        self.chain.state()
    }

    /// The control chain.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Remembered heads, the newest among them.
    #[must_use]
    pub const fn remembered(&self) -> &HeadMemory {
        &self.remembered
    }

    /// The clocks when the pull began that this snapshot answers.
    #[must_use]
    pub const fn pulled(&self) -> &ClockReading {
        &self.pulled
    }

    /// Age of the newest head, or why it can't be used (PROTOCOL §13.2, 1).
    pub fn age(&self, now: &ClockReading, lease_ms: u64) -> Result<u64, LeaseEnd> {
        let head_ms = self.head.body.time_ms;
        let ahead_ms = head_ms.saturating_sub(now.wall_ms);
        if ahead_ms > CLOCK_LEEWAY_MS {
            return Err(LeaseEnd::Future { ahead_ms });
        }
        let since_pull = now.boot_since(&self.pulled).ok_or(LeaseEnd::Rebooted)?;
        let by_ms = now.wall_step_since(&self.pulled).ok_or(LeaseEnd::Rebooted)?;
        if by_ms > CLOCK_LEEWAY_MS {
            return Err(LeaseEnd::Stepped { by_ms });
        }
        let age_ms = now.wall_ms.saturating_sub(head_ms).max(since_pull);
        if age_ms > lease_ms { Err(LeaseEnd::Over { age_ms, lease_ms }) } else { Ok(age_ms) }
    }

    /// Whether the receipt's head is part of the log that this gateway follows (PROTOCOL §13.2, 4).
    pub fn check_link(&self, receipt: &SignedReceipt, proof: Option<&LinkProof>) -> Result<(), LinkRefused> {
        let head = receipt.receipt().head();
        let (size, newest) = (head.size, &self.head.body);
        let other_chain =
            self.chain.digest_at(head.control_seq).is_some_and(|known| known != head.control_digest);
        let digest = head.digest();
        if other_chain || self.remembered.contradicts(size, &digest) {
            return Err(LinkRefused::Forked { size });
        }
        if self.remembered.at(size).is_some() {
            return Ok(());
        }
        let unlinked = LinkRefused::Unlinked { size, newest: newest.size };
        let proof = proof.filter(|proof| proof.from == size && proof.to == newest.size).ok_or(unlinked)?;
        verify_consistency::<Sha256Tree>(
            size,
            &head.sha256_root,
            newest.size,
            &newest.sha256_root,
            &proof.hashes,
        )
        .map_err(|_| unlinked)
    }

    /// Remembers the receipt's head, if it is linked: the next artifact under it needs no proof, and another head of its size is a fork.
    pub fn remember(
        &mut self,
        receipt: &SignedReceipt,
        proof: Option<&LinkProof>,
    ) -> Result<(), LinkRefused> {
        self.check_link(receipt, proof)?;
        let head = receipt.receipt().head();
        self.remembered.remember(head.size, head.digest());
        Ok(())
    }
}
