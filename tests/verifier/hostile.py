"""Changes a true export, artifact and feed in every way that it can think of: each must be refused, with a code and without a traceback.

hostile.py TRUST_BUNDLE EXPORT ARTIFACT FEED"""

import base64
import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "verifier"))

from countersign_verifier import cbor, strictjson  # noqa: E402
from countersign_verifier.bundle import parse_bundle  # noqa: E402
from countersign_verifier.follow import Follower  # noqa: E402
from countersign_verifier.head import parse_head_or_body  # noqa: E402
from countersign_verifier.judge import check_receipt, parse_request  # noqa: E402
from countersign_verifier.leaf import evidence_record, inputs_record, parse_leaf  # noqa: E402
from countersign_verifier.log import check_log  # noqa: E402
from countersign_verifier.refusal import CODES, Refused  # noqa: E402
from countersign_verifier.schema import judge_bytes  # noqa: E402
from countersign_verifier.sources import Export  # noqa: E402
from countersign_verifier.strictjson import base64url, to_base64url  # noqa: E402

dice = random.Random(20261121)
tried = 0
seen = {}


def refused(what, check, *codes):
    """The check must be refused, with one of the codes if any are named."""
    global tried
    tried += 1
    try:
        check()
    except Refused as refusal:
        assert refusal.code in CODES
        assert not codes or refusal.code in codes, f"{what}: refused with {refusal.code}: {refusal.detail}"
        seen[refusal.code] = seen.get(refusal.code, 0) + 1
        return
    raise AssertionError(f"accepted: {what}")


def tolerated(check):
    """Whatever the bytes are: accepted or refused, and nothing else."""
    global tried
    tried += 1
    try:
        check()
    except Refused as refusal:
        seen[refusal.code] = seen.get(refusal.code, 0) + 1


class Exported:
    """An export in parts that can be changed."""

    def __init__(self, path):
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        self.leaves = [base64url(leaf) for page in lines for leaf in page.get("leaves", [])]
        self.heads = [head for page in lines for head in page.get("heads", [])]

    def check(self, bundle, leaves=None, heads=None):
        """Writes it out again, changed, and has it checked."""
        leaves = self.leaves if leaves is None else leaves
        heads = self.heads if heads is None else heads
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for at in range(0, len(leaves), 1000):
                file.write(json.dumps({"from": at, "leaves": list(map(to_base64url, leaves[at:at + 1000]))}) + "\n")
            for at in range(0, len(heads), 1000):
                file.write(json.dumps({"heads": heads[at:at + 1000]}) + "\n")
            file.flush()
            export = Export(file.name)
            return check_log(bundle, export.leaves(), export.heads())


def some(places, kind):
    """The first and the last three places of each kind."""
    by_kind = {}
    for place in places:
        by_kind.setdefault(kind(place), []).append(place)
    return sorted({place for found in by_kind.values() for place in found[:3] + found[-3:]})


def flip(data, at, bit=1):
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1:]


def without(items, at):
    return items[:at] + items[at + 1:]


def with_line(note, start, change):
    """A note with one line of its body changed."""
    lines = note.split("\n")
    at = next(number for number, line in enumerate(lines) if line.startswith(start))
    lines[at] = change(lines[at])
    return "\n".join(lines)


def changed_root(line):
    word, _, value = line.rpartition(" ")
    data = bytearray(base64.b64decode(value))
    data[0] ^= 1
    return (word + " " if word else "") + base64.b64encode(data).decode()


def reindexed(leaf, index):
    value = cbor.decode(leaf)
    return cbor.encode([*value[:2], index, *value[3:]])


def logs(bundle, export):
    """Whole logs."""
    export.check(bundle)
    leaves, heads = export.leaves, export.heads
    refused("no leaves", lambda: export.check(bundle, leaves=[]))
    refused("no heads", lambda: export.check(bundle, heads=[]), "head-unsigned")
    refused("the last leaf missing", lambda: export.check(bundle, leaves=leaves[:-1]), "head-mismatch")
    refused("the last head missing", lambda: export.check(bundle, heads=heads[:-1]), "head-mismatch")
    # A heartbeat tells little: some of each kind.
    for at in some(range(len(leaves)), lambda at: cbor.decode(leaves[at])[1]):
        refused(f"leaf {at} missing", lambda: export.check(bundle, leaves=without(leaves, at)), "index-mismatch", "head-mismatch")
        # One bit anywhere in it, the salt too.
        changed = [*leaves[:at], flip(leaves[at], dice.randrange(len(leaves[at]))), *leaves[at + 1:]]
        refused(f"a bit of leaf {at}", lambda: export.check(bundle, leaves=changed))
    for at in some(range(len(heads) - 1), lambda at: heads[at].count("\u2014")):
        refused(f"head {at} missing", lambda: export.check(bundle, heads=without(heads, at)),
                "head-unlinked", "rotation-unsigned", "head-unsigned")
    at = next(at for at in range(1, len(leaves) - 1) if cbor.decode(leaves[at])[3] == cbor.decode(leaves[at + 1])[3])
    swapped = [*leaves[:at], reindexed(leaves[at + 1], at), reindexed(leaves[at], at + 1), *leaves[at + 2:]]
    refused("two leaves swapped", lambda: export.check(bundle, leaves=swapped))
    again = [*leaves[:at], leaves[at], *leaves[at:]]
    refused("a leaf twice", lambda: export.check(bundle, leaves=again), "index-mismatch", "state-invalid")
    refused("a head twice", lambda: export.check(bundle, heads=[*heads, heads[-1]]), "head-forked", "head-mismatch")
    for start in ("sha3-512 ", "blake2b-512 ", "prev ", "control "):
        changed = [*heads[:-1], with_line(heads[-1], start, changed_root)]
        refused(f"another {start}", lambda: export.check(bundle, heads=changed), "head-mismatch", "head-unlinked")
    later = [*heads[:-1], with_line(heads[-1], "time ", lambda line: f"time {int(line[5:]) + 1}")]
    refused("another time", lambda: export.check(bundle, heads=later), "head-mismatch")
    bare = [*heads[:-1], heads[-1].split("\n\n")[0] + "\n"]
    refused("the last head unsigned", lambda: export.check(bundle, heads=bare), "head-unsigned")
    rotation = next(at for at, head in enumerate(heads) if head.split("\n\n")[-1].count("\u2014") == 2)
    for keep in (0, 1):
        body, _, lines = heads[rotation].rpartition("\n\n")
        one = [*heads[:rotation], f"{body}\n\n{lines.splitlines()[keep]}\n", *heads[rotation + 1:]]
        refused("a rotation signed by one key", lambda: export.check(bundle, heads=one), "rotation-unsigned", "head-unsigned")


