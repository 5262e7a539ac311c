//! The policy document: plain data, its one encoding, its bounds.
//!
//! A document is deterministic CBOR, so its SHA-256 is its name: `{1: version, 2: [pcr, max violations, max lag,
//! boot_aggregate required, padded SHA-1 accepted], 3: [[path, [[algorithm, kind, digest]..]]..], 4: [[algorithm, kind,
//! digest]..], 5: [[pattern kind, bytes]..], 6: [[prefix, skip]..], 7: [certificate or key..], 8: [[prefix, [key id..]]..]}`.
//! Algorithms by the kernel's numbers; kind 0 is a file's digest, 1 an fs-verity root. Lists are sorted and distinct.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::cbor::{ArrayBuilder, CborError, Decoder, encode_map};
use thiserror::Error;

use super::MAX_PATH_BYTES;
use super::signature::{KeyId, KeyringError, MAX_KEYS};
use super::template::{DigestKind, FileAlg};
use crate::quote::MAX_PCR;

/// Longest document. A distribution with 200,000 files needs about 20 MiB.
pub const MAX_POLICY_BYTES: usize = 32 * 1024 * 1024;
/// Most excludes: which of them were used is kept as one bit each in the host's state.
pub const MAX_EXCLUDES: usize = 256;
/// Most roots, and most rules about signers: each is tried for each file.
pub const MAX_RULES: usize = 64;
/// Most path components that a root takes off.
const MAX_SKIP: u64 = 16;
const VERSION: u64 = 1;

/// A digest that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileDigestRule {
    /// Algorithm.
    pub algorithm: FileAlg,
    /// Of the file's bytes or of its fs-verity tree.
    pub kind: DigestKind,
    /// The digest.
    pub bytes: Vec<u8>,
}

/// Paths that are accepted unseen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// This path.
    Exact(Vec<u8>),
    /// Every path that begins so.
    Prefix(Vec<u8>),
    /// Every path that ends so.
    Suffix(Vec<u8>),
}

impl Pattern {
    /// Whether it names the path.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(bytes) => path == bytes,
            Self::Prefix(bytes) => path.starts_with(bytes),
            Self::Suffix(bytes) => path.ends_with(bytes),
        }
    }

    fn parts(&self) -> (u64, &[u8]) {
        match self {
            Self::Exact(bytes) => (0, bytes),
            Self::Prefix(bytes) => (1, bytes),
            Self::Suffix(bytes) => (2, bytes),
        }
    }
}

/// The pattern for people: a star stands for any bytes.
impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(self.parts().1);
        match self {
            Self::Exact(_) => write!(f, "{text}"),
            Self::Prefix(_) => write!(f, "{text}*"),
            Self::Suffix(_) => write!(f, "*{text}"),
        }
    }
}

/// Where containers have their file systems on the host: `/var/lib/docker/overlay2/`, skip 2 takes off the layer's name
/// and `merged/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    /// Begins and ends with a slash.
    pub prefix: Vec<u8>,
    /// Path components to take off after the prefix.
    pub skip: u64,
}

/// Which keys may vouch for files below a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedBy {
    /// Paths that begin so.
    pub prefix: Vec<u8>,
    /// Any one of these keys.
    pub keys: Vec<KeyId>,
}

/// What holds for every host under the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The register of the list: 10 unless the kernel was built otherwise.
    pub pcr: u32,
    /// Violations that a boot may have.
    pub max_violations: u64,
    /// Entries that may follow the quoted moment.
    pub max_lag: u64,
    /// Whether boot_aggregate must be compared with the quote and agree.
    pub require_boot_aggregate: bool,
    /// Whether the register of a kernel before 5.8, which extends SHA-1 and zeros, is taken.
    pub accept_padded_sha1: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pcr: 10,
            max_violations: 0,
            max_lag: 4_096,
            require_boot_aggregate: true,
            accept_padded_sha1: false,
        }
    }
}

