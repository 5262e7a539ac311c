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

use anyhow::{Context as _, bail, ensure};
use countersign_core::document::{Generation, Lifetime};
use std::collections::BTreeMap;

/// Largest file taken.
pub(super) const MAX_CORIM_BYTES: u64 = 4 * 1024 * 1024;
const MAX_DEPTH: usize = 16;
const MAX_PCR: u64 = 23;

const TAG_EPOCH: u64 = 1;
const TAG_COSE_SIGN1: u64 = 18;
const TAG_SIGNED_CORIM: u64 = 500;
const TAG_CORIM: u64 = 501;
const TAG_COMID: u64 = 506;

/// What a CoRIM says of PCRs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Generations by the model that their environment names; the empty name where it names none.
    pub(super) generations: Vec<(String, Generation)>,
    /// Tags and triples of another kind.
    pub(super) passed_over: usize,
    /// When it holds.
    lifetime: Lifetime,
}

/// Reads a CoRIM for one bank (TPM_ALG_ID).
pub(super) fn read(bytes: &[u8], bank: u16) -> anyhow::Result<Manifest> {
    let algorithm = match bank {
        0x000b => 1,
        0x000c => 7,
        0x000d => 8,
        other => bail!("bank {other:#06x} has no number in the Named Information registry"),
    };
    let corim = match whole(bytes)? {
        Item::Tag(TAG_COSE_SIGN1 | TAG_SIGNED_CORIM, _) => {
            bail!("a signed CoRIM: check its signature and import the CoRIM inside")
        }
        Item::Tag(TAG_CORIM, inner) => *inner,
        map @ Item::Map(_) => map,
        _ => bail!("not a CoRIM"),
    };
    let mut manifest = Manifest::default();
    if let Some(validity) = corim.member(4) {
        manifest.lifetime.not_before_ms = validity.member(0).map(Item::epoch_ms).transpose()?;
        manifest.lifetime.not_after_ms = validity.member(1).map(Item::epoch_ms).transpose()?;
    }
    for tag in corim.member(1).context("the CoRIM has no tags")?.array()? {
        match tag {
            Item::Tag(TAG_COMID, inner) => match inner.as_ref() {
                Item::Bytes(bytes) => comid(&whole(bytes)?, bank, algorithm, &mut manifest)?,
                _ => bail!("a CoMID that isn't a byte string"),
            },
            Item::Tag(..) => manifest.passed_over += 1,
            _ => bail!("a tag without a number"),
        }
    }
    ensure!(!manifest.generations.is_empty(), "the CoRIM has no reference triple");
    Ok(manifest)
}

fn comid(comid: &Item<'_>, bank: u16, algorithm: u64, manifest: &mut Manifest) -> anyhow::Result<()> {
    let triples = comid.member(4).context("a CoMID without triples")?;
    manifest.passed_over += triples.map()?.iter().filter(|(key, _)| *key != Item::Uint(0)).count();
    let Some(references) = triples.member(0) else { return Ok(()) };
    for record in references.array()? {
        let [environment, claims] = record.array()? else { bail!("a reference triple has two members") };
        let model = environment.member(0).and_then(|class| class.member(2));
        let name = model.map(Item::text).transpose()?.unwrap_or_default();
        let mut pcrs = BTreeMap::new();
        for measurement in claims.array()? {
            registers(measurement, algorithm, &mut pcrs)?;
        }
        ensure!(!pcrs.is_empty(), "a reference triple without a PCR");
        let lifetime = manifest.lifetime;
        let generation = Generation { bank, pcrs: pcrs.into_iter().collect(), lifetime };
        manifest.generations.push((name.to_owned(), generation));
    }
    Ok(())
}

fn registers(
    measurement: &Item<'_>,
    algorithm: u64,
    pcrs: &mut BTreeMap<u32, Vec<u8>>,
) -> anyhow::Result<()> {
    let values = measurement.member(1).context("a measurement without a value")?;
    let mut put = |pcr: &Item<'_>, digests: &Item<'_>| {
        let number = match pcr {
            Item::Uint(number) if *number <= MAX_PCR => u32::try_from(*number)?,
            _ => bail!("a measurement that isn't of a PCR"),
        };
        let digest = digest(digests, algorithm).with_context(|| format!("PCR {number}"))?;
        ensure!(pcrs.insert(number, digest.to_vec()).is_none(), "PCR {number} twice in one triple");
        Ok(())
    };
    match (values.member(14), measurement.member(0), values.member(2)) {
        (Some(registers), _, None) => {
            for (pcr, digests) in registers.map()? {
                put(pcr, digests)?;
            }
            Ok(())
        }
        (None, Some(pcr), Some(digests)) => put(pcr, digests),
        _ => bail!("a measurement that isn't of a PCR"),
    }
}

