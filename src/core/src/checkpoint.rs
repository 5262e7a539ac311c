//! Head bodies: C2SP checkpoints with the extension lines of PROTOCOL §6.1.
//!
//! In: the facts of a head, or the text of a verified note. Out: the one text that states them, its digest, or the
//! facts again. Refused: another order or number of lines, decimals with leading zeros, base64 that is not
//! canonical, an origin that breaks PROTOCOL §1.6, sizes that no tree can have. What is accepted re-encodes to the
//! same text, so a digest of the facts is a digest of what was signed.

use data_encoding::BASE64;

use crate::base64::padded_array;
use crate::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest, sha256};
use crate::merkle::MAX_TREE_SIZE;

#[cfg(test)]
mod tests;

/// Longest origin in characters (PROTOCOL §1.6).
pub const MAX_ORIGIN_CHARS: usize = 255;

/// Why a text is not a head body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadBodyError {
    /// Not exactly eight lines, each ended by a newline.
    #[error("a head body has exactly eight lines, each ended by a newline")]
    Lines,
    /// The origin breaks the rule of [`is_origin`].
    #[error("the origin is not a schema-less URL of 1 to {MAX_ORIGIN_CHARS} characters without plus signs")]
    Origin,
    /// The size is not a canonical decimal up to [`MAX_TREE_SIZE`].
    #[error("the tree size is not a canonical decimal that a tree can have")]
    Size,
    /// The SHA-256 root is not 32 bytes in canonical base64.
    #[error("the SHA-256 root is malformed")]
    Sha256Root,
    /// The `sha3-512` line is missing or malformed.
    #[error("the sha3-512 line is missing or malformed")]
    Sha3Root,
    /// The `blake2b-512` line is missing or malformed.
    #[error("the blake2b-512 line is missing or malformed")]
    Blake2Root,
    /// The `time` line is missing or malformed.
    #[error("the time line is missing or malformed")]
    Time,
    /// The `prev` line is missing or malformed.
    #[error("the prev line is missing or malformed")]
    Prev,
    /// The `control` line is missing or malformed.
    #[error("the control line is missing or malformed")]
    Control,
}

/// What a head states about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadBody {
    /// Name of the log; holds by [`is_origin`].
    pub origin: String,
    /// Number of leaves, at most [`MAX_TREE_SIZE`].
    pub size: u64,
    /// Root of the SHA-256 tree.
    pub sha256_root: Sha256Digest,
    /// Root of the SHA3-512 tree.
    pub sha3_root: Sha3_512Digest,
    /// Root of the BLAKE2b-512 tree.
    pub blake2_root: Blake2b512Digest,
    /// Time of the batch in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Digest of the head body committed before this one, zeros for the first.
    pub prev: Sha256Digest,
    /// Number of control leaves.
    pub control_seq: u64,
    /// End of the control chain, zeros when there is no control leaf (PROTOCOL §5.4).
    pub control_digest: Sha256Digest,
}

impl HeadBody {
    /// The text, with its final newline. [`HeadBody::parse`] reads it back if the origin and the size keep to their
    /// rules.
    pub fn encode(&self) -> String {
        format!(
            "{}\n{}\n{}\nsha3-512 {}\nblake2b-512 {}\ntime {}\nprev {}\ncontrol {} {}\n",
            self.origin,
            self.size,
            BASE64.encode(self.sha256_root.as_bytes()),
            BASE64.encode(self.sha3_root.as_bytes()),
            BASE64.encode(self.blake2_root.as_bytes()),
            self.time_ms,
            BASE64.encode(self.prev.as_bytes()),
            self.control_seq,
            BASE64.encode(self.control_digest.as_bytes()),
        )
    }

    /// Reads a text that [`HeadBody::encode`] could have written, and no other.
    ///
    /// # Errors
    /// [`HeadBodyError`], naming the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, HeadBodyError> {
        let body = text.strip_suffix('\n').ok_or(HeadBodyError::Lines)?;
        let mut lines = body.split('\n');
        let mut line = || lines.next().ok_or(HeadBodyError::Lines);
        let origin = Some(line()?).filter(|origin| is_origin(origin)).ok_or(HeadBodyError::Origin)?;
        let size = decimal(line()?).filter(|size| *size <= MAX_TREE_SIZE).ok_or(HeadBodyError::Size)?;
        let sha256_root = padded_array(line()?).ok_or(HeadBodyError::Sha256Root)?;
        let sha3_root = line()?.strip_prefix("sha3-512 ").and_then(padded_array);
        let sha3_root = sha3_root.ok_or(HeadBodyError::Sha3Root)?;
        let blake2_root = line()?.strip_prefix("blake2b-512 ").and_then(padded_array);
        let blake2_root = blake2_root.ok_or(HeadBodyError::Blake2Root)?;
        let time_ms = line()?.strip_prefix("time ").and_then(decimal).ok_or(HeadBodyError::Time)?;
        let prev = line()?.strip_prefix("prev ").and_then(padded_array).ok_or(HeadBodyError::Prev)?;
        let control = line()?.strip_prefix("control ").and_then(|rest| {
            let (seq, digest) = rest.split_once(' ')?;
            Some((decimal(seq)?, padded_array(digest)?))
        });
        let (control_seq, control_digest) = control.ok_or(HeadBodyError::Control)?;
        if lines.next().is_some() {
            return Err(HeadBodyError::Lines);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            sha256_root: Sha256Digest::new(sha256_root),
            sha3_root: Sha3_512Digest::new(sha3_root),
            blake2_root: Blake2b512Digest::new(blake2_root),
            time_ms,
            prev: Sha256Digest::new(prev),
            control_seq,
            control_digest: Sha256Digest::new(control_digest),
        })
    }

    /// SHA-256 of the text (PROTOCOL §6.2).
    pub fn digest(&self) -> Sha256Digest {
        sha256(self.encode().as_bytes())
    }
}

/// Whether `origin` can name a log (PROTOCOL §1.6): 1 to [`MAX_ORIGIN_CHARS`] visible ASCII characters, which is what
/// URLs are made of, no plus sign, no scheme.
pub fn is_origin(origin: &str) -> bool {
    let visible = origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+');
    (1..=MAX_ORIGIN_CHARS).contains(&origin.len()) && visible && !origin.contains("://")
}

/// A decimal without sign and leading zeros (C2SP tlog-checkpoint, note text).
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // `parse` refuses the empty text and what exceeds 64 bits.
    if canonical && digits { text.parse().ok() } else { None }
}
