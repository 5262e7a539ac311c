#!/usr/bin/env python3
"""Computes the core vectors independently of the Rust code: hashlib for hashes, `cryptography` for keys and
signatures, and the few encodings written out below from their specifications. Needs python3-cryptography >= 44
(deterministic ECDSA). Run in this directory; it rewrites tuple.json, cbor.json, note.json, checkpoint.json and
tlog-proof.json, and a second run changes nothing."""

import base64
import hashlib
import json
import struct

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

HOW = "computed by generate.py in this directory: "


def b64(data):
    return base64.b64encode(data).decode()


def sha(data):
    return hashlib.sha256(data).digest()


def save(name, how, **members):
    with open(name, "w", encoding="utf-8") as file:
        json.dump({"how": HOW + how, **members}, file, indent=1, ensure_ascii=False)
        file.write("\n")


# ---- tuple ----------------------------------------------------------------------------------------------------
def preimage(tag, fields):
    return tag.encode("ascii") + b"\0" + b"".join(struct.pack(">I", len(f)) + f for f in fields)


tuples = [
    ("countersign-v1:test", []),
    ("countersign-v1:test", [b""]),
    ("countersign-v1:test", [b"", b""]),
    ("countersign-v1:test", [b"abc"]),
    ("countersign-v1:test", [b"a", b"bc"]),
    ("countersign-v1:test", [b"ab", b"c"]),
    ("countersign-v1:other", [b"ab", b"c"]),
    ("countersign-v1:test", [bytes(range(256)), b"\0" * 300]),
]
save(
    "tuple.json",
    "struct for the length prefixes, hashlib for SHA-256; all byte strings in hexadecimal",
    vectors=[
        {
            "tag": tag,
            "fields": [f.hex() for f in fields],
            "preimage": preimage(tag, fields).hex(),
            "sha256": sha(preimage(tag, fields)).hex(),
        }
        for tag, fields in tuples
    ],
)


# ---- cbor -----------------------------------------------------------------------------------------------------
def head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for info, fmt, limit in ((24, ">B", 1 << 8), (25, ">H", 1 << 16), (26, ">I", 1 << 32), (27, ">Q", 1 << 64)):
        if n < limit:
            return bytes([major << 5 | info]) + struct.pack(fmt, n)
    raise ValueError(n)


def cbor(value):
    if value is None:
        return b"\xf6"
    if value is False:
        return b"\xf4"
    if value is True:
        return b"\xf5"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(cbor(item) for item in value)
    if "bytes" in value:
        data = bytes.fromhex(value["bytes"])
        return head(2, len(data)) + data
    entries = sorted((cbor(key), cbor(item)) for key, item in value["map"])
    return head(5, len(entries)) + b"".join(key + item for key, item in entries)


def nest(value, levels):
    for _ in range(levels):
        value = [value]
    return value


values = [0, 1, 10, 23, 24, 25, 100, 255, 256, 1000, 65535, 65536, 1000000, 4294967295, 4294967296, 1000000000000,
          18446744073709551615, -1, -10, -24, -25, -100, -256, -257, -1000, -65537, -4294967297, -9223372036854775808,
          False, True, None, {"bytes": ""}, {"bytes": "01020304"}, {"bytes": "ab" * 24}, {"bytes": "cd" * 256},
          "", "a", "IETF", "\"\\", "\u00fc", "\u6c34", "\U00010151", "x" * 24, [], [1, 2, 3], [1, [2, 3], [4, 5]],
          list(range(1, 26)), {"map": []}, {"map": [[1, 2], [3, 4]]}, {"map": [["a", 1], ["b", [2, 3]]]},
          ["a", {"map": [["b", "c"]]}],
          # RFC 8949 section 4.2.1's own order, as far as its keys are in the subset.
          {"map": [[10, None], [100, None], [-1, None], ["z", None], ["aa", None]]},
          {"map": [[i, i * i] for i in range(30)]},
          nest(None, 8)]
# Entries of a map are listed in the order of their encoded keys.
for value in values:
    if isinstance(value, dict) and "map" in value:
        value["map"].sort(key=lambda entry: cbor(entry[0]))

