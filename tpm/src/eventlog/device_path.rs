//! Names of what firmware loaded.
//!
//! Comes in: UEFI_IMAGE_LOAD_EVENT or a load option, unproven. Goes out: the path of the file, else of the device. Refused: nodes that don't fit.
//! No quote proves a path: the digest is of the image alone.

use super::{text, told};
use crate::wire::Reader;

/// Most nodes of one path that are read.
const MAX_NODES: usize = 32;

/// The path in a UEFI_IMAGE_LOAD_EVENT. TCG PC Client Platform Firmware Profile 1.06, 10.2.3.
pub(super) fn of_image(data: &[u8]) -> Option<String> {
    let mut reader = Reader::new(data);
    // ImageLocationInMemory, ImageLengthInMemory, ImageLinkTimeAddress.
    reader.take(24).ok()?;
    let len = usize::try_from(reader.u64_le().ok()?).ok()?;
    path(reader.take(len).ok()?)
}

/// Description and path of an EFI_LOAD_OPTION. UEFI 2.10, 3.1.3.
pub(super) fn of_load_option(value: &[u8]) -> Option<String> {
    let mut reader = Reader::new(value);
    reader.u32_le().ok()?;
    let len = usize::from(reader.u16_le().ok()?);
    let rest = reader.take(reader.remaining()).ok()?;
    let units = rest.as_chunks::<2>().0;
    let end = units.iter().position(|unit| *unit == [0, 0])?;
    let description = told::utf16(rest);
    let path_at = end.checked_add(1)?.checked_mul(2)?;
    let found = rest.get(path_at..path_at.checked_add(len)?).and_then(path);
    Some(match found {
        Some(path) => format!("{description}: {path}"),
        None => description,
    })
}

/// The file if the path names one, else every node. UEFI 2.10, 10.3.
fn path(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader::new(bytes);
    let (mut file, mut nodes) = (String::new(), Vec::new());
    while reader.remaining() > 0 && nodes.len() < MAX_NODES {
        let (kind, subtype) = (reader.u8().ok()?, reader.u8().ok()?);
        let len = usize::from(reader.u16_le().ok()?);
        let data = reader.take(len.checked_sub(4)?).ok()?;
        match (kind, subtype) {
            (0x7f, _) => break,
            (0x04, 0x04) => file.push_str(&told::utf16(data)),
            _ => nodes.push(node(kind, subtype, data)),
        }
    }
    let whole = if file.is_empty() { nodes.join("/") } else { file };
    Some(whole).filter(|text| !text.is_empty())
}

fn node(kind: u8, subtype: u8, data: &[u8]) -> String {
    let number = |at: usize| {
        let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<4>);
        bytes.map(|bytes| u32::from_le_bytes(*bytes))
    };
    // EISA identifiers of PCI host bridges, PNP0A03 and PNP0A08. UEFI 2.10, 10.3.3.
    const HOST_BRIDGES: [u32; 2] = [0x0a03_41d0, 0x0a08_41d0];
    match (kind, subtype, data) {
        (0x01, 0x01, [function, device]) => format!("Pci({device:#x},{function:#x})"),
        (0x02, 0x01, _) if number(0).is_some_and(|hid| HOST_BRIDGES.contains(&hid)) => {
            format!("PciRoot({:#x})", number(4).unwrap_or_default())
        }
        (0x04, 0x01, _) => format!("HD({})", number(0).unwrap_or_default()),
        (0x04, 0x06, _) => format!("FvFile({})", text::guid(data).unwrap_or_default()),
        (0x04, 0x07, _) => format!("Fv({})", text::guid(data).unwrap_or_default()),
        _ => format!("Path({kind},{subtype})"),
    }
}
