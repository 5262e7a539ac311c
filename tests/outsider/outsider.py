"""What outsider.sh can't say in a shell: JSON, base64url, hashed tuples, the bytes of one TPM command, and the checks of what comes back.

Written from docs/PROTOCOL.md and docs/openapi.json. Verification is that of the second implementation in deploy/verifier, written from the same
page."""

import base64
import hashlib
import json
import os
import re
import secrets
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "deploy" / "verifier"))

from countersign_verifier import bundle as bundles  # noqa: E402
from countersign_verifier.follow import Follower  # noqa: E402
from countersign_verifier.hashing import root_of, sha256, tuple_bytes, tuple_hash  # noqa: E402
from countersign_verifier.judge import check_receipt, check_request  # noqa: E402
from countersign_verifier.receipt import parse_receipt  # noqa: E402
from countersign_verifier.refusal import Refused, demand  # noqa: E402
from countersign_verifier.strictjson import base64url, parse, to_base64url  # noqa: E402

STEPS = {}


def step(function):
    """Makes a function a step of the command line, by its name with hyphens."""
    STEPS[function.__name__.replace("_", "-")] = function
    return function


def read(path):
    return Path(path).read_bytes()


def answer(path):
    return parse(read(path))


def put(value):
    print(json.dumps(value))


def pinned():
    return bundles.parse_bundle(read(os.environ["TRUST_BUNDLE"]))


def pem(certificates):
    for der in certificates:
        print("-----BEGIN CERTIFICATE-----")
        print(re.sub("(.{64})", r"\1\n", base64.b64encode(der).decode()).rstrip("\n"))
        print("-----END CERTIFICATE-----")


def ders(text):
    blocks = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.S)
    return [base64.b64decode("".join(block.split())) for block in blocks]


def strip_padding(der):
    """An NV index may be longer than the certificate in it."""
    if der[1] == 0x82:
        return der[:4 + int.from_bytes(der[2:4], "big")]
    return der


@step
def ca_certificates(path):
    """§10: the CA under which the server's certificate must be."""
    pem(bundles.parse_bundle(read(path)).ca_certificates)


@step
def member(name, path):
    print(answer(path)[name])


# ---- enrolment (§12) ------------------------------------------------------------------------------------------
@step
def begin(token, intermediates):
    body = {
        "ek_certificate": to_base64url(strip_padding(read("ek.cert"))),
        "ek_public": to_base64url(read("ek.tpmt")),
        "ak_public": to_base64url(read("ak.tpmt")),
        "host_key_public": to_base64url(read("host.tpmt")),
    }
    if intermediates:
        body["ek_intermediates"] = [to_base64url(der) for der in ders(Path(intermediates).read_text())]
    if token:
        body["token"] = token
    put(body)


@step
def credential(offer):
    """The two contents with their sizes, behind the header that tpm2-tools write before a credential."""
    value = answer(offer)
    out = bytes.fromhex("badcc0de00000001")
    for name in ("id_object", "encrypted_secret"):
        content = base64url(value[name])
        out += struct.pack(">H", len(content)) + content
    sys.stdout.buffer.write(out)


@step
def certify_command(host_key, ak, offer, secret):
    """TPM2_Certify (Part 3, 18.2) with two empty password authorisations and the null scheme."""
    activation = tuple_hash("countersign-v1:activation", pinned().origin, bytes.fromhex(answer(offer)["enrolment"]), read(secret))
    password = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    body = struct.pack(">II", int(host_key, 16), int(ak, 16)) + struct.pack(">I", 2 * len(password)) + password * 2
    body += struct.pack(">H", len(activation)) + activation + struct.pack(">H", 0x0010)
    sys.stdout.buffer.write(struct.pack(">HII", 0x8002, 10 + len(body), 0x148) + body)


@step
def finish(certified, secret):
    response = read(certified)
    code, size = struct.unpack_from(">IIH", response, 2)[1], struct.unpack_from(">I", response, 10)[0]
    assert code == 0, f"TPM2_Certify: {code:#x}"
    parameters = response[14:14 + size]
    length = struct.unpack_from(">H", parameters)[0]
    put({"secret": to_base64url(read(secret)), "attest": to_base64url(parameters[2:2 + length]),
         "signature": to_base64url(parameters[2 + length:])})


@step
def certificates(enrolled):
    pem(base64url(der) for der in answer(enrolled)["certificates"])


def host_identifier():
    """§2: from the numbers of the EK, encoded again."""
    key = serialization.load_der_public_key(read("ek.der"))
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b"\x01" + sha256(spki)


