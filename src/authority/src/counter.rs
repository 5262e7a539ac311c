//! The rollback counter: a counter in the TPM that only rises, and heartbeat leaves that tell its values.
//!
//! Comes in: `[rollback_counter]`, a note file beside the signer's memory, the store. Goes out: that the store is as new as the TPM says, or a
//! refusal to start; and, at start, by the hour and at stop, a leaf that tells the next value, after which the counter is raised to it.
//!
//! Who rolls a disk back as a whole takes store, signer's memory and this note along, but not the TPM. The newest value that the log tells
//! is the counter's own, or one more if a crash came between leaf and raise; a lower one means that leaves are missing.
//!
//! The note is not believed: it says where the leaf is, and holds the counter's authorization value, from which the counter's identifier in
//! the log follows. A value counts only out of a leaf under a head that the log's keys signed, and that nothing was told yet only if the TPM
//! says that the counter was never raised. What a note can do is to lead nowhere.

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
use crate::store::{ReadFault, Reader, SignedHead, StoredTree};

/// Largest note that is read.
const MAX_NOTE_BYTES: usize = 4_096;
/// Domain of identifiers.
const ID_TAG: &str = "countersign-v1:rollback-counter";
/// How often the counter is raised: NV memory wears out after some hundred thousand writes.
const RAISE_EVERY: Duration = Duration::from_secs(3_600);
/// Longer than this without a raise, and the authority isn't ready: what came since could be rolled back, and the counter wouldn't tell.
const STALE_AFTER: Duration = Duration::from_secs(3 * 3_600);
/// A start this soon after the last raise doesn't raise again: a process that dies and is started again all night would wear the memory out.
const RECENT_MS: u64 = 600_000;
/// Pause after a raise that failed; it doubles up to [`RAISE_EVERY`].
const FIRST_PAUSE: Duration = Duration::from_secs(10);

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
    /// The counter was raised, and the note names no leaf that tells of it.
    #[error(
        "{0} names no leaf, but the counter was raised: compare the newest head, then make another counter with --replace"
    )]
    NotTold(PathBuf),
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
    /// Which leaf told a value last; none before the first.
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
    /// When the leaf was told that the authority was started with, ms of the log.
    told_ms: Option<u64>,
    /// When this process compared it with the log.
    opened: Instant,
    /// When this process raised it last.
    raised: Option<Instant>,
    /// After a raise that failed: until when to leave it alone, and for how long the next time.
    pause: Option<(Instant, Duration)>,
}

