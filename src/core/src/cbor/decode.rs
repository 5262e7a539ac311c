//! The reading half: bytes are checked once as a whole, then read item by item.
//!
//! [`Decoder::new`] walks the entire input and refuses all that is not deterministic CBOR of the subset, so a reader
//! that skips an item skips only what has been checked. The typed reads refuse another kind, range or length.

use super::{
    BYTE_FALSE, BYTE_NULL, BYTE_TRUE, CborError, Key, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_MAP, MAJOR_NEGATIVE,
    MAJOR_TAG, MAJOR_TEXT, MAJOR_UNSIGNED, MAX_DEPTH,
};

/// What kind of item is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An unsigned integer.
    Unsigned,
    /// A negative integer.
    Negative,
    /// A byte string.
    Bytes,
    /// A text string.
    Text,
    /// An array.
    Array,
    /// A map.
    Map,
    /// False or true.
    Bool,
    /// Null.
    Null,
}

/// Reads one checked CBOR item. Copying it remembers a place.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    /// Where the last map key started, for [`Decoder::unknown_key`].
    key_at: usize,
}

impl<'a> Decoder<'a> {
    /// Checks that `input` is exactly one deterministic item of the subset.
    ///
    /// The caller bounds the size of `input`; the walk is linear in it and allocates nothing.
    ///
    /// # Errors
    /// [`CborError`], with the offset of the first item that is to blame.
    pub fn new(input: &'a [u8]) -> Result<Self, CborError> {
        let end = check(input, 0, 0)?;
        if end != input.len() {
            return Err(CborError::Trailing { offset: end });
        }
        Ok(Self { input, at: 0, key_at: 0 })
    }

    /// Byte offset of the next item.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The kind of the next item.
    ///
    /// # Errors
    /// [`CborError::Truncated`] when nothing is left.
    pub fn kind(&self) -> Result<Kind, CborError> {
        Ok(read_head(self.input, self.at)?.kind())
    }

