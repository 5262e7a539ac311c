"""Leaves (PROTOCOL §5): envelope, kinds, and the body of each kind (§7.1, §8)."""

import re
from dataclasses import dataclass

from .hashing import leaf_hash, tuple_hash
from .refusal import demand
from .refusal_codes import REFUSALS
from .schema import (array, boolean, cose_key, data, judge_bytes, nullable, one_of, record, row,
                     strictly_rising, table, text, uint, want)

MAX_LEAF = 65535
U32 = (1 << 32) - 1
TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,64}"
RUNTIME = re.compile(rf"spiffe://({TRUST_DOMAIN.pattern})/host/(01[0-9a-f]{{64}})((?:/{SEGMENT}){{1,4}})")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
ACTION = re.compile(r"[a-z][a-z0-9._-]{0,63}")
AUDIENCE = re.compile(r"[A-Za-z0-9._:/-]{1,255}")

KINDS = {1: "allow", 2: "deny", 3: "enrolment", 4: "host-state", 5: "key", 6: "policy", 7: "references", 8: "revocation",
         9: "principal", 10: "heartbeat", 11: "faults", 12: "recovery", 13: "join-token", 14: "outcome"}
CONTROL = frozenset({"key", "policy", "references", "revocation", "principal", "recovery"})

digest = data(32)
leaf_name = row(uint(), digest)
action, audience = text(pattern=ACTION), text(pattern=AUDIENCE)
tier = one_of(0, 2, 32, 96)


def code(value):
    """§7.1: a refusal code of ERRORS.md."""
    want(text()(value) in REFUSALS, f"not a refusal code: {value!r:.80}")
    return value


def host_identifier(value):
    """§2: 33 bytes, the first of them 1."""
    want(data(33)(value)[0] == 1, "a host identifier begins with 1")
    return value


def request_identifier(value):
    """§7.1, cti: the characters of a request identifier."""
    want(REQUEST_ID.fullmatch(data()(value)), "not a request identifier")
    return value


def subject(value):
    """§8.8."""
    want(type(value) is list and value and type(value[0]) is int, "not a subject")
    shapes = {1: row(one_of(1), host_identifier), 2: row(one_of(2), uint(), digest), 3: row(one_of(3), digest)}
    want(value[0] in shapes, "an unknown kind of subject")
    return shapes[value[0]](value)


delegation = record({
    1: ("actions", strictly_rising(array(action, 1, 16))),
    2: ("audiences", strictly_rising(array(audience, 1, 16))),
    3: ("depth", uint(1, 16)),
    4: ("budget", uint(1, 65535)),
})

host_state = record({
    1: ("version", uint()), 2: ("reset_count", uint(most=U32)), 3: ("restart_count", uint(most=U32)), 4: ("clock_ms", uint()),
    5: ("firmware_version", uint()), 6: ("boot_log", nullable(digest)), 7: ("pcrs", nullable(digest)),
    8: ("trusted_until_ms", uint()), 9: ("tier", tier), 10: ("evidence", nullable(digest)),
}, {11: ("ima", digest)})

appraisal = record({1: ("tier", tier), 2: ("vector", table(one_of(0, 1, 2, 3, 4), tier))}, {3: ("reference_set", text())})

lineage = record({1: ("parents", array(leaf_name, 0, 8)), 3: ("depth", uint())}, {2: ("root", leaf_name)})


def _decision(verdict):
    required = {
        1: ("iss", text()), 2: ("sub", text(pattern=RUNTIME)), 3: ("aud", audience), 6: ("iat", uint()),
        7: ("cti", request_identifier), 8: ("holder", record({1: ("key", cose_key)})), 256: ("ueid", host_identifier),
        -65537: ("verdict", one_of(verdict)), -65539: ("request", digest), -65540: ("workload", digest),
        -65541: ("action", action), -65542: ("arguments", digest), -65543: ("lineage", lineage),
        -65546: ("evidence", digest),
        -65547: ("appraisal", appraisal),
        -65548: ("host_state", host_state), -65549: ("inputs", digest),
        -65550: ("asserted", strictly_rising(array(text()))), -65551: ("engine", text()), -65552: ("control", uint()),
    }
    optional = {
        -65544: ("delegation", delegation),
        -65545: ("policy", record({1: ("digest", digest), 2: ("epoch", uint(1)), 3: ("determining", array(text()))})),
    }
    required.update({4: ("exp", uint()), 5: ("nbf", uint())} if verdict == 1 else {-65538: ("code", code)})
    shape = record(required, optional)

    def check(value):
        found = shape(value)
        want(RUNTIME.fullmatch(found["sub"])[2] == found["ueid"].hex(), "the subject is of another host")
        parents = found["lineage"]["parents"]
        want(("root" in found["lineage"]) == bool(parents), "a root is named exactly when there are parents")
        want((found["lineage"]["depth"] == 0) == (not parents), "depth is 0 exactly without parents")
        if verdict == 1:
            want(1 <= found["exp"] - found["nbf"] <= 86400, "a lifetime of 1 to 86,400 s")
        return found
    return check


