"""Runs the second implementation over everything under tests/vectors: what is to be accepted is, to the byte, and what is to be refused is."""

import hashlib
import json
import re
import struct
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "verifier"))

from countersign_verifier import bundle, cbor, cose, hashing, head, judge, leaf, receipt, result, sources, strictjson, tpm  # noqa: E402
from countersign_verifier.evidence_bundle import references_shape, verify_bundle  # noqa: E402
from countersign_verifier.follow import Follower  # noqa: E402
from countersign_verifier.hashing import sha256, tuple_bytes, tuple_hash  # noqa: E402
from countersign_verifier.keys import Key  # noqa: E402
from countersign_verifier.log import check_log  # noqa: E402
from countersign_verifier.refusal_codes import REFUSALS  # noqa: E402
from countersign_verifier.refusal import CODES, Refused, demand  # noqa: E402
from countersign_verifier.schema import judge_bytes  # noqa: E402

VECTORS = ROOT / "tests" / "vectors"
counts = {"accepted": 0, "refused": 0}
unread = {path.relative_to(VECTORS).as_posix() for path in VECTORS.rglob("*.json")}


def load(name):
    unread.discard(name)
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def raw(name):
    unread.discard(name)
    return (VECTORS / name).read_bytes()


def equal(what, found, expected):
    if isinstance(found, bytes):
        found = found.hex()
    assert found == expected, f"{what}: {found!r:.200} instead of {expected!r:.200}"
    counts["accepted"] += 1


def refuse(what, check, *codes):
    try:
        check()
    except Refused as refused:
        assert not codes or refused.code in codes, f"{what}: {refused.code} instead of {codes}"
        counts["refused"] += 1
        return
    raise AssertionError(f"accepted: {what}")


def value_of(notation):
    """cbor.json's notation."""
    if isinstance(notation, dict):
        if "bytes" in notation:
            return bytes.fromhex(notation["bytes"])
        return {value_of(key): value_of(item) for key, item in notation["map"]}
    if isinstance(notation, list):
        return [value_of(item) for item in notation]
    return notation


def core():
    """tests/vectors/core."""
    for vector in load("core/tuple.json")["vectors"]:
        fields = [bytes.fromhex(field) for field in vector["fields"]]
        equal("tuple", tuple_bytes(vector["tag"], *fields), vector["preimage"])
        equal("tuple hash", tuple_hash(vector["tag"], *fields), vector["sha256"])
    vectors = load("core/cbor.json")
    for vector in vectors["accepted"]:
        data = bytes.fromhex(vector["hex"])
        value = value_of(vector["value"])
        found = cbor.decode(data)
        assert found == value and type(found) is type(value), vector
        equal("cbor", cbor.encode(found), vector["hex"])
    for vector in vectors["refused"]:
        refuse(vector["name"], lambda: cbor.decode(bytes.fromhex(vector["hex"])), "cbor-malformed")
    notes = load("core/note.json")
    keys = []
    for vector in notes["keys"]:
        key = Key.from_json(vector["key"])
        keys.append(key)
        equal("key id", key.note_id(vector["name"]), vector["id"])
        equal("SPKI", key.spki(), vector["spki"])
        equal("COSE_Key", cbor.encode(key.cose()), vector["cose"])
        equal("COSE_Key read", Key.from_cose(cbor.decode(bytes.fromhex(vector["cose"]))).raw, key.raw.hex())
    for vector in notes["notes"]:
        text, lines = head.parse_note(vector["note"].encode())
        equal("note", text.decode(), vector["text"])
        known = [key for key in keys for name, key_id, signature in lines
                 if (name, key_id) == (notes["keys"][0]["name"], key.note_id(name)) and key.verifies_line(text, signature)]
        assert len(known) == 2 and len(lines) == 3
    heads(keys)


