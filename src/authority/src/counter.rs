//! The rollback counter: a counter in the TPM that only rises, and heartbeat leaves that tell its values.
//!
//! Comes in: `[rollback_counter]`, a note file beside the signer's memory, the store. Goes out: that the store is as new as the TPM says, or a
//! refusal to start; and, at start, by the hour and at stop, a leaf that tells the next value, after which the counter is raised to it.
//!
//! Who rolls a disk back as a whole takes store, signer's memory and this note along, but not the TPM. The newest value that the log tells
//! is the counter's own, or one more if a crash came between leaf and raise; a lower one means that leaves are missing.
//!
//! The note is not believed: it says where the leaf is, and holds the counter's authorization value, from which the counter's identifier in
//! the log follows. A value counts only out of a leaf under a head that the log's keys signed. What a note can do is to lead nowhere.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use countersign_core::bundle::TrustBundle;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{Sha256Tree, TreeHash as _, inclusion_proof, verify_inclusion};
use countersign_core::tuple::tuple_digest;
use countersign_hsm::SignFault;
use countersign_hsm::tpm::{COUNTER_AUTH_BYTES, Counter};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::init::files;
use crate::sign::{VouchedFault, newest_vouched};
use crate::store::{MAX_PAGE, ReadFault, Reader, SignedHead, StoredTree};

/// Largest note that is read.
const MAX_NOTE_BYTES: usize = 4_096;
/// Domain of identifiers.
const ID_TAG: &str = "countersign-v1:rollback-counter";
/// How often the counter is raised: NV memory wears out after some hundred thousand writes.
const RAISE_EVERY: Duration = Duration::from_secs(3_600);

/// Why the counter doesn't let the authority start, or can't be raised.
#[derive(Debug, thiserror::Error)]
pub enum CounterFault {
    /// The note can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no note: the counter was never made here, or the note is lost.
    #[error("{0} isn't there: make the counter with `countersign authority counter`")]
    NotMade(PathBuf),
    /// There is a note already.
    #[error("{0} is there: a counter was made already")]
    Made(PathBuf),
    /// The note isn't one.
    #[error("{0} isn't a note of a rollback counter")]
    Malformed(PathBuf),
    /// The TPM.
    #[error("rollback counter: {0}")]
    Device(#[from] SignFault),
    /// The log tells of a lower value than the counter has.
    #[error("the log was rolled back: it tells of counter value {told}, the TPM's is {value}")]
    RolledBack {
        /// Newest value in the log.
        told: u64,
        /// The counter's value.
        value: u64,
    },
    /// The log tells of a value that the counter never had.
    #[error("the TPM's counter isn't the log's: the log tells of value {told}, the TPM's is {value}")]
    OtherCounter {
        /// Newest value in the log.
        told: u64,
        /// The counter's value.
        value: u64,
    },
    /// The leaf that the note names isn't in the log, or isn't that leaf.
    #[error("the log was rolled back: leaf {0} doesn't tell of the counter any more")]
    LeafMissing(u64),
    /// No head that vouches for the leaf.
    #[error(transparent)]
    Vouched(#[from] VouchedFault),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The TPM raised the counter to another value than was told: somebody else raises it.
    #[error("the counter was raised to {value}, but the log tells of {told}")]
    Raced {
        /// Value in the log.
        told: u64,
        /// The counter's value.
        value: u64,
    },
}

/// What is kept beside the signer's memory.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    /// Authorization value of the NV index, hex.
    auth: String,
    /// Value that was told last.
    value: u64,
    /// In which leaf; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<u64>,
}

/// The open counter.
pub struct RollbackCounter {
    device: Counter,
    id: [u8; 16],
    path: PathBuf,
    kept: Mutex<Kept>,
}

struct Kept {
    note: Note,
    raised: Option<Instant>,
}

impl RollbackCounter {
    /// Makes a counter in the TPM, and the note. `replace` takes away what was under the NV index and the note that named it.
    ///
    /// # Errors
    /// [`CounterFault`]; a note is there only if the counter is.
    pub fn make(
        config: &config::RollbackCounter,
        path: &Path,
        auth: [u8; COUNTER_AUTH_BYTES],
        replace: bool,
    ) -> Result<u64, CounterFault> {
        if path.exists() && !replace {
            return Err(CounterFault::Made(path.to_owned()));
        }
        let device = Counter::new(&config.tcti, config.nv_index, auth);
        if replace {
            match device.undefine() {
                Err(fault) if fault.class() != countersign_hsm::FaultClass::KeyMissing => {
                    return Err(fault.into());
                }
                _ => {}
            }
        }
        let value = device.define()?;
        // A crash before: a counter without a note, which the next try has to replace. After: both are there.
        write(path, &Note { auth: HEXLOWER.encode(&auth), value, leaf: None })?;
        Ok(value)
    }

