//! CBOR as a tree that can be written wrongly: what a strict encoder can't produce and a strict reader has to refuse.
//!
//! Comes in: good deterministic CBOR. Goes out: the same, or the same with one thing about it changed.

use crate::dice::Dice;
use crate::keys;

/// An item, and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// Major type 0 or 1.
    Int(i128),
    Bytes(Vec<u8>),
    /// Bytes that hold an encoded item.
    Inner(Box<Item>),
    Text(Vec<u8>),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    /// Bytes that stand as they are.
    Raw(Vec<u8>),
    /// Written with a longer head than needed.
    Wide(Box<Item>),
    /// Two items where one should be, one after the other.
    Followed(Box<Item>, Vec<u8>),
}

fn head(major: u8, value: u64, wide: bool, out: &mut Vec<u8>) {
    let width = match value {
        0..24 if !wide => 0,
        0..0x100 if !(wide && value >= 24) => 1,
        0..0x1_0000 if !(wide && value >= 0x100) => 2,
        0..0x1_0000_0000 if !(wide && value >= 0x1_0000) => 4,
        _ => 8,
    };
    if width == 0 {
        out.push(major << 5 | u8::try_from(value).unwrap());
        return;
    }
    out.push(major << 5 | [24, 24, 25, 25, 26, 26, 26, 26, 27][width]);
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
}

fn counted(major: u8, content: &[u8], wide: bool, out: &mut Vec<u8>) {
    head(major, content.len() as u64, wide, out);
    out.extend_from_slice(content);
}

impl Item {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(false, &mut out);
        out
    }

    fn write(&self, wide: bool, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) if *value >= 0 => head(0, u64::try_from(*value).unwrap_or(u64::MAX), wide, out),
            Self::Int(value) => head(1, u64::try_from(-1 - value).unwrap_or(u64::MAX), wide, out),
            Self::Bytes(bytes) => counted(2, bytes, wide, out),
            Self::Inner(item) => counted(2, &item.encode(), wide, out),
            Self::Text(text) => counted(3, text, wide, out),
            Self::Array(items) => {
                head(4, items.len() as u64, wide, out);
                items.iter().for_each(|item| item.write(false, out));
            }
            Self::Map(entries) => {
                head(5, entries.len() as u64, wide, out);
                for (key, value) in entries {
                    key.write(false, out);
                    value.write(false, out);
                }
            }
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Wide(item) => item.write(true, out),
            Self::Followed(item, bytes) => {
                item.write(false, out);
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Reads good bytes whole; byte strings that hold maps are read, too.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (item, rest) = read(bytes)?;
        rest.is_empty().then_some(item)
    }

    /// The value under an integer key of a map.
    pub(crate) fn at(&mut self, label: i128) -> &mut Self {
        let Self::Map(entries) = self else { panic!("not a map") };
        entries.iter_mut().find(|(key, _)| *key == Self::Int(label)).map(|(_, value)| value).unwrap()
    }

    fn count(&self) -> usize {
        1 + match self {
            Self::Array(items) => items.iter().map(Self::count).sum(),
            Self::Map(entries) => entries.iter().map(|(_, value)| 1 + value.count()).sum(),
            Self::Inner(item) => item.count(),
            _ => 0,
        }
    }

    /// The node of this number, in order; keys of maps count, too.
    fn node(&mut self, number: usize) -> &mut Self {
        if number == 0 {
            return self;
        }
        let mut left = number - 1;
        match self {
            Self::Array(items) => {
                for item in items {
                    let count = item.count();
                    if left < count {
                        return item.node(left);
                    }
                    left -= count;
                }
            }
            Self::Map(entries) => {
                for (key, value) in entries {
                    if left == 0 {
                        return key;
                    }
                    let count = value.count();
                    if left - 1 < count {
                        return value.node(left - 1);
                    }
                    left -= 1 + count;
                }
            }
            Self::Inner(item) => return item.node(left),
            _ => {}
        }
        unreachable!("nodes were counted wrongly")
    }

    /// Changes one thing somewhere.
    pub(crate) fn alter(&mut self, dice: &mut Dice) {
        let number = dice.below(self.count());
        let node = self.node(number);
        let old = std::mem::replace(node, Self::Raw(Vec::new()));
        *node = changed(old, dice);
    }

    /// Replaces names of leaves by those that they have now.
    pub(crate) fn rename(&mut self, names: &[(u64, Vec<u8>, u64, Vec<u8>)]) {
        match self {
            Self::Array(items) => {
                if let [.., Self::Int(index), Self::Bytes(hash)] = items.as_mut_slice()
                    && let Some((_, _, new, now)) =
                        names.iter().find(|(at, old, ..)| i128::from(*at) == *index && old == hash)
                {
                    *index = i128::from(*new);
                    hash.clone_from(now);
                }
                items.iter_mut().for_each(|item| item.rename(names));
            }
            Self::Map(entries) => entries.iter_mut().for_each(|(_, value)| value.rename(names)),
            _ => {}
        }
    }
}

