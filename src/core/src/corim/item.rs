//! CBOR (RFC 8949) as others write it: definite lengths, any order of keys, numbers longer than needed.
//!
//! The strict reader of [`crate::cbor`] is for bytes whose encoding is ours. Refused here: indefinite lengths, floats, a key twice, more than
//! [`MAX_DEPTH`] levels or [`MAX_ITEMS`] items, bytes left over.

use super::CorimRefused;
use std::collections::BTreeSet;

const MAX_DEPTH: usize = 16;
/// Items in all: each takes some forty bytes here and may take one in the file.
const MAX_ITEMS: usize = 1 << 18;
const TAG_EPOCH: u64 = 1;

/// A CBOR item.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item<'a> {
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
    pub(super) fn member(&self, key: u64) -> Option<&Self> {
        let Item::Map(entries) = self else { return None };
        entries.iter().find(|(found, _)| *found == Item::Uint(key)).map(|(_, value)| value)
    }

    pub(super) fn array(&self) -> Result<&[Self], CorimRefused> {
        match self {
            Item::Array(items) => Ok(items),
            _ => Err(CorimRefused::Form("an array was expected")),
        }
    }

    pub(super) fn map(&self) -> Result<&[(Self, Self)], CorimRefused> {
        match self {
            Item::Map(entries) => Ok(entries),
            _ => Err(CorimRefused::Form("a map was expected")),
        }
    }

    pub(super) fn text(&self) -> Result<&str, CorimRefused> {
        match self {
            Item::Text(text) => Ok(text),
            _ => Err(CorimRefused::Form("a text was expected")),
        }
    }

    pub(super) fn epoch_ms(&self) -> Result<u64, CorimRefused> {
        match self {
            Item::Tag(TAG_EPOCH, inner) => match inner.as_ref() {
                Item::Uint(seconds) => Ok(seconds.saturating_mul(1_000)),
                _ => Err(CorimRefused::Form("a time that isn't whole seconds since 1970")),
            },
            _ => Err(CorimRefused::Form("a time was expected")),
        }
    }
}

/// Exactly one item.
pub(super) fn whole(bytes: &[u8]) -> Result<Item<'_>, CorimRefused> {
    let mut reader = Reader { rest: bytes, items: 0 };
    let item = reader.item(0)?;
    if reader.rest.is_empty() { Ok(item) } else { Err(CorimRefused::Form("bytes are left over")) }
}

const SHORT: CorimRefused = CorimRefused::Form("the file ends too early");

/// What is left, and how many items were read.
struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], CorimRefused> {
        let cut = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, after) = cut.ok_or(SHORT)?;
        self.rest = after;
        Ok(taken)
    }

    fn item(&mut self, depth: usize) -> Result<Item<'a>, CorimRefused> {
        if depth >= MAX_DEPTH {
            return Err(CorimRefused::Form("too many levels"));
        }
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(CorimRefused::Form("too many items"));
        }
        let (major, argument) = self.head()?;
        Ok(match major {
            0 => Item::Uint(argument),
            1 => Item::Negative(argument),
            2 => Item::Bytes(self.take(argument)?),
            3 => {
                let text = std::str::from_utf8(self.take(argument)?);
                Item::Text(text.map_err(|_| CorimRefused::Form("text that isn't UTF-8"))?)
            }
            4 => {
                let count = self.count(argument, 1)?;
                Item::Array((0..count).map(|_| self.item(depth + 1)).collect::<Result<_, _>>()?)
            }
            5 => Item::Map(self.entries(argument, depth)?),
            6 => Item::Tag(argument, Box::new(self.item(depth + 1)?)),
            _ => Item::Simple(argument),
        })
    }

    fn entries(&mut self, argument: u64, depth: usize) -> Result<Vec<(Item<'a>, Item<'a>)>, CorimRefused> {
        let count = self.count(argument, 2)?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push((self.item(depth + 1)?, self.item(depth + 1)?));
        }
        // RFC 8949 §5.6: keys are unique, in whatever order they come.
        let keys: BTreeSet<&Item<'_>> = entries.iter().map(|(key, _)| key).collect();
        if keys.len() == entries.len() {
            Ok(entries)
        } else {
            Err(CorimRefused::Form("a key twice in one map"))
        }
    }

    /// Every member takes a byte at least, so a count above what is left can't be true.
    fn count(&self, argument: u64, per: usize) -> Result<usize, CorimRefused> {
        let count = usize::try_from(argument).ok().filter(|count| *count <= self.rest.len() / per);
        count.ok_or(CorimRefused::Form("more members than bytes"))
    }

    /// Major type and argument. RFC 8949 §3; numbers may be longer than needed, but lengths not indefinite.
    fn head(&mut self) -> Result<(u8, u64), CorimRefused> {
        let [first] = self.take(1)? else { return Err(SHORT) };
        let (major, low) = (first >> 5, first & 0x1f);
        let width = match low {
            0..24 => return Ok((major, u64::from(low))),
            24..28 => 1_u64 << (low - 24),
            _ => return Err(CorimRefused::Form("an indefinite length")),
        };
        if major == 7 {
            return Err(CorimRefused::Form("a float"));
        }
        let argument = self.take(width)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        Ok((major, argument))
    }
}
