//! IMA lists: fetched by digest with the call, appraised when the host's prior state is known.
//!
//! The requests of a call share one appraisal, and so do its decisions after versions moved: what it depends on is the quote, the entries, the
//! prior state and the policy, and the last answer is kept with these names.

use super::call::{CallError, Subject};
use super::{Endorsed, Finding, Judged, Quoted, contained};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::record::{EvidenceRecord, ImaEntries};
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::appraise::{Appraised, ImaRefusal, Submission, appraise_booted};
use countersign_tpm::ima::policy::{Objection, RuntimePolicy};
use std::sync::{Arc, Mutex, PoisonError};

type Verdict = Result<Arc<Appraised>, Finding>;

/// The last appraisal of one call's entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Option<Remembered>>>);

#[derive(Clone, Debug)]
struct Remembered {
    prior: Option<Sha256Digest>,
    policy: [u8; 32],
    verdict: Verdict,
}

/// The bytes of the entries that the evidence names.
pub(super) fn fetch(subject: &Subject<'_>, record: &EvidenceRecord) -> Result<Option<Arc<[u8]>>, CallError> {
    let Some(ImaEntries { list, .. }) = &record.ima else { return Ok(None) };
    // Members of a challenge that wasn't fresh aren't kept, and nothing that is decided depends on them.
    if !subject.source.keeps() {
        return Ok(None);
    }
    // Nothing new since the last evidence: no member has to be sent or kept for that.
    if *list == sha256(&[]) {
        return Ok(Some(Arc::from([])));
    }
    let bytes = subject.source.fetch(list)?.ok_or_else(|| CallError::EvidenceNeeded(vec![*list]))?;
    if sha256(&bytes) != *list {
        return Err(CallError::Source(super::SourceFault("a member doesn't hash to its name".to_owned())));
    }
    Ok(Some(bytes))
}

impl Judged {
    /// Appraises the entries that came with the quote, going on from the host's prior state.
    pub(crate) fn appraise_ima(&self, quoted: &Quoted, host: &Endorsed, policy: &RuntimePolicy) -> Verdict {
        let prior = host.prior.ima;
        let mut memory = self.ima.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.as_ref()
            && known.prior == prior
            && known.policy == *policy.digest()
        {
            return known.verdict.clone();
        }
        // A panic of a parser is a denial, with nothing changed.
        let verdict = contained(|| self.appraise_afresh(quoted, host, policy)).unwrap_or_else(|| {
            Err(Finding::new(RefusalCode::VerifierPanicked, "the IMA list made its reader panic"))
        });
        *memory = Some(Remembered { prior, policy: *policy.digest(), verdict: verdict.clone() });
        verdict
    }

    fn appraise_afresh(&self, quoted: &Quoted, host: &Endorsed, policy: &RuntimePolicy) -> Verdict {
        let missing = || Finding::new(RefusalCode::ImaMissing, "the evidence names no IMA entries");
        let named = self.record().ima.ok_or_else(missing)?;
        let list = quoted.ima.as_ref().ok_or_else(missing)?;
        let column = HashAlg::from_id(named.column)
            .map_err(|error| Finding::new(RefusalCode::ImaMalformed, error.to_string()))?;
        #[cfg(test)]
        assert_ne!(&**list, super::kit::PANICS, "told to panic");
        let submission = Submission { from: named.from, column, list };
        let boot = quoted.boot.as_ref().ok().map(|boot| &**boot);
        let appraised = appraise_booted(&quoted.quote, boot, host.ima.as_deref(), &submission, policy);
        appraised.map(Arc::new).map_err(|refusal| Finding::new(code(&refusal), refusal.to_string()))
    }
}

/// The code of each refusal.
fn code(refusal: &ImaRefusal) -> RefusalCode {
    match refusal {
        ImaRefusal::Malformed(_) => RefusalCode::ImaMalformed,
        ImaRefusal::NotQuoted(_) => RefusalCode::ImaPcrNotQuoted,
        ImaRefusal::WrongBank { .. } => RefusalCode::ImaWrongBank,
        ImaRefusal::ListNeeded(_) => RefusalCode::ImaListNeeded,
        ImaRefusal::Base { .. } => RefusalCode::ImaBaseMoved,
        ImaRefusal::RegisterEmpty => RefusalCode::ImaRegisterEmpty,
        ImaRefusal::OtherRegister { .. } => RefusalCode::ImaOtherRegister,
        ImaRefusal::Edited { .. } => RefusalCode::ImaEntryEdited,
        ImaRefusal::Trimmed => RefusalCode::ImaTrimmed,
        ImaRefusal::Rewound { .. } => RefusalCode::ImaRewound,
        ImaRefusal::Mismatch { .. } => RefusalCode::ImaMismatch,
        ImaRefusal::PaddedSha1 => RefusalCode::ImaPaddedSha1,
        ImaRefusal::Lag { .. } => RefusalCode::ImaLag,
        ImaRefusal::Violation { .. } => RefusalCode::ImaViolation,
        ImaRefusal::BootAggregate(_) => RefusalCode::ImaBootAggregate,
        ImaRefusal::BootAggregateUnchecked => RefusalCode::ImaBootAggregateUnchecked,
        ImaRefusal::Buffer { .. } => RefusalCode::ImaBuffer,
        // That of the first file; there is one wherever files are refused.
        ImaRefusal::Files { first, .. } => match first.first().map(|one| one.objection) {
            Some(Objection::Digest) => RefusalCode::ImaFileDigest,
            Some(Objection::Signature(_)) => RefusalCode::ImaFileSignature,
            Some(Objection::TooManySignatures) => RefusalCode::ImaTooManySignatures,
            Some(Objection::Unknown) | None => RefusalCode::ImaFileUnknown,
        },
    }
}

#[cfg(test)]
#[path = "ima_tests.rs"]
mod tests;
