"""The TPM structures of an evidence record (TPM 2.0 Part 2): public areas, quotes, signatures; and the boot log that replays to a quote."""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from .refusal import Refused, demand

CODE = "evidence-malformed"
NULL, RSA, ECC = 0x0010, 0x0001, 0x0023
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018
BANKS = {0x000B: hashlib.sha256, 0x000C: hashlib.sha384, 0x000D: hashlib.sha512}
SIGNING = {0x000B: hashes.SHA256(), 0x000C: hashes.SHA384(), 0x000D: hashes.SHA512()}
CURVES = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
# What firmware, boot loader and shim measure; the boot log explains no other register (§9.1).
EXPLAINED = frozenset([*range(10), 14])
BOOT = frozenset(range(8))
NO_ACTION, SEPARATOR = 3, 4
MAX_EVENTS = 100_000
# What systemd measures behind the log, as sequences that may follow one another in a register.
OS, NVPCR = b"os-separator", b"nvpcr-separator"
WORDS = {**{pcr: ((OS,),) for pcr in (*range(8), 14)}, 9: ((OS,), (NVPCR,), (OS, NVPCR))}


class Reader:
    """Reads a structure field by field, to its exact end."""

    def __init__(self, data, order="big", code=CODE):
        self.data, self.at, self.order, self.code = data, 0, order, code

    def take(self, count):
        demand(count <= len(self.data) - self.at, self.code, "a structure ends early")
        self.at += count
        return self.data[self.at - count:self.at]

    def uint(self, length):
        return int.from_bytes(self.take(length), self.order)

    def sized(self, most=1024):
        length = self.uint(2)
        demand(length <= most, self.code, "a part is too long")
        return self.take(length)

    def end(self):
        demand(self.at == len(self.data), self.code, "bytes after a structure")

    def more(self):
        return self.at < len(self.data)


@dataclass
class Public:
    """A TPMT_PUBLIC of a signing key."""

    name: bytes
    attributes: int
    key: object

    @classmethod
    def parse(cls, data):
        reader = Reader(data)
        kind, name_alg, attributes = reader.uint(2), reader.uint(2), reader.uint(4)
        demand(name_alg in BANKS, CODE, "a name algorithm that isn't SHA-2")
        reader.sized(64)
        if reader.uint(2) != NULL:
            reader.take(4)
        if reader.uint(2) != NULL:
            reader.take(2)
        try:
            if kind == ECC:
                curve = reader.uint(2)
                demand(curve in CURVES, CODE, "an unknown curve")
                if reader.uint(2) != NULL:
                    reader.take(2)
                x, y = (int.from_bytes(reader.sized(), "big") for _ in "xy")
                key = ec.EllipticCurvePublicNumbers(x, y, CURVES[curve]).public_key()
            else:
                demand(kind == RSA, CODE, "neither an RSA nor an ECC key")
                bits, exponent = reader.uint(2), reader.uint(4)
                modulus = int.from_bytes(reader.sized(), "big")
                demand(bits in (2048, 3072, 4096) and modulus.bit_length() == bits, CODE, "another length of modulus")
                key = rsa.RSAPublicNumbers(exponent or 65537, modulus).public_key()
        except ValueError:
            raise Refused(CODE, "not a key") from None
        reader.end()
        return cls(name_alg.to_bytes(2, "big") + BANKS[name_alg](data).digest(), attributes, key)

    def may_attest(self):
        """§12: fixedTPM, fixedParent, sensitiveDataOrigin, restricted, signs, doesn't decrypt."""
        bound, restricted, decrypts, signs = 1 << 1 | 1 << 4 | 1 << 5, 1 << 16, 1 << 17, 1 << 18
        need = bound | restricted | signs
        return self.attributes & need == need and not self.attributes & decrypts

    def verify(self, message, signature):
        """The hash algorithm with which this key signed the message; refuses if it didn't."""
        reader = Reader(signature)
        scheme, algorithm = reader.uint(2), reader.uint(2)
        demand(algorithm in SIGNING, CODE, "a signature with a hash that isn't SHA-2")
        hasher = SIGNING[algorithm]
        try:
            if scheme == ECDSA and isinstance(self.key, ec.EllipticCurvePublicKey):
                r, s = (int.from_bytes(reader.sized(), "big") for _ in "rs")
                reader.end()
                self.key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hasher))
                return algorithm
            demand(scheme in (RSASSA, RSAPSS) and isinstance(self.key, rsa.RSAPublicKey), CODE, "not the key's scheme")
            value = reader.sized()
            reader.end()
            pad = padding.PKCS1v15() if scheme == RSASSA else padding.PSS(padding.MGF1(hasher), padding.PSS.AUTO)
            self.key.verify(value, message, pad, hasher)
        except InvalidSignature:
            raise Refused("quote-signature-invalid", "the quote isn't signed by the AK") from None
        return algorithm


