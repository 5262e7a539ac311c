//! JSON Web Signatures in compact form (RFC 7515), and the keys that verify them (RFC 7517, RFC 8037).
//!
//! Comes in: claims and a signature that a token made, or a received JWS with the keys that may have made it. Goes out: a JWS whose signature
//! was verified, or the exact payload of one. Refused: a header that isn't exactly the three members that this log writes, in particular
//! another type, a key that isn't known, an algorithm that isn't the key's, and encodings that aren't the one that there is.
//!
//! Pure: whoever holds the key signs [`Unsigned::message`] and brings the signature.

use crate::api::Jwk;
use crate::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

/// Longest JWS that is read: four times an attestation result.
pub const MAX_JWS_LEN: usize = 16 * 1024;

/// The protected header: what is there, and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// Why a JWS isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Not three parts of base64url, or too long.
    #[error("not a compact JWS")]
    Form,
    /// The header isn't of the form that this log writes.
    #[error("the header has other members, another algorithm than the key's or another type")]
    Header,
    /// No key of this identifier.
    #[error("no key of this identifier is known")]
    Key,
    /// The signature doesn't verify.
    #[error("the signature doesn't verify")]
    Signature,
}

/// A JWS that lacks its signature.
#[derive(Clone, Debug)]
pub struct Unsigned {
    key: VerifyingKey,
    input: String,
}

impl Unsigned {
    /// Writes header and payload down. The key identifier is the key's thumbprint.
    ///
    /// # Errors
    /// Claims that have no JSON form.
    pub fn new<C: Serialize>(typ: &str, key: &VerifyingKey, claims: &C) -> Result<Self, serde_json::Error> {
        let header = Header { alg: key.algorithm().name().to_owned(), kid: key_id(key), typ: typ.to_owned() };
        let header = BASE64URL_NOPAD.encode(&serde_json::to_vec(&header)?);
        let payload = BASE64URL_NOPAD.encode(&serde_json::to_vec(claims)?);
        Ok(Self { key: key.clone(), input: format!("{header}.{payload}") })
    }

    /// What the key has to sign (RFC 7515 §5.1).
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.input.as_bytes()
    }

    /// The JWS, once its signature is verified. Signatures of P-256 keys are `r||s` (RFC 7518 §3.4).
    ///
    /// # Errors
    /// [`JwsError::Signature`].
    pub fn signed(self, signature: &[u8; SIGNATURE_LEN]) -> Result<String, JwsError> {
        self.key.verify(self.message(), signature).map_err(|_| JwsError::Signature)?;
        Ok(format!("{}.{}", self.input, BASE64URL_NOPAD.encode(signature)))
    }
}

/// The exact payload of a JWS of this type by one of these keys.
///
/// # Errors
/// [`JwsError`].
pub fn verify(jws: &str, typ: &str, keys: &[VerifyingKey]) -> Result<Vec<u8>, JwsError> {
    if jws.len() > MAX_JWS_LEN {
        return Err(JwsError::Form);
    }
    let (input, signature) = jws.rsplit_once('.').ok_or(JwsError::Form)?;
    let (header, payload) = input.split_once('.').ok_or(JwsError::Form)?;
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| JwsError::Form);
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| JwsError::Header)?;
    let key = keys.iter().find(|key| key_id(key) == header.kid).ok_or(JwsError::Key)?;
    // RFC 8725 §3.1, §3.11: the key says which algorithm it is for, and the type is compared.
    if header.alg != key.algorithm().name() || header.typ != typ {
        return Err(JwsError::Header);
    }
    key.verify(input.as_bytes(), &signature).map_err(|_| JwsError::Signature)?;
    Ok(payload)
}

/// How a header names a key: its thumbprint (PROTOCOL §1.4), hex.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    key.thumbprint().to_hex()
}