def heads(keys):
    """Heads, inclusion and consistency, over the leaves of checkpoint.json in all three trees."""
    vectors = load("core/checkpoint.json")
    leaves = [bytes.fromhex(data) for data in vectors["leaves"]]
    names = {"sha-256": "sha256", "sha3-512": "sha3_512", "blake2b-512": "blake2b_512"}
    for vector in vectors["heads"]:
        found = head.parse_head(vector["note"].encode())
        assert len(head.signers(found, keys)) == 2
        equal("head digest", found.digest, vector["digest"])
        equal("prev", found.prev, vector["prev"])
        equal("control", found.control, vector["control"])
        equal("head", (found.origin, found.size, found.time_ms, found.control_number),
              (vector["origin"], vector["size"], vector["time_ms"], vector["control_seq"]))
        for tree, member in names.items():
            equal("root", found.roots[tree], vector[member])
            equal("root of leaves", hashing.root_of(leaves[:found.size], tree), vector[member])
        for at in range(len(vector["body"])):
            refuse("a changed head", lambda: signed_by(flip_text(vector["note"], at), keys))
    for vector in load("core/tlog-proof.json")["proofs"]:
        proof = receipt.parse_proof(vector["text"].encode())
        equal("extra", proof.extra, vector["extra"])
        equal("path", [node.hex() for node in proof.path], vector["proof"])
        under = head.parse_head(proof.checkpoint)
        node = hashing.leaf_hash(proof.extra)
        assert hashing.included(node, proof.index, under.size, proof.path, under.root)
        assert not hashing.included(node, proof.index + 1, under.size, proof.path, under.root)
        assert not hashing.included(node, proof.index, under.size, [*proof.path, bytes(32)], under.root)
        counts["accepted"] += 1


def flip_text(text, at):
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1:]


def signed_by(note, keys):
    found = head.parse_head(note.encode())
    if not head.signers(found, keys):
        raise Refused("head-unsigned", "by nobody known")


def formats():
    """tests/vectors/formats, by the Rust side."""
    vectors = load("formats/request.json")
    origin, data = vectors["origin"], vectors["request"].encode()
    request = judge.parse_request(data)
    equal("request digest", sha256(data), vectors["request_digest"])
    equal("arguments", tuple_hash("countersign-v1:argv", *vectors["argv"]), vectors["argv_digest"])
    equal("arguments in the request", request["args"], vectors["argv_digest"])
    equal("holder preimage", tuple_bytes("countersign-v1:request", data), vectors["holder_preimage"])
    assert request["holder"].verifies(tuple_bytes("countersign-v1:request", data), bytes.fromhex(vectors["holder_signature"]))
    equal("consent preimage", tuple_bytes("countersign-v1:delegation", data), vectors["delegation_preimage"])
    assert request["holder"].verifies(tuple_bytes("countersign-v1:delegation", data), bytes.fromhex(vectors["consent"]))
    root = hashing.root_of([bytes.fromhex(digest) for digest in vectors["root_of"]])
    equal("request root", root, vectors["request_root"])
    equal("request root of none", hashing.root_of([]), vectors["request_root_of_none"])
    challenge = bytes.fromhex(vectors["challenge"])
    equal("qualifying data", tuple_hash("countersign-v1:qualifying-data", origin, challenge, root), vectors["qualifying_data"])
    equal("activation data", tuple_hash("countersign-v1:activation", origin, bytes.fromhex(vectors["enrolment"]),
                                        bytes.fromhex(vectors["secret"])), vectors["activation_data"])
    challenges()
    results()
    receipts_of_leaves()
    statements()
    control = bytes(32)
    for vector in load("formats/leaf.json")["leaves"]:
        found = leaf.parse_leaf(bytes.fromhex(vector["leaf"]))
        equal("kind", found.kind, vector["kind"])
        equal("leaf hash", found.hash, vector["leaf_hash"])
        control = leaf.next_control(control, vector["control_number"], found)
        equal("control digest", control, vector["control_digest"])
    vectors = load("formats/record.json")
    for name, shape in (("evidence", leaf.evidence_record), ("inputs", leaf.inputs_record), ("host_state", leaf.host_state)):
        judge_bytes(shape, bytes.fromhex(vectors[name]), "evidence-malformed", name)
        counts["accepted"] += 1
    for name in ("evidence", "policy", "references", "captured"):
        equal(name, sha256(bytes.fromhex(vectors[name])), vectors[name + "_digest"])
    for name in ("references", "captured"):
        document = bytes.fromhex(vectors[name])
        judge_bytes(references_shape, document, "evidence-bundle-malformed", name)
        counts["accepted"] += 1
        for at in range(len(document)):
            refuse("a document cut short", lambda: judge_bytes(references_shape, document[:at], "evidence-bundle-malformed", name))


