//! Reference values out of a CoRIM (draft-ietf-rats-corim-10).
//!
//! Comes in: an unsigned CoRIM in CBOR, `#6.501(corim-map)` or the bare map. Goes out: for each reference triple one generation of PCR values.
//!
//! The profile that is read, exactly: `tags` (1) of the corim-map, each `#6.506(bytes .cbor concise-mid-tag)`; of a CoMID its `triples` (4) and in
//! them the `reference-triples` (0); of a triple its environment's class model (0, then 2) as name of the set, and its measurements. A measurement is
//! either of one PCR, its `mkey` (0) the PCR's number and its value `digests` (2), or has `integrity-registers` (14), a map from the PCR's number
//! to digests. Digests are `[algorithm, bytes]` with the numbers of the Named Information registry: 1, 7 and 8 for SHA-256, -384 and -512.
//! `rim-validity` (4) bounds the lifetime of every generation.
//!
//! Refused: signed CoRIMs (their signature would have to be checked first), measurements that aren't of a PCR, a PCR twice, one without a digest
//! of the bank asked for, indefinite lengths, floats, more than 16 levels, bytes left over. Passed over and counted: tags of another kind
//! (CoSWID, CoTL) and triples of another kind. What else a CoMID says of measurements (versions, owners, `authorized-by`) isn't looked at.

mod item;

use crate::document::{Generation, Lifetime};
use item::{Item, whole};
use std::collections::BTreeMap;

/// Largest file taken.
pub const MAX_CORIM_BYTES: u64 = 4 * 1024 * 1024;
const MAX_PCR: u32 = 23;

const TAG_COSE_SIGN1: u64 = 18;
const TAG_SIGNED_CORIM: u64 = 500;
const TAG_CORIM: u64 = 501;
const TAG_COMID: u64 = 506;

/// Why a CoRIM isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorimRefused {
    /// Larger than [`MAX_CORIM_BYTES`].
    #[error("larger than {MAX_CORIM_BYTES} bytes")]
    TooLarge,
    /// No algorithm of a digest has this bank's number.
    #[error("bank {0:#06x} has no number in the Named Information registry")]
    Bank(u16),
    /// Its signature would have to be checked first.
    #[error("a signed CoRIM: check its signature and import the CoRIM inside")]
    Signed,
    /// It isn't of the profile that is read.
    #[error("{0}")]
    Form(&'static str),
    /// A digest isn't as long as its algorithm's.
    #[error("a digest of {0} bytes")]
    DigestLength(usize),
    /// What it says of one register.
    #[error("PCR {number}: {reason}")]
    Pcr {
        /// Which.
        number: u32,
        /// What is wrong with it.
        reason: Box<CorimRefused>,
    },
    /// A register twice.
    #[error("PCR {0} twice in one triple")]
    Twice(u32),
}

const NOT_A_PCR: CorimRefused = CorimRefused::Form("a measurement that isn't of a PCR");

/// What a CoRIM says of PCRs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Generations by the model that their environment names; the empty name where it names none.
    pub generations: Vec<(String, Generation)>,
    /// Tags and triples of another kind.
    pub passed_over: usize,
    /// When it holds.
    lifetime: Lifetime,
}

/// Reads a CoRIM for one bank (TPM_ALG_ID).
///
/// # Errors
/// [`CorimRefused`].
pub fn read(bytes: &[u8], bank: u16) -> Result<Manifest, CorimRefused> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_CORIM_BYTES) {
        return Err(CorimRefused::TooLarge);
    }
    let algorithm = match bank {
        0x000b => 1,
        0x000c => 7,
        0x000d => 8,
        other => return Err(CorimRefused::Bank(other)),
    };
    let corim = match whole(bytes)? {
        Item::Tag(TAG_COSE_SIGN1 | TAG_SIGNED_CORIM, _) => return Err(CorimRefused::Signed),
        Item::Tag(TAG_CORIM, inner) => *inner,
        map @ Item::Map(_) => map,
        _ => return Err(CorimRefused::Form("not a CoRIM")),
    };
    let mut manifest = Manifest::default();
    if let Some(validity) = corim.member(4) {
        // Anything else would be a CoRIM without an end.
        validity.map()?;
        manifest.lifetime.not_before_ms = validity.member(0).map(Item::epoch_ms).transpose()?;
        manifest.lifetime.not_after_ms = validity.member(1).map(Item::epoch_ms).transpose()?;
    }
    for tag in corim.member(1).ok_or(CorimRefused::Form("the CoRIM has no tags"))?.array()? {
        match tag {
            Item::Tag(TAG_COMID, inner) => match inner.as_ref() {
                Item::Bytes(bytes) => comid(&whole(bytes)?, bank, algorithm, &mut manifest)?,
                _ => return Err(CorimRefused::Form("a CoMID that isn't a byte string")),
            },
            Item::Tag(..) => manifest.passed_over += 1,
            _ => return Err(CorimRefused::Form("a tag without a number")),
        }
    }
    if manifest.generations.is_empty() {
        return Err(CorimRefused::Form("the CoRIM has no reference triple"));
    }
    Ok(manifest)
}

