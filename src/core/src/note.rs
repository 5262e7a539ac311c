//! Signed notes (C2SP signed-note, PROTOCOL §6.3): the form of signed heads.
//!
//! In: a text that ends in a newline, and signatures made elsewhere, or a whole note as received. Out: the note's
//! bytes, or a [`VerifiedNote`], which only [`verify`] makes. Refused: control characters, non-canonical base64, bad
//! key names, a note above [`MAX_NOTE_BYTES`] or with more than [`MAX_SIGNATURES`] signatures, a note that no known
//! key signed, a note on which any known key's signature fails.

use data_encoding::BASE64;

use crate::base64::padded;
use crate::digest::sha256;
use crate::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};

mod ecdsa_der;
#[cfg(test)]
mod tests;

pub use ecdsa_der::{DerSignatureError, ecdsa_der_to_fixed, ecdsa_fixed_to_der};

/// Largest note. A head body is below 700 bytes and a signature line below 400; cosignatures of every witness that
/// fits into [`MAX_SIGNATURES`] leave room.
pub const MAX_NOTE_BYTES: usize = 16 * 1024;
/// Most signatures on one note; C2SP signed-note asks verifiers for at least 16. Bounds the verifications per note.
pub const MAX_SIGNATURES: usize = 64;

/// Em dash and space: how a signature line starts.
const LINE_START: &str = "\u{2014} ";
/// C2SP signed-note, signature types: Ed25519.
const TYPE_ED25519: u8 = 0x01;

/// Why a note, or a part of one, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Above [`MAX_NOTE_BYTES`].
    #[error("a note has at most {MAX_NOTE_BYTES} bytes")]
    TooLarge,
    /// A control character other than newline.
    #[error("a note has no control characters but newlines")]
    Control,
    /// The text does not end in a newline.
    #[error("the text of a note ends in a newline")]
    Text,
    /// No empty line, or nothing that could be signatures after the last one.
    #[error("a note has an empty line and then signature lines")]
    NoSignatures,
    /// More than [`MAX_SIGNATURES`].
    #[error("a note has at most {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// A signature line is not `— name base64`.
    #[error("a signature line is malformed")]
    Line,
    /// A key name is empty or has a space, a plus or a control character.
    #[error("a key name is not empty and has no spaces, plus signs or control characters")]
    Name,
    /// Two known keys share name and key id.
    #[error("two known keys have the same name and key id")]
    AmbiguousKey,
    /// A known key's signature does not verify.
    #[error("a signature of a known key is invalid")]
    SignatureInvalid,
    /// No known key has signed.
    #[error("the note carries no signature of a known key")]
    NoKnownSignature,
}

/// One signature line: who claims to have signed, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl NoteSignature {
    /// A line from its parts; `signature` is in the form of the note (DER for ECDSA) and not empty.
    ///
    /// # Errors
    /// [`NoteError::Name`], [`NoteError::Line`] for an empty signature.
    pub fn new(name: &str, key_id: [u8; 4], signature: Vec<u8>) -> Result<Self, NoteError> {
        check_name(name)?;
        if signature.is_empty() {
            return Err(NoteError::Line);
        }
        Ok(Self { name: name.to_owned(), key_id, signature })
    }

    /// Name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Key id, which with the name says which key and algorithm it is.
    pub fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Signature bytes without the key id.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The line as it is sent, with its newline.
    pub fn format(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn parse(line: &str) -> Result<Self, NoteError> {
        let rest = line.strip_prefix(LINE_START).ok_or(NoteError::Line)?;
        let (name, base64) = rest.split_once(' ').ok_or(NoteError::Line)?;
        // Strict: padding required, no trailing bits, nothing outside of the alphabet.
        let bytes = padded(base64).ok_or(NoteError::Line)?;
        let (key_id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Line)?;
        Self::new(name, *key_id, signature.to_vec())
    }

    fn write(&self, out: &mut String) {
        out.push_str(LINE_START);
        out.push_str(&self.name);
        out.push(' ');
        out.push_str(&BASE64.encode(&[&self.key_id[..], &self.signature].concat()));
        out.push('\n');
    }
}

