//! Known answers from tests/vectors/core/checkpoint.json and one refusal per way to be wrong.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash};
use crate::note::{self, NoteKey, SignedNote};

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/core/checkpoint.json")).unwrap()
}

fn example() -> HeadBody {
    HeadBody {
        origin: "countersign.example/log".to_owned(),
        size: 7,
        sha256_root: Sha256Digest::new([1; 32]),
        sha3_root: Sha3_512Digest::new([2; 64]),
        blake2_root: Blake2b512Digest::new([3; 64]),
        time_ms: 1_795_000_000_000,
        prev: Sha256Digest::new([4; 32]),
        control_seq: 2,
        control_digest: Sha256Digest::new([5; 32]),
    }
}

fn root<H: TreeHash>(leaves: &[Vec<u8>]) -> String {
    let mut frontier = Frontier::<H>::new();
    leaves.iter().for_each(|leaf| frontier.append(H::leaf_hash(leaf), |_| {}).unwrap());
    HEXLOWER.encode(frontier.root().as_ref())
}

#[test]
fn published_heads_hold() {
    let file = vectors();
    let keys: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/core/note.json")).unwrap();
    let keys: Vec<NoteKey> = (keys["keys"].as_array().unwrap().iter())
        .map(|key| {
            let parsed = serde_json::from_value(key["key"].clone()).unwrap();
            NoteKey::new(key["name"].as_str().unwrap(), parsed).unwrap()
        })
        .collect();
    let leaves: Vec<Vec<u8>> = (file["leaves"].as_array().unwrap().iter())
        .map(|leaf| HEXLOWER.decode(leaf.as_str().unwrap().as_bytes()).unwrap())
        .collect();
    let heads = file["heads"].as_array().unwrap();
    assert!(heads.len() >= 4);
    let mut prev = Sha256Digest::ZERO;
    for vector in heads {
        let text = |name: &str| vector[name].as_str().unwrap();
        let body = HeadBody::parse(text("body")).unwrap();
        assert_eq!(body.origin, text("origin"));
        assert_eq!(body.size, vector["size"].as_u64().unwrap());
        assert_eq!(body.sha256_root.to_hex(), text("sha256"));
        assert_eq!(body.sha3_root.to_hex(), text("sha3_512"));
        assert_eq!(body.blake2_root.to_hex(), text("blake2b_512"));
        assert_eq!(body.time_ms, vector["time_ms"].as_u64().unwrap());
        assert_eq!(body.prev, prev);
        assert_eq!(body.control_seq, vector["control_seq"].as_u64().unwrap());
        assert_eq!(body.control_digest.to_hex(), text("control"));
        assert_eq!(body.encode(), text("body"));
        assert_eq!(body.digest().to_hex(), text("digest"));
        prev = body.digest();
        let covered = &leaves[..usize::try_from(body.size).unwrap()];
        assert_eq!(root::<Sha256Tree>(covered), text("sha256"));
        assert_eq!(root::<Sha3_512Tree>(covered), text("sha3_512"));
        assert_eq!(root::<Blake2b512Tree>(covered), text("blake2b_512"));
        let note = SignedNote::parse(text("note")).unwrap();
        let verified = note::verify(&note, &keys).unwrap();
        assert_eq!(verified.signers().len(), 2);
        assert_eq!(verified.text(), text("body"));
    }
}

/// Replaces one line (without its newline) and expects a refusal.
fn check(line: usize, to: &str, expected: HeadBodyError) {
    let text = example().encode();
    let lines: Vec<&str> =
        text.lines().enumerate().map(|(i, old)| if i == line { to } else { old }).collect();
    let changed = format!("{}\n", lines.join("\n"));
    assert_eq!(HeadBody::parse(&changed), Err(expected), "line {line}: {to:?}");
}

#[test]
fn a_changed_line_is_refused() {
    let (of_32, of_64) = (BASE64.encode(&[9; 32]), BASE64.encode(&[9; 64]));
    for origin in ["", "two words", "a+b", "https://log.example", "tab\there", "l\u{f6}g.example", "x\u{7f}"]
    {
        check(0, origin, HeadBodyError::Origin);
    }
    check(0, &"x".repeat(256), HeadBodyError::Origin);
    for size in ["", "07", "00", "+7", "-1", "7 ", " 7", "0x7", "7.0", "9223372036854775808", "\u{0667}"] {
        check(1, size, HeadBodyError::Size);
    }
    let stray_bits = of_32.replace("CQk=", "CQl=");
    assert_ne!(stray_bits, of_32);
    for root in
        ["", &of_64, &of_32.replace('=', ""), &format!("{of_32} "), &stray_bits, &of_32.replace('C', "-")]
    {
        check(2, root, HeadBodyError::Sha256Root);
        check(6, &format!("prev {root}"), HeadBodyError::Prev);
        check(7, &format!("control 2 {root}"), HeadBodyError::Control);
    }
    for root in ["", &of_32, &of_64.replace('=', ""), &format!(" {of_64}")] {
        check(3, &format!("sha3-512 {root}"), HeadBodyError::Sha3Root);
        check(4, &format!("blake2b-512 {root}"), HeadBodyError::Blake2Root);
    }
    check(3, &format!("SHA3-512 {of_64}"), HeadBodyError::Sha3Root);
    check(3, &format!("blake2b-512 {of_64}"), HeadBodyError::Sha3Root);
    check(4, &format!("sha3-512 {of_64}"), HeadBodyError::Blake2Root);
    for time in ["", "01", "-1", "1.5", "18446744073709551616", " 1"] {
        check(5, &format!("time {time}"), HeadBodyError::Time);
    }
    check(5, "time", HeadBodyError::Time);
    check(6, &format!("next {of_32}"), HeadBodyError::Prev);
    for control in
        ["", "2", "2 ", &of_32, &format!("02 {of_32}"), &format!("2  {of_32}"), &format!("2 {of_32} x")]
    {
        check(7, &format!("control {control}"), HeadBodyError::Control);
    }
}