    /// Opens the counter that the note names, and compares it with the log before anything is appended.
    ///
    /// # Errors
    /// [`CounterFault`]: the authority must not start.
    pub fn open(
        config: &config::RollbackCounter,
        path: &Path,
        reader: &dyn Reader,
        bundle: &TrustBundle,
    ) -> Result<Self, CounterFault> {
        let note = read(path)?;
        let malformed = || CounterFault::Malformed(path.to_owned());
        let auth = HEXLOWER.decode(note.auth.as_bytes()).map_err(|_| malformed())?;
        let auth: [u8; COUNTER_AUTH_BYTES] = auth.try_into().map_err(|_| malformed())?;
        let device = Counter::new(&config.tcti, config.nv_index, auth);
        let mut id = [0; 16];
        id.iter_mut().zip(tuple_digest(ID_TAG, &[&auth]).as_bytes()).for_each(|(into, byte)| *into = *byte);
        let counter =
            Self { device, id, path: path.to_owned(), kept: Mutex::new(Kept { note, raised: None }) };
        counter.compare(reader, bundle)?;
        Ok(counter)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compare(&self, reader: &dyn Reader, bundle: &TrustBundle) -> Result<(), CounterFault> {
        let value = self.device.value()?;
        let head = newest_vouched(reader, bundle)?;
        let note = self.kept().note.clone();
        let told = match note.leaf {
            Some(index) => self.told_by(reader, &head, index)?.ok_or(CounterFault::LeafMissing(index))?,
            // Made, and nothing told yet as far as the note knows: once in a counter's life the whole log is looked through.
            None => self.newest_told(reader, &head)?.unwrap_or(note.value),
        };
        judge(told, value)
    }

    /// The value that the leaf at this index tells of this counter, if it does, under a head that vouches for it.
    fn told_by(
        &self,
        reader: &dyn Reader,
        head: &SignedHead,
        index: u64,
    ) -> Result<Option<u64>, CounterFault> {
        if index >= head.size() {
            return Ok(None);
        }
        let Some(bytes) = reader.leaf(index)? else { return Ok(None) };
        let proof = inclusion_proof::<Sha256Tree, _>(index, head.size(), &StoredTree(reader));
        let proof = proof.map_err(|_| ReadFault::Corrupt("a tree node is missing"))?;
        let (hash, root) = (Sha256Tree::leaf_hash(&bytes), &head.body().sha256_root);
        if verify_inclusion::<Sha256Tree>(&hash, index, head.size(), &proof, root).is_err() {
            return Ok(None);
        }
        Ok(value_in(&bytes, index, &self.id))
    }

    fn newest_told(&self, reader: &dyn Reader, head: &SignedHead) -> Result<Option<u64>, CounterFault> {
        let (mut next, mut newest) = (0, None);
        while next < head.size() {
            let page = reader.leaves(next, MAX_PAGE)?;
            if page.is_empty() {
                break;
            }
            for bytes in page {
                if value_in(&bytes, next, &self.id).is_some() {
                    newest = self.told_by(reader, head, next)?.or(newest);
                }
                next += 1;
            }
        }
        Ok(newest)
    }

    /// Whether it is time to raise the counter again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.kept().raised.is_none_or(|raised| raised.elapsed() >= RAISE_EVERY)
    }