fn comid(comid: &Item<'_>, bank: u16, algorithm: u64, manifest: &mut Manifest) -> Result<(), CorimRefused> {
    let triples = comid.member(4).ok_or(CorimRefused::Form("a CoMID without triples"))?;
    manifest.passed_over += triples.map()?.iter().filter(|(key, _)| *key != Item::Uint(0)).count();
    let Some(references) = triples.member(0) else { return Ok(()) };
    for record in references.array()? {
        let [environment, claims] = record.array()? else {
            return Err(CorimRefused::Form("a reference triple has two members"));
        };
        let model = environment.member(0).and_then(|class| class.member(2));
        let name = model.map(Item::text).transpose()?.unwrap_or_default();
        let mut pcrs = BTreeMap::new();
        for measurement in claims.array()? {
            registers(measurement, algorithm, &mut pcrs)?;
        }
        if pcrs.is_empty() {
            return Err(CorimRefused::Form("a reference triple without a PCR"));
        }
        let lifetime = manifest.lifetime;
        let generation = Generation { bank, pcrs: pcrs.into_iter().collect(), lifetime, evidence: None };
        manifest.generations.push((name.to_owned(), generation));
    }
    Ok(())
}

fn registers(
    measurement: &Item<'_>,
    algorithm: u64,
    pcrs: &mut BTreeMap<u32, Vec<u8>>,
) -> Result<(), CorimRefused> {
    let values = measurement.member(1).ok_or(CorimRefused::Form("a measurement without a value"))?;
    let mut put = |pcr: &Item<'_>, digests: &Item<'_>| {
        let number = match pcr {
            Item::Uint(number) => {
                u32::try_from(*number).ok().filter(|number| *number <= MAX_PCR).ok_or(NOT_A_PCR)?
            }
            _ => return Err(NOT_A_PCR),
        };
        let refused = |reason: CorimRefused| CorimRefused::Pcr { number, reason: Box::new(reason) };
        let digest = digest(digests, algorithm).map_err(refused)?;
        match pcrs.insert(number, digest.to_vec()) {
            None => Ok(()),
            Some(_) => Err(CorimRefused::Twice(number)),
        }
    };
    match (values.member(14), measurement.member(0), values.member(2)) {
        (Some(registers), _, None) => {
            for (pcr, digests) in registers.map()? {
                put(pcr, digests)?;
            }
            Ok(())
        }
        (None, Some(pcr), Some(digests)) => put(pcr, digests),
        _ => Err(NOT_A_PCR),
    }
}

/// The one digest of this algorithm.
fn digest<'a>(digests: &'a Item<'_>, algorithm: u64) -> Result<&'a [u8], CorimRefused> {
    let length = match algorithm {
        1 => 32,
        7 => 48,
        _ => 64,
    };
    let mut found = None;
    for one in digests.array()? {
        let [Item::Uint(number), Item::Bytes(value)] = one.array()? else {
            return Err(CorimRefused::Form("a digest is the number of an algorithm and bytes"));
        };
        if *number == algorithm {
            if value.len() != length {
                return Err(CorimRefused::DigestLength(value.len()));
            }
            if found.replace(*value).is_some() {
                return Err(CorimRefused::Form("two digests of one algorithm"));
            }
        }
    }
    found.ok_or(CorimRefused::Form("no digest of this bank"))
}

#[cfg(test)]
mod tests;
