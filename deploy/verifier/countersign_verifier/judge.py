"""Judgements over a receipt: inclusion, signature, key state, time, revocation; and over the request that it answers."""

import re

from . import strictjson
from .hashing import sha256, tuple_bytes
from .head import signers
from .keys import Key
from .leaf import ACTION, AUDIENCE, RUNTIME, evidence_record, inputs_record
from .receipt import parse_receipt
from .refusal import demand
from .schema import judge_bytes

MAX_REQUEST = 8192
LEEWAY_MS = 2000
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_head(head, bundle, chain=None):
    """A head counts as signed (§6.3). Without the control chain the only keys known are those of the trust bundle."""
    demand(head.origin == bundle.origin, "origin-mismatch", f"a head of {head.origin}")
    if chain is None:
        demand(signers(head, bundle.head_keys), "head-unsigned", "no key of the trust bundle signed the head")
        return
    active = chain.active(head.control_number)
    demand(head.control == chain.digests[head.control_number], "head-forked", "another control digest at this control number")
    signed = signers(head, chain.known())
    if any(key in active for key in signed):
        return
    # §8.5: nothing here links the head to the last good one, so only that one counts.
    demand(chain.last_good(signed), "head-unsigned", "no key active at the head's control number signed it")
    demand(chain.was_last_good(head, signed), "key-compromised", "only a compromised key signed the head")


def check_receipt(data, bundle, chain=None):
    """A receipt of any kind of leaf: form, inclusion, origin, signature."""
    receipt = parse_receipt(data)
    receipt.check_inclusion()
    check_head(receipt.head, bundle, chain)
    body = receipt.leaf.body
    if receipt.leaf.kind in ("allow", "deny"):
        demand(body["iss"] == bundle.origin, "origin-mismatch", "the decision is another log's")
        domain = RUNTIME.fullmatch(body["sub"])[1]
        demand(domain == bundle.trust_domain, "origin-mismatch", f"the runtime is of {domain}")
        demand(body["control"] <= receipt.head.control_number, "receipt-malformed", "decided under a later state than its head's")
    return receipt


def check_artifact(data, bundle, now_ms, chain=None, expected=None):
    """A receipt that is an allow decision, valid at a time. `expected` maps claim names (aud, action, ..) to values."""
    receipt = check_receipt(data, bundle, chain)
    leaf = receipt.leaf
    demand(leaf.kind == "allow", "not-an-allow", f"a leaf of kind {leaf.kind}")
    codes = {"aud": "audience-mismatch", "action": "action-mismatch", "arguments": "arguments-mismatch",
             "workload": "workload-mismatch"}
    for name, value in (expected or {}).items():
        demand(leaf.body[name] == value, codes[name], f"another {name}")
    demand(leaf.body["nbf"] * 1000 <= now_ms + LEEWAY_MS, "not-yet-valid", f"valid from {leaf.body['nbf']} s")
    demand(now_ms - LEEWAY_MS < leaf.body["exp"] * 1000, "expired", f"valid until {leaf.body['exp']} s")
    if chain is not None:
        check_not_revoked(leaf, chain)
    return receipt


def check_not_revoked(leaf, chain, number=None):
    """§13.2.7: neither the artifact, nor its host, nor an ancestor named in its lineage is revoked."""
    lineage = leaf.body["lineage"]
    named = [leaf.name, *lineage["parents"], *([lineage["root"]] if "root" in lineage else [])]
    for subject in [(1, leaf.body["ueid"]), *((2, *name) for name in named)]:
        what = "the host" if subject[0] == 1 else f"leaf {subject[1]}"
        demand(not chain.is_revoked(subject, number), "revoked", f"{what} is revoked")


def _names(value, pattern, what):
    demand(isinstance(value, list) and 1 <= len(value) <= 16, "request-malformed", f"{what}: 1 to 16 entries")
    demand(all(isinstance(item, str) and pattern.fullmatch(item) for item in value), "request-malformed", f"{what}: an entry")
    demand(all(a < b for a, b in zip(value, value[1:])), "request-malformed", f"{what}: sorted and distinct")


