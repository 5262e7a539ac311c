//! Distinguished names, in a form in which equal names are equal values.
//!
//! Comes in: a Name as DER. Goes out: [`Name`], compared as RFC 5280 §7.1 says: the type of a string, the case of letters and the amount of
//! white space don't matter, nor does the order inside a multi-valued RDN. Refused: names of more than [`MAX_ATTRIBUTES`] attributes, strings
//! that aren't of their own encoding.

use super::EkRefusal;
use super::tlv::{Elements, SEQUENCE, SET};
use der::asn1::ObjectIdentifier;
use std::fmt;

/// Most attributes of a name. Manufacturers use up to seven.
const MAX_ATTRIBUTES: usize = 32;

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UNIVERSAL_STRING: u8 = 0x1c;
const BMP_STRING: u8 = 0x1e;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Value {
    /// Folded.
    Text(String),
    /// Tag and content of what isn't a string.
    Other(u8, Vec<u8>),
}

/// One attribute: type, value for comparison.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Attribute {
    kind: ObjectIdentifier,
    value: Value,
}

/// A distinguished name.
#[derive(Clone, Debug, Default, Eq)]
pub(super) struct Name {
    rdns: Vec<Vec<Attribute>>,
    /// As it is written, in the order of the certificate; what isn't text has none.
    written: Vec<(ObjectIdentifier, Option<String>)>,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Name {
    /// Reads the content of a Name's SEQUENCE.
    pub(super) fn read(content: &[u8]) -> Result<Self, EkRefusal> {
        let mut name = Self::default();
        let mut attributes = 0_usize;
        let mut rdns = Elements::of(content, "name");
        while !rdns.is_empty() {
            let mut set = rdns.inside(SET)?;
            let mut rdn = Vec::new();
            while !set.is_empty() {
                attributes += 1;
                if attributes > MAX_ATTRIBUTES {
                    return Err(set.malformed());
                }
                let mut pair = set.inside(SEQUENCE)?;
                let kind = pair.oid()?;
                let value = pair.next()?;
                pair.finish()?;
                let text = text(value.tag, value.content)?;
                let value = match &text {
                    Some(text) => Value::Text(folded(text)),
                    None => Value::Other(value.tag, value.content.to_vec()),
                };
                name.written.push((kind, text));
                rdn.push(Attribute { kind, value });
            }
            if rdn.is_empty() {
                return Err(rdns.malformed());
            }
            rdn.sort();
            name.rdns.push(rdn);
        }
        Ok(name)
    }

    /// The text of the first attribute of this type.
    pub(super) fn text_of(&self, kind: &ObjectIdentifier) -> Option<&str> {
        self.written.iter().find(|(found, _)| found == kind).and_then(|(_, text)| text.as_deref())
    }

    /// Every attribute of this type, in order; what isn't text has none.
    pub(super) fn texts_of(&self, kind: &ObjectIdentifier) -> impl Iterator<Item = Option<&str>> {
        self.written.iter().filter(move |(found, _)| found == kind).map(|(_, text)| text.as_deref())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, text)) in self.written.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let kind = kind.to_string();
            let short = match kind.as_str() {
                "2.5.4.3" => "CN",
                "2.5.4.5" => "serialNumber",
                "2.5.4.6" => "C",
                "2.5.4.7" => "L",
                "2.5.4.8" => "ST",
                "2.5.4.10" => "O",
                "2.5.4.11" => "OU",
                other => other,
            };
            write!(f, "{short}={}", text.as_deref().unwrap_or("?"))?;
        }
        Ok(())
    }
}

/// The characters of a string type; `None` for any other type.
pub(super) fn text(tag: u8, content: &[u8]) -> Result<Option<String>, EkRefusal> {
    let malformed = EkRefusal::Malformed("string");
    let text = match tag {
        UTF8_STRING => std::str::from_utf8(content).map_err(|_| malformed)?.to_owned(),
        // Bytes above ASCII are wrong in the first two and Latin-1 in practice in the third.
        PRINTABLE_STRING | IA5_STRING | TELETEX_STRING => content.iter().copied().map(char::from).collect(),
        BMP_STRING => {
            let units = content.chunks(2).map(|pair| match pair {
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            });
            let units: Vec<u16> = units.collect::<Option<_>>().ok_or(malformed.clone())?;
            String::from_utf16(&units).map_err(|_| malformed)?
        }
        UNIVERSAL_STRING => {
            let chars = content.chunks(4).map(|four| match four {
                [a, b, c, d] => char::from_u32(u32::from_be_bytes([*a, *b, *c, *d])),
                _ => None,
            });
            chars.collect::<Option<_>>().ok_or(malformed)?
        }
        _ => return Ok(None),
    };
    Ok(Some(text))
}

/// RFC 5280 §7.1 by way of RFC 4518 §2.6: case folded, white space at the ends dropped and inside made one.
fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.extend(word.chars().flat_map(char::to_lowercase));
    }
    folded
}
