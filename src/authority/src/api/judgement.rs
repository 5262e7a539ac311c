//! What vouches for a host that enrols, by the rules, certificates and revocation lists of the moment (PROTOCOL §12). Asked when an enrolment
//! begins and again when it ends: what was revoked, has expired or isn't trusted any more in between enrols nobody.
//!
//! Comes in: what a host sent when it began. Goes out: its keys, how its TPM is endorsed, which machine it is. Refused, each with its code: keys
//! with other attributes than their role demands, weak ones, certificates of anything else, of another key or of nobody trusted, TPMs that neither
//! a certificate nor the operator's list vouches for. What makes its reader panic is refused, too.

use super::idevid;
use super::problem::Refused;
use crate::serve::endorsement::{EkRefusal, EkRefused, Endorsements};
use crate::verify::contained;
use countersign_core::api::{B64, EnrolmentBegin};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::host::Endorsement;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::ek::{MAX_CERTIFICATE_BYTES, MAX_INTERMEDIATES, ueid};
use countersign_tpm::public::{
    AttributeRefusal, Public, require_attestation_key, require_endorsement_key, require_host_key,
};

/// The keys of a host, with the attributes that their roles demand.
pub(super) struct HostKeys {
    /// Absent if a certificate endorses the AK.
    pub(super) ek: Option<Public>,
    pub(super) ak: Public,
    pub(super) host_key: Public,
    pub(super) host: HostId,
    pub(super) verifying: VerifyingKey,
}

/// What vouches for a host.
pub(super) struct Judgement {
    /// For the enrolment leaf, with the machine's identity if it has one.
    pub(super) endorsement: Endorsement,
    /// The allow-list admits this EK without a token.
    pub(super) preregistered: bool,
    /// The certificate that vouches for it, DER. What nobody vouched for isn't part of the record.
    pub(super) certificate: Option<Vec<u8>>,
}

/// Runs what reads a stranger's bytes: a panic of it is a refusal.
pub(super) fn refusing<T>(work: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
    contained(work).unwrap_or_else(|| {
        tracing::error!("what a host sent to enrol made its reader panic");
        Err(Refused::new(RefusalCode::VerifierPanicked, "what was sent made its reader panic"))
    })
}

impl Judgement {
    /// Judges what was sent with these keys.
    pub(super) fn of(
        rules: &Endorsements,
        keys: &HostKeys,
        sent: &EnrolmentBegin,
        now_secs: u64,
    ) -> Result<Self, Refused> {
        refusing(|| Self::by(rules, keys, sent, now_secs))
    }

    fn by(
        rules: &Endorsements,
        keys: &HostKeys,
        sent: &EnrolmentBegin,
        now_secs: u64,
    ) -> Result<Self, Refused> {
        #[cfg(test)]
        for sent in [&sent.ek_certificate, &sent.ak_certificate].into_iter().flatten() {
            assert_ne!(sent.0, crate::verify::kit::PANICS, "told to panic");
        }
        let judged = match (&keys.ek, &sent.ak_certificate) {
            (Some(ek), None) => {
                let certificate = sent.ek_certificate.as_ref().map(|der| der.0.as_slice());
                rules.judge(ek, certificate, &ders(&sent.ek_intermediates), now_secs)
            }
            (None, Some(certificate)) if sent.ek_certificate.is_none() => {
                rules.judge_iak(&keys.ak, &certificate.0, &ders(&sent.ak_intermediates), now_secs)
            }
            _ => return Err(Refused::new(RefusalCode::Malformed, "either an EK or a certificate of the AK")),
        };
        let mut judged = judged.map_err(ek_refused)?;
        let others: Vec<&Public> = keys.ek.iter().chain([&keys.ak, &keys.host_key]).collect();
        let device = sent.idevid.as_ref().map(|sent| idevid::judge(rules, sent, &others, now_secs));
        judged.endorsement.device = device.transpose()?;
        let certificate = sent.ek_certificate.as_ref().or(sent.ak_certificate.as_ref());
        let certificate = certificate.filter(|_| judged.endorsement.kind.is_certified());
        Ok(Self {
            endorsement: judged.endorsement,
            preregistered: judged.preregistered,
            certificate: certificate.map(|der| der.0.clone()),
        })
    }
}

/// Issuers of a certificate that wasn't sent, as agents with one configuration for all TPMs have them, are for nothing and aren't kept.
pub(super) fn without_idle_issuers(mut sent: EnrolmentBegin) -> EnrolmentBegin {
    if sent.ek_certificate.is_none() {
        sent.ek_intermediates.clear();
    }
    if sent.ak_certificate.is_none() {
        sent.ak_intermediates.clear();
    }
    sent
}

/// What is kept until the end is what a chain could have.
fn require_bounds(sent: &EnrolmentBegin) -> Result<(), Refused> {
    let malformed = |what: &str| Err(Refused::new(RefusalCode::Malformed, what.to_owned()));
    let idevid = sent.idevid.as_ref();
    let sets = [
        (sent.ek_certificate.as_ref(), sent.ek_intermediates.as_slice()),
        (sent.ak_certificate.as_ref(), sent.ak_intermediates.as_slice()),
        (idevid.map(|sent| &sent.certificate), idevid.map_or(&[], |sent| sent.intermediates.as_slice())),
    ];
    for (certificate, intermediates) in sets {
        if intermediates.len() > MAX_INTERMEDIATES {
            return malformed("more intermediates than a chain has");
        }
        if certificate.into_iter().chain(intermediates).any(|der| der.0.len() > MAX_CERTIFICATE_BYTES) {
            return malformed("a certificate is too long");
        }
    }
    Ok(())
}

fn ders(list: &[B64]) -> Vec<Vec<u8>> {
    list.iter().map(|der| der.0.clone()).collect()
}

/// PROTOCOL §2: a host is named by its EK, or by its AK if that is what a certificate endorses.
fn naming<'a>(ek: Option<&'a Public>, ak: &'a Public) -> &'a Public {
    ek.unwrap_or(ak)
}

impl HostKeys {
    /// The key that names the host.
    pub(super) fn naming(&self) -> &Public {
        naming(self.ek.as_ref(), &self.ak)
    }

    /// Reads the public areas that were sent, beside no more than will be judged.
    pub(super) fn check(sent: &EnrolmentBegin) -> Result<Self, Refused> {
        require_bounds(sent)?;
        let parse = |bytes: &B64, what: &'static str| {
            Public::parse(&bytes.0)
                .map_err(|fault| Refused::new(RefusalCode::Malformed, format!("{what}: {fault}")))
        };
        let ek = sent.ek_public.as_ref().map(|ek| parse(ek, "ek_public")).transpose()?;
        let ak = parse(&sent.ak_public, "ak_public")?;
        let host_key = parse(&sent.host_key_public, "host_key_public")?;
        let unfit = |code, fault: AttributeRefusal| Refused::new(code, fault.to_string());
        if let Some(ek) = &ek {
            require_endorsement_key(ek).map_err(|fault| unfit(RefusalCode::EkAttributesInvalid, fault))?;
        }
        require_attestation_key(&ak).map_err(|fault| unfit(RefusalCode::AkAttributesInvalid, fault))?;
        require_host_key(&host_key).map_err(|fault| unfit(RefusalCode::HostKeyAttributesInvalid, fault))?;
        let host = HostId::from_slice(&ueid(naming(ek.as_ref(), &ak)))
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

#[cfg(test)]
#[path = "judgement_tests.rs"]
mod tests;
