"""Evidence bundles (PROTOCOL §14): one file that bears an artifact out. What isn't done here is the last step, deriving the body by the engine of the
authority; everything that the body says of its members is compared instead."""

from . import strictjson
from .follow import Follower
from .hashing import TREES, consistent, hash_list, included, leaf_hash, root_of, sha256, tuple_bytes, tuple_hash
from .head import parse_body, parse_head
from .judge import check_evidence, check_inputs, check_receipt, check_request
from .leaf import parse_leaf
from .log import Allowed, check_narrowing
from .refusal import demand
from .schema import array, data, judge_bytes, record, row, table, text, uint, want
from .tpm import BANKS, Public, check_boot_log, check_quote

MAX_BUNDLE = 16 << 20
U64 = (1 << 64) - 1
CODE = "evidence-bundle-malformed"
MISMATCH = "evidence-bundle-mismatch"
INCOMPLETE = "evidence-bundle-incomplete"

registers = array(row(uint(most=31), data(most=64)), 1, 24)

def generation(value):
    """One generation of a reference set: registers, from when until when they count, and what evidence they are of (§8.2)."""
    optional = {3: ("from", uint()), 4: ("until", uint()), 5: ("evidence", data(32))}
    found = record({1: ("bank", uint(most=65535)), 2: ("pcrs", registers)}, optional)(value)
    want(found.get("from", 0) <= found.get("until", U64), "a generation ends before it begins")
    return found


reference_sets = table(text(1), array(generation, 1))
challenge_shape = row(data(8), data(33), uint(), data(32), data(16))


def references_shape(value):
    """Sets by name, and under 0 the IMA policy (§8.2)."""
    found = dict(value) if type(value) is dict else value
    ima = data(32)(found.pop(0)) if type(found) is dict and 0 in found else None
    return reference_sets(found), ima


def policy_settings(document):
    """Bank and registers of a policy document (§8.1); the engine reads the rest."""
    def settings(value):
        found = {at: value[at] for at in (1, 2)} if type(value) is dict and 1 in value and 2 in value else value
        return record({1: ("bank", uint(most=65535)), 2: ("pcrs", array(uint(most=23), 1, 24))})(found)
    shape = record({1: ("policies", table(text(1), data())), 2: ("schema", data()), 3: ("settings", settings)})
    return judge_bytes(shape, document, CODE, "policy document")["settings"]


class Parts:
    """Leaves and members, and which of them were named."""

    def __init__(self, bundle, head):
        self.leaves, self.members, self.named = {}, {}, set()
        demand(isinstance(bundle["leaves"], list) and isinstance(bundle["members"], list), CODE, "leaves and members are lists")
        for item in bundle["leaves"]:
            strictjson.members(item, ("leaf", "path"), code=CODE, what="a leaf")
            leaf = parse_leaf(strictjson.base64url(item["leaf"], CODE, "a leaf"))
            demand(not self.leaves or leaf.index > max(self.leaves), CODE, "leaves aren't in the order of their indexes")
            good = included(leaf.hash, leaf.index, head.size, hash_list(item["path"]), head.root)
            demand(good, "inclusion-invalid", f"leaf {leaf.index} isn't under the artifact's head")
            self.leaves[leaf.index] = leaf
        before = b""
        for item in bundle["members"]:
            member = strictjson.base64url(item, CODE, "a member")
            digest = sha256(member)
            demand(digest > before, CODE, "members aren't in the order of their digests")
            before = digest
            self.members[digest] = member

    def member(self, what, digest):
        """A member by its digest."""
        demand(digest in self.members, INCOMPLETE, f"the {what} isn't there")
        self.named.add(digest)
        return self.members[digest]

    def leaf(self, name, kind):
        """A leaf by index and leaf hash."""
        leaf = self.leaves.get(name[0])
        demand(leaf is not None and leaf.hash == name[1] and leaf.kind == kind, INCOMPLETE, f"{kind} leaf {name[0]} isn't there")
        self.named.add(leaf.index)
        return leaf

    def finish(self):
        """Nothing may be left that nothing names."""
        demand(self.named == set(self.members) | set(self.leaves), INCOMPLETE, "it holds what nothing in it names")