@dataclass
class Quote:
    """A TPMS_ATTEST of type quote."""

    extra: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    firmware_version: int
    selections: list
    digest: bytes

    @classmethod
    def parse(cls, data):
        reader = Reader(data)
        generated = reader.uint(4) == 0xFF544347 and reader.uint(2) == 0x8018
        demand(generated, "quote-not-a-quote", "not a quote made inside a TPM")
        reader.sized()
        extra = reader.sized()
        clock, reset, restart = reader.uint(8), reader.uint(4), reader.uint(4)
        demand(reader.uint(1) in (0, 1), CODE, "neither safe nor unsafe")
        firmware, count = reader.uint(8), reader.uint(4)
        demand(count <= 16, CODE, "too many selections")
        selections = []
        for _ in range(count):
            bank, bitmap = reader.uint(2), reader.take(reader.uint(1))
            selections.append((bank, [8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1]))
        digest = reader.sized(64)
        reader.end()
        return cls(extra, clock, reset, restart, firmware, selections, digest)


def check_quote(record, ak, qualifying, bank, pcrs):
    """The record's quote is by this AK, over this data, and over exactly these registers, whose values are the record's."""
    algorithm = ak.verify(record["attest"], record["signature"])
    quote = Quote.parse(record["attest"])
    demand(quote.extra == qualifying, "quote-nonce-mismatch", "not over this challenge and these requests")
    selected = quote.selections == [(bank, pcrs)] and record["bank"] == bank and [pcr for pcr, _ in record["pcrs"]] == pcrs
    demand(selected, "quote-selection-mismatch", "not exactly the required registers")
    values = b"".join(value for _, value in record["pcrs"])
    same = all(len(value) == BANKS[bank]().digest_size for _, value in record["pcrs"])
    demand(same and BANKS[algorithm](values).digest() == quote.digest, "quote-digest-mismatch", "other values than the quoted ones")
    return quote


def replay(log, bank):
    """The registers to which a TCG crypto agile event log leads, how many separators each has, and what each ends with from the first word of the
    system on, None for anything else."""
    code = "boot-log-malformed"
    reader = Reader(log, "little", code)
    demand(reader.uint(4) == 0 and reader.uint(4) == NO_ACTION, code, "doesn't begin with the specification")
    reader.take(20)
    spec = Reader(reader.take(reader.uint(4)), "little", code)
    demand(spec.take(16) == b"Spec ID Event03\0", code, "another specification")
    spec.take(8)
    sizes = {}
    for _ in range(min(spec.uint(4), 16)):
        algorithm = spec.uint(2)
        sizes[algorithm] = spec.uint(2)
    demand(sizes.get(bank) == BANKS[bank]().digest_size, code, "not of this bank")
    size, registers, separators, ends, events = sizes[bank], {}, {}, {}, 0
    words = {BANKS[bank](word).digest(): word for word in (OS, NVPCR)}
    genuine = {BANKS[bank](data).digest() for data in (bytes(4), b"\xff" * 4)}
    while reader.more():
        events += 1
        demand(events <= MAX_EVENTS, code, "too many events")
        pcr, kind, count = reader.uint(4), reader.uint(4), reader.uint(4)
        demand(pcr < 24 and count <= 16, code, "no such register, or too many digests")
        digests = {}
        for _ in range(count):
            algorithm = reader.uint(2)
            demand(algorithm in sizes, code, "a digest of an algorithm that wasn't announced")
            digests[algorithm] = reader.take(sizes[algorithm])
        data = reader.take(reader.uint(4))
        if kind == NO_ACTION:
            if pcr == 0 and data[:16] == b"StartupLocality\0" and len(data) == 17 and not registers.get(0):
                registers[0] = bytes(size - 1) + data[16:]
            continue
        demand(bank in digests, code, "an event without a digest of this bank")
        if kind == SEPARATOR:
            true = data in (bytes(4), b"\xff" * 4) and BANKS[bank](data).digest() == digests[bank]
            demand(true, "boot-log-separator", f"register {pcr} has a false separator")
        if digests[bank] in genuine:
            # Counted by digest: nothing proves a type. One behind a word isn't the firmware's: whether it is the first or another one, it is wrong.
            separators[pcr] = separators.get(pcr, 0) + (2 if pcr in ends else 1)
        word = words.get(digests[bank])
        if pcr in ends or any(word in path for path in WORDS.get(pcr, ())):
            ends.setdefault(pcr, []).append(word)
        registers[pcr] = BANKS[bank](registers.get(pcr, bytes(size)) + digests[bank]).digest()
    return registers, separators, ends


def followed(value, bank, pcr, end):
    """The values to which words of the system lead on from this one, behind those that the log ends with."""
    for path in WORDS.get(pcr, ()):
        if len(path) > len(end) and list(path[:len(end)]) == end:
            last = value
            for word in path[len(end):]:
                last = BANKS[bank](last + BANKS[bank](word).digest()).digest()
            yield last


def check_boot_log(log, record):
    """The log leads to the quoted values of the registers that it explains, at once or by words of the system, with one separator in each
    boot register."""
    bank = record["bank"]
    registers, separators, ends = replay(log, bank)
    for pcr, value in record["pcrs"]:
        if pcr in EXPLAINED:
            found = registers.get(pcr, bytes(len(value)))
            led = found == value or value in followed(found, bank, pcr, ends.get(pcr, []))
            demand(led, "boot-log-mismatch", f"the log doesn't lead to the quoted value of register {pcr}")
        if pcr in BOOT:
            demand(separators.get(pcr) == 1, "boot-log-separator", f"register {pcr} hasn't exactly one separator")
