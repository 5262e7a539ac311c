"""Heads (PROTOCOL §6): the body, its digest, and the signed note around it."""

import base64
import re
from dataclasses import dataclass, field

from .hashing import sha256
from .refusal import Refused, demand

MAX_NOTE = 16 * 1024
MAX_SIZE = (1 << 63) - 1
MAX_SIGNATURES = 64
DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
SIGNATURE_LINE = re.compile("\u2014 ([^ +]+) ([A-Za-z0-9+/]+={0,2})")


def base64_exact(text, length=None, code="head-malformed", what="base64"):
    """Bytes in standard base64 with padding, in the one encoding that they have."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise Refused(code, f"{what} isn't base64") from None
    demand(base64.b64encode(data).decode() == text, code, f"{what} isn't canonical base64")
    demand(length is None or len(data) == length, code, f"{what} isn't of {length} bytes")
    return data


def decimal(text, code="head-malformed", what="number", most=(1 << 64) - 1):
    """A decimal integer of 64 bits without leading zeros."""
    demand(bool(DECIMAL.fullmatch(text)) and int(text) <= most, code, f"{what} isn't a decimal integer")
    return int(text)


def is_origin(text):
    """§1.6: 1 to 255 visible ASCII characters without plus signs and without a scheme."""
    return 1 <= len(text) <= 255 and all("!" <= c <= "~" and c != "+" for c in text) and "://" not in text


@dataclass(frozen=True)
class Head:
    """A head body, parsed. `signatures` are (name, key id, signature) of the note that it came in; empty for a bare
    body. `note` is what was parsed."""

    body: bytes
    origin: str
    size: int
    roots: dict
    time_ms: int
    prev: bytes
    control_number: int
    control: bytes
    signatures: tuple = field(default=())
    note: bytes = b""

    @property
    def digest(self):
        """§6.2."""
        return sha256(self.body)

    @property
    def root(self):
        """The SHA-256 root."""
        return self.roots["sha-256"]


def _word(line, word):
    demand(line.startswith(word + " "), "head-malformed", f"no line {word}")
    return line[len(word) + 1:]


def parse_body(body, signatures=(), note=None):
    """A head body (§6.1)."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("head-malformed", "not UTF-8") from None
    lines = text.split("\n")
    demand(len(lines) == 9 and lines[8] == "", "head-malformed", "a body has eight lines, each ended by a newline")
    demand(is_origin(lines[0]), "head-malformed", "the first line isn't an origin")
    number, _, digest = _word(lines[7], "control").partition(" ")
    return Head(
        body=body,
        origin=lines[0],
        size=decimal(lines[1], what="size", most=MAX_SIZE),
        roots={
            "sha-256": base64_exact(lines[2], 32, what="SHA-256 root"),
            "sha3-512": base64_exact(_word(lines[3], "sha3-512"), 64, what="SHA3-512 root"),
            "blake2b-512": base64_exact(_word(lines[4], "blake2b-512"), 64, what="BLAKE2b-512 root"),
        },
        time_ms=decimal(_word(lines[5], "time"), what="time"),
        prev=base64_exact(_word(lines[6], "prev"), 32, what="prev"),
        control_number=decimal(number, what="control number"),
        control=base64_exact(digest, 32, what="control digest"),
        signatures=tuple(signatures),
        note=body if note is None else note,
    )


def parse_note(note):
    """A signed note: its text and (name, key id, signature) of every line (C2SP signed-note)."""
    demand(len(note) <= MAX_NOTE, "head-malformed", f"a note has at most {MAX_NOTE} bytes")
    try:
        text = note.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("head-malformed", "not UTF-8") from None
    demand(not any(ord(c) < 32 and c != "\n" for c in text), "head-malformed", "a control character")
    at = text.rfind("\n\n")
    demand(at >= 0 and text.endswith("\n"), "head-malformed", "no signature block")
    lines = text[at + 2:-1].split("\n")
    demand(1 <= len(lines) <= MAX_SIGNATURES, "head-malformed", "no signature, or too many")
    signatures = []
    for line in lines:
        match = SIGNATURE_LINE.fullmatch(line)
        demand(match is not None and not any(c.isspace() for c in match[1]), "head-malformed", "a line isn't a signature line")
        data = base64_exact(match[2], what="signature")
        demand(len(data) > 4, "head-malformed", "a signature without key id or without signature")
        signatures.append((match[1], data[:4], data[4:]))
    return text[:at + 1].encode("utf-8"), signatures


def parse_head(note):
    """A signed head: note and body. Whether the signatures are good is another question: see `signers`."""
    text, signatures = parse_note(note)
    return parse_body(text, signatures, note)


def parse_head_or_body(data):
    """What exports carry: a signed head, or the bare body of one that was never signed."""
    return parse_head(data) if b"\n\n" in data else parse_body(data)


def signers(head, keys):
    """Which of the keys signed the head. A line that names one of them and doesn't verify makes the whole head bad (§6.3)."""
    found = []
    by_id = {}
    for key in keys:
        by_id.setdefault(key.note_id(head.origin), []).append(key)
    for name, key_id, signature in head.signatures:
        if name != head.origin or key_id not in by_id:
            continue
        good = [key for key in by_id[key_id] if key.verifies_line(head.body, signature)]
        demand(good, "head-unsigned", f"the signature of the known key {key_id.hex()} fails")
        found.extend(good)
    return found
