"""Shapes of CBOR values: a field is a function that takes a value and either returns it, perhaps converted, or refuses it."""

from . import cbor
from .keys import Key
from .refusal import Refused

U64 = (1 << 64) - 1


class Wrong(Exception):
    """A value isn't of its shape; the one who asked says which refusal that is."""


def want(condition, why):
    """Raises Wrong unless the condition holds."""
    if not condition:
        raise Wrong(why)


def uint(least=0, most=U64):
    """An unsigned integer within bounds."""
    def check(value):
        want(type(value) is int and least <= value <= most, f"not an integer from {least} to {most}")
        return value
    return check


def one_of(*allowed):
    """One of a closed list of integers."""
    def check(value):
        want(type(value) is int and value in allowed, f"not one of {allowed}")
        return value
    return check


def data(length=None, least=0, most=None):
    """A byte string, of a length if one is given."""
    def check(value):
        want(type(value) is bytes, "not a byte string")
        want(length is None or len(value) == length, f"not {length} bytes")
        want(least <= len(value) and (most is None or len(value) <= most), "a byte string of another length")
        return value
    return check


def text(least=0, most=None, pattern=None):
    """A text string; lengths in bytes."""
    def check(value):
        want(type(value) is str, "not text")
        size = len(value.encode("utf-8"))
        want(least <= size and (most is None or size <= most), "text of another length")
        want(pattern is None or pattern.fullmatch(value), f"text of another form: {value!r:.80}")
        return value
    return check


def boolean(value):
    """true or false."""
    want(type(value) is bool, "neither true nor false")
    return value


def null(value):
    """null alone."""
    want(value is None, "not null")
    return value


def nullable(inner):
    """null or a value."""
    return lambda value: None if value is None else inner(value)


def array(inner, least=0, most=None):
    """An array of one kind of items."""
    def check(value):
        want(type(value) is list, "not an array")
        want(least <= len(value) and (most is None or len(value) <= most), "an array of another length")
        return [inner(item) for item in value]
    return check


def row(*inners):
    """An array of exactly these items."""
    def check(value):
        want(type(value) is list and len(value) == len(inners), f"not an array of {len(inners)}")
        return tuple(inner(item) for inner, item in zip(inners, value))
    return check


def strictly_rising(inner):
    """An array check whose items must rise."""
    def check(value):
        items = inner(value)
        want(all(a < b for a, b in zip(items, items[1:])), "not sorted and distinct")
        return items
    return check


def table(key, inner, most=None):
    """A map of any number of entries."""
    def check(value):
        want(type(value) is dict, "not a map")
        want(most is None or len(value) <= most, "too many entries")
        return {key(name): inner(item) for name, item in value.items()}
    return check


def record(required, optional=None):
    """A map with exactly these keys, given as {label: (name, field)}; becomes a dictionary by name."""
    optional = optional or {}

    def check(value):
        want(type(value) is dict, "not a map")
        found = {}
        for label, (name, inner) in {**required, **optional}.items():
            if label not in value:
                want(label in optional, f"lacks {name} ({label})")
                continue
            try:
                found[name] = inner(value[label])
            except Wrong as wrong:
                raise Wrong(f"{name}: {wrong}") from None
        for label in value:
            want(label in required or label in optional, f"an unknown key {label!r:.40}")
        return found
    return check


def cose_key(value):
    """A COSE_Key, which stands as a byte string that holds its encoding (§1.4)."""
    want(type(value) is bytes, "a COSE_Key stands as a byte string")
    try:
        return Key.from_cose(cbor.decode(value))
    except Refused as refused:
        raise Wrong(refused.detail) from None


def judge(shape, value, code, what):
    """The value in its shape, or a refusal."""
    try:
        return shape(value)
    except Wrong as wrong:
        raise Refused(code, f"{what}: {wrong}") from None


def judge_bytes(shape, encoded, code, what):
    """The same from its encoding."""
    try:
        value = cbor.decode(encoded)
    except Refused as refused:
        raise Refused(code, f"{what}: {refused.detail}") from None
    return judge(shape, value, code, what)
