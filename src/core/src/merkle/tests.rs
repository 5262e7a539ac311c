//! Known answers of the published 8-leaf tree, two oracles (the recursive definition, ct-merkle), every proof of
//! every small tree, and one refusal per way to be wrong.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

/// Nodes as a store would keep them.
struct Nodes<H: TreeHash>(HashMap<(u8, u64), H::Digest>);

#[derive(Debug, PartialEq, Eq)]
struct Missing(u8, u64);

impl<H: TreeHash> NodeSource<H> for Nodes<H> {
    type Error = Missing;

    fn node(&self, level: u8, index: u64) -> Result<H::Digest, Missing> {
        self.0.get(&(level, index)).copied().ok_or(Missing(level, index))
    }
}

fn leaf(i: u64) -> Vec<u8> {
    format!("leaf {i}").into_bytes()
}

fn grow<H: TreeHash>(leaves: &[Vec<u8>]) -> (Frontier<H>, Nodes<H>) {
    let mut frontier = Frontier::<H>::new();
    let mut nodes = HashMap::new();
    for leaf in leaves {
        frontier
            .append(H::leaf_hash(leaf), |node| {
                let before = nodes.insert((node.level, node.index), node.hash);
                assert!(before.is_none(), "node {node:?} was completed twice");
            })
            .unwrap();
    }
    (frontier, Nodes(nodes))
}

/// RFC 9162 section 2.1.1, word by word.
fn mth<H: TreeHash>(leaves: &[Vec<u8>]) -> H::Digest {
    match leaves {
        [] => H::empty_root(),
        [leaf] => H::leaf_hash(leaf),
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            H::node_hash(&mth::<H>(&leaves[..k]), &mth::<H>(&leaves[k..]))
        }
    }
}