def results():
    """§17: what a leaf says of a host, and that nothing of it may be otherwise."""
    vectors = load("formats/ear.json")
    keys = result.parse_jwks(json.dumps({"keys": [vectors["jwk"]]}).encode())
    origin, now_ms = vectors["origin"], 1_700_000_000_123
    leaves = [leaf.parse_leaf(bytes.fromhex(vector["leaf"])) for vector in vectors["results"]]
    for vector, found in zip(vectors["results"], leaves):
        if vector["jwt"] is None:
            assert result.rendered(found, origin) is None, "a leaf that tells of nobody"
            continue
        data = vector["jwt"].encode()
        claims = result.check_result(data, keys, origin, now_ms, found)
        nonce = None if vector["nonce"] is None else strictjson.to_base64url(bytes.fromhex(vector["nonce"]))
        equal("nonce", claims.get("eat_nonce"), nonce)
        for other in leaves:
            if other.index != found.index:
                refuse("another leaf", lambda: result.check_result(data, keys, origin, now_ms, other), "result-mismatch")
        refuse("another log", lambda: result.check_result(data, keys, "other/log", now_ms, found), "origin-mismatch")
        refuse("too late", lambda: result.check_result(data, keys, origin, claims["exp"] * 1000, found), "expired")
        refuse("too early", lambda: result.check_result(data, keys, origin, 1, found), "not-yet-valid")
        refuse("no key", lambda: result.check_result(data, [], origin, now_ms, found), "result-unsigned")
        for at in range(0, len(data), 3):
            for bit in (1, 2, 32):
                bad = data[:at] + bytes([data[at] ^ bit]) + data[at + 1:]
                refuse("a changed result", lambda: result.check_result(bad, keys, origin, now_ms, found))


def receipts_of_leaves():
    """§16: each is for its leaf and no other, by its key and no other."""
    vectors = load("formats/cose.json")
    leaves, origin = [bytes.fromhex(text) for text in vectors["leaves"]], vectors["issuer"]
    keys = {vector["key"]: Key(vector["alg"], bytes.fromhex(vector["key"])) for vector in vectors["receipts"]}
    for vector in vectors["receipts"]:
        data, index, key = bytes.fromhex(vector["receipt"]), vector["index"], keys[vector["key"]]
        equal("receipt", cose.check_cose(data, leaves[index], origin, [key]), (index, vector["size"], vectors["issued_at"]))
        others = [other for text, other in keys.items() if text != vector["key"]]
        refuse("another key", lambda: cose.check_cose(data, leaves[index], origin, others), "head-unsigned")
        refuse("another log", lambda: cose.check_cose(data, leaves[index], "other/log", [key]), "origin-mismatch")
        for leaf_bytes in leaves[:index] + leaves[index + 1:]:
            refuse("another leaf", lambda: cose.check_cose(data, leaf_bytes, origin, [key]), "head-unsigned")
        for at in range(len(data)):
            bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
            try:
                found = cose.check_cose(bad, leaves[index], origin, [key])
            except Refused:
                counts["refused"] += 1
                continue
            # The root alone is signed: a path may fit a tree of another size, too (§16). What was signed stays what it was.
            assert found[1] != vector["size"] and found[2] == vectors["issued_at"], f"accepted: byte {at} of a receipt changed"


