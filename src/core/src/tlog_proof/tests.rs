//! Known answers from tests/vectors/core/tlog-proof.json and one refusal per way to be wrong.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::HeadBody;
use crate::merkle::{Sha256Tree, TreeHash as _, verify_inclusion};
use crate::note::SignedNote;

const HASH: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

fn vectors() -> Vec<serde_json::Value> {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/core/tlog-proof.json")).unwrap();
    file["proofs"].as_array().unwrap().clone()
}

#[test]
fn published_receipts_hold() {
    let vectors = vectors();
    assert!(vectors.len() >= 5);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let receipt = TlogProof::parse(text("text")).unwrap();
        assert_eq!(HEXLOWER.encode(&receipt.extra), text("extra"));
        assert_eq!(receipt.index, vector["index"].as_u64().unwrap());
        let proof: Vec<String> = receipt.proof.iter().map(Sha256Digest::to_hex).collect();
        let expected: Vec<&str> =
            vector["proof"].as_array().unwrap().iter().map(|hash| hash.as_str().unwrap()).collect();
        assert_eq!(proof, expected);
        assert_eq!(receipt.checkpoint, text("checkpoint"));
        assert_eq!(receipt.encode(), text("text"));
        let note = SignedNote::parse(&receipt.checkpoint).unwrap();
        let head = HeadBody::parse(note.text()).unwrap();
        let leaf_hash = Sha256Tree::leaf_hash(&receipt.extra);
        let verdict = verify_inclusion::<Sha256Tree>(
            &leaf_hash,
            receipt.index,
            head.size,
            &receipt.proof,
            &head.sha256_root,
        );
        assert_eq!(verdict, Ok(()));
    }
}

#[test]
fn malformed_receipts_are_refused() {
    let good = format!("{FIRST_LINE}\nextra AQ==\nindex 3\n{HASH}\n{HASH}\n\nhead\n");
    assert_eq!(TlogProof::parse(&good).unwrap().encode(), good);
    let cases = [
        ("", "", TlogProofError::FirstLine),
        ("@v1", "@v2", TlogProofError::FirstLine),
        ("@v1\n", "@v1 \n", TlogProofError::FirstLine),
        ("c2sp", "\nc2sp", TlogProofError::FirstLine),
        ("extra AQ==\n", "", TlogProofError::Extra),
        ("extra AQ==", "extra ", TlogProofError::Extra),
        ("extra AQ==", "extra", TlogProofError::Extra),
        ("extra AQ==", "extra AQ", TlogProofError::Extra),
        ("extra AQ==", "extra AR==", TlogProofError::Extra),
        ("extra AQ==", "extra  AQ==", TlogProofError::Extra),
        ("extra AQ==", "Extra AQ==", TlogProofError::Extra),
        ("extra AQ==\n", "extra AQ==\r\n", TlogProofError::Extra),
        ("index 3\n", "", TlogProofError::Index),
        ("index 3", "index ", TlogProofError::Index),
        ("index 3", "index 03", TlogProofError::Index),
        ("index 3", "index +3", TlogProofError::Index),
        ("index 3", "index -3", TlogProofError::Index),
        ("index 3", "index 3 ", TlogProofError::Index),
        ("index 3", "index 18446744073709551616", TlogProofError::Index),
        ("extra AQ==\nindex 3", "index 3\nextra AQ==", TlogProofError::Extra),
        ("extra AQ==\n", "extra AQ==\nextra AQ==\n", TlogProofError::Index),
        ("CQk=\n", "CQl=\n", TlogProofError::Hash),
        ("CQk=\n", "CQk\n", TlogProofError::Hash),
        ("CQk=\n", "CQkJ\n", TlogProofError::Hash),
        ("CQk=\n", "CQk= \n", TlogProofError::Hash),
        ("\n\nhead\n", "\nhead\n", TlogProofError::Hash),
        ("\n\nhead\n", "\n", TlogProofError::Checkpoint),
        ("\n\nhead\n", "", TlogProofError::Checkpoint),
        ("\n\nhead\n", "\n\n", TlogProofError::Checkpoint),
    ];
    for (from, to, error) in cases {
        let changed = if from.is_empty() { String::new() } else { good.replacen(from, to, 1) };
        assert_ne!(changed, good);
        assert_eq!(TlogProof::parse(&changed), Err(error), "{from:?} to {to:?}");
    }
}

#[test]
fn the_limits_hold() {
    let most = TlogProof {
        extra: vec![7; MAX_EXTRA_BYTES],
        index: u64::MAX,
        proof: vec![Sha256Digest::new([9; 32]); MAX_PROOF_HASHES],
        checkpoint: "x".repeat(MAX_NOTE_BYTES),
    };
    let text = most.encode();
    assert!(text.len() <= MAX_TLOG_PROOF_BYTES);
    assert_eq!(TlogProof::parse(&text).as_ref(), Ok(&most));
    let refused = |changed: TlogProof| TlogProof::parse(&changed.encode()).unwrap_err();
    assert_eq!(
        refused(TlogProof { extra: vec![7; MAX_EXTRA_BYTES + 1], ..most.clone() }),
        TlogProofError::Extra
    );
    assert_eq!(refused(TlogProof { extra: vec![], ..most.clone() }), TlogProofError::Extra);
    let longer = vec![Sha256Digest::ZERO; MAX_PROOF_HASHES + 1];
    assert_eq!(refused(TlogProof { proof: longer, ..most.clone() }), TlogProofError::TooManyHashes);
    let note = "x".repeat(MAX_NOTE_BYTES + 1);
    assert_eq!(refused(TlogProof { checkpoint: note, ..most.clone() }), TlogProofError::Checkpoint);
    let far = "x".repeat(MAX_TLOG_PROOF_BYTES);
    assert_eq!(refused(TlogProof { checkpoint: far, ..most }), TlogProofError::TooLarge);
}

proptest! {
    #[test]
    fn what_is_encoded_parses_to_the_same(
        extra in prop::collection::vec(any::<u8>(), 1..300), index: u64,
        proof in prop::collection::vec(any::<[u8; 32]>(), 0..=64), checkpoint in "[ -~\n\u{2014}]{1,200}",
    ) {
        let proof = proof.into_iter().map(Sha256Digest::new).collect();
        let receipt = TlogProof { extra, index, proof, checkpoint };
        prop_assert_eq!(TlogProof::parse(&receipt.encode()), Ok(receipt));
    }

    #[test]
    fn a_changed_character_is_refused_or_is_another_receipt(at: prop::sample::Index, to in "[ -~\n\u{e9}]") {
        let text = format!("{FIRST_LINE}\nextra AQ==\nindex 3\n{HASH}\n\nhead\n");
        let at = at.index(text.len());
        let changed: String = text.chars().enumerate().map(|(i, c)| if i == at { to.clone() } else { c.into() }).collect();
        if let Ok(receipt) = TlogProof::parse(&changed) {
            prop_assert_eq!(receipt.encode(), changed);
        }
    }

    #[test]
    fn any_text_is_a_receipt_or_refused(head in "[A-Za-z0-9=/ \n\u{e9}]{0,80}", tail in "[A-Z=\n ]{0,60}") {
        for text in [head.clone(), format!("{FIRST_LINE}\n{head}"), format!("{FIRST_LINE}\nextra AQ==\nindex 1\n{tail}")] {
            if let Ok(receipt) = TlogProof::parse(&text) {
                prop_assert_eq!(receipt.encode(), text);
            }
        }
    }
}
