//! Attestation results signed as JWTs (PROTOCOL §17), by a key of their own and seldom enough that heads don't wait.
//!
//! Comes in: whose result, and perhaps a nonce. Goes out: a JWS that renders the newest leaf that tells of that host. The claims follow from leaf, key
//! and nonce, so that the same question gets the same JWS without another signature. Refused: hosts that are revoked, that aren't trusted any more, or
//! that gave no good evidence; logs without a JWT key; callers over their budget.
//!
//! The token's worker is shared with the heads: one signature at a time is asked of it here, within a rate for each caller and one for all.

use super::start::{StartError, open_key};
use super::{Authority, lock, read_fault};
use crate::api::problem::Refused;
use crate::custody::CustodyRecord;
use crate::decide::ENGINE;
use countersign_core::api::AttestationResultAnswer;
use countersign_core::control::HeadKey;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::ear::{AttestationResult, TYP};
use countersign_core::jws::Unsigned;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::control::{KeyRecord, Subject};
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use countersign_hsm::worker::SignerHandle;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Signed results that are kept for whoever asks the same again. Beyond, they are forgotten and cost a signature.
const MAX_KEPT: usize = 4_096;

/// The JWT key at work, and what it signed.
#[derive(Default)]
pub struct JwtDesk {
    /// Opened when it is first needed: after a start, after a rotation, or when another replica introduced it.
    key: Mutex<Option<Arc<SignerHandle>>>,
    /// One signature at a time.
    one: tokio::sync::Mutex<()>,
    /// By digest of what was signed.
    kept: Mutex<HashMap<Sha256Digest, String>>,
}

impl JwtDesk {
    /// The key that was used last, for reading its custody back.
    pub(super) fn key(&self) -> Option<Arc<SignerHandle>> {
        lock(&self.key).clone()
    }

    /// Lets go of a key whose custody can't be shown.
    pub(super) fn forget(&self) {
        *lock(&self.key) = None;
    }
}

/// A result that lacks its signature.
struct Drafted {
    result: AttestationResult,
    key: HeadKey,
    unsigned: Unsigned,
}

impl Drafted {
    fn name(&self) -> Sha256Digest {
        sha256(self.unsigned.message())
    }

    fn answer(&self, jwt: String) -> AttestationResultAnswer {
        let expires_ms = self.result.expires_secs().saturating_mul(1_000);
        AttestationResultAnswer { jwt, index: self.result.index, expires_ms }
    }
}

impl Authority {
    /// The newest attestation result of a host as an EAR, for the caller with this key, which has to be the host's if the result is its `own`.
    ///
    /// # Errors
    /// `host-unknown`, `host-revoked`, `result-absent`, `result-expired`, `jwt-key-absent`, `rate-limited`; faults of store and signer, and what stops
    /// everything else too.
    pub async fn attestation_result(
        self: &Arc<Self>,
        host: HostId,
        nonce: Option<Vec<u8>>,
        caller: Sha256Digest,
        own: bool,
    ) -> Result<AttestationResultAnswer, Refused> {
        self.admission()?;
        let worker = Arc::clone(self);
        let key = own.then_some(caller);
        let drafted = self.run(move || worker.draft_result(&host, key, nonce.as_deref())).await?;
        let name = drafted.name();
        if let Some(jwt) = lock(&self.jwts.kept).get(&name) {
            return Ok(drafted.answer(jwt.clone()));
        }
        let _one = self.jwts.one.lock().await;
        // Who waited for the same finds what the one before had signed, and pays nothing for it.
        let kept = lock(&self.jwts.kept).get(&name).cloned();
        let jwt = match kept {
            Some(jwt) => jwt,
            None => {
                // A caller that is over its own rate takes nothing from the others.
                let now = Instant::now();
                if !(self.budgets.caller_jwts.take(caller, now) && self.budgets.jwts.take((), now)) {
                    return Err(RefusalCode::RateLimited.into());
                }
                self.sign_result(&drafted, name).await?
            }
        };
        let answer = drafted.answer(jwt);
        // What was revoked while the token signed isn't handed out.
        self.require_not_revoked(&host)?;
        Ok(answer)
    }

    fn require_not_revoked(&self, host: &HostId) -> Result<(), Refused> {
        if self.control().is_revoked(&Subject::Host(*host)) {
            return Err(RefusalCode::HostRevoked.into());
        }
        Ok(())
    }

