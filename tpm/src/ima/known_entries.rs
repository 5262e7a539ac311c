//! Entries that a policy accepts, told by their hash alone.
//!
//! Comes in: the digests that a policy lists by path. Goes out: whether a SHA-256 template hash is that of an "ima-ng" entry of one of them.
//! Template, path and digest determine the data of such an entry, and SHA-256 of the data is computed for the register anyway: a file that
//! is as listed needs neither to be read nor to be looked up by its path. What isn't found here is judged in full. Left out are names whose
//! entries are more than an accepted file: boot_aggregate and memfds.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::policy_form::FileDigestRule;
use super::template::{DigestKind, FileAlg};
use super::value::Value;
use super::{MAX_PATH_BYTES, MEMFD, aggregate};
use crate::algorithm::HashAlg;

/// Template hashes.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownEntries {
    hashes: HashSet<[u8; 32], BuildHasherDefault<Leading>>,
}

impl KnownEntries {
    /// Of the rules of one path after the other.
    pub(super) fn of<'a>(rules: impl Iterator<Item = (&'a [u8], &'a FileDigestRule)>) -> Self {
        let hashes = rules.filter_map(|(path, rule)| template_hash(path, rule));
        Self { hashes: hashes.collect() }
    }

    /// Whether an entry of the template "ima-ng" whose data hashes to this, by SHA-256, is one of them.
    pub(super) fn contains(&self, hash: &Value) -> bool {
        <&[u8; 32]>::try_from(hash.as_bytes()).is_ok_and(|hash| self.hashes.contains(hash))
    }
}

fn template_hash(path: &[u8], rule: &FileDigestRule) -> Option<[u8; 32]> {
    let plain = !path.is_empty() && path.len() <= MAX_PATH_BYTES && !path.contains(&0);
    let ordinary = path != aggregate::NAME && !path.starts_with(MEMFD);
    let name = rule.algorithm.name().as_bytes();
    let written_so =
        FileAlg::from_name(name) == Some(rule.algorithm) && rule.bytes.len() == rule.algorithm.digest_len();
    if !plain || !ordinary || rule.kind != DigestKind::Ima || !written_so {
        return None;
    }
    // Two fields, each behind its length: `algorithm:` NUL digest, and path NUL.
    let digest_len = u32::try_from(name.len().checked_add(2)?.checked_add(rule.bytes.len())?).ok()?;
    let path_len = u32::try_from(path.len().checked_add(1)?).ok()?;
    let parts: [&[u8]; 7] =
        [&digest_len.to_le_bytes(), name, b":\0", &rule.bytes, &path_len.to_le_bytes(), path, b"\0"];
    <[u8; 32]>::try_from(Value::hash(HashAlg::Sha256, &parts).as_bytes()).ok()
}

/// The first eight bytes of what is a hash already. Which hashes are in the set is the policy's choice and never a host's.
#[derive(Default)]
struct Leading(u64);

impl Hasher for Leading {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(leading) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*leading);
        }
    }

    /// The length in front of the bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
