//! Known answers from tests/vectors/core/note.json and one refusal per way to be wrong.

use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use proptest::prelude::*;

use super::*;

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/core/note.json")).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn ed25519_signer() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

fn p256_signer() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

fn ed25519() -> VerifyingKey {
    VerifyingKey::ed25519(ed25519_signer().verifying_key().as_bytes()).unwrap()
}

fn p256() -> VerifyingKey {
    let point = p256_signer().verifying_key().to_sec1_point(false);
    VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes()).unwrap()
}

fn sign(key: &VerifyingKey, message: &[u8]) -> Vec<u8> {
    match key.algorithm() {
        Algorithm::EdDsa => ed25519_signer().sign(message).to_bytes().to_vec(),
        Algorithm::Es256 => {
            let signature: p256::ecdsa::Signature = p256_signer().sign(message);
            signature.to_bytes().to_vec()
        }
    }
}

#[test]
fn published_forms_hold() {
    for vector in vectors()["keys"].as_array().unwrap() {
        let json = vector["key"].clone();
        let key: VerifyingKey = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&key).unwrap(), json);
        assert_eq!(HEXLOWER.encode(&key.spki_der()), vector["spki"].as_str().unwrap());
        assert_eq!(HEXLOWER.encode(&key.cose_key()), vector["cose"].as_str().unwrap());
        assert_eq!(key.thumbprint(), sha256(&hex(vector["spki"].as_str().unwrap())));
        assert_eq!(VerifyingKey::from_spki_der(&key.spki_der()), Ok(key.clone()));
        assert_eq!(VerifyingKey::from_cose_key(&key.cose_key()), Ok(key.clone()));
        assert_eq!(VerifyingKey::from_raw(key.algorithm(), key.raw()), Ok(key));
    }
}

#[test]
fn rfc_8032_test_2_verifies() {
    let raw = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let key = VerifyingKey::from_raw(Algorithm::EdDsa, &raw).unwrap();
    let signature = hex(concat!(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    ));
    assert_eq!(key.verify(&[0x72], &signature), Ok(()));
    assert_eq!(key.verify(&[0x73], &signature), Err(SignatureInvalid));
}

#[test]
fn a_signature_holds_for_its_message_and_key_only() {
    for key in [ed25519(), p256()] {
        let signature = sign(&key, b"message");
        assert_eq!(key.verify(b"message", &signature), Ok(()));
        assert_eq!(key.verify(b"massage", &signature), Err(SignatureInvalid));
        assert_eq!(key.verify(b"message", &signature[..63]), Err(SignatureInvalid));
        assert_eq!(key.verify(b"message", &[&signature[..], &[0]].concat()), Err(SignatureInvalid));
        assert_eq!(key.verify(b"message", &[]), Err(SignatureInvalid));
        assert_eq!(key.verify(b"message", &[0; 64]), Err(SignatureInvalid));
        assert_eq!(key.verify(b"message", &[0xff; 64]), Err(SignatureInvalid));
        for at in [0, 31, 32, 63] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(b"message", &changed), Err(SignatureInvalid));
        }
    }
    assert_eq!(p256().verify(b"message", &sign(&ed25519(), b"message")), Err(SignatureInvalid));
    assert_eq!(ed25519().verify(b"message", &sign(&p256(), b"message")), Err(SignatureInvalid));
}

#[test]
fn an_ed25519_signature_with_s_above_the_order_is_refused() {
    // RFC 8032 section 5.1.7: adding the group order to S makes a second signature for lax verifiers.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut signature = sign(&ed25519(), b"message");
    let mut carry = 0u16;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    assert_eq!(ed25519().verify(b"message", &signature), Err(SignatureInvalid));
}

#[test]
fn small_order_and_second_encodings_are_refused() {
    // The identity, a point of order 2, one of order 4, and one of order 8.
    for weak in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ] {
        assert_eq!(VerifyingKey::from_raw(Algorithm::EdDsa, &hex(weak)), Err(KeyError::Weak), "{weak}");
    }
    // y = p + 3 stands for y = 3 as well; y = p + 1 for the identity. Then x = 0 with a sign, twice.
    for second in [
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let refused = VerifyingKey::from_raw(Algorithm::EdDsa, &hex(second));
        assert_eq!(refused, Err(KeyError::NotCanonical), "{second}");
    }
    let off_curve = hex("0200000000000000000000000000000000000000000000000000000000000000");
    assert_eq!(VerifyingKey::from_raw(Algorithm::EdDsa, &off_curve), Err(KeyError::Point));
}

