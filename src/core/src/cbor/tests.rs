//! Known answers, one refusal per way to be wrong, and the two properties: what is written is read back the same,
//! what is accepted re-encodes to the same bytes.

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Uint(u64),
    Negative(i64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Value>),
    /// Entries in the order of their encoded keys.
    Map(Vec<(OwnedKey, Value)>),
    Bool(bool),
    Null,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum OwnedKey {
    Int(i64),
    Text(String),
}

impl OwnedKey {
    fn borrow(&self) -> Key<'_> {
        match self {
            Self::Int(key) => Key::Int(*key),
            Self::Text(key) => Key::Text(key),
        }
    }

    fn encoded(&self) -> Vec<u8> {
        encode_array(|a| match self {
            Self::Int(key) => a.item().int(*key),
            Self::Text(key) => a.item().text(key),
        })
    }
}

fn write(value: &Value, slot: Slot<'_>) {
    match value {
        Value::Uint(value) => slot.uint(*value),
        Value::Negative(value) => slot.int(*value),
        Value::Bytes(value) => slot.bytes(value),
        Value::Text(value) => slot.text(value),
        Value::Bool(value) => slot.bool(*value),
        Value::Null => slot.null(),
        Value::Array(items) => slot.array(|a| items.iter().for_each(|item| write(item, a.item()))),
        Value::Map(entries) => slot.map(|m| {
            // Written backwards, so that only the builder's sort can put them in order.
            entries.iter().rev().for_each(|(key, value)| write(value, m.entry(key.borrow())));
        }),
    }
}

/// The encoding of `value` alone: an array of one item without its head.
fn encode(value: &Value) -> Vec<u8> {
    encode_array(|a| write(value, a.item())).split_off(1)
}

fn read(d: &mut Decoder<'_>) -> Result<Value, CborError> {
    Ok(match d.kind()? {
        Kind::Unsigned => Value::Uint(d.uint()?),
        Kind::Negative => Value::Negative(d.int()?),
        Kind::Bytes => Value::Bytes(d.bytes()?.to_vec()),
        Kind::Text => Value::Text(d.text()?.to_owned()),
        Kind::Bool => Value::Bool(d.bool()?),
        Kind::Null => d.null().map(|()| Value::Null)?,
        Kind::Array => Value::Array((0..d.array()?).map(|_| read(d)).collect::<Result<_, _>>()?),
        Kind::Map => {
            let mut entries = Vec::new();
            for _ in 0..d.map()? {
                let key = match d.key()? {
                    Key::Int(key) => OwnedKey::Int(key),
                    Key::Text(key) => OwnedKey::Text(key.to_owned()),
                };
                entries.push((key, read(d)?));
            }
            Value::Map(entries)
        }
    })
}

fn decode(bytes: &[u8]) -> Result<Value, CborError> {
    let mut decoder = Decoder::new(bytes)?;
    let value = read(&mut decoder)?;
    decoder.finish()?;
    Ok(value)
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// The notation of tests/vectors/core/cbor.json.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::String(value) => Value::Text(value.clone()),
        Json::Number(value) => match value.as_u64() {
            Some(value) => Value::Uint(value),
            None => Value::Negative(value.as_i64().unwrap()),
        },
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(object) => match (object.get("bytes"), object.get("map")) {
            (Some(bytes), None) => Value::Bytes(hex(bytes.as_str().unwrap())),
            (None, Some(map)) => Value::Map(map.as_array().unwrap().iter().map(json_entry).collect()),
            _ => panic!("unknown notation {object:?}"),
        },
    }
}

fn json_entry(pair: &Json) -> (OwnedKey, Value) {
    let key = match from_json(&pair[0]) {
        Value::Uint(key) => OwnedKey::Int(i64::try_from(key).unwrap()),
        Value::Negative(key) => OwnedKey::Int(key),
        Value::Text(key) => OwnedKey::Text(key),
        other => panic!("not a key: {other:?}"),
    };
    (key, from_json(&pair[1]))
}

