"""Checks an attestation result with PyJWT and the published keys, then everything that can be wrong with it.

Most alterations fail at the signature. So that the reader's checks of claims are seen to be made, too, others are signed with a key of this script's own,
which it then believes.

Reads {"jwt", "jwks", "iss", "sub"} from standard input; the last line that it prints says how many alterations were refused. Fails if the result
isn't taken or an alteration is.
"""

import base64
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

given = json.load(sys.stdin)
keys = {key["kid"]: jwt.PyJWK(key).key for key in given["jwks"]["keys"]}


def check(token):
    """What a careful relying party does with PyJWT."""
    header = jwt.get_unverified_header(token)
    assert header["typ"] == "eat+jwt" and set(header) == {"alg", "kid", "typ"}, header
    claims = jwt.decode(token, keys[header["kid"]], algorithms=["EdDSA", "ES256"], issuer=given["iss"],
                        options={"require": ["exp", "iat", "iss"]})
    assert claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04" and claims["sub"] == given["sub"], claims
    assert claims["submods"]["host"]["ear_status"] in ("affirming", "warning"), claims
    return claims


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


claims = check(given["jwt"])
header, payload, signature = given["jwt"].split(".")
changed = []
for name, value in claims.items():
    for other in ({k: v for k, v in claims.items() if k != name}, {**claims, name: value + 1 if isinstance(value, int) else "x"}):
        changed.append(".".join((header, encoded(other), signature)))
plain = jwt.get_unverified_header(given["jwt"])
for other in ({**plain, "alg": "none"}, {**plain, "alg": "HS256"}, {**plain, "typ": "JWT"}, {**plain, "kid": "0" * 64}, {"alg": plain["alg"]}):
    changed.append(".".join((encoded(other), payload, signature)))
    changed.append(".".join((encoded(other), payload, "")))
for at in range(0, len(signature), 7):
    other = "A" if signature[at] != "A" else "B"
    changed.append(".".join((header, payload, signature[:at] + other + signature[at + 1:])))
own = Ed25519PrivateKey.generate()
keys["own"] = own.public_key()
signed = {"alg": "EdDSA", "kid": "own", "typ": "eat+jwt"}


def by_own_key(altered):
    return jwt.encode(altered, own, algorithm="EdDSA", headers=signed)


assert check(by_own_key(claims)) == claims, "the script's own key isn't believed"
for name in ("exp", "iat", "iss", "sub", "submods", "eat_profile"):
    changed.append(by_own_key({k: v for k, v in claims.items() if k != name}))
for name, value in (("iss", given["iss"] + "/other"), ("sub", "0" * 64), ("exp", claims["iat"]), ("exp", "never"), ("iat", claims["exp"] + 1_000_000_000),
                    ("eat_profile", "tag:ietf.org,2026:rats/ear#03"), ("submods", {"host": {"ear_status": "contraindicated"}})):
    changed.append(by_own_key({**claims, name: value}))
taken = []
for token in changed:
    try:
        check(token)
        taken.append(token)
    except Exception:  # whatever the library or the checks say, it isn't taken
        pass
assert not taken, taken
print(len(changed), "refused")
