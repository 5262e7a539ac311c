//! Receipts: C2SP tlog-proof texts (PROTOCOL §6.4).
//!
//! In: a leaf, its index, its inclusion path and a signed head, or a text as received. Out: the text, or its parts.
//! Refused: anything above [`MAX_TLOG_PROOF_BYTES`], other lines or another order, decimals and base64 that are not
//! canonical. Nothing here verifies: the parts are claims until the head's signatures, the path and the leaf have
//! been checked.

use data_encoding::BASE64;

use crate::base64::{padded, padded_array};
use crate::checkpoint::decimal;
use crate::digest::Sha256Digest;
use crate::merkle::MAX_PROOF_HASHES;
use crate::note::MAX_NOTE_BYTES;

#[cfg(test)]
mod tests;

/// Largest text (PROTOCOL §6.4). The greatest leaf takes 87,380 characters, 64 hashes 2,880, a note 16,384: all
/// together below this.
pub const MAX_TLOG_PROOF_BYTES: usize = 128 * 1024;
/// Largest extra data: the largest leaf (PROTOCOL §5.1).
pub const MAX_EXTRA_BYTES: usize = 65_535;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Why a text is not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// Above [`MAX_TLOG_PROOF_BYTES`].
    #[error("a receipt has at most {MAX_TLOG_PROOF_BYTES} bytes")]
    TooLarge,
    /// The first line is not the one of a tlog-proof of version 1.
    #[error("the first line is not {FIRST_LINE}")]
    FirstLine,
    /// The `extra` line is missing, empty, too long or malformed. C2SP lets it be absent; a receipt has a leaf.
    #[error("the extra line is missing or malformed")]
    Extra,
    /// The `index` line is missing or malformed.
    #[error("the index line is missing or malformed")]
    Index,
    /// A line of the path is not 32 bytes in canonical base64.
    #[error("a hash of the path is malformed")]
    Hash,
    /// More than [`MAX_PROOF_HASHES`] hashes.
    #[error("the path has more than {MAX_PROOF_HASHES} hashes")]
    TooManyHashes,
    /// No empty line after the path, or nothing, or more than a note can hold, behind it.
    #[error("the checkpoint is missing or too large")]
    Checkpoint,
}

/// The parts of a receipt. Not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Extra data: the leaf, 1 to [`MAX_EXTRA_BYTES`] bytes.
    pub extra: Vec<u8>,
    /// Index of the leaf.
    pub index: u64,
    /// Inclusion path, from the leaf's sibling upwards; at most [`MAX_PROOF_HASHES`].
    pub proof: Vec<Sha256Digest>,
    /// The signed head, verbatim: a note of 1 to [`MAX_NOTE_BYTES`] bytes, for [`crate::note::SignedNote::parse`].
    pub checkpoint: String,
}

impl TlogProof {
    /// The text. [`TlogProof::parse`] reads it back if the parts keep to their limits.
    pub fn encode(&self) -> String {
        let size = BASE64.encode_len(self.extra.len()) + 45 * self.proof.len() + self.checkpoint.len() + 64;
        let mut out = String::with_capacity(size);
        out.push_str(FIRST_LINE);
        out.push_str("\nextra ");
        BASE64.encode_append(&self.extra, &mut out);
        out.push_str("\nindex ");
        out.push_str(&self.index.to_string());
        out.push('\n');
        for hash in &self.proof {
            BASE64.encode_append(hash.as_bytes(), &mut out);
            out.push('\n');
        }
        out.push('\n');
        out.push_str(&self.checkpoint);
        out
    }

    /// Reads a text that [`TlogProof::encode`] could have written, and no other.
    ///
    /// # Errors
    /// [`TlogProofError`], naming the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        if text.len() > MAX_TLOG_PROOF_BYTES {
            return Err(TlogProofError::TooLarge);
        }
        // C2SP tlog-proof, format.
        let (first, rest) = text.split_once('\n').ok_or(TlogProofError::FirstLine)?;
        if first != FIRST_LINE {
            return Err(TlogProofError::FirstLine);
        }
        let (line, rest) = rest.split_once('\n').ok_or(TlogProofError::Extra)?;
        let extra = line.strip_prefix("extra ").and_then(extra_data).ok_or(TlogProofError::Extra)?;
        let (line, mut rest) = rest.split_once('\n').ok_or(TlogProofError::Index)?;
        let index = line.strip_prefix("index ").and_then(decimal).ok_or(TlogProofError::Index)?;
        let mut proof = Vec::new();
        let checkpoint = loop {
            let (line, after) = rest.split_once('\n').ok_or(TlogProofError::Checkpoint)?;
            if line.is_empty() {
                break after;
            }
            if proof.len() >= MAX_PROOF_HASHES {
                return Err(TlogProofError::TooManyHashes);
            }
            proof.push(Sha256Digest::new(padded_array(line).ok_or(TlogProofError::Hash)?));
            rest = after;
        };
        if checkpoint.is_empty() || checkpoint.len() > MAX_NOTE_BYTES {
            return Err(TlogProofError::Checkpoint);
        }
        Ok(Self { extra, index, proof, checkpoint: checkpoint.to_owned() })
    }
}

fn extra_data(base64: &str) -> Option<Vec<u8>> {
    // The length is judged before anything is allocated for the decoded bytes.
    if base64.is_empty() || base64.len() > BASE64.encode_len(MAX_EXTRA_BYTES) {
        return None;
    }
    padded(base64)
}
