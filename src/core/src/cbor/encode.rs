//! The writing half: builders from which nothing but deterministic CBOR can come out.
//!
//! A [`Slot`] is the place of exactly one item and is consumed by writing it. Arrays count their items, maps sort
//! their entries by the encoded key (RFC 8949 section 4.2.1), so no caller can state a wrong count or order. A slot
//! that is dropped unwritten leaves no trace; an entry written twice under one key keeps the later value.

use super::{
    BYTE_FALSE, BYTE_NULL, BYTE_TRUE, Key, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_MAP, MAJOR_NEGATIVE, MAJOR_TEXT,
    MAJOR_UNSIGNED,
};

/// Encodes one array whose items `fill` writes in order.
pub fn encode_array(fill: impl FnOnce(&mut ArrayBuilder)) -> Vec<u8> {
    let mut out = Vec::new();
    Slot { out: &mut out, written: &mut 0 }.array(fill);
    out
}

/// Encodes one map whose entries `fill` writes in any order.
pub fn encode_map(fill: impl FnOnce(&mut MapBuilder)) -> Vec<u8> {
    let mut out = Vec::new();
    Slot { out: &mut out, written: &mut 0 }.map(fill);
    out
}

/// The place of one item; writing consumes it.
#[must_use = "a slot that is not written leaves its item out"]
pub struct Slot<'a> {
    out: &'a mut Vec<u8>,
    written: &'a mut u64,
}

impl Slot<'_> {
    /// Writes an unsigned integer.
    pub fn uint(self, value: u64) {
        *self.written += 1;
        head(self.out, MAJOR_UNSIGNED, value);
    }

    /// Writes a signed integer.
    pub fn int(self, value: i64) {
        *self.written += 1;
        signed(self.out, value);
    }

    /// Writes a byte string.
    pub fn bytes(self, value: &[u8]) {
        *self.written += 1;
        head(self.out, MAJOR_BYTES, value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// Writes a text string.
    pub fn text(self, value: &str) {
        *self.written += 1;
        text(self.out, value);
    }

    /// Writes false or true.
    pub fn bool(self, value: bool) {
        *self.written += 1;
        self.out.push(if value { BYTE_TRUE } else { BYTE_FALSE });
    }

    /// Writes null.
    pub fn null(self) {
        *self.written += 1;
        self.out.push(BYTE_NULL);
    }

    /// Writes an array whose items `fill` writes in order.
    pub fn array(self, fill: impl FnOnce(&mut ArrayBuilder)) {
        *self.written += 1;
        let mut array = ArrayBuilder { items: Vec::new(), count: 0 };
        fill(&mut array);
        head(self.out, MAJOR_ARRAY, array.count);
        self.out.extend_from_slice(&array.items);
    }

    /// Writes a map whose entries `fill` writes in any order.
    pub fn map(self, fill: impl FnOnce(&mut MapBuilder)) {
        *self.written += 1;
        // A map inside of another is small; the outermost holds a whole body, and growing there step by step costs a copy each.
        let (bytes, entries) = if self.out.capacity() == 0 { (1_024, 32) } else { (64, 4) };
        let mut map = MapBuilder {
            buffer: Vec::with_capacity(bytes),
            entries: Vec::with_capacity(entries),
            open: None,
            written: 0,
        };
        fill(&mut map);
        map.finish(self.out);
    }
}

/// Collects the items of an array.
pub struct ArrayBuilder {
    items: Vec<u8>,
    count: u64,
}

impl ArrayBuilder {
    /// The place of the next item.
    pub fn item(&mut self) -> Slot<'_> {
        Slot { out: &mut self.items, written: &mut self.count }
    }
}

/// Collects the entries of a map.
pub struct MapBuilder {
    /// Encoded entries in the order of writing.
    buffer: Vec<u8>,
    /// Complete entries.
    entries: Vec<Entry>,
    /// The entry whose slot was handed out last: start and key end, and `written` at that time.
    open: Option<(usize, usize, u64)>,
    written: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    key_end: usize,
    end: usize,
}

impl MapBuilder {
    /// The place of the value under `key`.
    pub fn entry<'k>(&mut self, key: impl Into<Key<'k>>) -> Slot<'_> {
        self.close();
        let start = self.buffer.len();
        match key.into() {
            Key::Int(value) => signed(&mut self.buffer, value),
            Key::Text(value) => text(&mut self.buffer, value),
        }
        self.open = Some((start, self.buffer.len(), self.written));
        Slot { out: &mut self.buffer, written: &mut self.written }
    }

    /// Records the entry that was opened last, or forgets its key if its slot was never written.
    fn close(&mut self) {
        let Some((start, key_end, before)) = self.open.take() else { return };
        if self.written == before {
            self.buffer.truncate(start);
        } else {
            self.entries.push(Entry { start, key_end, end: self.buffer.len() });
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        self.close();
        let buffer = self.buffer;
        let key = |entry: &Entry| buffer.get(entry.start..entry.key_end).unwrap_or_default();
        // RFC 8949 section 4.2.1: bytewise lexicographic order of the encoded keys. The sort is stable, so among
        // equal keys the later entry stays later and is the one that survives.
        self.entries.sort_by(|a, b| key(a).cmp(key(b)));
        let mut previous: Option<Entry> = None;
        self.entries.reverse();
        self.entries.retain(|entry| {
            let repeated = previous.as_ref().is_some_and(|later| key(later) == key(entry));
            previous = Some(*entry);
            !repeated
        });
        out.reserve(buffer.len() + 9);
        head(out, MAJOR_MAP, self.entries.len() as u64);
        for entry in self.entries.iter().rev() {
            out.extend_from_slice(buffer.get(entry.start..entry.end).unwrap_or_default());
        }
    }
}

fn signed(out: &mut Vec<u8>, value: i64) {
    // RFC 8949 section 3.1: major type 1 carries -1 - n, which in two's complement is the bitwise complement.
    match u64::try_from(value) {
        Ok(value) => head(out, MAJOR_UNSIGNED, value),
        Err(_) => head(out, MAJOR_NEGATIVE, (!value).cast_unsigned()),
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    head(out, MAJOR_TEXT, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// Writes the initial byte and the argument in shortest form (RFC 8949 section 3).
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    if let Ok(small) = u8::try_from(argument) {
        if small < 24 {
            out.push(major | small);
        } else {
            out.extend_from_slice(&[major | 24, small]);
        }
    } else if let Ok(value) = u16::try_from(argument) {
        out.push(major | 25);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(argument) {
        out.push(major | 26);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}
