//! Statements of the recovery key (PROTOCOL §10): what the log begins with, and which head key is compromised.
//!
//! Comes in: exact statement bytes; their signature is the affair of the trust bundle and of the control chain. Goes out: a [`Statement`]. Refused:
//! another type, keys or certificates that are missing, a lease out of its domain, a last good head of another log.

use crate::cbor::{Decoder, Slot, encode_map};
use crate::checkpoint::HeadBody;
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::leaf::LeafError;
use crate::leaf::field::read_key;
use crate::name::Origin;
use crate::tuple;

/// Longest lease that can be published: for so long a revocation may stay unnoticed by a gateway that is cut off.
pub const MAX_LEASE_SECS: u64 = 86_400;
/// Most entries of a list in a statement.
const MAX_LISTED: usize = 64;

/// A statement of the recovery key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1, without gaps.
    pub number: u64,
    /// Name of the log.
    pub origin: Origin,
    /// When it was made, ms.
    pub time_ms: u64,
    /// What it says.
    pub says: Says,
}

/// What a statement says.
#[expect(clippy::large_enum_variant, reason = "a log has a handful of statements")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Type 1: what the log begins with. The first statement, and only that.
    Initial(Initial),
    /// Type 2: a head key is in other hands.
    Compromise(Compromise),
}

/// What the log begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial {
    /// First head keys.
    pub head_keys: Vec<VerifyingKey>,
    /// CA certificates, DER.
    pub ca_certificates: Vec<Vec<u8>>,
    /// Key thumbprints of the first security officers.
    pub officers: Vec<Sha256Digest>,
    /// The longest lease of a gateway, seconds.
    pub lease_secs: u64,
}

/// A head key in other hands, and the last head of it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compromise {
    /// The key.
    pub key: VerifyingKey,
    /// The last good head. Other heads that only this key signed don't count, whatever their size.
    pub last_good: HeadBody,
    /// Head keys that are to be believed in its stead.
    pub head_keys: Vec<VerifyingKey>,
}

const INITIAL: u64 = 1;
const COMPROMISE: u64 = 2;

/// What the recovery key signs.
#[must_use]
pub fn statement_preimage(statement: &[u8]) -> Vec<u8> {
    tuple::preimage("countersign-v1:recovery-statement", &[statement])
}

impl Statement {
    /// The statement's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).uint(self.number);
            map.entry(2).text(self.origin.as_str());
            map.entry(3).uint(match self.says {
                Says::Initial(_) => INITIAL,
                Says::Compromise(_) => COMPROMISE,
            });
            map.entry(4).uint(self.time_ms);
            match &self.says {
                Says::Initial(initial) => {
                    write_keys(map.entry(5), &initial.head_keys);
                    map.entry(6).array(|list| {
                        initial.ca_certificates.iter().for_each(|der| list.item().bytes(der));
                    });
                    map.entry(7).array(|list| {
                        initial.officers.iter().for_each(|officer| list.item().bytes(officer.as_bytes()));
                    });
                    map.entry(8).uint(initial.lease_secs);
                }
                Says::Compromise(compromise) => {
                    map.entry(5).bytes(&compromise.key.cose_key());
                    map.entry(6).text(&compromise.last_good.encode());
                    write_keys(map.entry(7), &compromise.head_keys);
                }
            }
        })
    }

    /// Parses exact statement bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        let entries = d.map()?;
        d.expect_key(1)?;
        let number = d.uint()?;
        d.expect_key(2)?;
        let origin = Origin::parse(d.text()?).map_err(|_| LeafError::Value("origin"))?;
        d.expect_key(3)?;
        let kind = d.uint()?;
        d.expect_key(4)?;
        let time_ms = d.uint()?;
        let says = match (kind, entries) {
            (INITIAL, 8) => Says::Initial(read_initial(d)?),
            (COMPROMISE, 7) => Says::Compromise(read_compromise(d, &origin)?),
            _ => return Err(LeafError::Value("statement type")),
        };
        decoder.finish()?;
        Ok(Self { number, origin, time_ms, says })
    }
}

fn write_keys(slot: Slot<'_>, keys: &[VerifyingKey]) {
    slot.array(|list| keys.iter().for_each(|key| list.item().bytes(&key.cose_key())));
}

fn read_keys(d: &mut Decoder<'_>) -> Result<Vec<VerifyingKey>, LeafError> {
    (0..listed(d)?).map(|_| read_key(d)).collect()
}

fn listed(d: &mut Decoder<'_>) -> Result<usize, LeafError> {
    let count = d.array()?;
    if count > MAX_LISTED { Err(LeafError::Value("list in a statement")) } else { Ok(count) }
}

fn read_initial(d: &mut Decoder<'_>) -> Result<Initial, LeafError> {
    d.expect_key(5)?;
    let head_keys = read_keys(d)?;
    d.expect_key(6)?;
    let ca_certificates =
        (0..listed(d)?).map(|_| Ok(d.bytes()?.to_vec())).collect::<Result<Vec<_>, LeafError>>()?;
    d.expect_key(7)?;
    let officers = (0..listed(d)?)
        .map(|_| Ok(Sha256Digest::new(d.byte_array()?)))
        .collect::<Result<Vec<_>, LeafError>>()?;
    d.expect_key(8)?;
    let lease_secs = d.uint()?;
    if head_keys.is_empty() || ca_certificates.is_empty() {
        return Err(LeafError::Value("statement without keys"));
    }
    if lease_secs == 0 || lease_secs > MAX_LEASE_SECS {
        return Err(LeafError::Value("lease"));
    }
    Ok(Initial { head_keys, ca_certificates, officers, lease_secs })
}

fn read_compromise(d: &mut Decoder<'_>, origin: &Origin) -> Result<Compromise, LeafError> {
    d.expect_key(5)?;
    let key = read_key(d)?;
    d.expect_key(6)?;
    let last_good = HeadBody::parse(d.text()?).map_err(|_| LeafError::Value("last good head"))?;
    if last_good.origin != origin.as_str() {
        return Err(LeafError::Value("last good head"));
    }
    d.expect_key(7)?;
    let head_keys = read_keys(d)?;
    // Nobody is to be believed in its own stead.
    if head_keys.contains(&key) {
        return Err(LeafError::Value("head keys"));
    }
    Ok(Compromise { key, last_good, head_keys })
}