def verify_bundle(encoded, trust):
    """The receipt of the artifact that the bundle bears out."""
    demand(len(encoded) <= MAX_BUNDLE, "too-large", "an evidence bundle has at most 16 MiB")
    bundle = strictjson.members(
        strictjson.parse(encoded),
        ("v", "artifact", "trees", "control", "rotations", "challenge_head", "leaves", "members"), code=CODE, what="the bundle")
    strictjson.integer(bundle["v"], 1, 1, CODE, "v")
    demand(isinstance(bundle["artifact"], str), CODE, "the artifact isn't text")
    artifact = bundle["artifact"].encode("utf-8", "surrogatepass")
    # Any receipt's head is followed first; whether the receipt is good is judged by the keys found.
    chain = _follow(bundle, artifact, trust)
    receipt = check_receipt(artifact, trust, chain)
    leaf, head = receipt.leaf, receipt.head
    demand(leaf.kind == "allow", "not-an-allow", f"a leaf of kind {leaf.kind}")
    _other_trees(bundle["trees"], leaf, head)
    parts = Parts(bundle, head)
    named = _linked(bundle["challenge_head"], head)
    _bears_out(leaf, chain, trust, parts, named)
    parts.finish()
    return receipt


def _follow(bundle, artifact, trust):
    newest = artifact.partition(b"\n\n")[2].decode("utf-8", "replace")
    follower = Follower(trust)
    follower.take({"head": newest, "consistency": [], "control": bundle["control"], "rotations": bundle["rotations"], "more": False})
    activations = follower.chain.activations
    covers = [parse_head(text.encode()).control_number for text in bundle["rotations"]]
    whole = len(covers) == len(activations) and all(number <= covered for number, covered in zip(activations, covers))
    demand(whole, INCOMPLETE, "not one head for each activation")
    return follower.chain


def _other_trees(trees, leaf, head):
    names = [name for name in TREES if name != "sha-256"]
    strictjson.members(trees, names, code=CODE, what="trees")
    for name in names:
        good = included(leaf_hash(leaf.bytes, name), leaf.index, head.size, hash_list(trees[name], 64), head.roots[name], name)
        demand(good, "inclusion-invalid", f"the leaf isn't in the {name} tree")


def _linked(value, head):
    strictjson.members(value, ("body", "consistency"), code=CODE, what="challenge_head")
    demand(isinstance(value["body"], str), CODE, "a head body isn't text")
    old = parse_body(value["body"].encode("utf-8", "surrogatepass"))
    joined = consistent(old.size, old.root, head.size, head.root, hash_list(value["consistency"]))
    older = old.origin == head.origin and old.time_ms <= head.time_ms
    demand(joined and older, "head-unlinked", "the head named by the challenge isn't joined to the artifact's")
    return old.digest


def _bears_out(leaf, chain, trust, parts, challenge_head):
    body, number = leaf.body, leaf.body["control"]
    inputs = check_inputs(leaf, parts.member("inputs record", body["inputs"]))
    demand(inputs["control"][1] == chain.digests[number], MISMATCH, "another control digest than the chain's")
    asked = parts.member("request", body["request"])
    request = check_request(leaf, asked, inputs["signature"])
    evidence = check_evidence(leaf, parts.member("evidence record", body["evidence"]))
    enrolment = parts.leaf(inputs["enrolment"], "enrolment").body
    demand(enrolment["host"] == body["ueid"], MISMATCH, "another host was enrolled")
    encoded = parts.member("public area of the AK", enrolment["ak"])
    ak = Public.parse(encoded)
    demand(ak.name == enrolment["ak_name"] and ak.may_attest(), MISMATCH, "the AK isn't the enrolled one, or may not attest")
    settings = policy_settings(parts.member("policy document", body["policy"]["digest"]))
    demand(settings["bank"] in BANKS, MISMATCH, "a bank that isn't known here")
    challenge = judge_bytes(challenge_shape, evidence["challenge"][:-32], "evidence-malformed", "challenge")
    demand(challenge[1] == body["ueid"], MISMATCH, "another host's challenge")
    demand(challenge[3] == challenge_head, "head-unlinked", "the challenge names another head")
    demand(inputs["time_ms"] <= challenge[2], MISMATCH, "decided after the challenge's end")
    root = root_of(evidence["requests"])
    qualifying = tuple_hash("countersign-v1:qualifying-data", trust.origin, evidence["challenge"], root)
    quote = check_quote(evidence, ak, qualifying, settings["bank"], settings["pcrs"])
    demand(evidence["boot_log"] is not None, MISMATCH, "no boot log is named")
    check_boot_log(parts.member("boot log", evidence["boot_log"]), evidence)
    _host_state(body, evidence, quote)
    _ima(inputs, evidence, parts)
    _references(body, inputs, evidence, parts)
    _family(leaf, request, inputs, asked, chain, parts)


