//! Proofs and trees over batches of every shape.

use countersign_core::leaf::Kind;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::merkle::{
    Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash as _, consistency_proof, inclusion_proof, root_at,
    root_of_leaf_hashes, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;

use super::super::append::{Append, Entry, Prepared};
use super::super::grow::Growth;
use super::super::plan::{Terms, plan};
use super::support::{NOW, Rig, StoreKind, origin};
use crate::store::{Additions, Frontiers, Opened, Reader, StoredTree, Wanted};

fn beats(count: usize) -> Prepared {
    let entry = Entry::plain(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode());
    Prepared::new(Append::of(vec![entry; count])).unwrap()
}

/// Appends batches of these sizes through plan and store, and checks every new leaf's proof out of memory.
fn append_batches(rig: &Rig, batches: &[usize]) -> (std::sync::Arc<dyn Reader>, Vec<Vec<u8>>) {
    let Opened { mut writer, reader } = rig.place.open().unwrap();
    let control = rig.genesis();
    let mut leaves = Vec::new();
    for (at, size) in batches.iter().enumerate() {
        let appends: Vec<Prepared> =
            (0..*size).collect::<Vec<_>>().chunks(100).map(|c| beats(c.len())).collect();
        let batch: Vec<&Prepared> = appends.iter().collect();
        let salts: Vec<[u8; 16]> =
            (0..*size).map(|n| ((at as u128) << 64 | n as u128).to_be_bytes()).collect();
        let terms = Terms { met: None, control: &control, now_ms: NOW, salts: &salts };
        let mut tree = None;
        let added = writer.append(&Wanted::default(), &mut |prior| {
            let planned = plan(prior, &batch, &terms).ok().unwrap();
            tree = Some(planned.tree);
            planned.additions
        });
        let Additions { leaves: new, head, .. } = added.unwrap().unwrap();
        let tree = tree.unwrap();
        for leaf in &new {
            let receipt = tree.receipt(leaf.index, leaf.bytes.clone()).unwrap();
            let body = head.body();
            verify_inclusion::<Sha256Tree>(
                &receipt.leaf_hash,
                leaf.index,
                body.size,
                &receipt.proof,
                &body.sha256_root,
            )
            .unwrap();
        }
        leaves.extend(new.iter().map(|leaf| leaf.bytes.to_vec()));
    }
    (reader, leaves)
}

/// Everything that the store can prove about a log, against hashes over all of its leaves.
fn check_store(reader: &dyn Reader, leaves: &[Vec<u8>]) {
    let stored = StoredTree(reader);
    let tip = reader.newest_committed().unwrap().unwrap();
    let body = tip.head.body();
    let size = leaves.len() as u64;
    assert_eq!((body.size, body.origin.as_str()), (size, origin().as_str()));
    let sha256: Vec<_> = leaves.iter().map(|leaf| Sha256Tree::leaf_hash(leaf)).collect();
    let sha3: Vec<_> = leaves.iter().map(|leaf| Sha3_512Tree::leaf_hash(leaf)).collect();
    let blake2: Vec<_> = leaves.iter().map(|leaf| Blake2b512Tree::leaf_hash(leaf)).collect();
    assert_eq!(body.sha256_root, root_of_leaf_hashes::<Sha256Tree>(&sha256));
    assert_eq!(body.sha3_root, root_of_leaf_hashes::<Sha3_512Tree>(&sha3));
    assert_eq!(body.blake2_root, root_of_leaf_hashes::<Blake2b512Tree>(&blake2));
    assert_eq!(root_at::<Sha3_512Tree, _>(size, &stored).unwrap(), body.sha3_root);
    assert_eq!(root_at::<Blake2b512Tree, _>(size, &stored).unwrap(), body.blake2_root);
    for index in (0..size).step_by(1 + leaves.len() / 40) {
        let at = index as usize;
        let proof = inclusion_proof::<Sha256Tree, _>(index, size, &stored).unwrap();
        verify_inclusion::<Sha256Tree>(&sha256[at], index, size, &proof, &body.sha256_root).unwrap();
        let proof = inclusion_proof::<Blake2b512Tree, _>(index, size, &stored).unwrap();
        verify_inclusion::<Blake2b512Tree>(&blake2[at], index, size, &proof, &body.blake2_root).unwrap();
        let old = root_of_leaf_hashes::<Sha256Tree>(&sha256[..at]);
        let proof = consistency_proof::<Sha256Tree, _>(index, size, &stored).unwrap();
        verify_consistency::<Sha256Tree>(index, &old, size, &body.sha256_root, &proof).unwrap();
    }
}

#[test]
fn proofs_hold_across_stored_levels() {
    // Past 256 (level 8) with ragged batches, and past 65,536 (level 16) in big ones.
    for store in StoreKind::ALL {
        let rig = Rig::empty_in(store, countersign_core::key::Algorithm::EdDsa);
        let (reader, leaves) = append_batches(&rig, &[255, 1, 1, 255, 257, 3]);
        check_store(reader.as_ref(), &leaves);
    }
    let rig = Rig::empty(countersign_core::key::Algorithm::EdDsa);
    let (reader, leaves) = append_batches(&rig, &[4_096; 17]);
    check_store(reader.as_ref(), &leaves);
}

#[test]
fn a_proof_with_a_missing_node_is_a_fault_and_no_other_proof() {
    let rig = Rig::empty(countersign_core::key::Algorithm::EdDsa);
    let (reader, _) = append_batches(&rig, &[300]);
    assert!(inclusion_proof::<Sha256Tree, _>(5, 600, &StoredTree(reader.as_ref())).is_err());
    assert!(root_at::<Sha256Tree, _>(301, &StoredTree(reader.as_ref())).is_err());
    assert_eq!(reader.nodes(0, 298, 10).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_leaf_of_every_batch_is_proven(batches in prop::collection::vec(1_usize..70, 1..7)) {
        let rig = Rig::empty(countersign_core::key::Algorithm::EdDsa);
        let (reader, leaves) = append_batches(&rig, &batches);
        check_store(reader.as_ref(), &leaves);
    }

    #[test]
    fn growth_does_not_depend_on_where_batches_end(cuts in prop::collection::vec(1_usize..40, 1..8)) {
        let all: usize = cuts.iter().sum();
        let leaf = |n: usize| n.to_be_bytes();
        let mut whole = Growth::from(Frontiers::default());
        (0..all).for_each(|n| { whole.append(&leaf(n)).unwrap(); });
        let (expect, ..) = whole.finish();
        let mut edges = Frontiers::default();
        let mut next = 0;
        for cut in cuts {
            let mut growth = Growth::from(edges);
            (next..next + cut).for_each(|n| { growth.append(&leaf(n)).unwrap(); });
            next += cut;
            edges = growth.finish().0;
        }
        prop_assert_eq!(edges, expect);
    }
}