#[test]
fn p256_points_off_the_curve_or_in_other_forms_are_refused() {
    let raw: [u8; 65] = p256().raw().try_into().unwrap();
    let mut off_curve = raw;
    off_curve[64] ^= 1;
    assert_eq!(VerifyingKey::p256(&off_curve), Err(KeyError::Point));
    let mut hybrid = raw;
    hybrid[0] = 0x06 | (raw[64] & 1);
    assert_eq!(VerifyingKey::p256(&hybrid), Err(KeyError::Point));
    let mut zero = [0; 65];
    zero[0] = 4;
    assert_eq!(VerifyingKey::p256(&zero), Err(KeyError::Point));
    let mut above_prime = [0xff; 65];
    above_prime[0] = 4;
    assert_eq!(VerifyingKey::p256(&above_prime), Err(KeyError::Point));
    let compressed = [&[0x02 | (raw[64] & 1)], &raw[1..33]].concat();
    assert_eq!(VerifyingKey::from_raw(Algorithm::Es256, &compressed), Err(KeyError::Length));
    assert_eq!(VerifyingKey::from_raw(Algorithm::Es256, &[0]), Err(KeyError::Length));
    assert_eq!(VerifyingKey::from_raw(Algorithm::EdDsa, &raw), Err(KeyError::Length));
}

#[test]
fn spki_is_taken_byte_for_byte() {
    for key in [ed25519(), p256()] {
        let der = key.spki_der();
        assert_eq!(VerifyingKey::from_spki_der(&der[..der.len() - 1]), Err(KeyError::Spki));
        assert_eq!(VerifyingKey::from_spki_der(&[&der[..], &[0]].concat()), Err(KeyError::Spki));
        assert_eq!(VerifyingKey::from_spki_der(&[]), Err(KeyError::Spki));
        let header = der.len() - key.raw().len();
        for at in 0..header {
            let mut changed = der.clone();
            changed[at] ^= 0x01;
            assert_eq!(VerifyingKey::from_spki_der(&changed), Err(KeyError::Spki), "byte {at}");
        }
    }
    // Ed448, and Ed25519 with NULL parameters.
    assert_eq!(VerifyingKey::from_spki_der(&hex("3043300506032b6571033a00")), Err(KeyError::Spki));
    let with_null = [hex("302c300706032b65700500032100"), ed25519().raw().to_vec()].concat();
    assert_eq!(VerifyingKey::from_spki_der(&with_null), Err(KeyError::Spki));
}

#[test]
fn cose_keys_of_another_shape_are_refused() {
    let x = ed25519().raw().to_vec();
    let okp = |kty: u64, crv: u64, x: &[u8]| {
        cbor::encode_map(|m| {
            m.entry(COSE_KTY).uint(kty);
            m.entry(COSE_CRV).uint(crv);
            m.entry(COSE_X).bytes(x);
        })
    };
    assert_eq!(VerifyingKey::from_cose_key(&okp(1, 6, &x)), Ok(ed25519()));
    assert_eq!(VerifyingKey::from_cose_key(&okp(1, 4, &x)), Err(KeyError::CoseType));
    assert_eq!(VerifyingKey::from_cose_key(&okp(2, 6, &x)), Err(KeyError::CoseType));
    assert_eq!(VerifyingKey::from_cose_key(&okp(2, 1, &x)), Err(KeyError::CoseType));
    let short = VerifyingKey::from_cose_key(&okp(1, 6, &x[..31]));
    assert!(matches!(short, Err(KeyError::CoseBytes(CborError::Length { .. }))), "{short:?}");
    let with_alg = cbor::encode_map(|m| {
        m.entry(COSE_KTY).uint(KTY_OKP);
        m.entry(3).int(-8);
        m.entry(COSE_CRV).uint(CRV_ED25519);
        m.entry(COSE_X).bytes(&x);
    });
    let refused = VerifyingKey::from_cose_key(&with_alg);
    assert!(matches!(refused, Err(KeyError::CoseBytes(CborError::UnknownKey { .. }))), "{refused:?}");
    let sign_of_y = cbor::encode_map(|m| {
        m.entry(COSE_KTY).uint(KTY_EC2);
        m.entry(COSE_CRV).uint(CRV_P256);
        m.entry(COSE_X).bytes(&p256().raw()[1..33]);
        m.entry(COSE_Y).bool(true);
    });
    assert!(matches!(VerifyingKey::from_cose_key(&sign_of_y), Err(KeyError::CoseBytes(_))));
    let trailing = [okp(1, 6, &x), vec![0]].concat();
    assert!(matches!(
        VerifyingKey::from_cose_key(&trailing),
        Err(KeyError::CoseBytes(CborError::Trailing { .. }))
    ));
}