fn vectors() -> Json {
    serde_json::from_str(include_str!("../../../../tests/vectors/core/cbor.json")).unwrap()
}

#[test]
fn published_values_encode_and_decode() {
    let file = vectors();
    let accepted = file["accepted"].as_array().unwrap();
    assert!(accepted.len() >= 40);
    for vector in accepted {
        let bytes = hex(vector["hex"].as_str().unwrap());
        let value = from_json(&vector["value"]);
        assert_eq!(HEXLOWER.encode(&encode(&value)), HEXLOWER.encode(&bytes), "{vector}");
        assert_eq!(decode(&bytes), Ok(value), "{vector}");
    }
}

#[test]
fn published_refusals_hold() {
    let file = vectors();
    let refused = file["refused"].as_array().unwrap();
    assert!(refused.len() >= 30);
    for vector in refused {
        let bytes = hex(vector["hex"].as_str().unwrap());
        let error = Decoder::new(&bytes).expect_err(&vector.to_string());
        // The debug form is `Variant { offset: n }`, which is what the file states.
        assert_eq!(format!("{error:?}"), vector["error"].as_str().unwrap(), "{vector}");
    }
}

#[test]
fn lengths_beyond_the_input_are_refused_before_anything_is_read() {
    for first in [0x5b, 0x7b, 0x9b, 0xbb] {
        let mut bytes = vec![first];
        bytes.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(Decoder::new(&bytes).err(), Some(CborError::Truncated { offset: 0 }));
    }
}

