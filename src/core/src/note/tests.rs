//! Known answers from tests/vectors/core/note.json and one refusal per way to be wrong.

use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = "text\n\n\u{2014} name AQIDBAU=\n";

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/core/note.json")).unwrap()
}

fn keys() -> Vec<NoteKey> {
    (vectors()["keys"].as_array().unwrap().iter())
        .map(|vector| {
            let key = serde_json::from_value(vector["key"].clone()).unwrap();
            NoteKey::new(vector["name"].as_str().unwrap(), key).unwrap()
        })
        .collect()
}

fn signer(seed: u8) -> (ed25519_dalek::SigningKey, NoteKey) {
    let signer = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let key = VerifyingKey::ed25519(signer.verifying_key().as_bytes()).unwrap();
    (signer, NoteKey::new("log.example", key).unwrap())
}

fn signed(text: &str, seeds: &[u8]) -> SignedNote {
    let lines = seeds.iter().map(|seed| {
        let (signer, key) = signer(*seed);
        key.line(&signer.sign(text.as_bytes()).to_bytes())
    });
    SignedNote::new(text, lines.collect()).unwrap()
}

#[test]
fn published_notes_verify_under_each_key() {
    let file = vectors();
    let keys = keys();
    for (key, vector) in keys.iter().zip(file["keys"].as_array().unwrap()) {
        assert_eq!(HEXLOWER.encode(&key.key_id()), vector["id"].as_str().unwrap());
    }
    for vector in file["notes"].as_array().unwrap() {
        let text = vector["note"].as_str().unwrap();
        let note = SignedNote::parse(text).unwrap();
        assert_eq!(note.format(), text);
        assert_eq!(note.text(), vector["text"].as_str().unwrap());
        assert_eq!(note.signatures().len(), 3);
        let verified = verify(&note, &keys).unwrap();
        assert_eq!(verified.text(), note.text());
        assert_eq!(verified.signers(), keys.iter().collect::<Vec<_>>());
        for key in &keys {
            let one = [key.clone()];
            assert_eq!(verify(&note, &one).unwrap().signers(), [key]);
        }
    }
}

#[test]
fn the_example_of_the_specification_parses() {
    let note = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\n\u{e8} subito sera.\n\n\
                \u{2014} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU\
                0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    let parsed = SignedNote::parse(note).unwrap();
    assert_eq!(parsed.signatures()[0].name(), "quasimodo.example/salvatore");
    assert_eq!(parsed.signatures()[0].key_id(), [0x36, 0x7b, 0xa0, 0x4b]);
    assert_eq!(parsed.signatures()[0].signature().len(), 64);
    assert_eq!(parsed.format(), note);
}

#[test]
fn malformed_notes_are_refused() {
    assert!(SignedNote::parse(EXAMPLE).is_ok());
    let line = "\u{2014} name AQIDBAU=\n";
    let cases = [
        ("", NoteError::NoSignatures),
        ("text\n", NoteError::NoSignatures),
        ("text\n\n", NoteError::NoSignatures),
        ("text\n\u{2014} name AQIDBAU=\n", NoteError::NoSignatures),
        ("text\n\n\u{2014} name AQIDBAU=", NoteError::NoSignatures),
        ("text\n\n\n", NoteError::NoSignatures),
        ("text\n\n- name AQIDBAU=\n", NoteError::Line),
        ("text\n\n\u{2014}name AQIDBAU=\n", NoteError::Line),
        ("text\n\n\u{2014} nameAQIDBAU=\n", NoteError::Line),
        ("text\n\n\u{2014} name  AQIDBAU=\n", NoteError::Line),
        ("text\n\n\u{2014} name AQIDBAU= \n", NoteError::Line),
        ("text\n\n\u{2014} name AQIDBAU\n", NoteError::Line),
        ("text\n\n\u{2014} name AQIDBAV=\n", NoteError::Line),
        ("text\n\n\u{2014} name AQIDBA==\n", NoteError::Line),
        ("text\n\n\u{2014} name AQID\n", NoteError::Line),
        ("text\n\n\u{2014} name \n", NoteError::Line),
        ("text\n\n\u{2014} name AQID-_U=\n", NoteError::Line),
        ("text\n\n\u{2014}  AQIDBAU=\n", NoteError::Name),
        ("text\n\n\u{2014} na+me AQIDBAU=\n", NoteError::Name),
        ("text\n\n\u{2014} na\u{2003}me AQIDBAU=\n", NoteError::Name),
        ("text\n\n\u{2014} na\u{7f}me AQIDBAU=\n", NoteError::Name),
        ("te\txt\n\n\u{2014} name AQIDBAU=\n", NoteError::Control),
        ("te\0xt\n\n\u{2014} name AQIDBAU=\n", NoteError::Control),
        ("text\r\n\r\n\u{2014} name AQIDBAU=\r\n", NoteError::Control),
    ];
    for (note, error) in cases {
        assert_eq!(SignedNote::parse(note), Err(error), "{note:?}");
    }
    let many = |count: usize| format!("text\n\n{}", line.repeat(count));
    assert!(SignedNote::parse(&many(MAX_SIGNATURES)).is_ok());
    assert_eq!(SignedNote::parse(&many(MAX_SIGNATURES + 1)), Err(NoteError::TooManySignatures));
    let long = |size: usize| format!("{}\n\n{line}", "x".repeat(size - 2 - line.len()));
    assert!(SignedNote::parse(&long(MAX_NOTE_BYTES)).is_ok());
    assert_eq!(SignedNote::parse(&long(MAX_NOTE_BYTES + 1)), Err(NoteError::TooLarge));
}

