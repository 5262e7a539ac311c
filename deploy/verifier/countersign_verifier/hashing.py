"""Hashed tuples (PROTOCOL §1.1) and the Merkle trees of RFC 9162 §2.1 over the three hash functions of §5.3."""

import hashlib

from .refusal import demand

TREES = {"sha-256": hashlib.sha256, "sha3-512": hashlib.sha3_512, "blake2b-512": hashlib.blake2b}
# No proof in a tree of 2^63 leaves is longer.
MAX_PATH = 64


def sha256(data):
    """SHA-256 of the bytes."""
    return hashlib.sha256(data).digest()


def tuple_bytes(tag, *fields):
    """The bytes of a tuple; an integer field is 64 bits, big-endian."""
    out = tag.encode("ascii") + b"\0"
    for field in fields:
        if isinstance(field, int):
            field = field.to_bytes(8, "big")
        elif isinstance(field, str):
            field = field.encode("utf-8")
        out += len(field).to_bytes(4, "big") + field
    return out


def tuple_hash(tag, *fields):
    """`H(tag, ..)`."""
    return sha256(tuple_bytes(tag, *fields))


def leaf_hash(leaf, tree="sha-256"):
    """RFC 9162 §2.1.1: the hash of a leaf."""
    return TREES[tree](b"\0" + leaf).digest()


def node_hash(left, right, tree="sha-256"):
    """RFC 9162 §2.1.1: the hash of an inner node."""
    return TREES[tree](b"\1" + left + right).digest()


class Frontier:
    """A growing tree: the roots of its perfect subtrees, largest first. Adding and the root cost a logarithm."""

    def __init__(self, tree="sha-256"):
        self.tree = tree
        self.size = 0
        self.nodes = []

    def add(self, leaf):
        """Adds a leaf by its bytes."""
        self.add_hash(leaf_hash(leaf, self.tree))

    def add_hash(self, node):
        """Adds a leaf by its hash."""
        size = self.size
        while size & 1:
            node = node_hash(self.nodes.pop(), node, self.tree)
            size >>= 1
        self.nodes.append(node)
        self.size += 1

    def root(self):
        """The root over what was added."""
        if not self.nodes:
            return TREES[self.tree](b"").digest()
        root = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            root = node_hash(node, root, self.tree)
        return root


def root_of(leaves, tree="sha-256"):
    """The root over these leaves."""
    frontier = Frontier(tree)
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def included(leaf, index, size, path, root, tree="sha-256"):
    """RFC 9162 §2.1.3.2: whether the path leads from the leaf hash at the index to the root."""
    if not 0 <= index < size or len(path) > MAX_PATH:
        return False
    place, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(sibling, node, tree)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling, tree)
        place >>= 1
        last >>= 1
    return last == 0 and node == root


def consistent(old_size, old_root, new_size, new_root, path, tree="sha-256"):
    """RFC 9162 §2.1.4.2, with its borders: equal sizes have equal roots and no path; the empty tree is before every tree."""
    if not 0 <= old_size <= new_size or len(path) > MAX_PATH:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == TREES[tree](b"").digest()
    if not path:
        return False
    path = list(path)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old = node_hash(sibling, old, tree)
            new = node_hash(sibling, new, tree)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling, tree)
        place >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == new_root


def hash_list(texts, length=32):
    """A list of hashes in lower-case hexadecimal, as proofs travel in JSON (§1.3)."""
    demand(isinstance(texts, list) and len(texts) <= MAX_PATH, "proof-malformed", "not a list of at most 64 hashes")
    found = []
    for text in texts:
        good = isinstance(text, str) and len(text) == 2 * length and all(c in "0123456789abcdef" for c in text)
        demand(good, "proof-malformed", f"not {length} bytes of lower-case hexadecimal")
        found.append(bytes.fromhex(text))
    return found
