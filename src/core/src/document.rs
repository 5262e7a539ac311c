//! Policy and references documents: what an epoch activates (PROTOCOL §8.1, §8.2).
//!
//! These are containers with one encoding each. Whether the Cedar text in a policy document is valid is the authority's question.

use crate::cbor::{Decoder, Key, encode_map};
use crate::digest::{Sha256Digest, sha256};
use crate::leaf::LeafError;
use crate::record::read_pcrs;
use std::collections::BTreeMap;

/// TPM_ALG_SHA256 (TCG Algorithm Registry).
pub const TPM_ALG_SHA256: u16 = 0x000b;

/// What the verifier requires of quotes and grants at most; part of the policy, so that replay knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// TPM_ALG_ID of the bank to quote.
    pub bank: u16,
    /// PCR indexes to quote, ascending.
    pub pcrs: Vec<u32>,
    /// Longest lifetime of an artifact, seconds.
    pub max_ttl_secs: u64,
    /// How long a host is trusted after good evidence, seconds.
    pub host_trust_secs: u64,
}

impl Default for Settings {
    /// What holds while no policy is active (PROTOCOL §8.1).
    fn default() -> Self {
        Self {
            bank: TPM_ALG_SHA256,
            pcrs: vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14],
            max_ttl_secs: 300,
            host_trust_secs: 300,
        }
    }
}

/// A policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDocument {
    /// Cedar source by policy identifier.
    pub policies: BTreeMap<String, String>,
    /// Cedar schema source.
    pub schema: String,
    /// Settings.
    pub settings: Settings,
}

impl PolicyDocument {
    /// The document's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).map(|policies| {
                for (id, source) in &self.policies {
                    policies.entry(id.as_str()).bytes(source.as_bytes());
                }
            });
            map.entry(2).bytes(self.schema.as_bytes());
            map.entry(3).map(|settings| {
                settings.entry(1).uint(u64::from(self.settings.bank));
                settings.entry(2).array(|pcrs| {
                    self.settings.pcrs.iter().for_each(|pcr| pcrs.item().uint(u64::from(*pcr)))
                });
                settings.entry(3).uint(self.settings.max_ttl_secs);
                settings.entry(4).uint(self.settings.host_trust_secs);
            });
        })
    }

    /// Parses exact document bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        d.map_of(3)?;
        d.expect_key(1)?;
        let mut policies = BTreeMap::new();
        for _ in 0..d.map()? {
            let Key::Text(id) = d.key()? else { return Err(LeafError::Value("policy identifier")) };
            policies.insert(id.to_owned(), source(d.bytes()?)?);
        }
        d.expect_key(2)?;
        let schema = source(d.bytes()?)?;
        d.expect_key(3)?;
        d.map_of(4)?;
        d.expect_key(1)?;
        let bank = u16::try_from(d.uint()?).map_err(|_| LeafError::Value("bank"))?;
        d.expect_key(2)?;
        let count = d.array()?;
        let pcrs = (0..count)
            .map(|_| u32::try_from(d.uint()?).map_err(|_| LeafError::Value("PCR index")))
            .collect::<Result<Vec<_>, _>>()?;
        if pcrs.is_empty() || !pcrs.is_sorted_by(|a, b| a < b) || pcrs.iter().any(|pcr| *pcr > 23) {
            return Err(LeafError::Value("PCR selection"));
        }
        d.expect_key(3)?;
        let max_ttl_secs = d.uint()?;
        d.expect_key(4)?;
        let host_trust_secs = d.uint()?;
        if max_ttl_secs == 0 || max_ttl_secs > crate::request::MAX_TTL_SECS || host_trust_secs == 0 {
            return Err(LeafError::Value("settings"));
        }
        decoder.finish()?;
        Ok(Self { policies, schema, settings: Settings { bank, pcrs, max_ttl_secs, host_trust_secs } })
    }

    /// The document's name.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        sha256(&self.encode())
    }
}

fn source(bytes: &[u8]) -> Result<String, LeafError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| LeafError::Value("source text"))
}

/// One accepted state of a host: PCR values of one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// TPM_ALG_ID of the bank.
    pub bank: u16,
    /// PCR index and value, ascending.
    pub pcrs: Vec<(u32, Vec<u8>)>,
    /// When it counts.
    pub lifetime: Lifetime,
    /// SHA-256 of the evidence record that it was captured from. Nothing is decided from it; it tells people what the values stand for.
    pub evidence: Option<Sha256Digest>,
}

impl Generation {
    /// Whether both accept just the same, wherever they were captured.
    fn accepts_as(&self, other: &Self) -> bool {
        (self.bank, &self.pcrs, self.lifetime) == (other.bank, &other.pcrs, other.lifetime)
    }
}

/// When something counts, both ends included; an absent end is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// From when, ms since the Unix epoch.
    pub not_before_ms: Option<u64>,
    /// Until when, ms since the Unix epoch.
    pub not_after_ms: Option<u64>,
}

