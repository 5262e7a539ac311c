//! Making proofs from stored nodes (RFC 9162 sections 2.1.3.1 and 2.1.4.1).
//!
//! Only perfect subtrees are read from the [`NodeSource`]; the ragged right edge is hashed on the way. A proof reads
//! at most about 2 log2(size) nodes.

use super::{MAX_TREE_SIZE, TreeHash, split};

/// Gives back the nodes that [`super::Frontier::append`] handed out.
///
/// Contract: `node(level, index)` is the root of the perfect subtree over the leaves from `index << level` on,
/// `1 << level` of them. It is asked only for subtrees that lie wholly within the tree that the proof is about. A
/// missing node is an error of the source, never a default.
pub trait NodeSource<H: TreeHash> {
    /// What reading can fail with.
    type Error;

    /// Reads one node.
    ///
    /// # Errors
    /// Whatever keeps the node from being read, its absence included.
    fn node(&self, level: u8, index: u64) -> Result<H::Digest, Self::Error>;
}

/// Why a proof can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError<E> {
    /// The leaf or the older tree is not within the tree, or the tree is larger than a tree can be.
    #[error("{inner} is not within a tree of {size} leaves")]
    Range {
        /// Leaf index or older size.
        inner: u64,
        /// Tree size.
        size: u64,
    },
    /// The node source failed.
    #[error("a tree node can't be read")]
    Source(#[source] E),
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`ProofError`].
pub fn root_at<H: TreeHash, S: NodeSource<H>>(
    size: u64,
    source: &S,
) -> Result<H::Digest, ProofError<S::Error>> {
    if size > MAX_TREE_SIZE {
        return Err(ProofError::Range { inner: size, size: MAX_TREE_SIZE });
    }
    if size == 0 { Ok(H::empty_root()) } else { range_root::<H, S>(0, size, source) }
}

/// The inclusion path of leaf `index` in the tree of the first `size` leaves, from the leaf's sibling upwards.
///
/// # Errors
/// [`ProofError`].
pub fn inclusion_proof<H: TreeHash, S: NodeSource<H>>(
    index: u64,
    size: u64,
    source: &S,
) -> Result<Vec<H::Digest>, ProofError<S::Error>> {
    if index >= size || size > MAX_TREE_SIZE {
        return Err(ProofError::Range { inner: index, size });
    }
    // RFC 9162 section 2.1.3.1, from the root down and turned round at the end.
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(range_root::<H, S>(middle, high, source)?);
            high = middle;
        } else {
            path.push(range_root::<H, S>(low, middle, source)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of the first `old` leaves is a prefix of the tree of the first `new` leaves. Empty when
/// `old` is 0 or equal to `new`: the RFC defines a proof only between those.
///
/// # Errors
/// [`ProofError`].
pub fn consistency_proof<H: TreeHash, S: NodeSource<H>>(
    old: u64,
    new: u64,
    source: &S,
) -> Result<Vec<H::Digest>, ProofError<S::Error>> {
    if old > new || new > MAX_TREE_SIZE {
        return Err(ProofError::Range { inner: old, size: new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    // RFC 9162 section 2.1.4.1, from the root down and turned round at the end. `old` stays absolute: the older
    // tree's last subtree is reached when it ends where the range ends.
    let (mut low, mut high) = (0, new);
    let mut whole = true;
    let mut path = Vec::new();
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            path.push(range_root::<H, S>(middle, high, source)?);
            high = middle;
        } else {
            path.push(range_root::<H, S>(low, middle, source)?);
            low = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range_root::<H, S>(low, high, source)?);
    }
    path.reverse();
    Ok(path)
}

/// MTH(D[low:high]) for a range that the recursion of RFC 9162 section 2.1.1 produces: `low` is a multiple of a
/// power of two that is not smaller than the range, and the range is not empty.
fn range_root<H: TreeHash, S: NodeSource<H>>(
    low: u64,
    high: u64,
    source: &S,
) -> Result<H::Digest, ProofError<S::Error>> {
    // The range is a sequence of perfect subtrees, one per bit of its length, the largest first.
    let mut subtrees = Vec::new();
    let mut start = low;
    let mut left = high - low;
    while left > 0 {
        let level = left.ilog2();
        // At most 62, since sizes stay within 63 bits.
        let level_byte = u8::try_from(level).unwrap_or(u8::MAX);
        subtrees.push(source.node(level_byte, start >> level).map_err(ProofError::Source)?);
        start += 1 << level;
        left -= 1 << level;
    }
    let root = subtrees.into_iter().rev().reduce(|right, left| H::node_hash(&left, &right));
    Ok(root.unwrap_or_else(H::empty_root))
}
