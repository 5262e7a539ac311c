//! The state directory: a gateway's memory across restarts, shared by every process of one gateway on one machine.
//!
//! Comes in: verified snapshots, under the directory's lock. Goes out: the same again, refolded and re-verified. Two files: `control.leaves`, exact
//! control leaves that are only ever appended to, each behind its length; `snapshot.json`, replaced as a whole, which says how many of them
//! count. Refused: a directory that others may write, a snapshot that doesn't verify under the trust bundle, sizes beyond the stated bounds.
//! A damaged directory isn't started over by itself, for that would forget what this gateway has seen.

use super::advance::Advanced;
use super::chain::{Chain, LENGTH_PREFIX};
use super::heads::{HeadMemory, MAX_REMEMBERED_HEADS};
use super::{HeldHead, Snapshot};
use crate::clock::ClockReading;
use crate::lock::{FileLock, LockFault};
use countersign_core::artifact::verify_head_signature;
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::MAX_LEAF_LEN;
use countersign_core::note::SignedNote;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most bytes of control leaves: a quarter of a million of the usual size.
pub const MAX_CONTROL_BYTES: u64 = 64 * 1024 * 1024;
/// Most bytes of `snapshot.json`: 1,024 heads of about 90 bytes, one note, and room.
const MAX_SNAPSHOT_BYTES: u64 = 256 * 1024;
/// Forks that are kept as evidence; more of the same tell nothing new.
const MAX_EVIDENCE: usize = 8;

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Others may write the directory.
    #[error("{0} must belong to this user and be writable by nobody else")]
    Mode(PathBuf),
    /// Not what this gateway wrote, or of another log.
    #[error(
        "{path} is damaged or of another log ({what}); removing the directory starts over and forgets the heads seen"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// More than [`MAX_CONTROL_BYTES`].
    #[error("the control leaves take more than {MAX_CONTROL_BYTES} bytes")]
    TooLarge,
    /// The lock wasn't had.
    #[error(transparent)]
    Lock(#[from] LockFault),
}

/// `snapshot.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u64,
    head: String,
    control: u64,
    remembered: Vec<(u64, String)>,
    pulled: ClockReading,
}

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The right to change a state directory.
#[derive(Debug)]
pub struct LockedState<'a> {
    dir: &'a StateDir,
    _lock: FileLock,
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) if it isn't there.
    pub fn open(path: &Path) -> Result<Self, StoreFault> {
        let io = |source| StoreFault::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let metadata = fs::metadata(path).map_err(io)?;
        // Whoever writes here decides which keys this gateway believes.
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(StoreFault::Mode(path.to_owned()));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the lock, waiting at most `patience`.
    pub async fn lock(&self, patience: Duration) -> Result<LockedState<'_>, StoreFault> {
        Ok(LockedState { dir: self, _lock: FileLock::acquire(&self.file("lock"), patience).await? })
    }

    /// What is kept, verified again; `None` if nothing was ever kept. Needs no lock: `snapshot.json` is replaced as a whole, and the leaves that
    /// it counts are never touched again.
    pub fn load(&self, bundle: &TrustBundle) -> Result<Option<Snapshot>, StoreFault> {
        let path = self.file("snapshot.json");
        let Some(bytes) = read_bounded(&path, MAX_SNAPSHOT_BYTES)? else { return Ok(None) };
        let damaged = |what| StoreFault::Damaged { path: path.clone(), what };
        let document: Document = serde_json::from_slice(&bytes).map_err(|_| damaged("not a snapshot"))?;
        if document.v != 1 || document.remembered.len() > MAX_REMEMBERED_HEADS {
            return Err(damaged("version or number of heads"));
        }
        let chain = self.load_chain(bundle, document.control)?;
        let note = SignedNote::parse(&document.head).map_err(|_| damaged("head"))?;
        let body = HeadBody::parse(note.text()).map_err(|_| damaged("head"))?;
        let state = chain.state();
        let same = body.origin == state.origin()
            && body.control_seq == state.number()
            && body.control_digest == *state.digest()
            && chain.state().begins_with(bundle.head_keys());
        if !same {
            return Err(damaged("the head doesn't fit the control leaves or the trust bundle"));
        }
        verify_head_signature(&note, &body, state).map_err(|_| damaged("head signature"))?;
        let digest = body.digest();
        let mut remembered = HeadMemory::default();
        for (size, hex) in &document.remembered {
            remembered.remember(*size, Sha256Digest::from_hex(hex).map_err(|_| damaged("remembered head"))?);
        }
        if remembered.at(body.size) != Some(&digest) {
            return Err(damaged("the newest head isn't remembered"));
        }
        let head = HeldHead { note: document.head, body, digest };
        Ok(Some(Snapshot { head, chain, remembered, pulled: document.pulled }))
    }

    fn load_chain(&self, bundle: &TrustBundle, count: u64) -> Result<Chain, StoreFault> {
        let path = self.file("control.leaves");
        let bytes = read_bounded(&path, MAX_CONTROL_BYTES)?.unwrap_or_default();
        let damaged = |what| StoreFault::Damaged { path: path.clone(), what };
        let mut chain = Chain::genesis(bundle);
        let mut rest = bytes.as_slice();
        // What follows the counted leaves was appended by a process that ended before it replaced `snapshot.json`.
        for _ in 0..count {
            let (prefix, after) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("truncated"))?;
            let len = usize::try_from(u32::from_be_bytes(*prefix)).map_err(|_| damaged("length"))?;
            if len > MAX_LEAF_LEN {
                return Err(damaged("length"));
            }
            let (leaf, after) = after.split_at_checked(len).ok_or_else(|| damaged("truncated"))?;
            chain.apply(leaf).map_err(|_| damaged("a leaf doesn't follow"))?;
            rest = after;
        }
        Ok(chain)
    }
}

