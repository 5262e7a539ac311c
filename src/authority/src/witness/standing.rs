//! What doesn't pass with the process: an alarm that a witness raised, and the witnesses that an operator set aside.
//!
//! One file in the state directory, replaced whole and synced. It is there from the first alarm on; it is read at start, so that no restart
//! heals what only an operator's decision may. Refused: a file that doesn't read as what was written.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use countersign_core::api::admin::WitnessAlarm;
use serde::{Deserialize, Serialize};

use crate::init::files;

/// Larger than any: 32 witnesses with a reason each.
const MAX_BYTES: u64 = 64 * 1024;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct StandingFault {
    path: PathBuf,
    reason: String,
}

/// A witness that isn't asked, and who said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetAside {
    /// Its name in the quorum file.
    pub(super) witness: String,
    /// Thumbprint of the officer.
    pub(super) by: String,
    /// Why.
    pub(super) reason: String,
    /// When, ms.
    pub(super) at_ms: u64,
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Standing {
    pub(super) alarm: Option<WitnessAlarm>,
    pub(super) set_aside: Vec<SetAside>,
}

impl Standing {
    /// What was kept; nothing if nothing ever was.
    pub(super) fn load(path: &Path) -> Result<Self, StandingFault> {
        let fault = |reason: String| StandingFault { path: path.to_owned(), reason };
        match std::fs::metadata(path) {
            Ok(about) if about.len() > MAX_BYTES => return Err(fault("too large".to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fault(error.to_string())),
        }
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))
    }

    /// Replaces the file.
    pub(super) fn keep(&self, path: &Path) -> Result<(), StandingFault> {
        let fault = |reason: String| StandingFault { path: path.to_owned(), reason };
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| fault(error.to_string()))?;
        files::replace(path, &bytes, 0o600).map_err(|error| fault(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_outlives_the_process_and_a_damaged_file_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witness-standing.json");
        assert_eq!(Standing::load(&path).unwrap(), Standing::default());
        let alarm = WitnessAlarm {
            witness: "w1".to_owned(),
            kind: "forked".to_owned(),
            size: 7,
            witness_size: 7,
            at_ms: 1,
        };
        let standing = Standing { alarm: Some(alarm), set_aside: Vec::new() };
        standing.keep(&path).unwrap();
        assert_eq!(Standing::load(&path).unwrap(), standing);
        for bad in ["", "{}x", "{\"alarm\":null}", "{\"alarm\":null,\"set_aside\":[],\"more\":1}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(Standing::load(&path).is_err(), "{bad}");
        }
    }
}
