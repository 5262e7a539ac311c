"""The JSON of PROTOCOL §1.3: no repeated members, no numbers but integers below 2^53, no depth to speak of; and its byte strings."""

import base64
import json
import re

from .refusal import Refused, demand

MAX_DEPTH = 16
HEX = re.compile(r"(?:[0-9a-f]{2})*")
B64URL = re.compile(r"[A-Za-z0-9_-]*")


def _no_repeats(pairs):
    found = dict(pairs)
    demand(len(found) == len(pairs), "json-malformed", "a repeated member")
    return found


def _no_number(text):
    raise Refused("json-malformed", f"{text[:20]} isn't an integer below 2^53")


def _integer(text):
    # Twenty digits and a sign are more than 2^53 has; a longer text isn't worth a conversion.
    if len(text) > 21 or text == "-0" or not -(1 << 53) < int(text) < 1 << 53:
        _no_number(text)
    return int(text)


def _depth(data):
    depth = deepest = 0
    inside = escaped = False
    for byte in data:
        if inside:
            inside = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def parse(data):
    """The value of a JSON text."""
    demand(_depth(data) <= MAX_DEPTH, "json-malformed", "too many levels")
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_no_repeats, parse_int=_integer, parse_float=_no_number,
                          parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused("json-malformed", str(error)) from None


def members(value, required, optional=(), code="json-malformed", what="object"):
    """Checks that the value is an object with these members and no other."""
    demand(isinstance(value, dict), code, f"{what} isn't an object")
    for name in required:
        demand(name in value, code, f"{what} lacks {name}")
    for name in value:
        demand(name in required or name in optional, code, f"{what} has an unknown member {name!r:.60}")
    return value


def hexadecimal(value, length=None, code="json-malformed", what="value"):
    """Bytes in lower-case hexadecimal."""
    good = isinstance(value, str) and HEX.fullmatch(value) and (length is None or len(value) == 2 * length)
    demand(good, code, f"{what} isn't {'' if length is None else f'{length} bytes of '}lower-case hexadecimal")
    return bytes.fromhex(value)


def base64url(value, code="json-malformed", what="value"):
    """Bytes in base64url without padding, in the one encoding that they have."""
    demand(isinstance(value, str) and B64URL.fullmatch(value), code, f"{what} isn't base64url without padding")
    try:
        data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        raise Refused(code, f"{what} isn't base64url without padding") from None
    demand(to_base64url(data) == value, code, f"{what} has stray bits at its end")
    return data


def to_base64url(data):
    """The same the other way."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def integer(value, least=0, most=(1 << 53) - 1, code="json-malformed", what="number"):
    """An integer within bounds."""
    demand(type(value) is int and least <= value <= most, code, f"{what} isn't an integer from {least} to {most}")
    return value
