//! Enrolment (PROTOCOL §12): a TPM shows that AK and EK are its own, and its host key gets a certificate.
//!
//! Comes in: public areas and an EK certificate, then the secret that only the TPM could decrypt. Goes out: a credential, then a certificate.
//! Refused, each with its code: an EK that no trusted manufacturer certified and nobody allow-listed, keys with other attributes than their
//! role demands, a key that belongs to another host, other keys of an enrolled EK without a token, a join token that is unknown or used, a wrong secret, a certification of another key.
//!
//! A begun enrolment dies on its first use, before anything is compared, so that nobody gets a second guess.

use super::artifacts::{read_fault, receipt_text};
use super::problem::Refused;
use super::{Call, faulted, json};
use crate::sequence::{Append, Entry, Guard, Outcome, Spend};
use crate::serve::Authority;
use crate::serve::endorsement::{self, EkRefused};
use crate::store::PendingEnrolment;
use axum::response::Response;
use countersign_core::api::{B64, Enrolled, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer};
use countersign_core::cbor::{Decoder, encode_map};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::field::{read_digest_or_null, write_digest};
use countersign_core::leaf::host::{Admission, Enrolment, HostKeyKind};
use countersign_core::leaf::record::join_token_digest;
use countersign_core::leaf::{Kind, LeafError};
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::activation_data;
use countersign_tpm::certify::verify_certification;
use countersign_tpm::credential::make_credential;
use countersign_tpm::ek::ueid;
use countersign_tpm::public::{Public, require_attestation_key, require_endorsement_key, require_host_key};
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Longest join token taken.
const MAX_TOKEN_LEN: usize = 128;
const MAX_STALE: usize = 3;

/// The three keys of a host, with the attributes that their roles demand.
struct HostKeys {
    ek: Public,
    ak: Public,
    host_key: Public,
    host: HostId,
    verifying: VerifyingKey,
}

