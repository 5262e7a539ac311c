//! Enrolment and its renewal (PROTOCOL §12), and the loop that renews in time.
//!
//! Comes in: the device's keys and perhaps a join token. Goes out: a [`Credential`] that was checked against the pinned trust bundle and stored.
//! Refused: an answer for another host or key, certificates of another CA, a receipt that doesn't show this enrolment in the log.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::api::{
    B64, Enrolled, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, IdevidBegin, IdevidFinish,
};
use countersign_core::refusal::{Blame, RefusalCode};
use countersign_core::request::{activation_data, device_certification_data, device_possession};
use data_encoding::HEXLOWER;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::agent::{Agent, now_ms};
use crate::authority::{AuthorityApi, CallError};
use crate::backoff::{Backoff, jitter};
use crate::device::Endorsed;
use crate::identity::{Credential, IdentityError};
use crate::judge::ReceiptError;
use crate::state_dir::StateError;
use crate::tpm::TpmError;

const ENROLMENT_FILE: &str = "enrolment.json";
/// Between tries of a renewal.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(600);
/// Between tries of the first enrolment at the start of the daemon.
const START_MOST: Duration = Duration::from_secs(30);
/// The longest sleep before the clock is read again, so that a stepped clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why an enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The authority says no, or can't be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The TPM can't be used, or can't open the credential.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// A member of an answer isn't of the form of PROTOCOL §12.
    #[error("the authority's answer isn't of the protocol: {0}")]
    Answer(&'static str),
    /// The credential holds no secret of 32 bytes.
    #[error("the activated secret isn't 32 bytes")]
    Secret,
    /// The certificates can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The receipt doesn't show the enrolment.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The result can't be stored.
    #[error(transparent)]
    State(#[from] StateError),
}

impl EnrolError {
    /// Whether another try may succeed without anybody's help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            // A pending enrolment that expired, was lost or is of another version of the authority is begun anew.
            Self::Call(CallError::Refused { code: RefusalCode::EnrolmentUnknown, .. }) => true,
            Self::Call(error) | Self::Receipt(ReceiptError::Call(error)) => error.may_pass(),
            Self::Tpm(error) => {
                matches!(error, TpmError::Busy | TpmError::TimedOut)
                    || matches!(error, TpmError::Device(crate::device::DeviceFault::Unusable(_)))
            }
            _ => false,
        }
    }

    /// The authority's code, if it was the authority that said no.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalCode> {
        match self {
            Self::Call(error) => error.code().filter(|code| code.blame() != Blame::Fault),
            _ => None,
        }
    }
}

/// What is kept of an enrolment.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentDocument {
    host: String,
    certificates: Vec<B64>,
    receipt: String,
}

impl<A: AuthorityApi> Agent<A> {
    /// The stored credential, if there is one for these keys that is still valid; the connection shows it from now on.
    pub(crate) fn stored_credential(&self) -> Result<Option<Credential>, EnrolError> {
        let Some(document) = self.state.read::<EnrolmentDocument>(ENROLMENT_FILE)? else { return Ok(None) };
        let certificates = document.certificates.into_iter().map(|der| der.0).collect();
        match Credential::check(certificates, &self.identity, self.judge.bundle(), UnixTime::now()) {
            Ok(credential) => {
                self.take(&credential)?;
                Ok(Some(credential))
            }
            // Expired, or of another TPM or authority: enrolling again is what helps.
            Err(error) => {
                tracing::warn!(error = %error, "the stored certificate can't be used");
                Ok(None)
            }
        }
    }

    fn take(&self, credential: &Credential) -> Result<(), CallError> {
        self.api.present(&credential.certificates)?;
        self.note(|status| status.certificate_expires_ms = credential.not_after_ms);
        Ok(())
    }

    /// Runs the whole exchange once and keeps its result.
    pub(crate) async fn enrol(&self, token: Option<&str>) -> Result<Credential, EnrolError> {
        let begin = self.begin(token);
        let offer = self.api.begin_enrolment(&begin).await?;
        let finish = self.activate(&offer).await?;
        let enrolled = self.api.finish_enrolment(&offer.enrolment, &finish).await?;
        self.accept(enrolled).await
    }

