//! Certificates of devices' keys: which are taken, what they say, and everything that only looks like one.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};

use super::*;
use crate::testing::{booted, variant};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
const SERIAL: [u64; 4] = [2, 5, 4, 5];

struct Maker {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn maker(shape: impl FnOnce(&mut CertificateParams)) -> Maker {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "maker of machines");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    shape(&mut params);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Maker { der, issuer: Issuer::new(params, key) }
}

fn device() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "machine");
    params.distinguished_name.push(DnType::CustomDnType(SERIAL.to_vec()), "SN-0001");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = date_time_ymd(2025, 1, 1);
    // IEEE 802.1AR, 8.7: the end of time.
    params.not_after = date_time_ymd(9999, 12, 31);
    params
}

/// The low form of DER is enough for what tests write.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).unwrap();
    let length = if length < 0x80 { vec![length] } else { vec![0x81, length] };
    [&[tag][..], &length, &content].concat()
}

/// otherName with a hardwareModuleName.
fn module(kind: &[u8], serial: &[u8]) -> Vec<u8> {
    let name = der(0x30, &[&der(0x06, &[kind]), &der(0x04, &[serial])]);
    let oid = der(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 8, 4]]);
    der(0xa0, &[&oid, &der(0xa0, &[&name])])
}

fn alt_names(names: &[&[u8]]) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, names))
}

/// tcg-sv-tpm20, 2.23.133.1.2.
const TPM20: &[u8] = &[0x67, 0x81, 0x05, 0x01, 0x02];

fn judge(shape: impl FnOnce(&mut CertificateParams)) -> Result<VerifiedDevice, EkRefusal> {
    let maker = maker(|_| ());
    let mut params = device();
    shape(&mut params);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.signed_by(&key, &maker.issuer).unwrap();
    let mut store = TrustStore::new();
    store.add_root(&maker.der).unwrap();
    store.verify_device(certificate.der(), &[], NOW)
}

#[test]
fn a_device_is_named_by_serial_number_and_by_hardware_module() {
    let plain = judge(|_| ()).unwrap();
    assert_eq!(*plain.names(), DeviceNames { serial: Some("SN-0001".to_owned()), hardware: None });
    assert_eq!(plain.chain().len(), 1);
    let hardware = HardwareModule { kind: "2.23.133.1.2".to_owned(), serial: b"STM:00ff".to_vec() };
    let both = judge(|params| {
        let mail = der(0x81, &[b"a@b.example"]);
        params.custom_extensions = vec![alt_names(&[&mail, &module(TPM20, b"STM:00ff")])];
    });
    assert_eq!(both.unwrap().names().hardware.as_ref(), Some(&hardware));
    let alone = judge(|params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "machine");
        params.custom_extensions = vec![alt_names(&[&module(TPM20, b"STM:00ff")])];
    });
    assert_eq!(*alone.unwrap().names(), DeviceNames { serial: None, hardware: Some(hardware) });
    // Purposes, if there are any, are to show who one is.
    for purpose in [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::Any] {
        judge(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, purpose])
            .unwrap();
    }
}

#[test]
fn what_names_no_device_or_one_twice_is_refused() {
    let refused = |shape: &dyn Fn(&mut CertificateParams), name: &str| {
        assert_eq!(variant(&judge(shape).unwrap_err()), name);
    };
    let named = |params: &mut CertificateParams, serials: &[&str]| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "machine");
        for serial in serials {
            params.distinguished_name.push(DnType::CustomDnType(SERIAL.to_vec()), *serial);
        }
    };
    refused(&|params| named(params, &[]), "NamesNoDevice");
    let other = der(0xa0, &[&der(0x06, &[&[0x2a, 3, 4]]), &der(0xa0, &[&der(0x0c, &[b"x"])])]);
    let passed_over = |params: &mut CertificateParams| {
        named(params, &[]);
        params.custom_extensions = vec![alt_names(&[&other])];
    };
    refused(&passed_over, "NamesNoDevice");
    refused(&|params| named(params, &[""]), "Malformed");
    refused(&|params| named(params, &[&"9".repeat(65)]), "Malformed");
    refused(&|params| named(params, &["SN\u{0435}"]), "Malformed");
    refused(&|params| named(params, &["SN\n1"]), "Malformed");
    let one = module(TPM20, b"1");
    for names in [
        vec![one.clone(), module(TPM20, b"2")],
        vec![module(TPM20, b"")],
        // The value isn't a hardwareModuleName, or more than one.
        vec![der(0xa0, &[&der(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 8, 4]]), &der(0xa0, &[&der(0x0c, &[b"x"])])])],
        vec![der(0xa0, &[&der(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 8, 4]])])],
    ] {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        refused(&|params| params.custom_extensions = vec![alt_names(&names)], "Malformed");
    }
}

#[test]
fn certificates_of_other_things_are_no_devices() {
    let refused = |shape: &dyn Fn(&mut CertificateParams), name: &str| {
        assert_eq!(variant(&judge(shape).unwrap_err()), name);
    };
    let other = "NotADeviceCertificate";
    refused(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), other);
    refused(&|params| params.key_usages = Vec::new(), other);
    refused(&|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement], other);
    refused(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), other);
    refused(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], other);
    // An EK's, an AK's, beside a purpose that would do.
    for last in [1, 3] {
        let purposes = vec![
            ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last]),
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        refused(&|params| params.extended_key_usages.clone_from(&purposes), other);
    }
    // tcg-cap-verifiedTPMRestricted: the key is an attestation key.
    let policy = der(0x30, &[&der(0x30, &[&der(0x06, &[&[0x67, 0x81, 0x05, 0x0b, 0x01, 0x03]])])]);
    let restricted = CustomExtension::from_oid_content(&[2, 5, 29, 32], policy);
    refused(&|params| params.custom_extensions = vec![restricted.clone()], other);
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    unknown.set_criticality(true);
    refused(&|params| params.custom_extensions = vec![unknown.clone()], "CriticalExtension");
    refused(&|params| params.not_after = date_time_ymd(2025, 6, 1), "Expired");
    refused(&|params| params.not_before = date_time_ymd(2027, 1, 1), "NotYetValid");
}

#[test]
fn the_path_is_the_operators_and_the_key_the_tpms() {
    let (trusted, stranger) = (maker(|_| ()), maker(|_| ()));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut store = TrustStore::new();
    store.add_root(&trusted.der).unwrap();
    let of_stranger = device().signed_by(&key, &stranger.issuer).unwrap();
    let refusal =
        store.verify_device(of_stranger.der(), std::slice::from_ref(&stranger.der), NOW).unwrap_err();
    assert_eq!(variant(&refusal), "SignatureInvalid");
    assert_eq!(
        variant(&TrustStore::new().verify_device(of_stranger.der(), &[], NOW).unwrap_err()),
        "IssuerUnknown"
    );
    // An authority itself isn't a device, and one for servers alone issues none.
    assert_eq!(variant(&store.verify_device(&trusted.der, &[], NOW).unwrap_err()), "NotADeviceCertificate");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "servers");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let between = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let der = params.signed_by(&between, &trusted.issuer).unwrap().der().to_vec();
    let below = device().signed_by(&key, &Issuer::new(params, between)).unwrap();
    assert_eq!(variant(&store.verify_device(below.der(), &[der], NOW).unwrap_err()), "NotAnAuthority");
    let good =
        store.verify_device(device().signed_by(&key, &trusted.issuer).unwrap().der(), &[], NOW).unwrap();
    let (tpm, _) = booted(1);
    assert_eq!(require_same_device_key(&good, tpm.host_public()), Err(EkRefusal::KeyMismatch));
}
