//! The files around a database: the writer's lock, and whether the database is still the one that was opened.

use std::fs::{File, OpenOptions, metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::OpenFault;

/// Held by the one writing process. The kernel lets go of it when the process ends, however it ends.
pub(super) struct WriterLock {
    _held: Flock<File>,
}

impl WriterLock {
    pub(super) fn take(database: &Path) -> Result<Self, OpenFault> {
        let path = beside(database, "-writer");
        let refused = |source| OpenFault::File { path: path.clone(), source };
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(options.map_err(refused)?, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { _held: held }),
            Err((_, Errno::EWOULDBLOCK)) => Err(OpenFault::InUse { path }),
            Err((_, errno)) => Err(refused(errno.into())),
        }
    }
}

/// Which files the names stood for when the store was opened. SQLite goes on writing into a deleted file without a word; what it writes
/// there is lost at exit.
pub(super) struct Identity {
    database: PathBuf,
    database_inode: (u64, u64),
    wal: PathBuf,
    /// Known from the first check on which the file exists; SQLite keeps the WAL for as long as a connection is open.
    wal_inode: Option<(u64, u64)>,
}

impl Identity {
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        Ok(Self {
            database: database.to_owned(),
            database_inode: inode(database)?,
            wal: beside(database, "-wal"),
            wal_inode: None,
        })
    }

    /// Whether the names still stand for the same files.
    pub(super) fn holds(&mut self) -> bool {
        let wal = inode(&self.wal).ok();
        if self.wal_inode.is_none() {
            self.wal_inode = wal;
        }
        inode(&self.database).is_ok_and(|found| found == self.database_inode)
            && (self.wal_inode.is_none() || self.wal_inode == wal)
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    metadata(path).map(|found| (found.dev(), found.ino()))
}

pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
