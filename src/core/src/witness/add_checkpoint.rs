//! What a log sends to a witness, and what comes back (C2SP tlog-witness, "add-checkpoint").
//!
//! In: the bytes of a request or an answer. Out: their parts, of which nothing is verified. Refused: another form, more than 63 hashes, a
//! checkpoint that isn't one. A witness follows logs of any kind, so only the first three lines of a checkpoint mean anything here.

use data_encoding::BASE64;

use crate::base64::padded_array;
use crate::checkpoint::decimal;
use crate::digest::Sha256Digest;
use crate::merkle::MAX_TREE_SIZE;
use crate::note::{MAX_NOTE_BYTES, MAX_SIGNATURES, NoteSignature, SignedNote};

/// C2SP tlog-witness: a client sends no more.
pub const MAX_PROOF_LINES: usize = 63;
/// Longest request: the line of the old size, the proof, the empty line, a note.
pub const MAX_ADD_CHECKPOINT_BYTES: usize = 32 + MAX_PROOF_LINES * 45 + 1 + MAX_NOTE_BYTES;

/// Why bytes aren't a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddCheckpointMalformed {
    /// Above [`MAX_ADD_CHECKPOINT_BYTES`], or not UTF-8.
    #[error("the request is too large or isn't text")]
    Bytes,
    /// The first line isn't `old` and a size.
    #[error("the line of the old size is missing or malformed")]
    Old,
    /// A line of the proof isn't a hash, there are too many, or no empty line ends them.
    #[error("the consistency proof is malformed")]
    Proof,
    /// What follows isn't a signed note, or its text not a checkpoint.
    #[error("the checkpoint is malformed")]
    Checkpoint,
}

/// The lines of a checkpoint that every log has (C2SP tlog-checkpoint, "Note text").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCheckpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root.
    pub root: Sha256Digest,
}

impl LogCheckpoint {
    /// Reads the text of a note; extension lines may follow and mean nothing here. `None` if it isn't a checkpoint.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty())?;
        let size = lines.next().and_then(decimal).filter(|size| *size <= MAX_TREE_SIZE)?;
        let root = Sha256Digest::new(padded_array(lines.next()?)?);
        // Extension lines are not empty.
        lines.all(|line| !line.is_empty()).then(|| Self { origin: origin.to_owned(), size, root })
    }
}

/// A request to cosign a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness is thought to have cosigned last.
    pub old_size: u64,
    /// Consistency proof from there to the checkpoint.
    pub proof: Vec<Sha256Digest>,
    /// The signed checkpoint.
    pub note: SignedNote,
    /// What it says. Not verified.
    pub checkpoint: LogCheckpoint,
}

impl AddCheckpoint {
    /// The bytes of a request.
    #[must_use]
    pub fn encode(old_size: u64, proof: &[Sha256Digest], note: &str) -> String {
        let mut out = format!("old {old_size}\n");
        for hash in proof {
            BASE64.encode_append(hash.as_bytes(), &mut out);
            out.push('\n');
        }
        out.push('\n');
        out.push_str(note);
        out
    }

    /// Reads a request that [`AddCheckpoint::encode`] could have written.
    ///
    /// # Errors
    /// [`AddCheckpointMalformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AddCheckpointMalformed> {
        if bytes.len() > MAX_ADD_CHECKPOINT_BYTES {
            return Err(AddCheckpointMalformed::Bytes);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| AddCheckpointMalformed::Bytes)?;
        let (first, mut rest) = text.split_once('\n').ok_or(AddCheckpointMalformed::Old)?;
        let old_size = first.strip_prefix("old ").and_then(decimal).ok_or(AddCheckpointMalformed::Old)?;
        let mut proof = Vec::new();
        loop {
            let (line, after) = rest.split_once('\n').ok_or(AddCheckpointMalformed::Proof)?;
            rest = after;
            if line.is_empty() {
                break;
            }
            if proof.len() >= MAX_PROOF_LINES {
                return Err(AddCheckpointMalformed::Proof);
            }
            proof.push(Sha256Digest::new(padded_array(line).ok_or(AddCheckpointMalformed::Proof)?));
        }
        let note = SignedNote::parse(rest).map_err(|_| AddCheckpointMalformed::Checkpoint)?;
        let checkpoint = LogCheckpoint::parse(note.text()).ok_or(AddCheckpointMalformed::Checkpoint)?;
        Ok(Self { old_size, proof, note, checkpoint })
    }
}

