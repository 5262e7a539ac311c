//! Enrolment (PROTOCOL §12): a TPM shows that AK and EK are its own, and its host key gets a certificate.
//!
//! Comes in: public areas and an EK certificate, then the secret that only the TPM could decrypt. Goes out: a credential, then a certificate.
//! Beside that it may show which machine it is (IDevID, `idevid.rs`).
//! Where a certificate of the AK itself (IAK) says that it lives in a TPM, there is no EK and nothing to decrypt: the secret is only a nonce.
//! Refused, each with its code: a TPM that no trusted manufacturer certified and nobody allow-listed, keys with other attributes than their
//! role demands, weak keys, old firmware, a key that belongs to another host, other keys of an enrolled TPM without a token, a join token that
//! is unknown or used, a wrong secret, a certification of another key.
//!
//! A begun enrolment dies on its first use, before anything is compared, so that nobody gets a second guess. Its end judges everything anew, by what
//! is trusted and revoked then; the beginning judges only so that nobody shows keys in vain.

use super::artifacts::{read_fault, receipt_text};
use super::judgement::{HostKeys, Judgement, refusing, without_idle_issuers};
use super::pending::Pending;
use super::problem::Refused;
use super::{Call, faulted, idevid, json};
use crate::sequence::{Append, Entry, Guard, Outcome, Spend};
use crate::serve::Authority;
use crate::stale::Redecisions;
use crate::store::PendingEnrolment;
use axum::response::Response;
use countersign_core::activation::{ActivationRecord, DeviceShown, Session};
use countersign_core::api::{B64, Enrolled, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::leaf::host::{Admission, Enrolment, HostKeyKind};
use countersign_core::leaf::record::join_token_digest;
use countersign_core::name::Origin;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::activation_data;
use countersign_tpm::certify::verify_certification;
use countersign_tpm::credential::make_credential;
use countersign_tpm::public::Public;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Longest join token taken.
const MAX_TOKEN_LEN: usize = 128;

/// `POST /v1/enrolments`.
pub(super) async fn begin(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    if !authority.budgets().begun.take(call.source, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    let worker = Arc::clone(&authority);
    let (pending, claim, offer) = authority
        .run(move || {
            let document: EnrolmentBegin = call.document()?;
            offer(&worker, document)
        })
        .await?;
    authority.put_pending_enrolment(pending, claim).await?;
    json(&offer)
}

fn offer(
    authority: &Authority,
    sent: EnrolmentBegin,
) -> Result<(PendingEnrolment, Sha256Digest, EnrolmentOffer), Refused> {
    let mut sent = without_idle_issuers(sent);
    let keys = refusing(|| HostKeys::check(&sent))?;
    let judged = Judgement::of(&authority.endorsements(), &keys, &sent, authority.now_ms() / 1_000)?;
    let token = match sent.token.take() {
        Some(token) if token.len() > MAX_TOKEN_LEN => return Err(RefusalCode::JoinTokenInvalid.into()),
        Some(token) => Some(join_token_digest(&token)),
        None => None,
    };
    // The same judgement as at the end, so that a host learns early what it would be refused for.
    Standing::of(authority, &keys, &judged, token)?;
    let no_randomness = |_| Refused::from(RefusalCode::Internal);
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut_slice()).map_err(no_randomness)?;
    let (id_object, encrypted_secret, shown) = match &keys.ek {
        Some(ek) => {
            let (id_object, encrypted_secret) = refusing(|| sealed(ek, &keys.ak, &secret))?;
            (id_object, encrypted_secret, None)
        }
        // The issuer of the AK's certificate saw that the AK is in a TPM: nothing has to be shown by decrypting.
        None => (Vec::new(), Vec::new(), Some(B64(secret.to_vec()))),
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(no_randomness)?;
    let lifetime = authority.config().limits.enrolment_secs.saturating_mul(1_000);
    let expires_ms = authority.now_ms().saturating_add(lifetime);
    let offer = EnrolmentOffer {
        enrolment: data_encoding::HEXLOWER.encode(&id),
        id_object: B64(id_object),
        encrypted_secret: B64(encrypted_secret),
        secret: shown,
        expires_ms,
    };
    // One of each host and token is pending: whoever has one token, or none, can't fill the table.
    let named = token.as_ref().map_or(&[][..], |token| token.as_bytes());
    let claim = sha256(&[keys.host.as_bytes().as_slice(), named].concat());
    let record = Pending { sent, token, secret }.encode();
    let record = record.map_err(|fault| faulted(&fault, RefusalCode::Internal))?;
    Ok((PendingEnrolment { id, expires_ms, record }, claim, offer))
}

/// The secret so that only the TPM that holds both keys gets it: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
fn sealed(ek: &Public, ak: &Public, secret: &[u8; 32]) -> Result<(Vec<u8>, Vec<u8>), Refused> {
    let mut failed = false;
    let credential = make_credential(ek, ak.name().as_bytes(), secret, &mut |buffer| {
        failed |= getrandom::fill(buffer).is_err();
    });
    if failed {
        return Err(RefusalCode::Internal.into());
    }
    let credential =
        credential.map_err(|fault| Refused::new(RefusalCode::EkAttributesInvalid, fault.to_string()))?;
    Ok((credential.id_object, credential.encrypted_secret))
}

/// `POST /v1/enrolments/{id}`.
pub(super) async fn finish(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    // Each finish is a write on the thread that everybody's leaves pass.
    if !authority.budgets().finished.take(call.source, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    let document: EnrolmentFinish = call.document()?;
    let id = data_encoding::HEXLOWER.decode(call.parameter.as_bytes()).ok();
    let id: [u8; 16] = id
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Refused::from(RefusalCode::EnrolmentUnknown))?;
    // Deleted durably before anything is compared: one guess, one enrolment.
    let taken = authority.take_pending_enrolment(id).await?;
    let record = taken.ok_or_else(|| Refused::from(RefusalCode::EnrolmentUnknown))?;
    let worker = Arc::clone(&authority);
    let proven = authority.run(move || Proven::check(worker.origin(), id, &record, &document)).await?;
    let proven = Arc::new(proven);
    let mut redecisions = Redecisions::default();
    loop {
        let (worker, again) = (Arc::clone(&authority), Arc::clone(&proven));
        let append = authority.run(move || again.append(&worker)).await?;
        match authority.append(append).await? {
            Outcome::Appended(receipts) => {
                let leaf = receipts.leaves.first().ok_or(RefusalCode::Internal)?;
                let receipt = receipt_text(leaf, &receipts.head);
                // The leaf is under a signed head: only now is there a certificate. If the CA can't sign, the host comes again; it is known.
                let days = authority.config().limits.host_certificate_days;
                let certificates = authority
                    .certify_client(proven.keys.host.to_hex(), proven.keys.verifying.clone(), days)
                    .await?;
                return json(&Enrolled { host: proven.keys.host.to_hex(), certificates, receipt });
            }
            Outcome::Stale => {}
            Outcome::Spent(Spend::JoinToken(_)) => return Err(RefusalCode::JoinTokenInvalid.into()),
            Outcome::Spent(_) => return Err(RefusalCode::EnrolmentUnknown.into()),
            Outcome::Existing(_) | Outcome::ChallengeSpent | Outcome::BlobsGone(_) | Outcome::Refused(_) => {
                return Err(RefusalCode::Internal.into());
            }
        }
        redecisions.once_more()?;
    }
}

/// A host that proved its keys, before it is known by what right it enrols.
struct Proven {
    id: [u8; 16],
    keys: HostKeys,
    pending: Pending,
    activation: Vec<u8>,
    firmware: u64,
}

impl Proven {
    fn check(
        origin: &Origin,
        id: [u8; 16],
        record: &PendingEnrolment,
        document: &EnrolmentFinish,
    ) -> Result<Self, Refused> {
        // A row that can't be read is of another version, or was damaged. It is gone for good: the host begins anew.
        let pending =
            Pending::parse(&record.record).map_err(|fault| faulted(&fault, RefusalCode::EnrolmentUnknown))?;
        if !bool::from(document.secret.0.as_slice().ct_eq(pending.secret.as_slice())) {
            return Err(RefusalCode::ActivationFailed.into());
        }
        refusing(|| Self::shown(origin.as_str(), id, pending, document))
    }

    fn shown(
        origin: &str,
        id: [u8; 16],
        pending: Pending,
        document: &EnrolmentFinish,
    ) -> Result<Self, Refused> {
        #[cfg(test)]
        assert_ne!(document.attest.0, crate::verify::kit::PANICS, "told to panic");
        let keys = HostKeys::check(&pending.sent)?;
        let nonce = activation_data(origin, &id, &pending.secret);
        let (attest, signature) = (&document.attest.0, &document.signature.0);
        let certified =
            verify_certification(&keys.ak, attest, signature, &keys.host_key, nonce.as_bytes())
                .map_err(|refusal| Refused::new(RefusalCode::CertificationInvalid, refusal.to_string()))?;
        match &pending.sent.idevid {
            Some(begun) => {
                idevid::check(begun, &keys.ak, origin, (&id, &pending.secret), document.idevid.as_ref())?;
            }
            None if document.idevid.is_some() => {
                return Err(Refused::new(RefusalCode::Malformed, "no IDevID certificate was sent before"));
            }
            None => {}
        }
        let firmware = certified.firmware_version();
        let device = document.idevid.as_ref().map(|sent| DeviceShown {
            attest: sent.attest.0.clone(),
            signature: sent.signature.0.clone(),
            possession: Some(sent.possession.0.clone()),
        });
        let activation = ActivationRecord {
            attest: attest.clone(),
            signature: signature.clone(),
            host_key: pending.sent.host_key_public.0.clone(),
            device,
            session: Some(Session { enrolment: id, secret: *pending.secret }),
        }
        .encode();
        Ok(Self { id, keys, pending, activation, firmware })
    }

    /// The enrolment leaf under the state as it is now: what is trusted, what is revoked, who is enrolled.
    fn append(&self, authority: &Authority) -> Result<Append, Refused> {
        let (rules, now_ms) = (authority.endorsements(), authority.now_ms());
        let (keys, sent) = (&self.keys, &self.pending.sent);
        let judged = Judgement::of(&rules, keys, sent, now_ms / 1_000)?;
        if !rules.accepts_firmware(&judged.endorsement, self.firmware) {
            return Err(RefusalCode::FirmwareTooOld.into());
        }
        let standing = Standing::of(authority, keys, &judged, self.pending.token)?;
        let token = match standing.admission {
            Admission::JoinToken => self.pending.token,
            Admission::Preregistered | Admission::Reenrolment => None,
        };
        let body = Enrolment {
            host: keys.host,
            ek_public: sha256(keys.naming().bytes()),
            ek_certificate: judged.certificate.as_deref().map(sha256),
            ak_public: sha256(keys.ak.bytes()),
            ak_name: keys.ak.name().as_bytes().to_vec(),
            host_key: keys.verifying.clone(),
            host_key_kind: HostKeyKind::Certified,
            admission: standing.admission,
            token,
            activation: sha256(&self.activation),
            version: standing.version,
            endorsement: judged.endorsement,
        };
        let blobs = [self.activation.as_slice(), keys.ak.bytes()].into_iter();
        let blobs = blobs.chain(keys.ek.as_ref().map(Public::bytes)).chain(judged.certificate.as_deref());
        let device = sent.idevid.iter().flat_map(|device| [&device.public, &device.certificate]);
        let blobs = blobs.chain(device.map(|bytes| bytes.0.as_slice()));
        Ok(Append {
            // What expires, ends or is exchanged is judged anew if this waits for long.
            guards: standing
                .guards
                .into_iter()
                .chain([Guard::Control(standing.control), Guard::DecidedAt(now_ms)])
                .collect(),
            spends: std::iter::once(Spend::Enrolment(self.id)).chain(token.map(Spend::JoinToken)).collect(),
            blobs: blobs.map(|bytes| (sha256(bytes), Arc::from(bytes))).collect(),
            named: Vec::new(),
            entries: vec![Entry::plain(Kind::Enrolment, body.encode())],
        })
    }
}

/// By what right a host would enrol now, and under which state that was judged.
struct Standing {
    admission: Admission,
    version: u64,
    guards: Vec<Guard>,
    control: u64,
}

impl Standing {
    fn of(
        authority: &Authority,
        keys: &HostKeys,
        judged: &Judgement,
        token: Option<Sha256Digest>,
    ) -> Result<Self, Refused> {
        let control = authority.control();
        if control.is_revoked(&Subject::Host(keys.host)) {
            return Err(RefusalCode::HostRevoked.into());
        }
        let reader = authority.reader();
        let thumbprint = keys.verifying.thumbprint();
        let owner = reader.host_of_key(&thumbprint).map_err(read_fault)?;
        let principal = control.principals().any(|(known, _)| *known == thumbprint);
        if principal || owner.is_some_and(|owner| owner != keys.host) {
            return Err(RefusalCode::IdentityConflict.into());
        }
        let row = reader.host(&keys.host).map_err(read_fault)?;
        let (guards, version) = match &row {
            Some(row) => {
                let known = &row.enrolment;
                let same = known.ek_public == sha256(keys.naming().bytes())
                    && known.ak_public == sha256(keys.ak.bytes())
                    && known.host_key == keys.verifying;
                let kept = keeps(known.endorsement.device.as_ref(), judged.endorsement.device.as_ref());
                let current = row.state.version;
                // A renewal keeps the version, so that two at once are told apart by the leaf that they would replace.
                let guards = vec![
                    Guard::HostVersion(keys.host, current),
                    Guard::Enrolment(keys.host, row.enrolment_leaf.0),
                ];
                if same && !kept && token.is_none() {
                    return Err(RefusalCode::IdevidChanged.into());
                }
                if same && kept {
                    let admission = Admission::Reenrolment;
                    return Ok(Self { admission, version: current, guards, control: control.number() });
                }
                (guards, current.saturating_add(1))
            }
            None => (vec![Guard::HostAbsent(keys.host)], 1),
        };
        // The allow-list speaks for a TPM, not for whoever can reach it: other keys of a TPM that is enrolled need an operator's word, a token.
        let admission = if judged.preregistered && row.is_none() {
            Admission::Preregistered
        } else {
            let unasked =
                if row.is_some() { RefusalCode::KeysChanged } else { RefusalCode::JoinTokenInvalid };
            let token = token.ok_or(unasked)?;
            let token = reader.join_token(&token).map_err(read_fault)?;
            let usable = |expires_ms: u64| authority.now_ms() <= expires_ms;
            if !token.is_some_and(|row| row.spent_by.is_none() && usable(row.expires_ms)) {
                return Err(RefusalCode::JoinTokenInvalid.into());
            }
            Admission::JoinToken
        };
        Ok(Self { admission, version, guards, control: control.number() })
    }
}

/// Whether a host that renews is still the machine that it was (PROTOCOL §12): a name that it had is there, from the same certificate of the same
/// key. One that it had not is only more that is known of the same TPM.
fn keeps(known: Option<&DeviceIdentity>, now: Option<&DeviceIdentity>) -> bool {
    known.is_none_or(|known| now == Some(known))
}

#[cfg(test)]
#[path = "enrol_tests.rs"]
mod tests;
