//! Keys of a token: how they are found, made and read. Each function works on a session that is open and logged
//! in, and is called from within [`super::connection::Connection::run`].
use std::collections::BTreeMap;

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use sha2::{Digest, Sha256};

use crate::{Algorithm, FaultClass, SignFault, Signature, VerifyingKey};

/// id-Ed25519 as an OBJECT IDENTIFIER. RFC 8410 §3; PKCS #11 3.0, 6.3.5.
const ED25519_PARAMS: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
/// secp256r1 as an OBJECT IDENTIFIER. RFC 5480 §2.1.1.1.
const P256_PARAMS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Length of the CKA_ID given to generated keys.
const ID_BYTES: usize = 16;

/// A key pair in the token.
#[derive(Clone)]
pub(super) struct KeyPair {
    pub(super) private: ObjectHandle,
    pub(super) public_object: ObjectHandle,
    pub(super) public: VerifyingKey,
}

/// The key pair with this label; the halves belong together by CKA_ID.
pub(super) fn find_key(session: &Session, label: &str) -> Result<KeyPair, SignFault> {
    let private = only(session, &key_template(ObjectClass::PRIVATE_KEY, label), label)?
        .ok_or_else(|| missing("no private key of this label", label))?;
    let id = session.get_attributes(private, &[AttributeType::Id])?;
    let Some(Attribute::Id(id)) = id.into_iter().next() else {
        return Err(missing("the private key has no CKA_ID", label));
    };
    let mut template = key_template(ObjectClass::PUBLIC_KEY, label);
    template.push(Attribute::Id(id));
    let public_object = only(session, &template, label)?
        .ok_or_else(|| missing("no public key of the private key's label and CKA_ID", label))?;
    let public = read_public(session, public_object)?;
    Ok(KeyPair { private, public_object, public })
}

/// Generates a key pair inside the token.
pub(super) fn generate(
    session: &Session,
    label: &str,
    algorithm: Algorithm,
) -> Result<VerifyingKey, SignFault> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        if !session.find_objects(&key_template(class, label))?.is_empty() {
            return Err(SignFault::new(
                FaultClass::KeyExists,
                "C_FindObjects",
                format!("label {label:?} is taken"),
            ));
        }
    }
    let mut id = [0; ID_BYTES];
    getrandom::fill(&mut id)
        .map_err(|error| SignFault::new(FaultClass::Retry, "getrandom", error.to_string()))?;
    let (mechanism, key_type, params) = match algorithm {
        Algorithm::EdDsa => (Mechanism::EccEdwardsKeyPairGen, KeyType::EC_EDWARDS, ED25519_PARAMS.to_vec()),
        Algorithm::Es256 => (Mechanism::EccKeyPairGen, KeyType::EC, P256_PARAMS.to_vec()),
    };
    let common = || {
        [
            Attribute::KeyType(key_type),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id.to_vec()),
        ]
    };
    let mut public = common().to_vec();
    public.extend([Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(params)]);
    let mut private = common().to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]);
    let (public, _private) = session.generate_key_pair(&mechanism, &public, &private)?;
    read_public(session, public)
}

/// Removes both halves, the private one first.
pub(super) fn destroy_key(session: &Session, label: &str) -> Result<(), SignFault> {
    let key = find_key(session, label)?;
    session.destroy_object(key.private)?;
    session.destroy_object(key.public_object)?;
    Ok(())
}

/// A raw signature by the token. P-256 messages are hashed here, since not every token has CKM_ECDSA_SHA256.
pub(super) fn sign(session: &Session, key: &KeyPair, message: &[u8]) -> Result<Signature, SignFault> {
    let bytes = match key.public.algorithm() {
        // PKCS #11 3.0, 6.3.13: no parameters means Ed25519 itself. Tokens ignore the others, so they are never used.
        Algorithm::EdDsa => {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&mechanism, key.private, message)?
        }
        Algorithm::Es256 => session.sign(&Mechanism::Ecdsa, key.private, &Sha256::digest(message))?,
    };
    let bytes = <[u8; 64]>::try_from(bytes.as_slice())
        .map_err(|_| SignFault::new(FaultClass::BadSignature, "C_Sign", "not 64 bytes"))?;
    Ok(Signature::from_bytes(bytes))
}

/// What custody demands of a private key: name, expected value, and the class of the refusal. PKCS #11 3.0, 4.9 and 4.10. In this order,
/// so that an imported key is not mistaken for an extractable one.
const DEMANDS: [(AttributeType, &str, bool, FaultClass); 8] = [
    (AttributeType::Extractable, "CKA_EXTRACTABLE", false, FaultClass::KeyExtractable),
    (AttributeType::Sensitive, "CKA_SENSITIVE", true, FaultClass::KeyExtractable),
    (AttributeType::Local, "CKA_LOCAL", true, FaultClass::KeyImported),
    (AttributeType::AlwaysSensitive, "CKA_ALWAYS_SENSITIVE", true, FaultClass::KeyExtractable),
    (AttributeType::NeverExtractable, "CKA_NEVER_EXTRACTABLE", true, FaultClass::KeyExtractable),
    (AttributeType::Private, "CKA_PRIVATE", true, FaultClass::CustodyIncomplete),
    (AttributeType::Token, "CKA_TOKEN", true, FaultClass::CustodyIncomplete),
    (AttributeType::Sign, "CKA_SIGN", true, FaultClass::CustodyIncomplete),
];

