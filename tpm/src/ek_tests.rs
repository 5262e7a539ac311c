//! EK certificates: chains made here in every wrong way, and real ones from the vectors.

use std::slice::from_ref;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    date_time_ymd,
};

use super::*;
use crate::testing::{booted, each_bit_flip, variant};

/// 2026-01-01, inside the validity of everything made here.
const NOW: u64 = 1_767_225_600;
const YEAR: u64 = 365 * 86_400;
const EK_USAGE: [u64; 5] = [2, 23, 133, 8, 1];

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf() -> CertificateParams {
    let mut params = params("TPM");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_USAGE.to_vec())];
    params
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A certificate and what is needed to issue with it.
struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn root(params: CertificateParams) -> Authority {
    let key = p256();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn below(above: &Authority, params: CertificateParams) -> Authority {
    let key = p256();
    let der = params.signed_by(&key, &above.issuer).unwrap().der().to_vec();
    Authority { der, issuer: Issuer::new(params, key) }
}

fn issue(above: &Authority, params: &CertificateParams) -> Vec<u8> {
    params.signed_by(&p256(), &above.issuer).unwrap().der().to_vec()
}

#[track_caller]
fn refused(result: Result<VerifiedEk, EkRefusal>, name: &str) {
    assert_eq!(variant(&result.unwrap_err()), name);
}

#[test]
fn chains_of_every_allowed_length_and_algorithm_verify() {
    let top = root(authority("root"));
    let cert = issue(&top, &leaf());
    verify_ek_chain(&cert, &[], from_ref(&top.der), NOW).unwrap();
    let mut last = below(&top, authority("ca 1"));
    let mut between = vec![last.der.clone()];
    for n in 2..MAX_DEPTH {
        last = below(&last, authority(&format!("ca {n}")));
        between.insert(0, last.der.clone());
    }
    let cert = issue(&last, &leaf());
    let verified = verify_ek_chain(&cert, &between, from_ref(&top.der), NOW).unwrap();
    assert_eq!(verified.root_sha256().as_slice(), Sha256::digest(&top.der).as_slice());
    assert_eq!(verified.certificate_sha256().as_slice(), Sha256::digest(&cert).as_slice());
    let one_more = below(&last, authority("one more"));
    between.push(one_more.der.clone());
    refused(verify_ek_chain(&issue(&one_more, &leaf()), &between, from_ref(&top.der), NOW), "PathTooComplex");

    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let params = authority("root 384");
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let top = Authority { der, issuer: Issuer::new(params, key) };
    verify_ek_chain(&issue(&top, &leaf()), &[], &[top.der], NOW).unwrap();

    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let params = authority("root rsa");
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let top = Authority { der, issuer: Issuer::new(params, key) };
    verify_ek_chain(&issue(&top, &leaf()), &[], &[top.der], NOW).unwrap();
}

#[test]
fn padding_of_an_nv_index_is_cut_and_nothing_else() {
    let top = root(authority("root"));
    let cert = issue(&top, &leaf());
    for padding in [0x00, 0x11, 0xff] {
        let padded = [cert.as_slice(), &[padding; 300]].concat();
        verify_ek_chain(&padded, &[], from_ref(&top.der), NOW).unwrap();
    }
    let other = [cert.as_slice(), &[0x11, 0x11, 0x12]].concat();
    refused(verify_ek_chain(&other, &[], from_ref(&top.der), NOW), "TrailingBytes");
    let long = [cert.as_slice(), &[0; MAX_CERTIFICATE_BYTES]].concat();
    refused(verify_ek_chain(&long, &[], from_ref(&top.der), NOW), "TooLong");
    refused(verify_ek_chain(&cert[..cert.len() - 1], &[], &[], NOW), "Malformed");
    refused(verify_ek_chain(&[], &[], &[], NOW), "Malformed");
}

#[test]
fn time_is_looked_at_in_every_certificate() {
    let top = root(authority("root"));
    let cert = issue(&top, &leaf());
    refused(verify_ek_chain(&cert, &[], from_ref(&top.der), NOW + 5 * YEAR), "Expired");
    refused(verify_ek_chain(&cert, &[], from_ref(&top.der), NOW - 2 * YEAR), "NotYetValid");
    let mut old = authority("old ca");
    old.not_after = date_time_ymd(2025, 6, 1);
    let old = below(&top, old);
    refused(verify_ek_chain(&issue(&old, &leaf()), &[old.der], &[top.der], NOW), "Expired");
}

#[test]
fn an_issuer_must_be_known_and_really_have_signed() {
    let top = root(authority("root"));
    let cert = issue(&top, &leaf());
    refused(verify_ek_chain(&cert, &[], &[], NOW), "IssuerUnknown");
    refused(verify_ek_chain(&cert, &[], &[root(authority("another")).der], NOW), "IssuerUnknown");
    refused(verify_ek_chain(&cert, &[], &[root(authority("root")).der], NOW), "SignatureInvalid");
    // An intermediate of one's own making under a root's name does not become a root.
    refused(verify_ek_chain(&cert, from_ref(&top.der), &[], NOW), "IssuerUnknown");
    let many = vec![top.der.clone(); MAX_INTERMEDIATES + 1];
    refused(verify_ek_chain(&cert, &many, &[top.der], NOW), "TooManyIntermediates");
}

#[test]
fn loops_of_names_cost_no_more_than_the_budget() {
    // Certificates of one name and key, each of which certifies every other: every path is as good as any other.
    let params = authority("loop");
    let issuer = Issuer::new(params.clone(), p256());
    let ders: Vec<Vec<u8>> = (0..MAX_INTERMEDIATES)
        .map(|n| {
            let mut params = params.clone();
            params.serial_number = Some(rcgen::SerialNumber::from(u64::try_from(n).unwrap() + 1));
            params.signed_by(issuer.key(), &issuer).unwrap().der().to_vec()
        })
        .collect();
    let top = Authority { der: ders[0].clone(), issuer };
    let cert = issue(&top, &leaf());
    refused(verify_ek_chain(&cert, &ders, &[root(authority("root")).der], NOW), "PathTooComplex");
}

#[test]
fn only_authorities_may_issue() {
    let top = root(authority("root"));
    let mut plain = params("no authority");
    plain.is_ca = IsCa::ExplicitNoCa;
    let plain = below(&top, plain);
    let roots = from_ref(&top.der);
    refused(verify_ek_chain(&issue(&plain, &leaf()), &[plain.der], roots, NOW), "NotAnAuthority");
    let none = below(&top, params("no constraints"));
    refused(verify_ek_chain(&issue(&none, &leaf()), &[none.der], roots, NOW), "NotAnAuthority");
    let mut short = authority("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = below(&top, short);
    verify_ek_chain(&issue(&short, &leaf()), from_ref(&short.der), roots, NOW).unwrap();
    let beneath = below(&short, authority("beneath"));
    let result = verify_ek_chain(&issue(&beneath, &leaf()), &[short.der, beneath.der], roots, NOW);
    refused(result, "NotAnAuthority");
    let mut other_use = authority("crl only");
    other_use.key_usages = vec![KeyUsagePurpose::CrlSign];
    let other_use = below(&top, other_use);
    let result = verify_ek_chain(&issue(&other_use, &leaf()), &[other_use.der], roots, NOW);
    refused(result, "NotAnAuthority");
}

#[test]
fn only_certificates_for_endorsement_keys_are_taken() {
    let top = root(authority("root"));
    let judge =
        |params: &CertificateParams| verify_ek_chain(&issue(&top, params), &[], from_ref(&top.der), NOW);
    let mut without_purpose = leaf();
    without_purpose.extended_key_usages.clear();
    judge(&without_purpose).unwrap();
    // Whatever a manufacturer's authority signed beside its TPMs' certificates: a purpose alone doesn't make it one.
    let mut bare = leaf();
    bare.key_usages.clear();
    refused(judge(&bare), "NotAnEkCertificate");
    bare.extended_key_usages.clear();
    refused(judge(&bare), "NotAnEkCertificate");
    let mut other = leaf();
    other.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(judge(&other), "NotAnEkCertificate");
    let mut any = leaf();
    any.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    refused(judge(&any), "NotAnEkCertificate");
    // An empty list of usages allows nothing.
    let mut empty = leaf();
    empty.extended_key_usages.clear();
    empty.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 37], vec![0x30, 0])];
    refused(judge(&empty), "NotAnEkCertificate");
    for usage in [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment] {
        let mut signing = leaf();
        signing.key_usages = vec![usage];
        refused(judge(&signing), "NotAnEkCertificate");
    }
    refused(judge(&authority("an authority")), "NotAnEkCertificate");
}

