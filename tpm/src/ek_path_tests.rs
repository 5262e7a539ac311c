//! Paths: revocation, policies, purposes, every algorithm, attestation key certificates, and bytes that an enemy chose.

use std::slice::from_ref;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256, PKCS_RSA_SHA512, RevokedCertParams,
    RsaKeySize, SerialNumber, date_time_ymd,
};

use super::*;
use crate::testing::{booted, variant};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 86_400;

fn params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = params(name, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn usage(last: u64) -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last])
}

fn ek(serial: u64) -> CertificateParams {
    let mut params = params("TPM", serial);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![usage(1)];
    params
}

/// A certificatePolicies extension with one policy.
fn policy(oid: &[u8]) -> CustomExtension {
    let inner = [&[0x06, u8::try_from(oid.len()).unwrap()], oid].concat();
    let wrap = |content: &[u8]| [&[0x30, u8::try_from(content.len()).unwrap()], content].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 32], wrap(&wrap(&inner)))
}

const POLICY: &[u8] = &[0x2a, 0x03, 0x04];
const ANY_POLICY: &[u8] = &[0x55, 0x1d, 0x20, 0x00];

struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn root_with(params: CertificateParams, key: KeyPair) -> Authority {
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn root() -> Authority {
    root_with(authority("root", 1), p256())
}

fn below(above: &Authority, params: CertificateParams) -> Authority {
    let key = p256();
    let der = params.signed_by(&key, &above.issuer).unwrap().der().to_vec();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn issue(above: &Authority, params: &CertificateParams) -> Vec<u8> {
    params.signed_by(&p256(), &above.issuer).unwrap().der().to_vec()
}

/// A list of the whole of 2026 unless the years say otherwise.
fn crl(by: &Authority, serials: &[u64], years: (i32, i32)) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2025, 6, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(years.0, 1, 1),
        next_update: date_time_ymd(years.1, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&by.issuer).unwrap().der().to_vec()
}

fn trusting(roots: &[&Authority]) -> TrustStore {
    let mut store = TrustStore::new();
    for root in roots {
        store.add_root(&root.der).unwrap();
    }
    store
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, EkRefusal>, name: &str) {
    assert_eq!(variant(&result.unwrap_err()), name);
}

#[test]
fn a_revoked_certificate_is_refused_and_so_is_one_under_a_revoked_authority() {
    let top = root();
    let middle = below(&top, authority("middle", 300));
    let certs = [issue(&middle, &ek(7)), issue(&middle, &ek(8))];
    let mut store = trusting(&[&top]);
    store.add_intermediate(&middle.der).unwrap();
    for cert in &certs {
        store.verify_ek(cert, &[], NOW).unwrap();
    }
    let mut one = store.clone();
    one.add_crl(&crl(&middle, &[7, 70], (2026, 2027))).unwrap();
    refused(one.verify_ek(&certs[0], &[], NOW), "Revoked");
    one.verify_ek(&certs[1], &[], NOW).unwrap();
    // The list of another issuer with the same serial numbers says nothing.
    let mut other = store.clone();
    other.add_crl(&crl(&top, &[7], (2026, 2027))).unwrap();
    other.verify_ek(&certs[0], &[], NOW).unwrap();
    // Of the same name, but by another key.
    let forged = below(&root(), authority("middle", 300));
    let mut other = store.clone();
    other.add_crl(&crl(&forged, &[7], (2026, 2027))).unwrap();
    other.verify_ek(&certs[0], &[], NOW).unwrap();
    let mut above = store.clone();
    above.add_crl(&crl(&top, &[300], (2026, 2027))).unwrap();
    for cert in &certs {
        refused(above.verify_ek(cert, &[], NOW), "Revoked");
    }
    assert_eq!(above.counts(), (1, 1, 1));
}

#[test]
fn a_revocation_list_that_has_ended_vouches_for_nothing_and_still_revokes() {
    let top = root();
    let (good, bad) = (issue(&top, &ek(7)), issue(&top, &ek(8)));
    let mut store = trusting(&[&top]);
    store.require_crls();
    refused(store.verify_ek(&good, &[], NOW), "CrlMissing");
    store.add_crl(&crl(&top, &[8], (2025, 2026))).unwrap();
    store.verify_ek(&good, &[], NOW - DAY).unwrap();
    store.verify_ek(&good, &[], NOW).unwrap();
    refused(store.verify_ek(&good, &[], NOW + DAY), "CrlStale");
    refused(store.verify_ek(&bad, &[], NOW + DAY), "Revoked");
    // A newer list beside it is enough, and what the old one revoked stays revoked.
    store.add_crl(&crl(&top, &[], (2026, 2027))).unwrap();
    store.verify_ek(&good, &[], NOW + DAY).unwrap();
    refused(store.verify_ek(&bad, &[], NOW + DAY), "Revoked");
    // One of the future doesn't speak yet.
    let mut store = trusting(&[&top]);
    store.add_crl(&crl(&top, &[], (2027, 2028))).unwrap();
    refused(store.verify_ek(&good, &[], NOW), "CrlStale");
}

#[test]
fn a_stranger_who_takes_an_issuers_name_has_no_list_verified() {
    let top = root();
    let mut store = trusting(&[&top]);
    // More lists in the root's name than signatures that one question may cost.
    let stranger = root();
    for _ in 0..=MAX_SIGNATURE_CHECKS {
        store.add_crl(&crl(&stranger, &[], (2026, 2027))).unwrap();
    }
    let between = below(&stranger, authority("middle", 2));
    let cert = issue(&between, &ek(7));
    let sent = [between.der, stranger.der.clone()];
    refused(store.verify_ek(&cert, &sent, NOW), "SignatureInvalid");
    // Whoever has a genuine certificate meets them: forged lists in an operator's directory admit nobody.
    refused(store.verify_ek(&issue(&top, &ek(8)), &[], NOW), "PathTooComplex");
}

#[test]
fn constraints_that_nobody_here_understands_refuse_wherever_they_stand() {
    // nameConstraints, policyMappings, policyConstraints, inhibitAnyPolicy. RFC 5280 §4.2.1.5, .10, .11, .14.
    for last in [30_u64, 33, 36, 54] {
        let critical = || {
            let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, last], vec![0x30, 0x00]);
            extension.set_criticality(true);
            extension
        };
        let top = root();
        let mut params = authority("constrained", 2);
        params.custom_extensions = vec![critical()];
        let between = below(&top, params);
        let cert = issue(&between, &ek(7));
        // What can't be read is no candidate, and in an operator's directory a mistake.
        refused(trusting(&[&top]).verify_ek(&cert, from_ref(&between.der), NOW), "IssuerUnknown");
        refused(trusting(&[&top]).add_intermediate(&between.der), "CriticalExtension");
        let mut params = ek(8);
        params.custom_extensions = vec![critical()];
        refused(trusting(&[&top]).verify_ek(&issue(&top, &params), &[], NOW), "CriticalExtension");
    }
}