/// What is remembered between the two calls.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Pending {
    ek_public: Vec<u8>,
    ek_certificate: Option<Vec<u8>>,
    ak_public: Vec<u8>,
    host_key_public: Vec<u8>,
    /// The allow-list admits this EK without a token.
    preregistered: bool,
    token: Option<[u8; 32]>,
    secret: [u8; 32],
}

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
    document: EnrolmentBegin,
) -> Result<(PendingEnrolment, Sha256Digest, EnrolmentOffer), Refused> {
    let keys = HostKeys::check(&document.ek_public.0, &document.ak_public.0, &document.host_key_public.0)?;
    let certificate = document.ek_certificate.map(|der| der.0);
    let intermediates: Vec<Vec<u8>> = document.ek_intermediates.into_iter().map(|der| der.0).collect();
    let endorsement = authority
        .endorsements()
        .judge(&keys.ek, certificate.as_deref(), &intermediates, authority.now_ms() / 1_000)
        .map_err(ek_refused)?;
    let token = match &document.token {
        Some(token) if token.len() > MAX_TOKEN_LEN => return Err(RefusalCode::JoinTokenInvalid.into()),
        Some(token) => Some(*join_token_digest(token).as_bytes()),
        None => None,
    };
    let mut pending = Pending {
        ek_public: document.ek_public.0,
        // What nobody vouched for isn't part of the record.
        ek_certificate: certificate.filter(|_| endorsement.certified),
        ak_public: document.ak_public.0,
        host_key_public: document.host_key_public.0,
        preregistered: endorsement.preregistered,
        token,
        secret: [0; 32],
    };
    // The same judgement as at the end, so that a host learns early what it would be refused for.
    Standing::of(authority, &keys, &pending)?;
    let no_randomness = |_| Refused::from(RefusalCode::Internal);
    getrandom::fill(&mut pending.secret).map_err(no_randomness)?;
    let mut failed = false;
    let credential = make_credential(&keys.ek, keys.ak.name().as_bytes(), &pending.secret, &mut |buffer| {
        failed |= getrandom::fill(buffer).is_err();
    });
    if failed {
        return Err(RefusalCode::Internal.into());
    }
    let credential =
        credential.map_err(|fault| Refused::new(RefusalCode::EkAttributesInvalid, fault.to_string()))?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(no_randomness)?;
    let lifetime = authority.config().limits.enrolment_secs.saturating_mul(1_000);
    let expires_ms = authority.now_ms().saturating_add(lifetime);
    let offer = EnrolmentOffer {
        enrolment: data_encoding::HEXLOWER.encode(&id),
        id_object: B64(credential.id_object),
        encrypted_secret: B64(credential.encrypted_secret),
        expires_ms,
    };
    // One of each EK and token is pending: whoever has one token, or none, can't fill the table.
    let claim =
        sha256(&[keys.host.as_bytes().as_slice(), token.as_ref().map_or(&[], |token| token)].concat());
    Ok((PendingEnrolment { id, expires_ms, record: pending.encode() }, claim, offer))
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
    let proven = authority.run(move || Proven::check(&worker, id, &record, &document)).await?;
    let proven = Arc::new(proven);
    for _ in 0..=MAX_STALE {
        let (worker, again) = (Arc::clone(&authority), Arc::clone(&proven));
        let append = authority.run(move || again.append(&worker)).await?;
        match authority.append(append).await? {
            Outcome::Appended(receipts) => {
                authority.forget_host_keys();
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
            Outcome::Existing(_) | Outcome::ChallengeSpent | Outcome::Refused(_) => {
                return Err(RefusalCode::Internal.into());
            }
        }
    }
    Err(RefusalCode::VersionsMoved.into())
}

/// A host that proved its keys, before it is known by what right it enrols.
struct Proven {
    id: [u8; 16],
    keys: HostKeys,
    pending: Pending,
    activation: Vec<u8>,
}

impl Proven {
    fn check(
        authority: &Authority,
        id: [u8; 16],
        record: &PendingEnrolment,
        document: &EnrolmentFinish,
    ) -> Result<Self, Refused> {
        let pending =
            Pending::parse(&record.record).map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
        if !bool::from(document.secret.0.as_slice().ct_eq(&pending.secret)) {
            return Err(RefusalCode::ActivationFailed.into());
        }
        let keys = HostKeys::check(&pending.ek_public, &pending.ak_public, &pending.host_key_public)?;
        let nonce = activation_data(authority.origin().as_str(), &id, &pending.secret);
        let (attest, signature) = (&document.attest.0, &document.signature.0);
        verify_certification(&keys.ak, attest, signature, &keys.host_key, nonce.as_bytes())
            .map_err(|refusal| Refused::new(RefusalCode::CertificationInvalid, refusal.to_string()))?;
        let activation = encode_map(|map| {
            map.entry(1).bytes(attest);
            map.entry(2).bytes(signature);
            map.entry(3).bytes(&pending.host_key_public);
        });
        Ok(Self { id, keys, pending, activation })
    }

    /// The enrolment leaf under the state as it is now.
    fn append(&self, authority: &Authority) -> Result<Append, Refused> {
        let standing = Standing::of(authority, &self.keys, &self.pending)?;
        let token = match standing.admission {
            Admission::JoinToken => self.pending.token.map(Sha256Digest::new),
            Admission::Preregistered | Admission::Reenrolment => None,
        };
        let body = Enrolment {
            host: self.keys.host,
            ek_public: sha256(&self.pending.ek_public),
            ek_certificate: self.pending.ek_certificate.as_deref().map(sha256),
            ak_public: sha256(&self.pending.ak_public),
            ak_name: self.keys.ak.name().as_bytes().to_vec(),
            host_key: self.keys.verifying.clone(),
            host_key_kind: HostKeyKind::Certified,
            admission: standing.admission,
            token,
            activation: sha256(&self.activation),
            version: standing.version,
        };
        let blobs = [&self.activation, &self.pending.ek_public, &self.pending.ak_public];
        let blobs = blobs.into_iter().chain(self.pending.ek_certificate.as_ref());
        Ok(Append {
            guards: vec![standing.guard, Guard::Control(standing.control)],
            spends: std::iter::once(Spend::Enrolment(self.id)).chain(token.map(Spend::JoinToken)).collect(),
            blobs: blobs.map(|bytes| (sha256(bytes), Arc::from(bytes.as_slice()))).collect(),
            entries: vec![Entry::plain(Kind::Enrolment, body.encode())],
        })
    }
}

/// By what right a host would enrol now, and under which state that was judged.
struct Standing {
    admission: Admission,
    version: u64,
    guard: Guard,
    control: u64,
}

impl Standing {
    fn of(authority: &Authority, keys: &HostKeys, pending: &Pending) -> Result<Self, Refused> {
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
        let (guard, version) = match &row {
            Some(row) => {
                let known = &row.enrolment;
                let same = known.ek_public == sha256(&pending.ek_public)
                    && known.ak_public == sha256(&pending.ak_public)
                    && known.host_key == keys.verifying;
                let current = row.state.version;
                let guard = Guard::HostVersion(keys.host, current);
                if same {
                    let admission = Admission::Reenrolment;
                    return Ok(Self { admission, version: current, guard, control: control.number() });
                }
                (guard, current.saturating_add(1))
            }
            None => (Guard::HostAbsent(keys.host), 1),
        };
        // The allow-list speaks for a TPM, not for whoever can reach it: other keys of a TPM that is enrolled need an operator's word, a token.
        let admission = if pending.preregistered && row.is_none() {
            Admission::Preregistered
        } else {
            let unasked =
                if row.is_some() { RefusalCode::KeysChanged } else { RefusalCode::JoinTokenInvalid };
            let token = pending.token.ok_or(unasked)?;
            let token = reader.join_token(&Sha256Digest::new(token)).map_err(read_fault)?;
            let usable = |expires_ms: u64| authority.now_ms() <= expires_ms;
            if !token.is_some_and(|row| row.spent_by.is_none() && usable(row.expires_ms)) {
                return Err(RefusalCode::JoinTokenInvalid.into());
            }
            Admission::JoinToken
        };
        Ok(Self { admission, version, guard, control: control.number() })
    }
}

impl HostKeys {
    fn check(ek: &[u8], ak: &[u8], host_key: &[u8]) -> Result<Self, Refused> {
        let parse = |bytes: &[u8], what: &'static str| {
            Public::parse(bytes)
                .map_err(|fault| Refused::new(RefusalCode::Malformed, format!("{what}: {fault}")))
        };
        let (ek, ak, host_key) =
            (parse(ek, "ek_public")?, parse(ak, "ak_public")?, parse(host_key, "host_key_public")?);
        let unfit =
            |code, fault: countersign_tpm::public::AttributeRefusal| Refused::new(code, fault.to_string());
        require_endorsement_key(&ek).map_err(|fault| unfit(RefusalCode::EkAttributesInvalid, fault))?;
        require_attestation_key(&ak).map_err(|fault| unfit(RefusalCode::AkAttributesInvalid, fault))?;
        require_host_key(&host_key).map_err(|fault| unfit(RefusalCode::HostKeyAttributesInvalid, fault))?;
        let host = HostId::from_slice(&ueid(&ek)).map_err(|_| Refused::from(RefusalCode::Internal))?;
        let verifying = VerifyingKey::from_spki_der(&host_key.spki_der())
            .map_err(|fault| Refused::new(RefusalCode::HostKeyAttributesInvalid, fault.to_string()))?;
        Ok(Self { ek, ak, host_key, host, verifying })
    }
}

