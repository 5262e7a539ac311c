//! The witness's memory: for each log the size and root that it cosigned last, one file a log, one process a directory.
//!
//! A record is replaced whole: written beside, synced, renamed, and the directory synced, all before a cosignature leaves. A crash in between
//! leaves the old record or the new one; with the new one nobody has the cosignature, and who asks again gets one for the same checkpoint.
//! Refused: a directory that others may enter or that another process uses, a record that is damaged, a log without a record. A witness that
//! lost its memory would cosign a second history, so a record is begun by an operator's word only ([`StateDir::begin`]).

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use countersign_core::digest::{Sha256Digest, sha256};
use data_encoding::BASE64;

use crate::judge::Cosigned;

const FIRST_LINE: &str = "countersign-witness-state v1";
/// Five lines, the origin the longest.
const MAX_RECORD_BYTES: u64 = 16 * 1024;
/// Requests that are kept of one log as evidence of two histories; later ones say the same.
const MAX_EVIDENCE: u32 = 16;

/// Why the memory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFault {
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could replace the records.
    #[error("{0}: must be a directory of this user with mode 0700")]
    Exposed(PathBuf),
    /// Another process has it.
    #[error("{0}: another witness uses this state directory")]
    Locked(PathBuf),
    /// There is no record of a log that is to be followed.
    #[error(
        "log {origin}: {path} is missing. A witness without memory would cosign a second history: if this witness never \
         cosigned this log, begin with it (`countersign witness begin`); if it did, restore the record or take another key"
    )]
    Missing {
        /// Which log.
        origin: String,
        /// The record's file.
        path: PathBuf,
    },
    /// There is one already.
    #[error("log {0}: is followed already")]
    Exists(String),
    /// It isn't a record of this log.
    #[error("{0}: the record is damaged or of another log")]
    Damaged(PathBuf),
}

/// An opened and locked directory. The lock ends with the value.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing, checks it and takes its lock.
    ///
    /// # Errors
    /// [`StateFault`].
    pub fn open(path: &Path) -> Result<Self, StateFault> {
        let io = |source| StateFault::Io { path: path.to_owned(), source };
        DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(io)?;
        let about = std::fs::symlink_metadata(path).map_err(io)?;
        let own = about.uid() == nix::unistd::geteuid().as_raw();
        if !about.is_dir() || !own || about.mode() & 0o077 != 0 {
            return Err(StateFault::Exposed(path.to_owned()));
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateFault::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Begins with a log of which nothing was ever cosigned.
    ///
    /// # Errors
    /// [`StateFault::Exists`] if there is a record, damaged or not.
    pub fn begin(&self, origin: &str) -> Result<(), StateFault> {
        let path = self.file(origin);
        if path.symlink_metadata().is_ok() {
            return Err(StateFault::Exists(origin.to_owned()));
        }
        self.write(&path, record(origin, &Cosigned::nothing()).as_bytes())
    }

    /// The record of a log.
    ///
    /// # Errors
    /// [`StateFault::Missing`], [`StateFault::Damaged`].
    pub fn load(&self, origin: &str) -> Result<Cosigned, StateFault> {
        let path = self.file(origin);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StateFault::Missing { origin: origin.to_owned(), path });
            }
            Err(source) => return Err(StateFault::Io { path, source }),
        };
        let mut text = String::new();
        let read = file.take(MAX_RECORD_BYTES).read_to_string(&mut text);
        read.map_err(|source| StateFault::Io { path: path.clone(), source })?;
        parse(origin, &text).ok_or(StateFault::Damaged(path))
    }

    /// Replaces the record of a log. When this returns, it survives the loss of power.
    ///
    /// # Errors
    /// [`StateFault::Io`]: what is on disk isn't known, so that nothing may be cosigned any more by this process.
    pub fn keep(&self, origin: &str, cosigned: &Cosigned) -> Result<(), StateFault> {
        self.write(&self.file(origin), record(origin, cosigned).as_bytes())
    }

    /// Keeps a request as evidence, if there is room: nothing depends on it.
    pub fn keep_evidence(&self, origin: &str, request: &[u8]) {
        let name = name(origin);
        let free = (1..=MAX_EVIDENCE).map(|number| self.path.join(format!("{name}.evidence-{number}")));
        let Some(path) = free.into_iter().find(|path| path.symlink_metadata().is_err()) else { return };
        if let Err(fault) = self.write(&path, request) {
            tracing::error!(%fault, "the evidence of two histories isn't kept");
        }
    }

    fn file(&self, origin: &str) -> PathBuf {
        self.path.join(format!("{}.record", name(origin)))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StateFault> {
        let staged = path.with_extension("new");
        let written = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staged)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // A crash before the rename leaves the old record, one before the directory's sync either of the two.
            std::fs::rename(&staged, path)?;
            File::open(&self.path)?.sync_all()
        };
        written().map_err(|source| StateFault::Io { path: path.to_owned(), source })
    }
}