fn read(bytes: &[u8]) -> Option<(Item, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (major, info) = (first >> 5, first & 31);
    let width = match info {
        0..24 => 0,
        24..=27 => 1 << (info - 24),
        _ => return None,
    };
    let (argument, mut rest) = rest.split_at_checked(width)?;
    let value = argument.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let value = if width == 0 { u64::from(info) } else { value };
    let size = usize::try_from(value).ok()?;
    let item = match major {
        0 => Item::Int(i128::from(value)),
        1 => Item::Int(-1 - i128::from(value)),
        2 | 3 => {
            let (content, after) = rest.split_at_checked(size)?;
            rest = after;
            if major == 3 { Item::Text(content.to_vec()) } else { inner(content) }
        }
        4 => {
            let mut items = Vec::new();
            for _ in 0..size {
                let (item, after) = read(rest)?;
                items.push(item);
                rest = after;
            }
            Item::Array(items)
        }
        5 => {
            let mut entries = Vec::new();
            for _ in 0..size {
                let (key, after) = read(rest)?;
                let (value, after) = read(after)?;
                entries.push((key, value));
                rest = after;
            }
            Item::Map(entries)
        }
        7 if (20..=22).contains(&info) => Item::Raw(vec![first]),
        _ => return None,
    };
    Some((item, rest))
}

fn inner(content: &[u8]) -> Item {
    match Item::decode(content) {
        Some(item @ Item::Map(_)) => Item::Inner(Box::new(item)),
        _ => Item::Bytes(content.to_vec()),
    }
}

const BORDERS: [i128; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    16,
    17,
    23,
    24,
    255,
    256,
    65_535,
    65_536,
    86_400,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) - 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -1,
    -(1 << 63),
];

const TEXTS: [&str; 30] = [
    "",
    "a",
    "expired",
    "not-an-allow",
    "challenge-spent",
    "no-such-code",
    "Expired",
    "exec",
    "exec2",
    "Exec",
    "gate-1",
    "gate-2",
    "gate 1",
    "gate/1:2",
    "p0",
    "test.example/log",
    "test.example/gol",
    "https://test.example",
    "a+b",
    "\0",
    "a\nb",
    "ä",
    "\u{2028}",
    "spiffe://test.example/host/x",
    "-",
    ".",
    "..",
    "_",
    "runtime",
    "zz",
];

fn changed(item: Item, dice: &mut Dice) -> Item {
    if dice.percent(12) {
        return replaced(item, dice);
    }
    match item {
        Item::Int(value) => Item::Int(match dice.below(4) {
            0 => value + 1,
            1 => (value - 1).max(-(1 << 64)),
            2 => dice.one(&BORDERS),
            _ => (value + dice.one(&[2, -2, 1_000, -1_000, 2_000, -2_001, 60_000, -60_000])).max(-5),
        }),
        Item::Bytes(bytes) => changed_bytes(bytes, dice),
        Item::Inner(inner) => match dice.below(4) {
            0 => Item::Bytes(keys::public(dice.one(&keys::SEEDS)).cose_key()),
            1 => Item::Inner(Box::new(Item::Followed(inner, vec![dice.one(&[0, 0xf6, 0xa0])]))),
            2 => Item::Inner(Box::new(changed(*inner, dice))),
            _ => *inner,
        },
        Item::Text(text) => changed_text(text, dice),
        Item::Array(items) => changed_array(items, dice),
        Item::Map(entries) => changed_map(entries, dice),
        Item::Raw(_) => Item::Raw(vec![dice.one(&[0xf4, 0xf5, 0xf6, 0xf7, 0x00, 0x40])]),
        other => other,
    }
}