def statements():
    """§10: both types, and what officers sign (§8.5, §8.9)."""
    vectors = load("formats/statement.json")
    recovery = Key("EdDSA", bytes.fromhex(vectors["recovery_key"]))
    origin = "test.example/log"
    for number, vector in enumerate(vectors["statements"], 1):
        encoded, signature = bytes.fromhex(vector["statement"]), bytes.fromhex(vector["signature"])
        found = bundle.verify_statement(encoded, signature, origin, recovery, number)
        equal("type", found["type"], number)
        refuse("another number", lambda: bundle.verify_statement(encoded, signature, origin, recovery, number + 1), "bundle-invalid")
        refuse("another log", lambda: bundle.verify_statement(encoded, signature, "other/log", recovery, number), "origin-mismatch")
        bad = bytes([signature[0] ^ 1]) + signature[1:]
        refuse("another signature", lambda: bundle.verify_statement(encoded, bad, origin, recovery, number), "bundle-invalid")
    key = Key("EdDSA", bytes.fromhex(vectors["key"]))
    act = tuple_bytes("countersign-v1:key-introduction", origin, 1, cbor.encode(key.cose()), "pkcs11", bytes([1]) * 32)
    equal("key introduction", act, vectors["key_introduction"])
    equal("officer addition", tuple_bytes("countersign-v1:officer-addition", origin, "officer-2", key.thumbprint()),
          vectors["officer_addition"])


def challenges():
    """§4.1: what an auditor reads out of a challenge."""
    import hmac
    vectors = load("formats/challenge.json")
    data = bytes.fromhex(vectors["challenge"])
    body, mac = data[:-32], data[-32:]
    message = tuple_bytes("countersign-v1:challenge", body)
    equal("challenge MAC", hmac.new(bytes.fromhex(vectors["mac_key"]), message, "sha256").digest(), mac.hex())
    key_id, host, expires, under, random = cbor.decode(body)
    equal("challenge", [key_id.hex(), host.hex(), expires, under.hex(), random.hex()],
          [vectors[name] for name in ("key_id", "host", "expires_ms", "head", "random")])
    equal("challenge digest", sha256(data), vectors["challenge_digest"])


def whole_log():
    """tests/vectors/formats/log.json: a log of every kind of leaf, and all that is given out about it."""
    vectors = load("formats/log.json")
    trusted = bundle.parse_bundle(vectors["trust_bundle"].encode())
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(line + "\n" for line in vectors["export"]))
        file.flush()
        export = sources.Export(file.name)
        log = check_log(trusted, export.leaves(), export.heads())
        leaves = list(export.leaves())
    assert set(log.counts) == set(leaf.KINDS.values()), "a kind of leaf is missing"
    counts["accepted"] += len(leaves)
    follower = Follower(trusted)
    follower.take(vectors["feed"])
    assert follower.head.digest == log.signed.digest
    for vector in vectors["receipts"]:
        found = judge.check_receipt(vector["receipt"].encode(), trusted, follower.chain)
        if vector["asked"] is not None:
            asked = vector["asked"]
            request = judge.check_request(found.leaf, asked["request"].encode(), bytes.fromhex(asked["signature"]))
            for consent in asked["consents"]:
                message = tuple_bytes("countersign-v1:delegation", asked["request"].encode())
                assert request["holder"].verifies(message, bytes.fromhex(consent))
        counts["accepted"] += 1
    roots = {tree: [hashing.root_of(leaves[:size], tree) for size in range(len(leaves) + 1)] for tree in hashing.TREES}
    for vector in vectors["inclusion"]:
        tree, index, size = vector["tree"], vector["index"], vector["size"]
        path = [bytes.fromhex(node) for node in vector["proof"]]
        node = hashing.leaf_hash(leaves[index], tree)
        assert hashing.included(node, index, size, path, roots[tree][size], tree)
        for bad in (path[:-1], [*path, path[-1]], [bytes(len(path[0])), *path[1:]]):
            assert not hashing.included(node, index, size, bad, roots[tree][size], tree)
            counts["refused"] += 1
        counts["accepted"] += 1
    for vector in vectors["consistency"]:
        tree, old, new = vector["tree"], vector["from"], vector["to"]
        path = [bytes.fromhex(node) for node in vector["proof"]]
        assert hashing.consistent(old, roots[tree][old], new, roots[tree][new], path, tree)
        bad = [[*path, roots[tree][1]], path[:-1]] if path else [[roots[tree][1]]]
        for proof in bad:
            assert not hashing.consistent(old, roots[tree][old], new, roots[tree][new], proof, tree)
            counts["refused"] += 1
        assert not hashing.consistent(old, roots[tree][old - 1], new, roots[tree][new], path, tree)
        counts["accepted"] += 1
    return trusted, follower.chain