#[test]
fn unknown_critical_and_repeated_extensions_are_refused() {
    let top = root(authority("root"));
    let judge =
        |params: &CertificateParams| verify_ek_chain(&issue(&top, params), &[], from_ref(&top.der), NOW);
    let mut odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    let mut params = leaf();
    params.custom_extensions = vec![odd.clone()];
    judge(&params).unwrap();
    odd.set_criticality(true);
    params.custom_extensions = vec![odd.clone()];
    refused(judge(&params), "CriticalExtension");
    odd.set_criticality(false);
    params.custom_extensions = vec![odd.clone(), odd];
    refused(judge(&params), "RepeatedExtension");
}

#[test]
fn other_signature_algorithms_are_refused_before_they_are_tried() {
    let top = root(authority("root"));
    let mut cert = issue(&top, &leaf());
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA1 (1.2.840.10045.4.1 is shorter) or SHA224: the latter has the same length.
    let from = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let mut places = 0;
    for at in 0..cert.len() - from.len() {
        if cert[at..].starts_with(&from) {
            cert[at + 7] = 0x01;
            places += 1;
        }
    }
    assert_eq!(places, 2);
    refused(verify_ek_chain(&cert, &[], from_ref(&top.der), NOW), "SignatureAlgorithm");
    // The two copies must agree.
    let last = (0..cert.len() - 8).rev().find(|at| cert[*at..].starts_with(&from[..7])).unwrap();
    cert[last + 7] = 0x02;
    refused(verify_ek_chain(&cert, &[], &[top.der], NOW), "Malformed");
}