#[test]
fn malformed_parts_make_no_note() {
    let line = || NoteSignature::new("name", [1, 2, 3, 4], vec![5]).unwrap();
    assert_eq!(SignedNote::new("text\n", vec![line()]).unwrap().format(), EXAMPLE);
    assert_eq!(SignedNote::new("text", vec![line()]), Err(NoteError::Text));
    assert_eq!(SignedNote::new("", vec![line()]), Err(NoteError::Text));
    assert_eq!(SignedNote::new("te\rxt\n", vec![line()]), Err(NoteError::Control));
    assert_eq!(SignedNote::new("text\n", vec![]), Err(NoteError::NoSignatures));
    let many = vec![line(); MAX_SIGNATURES + 1];
    assert_eq!(SignedNote::new("text\n", many), Err(NoteError::TooManySignatures));
    let long = format!("{}\n", "x".repeat(MAX_NOTE_BYTES));
    assert_eq!(SignedNote::new(&long, vec![line()]), Err(NoteError::TooLarge));
    assert_eq!(NoteSignature::new("name", [0; 4], vec![]), Err(NoteError::Line));
    assert_eq!(NoteSignature::new("", [0; 4], vec![1]), Err(NoteError::Name));
    assert_eq!(NoteSignature::new("a\nb", [0; 4], vec![1]), Err(NoteError::Name));
    assert_eq!(NoteKey::new("a b", signer(1).1.key().clone()), Err(NoteError::Name));
}

#[test]
fn a_note_of_unknown_keys_is_refused() {
    let note = signed("text\n", &[1]);
    assert_eq!(verify(&note, &[]), Err(NoteError::NoKnownSignature));
    assert_eq!(verify(&note, &[signer(2).1]), Err(NoteError::NoKnownSignature));
    // The same key under another name is another key.
    let renamed = NoteKey::new("other.example", signer(1).1.key().clone()).unwrap();
    assert_eq!(verify(&note, &[renamed]), Err(NoteError::NoKnownSignature));
}

#[test]
fn one_failing_line_of_a_known_key_rejects_the_note() {
    let (good, bad) = (signed("text\n", &[1]), signed("other\n", &[2]));
    let lines = vec![good.signatures()[0].clone(), bad.signatures()[0].clone()];
    let note = SignedNote::new("text\n", lines).unwrap();
    let keys = [signer(1).1, signer(2).1];
    assert_eq!(verify(&note, &keys), Err(NoteError::SignatureInvalid));
    // To whom the second key is unknown, its line is one of those to ignore.
    assert_eq!(verify(&note, &keys[..1]).unwrap().signers(), [&keys[0]]);
}

#[test]
fn a_changed_text_is_refused() {
    for vector in vectors()["notes"].as_array().unwrap() {
        let note = SignedNote::parse(vector["note"].as_str().unwrap()).unwrap();
        let changed = SignedNote::new("changed\n", note.signatures().to_vec()).unwrap();
        for key in keys() {
            assert_eq!(verify(&changed, &[key]), Err(NoteError::SignatureInvalid));
        }
    }
}

#[test]
fn an_ecdsa_line_that_is_not_strict_der_is_refused() {
    let file = vectors();
    let note = SignedNote::parse(file["notes"][0]["note"].as_str().unwrap()).unwrap();
    let ecdsa = &keys()[1..];
    let line = &note.signatures()[1];
    let with = |signature: Vec<u8>| {
        let line = NoteSignature::new(line.name(), line.key_id(), signature).unwrap();
        SignedNote::new(note.text(), vec![line]).unwrap()
    };
    assert!(verify(&with(line.signature().to_vec()), ecdsa).is_ok());
    let trailing = [line.signature(), &[0]].concat();
    assert_eq!(verify(&with(trailing), ecdsa), Err(NoteError::SignatureInvalid));
    let fixed = ecdsa_der_to_fixed(line.signature()).unwrap();
    assert_eq!(verify(&with(fixed.to_vec()), ecdsa), Err(NoteError::SignatureInvalid));
}

