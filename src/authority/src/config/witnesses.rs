//! `[witnesses]` of the configuration. `docs/CONFIG.md` is written from the comments here.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[witnesses]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Witnesses {
    /// File with witnesses, their addresses, and the quorum (C2SP tlog-policy). Without it nobody is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum_file: Option<PathBuf>,
    /// PEM file with the CAs of witnesses that are reached over HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Time for one request to a witness, seconds.
    pub request_secs: u64,
    /// Longest pause before a witness that didn't answer is asked again, seconds.
    pub retry_secs: u64,
}

impl Default for Witnesses {
    fn default() -> Self {
        Self { quorum_file: None, ca_file: None, request_secs: 5, retry_secs: 30 }
    }
}
