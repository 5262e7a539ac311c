//! Templates: which fields an entry has, and what they say.
//!
//! Comes in: the name of a template and its data. Goes out: [`Measured`], the fields by their meaning. Refused: data
//! whose fields don't fill it exactly, digests of unknown algorithms or other lengths, paths without their end.
//!
//! Linux Documentation/security/IMA-templates.rst. Seen on real data: ima, ima-ng, ima-sig. Written after the kernel's
//! description alone: ima-ngv2, ima-sigv2, ima-modsig, ima-buf.

use thiserror::Error;

use super::MAX_PATH_BYTES;
use crate::algorithm::HashAlg;
use crate::wire::{Reader, WireError};

/// Longest file name of the "ima" template, without its end. IMA_EVENT_NAME_LEN_MAX of the kernel.
pub(super) const IMA_NAME_MAX: usize = 255;

/// How what the kernel logs as a signature begins: a signature over the file, an EVM portable one, one over an fs-verity digest.
/// enum evm_ima_xattr_type of security/integrity/integrity.h.
const SIGNATURE_KINDS: [u8; 3] = [3, 5, 6];

/// Hash algorithms of file digests, by the kernel's names and numbers (include/uapi/linux/hash_info.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileAlg {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA-224.
    Sha224,
    /// SM3.
    Sm3,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
}

impl FileAlg {
    /// Every algorithm known here.
    pub const ALL: [Self; 10] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sha224,
        Self::Sm3,
        Self::Sha3_256,
        Self::Sha3_384,
        Self::Sha3_512,
    ];

    /// The kernel's number, as in the header of a signature.
    pub const fn number(self) -> u8 {
        match self {
            Self::Md5 => 1,
            Self::Sha1 => 2,
            Self::Sha256 => 4,
            Self::Sha384 => 5,
            Self::Sha512 => 6,
            Self::Sha224 => 7,
            Self::Sm3 => 17,
            Self::Sha3_256 => 20,
            Self::Sha3_384 => 21,
            Self::Sha3_512 => 22,
        }
    }

    /// The algorithm of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.number() == number)
    }

    /// The algorithm of this name, as the kernel writes it.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        // In the order of how often they are met.
        match name {
            b"sha256" => Some(Self::Sha256),
            b"sha1" => Some(Self::Sha1),
            b"sha512" => Some(Self::Sha512),
            b"sha384" => Some(Self::Sha384),
            b"sha224" => Some(Self::Sha224),
            b"md5" => Some(Self::Md5),
            // The kernel wrote "sm3-256" before it wrote "sm3"; user space tools write an underscore.
            b"sm3" | b"sm3-256" | b"sm3_256" => Some(Self::Sm3),
            b"sha3-256" => Some(Self::Sha3_256),
            b"sha3-384" => Some(Self::Sha3_384),
            b"sha3-512" => Some(Self::Sha3_512),
            _ => None,
        }
    }

    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sha224 => "sha224",
            Self::Sm3 => "sm3",
            Self::Sha3_256 => "sha3-256",
            Self::Sha3_384 => "sha3-384",
            Self::Sha3_512 => "sha3-512",
        }
    }

    /// Length of its digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 | Self::Sm3 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// The same algorithm as a TPM names it, where this crate can compute it.
    pub const fn hash(self) -> Option<HashAlg> {
        match self {
            Self::Sha1 => Some(HashAlg::Sha1),
            Self::Sha256 => Some(HashAlg::Sha256),
            Self::Sha384 => Some(HashAlg::Sha384),
            Self::Sha512 => Some(HashAlg::Sha512),
            Self::Md5 | Self::Sha224 | Self::Sm3 | Self::Sha3_256 | Self::Sha3_384 | Self::Sha3_512 => None,
        }
    }
}

/// A digest that the kernel made of a file or buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest<'a> {
    /// Algorithm.
    pub algorithm: FileAlg,
    /// Exactly as long as the algorithm's digest.
    pub bytes: &'a [u8],
}

/// What a digest is over (d-ngv2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestKind {
    /// The file's bytes.
    Ima,
    /// The root of the file's fs-verity tree.
    Verity,
}

/// Why template data can't be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldError {
    /// A field runs past the end, or bytes are left over.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The digest has no algorithm in front.
    #[error("digest without algorithm")]
    DigestForm,
    /// The digest is of an algorithm that isn't known here.
    #[error("unknown digest algorithm")]
    DigestAlgorithm,
    /// The digest isn't as long as its algorithm makes it.
    #[error("digest of {0} bytes")]
    DigestLength(usize),
    /// The path is empty, too long, without its NUL, or has one inside.
    #[error("malformed path")]
    Path,
}

