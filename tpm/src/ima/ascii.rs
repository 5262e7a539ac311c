//! The ASCII list, turned into the binary one, so that there is one reader of entries.
//!
//! Comes in: the bytes of `ascii_runtime_measurements` and the hash of its second column. Goes out: the same list in
//! binary form. Refused: lines with other columns than their template has, hexadecimal in another case or of odd length.
//! Not every file name survives the ASCII form (a newline doesn't): evidence travels in binary.

use super::list::ListError;
use super::template::{Field, IMA_NAME_MAX, Template};
use super::{MAX_ENTRIES, MAX_LIST_BYTES, MAX_TEMPLATE_BYTES};
use crate::algorithm::HashAlg;

/// Converts a list. The result is never longer than the text.
pub fn to_binary(text: &[u8], column: HashAlg) -> Result<Vec<u8>, ListError> {
    if text.len() > MAX_LIST_BYTES {
        return Err(ListError::TooLong(text.len()));
    }
    let mut binary = Vec::with_capacity(text.len());
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Ok(binary);
    }
    for (entry, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if entry == MAX_ENTRIES {
            return Err(ListError::TooManyEntries);
        }
        convert(line, column, &mut binary).ok_or(ListError::Line { entry })?;
    }
    Ok(binary)
}

fn convert(line: &[u8], column: HashAlg, binary: &mut Vec<u8>) -> Option<()> {
    // The kernel pads the register number to two characters.
    let line = line.strip_prefix(b" ").unwrap_or(line);
    let mut columns = line.split(|byte| *byte == b' ');
    let pcr: u32 = std::str::from_utf8(columns.next()?).ok()?.parse().ok()?;
    let hash = hex(columns.next()?)?;
    if hash.len() != column.digest_len() {
        return None;
    }
    let template = Template::from_name(columns.next()?)?;
    let mut data = Vec::new();
    for field in template.fields() {
        append(*field, columns.next()?, &mut data)?;
    }
    if columns.next().is_some() || data.len() > MAX_TEMPLATE_BYTES {
        return None;
    }
    binary.extend_from_slice(&pcr.to_le_bytes());
    binary.extend_from_slice(&hash);
    sized(binary, template.name().as_bytes())?;
    match template {
        Template::Ima => binary.extend_from_slice(&data),
        _ => sized(binary, &data)?,
    }
    Some(())
}

fn append(field: Field, text: &[u8], data: &mut Vec<u8>) -> Option<()> {
    match field {
        Field::D => {
            let digest = hex(text)?;
            (digest.len() == 20).then(|| data.extend_from_slice(&digest))
        }
        Field::N => (text.len() <= IMA_NAME_MAX).then(|| sized(data, text)).flatten(),
        Field::Name => sized(data, &[text, b"\0"].concat()),
        Field::Hex => sized(data, &hex(text)?),
        Field::Digest if text.is_empty() => sized(data, b""),
        Field::Digest => {
            let colon = text.iter().rposition(|byte| *byte == b':')?;
            let (name, digest) = text.split_at_checked(colon.checked_add(1)?)?;
            sized(data, &[name, b"\0", &hex(digest)?].concat())
        }
    }
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER.decode(text).ok()
}