def refused(trusted, chain):
    """tests/vectors/formats/refused.json: one way to be wrong each."""
    def request(vector):
        data = bytes.fromhex(vector["hex"])
        found = judge.parse_request(data)
        good = found["holder"].verifies(tuple_bytes("countersign-v1:request", data), bytes.fromhex(vector["signature"]))
        demand(good, "holder-signature-invalid", "not the holder's")

    judges = {
        "leaf": (lambda v: leaf.parse_leaf(bytes.fromhex(v["hex"])), ("leaf-malformed",)),
        "receipt": (lambda v: judge.check_receipt(v["text"].encode(), trusted, chain), ("receipt-malformed", "inclusion-invalid")),
        "head": (lambda v: judge.check_head(head.parse_head(v["text"].encode()), trusted), ("head-malformed", "head-unsigned")),
        "request": (request, ("request-malformed", "json-malformed", "holder-signature-invalid")),
        "key": (lambda v: Key.from_json(v["key"]), ("key-malformed",)),
        "bundle": (lambda v: bundle.parse_bundle(v["text"].encode()),
                   ("bundle-malformed", "bundle-invalid", "origin-mismatch", "too-large")),
        "evidence": (lambda v: judge_bytes(leaf.evidence_record, bytes.fromhex(v["hex"]), "evidence-malformed", "x"),
                     ("evidence-malformed",)),
        "inputs": (lambda v: judge_bytes(leaf.inputs_record, bytes.fromhex(v["hex"]), "evidence-malformed", "x"),
                   ("evidence-malformed",)),
    }
    for vector in load("formats/refused.json")["refused"]:
        check, codes = judges[vector["what"]]
        refuse(f"{vector['what']}: {vector['name']}", lambda: check(vector), *codes)


FAULTS = {"unknown-gateway": "unauthorised", "ended-gateway": "unauthorised", "no-such-leaf": "state-invalid", "not-an-allow": "not-an-allow",
          "before-artifact": "outcome-implausible", "from-future": "outcome-implausible", "after-end": "outcome-implausible",
          "too-late": "outcome-implausible", "twice": "state-invalid"}


def ending(name, judge_refusal):
    """Logs that end with a leaf that is right, or wrong in one way, while all else is right."""
    vectors = load(f"formats/{name}.json")
    trusted = bundle.parse_bundle(vectors["trust_bundle"].encode())

    def check(pages):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write("".join(line + "\n" for line in pages))
            file.flush()
            export = sources.Export(file.name)
            return check_log(trusted, export.leaves(), export.heads())

    check(vectors["export"])
    for vector in vectors["logs"]:
        pages, expected = vectors["export"] + vector["export"], judge_refusal(vector)
        if expected is None:
            equal(vector["name"], check(pages).size, vector["leaf"] + 1)
            continue
        try:
            check(pages)
        except Refused as refused:
            assert refused.code == expected, f"{vector['name']}: {refused.code}"
            assert refused.detail.startswith(f"leaf {vector['leaf']}: "), f"{vector['name']}: {refused}"
            counts["refused"] += 1
            continue
        raise AssertionError(f"accepted: {vector['name']}")
    return vectors["logs"]


def outcomes():
    """tests/vectors/formats/outcomes.json: the leaf is an outcome."""
    logs = ending("outcomes", lambda vector: vector["fault"] and FAULTS[vector["fault"]])
    assert {vector["fault"] for vector in logs} == {None, *FAULTS}, "a fault without a log"


def attested():
    """tests/vectors/formats/attested.json: the leaf is a host state."""
    logs = ending("attested", lambda vector: None if vector["taken"] else "state-invalid")
    assert {vector["taken"] for vector in logs} == {True, False}


def enrolled():
    """tests/vectors/formats/enrolled.json: the leaf is an enrolment."""
    codes = {None: None, "unentitled": "state-invalid", "revoked": "revoked"}
    logs = ending("enrolled", lambda vector: codes[vector["fault"]])
    assert {vector["fault"] for vector in logs} == set(codes)


