//! Public areas: what is read, what is refused, and what each role demands.

use super::*;
use crate::testing::{booted, each_bit_flip, json, random, vectors};
use crate::wire::Writer;

/// An ECC public area with these attributes, scheme and symmetric part, otherwise that of the simulated AK.
fn ecc(attributes: u32, scheme: &[u16], symmetric: &[u16]) -> Public {
    let (tpm, _) = booted(1);
    let PublicKey::Ecc { x, y, .. } = tpm.ak_public().key().clone() else { panic!("AK is ECC") };
    let mut writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&[]).unwrap();
    for word in symmetric.iter().chain(scheme) {
        writer = writer.u16(*word);
    }
    let writer = writer.u16(3).u16(id::NULL).tpm2b(&x).unwrap().tpm2b(&y).unwrap();
    Public::parse(&writer.into_bytes()).unwrap()
}

const NO_SYMMETRIC: &[u16] = &[id::NULL];
const AES_128_CFB: &[u16] = &[id::AES, 128, id::CFB];
const ECDSA_SHA256: &[u16] = &[id::ECDSA, id::SHA256];
const AK: u32 = BOUND | Attributes::RESTRICTED | Attributes::SIGN | Attributes::USER_WITH_AUTH;
const HOST: u32 = BOUND | Attributes::SIGN | Attributes::USER_WITH_AUTH;
const EK: u32 = BOUND | Attributes::RESTRICTED | Attributes::DECRYPT;

#[test]
fn reads_the_real_rsa_key_of_the_vectors_and_computes_its_name() {
    let Some(folder) = vectors("quote") else { return };
    let file = json(&folder.join("go-attestation/windows_gcp_shielded_vm.json"));
    let bytes = data_encoding::BASE64.decode(file["AK"]["Public"].as_str().unwrap().as_bytes()).unwrap();
    let public = Public::parse(&bytes).unwrap();
    let expected = json(&folder.join("expected.json"));
    let expected = &expected["items"]["go-attestation/windows_gcp_shielded_vm.json"]["ak"];
    let name = data_encoding::HEXLOWER.encode(public.name().as_bytes());
    assert_eq!(name, expected["name"].as_str().unwrap());
    assert_eq!(public.attributes().bits(), 0x0005_0472);
    assert_eq!(public.scheme(), Some(Scheme::RsaSsa(HashAlg::Sha1)));
    assert!(matches!(public.key(), PublicKey::Rsa { n, e: 65_537 } if n.len() == 256));
    // Its scheme hashes with SHA-1, so it may not attest here.
    assert_eq!(require_attestation_key(&public), Err(AttributeRefusal::Scheme));
}

