//! The frontier: the roots of the perfect subtrees that make up a tree, and nothing else of it.
//!
//! At most 63 nodes whatever the size, enough to append and to compute the root. Kept beside the tree in the store
//! and checked when it comes back.

use std::marker::PhantomData;

use super::{MAX_TREE_SIZE, TreeHash};

/// Root of a perfect subtree: it covers the leaves from `index << level` on, `1 << level` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<D> {
    /// 0 for a leaf hash.
    pub level: u8,
    /// Position within the level, from the left.
    pub index: u64,
    /// The node itself.
    pub hash: D,
}

/// Why a frontier can't be read or grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontierError {
    /// The tree has [`MAX_TREE_SIZE`] leaves, or claims to have more.
    #[error("a tree has at most {MAX_TREE_SIZE} leaves")]
    Size,
    /// The stored bytes are not what a frontier of that size takes.
    #[error("a frontier of {size} leaves takes {expected} bytes, {got} bytes were given")]
    Length {
        /// Size that the bytes state (0 if they are too short to state one).
        size: u64,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
}

/// The right edge of a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Frontier<H: TreeHash> {
    size: u64,
    /// One node for each bit of `size` that is set, the largest subtree first.
    nodes: Vec<H::Digest>,
    hash: PhantomData<H>,
}

// Written out because a derive would ask for `H: Clone`.
impl<H: TreeHash> Clone for Frontier<H> {
    fn clone(&self) -> Self {
        Self { size: self.size, nodes: self.nodes.clone(), hash: PhantomData }
    }
}

impl<H: TreeHash> Default for Frontier<H> {
    fn default() -> Self {
        Self { size: 0, nodes: Vec::new(), hash: PhantomData }
    }
}

impl<H: TreeHash> Frontier<H> {
    /// The frontier of the tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The nodes, the largest subtree first.
    pub fn nodes(&self) -> &[H::Digest] {
        &self.nodes
    }

    /// Appends a leaf hash and hands every node that it completes to `completed`: first the leaf hash itself, then
    /// the perfect subtrees that end with it, upwards. Each node of a tree is handed out exactly once in its life.
    ///
    /// # Errors
    /// [`FrontierError::Size`] when the tree is full; nothing has changed then.
    pub fn append(
        &mut self,
        leaf_hash: H::Digest,
        mut completed: impl FnMut(Node<H::Digest>),
    ) -> Result<(), FrontierError> {
        if self.size >= MAX_TREE_SIZE {
            return Err(FrontierError::Size);
        }
        let mut node = Node { level: 0, index: self.size, hash: leaf_hash };
        completed(node);
        // An odd index closes the pair whose left half is the smallest subtree so far, like a carry in binary.
        while node.index & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            let hash = H::node_hash(&left, &node.hash);
            node = Node { level: node.level + 1, index: node.index >> 1, hash };
            completed(node);
        }
        self.nodes.push(node.hash);
        self.size += 1;
        Ok(())
    }

    /// The root (RFC 9162 section 2.1.1).
    pub fn root(&self) -> H::Digest {
        let mut nodes = self.nodes.iter().rev();
        let Some(smallest) = nodes.next() else { return H::empty_root() };
        nodes.fold(*smallest, |right, left| H::node_hash(left, &right))
    }

    /// `size` as u64 big-endian, then the nodes, the largest subtree first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.nodes.len() * H::DIGEST_LEN);
        out.extend_from_slice(&self.size.to_be_bytes());
        self.nodes.iter().for_each(|node| out.extend_from_slice(node.as_ref()));
        out
    }

    /// Reads what [`Frontier::to_bytes`] wrote. Whether the nodes are right, only a comparison of
    /// [`Frontier::root`] with a known root can tell.
    ///
    /// # Errors
    /// [`FrontierError`] for an impossible size or any other length than that size needs.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrontierError> {
        let got = bytes.len();
        let Some((size, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(FrontierError::Length { size: 0, expected: 8, got });
        };
        let size = u64::from_be_bytes(*size);
        if size > MAX_TREE_SIZE {
            return Err(FrontierError::Size);
        }
        let expected = 8 + size.count_ones() as usize * H::DIGEST_LEN;
        let wrong = FrontierError::Length { size, expected, got };
        if got != expected {
            return Err(wrong);
        }
        let nodes = rest.chunks(H::DIGEST_LEN).map(H::digest_from_slice).collect::<Option<Vec<_>>>();
        Ok(Self { size, nodes: nodes.ok_or(wrong)?, hash: PhantomData })
    }
}
