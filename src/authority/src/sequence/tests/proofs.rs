//! Proofs and trees over batches of every shape.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::merkle::{
    Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash as _, consistency_proof, inclusion_proof, root_at,
    root_of_leaf_hashes, verify_consistency, verify_inclusion,
};
use countersign_core::note::NoteSignature;
use proptest::prelude::*;

use super::super::append::{Append, Entry, Prepared};
use super::super::grow::Growth;
use super::super::plan::{Terms, plan};
use super::support::{NOW, Rig, StoreKind, origin};
use crate::store::{Additions, Frontiers, Opened, Reader, StoredTree, Wanted, Writer};

fn beats(count: usize) -> Prepared {
    let entry = Entry::plain(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode());
    Prepared::new(Append::of(vec![entry; count])).unwrap()
}

/// A log without a sequencer: what is signed, and when, is up to the test.
struct Bare {
    writer: Box<dyn Writer>,
    reader: Arc<dyn Reader>,
    control: ControlState,
    batches: u128,
    leaves: Vec<Vec<u8>>,
    /// SHA-256 roots by size.
    roots: BTreeMap<u64, Sha256Digest>,
}

impl Bare {
    fn over(rig: &Rig) -> Self {
        let Opened { writer, reader } = rig.place.open().unwrap();
        let (leaves, roots) = (Vec::new(), BTreeMap::new());
        Self { writer, reader, control: rig.genesis(), batches: 0, leaves, roots }
    }

    /// Appends a batch through plan and store, and checks every new leaf's proof out of memory.
    fn grow(&mut self, count: usize) -> u64 {
        let appends: Vec<Prepared> =
            (0..count).collect::<Vec<_>>().chunks(100).map(|c| beats(c.len())).collect();
        let batch: Vec<&Prepared> = appends.iter().collect();
        let salts: Vec<[u8; 16]> =
            (0..count).map(|n| (self.batches << 64 | n as u128).to_be_bytes()).collect();
        self.batches += 1;
        let terms = Terms { met: None, control: &self.control, now_ms: NOW, salts: &salts };
        let mut tree = None;
        let added = self.writer.append(&Wanted::default(), &mut |prior| {
            let planned = plan(prior, &batch, &terms).ok().unwrap();
            tree = Some(planned.tree);
            planned.additions
        });
        let Additions { leaves: new, head, .. } = added.unwrap().unwrap();
        let (tree, body) = (tree.unwrap(), head.body());
        for leaf in &new {
            let receipt = tree.receipt(leaf.index, leaf.bytes.clone()).unwrap();
            verify_inclusion::<Sha256Tree>(
                &receipt.leaf_hash,
                leaf.index,
                body.size,
                &receipt.proof,
                &body.sha256_root,
            )
            .unwrap();
        }
        self.leaves.extend(new.iter().map(|leaf| leaf.bytes.to_vec()));
        self.roots.insert(body.size, body.sha256_root);
        body.size
    }

    /// Puts a signature to a head; which one doesn't matter to a store.
    fn sign(&mut self, size: u64) {
        let line = NoteSignature::new(origin().as_str(), [1; 4], vec![1; 64]).unwrap();
        self.writer.attach_signatures(size, &[line]).unwrap();
    }

    /// Proofs under a head: of leaves from all over the log, and of the heads before it.
    fn prove(&self, size: u64) {
        let (stored, root) = (StoredTree(self.reader.as_ref()), self.roots[&size]);
        let near = [0, 255, 256, 65_535, 65_536].into_iter().chain(size.saturating_sub(300)..size).step_by(7);
        for index in near.chain([size - 1]).filter(|index| *index < size) {
            let leaf = Sha256Tree::leaf_hash(&self.leaves[index as usize]);
            let proof = inclusion_proof::<Sha256Tree, _>(index, size, &stored).unwrap();
            verify_inclusion::<Sha256Tree>(&leaf, index, size, &proof, &root).unwrap();
        }
        for (old, old_root) in self.roots.range(..=size) {
            let proof = consistency_proof::<Sha256Tree, _>(*old, size, &stored).unwrap();
            verify_consistency::<Sha256Tree>(*old, old_root, size, &root, &proof).unwrap();
        }
    }
}

/// Appends batches of these sizes.
fn append_batches(rig: &Rig, batches: &[usize]) -> (Arc<dyn Reader>, Vec<Vec<u8>>) {
    let mut log = Bare::over(rig);
    for count in batches {
        log.grow(*count);
    }
    (log.reader, log.leaves)
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
fn proofs_hold_while_the_log_grows() {
    // Past 256 leaves one by one around the edge, and past 65,536; signed at once or only with the next batch.
    for store in StoreKind::ALL {
        let rig = Rig::empty_in(store, countersign_core::key::Algorithm::EdDsa);
        let mut log = Bare::over(&rig);
        for count in [100, 154, 1, 1, 1, 254, 1, 1, 300] {
            let before = log.leaves.len() as u64;
            let size = log.grow(count);
            log.prove(size);
            if before > 0 {
                log.prove(before);
            }
            log.sign(size);
            log.prove(size);
        }
    }
    let rig = Rig::empty(countersign_core::key::Algorithm::EdDsa);
    let mut log = Bare::over(&rig);
    let big = [4_096; 15].into_iter().chain([4_095, 1, 1, 255, 1, 300]);
    for (at, count) in big.enumerate() {
        let size = log.grow(count);
        log.prove(size);
        if at % 2 == 0 {
            log.sign(size);
            log.prove(size);
        }
    }
}

#[test]
fn what_a_failover_took_back_is_in_no_proof() {
    for store in StoreKind::ALL {
        let rig = Rig::empty_in(store, countersign_core::key::Algorithm::EdDsa);
        let mut log = Bare::over(&rig);
        let signed = log.grow(300);
        log.sign(signed);
        rig.tamper("CREATE TABLE backup AS SELECT * FROM frontier;");
        let lost = log.grow(300);
        // Reads of the nodes that are signed, and of those that aren't.
        log.prove(signed);
        log.prove(lost);
        rig.tamper(
            "UPDATE frontier SET size = (SELECT size FROM backup), sha256 = (SELECT sha256 FROM backup),
             sha3_512 = (SELECT sha3_512 FROM backup), blake2b_512 = (SELECT blake2b_512 FROM backup);
             DELETE FROM head WHERE size > (SELECT size FROM backup);
             DELETE FROM leaf WHERE idx >= (SELECT size FROM backup);
             DELETE FROM leaf_hash WHERE idx >= (SELECT size FROM backup);
             DELETE FROM node WHERE (idx + 1) * 256 > (SELECT size FROM backup);",
        );
        log.leaves.truncate(300);
        log.roots.remove(&lost);
        let size = log.grow(300);
        log.sign(size);
        log.prove(size);
    }
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