refused = [
    ("nothing at all", "", "Truncated { offset: 0 }"),
    ("one byte argument missing", "18", "Truncated { offset: 0 }"),
    ("eight byte argument cut", "1b00000001000000", "Truncated { offset: 0 }"),
    ("byte string cut", "430102", "Truncated { offset: 0 }"),
    ("text string cut", "6261", "Truncated { offset: 0 }"),
    ("array with an item missing", "8201", "Truncated { offset: 0 }"),
    ("array with the last nested item missing", "828101", "Truncated { offset: 3 }"),
    ("map with a value missing", "a101", "Truncated { offset: 0 }"),
    ("map with an entry missing", "a2010203", "Truncated { offset: 0 }"),
    ("second item", "0000", "Trailing { offset: 1 }"),
    ("array and a surplus byte", "8100f6", "Trailing { offset: 2 }"),
    ("zero in two bytes", "1800", "NotShortest { offset: 0 }"),
    ("23 in two bytes", "1817", "NotShortest { offset: 0 }"),
    ("255 in three bytes", "1900ff", "NotShortest { offset: 0 }"),
    ("65535 in five bytes", "1a0000ffff", "NotShortest { offset: 0 }"),
    ("4294967295 in nine bytes", "1b00000000ffffffff", "NotShortest { offset: 0 }"),
    ("-1 in two bytes", "3800", "NotShortest { offset: 0 }"),
    ("byte string length not shortest", "580101", "NotShortest { offset: 0 }"),
    ("text string length not shortest", "780161", "NotShortest { offset: 0 }"),
    ("array length not shortest", "980100", "NotShortest { offset: 0 }"),
    ("map length not shortest", "b8010000", "NotShortest { offset: 0 }"),
    ("nested integer not shortest", "81811800", "NotShortest { offset: 2 }"),
    ("indefinite byte string", "5f4101ff", "Indefinite { offset: 0 }"),
    ("indefinite text string", "7f6161ff", "Indefinite { offset: 0 }"),
    ("indefinite array", "9f01ff", "Indefinite { offset: 0 }"),
    ("indefinite map", "bf0102ff", "Indefinite { offset: 0 }"),
    ("break alone", "ff", "Indefinite { offset: 0 }"),
    ("reserved argument 28", "1c", "Reserved { offset: 0 }"),
    ("reserved argument 30 of an array", "9e", "Reserved { offset: 0 }"),
    ("reserved argument 29 of major type 7", "fd", "Reserved { offset: 0 }"),
    ("half float", "f93c00", "Float { offset: 0 }"),
    ("single float", "fa47c35000", "Float { offset: 0 }"),
    ("double float", "fb3ff199999999999a", "Float { offset: 0 }"),
    ("tag", "c11a514b67b0", "Tag { offset: 0 }"),
    ("big number", "c249010000000000000000", "Tag { offset: 0 }"),
    ("undefined", "f7", "Simple { offset: 0 }"),
    ("simple value 16", "f0", "Simple { offset: 0 }"),
    ("simple value 255", "f8ff", "Simple { offset: 0 }"),
    ("false in two bytes", "f814", "Simple { offset: 0 }"),
    ("text with a lone continuation byte", "6180", "Utf8 { offset: 0 }"),
    ("text with an overlong form", "62c080", "Utf8 { offset: 0 }"),
    ("text with a surrogate", "63eda080", "Utf8 { offset: 0 }"),
    ("text key that is not UTF-8", "a161ff00", "Utf8 { offset: 1 }"),
    ("below -2^63", "3b8000000000000000", "IntegerRange { offset: 0 }"),
    ("keys out of order", "a203000100", "KeyOrder { offset: 3 }"),
    ("text key before integer key", "a2616100f600", "KeyType { offset: 4 }"),
    ("negative key before unsigned key", "a220001800", "NotShortest { offset: 3 }"),
    ("longer key first", "a26261610061620000", "KeyOrder { offset: 5 }"),
    ("key twice", "a201000100", "DuplicateKey { offset: 3 }"),
    ("text key twice", "a2616100616100", "DuplicateKey { offset: 4 }"),
    ("byte string as key", "a1410100", "KeyType { offset: 1 }"),
    ("array as key", "a18000", "KeyType { offset: 1 }"),
    ("null as key", "a1f600", "KeyType { offset: 1 }"),
    ("key above 2^63-1", "a11b800000000000000000", "KeyType { offset: 1 }"),
    ("nine levels of arrays", "81" * 9 + "f6", "TooDeep { offset: 8 }"),
    ("nine levels of maps", "a100" * 9 + "f6", "TooDeep { offset: 16 }"),
    ("array longer than memory", "9bffffffffffffffff", "Truncated { offset: 0 }"),
    ("byte string longer than memory", "5bffffffffffffffff", "Truncated { offset: 0 }"),
]
save(
    "cbor.json",
    "accepted values by the encoder in it (RFC 8949 section 4.2.1), many of them also in RFC 8949 appendix A; "
    "refused bytes by hand. Values: JSON as it looks, {bytes: hexadecimal}, {map: [[key, value]...]}",
    accepted=[{"value": value, "hex": cbor(value).hex()} for value in values],
    refused=[{"name": name, "hex": data, "error": error} for name, data, error in refused],
)


# ---- note -----------------------------------------------------------------------------------------------------
def note_line(name, key_id, signature):
    return "\u2014 %s %s\n" % (name, b64(key_id + signature))


ORIGIN = "countersign.example/log"
ed_seed = bytes(range(32))
ed_key = ed25519.Ed25519PrivateKey.from_private_bytes(ed_seed)
ed_raw = ed_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
ed_id = sha(ORIGIN.encode() + b"\n\x01" + ed_raw)[:4]
p_scalar = int.from_bytes(sha(b"countersign vector p256"), "big")
p_key = ec.derive_private_key(p_scalar, ec.SECP256R1())
p_spki = p_key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
p_raw = p_key.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
p_id = sha(p_spki)[:4]


