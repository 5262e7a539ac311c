//! How fast a store takes leaves: appends without calls, signatures or policy, for `countersign bench log`.
//!
//! Comes in: an open, empty store that may be filled with nonsense. Goes out: leaves a second, from the bytes to a SHA-256 inclusion proof of
//! each, with all three trees grown and every batch durable. Absent: any use in service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;

use super::grow::Growth;
use crate::store::{Additions, Frontiers, NewLeaf, Opened, Prior, StoreFault, StoredHead, Wanted};

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Leaves.
    pub leaves: u64,
    /// Time for all of them.
    pub time: Duration,
}

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Batches, each one transaction.
    pub batches: u64,
    /// Leaves of a batch.
    pub batch_leaves: u64,
    /// Bytes of a leaf.
    pub leaf_bytes: usize,
}

/// Appends and proves. One thread.
///
/// # Errors
/// [`StoreFault`].
pub fn appends(store: &mut Opened, origin: &str, load: &Load) -> Result<Appended, StoreFault> {
    let began = Instant::now();
    let mut leaves = 0;
    for _ in 0..load.batches {
        let mut grown = None;
        let added = store.writer.append(&Wanted::default(), &mut |prior| {
            let (additions, tree) = batch(prior, origin, load)?;
            grown = Some(tree);
            Some(additions)
        })?;
        let (Some(added), Some(tree)) = (added, grown) else { break };
        for leaf in &added.leaves {
            // A proof that can't be made would be a defect, which the count then shows.
            leaves += u64::from(tree.receipt(leaf.index, Arc::clone(&leaf.bytes)).is_ok());
        }
    }
    Ok(Appended { leaves, time: began.elapsed() })
}

/// A batch on top of what is there. The bytes differ by their index and are of no kind; stores keep what they are given.
fn batch(prior: &Prior, origin: &str, load: &Load) -> Option<(Additions, super::grow::BatchTree)> {
    let tip = prior.tip.as_ref();
    let mut growth = Growth::from(tip.map_or_else(Frontiers::default, |tip| tip.frontiers.clone()));
    let mut leaves = Vec::new();
    for _ in 0..load.batch_leaves {
        let index = growth.size();
        let mut bytes = vec![0x5a; load.leaf_bytes];
        bytes.iter_mut().zip(index.to_be_bytes()).for_each(|(to, from)| *to = from);
        let hashes = growth.append(&bytes).ok()?;
        leaves.push(NewLeaf { index, bytes: bytes.into(), hashes, changes: Vec::new(), control: None });
    }
    let (frontiers, nodes, tree) = growth.finish();
    let body = HeadBody {
        origin: origin.to_owned(),
        size: frontiers.sha256.size(),
        sha256_root: frontiers.sha256.root(),
        sha3_root: frontiers.sha3_512.root(),
        blake2_root: frontiers.blake2b_512.root(),
        time_ms: 0,
        prev: tip.map_or(Sha256Digest::ZERO, |tip| *tip.head.digest()),
        control_seq: 0,
        control_digest: Sha256Digest::ZERO,
    };
    let head = StoredHead::new(&body.encode(), Vec::new()).ok()?;
    let additions = Additions {
        leaves,
        nodes,
        head,
        frontiers,
        spent: Vec::new(),
        blobs: Vec::new(),
        forget_spent_before_ms: 0,
    };
    Some((additions, tree))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::tests::support::{Rig, StoreKind, origin};

    #[test]
    fn every_leaf_is_counted_once_it_is_proven() {
        for store in StoreKind::ALL {
            let rig = Rig::empty_in(store, countersign_core::key::Algorithm::EdDsa);
            let mut opened = rig.place.open().unwrap();
            let load = Load { batches: 3, batch_leaves: 300, leaf_bytes: 512 };
            let done = appends(&mut opened, origin().as_str(), &load).unwrap();
            assert_eq!(done.leaves, 900);
            let tip = opened.reader.newest_committed().unwrap().unwrap();
            assert!(tip.frontiers.agree_with(tip.head.body()) && tip.head.body().size == 900);
            assert_eq!(opened.reader.leaf(899).unwrap().unwrap().len(), 512);
        }
    }
}
