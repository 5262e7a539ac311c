//! Reading of DER, element by element.
//!
//! Comes in: bytes of a certificate or revocation list. Goes out: elements that lie inside their parent exactly. Refused: indefinite lengths,
//! lengths written longer than needed, tag numbers above 30, elements longer than 16 MiB, left over bytes. Nothing recurses and nothing
//! is allocated.
//!
//! What certificates in the field do against DER is let through where it changes no meaning, and nowhere else: members of a SET in another
//! order, leading zeros of an INTEGER. So the readers of general X.509 libraries, which refuse both, don't serve here.

use super::EkRefusal;
use der::asn1::ObjectIdentifier;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag of a constructed context-specific element.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The tag of a primitive context-specific element.
pub(crate) const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// One element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// Header and content, as they stand.
    pub(crate) whole: &'a [u8],
    pub(crate) content: &'a [u8],
}

/// Elements that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
    /// What is read, for the refusal.
    what: &'static str,
}

impl<'a> Elements<'a> {
    pub(crate) const fn of(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) const fn malformed(&self) -> EkRefusal {
        EkRefusal::Malformed(self.what)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The tag of the next element, if there is one.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element. X.690 §8.1, §10.1.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, EkRefusal> {
        let (tag, length, header) = self.header().ok_or_else(|| self.malformed())?;
        let end = header.checked_add(length).ok_or_else(|| self.malformed())?;
        let (whole, rest) = self.rest.split_at_checked(end).ok_or_else(|| self.malformed())?;
        let content = whole.get(header..).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(Element { tag, whole, content })
    }

    fn header(&self) -> Option<(u8, usize, usize)> {
        let tag = *self.rest.first()?;
        // Tag numbers above 30 take more bytes; X.509 has none.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let first = usize::from(*self.rest.get(1)?);
        if first < 0x80 {
            return Some((tag, first, 2));
        }
        let count = first & 0x7f;
        if !(1..=3).contains(&count) {
            return None;
        }
        let bytes = self.rest.get(2..count + 2)?;
        let length = bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        let shortest = length >= 0x80 && bytes.first() != Some(&0);
        shortest.then_some((tag, length, count + 2))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], EkRefusal> {
        let element = self.next()?;
        if element.tag == tag { Ok(element.content) } else { Err(self.malformed()) }
    }

    /// The content of the next element if it has this tag; otherwise nothing is read.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, EkRefusal> {
        if self.peek() == Some(tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }

    /// The elements inside the next element, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8) -> Result<Self, EkRefusal> {
        Ok(Self { rest: self.expect(tag)?, what: self.what })
    }

    pub(crate) fn oid(&mut self) -> Result<ObjectIdentifier, EkRefusal> {
        let content = self.expect(OID)?;
        ObjectIdentifier::from_bytes(content).map_err(|_| self.malformed())
    }

    /// An unsigned integer without leading zeros. A negative one is refused.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], EkRefusal> {
        let content = self.expect(INTEGER)?;
        match content.first() {
            None => Err(self.malformed()),
            Some(first) if first & 0x80 != 0 => Err(self.malformed()),
            Some(_) => Ok(without_zeros(content)),
        }
    }

    /// An unsigned integer that fits.
    pub(crate) fn small(&mut self) -> Result<u32, EkRefusal> {
        let digits = self.unsigned()?;
        if digits.len() > 4 {
            return Err(self.malformed());
        }
        Ok(digits.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
    }

    /// BOOLEAN, absent means false. X.690 §11.1; a default that is written out is let through.
    pub(crate) fn flag(&mut self) -> Result<bool, EkRefusal> {
        match self.optional(BOOLEAN)? {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(self.malformed()),
        }
    }

    /// The bytes of a BIT STRING without unused bits.
    pub(crate) fn whole_bits(&mut self) -> Result<&'a [u8], EkRefusal> {
        match self.expect(BIT_STRING)?.split_first() {
            Some((0, bytes)) => Ok(bytes),
            _ => Err(self.malformed()),
        }
    }

    /// Nothing may be left.
    pub(crate) const fn finish(&self) -> Result<(), EkRefusal> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// The digits of a number without those that say nothing.
pub(crate) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Seconds since the Unix epoch of a UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 wants them: in UTC, to the second. Times before 1970 are
/// refused.
pub(crate) fn time(element: &Element<'_>) -> Result<u64, EkRefusal> {
    let malformed = EkRefusal::Malformed("time");
    let pairs = |digits: &[u8]| -> Option<Vec<u16>> {
        let two = |pair: &[u8]| match pair {
            [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(u16::from(a - b'0') * 10 + u16::from(b - b'0')),
            _ => None,
        };
        digits.chunks(2).map(two).collect()
    };
    let Some((b'Z', digits)) = element.content.split_last() else { return Err(malformed) };
    let parts = pairs(digits).ok_or(malformed.clone())?;
    let (year, rest) = match (element.tag, parts.as_slice()) {
        // RFC 5280 §4.1.2.5.1: two digits below 50 are of this century.
        (UTC_TIME, [year, rest @ ..]) => (if *year < 50 { 2000 + year } else { 1900 + year }, rest),
        (GENERALIZED_TIME, [century, year, rest @ ..]) => (century * 100 + year, rest),
        _ => return Err(malformed),
    };
    let [month, day, hour, minute, second] = rest else { return Err(malformed) };
    let byte = |part: &u16| u8::try_from(*part).unwrap_or(u8::MAX);
    der::DateTime::new(year, byte(month), byte(day), byte(hour), byte(minute), byte(second))
        .map(|time| time.unix_duration().as_secs())
        .map_err(|_| malformed)
}
