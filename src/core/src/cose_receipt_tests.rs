//! COSE receipts: one form, one leaf, one root; every departure is refused.

use super::*;
use crate::merkle::root_of_leaf_hashes;
use ed25519_dalek::{Signer as _, SigningKey};

const ORIGIN: &str = "log.example";

fn key(seed: u8) -> (SigningKey, VerifyingKey) {
    let secret = SigningKey::from_bytes(&[seed; 32]);
    let public = VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap();
    (secret, public)
}

struct Made {
    bytes: Vec<u8>,
    leaf: Vec<u8>,
    key: VerifyingKey,
}

/// Leaf 3 of five.
fn made() -> Made {
    let leaves: Vec<Vec<u8>> = (0..5).map(|at| format!("leaf {at}").into_bytes()).collect();
    let hashes: Vec<Sha256Digest> = leaves.iter().map(|leaf| Sha256Tree::leaf_hash(leaf)).collect();
    let pair = |at: usize| root_of_leaf_hashes::<Sha256Tree>(&hashes[at..at + 2]);
    let path = [hashes[2], pair(0), hashes[4]];
    let (secret, key) = key(1);
    let statement = RootStatement { issuer: ORIGIN.to_owned(), issued_at: 1_700_000_000, key: key.clone() };
    let root = root_of_leaf_hashes::<Sha256Tree>(&hashes);
    let signature = secret.sign(&statement.to_be_signed(&root)).to_bytes();
    Made { bytes: encode(&statement, &signature, 5, 3, &path), leaf: leaves[3].clone(), key }
}

#[test]
fn a_receipt_holds_for_its_leaf_its_log_and_its_key_only() {
    let made = made();
    let keys = [key(2).1, made.key.clone()];
    let found = verify(&made.bytes, &made.leaf, ORIGIN, &keys).unwrap();
    assert_eq!((found.index(), found.size(), found.issued_at()), (3, 5, 1_700_000_000));
    let refused = |leaf: &[u8], origin: &str, keys: &[VerifyingKey]| {
        verify(&made.bytes, leaf, origin, keys).unwrap_err()
    };
    assert_eq!(refused(b"leaf 2", ORIGIN, &keys), CoseReceiptRefused::Unsigned);
    assert_eq!(refused(&made.leaf, "other.example", &keys), CoseReceiptRefused::Value("issuer"));
    assert_eq!(refused(&made.leaf, ORIGIN, &keys[..1]), CoseReceiptRefused::Unsigned);
    assert_eq!(refused(&made.leaf, ORIGIN, &[]), CoseReceiptRefused::Unsigned);
}

#[test]
fn no_bit_of_it_may_change_and_no_byte_be_missing_or_more() {
    let made = made();
    let keys = [made.key.clone()];
    for at in 0..made.bytes.len() * 8 {
        let mut changed = made.bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        match verify(&changed, &made.leaf, ORIGIN, &keys) {
            Err(_) => {}
            // RFC 9942 signs the root alone: a size that leads to the same root by the same path says the same of the leaf.
            Ok(found) => assert_eq!(
                (found.index(), found.root()),
                (3, verify(&made.bytes, &made.leaf, ORIGIN, &keys).unwrap().root())
            ),
        }
    }
    for length in 0..made.bytes.len() {
        assert!(verify(&made.bytes[..length], &made.leaf, ORIGIN, &keys).is_err(), "{length}");
    }
    let longer = [&made.bytes[..], &[0]].concat();
    assert!(verify(&longer, &made.leaf, ORIGIN, &keys).is_err());
    assert_eq!(verify(&vec![TAG_SIGN1; 5_000], &made.leaf, ORIGIN, &keys), Err(CoseReceiptRefused::Sign1));
}

#[test]
fn what_is_signed_here_is_no_head_and_a_head_is_none_of_this() {
    let (_, key) = key(1);
    let statement = RootStatement { issuer: ORIGIN.to_owned(), issued_at: 0, key };
    let signed = statement.to_be_signed(&Sha256Digest::ZERO);
    assert!(!signed[0].is_ascii_graphic(), "no origin begins with {:#x}", signed[0]);
}