#[test]
fn of_two_certificates_in_one_place_none_is_taken() {
    let top = root();
    let store = trusting(&[&top]);
    let (first, second) = (issue(&top, &ek(7)), issue(&top, &ek(8)));
    refused(store.verify_ek(&[first.clone(), second.clone()].concat(), &[], NOW), "TrailingBytes");
    let wrapped =
        [&[0x30, 0x82], &u16::try_from(first.len() + second.len()).unwrap().to_be_bytes()[..]].concat();
    let nested = [wrapped, first, second].concat();
    refused(store.verify_ek(&nested, &[], NOW), "Malformed");
}

#[test]
fn revocation_lists_that_do_not_speak_for_all_or_are_no_lists_are_refused() {
    let top = root();
    let mut store = trusting(&[&top]);
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2027, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint { uris: vec!["http://crl.example".to_owned()] },
            scope: Some(rcgen::CrlScope::CaCertsOnly),
        }),
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let partial = params.signed_by(&top.issuer).unwrap();
    refused(store.add_crl(partial.der()), "CriticalExtension");
    let mut whole = params;
    whole.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
        distribution_point: rcgen::CrlDistributionPoint { uris: vec!["http://crl.example".to_owned()] },
        scope: None,
    });
    store.add_crl(whole.signed_by(&top.issuer).unwrap().der()).unwrap();
    refused(store.add_crl(&top.der), "Malformed");
    refused(store.add_crl(&vec![0x30; MAX_CRL_BYTES + 1]), "TooLong");
    // Every bit of a list counts: it is refused, or it isn't the issuer's word any more.
    let der = crl(&top, &[7], (2026, 2027));
    let cert = issue(&top, &ek(7));
    crate::testing::each_bit_flip(&der, |flipped| {
        let mut store = trusting(&[&top]);
        store.require_crls();
        if store.add_crl(flipped).is_ok() {
            refused(store.verify_ek(&cert, &[], NOW), "CrlMissing");
        }
    });
}