/// The templates that the kernel has built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Template {
    /// SHA-1 digest and a name of up to 255 bytes; the data has no lengths.
    Ima,
    /// d-ng|n-ng.
    ImaNg,
    /// d-ng|n-ng|sig.
    ImaSig,
    /// d-ngv2|n-ng.
    ImaNgV2,
    /// d-ngv2|n-ng|sig.
    ImaSigV2,
    /// d-ng|n-ng|sig|d-modsig|modsig.
    ImaModsig,
    /// d-ng|n-ng|buf.
    ImaBuf,
}

/// Form of a field, for readers of the ASCII list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Digest without algorithm, hexadecimal.
    D,
    /// Name without length.
    N,
    /// `algorithm:hexadecimal`, in d-ngv2 with a kind in front; may be empty in d-modsig.
    Digest,
    /// Path.
    Name,
    /// Hexadecimal, may be empty.
    Hex,
}

impl Template {
    /// Every template known here.
    pub const ALL: [Self; 7] =
        [Self::Ima, Self::ImaNg, Self::ImaSig, Self::ImaNgV2, Self::ImaSigV2, Self::ImaModsig, Self::ImaBuf];

    /// The template of this name; others aren't understood.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"ima-ng" => Some(Self::ImaNg),
            b"ima-sig" => Some(Self::ImaSig),
            b"ima-ngv2" => Some(Self::ImaNgV2),
            b"ima-sigv2" => Some(Self::ImaSigV2),
            b"ima-modsig" => Some(Self::ImaModsig),
            b"ima-buf" => Some(Self::ImaBuf),
            b"ima" => Some(Self::Ima),
            _ => None,
        }
    }

    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ima => "ima",
            Self::ImaNg => "ima-ng",
            Self::ImaSig => "ima-sig",
            Self::ImaNgV2 => "ima-ngv2",
            Self::ImaSigV2 => "ima-sigv2",
            Self::ImaModsig => "ima-modsig",
            Self::ImaBuf => "ima-buf",
        }
    }

    pub(super) const fn fields(self) -> &'static [Field] {
        match self {
            Self::Ima => &[Field::D, Field::N],
            Self::ImaNg | Self::ImaNgV2 => &[Field::Digest, Field::Name],
            Self::ImaSig | Self::ImaSigV2 | Self::ImaBuf => &[Field::Digest, Field::Name, Field::Hex],
            Self::ImaModsig => &[Field::Digest, Field::Name, Field::Hex, Field::Digest, Field::Hex],
        }
    }

    /// Reads the data of an entry that isn't a violation.
    pub fn read(self, data: &[u8]) -> Result<Measured<'_>, FieldError> {
        let mut reader = Reader::new(data);
        let measured = match self {
            Self::Ima => Measured {
                kind: DigestKind::Ima,
                digest: FileDigest { algorithm: FileAlg::Sha1, bytes: reader.take(20)? },
                path: plain_path(field(&mut reader)?)?,
                signature: &[],
                buffer: None,
                appended: None,
            },
            Self::ImaNgV2 | Self::ImaSigV2 => {
                let (kind, digest) = digest_v2(field(&mut reader)?)?;
                let path = ended_path(field(&mut reader)?)?;
                let signature = if self == Self::ImaSigV2 { field(&mut reader)? } else { &[] };
                Measured { kind, digest, path, signature, buffer: None, appended: None }
            }
            Self::ImaNg | Self::ImaSig | Self::ImaModsig | Self::ImaBuf => {
                let digest = digest(field(&mut reader)?)?;
                let path = ended_path(field(&mut reader)?)?;
                let kind = DigestKind::Ima;
                let mut measured =
                    Measured { kind, digest, path, signature: &[], buffer: None, appended: None };
                match self {
                    Self::ImaSig => measured.signature = field(&mut reader)?,
                    Self::ImaBuf => measured.buffer = Some(field(&mut reader)?),
                    Self::ImaModsig => {
                        measured.signature = field(&mut reader)?;
                        measured.appended = appended(field(&mut reader)?, field(&mut reader)?)?;
                    }
                    _ => {}
                }
                measured
            }
        };
        reader.finish()?;
        Ok(measured)
    }

    /// The path that the data of a violation names. Nothing proves it: the register holds all ones, not the data.
    pub fn hinted_path(self, data: &[u8]) -> Option<&[u8]> {
        let mut reader = Reader::new(data);
        match self {
            Self::Ima => {
                reader.take(20).ok()?;
                plain_path(field(&mut reader).ok()?).ok()
            }
            _ => {
                field(&mut reader).ok()?;
                ended_path(field(&mut reader).ok()?).ok()
            }
        }
    }
}

