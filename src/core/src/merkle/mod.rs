//! Merkle trees over leaf bytes (RFC 9162 section 2.1), generic over the hash.
//!
//! In: leaf bytes, tree nodes, proofs. Out: roots, proofs, and the yes or no of a verification. The same leaf bytes
//! go into three trees; a [`TreeHash`] names each. Nodes are stored elsewhere: [`Frontier`] says which perfect
//! subtrees each append completes, [`NodeSource`] gives them back. Refused: a proof that is too long, too short, or
//! leads to another root.

mod frontier;
mod proof;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::hash::Hash;

use blake2::Blake2b512;
use sha2::{Digest as _, Sha256};
use sha3::Sha3_512;

use crate::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest};

pub use frontier::{Frontier, FrontierError, Node};
pub use proof::{NodeSource, ProofError, consistency_proof, inclusion_proof, root_at};
pub use verify::{MAX_PROOF_HASHES, ProofRefused, root_of_inclusion, verify_consistency, verify_inclusion};

/// Leaves that a tree can have: sizes stay within 63 bits, as stores and other log software keep them signed.
pub const MAX_TREE_SIZE: u64 = i64::MAX.cast_unsigned();

/// One hash function in the role of RFC 9162 section 2.1.1.
pub trait TreeHash {
    /// A node of this tree.
    type Digest: AsRef<[u8]> + Copy + Eq + fmt::Debug + Hash + Send + Sync + 'static;

    /// Name of the function, as it stands in a head body.
    const NAME: &'static str;
    /// Bytes of a digest.
    const DIGEST_LEN: usize;

    /// Root of the tree without leaves: HASH().
    fn empty_root() -> Self::Digest;
    /// HASH(0x00 || leaf).
    fn leaf_hash(leaf: &[u8]) -> Self::Digest;
    /// HASH(0x01 || left || right).
    fn node_hash(left: &Self::Digest, right: &Self::Digest) -> Self::Digest;
    /// A stored node; `None` for a wrong length.
    fn digest_from_slice(bytes: &[u8]) -> Option<Self::Digest>;
}

macro_rules! tree_hash {
    ($(#[$doc:meta])* $name:ident, $hash:ty, $digest:ty, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl TreeHash for $name {
            type Digest = $digest;

            const NAME: &'static str = $text;
            const DIGEST_LEN: usize = <$digest>::LEN;

            fn empty_root() -> Self::Digest {
                <$digest>::new(<$hash>::digest([]).into())
            }

            // RFC 9162 section 2.1.1: the prefixes keep leaves and nodes apart.
            fn leaf_hash(leaf: &[u8]) -> Self::Digest {
                let hash = <$hash>::new().chain_update([0x00]).chain_update(leaf);
                <$digest>::new(hash.finalize().into())
            }

            fn node_hash(left: &Self::Digest, right: &Self::Digest) -> Self::Digest {
                let hash = <$hash>::new().chain_update([0x01]).chain_update(left).chain_update(right);
                <$digest>::new(hash.finalize().into())
            }

            fn digest_from_slice(bytes: &[u8]) -> Option<Self::Digest> {
                <$digest>::from_slice(bytes).ok()
            }
        }
    };
}

tree_hash!(
    /// The SHA-256 tree: receipts and witnesses.
    Sha256Tree,
    Sha256,
    Sha256Digest,
    "sha-256"
);
tree_hash!(
    /// The SHA3-512 tree.
    Sha3_512Tree,
    Sha3_512,
    Sha3_512Digest,
    "sha3-512"
);
tree_hash!(
    /// The BLAKE2b-512 tree.
    Blake2b512Tree,
    Blake2b512,
    Blake2b512Digest,
    "blake2b-512"
);

/// Root of the SHA-256 tree whose leaves are the 32-byte digests, in their order (RFC 9162 section 2.1.1).
pub fn root_of_digests(digests: &[Sha256Digest]) -> Sha256Digest {
    let hashes: Vec<Sha256Digest> = digests.iter().map(|d| Sha256Tree::leaf_hash(d.as_bytes())).collect();
    root_of_leaf_hashes::<Sha256Tree>(&hashes)
}

/// Root of the tree over leaf hashes, in their order (RFC 9162 section 2.1.1).
pub fn root_of_leaf_hashes<H: TreeHash>(leaf_hashes: &[H::Digest]) -> H::Digest {
    let mut level = leaf_hashes.to_vec();
    // Pairing neighbours and carrying an odd last one upwards splits at the same places as the recursive definition.
    while level.len() > 1 {
        level = (level.chunks(2))
            .filter_map(|pair| match pair {
                [left, right] => Some(H::node_hash(left, right)),
                [alone] => Some(*alone),
                _ => None,
            })
            .collect();
    }
    level.first().copied().unwrap_or_else(H::empty_root)
}

/// The largest power of two smaller than `n`, for n > 1 (RFC 9162 section 2.1.1).
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}