/// The one digest of this algorithm.
fn digest<'a>(digests: &'a Item<'_>, algorithm: u64) -> anyhow::Result<&'a [u8]> {
    let length = match algorithm {
        1 => 32,
        7 => 48,
        _ => 64,
    };
    let mut found = None;
    for one in digests.array()? {
        let [Item::Uint(number), Item::Bytes(value)] = one.array()? else {
            bail!("a digest is the number of an algorithm and bytes")
        };
        if *number == algorithm {
            ensure!(value.len() == length, "a digest of {} bytes", value.len());
            ensure!(found.replace(*value).is_none(), "two digests of one algorithm");
        }
    }
    found.context("no digest of this bank")
}

/// A CBOR item.
#[derive(Debug, PartialEq, Eq)]
enum Item<'a> {
    Uint(u64),
    Negative(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Item<'a>>),
    Map(Vec<(Item<'a>, Item<'a>)>),
    Tag(u64, Box<Item<'a>>),
    Simple(u64),
}

impl Item<'_> {
    /// The value under an unsigned key; nothing if this isn't a map or has no such key.
    fn member(&self, key: u64) -> Option<&Self> {
        let Item::Map(entries) = self else { return None };
        entries.iter().find(|(found, _)| *found == Item::Uint(key)).map(|(_, value)| value)
    }

    fn array(&self) -> anyhow::Result<&[Self]> {
        match self {
            Item::Array(items) => Ok(items),
            _ => bail!("an array was expected"),
        }
    }

    fn map(&self) -> anyhow::Result<&[(Self, Self)]> {
        match self {
            Item::Map(entries) => Ok(entries),
            _ => bail!("a map was expected"),
        }
    }

    fn text(&self) -> anyhow::Result<&str> {
        match self {
            Item::Text(text) => Ok(text),
            _ => bail!("a text was expected"),
        }
    }

    fn epoch_ms(&self) -> anyhow::Result<u64> {
        match self {
            Item::Tag(TAG_EPOCH, inner) => match inner.as_ref() {
                Item::Uint(seconds) => Ok(seconds.saturating_mul(1_000)),
                _ => bail!("a time that isn't whole seconds since 1970"),
            },
            _ => bail!("a time was expected"),
        }
    }
}

/// Exactly one item.
fn whole(bytes: &[u8]) -> anyhow::Result<Item<'_>> {
    let mut rest = bytes;
    let item = item(&mut rest, 0)?;
    ensure!(rest.is_empty(), "{} bytes are left over", rest.len());
    Ok(item)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> anyhow::Result<&'a [u8]> {
    let cut = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (taken, after) = cut.context("the file ends too early")?;
    *rest = after;
    Ok(taken)
}

fn item<'a>(rest: &mut &'a [u8], depth: usize) -> anyhow::Result<Item<'a>> {
    ensure!(depth < MAX_DEPTH, "more than {MAX_DEPTH} levels");
    let (major, argument) = head(rest)?;
    // Every member takes a byte at least, so a count above what is left can't be true.
    let count = |per: u64| -> anyhow::Result<usize> {
        let most = u64::try_from(rest.len()).unwrap_or(u64::MAX) / per;
        ensure!(major < 4 || argument <= most, "more members than bytes");
        Ok(usize::try_from(argument)?)
    };
    Ok(match major {
        0 => Item::Uint(argument),
        1 => Item::Negative(argument),
        2 => Item::Bytes(take(rest, argument)?),
        3 => Item::Text(std::str::from_utf8(take(rest, argument)?).context("text that isn't UTF-8")?),
        4 => {
            let count = count(1)?;
            Item::Array((0..count).map(|_| item(rest, depth + 1)).collect::<anyhow::Result<_>>()?)
        }
        5 => {
            let count = count(2)?;
            let mut entries = Vec::new();
            for _ in 0..count {
                let key = item(rest, depth + 1)?;
                ensure!(!entries.iter().any(|(known, _)| *known == key), "a key twice in one map");
                entries.push((key, item(rest, depth + 1)?));
            }
            Item::Map(entries)
        }
        6 => Item::Tag(argument, Box::new(item(rest, depth + 1)?)),
        _ => Item::Simple(argument),
    })
}

/// Major type and argument. RFC 8949 §3; lengths may be longer than needed, but not indefinite.
fn head(rest: &mut &[u8]) -> anyhow::Result<(u8, u64)> {
    let [first] = take(rest, 1)? else { bail!("the file ends too early") };
    let (major, low) = (first >> 5, first & 0x1f);
    let width = match low {
        0..24 => return Ok((major, u64::from(low))),
        24..28 => 1_u64 << (low - 24),
        _ => bail!("an indefinite length"),
    };
    ensure!(major != 7, "a float");
    let argument = take(rest, width)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
    Ok((major, argument))
}

#[cfg(test)]
#[path = "corim_tests.rs"]
mod tests;