/// A signature that is appended to a module or kernel image ([`super::modsig`]). It isn't verified here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended<'a> {
    /// Digest of the file without its signature, by the signature's own hash.
    pub digest: FileDigest<'a>,
    /// The signature.
    pub signature: &'a [u8],
}

/// What one entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured<'a> {
    /// What the digest is over.
    pub kind: DigestKind,
    /// The digest.
    pub digest: FileDigest<'a>,
    /// Path, or the name of a measured buffer. Bytes, as Linux has them.
    pub path: &'a [u8],
    /// The file's `security.ima` signature; empty when it has none.
    pub signature: &'a [u8],
    /// The measured buffer (ima-buf). As claimed by the template's name until [`Measured::told_by_data`].
    pub buffer: Option<&'a [u8]>,
    /// The appended signature (ima-modsig), if there is one.
    pub appended: Option<Appended<'a>>,
}

impl Measured<'_> {
    /// What the third field is by what it holds. The name of a template isn't measured, and the data of ima-sig and ima-buf have one form: an
    /// editor of the list may call either the other. A buffer is what hashes to the digest, and no signature does. `None` if a buffer doesn't,
    /// or if it can't be told: a digest of an algorithm that can't be computed here beside something that no `security.ima` begins with.
    pub fn told_by_data(self) -> Option<Self> {
        let third = self.buffer.unwrap_or(self.signature);
        // The kernel measures no buffer without bytes, and a file without a signature has none here.
        if third.is_empty() {
            return Some(Self { buffer: None, ..self });
        }
        match self.digest.algorithm.hash() {
            Some(hash) if hash.digest(third) == self.digest.bytes => {
                Some(Self { buffer: Some(third), signature: &[], ..self })
            }
            Some(_) => Some(self).filter(|told| told.buffer.is_none()),
            None => {
                let signed = third.first().is_some_and(|kind| SIGNATURE_KINDS.contains(kind));
                Some(self).filter(|told| told.buffer.is_none() && signed)
            }
        }
    }
}

/// A 32-bit length and as many bytes.
fn field<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let at = reader.position();
    let len = reader.u32_le()?;
    let len = usize::try_from(len).map_err(|_| WireError::Truncated { at, wanted: usize::MAX })?;
    reader.take(len)
}

/// `algorithm:` NUL digest.
fn digest(bytes: &[u8]) -> Result<FileDigest<'_>, FieldError> {
    // The longest name has 8 characters: where the colon must be is bounded.
    let colon = bytes.iter().take(16).position(|byte| *byte == b':').ok_or(FieldError::DigestForm)?;
    let (name, rest) = bytes.split_at_checked(colon).ok_or(FieldError::DigestForm)?;
    let Some(bytes) = rest.strip_prefix(b":\0") else { return Err(FieldError::DigestForm) };
    let algorithm = FileAlg::from_name(name).ok_or(FieldError::DigestAlgorithm)?;
    if bytes.len() != algorithm.digest_len() {
        return Err(FieldError::DigestLength(bytes.len()));
    }
    Ok(FileDigest { algorithm, bytes })
}

/// `kind:algorithm:` NUL digest.
fn digest_v2(bytes: &[u8]) -> Result<(DigestKind, FileDigest<'_>), FieldError> {
    if let Some(rest) = bytes.strip_prefix(b"ima:") {
        return Ok((DigestKind::Ima, digest(rest)?));
    }
    let rest = bytes.strip_prefix(b"verity:").ok_or(FieldError::DigestForm)?;
    Ok((DigestKind::Verity, digest(rest)?))
}

fn appended<'a>(of: &'a [u8], signature: &'a [u8]) -> Result<Option<Appended<'a>>, FieldError> {
    match (of, signature) {
        ([], []) => Ok(None),
        _ => Ok(Some(Appended { digest: digest(of)?, signature })),
    }
}

fn ended_path(bytes: &[u8]) -> Result<&[u8], FieldError> {
    let Some((0, path)) = bytes.split_last() else { return Err(FieldError::Path) };
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains(&0) {
        return Err(FieldError::Path);
    }
    Ok(path)
}

fn plain_path(bytes: &[u8]) -> Result<&[u8], FieldError> {
    if bytes.is_empty() || bytes.len() > IMA_NAME_MAX || bytes.contains(&0) {
        return Err(FieldError::Path);
    }
    Ok(bytes)
}