/// A key that cannot sign its own request, as an endorsement key.
struct EkPoint(Vec<u8>);

impl rcgen::PublicKeyData for EkPoint {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn the_certified_key_must_be_the_tpms() {
    let (tpm, _) = booted(1);
    let (other, _) = booted(2);
    let top = root(authority("root"));
    let key = EkPoint(tpm.ek_public().key().sec1().unwrap());
    let cert = leaf().signed_by(&key, &top.issuer).unwrap().der().to_vec();
    let verified = verify_ek_chain(&cert, &[], &[top.der], NOW).unwrap();
    assert_eq!(verified.public_key(), tpm.ek_public().key());
    assert_eq!(require_same_key(&verified, tpm.ek_public()), Ok(()));
    assert_eq!(require_same_key(&verified, other.ek_public()), Err(EkRefusal::KeyMismatch));
}

#[test]
fn a_key_that_is_none_of_ours_is_refused() {
    let top = root(authority("root"));
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let cert = leaf().signed_by(&key, &top.issuer).unwrap().der().to_vec();
    refused(verify_ek_chain(&cert, &[], &[top.der], NOW), "Key");
}

#[test]
fn issuers_are_checked_when_they_are_configured() {
    let top = root(authority("root"));
    assert_eq!(check_issuer(&top.der), Ok(()));
    assert_eq!(check_issuer(&issue(&top, &leaf())), Err(EkRefusal::NotAnAuthority));
    assert_eq!(check_issuer(b"no certificate"), Err(EkRefusal::Malformed("certificate")));
}

#[test]
fn the_entity_id_depends_on_the_key_alone() {
    let (tpm, _) = booted(1);
    let id = ueid(tpm.ek_public());
    assert_eq!(id[0], 1);
    assert_eq!(id[1..], Sha256::digest(tpm.ek_public().spki_der())[..]);
    assert_ne!(ueid(booted(2).0.ek_public()), id);
}

#[test]
fn no_bit_of_a_certificate_may_change() {
    let top = root(authority("root"));
    let cert = issue(&top, &leaf());
    each_bit_flip(&cert, |flipped| {
        assert!(verify_ek_chain(flipped, &[], from_ref(&top.der), NOW).is_err());
    });
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = verify_ek_chain(&bytes, from_ref(&bytes), from_ref(&bytes), NOW);
    }
}

#[test]
fn certificates_in_one_place_are_taken_apart_and_anything_else_there_is_refused() {
    let (one, two) = (vec![0x30, 3, 1, 2, 3], vec![0x30, 0]);
    let both = [one.clone(), two.clone()];
    let split = |parts: &[&[u8]]| split_certificates(&parts.concat());
    assert_eq!(split(&[&one]).unwrap(), &both[..1]);
    assert_eq!(split(&[&one, &two]).unwrap(), both);
    for padding in [[0xff; 9], [0; 9]] {
        assert_eq!(split(&[&one, &two, &padding]).unwrap(), both);
        assert_eq!(split(&[&padding]).unwrap_err(), EkRefusal::Malformed("certificates"));
    }
    assert_eq!(split(&[]).unwrap_err(), EkRefusal::Malformed("certificates"));
    assert_eq!(split(&[&one, &[0, 1]]).unwrap_err(), EkRefusal::TrailingBytes(2));
    assert_eq!(split(&[&one, &[0x30, 9, 1]]).unwrap_err(), EkRefusal::Malformed("certificates"));
    let many = two.repeat(MAX_INTERMEDIATES + 2);
    assert!(matches!(split(&[&many]).unwrap_err(), EkRefusal::TooManyIntermediates(_)));
    assert_eq!(split(&[&many[..2 * (MAX_INTERMEDIATES + 1)]]).unwrap().len(), MAX_INTERMEDIATES + 1);
    let long = [&[0x30, 0x82, 0x20, 0x01][..], &[7; 0x2001]].concat();
    assert!(matches!(split(&[&long]).unwrap_err(), EkRefusal::TooLong(_)));
}
