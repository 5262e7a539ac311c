//! Tree nodes that proofs have asked for, kept in memory: what a proof costs doesn't grow with the log (C2SP tlog-tiles calls 256 nodes of one level a
//! tile). Of the leaves' own level there are few, those used last: the right edge, which is part of every proof, is among them.
//!
//! In: stored nodes, as a store reads them. Out: roots of perfect subtrees. Nothing here is ever out of date:
//! kept is only what lies wholly under a signed head, which no store takes back. A node above it is read each time that somebody asks for it: a
//! failover can end in another past there. A tile whose end wasn't signed yet is read again when a node behind that end is asked for. Refused: a node
//! that the store doesn't have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{Sha256Tree, TreeHash as _};
use hashlink::LruCache;

use super::{NODE_LEVELS, ReadFault, TripleHash};

/// Stored nodes of a tile.
const TILE_NODES: u64 = 1 << NODE_LEVELS;
/// Tiles that are kept, 16 KiB each: all upper nodes of a log of 67 million leaves. Of a longer one, those used last.
const MAX_TILES: usize = 1_024;

/// Tiles of leaf hashes that are kept: the right edges of the heads that proofs are made for, and the neighbours of the leaf that is proven.
const MAX_LEAF_TILES: usize = 8;

/// Tiles by stored level and place.
type Kept = Mutex<LruCache<(u8, u64), Arc<Tile>>>;

/// Tiles of the SHA-256 tree, those used last. Proofs are made of no other tree: the two wide trees are for who reads the whole log.
#[derive(Debug)]
pub struct TileCache {
    leaves: Kept,
    upper: Kept,
    /// Leaves that were under a signed head when somebody looked.
    signed: AtomicU64,
}

impl Default for TileCache {
    fn default() -> Self {
        let of = |most| Mutex::new(LruCache::new(most));
        Self { leaves: of(MAX_LEAF_TILES), upper: of(MAX_TILES), signed: AtomicU64::new(0) }
    }
}

impl TileCache {
    /// Root of the perfect subtree at `level`. `read` gives stored nodes of a level from the first on, as
    /// [`super::LogReader::nodes`] does, and `signed` the number of leaves under the newest signed head; they are asked for whole tiles, and only
    /// for those that are not here.
    pub(super) fn node(
        &self,
        level: u8,
        index: u64,
        signed: impl FnOnce() -> Result<u64, ReadFault>,
        read: impl FnOnce(u8, u64, u64) -> Result<Vec<TripleHash>, ReadFault>,
    ) -> Result<Sha256Digest, ReadFault> {
        let height = level % NODE_LEVELS;
        let stored = level - height;
        let tile = index >> (NODE_LEVELS - height);
        let place = index % (TILE_NODES >> height);
        let kept = if stored == 0 { &self.leaves } else { &self.upper };
        let found = lock(kept).get(&(stored, tile)).map(Arc::clone);
        if let Some(node) = found.and_then(|tile| tile.node(height, place)) {
            return Ok(node);
        }
        // Others may read the same tile meanwhile: no lock is held while the store is read.
        let first = tile << NODE_LEVELS;
        // Leaves that are under a signed head now stay what they are, whatever happens between these two reads.
        let complete = self.signed(stored, first.saturating_add(TILE_NODES), signed)?.saturating_sub(first);
        let nodes: Vec<Sha256Digest> =
            read(stored, first, TILE_NODES)?.iter().map(|hashes| hashes.sha256).collect();
        let lasting: Vec<Sha256Digest> =
            nodes.iter().take(usize::try_from(complete).unwrap_or(usize::MAX)).copied().collect();
        let whole = lasting.len() == nodes.len();
        let lasting = Arc::new(Tile::over(lasting));
        let node = if whole { lasting.node(height, place) } else { Tile::over(nodes).node(height, place) };
        lock(kept).insert((stored, tile), lasting);
        node.ok_or(ReadFault::Corrupt("a tree node is missing"))
    }

    /// How many nodes of a stored level are wholly under a signed head, as far as it is known; looked up if those up to `end` aren't known to be.
    fn signed(
        &self,
        stored: u8,
        end: u64,
        look: impl FnOnce() -> Result<u64, ReadFault>,
    ) -> Result<u64, ReadFault> {
        let under = |leaves: u64| leaves.checked_shr(u32::from(stored)).unwrap_or(0);
        let known = under(self.signed.load(Ordering::SeqCst));
        if known >= end {
            return Ok(known);
        }
        let leaves = look()?;
        // What is under a signed head stays there.
        Ok(under(self.signed.fetch_max(leaves, Ordering::SeqCst).max(leaves)))
    }
}

fn lock(kept: &Kept) -> MutexGuard<'_, LruCache<(u8, u64), Arc<Tile>>> {
    // Whoever panicked with the lock had put a whole tile there or none.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stored nodes of a tile, as many as there were, and the perfect subtrees over them.
#[derive(Debug)]
struct Tile {
    /// By height above the stored level.
    rows: Vec<Vec<Sha256Digest>>,
}

impl Tile {
    fn over(nodes: Vec<Sha256Digest>) -> Self {
        let mut rows = vec![nodes];
        for _ in 1..NODE_LEVELS {
            let below = rows.last().map_or(&[][..], Vec::as_slice);
            let pairs = below.as_chunks::<2>().0.iter();
            rows.push(pairs.map(|[left, right]| Sha256Tree::node_hash(left, right)).collect());
        }
        Self { rows }
    }

    fn node(&self, height: u8, place: u64) -> Option<Sha256Digest> {
        self.rows.get(usize::from(height))?.get(usize::try_from(place).ok()?).copied()
    }
}
