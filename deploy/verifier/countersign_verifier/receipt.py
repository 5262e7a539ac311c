"""Receipts, which is what artifacts are (PROTOCOL §6.4): a C2SP tlog-proof around a leaf."""

from dataclasses import dataclass

from .hashing import MAX_PATH, included
from .head import Head, base64_exact, decimal, parse_head
from .leaf import Leaf, parse_leaf
from .refusal import Refused, demand

MAX_RECEIPT = 128 * 1024
CODE = "receipt-malformed"


@dataclass(frozen=True)
class Proof:
    """A tlog-proof: what stands in it, unjudged."""

    extra: bytes
    index: int
    path: list
    checkpoint: bytes


@dataclass(frozen=True)
class Receipt:
    """A leaf, its inclusion proof and the head that it is included under."""

    leaf: Leaf
    path: list
    head: Head

    def check_inclusion(self):
        """Refuses unless the leaf is in the tree of the head."""
        good = included(self.leaf.hash, self.leaf.index, self.head.size, self.path, self.head.root)
        demand(good, "inclusion-invalid", "the path doesn't lead from the leaf to the head's root")


def _line(lines, at, word):
    demand(at < len(lines) and lines[at].startswith(word + " "), CODE, f"no line {word}")
    return lines[at][len(word) + 1:]


def parse_proof(data):
    """A tlog-proof of which `extra` is required."""
    demand(len(data) <= MAX_RECEIPT, CODE, f"a receipt has at most {MAX_RECEIPT} bytes")
    front, blank, checkpoint = data.partition(b"\n\n")
    demand(blank, CODE, "no blank line before the checkpoint")
    try:
        lines = front.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Refused(CODE, "not UTF-8") from None
    demand(lines[0] == "c2sp.org/tlog-proof@v1", CODE, "not a tlog-proof")
    extra = base64_exact(_line(lines, 1, "extra"), code=CODE, what="extra")
    index = decimal(_line(lines, 2, "index"), CODE, "index")
    demand(len(lines) - 3 <= MAX_PATH, CODE, "a path of more than 64 hashes")
    path = [base64_exact(line, 32, CODE, "a hash of the path") for line in lines[3:]]
    return Proof(extra, index, path, checkpoint)


def parse_receipt(data):
    """A receipt. Neither inclusion nor signatures are judged yet."""
    proof = parse_proof(data)
    leaf = parse_leaf(proof.extra, CODE)
    demand(leaf.index == proof.index, CODE, "the leaf names another index than the proof")
    try:
        return Receipt(leaf, proof.path, parse_head(proof.checkpoint))
    except Refused as refused:
        raise Refused(CODE, refused.detail) from None
