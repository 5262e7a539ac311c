//! What the control chain takes and refuses.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod chain;
