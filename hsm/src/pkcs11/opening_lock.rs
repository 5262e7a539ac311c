//! A lock between processes, held from C_Initialize through C_Login. SoftHSM fails to open or to log in 27 to 39 times in 100 when
//! four to eight processes start on one token directory at the same moment.
use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use super::Pkcs11Config;
use crate::{FaultClass, SignFault};

/// How long to wait for other processes: opening takes tens of milliseconds with SoftHSM, seconds with network tokens.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// Held while a process opens a token; released when dropped or when the process ends.
pub(super) struct OpeningLock {
    _file: File,
}

impl OpeningLock {
    pub(super) fn take(config: &Pkcs11Config) -> Result<Self, SignFault> {
        let path = config.lock_path();
        let refused = |class, error: std::io::Error| {
            SignFault::new(class, "lock", format!("{}: {error}", path.display()))
        };
        let file = File::open(path).map_err(|error| refused(FaultClass::Misconfigured, error))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    return Err(SignFault::new(
                        FaultClass::Timeout,
                        "lock",
                        "another process holds the opening lock",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(refused(FaultClass::Misconfigured, error)),
            }
        }
    }
}
