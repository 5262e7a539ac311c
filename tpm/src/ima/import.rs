//! Policies of other forms, turned into ours.
//!
//! Comes in: a Keylime runtime policy (JSON, version 1), or the output of `sha256sum` and its kin. Goes out: a
//! [`PolicyDraft`]. Refused: whatever can't be said in our form without meaning something else; nothing is dropped in
//! silence: digests of boot_aggregate have no place in a policy of ours and are counted. Keylime excludes are regular expressions anchored at the start; those that are a path, the beginning of
//! paths or the end of paths are taken, others are refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::aggregate;
use super::policy::{FileDigestRule, MAX_POLICY_BYTES, Pattern, PolicyDraft, SignedBy};
use super::signature::{KeyFloor, Keyring};
use super::template::{DigestKind, FileAlg};

/// Why a policy can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// Above the bound of policies.
    #[error("input of {0} bytes is too long")]
    TooLong(usize),
    /// Not JSON of the form.
    #[error("not a runtime policy: {0}")]
    Json(String),
    /// A line isn't a digest and a path.
    #[error("line {0} isn't a digest and a path")]
    Line(usize),
    /// A path that isn't absolute.
    #[error("line {0} names a path that doesn't begin with a slash")]
    Relative(usize),
    /// A digest of no known length, or not hexadecimal.
    #[error("{0:?} isn't a digest")]
    Digest(String),
    /// An exclude that is more than a path, a beginning or an end.
    #[error(
        "the exclude {0:?} can't be said without regular expressions; split it into paths, beginnings or ends"
    )]
    Exclude(String),
    /// Something that our form doesn't have.
    #[error("{0} can't be imported")]
    Unsupported(&'static str),
}

/// Digests by their lengths, as lists without an algorithm mean them.
fn by_length(text: &str) -> Result<FileDigestRule, ImportError> {
    let wrong = || ImportError::Digest(text.chars().take(160).collect());
    let plain = text.split_once(':').map_or(text, |(_, digest)| digest);
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(plain.as_bytes()).map_err(|_| wrong())?;
    let of_length = match bytes.len() {
        20 => FileAlg::Sha1,
        32 => FileAlg::Sha256,
        48 => FileAlg::Sha384,
        64 => FileAlg::Sha512,
        _ => return Err(wrong()),
    };
    let algorithm = match text.split_once(':') {
        Some((name, _)) => FileAlg::from_name(name.as_bytes()).ok_or_else(wrong)?,
        None => of_length,
    };
    if algorithm.digest_len() != bytes.len() {
        return Err(wrong());
    }
    Ok(FileDigestRule { algorithm, kind: DigestKind::Ima, bytes })
}

/// Adds the lines of `sha1sum`, `sha256sum`, `sha384sum` or `sha512sum` to a draft. Paths must be absolute, or begin
/// with `./` for lists made at `base`.
pub fn checksums(text: &[u8], base: Option<&str>, draft: &mut PolicyDraft) -> Result<(), ImportError> {
    if text.len() > MAX_POLICY_BYTES {
        return Err(ImportError::TooLong(text.len()));
    }
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let number = at + 1;
        let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |rest| (true, rest));
        let space = line.iter().position(|byte| *byte == b' ').ok_or(ImportError::Line(number))?;
        let (digest, rest) = line.split_at_checked(space).ok_or(ImportError::Line(number))?;
        // Two spaces, or a space and a star for binary mode.
        let [b' ', b' ' | b'*', path @ ..] = rest else { return Err(ImportError::Line(number)) };
        let digest = std::str::from_utf8(digest).map_err(|_| ImportError::Line(number))?;
        let path = if escaped { unescape(path).ok_or(ImportError::Line(number))? } else { path.to_vec() };
        let path = match (path.strip_prefix(b"./"), base) {
            (Some(rest), Some(base)) => [base.trim_end_matches('/').as_bytes(), b"/", rest].concat(),
            _ if path.starts_with(b"/") => path,
            _ => return Err(ImportError::Relative(number)),
        };
        draft.allow(&path, by_length(digest)?);
    }
    Ok(())
}

/// A backslash in front of a line says that the name has `\\`, `\n` and `\r` for the characters (GNU coreutils).
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.push(match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            }),
            other => out.push(*other),
        }
    }
    Some(out)
}

/// A JSON object whose names must differ.
#[derive(Debug)]
struct Distinct<V>(BTreeMap<String, V>);

impl<V> Default for Distinct<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Reader<V> {
            type Value = Distinct<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if entries.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{name:?} stands twice")));
                    }
                }
                Ok(Distinct(entries))
            }
        }
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

/// Keylime's runtime policy, as its agents' verifier reads it (keylime/ima/ima.py, version 1).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeylimePolicy {
    meta: Meta,
    #[serde(default)]
    #[expect(dead_code, reason = "a distribution's release number; it decides nothing")]
    release: u64,
    digests: Distinct<Vec<String>>,
    #[serde(default)]
    excludes: Option<Vec<String>>,
    #[serde(default)]
    keyrings: Distinct<Vec<String>>,
    #[serde(default)]
    ima: Ima,
    #[serde(default, rename = "ima-buf")]
    buffers: Distinct<Vec<String>>,
    #[serde(default, rename = "verification-keys")]
    verification_keys: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Meta {
    version: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ima {
    #[serde(default)]
    ignored_keyrings: Vec<String>,
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "how the file digests of the policy's maker were logged; each digest says it"
    )]
    log_hash_alg: Option<String>,
    #[serde(default)]
    dm_policy: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerificationKeys {
    #[expect(dead_code, reason = "version of the form; the members say whether it is understood")]
    meta: serde_json::Value,
    #[expect(dead_code, reason = "ids are computed from the keys")]
    keyids: Vec<u64>,
    pubkeys: Vec<String>,
}