impl LockedState<'_> {
    /// [`StateDir::load`], and nobody else saves meanwhile.
    pub fn load(&self, bundle: &TrustBundle) -> Result<Option<Snapshot>, StoreFault> {
        self.dir.load(bundle)
    }

    /// Keeps what was made from the snapshot that this lock loaded. When it returns, a restart finds it.
    pub fn save(&self, advanced: &Advanced) -> Result<(), StoreFault> {
        self.append_leaves(advanced)?;
        // A crash here leaves counted leaves as they were and a tail that the next save overwrites.
        self.save_heads(&advanced.snapshot)
    }

    fn append_leaves(&self, advanced: &Advanced) -> Result<(), StoreFault> {
        let new: u64 = (advanced.leaves.iter())
            .map(|leaf| LENGTH_PREFIX + u64::try_from(leaf.len()).unwrap_or(u64::MAX))
            .sum();
        let total = advanced.snapshot.chain.stored_len();
        if total > MAX_CONTROL_BYTES {
            return Err(StoreFault::TooLarge);
        }
        let path = self.dir.file("control.leaves");
        let io = |source| StoreFault::Io { path: path.clone(), source };
        if new == 0 && path.exists() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let mut file = options.open(&path).map_err(io)?;
        let kept = total.saturating_sub(new);
        if file.metadata().map_err(io)?.len() < kept {
            return Err(StoreFault::Damaged { path, what: "truncated" });
        }
        file.set_len(kept).map_err(io)?;
        file.seek(SeekFrom::Start(kept)).map_err(io)?;
        let mut buffer = Vec::new();
        for leaf in &advanced.leaves {
            let len = u32::try_from(leaf.len()).map_err(|_| StoreFault::TooLarge)?;
            buffer.extend_from_slice(&len.to_be_bytes());
            buffer.extend_from_slice(leaf);
        }
        file.write_all(&buffer).map_err(io)?;
        file.sync_all().map_err(io)
    }

    /// Replaces `snapshot.json` alone, for a snapshot with the same control leaves.
    pub fn save_heads(&self, snapshot: &Snapshot) -> Result<(), StoreFault> {
        let document = Document {
            v: 1,
            head: snapshot.head.note.clone(),
            control: snapshot.chain.state().number(),
            remembered: snapshot.remembered.iter().map(|(size, digest)| (size, digest.to_hex())).collect(),
            pulled: snapshot.pulled.clone(),
        };
        let path = self.dir.file("snapshot.json");
        let bytes = serde_json::to_vec(&document)
            .map_err(|error| StoreFault::Io { path: path.clone(), source: error.into() })?;
        replace(&path, &bytes)
    }

    /// Keeps a head that contradicts a verified one, beside that one: two signed heads that can't both be true prove misbehaviour to anyone.
    pub fn save_fork(&self, held: Option<&HeldHead>, size: u64, note: &str) -> Result<(), StoreFault> {
        for number in 0..MAX_EVIDENCE {
            let path = self.dir.file(&format!("fork-{number}.txt"));
            let mut options = OpenOptions::new();
            match options.write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    let held = held.map(HeldHead::note).unwrap_or_default();
                    let text = format!("held\n\n{held}\nsent, size {size}\n\n{note}");
                    let io = |source| StoreFault::Io { path: path.clone(), source };
                    file.write_all(text.as_bytes()).map_err(io)?;
                    return file.sync_all().map_err(io);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StoreFault::Io { path, source }),
            }
        }
        Ok(())
    }
}

/// Replaces a file as a whole: after a crash either the old or the new content is there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreFault> {
    let io = |source| StoreFault::Io { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&new, path).map_err(io)?;
    match path.parent() {
        Some(parent) => File::open(parent).and_then(|dir| dir.sync_all()).map_err(io),
        None => Ok(()),
    }
}

/// A file of at most `bound` bytes; `None` if it isn't there.
pub(crate) fn read_bounded(path: &Path, bound: u64) -> Result<Option<Vec<u8>>, StoreFault> {
    let io = |source| StoreFault::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(bound + 1).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= bound) {
        Ok(Some(bytes))
    } else {
        Err(StoreFault::Damaged { path: path.to_owned(), what: "larger than its bound" })
    }
}
