//! Growing the three trees by a batch, and proofs for the leaves of that batch out of memory.
//!
//! What the proofs need are the right edge that the batch started from and the subtrees that it completed: a leaf of the batch has no
//! other neighbours. So they cost hashes, no reads.

use std::sync::Arc;

use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{
    Blake2b512Tree, Frontier, FrontierError, Node, NodeSource, ProofError, Sha3_512Tree, Sha256Tree,
    TreeHash, inclusion_proof,
};

use crate::store::{Frontiers, LeafReceipt, NODE_LEVELS, NewNode, TripleHash};

/// The three trees while a batch grows.
pub(super) struct Growth {
    frontiers: Frontiers,
    levels: Vec<Level>,
    nodes: Vec<NewNode>,
    /// Reused between leaves.
    completed: Completed,
}

#[derive(Default)]
struct Completed {
    sha256: Vec<Node<Sha256Digest>>,
    sha3_512: Vec<<Sha3_512Tree as TreeHash>::Digest>,
    blake2b_512: Vec<<Blake2b512Tree as TreeHash>::Digest>,
}

/// SHA-256 subtrees of one level: those of the old right edge and of the batch stand side by side, so one index leads to each.
#[derive(Clone, Debug, Default)]
struct Level {
    first: u64,
    hashes: Vec<Sha256Digest>,
}

impl Growth {
    pub(super) fn from(frontiers: Frontiers) -> Self {
        let size = frontiers.sha256.size();
        let mut levels: Vec<Level> = Vec::new();
        // One node for each bit of the size that is set, the largest subtree first.
        let bits = (0..u64::BITS).rev().filter(|bit| size >> bit & 1 == 1);
        for (bit, hash) in bits.zip(frontiers.sha256.nodes()) {
            let level = level_mut(&mut levels, bit as usize);
            *level = Level { first: (size >> bit) - 1, hashes: vec![*hash] };
        }
        Self { frontiers, levels, nodes: Vec::new(), completed: Completed::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.frontiers.sha256.size()
    }

    pub(super) fn append(&mut self, leaf: &[u8]) -> Result<TripleHash, FrontierError> {
        let hashes = TripleHash {
            sha256: Sha256Tree::leaf_hash(leaf),
            sha3_512: Sha3_512Tree::leaf_hash(leaf),
            blake2b_512: Blake2b512Tree::leaf_hash(leaf),
        };
        let done = &mut self.completed;
        done.sha256.clear();
        done.sha3_512.clear();
        done.blake2b_512.clear();
        grow(&mut self.frontiers.sha256, hashes.sha256, |node| done.sha256.push(node))?;
        grow(&mut self.frontiers.sha3_512, hashes.sha3_512, |node| done.sha3_512.push(node.hash))?;
        grow(&mut self.frontiers.blake2b_512, hashes.blake2b_512, |node| done.blake2b_512.push(node.hash))?;
        for (node, (sha3_512, blake2b_512)) in
            done.sha256.iter().zip(done.sha3_512.iter().zip(&done.blake2b_512))
        {
            let level = level_mut(&mut self.levels, usize::from(node.level));
            if level.hashes.is_empty() {
                level.first = node.index;
            }
            level.hashes.push(node.hash);
            if node.level > 0 && node.level % NODE_LEVELS == 0 {
                let hashes = TripleHash { sha256: node.hash, sha3_512: *sha3_512, blake2b_512: *blake2b_512 };
                self.nodes.push(NewNode { level: node.level, index: node.index, hashes });
            }
        }
        Ok(hashes)
    }

    /// Right edges, completed subtrees to store, and the memory for proofs.
    pub(super) fn finish(self) -> (Frontiers, Vec<NewNode>, BatchTree) {
        let size = self.frontiers.sha256.size();
        (self.frontiers, self.nodes, BatchTree { size, levels: self.levels })
    }
}

fn grow<H: TreeHash>(
    frontier: &mut Frontier<H>,
    leaf_hash: H::Digest,
    completed: impl FnMut(Node<H::Digest>),
) -> Result<(), FrontierError> {
    frontier.append(leaf_hash, completed)
}

fn level_mut(levels: &mut Vec<Level>, level: usize) -> &mut Level {
    if levels.len() <= level {
        levels.resize_with(level + 1, Level::default);
    }
    // The length was just seen to; a tree has fewer than 64 levels.
    let last = levels.len() - 1;
    #[expect(clippy::indexing_slicing, reason = "the vector was made long enough two lines above")]
    &mut levels[level.min(last)]
}

/// The SHA-256 tree as far as the leaves of one batch need it.
#[derive(Clone, Debug, Default)]
pub(super) struct BatchTree {
    size: u64,
    levels: Vec<Level>,
}

/// A node that no leaf of the batch has in its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotInBatch;

impl NodeSource<Sha256Tree> for BatchTree {
    type Error = NotInBatch;

    fn node(&self, level: u8, index: u64) -> Result<Sha256Digest, NotInBatch> {
        let level = self.levels.get(usize::from(level)).ok_or(NotInBatch)?;
        let at = index.checked_sub(level.first).and_then(|at| usize::try_from(at).ok()).ok_or(NotInBatch)?;
        level.hashes.get(at).copied().ok_or(NotInBatch)
    }
}

impl BatchTree {
    /// A leaf of this batch with its proof under the batch's head.
    pub(super) fn receipt(&self, index: u64, leaf: Arc<[u8]>) -> Result<LeafReceipt, ProofError<NotInBatch>> {
        let proof = inclusion_proof::<Sha256Tree, _>(index, self.size, self)?;
        let leaf_hash = self.node(0, index).map_err(ProofError::Source)?;
        Ok(LeafReceipt { index, leaf, leaf_hash, proof })
    }
}