#[test]
fn eight_levels_are_accepted_and_nine_are_not() {
    let nested = |levels: usize| {
        let mut bytes = vec![0x81; levels];
        bytes.push(0xf6);
        bytes
    };
    assert!(Decoder::new(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(Decoder::new(&nested(MAX_DEPTH + 1)).err(), Some(CborError::TooDeep { offset: MAX_DEPTH }));
    let bomb = nested(1_000_000);
    assert_eq!(Decoder::new(&bomb).err(), Some(CborError::TooDeep { offset: MAX_DEPTH }));
}

#[test]
fn typed_reads_refuse_another_kind() {
    let text = encode_array(|a| a.item().text("x"));
    let mut d = Decoder::new(&text).unwrap();
    d.array_of(1).unwrap();
    let expected = |expected| CborError::UnexpectedKind { offset: 1, expected, found: Kind::Text };
    assert_eq!(d.uint(), Err(expected(Kind::Unsigned)));
    assert_eq!(d.int(), Err(expected(Kind::Unsigned)));
    assert_eq!(d.bytes(), Err(expected(Kind::Bytes)));
    assert_eq!(d.byte_array::<1>(), Err(expected(Kind::Bytes)));
    assert_eq!(d.bool(), Err(expected(Kind::Bool)));
    assert_eq!(d.null(), Err(expected(Kind::Null)));
    assert_eq!(d.array(), Err(expected(Kind::Array)));
    assert_eq!(d.map(), Err(expected(Kind::Map)));
    // A refused read does not move.
    assert_eq!(d.text(), Ok("x"));
    assert_eq!(d.kind(), Err(CborError::Truncated { offset: 3 }));
    assert_eq!(d.item(), Err(CborError::Truncated { offset: 3 }));
    d.finish().unwrap();
}

#[test]
fn typed_reads_refuse_another_length_or_range() {
    let bytes = encode_array(|a| {
        a.item().bytes(&[1, 2, 3]);
        a.item().uint(u64::MAX);
    });
    let mut d = Decoder::new(&bytes).unwrap();
    assert_eq!({ d }.array_of(3), Err(CborError::Length { offset: 0, expected: 3, found: 2 }));
    d.array_of(2).unwrap();
    let wrong = CborError::Length { offset: 1, expected: 4, found: 3 };
    assert_eq!({ d }.byte_array::<4>(), Err(wrong));
    assert_eq!(d.byte_array(), Ok([1, 2, 3]));
    assert_eq!(d.int(), Err(CborError::IntegerRange { offset: 5 }));
    assert_eq!({ d }.finish(), Err(CborError::Trailing { offset: 5 }));
    assert_eq!(d.uint(), Ok(u64::MAX));
    let map = encode_map(|m| m.entry(1).null());
    let mut d = Decoder::new(&map).unwrap();
    assert_eq!(d.map_of(2), Err(CborError::Length { offset: 0, expected: 2, found: 1 }));
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let bytes = encode_map(|m| {
        m.entry(1).uint(7);
        m.entry("x").uint(8);
    });
    let mut d = Decoder::new(&bytes).unwrap();
    d.map_of(2).unwrap();
    d.expect_key(1).unwrap();
    assert_eq!(d.item(), Ok(&[7][..]));
    assert_eq!({ d }.expect_key("y"), Err(CborError::UnknownKey { offset: 3 }));
    assert_eq!(d.key(), Ok(Key::Text("x")));
    assert_eq!(d.unknown_key(), CborError::UnknownKey { offset: 3 });
    let not_a_key = [0xf6];
    assert_eq!(Decoder::new(&not_a_key).unwrap().key(), Err(CborError::KeyType { offset: 0 }));
}

#[test]
fn a_slot_left_unwritten_leaves_no_trace() {
    let bytes = encode_map(|m| {
        let _ = m.entry(5);
        m.entry(2).array(|a| {
            let _ = a.item();
        });
        let _ = m.entry(9);
    });
    assert_eq!(HEXLOWER.encode(&bytes), "a10280");
}

#[test]
fn an_entry_written_twice_keeps_the_later_value() {
    let bytes = encode_map(|m| {
        m.entry("k").uint(1);
        m.entry(0).null();
        m.entry("k").uint(2);
    });
    assert_eq!(HEXLOWER.encode(&bytes), "a200f6616b02");
}

fn key() -> impl Strategy<Value = OwnedKey> {
    prop_oneof![any::<i64>().prop_map(OwnedKey::Int), "[a-z\u{e9}]{0,30}".prop_map(OwnedKey::Text)]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::Uint),
        (0u64..300).prop_map(Value::Uint),
        (i64::MIN..0).prop_map(Value::Negative),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        ".{0,40}".prop_map(Value::Text),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::hash_map(key(), inner, 0..6).prop_map(|map| {
                let mut entries: Vec<_> = map.into_iter().collect();
                entries.sort_by_key(|(key, _)| key.encoded());
                Value::Map(entries)
            }),
        ]
    })
}

/// Bytes that are CBOR more often than chance would have it.
fn near_cbor() -> impl Strategy<Value = Vec<u8>> {
    let few = prop::sample::select(vec![
        0x00u8, 0x01, 0x17, 0x18, 0x19, 0x20, 0x38, 0x40, 0x41, 0x58, 0x60, 0x61, 0x62, 0x80, 0x81, 0x82,
        0x98, 0xa0, 0xa1, 0xa2, 0xc0, 0xf4, 0xf5, 0xf6, 0xf7, 0xf9, 0xff,
    ]);
    prop::collection::vec(prop_oneof![3 => few, 1 => any::<u8>()], 0..24)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in value()) {
        prop_assert_eq!(decode(&encode(&value)), Ok(value));
    }

    #[test]
    fn what_is_accepted_re_encodes_to_the_same_bytes(bytes in near_cbor()) {
        if let Ok(value) = decode(&bytes) {
            prop_assert_eq!(encode(&value), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_is_another_value(value in value(), at: prop::sample::Index, bits in 1u8..) {
        let mut bytes = encode(&value);
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(other) = decode(&bytes) {
            prop_assert_ne!(&other, &value);
            prop_assert_eq!(encode(&other), bytes);
        }
    }

    #[test]
    fn a_truncated_item_is_refused(value in value(), at: prop::sample::Index) {
        let bytes = encode(&value);
        prop_assert!(Decoder::new(&bytes[..at.index(bytes.len())]).is_err());
    }
}