#[test]
fn json_is_strict() {
    let good = serde_json::to_string(&ed25519()).unwrap();
    assert_eq!(serde_json::from_str::<VerifyingKey>(&good).unwrap(), ed25519());
    let public = JsonKey::from(ed25519()).public;
    let refused = |alg: &str, public: &str| {
        VerifyingKey::try_from(JsonKey { alg: alg.to_owned(), public: public.to_owned() }).unwrap_err()
    };
    assert_eq!(refused("none", &public), KeyError::Algorithm);
    assert_eq!(refused("ES256", &public), KeyError::Length);
    assert_eq!(refused("eddsa", &public), KeyError::Algorithm);
    assert_eq!(refused("EdDSA", &format!("{public}=")), KeyError::Base64);
    assert_eq!(refused("EdDSA", &"A".repeat(88)), KeyError::Length);
    let unknown = good.replace('}', r#","kid":"1"}"#);
    assert!(serde_json::from_str::<VerifyingKey>(&unknown).is_err());
    let twice = good.replace('}', r#","alg":"EdDSA"}"#);
    assert!(serde_json::from_str::<VerifyingKey>(&twice).is_err());
}

#[test]
fn debug_names_algorithm_and_thumbprint() {
    let text = format!("{:?}", p256());
    assert!(text.starts_with("VerifyingKey(ES256, Sha256Digest("), "{text}");
}

proptest! {
    #[test]
    fn an_ed25519_key_is_canonical_exactly_if_encoding_its_point_gives_it_again(
        random: [u8; 32], low: u8, fill in prop::sample::select(vec![0x00, 0xff]), edge: bool, sign: bool,
    ) {
        // Half of the cases near 0 and p, where the second encodings are.
        let mut bytes = random;
        if edge {
            bytes = [fill; 32];
            bytes[0] = low;
            bytes[31] = fill & 0x7f | u8::from(sign) << 7;
        }
        if let Ok(point) = ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            prop_assert_eq!(is_canonical(&bytes), point.to_edwards().compress().to_bytes() == bytes);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
        if let Ok(key) = VerifyingKey::from_spki_der(&bytes) {
            prop_assert_eq!(key.spki_der(), bytes.clone());
        }
        if let Ok(key) = VerifyingKey::from_cose_key(&bytes) {
            prop_assert_eq!(key.cose_key(), bytes.clone());
        }
        let _ = ed25519().verify(&bytes, &bytes);
    }

    #[test]
    fn both_curve_libraries_agree_on_which_points_are_keys(x: [u8; 32], y: [u8; 32], flip: bool) {
        // Random coordinates are never on the curve; decompressing x puts about half of them there.
        let compressed = [&[2][..], &x].concat();
        let point = match p256::PublicKey::from_sec1_bytes(&compressed) {
            Ok(key) => key.to_sec1_point(false).as_bytes().to_vec(),
            Err(_) => [&[4][..], &x, &y].concat(),
        };
        let mut point: [u8; 65] = point.try_into().unwrap();
        point[64] ^= u8::from(flip);
        let theirs = p256::PublicKey::from_sec1_bytes(&point).is_ok();
        prop_assert_eq!(VerifyingKey::p256(&point).is_ok(), theirs);
    }
}
