"""The CBOR of PROTOCOL §1.2: a strict decoder and the encoder for the few bytes that are hashed after having been built here.

Values are int, bytes, str, list, dict, bool and None. What isn't the one deterministic encoding of such a value is refused."""

from .refusal import Refused

MAX_LEVELS = 8
INFO_LENGTHS = {24: 1, 25: 2, 26: 4, 27: 8}


def refuse(at, why):
    raise Refused("cbor-malformed", f"byte {at}: {why}")


class _Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        if count > len(self.data) - self.at:
            refuse(self.at, "ends early")
        taken = self.data[self.at:self.at + count]
        self.at += count
        return taken

    def head(self):
        start = self.at
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return start, major, info, info
        if info not in INFO_LENGTHS:
            refuse(start, "indefinite length" if info == 31 else "reserved argument")
        argument = int.from_bytes(self.take(INFO_LENGTHS[info]), "big")
        if major != 7:
            smallest = 24 if info == 24 else 1 << (8 * INFO_LENGTHS[info - 1])
            if argument < smallest:
                refuse(start, "not the shortest encoding")
        return start, major, info, argument

    def item(self, level):
        start, major, info, argument = self.head()
        if major == 0:
            return argument
        if major == 1:
            if argument >= 1 << 63:
                refuse(start, "below -2^63")
            return -1 - argument
        if major == 2:
            return bytes(self.take(argument))
        if major == 3:
            try:
                return self.take(argument).decode("utf-8")
            except UnicodeDecodeError:
                refuse(start, "text that isn't UTF-8")
        if major in (4, 5):
            if level >= MAX_LEVELS:
                refuse(start, "too many levels")
            # Every item takes a byte at least, so a length beyond what is left is refused before anything is reserved.
            if argument * (1 if major == 4 else 2) > len(self.data) - self.at:
                refuse(start, "ends early")
            return self.array(argument, level) if major == 4 else self.map(argument, level)
        if major == 7 and info in (20, 21, 22):
            return {20: False, 21: True, 22: None}[info]
        refuse(start, "a tag, a float or another value that isn't allowed")

    def array(self, count, level):
        return [self.item(level + 1) for _ in range(count)]

    def map(self, count, level):
        found = {}
        before = None
        for _ in range(count):
            start = self.at
            key = self.item(level + 1)
            if type(key) not in (int, str) or (type(key) is int and key >= 1 << 63):
                refuse(start, "a map key that is neither an integer of 64 bits nor text")
            encoded = self.data[start:self.at]
            if before is not None and encoded <= before:
                refuse(start, "map keys out of order or repeated")
            before = encoded
            found[key] = self.item(level + 1)
        return found


def decode(data):
    """The value that exactly these bytes encode."""
    reader = _Reader(data)
    value = reader.item(0)
    if reader.at != len(data):
        refuse(reader.at, "trailing bytes")
    return value


def _head(major, argument):
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, length in INFO_LENGTHS.items():
        if argument < 1 << (8 * length):
            return bytes([major << 5 | info]) + argument.to_bytes(length, "big")
    raise ValueError(argument)


def encode(value):
    """The deterministic encoding of a value that `decode` gives."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(encode, value))
    entries = sorted((encode(key), encode(item)) for key, item in value.items())
    return _head(5, len(entries)) + b"".join(key + item for key, item in entries)