#[test]
fn keeps_the_exact_bytes_and_reads_both_forms() {
    let (tpm, _) = booted(1);
    let bytes = tpm.ek_public_tpmt();
    let public = Public::parse(bytes).unwrap();
    assert_eq!(public.bytes(), bytes);
    let sized = Writer::new().tpm2b(bytes).unwrap().into_bytes();
    assert_eq!(Public::from_tpm2b(&sized).unwrap(), public);
    assert!(Public::from_tpm2b(&[sized.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn refuses_left_over_bytes_other_types_reserved_bits_and_points_off_the_curve() {
    let (tpm, _) = booted(1);
    let good = tpm.ak_public().bytes().to_vec();
    assert!(matches!(Public::parse(&[good.as_slice(), &[0]].concat()), Err(PublicError::Wire(_))));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Public::parse(&bytes)
    };
    assert_eq!(with(1, 0x08), Err(PublicError::Type(0x0008)));
    assert_eq!(with(4, 0x80), Err(PublicError::ReservedAttribute));
    assert!(matches!(with(3, 0x12), Err(PublicError::Algorithm(UnknownAlgorithm { id: 0x0012 }))));
    let last = good.len() - 1;
    assert_eq!(with(last, good[last] ^ 1), Err(PublicError::Key(KeyError::Point)));
    assert_eq!(
        Public::parse(&vec![0; MAX_PUBLIC_BYTES + 1]),
        Err(PublicError::TooLong(MAX_PUBLIC_BYTES + 1))
    );
}

#[test]
fn a_policy_that_is_no_digest_is_refused() {
    let bytes = Writer::new().u16(id::ECC).u16(id::SHA256).u32(AK).tpm2b(&[7; 20]).unwrap().into_bytes();
    assert_eq!(Public::parse(&bytes), Err(PublicError::PolicyLength(20)));
}

#[test]
fn one_flipped_bit_changes_the_name_or_is_refused() {
    let (tpm, _) = booted(1);
    let good = tpm.ek_public();
    each_bit_flip(good.bytes(), |flipped| {
        if let Ok(other) = Public::parse(flipped) {
            assert_ne!(other.name(), good.name());
        }
    });
}

#[test]
fn spki_is_encoded_from_the_numbers_and_read_back() {
    let (tpm, _) = booted(1);
    let key = tpm.ek_public().key();
    assert_eq!(&PublicKey::from_spki_der(&tpm.ek_public().spki_der()).unwrap(), key);
    let mut modulus = vec![0; 256];
    random(9)(&mut modulus);
    modulus[0] |= 0x80;
    modulus[255] |= 1;
    let rsa = PublicKey::rsa(&modulus, 65_537).unwrap();
    assert_eq!(PublicKey::from_spki_der(&rsa.spki_der()), Ok(rsa));
}

#[test]
fn an_attestation_key_is_bound_restricted_and_signs_with_a_fixed_scheme() {
    let check = |attributes, scheme, expect| {
        assert_eq!(require_attestation_key(&ecc(attributes, scheme, NO_SYMMETRIC)), expect);
    };
    check(AK, ECDSA_SHA256, Ok(()));
    check(AK & !Attributes::FIXED_TPM, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(AK & !Attributes::FIXED_PARENT, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(AK & !Attributes::SENSITIVE_DATA_ORIGIN, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(AK & !Attributes::RESTRICTED, ECDSA_SHA256, Err(AttributeRefusal::NotRestricted));
    check(AK & !Attributes::SIGN, ECDSA_SHA256, Err(AttributeRefusal::NotSigning));
    check(AK | Attributes::DECRYPT, ECDSA_SHA256, Err(AttributeRefusal::Decrypting));
    check(AK | Attributes::X509_SIGN, ECDSA_SHA256, Err(AttributeRefusal::X509Only));
    check(AK, &[id::NULL], Err(AttributeRefusal::Scheme));
    check(AK, &[id::ECDSA, id::SHA1], Err(AttributeRefusal::Scheme));
}

#[test]
fn a_host_key_is_bound_unrestricted_and_p256() {
    let check = |attributes, scheme, expect| {
        assert_eq!(require_host_key(&ecc(attributes, scheme, NO_SYMMETRIC)), expect);
    };
    check(HOST, ECDSA_SHA256, Ok(()));
    check(HOST, &[id::NULL], Ok(()));
    check(HOST & !Attributes::FIXED_TPM, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(HOST | Attributes::RESTRICTED, ECDSA_SHA256, Err(AttributeRefusal::Restricted));
    check(HOST & !Attributes::SIGN, ECDSA_SHA256, Err(AttributeRefusal::NotSigning));
    check(HOST | Attributes::DECRYPT, ECDSA_SHA256, Err(AttributeRefusal::Decrypting));
    check(HOST, &[id::ECDSA, id::SHA384], Err(AttributeRefusal::Scheme));
}

#[test]
fn a_device_key_is_bound_for_good_unrestricted_and_administered_by_policy() {
    let check = |attributes, scheme, expect| {
        assert_eq!(require_device_key(&ecc(attributes, scheme, NO_SYMMETRIC)), expect);
    };
    let device = HOST | Attributes::ADMIN_WITH_POLICY;
    check(device, ECDSA_SHA256, Ok(()));
    check(device, &[id::NULL], Ok(()));
    check(device | Attributes::NO_DA, &[id::ECDSA, id::SHA384], Ok(()));
    check(device & !Attributes::USER_WITH_AUTH, ECDSA_SHA256, Ok(()));
    check(HOST, ECDSA_SHA256, Err(AttributeRefusal::NoAdminPolicy));
    check(device & !Attributes::FIXED_TPM, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(device & !Attributes::FIXED_PARENT, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(device & !Attributes::SENSITIVE_DATA_ORIGIN, ECDSA_SHA256, Err(AttributeRefusal::NotBound));
    check(device | Attributes::ST_CLEAR, ECDSA_SHA256, Err(AttributeRefusal::StClear));
    check(device | Attributes::RESTRICTED, ECDSA_SHA256, Err(AttributeRefusal::Restricted));
    check(device & !Attributes::SIGN, ECDSA_SHA256, Err(AttributeRefusal::NotSigning));
    check(device | Attributes::DECRYPT, ECDSA_SHA256, Err(AttributeRefusal::Decrypting));
    check(device | Attributes::X509_SIGN, ECDSA_SHA256, Err(AttributeRefusal::X509Only));
    check(device, &[id::ECDSA, id::SHA1], Err(AttributeRefusal::Scheme));
    check(device, &[id::ECDH, id::SHA256], Err(AttributeRefusal::Scheme));
}

#[test]
fn an_endorsement_key_is_bound_restricted_and_only_decrypts() {
    let check = |attributes, symmetric, expect| {
        assert_eq!(require_endorsement_key(&ecc(attributes, &[id::NULL], symmetric)), expect);
    };
    check(EK, AES_128_CFB, Ok(()));
    check(EK & !Attributes::FIXED_TPM, AES_128_CFB, Err(AttributeRefusal::NotBound));
    check(EK & !Attributes::RESTRICTED, AES_128_CFB, Err(AttributeRefusal::NotRestricted));
    check(EK & !Attributes::DECRYPT, AES_128_CFB, Err(AttributeRefusal::NotDecrypting));
    check(EK | Attributes::SIGN, AES_128_CFB, Err(AttributeRefusal::Signing));
    check(EK, NO_SYMMETRIC, Err(AttributeRefusal::Symmetric));
    check(EK, &[id::AES, 192, id::CFB], Err(AttributeRefusal::Symmetric));
    check(EK, &[id::AES, 128, 0x0042], Err(AttributeRefusal::Symmetric));
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = Public::parse(&bytes);
        let _ = Public::from_tpm2b(&bytes);
    }

    /// Random bytes rarely pass the first fields, so they are given.
    #[test]
    fn never_panics_behind_a_good_start(rsa: bool, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let start = Writer::new().u16(if rsa { id::RSA } else { id::ECC }).u16(id::SHA256).u32(AK);
        let _ = Public::parse(&start.u16(0).u16(id::NULL).raw(&bytes).into_bytes());
    }
}