/// What a leaf tells of the counter.
struct Told {
    value: u64,
    time_ms: u64,
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
    ) -> Result<(), CounterFault> {
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
        device.define()?;
        // A crash before: a counter without a note, which the next try has to replace. After: both are there.
        write(path, &Note { auth: HEXLOWER.encode(&auth), leaf: None })
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
        let kept = Kept { note, told_ms: None, opened: Instant::now(), raised: None, pause: None };
        let counter = Self { device, id, path: path.to_owned(), kept: Mutex::new(kept) };
        let told = counter.compare(reader, bundle)?;
        counter.kept().told_ms = told;
        Ok(counter)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the newest value was told, ms.
    fn compare(&self, reader: &dyn Reader, bundle: &TrustBundle) -> Result<Option<u64>, CounterFault> {
        let value = self.device.value()?;
        let leaf = self.kept().note.leaf;
        match (leaf, value) {
            // Made, and never raised.
            (None, None) => Ok(None),
            (None, Some(_)) => Err(CounterFault::NotTold(self.path.clone())),
            (Some(index), value) => {
                let head = newest_vouched(reader, bundle)?;
                let told = self.told_by(reader, &head, index)?.ok_or(CounterFault::LeafMissing(index))?;
                judge(told.value, value.unwrap_or(0))?;
                Ok(Some(told.time_ms))
            }
        }
    }

    /// The value that the leaf at this index tells of this counter, if it does, under a head that vouches for it.
    fn told_by(
        &self,
        reader: &dyn Reader,
        head: &SignedHead,
        index: u64,
    ) -> Result<Option<Told>, CounterFault> {
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
        Ok(told_in(&bytes, index, &self.id))
    }

    /// Whether it is time to raise the counter again.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        let kept = self.kept();
        if kept.pause.is_some_and(|(until, _)| Instant::now() < until) {
            return false;
        }
        match (kept.raised, kept.told_ms) {
            (Some(raised), _) => raised.elapsed() >= RAISE_EVERY,
            // A leaf can't be of the future; one that seems to be is no reason to wait.
            (None, Some(told)) => now_ms.checked_sub(told).is_none_or(|age| age >= RECENT_MS),
            (None, None) => true,
        }
    }

    /// Whether it was raised not long ago, or compared with the log and due to be raised.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let kept = self.kept();
        kept.raised.unwrap_or(kept.opened).elapsed() < STALE_AFTER
    }

    /// The value that a leaf has to tell next, and that leaf's body. A counter that was never raised is raised to its first value, which only
    /// the TPM knows; a crash before a leaf of it is noted makes `--replace` necessary.
    ///
    /// # Errors
    /// [`CounterFault::Device`].
    pub fn next(&self) -> Result<(u64, Vec<u8>), CounterFault> {
        let value = match self.device.value()? {
            Some(value) => value,
            None => self.device.raise()?,
        };
        let value = value.saturating_add(1);
        Ok((value, Heartbeat(HeartbeatReason::Counter { id: self.id, value }).encode()))
    }

    /// A raise failed: the next one waits, longer each time.
    pub fn failed(&self) {
        let mut kept = self.kept();
        let pause = kept.pause.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(RAISE_EVERY));
        kept.pause = Instant::now().checked_add(pause).map(|until| (until, pause));
    }

    /// The leaf at this index tells this value and is under a signed head, which is durable, signature and all: notes it, and raises the counter to it.
    ///
    /// # Errors
    /// [`CounterFault`]; the next call of [`RollbackCounter::next`] starts over.
    pub fn told(&self, index: u64, told: u64) -> Result<(), CounterFault> {
        let mut kept = self.kept();
        let note = Note { leaf: Some(index), ..kept.note.clone() };
        // A crash before: the note leads to the leaf before, whose value is the counter's. After: it leads to this one, one ahead of the counter.
        write(&self.path, &note)?;
        kept.note = note;
        let value = self.device.raise()?;
        if value != told {
            return Err(CounterFault::Raced { told, value });
        }
        (kept.raised, kept.pause) = (Some(Instant::now()), None);
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

/// What a leaf's bytes tell of the counter with this identifier.
fn told_in(bytes: &[u8], index: u64, id: &[u8; 16]) -> Option<Told> {
    let leaf = Leaf::parse(bytes).ok().filter(|leaf| leaf.kind == Kind::Heartbeat && leaf.index == index)?;
    match Heartbeat::parse(&leaf.body).ok()?.0 {
        HeartbeatReason::Counter { id: of, value } if of == *id => {
            Some(Told { value, time_ms: leaf.time_ms })
        }
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
    fn a_counter_that_is_not_raised_for_hours_is_not_current() {
        let now = Instant::now();
        let long_ago = now.checked_sub(STALE_AFTER).unwrap();
        let current = |opened, raised, pause| {
            let note = Note { auth: String::new(), leaf: Some(1) };
            let kept = Mutex::new(Kept { note, told_ms: None, opened, raised, pause });
            let device = Counter::new("swtpm:port=1", 0x0180_c516, [0; COUNTER_AUTH_BYTES]);
            RollbackCounter { device, id: [0; 16], path: PathBuf::new(), kept }.is_current()
        };
        assert!(current(now, None, None) && current(long_ago, Some(now), None));
        // One that has begun to fail has some hours.
        assert!(current(long_ago, Some(now), Some((now, FIRST_PAUSE))));
        assert!(!current(long_ago, None, None) && !current(long_ago, Some(long_ago), None));
    }

    #[test]
    fn a_note_that_is_none_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        assert!(matches!(read(&path), Err(CounterFault::NotMade(_))));
        let good = Note { auth: "00".repeat(32), leaf: Some(9) };
        write(&path, &good).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(read(&path).unwrap().leaf, Some(9));
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(matches!(read(&path), Err(CounterFault::Malformed(_))));
        }
        std::fs::write(&path, [bytes, vec![b' '; MAX_NOTE_BYTES]].concat()).unwrap();
        assert!(matches!(read(&path), Err(CounterFault::Malformed(_))));
    }
}