    /// Reads an unsigned integer.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn uint(&mut self) -> Result<u64, CborError> {
        let head = self.take(Kind::Unsigned)?;
        Ok(head.argument)
    }

    /// Reads a signed integer.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`], [`CborError::IntegerRange`] above `i64::MAX`.
    pub fn int(&mut self) -> Result<i64, CborError> {
        let head = read_head(self.input, self.at)?;
        let value = head.signed(self.at, Kind::Unsigned)?;
        self.at = head.end;
        Ok(value)
    }

    /// Reads a byte string, without copying it.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let start = self.at;
        let head = self.take(Kind::Bytes)?;
        let (bytes, end) = payload(self.input, start, head)?;
        self.at = end;
        Ok(bytes)
    }

    /// Reads a byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`], [`CborError::Length`].
    pub fn byte_array<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let offset = self.at;
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| CborError::Length { offset, expected: N, found: bytes.len() })
    }

    /// Reads a text string, without copying it.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn text(&mut self) -> Result<&'a str, CborError> {
        let start = self.at;
        let head = self.take(Kind::Text)?;
        let (bytes, end) = payload(self.input, start, head)?;
        self.at = end;
        std::str::from_utf8(bytes).map_err(|_| CborError::Utf8 { offset: start })
    }

    /// Reads false or true.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn bool(&mut self) -> Result<bool, CborError> {
        let head = self.take(Kind::Bool)?;
        Ok(head.first == BYTE_TRUE)
    }

    /// Reads null.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn null(&mut self) -> Result<(), CborError> {
        self.take(Kind::Null).map(|_| ())
    }

    /// Enters an array: returns how many items follow. All of them are in the input.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn array(&mut self) -> Result<usize, CborError> {
        let offset = self.at;
        let head = self.take(Kind::Array)?;
        usize::try_from(head.argument).map_err(|_| CborError::Truncated { offset })
    }

    /// Enters an array of exactly `expected` items.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`], [`CborError::Length`].
    pub fn array_of(&mut self, expected: usize) -> Result<(), CborError> {
        let offset = self.at;
        match self.array()? {
            found if found == expected => Ok(()),
            found => Err(CborError::Length { offset, expected, found }),
        }
    }

    /// Enters a map: returns how many entries follow, each a [`Decoder::key`] and a value.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`].
    pub fn map(&mut self) -> Result<usize, CborError> {
        let offset = self.at;
        let head = self.take(Kind::Map)?;
        usize::try_from(head.argument).map_err(|_| CborError::Truncated { offset })
    }

    /// Enters a map of exactly `expected` entries.
    ///
    /// # Errors
    /// [`CborError::UnexpectedKind`], [`CborError::Length`].
    pub fn map_of(&mut self, expected: usize) -> Result<(), CborError> {
        let offset = self.at;
        match self.map()? {
            found if found == expected => Ok(()),
            found => Err(CborError::Length { offset, expected, found }),
        }
    }

    /// Reads a map key. Keys come in the order of their encoded bytes, each once.
    ///
    /// # Errors
    /// [`CborError::KeyType`] for an item that is not a key.
    pub fn key(&mut self) -> Result<Key<'a>, CborError> {
        let offset = self.at;
        self.key_at = offset;
        match self.kind()? {
            Kind::Unsigned | Kind::Negative => self.int().map(Key::Int),
            Kind::Text => self.text().map(Key::Text),
            _ => Err(CborError::KeyType { offset }),
        }
    }

    /// Reads a map key that must be `expected`: for maps whose keys are all required.
    ///
    /// # Errors
    /// [`CborError::UnknownKey`] for another key, [`CborError::KeyType`].
    pub fn expect_key<'k>(&mut self, expected: impl Into<Key<'k>>) -> Result<(), CborError> {
        if self.key()? == expected.into() { Ok(()) } else { Err(self.unknown_key()) }
    }

    /// The error for the key read last, to refuse a key that the reader does not know.
    pub fn unknown_key(&self) -> CborError {
        CborError::UnknownKey { offset: self.key_at }
    }

    /// Skips one item of any kind and returns its exact bytes.
    ///
    /// # Errors
    /// [`CborError::Truncated`] when nothing is left.
    pub fn item(&mut self) -> Result<&'a [u8], CborError> {
        let start = self.at;
        self.at = check(self.input, start, 0)?;
        self.input.get(start..self.at).ok_or(CborError::Truncated { offset: start })
    }

    /// Says that the caller has read everything.
    ///
    /// # Errors
    /// [`CborError::Trailing`] when items are left.
    pub fn finish(self) -> Result<(), CborError> {
        if self.at == self.input.len() { Ok(()) } else { Err(CborError::Trailing { offset: self.at }) }
    }

    fn take(&mut self, expected: Kind) -> Result<Head, CborError> {
        let head = read_head(self.input, self.at)?;
        if head.kind() != expected {
            return Err(CborError::UnexpectedKind { offset: self.at, expected, found: head.kind() });
        }
        self.at = head.end;
        Ok(head)
    }
}

/// The initial byte, its argument, and where the bytes after both start.
#[derive(Clone, Copy)]
struct Head {
    first: u8,
    argument: u64,
    end: usize,
}

impl Head {
    fn kind(self) -> Kind {
        match self.first >> 5 {
            MAJOR_UNSIGNED => Kind::Unsigned,
            MAJOR_NEGATIVE => Kind::Negative,
            MAJOR_BYTES => Kind::Bytes,
            MAJOR_TEXT => Kind::Text,
            MAJOR_ARRAY => Kind::Array,
            MAJOR_MAP => Kind::Map,
            // `read_head` lets only false, true and null through.
            _ if self.first == BYTE_NULL => Kind::Null,
            _ => Kind::Bool,
        }
    }

    fn signed(self, offset: usize, expected: Kind) -> Result<i64, CborError> {
        let value = i64::try_from(self.argument).map_err(|_| CborError::IntegerRange { offset });
        match self.kind() {
            Kind::Unsigned => value,
            // RFC 8949 section 3.1: the value is -1 - argument.
            Kind::Negative => value.map(|argument| !argument),
            found => Err(CborError::UnexpectedKind { offset, expected, found }),
        }
    }
}

