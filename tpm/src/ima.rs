//! IMA measurement lists: what the kernel measured after boot, held against the quoted register.
//!
//! Comes in: the bytes of `binary_runtime_measurements` (or of a per-bank file, or the ASCII form), a verified quote, a
//! runtime policy, what was known of the host before. Goes out: [`appraise::Appraised`], facts about exactly the entries
//! that the quote proves, and the state from which the next, shorter submission goes on. Refused: lists out of form or
//! above their bounds, entries that don't lead to the quoted value, files that the policy doesn't know.
//!
//! A list is only a claim. The register proves the template data of every entry up to the longest matching prefix, and
//! nothing else: not the logged template hash, not the data of a violation, not the entries behind that prefix.
//!
//! Memory: the reader borrows the list and keeps one entry at a time. Beside the list itself ([`MAX_LIST_BYTES`]; twice
//! that for the ASCII form) an appraisal holds at most [`MAX_REPORTED`] findings of [`MAX_PATH_BYTES`] each, and a byte for every entry.

pub mod aggregate;
pub mod appraise;
pub mod import;
pub mod list;
pub mod modsig;
pub mod policy;
pub mod register;
pub mod signature;
pub mod state;
pub mod template;

mod ascii;
mod known_entries;
mod padded;
mod policy_form;
mod recognition;
mod value;

pub use ascii::to_binary;
pub use value::Value;

/// Longest list taken. A desktop that measures every file of every user writes 10 to 20 MiB between two boots.
pub const MAX_LIST_BYTES: usize = 32 * 1024 * 1024;
/// Most entries of one submission.
pub const MAX_ENTRIES: usize = 500_000;
/// Longest template data of one entry. Appended signatures and measured buffers stay far below.
pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// Longest path: PATH_MAX of Linux, and the kernel's own additions such as ` (deleted)`.
pub const MAX_PATH_BYTES: usize = 4_096 + 64;
/// How the names of files begin that exist in memory alone.
const MEMFD: &[u8] = b"/memfd:";
/// Most entries that an appraisal names; beyond, it only counts.
pub const MAX_REPORTED: usize = 16;

#[cfg(test)]
#[path = "ima_modsig_tests.rs"]
mod modsig_tests;
#[cfg(test)]
#[path = "ima_name_tests.rs"]
mod name_tests;
#[cfg(test)]
#[path = "ima_policy_tests.rs"]
mod policy_tests;
#[cfg(test)]
#[path = "ima_separator_tests.rs"]
mod separator_tests;
#[cfg(test)]
#[path = "ima_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "ima_vectors_tests.rs"]
mod vectors_tests;