def artifacts(bundle, chain, artifact):
    """Artifacts: every single bit flipped of its lowest, and what can be put around it."""
    check_receipt(artifact, bundle, chain)
    for at in range(len(artifact)):
        refused(f"byte {at} of the artifact", lambda: check_receipt(flip(artifact, at), bundle, chain))
    for name, text in {
        "nothing": b"", "a newline before": b"\n" + artifact, "a newline after": artifact + b"\n", "no end": artifact[:-1],
        "CR LF": artifact.replace(b"\n", b"\r\n"), "a byte order mark": b"\xef\xbb\xbf" + artifact, "twice": artifact * 2,
        "too large": artifact + b"x" * (128 * 1024),
        "another index": artifact.replace(b"\nindex ", b"\nindex 1", 1),
        "a leading zero": artifact.replace(b"\nindex ", b"\nindex 0", 1),
        "no extra": b"\n".join(line for line in artifact.split(b"\n") if not line.startswith(b"extra ")),
    }.items():
        refused(name, lambda: check_receipt(text, bundle, chain), "receipt-malformed")


def feeds(bundle, feed):
    """Feeds: control leaves dropped, changed, out of order; rotations withheld."""
    def take(page):
        Follower(bundle).take(page)

    take(feed)
    count = len(feed["control"])
    for at in range(count):
        refused(f"control leaf {at} missing", lambda: take({**feed, "control": without(feed["control"], at)}))
    refused("no control leaves", lambda: take({**feed, "control": []}))
    refused("no rotations", lambda: take({**feed, "rotations": []}), "rotation-unsigned", "head-unsigned")
    refused("no last rotation", lambda: take({**feed, "rotations": feed["rotations"][:-1]}), "rotation-unsigned", "head-unsigned")
    refused("a leaf twice", lambda: take({**feed, "control": [*feed["control"], feed["control"][-1]]}))
    refused("more to come", lambda: take({**feed, "more": True}), "feed-malformed")
    refused("an unknown member", lambda: take({**feed, "x": 1}), "feed-malformed")
    refused("a proof from nothing", lambda: take({**feed, "consistency": ["00" * 32]}), "consistency-invalid")
    for name in feed:
        for value in (None, 7, "x", [], {}, [None], [{}], ["*"]):
            if value != feed[name]:
                tolerated(lambda: take({**feed, name: value}))


def garbage(bundle, samples):
    """Bytes of no meaning, and true bytes cut and mixed: nothing but a refusal or an acceptance."""
    parsers = [cbor.decode, strictjson.parse, parse_leaf, parse_bundle, parse_head_or_body, parse_request,
               lambda data: check_receipt(data, bundle), lambda data: judge_bytes(inputs_record, data, "evidence-malformed", "x"),
               lambda data: judge_bytes(evidence_record, data, "evidence-malformed", "x")]
    for _ in range(4000):
        sample = bytearray(dice.choice(samples))
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(sample) + 1)
            how = dice.randrange(4)
            if how == 0:
                del sample[at:]
            elif how == 1:
                sample[at:at] = dice.randbytes(dice.randrange(1, 9))
            elif how == 2:
                del sample[at:at + dice.randrange(1, 9)]
            elif sample:
                sample[at % len(sample)] = dice.choice((0x00, 0xFF, 0x5B, 0x9F, 0xA0, 0x7F, 0xFB, dice.randrange(256)))
        for parser in parsers:
            tolerated(lambda: parser(bytes(sample)))
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"\x81" * 100_000, b"\xa1\x00" * 100_000, b"\x9b" + b"\xff" * 8, b"9" * 100_000,
                 b"\xff" * 70_000, b'"\\ud800"', b"NaN", b"1e999", b"-0", b"\xc2"):
        for parser in parsers:
            tolerated(lambda: parser(deep))


def main():
    """Everything, in order."""
    bundle_bytes, artifact = Path(sys.argv[1]).read_bytes(), Path(sys.argv[3]).read_bytes()
    bundle, export = parse_bundle(bundle_bytes), Exported(sys.argv[2])
    feed = strictjson.parse(Path(sys.argv[4]).read_bytes())
    follower = Follower(bundle)
    follower.take(feed)
    logs(bundle, export)
    artifacts(bundle, follower.chain, artifact)
    feeds(bundle, feed)
    garbage(bundle, [bundle_bytes, artifact, *export.leaves, *(head.encode() for head in export.heads[-3:])])
    print(f"{tried} inputs, every one refused that had to be; codes: " + ", ".join(sorted(seen)))


main()
