"""A whole log (PROTOCOL §5 to §8): three trees, every head, the control chain, and that each leaf follows from the ones before it.

Leaves and heads are taken one by one, in order. Memory grows by a hash and a few numbers a leaf, not by its bytes. What needs the retained
inputs, that each decision is the right one, is the authority's `audit replay`; what is judged here needs the log alone."""

from bisect import bisect_right
from dataclasses import dataclass

from .control import DEACTIVATED, HEAD, Chain
from .hashing import TREES, Frontier
from .head import signers
from .leaf import RUNTIME, parse_leaf
from .outcomes import Outcomes
from .refusal import demand

OPERATOR, OFFICER = 2, 3
REVOKE, ADDED = 1, 1
# §8.4: how long authorities of two versions may write one log.
WEEK_MS = 604_800_000


@dataclass
class Allowed:
    """What later leaves need to know of an allow decision."""

    hash: bytes
    host: bytes
    exp: int
    root: tuple
    depth: int
    delegation: dict
    spent: int = 0
    parents: tuple = ()


class Log:
    """A log as far as it has been read."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.chain = Chain(bundle)
        self.trees = {name: Frontier(name) for name in TREES}
        self.time_ms = 0
        self.head = None
        self.signed = None
        self.activated = []
        self.vouched = bundle.head_keys
        self.bodies = {}
        self.policies = [(0, None, 0)]
        self.references = [(0, None)]
        self.principals = {}
        self.hosts = {}
        self.enrolments = {}
        self.activations = set()
        self.basis_since = None
        self.tokens = {}
        self.allowed = {}
        self.counts = {}
        self.outcomes = Outcomes()

    @property
    def size(self):
        """How many leaves were taken."""
        return self.trees["sha-256"].size

    # ---- leaves -----------------------------------------------------------------------------------------------
    def add_leaf(self, encoded):
        """Takes the next leaf."""
        leaf = parse_leaf(encoded)
        demand(leaf.index == self.size, "index-mismatch", f"leaf {self.size} says that it is {leaf.index}")
        demand(leaf.time_ms >= self.time_ms, "time-regressed", f"leaf {leaf.index} is older than the one before it")
        self.time_ms = leaf.time_ms
        if leaf.kind in ("allow", "deny"):
            where, body = f"leaf {leaf.index}", leaf.body
            demand(body["iss"] == self.bundle.origin, "origin-mismatch", f"{where}: decided by another log")
            demand(RUNTIME.fullmatch(body["sub"])[1] == self.bundle.trust_domain, "origin-mismatch", f"{where}: another trust domain")
        elif leaf.kind == "outcome":
            self.outcomes.take(leaf)
        self._follow(leaf)
        self.outcomes.note(leaf)
        if leaf.is_control:
            activations = len(self.chain.activations)
            self.chain.apply(leaf)
            if len(self.chain.activations) > activations:
                self.activated.append(leaf.body["key"])
        for tree in self.trees.values():
            tree.add(encoded)
        self.counts[leaf.kind] = self.counts.get(leaf.kind, 0) + 1
        return leaf

    def _follow(self, leaf):
        """Whether the leaf follows from those before it. The authority judges this by the retained inputs, too (`audit replay`)."""
        follow = getattr(self, "_" + leaf.kind.replace("-", "_"), None)
        if follow is not None:
            follow(leaf, leaf.body)

    def _by(self, thumbprint, least, leaf):
        principal = self.principals.get(thumbprint)
        good = principal is not None and principal["kind"] == 1 and principal["role"] >= least
        demand(good, "unauthorised", f"leaf {leaf.index}: nobody with the right to this act")
        demand(not self.chain.is_revoked((3, thumbprint)), "unauthorised", f"leaf {leaf.index}: a revoked principal acted")

    def _key(self, leaf, body):
        if body["principal"] is None:
            # §8.5: at initialisation, which ends with the first principal, and when a successor is active.
            initial = not self.principals and (body["purpose"] != HEAD or body["key"] in self.bundle.head_keys)
            succeeded = body["event"] == DEACTIVATED and self.chain.signing(body["purpose"]) > 1
            demand(initial or succeeded, "unauthorised", f"leaf {leaf.index}: nobody asked for this")
        else:
            self._by(body["principal"], OFFICER, leaf)

    def _epoch(self, leaf, body):
        self._by(body["principal"], OFFICER, leaf)
        digest = body["digest"] if leaf.kind == "policy" else self.policies[-1][1]
        self.policies.append((self.chain.number + 1, digest, body["epoch"]))
        if leaf.kind == "references":
            self.references.append((self.chain.number + 1, body["digest"]))

    _policy = _references = _epoch

    def _revocation(self, leaf, body):
        self._by(body["principal"], OPERATOR if body["effect"] == REVOKE else OFFICER, leaf)
        if body["subject"][0] == 2:
            index, digest = body["subject"][1:]
            known = index in self.allowed and self.allowed[index].hash == digest
            demand(known, "state-invalid", f"leaf {leaf.index}: no such artifact")

    def _principal(self, leaf, body):
        if body["by"] is None:
            demand(not self.principals, "unauthorised", f"leaf {leaf.index}: nobody asked for this principal")
        else:
            self._by(body["by"], OFFICER, leaf)
        added = body["event"] == ADDED
        demand((body["thumbprint"] in self.principals) != added, "state-invalid", f"leaf {leaf.index}: added twice, or never")
        if added:
            self.principals[body["thumbprint"]] = {"kind": body["kind"], "role": body["role"]}
        else:
            del self.principals[body["thumbprint"]]

    def _join_token(self, leaf, body):
        self._by(body["principal"], OPERATOR, leaf)
        demand(body["token"] not in self.tokens, "state-invalid", f"leaf {leaf.index}: a token made twice")
        self.tokens[body["token"]] = body["expires_ms"]

    def _enrolment(self, leaf, body):
        token = body["token"]
        demand((token is not None) == (body["admission"] == 1), "state-invalid", f"leaf {leaf.index}: token and admission disagree")
        if token is not None:
            # Spent: no second enrolment finds it.
            expires = self.tokens.get(token)
            demand(expires is not None, "state-invalid", f"leaf {leaf.index}: a token that nobody made, or that was spent")
            demand(leaf.time_ms <= expires, "state-invalid", f"leaf {leaf.index}: a token that had ended")
            self.tokens[token] = None
        demand(body["ak_name"][:2] != b"\x00\x04", "state-invalid", f"leaf {leaf.index}: an AK named by SHA-1")
        demand(not self.chain.is_revoked((1, body["host"])), "revoked", f"leaf {leaf.index}: a revoked host enrolled")
        known = self.hosts.get(body["host"])
        demand(body["admission"] != 3 or known is not None, "state-invalid", f"leaf {leaf.index}: enrolled again, never before")
        demand(body["admission"] != 2 or known is None, "state-invalid", f"leaf {leaf.index}: other keys by the operator's list")
        expected = 1 if known is None else known if body["admission"] == 3 else known + 1
        demand(body["version"] == expected, "state-invalid", f"leaf {leaf.index}: host version {body['version']} instead of {expected}")
        if body["admission"] == 3:
            # §8.3, §12: a renewal is of the same keys, and keeps the device identity that was there.
            before = self.enrolments[body["host"]]
            same = all(before[name] == body[name] for name in ("ek", "ak", "ak_name", "host_key"))
            device = before["endorsement"].get("device")
            kept = device is None or body["endorsement"].get("device") == device
            demand(same and kept, "state-invalid", f"leaf {leaf.index}: a renewal of other keys, or without the identity that was there")
        demand(body["activation"] not in self.activations, "state-invalid", f"leaf {leaf.index}: an activation record of another enrolment")
        self.activations.add(body["activation"])
        self.enrolments[body["host"]] = body
        self.hosts[body["host"]] = body["version"]

    def _state(self, leaf, host, state, evidence, code):
        version = self.hosts.get(host)
        demand(version is not None, "state-invalid", f"leaf {leaf.index}: a host that never enrolled")
        # §8.4: any other body repeats a state that was read, which may be an older one.
        tells = state["evidence"] == evidence and code not in ("challenge-spent", "challenge-expired")
        if tells:
            demand(state["version"] >= version, "state-invalid", f"leaf {leaf.index}: the host's version went back")
            self.hosts[host] = state["version"]

    def _host_state(self, leaf, body):
        self._state(leaf, body["host"], body["state"], body["evidence"], body["code"])
        if "control" not in body:
            # §8.4: authorities of two versions write one log for a week at most.
            ended = self.basis_since is not None and leaf.time_ms > self.basis_since + WEEK_MS
            demand(not ended, "state-invalid", f"leaf {leaf.index}: a host state that no longer says what it follows from")
            return
        if self.basis_since is None:
            self.basis_since = leaf.time_ms
        # §8.4: what the state follows from is what was in force.
        where, number = f"leaf {leaf.index}", body["control"]
        young = leaf.time_ms - 10_000 <= body["time_ms"] <= leaf.time_ms + 2000
        demand(young, "state-invalid", f"{where}: decided at {body['time_ms']} ms, logged at {leaf.time_ms} ms")
        demand(number == self.chain.number, "state-invalid", f"{where}: decided under control number {number}, not the one of its place")
        in_force = [_in_force(known, number)[1] for known in (self.policies, self.references)]
        demand([body["policy"], body["references"]] == in_force, "state-invalid", f"{where}: not the documents of its time")

    # ---- decisions --------------------------------------------------------------------------------------------
    def _decision(self, leaf, body):
        where = f"leaf {leaf.index}"
        self._state(leaf, body["ueid"], body["host_state"], body["evidence"], body.get("code"))
        # §7.2, key 13, of which `iat` keeps the seconds.
        young = leaf.time_ms - 10_999 <= body["iat"] * 1000 <= leaf.time_ms + 2000
        demand(young, "state-invalid", f"{where}: decided at {body['iat']} s, logged at {leaf.time_ms} ms")
        number = body["control"]
        demand(number == self.chain.number, "state-invalid", f"{where}: decided under control number {number}, not the one of its place")
        policy = _in_force(self.policies, number)
        claimed = body.get("policy")
        demand((claimed is not None) == (policy[1] is not None), "state-invalid", f"{where}: a policy where none was, or none")
        if claimed is not None:
            demand((claimed["digest"], claimed["epoch"]) == policy[1:], "state-invalid", f"{where}: not the policy of its time")

    _deny = _decision

    def _allow(self, leaf, body):
        self._decision(leaf, body)
        where, number = f"leaf {leaf.index}", body["control"]
        demand("policy" in body, "state-invalid", f"{where}: allowed without a policy")
        trusted = body["iat"] * 1000 < body["host_state"]["trusted_until_ms"]
        demand(trusted, "state-invalid", f"{where}: allowed to a host that wasn't trusted any more")
        demand(not self.chain.is_revoked((1, body["ueid"]), number), "revoked", f"{where}: the host was revoked")
        parents = [self._parent(leaf, body, name) for name in body["lineage"]["parents"]]
        if parents:
            check_narrowing(leaf, body, parents)
        root = body["lineage"].get("root", leaf.name)
        self.allowed[leaf.index] = Allowed(leaf.hash, body["ueid"], body["exp"], root, body["lineage"]["depth"],
                                           body.get("delegation"), parents=tuple(body["lineage"]["parents"]))

    def _parent(self, leaf, body, name):
        where, number = f"leaf {leaf.index}", body["control"]
        parent = self.allowed.get(name[0])
        demand(parent is not None and parent.hash == name[1], "narrowing-violated", f"{where}: a parent that was never allowed")
        seen, above = set(), [name]
        while above:
            ancestor = above.pop()
            if ancestor in seen:
                continue
            seen.add(ancestor)
            known = self.allowed[ancestor[0]]
            for subject in ((2, *ancestor), (1, known.host)):
                demand(not self.chain.is_revoked(subject, number), "revoked", f"{where}: an ancestor or its host was revoked")
            above.extend(known.parents)
        return parent

    # ---- heads ------------------------------------------------------------------------------------------------
    def add_head(self, head):
        """Takes the next head; its size is that of the leaves taken."""
        where = f"the head of size {head.size}"
        demand(head.origin == self.bundle.origin, "origin-mismatch", f"{where} is of {head.origin}")
        demand(head.size == self.size, "head-mismatch", f"{where}: {self.size} leaves are there")
        demand(head.size > 0, "head-mismatch", f"{where} has no batch")
        if self.head is None:
            demand(head.prev == bytes(32), "head-unlinked", f"{where} is the first and names another before it")
        else:
            demand(head.size != self.head.size, "head-forked", f"{where}: two heads of one size")
            demand(head.time_ms >= self.head.time_ms, "head-regressed", f"{where} is older than the head before it")
            demand(head.prev == self.head.digest, "head-unlinked", f"{where} names another head before it")
        for name, tree in self.trees.items():
            demand(head.roots[name] == tree.root(), "head-mismatch", f"{where}: another {name} root")
        demand((head.control_number, head.control) == (self.chain.number, self.chain.digest), "head-mismatch",
               f"{where}: another control number or digest")
        demand(head.time_ms == self.time_ms, "head-mismatch", f"{where}: another time than its last leaf")
        self.head = head
        self.bodies[head.size] = head.digest
        if head.signatures:
            self._check_signatures(head, where)

    def _check_signatures(self, head, where):
        signed = signers(head, set(self.chain.known()) | set(self.vouched))
        active = self.chain.active(head.control_number)
        if self.chain.last_good(signed) and not any(key in active for key in signed):
            # §8.5: as good as unsigned, unless it is the last good one; a later head covers its leaves, or the log isn't under a signed head.
            if self.chain.was_last_good(head, signed):
                self.signed = head
            return
        demand(any(key in active for key in signed), "head-unsigned", f"{where}: no key active then signed it")
        believed = any(key in signed for key in self.chain.still_believed(self.vouched))
        new = all(key in signed or self.chain.is_compromised(key) for key in self.activated)
        demand(believed and new, "rotation-unsigned", f"{where} lacks the signature of an old key, or of one activated since the last signed head")
        self.activated, self.vouched, self.signed = [], active, head

    def finish(self):
        """What must hold at the end: everything is under a signed head."""
        demand(self.signed is not None, "head-unsigned", "no head of this log is signed")
        demand(self.head.size == self.size, "head-mismatch", f"{self.size - self.head.size} leaves are under no head")
        demand(self.signed.size == self.size, "head-unsigned", f"{self.size - self.signed.size} leaves are under no signed head")
        for found in self.chain.compromises:
            pinned = found["last_good"]
            there = self.bodies.get(pinned.size) == pinned.digest
            demand(there, "head-forked", f"no head of this log is the last good one of size {pinned.size}")


def _in_force(known, number):
    """The newest entry at a control number; entries begin with the number from which on they are in force, rising."""
    return known[bisect_right(known, number, key=lambda entry: entry[0]) - 1]


def check_narrowing(leaf, body, parents):
    """§7.3: what parents granted bounds what a child is given, and their budgets pay for it."""
    code, where = "narrowing-violated", f"leaf {leaf.index}"
    own = body.get("delegation")
    cost = 1 + (own["budget"] if own else 0)
    for parent in parents:
        granted = parent.delegation
        demand(granted is not None, code, f"{where}: a parent delegated nothing")
        demand(body["exp"] <= parent.exp, code, f"{where}: outlives a parent")
        demand(body["action"] in granted["actions"] and body["aud"] in granted["audiences"], code, f"{where}: not delegated")
        if own:
            subset = set(own["actions"]) <= set(granted["actions"]) and set(own["audiences"]) <= set(granted["audiences"])
            demand(subset and own["depth"] < granted["depth"], code, f"{where}: hands on more than it was given")
        parent.spent += cost
        demand(parent.spent <= granted["budget"], code, f"{where}: a parent's budget is overspent")
        demand(parent.root == parents[0].root, code, f"{where}: parents of different roots")
    demand(body["lineage"]["root"] == parents[0].root, code, f"{where}: another root than its parents'")
    demand(body["lineage"]["depth"] == 1 + max(parent.depth for parent in parents), code, f"{where}: another depth")


def check_log(bundle, leaves, heads, kind=Log):
    """A log from its leaves and its heads, each in order; returns the verified log."""
    log = kind(bundle)
    waiting = next(heads, None)
    for encoded in leaves:
        while waiting is not None and waiting.size <= log.size:
            log.add_head(waiting)
            waiting = next(heads, None)
        log.add_leaf(encoded)
    while waiting is not None:
        log.add_head(waiting)
        waiting = next(heads, None)
    log.finish()
    return log
