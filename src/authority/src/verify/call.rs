//! One call: the checks of PROTOCOL §9.4 in their order, up to the evidence.

use super::boot_log::{BootLogCache, BootLogSource, judge_boot_log};
use super::quote::judge_quote;
use super::{Endorsed, Evidence, Judged, contained};
use crate::challenge::ChallengeKeys;
use countersign_core::challenge::{ChallengeBody, OpenedChallenge};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::Settings;
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::record::{EvidenceRecord, ImaEntries};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{MAX_REQUESTS, RequestError, SignedRequest};
use countersign_tpm::public::Public;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest TPMS_ATTEST taken: a quote over every bank stays below 400 bytes.
const MAX_ATTEST_LEN: usize = 2_048;
/// Longest TPMT_SIGNATURE taken: RSA-4096 needs 518 bytes.
const MAX_SIGNATURE_LEN: usize = 1_024;
/// Longest PCR value: SHA-512.
const MAX_PCR_LEN: usize = 64;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Exact request bytes.
    pub request: Vec<u8>,
    /// Holder signature.
    pub signature: Vec<u8>,
    /// Consents of the parents' holders.
    pub consents: Vec<Vec<u8>>,
}

/// A call as it came, decoded from its transport and nothing more.
#[derive(Clone, Debug)]
pub struct Call {
    /// Exact challenge bytes.
    pub challenge: Vec<u8>,
    /// Requests in call order; none for an attestation.
    pub requests: Vec<Asked>,
    /// Exact TPMS_ATTEST bytes.
    pub attest: Vec<u8>,
    /// Exact TPMT_SIGNATURE bytes.
    pub signature: Vec<u8>,
    /// TPM_ALG_ID of the bank that the values are said to be of.
    pub bank: u16,
    /// PCR values as sent.
    pub pcrs: Vec<(u32, Vec<u8>)>,
    /// Digest of the boot log.
    pub boot_log: Option<Sha256Digest>,
    /// New entries of the IMA list.
    pub ima: Option<ImaEntries>,
}

/// Why a call isn't answered by a decision: nothing yet shows that the host's TPM speaks.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Not a challenge of ours.
    #[error("the challenge isn't one of this authority")]
    ChallengeInvalid,
    /// Another host's challenge.
    #[error("the challenge was made for another host")]
    ChallengeHostMismatch,
    /// A request out of form.
    #[error("request {at}: {source}")]
    Request {
        /// Position in the call.
        at: usize,
        /// What is wrong.
        source: RequestError,
    },
    /// More requests than a call carries, or one identifier twice.
    #[error("the call carries too many requests, or one identifier twice")]
    Requests,
    /// A request of another host, or a runtime that isn't the caller's.
    #[error("request {at} names another host or trust domain")]
    RequestHostMismatch {
        /// Position in the call.
        at: usize,
    },
    /// The quote's bytes aren't what a TPM makes.
    #[error("the quote is malformed: {0}")]
    QuoteMalformed(String),
    /// Not signed by the enrolled AK.
    #[error("the quote isn't signed by the enrolled AK: {0}")]
    QuoteSignatureInvalid(String),
    /// Signed, and not a quote.
    #[error("the AK signed something that isn't a quote")]
    QuoteNotAQuote,
    /// Members that have to be sent inline with the same challenge.
    #[error("members aren't known here")]
    EvidenceNeeded(Vec<Sha256Digest>),
    /// The store of members can't be read.
    #[error("members can't be read")]
    Source(#[from] super::SourceFault),
    /// The settings in force don't describe a quote.
    #[error("the active settings don't describe a quote")]
    Settings,
    /// What was sent made its reader panic. Nothing was decided.
    #[error("a panic was contained")]
    Panicked,
}