/// Why bytes aren't a policy document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Above [`MAX_POLICY_BYTES`].
    #[error("policy of {0} bytes is too long")]
    TooLong(usize),
    /// Not deterministic CBOR of the form.
    #[error("{0}")]
    Cbor(#[from] CborError),
    /// A value out of its bounds, or a list out of order.
    #[error("{0} isn't what it must be")]
    Value(&'static str),
    /// A certificate or key can't be used.
    #[error("key {at}: {error}")]
    Key {
        /// Which.
        at: usize,
        /// What is wrong.
        error: KeyringError,
    },
    /// A rule names a key that the document doesn't carry.
    #[error("a rule names a key that isn't in the document")]
    KeyUnknown,
}

/// A policy as data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyDraft {
    /// Settings.
    pub settings: Settings,
    /// Accepted digests by path, the path as the kernel measures it: with underscores for spaces.
    pub files: BTreeMap<Vec<u8>, BTreeSet<FileDigestRule>>,
    /// Digests accepted at any path: container images, memfd programs.
    pub anywhere: BTreeSet<FileDigestRule>,
    /// Paths accepted unseen.
    pub excludes: Vec<Pattern>,
    /// Roots of containers.
    pub roots: Vec<Root>,
    /// Certificates or public keys, DER.
    pub keys: Vec<Vec<u8>>,
    /// Which keys vouch where.
    pub signed_by: Vec<SignedBy>,
}

impl PolicyDraft {
    /// Accepts a digest at a path. Spaces become underscores, as in what the kernel measures
    /// (ima_template_lib.c, ima_write_template_field_data).
    pub fn allow(&mut self, path: &[u8], digest: FileDigestRule) {
        let path = path.iter().map(|byte| if *byte == b' ' { b'_' } else { *byte }).collect();
        self.files.entry(path).or_default().insert(digest);
    }

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let settings = &self.settings;
        let mut signed_by = self.signed_by.clone();
        signed_by.iter_mut().for_each(|rule| sort(&mut rule.keys));
        encode_map(|map| {
            map.entry(1).uint(VERSION);
            map.entry(2).array(|list| {
                list.item().uint(u64::from(settings.pcr));
                list.item().uint(settings.max_violations);
                list.item().uint(settings.max_lag);
                list.item().bool(settings.require_boot_aggregate);
                list.item().bool(settings.accept_padded_sha1);
            });
            map.entry(3).array(|list| {
                for (path, digests) in &self.files {
                    list.item().array(|file| {
                        file.item().bytes(path);
                        file.item().array(|list| write_digests(list, digests));
                    });
                }
            });
            map.entry(4).array(|list| write_digests(list, &self.anywhere));
            map.entry(5).array(|list| {
                for pattern in sorted(&self.excludes) {
                    let (kind, bytes) = pattern.parts();
                    list.item().array(|item| {
                        item.item().uint(kind);
                        item.item().bytes(bytes);
                    });
                }
            });
            map.entry(6).array(|list| {
                for root in sorted(&self.roots) {
                    list.item().array(|item| {
                        item.item().bytes(&root.prefix);
                        item.item().uint(root.skip);
                    });
                }
            });
            map.entry(7).array(|list| {
                for key in sorted(&self.keys) {
                    list.item().bytes(&key);
                }
            });
            map.entry(8).array(|list| {
                for rule in sorted(&signed_by) {
                    list.item().array(|item| {
                        item.item().bytes(&rule.prefix);
                        item.item().array(|keys| rule.keys.iter().for_each(|id| keys.item().bytes(&id.0)));
                    });
                }
            });
        })
    }

    /// Reads exact document bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong(bytes.len()));
        }
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(8)?;
        decoder.expect_key(1)?;
        if decoder.uint()? != VERSION {
            return Err(PolicyError::Value("version"));
        }
        decoder.expect_key(2)?;
        let settings = read_settings(&mut decoder)?;
        decoder.expect_key(3)?;
        let mut files = BTreeMap::new();
        for _ in 0..decoder.array()? {
            decoder.array_of(2)?;
            let path = read_path(&mut decoder)?;
            let digests = read_digests(&mut decoder)?;
            let after = files.last_key_value().is_none_or(|(last, _)| *last < path);
            if digests.is_empty() || !after {
                return Err(PolicyError::Value("files"));
            }
            files.insert(path, digests);
        }
        decoder.expect_key(4)?;
        let anywhere = read_digests(&mut decoder)?;
        decoder.expect_key(5)?;
        let excludes = read_list(&mut decoder, MAX_EXCLUDES, "excludes", read_pattern)?;
        decoder.expect_key(6)?;
        let roots = read_list(&mut decoder, MAX_RULES, "roots", read_root)?;
        decoder.expect_key(7)?;
        let keys = read_list(&mut decoder, MAX_KEYS, "keys", |decoder| Ok(decoder.bytes()?.to_vec()))?;
        decoder.expect_key(8)?;
        let signed_by = read_list(&mut decoder, MAX_RULES, "signed_by", read_signed_by)?;
        decoder.finish()?;
        Ok(Self { settings, files, anywhere, excludes, roots, keys, signed_by })
    }
}