impl Lifetime {
    /// It has begun.
    #[must_use]
    pub fn has_begun(&self, time_ms: u64) -> bool {
        self.not_before_ms.is_none_or(|from| from <= time_ms)
    }

    /// It counts at this time.
    #[must_use]
    pub fn contains(&self, time_ms: u64) -> bool {
        self.has_begun(time_ms) && self.not_after_ms.is_none_or(|until| time_ms <= until)
    }
}

/// Named sets of accepted states, several generations of a set valid at once; and what may run after boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferencesDocument {
    /// SHA-256 of the IMA runtime policy in force; its bytes are a blob.
    pub ima: Option<Sha256Digest>,
    /// Generations by set name.
    pub sets: BTreeMap<String, Vec<Generation>>,
}

impl ReferencesDocument {
    /// Adds a generation to a set, unless one there accepts just the same: that one is told where it was captured, if it didn't know.
    pub fn add(&mut self, set: &str, generation: Generation) {
        let generations = self.sets.entry(set.to_owned()).or_default();
        match generations.iter_mut().find(|one| one.accepts_as(&generation)) {
            Some(one) => one.evidence = one.evidence.or(generation.evidence),
            None => generations.push(generation),
        }
    }

    /// The document's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            if let Some(ima) = &self.ima {
                map.entry(0).bytes(ima.as_bytes());
            }
            for (name, generations) in &self.sets {
                map.entry(name.as_str()).array(|list| {
                    for generation in generations {
                        list.item().map(|item| {
                            item.entry(1).uint(u64::from(generation.bank));
                            item.entry(2).array(|pcrs| {
                                for (index, value) in &generation.pcrs {
                                    pcrs.item().array(|pcr| {
                                        pcr.item().uint(u64::from(*index));
                                        pcr.item().bytes(value);
                                    });
                                }
                            });
                            let lifetime = &generation.lifetime;
                            if let Some(from) = lifetime.not_before_ms {
                                item.entry(3).uint(from);
                            }
                            if let Some(until) = lifetime.not_after_ms {
                                item.entry(4).uint(until);
                            }
                            if let Some(evidence) = &generation.evidence {
                                item.entry(5).bytes(evidence.as_bytes());
                            }
                        });
                    }
                });
            }
        })
    }

    /// Parses exact document bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let mut sets = BTreeMap::new();
        let mut ima = None;
        for _ in 0..decoder.map()? {
            let name = match decoder.key()? {
                Key::Int(0) => {
                    ima = Some(Sha256Digest::new(decoder.byte_array()?));
                    continue;
                }
                Key::Text(name) => name,
                Key::Int(_) => return Err(LeafError::Value("set name")),
            };
            if name.is_empty() || name.len() > 64 {
                return Err(LeafError::Value("set name"));
            }
            let mut generations = Vec::new();
            for _ in 0..decoder.array()? {
                let members = decoder.map()?;
                decoder.expect_key(1)?;
                let bank = u16::try_from(decoder.uint()?).map_err(|_| LeafError::Value("bank"))?;
                decoder.expect_key(2)?;
                let pcrs = read_pcrs(&mut decoder)?;
                // A generation that names no PCR would match every host.
                if pcrs.is_empty() || !pcrs.is_sorted_by(|a, b| a.0 < b.0) {
                    return Err(LeafError::Value("generation"));
                }
                let (lifetime, evidence) = read_optional(&mut decoder, members)?;
                generations.push(Generation { bank, pcrs, lifetime, evidence });
            }
            if generations.is_empty() {
                return Err(LeafError::Value("set without generation"));
            }
            sets.insert(name.to_owned(), generations);
        }
        decoder.finish()?;
        Ok(Self { ima, sets })
    }

    /// The document's name.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        sha256(&self.encode())
    }
}

/// The optional members 3, 4 and 5 of a generation's map. A lifetime that ends before it begins would never match: a mistake.
fn read_optional(
    decoder: &mut Decoder<'_>,
    members: usize,
) -> Result<(Lifetime, Option<Sha256Digest>), LeafError> {
    let mut lifetime = Lifetime::default();
    let mut evidence = None;
    for _ in 2..members {
        match decoder.key()? {
            Key::Int(3) => lifetime.not_before_ms = Some(decoder.uint()?),
            Key::Int(4) => lifetime.not_after_ms = Some(decoder.uint()?),
            Key::Int(5) => evidence = Some(Sha256Digest::new(decoder.byte_array()?)),
            _ => return Err(LeafError::Value("generation")),
        }
    }
    match (members, lifetime.not_before_ms, lifetime.not_after_ms) {
        (0..2, _, _) => Err(LeafError::Value("generation")),
        (_, Some(from), Some(until)) if until < from => Err(LeafError::Value("lifetime")),
        _ => Ok((lifetime, evidence)),
    }
}