/// RFC 9162 section 2.1.3.1, word by word.
fn path<H: TreeHash>(m: usize, leaves: &[Vec<u8>]) -> Vec<H::Digest> {
    if leaves.len() == 1 {
        return vec![];
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    let mut out = if m < k { path::<H>(m, left) } else { path::<H>(m - k, right) };
    out.push(if m < k { mth::<H>(right) } else { mth::<H>(left) });
    out
}

/// RFC 9162 section 2.1.4.1, word by word.
fn subproof<H: TreeHash>(m: usize, leaves: &[Vec<u8>], whole: bool) -> Vec<H::Digest> {
    if m == leaves.len() {
        return if whole { vec![] } else { vec![mth::<H>(leaves)] };
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(k);
    let mut out = if m <= k { subproof::<H>(m, left, whole) } else { subproof::<H>(m - k, right, false) };
    out.push(if m <= k { mth::<H>(right) } else { mth::<H>(left) });
    out
}

/// The leaves that Certificate Transparency implementations share as test data.
fn ct_leaves() -> Vec<Vec<u8>> {
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
        .iter()
        .map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap())
        .collect()
}

#[test]
fn the_published_eight_leaf_tree_has_its_roots() {
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves = ct_leaves();
    for (size, root) in roots.iter().enumerate() {
        let (frontier, nodes) = grow::<Sha256Tree>(&leaves[..size]);
        assert_eq!(frontier.root().to_hex(), *root, "size {size}");
        assert_eq!(root_at(size as u64, &nodes), Ok(frontier.root()));
    }
}

#[test]
fn the_published_eight_leaf_tree_has_its_proofs() {
    let (_, nodes) = grow::<Sha256Tree>(&ct_leaves());
    let hex = |proof: Vec<Sha256Digest>| proof.iter().map(Sha256Digest::to_hex).collect::<Vec<_>>();
    assert_eq!(
        hex(inclusion_proof(5, 8, &nodes).unwrap()),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        hex(consistency_proof(6, 8, &nodes).unwrap()),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
}

/// Every proof of every tree up to `most` leaves is the RFC's and verifies; every neighbouring claim is refused.
fn check_every_small_tree<H: TreeHash>(most: u64) {
    let leaves: Vec<Vec<u8>> = (0..most).map(leaf).collect();
    let (_, nodes) = grow::<H>(&leaves);
    let root = |size: u64| mth::<H>(&leaves[..usize::try_from(size).unwrap()]);
    for size in 0..=most {
        let leaves = &leaves[..usize::try_from(size).unwrap()];
        assert_eq!(grow::<H>(leaves).0.root(), root(size));
        for index in 0..size {
            let at = usize::try_from(index).unwrap();
            let proof = inclusion_proof::<H, _>(index, size, &nodes).unwrap();
            assert_eq!(proof, path::<H>(at, leaves), "leaf {index} of {size}");
            let hash = H::leaf_hash(&leaves[at]);
            assert_eq!(verify_inclusion::<H>(&hash, index, size, &proof, &root(size)), Ok(()));
            for other in (0..size).filter(|other| *other != index) {
                assert!(verify_inclusion::<H>(&hash, other, size, &proof, &root(size)).is_err());
            }
        }
        for old in 0..=size {
            let proof = consistency_proof::<H, _>(old, size, &nodes).unwrap();
            if old > 0 {
                let expected = subproof::<H>(usize::try_from(old).unwrap(), leaves, true);
                assert_eq!(proof, expected, "{old} to {size}");
            }
            assert_eq!(verify_consistency::<H>(old, &root(old), size, &root(size), &proof), Ok(()));
            for other in (0..=size).filter(|other| *other != old) {
                let refused = verify_consistency::<H>(other, &root(old), size, &root(size), &proof);
                assert!(refused.is_err(), "{other} for {old} to {size}");
            }
        }
    }
}

#[test]
fn every_proof_of_every_small_sha_256_tree_holds() {
    check_every_small_tree::<Sha256Tree>(34);
}

#[test]
fn every_proof_of_every_small_sha3_512_tree_holds() {
    check_every_small_tree::<Sha3_512Tree>(12);
}

#[test]
fn every_proof_of_every_small_blake2b_512_tree_holds() {
    check_every_small_tree::<Blake2b512Tree>(12);
}

#[test]
fn another_implementation_agrees_on_roots_and_proofs() {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut oracle_blake = MemoryBackedTree::<Blake2b512, Vec<u8>>::new();
    let mut leaves = Vec::new();
    for size in 1..=70u64 {
        leaves.push(leaf(size));
        oracle.push(leaf(size));
        oracle_blake.push(leaf(size));
        let (frontier, nodes) = grow::<Sha256Tree>(&leaves);
        assert_eq!(frontier.root().as_bytes()[..], oracle.root().as_bytes()[..]);
        let (blake, _) = grow::<Blake2b512Tree>(&leaves);
        assert_eq!(blake.root().as_bytes()[..], oracle_blake.root().as_bytes()[..]);
        let concat = |proof: Vec<Sha256Digest>| proof.iter().flat_map(|d| *d.as_bytes()).collect::<Vec<u8>>();
        for index in [0, size / 3, size / 2, size - 1] {
            let theirs = oracle.prove_inclusion(usize::try_from(index).unwrap());
            let ours = inclusion_proof(index, size, &nodes).unwrap();
            assert_eq!(concat(ours), theirs.as_bytes(), "leaf {index} of {size}");
        }
        for old in [1, size / 3, size / 2, size - 1].into_iter().filter(|old| *old > 0 && *old < size) {
            let theirs = oracle.prove_consistency(usize::try_from(size - old).unwrap());
            let ours = consistency_proof(old, size, &nodes).unwrap();
            assert_eq!(concat(ours), theirs.as_bytes(), "{old} to {size}");
        }
    }
}

#[test]
fn a_changed_proof_is_refused() {
    let leaves: Vec<Vec<u8>> = (0..11).map(leaf).collect();
    let (frontier, nodes) = grow::<Sha256Tree>(&leaves);
    let root = frontier.root();
    let hash = Sha256Tree::leaf_hash(&leaves[6]);
    let verify = |proof: &[Sha256Digest]| verify_inclusion::<Sha256Tree>(&hash, 6, 11, proof, &root);
    let proof = inclusion_proof(6, 11, &nodes).unwrap();
    assert_eq!(verify(&proof), Ok(()));
    assert_eq!(verify(&proof[..3]), Err(ProofRefused::TooShort));
    assert_eq!(verify(&[&proof[..], &[root]].concat()), Err(ProofRefused::TooLong));
    assert_eq!(verify(&vec![root; 65]), Err(ProofRefused::TooLong));
    for at in 0..proof.len() {
        let mut changed = proof.clone();
        changed[at] = Sha256Digest::ZERO;
        assert_eq!(verify(&changed), Err(ProofRefused::Root));
    }
    let mut swapped = proof.clone();
    swapped.swap(0, 1);
    assert_eq!(verify(&swapped), Err(ProofRefused::Root));
    assert_eq!(verify_inclusion::<Sha256Tree>(&hash, 11, 11, &proof, &root), Err(ProofRefused::Range));
    assert_eq!(verify_inclusion::<Sha256Tree>(&hash, 0, 0, &[], &hash), Err(ProofRefused::Range));
    // The prefixes keep a leaf that spells out two nodes from hashing to their parent.
    let spelled = [hash.as_ref(), proof[0].as_ref()].concat();
    assert_ne!(Sha256Tree::leaf_hash(&spelled), Sha256Tree::node_hash(&hash, &proof[0]));
}

#[test]
fn a_changed_consistency_proof_is_refused() {
    let leaves: Vec<Vec<u8>> = (0..11).map(leaf).collect();
    let (frontier, nodes) = grow::<Sha256Tree>(&leaves);
    let (old_root, new_root) = (mth::<Sha256Tree>(&leaves[..6]), frontier.root());
    let verify = |old: u64, old_root: &Sha256Digest, proof: &[Sha256Digest]| {
        verify_consistency::<Sha256Tree>(old, old_root, 11, &new_root, proof)
    };
    let proof = consistency_proof(6, 11, &nodes).unwrap();
    assert_eq!(verify(6, &old_root, &proof), Ok(()));
    assert_eq!(verify(6, &old_root, &[]), Err(ProofRefused::TooShort));
    assert_eq!(verify(6, &old_root, &proof[..1]), Err(ProofRefused::TooShort));
    assert_eq!(verify(6, &old_root, &proof[..proof.len() - 1]), Err(ProofRefused::TooShort));
    assert_eq!(verify(6, &old_root, &[&proof[..], &[new_root]].concat()), Err(ProofRefused::TooLong));
    assert_eq!(verify(6, &old_root, &vec![new_root; 65]), Err(ProofRefused::TooLong));
    assert_eq!(verify(6, &new_root, &proof), Err(ProofRefused::OldRoot));
    let wrong_new = verify_consistency::<Sha256Tree>(6, &old_root, 11, &old_root, &proof);
    assert_eq!(wrong_new, Err(ProofRefused::Root));
    assert_eq!(verify(12, &old_root, &proof), Err(ProofRefused::Range));
    for at in 0..proof.len() {
        let mut changed = proof.clone();
        changed[at] = Sha256Digest::ZERO;
        assert!(verify(6, &old_root, &changed).is_err());
    }
    // A complete older tree stands for the first hash; without any further hash nothing is proved.
    let eight = mth::<Sha256Tree>(&leaves[..8]);
    assert_eq!(verify(8, &eight, &[]), Err(ProofRefused::TooShort));
}

#[test]
fn outside_of_the_rfc_only_the_empty_proof_counts() {
    let (empty, one) = (Sha256Tree::empty_root(), Sha256Tree::leaf_hash(b"x"));
    let verify = |old, old_root: &Sha256Digest, new, new_root: &Sha256Digest, proof: &[Sha256Digest]| {
        verify_consistency::<Sha256Tree>(old, old_root, new, new_root, proof)
    };
    assert_eq!(verify(0, &empty, 0, &empty, &[]), Ok(()));
    assert_eq!(verify(0, &empty, 1, &one, &[]), Ok(()));
    assert_eq!(verify(1, &one, 1, &one, &[]), Ok(()));
    assert_eq!(verify(0, &one, 1, &one, &[]), Err(ProofRefused::OldRoot));
    assert_eq!(verify(0, &empty, 0, &one, &[]), Err(ProofRefused::Root));
    assert_eq!(verify(1, &one, 1, &empty, &[]), Err(ProofRefused::Root));
    assert_eq!(verify(0, &empty, 1, &one, &[one]), Err(ProofRefused::TooLong));
    assert_eq!(verify(1, &one, 1, &one, &[one]), Err(ProofRefused::TooLong));
}

#[test]
fn proofs_outside_of_the_tree_or_of_missing_nodes_are_not_made() {
    let (_, nodes) = grow::<Sha256Tree>(&(0..5).map(leaf).collect::<Vec<_>>());
    assert_eq!(inclusion_proof(5, 5, &nodes), Err(ProofError::Range { inner: 5, size: 5 }));
    assert_eq!(inclusion_proof(0, 0, &nodes), Err(ProofError::Range { inner: 0, size: 0 }));
    assert_eq!(consistency_proof(6, 5, &nodes), Err(ProofError::Range { inner: 6, size: 5 }));
    let too_large = MAX_TREE_SIZE + 1;
    let range = ProofError::Range { inner: too_large, size: MAX_TREE_SIZE };
    assert_eq!(root_at(too_large, &nodes), Err(range));
    assert!(matches!(inclusion_proof(0, too_large, &nodes), Err(ProofError::Range { .. })));
    assert!(matches!(consistency_proof(1, u64::MAX, &nodes), Err(ProofError::Range { .. })));
    assert_eq!(inclusion_proof(4, 6, &nodes), Err(ProofError::Source(Missing(0, 5))));
    assert_eq!(consistency_proof(5, 8, &nodes), Err(ProofError::Source(Missing(1, 3))));
    assert_eq!(root_at(8, &nodes), Err(ProofError::Source(Missing(3, 0))));
}

#[test]
fn a_frontier_comes_back_from_its_bytes_and_from_no_others() {
    for size in 0..40 {
        let (frontier, _) = grow::<Blake2b512Tree>(&(0..size).map(leaf).collect::<Vec<_>>());
        let bytes = frontier.to_bytes();
        assert_eq!(bytes.len(), 8 + 64 * size.count_ones() as usize);
        let mut back = Frontier::<Blake2b512Tree>::from_bytes(&bytes).unwrap();
        assert_eq!(back, frontier);
        let mut further = frontier.clone();
        back.append(Blake2b512Tree::leaf_hash(b"next"), |_| {}).unwrap();
        further.append(Blake2b512Tree::leaf_hash(b"next"), |_| {}).unwrap();
        assert_eq!(back.root(), further.root());
        for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            let refused = Frontier::<Blake2b512Tree>::from_bytes(wrong);
            assert!(matches!(refused, Err(FrontierError::Length { .. })), "{refused:?}");
        }
    }
    let refused = Frontier::<Sha256Tree>::from_bytes(&u64::MAX.to_be_bytes());
    assert_eq!(refused, Err(FrontierError::Size));
}

#[test]
fn a_full_tree_takes_no_leaf() {
    let mut bytes = MAX_TREE_SIZE.to_be_bytes().to_vec();
    bytes.resize(8 + 63 * 32, 0);
    let mut frontier = Frontier::<Sha256Tree>::from_bytes(&bytes).unwrap();
    let before = frontier.clone();
    let refused = frontier.append(Sha256Digest::ZERO, |node| panic!("{node:?} completed"));
    assert_eq!(refused, Err(FrontierError::Size));
    assert_eq!(frontier, before);
}

#[test]
fn the_root_of_digests_is_the_tree_over_their_bytes() {
    for size in 0..20 {
        let digests: Vec<Sha256Digest> = (0..size).map(|i| crate::digest::sha256(&leaf(i))).collect();
        let leaves: Vec<Vec<u8>> = digests.iter().map(|digest| digest.as_bytes().to_vec()).collect();
        assert_eq!(root_of_digests(&digests), mth::<Sha256Tree>(&leaves));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn large_trees_prove_and_verify(size in 1u64..3000, index: prop::sample::Index, old: prop::sample::Index) {
        let leaves: Vec<Vec<u8>> = (0..size).map(leaf).collect();
        let (frontier, nodes) = grow::<Sha256Tree>(&leaves);
        let root = frontier.root();
        let at = index.index(leaves.len());
        let proof = inclusion_proof(at as u64, size, &nodes).unwrap();
        let hash = Sha256Tree::leaf_hash(&leaves[at]);
        prop_assert_eq!(verify_inclusion::<Sha256Tree>(&hash, at as u64, size, &proof, &root), Ok(()));
        let old = old.index(leaves.len()) as u64 + 1;
        let old_root = root_at(old, &nodes).unwrap();
        let proof = consistency_proof(old, size, &nodes).unwrap();
        prop_assert_eq!(verify_consistency::<Sha256Tree>(old, &old_root, size, &root, &proof), Ok(()));
    }

    #[test]
    fn no_claim_panics(index: u64, size: u64, old: u64, proof in prop::collection::vec(any::<[u8; 32]>(), 0..70)) {
        let proof: Vec<Sha256Digest> = proof.into_iter().map(Sha256Digest::new).collect();
        let zero = Sha256Digest::ZERO;
        prop_assert!(verify_inclusion::<Sha256Tree>(&zero, index, size, &proof, &zero).is_err() || size == 1);
        let refused = verify_consistency::<Sha256Tree>(old, &zero, size, &zero, &proof);
        prop_assert!(refused.is_err() || old == size);
    }

    #[test]
    fn any_bytes_are_a_frontier_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(frontier) = Frontier::<Sha256Tree>::from_bytes(&bytes) {
            prop_assert_eq!(frontier.to_bytes(), bytes);
        }
    }
}