/// A policy out of another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// As much of it as has a place in ours.
    pub draft: PolicyDraft,
    /// Digests of boot_aggregate that were left out, for the operator to be told: the first entry is held against the quoted boot registers,
    /// never against a list, and a listed one behind it would accept the boot of another machine.
    pub boot_aggregates: usize,
}

/// Reads a Keylime runtime policy.
pub fn keylime(json: &[u8]) -> Result<Imported, ImportError> {
    if json.len() > MAX_POLICY_BYTES {
        return Err(ImportError::TooLong(json.len()));
    }
    let policy: KeylimePolicy =
        serde_json::from_slice(json).map_err(|error| ImportError::Json(error.to_string()))?;
    if policy.meta.version != 1 {
        return Err(ImportError::Unsupported("a policy of this version"));
    }
    if policy.ima.dm_policy.is_some_and(|policy| !policy.is_null()) {
        return Err(ImportError::Unsupported("a device mapper policy"));
    }
    let mut draft = PolicyDraft::default();
    let mut boot_aggregates = 0;
    // Keyrings and buffers are entries with a name instead of a path.
    for (path, digests) in policy.digests.0.iter().chain(&policy.keyrings.0).chain(&policy.buffers.0) {
        for digest in digests {
            let rule = by_length(digest)?;
            if path.as_bytes() == aggregate::NAME {
                boot_aggregates += 1;
            } else {
                draft.allow(path.as_bytes(), rule);
            }
        }
    }
    for exclude in policy.excludes.iter().flatten() {
        draft.excludes.extend(patterns(exclude)?);
    }
    for keyring in &policy.ima.ignored_keyrings {
        if keyring.is_empty() || keyring == "*" {
            return Err(ImportError::Unsupported("ignoring every keyring"));
        }
        draft.excludes.push(Pattern::Exact(keyring.as_bytes().to_vec()));
    }
    if let Some(keys) = policy.verification_keys.filter(|keys| !keys.is_empty()) {
        verification_keys(&keys, &mut draft)?;
    }
    Ok(Imported { draft, boot_aggregates })
}

/// Keylime takes a file with a signature by any of these keys, wherever it lies.
fn verification_keys(json: &str, draft: &mut PolicyDraft) -> Result<(), ImportError> {
    let keys: VerificationKeys =
        serde_json::from_str(json).map_err(|error| ImportError::Json(error.to_string()))?;
    let mut keyring = Keyring::new(KeyFloor::Sound);
    for key in &keys.pubkeys {
        let der = data_encoding::BASE64
            .decode(key.as_bytes())
            .map_err(|_| ImportError::Unsupported("a verification key"))?;
        keyring.add(&der).map_err(|_| ImportError::Unsupported("a verification key"))?;
        draft.keys.push(der);
    }
    let ids: Vec<_> = keyring.ids().collect();
    if !ids.is_empty() {
        draft.signed_by.push(SignedBy { prefix: b"/".to_vec(), keys: ids });
    }
    Ok(())
}

/// An exclude as patterns of ours.
fn patterns(exclude: &str) -> Result<Vec<Pattern>, ImportError> {
    let refuse = || ImportError::Exclude(exclude.to_owned());
    let body = exclude.strip_prefix('^').unwrap_or(exclude);
    if let Some(end) = body.strip_prefix(".*").and_then(|rest| rest.strip_suffix('$')) {
        return Ok(vec![Pattern::Suffix(literal(end).ok_or_else(refuse)?)]);
    }
    for tail in ["(/.*)?$", "(/.*)?"] {
        if let Some(start) = body.strip_suffix(tail) {
            let path = literal(start).ok_or_else(refuse)?;
            // Without an end the expression takes whatever follows the path.
            if tail.ends_with('$') {
                let below = [path.as_slice(), b"/"].concat();
                return Ok(vec![Pattern::Exact(path), Pattern::Prefix(below)]);
            }
            return Ok(vec![Pattern::Prefix(path)]);
        }
    }
    for tail in [".*$", ".*"] {
        if let Some(start) = body.strip_suffix(tail) {
            return Ok(vec![Pattern::Prefix(literal(start).ok_or_else(refuse)?)]);
        }
    }
    match body.strip_suffix('$') {
        Some(path) => Ok(vec![Pattern::Exact(literal(path).ok_or_else(refuse)?)]),
        None => Ok(vec![Pattern::Prefix(literal(body).ok_or_else(refuse)?)]),
    }
}

/// The text of an expression without operators. A bare dot is taken as a dot: less than the expression meant, never more.
fn literal(expression: &str) -> Option<Vec<u8>> {
    let mut text = String::with_capacity(expression.len());
    let mut chars = expression.chars();
    while let Some(one) = chars.next() {
        match one {
            '\\' => {
                let next = chars.next()?;
                // A backslash in front of a letter or digit is a class or a reference.
                if next.is_alphanumeric() {
                    return None;
                }
                text.push(next);
            }
            '[' | ']' | '(' | ')' | '{' | '}' | '|' | '?' | '+' | '*' | '^' | '$' => return None,
            ' ' => text.push('_'),
            other => text.push(other),
        }
    }
    if text.is_empty() { None } else { Some(text.into_bytes()) }
}
