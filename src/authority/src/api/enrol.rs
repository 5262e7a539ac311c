//! Enrolment (PROTOCOL §12): a TPM shows that AK and EK are its own, and its host key gets a certificate.
//!
//! Comes in: public areas and an EK certificate, then the secret that only the TPM could decrypt. Goes out: a credential, then a certificate.
//! Beside that it may show which machine it is (IDevID, `idevid.rs`).
//! Where a certificate of the AK itself (IAK) says that it lives in a TPM, there is no EK and nothing to decrypt: the secret is only a nonce.
//! Refused, each with its code: a TPM that no trusted manufacturer certified and nobody allow-listed, keys with other attributes than their
//! role demands, weak keys, old firmware, a key that belongs to another host, other keys of an enrolled TPM without a token, a join token that
//! is unknown or used, a wrong secret, a certification of another key.
//!
//! A begun enrolment dies on its first use, before anything is compared, so that nobody gets a second guess.

use super::artifacts::{read_fault, receipt_text};
use super::idevid::Device;
use super::problem::Refused;
use super::{Call, faulted, json};
use crate::sequence::{Append, Entry, Guard, Outcome, Spend};
use crate::serve::Authority;
use crate::serve::endorsement::{EkRefusal, EkRefused, Judged};
use crate::stale::Redecisions;
use crate::store::PendingEnrolment;
use axum::response::Response;
use countersign_core::api::{B64, Enrolled, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer};
use countersign_core::cbor::{Decoder, encode_map};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::leaf::field::{read_digest_or_null, write_digest};
use countersign_core::leaf::host::{Admission, Endorsement, Enrolment, HostKeyKind};
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
/// The keys of a host, with the attributes that their roles demand.
struct HostKeys {
    /// Absent if a certificate endorses the AK.
    ek: Option<Public>,
    ak: Public,
    host_key: Public,
    host: HostId,
    verifying: VerifyingKey,
}

/// What is remembered between the two calls.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Pending {
    ek_public: Option<Vec<u8>>,
    /// What endorses the host: of the EK, or of the AK if there is no EK.
    certificate: Option<Vec<u8>>,
    #[zeroize(skip)]
    endorsement: Endorsement,
    /// The machine's own key and certificate, if it names itself.
    #[zeroize(skip)]
    device: Option<Device>,
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
    let keys = HostKeys::check(
        document.ek_public.as_ref().map(|public| public.0.as_slice()),
        &document.ak_public.0,
        &document.host_key_public.0,
    )?;
    let (mut judged, certificate) = judge(authority, &keys, &document)?;
    let others: Vec<&Public> = keys.ek.iter().chain([&keys.ak, &keys.host_key]).collect();
    let device = document.idevid.map(|sent| Device::judge(authority, sent, &others)).transpose()?;
    judged.endorsement.device = device.as_ref().map(|device| device.identity.clone());
    let token = match &document.token {
        Some(token) if token.len() > MAX_TOKEN_LEN => return Err(RefusalCode::JoinTokenInvalid.into()),
        Some(token) => Some(*join_token_digest(token).as_bytes()),
        None => None,
    };
    let mut pending = Pending {
        ek_public: document.ek_public.map(|public| public.0),
        // What nobody vouched for isn't part of the record.
        certificate: certificate.filter(|_| judged.endorsement.kind.is_certified()),
        endorsement: judged.endorsement,
        device,
        ak_public: document.ak_public.0,
        host_key_public: document.host_key_public.0,
        preregistered: judged.preregistered,
        token,
        secret: [0; 32],
    };
    // The same judgement as at the end, so that a host learns early what it would be refused for.
    Standing::of(authority, &keys, &pending)?;
    let no_randomness = |_| Refused::from(RefusalCode::Internal);
    getrandom::fill(&mut pending.secret).map_err(no_randomness)?;
    let (id_object, encrypted_secret, secret) = match &keys.ek {
        Some(ek) => {
            let (id_object, encrypted_secret) = sealed(ek, &keys.ak, &pending.secret)?;
            (id_object, encrypted_secret, None)
        }
        // The issuer of the AK's certificate saw that the AK is in a TPM: nothing has to be shown by decrypting.
        None => (Vec::new(), Vec::new(), Some(B64(pending.secret.to_vec()))),
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(no_randomness)?;
    let lifetime = authority.config().limits.enrolment_secs.saturating_mul(1_000);
    let expires_ms = authority.now_ms().saturating_add(lifetime);
    let offer = EnrolmentOffer {
        enrolment: data_encoding::HEXLOWER.encode(&id),
        id_object: B64(id_object),
        encrypted_secret: B64(encrypted_secret),
        secret,
        expires_ms,
    };
    // One of each host and token is pending: whoever has one token, or none, can't fill the table.
    let claim =
        sha256(&[keys.host.as_bytes().as_slice(), token.as_ref().map_or(&[], |token| token)].concat());
    Ok((PendingEnrolment { id, expires_ms, record: pending.encode() }, claim, offer))
}

