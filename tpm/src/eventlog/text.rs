//! Texts that boot loaders measure: the kernel command line.
//!
//! Comes in: the events of PCR 8 (GRUB, old systemd-boot) and PCR 12 (systemd-boot, unified kernel images). Goes out: the command line, if
//! it can be told without believing a label. Refused: registers with an event whose text isn't proven, and more than one command line.
//!
//! GRUB logs `kernel_cmdline: text` and measures the text alone, so the label proves nothing: an edited log could call the command line that
//! was used a menu command and present an earlier text in its place. The rule here needs no label. Every text in PCR 8 must be proven; of
//! these, commands begin with a word and the kernel's command line with a path, so the command line is the only text that begins with one.

use super::Event;
use super::facts::{MAX_CMDLINE_BYTES, MAX_VERSION_CHARS};
use crate::algorithm::HashAlg;

/// What is measured of an event that carries text, as the boot loaders known do it.
pub(super) fn measured_text<'a>(event: &Event<'a>, bank: HashAlg) -> Option<&'a [u8]> {
    let digest = event.digest(bank)?;
    let data = event.data();
    // GRUB 2.04 and later: "grub_cmd: text", hashed without label and final zero. RHEL 8: "grub_cmd text", hashed with the final zero or
    // without it. systemd-boot: everything.
    let after = |label: &[u8]| {
        let at = data.windows(label.len()).position(|window| window == label)?;
        data.get(at.checked_add(label.len())?..)
    };
    [Some(data), after(b": "), after(b" ")]
        .into_iter()
        .flatten()
        .flat_map(|text| [trim_zeros(text), text])
        .find(|text| bank.digest(text) == digest)
        .map(trim_zeros)
}

fn trim_zeros(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., 0] = text {
        text = rest;
    }
    text
}

/// Text of UTF-16, little endian, with its final zero or without. systemd-boot up to 251 logs one byte less than it measures.
pub(super) fn utf16(event: &Event<'_>, bank: HashAlg) -> Option<String> {
    let digest = event.digest(bank)?;
    let data = event.data();
    // The final zero may be there, and be a byte short.
    if data.len() > 2 * MAX_CMDLINE_BYTES + 2 {
        return None;
    }
    let whole = bank.digest(data) == digest;
    let cut = || data.len() % 2 == 1 && bank.digest_parts(&[data, &[0]]) == digest;
    if !whole && !cut() {
        return None;
    }
    let units: Vec<u16> = data
        .chunks(2)
        .map(|pair| match pair {
            [low, high] => u16::from_le_bytes([*low, *high]),
            [low] => u16::from(*low),
            _ => 0,
        })
        .collect();
    let text = String::from_utf16(&units).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
        .filter(|text| text.len() <= MAX_CMDLINE_BYTES && !text.chars().any(char::is_control))
}

/// The only command line of PCR 8. `Err` if a text isn't proven, there are several, or it is too long or no UTF-8: two that differ must not
/// be told as one.
fn of_boot_loader(events: &[Event<'_>], bank: HashAlg) -> Result<Option<String>, ()> {
    let mut found = None;
    for event in events {
        let line = match measured_text(event, bank).filter(|text| !text.contains(&0)) {
            Some(text @ [b'/' | b'(', ..]) if text.len() <= MAX_CMDLINE_BYTES => {
                Some(std::str::from_utf8(text).map_err(|_| ())?.to_owned())
            }
            Some([b'/' | b'(', ..]) => return Err(()),
            Some(_) => None,
            None => Some(utf16(event, bank).ok_or(())?),
        };
        if let Some(line) = line
            && found.replace(line).is_some()
        {
            return Err(());
        }
    }
    Ok(found)
}

/// The only command line of PCR 12; systemd-boot measures it once as loader and once as stub. `Err` if one isn't proven or they differ.
fn of_stub(events: &[Event<'_>], bank: HashAlg) -> Result<Option<String>, ()> {
    let mut found: Option<String> = None;
    for event in events {
        let line = utf16(event, bank).ok_or(())?;
        if found.as_ref().is_some_and(|known| *known != line) {
            return Err(());
        }
        found = Some(line);
    }
    Ok(found)
}

/// The kernel command line; `None` when it can't be told for sure.
pub(super) fn kernel_cmdline(pcr_8: &[Event<'_>], pcr_12: &[Event<'_>], bank: HashAlg) -> Option<String> {
    match (of_boot_loader(pcr_8, bank), of_stub(pcr_12, bank)) {
        (Ok(Some(line)), Ok(None)) | (Ok(None), Ok(Some(line))) => Some(line),
        (Ok(Some(line)), Ok(Some(other))) => Some(line).filter(|line| *line == other),
        _ => None,
    }
}

/// A text of printable ASCII in UTF-16 with its final zero: what firmware calls its version.
pub(super) fn version(data: &[u8]) -> Option<String> {
    if data.len() > 2 * MAX_VERSION_CHARS + 2 {
        return None;
    }
    let units: Vec<u16> = data
        .chunks_exact(2)
        .map(|pair| <[u8; 2]>::try_from(pair).map(u16::from_le_bytes).unwrap_or_default())
        .collect();
    let (last, text) = units.split_last()?;
    let printable = |unit: &u16| (0x20..0x7f).contains(unit);
    if !data.len().is_multiple_of(2) || *last != 0 || !text.iter().all(printable) {
        return None;
    }
    String::from_utf16(text).ok()
}

/// A GUID as people write it: what firmware without a version text measures in its place.
pub(super) fn guid(data: &[u8]) -> Option<String> {
    let bytes = <[u8; 16]>::try_from(data).ok()?;
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    let (second, rest) = rest.split_first_chunk::<2>()?;
    let (third, rest) = rest.split_first_chunk::<2>()?;
    let (fourth, fifth) = rest.split_first_chunk::<2>()?;
    Some(format!(
        "{:08x}-{:04x}-{:04x}-{}-{}",
        u32::from_le_bytes(*first),
        u16::from_le_bytes(*second),
        u16::from_le_bytes(*third),
        data_encoding::HEXLOWER.encode(fourth),
        data_encoding::HEXLOWER.encode(fifth),
    ))
}