def parse_request(data):
    """A request (§3.1) from its exact bytes."""
    code = "request-malformed"
    demand(len(data) <= MAX_REQUEST, code, f"a request has at most {MAX_REQUEST} bytes")
    value = strictjson.members(
        strictjson.parse(data), ("v", "id", "host", "runtime", "holder", "workload", "action", "args", "aud", "ttl_secs"),
        ("parents", "delegation"), code, "a request")
    strictjson.integer(value["v"], 1, 1, code, "v")
    for name, pattern in (("id", REQUEST_ID), ("runtime", RUNTIME), ("action", ACTION), ("aud", AUDIENCE)):
        demand(isinstance(value[name], str) and pattern.fullmatch(value[name]), code, f"{name} is of another form")
    found = dict(value, holder=Key.from_json(value["holder"]))
    for name, length in (("host", 33), ("workload", 32), ("args", 32)):
        found[name] = strictjson.hexadecimal(value[name], length, code, name)
    demand(RUNTIME.fullmatch(value["runtime"])[2] == value["host"], code, "the runtime is of another host")
    strictjson.integer(value["ttl_secs"], 1, 86400, code, "ttl_secs")
    parents = value.get("parents", [])
    demand(isinstance(parents, list) and len(parents) <= 8, code, "parents: at most 8")
    found["parents"] = []
    for parent in parents:
        strictjson.members(parent, ("index", "leaf"), code=code, what="a parent")
        index = strictjson.integer(parent["index"], code=code, what="index")
        found["parents"].append((index, strictjson.hexadecimal(parent["leaf"], 32, code, "leaf")))
    demand(len({index for index, _ in found["parents"]}) == len(parents), code, "two parents of one index")
    if "delegation" in value:
        granted = strictjson.members(value["delegation"], ("actions", "audiences", "depth", "budget"), code=code, what="delegation")
        _names(granted["actions"], ACTION, "actions")
        _names(granted["audiences"], AUDIENCE, "audiences")
        strictjson.integer(granted["depth"], 1, 16, code, "depth")
        strictjson.integer(granted["budget"], 1, 65535, code, "budget")
    return found


def check_request(leaf, data, signature):
    """The decision is over exactly this request, which the holder key signed (§3.2)."""
    demand(leaf.kind in ("allow", "deny"), "request-mismatch", f"a leaf of kind {leaf.kind} answers no request")
    body = leaf.body
    demand(sha256(data) == body["request"], "request-mismatch", "another request digest")
    request = parse_request(data)
    same = (
        request["id"].encode() == body["cti"] and request["runtime"] == body["sub"] and request["host"] == body["ueid"]
        and request["holder"] == body["holder"]["key"] and request["workload"] == body["workload"]
        and request["action"] == body["action"] and request["args"] == body["arguments"] and request["aud"] == body["aud"]
        and request["parents"] == body["lineage"]["parents"]
    )
    demand(same, "request-mismatch", "the decision's claims aren't the request's")
    if leaf.kind == "allow":
        demand(body["exp"] - body["nbf"] <= request["ttl_secs"], "request-mismatch", "a longer lifetime than was asked for")
        demand(body.get("delegation") == request.get("delegation"), "request-mismatch", "another delegation than was asked for")
    good = request["holder"].verifies(tuple_bytes("countersign-v1:request", data), signature)
    demand(good, "holder-signature-invalid", "not the holder key's signature")
    return request


def check_evidence(leaf, data):
    """The evidence record (§9.2) is the one that a decision or a host state names, and covers the request."""
    demand(leaf.kind in ("allow", "deny", "host-state"), "evidence-mismatch", f"a leaf of kind {leaf.kind} names no evidence")
    demand(sha256(data) == leaf.body["evidence"], "evidence-mismatch", "another evidence digest")
    record = judge_bytes(evidence_record, data, "evidence-malformed", "evidence record")
    covered = leaf.body["request"] in record["requests"] if "request" in leaf.body else not record["requests"]
    demand(covered, "evidence-mismatch", "the quote doesn't cover the request")
    return record


def check_inputs(leaf, data):
    """The inputs record (§7.2) is the one that a decision names, and says of the decision what the decision says itself."""
    body = leaf.body
    demand(leaf.kind in ("allow", "deny"), "evidence-mismatch", f"a leaf of kind {leaf.kind} names no inputs")
    demand(sha256(data) == body["inputs"], "evidence-mismatch", "another inputs digest")
    record = judge_bytes(inputs_record, data, "evidence-malformed", "inputs record")
    policy = body.get("policy")
    same = (
        (record["engine"], record["request"], record["evidence"]) == (body["engine"], body["request"], body["evidence"])
        and record["control"][0] == body["control"] and record["time_ms"] // 1000 == body["iat"]
        and record["policy"] == (policy["digest"] if policy else None)
        and [name[:2] for name in record["parents"]] == body["lineage"]["parents"]
        and body["sub"].startswith(f"spiffe://{record['trust_domain']}/")
    )
    demand(same, "evidence-mismatch", "inputs and decision disagree")
    if leaf.kind == "allow":
        fresh = record["challenge"] == 1 and not record["reused"] and not record["revoked"]
        demand(fresh, "evidence-mismatch", "allowed although the inputs forbid it")
    return record
