//! The runtime policy: which files may have run.
//!
//! Comes in: a policy document by its exact bytes. Goes out: [`RuntimePolicy`], which answers for one measured file on
//! what grounds it is accepted, or why not. Refused: documents out of form ([`PolicyError`]).
//!
//! Grounds are tried from the strongest to the weakest: a digest listed for this path, a digest accepted at any path, a
//! signature by a key that may sign here, an exclude. An exclude accepts anything; its use is a fact of its own.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use super::known_entries::KnownEntries;
use super::signature::{KeyFloor, KeyId, Keyring, Verdict};
use super::template::{DigestKind, FileAlg, Measured};
use super::value::Value;
use crate::algorithm::HashAlg;

pub use super::policy_form::{
    FileDigestRule, MAX_EXCLUDES, MAX_POLICY_BYTES, MAX_RULES, Pattern, PolicyDraft, PolicyError, Root,
    Settings, SignedBy,
};

/// On what grounds a file is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds {
    /// Its digest is listed for its path.
    Listed,
    /// Its digest is accepted at any path.
    Anywhere,
    /// A key that may sign at its path signed its digest.
    Signed(KeyId),
    /// An exclude names its path: nothing was checked. The number of the exclude.
    Excluded(usize),
}

/// Why a file isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// The policy doesn't know the path.
    Unknown,
    /// The policy knows the path with other digests.
    Digest,
    /// A key of the keyring is named by the signature and didn't sign this digest.
    Signature(KeyId),
    /// More signatures than an appraisal checks.
    TooManySignatures,
}

/// A policy ready to be asked.
#[derive(Debug, Clone)]
pub struct RuntimePolicy {
    digest: [u8; 32],
    settings: Settings,
    files: HashSet<File>,
    known_entries: KnownEntries,
    anywhere: HashSet<Box<[u8]>>,
    excludes: Vec<Pattern>,
    roots: Vec<Root>,
    keyring: Keyring,
    signed_by: Vec<SignedBy>,
}

