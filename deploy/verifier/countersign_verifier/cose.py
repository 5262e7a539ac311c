"""COSE receipts (RFC 9942, PROTOCOL §16): inclusion of a leaf under a root that a head key signed in COSE form (RFC 9052)."""

from . import cbor
from .hashing import MAX_PATH, leaf_hash, node_hash
from .refusal import demand

MAX_RECEIPT = 4096
CODE = "receipt-malformed"
SIGN1 = 0xD2
ALGORITHMS = {"EdDSA": -8, "ES256": -7}
KID, CLAIMS, VDS, VDP = 4, 15, 395, 396


def root_of(leaf, index, size, path):
    """RFC 9162 §2.1.3.2: the root that a path leads to, for a path of the right length."""
    demand(index < size, "inclusion-invalid", "the index isn't in the tree")
    place, last, node = index, size - 1, leaf
    for sibling in path:
        demand(last > 0, "inclusion-invalid", "the path is too long")
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    demand(last == 0, "inclusion-invalid", "the path is too short")
    return node


def check_cose(data, leaf, origin, keys):
    """Refuses unless the receipt is for exactly this leaf, of this log, by one of these keys. Index, size and time of the head."""
    demand(0 < len(data) <= MAX_RECEIPT and data[0] == SIGN1, CODE, "not a tagged COSE_Sign1")
    sign1 = cbor.decode(data[1:])
    demand(isinstance(sign1, list) and len(sign1) == 4, CODE, "a COSE_Sign1 has four parts")
    protected, unprotected, payload, signature = sign1
    demand(type(protected) is bytes and type(signature) is bytes, CODE, "a part of another type")
    demand(payload is None, CODE, "the payload is detached")
    demand(isinstance(unprotected, dict) and set(unprotected) == {VDP} and isinstance(unprotected[VDP], dict), CODE, "no proofs")
    proofs = unprotected[VDP]
    demand(set(proofs) == {-1} and isinstance(proofs[-1], list) and len(proofs[-1]) == 1, CODE, "one inclusion proof is expected")
    demand(type(proofs[-1][0]) is bytes, CODE, "the proof isn't a byte string")
    proof = cbor.decode(proofs[-1][0])
    demand(isinstance(proof, list) and len(proof) == 3, CODE, "an inclusion proof has three parts")
    size, index, path = proof
    numbers = type(size) is int and type(index) is int and 0 <= index and 0 <= size
    hashes = isinstance(path, list) and len(path) <= MAX_PATH and all(type(node) is bytes and len(node) == 32 for node in path)
    demand(numbers and hashes, CODE, "size, index or path of another form")
    header = cbor.decode(protected)
    demand(isinstance(header, dict) and set(header) == {1, KID, CLAIMS, VDS}, CODE, "another protected header")
    claims = header[CLAIMS]
    demand(isinstance(claims, dict) and set(claims) == {1, 6} and type(claims[6]) is int, CODE, "other claims")
    demand(header[VDS] == 1, CODE, "not the tree of RFC 9162 with SHA-256")
    demand(claims[1] == origin, "origin-mismatch", f"a receipt of {claims[1]}")
    root = root_of(leaf_hash(leaf), index, size, path)
    signed = [key for key in keys if key.thumbprint() == header[KID] and ALGORITHMS[key.alg] == header[1]]
    message = cbor.encode(["Signature1", protected, b"", root])
    demand(any(key.verifies(message, signature) for key in signed), "head-unsigned", "no known key signed the root that the leaf and its path lead to")
    return index, size, claims[6]
