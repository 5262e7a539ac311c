//! File locks between processes that share a state directory. Waiting is bounded; dropping releases, and so does the end of the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// Why the lock wasn't had.
#[derive(Debug, thiserror::Error)]
pub enum LockFault {
    /// Another process held it all the time.
    #[error("another process held the lock for {0:?}")]
    Busy(Duration),
    /// The file system refuses.
    #[error("lock file: {0}")]
    Io(#[from] std::io::Error),
}

/// An exclusive lock on a file that has no other purpose.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Waits at most `patience`.
    pub async fn acquire(path: &Path, patience: Duration) -> Result<Self, LockFault> {
        // Not CREATE alone: the descriptor is close-on-exec by std, so a program that is executed never holds the lock.
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => tokio::time::sleep(POLL).await,
                Err(TryLockError::WouldBlock) => return Err(LockFault::Busy(patience)),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_lock_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::acquire(&path, Duration::ZERO).await.unwrap();
        let refused = FileLock::acquire(&path, Duration::from_millis(20)).await;
        assert!(matches!(refused, Err(LockFault::Busy(_))));
        drop(held);
        FileLock::acquire(&path, Duration::ZERO).await.unwrap();
    }
}