/// Reads the custody attributes of a private key back and refuses what is not in custody.
pub(super) fn read_custody(
    session: &Session,
    private: ObjectHandle,
) -> Result<BTreeMap<String, String>, SignFault> {
    let kinds = DEMANDS.map(|(kind, ..)| kind);
    let read = session.get_attributes(private, &kinds)?;
    let mut attributes = BTreeMap::new();
    for (kind, name, expected, class) in DEMANDS {
        let value = read.iter().find_map(|attribute| flag(attribute, kind));
        match value {
            Some(value) if value == expected => attributes.insert(name.to_owned(), value.to_string()),
            Some(value) => {
                return Err(SignFault::new(class, "C_GetAttributeValue", format!("{name} is {value}")));
            }
            None => {
                let reason = format!("{name} is not told");
                return Err(SignFault::new(FaultClass::CustodyIncomplete, "C_GetAttributeValue", reason));
            }
        };
    }
    Ok(attributes)
}

fn flag(attribute: &Attribute, kind: AttributeType) -> Option<bool> {
    if attribute.attribute_type() != kind {
        return None;
    }
    match attribute {
        Attribute::Extractable(value)
        | Attribute::Sensitive(value)
        | Attribute::Local(value)
        | Attribute::AlwaysSensitive(value)
        | Attribute::NeverExtractable(value)
        | Attribute::Private(value)
        | Attribute::Token(value)
        | Attribute::Sign(value) => Some(*value),
        _ => None,
    }
}

fn key_template(class: ObjectClass, label: &str) -> Vec<Attribute> {
    vec![Attribute::Class(class), Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())]
}

/// The one object that fits; two are refused, since nobody could tell which is meant.
fn only(session: &Session, template: &[Attribute], label: &str) -> Result<Option<ObjectHandle>, SignFault> {
    match session.find_objects(template)?.as_slice() {
        [] => Ok(None),
        [object] => Ok(Some(*object)),
        _ => {
            let reason = format!("several objects of one class are labelled {label:?}");
            Err(SignFault::new(FaultClass::Misconfigured, "C_FindObjects", reason))
        }
    }
}

fn missing(what: &str, label: &str) -> SignFault {
    SignFault::new(FaultClass::KeyMissing, "C_FindObjects", format!("{what}: {label:?}"))
}

fn read_public(session: &Session, object: ObjectHandle) -> Result<VerifyingKey, SignFault> {
    let kinds = [AttributeType::KeyType, AttributeType::EcParams, AttributeType::EcPoint];
    let (mut key_type, mut params, mut point) = (None, None, None);
    for attribute in session.get_attributes(object, &kinds)? {
        match attribute {
            Attribute::KeyType(value) => key_type = Some(value),
            Attribute::EcParams(value) => params = Some(value),
            Attribute::EcPoint(value) => point = Some(value),
            _ => {}
        }
    }
    let unfit = |reason: String| SignFault::new(FaultClass::Misconfigured, "C_GetAttributeValue", reason);
    let algorithm = match (key_type, params.as_deref()) {
        // The curve's name as an OID, or as the PrintableString "edwards25519" of PKCS #11 3.0.
        (Some(KeyType::EC_EDWARDS), Some(params))
            if params == ED25519_PARAMS || params.ends_with(b"edwards25519") =>
        {
            Algorithm::EdDsa
        }
        (Some(KeyType::EC), Some(params)) if params == P256_PARAMS => Algorithm::Es256,
        _ => return Err(unfit("neither an Ed25519 nor a P-256 key".to_owned())),
    };
    let point = point.unwrap_or_default();
    VerifyingKey::from_raw(algorithm, unwrap_point(algorithm, &point))
        .map_err(|error| unfit(error.to_string()))
}

/// EC_POINT without the wrapping that some tokens put around it: none, an OCTET STRING or a BIT STRING, told apart by total length.
fn unwrap_point(algorithm: Algorithm, point: &[u8]) -> &[u8] {
    let length: usize = match algorithm {
        Algorithm::EdDsa => 32,
        Algorithm::Es256 => 65,
    };
    match point {
        [0x04, wrapped, rest @ ..] if usize::from(*wrapped) == length && rest.len() == length => rest,
        [0x03, wrapped, 0, rest @ ..] if usize::from(*wrapped) == length + 1 && rest.len() == length => rest,
        raw => raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_unwrapped_by_their_total_length() {
        let check = |algorithm, prefix: &[u8], length: usize| {
            let mut raw = vec![7; length];
            raw[0] = 4;
            let wrapped = [prefix, &raw].concat();
            assert_eq!(unwrap_point(algorithm, &wrapped), raw);
        };
        for prefix in [&[][..], &[4, 32], &[3, 33, 0]] {
            check(Algorithm::EdDsa, prefix, 32);
        }
        for prefix in [&[][..], &[4, 65], &[3, 66, 0]] {
            check(Algorithm::Es256, prefix, 65);
        }
        // A raw key that happens to begin like a wrapping is left alone.
        let mut raw = [7; 32];
        raw[..2].copy_from_slice(&[4, 32]);
        assert_eq!(unwrap_point(Algorithm::EdDsa, &raw), raw);
    }
}
