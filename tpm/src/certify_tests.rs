//! Certifications: a good one is taken, and each way to be wrong has its own refusal.

use super::*;
use crate::algorithm::HashAlg;
use crate::public::Attributes;
use crate::simulated::device_key::SimulatedDeviceKey;
use crate::testing::{NONCE, boot_pcrs, booted, random, variant};

#[track_caller]
fn refused(result: Result<CertifiedKey, CertifyRefusal>, name: &str) {
    assert_eq!(variant(&result.unwrap_err()), name);
}

#[test]
fn a_good_certification_yields_the_key() {
    let (tpm, _) = booted(1);
    let made = tpm.certify_host_key(&NONCE).unwrap();
    let key = verify_certification(tpm.ak_public(), &made.attest, &made.signature, tpm.host_public(), &NONCE);
    let key = key.unwrap();
    assert_eq!(key.public(), tpm.host_public());
    assert_eq!(key.clock(), tpm.clock());
}

#[test]
fn each_wrong_certification_has_its_refusal() {
    let (tpm, _) = booted(1);
    let (other, _) = booted(2);
    let (ak, host) = (tpm.ak_public(), tpm.host_public());
    let good = tpm.certify_host_key(&NONCE).unwrap();
    let judge = |ak: &Public, attest: &[u8], signature: &[u8], subject: &Public, nonce: &[u8; 32]| {
        verify_certification(ak, attest, signature, subject, nonce)
    };
    let (attest, signature) = (good.attest.as_slice(), good.signature.as_slice());
    refused(judge(host, attest, signature, host, &NONCE), "KeyUnfit");
    refused(judge(ak, attest, signature, ak, &NONCE), "SubjectUnfit");
    refused(judge(ak, &attest[1..], signature, host, &NONCE), "NotACertification");
    refused(judge(ak, &attest[..attest.len() - 1], signature, host, &NONCE), "Malformed");
    refused(judge(ak, attest, &signature[1..], host, &NONCE), "Signature");
    refused(judge(other.ak_public(), attest, signature, host, &NONCE), "SignatureInvalid");
    refused(judge(ak, attest, signature, host, &[0; 32]), "NonceMismatch");
    refused(judge(ak, attest, signature, other.host_public(), &NONCE), "NameMismatch");
    let quote = tpm.quote(&NONCE, &boot_pcrs()).unwrap();
    refused(judge(ak, &quote.attest, &quote.signature, host, &NONCE), "NotACertification");
}

#[test]
fn a_certified_key_that_could_be_duplicated_is_refused() {
    let (tpm, _) = booted(1);
    let mut bytes = tpm.host_public().bytes().to_vec();
    let loose = tpm.host_public().attributes().bits() & !Attributes::FIXED_PARENT;
    bytes[4..8].copy_from_slice(&loose.to_be_bytes());
    let subject = Public::parse(&bytes).unwrap();
    assert_eq!(subject.name_alg(), HashAlg::Sha256);
    let made = tpm.certify(&subject, &NONCE).unwrap();
    let result = verify_certification(tpm.ak_public(), &made.attest, &made.signature, &subject, &NONCE);
    refused(result, "SubjectUnfit");
}

#[test]
fn a_devices_key_is_certified_with_its_own_attributes() {
    let (tpm, _) = booted(1);
    let (other, _) = booted(2);
    let key = |attributes| SimulatedDeviceKey::new(attributes, &mut random(3)).unwrap();
    let device = key(SimulatedDeviceKey::ATTRIBUTES);
    let made = tpm.certify(device.public(), &NONCE).unwrap();
    let judge = |ak: &Public, subject: &Public, nonce: &[u8; 32]| {
        verify_device_certification(ak, &made.attest, &made.signature, subject, nonce)
    };
    assert_eq!(judge(tpm.ak_public(), device.public(), &NONCE).unwrap().public(), device.public());
    refused(judge(other.ak_public(), device.public(), &NONCE), "SignatureInvalid");
    refused(judge(tpm.ak_public(), device.public(), &[0; 32]), "NonceMismatch");
    // The same numbers with other attributes are another object, and a host key isn't a device's.
    let roaming = key(SimulatedDeviceKey::ATTRIBUTES | Attributes::NO_DA);
    refused(judge(tpm.ak_public(), roaming.public(), &NONCE), "NameMismatch");
    refused(judge(tpm.ak_public(), tpm.host_public(), &NONCE), "SubjectUnfit");
    let host = tpm.certify_host_key(&NONCE).unwrap();
    let host =
        verify_device_certification(tpm.ak_public(), &host.attest, &host.signature, device.public(), &NONCE);
    refused(host, "NameMismatch");
    // What only looks like an attestation is signed by the device's key itself, which signs anything.
    let signature = device.sign(&made.attest).unwrap();
    let forged =
        verify_device_certification(tpm.ak_public(), &made.attest, &signature, device.public(), &NONCE);
    refused(forged, "SignatureInvalid");
    refused(
        verify_device_certification(device.public(), &made.attest, &signature, device.public(), &NONCE),
        "KeyUnfit",
    );
}
