"""Following the log from the trust bundle on (PROTOCOL §13.1), by the feed that gateways and hosts get."""

from . import strictjson
from .control import Chain
from .hashing import consistent, hash_list
from .head import parse_head, signers
from .leaf import parse_leaf
from .refusal import demand


class Follower:
    """What a reader that starts from the trust bundle has verified so far."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.chain = Chain(bundle)
        self.head = None

    def take(self, *pages):
        """Takes the pages of one pull: answers of `GET /v1/feed?size=..&control=..`, the size that of the head held."""
        leaves, rotations = [], []
        for at, page in enumerate(pages, 1):
            strictjson.members(page, ("head", "consistency", "control", "more"), ("rotations",), "feed-malformed", "a feed")
            lists = all(isinstance(page.get(name, []), list) for name in ("control", "rotations"))
            demand(lists and isinstance(page["more"], bool), "feed-malformed", "a member of another type")
            demand(page["more"] == (at < len(pages)), "feed-malformed", "a page is missing, or one is too many")
            leaves += [parse_leaf(strictjson.base64url(text, "feed-malformed", "a control leaf")) for text in page["control"]]
            rotations += [self._note(text) for text in page.get("rotations", [])]
        newest = self._note(pages[-1]["head"])
        held = self.head
        for head in rotations:
            leaves = self._step(head, leaves)
        leaves = self._step(newest, leaves)
        demand(not leaves, "control-mismatch", "control leaves beyond the newest head")
        self._joined(held, pages[-1]["consistency"])

    @staticmethod
    def _note(text):
        demand(isinstance(text, str), "feed-malformed", "a head isn't text")
        return parse_head(text.encode())

    def _step(self, head, leaves):
        demand(head.origin == self.bundle.origin, "origin-mismatch", f"a head of {head.origin}")
        if self.head is not None:
            forward = (head.size >= self.head.size and head.time_ms >= self.head.time_ms
                       and head.control_number >= self.head.control_number)
            demand(forward, "head-regressed", "size, time or control number goes back")
            demand(head.size != self.head.size or head.digest == self.head.digest, "head-forked", "two heads of one size")
        before = self.bundle.head_keys if self.chain.number == 0 else self.chain.active(self.chain.number)
        count = head.control_number - self.chain.number
        demand(0 <= count <= len(leaves), "control-mismatch", "control leaves are missing")
        for leaf in leaves[:count]:
            demand(leaf.index < head.size, "control-mismatch", "a control leaf beyond the head")
            self.chain.apply(leaf)
        demand(self.chain.digest == head.control, "control-mismatch", "the leaves don't give the head's control digest")
        signed = signers(head, set(before) | set(self.chain.known()))
        after = self.chain.active(head.control_number)
        compromised = any(self.chain.is_compromised(key) for key in signed)
        demand(any(key in after for key in signed), "key-compromised" if compromised else "head-unsigned",
               "no key active at the head's control number signed it")
        before = self.chain.still_believed(before)
        demand(any(key in before for key in signed), "rotation-unsigned", "no key that was believed before signed it")
        self.head = head
        return leaves[count:]

    def _joined(self, held, texts):
        proof = hash_list(texts)
        if held is None:
            demand(not proof, "consistency-invalid", "a proof from nothing")
            return
        good = consistent(held.size, held.root, self.head.size, self.head.root, proof)
        demand(good, "consistency-invalid", "the newest head isn't joined to the one held")