def _host_state(body, evidence, quote):
    state = body["host_state"]
    same = (
        (state["reset_count"], state["restart_count"]) == (quote.reset_count, quote.restart_count)
        and state["clock_ms"] >= quote.clock_ms and state["firmware_version"] == quote.firmware_version
        and state["evidence"] == body["evidence"] and state["boot_log"] == evidence["boot_log"]
        and state["pcrs"] == sha256(b"".join(value for _, value in evidence["pcrs"]))
        and state["tier"] == body["appraisal"]["tier"]
    )
    demand(same, MISMATCH, "the host's state isn't what was quoted")


def _ima(inputs, evidence, parts):
    """What an appraisal of the IMA list starts from has to be there; the appraisal itself is the engine's."""
    if evidence.get("ima") is not None and evidence["ima"][2] != sha256(b""):
        parts.member("list of IMA entries", evidence["ima"][2])
    if inputs["host_state"].get("ima") is not None:
        parts.member("prior state of the IMA appraisal", inputs["host_state"]["ima"])


def _references(body, inputs, evidence, parts):
    matched = None
    if inputs["references"] is not None:
        encoded = parts.member("references document", inputs["references"])
        document, ima = judge_bytes(references_shape, encoded, CODE, "references")
        if ima is not None:
            parts.member("IMA policy", ima)
        quoted = dict(evidence["pcrs"])
        for name in sorted(document, key=str.encode):
            generations = document[name]
            fits = any(one["bank"] == evidence["bank"] and one.get("from", 0) <= inputs["time_ms"] <= one.get("until", U64)
                       and all(quoted.get(pcr) == value for pcr, value in one["pcrs"]) for one in generations)
            if fits:
                matched = name
                break
    demand(body["appraisal"].get("reference_set") == matched, MISMATCH, "another reference set matches")


def _family(leaf, request, inputs, asked, chain, parts):
    """Parents and all above them: allowed, not revoked, their holders' consents, and §7.3."""
    body, number = leaf.body, leaf.body["control"]
    parents, seen, above = [], {}, list(body["lineage"]["parents"])
    while above:
        name = above.pop()
        if name not in seen:
            seen[name] = parts.leaf(name, "allow")
            above.extend(seen[name].body["lineage"]["parents"])
    for subject in [(1, body["ueid"]), *((2, *name) for name in seen), *((1, found.body["ueid"]) for found in seen.values())]:
        demand(not chain.is_revoked(subject, number), "revoked", "the host, an ancestor or its host was revoked")
    left = {(index, digest): budget for index, digest, budget in inputs["parents"]}
    message = tuple_bytes("countersign-v1:delegation", asked)
    demand(len(inputs["consents"]) == len(body["lineage"]["parents"]), MISMATCH, "not one consent for each parent")
    for name, consent in zip(body["lineage"]["parents"], inputs["consents"]):
        found = seen[name]
        demand(found.body["holder"]["key"].verifies(message, consent), "holder-signature-invalid", "a parent's holder didn't agree")
        granted = found.body.get("delegation")
        spent = granted["budget"] - left[name] if granted else 0
        root = found.body["lineage"].get("root", name)
        parents.append(Allowed(found.hash, found.body["ueid"], found.body["exp"], root, found.body["lineage"]["depth"], granted, spent))
    if parents:
        check_narrowing(leaf, body, parents)