#[test]
fn another_number_or_order_of_lines_is_refused() {
    let text = example().encode();
    assert_eq!(HeadBody::parse(""), Err(HeadBodyError::Lines));
    assert_eq!(HeadBody::parse("\n"), Err(HeadBodyError::Origin));
    assert_eq!(HeadBody::parse(text.trim_end()), Err(HeadBodyError::Lines));
    for extra in ["\n", "x\n", "control 2 x\n"] {
        assert_eq!(HeadBody::parse(&format!("{text}{extra}")), Err(HeadBodyError::Lines), "{extra:?}");
    }
    let lines: Vec<&str> = text.lines().collect();
    for missing in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(missing);
        assert!(HeadBody::parse(&format!("{}\n", fewer.join("\n"))).is_err(), "without line {missing}");
        let mut doubled = lines.clone();
        doubled.insert(missing, lines[missing]);
        assert!(HeadBody::parse(&format!("{}\n", doubled.join("\n"))).is_err(), "line {missing} twice");
    }
    for first in 0..lines.len() - 1 {
        let mut swapped = lines.clone();
        swapped.swap(first, first + 1);
        assert!(HeadBody::parse(&format!("{}\n", swapped.join("\n"))).is_err(), "line {first} later");
    }
    assert!(HeadBody::parse(&text.replace('\n', "\r\n")).is_err());
}

#[test]
fn the_limits_themselves_are_accepted() {
    let most = HeadBody {
        origin: "x".repeat(MAX_ORIGIN_CHARS),
        size: MAX_TREE_SIZE,
        time_ms: u64::MAX,
        control_seq: u64::MAX,
        ..example()
    };
    assert_eq!(HeadBody::parse(&most.encode()), Ok(most));
    let least = HeadBody { origin: "x".to_owned(), size: 0, time_ms: 0, control_seq: 0, ..example() };
    assert_eq!(HeadBody::parse(&least.encode()), Ok(least));
    assert!(is_origin("log.example:8443/a/b-c_d~1"));
}

proptest! {
    #[test]
    fn what_is_encoded_parses_to_the_same(
        origin in "[!-*,-9;-~]{1,255}", size in 0..=MAX_TREE_SIZE, a: [u8; 32], b in prop::collection::vec(any::<u8>(), 64),
        time_ms: u64, control_seq: u64,
    ) {
        let body = HeadBody {
            origin,
            size,
            sha256_root: Sha256Digest::new(a),
            sha3_root: Sha3_512Digest::from_slice(&b).unwrap(),
            blake2_root: Blake2b512Digest::from_slice(&b).unwrap(),
            time_ms,
            prev: Sha256Digest::new(a),
            control_seq,
            control_digest: Sha256Digest::new(a),
        };
        prop_assert_eq!(HeadBody::parse(&body.encode()), Ok(body));
    }

    #[test]
    fn a_changed_character_is_refused_or_is_another_body(at: prop::sample::Index, to in "[ -~\n]") {
        let text = example().encode();
        let at = at.index(text.len());
        let changed: String = text.chars().enumerate().map(|(i, c)| if i == at { to.clone() } else { c.into() }).collect();
        if let Ok(body) = HeadBody::parse(&changed) {
            prop_assert_eq!(body.encode(), changed);
        }
    }

    #[test]
    fn any_text_is_a_body_or_refused(text in "[a-z0-9=/ \n\u{e9}]{0,200}") {
        if let Ok(body) = HeadBody::parse(&text) {
            prop_assert_eq!(body.encode(), text);
        }
    }

    #[test]
    fn decimals_have_one_form(text in "[0-9+\\- ]{0,21}", value: u64) {
        if let Some(value) = decimal(&text) {
            prop_assert_eq!(value.to_string(), text);
        }
        prop_assert_eq!(decimal(&value.to_string()), Some(value));
    }
}