# §8.5: an officer's key and its signature over the act.
approval = nullable(row(cose_key, data()))


def _key(value):
    shape = record({
        1: ("event", one_of(1, 2, 3, 4, 5)), 2: ("purpose", one_of(1, 2, 3)), 3: ("key", cose_key),
        4: ("possession", nullable(data(64))), 5: ("custody", nullable(row(text(), digest))),
        6: ("principal", nullable(digest)), 7: ("approval", approval),
    })
    found = shape(value)
    introduced = found["event"] == 1
    want((found["possession"] is not None) == introduced and (found["custody"] is not None) == introduced,
         "possession and custody stand in introductions and nowhere else")
    want(introduced or found["approval"] is None, "an approval stands in introductions and nowhere else")
    return found


def _principal(value):
    found = record({1: ("event", one_of(1, 2)), 2: ("kind", one_of(1, 2)), 3: ("thumbprint", digest), 4: ("name", text()),
                    5: ("role", one_of(0, 1, 2, 3)), 6: ("by", nullable(digest)), 7: ("approval", approval)})(value)
    want((found["role"] == 0) == (found["kind"] == 2), "operators have a role and gateways have none")
    return found


def _outcome(value):
    found = record({1: ("gateway", digest), 2: ("artifact", leaf_name), 3: ("result", one_of(1, 2)),
                    4: ("code", nullable(code)), 5: ("time_ms", uint())})(value)
    want((found["code"] is not None) == (found["result"] == 2), "a code stands in refusals and nowhere else")
    return found


SERIAL_NUMBER = re.compile(r"[ -~]{1,64}")
OBJECT_IDENTIFIER = re.compile(r"[012](\.(0|[1-9][0-9]*))+")


def _device(value):
    found = record({1: ("certificate", digest), 2: ("key", digest)},
                   {3: ("serial", text(pattern=SERIAL_NUMBER)), 4: ("hardware_type", text(most=128, pattern=OBJECT_IDENTIFIER)),
                    5: ("hardware_serial", data(least=1, most=256))})(value)
    want(("hardware_type" in found) == ("hardware_serial" in found), "a hardware module has a type and a number")
    want("serial" in found or "hardware_type" in found, "a device identity names the device")
    return found


def _endorsement(value):
    found = record({1: ("kind", one_of(1, 2, 3)), 2: ("weak_key", boolean)},
                   {3: ("manufacturer", text()), 4: ("model", text()), 5: ("firmware", text()), 6: ("device", _device)})(value)
    described = [name for name in ("manufacturer", "model", "firmware") if name in found]
    want(len(described) in (0, 3), "a certificate describes the whole TPM or nothing of it")
    return found


def _enrolment(value):
    found = record({
        1: ("host", host_identifier), 2: ("ek", digest), 3: ("ek_certificate", nullable(digest)), 4: ("ak", digest),
        5: ("ak_name", data()), 6: ("host_key", cose_key), 7: ("host_key_kind", one_of(1, 2)),
        8: ("admission", one_of(1, 2, 3)), 9: ("token", nullable(digest)), 10: ("activation", digest), 11: ("version", uint()),
        12: ("endorsement", _endorsement),
    })(value)
    kind = found["endorsement"]["kind"]
    want((kind == 2) == (found["ek_certificate"] is None), "a certificate is named exactly where one endorses")
    want(kind != 2 or "model" not in found["endorsement"], "no certificate describes the TPM of an allow-listed EK")
    want((kind == 3) == (found["ek"] == found["ak"]), "the AK names the host exactly where its certificate endorses it")
    return found