/// What vouches for the TPM, and the certificate that was sent for it.
fn judge(
    authority: &Authority,
    keys: &HostKeys,
    document: &EnrolmentBegin,
) -> Result<(Judged, Option<Vec<u8>>), Refused> {
    let endorsements = authority.endorsements();
    let now_secs = authority.now_ms() / 1_000;
    let ders = |list: &[B64]| list.iter().map(|der| der.0.clone()).collect::<Vec<_>>();
    let judged = match (&keys.ek, &document.ak_certificate) {
        (Some(ek), None) => {
            let certificate = document.ek_certificate.as_ref().map(|der| der.0.as_slice());
            endorsements.judge(ek, certificate, &ders(&document.ek_intermediates), now_secs)
        }
        (None, Some(certificate)) if document.ek_certificate.is_none() => {
            endorsements.judge_iak(&keys.ak, &certificate.0, &ders(&document.ak_intermediates), now_secs)
        }
        _ => return Err(Refused::new(RefusalCode::Malformed, "either an EK or a certificate of the AK")),
    };
    let certificate = document.ek_certificate.as_ref().or(document.ak_certificate.as_ref());
    Ok((judged.map_err(ek_refused)?, certificate.map(|der| der.0.clone())))
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
    let proven = authority.run(move || Proven::check(&worker, id, &record, &document)).await?;
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
        let ek_public = pending.ek_public.as_deref();
        let keys = HostKeys::check(ek_public, &pending.ak_public, &pending.host_key_public)?;
        let nonce = activation_data(authority.origin().as_str(), &id, &pending.secret);
        let (attest, signature) = (&document.attest.0, &document.signature.0);
        let certified =
            verify_certification(&keys.ak, attest, signature, &keys.host_key, nonce.as_bytes())
                .map_err(|refusal| Refused::new(RefusalCode::CertificationInvalid, refusal.to_string()))?;
        match &pending.device {
            Some(device) => {
                let origin = authority.origin().as_str();
                device.check(&keys.ak, origin, &id, &pending.secret, document.idevid.as_ref())?;
            }
            None if document.idevid.is_some() => {
                return Err(Refused::new(RefusalCode::Malformed, "no IDevID certificate was sent before"));
            }
            None => {}
        }
        let endorsements = authority.endorsements();
        if !endorsements.accepts_firmware(&pending.endorsement, certified.firmware_version()) {
            return Err(RefusalCode::FirmwareTooOld.into());
        }
        let activation = encode_map(|map| {
            map.entry(1).bytes(attest);
            map.entry(2).bytes(signature);
            map.entry(3).bytes(&pending.host_key_public);
            if let Some(sent) = &document.idevid {
                map.entry(4).bytes(&sent.attest.0);
                map.entry(5).bytes(&sent.signature.0);
            }
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
            ek_public: sha256(self.pending.naming_public()),
            ek_certificate: self.pending.certificate.as_deref().map(sha256),
            ak_public: sha256(&self.pending.ak_public),
            ak_name: self.keys.ak.name().as_bytes().to_vec(),
            host_key: self.keys.verifying.clone(),
            host_key_kind: HostKeyKind::Certified,
            admission: standing.admission,
            token,
            activation: sha256(&self.activation),
            version: standing.version,
            endorsement: self.pending.endorsement.clone(),
        };
        let blobs = [&self.activation, &self.pending.ak_public];
        let blobs =
            blobs.into_iter().chain(self.pending.ek_public.as_ref()).chain(self.pending.certificate.as_ref());
        let device = self.pending.device.iter().flat_map(|device| [&device.public, &device.certificate]);
        let blobs = blobs.chain(device);
        Ok(Append {
            guards: standing.guards.into_iter().chain([Guard::Control(standing.control)]).collect(),
            spends: std::iter::once(Spend::Enrolment(self.id)).chain(token.map(Spend::JoinToken)).collect(),
            blobs: blobs.map(|bytes| (sha256(bytes), Arc::from(bytes.as_slice()))).collect(),
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
        let (guards, version) = match &row {
            Some(row) => {
                let known = &row.enrolment;
                let same = known.ek_public == sha256(pending.naming_public())
                    && known.ak_public == sha256(&pending.ak_public)
                    && known.host_key == keys.verifying;
                let kept = keeps(known.endorsement.device.as_ref(), pending.endorsement.device.as_ref());
                let current = row.state.version;
                // A renewal keeps the version, so that two at once are told apart by the leaf that they would replace.
                let guards = vec![
                    Guard::HostVersion(keys.host, current),
                    Guard::Enrolment(keys.host, row.enrolment_leaf.0),
                ];
                if same && !kept && pending.token.is_none() {
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
        Ok(Self { admission, version, guards, control: control.number() })
    }
}

/// Whether a host that renews is still the machine that it was (PROTOCOL §12): a name that it had is there, from the same certificate of the same
/// key. One that it had not is only more that is known of the same TPM.
fn keeps(known: Option<&DeviceIdentity>, now: Option<&DeviceIdentity>) -> bool {
    known.is_none_or(|known| now == Some(known))
}

impl HostKeys {
    fn check(ek: Option<&[u8]>, ak: &[u8], host_key: &[u8]) -> Result<Self, Refused> {
        let parse = |bytes: &[u8], what: &'static str| {
            Public::parse(bytes)
                .map_err(|fault| Refused::new(RefusalCode::Malformed, format!("{what}: {fault}")))
        };
        let ek = ek.map(|ek| parse(ek, "ek_public")).transpose()?;
        let (ak, host_key) = (parse(ak, "ak_public")?, parse(host_key, "host_key_public")?);
        let unfit =
            |code, fault: countersign_tpm::public::AttributeRefusal| Refused::new(code, fault.to_string());
        if let Some(ek) = &ek {
            require_endorsement_key(ek).map_err(|fault| unfit(RefusalCode::EkAttributesInvalid, fault))?;
        }
        require_attestation_key(&ak).map_err(|fault| unfit(RefusalCode::AkAttributesInvalid, fault))?;
        require_host_key(&host_key).map_err(|fault| unfit(RefusalCode::HostKeyAttributesInvalid, fault))?;
        // PROTOCOL §2: a host is named by its EK, or by its AK if that is what a certificate endorses.
        let host = HostId::from_slice(&ueid(ek.as_ref().unwrap_or(&ak)))
            .map_err(|_| Refused::from(RefusalCode::Internal))?;
        let verifying = VerifyingKey::from_spki_der(&host_key.spki_der())
            .map_err(|fault| Refused::new(RefusalCode::HostKeyAttributesInvalid, fault.to_string()))?;
        Ok(Self { ek, ak, host_key, host, verifying })
    }
}

fn ek_refused(refused: EkRefused) -> Refused {
    let detail = refused.to_string();
    let code = match refused {
        EkRefused::Chain(refusal) => chain_code(&refusal),
        EkRefused::Iak(EkRefusal::KeyMismatch) => RefusalCode::IakKeyMismatch,
        EkRefused::Iak(_) => RefusalCode::IakCertificateInvalid,
        EkRefused::NotAllowed => RefusalCode::EkNotAllowed,
        EkRefused::Profile => RefusalCode::EkAttributesInvalid,
        EkRefused::Weak => RefusalCode::EkKeyWeak,
    };
    Refused::new(code, detail)
}

const fn chain_code(refusal: &EkRefusal) -> RefusalCode {
    match refusal {
        EkRefusal::KeyMismatch => RefusalCode::EkKeyMismatch,
        // A root of the right name that didn't sign is a stranger too.
        EkRefusal::IssuerUnknown | EkRefusal::SignatureInvalid => RefusalCode::EkIssuerUnknown,
        EkRefusal::Expired | EkRefusal::NotYetValid => RefusalCode::EkCertificateExpired,
        EkRefusal::Revoked => RefusalCode::EkCertificateRevoked,
        EkRefusal::CrlStale | EkRefusal::CrlMissing => RefusalCode::EkRevocationUnknown,
        _ => RefusalCode::EkCertificateInvalid,
    }
}

impl Pending {
    /// The public area of the key that names the host.
    fn naming_public(&self) -> &[u8] {
        self.ek_public.as_deref().unwrap_or(&self.ak_public)
    }

    fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.ek_public.as_deref().unwrap_or_default());
            map.entry(2).bytes(self.certificate.as_deref().unwrap_or_default());
            map.entry(3).bytes(&self.ak_public);
            map.entry(4).bytes(&self.host_key_public);
            map.entry(5).bool(self.preregistered);
            write_digest(map.entry(6), self.token.map(Sha256Digest::new).as_ref());
            map.entry(7).bytes(&self.secret);
            self.endorsement.write(map.entry(8));
            let device = self.device.as_ref();
            map.entry(9).bytes(device.map_or(&[], |device| &device.public));
            map.entry(10).bytes(device.map_or(&[], |device| &device.certificate));
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        d.map_of(10)?;
        d.expect_key(1)?;
        let ek_public = Some(d.bytes()?.to_vec()).filter(|public| !public.is_empty());
        d.expect_key(2)?;
        let certificate = Some(d.bytes()?.to_vec()).filter(|der| !der.is_empty());
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
        d.expect_key(8)?;
        let endorsement = Endorsement::read(d)?;
        d.expect_key(9)?;
        let public = d.bytes()?.to_vec();
        d.expect_key(10)?;
        let sent = d.bytes()?.to_vec();
        decoder.finish()?;
        let device = endorsement.device.clone();
        let device = device.map(|identity| Device { public, certificate: sent, identity });
        Ok(Self {
            ek_public,
            certificate,
            endorsement,
            device,
            ak_public,
            host_key_public,
            preregistered,
            token,
            secret: *secret,
        })
    }
}
