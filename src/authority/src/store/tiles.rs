//! The upper tree nodes that proofs have asked for, kept in memory: what a proof costs doesn't grow with the log (C2SP tlog-tiles calls 256 nodes
//! of one level a tile).
//!
//! In: stored nodes of the levels from [`NODE_LEVELS`] on, as a store reads them. Out: roots of perfect subtrees. Nothing here is ever out of date:
//! kept is only what lies wholly under a signed head, which no store takes back. A node above it is read each time that somebody asks for it: a
//! failover can end in another past there. A tile whose end wasn't signed yet is read again when a node behind that end is asked for. Refused: a node
//! that the store doesn't have.

use std::sync::{Arc, Mutex, PoisonError};

use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{Sha256Tree, TreeHash as _};
use hashlink::LruCache;

use super::{NODE_LEVELS, ReadFault, TripleHash};

/// Stored nodes of a tile.
const TILE_NODES: u64 = 1 << NODE_LEVELS;
/// Tiles that are kept, 16 KiB each: all upper nodes of a log of 67 million leaves. Of a longer one, those used last.
const MAX_TILES: usize = 1_024;

/// Tiles of the SHA-256 tree, those used last. Proofs are made of no other tree: the two wide trees are for who reads the whole log.
#[derive(Debug)]
pub struct TileCache(Mutex<LruCache<(u8, u64), Arc<Tile>>>);

impl Default for TileCache {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_TILES)))
    }
}

impl TileCache {
    /// Root of the perfect subtree at `level`, which is [`NODE_LEVELS`] or more. `read` gives stored nodes of a level from the first on, as
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
        if let Some(node) = self.kept(stored, tile).and_then(|tile| tile.node(height, place)) {
            return Ok(node);
        }
        // Others may read the same tile meanwhile: no lock is held while the store is read.
        let first = tile << NODE_LEVELS;
        // Leaves that are under a signed head now stay what they are, whatever happens between these two reads.
        let complete = signed()?.checked_shr(u32::from(stored)).unwrap_or(0).saturating_sub(first);
        let nodes: Vec<Sha256Digest> =
            read(stored, first, TILE_NODES)?.iter().map(|hashes| hashes.sha256).collect();
        let lasting: Vec<Sha256Digest> =
            nodes.iter().take(usize::try_from(complete).unwrap_or(usize::MAX)).copied().collect();
        let whole = lasting.len() == nodes.len();
        let lasting = Arc::new(Tile::over(lasting));
        let node = if whole { lasting.node(height, place) } else { Tile::over(nodes).node(height, place) };
        self.tiles().insert((stored, tile), lasting);
        node.ok_or(ReadFault::Corrupt("a tree node is missing"))
    }

    fn kept(&self, stored: u8, tile: u64) -> Option<Arc<Tile>> {
        self.tiles().get(&(stored, tile)).map(Arc::clone)
    }

    fn tiles(&self) -> std::sync::MutexGuard<'_, LruCache<(u8, u64), Arc<Tile>>> {
        // Whoever panicked with the lock had put a whole tile there or none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