fn sort<T: Ord>(list: &mut Vec<T>) {
    list.sort();
    list.dedup();
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    sort(&mut list);
    list
}

fn write_digests(list: &mut ArrayBuilder, digests: &BTreeSet<FileDigestRule>) {
    for digest in digests {
        list.item().array(|item| {
            item.item().uint(u64::from(digest.algorithm.number()));
            item.item().uint(u64::from(digest.kind == DigestKind::Verity));
            item.item().bytes(&digest.bytes);
        });
    }
}

fn read_settings(decoder: &mut Decoder<'_>) -> Result<Settings, PolicyError> {
    decoder.array_of(5)?;
    let pcr = u32::try_from(decoder.uint()?).map_err(|_| PolicyError::Value("pcr"))?;
    // Registers below 10 belong to the boot, those from 16 on can be reset.
    if !(10..=15).contains(&pcr) || pcr > MAX_PCR {
        return Err(PolicyError::Value("pcr"));
    }
    Ok(Settings {
        pcr,
        max_violations: decoder.uint()?,
        max_lag: decoder.uint()?,
        require_boot_aggregate: decoder.bool()?,
        accept_padded_sha1: decoder.bool()?,
    })
}

fn read_path(decoder: &mut Decoder<'_>) -> Result<Vec<u8>, PolicyError> {
    let path = decoder.bytes()?;
    if path.is_empty() || path.len() > MAX_PATH_BYTES || path.contains(&0) {
        return Err(PolicyError::Value("path"));
    }
    Ok(path.to_vec())
}

fn read_digests(decoder: &mut Decoder<'_>) -> Result<BTreeSet<FileDigestRule>, PolicyError> {
    let mut digests = BTreeSet::new();
    for _ in 0..decoder.array()? {
        decoder.array_of(3)?;
        let number = u8::try_from(decoder.uint()?).map_err(|_| PolicyError::Value("algorithm"))?;
        let algorithm = FileAlg::from_number(number).ok_or(PolicyError::Value("algorithm"))?;
        let kind = match decoder.uint()? {
            0 => DigestKind::Ima,
            1 => DigestKind::Verity,
            _ => return Err(PolicyError::Value("kind")),
        };
        let bytes = decoder.bytes()?.to_vec();
        let rule = FileDigestRule { algorithm, kind, bytes };
        if rule.bytes.len() != algorithm.digest_len() || digests.last().is_some_and(|last| *last >= rule) {
            return Err(PolicyError::Value("digest"));
        }
        digests.insert(rule);
    }
    Ok(digests)
}

fn read_list<T: Ord>(
    decoder: &mut Decoder<'_>,
    cap: usize,
    what: &'static str,
    read: impl Fn(&mut Decoder<'_>) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    let mut list = Vec::new();
    for _ in 0..decoder.array()? {
        let item = read(decoder)?;
        if list.len() == cap || list.last().is_some_and(|last| *last >= item) {
            return Err(PolicyError::Value(what));
        }
        list.push(item);
    }
    Ok(list)
}

fn read_pattern(decoder: &mut Decoder<'_>) -> Result<Pattern, PolicyError> {
    decoder.array_of(2)?;
    let kind = decoder.uint()?;
    // An empty pattern would match everything.
    let bytes = read_path(decoder)?;
    match kind {
        0 => Ok(Pattern::Exact(bytes)),
        1 => Ok(Pattern::Prefix(bytes)),
        2 => Ok(Pattern::Suffix(bytes)),
        _ => Err(PolicyError::Value("pattern")),
    }
}

fn read_root(decoder: &mut Decoder<'_>) -> Result<Root, PolicyError> {
    decoder.array_of(2)?;
    let root = Root { prefix: read_path(decoder)?, skip: decoder.uint()? };
    let slashes = root.prefix.starts_with(b"/") && root.prefix.ends_with(b"/");
    if slashes && root.skip <= MAX_SKIP { Ok(root) } else { Err(PolicyError::Value("root")) }
}

fn read_signed_by(decoder: &mut Decoder<'_>) -> Result<SignedBy, PolicyError> {
    decoder.array_of(2)?;
    let prefix = read_path(decoder)?;
    let key = |decoder: &mut Decoder<'_>| Ok(KeyId(decoder.byte_array()?));
    let keys = read_list(decoder, MAX_KEYS, "signed_by", key)?;
    if keys.is_empty() || !prefix.starts_with(b"/") {
        return Err(PolicyError::Value("signed_by"));
    }
    Ok(SignedBy { prefix, keys })
}