    fn draft_result(
        &self,
        host: &HostId,
        own: Option<Sha256Digest>,
        nonce: Option<&[u8]>,
    ) -> Result<Drafted, Refused> {
        self.require_not_revoked(host)?;
        let control = self.control();
        let key = control.jwt_key().ok_or(RefusalCode::JwtKeyAbsent)?.clone();
        let row = self.reader.host(host).map_err(read_fault)?.ok_or(RefusalCode::HostUnknown)?;
        // Invariant 9: what is remembered of keys may be older than the host's row.
        if own.is_some_and(|key| key != row.enrolment.host_key.thumbprint()) {
            return Err(RefusalCode::Unauthenticated.into());
        }
        let damaged = || Refused::from(RefusalCode::LogUnavailable);
        let bytes = self.reader.leaf(row.state_index).map_err(read_fault)?.ok_or_else(damaged)?;
        let result = AttestationResult::of_leaf(&bytes).map_err(|_| damaged())?;
        // Of two leaves of different boots the older one changes nothing, also if it came later: what is rendered is what the host's state is.
        let (state, told) = (&row.state, |result: &AttestationResult| (result.tier, result.trusted_until_ms));
        let stands = |result: &AttestationResult| {
            result.host == *host
                && state.evidence == Some(result.evidence)
                && told(result) == (state.tier, state.trusted_until_ms)
        };
        let result = result.filter(stands).ok_or(RefusalCode::ResultAbsent)?;
        // Invariant 8. The time is never before the newest head's, so a clock that was set back prolongs nothing.
        if result.expires_secs().saturating_mul(1_000) <= self.decision_time_ms() {
            return Err(RefusalCode::ResultExpired.into());
        }
        // Invariant 2: only what is under a signed head is rendered.
        if result.index >= self.signed_head()?.size() {
            return Err(RefusalCode::SignerUnavailable.into());
        }
        let claims = result.claims(self.origin().as_str(), ENGINE, nonce).map_err(|_| damaged())?;
        let unsigned = Unsigned::new(TYP, &key.key, &claims).map_err(|_| RefusalCode::Internal)?;
        Ok(Drafted { result, key, unsigned })
    }

    /// No worker thread waits for the token: what hangs there delays nobody but who asked.
    async fn sign_result(self: &Arc<Self>, drafted: &Drafted, name: Sha256Digest) -> Result<String, Refused> {
        let unavailable = |fault: &dyn std::fmt::Display| {
            tracing::warn!(key = %drafted.key.key.thumbprint(), %fault, "no signature over an attestation result");
            Refused::from(RefusalCode::SignerUnavailable)
        };
        let (worker, key) = (Arc::clone(self), drafted.key.clone());
        let opened = self.run(move || Ok(worker.jwt_signer(&key).map_err(|fault| fault.to_string()))).await?;
        let signer = opened.map_err(|fault| unavailable(&fault))?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let message = drafted.unsigned.message().to_vec();
        // Whoever asked may have gone; then nobody wants the answer.
        signer
            .submit(message, move |result| drop(reply.send(result)))
            .map_err(|fault| unavailable(&fault))?;
        let signature = match tokio::time::timeout(signer.limits().deadline, answer).await {
            Ok(Ok(result)) => result.map_err(|fault| unavailable(&fault))?,
            Ok(Err(_)) | Err(_) => return Err(unavailable(&"the token didn't answer in time")),
        };
        // Verified before release, whatever the device says.
        let jwt =
            drafted.unsigned.clone().signed(signature.as_bytes()).map_err(|fault| unavailable(&fault))?;
        let mut kept = lock(&self.jwts.kept);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(name, jwt.clone());
        drop(kept);
        Ok(jwt)
    }

    /// The worker of this key; where it lives stands in the custody record of its introduction.
    fn jwt_signer(&self, key: &HeadKey) -> Result<Arc<SignerHandle>, StartError> {
        let mut held = lock(&self.jwts.key);
        if let Some(handle) = held.as_ref().filter(|handle| *handle.public_key() == key.key) {
            return Ok(Arc::clone(handle));
        }
        let unlocated = || StartError::Unlocated(key.key.thumbprint());
        let leaves = self.reader.control_leaves(key.introduced.saturating_sub(1), 1)?;
        let (_, bytes) = leaves.first().ok_or_else(unlocated)?;
        let introduction = KeyRecord::parse(&Leaf::parse(bytes)?.body)?.introduction.ok_or_else(unlocated)?;
        let record = self.reader.blob(&introduction.custody)?.ok_or_else(unlocated)?;
        let handle = open_key(&self.key_store, &CustodyRecord::label_of(&record)?, "jwt-signer")?;
        if *handle.public_key() != key.key {
            return Err(unlocated());
        }
        let handle = Arc::new(handle);
        *held = Some(Arc::clone(&handle));
        Ok(handle)
    }

    /// Opens the JWT key at the start, so that a token without it is noticed then. It doesn't keep the authority from serving.
    pub(super) fn open_jwt_key(&self) {
        if let Some(key) = self.control().jwt_key()
            && let Err(fault) = self.jwt_signer(key)
        {
            tracing::error!(key = %key.key.thumbprint(), %fault, "the JWT key can't be used");
        }
    }
}
