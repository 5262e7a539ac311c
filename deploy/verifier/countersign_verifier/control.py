"""The control chain (PROTOCOL §5.4) and what it says of head keys (§8.5), of revocation (§8.8) and of who approves (§8.9, §10)."""

from dataclasses import dataclass
from typing import Optional

from . import cbor
from .bundle import COMPROMISE, verify_statement
from .hashing import tuple_bytes
from .leaf import next_control
from .refusal import demand

HEAD, CA, JWT = 1, 2, 3
ADDED, OPERATOR_KIND, OFFICER = 1, 1, 3
INTRODUCED, ACTIVATED, DEACTIVATED, DESTROYED = 1, 2, 3, 5


@dataclass
class KeyState:
    """The control numbers at which something happened to a key."""

    purpose: int
    introduced: int
    activated: Optional[int] = None
    ended: Optional[int] = None
    destroyed: Optional[int] = None
    withdrawn: bool = False

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
        self.officers = set()
        self.any_principal = False
        self.barred = set()
        self.statements = 0
        self.epoch = 0
        self.compromises = list(bundle.compromises)

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
        elif leaf.kind == "principal":
            self._principal(leaf.body)
        elif leaf.kind == "recovery":
            self._recovery(leaf.body)
        else:
            # §8.6: one counter for policies and references.
            self.epoch += 1
            demand(leaf.body["epoch"] == self.epoch, "state-invalid", f"leaf {leaf.index}: not epoch {self.epoch}")

    def _key(self, body):
        key, event = body["key"], body["event"]
        state = self.keys.get(key)
        demand(state is None or state.purpose == body["purpose"], "key-state-invalid", "a key changed its purpose")
        if event == INTRODUCED:
            demand(state is None, "key-state-invalid", "a key was introduced twice")
            message = tuple_bytes("countersign-v1:key-possession", self.bundle.origin, body["purpose"], cbor.encode(key.cose()))
            demand(key.verifies(message, body["possession"]), "possession-invalid", "the new key didn't sign its introduction")
            self._wanted(key, body)
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
            # §8.5: that a key is compromised is for the recovery key to say.
            withdraws = state.purpose == JWT and body["principal"] is not None
            withdraws = withdraws and not state.withdrawn and not self.is_compromised(key)
            good = event == DEACTIVATED and (state.ended is None or withdraws)
            demand(good, "key-state-invalid", "a key ended twice, or in a way that isn't the log's to say")
            state.ended = self.number if state.ended is None else state.ended
            state.withdrawn |= withdraws

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

    def _wanted(self, key, body):
        """§8.5: the recovery key names it, or an officer approved it."""
        if body["purpose"] == HEAD:
            named = key in self.bundle.head_keys or any(key in found["head_keys"] for found in self.compromises)
        else:
            named = not self.any_principal
        if not named:
            backend, custody = body["custody"]
            self._approved(body["approval"], tuple_bytes("countersign-v1:key-introduction", self.bundle.origin, body["purpose"],
                                                         cbor.encode(key.cose()), backend, custody))

    def _approved(self, approval, act):
        demand(approval is not None, "approval-invalid", "no officer approved it")
        officer, signature = approval
        thumbprint = officer.thumbprint()
        good = thumbprint in self.officers and thumbprint not in self.barred and not self.is_revoked((3, thumbprint))
        demand(good, "approval-invalid", "approved by a key that isn't an officer's, or was revoked once")
        demand(officer.verifies(act, signature), "approval-invalid", "the officer signed something else")

    def _principal(self, body):
        thumbprint = body["thumbprint"]
        self.any_principal = True
        if body["event"] != ADDED:
            self.barred.add(thumbprint)
            self.officers.discard(thumbprint)
            return
        if body["kind"] != OPERATOR_KIND or body["role"] != OFFICER:
            self.officers.discard(thumbprint)
            return
        if thumbprint not in self.bundle.officers or thumbprint in self.barred:
            self._approved(body["approval"],
                           tuple_bytes("countersign-v1:officer-addition", self.bundle.origin, body["name"], thumbprint))
        self.officers.add(thumbprint)

    def _recovery(self, body):
        self.statements += 1
        number, pinned = self.statements, self.bundle.statements
        statement = verify_statement(body["statement"], body["signature"], self.bundle.origin, self.bundle.recovery, number)
        known = number <= len(pinned)
        demand(not known or pinned[number - 1][0] == body["statement"], "bundle-invalid", "another statement than the trust bundle's")
        if statement["type"] != COMPROMISE:
            return
        if not known:
            self.compromises.append(statement)
        state = self.keys.get(statement["key"])
        if state is not None and state.ended is None:
            state.ended = self.number

    def is_compromised(self, key):
        """Whether the recovery key said so, in the chain or in the trust bundle."""
        return any(found["key"] == key for found in self.compromises)

    def still_believed(self, keys):
        """Of keys believed before, those that still are; and those that a statement names in a compromised one's stead."""
        left = [key for key in keys if not self.is_compromised(key)]
        return left + [key for found in self.compromises for key in found["head_keys"]]

    def last_good(self, keys):
        """The last good heads of those of the keys that are compromised."""
        return [found["last_good"] for found in self.compromises if found["key"] in keys]

    def was_last_good(self, head, keys):
        """Whether one of the keys is compromised, was active then before that was known, and this is its last good head."""
        active = [key for key in keys if key in self.keys and self.keys[key].active_at(head.control_number)]
        return any(good.body == head.body for good in self.last_good(active))

    def _revocation(self, body):
        if body["effect"] == 1 and body["subject"][0] == 3:
            self.barred.add(body["subject"][1])
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
        return [key for key, state in self.keys.items()
                if state.purpose == HEAD and state.active_at(number) and not self.is_compromised(key)]

    def signing(self, purpose):
        """How many keys for this purpose are active now."""
        return sum(1 for state in self.keys.values() if state.purpose == purpose and state.active_at(self.number))

    def jwt_keys(self):
        """Every key that was ever activated for attestation results (§17) and not withdrawn: what it signed holds until it expires."""
        good = [key for key, state in self.keys.items()
                if state.purpose == JWT and state.activated is not None and not state.withdrawn]
        return [key for key in good if not self.is_compromised(key)]

    def known(self):
        """Every head key that was ever introduced."""
        return [key for key, state in self.keys.items() if state.purpose == HEAD]