impl CallError {
    /// The stable code of the answer.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::ChallengeInvalid => RefusalCode::ChallengeInvalid,
            Self::ChallengeHostMismatch => RefusalCode::ChallengeHostMismatch,
            Self::Request { source: RequestError::Signature, .. } => RefusalCode::HolderSignatureInvalid,
            Self::Request { .. } | Self::Requests => RefusalCode::RequestMalformed,
            Self::RequestHostMismatch { .. } => RefusalCode::RequestHostMismatch,
            Self::QuoteMalformed(_) => RefusalCode::QuoteMalformed,
            Self::QuoteSignatureInvalid(_) => RefusalCode::QuoteSignatureInvalid,
            Self::QuoteNotAQuote => RefusalCode::QuoteNotAQuote,
            Self::EvidenceNeeded(_) => RefusalCode::EvidenceNeeded,
            Self::Source(_) => RefusalCode::LogUnavailable,
            Self::Settings => RefusalCode::Internal,
            Self::Panicked => RefusalCode::VerifierPanicked,
        }
    }

    /// Whether operators of the host want to know: not what is asked for once more, what a workload sent, and what is our own fault.
    #[must_use]
    pub const fn tells_of_host(&self) -> bool {
        match self {
            Self::ChallengeInvalid
            | Self::ChallengeHostMismatch
            | Self::QuoteMalformed(_)
            | Self::QuoteSignatureInvalid(_)
            | Self::QuoteNotAQuote
            | Self::Panicked => true,
            Self::Request { .. }
            | Self::Requests
            | Self::RequestHostMismatch { .. }
            | Self::EvidenceNeeded(_)
            | Self::Source(_)
            | Self::Settings => false,
        }
    }
}

/// A call whose TPM was heard: requests with proven holders, and what the evidence is worth. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedCall {
    challenge: OpenedChallenge,
    requests: Vec<SignedRequest>,
    judged: Judged,
}

impl VerifiedCall {
    /// The challenge, opened under a key of this authority.
    #[must_use]
    pub const fn challenge(&self) -> &OpenedChallenge {
        &self.challenge
    }

    /// The requests in call order.
    #[must_use]
    pub fn requests(&self) -> &[SignedRequest] {
        &self.requests
    }

    /// What the evidence is worth: input of the decision.
    #[must_use]
    pub const fn judged(&self) -> &Judged {
        &self.judged
    }
}

/// What every verification of this authority shares.
#[derive(Debug)]
pub struct Verifier {
    origin: Origin,
    trust_domain: TrustDomain,
    boot_logs: BootLogCache,
}

impl Verifier {
    /// A verifier for one log; `boot_logs` is shared by its threads.
    #[must_use]
    pub const fn new(origin: Origin, trust_domain: TrustDomain, boot_logs: BootLogCache) -> Self {
        Self { origin, trust_domain, boot_logs }
    }

    /// Verifies one call. A panic of any parser ends here, as a fault of ours with nothing decided.
    pub fn verify(
        &self,
        endorsed: &Endorsed,
        call: Call,
        settings: &Settings,
        keys: &ChallengeKeys,
        source: &dyn BootLogSource,
    ) -> Result<VerifiedCall, CallError> {
        contained(|| self.verify_unguarded(endorsed, call, settings, keys, source))
            .unwrap_or(Err(CallError::Panicked))
    }

    fn verify_unguarded(
        &self,
        endorsed: &Endorsed,
        call: Call,
        settings: &Settings,
        keys: &ChallengeKeys,
        source: &dyn BootLogSource,
    ) -> Result<VerifiedCall, CallError> {
        // PROTOCOL §4.2: MAC, then host. Expiry and standing are decisions.
        let challenge = keys.open(&call.challenge).map_err(|_| CallError::ChallengeInvalid)?;
        if challenge.body().host != endorsed.host {
            return Err(CallError::ChallengeHostMismatch);
        }
        let requests = verify_requests(call.requests, &endorsed.host, &self.trust_domain)?;
        let record = EvidenceRecord {
            challenge: call.challenge,
            attest: call.attest,
            signature: call.signature,
            bank: call.bank,
            pcrs: call.pcrs,
            boot_log: call.boot_log,
            ima: call.ima,
            requests: requests.iter().map(|request| *request.digest()).collect(),
        };
        let judged = judge(
            &Subject {
                origin: &self.origin,
                host: endorsed.host,
                ak: &endorsed.ak,
                settings,
                challenge: *challenge.body(),
                cache: &self.boot_logs,
                source,
            },
            record,
        )?;
        Ok(VerifiedCall { challenge, requests, judged })
    }
}