#[test]
fn a_demanded_policy_must_be_asserted_all_the_way() {
    let top = root();
    let judge = |middle: Option<&[u8]>, leaf: Option<&[u8]>| {
        let mut store = trusting(&[&top]);
        store.demand_policy("1.2.3.4").unwrap();
        store.demand_policy("1.2.9.9").unwrap();
        let mut authority = authority("middle", 2);
        authority.custom_extensions = middle.map(policy).into_iter().collect();
        let middle = below(&top, authority);
        let mut ek = ek(7);
        ek.custom_extensions = leaf.map(policy).into_iter().collect();
        store.verify_ek(&issue(&middle, &ek), &[middle.der], NOW)
    };
    judge(Some(POLICY), Some(POLICY)).unwrap();
    judge(Some(ANY_POLICY), Some(POLICY)).unwrap();
    for (middle, leaf) in [
        (Some(POLICY), None),
        (None, Some(POLICY)),
        (Some(POLICY), Some(ANY_POLICY)),
        (Some(POLICY), Some(&[0x2a, 0x03, 0x05][..])),
    ] {
        refused(judge(middle, leaf), "PolicyMissing");
    }
    refused(TrustStore::new().demand_policy("not an identifier"), "Malformed");
}

#[test]
fn an_intermediate_for_another_purpose_issues_no_endorsement() {
    let top = root();
    let judge = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        let mut middle = authority("middle", 2);
        middle.extended_key_usages = purposes;
        let middle = below(&top, middle);
        trusting(&[&top]).verify_ek(&issue(&middle, &ek(7)), &[middle.der], NOW)
    };
    judge(Vec::new()).unwrap();
    judge(vec![usage(1)]).unwrap();
    judge(vec![ExtendedKeyUsagePurpose::Any]).unwrap();
    refused(judge(vec![ExtendedKeyUsagePurpose::ServerAuth]), "NotAnAuthority");
    refused(judge(vec![usage(3)]), "NotAnAuthority");
}