    /// The value that a leaf has to tell next, and that leaf's body.
    ///
    /// # Errors
    /// [`CounterFault::Device`].
    pub fn next(&self) -> Result<(u64, Vec<u8>), CounterFault> {
        let value = self.device.value()?.saturating_add(1);
        Ok((value, Heartbeat(HeartbeatReason::Counter { id: self.id, value }).encode()))
    }

    /// The leaf at this index tells this value and is under a signed head: notes it, and raises the counter to it.
    ///
    /// # Errors
    /// [`CounterFault`]; the next call of [`RollbackCounter::next`] starts over.
    pub fn told(&self, index: u64, told: u64) -> Result<(), CounterFault> {
        let mut kept = self.kept();
        let note = Note { value: told, leaf: Some(index), ..kept.note.clone() };
        // A crash before: the note leads to the leaf before, whose value is the counter's. After: it leads to this one, one ahead of the counter.
        write(&self.path, &note)?;
        kept.note = note;
        let value = self.device.raise()?;
        if value != told {
            return Err(CounterFault::Raced { told, value });
        }
        kept.raised = Some(Instant::now());
        Ok(())
    }
}

/// The leaf comes before the raise, so a crash between them leaves the log one ahead; nothing leaves it behind.
fn judge(told: u64, value: u64) -> Result<(), CounterFault> {
    if value == told || value.checked_add(1) == Some(told) {
        Ok(())
    } else if value > told {
        Err(CounterFault::RolledBack { told, value })
    } else {
        Err(CounterFault::OtherCounter { told, value })
    }
}

/// The value of the counter with this identifier in a leaf's bytes.
fn value_in(bytes: &[u8], index: u64, id: &[u8; 16]) -> Option<u64> {
    let leaf = Leaf::parse(bytes).ok().filter(|leaf| leaf.kind == Kind::Heartbeat && leaf.index == index)?;
    match Heartbeat::parse(&leaf.body).ok()?.0 {
        HeartbeatReason::Counter { id: of, value } if of == *id => Some(value),
        _ => None,
    }
}

fn read(path: &Path) -> Result<Note, CounterFault> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CounterFault::NotMade(path.to_owned()));
        }
        Err(source) => return Err(CounterFault::File { path: path.to_owned(), source }),
    };
    let note = (text.len() <= MAX_NOTE_BYTES).then(|| serde_json::from_slice(&text).ok()).flatten();
    note.ok_or_else(|| CounterFault::Malformed(path.to_owned()))
}

fn write(path: &Path, note: &Note) -> Result<(), CounterFault> {
    let fault = |source| CounterFault::File { path: path.to_owned(), source };
    let text = serde_json::to_vec(note).map_err(|error| fault(error.into()))?;
    files::replace(path, &text, 0o600).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_at_the_counter_or_one_ahead() {
        assert!(judge(7, 7).is_ok() && judge(8, 7).is_ok());
        assert!(matches!(judge(6, 7), Err(CounterFault::RolledBack { told: 6, value: 7 })));
        assert!(matches!(judge(9, 7), Err(CounterFault::OtherCounter { told: 9, value: 7 })));
        assert!(matches!(judge(0, u64::MAX), Err(CounterFault::RolledBack { .. })));
        assert!(judge(u64::MAX, u64::MAX).is_ok());
    }

    #[test]
    fn a_note_that_is_none_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        assert!(matches!(read(&path), Err(CounterFault::NotMade(_))));
        let good = Note { auth: "00".repeat(32), value: 3, leaf: Some(9) };
        write(&path, &good).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((read(&path).unwrap().value, read(&path).unwrap().leaf), (3, Some(9)));
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(matches!(read(&path), Err(CounterFault::Malformed(_))));
        }
        std::fs::write(&path, [bytes, vec![b' '; MAX_NOTE_BYTES]].concat()).unwrap();
        assert!(matches!(read(&path), Err(CounterFault::Malformed(_))));
    }
}
