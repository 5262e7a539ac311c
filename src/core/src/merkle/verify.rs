//! Judging proofs (RFC 9162 sections 2.1.3.2 and 2.1.4.2): hashes only, no tree needed.

use super::TreeHash;

/// Hashes that a proof of any kind can have: an inclusion path at most 63 for sizes within 63 bits, a consistency
/// proof one more.
pub const MAX_PROOF_HASHES: usize = 64;

/// Why a proof does not prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefused {
    /// The leaf index is not below the tree size, or the older tree is larger than the newer.
    #[error("index or older size is not within the tree")]
    Range,
    /// More hashes than this place in this tree has.
    #[error("the proof has too many hashes")]
    TooLong,
    /// Fewer hashes than this place in this tree has.
    #[error("the proof has too few hashes")]
    TooShort,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
    /// The hashes lead to another root of the older tree.
    #[error("the proof leads to another root of the older tree")]
    OldRoot,
}

/// Checks that the leaf with `leaf_hash` stands at `index` in the tree of `size` leaves with `root`.
///
/// # Errors
/// [`ProofRefused`].
pub fn verify_inclusion<H: TreeHash>(
    leaf_hash: &H::Digest,
    index: u64,
    size: u64,
    proof: &[H::Digest],
    root: &H::Digest,
) -> Result<(), ProofRefused> {
    if root_of_inclusion::<H>(leaf_hash, index, size, proof)? == *root {
        Ok(())
    } else {
        Err(ProofRefused::Root)
    }
}

/// The root to which the path of the leaf with `leaf_hash` at `index` leads in a tree of `size` leaves. Only as good as what says that it is
/// the root.
///
/// # Errors
/// [`ProofRefused`] for an index outside of the tree or a path of another length than this place has.
pub fn root_of_inclusion<H: TreeHash>(
    leaf_hash: &H::Digest,
    index: u64,
    size: u64,
    proof: &[H::Digest],
) -> Result<H::Digest, ProofRefused> {
    // RFC 9162 section 2.1.3.2, step 1.
    if index >= size {
        return Err(ProofRefused::Range);
    }
    if proof.len() > MAX_PROOF_HASHES {
        return Err(ProofRefused::TooLong);
    }
    // Steps 2 and 3.
    let (mut place, mut last) = (index, size - 1);
    let mut hash = *leaf_hash;
    // Step 4.
    for sibling in proof {
        if last == 0 {
            return Err(ProofRefused::TooLong);
        }
        if place & 1 == 1 || place == last {
            hash = H::node_hash(sibling, &hash);
            climb_while_even(&mut place, &mut last);
        } else {
            hash = H::node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    // Step 5.
    if last == 0 { Ok(hash) } else { Err(ProofRefused::TooShort) }
}

/// Checks that the tree of `old_size` leaves with `old_root` is a prefix of the tree of `new_size` leaves with
/// `new_root`.
///
/// RFC 9162 defines proofs for 0 < old < new. Outside of that the proof must be empty: equal sizes need equal roots,
/// and the tree without leaves, which has one known root, is a prefix of every tree.
///
/// # Errors
/// [`ProofRefused`].
pub fn verify_consistency<H: TreeHash>(
    old_size: u64,
    old_root: &H::Digest,
    new_size: u64,
    new_root: &H::Digest,
    proof: &[H::Digest],
) -> Result<(), ProofRefused> {
    if old_size > new_size {
        return Err(ProofRefused::Range);
    }
    if proof.len() > MAX_PROOF_HASHES {
        return Err(ProofRefused::TooLong);
    }
    if old_size == 0 || old_size == new_size {
        return verify_trivial::<H>(old_size, old_root, new_size, new_root, proof);
    }
    // RFC 9162 section 2.1.4.2, steps 1 and 2: a complete older tree is itself the first hash.
    let (mut old_hash, rest) = if old_size.is_power_of_two() {
        (*old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofRefused::TooShort)?;
        (*first, rest)
    };
    if rest.is_empty() {
        return Err(ProofRefused::TooShort);
    }
    // Steps 3 and 4.
    let (mut place, mut last) = (old_size - 1, new_size - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    // Step 5.
    let mut new_hash = old_hash;
    // Step 6.
    for sibling in rest {
        if last == 0 {
            return Err(ProofRefused::TooLong);
        }
        if place & 1 == 1 || place == last {
            old_hash = H::node_hash(sibling, &old_hash);
            new_hash = H::node_hash(sibling, &new_hash);
            climb_while_even(&mut place, &mut last);
        } else {
            new_hash = H::node_hash(&new_hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    // Step 7.
    if last != 0 {
        return Err(ProofRefused::TooShort);
    }
    if old_hash != *old_root {
        return Err(ProofRefused::OldRoot);
    }
    if new_hash == *new_root { Ok(()) } else { Err(ProofRefused::Root) }
}

fn verify_trivial<H: TreeHash>(
    old_size: u64,
    old_root: &H::Digest,
    new_size: u64,
    new_root: &H::Digest,
    proof: &[H::Digest],
) -> Result<(), ProofRefused> {
    if !proof.is_empty() {
        return Err(ProofRefused::TooLong);
    }
    if old_size == 0 && *old_root != H::empty_root() {
        return Err(ProofRefused::OldRoot);
    }
    if old_size == new_size && old_root != new_root {
        return Err(ProofRefused::Root);
    }
    Ok(())
}

/// "Right-shift both equally until LSB is set or it is 0": a right edge without sibling on these levels.
fn climb_while_even(place: &mut u64, last: &mut u64) {
    while *place & 1 == 0 && *place != 0 {
        *place >>= 1;
        *last >>= 1;
    }
}