#[test]
fn every_issuer_key_that_manufacturers_use_verifies() {
    let rsa = |algorithm, size| KeyPair::generate_rsa_for(algorithm, size).unwrap();
    let keys = [
        rsa(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        rsa(&PKCS_RSA_SHA512, RsaKeySize::_4096),
        KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap(),
    ];
    for (key, kind) in keys.into_iter().zip(["RSA-3072", "RSA-4096", "P-521"]) {
        let top = root_with(authority("root", 1), key);
        let issuer = describe_issuer(&top.der).unwrap();
        assert!(issuer.self_signed && issuer.self_issued);
        assert_eq!((issuer.key.as_str(), issuer.subject.as_str()), (kind, "CN=root"));
        let cert = issue(&top, &ek(7));
        trusting(&[&top]).verify_ek(&cert, &[], NOW).unwrap();
        let mut bad = cert;
        let last = bad.len() - 1;
        bad[last] ^= 1;
        assert!(trusting(&[&top]).verify_ek(&bad, &[], NOW).is_err());
    }
}

/// Made with OpenSSL: a root (RSA-3072), then certificates that it signed with PSS and SHA-384; with a salt of 20 bytes; with SHA-1; with a
/// mask of SHA-256.
#[test]
fn pss_needs_one_hash_and_a_salt_of_its_length() {
    let ders: Vec<Vec<u8>> = include_str!("ek/testdata/pss.pem")
        .split_inclusive("-----END CERTIFICATE-----\n")
        .map(|block| der::pem::decode_vec(block.as_bytes()).unwrap().1)
        .collect();
    let [root, good, others @ ..] = &ders[..] else { panic!("five certificates") };
    let now = describe_issuer(root).unwrap().not_before + 1;
    assert!(describe_issuer(root).unwrap().self_signed);
    verify_ek_chain(good, &[], from_ref(root), now).unwrap();
    assert_eq!(others.len(), 3);
    for other in others {
        refused(verify_ek_chain(other, &[], from_ref(root), now), "SignatureAlgorithm");
    }
}

struct Point(Vec<u8>);

impl rcgen::PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn an_attestation_key_certificate_says_that_its_issuer_saw_the_key_in_a_tpm() {
    const RESTRICTED: &[u8] = &[0x67, 0x81, 0x05, 0x0b, 0x01, 0x03];
    let (tpm, _) = booted(1);
    let (other, _) = booted(2);
    let top = root();
    let point = Point(tpm.ak_public().key().sec1().unwrap());
    let judge =
        |purposes: Vec<ExtendedKeyUsagePurpose>, policies: Option<&[u8]>, use_: Option<KeyUsagePurpose>| {
            let mut iak = params("server 1", 9);
            iak.is_ca = IsCa::ExplicitNoCa;
            iak.key_usages = use_.into_iter().collect();
            iak.extended_key_usages = purposes;
            iak.custom_extensions = policies.map(policy).into_iter().collect();
            let der = iak.signed_by(&point, &top.issuer).unwrap().der().to_vec();
            trusting(&[&top]).verify_iak(&der, &[], NOW)
        };
    let signs = Some(KeyUsagePurpose::DigitalSignature);
    let good = judge(vec![usage(3)], None, signs).unwrap();
    assert_eq!(good.public_key(), tpm.ak_public().key());
    assert_eq!((good.subject(), good.chain().len(), good.tpm()), ("CN=server 1", 1, None));
    assert_eq!(require_same_ak(&good, tpm.ak_public()), Ok(()));
    assert_eq!(require_same_ak(&good, other.ak_public()), Err(EkRefusal::KeyMismatch));
    judge(Vec::new(), Some(RESTRICTED), signs).unwrap();
    for (purposes, policies, use_) in [
        (Vec::new(), None, signs),
        (vec![ExtendedKeyUsagePurpose::ServerAuth], None, signs),
        // An explicit other purpose isn't outdone by a policy.
        (vec![ExtendedKeyUsagePurpose::ServerAuth], Some(RESTRICTED), signs),
        (vec![usage(1)], None, signs),
        (Vec::new(), Some(POLICY), signs),
        (vec![usage(3)], None, Some(KeyUsagePurpose::KeyAgreement)),
        // The right purpose, and no word of what the key is used for.
        (vec![usage(3)], None, None),
    ] {
        refused(judge(purposes, policies, use_), "NotAnIakCertificate");
    }
    refused(trusting(&[&top]).verify_iak(&issue(&top, &ek(7)), &[], NOW), "NotAnIakCertificate");
}

#[test]
fn a_store_refuses_what_could_never_serve_and_keeps_one_of_each() {
    let top = root();
    let mut store = TrustStore::new();
    store.add_root(&top.der).unwrap();
    store.add_root(&top.der).unwrap();
    assert_eq!(store.counts(), (1, 0, 0));
    refused(store.add_root(&issue(&top, &ek(7))), "NotAnAuthority");
    refused(store.add_intermediate(b"no certificate"), "Malformed");
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    refused(store.add_root(&root_with(authority("odd", 1), key).der), "Key");
}

proptest::proptest! {
    /// Real certificates with some bytes replaced: read or refused.
    #[test]
    fn damaged_certificates_and_lists_never_panic(
        which in 0_usize..180, changes in proptest::collection::vec((0_usize..2_000, proptest::num::u8::ANY), 1..8),
    ) {
        let mut der = bundled().unwrap()[which].der.clone();
        for (at, value) in changes {
            let length = der.len();
            der[at % length] = value;
        }
        let _ = describe_issuer(&der);
        let mut store = TrustStore::new();
        let _ = (store.add_root(&der), store.add_intermediate(&der), store.add_crl(&der));
        let _ = (store.verify_ek(&der, from_ref(&der), NOW), store.verify_iak(&der, from_ref(&der), NOW));
        let _ = store.verify_device(&der, from_ref(&der), NOW);
    }

    #[test]
    fn no_bytes_make_a_list_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = TrustStore::new().add_crl(&bytes);
    }
}