/// Changes that any item can have.
fn replaced(item: Item, dice: &mut Dice) -> Item {
    match dice.below(12) {
        0 => Item::Raw(vec![0xf6]),
        1 => Item::Int(0),
        2 => Item::Array(vec![item]),
        3 => Item::Raw([vec![0xc1], item.encode()].concat()),
        4 => Item::Raw(dice.one(&[vec![0xf5], vec![0xf4], vec![0xf7], vec![0xf8, 0x20], vec![0xe0]])),
        5 => Item::Raw(vec![0xf9, 0x3c, 0x00]),
        6 => Item::Bytes(item.encode()),
        7 => Item::Text(Vec::new()),
        8 => Item::Map(Vec::new()),
        9 => Item::Followed(Box::new(item), vec![0]),
        10 => Item::Raw(Vec::new()),
        _ => Item::Wide(Box::new(item)),
    }
}

fn changed_bytes(mut bytes: Vec<u8>, dice: &mut Dice) -> Item {
    match dice.below(9) {
        0 => bytes.push(0),
        1 => drop(bytes.pop()),
        2 if !bytes.is_empty() => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        3 => bytes.clear(),
        4 => return Item::Text(bytes),
        5 => bytes.fill(0),
        6 => bytes = keys::public(dice.one(&keys::SEEDS)).thumbprint().as_bytes().to_vec(),
        7 => return Item::Raw([&[0x5f], Item::Bytes(bytes).encode().as_slice(), &[0xff]].concat()),
        _ => return Item::Wide(Box::new(Item::Bytes(bytes))),
    }
    Item::Bytes(bytes)
}

fn changed_text(mut text: Vec<u8>, dice: &mut Dice) -> Item {
    match dice.below(9) {
        0 => text.push(b'a'),
        1 => drop(text.pop()),
        2 if !text.is_empty() => {
            let at = dice.below(text.len());
            text[at] = dice.one(b"aZ09._-:/ +~\x00\x7f\x80\n");
        }
        3 => text.push(0xff),
        4 => text = text.repeat(dice.one(&[2, 8, 64])),
        5 => text.make_ascii_uppercase(),
        6 => return Item::Bytes(text),
        _ => text = dice.one(&TEXTS).as_bytes().to_vec(),
    }
    Item::Text(text)
}

fn changed_array(mut items: Vec<Item>, dice: &mut Dice) -> Item {
    let at = dice.below(items.len().max(1));
    match dice.below(8) {
        0 if !items.is_empty() => drop(items.remove(at)),
        1 if !items.is_empty() => items.insert(at, items[at].clone()),
        2 if items.len() > 1 => {
            let other = dice.below(items.len());
            items.swap(at, other);
        }
        3 => items.push(dice.one(&[Item::Int(0), Item::Raw(vec![0xf6]), Item::Text(b"zz".to_vec())])),
        4 => items.clear(),
        5 => {
            let content: Vec<u8> = items.iter().flat_map(Item::encode).collect();
            return Item::Raw([&[0x9f], content.as_slice(), &[0xff]].concat());
        }
        6 => items.reverse(),
        _ => return Item::Wide(Box::new(Item::Array(items))),
    }
    Item::Array(items)
}

fn changed_map(mut entries: Vec<(Item, Item)>, dice: &mut Dice) -> Item {
    let at = dice.below(entries.len().max(1));
    let unknown = |key| (key, Item::Raw(vec![0xf6]));
    match dice.below(9) {
        0 if !entries.is_empty() => drop(entries.remove(at)),
        1 if !entries.is_empty() => entries.insert(at, entries[at].clone()),
        2 if entries.len() > 1 => {
            let other = dice.below(entries.len());
            entries.swap(at, other);
        }
        3 => entries.push(unknown(dice.one(&[
            Item::Int(99),
            Item::Int(-99),
            Item::Text(b"x".to_vec()),
            Item::Bytes(vec![1]),
        ]))),
        4 => entries.insert(0, unknown(Item::Int(0))),
        5 => entries.clear(),
        6 if entries.len() > 1 => {
            let other = dice.below(entries.len());
            entries[at].1 = entries[other].1.clone();
        }
        7 => {
            let content: Vec<u8> =
                entries.iter().flat_map(|(key, value)| [key.encode(), value.encode()].concat()).collect();
            return Item::Raw([&[0xbf], content.as_slice(), &[0xff]].concat());
        }
        _ => return Item::Wide(Box::new(Item::Map(entries))),
    }
    Item::Map(entries)
}
