//! The machine's own identity (IDevID) beside an enrolment (PROTOCOL §12): a key that its maker certified, shown to be in the TPM that is enrolled.
//!
//! Comes in: the key and its certificate, judged at the beginning and again at the end; then the AK's certification of the key and the key's own signature. Goes out: what the enrolment leaf says
//! of it. Refused, each with its code: keys with other attributes than a device's, the host's own keys, weak ones, certificates of anything else, of
//! another key or of nobody trusted, certifications of another key, by another AK or for another enrolment, and a key that nobody there can use.
//!
//! It endorses nothing: the IDevID key signs anything, so only what the AK says of it counts.

use super::problem::Refused;
use crate::serve::endorsement::{DeviceRefused, EkRefusal, Endorsements};
use countersign_core::api::{IdevidBegin, IdevidFinish};
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{device_certification_data, device_possession};
use countersign_tpm::certify::verify_device_certification;
use countersign_tpm::public::{Public, require_device_key};
use countersign_tpm::signature::{self, Signature};

/// Judges what a host presents; `keys` are its others. That the TPM has the key is shown at the end.
pub(super) fn judge(
    rules: &Endorsements,
    sent: &IdevidBegin,
    keys: &[&Public],
    now_secs: u64,
) -> Result<DeviceIdentity, Refused> {
    #[cfg(test)]
    assert_ne!(sent.certificate.0, crate::verify::kit::PANICS, "told to panic");
    let public = parse(&sent.public.0)?;
    // A restricted key is an AK, one that decrypts an EK; a host key has all attributes but one.
    if keys.iter().any(|key| key.key() == public.key()) {
        return Err(RefusalCode::IdevidKeyReused.into());
    }
    let intermediates: Vec<_> = sent.intermediates.iter().map(|der| der.0.clone()).collect();
    rules.judge_device(&public, &sent.certificate.0, &intermediates, now_secs).map_err(refused)
}

/// That the AK's TPM holds the key, and that it can be used, for this very enrolment: its identifier and secret.
pub(super) fn check(
    begun: &IdevidBegin,
    ak: &Public,
    origin: &str,
    (id, secret): (&[u8; 16], &[u8; 32]),
    sent: Option<&IdevidFinish>,
) -> Result<(), Refused> {
    let missing = || Refused::from(RefusalCode::IdevidCertificationInvalid);
    let sent = sent.ok_or_else(missing)?;
    let public = parse(&begun.public.0)?;
    let nonce = device_certification_data(origin, id, secret);
    let (attest, by_ak) = (&sent.attest.0, &sent.signature.0);
    verify_device_certification(ak, attest, by_ak, &public, nonce.as_bytes())
        .map_err(|refusal| Refused::new(RefusalCode::IdevidCertificationInvalid, refusal.to_string()))?;
    let message = device_possession(origin, id, secret);
    Signature::parse(&sent.possession.0)
        .and_then(|own| signature::verify(&public, &message, &own))
        .map_err(|fault| Refused::new(RefusalCode::IdevidSignatureInvalid, fault.to_string()))
}

fn parse(bytes: &[u8]) -> Result<Public, Refused> {
    let public = Public::parse(bytes)
        .map_err(|fault| Refused::new(RefusalCode::Malformed, format!("idevid.public: {fault}")))?;
    require_device_key(&public)
        .map_err(|fault| Refused::new(RefusalCode::IdevidAttributesInvalid, fault.to_string()))?;
    Ok(public)
}

fn refused(refused: DeviceRefused) -> Refused {
    let detail = refused.to_string();
    let code = match refused {
        DeviceRefused::Weak => RefusalCode::IdevidKeyWeak,
        DeviceRefused::Certificate(refusal) => match refusal {
            EkRefusal::KeyMismatch => RefusalCode::IdevidKeyMismatch,
            // A root of the right name that didn't sign is a stranger too.
            EkRefusal::IssuerUnknown | EkRefusal::SignatureInvalid => RefusalCode::IdevidIssuerUnknown,
            EkRefusal::Expired | EkRefusal::NotYetValid => RefusalCode::IdevidCertificateExpired,
            EkRefusal::Revoked => RefusalCode::IdevidCertificateRevoked,
            EkRefusal::CrlStale | EkRefusal::CrlMissing => RefusalCode::IdevidRevocationUnknown,
            _ => RefusalCode::IdevidCertificateInvalid,
        },
    };
    Refused::new(code, detail)
}