BASIS = ("appraisal", "policy", "references", "engine", "time_ms", "control")


def _host_state(value):
    found = record(
        {1: ("host", host_identifier), 2: ("state", host_state), 3: ("evidence", digest), 4: ("code", nullable(code))},
        {5: ("appraisal", appraisal), 6: ("policy", nullable(digest)), 7: ("references", nullable(digest)), 8: ("engine", text()),
         9: ("time_ms", uint()), 10: ("control", uint())})(value)
    want(len({name in found for name in BASIS}) == 1, "what the state follows from is told whole or not at all")
    return found


def _heartbeat(value):
    found = record({1: ("reason", one_of(1, 2, 3, 4))}, {2: ("counter", row(data(16), uint()))})(value)
    want((found["reason"] == 4) == ("counter" in found), "a counter's value is told by reason 4 alone")
    return found


_epoch_body = record({1: ("digest", digest), 2: ("epoch", uint(1)), 3: ("principal", digest)})
BODIES = {
    "allow": _decision(1),
    "deny": _decision(2),
    "enrolment": _enrolment,
    "host-state": _host_state,
    "key": _key,
    "policy": _epoch_body,
    "references": _epoch_body,
    "revocation": record({1: ("subject", subject), 2: ("effect", one_of(1, 2)), 3: ("reason", text(most=256)),
                          4: ("principal", digest)}),
    "principal": _principal,
    "heartbeat": _heartbeat,
    "faults": record({1: ("counts", table(code, uint())), 2: ("since_ms", uint())}),
    "recovery": record({1: ("statement", data()), 2: ("signature", data(64))}),
    "join-token": record({1: ("token", digest), 2: ("expires_ms", uint()), 3: ("principal", digest)}),
    "outcome": _outcome,
}

inputs_record = record({
    1: ("engine", text()), 2: ("request", digest), 3: ("signature", data(64)), 4: ("evidence", digest),
    5: ("challenge", one_of(1, 2, 3)), 6: ("enrolment", leaf_name), 7: ("host_state", host_state), 8: ("policy", nullable(digest)),
    9: ("epoch", uint()), 10: ("references", nullable(digest)), 11: ("parents", array(row(uint(), digest, uint()), 0, 8)),
    12: ("control", row(uint(), digest)), 13: ("time_ms", uint()), 14: ("reused", boolean), 15: ("revoked", array(subject)),
    16: ("trust_domain", text(pattern=TRUST_DOMAIN)), 17: ("consents", array(data(most=64), 0, 8)),
})

evidence_record = record({
    1: ("challenge", data(most=160)), 2: ("attest", data(most=2048)), 3: ("signature", data(most=1024)), 4: ("bank", uint(most=65535)),
    5: ("pcrs", array(row(uint(most=(1 << 32) - 1), data(most=64)), 0, 24)), 6: ("boot_log", nullable(digest)),
    7: ("requests", array(digest, 0, 256)),
}, {8: ("ima", row(uint(), uint(most=65535), digest))})


@dataclass(frozen=True)
class Leaf:
    """A leaf: its exact bytes and what they say."""

    bytes: bytes
    kind: str
    index: int
    time_ms: int
    body: dict

    @property
    def hash(self):
        """The SHA-256 leaf hash."""
        return leaf_hash(self.bytes)

    @property
    def name(self):
        """(index, leaf hash), by which other leaves name it."""
        return self.index, self.hash

    @property
    def is_control(self):
        """Whether its kind is one of the control chain."""
        return self.kind in CONTROL


_envelope = row(one_of(1), one_of(*KINDS), uint(), uint(), data(16), data())


def parse_leaf(encoded, code="leaf-malformed"):
    """A leaf from its bytes: envelope, kind and body."""
    demand(len(encoded) <= MAX_LEAF, code, f"a leaf has at most {MAX_LEAF} bytes")
    _, kind, index, time_ms, _, body = judge_bytes(_envelope, encoded, code, "leaf")
    name = KINDS[kind]
    return Leaf(encoded, name, index, time_ms, judge_bytes(BODIES[name], body, code, f"body of kind {name}"))


def next_control(control, number, leaf):
    """§5.4: the control digest after the control leaf of this number."""
    return tuple_hash("countersign-v1:control", control, number, leaf.hash)
