//! What every part of the running agent shares, and the two ways to act on a challenge.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_core::api::{
    ArtifactsAnswer, ArtifactsCall, AttestationAnswer, AttestationCall, B64, SignedRequestDocument,
};
use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;

use crate::authority::{AuthorityApi, CallError};
use crate::config::RuntimeRule;
use crate::evidence::{Evidence, EvidenceError, Logs};
use crate::identity::HostIdentity;
use crate::judge::Judge;
use crate::local::StatusDocument;
use crate::refused::Refused;
use crate::state_dir::StateDir;
use crate::tpm::TpmWorker;

/// Why a call on behalf of the host came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Call(#[from] CallError),
}

impl ExchangeError {
    /// Whether it is worth another try, with another challenge and quote.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Evidence(_) => false,
            Self::Call(error) => error.may_pass(),
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Evidence(_) => None,
            Self::Call(error) => error.retry_after(),
        }
    }
}

impl From<ExchangeError> for Refused {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Evidence(error) => error.into(),
            ExchangeError::Call(error) => error.into(),
        }
    }
}

/// The shared parts. Everything that changes is behind its own lock.
pub(crate) struct Agent<A> {
    pub(crate) api: A,
    pub(crate) tpm: TpmWorker,
    pub(crate) judge: Judge,
    pub(crate) identity: HostIdentity,
    pub(crate) state: StateDir,
    pub(crate) logs: Logs,
    /// Held from challenge to answer while entries of the IMA list are sent: what one call adds, the next must not send again.
    pub(crate) in_step: tokio::sync::Mutex<()>,
    /// Certificates between the endorsing one and a root, from the configuration.
    pub(crate) intermediates: Vec<Vec<u8>>,
    /// Certificates above that of the machine's own key.
    pub(crate) idevid_intermediates: Vec<Vec<u8>>,
    pub(crate) rules: Vec<RuntimeRule>,
    pub(crate) status: Mutex<StatusDocument>,
}

impl<A: AuthorityApi> Agent<A> {
    /// Changes what `GET /v1/status` answers.
    pub(crate) fn note(&self, change: impl FnOnce(&mut StatusDocument)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn evidence(&self, requests: &[Sha256Digest]) -> Result<(B64, Evidence), ExchangeError> {
        let offer = self.api.challenge().await?;
        let origin = self.judge.bundle().origin().as_str();
        let evidence = Evidence::collect(&self.tpm, self.logs.clone(), origin, &offer, requests).await?;
        Ok((offer.challenge, evidence))
    }

    fn learn<'a>(&self, codes: impl Iterator<Item = &'a String>) {
        codes.for_each(|code| self.logs.ima.learn(code));
    }

    /// One attestation without requests (PROTOCOL §9.3).
    pub(crate) async fn attest(&self) -> Result<AttestationAnswer, ExchangeError> {
        let _in_step = self.in_step.lock().await;
        let (challenge, evidence) = self.evidence(&[]).await?;
        let mut call = AttestationCall { challenge, evidence: evidence.document.clone() };
        let mut answer = self.api.attestation(&call).await;
        if let Some(full) = completed(&evidence, &answer) {
            call.evidence = full;
            answer = self.api.attestation(&call).await;
        }
        let answer = answer?;
        self.learn(answer.code.iter());
        Ok(answer)
    }

    /// One call for these requests, with one quote for all.
    pub(crate) async fn artifacts(
        &self,
        requests: &[&SignedRequest],
    ) -> Result<ArtifactsAnswer, ExchangeError> {
        let digests: Vec<Sha256Digest> = requests.iter().map(|request| *request.digest()).collect();
        let _in_step = self.in_step.lock().await;
        let (challenge, evidence) = self.evidence(&digests).await?;
        let documents = requests.iter().map(|request| SignedRequestDocument {
            request: B64(request.bytes().to_vec()),
            signature: B64(request.signature().to_vec()),
            consents: request.consents().iter().map(|consent| B64(consent.clone())).collect(),
        });
        let mut call =
            ArtifactsCall { challenge, requests: documents.collect(), evidence: evidence.document.clone() };
        let mut answer = self.api.artifacts(&call).await;
        if let Some(full) = completed(&evidence, &answer) {
            call.evidence = full;
            answer = self.api.artifacts(&call).await;
        }
        let answer = answer?;
        self.learn(answer.decisions.iter().filter_map(|decision| decision.code.as_ref()));
        Ok(answer)
    }
}

/// What to send again when the authority lacks members: the challenge is unspent then (PROTOCOL §9.1), so the quote still holds.
pub(crate) fn completed<T>(
    evidence: &Evidence,
    answer: &Result<T, CallError>,
) -> Option<countersign_core::api::EvidenceDocument> {
    match answer {
        Err(CallError::Refused { code: RefusalCode::EvidenceNeeded, needed, .. }) => {
            evidence.with_members(needed)
        }
        _ => None,
    }
}

/// Now, in milliseconds since the Unix epoch; 0 for a clock before it.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
