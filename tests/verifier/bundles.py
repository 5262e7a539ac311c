"""Every file of a directory must be refused as an evidence bundle, with a code; and no damage to the members of a good one may end in anything
but a code.

bundles.py TRUST_BUNDLE GOOD_BUNDLE DIRECTORY"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "verifier"))

from countersign_verifier import tpm  # noqa: E402
from countersign_verifier.bundle import parse_bundle  # noqa: E402
from countersign_verifier.evidence_bundle import policy_settings, references_shape, verify_bundle  # noqa: E402
from countersign_verifier.refusal import CODES, Refused  # noqa: E402
from countersign_verifier.schema import judge_bytes  # noqa: E402
from countersign_verifier.strictjson import base64url  # noqa: E402


def code_of(check, data):
    """The refusal's code, or None."""
    try:
        check(data)
    except Refused as refused:
        assert refused.code in CODES
        return refused.code
    return None


def damage(dice, data):
    """The bytes, cut, stretched or changed at some places."""
    data = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        at, how = dice.randrange(len(data) + 1), dice.randrange(3)
        if how == 0:
            del data[at:at + dice.randrange(1, 20)]
        elif how == 1:
            data[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif data:
            data[at % len(data)] = dice.choice((0, 0xFF, 0x7F, dice.randrange(256)))
    return bytes(data)


def main():
    """Counts what was refused."""
    trust, good = parse_bundle(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]).read_bytes()
    assert code_of(lambda data: verify_bundle(data, trust), good) is None
    refused = 0
    for path in sorted(Path(sys.argv[3]).iterdir()):
        if code_of(lambda data: verify_bundle(data, trust), path.read_bytes()) is None:
            sys.exit(f"accepted: {path.name}")
        refused += 1
    dice = random.Random(22)
    members = [base64url(member) for member in json.loads(good)["members"]]
    parsers = [tpm.Public.parse, tpm.Quote.parse, policy_settings, lambda data: tpm.replay(data, 0x000B),
               lambda data: judge_bytes(references_shape, data, "evidence-malformed", "references")]
    for _ in range(300):
        data = damage(dice, dice.choice(members))
        for parser in parsers:
            code_of(parser, data)
        code_of(lambda data: verify_bundle(data, trust), damage(dice, good))
    print(refused, "refused")


main()