@step
def verify_enrolment(enrolled, _):
    value = answer(enrolled)
    receipt = check_receipt(value["receipt"].encode(), pinned())
    body = receipt.leaf.body
    demand(receipt.leaf.kind == "enrolment", "state-invalid", "not an enrolment")
    demand(value["host"] == host_identifier().hex() == body["host"].hex(), "state-invalid", "another host")
    demand(body["ek"] == sha256(read("ek.tpmt")) and body["ak"] == sha256(read("ak.tpmt")), "state-invalid", "other keys")
    demand(body["ak_name"] == b"\x00\x0b" + sha256(read("ak.tpmt")), "state-invalid", "another AK name")
    Path("host").write_text(value["host"])
    print(value["host"])


# ---- quote (§4, §9) -------------------------------------------------------------------------------------------
BANKS = {0x000B: ("sha256", 32), 0x000C: ("sha384", 48)}


@step
def selection(challenge):
    value = answer(challenge)
    print(BANKS[value["bank"]][0] + ":" + ",".join(map(str, value["pcrs"])))


@step
def qualifying_data(challenge, *requests):
    """§4.3, over the request root of §3.3."""
    root = root_of([sha256(read(path)) for path in requests])
    print(tuple_hash("countersign-v1:qualifying-data", pinned().origin, base64url(answer(challenge)["challenge"]), root).hex())


@step
def call(challenge, how, request=None, signature=None):
    value = answer(challenge)
    size = BANKS[value["bank"]][1]
    values, boot_log = read("quote.pcrs"), read(os.environ["BOOT_LOG"])
    assert len(values) == size * len(value["pcrs"])
    evidence = {
        "attest": to_base64url(read("quote.attest")),
        "signature": to_base64url(read("quote.signature")),
        "bank": value["bank"],
        "pcrs": [{"index": index, "value": values[size * at:size * (at + 1)].hex()} for at, index in enumerate(value["pcrs"])],
        "boot_log": sha256(boot_log).hex(),
    }
    if how == "inline":
        evidence["members"] = [to_base64url(boot_log)]
    body = {"challenge": value["challenge"], "evidence": evidence}
    if request:
        body["requests"] = [{"request": to_base64url(read(request)), "signature": to_base64url(read(signature))}]
    put(body)


@step
def verify_attestation(path):
    value = answer(path)
    receipt = check_receipt(value["receipt"].encode(), pinned())
    body = receipt.leaf.body
    demand(receipt.leaf.kind == "host-state" and body["host"].hex() == Path("host").read_text(), "state-invalid", "not ours")
    demand(body["code"] == value.get("code"), "state-invalid", "another code than the answer's")
    print(value["tier"], value.get("code", ""))


# ---- request and decision (§3, §7) ----------------------------------------------------------------------------
def holder():
    return serialization.load_pem_private_key(read("holder.pem"), None)


@step
def request(audience, action, *argv):
    raw = holder().public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    host = Path("host").read_text()
    put({
        "v": 1,
        "id": secrets.token_hex(16),
        "host": host,
        "runtime": f"spiffe://{pinned().trust_domain}/host/{host}/outsider",
        "holder": {"alg": "EdDSA", "pub": to_base64url(raw)},
        "workload": hashlib.sha256(read(argv[0])).hexdigest(),
        "action": action,
        "args": tuple_hash("countersign-v1:argv", *map(os.fsencode, argv)).hex(),
        "aud": audience,
        "ttl_secs": 60,
    })


@step
def another_request(path):
    put({**answer(path), "id": secrets.token_hex(16)})


@step
def holder_signature(path):
    """§3.2."""
    sys.stdout.buffer.write(holder().sign(tuple_bytes("countersign-v1:request", read(path))))


@step
def verify_decision(path, request_path, signature, out):
    decisions = answer(path)["decisions"]
    assert len(decisions) == 1
    decision = decisions[0]
    receipt = check_receipt(decision["receipt"].encode(), pinned())
    demand(receipt.leaf.kind == decision["verdict"], "state-invalid", "the leaf says otherwise than the answer")
    demand(receipt.leaf.body.get("code") == decision.get("code"), "state-invalid", "another code than the answer's")
    check_request(receipt.leaf, read(request_path), read(signature))
    if decision["verdict"] == "allow":
        Path(out).write_text(decision["receipt"])
    else:
        Path(out + ".denied").write_text(decision["receipt"])
    print(decision["verdict"], decision.get("code", ""))


@step
def verify_feed(path):
    follower = Follower(pinned())
    follower.take(answer(path))
    last = parse_receipt(read("artifact")).leaf.index if Path("artifact").exists() else 0
    demand(follower.head.size > last, "head-regressed", "the feed's head doesn't cover the artifact")
    print("head", follower.head.size, "control", follower.chain.number)


if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]](*sys.argv[2:])
    except Refused as refused:
        print(f"refused: {refused.code}: {refused.detail}", file=sys.stderr)
        sys.exit(1)
