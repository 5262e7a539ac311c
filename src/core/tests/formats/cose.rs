//! Receipts of leaves for generic verifiers (RFC 9942, PROTOCOL §16), published: by both algorithms, from the first leaf, within and at the ragged end.

use crate::log::path;
use crate::vectors::published;
use countersign_core::cose_receipt::{RootStatement, encode, verify};
use countersign_core::key::{Algorithm, VerifyingKey};
use countersign_core::merkle::{Sha256Tree, TreeHash as _, root_of_leaf_hashes};
use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::Signer as _;
use serde_json::{Value, json};

const ISSUER: &str = "test.example/log";
const ISSUED_AT: u64 = 1_700_000_000;
const LEAVES: u8 = 11;

fn pem(key: &VerifyingKey) -> String {
    let text = BASE64.encode(&key.spki_der());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[test]
fn receipts_of_leaves() {
    let ed25519 = ed25519_dalek::SigningKey::from_bytes(&[23; 32]);
    let p256 = p256::ecdsa::SigningKey::from_slice(&[24; 32]).unwrap();
    let point = p256.verifying_key().to_sec1_point(false);
    let keys = [
        VerifyingKey::ed25519(ed25519.verifying_key().as_bytes()).unwrap(),
        VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes()).unwrap(),
    ];
    let leaves: Vec<Vec<u8>> = (0..LEAVES).map(|number| vec![number; usize::from(number) + 1]).collect();
    let hashes: Vec<_> = leaves.iter().map(|leaf| Sha256Tree::leaf_hash(leaf)).collect();
    let mut receipts: Vec<Value> = Vec::new();
    for key in &keys {
        let statement = RootStatement { issuer: ISSUER.to_owned(), issued_at: ISSUED_AT, key: key.clone() };
        for (size, index) in [(1, 0), (8, 5), (11, 0), (11, 7), (11, 10)] {
            let to_be_signed = statement.to_be_signed(&root_of_leaf_hashes::<Sha256Tree>(&hashes[..size]));
            let signature = match key.algorithm() {
                Algorithm::EdDsa => ed25519.sign(&to_be_signed).to_bytes(),
                Algorithm::Es256 => {
                    let signature: p256::ecdsa::Signature = p256.sign(&to_be_signed);
                    signature.to_bytes().into()
                }
            };
            let path = path::<Sha256Tree>(index, &hashes[..size]);
            let receipt = encode(&statement, &signature, size as u64, index as u64, &path);
            let found = verify(&receipt, &leaves[index], ISSUER, &keys).unwrap();
            assert_eq!((found.size(), found.index()), (size as u64, index as u64));
            let (alg, raw) = (key.algorithm().name(), HEXLOWER.encode(key.raw()));
            let (pem, receipt) = (pem(key), HEXLOWER.encode(&receipt));
            receipts.push(
                json!({"size": size, "index": index, "alg": alg, "key": raw, "pem": pem, "receipt": receipt}),
            );
        }
    }
    let leaves: Vec<_> = leaves.iter().map(|leaf| HEXLOWER.encode(leaf)).collect();
    let vectors = json!({"issuer": ISSUER, "issued_at": ISSUED_AT, "leaves": leaves, "receipts": receipts});
    published("cose.json", vectors);
}
