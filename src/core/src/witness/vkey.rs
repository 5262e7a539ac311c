//! Verifier keys as text: `<name>+<key id, hex>+<base64 of type and key>`, as every tool for signed notes writes them.
//!
//! In: text from a configuration. Out: a key under its name. Refused: another spelling, a key id that isn't the key's, other types.

use data_encoding::{BASE64, HEXLOWER};

use crate::base64::padded;
use crate::key::{Algorithm, VerifyingKey};
use crate::note::NoteKey;

/// C2SP signed-note, signature types: Ed25519, ECDSA with the key as SubjectPublicKeyInfo.
const ED25519: u8 = 0x01;
const ECDSA: u8 = 0x02;
/// Longest text: a name of 255 characters and a SubjectPublicKeyInfo.
const MAX_LEN: usize = 1_024;

/// A text that isn't a verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key <name>+<key id>+<base64> of a type that is known here")]
pub struct VkeyMalformed;

/// Name, key id, and type with key.
pub(super) fn parts(text: &str) -> Result<(&str, [u8; 4], Vec<u8>), VkeyMalformed> {
    if text.len() > MAX_LEN {
        return Err(VkeyMalformed);
    }
    // The base64 alphabet has a plus; names and hex digits don't.
    let (name, rest) = text.split_once('+').ok_or(VkeyMalformed)?;
    let (id, key) = rest.split_once('+').ok_or(VkeyMalformed)?;
    let id = HEXLOWER.decode(id.as_bytes()).ok().and_then(|id| id.try_into().ok()).ok_or(VkeyMalformed)?;
    let key = padded(key).ok_or(VkeyMalformed)?;
    Ok((name, id, key))
}

pub(super) fn text(name: &str, id: [u8; 4], kind: u8, key: &[u8]) -> String {
    format!("{name}+{}+{}", HEXLOWER.encode(&id), BASE64.encode(&[&[kind], key].concat()))
}

/// A log's key.
///
/// # Errors
/// [`VkeyMalformed`].
pub fn parse_log_key(text: &str) -> Result<NoteKey, VkeyMalformed> {
    let (name, id, bytes) = parts(text)?;
    let key = match bytes.split_first() {
        Some((&ED25519, raw)) => {
            raw.try_into().ok().and_then(|raw: &[u8; 32]| VerifyingKey::ed25519(raw).ok())
        }
        Some((&ECDSA, spki)) => VerifyingKey::from_spki_der(spki)
            .ok()
            .filter(|key| key.algorithm() == Algorithm::Es256 && key.spki_der() == spki),
        _ => None,
    };
    let key = NoteKey::new(name, key.ok_or(VkeyMalformed)?).map_err(|_| VkeyMalformed)?;
    if key.key_id() == id { Ok(key) } else { Err(VkeyMalformed) }
}

/// The text of a log's key.
#[must_use]
pub fn log_key_text(key: &NoteKey) -> String {
    match key.key().algorithm() {
        Algorithm::EdDsa => text(key.name(), key.key_id(), ED25519, key.key().raw()),
        Algorithm::Es256 => text(key.name(), key.key_id(), ECDSA, &key.key().spki_der()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of golang.org/x/mod/sumdb/note's documentation, which is C2SP's own example of the form.
    const KNOWN: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn a_known_key_is_read_and_written_back() {
        let key = parse_log_key(KNOWN).unwrap();
        assert_eq!((key.name(), key.key_id()), ("PeterNeumann", [0xc7, 0x4f, 0x20, 0xa3]));
        assert_eq!(log_key_text(&key), KNOWN);
    }

    #[test]
    fn whatever_is_spelled_otherwise_is_refused() {
        for (from, to) in [
            ("c74f20a3", "c74f20a4"),
            ("c74f20a3", "C74F20A3"),
            ("c74f20a3", "c74f20"),
            ("PeterNeumann", "Peter Neumann"),
            ("PeterNeumann", ""),
            ("+ARpc", "+BRpc"),
            ("10TW", "10TX="),
            ("10TW", ""),
        ] {
            assert_eq!(parse_log_key(&KNOWN.replace(from, to)), Err(VkeyMalformed), "{from} {to}");
        }
        assert_eq!(parse_log_key(""), Err(VkeyMalformed));
        assert_eq!(parse_log_key(&"a".repeat(2_000)), Err(VkeyMalformed));
    }

    #[test]
    fn a_key_of_a_tpm_is_read_and_written_back() {
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        let key = VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes()).unwrap();
        let key = NoteKey::new("log.example", key).unwrap();
        assert_eq!(parse_log_key(&log_key_text(&key)), Ok(key));
    }
}
