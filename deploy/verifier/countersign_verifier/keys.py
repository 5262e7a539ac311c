"""Verifying keys (PROTOCOL §1.4): Ed25519 and P-256, from JSON and COSE, their thumbprints, strict verification."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from . import strictjson
from .hashing import sha256
from .refusal import Refused, demand

P25519 = 2**255 - 19
# The eight points whose order divides 8 have these y coordinates (RFC 7748's curve in Edwards form): 1, -1, 0 and the two of order 8.
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# RFC 8032 §5.1: the curve's d.
_D = -121665 * pow(121666, -1, P25519) % P25519
SMALL_ORDER_Y = frozenset({0, 1, P25519 - 1, _ORDER_8, P25519 - _ORDER_8})


def _ed25519_point(data, code, what):
    """Refuses what strict verification refuses: encodings that aren't canonical and points of small order."""
    y = int.from_bytes(data, "little") & ((1 << 255) - 1)
    demand(y < P25519, code, f"{what} isn't in canonical form")
    demand(y not in SMALL_ORDER_Y, code, f"{what} is of small order")
    # §5.1.3: x² has to be a square. The library takes any 32 bytes for a key.
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P25519) % P25519
    demand(pow(square, (P25519 - 1) // 2, P25519) == 1, code, f"{what} isn't a point of the curve")


class Key:
    """A key that verifies. `alg` is `EdDSA` or `ES256`, `raw` its public bytes."""

    def __init__(self, alg, raw):
        self.alg, self.raw = alg, raw
        try:
            if alg == "EdDSA":
                demand(len(raw) == 32, "key-malformed", "an Ed25519 key has 32 bytes")
                _ed25519_point(raw, "key-malformed", "the key")
                self._key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
            else:
                demand(alg == "ES256", "key-malformed", "unknown algorithm")
                demand(len(raw) == 65 and raw[0] == 4, "key-malformed", "a P-256 key is an uncompressed point of 65 bytes")
                self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
        except ValueError:
            raise Refused("key-malformed", "not a point of the curve") from None

    def __eq__(self, other):
        return isinstance(other, Key) and (self.alg, self.raw) == (other.alg, other.raw)

    def __hash__(self):
        return hash((self.alg, self.raw))

    @classmethod
    def from_json(cls, value):
        """`{"alg":..,"pub":..}`."""
        strictjson.members(value, ("alg", "pub"), code="key-malformed", what="a key")
        demand(value["alg"] in ("EdDSA", "ES256"), "key-malformed", "unknown algorithm")
        return cls(value["alg"], strictjson.base64url(value["pub"], "key-malformed", "pub"))

    @classmethod
    def from_cose(cls, value):
        """A COSE_Key of kty, crv and coordinates alone (RFC 9052 §7)."""
        demand(isinstance(value, dict), "key-malformed", "a COSE_Key is a map")
        coordinates = all(type(value.get(at)) is bytes and len(value[at]) == 32 for at in value if at in (-2, -3))
        demand(coordinates and all(type(value.get(at)) is int for at in (1, -1)), "key-malformed", "a member of another type")
        if set(value) == {1, -1, -2} and (value[1], value[-1]) == (1, 6):
            return cls("EdDSA", value[-2])
        demand(set(value) == {1, -1, -2, -3} and (value[1], value[-1]) == (2, 1), "key-malformed",
               "neither an Ed25519 nor a P-256 COSE_Key")
        return cls("ES256", b"\x04" + value[-2] + value[-3])

    def cose(self):
        """The COSE_Key as a value for the encoder."""
        if self.alg == "EdDSA":
            return {1: 1, -1: 6, -2: self.raw}
        return {1: 2, -1: 1, -2: self.raw[1:33], -3: self.raw[33:]}

    def spki(self):
        """SubjectPublicKeyInfo, DER."""
        return self._key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def thumbprint(self):
        """SHA-256 of the SubjectPublicKeyInfo."""
        return sha256(self.spki())

    def note_id(self, name):
        """The key id in a signature line (§6.3)."""
        if self.alg == "EdDSA":
            return sha256(name.encode() + b"\n\x01" + self.raw)[:4]
        return sha256(self.spki())[:4]

    def verifies(self, message, signature):
        """Whether this is the key's signature: 64 bytes, for P-256 `r||s`."""
        if len(signature) != 64:
            return False
        if self.alg == "EdDSA":
            return self._ed25519(message, signature)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        return self._ecdsa(message, utils.encode_dss_signature(r, s))

    def verifies_line(self, message, signature):
        """The same for a head signature line, where ECDSA signatures are DER."""
        if self.alg == "EdDSA":
            return len(signature) == 64 and self._ed25519(message, signature)
        try:
            r, s = utils.decode_dss_signature(signature)
        except ValueError:
            return False
        # DER has one encoding of two integers.
        return utils.encode_dss_signature(r, s) == signature and self._ecdsa(message, signature)

    def _ed25519(self, message, signature):
        try:
            _ed25519_point(signature[:32], "head-unsigned", "the signature's point")
            self._key.verify(signature, message)
        except (InvalidSignature, Refused):
            return False
        return True

    def _ecdsa(self, message, der):
        try:
            self._key.verify(der, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True