def sign(text):
    """Both lines: Ed25519 (type 0x01), then ECDSA P-256 (type 0x02, deterministic by RFC 6979)."""
    ecdsa = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return (note_line(ORIGIN, ed_id, ed_key.sign(text.encode()))
            + note_line(ORIGIN, p_id, p_key.sign(text.encode(), ecdsa)))


def b64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


keys = [
    {"name": ORIGIN, "id": ed_id.hex(), "key": {"alg": "EdDSA", "pub": b64url(ed_raw)}, "spki": (
        ed_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo).hex()),
     "cose": cbor({"map": [[1, 1], [-1, 6], [-2, {"bytes": ed_raw.hex()}]]}).hex()},
    {"name": ORIGIN, "id": p_id.hex(), "key": {"alg": "ES256", "pub": b64url(p_raw)}, "spki": p_spki.hex(),
     "cose": cbor({"map": [[1, 2], [-1, 1], [-2, {"bytes": p_raw[1:33].hex()}],
                           [-3, {"bytes": p_raw[33:].hex()}]]}).hex()},
]
stranger = note_line("witness.example/w", b"\1\2\3\4", b"\x55" * 72)
texts = ["one line\n", "two\n\nparagraphs\n", "\n", "Gr\u00fc\u00dfe \u2014 \u6c34\n"]
save(
    "note.json",
    "keys, SPKI and signatures by the cryptography package (Ed25519 seed 00..1f; P-256 scalar "
    "SHA-256('countersign vector p256'), RFC 6979), key ids by hashlib. Every note carries an Ed25519 line, an ECDSA "
    "line and one line of a key that nobody knows",
    keys=keys,
    notes=[{"text": text, "note": text + "\n" + sign(text) + stranger} for text in texts],
)


# ---- checkpoint -----------------------------------------------------------------------------------------------
def mth(leaves, hash_name):
    def h(data):
        return hashlib.new(hash_name, data).digest() if hash_name != "blake2b" else hashlib.blake2b(data).digest()
    if not leaves:
        return h(b"")
    if len(leaves) == 1:
        return h(b"\0" + leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return h(b"\1" + mth(leaves[:k], hash_name) + mth(leaves[k:], hash_name))


def path(index, leaves):
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return path(index, leaves[:k]) + [mth(leaves[k:], "sha256")]
    return path(index - k, leaves[k:]) + [mth(leaves[:k], "sha256")]


def body(leaves, time_ms, prev, control_seq, control):
    return "".join(line + "\n" for line in [
        ORIGIN, str(len(leaves)), b64(mth(leaves, "sha256")), "sha3-512 " + b64(mth(leaves, "sha3_512")),
        "blake2b-512 " + b64(mth(leaves, "blake2b")), "time %d" % time_ms, "prev " + b64(prev),
        "control %d %s" % (control_seq, b64(control))])


LEAVES = [b"leaf %d" % i for i in range(11)]
heads, prev, control = [], bytes(32), bytes(32)
for size, time_ms, seq in [(0, 0, 0), (1, 1795000000000, 1), (7, 1795000000000, 1), (11, 1795000000417, 2)]:
    text = body(LEAVES[:size], time_ms, prev, seq, control)
    heads.append({
        "origin": ORIGIN, "size": size, "sha256": mth(LEAVES[:size], "sha256").hex(),
        "sha3_512": mth(LEAVES[:size], "sha3_512").hex(), "blake2b_512": mth(LEAVES[:size], "blake2b").hex(),
        "time_ms": time_ms, "prev": prev.hex(), "control_seq": seq, "control": control.hex(),
        "body": text, "digest": sha(text.encode()).hex(), "note": text + "\n" + sign(text)})
    prev, control = sha(text.encode()), sha(b"control %d" % seq)
save(
    "checkpoint.json",
    "roots by a recursive reading of RFC 9162 section 2.1.1 over hashlib, for the first `size` of the leaves "
    "'leaf 0' .. 'leaf 10'; each prev is the digest of the body before it; notes signed with the keys of note.json",
    leaves=[leaf.hex() for leaf in LEAVES],
    heads=heads,
)


# ---- tlog-proof -----------------------------------------------------------------------------------------------
proofs = []
for which, index in [(1, 0), (2, 3), (2, 6), (3, 10), (3, 0)]:
    head_ = heads[which]
    leaves = LEAVES[:head_["size"]]
    hashes_ = path(index, leaves)
    proofs.append({
        "extra": leaves[index].hex(), "index": index, "proof": [p.hex() for p in hashes_],
        "checkpoint": head_["note"],
        "text": "c2sp.org/tlog-proof@v1\nextra %s\nindex %d\n%s\n%s" % (
            b64(leaves[index]), index, "".join(b64(p) + "\n" for p in hashes_), head_["note"])})
save(
    "tlog-proof.json",
    "inclusion paths by a recursive reading of RFC 9162 section 2.1.3.1 over hashlib, over the leaves and heads of "
    "checkpoint.json; extra is the leaf itself",
    proofs=proofs,
)