/// The signature lines of a witness's answer; `None` if it is anything else. Lines of whoever are among them.
#[must_use]
pub fn cosignature_lines(answer: &str) -> Option<Vec<NoteSignature>> {
    let lines = answer.strip_suffix('\n')?;
    if answer.len() > MAX_NOTE_BYTES || lines.split('\n').count() > MAX_SIGNATURES {
        return None;
    }
    // C2SP tlog-witness: the answer may be put behind the checkpoint and read as a note.
    let note = SignedNote::parse(&format!("x\n\n{answer}")).ok()?;
    (note.text() == "x\n").then(|| note.signatures().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str =
        "log.example\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} log.example AAAAAAA=\n";

    #[test]
    fn a_request_is_read_back() {
        let proof = [Sha256Digest::new([1; 32]), Sha256Digest::new([2; 32])];
        for proof in [&proof[..], &[]] {
            let text = AddCheckpoint::encode(3, proof, NOTE);
            let read = AddCheckpoint::parse(text.as_bytes()).unwrap();
            assert_eq!((read.old_size, read.proof.as_slice()), (3, proof));
            assert_eq!(read.note.format(), NOTE);
            assert_eq!((read.checkpoint.origin.as_str(), read.checkpoint.size), ("log.example", 7));
        }
    }

    #[test]
    fn whatever_isnt_a_request_says_which_part() {
        use AddCheckpointMalformed::{Bytes, Checkpoint, Old, Proof};
        let hash = BASE64.encode(&[1; 32]);
        let good = format!("old 3\n{hash}\n\n{NOTE}");
        AddCheckpoint::parse(good.as_bytes()).unwrap();
        for (from, to, expected) in [
            ("old 3\n", "old 03\n", Old),
            ("old 3\n", "old -1\n", Old),
            ("old 3\n", "new 3\n", Old),
            ("old 3\n", "old 3 \n", Old),
            ("old 3\n", "old 18446744073709551616\n", Old),
            (&format!("{hash}\n"), "AAAA\n", Proof),
            (&format!("{hash}\n"), &format!("{hash}\n").repeat(64), Proof),
            (&format!("{hash}\n\n"), &format!("{hash}\n"), Proof),
            ("\n7\n", "\n07\n", Checkpoint),
            ("\n7\n", "\n9223372036854775808\n", Checkpoint),
            ("AAA=\n\n\u{2014}", "AAA=\n\n\n\u{2014}", Checkpoint),
            ("\u{2014} log.example AAAAAAA=\n", "", Checkpoint),
            ("AAAAAAA=\n", "AAAAAAA=", Checkpoint),
        ] {
            let changed = good.replacen(from, to, 1);
            assert_ne!(changed, good, "{from}");
            assert_eq!(AddCheckpoint::parse(changed.as_bytes()), Err(expected), "{from:?} {to:?}");
        }
        assert_eq!(AddCheckpoint::parse(b"\xff"), Err(Bytes));
        assert_eq!(AddCheckpoint::parse(&vec![b'a'; MAX_ADD_CHECKPOINT_BYTES + 1]), Err(Bytes));
        assert_eq!(AddCheckpoint::parse(b""), Err(Old));
    }

    #[test]
    fn an_answer_is_signature_lines_and_nothing_else() {
        let line = "\u{2014} witness.example AAAAAAA=\n";
        assert_eq!(cosignature_lines(line).unwrap().len(), 1);
        assert_eq!(cosignature_lines(&line.repeat(2)).unwrap().len(), 2);
        for bad in [
            "",
            "\n",
            "ok\n",
            line.trim_end(),
            &format!("\n{line}"),
            &line.repeat(65),
            &format!("x\n\n{line}"),
        ] {
            assert_eq!(cosignature_lines(bad), None, "{bad:?}");
        }
    }
}
