//! Whoever alters a leaf and repairs some of the trees is found by the others; also with the head key in hand.

use super::tests::full;
use super::{FindingKind, verify};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Leaf;
use countersign_core::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash as _};

/// Alters a heartbeat's salt, grows the chosen trees anew over the altered leaves, and has every head signed again.
fn altered_and_repaired(repair: [bool; 3]) -> Result<(), FindingKind> {
    let mut log = full();
    let place = log.leaves.iter().rposition(|bytes| !Leaf::parse(bytes).unwrap().kind.is_control()).unwrap();
    let mut leaf = Leaf::parse(&log.leaves[place]).unwrap();
    leaf.salt[0] ^= 1;
    log.leaves[place] = leaf.encode().unwrap();
    let mut trees =
        (Frontier::<Sha256Tree>::new(), Frontier::<Sha3_512Tree>::new(), Frontier::<Blake2b512Tree>::new());
    let (mut grown, mut prev) = (0, Sha256Digest::ZERO);
    for at in 0..log.heads.len() {
        let mut body = HeadBody::parse(&log.heads[at].text).unwrap();
        let size = usize::try_from(body.size).unwrap();
        for bytes in &log.leaves[grown..size] {
            trees.0.append(Sha256Tree::leaf_hash(bytes), |_| {}).unwrap();
            trees.1.append(Sha3_512Tree::leaf_hash(bytes), |_| {}).unwrap();
            trees.2.append(Blake2b512Tree::leaf_hash(bytes), |_| {}).unwrap();
        }
        grown = size;
        if repair[0] {
            body.sha256_root = trees.0.root();
        }
        if repair[1] {
            body.sha3_root = trees.1.root();
        }
        if repair[2] {
            body.blake2_root = trees.2.root();
        }
        body.prev = prev;
        let text = body.encode();
        prev = sha256(text.as_bytes());
        log.heads[at] = log.sign(text);
    }
    verify(&log, &log.bundle, &mut |_| {}).map(drop).map_err(|finding| finding.kind)
}

#[test]
fn a_leaf_altered_under_repaired_trees_is_found_by_those_that_are_left() {
    let found = |root| Err(FindingKind::Root(root));
    assert_eq!(altered_and_repaired([false, false, false]), found("sha-256"));
    assert_eq!(altered_and_repaired([true, false, false]), found("sha3-512"));
    assert_eq!(altered_and_repaired([false, true, false]), found("sha-256"));
    assert_eq!(altered_and_repaired([false, false, true]), found("sha-256"));
    assert_eq!(altered_and_repaired([true, true, false]), found("blake2b-512"));
    assert_eq!(altered_and_repaired([true, false, true]), found("sha3-512"));
    assert_eq!(altered_and_repaired([false, true, true]), found("sha-256"));
    // All three, by the holder of the head key: another history, which only the memory of who saw the first can tell.
    assert_eq!(altered_and_repaired([true, true, true]), Ok(()));
}