fn read_head(input: &[u8], at: usize) -> Result<Head, CborError> {
    let truncated = CborError::Truncated { offset: at };
    let first = *input.get(at).ok_or(truncated)?;
    let end = at + 1;
    let info = first & 0x1f;
    match (first >> 5, info) {
        (MAJOR_TAG, _) => return Err(CborError::Tag { offset: at }),
        (7, _) if matches!(first, BYTE_FALSE | BYTE_TRUE | BYTE_NULL) => {
            return Ok(Head { first, argument: 0, end });
        }
        (7, 25..=27) => return Err(CborError::Float { offset: at }),
        (7, 0..=24) => return Err(CborError::Simple { offset: at }),
        (_, 31) => return Err(CborError::Indefinite { offset: at }),
        (_, 28..=30) => return Err(CborError::Reserved { offset: at }),
        (_, 0..=23) => return Ok(Head { first, argument: u64::from(info), end }),
        _ => {}
    }
    // RFC 8949 section 3: 24, 25, 26, 27 announce an argument of 1, 2, 4, 8 bytes; section 4.2.1: each only for
    // values that the next shorter form can't hold.
    let (width, least) = match info {
        24 => (1, 24),
        25 => (2, 1 << 8),
        26 => (4, 1 << 16),
        _ => (8, 1 << 32),
    };
    let bytes = input.get(end..end + width).ok_or(truncated)?;
    let argument = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if argument < least {
        return Err(CborError::NotShortest { offset: at });
    }
    Ok(Head { first, argument, end: end + width })
}

/// The bytes of a string whose head has been read, and where they end.
fn payload(input: &[u8], start: usize, head: Head) -> Result<(&[u8], usize), CborError> {
    let truncated = CborError::Truncated { offset: start };
    let length = usize::try_from(head.argument).map_err(|_| truncated)?;
    let end = head.end.checked_add(length).ok_or(truncated)?;
    Ok((input.get(head.end..end).ok_or(truncated)?, end))
}

/// Checks the item at `at` with all that it contains and returns where it ends.
///
/// Recursion is bounded by [`MAX_DEPTH`]; `depth` counts the containers around the item.
fn check(input: &[u8], at: usize, depth: usize) -> Result<usize, CborError> {
    let head = read_head(input, at)?;
    match head.kind() {
        Kind::Unsigned | Kind::Bool | Kind::Null => Ok(head.end),
        Kind::Negative => head.signed(at, Kind::Negative).map(|_| head.end),
        Kind::Bytes => payload(input, at, head).map(|(_, end)| end),
        Kind::Text => {
            let (bytes, end) = payload(input, at, head)?;
            std::str::from_utf8(bytes).map_err(|_| CborError::Utf8 { offset: at })?;
            Ok(end)
        }
        Kind::Array | Kind::Map if depth >= MAX_DEPTH => Err(CborError::TooDeep { offset: at }),
        Kind::Array => check_array(input, at, head, depth),
        Kind::Map => check_map(input, at, head, depth),
    }
}

fn check_array(input: &[u8], at: usize, head: Head, depth: usize) -> Result<usize, CborError> {
    // Every item takes at least one byte, so a count above what is left can't be true.
    let left = input.len().saturating_sub(head.end) as u64;
    if head.argument > left {
        return Err(CborError::Truncated { offset: at });
    }
    let mut next = head.end;
    for _ in 0..head.argument {
        next = check(input, next, depth + 1)?;
    }
    Ok(next)
}

fn check_map(input: &[u8], at: usize, head: Head, depth: usize) -> Result<usize, CborError> {
    // Every entry takes at least two bytes.
    let left = input.len().saturating_sub(head.end) as u64;
    if head.argument > left / 2 {
        return Err(CborError::Truncated { offset: at });
    }
    let mut next = head.end;
    let mut previous: Option<&[u8]> = None;
    for _ in 0..head.argument {
        let offset = next;
        let key_head = read_head(input, offset)?;
        match key_head.kind() {
            Kind::Text => {}
            Kind::Unsigned | Kind::Negative if i64::try_from(key_head.argument).is_ok() => {}
            _ => return Err(CborError::KeyType { offset }),
        }
        let key_end = check(input, offset, depth + 1)?;
        let key = input.get(offset..key_end).ok_or(CborError::Truncated { offset })?;
        // RFC 8949 section 4.2.1 (order) and section 5.6 (duplicates).
        match previous.map(|previous| previous.cmp(key)) {
            Some(std::cmp::Ordering::Equal) => return Err(CborError::DuplicateKey { offset }),
            Some(std::cmp::Ordering::Greater) => return Err(CborError::KeyOrder { offset }),
            Some(std::cmp::Ordering::Less) | None => previous = Some(key),
        }
        next = check(input, key_end, depth + 1)?;
    }
    Ok(next)
}
