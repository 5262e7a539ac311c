//! Tree nodes out of a store: levels between the stored ones are hashed on the way.

use countersign_core::merkle::{
    Blake2b512Tree, NodeSource, Sha3_512Tree, Sha256Tree, TreeHash, root_of_leaf_hashes,
};

use super::{LogReader, NODE_LEVELS, ReadFault, TripleHash};

/// The three trees of a store as node sources. Reads at most 256 stored nodes for one node.
#[derive(Clone, Copy)]
pub struct StoredTree<'a, R: LogReader + ?Sized>(pub &'a R);

impl<R: LogReader + ?Sized> StoredTree<'_, R> {
    fn subtree<H: TreeHash>(
        &self,
        level: u8,
        index: u64,
        pick: impl Fn(&TripleHash) -> H::Digest,
    ) -> Result<H::Digest, ReadFault> {
        let stored = level - level % NODE_LEVELS;
        let count = 1_u64 << (level % NODE_LEVELS);
        let missing = ReadFault::Corrupt("a tree node is missing");
        let first = index.checked_mul(count).ok_or(missing.clone())?;
        let nodes: Vec<H::Digest> = self.0.nodes(stored, first, count)?.iter().map(pick).collect();
        // A perfect subtree from fewer nodes would be another tree's root, not an approximation.
        if nodes.len() as u64 == count { Ok(root_of_leaf_hashes::<H>(&nodes)) } else { Err(missing) }
    }
}

impl<R: LogReader + ?Sized> NodeSource<Sha256Tree> for StoredTree<'_, R> {
    type Error = ReadFault;

    fn node(&self, level: u8, index: u64) -> Result<<Sha256Tree as TreeHash>::Digest, ReadFault> {
        let signed = || Ok(self.0.newest_signed()?.map_or(0, |head| head.body().size));
        self.0.tiles().node(level, index, signed, |stored, first, count| self.0.nodes(stored, first, count))
    }
}

impl<R: LogReader + ?Sized> NodeSource<Sha3_512Tree> for StoredTree<'_, R> {
    type Error = ReadFault;

    fn node(&self, level: u8, index: u64) -> Result<<Sha3_512Tree as TreeHash>::Digest, ReadFault> {
        self.subtree::<Sha3_512Tree>(level, index, |hashes| hashes.sha3_512)
    }
}

impl<R: LogReader + ?Sized> NodeSource<Blake2b512Tree> for StoredTree<'_, R> {
    type Error = ReadFault;

    fn node(&self, level: u8, index: u64) -> Result<<Blake2b512Tree as TreeHash>::Digest, ReadFault> {
        self.subtree::<Blake2b512Tree>(level, index, |hashes| hashes.blake2b_512)
    }
}
