//! Verification: from the bytes of a call to facts. Pure CPU work, meant for bounded worker threads.
//!
//! Comes in: who the caller is and which AK endorses it, exact call bytes, the settings in force, a source of boot logs. Goes out: a
//! [`VerifiedCall`], or a [`CallError`]. The line between the two is PROTOCOL §9.4: what fails before the host's TPM has been heard is
//! answered and counted, never logged as a decision; what fails after it is a [`Finding`] inside the call, which leads to logged denials.
//!
//! Not here: whether the challenge was spent or has expired, counters against the host's prior state, references, policy. Those depend on
//! state and time and belong to [`crate::decide`], so that a call whose versions moved is decided again without being verified again.

mod boot_log;
mod call;
mod ima;
mod quote;

pub use boot_log::{BootLogCache, BootLogSource, MAX_CACHE_BYTES, SourceFault, explained_by_boot_log};
pub(crate) use call::judge_logged;
pub use call::{Asked, Call, CallError, VerifiedCall, Verifier};

use countersign_core::challenge::ChallengeBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::host::{Endorsement, Enrolment, HostKeyKind, HostState};
use countersign_core::name::HostId;
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::eventlog::VerifiedBootLog;
use countersign_tpm::eventlog::facts::BootFacts;
use countersign_tpm::ima::state::ImaState;
use countersign_tpm::public::Public;
use countersign_tpm::quote::VerifiedQuote;
use std::sync::Arc;

/// Why evidence doesn't hold although the host's TPM made it: leads to a logged denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    code: RefusalCode,
    detail: String,
}

impl Finding {
    pub(crate) fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The stable code that goes into the leaf.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        self.code
    }

    /// For operators; never part of a leaf or an answer to the caller.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Why an enrolment leaf and an AK public area don't belong together: a defect of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the AK public area isn't the one of the enrolment")]
pub struct EndorsementMismatch;

/// A host as its enrolment endorses it. Built once per enrolment and cached; only the state changes.
#[derive(Clone, Debug)]
pub struct Endorsed {
    /// Whose connection the call came over.
    pub host: HostId,
    /// The enrolment leaf.
    pub enrolment: LeafRef,
    /// The AK, parsed once.
    pub ak: Arc<Public>,
    /// How the host key is held.
    pub host_key_kind: HostKeyKind,
    /// How the TPM is endorsed.
    pub endorsement: Arc<Endorsement>,
    /// The host's state as the log shows it.
    pub prior: HostState,
    /// The state of the IMA appraisal that `prior` names.
    pub ima: Option<Arc<ImaState>>,
}

impl Endorsed {
    /// Joins an enrolment with the AK's TPMT_PUBLIC that it names.
    pub fn new(
        enrolment: &Enrolment,
        leaf: LeafRef,
        ak_public: &[u8],
        prior: HostState,
    ) -> Result<Self, EndorsementMismatch> {
        let ak = Public::parse(ak_public).map_err(|_| EndorsementMismatch)?;
        let named = countersign_core::digest::sha256(ak_public) == enrolment.ak_public;
        if !named || ak.name().as_bytes() != enrolment.ak_name {
            return Err(EndorsementMismatch);
        }
        Ok(Self {
            host: enrolment.host,
            enrolment: leaf,
            ak: Arc::new(ak),
            host_key_kind: enrolment.host_key_kind,
            endorsement: Arc::new(enrolment.endorsement.clone()),
            prior,
            ima: None,
        })
    }

    /// With another state of the host, and of the IMA appraisal that it names.
    #[must_use]
    pub fn at(self, prior: HostState, ima: Option<Arc<ImaState>>) -> Self {
        Self { prior, ima, ..self }
    }
}

/// What verification found out about the evidence of one call. Only this module makes it.
#[derive(Clone, Debug)]
pub struct Judged {
    host: HostId,
    ak: Arc<Public>,
    settings: Settings,
    challenge: ChallengeBody,
    challenge_digest: Sha256Digest,
    record: EvidenceRecord,
    record_bytes: Arc<[u8]>,
    record_digest: Sha256Digest,
    evidence: Evidence,
    ima: ima::Memory,
}

/// How far the evidence held.
#[derive(Clone, Debug)]
pub(crate) enum Evidence {
    /// The quote itself doesn't hold.
    Refused(Finding),
    /// The quote holds; the boot log may not.
    Quoted(Box<Quoted>),
}

/// A quote that holds, and what became of its boot log.
#[derive(Clone, Debug)]
pub(crate) struct Quoted {
    pub(crate) quote: VerifiedQuote,
    /// SHA-256 over the concatenated PCR values (PROTOCOL §8.4).
    pub(crate) pcr_digest: Sha256Digest,
    pub(crate) boot: Result<Arc<VerifiedBootLog>, Finding>,
    /// Entries of the IMA list, if the evidence names any. Nothing of them is believed yet.
    pub(crate) ima: Option<Arc<[u8]>>,
}

impl Judged {
    /// Whose evidence it is.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }

    /// The AK that signed it.
    #[must_use]
    pub fn ak(&self) -> &Public {
        &self.ak
    }

    /// The settings under which it was judged.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The challenge that the quote answers.
    #[must_use]
    pub const fn challenge(&self) -> &ChallengeBody {
        &self.challenge
    }

    /// SHA-256 of the challenge: what is spent.
    #[must_use]
    pub const fn challenge_digest(&self) -> &Sha256Digest {
        &self.challenge_digest
    }

    /// The evidence record.
    #[must_use]
    pub const fn record(&self) -> &EvidenceRecord {
        &self.record
    }

    /// The evidence record's exact bytes: a blob to be kept.
    #[must_use]
    pub const fn record_bytes(&self) -> &Arc<[u8]> {
        &self.record_bytes
    }

    /// The evidence record's digest.
    #[must_use]
    pub const fn record_digest(&self) -> &Sha256Digest {
        &self.record_digest
    }

    /// Why the evidence doesn't hold, as far as the evidence alone shows it.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match &self.evidence {
            Evidence::Refused(finding) => Some(finding),
            Evidence::Quoted(quoted) => quoted.boot.as_ref().err(),
        }
    }

    /// What the boot log proves, if quote and log hold.
    pub(crate) fn boot_facts(&self) -> Option<&BootFacts> {
        match &self.evidence {
            Evidence::Refused(_) => None,
            Evidence::Quoted(quoted) => quoted.boot.as_ref().ok().map(|boot| boot.facts()),
        }
    }

    pub(crate) const fn evidence(&self) -> &Evidence {
        &self.evidence
    }
}

/// The one place where a panic ends; `None` is one. What is called shares nothing that an unwinding could leave half-changed: caches swap
/// whole entries under their lock, everything else is borrowed for reading.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
pub(crate) mod kit;
#[cfg(test)]
mod tests;
