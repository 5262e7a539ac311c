"""Attestation results as JWTs (PROTOCOL §17): the exact header, a signature by a key for that purpose, and claims that render a leaf."""

from . import strictjson
from .keys import Key
from .refusal import Refused, demand

PROFILE = "tag:ietf.org,2026:rats/ear#04"
TYPE = "eat+jwt"
MAX_RESULT = 16 * 1024
TIERS = {0: "none", 2: "affirming", 32: "warning", 96: "contraindicated"}
VECTOR = ("instance-identity", "configuration", "executables", "file-system", "hardware")
CLAIMS = ("eat_profile", "iss", "sub", "iat", "exp", "ear_verifier_id", "submods", "countersign_record")
FORM = "result-malformed"


def parse_jwks(data):
    """The keys of a JWK Set (RFC 7517)."""
    found = strictjson.members(strictjson.parse(data), ("keys",), code="key-malformed", what="a key set")["keys"]
    demand(isinstance(found, list), "key-malformed", "keys isn't an array")
    keys = []
    for value in found:
        elliptic = isinstance(value, dict) and value.get("kty") == "EC"
        names = ("kty", "crv", "x", "alg", "use", "kid") + (("y",) if elliptic else ())
        strictjson.members(value, names, code="key-malformed", what="a key")
        kind = ("EC", "P-256", "ES256") if elliptic else ("OKP", "Ed25519", "EdDSA")
        demand((value["kty"], value["crv"], value["alg"], value["use"]) == (*kind, "sig"), "key-malformed", "another kind of key")
        raw = strictjson.base64url(value["x"], "key-malformed", "x")
        if elliptic:
            raw = b"\x04" + raw + strictjson.base64url(value["y"], "key-malformed", "y")
        key = Key(kind[2], raw)
        demand(key.thumbprint().hex() == value["kid"], "key-malformed", "kid isn't the key's thumbprint")
        keys.append(key)
    return keys


def parse_result(data, keys):
    """The claims of a result that one of these keys signed."""
    demand(len(data) <= MAX_RESULT and data.isascii(), FORM, "too long, or not ASCII")
    parts = data.decode("ascii").strip().split(".")
    demand(len(parts) == 3, FORM, "not a compact JWS")
    header, payload, signature = (strictjson.base64url(part, FORM, "a part") for part in parts)
    header = strictjson.members(_json(header), ("alg", "kid", "typ"), code=FORM, what="the header")
    demand(header["typ"] == TYPE, FORM, "another type")
    key = next((key for key in keys if key.thumbprint().hex() == header["kid"]), None)
    demand(key is not None, "result-unsigned", "no key of this identifier is known")
    demand(header["alg"] == key.alg, FORM, "the algorithm isn't the key's")
    demand(key.verifies(".".join(parts[:2]).encode("ascii"), signature), "result-unsigned", "the signature doesn't verify")
    claims = strictjson.members(_json(payload), CLAIMS, ("eat_nonce",), code=FORM, what="the claims")
    demand(claims["eat_profile"] == PROFILE, FORM, "another profile")
    strictjson.members(claims["ear_verifier_id"], ("developer", "build"), code=FORM, what="ear_verifier_id")
    strictjson.members(claims["countersign_record"], ("index", "leaf", "evidence"), code=FORM, what="countersign_record")
    for name in ("iat", "exp"):
        strictjson.integer(claims[name], code=FORM, what=name)
    if "eat_nonce" in claims:
        nonce = strictjson.base64url(claims["eat_nonce"], FORM, "eat_nonce")
        demand(8 <= len(nonce) <= 64, FORM, "a nonce has 8 to 64 bytes")
    return claims


def _json(data):
    try:
        return strictjson.parse(data)
    except Refused as refused:
        raise Refused(FORM, refused.detail) from None


def rendered(leaf, origin):
    """What a leaf says of its host in these words, but for the nonce and, beside a host-state leaf that names none, the version; `None` if it says nothing."""
    body, decision = leaf.body, leaf.kind in ("allow", "deny")
    if not decision and leaf.kind != "host-state":
        return None
    state = body["host_state"] if decision else body["state"]
    code = body.get("code")
    if code in ("challenge-spent", "challenge-expired") or state["evidence"] != body["evidence"]:
        return None
    appraisal = {"ear_status": TIERS[state["tier"]]}
    # A host-state leaf of an early version tells the state alone.
    told = decision or "appraisal" in body
    policy = body.get("policy") and (body["policy"]["digest"] if decision else body["policy"])
    if told and body["appraisal"]["vector"]:
        appraisal["ear_trustworthiness_vector"] = {VECTOR[claim]: value for claim, value in body["appraisal"]["vector"].items()}
    if policy is not None:
        appraisal["ear_appraisal_policy_ids"] = ["ni:///sha-256;" + strictjson.to_base64url(policy)]
    claims = {
        "eat_profile": PROFILE,
        "iss": origin,
        "sub": body["ueid" if decision else "host"].hex(),
        "iat": leaf.time_ms // 1000,
        "exp": state["trusted_until_ms"] // 1000,
        "submods": {"host": appraisal},
        "countersign_record": {"index": leaf.index, "leaf": leaf.hash.hex(), "evidence": body["evidence"].hex()},
    }
    if told:
        claims["ear_verifier_id"] = {"developer": "countersign", "build": body["engine"]}
    return claims


def check_result(data, keys, origin, now_ms, leaf=None):
    """A result in time, of this log; with the leaf that it names, that it renders that leaf and nothing else."""
    claims = parse_result(data, keys)
    demand(claims["iss"] == origin, "origin-mismatch", "the result is of another log")
    demand(now_ms < claims["exp"] * 1000, "expired", "trust in the host has ended")
    demand(claims["iat"] * 1000 <= now_ms + 2000, "not-yet-valid", "the result is of the future")
    if leaf is not None:
        found = dict(claims)
        found.pop("eat_nonce", None)
        expected = rendered(leaf, origin)
        demand(expected is not None, "result-mismatch", f"leaf {leaf.index} tells of no host")
        if "ear_verifier_id" not in expected:
            demand(found["ear_verifier_id"]["developer"] == "countersign", "result-mismatch", "another developer")
            del found["ear_verifier_id"]
        demand(found == expected, "result-mismatch", f"the claims aren't what leaf {leaf.index} says")
    return claims