impl RuntimePolicy {
    /// Reads a policy document.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let draft = PolicyDraft::parse(bytes)?;
        let mut keyring = Keyring::new(KeyFloor::Sound);
        for (at, key) in draft.keys.iter().enumerate() {
            keyring.add(key).map_err(|error| PolicyError::Key { at, error })?;
        }
        let known: HashSet<KeyId> = keyring.ids().collect();
        if draft.signed_by.iter().any(|rule| rule.keys.iter().any(|id| !known.contains(id))) {
            return Err(PolicyError::KeyUnknown);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&HashAlg::Sha256.digest(bytes));
        let files = draft
            .files
            .iter()
            .map(|(path, digests)| File::new(path, digests.iter().flat_map(FileDigestRule::packed)));
        let rules =
            draft.files.iter().flat_map(|(path, rules)| rules.iter().map(|rule| (path.as_slice(), rule)));
        Ok(Self {
            digest,
            known_entries: KnownEntries::of(rules),
            settings: draft.settings,
            files: files.collect(),
            anywhere: draft.anywhere.iter().map(|rule| rule.packed().into_boxed_slice()).collect(),
            excludes: draft.excludes,
            roots: draft.roots,
            keyring,
            signed_by: draft.signed_by,
        })
    }

    /// The same policy that recognises no entry by its hash.
    #[cfg(test)]
    pub(super) fn reading_everything(mut self) -> Self {
        self.known_entries = KnownEntries::default();
        self
    }

    /// SHA-256 of the document.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The excludes, by the numbers that [`Grounds::Excluded`] gives.
    pub fn excludes(&self) -> &[Pattern] {
        &self.excludes
    }

    /// How many paths have digests.
    pub fn paths(&self) -> usize {
        self.files.len()
    }

    /// Whether the "ima-ng" entry with this SHA-256 template hash is one that [`Self::judge`] finds listed, and nothing else has to be said of.
    pub(super) fn lists_entry(&self, template_hash: &Value) -> bool {
        self.known_entries.contains(template_hash)
    }

    /// Judges one file. `signatures` is what is left of the signatures that may be checked.
    pub fn judge(&self, measured: &Measured<'_>, signatures: &mut usize) -> Result<Grounds, Objection> {
        let digest = measured.digest;
        let head = packed_head(digest.algorithm, measured.kind);
        let mut known = false;
        for path in [Some(measured.path), self.inside_root(measured.path)].into_iter().flatten() {
            if let Some(listed) = self.files.get(path) {
                if holds(listed.digests(), head, digest.bytes) {
                    return Ok(Grounds::Listed);
                }
                known = true;
            }
        }
        if !self.anywhere.is_empty() {
            let packed = [&head, digest.bytes].concat();
            if self.anywhere.contains(packed.as_slice()) {
                return Ok(Grounds::Anywhere);
            }
        }
        let signed = self.signed(measured, signatures);
        if let Ok(Some(key)) = signed {
            return Ok(Grounds::Signed(key));
        }
        if let Some(exclude) = self.excludes.iter().position(|pattern| pattern.matches(measured.path)) {
            return Ok(Grounds::Excluded(exclude));
        }
        signed?;
        Err(if known { Objection::Digest } else { Objection::Unknown })
    }

    fn signed(&self, measured: &Measured<'_>, left: &mut usize) -> Result<Option<KeyId>, Objection> {
        let rules = self.signed_by.iter().filter(|rule| measured.path.starts_with(&rule.prefix));
        if rules.clone().next().is_none() {
            return Ok(None);
        }
        let may_sign = |key: &KeyId| rules.clone().any(|rule| rule.keys.contains(key));
        if !measured.signature.is_empty() {
            *left = left.checked_sub(1).ok_or(Objection::TooManySignatures)?;
            match self.keyring.verify(measured) {
                Verdict::Valid(key) if may_sign(&key) => return Ok(Some(key)),
                Verdict::Invalid(key) => return Err(Objection::Signature(key)),
                Verdict::Valid(_)
                | Verdict::Absent
                | Verdict::UnknownKey(_)
                | Verdict::UnknownSigner
                | Verdict::Unsupported => {}
            }
        }
        // As the kernel does (ima_appraise_measurement): an appended signature counts where no other is by a known key. A buffer has none.
        let Some(appended) = measured.appended.filter(|_| measured.buffer.is_none()) else { return Ok(None) };
        match self.keyring.verify_appended(&appended, left).ok_or(Objection::TooManySignatures)? {
            Verdict::Valid(key) => Ok(Some(key).filter(may_sign)),
            Verdict::Invalid(key) => Err(Objection::Signature(key)),
            Verdict::Absent | Verdict::UnknownKey(_) | Verdict::UnknownSigner | Verdict::Unsupported => {
                Ok(None)
            }
        }
    }

    /// The path as a container sees it, where a root of containers is configured: prefix and some components off.
    fn inside_root<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        self.roots.iter().find_map(|root| {
            let mut rest = path.strip_prefix(root.prefix.as_slice())?;
            for _ in 0..root.skip {
                let slash = rest.iter().position(|byte| *byte == b'/')?;
                rest = rest.get(slash.checked_add(1)?..)?;
            }
            // The slash in front is part of the path inside.
            let start = path.len().checked_sub(rest.len())?.checked_sub(1)?;
            path.get(start..)
        })
    }
}

/// A path and its accepted digests, found by the path. They lie beside each other, since a policy of many files is larger than the caches and
/// every step to another place costs more than a hash.
#[derive(Debug, Clone)]
struct File {
    /// The path, then digests one after the other: number of the algorithm, kind, digest.
    bytes: Box<[u8]>,
    path_len: usize,
}

impl File {
    fn new(path: &[u8], digests: impl Iterator<Item = u8>) -> Self {
        Self { bytes: path.iter().copied().chain(digests).collect(), path_len: path.len() }
    }

    fn path(&self) -> &[u8] {
        self.bytes.get(..self.path_len).unwrap_or_default()
    }

    fn digests(&self) -> &[u8] {
        self.bytes.get(self.path_len..).unwrap_or_default()
    }
}

impl Borrow<[u8]> for File {
    fn borrow(&self) -> &[u8] {
        self.path()
    }
}

/// As the path that it borrows as.
impl Hash for File {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path().hash(state);
    }
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}

impl Eq for File {}

fn packed_head(algorithm: FileAlg, kind: DigestKind) -> [u8; 2] {
    [algorithm.number(), u8::from(kind == DigestKind::Verity)]
}

impl FileDigestRule {
    fn packed(&self) -> Vec<u8> {
        [&packed_head(self.algorithm, self.kind), self.bytes.as_slice()].concat()
    }
}

/// Whether packed digests hold this one.
fn holds(packed: &[u8], head: [u8; 2], digest: &[u8]) -> bool {
    let mut rest = packed;
    while let Some((found, tail)) = rest.split_first_chunk::<2>() {
        let [number, _] = *found;
        let Some(alg) = FileAlg::from_number(number) else { return false };
        let Some((bytes, next)) = tail.split_at_checked(alg.digest_len()) else { return false };
        if *found == head && bytes == digest {
            return true;
        }
        rest = next;
    }
    false
}