/// A well-formed note. Nothing in it is verified: use [`verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// Puts signatures under a text.
    ///
    /// # Errors
    /// [`NoteError`], for anything that [`SignedNote::parse`] would refuse in the result.
    pub fn new(text: &str, signatures: Vec<NoteSignature>) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Text);
        }
        check_characters(text)?;
        if signatures.is_empty() {
            return Err(NoteError::NoSignatures);
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let note = Self { text: text.to_owned(), signatures };
        if note.format().len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge);
        }
        Ok(note)
    }

    /// Reads a note; [`SignedNote::format`] gives back exactly `note`.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge);
        }
        check_characters(note)?;
        // C2SP signed-note, format: the last empty line separates, so the text may have empty lines itself.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::NoSignatures)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::NoSignatures)?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() >= MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(NoteSignature::parse(line)?);
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// The text, with its final newline: what the signatures are over. Not verified.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines in order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The note as it is sent.
    pub fn format(&self) -> String {
        let mut out = format!("{}\n", self.text);
        self.signatures.iter().for_each(|signature| signature.write(&mut out));
        out
    }
}

/// A key under the name that its signature lines carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    key: VerifyingKey,
    key_id: [u8; 4],
}

impl NoteKey {
    /// Names a key.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteError> {
        check_name(name)?;
        // C2SP signed-note, signature types 0x01 and 0x02: the latter's id is over the SPKI alone.
        let digest = match key.algorithm() {
            Algorithm::EdDsa => sha256(&[name.as_bytes(), &[b'\n', TYPE_ED25519], key.raw()].concat()),
            Algorithm::Es256 => key.thumbprint(),
        };
        let [a, b, c, d, ..] = *digest.as_bytes();
        Ok(Self { name: name.to_owned(), key, key_id: [a, b, c, d] })
    }

    /// Name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// First four bytes of the digest that C2SP signed-note gives for the key's type.
    pub fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// The line for a signature that this key made over a note's text, given as R || S or r || s.
    pub fn line(&self, signature: &[u8; SIGNATURE_LEN]) -> NoteSignature {
        let signature = match self.key.algorithm() {
            Algorithm::EdDsa => signature.to_vec(),
            Algorithm::Es256 => ecdsa_fixed_to_der(signature),
        };
        NoteSignature { name: self.name.clone(), key_id: self.key_id, signature }
    }

    fn made(&self, line: &NoteSignature) -> bool {
        self.name == line.name && self.key_id == line.key_id
    }

    fn check(&self, text: &str, line: &NoteSignature) -> Result<(), NoteError> {
        let verdict = match self.key.algorithm() {
            Algorithm::EdDsa => self.key.verify(text.as_bytes(), &line.signature),
            Algorithm::Es256 => {
                let fixed = ecdsa_der_to_fixed(&line.signature).map_err(|_| NoteError::SignatureInvalid)?;
                self.key.verify(text.as_bytes(), &fixed)
            }
        };
        verdict.map_err(|_| NoteError::SignatureInvalid)
    }
}

/// A text, and those of the known keys whose signatures over it hold: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedNote<'n, 'k> {
    text: &'n str,
    signers: Vec<&'k NoteKey>,
}

impl<'n, 'k> VerifiedNote<'n, 'k> {
    /// The text, with its final newline.
    pub fn text(&self) -> &'n str {
        self.text
    }

    /// The keys that signed, each once, in the order of their first lines.
    pub fn signers(&self) -> &[&'k NoteKey] {
        &self.signers
    }
}

/// Verifies every line of a known key; lines of other keys are ignored (C2SP signed-note, signatures).
///
/// # Errors
/// [`NoteError::SignatureInvalid`] if any known key's line fails, [`NoteError::NoKnownSignature`] if there is none,
/// [`NoteError::AmbiguousKey`] if a line fits two known keys.
pub fn verify<'n, 'k>(note: &'n SignedNote, keys: &'k [NoteKey]) -> Result<VerifiedNote<'n, 'k>, NoteError> {
    let mut signers: Vec<&NoteKey> = Vec::new();
    for line in &note.signatures {
        let mut known = keys.iter().filter(|key| key.made(line));
        let Some(key) = known.next() else { continue };
        if known.any(|other| other != key) {
            return Err(NoteError::AmbiguousKey);
        }
        key.check(&note.text, line)?;
        if !signers.contains(&key) {
            signers.push(key);
        }
    }
    if signers.is_empty() {
        return Err(NoteError::NoKnownSignature);
    }
    Ok(VerifiedNote { text: &note.text, signers })
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    // C2SP signed-note, format: no ASCII control characters (below U+0020) other than newline.
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\n') { Err(NoteError::Control) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    // C2SP signed-note, format: not empty, no Unicode spaces, no plus.
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(bad) { Err(NoteError::Name) } else { Ok(()) }
}