impl From<&VerifyingKey> for Jwk {
    fn from(key: &VerifyingKey) -> Self {
        let (kty, crv, x, y) = match (key.algorithm(), key.raw()) {
            // RFC 8037 §2.
            (Algorithm::EdDsa, raw) => ("OKP", "Ed25519", raw, None),
            // RFC 7518 §6.2.1: the point without the octet that says that it is uncompressed.
            (Algorithm::Es256, raw) => {
                let (x, y) = raw.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
                ("EC", "P-256", x, Some(BASE64URL_NOPAD.encode(y)))
            }
        };
        Self {
            kty: kty.to_owned(),
            crv: crv.to_owned(),
            x: BASE64URL_NOPAD.encode(x),
            y,
            alg: key.algorithm().name().to_owned(),
            usage: "sig".to_owned(),
            kid: key_id(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    fn pair(seed: u8) -> (SigningKey, VerifyingKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = VerifyingKey::ed25519(&key.verifying_key().to_bytes()).unwrap();
        (key, public)
    }

    fn jws(seed: u8, typ: &str) -> String {
        let (key, public) = pair(seed);
        let unsigned = Unsigned::new(typ, &public, &serde_json::json!({"a": 1})).unwrap();
        let signature = key.sign(unsigned.message()).to_bytes();
        unsigned.signed(&signature).unwrap()
    }

    #[test]
    fn the_payload_comes_back_only_with_the_right_key_type_and_signature() {
        let (one, two) = (pair(1).1, pair(2).1);
        let good = jws(1, "t");
        assert_eq!(verify(&good, "t", &[two.clone(), one.clone()]).unwrap(), br#"{"a":1}"#);
        assert_eq!(verify(&good, "other", std::slice::from_ref(&one)), Err(JwsError::Header));
        assert_eq!(verify(&good, "t", &[two]), Err(JwsError::Key));
        // A signature that isn't the key's never leaves.
        let unsigned = Unsigned::new("t", &one, &1).unwrap();
        assert_eq!(unsigned.signed(&[7; 64]), Err(JwsError::Signature));
        assert_eq!(verify(&"a".repeat(MAX_JWS_LEN + 1), "t", &[one]), Err(JwsError::Form));
    }

    #[test]
    fn no_character_of_a_jws_may_be_another() {
        let keys = [pair(1).1];
        let good = jws(1, "t");
        for at in 0..good.len() {
            for other in ["A", "B", "_", ".", "=", " "] {
                let mut bad = good.clone();
                bad.replace_range(at..=at, other);
                assert!(bad == good || verify(&bad, "t", &keys).is_err(), "{at}: {other}");
            }
        }
        for bad in ["", ".", "..", "a.b", &format!("{good}."), &format!(".{good}")] {
            assert!(verify(bad, "t", &keys).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_has_its_three_members_and_the_algorithm_of_its_key() {
        let (key, public) = pair(1);
        let kid = key_id(&public);
        let check = |header: String, expected| {
            let input = format!("{}.e30", BASE64URL_NOPAD.encode(header.as_bytes()));
            let signature = BASE64URL_NOPAD.encode(&key.sign(input.as_bytes()).to_bytes());
            let result = verify(&format!("{input}.{signature}"), "t", std::slice::from_ref(&public));
            assert_eq!(result, expected, "{header}");
        };
        check(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"t"}}"#), Ok(b"{}".to_vec()));
        let bad = Err(JwsError::Header);
        check(format!(r#"{{"alg":"none","kid":"{kid}","typ":"t"}}"#), bad.clone());
        check(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"t"}}"#), bad.clone());
        check(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), bad.clone());
        check(
            format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"t","crit":["b64"],"b64":false}}"#),
            bad.clone(),
        );
        check(format!(r#"{{"alg":"EdDSA","alg":"EdDSA","kid":"{kid}","typ":"t"}}"#), bad);
    }

    #[test]
    fn keys_are_written_as_their_kind_is() {
        let ed25519 = Jwk::from(&pair(1).1);
        assert_eq!((ed25519.kty.as_str(), ed25519.y.as_ref(), ed25519.x.len()), ("OKP", None, 43));
        let secret = p256::SecretKey::from_slice(&[3; 32]).unwrap();
        let point = p256::elliptic_curve::sec1::ToSec1Point::to_sec1_point(&secret.public_key(), false);
        let key = VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes()).unwrap();
        let jwk = Jwk::from(&key);
        assert_eq!((jwk.kty.as_str(), jwk.crv.as_str(), jwk.alg.as_str()), ("EC", "P-256", "ES256"));
        let coordinates =
            [jwk.x, jwk.y.unwrap()].map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap());
        assert_eq!(coordinates.concat(), key.raw()[1..]);
    }
}