fn verify_requests(
    requests: Vec<Asked>,
    host: &HostId,
    trust_domain: &TrustDomain,
) -> Result<Vec<SignedRequest>, CallError> {
    if requests.len() > MAX_REQUESTS {
        return Err(CallError::Requests);
    }
    let mut ids = BTreeSet::new();
    let mut verified = Vec::with_capacity(requests.len());
    for (at, asked) in requests.into_iter().enumerate() {
        let signed = SignedRequest::verify(asked.request, asked.signature, asked.consents)
            .map_err(|source| CallError::Request { at, source })?;
        let request = signed.request();
        // PROTOCOL §2: a host can name only itself and its own runtimes.
        if request.host != *host
            || request.runtime.host() != host
            || request.runtime.trust_domain() != trust_domain
        {
            return Err(CallError::RequestHostMismatch { at });
        }
        if !ids.insert(request.id.clone()) {
            return Err(CallError::Requests);
        }
        verified.push(signed);
    }
    Ok(verified)
}

/// Judges evidence from the log: its challenge's MAC was checked when it was logged, and auditors hold no MAC key.
pub(crate) fn judge_logged(
    origin: &Origin,
    host: HostId,
    ak: &Arc<Public>,
    settings: &Settings,
    record: EvidenceRecord,
    boot_logs: (&BootLogCache, &dyn BootLogSource),
) -> Result<Judged, CallError> {
    let challenge =
        ChallengeBody::read_unverified(&record.challenge).map_err(|_| CallError::ChallengeInvalid)?;
    if challenge.host != host {
        return Err(CallError::ChallengeHostMismatch);
    }
    let (cache, source) = boot_logs;
    contained(|| judge(&Subject { origin, host, ak, settings, challenge, cache, source }, record))
        .unwrap_or(Err(CallError::Panicked))
}

/// What evidence is judged against.
pub(super) struct Subject<'a> {
    pub(super) origin: &'a Origin,
    pub(super) host: HostId,
    pub(super) ak: &'a Arc<Public>,
    pub(super) settings: &'a Settings,
    pub(super) challenge: ChallengeBody,
    pub(super) cache: &'a BootLogCache,
    pub(super) source: &'a dyn BootLogSource,
}

fn judge(subject: &Subject<'_>, record: EvidenceRecord) -> Result<Judged, CallError> {
    let too_long = record.attest.len() > MAX_ATTEST_LEN
        || record.signature.len() > MAX_SIGNATURE_LEN
        || record.pcrs.len() > countersign_core::record::MAX_PCRS
        || record.pcrs.iter().any(|(_, value)| value.len() > MAX_PCR_LEN);
    if too_long {
        return Err(CallError::QuoteMalformed("a member is longer than any TPM makes it".to_owned()));
    }
    let evidence = match judge_quote(subject, &record)? {
        Err(finding) => Evidence::Refused(finding),
        Ok(quote) => Evidence::Quoted(Box::new(judge_boot_log(subject, &record, quote)?)),
    };
    let record_bytes: Arc<[u8]> = record.encode().into();
    Ok(Judged {
        host: subject.host,
        ak: Arc::clone(subject.ak),
        settings: subject.settings.clone(),
        challenge: subject.challenge,
        challenge_digest: sha256(&record.challenge),
        record_digest: sha256(&record_bytes),
        record,
        record_bytes,
        evidence,
        ima: super::ima::Memory::default(),
    })
}
