//! What the cache of tree nodes reads, and that it never gives another node than the store has.

use std::cell::RefCell;

use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest};
use countersign_core::merkle::{Sha256Tree, TreeHash as _, root_of_leaf_hashes};

use super::tiles::TileCache;
use super::{ReadFault, TripleHash};

/// Stored nodes of one level as a store has them at some moment, and every call that asked for them.
struct Level {
    there: u64,
    /// Leaves under the newest signed head.
    signed: u64,
    calls: RefCell<Vec<(u8, u64, u64)>>,
}

impl Level {
    const fn of(there: u64) -> Self {
        Self::signed(there, u64::MAX)
    }

    const fn signed(there: u64, signed: u64) -> Self {
        Self { there, signed, calls: RefCell::new(Vec::new()) }
    }

    fn ask(&self, cache: &TileCache, level: u8, index: u64) -> Result<Sha256Digest, ReadFault> {
        let signed = || Ok(self.signed);
        cache.node(level, index, signed, |stored, first, count| {
            self.calls.borrow_mut().push((stored, first, count));
            let end = first.saturating_add(count).min(self.there);
            Ok((first..end)
                .map(|index| TripleHash {
                    sha256: stored_node(index),
                    sha3_512: Sha3_512Digest::new([0; 64]),
                    blake2b_512: Blake2b512Digest::new([0; 64]),
                })
                .collect())
        })
    }
}

fn stored_node(index: u64) -> Sha256Digest {
    Sha256Tree::leaf_hash(&index.to_be_bytes())
}

/// What the node is by the RFC's definition.
fn expected(level: u8, index: u64) -> Sha256Digest {
    let count = 1 << (level - 8);
    let nodes: Vec<_> = (index * count..(index + 1) * count).map(stored_node).collect();
    root_of_leaf_hashes::<Sha256Tree>(&nodes)
}

#[test]
fn a_tile_is_read_once_for_all_of_its_nodes() {
    let (level, cache) = (Level::of(1_000), TileCache::default());
    for height in 0..8 {
        for index in (256 >> height)..(512_u64 >> height) {
            let node = level.ask(&cache, 8 + height, index).unwrap();
            assert_eq!(node, expected(8 + height, index), "height {height}, node {index}");
        }
    }
    assert_eq!(*level.calls.borrow(), [(8, 256, 256)]);
}

#[test]
fn a_tile_that_grew_is_read_again_and_one_that_did_not_is_a_fault() {
    let cache = TileCache::default();
    let short = Level::of(256 + 7);
    assert_eq!(short.ask(&cache, 9, 130).unwrap(), expected(9, 130));
    // Over nodes 262 and 263, the second of which isn't there: asked for, never made up, and not remembered as absent.
    for _ in 0..2 {
        assert_eq!(short.ask(&cache, 9, 131), Err(ReadFault::Corrupt("a tree node is missing")));
    }
    assert_eq!(short.calls.borrow().len(), 3);
    let grown = Level::of(256 + 8);
    assert_eq!(grown.ask(&cache, 9, 131).unwrap(), expected(9, 131));
    assert_eq!(grown.ask(&cache, 8, 262).unwrap(), expected(8, 262));
    assert_eq!(grown.calls.borrow().len(), 1);
}

#[test]
fn what_is_not_wholly_under_a_signed_head_is_given_and_not_kept() {
    let cache = TileCache::default();
    // All leaves of node 260 are signed, and all of node 261 but one.
    let level = Level::signed(256 + 9, 262 * 256 - 1);
    for index in (256..261).rev() {
        assert_eq!(level.ask(&cache, 8, index).unwrap(), expected(8, index));
    }
    assert_eq!(level.ask(&cache, 9, 129).unwrap(), expected(9, 129));
    assert_eq!(level.calls.borrow().len(), 1);
    for (calls, (height, index)) in (2..).zip([(8, 261), (8, 261), (9, 130), (8, 264), (9, 130)]) {
        assert_eq!(level.ask(&cache, height, index).unwrap(), expected(height, index));
        assert_eq!(level.calls.borrow().len(), calls);
    }
    let signed = Level::signed(256 + 9, 262 * 256);
    for _ in 0..2 {
        assert_eq!(signed.ask(&cache, 9, 130).unwrap(), expected(9, 130));
    }
    assert_eq!(signed.calls.borrow().len(), 1);
    // Nothing of a tile that begins above the head, and nothing of levels that a log of this length doesn't have.
    let unsigned = Level::signed(1_024, 255);
    for calls in 1..=2 {
        assert_eq!(unsigned.ask(&cache, 8, 600).unwrap(), expected(8, 600));
        assert_eq!(unsigned.calls.borrow().len(), calls);
    }
}

#[test]
fn a_read_that_failed_leaves_nothing_behind() {
    let (level, cache) = (Level::of(256), TileCache::default());
    let busy = || Err(ReadFault::Busy);
    assert_eq!(cache.node(8, 3, busy, |_, _, _| Ok(Vec::new())), Err(ReadFault::Busy));
    assert_eq!(cache.node(8, 3, || Ok(256 << 8), |_, _, _| Err(ReadFault::Busy)), Err(ReadFault::Busy));
    assert_eq!(level.ask(&cache, 8, 3).unwrap(), expected(8, 3));
}

#[test]
fn no_more_than_a_bounded_number_of_tiles_is_kept() {
    let (level, cache) = (Level::of(u64::MAX), TileCache::default());
    for tile in 0..1_025 {
        level.ask(&cache, 8, tile << 8).unwrap();
        // The first is in use all the time, so it isn't the one that goes.
        level.ask(&cache, 8, 1).unwrap();
    }
    assert_eq!(level.calls.borrow().len(), 1_025);
    level.ask(&cache, 8, 1).unwrap();
    assert_eq!(level.calls.borrow().len(), 1_025);
    level.ask(&cache, 8, 1 << 8).unwrap();
    assert_eq!(level.calls.borrow().len(), 1_026, "the second tile was the one used longest ago");
}

#[test]
fn of_the_leaves_own_level_few_tiles_are_kept_and_the_right_edge_among_them() {
    let (level, cache) = (Level::of(256 * 100 + 77), TileCache::default());
    let leaf = |index| root_of_leaf_hashes::<Sha256Tree>(&[stored_node(index)]);
    for tile in 0..100 {
        // As a proof asks: the right edge, and every height of the tile that the leaf is in.
        for (height, index) in [(6, 400), (3, 3_208), (2, 6_418), (0, 25_676)] {
            level.ask(&cache, height, index).unwrap();
        }
        for height in (0..8).rev() {
            level.ask(&cache, height, ((tile << 8) >> height) + 1 % (256 >> height)).unwrap();
        }
        assert_eq!(level.ask(&cache, 0, (tile << 8) + 9).unwrap(), leaf((tile << 8) + 9));
    }
    let calls = level.calls.borrow();
    assert_eq!(calls.len(), 101, "one read for each tile and one for the edge");
    assert_eq!(calls.iter().filter(|call| **call == (0, 25_600, 256)).count(), 1);
}