def evidence():
    """tests/vectors/evidence: an artifact with all that bears it out."""
    trusted = bundle.parse_bundle(raw("evidence/trust-bundle.json"))
    whole = raw("evidence/bundle.json")
    equal("the artifact's kind", verify_bundle(whole, trusted).leaf.kind, "allow")
    members = [strictjson.base64url(member, "evidence-malformed", "a member") for member in json.loads(whole)["members"]]
    words([member for member in members if b"Spec ID Event03" in member][0])


def words(log):
    """The words that systemd measures behind a boot log, and others: of one register, in the log's last events and behind it."""
    os, nvpcr, zeros = tpm.OS, tpm.NVPCR, bytes(4)
    bank, known = 0x000B, tpm.replay(log, 0x000B)[0]

    def verdict(pcr, in_log, behind):
        longer, value = log, known.get(pcr, bytes(32))
        for word in in_log:
            longer += struct.pack("<IIIH", pcr, 13, 2, 0x000B) + sha256(word) + struct.pack("<H", 0x000C)
            longer += hashlib.sha384(word).digest() + struct.pack("<I", len(word)) + word
        for word in (*in_log, *behind):
            value = sha256(value + sha256(word))
        try:
            tpm.check_boot_log(longer, {"bank": bank, "pcrs": [[pcr, value]]})
        except Refused as refusal:
            return refusal.code
        return None

    for pcr in (*range(10), 14):
        taken = {9: [[os], [nvpcr], [os, nvpcr]], 8: []}.get(pcr, [[os]])
        tried = [[os], [nvpcr], [os, nvpcr], [nvpcr, os], [os, os], [os, nvpcr, nvpcr], [b"other"], [os + b"\0"], [zeros], [b"other", os], [os, b"other"]]
        for path in tried:
            expected = None if path in taken else "boot-log-mismatch"
            equal(f"{path} behind the log in register {pcr}", verdict(pcr, [], path), expected)
            counts["accepted" if expected is None else "refused"] += 1
            # In the log the log itself leads there, whatever it is; and cut in two it reads the same.
            again = "boot-log-separator" if zeros in path and pcr < 8 else None
            equal(f"{path} in the log of register {pcr}", verdict(pcr, path, []), again)
            first = next((at for at, word in enumerate(path) if [word] in taken), len(path))
            for cut in range(1, len(path)):
                code = None if first <= cut and path[first:] in taken else "boot-log-mismatch"
                equal(f"{path} cut at {cut} in register {pcr}", verdict(pcr, path[:cut], path[cut:]), code)
    # Another separator of the firmware's, of its own kind this time.
    event = struct.pack("<IIIH", 7, 4, 2, 0x000B) + sha256(zeros) + struct.pack("<H", 0x000C) + hashlib.sha384(zeros).digest()
    value = sha256(known[7] + sha256(zeros))
    try:
        tpm.check_boot_log(log + event + struct.pack("<I", 4) + zeros, {"bank": bank, "pcrs": [[7, value]]})
        code = None
    except Refused as refusal:
        code = refusal.code
    equal("a second separator", code, "boot-log-separator")


def page():
    """The README's table of codes is the program's, and every code is used."""
    folder = ROOT / "deploy" / "verifier"
    table = (folder / "README.md").read_text().split("| Code | Meaning |")[1]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", table, re.M)
    assert dict(rows) == CODES and len(rows) == len(CODES), "the table of codes in the README isn't refusal.py's"
    source = "".join(path.read_text() for path in (folder / "countersign_verifier").glob("*.py") if path.name != "refusal.py")
    listed = (ROOT / "docs" / "ERRORS.md").read_text().split("## What audits find")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", listed, re.M)) == REFUSALS, "refusal_codes.py isn't what ERRORS.md lists"
    assert not [code for code in CODES if f'"{code}"' not in source], "a code that nothing raises"


core()
formats()
refused(*whole_log())
outcomes()
attested()
enrolled()
evidence()
page()
assert not unread, f"nobody reads {sorted(unread)}"
print(f"{counts['accepted']} accepted and {counts['refused']} refused: vectors as expected")