/// Origins are of any characters; files aren't.
fn name(origin: &str) -> String {
    sha256(origin.as_bytes()).to_hex()
}

fn record(origin: &str, cosigned: &Cosigned) -> String {
    let root = BASE64.encode(cosigned.root.as_bytes());
    let content = format!("{FIRST_LINE}\n{origin}\n{}\n{root}\n", cosigned.size);
    let check = sha256(content.as_bytes()).to_hex();
    format!("{content}{check}\n")
}

/// What [`record`] wrote for this log, and nothing else.
fn parse(origin: &str, text: &str) -> Option<Cosigned> {
    let mut lines = text.lines().skip(2);
    let size = lines.next()?.parse().ok()?;
    let root = BASE64.decode(lines.next()?.as_bytes()).ok()?;
    let cosigned = Cosigned { size, root: Sha256Digest::from_slice(&root).ok()? };
    (record(origin, &cosigned) == text).then_some(cosigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "log.example/one";

    fn some(size: u64) -> Cosigned {
        Cosigned { size, root: Sha256Digest::new([7; 32]) }
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        (parent, path)
    }

    #[test]
    fn a_log_is_begun_once_and_what_is_kept_is_found_again() {
        let (_parent, path) = directory();
        let state = StateDir::open(&path).unwrap();
        assert!(matches!(state.load(LOG), Err(StateFault::Missing { .. })));
        state.begin(LOG).unwrap();
        assert!(matches!(state.begin(LOG), Err(StateFault::Exists(_))));
        assert_eq!(state.load(LOG).unwrap(), Cosigned::nothing());
        state.keep(LOG, &some(9)).unwrap();
        drop(state);
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.load(LOG).unwrap(), some(9));
        assert!(matches!(state.load("log.example/two"), Err(StateFault::Missing { .. })));
    }

    #[test]
    fn one_process_has_the_directory() {
        let (_parent, path) = directory();
        let state = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateFault::Locked(_))));
        drop(state);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_parent, path) = directory();
        drop(StateDir::open(&path).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateFault::Exposed(_))));
    }

    #[test]
    fn a_damaged_record_isnt_taken_for_a_smaller_one() {
        let (_parent, path) = directory();
        let state = StateDir::open(&path).unwrap();
        state.begin(LOG).unwrap();
        state.keep(LOG, &some(19)).unwrap();
        let file = state.file(LOG);
        let good = std::fs::read_to_string(&file).unwrap();
        for bad in [
            String::new(),
            good.replace("\n19\n", "\n1\n"),
            good.replace("\n19\n", "\n019\n"),
            good.replace("one", "two"),
            good.trim_end().to_owned(),
            format!("{good}\n"),
            good.chars().take(good.len() / 2).collect(),
        ] {
            assert_ne!(bad, good);
            std::fs::write(&file, &bad).unwrap();
            assert!(matches!(state.load(LOG), Err(StateFault::Damaged(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_record_that_cant_be_written_is_a_fault_and_evidence_has_a_bound() {
        let (_parent, path) = directory();
        let state = StateDir::open(&path).unwrap();
        state.begin(LOG).unwrap();
        for _ in 0..20 {
            state.keep_evidence(LOG, b"two histories");
        }
        let evidence = std::fs::read_dir(&path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("evidence"));
        assert_eq!(evidence.count(), 16);
        // A directory in the place of the file that is staged: not even root writes it.
        std::fs::create_dir(state.file(LOG).with_extension("new")).unwrap();
        assert!(matches!(state.keep(LOG, &some(1)), Err(StateFault::Io { .. })));
        assert_eq!(state.load(LOG).unwrap(), Cosigned::nothing());
    }
}
