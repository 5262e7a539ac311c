"""The control chain (PROTOCOL §5.4) and what it says of head keys (§8.5) and of revocation (§8.8)."""

from dataclasses import dataclass
from typing import Optional

from . import cbor
from .hashing import tuple_bytes
from .leaf import next_control
from .refusal import demand

HEAD, CA = 1, 2
INTRODUCED, ACTIVATED, DEACTIVATED, COMPROMISED, DESTROYED = 1, 2, 3, 4, 5


@dataclass
class KeyState:
    """The control numbers at which something happened to a key."""

    purpose: int
    introduced: int
    activated: Optional[int] = None
    ended: Optional[int] = None
    destroyed: Optional[int] = None

    def active_at(self, number):
        """§8.5: activated at or before the number and not ended at or before it."""
        return self.activated is not None and self.activated <= number and (self.ended is None or self.ended > number)


class Chain:
    """A control chain from its beginning, with the state that follows from it."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.digests = [bytes(32)]
        self.last_index = -1
        self.keys = {}
        self.revoked = {}
        self.activations = []

    @property
    def number(self):
        """How many control leaves there were."""
        return len(self.digests) - 1

    @property
    def digest(self):
        """The control digest after the last."""
        return self.digests[-1]

    def apply(self, leaf):
        """Takes the next control leaf."""
        demand(leaf.is_control, "control-mismatch", f"leaf {leaf.index} of kind {leaf.kind} isn't a control leaf")
        demand(leaf.index > self.last_index, "control-mismatch", "indexes of control leaves don't rise")
        self.last_index = leaf.index
        self.digests.append(next_control(self.digest, self.number + 1, leaf))
        if leaf.kind == "key":
            self._key(leaf.body)
        elif leaf.kind == "revocation":
            self._revocation(leaf.body)

    def _key(self, body):
        key, event = body["key"], body["event"]
        state = self.keys.get(key)
        demand(state is None or state.purpose == body["purpose"], "key-state-invalid", "a key changed its purpose")
        if event == INTRODUCED:
            demand(state is None, "key-state-invalid", "a key was introduced twice")
            message = tuple_bytes("countersign-v1:key-possession", self.bundle.origin, body["purpose"], cbor.encode(key.cose()))
            demand(key.verifies(message, body["possession"]), "possession-invalid", "the new key didn't sign its introduction")
            self._is_first_of_the_bundle(key, body["purpose"])
            self.keys[key] = KeyState(body["purpose"], self.number)
            return
        demand(state is not None, "key-state-invalid", "a key that was never introduced")
        if event == ACTIVATED:
            demand(state.activated is None and state.ended is None, "key-state-invalid", "a key was activated twice")
            state.activated = self.number
            if state.purpose == HEAD:
                self.activations.append(self.number)
        elif event == DESTROYED:
            demand(state.ended is not None and state.destroyed is None, "key-state-invalid", "a key in use was destroyed")
            state.destroyed = self.number
        else:
            demand(state.destroyed is None and (state.ended is None or event == COMPROMISED), "key-state-invalid",
                   "a key ended twice")
            state.ended = self.number if state.ended is None else state.ended

    def _is_first_of_the_bundle(self, key, purpose):
        """§13.1: the bundle's head keys are the first introduced, and all activated before any other is."""
        if purpose != HEAD:
            return
        pinned = self.bundle.head_keys
        known = [key for key, state in self.keys.items() if state.purpose == HEAD]
        if len(known) < len(pinned):
            demand(key in pinned, "key-state-invalid", "the first head keys aren't those of the trust bundle")
        else:
            good = all(self.keys[key].activated is not None for key in pinned)
            demand(good, "key-state-invalid", "a head key was introduced before those of the trust bundle were active")

    def _revocation(self, body):
        self.revoked.setdefault(body["subject"], []).append((self.number, body["effect"] == 1))

    def is_revoked(self, subject, number=None):
        """Whether the subject is revoked at a control number, or now."""
        state = False
        for at, effect in self.revoked.get(subject, ()):
            if number is None or at <= number:
                state = effect
        return state

    def active(self, number):
        """The head keys that are active at a control number."""
        demand(number <= self.number, "control-behind", f"control number {number} is beyond the {self.number} known")
        return [key for key, state in self.keys.items() if state.purpose == HEAD and state.active_at(number)]

    def known(self):
        """Every head key that was ever introduced."""
        return [key for key, state in self.keys.items() if state.purpose == HEAD]
