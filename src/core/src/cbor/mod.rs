//! Deterministic CBOR (PROTOCOL §1.2, RFC 8949 section 4.2.1): the encoding of all that is hashed or signed.
//!
//! The subset: unsigned and negative integers (negative down to -2^63), byte strings, text strings, arrays, maps
//! with integer or text keys, false, true, null. [`encode_array`] and [`encode_map`] can only produce deterministic
//! bytes; [`Decoder`] accepts only those, so that whatever it accepts re-encodes to the very same bytes.
//!
//! Refused: integers and lengths that are not in shortest form, indefinite lengths, floats, tags, other simple
//! values, keys out of order or twice, keys of another type, invalid UTF-8, bytes after the item, containers nested
//! deeper than [`MAX_DEPTH`], lengths that exceed the input (before anything is allocated for them).

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Kind};
pub use encode::{ArrayBuilder, MapBuilder, Slot, encode_array, encode_map};

/// How deep arrays and maps may nest. The deepest document of the protocol uses 5.
pub const MAX_DEPTH: usize = 8;

/// A map key. Order follows the encoded bytes, not the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// An integer key. Unsigned keys above `i64::MAX` are outside of the subset.
    Int(i64),
    /// A text key.
    Text(&'a str),
}

impl From<i64> for Key<'_> {
    fn from(key: i64) -> Self {
        Self::Int(key)
    }
}

impl From<i32> for Key<'_> {
    fn from(key: i32) -> Self {
        Self::Int(i64::from(key))
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(key: &'a str) -> Self {
        Self::Text(key)
    }
}

/// Why bytes were refused. Every variant carries the offset of the item that is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The input ends inside an item, or a length says more than the input has.
    #[error("input ends inside the item at byte {offset}")]
    Truncated {
        /// Where the item starts.
        offset: usize,
    },
    /// Bytes follow the one item that the input must be.
    #[error("bytes after the item, from byte {offset}")]
    Trailing {
        /// Where the surplus starts.
        offset: usize,
    },
    /// An integer or a length has a shorter form (RFC 8949 section 4.2.1).
    #[error("integer or length at byte {offset} is not in shortest form")]
    NotShortest {
        /// Where the item starts.
        offset: usize,
    },
    /// Indefinite length, or a break (RFC 8949 section 4.2.1).
    #[error("indefinite length at byte {offset}")]
    Indefinite {
        /// Where the item starts.
        offset: usize,
    },
    /// Additional information 28, 29 or 30 (RFC 8949 section 3).
    #[error("reserved additional information at byte {offset}")]
    Reserved {
        /// Where the item starts.
        offset: usize,
    },
    /// A floating-point number: outside of the subset.
    #[error("floating-point number at byte {offset}")]
    Float {
        /// Where the item starts.
        offset: usize,
    },
    /// A tag: outside of the subset.
    #[error("tag at byte {offset}")]
    Tag {
        /// Where the item starts.
        offset: usize,
    },
    /// A simple value other than false, true, null.
    #[error("unsupported simple value at byte {offset}")]
    Simple {
        /// Where the item starts.
        offset: usize,
    },
    /// Text that is not UTF-8.
    #[error("text at byte {offset} is not UTF-8")]
    Utf8 {
        /// Where the item starts.
        offset: usize,
    },
    /// Arrays and maps nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} at byte {offset}")]
    TooDeep {
        /// Where the item starts.
        offset: usize,
    },
    /// A map key that sorts before the one in front of it.
    #[error("map key at byte {offset} is out of order")]
    KeyOrder {
        /// Where the key starts.
        offset: usize,
    },
    /// A map key that was there already.
    #[error("map key at byte {offset} is a duplicate")]
    DuplicateKey {
        /// Where the key starts.
        offset: usize,
    },
    /// A map key that is neither an integer within 64 bits signed nor text.
    #[error("map key at byte {offset} is neither integer nor text")]
    KeyType {
        /// Where the key starts.
        offset: usize,
    },
    /// An integer outside of the range that the reader asked for, or below -2^63.
    #[error("integer at byte {offset} is out of range")]
    IntegerRange {
        /// Where the item starts.
        offset: usize,
    },
    /// Another kind of item than the reader asked for.
    #[error("item at byte {offset}: expected {expected:?}, found {found:?}")]
    UnexpectedKind {
        /// Where the item starts.
        offset: usize,
        /// What the reader asked for.
        expected: Kind,
        /// What is there.
        found: Kind,
    },
    /// A byte string, array or map of another length than the reader asked for.
    #[error("item at byte {offset}: expected length {expected}, found {found}")]
    Length {
        /// Where the item starts.
        offset: usize,
        /// The length that the reader asked for.
        expected: usize,
        /// The length that is there.
        found: usize,
    },
    /// A map key that the reader does not know, or not at this place.
    #[error("map key at byte {offset} is not expected there")]
    UnknownKey {
        /// Where the key starts.
        offset: usize,
    },
}

// Major types, RFC 8949 section 3.1.
const MAJOR_UNSIGNED: u8 = 0;
const MAJOR_NEGATIVE: u8 = 1;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;
const MAJOR_TAG: u8 = 6;

// Initial bytes of the simple values in the subset, RFC 8949 section 3.3.
const BYTE_FALSE: u8 = 0xf4;
const BYTE_TRUE: u8 = 0xf5;
const BYTE_NULL: u8 = 0xf6;