#[test]
fn a_key_that_signs_twice_is_one_signer() {
    let note = signed("text\n", &[1, 1, 2]);
    let keys = [signer(2).1, signer(1).1];
    assert_eq!(verify(&note, &keys).unwrap().signers(), [&keys[1], &keys[0]]);
    // The same known key given twice is no ambiguity.
    let twice = [keys[1].clone(), keys[1].clone()];
    assert_eq!(verify(&note, &twice).unwrap().signers(), [&keys[1]]);
}

#[test]
fn two_known_keys_of_one_name_and_id_are_ambiguous() {
    let (_, one) = signer(1);
    let (_, mut two) = signer(2);
    two.key_id = one.key_id;
    assert_eq!(verify(&signed("text\n", &[1]), &[one, two]), Err(NoteError::AmbiguousKey));
}

#[test]
fn der_known_answers() {
    let zero = [0; 64];
    assert_eq!(HEXLOWER.encode(&ecdsa_fixed_to_der(&zero)), "3006020100020100");
    let mut small = [0; 64];
    small[31] = 0x7f;
    small[63] = 0x80;
    assert_eq!(HEXLOWER.encode(&ecdsa_fixed_to_der(&small)), "300702017f02020080");
    let der = ecdsa_fixed_to_der(&[0xff; 64]);
    assert_eq!(der.len(), 72);
    assert_eq!(ecdsa_der_to_fixed(&der), Ok([0xff; 64]));
}

#[test]
fn der_that_is_not_the_one_form_is_refused() {
    let long = format!("3045022101{}020100", "00".repeat(32));
    let cases = [
        ("empty", ""),
        ("sequence without length", "30"),
        ("empty sequence", "3000"),
        ("one integer", "3003020101"),
        ("another tag than sequence", "3106020101020101"),
        ("another tag than integer", "3006020101030101"),
        ("sequence longer than the input", "3007020101020101"),
        ("sequence shorter than the input", "3005020101020101"),
        ("byte after the sequence", "300602010102010100"),
        ("byte after the integers", "300702010102010100"),
        ("long-form sequence length", "308106020101020101"),
        ("long-form integer length", "300702810101020101"),
        ("integer without content", "30050200020101"),
        ("negative integer", "3006020180020101"),
        ("padded integer", "300702020001020101"),
        ("padded zero", "300702020000020101"),
        ("integer cut", "3006020101020201"),
        ("integer above 2^256", &long),
    ];
    for (name, hex) in cases {
        let der = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(ecdsa_der_to_fixed(&der), Err(DerSignatureError), "{name}");
    }
}

proptest! {
    #[test]
    fn der_round_trips_and_agrees_with_another_implementation(half: [u8; 32], other: [u8; 32], zeros in 0usize..32) {
        let mut fixed = [0; 64];
        fixed[..32].copy_from_slice(&half);
        fixed[32..].copy_from_slice(&other);
        fixed[..zeros].fill(0);
        let der = ecdsa_fixed_to_der(&fixed);
        prop_assert_eq!(ecdsa_der_to_fixed(&der), Ok(fixed));
        if let Ok(signature) = p256::ecdsa::Signature::from_slice(&fixed) {
            let theirs = signature.to_der();
            prop_assert_eq!(theirs.as_bytes(), &der[..]);
        }
    }

    #[test]
    fn any_bytes_are_one_der_form_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        let der = [&[0x30, u8::try_from(bytes.len()).unwrap()], &bytes[..]].concat();
        if let Ok(fixed) = ecdsa_der_to_fixed(&der) {
            prop_assert_eq!(ecdsa_fixed_to_der(&fixed), der);
        }
    }

    #[test]
    fn any_text_is_one_note_or_refused(text in "[a\u{2014}\n +=AQ\t]{0,40}", tail in "[\u{2014} \nA=]{0,12}") {
        for note in [text.clone(), format!("{text}\n\n\u{2014} n AQIDBAU={tail}"), format!("{EXAMPLE}{tail}")] {
            if let Ok(parsed) = SignedNote::parse(&note) {
                prop_assert_eq!(parsed.format(), note);
            }
        }
    }

    #[test]
    fn whatever_is_put_together_parses_to_the_same(
        text in "[ -~\n\u{e9}]{0,60}", name in "[a-z/.]{1,20}", id: [u8; 4], sig in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let line = NoteSignature::new(&name, id, sig).unwrap();
        let note = SignedNote::new(&format!("{text}\n"), vec![line.clone(), line]).unwrap();
        prop_assert_eq!(SignedNote::parse(&note.format()), Ok(note));
    }
}
