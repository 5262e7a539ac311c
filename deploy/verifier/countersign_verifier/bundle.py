"""The trust bundle (PROTOCOL §10): what a reader pins."""

from dataclasses import dataclass, field

from . import strictjson
from .hashing import tuple_bytes
from .head import is_origin, parse_body
from .keys import Key
from .leaf import TRUST_DOMAIN
from .refusal import Refused, demand
from .schema import Wrong, array, cose_key, data, judge_bytes, one_of, record, text, uint, want

MAX_BUNDLE = 256 * 1024

INITIAL, COMPROMISE = 1, 2
LISTED = 64


def _head_body(value):
    want(type(value) is str, "not text")
    try:
        return parse_body(value.encode())
    except Refused as refused:
        raise Wrong(refused.detail) from None


_common = {1: ("number", uint(1)), 2: ("origin", text(1, 255)), 3: ("type", one_of(INITIAL, COMPROMISE)), 4: ("time_ms", uint())}
_initial = record({
    **_common, 5: ("head_keys", array(cose_key, 1, LISTED)), 6: ("ca_certificates", array(data(), 1, LISTED)),
    7: ("officers", array(data(32), 0, LISTED)), 8: ("lease_secs", uint(1, 86400)),
})
_compromise = record({
    **_common, 5: ("key", cose_key), 6: ("last_good", _head_body), 7: ("head_keys", array(cose_key, 0, LISTED)),
})


def statement_shape(value):
    """A statement of either type."""
    if type(value) is not dict or value.get(3) != COMPROMISE:
        return _initial(value)
    found = _compromise(value)
    want(found["last_good"].origin == found["origin"], "the last good head is of another log")
    want(found["key"] not in found["head_keys"], "a key in its own stead")
    return found


@dataclass
class Bundle:
    """A trust bundle whose statements verify."""

    origin: str
    trust_domain: str
    recovery: Key
    statements: list
    head_keys: list = field(default_factory=list)
    ca_certificates: list = field(default_factory=list)
    officers: list = field(default_factory=list)
    compromises: list = field(default_factory=list)
    lease_secs: int = 0


def verify_statement(encoded, signature, origin, recovery, number):
    """A statement of this number by the recovery key."""
    good = recovery.verifies(tuple_bytes("countersign-v1:recovery-statement", encoded), signature)
    demand(good, "bundle-invalid", f"statement {number} isn't signed by the recovery key")
    statement = judge_bytes(statement_shape, encoded, "bundle-malformed", f"statement {number}")
    demand(statement["number"] == number, "bundle-invalid", "statement numbers have a gap")
    demand(statement["origin"] == origin, "origin-mismatch", f"statement {number} is of another log")
    demand((statement["type"] == 1) == (number == 1), "bundle-invalid", "the first statement alone is the initial one")
    return statement


def parse_bundle(encoded):
    """The bundle, its statements verified."""
    demand(len(encoded) <= MAX_BUNDLE, "too-large", "a trust bundle has at most 256 KiB")
    code = "bundle-malformed"
    value = strictjson.members(strictjson.parse(encoded), ("v", "origin", "trust_domain", "recovery_key", "statements"),
                               code=code, what="the bundle")
    strictjson.integer(value["v"], 1, 1, code, "v")
    demand(isinstance(value["origin"], str) and is_origin(value["origin"]), code, "no origin")
    demand(isinstance(value["trust_domain"], str) and TRUST_DOMAIN.fullmatch(value["trust_domain"]), code, "no trust domain")
    recovery = Key.from_json(value["recovery_key"])
    demand(isinstance(value["statements"], list) and value["statements"], code, "no statements")
    bundle = Bundle(value["origin"], value["trust_domain"], recovery, [])
    for number, item in enumerate(value["statements"], 1):
        strictjson.members(item, ("statement", "signature"), code=code, what="a statement")
        statement_bytes = strictjson.base64url(item["statement"], code, "statement")
        signature = strictjson.base64url(item["signature"], code, "signature")
        statement = verify_statement(statement_bytes, signature, bundle.origin, recovery, number)
        bundle.statements.append((statement_bytes, signature))
        if statement["type"] == COMPROMISE:
            bundle.compromises.append(statement)
            continue
        bundle.head_keys.extend(statement["head_keys"])
        bundle.ca_certificates.extend(statement["ca_certificates"])
        bundle.officers.extend(statement["officers"])
        bundle.lease_secs = statement["lease_secs"]
    return bundle
