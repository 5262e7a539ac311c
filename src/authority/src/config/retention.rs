//! `[retention]` of the configuration. `docs/CONFIG.md` is written from the comments here.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// `[retention]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Age from which `countersign authority prune` takes what decisions were made from (requests, inputs, quotes, boot logs, IMA lists), days.
    /// Without it the command has to be told. Nothing is pruned by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_days: Option<NonZeroU32>,
}
