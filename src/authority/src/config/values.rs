//! Single values of the configuration: their text form, and what is refused of it.

use countersign_core::name::{Origin, TrustDomain};
use serde::{Deserialize, Deserializer, Serializer, de};
use std::collections::BTreeMap;

/// Label of the first head key when nothing is said.
pub(super) fn head_key() -> String {
    "countersign-head".to_owned()
}

/// Label of the CA key when nothing is said.
pub(super) fn ca_key() -> String {
    "countersign-ca".to_owned()
}

pub(super) fn origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Origin, D::Error> {
    Origin::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

pub(super) fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    TrustDomain::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

pub(super) fn digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::<String>::deserialize(deserializer)?;
    for digest in &list {
        countersign_core::digest::Sha256Digest::from_hex(digest)
            .map_err(|error| de::Error::custom(format!("{digest:?}: {error}")))?;
    }
    Ok(list)
}

/// Two halves of eight hexadecimal digits.
#[must_use]
pub fn firmware_version(text: &str) -> Option<u64> {
    let (first, second) = text.split_once(':')?;
    let half = |text: &str| if text.len() == 8 { u32::from_str_radix(text, 16).ok() } else { None };
    Some((u64::from(half(first)?) << 32) | u64::from(half(second)?))
}

pub(super) fn versions<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let versions = BTreeMap::<String, String>::deserialize(deserializer)?;
    match versions.values().find(|text| firmware_version(text).is_none()) {
        Some(text) => {
            Err(de::Error::custom(format!("{text:?} isn't two halves of eight hexadecimal digits")))
        }
        None => Ok(versions),
    }
}

pub(super) fn text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