    /// Step 1: who the host is, and what vouches for it.
    fn begin(&self, token: Option<&str>) -> EnrolmentBegin {
        let keys = &self.identity.keys;
        let above = self.intermediates.iter().cloned().map(B64);
        let mut begin = EnrolmentBegin {
            token: token.map(str::to_owned),
            ek_certificate: None,
            ek_intermediates: Vec::new(),
            ek_public: None,
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: B64(keys.ak_public.clone()),
            host_key_public: B64(keys.host_key_public.clone()),
            idevid: self.idevid(),
        };
        match &keys.endorsed {
            Endorsed::ByEk { public, certificate } => {
                begin.ek_public = Some(B64(public.clone()));
                begin.ek_certificate = certificate.clone().map(B64);
                begin.ek_intermediates = above.collect();
            }
            Endorsed::ByIak { certificates } => {
                let mut certificates = certificates.iter().cloned().map(B64);
                begin.ak_certificate = certificates.next();
                begin.ak_intermediates = certificates.chain(above).collect();
            }
        }
        begin
    }

    /// Which machine it is, if it has a key of its own for that.
    fn idevid(&self) -> Option<IdevidBegin> {
        let key = self.identity.keys.idevid.as_ref()?;
        let mut certificates = key.certificates.iter().cloned().map(B64);
        let certificate = certificates.next()?;
        let above = self.idevid_intermediates.iter().cloned().map(B64);
        let intermediates = certificates.chain(above).collect();
        Some(IdevidBegin { certificate, intermediates, public: B64(key.public.clone()) })
    }

    /// Step 2: what only the TPM that holds EK, AK and host key can answer.
    async fn activate(&self, offer: &EnrolmentOffer) -> Result<EnrolmentFinish, EnrolError> {
        let id = HEXLOWER.decode(offer.enrolment.as_bytes()).ok();
        let id: [u8; 16] = id
            .and_then(|id| id.try_into().ok())
            .ok_or(EnrolError::Answer("the enrolment's identifier isn't 16 bytes"))?;
        let (id_object, encrypted) = (offer.id_object.0.clone(), offer.encrypted_secret.0.clone());
        let secret = match (&self.identity.keys.endorsed, &offer.secret) {
            (Endorsed::ByEk { .. }, None) => {
                self.tpm.call(move |device| device.activate(&id_object, &encrypted)).await?
            }
            // PROTOCOL §12: there is nothing to decrypt, the certification alone shows the key.
            (Endorsed::ByIak { .. }, Some(secret)) if id_object.is_empty() && encrypted.is_empty() => {
                Zeroizing::new(secret.0.clone())
            }
            _ => return Err(EnrolError::Answer("the offer isn't one for the key that was named")),
        };
        let secret: Zeroizing<[u8; 32]> =
            Zeroizing::new(secret.as_slice().try_into().map_err(|_| EnrolError::Secret)?);
        let origin = self.judge.bundle().origin().as_str();
        let qualifying = activation_data(origin, &id, &secret);
        let certified = self.tpm.call(move |device| device.certify_host_key(&qualifying)).await?;
        let idevid = match &self.identity.keys.idevid {
            Some(_) => Some(self.show_idevid(origin, &id, &secret).await?),
            None => None,
        };
        Ok(EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid,
        })
    }

    /// That the machine's own key is in this TPM, by the attestation key, and that it can be used, by itself.
    async fn show_idevid(
        &self,
        origin: &str,
        id: &[u8; 16],
        secret: &[u8; 32],
    ) -> Result<IdevidFinish, EnrolError> {
        let qualifying = device_certification_data(origin, id, secret);
        let message = Zeroizing::new(device_possession(origin, id, secret));
        let shown = self.tpm.call(move |device| {
            Ok((device.certify_idevid(&qualifying)?, device.sign_with_idevid(&message)?))
        });
        let (certified, possession) = shown.await?;
        Ok(IdevidFinish {
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            possession: B64(possession),
        })
    }

    /// Step 3: nothing of the answer is used before it was checked against the trust bundle.
    async fn accept(&self, enrolled: Enrolled) -> Result<Credential, EnrolError> {
        if enrolled.host != self.identity.host.to_hex() {
            return Err(EnrolError::Answer("it is for another host"));
        }
        let certificates = enrolled.certificates.iter().map(|der| der.0.clone()).collect();
        let credential =
            Credential::check(certificates, &self.identity, self.judge.bundle(), UnixTime::now())?;
        // Judging the receipt may need the control chain, which only a host may pull.
        self.take(&credential)?;
        self.judge.enrolment(&self.api, &enrolled.receipt, &self.identity).await?;
        let document = EnrolmentDocument {
            host: enrolled.host,
            certificates: enrolled.certificates,
            receipt: enrolled.receipt,
        };
        // Commit point: a crash before it loses a certificate, not the enrolment; the same keys get another without a token.
        self.state.write(ENROLMENT_FILE, &document)?;
        tracing::info!(host = %self.identity.host, expires_ms = credential.not_after_ms, "enrolled");
        Ok(credential)
    }

    /// Enrols at the start of the daemon: waits out faults, ends at a refusal.
    pub(crate) async fn enrol_at_start(&self, token: Option<&str>) -> Result<Credential, EnrolError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), START_MOST);
        loop {
            match self.enrol(token).await {
                Err(error) if error.may_pass() => {
                    let wait = backoff.step(retry_after(&error));
                    tracing::warn!(error = %error, wait_ms = wait.as_millis(), "not enrolled yet");
                    tokio::time::sleep(wait).await;
                }
                result => return result,
            }
        }
    }
}

