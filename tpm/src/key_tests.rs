//! Keys by their numbers, and the signatures that they verify.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::KeyPair;

use super::*;

const MESSAGE: &[u8] = b"the signed message";

fn rsa_pair() -> (lc::RsaKeyPair, PublicKey) {
    let pair = lc::RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = RsaPublicKeyDer::from_der(pair.public_key().as_ref()).unwrap();
    let key = PublicKey::rsa(public.n.as_bytes(), 65_537).unwrap();
    (pair, key)
}

fn ecdsa_pair(signing: &'static lc::EcdsaSigningAlgorithm, curve: EccCurve) -> (lc::EcdsaKeyPair, PublicKey) {
    let pair = lc::EcdsaKeyPair::generate(signing).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(curve.width());
    let key = PublicKey::ecc(curve, x, y).unwrap();
    (pair, key)
}

#[test]
fn verifies_rsa_with_both_paddings_and_only_over_its_message() {
    let (pair, key) = rsa_pair();
    let rng = SystemRandom::new();
    let cases: [(&'static dyn lc::RsaEncoding, RsaPadding, HashAlg); 6] = [
        (&lc::RSA_PKCS1_SHA256, RsaPadding::Pkcs1, HashAlg::Sha256),
        (&lc::RSA_PKCS1_SHA384, RsaPadding::Pkcs1, HashAlg::Sha384),
        (&lc::RSA_PKCS1_SHA512, RsaPadding::Pkcs1, HashAlg::Sha512),
        (&lc::RSA_PSS_SHA256, RsaPadding::Pss, HashAlg::Sha256),
        (&lc::RSA_PSS_SHA384, RsaPadding::Pss, HashAlg::Sha384),
        (&lc::RSA_PSS_SHA512, RsaPadding::Pss, HashAlg::Sha512),
    ];
    for (encoding, padding, hash) in cases {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &rng, MESSAGE, &mut signature).unwrap();
        assert_eq!(key.verify_rsa(padding, hash, MESSAGE, &signature), Ok(()));
        assert_eq!(key.verify_rsa(padding, hash, b"another", &signature), Err(BadSignature));
        assert_eq!(key.verify_rsa(padding, HashAlg::Sha1, MESSAGE, &signature), Err(BadSignature));
        assert_eq!(key.verify_rsa(padding, hash, MESSAGE, &signature[1..]), Err(BadSignature));
    }
}

#[test]
fn verifies_pss_with_the_longest_salt_as_older_tpms_make_it() {
    let (pair, key) = rsa_pair();
    const LONGEST: lc::RsaSignatureEncoding =
        lc::RSA_PSS_SHA256.with_pss_salt_length(lc::RsaPssSaltLength::Max);
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&LONGEST, &SystemRandom::new(), MESSAGE, &mut signature).unwrap();
    assert_eq!(key.verify_rsa(RsaPadding::Pss, HashAlg::Sha256, MESSAGE, &signature), Ok(()));
}

/// r and s.
type Integers = (Vec<u8>, Vec<u8>);

/// Signs with the pure Rust implementation, so that two implementations must agree.
fn sign_elsewhere(curve: EccCurve, hash: HashAlg, count: u8) -> (PublicKey, Vec<Integers>) {
    use p256::ecdsa::signature::hazmat::PrehashSigner;
    let split = |bytes: &[u8]| {
        let (r, s) = bytes.split_at(curve.width());
        (r.to_vec(), s.to_vec())
    };
    let digest = |n: u8| hash.digest_parts(&[MESSAGE, &[n]]);
    let (point, signatures): (Vec<u8>, Vec<_>) = match curve {
        EccCurve::P256 => {
            let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
            let sign = |n| PrehashSigner::<p256::ecdsa::Signature>::sign_prehash(&key, &digest(n)).unwrap();
            let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
            (point, (0..count).map(|n| split(&sign(n).to_bytes())).collect())
        }
        EccCurve::P384 => {
            let key = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
            let sign = |n| PrehashSigner::<p384::ecdsa::Signature>::sign_prehash(&key, &digest(n)).unwrap();
            let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
            (point, (0..count).map(|n| split(&sign(n).to_bytes())).collect())
        }
    };
    let (x, y) = point[1..].split_at(curve.width());
    (PublicKey::ecc(curve, x, y).unwrap(), signatures)
}

#[test]
fn verifies_ecdsa_of_every_curve_and_hash() {
    for curve in [EccCurve::P256, EccCurve::P384] {
        for hash in [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512] {
            let (key, signatures) = sign_elsewhere(curve, hash, 40);
            for (n, (r, s)) in (0u8..).zip(&signatures) {
                let message = [MESSAGE, &[n]].concat();
                assert_eq!(key.verify_ecdsa(hash, &message, r, s), Ok(()), "{curve:?} {hash:?}");
                let der = ecdsa_der(r, s).unwrap();
                assert_eq!(key.verify_ecdsa_der(hash, &message, &der), Ok(()));
                assert_eq!(key.verify_ecdsa(hash, b"another", r, s), Err(BadSignature));
                assert_eq!(key.verify_ecdsa(HashAlg::Sha1, &message, r, s), Err(BadSignature));
            }
        }
    }
}

#[test]
fn integers_wider_than_the_field_are_refused_and_zeros_in_front_are_not() {
    let (pair, key) = ecdsa_pair(&lc::ECDSA_P256_SHA256_FIXED_SIGNING, EccCurve::P256);
    let signature = pair.sign(&SystemRandom::new(), MESSAGE).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    assert_eq!(key.verify_ecdsa(HashAlg::Sha256, MESSAGE, r, s), Ok(()));
    assert_eq!(key.verify_ecdsa(HashAlg::Sha256, MESSAGE, &[&[0], r].concat(), s), Ok(()));
    assert_eq!(key.verify_ecdsa(HashAlg::Sha256, MESSAGE, &[&[1], r].concat(), s), Err(BadSignature));
    assert_eq!(key.verify_ecdsa(HashAlg::Sha256, MESSAGE, &[], s), Err(BadSignature));
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    assert_eq!(PublicKey::rsa(&[0xff; 128], 65_537), Err(KeyError::Modulus));
    assert_eq!(PublicKey::rsa(&[0xff; 513], 65_537), Err(KeyError::Modulus));
    assert_eq!(PublicKey::rsa(&[&[0x7f][..], &[0xff; 255]].concat(), 65_537), Err(KeyError::Modulus));
    assert_eq!(PublicKey::rsa(&[&[0xff; 255][..], &[0xfe]].concat(), 65_537), Err(KeyError::Modulus));
    assert_eq!(PublicKey::rsa(&[0xff; 256], 1), Err(KeyError::Exponent));
    assert_eq!(PublicKey::rsa(&[0xff; 256], 65_536), Err(KeyError::Exponent));
    assert_eq!(PublicKey::ecc(EccCurve::P256, &[1; 33], &[1; 32]), Err(KeyError::Point));
    assert_eq!(PublicKey::ecc(EccCurve::P256, &[], &[]), Err(KeyError::Point));
    assert_eq!(PublicKey::ecc(EccCurve::P384, &[1; 48], &[1; 48]), Err(KeyError::Point));
}

proptest::proptest! {
    #[test]
    fn reading_a_key_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = PublicKey::from_spki_der(&bytes);
    }
}