fn ek_refused(refused: EkRefused) -> Refused {
    let detail = refused.to_string();
    let code = match refused {
        EkRefused::Chain(endorsement::EkRefusal::KeyMismatch) => RefusalCode::EkKeyMismatch,
        EkRefused::Chain(_) => RefusalCode::EkCertificateInvalid,
        EkRefused::NotAllowed => RefusalCode::EkNotAllowed,
        EkRefused::Profile => RefusalCode::EkAttributesInvalid,
    };
    Refused::new(code, detail)
}

impl Pending {
    fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(&self.ek_public);
            match &self.ek_certificate {
                Some(der) => map.entry(2).bytes(der),
                None => map.entry(2).bytes(&[]),
            }
            map.entry(3).bytes(&self.ak_public);
            map.entry(4).bytes(&self.host_key_public);
            map.entry(5).bool(self.preregistered);
            write_digest(map.entry(6), self.token.map(Sha256Digest::new).as_ref());
            map.entry(7).bytes(&self.secret);
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        d.map_of(7)?;
        d.expect_key(1)?;
        let ek_public = d.bytes()?.to_vec();
        d.expect_key(2)?;
        let ek_certificate = Some(d.bytes()?.to_vec()).filter(|der| !der.is_empty());
        d.expect_key(3)?;
        let ak_public = d.bytes()?.to_vec();
        d.expect_key(4)?;
        let host_key_public = d.bytes()?.to_vec();
        d.expect_key(5)?;
        let preregistered = d.bool()?;
        d.expect_key(6)?;
        let token = read_digest_or_null(d)?.map(|digest| *digest.as_bytes());
        d.expect_key(7)?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(d.byte_array()?);
        decoder.finish()?;
        Ok(Self {
            ek_public,
            ek_certificate,
            ak_public,
            host_key_public,
            preregistered,
            token,
            secret: *secret,
        })
    }
}