fn retry_after(error: &EnrolError) -> Option<Duration> {
    match error {
        EnrolError::Call(error) => error.retry_after(),
        _ => None,
    }
}

/// The clock that renewal goes by: a port, so that tests can drive days.
pub(crate) trait RenewalClock: Send + Sync {
    /// Now, ms since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Waits, or lets the driven time pass.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// The system's clock.
pub(crate) struct SystemClock;

impl RenewalClock for SystemClock {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }
}

/// Renews before half of each certificate's lifetime is over. Returns when the authority refuses: what a refusal means is for people, and asking
/// again by itself would only hide it.
pub(crate) async fn renew<A: AuthorityApi>(
    agent: Arc<Agent<A>>,
    mut credential: Credential,
    clock: impl RenewalClock,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut due = credential.renew_at_ms(fraction());
    loop {
        let left = Duration::from_millis(due.saturating_sub(clock.now_ms()));
        if !left.is_zero() {
            clock.sleep(left.min(LONGEST_SLEEP)).await;
            continue;
        }
        match agent.enrol(None).await {
            Ok(renewed) => {
                credential = renewed;
                due = credential.renew_at_ms(fraction());
                backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
                agent.note(|status| status.renewal = None);
            }
            Err(error) if error.refusal().is_some_and(is_final) => {
                let code = error.refusal().unwrap_or(RefusalCode::Forbidden);
                agent.note(|status| status.renewal = Some(code.as_str().to_owned()));
                tracing::error!(
                    code = code.as_str(), expires_ms = credential.not_after_ms, error = %error,
                    "the authority refuses to renew this host's certificate; renewal has stopped until the agent is started again"
                );
                return;
            }
            Err(error) => {
                let wait = backoff.step(retry_after(&error));
                tracing::warn!(error = %error, wait_ms = wait.as_millis(), "the certificate isn't renewed yet");
                clock.sleep(wait).await;
            }
        }
    }
}

/// Refusals that don't go away by asking again.
fn is_final(code: RefusalCode) -> bool {
    !matches!(code, RefusalCode::RateLimited | RefusalCode::EnrolmentUnknown)
}

fn fraction() -> f64 {
    jitter(Duration::from_secs(1)).as_secs_f64()
}
