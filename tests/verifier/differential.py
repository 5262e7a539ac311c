"""Judges cases of the differential test (tests/tests/differential): a JSON object a line comes in, a line with the verdict goes out.

A verdict is {"code": null or the refusal's code, "detail": .., "deep": ..}. `deep` is true if a log was refused by a rule that the other
implementation judges in a replay of the decisions and not from the log alone; `code` is the verdict by all other rules then."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "verifier"))

from countersign_verifier import strictjson  # noqa: E402
from countersign_verifier.bundle import parse_bundle  # noqa: E402
from countersign_verifier.control import Chain  # noqa: E402
from countersign_verifier.follow import Follower  # noqa: E402
from countersign_verifier.head import parse_head  # noqa: E402
from countersign_verifier.judge import check_head, check_receipt  # noqa: E402
from countersign_verifier.leaf import evidence_record, inputs_record, parse_leaf  # noqa: E402
from countersign_verifier.log import Log, check_log  # noqa: E402
from countersign_verifier.refusal import CODES, Refused  # noqa: E402
from countersign_verifier.schema import judge_bytes  # noqa: E402
from countersign_verifier.sources import Export  # noqa: E402


def chain_of(case):
    """The trust bundle and the control chain up to its end."""
    trusted = parse_bundle(case["bundle"].encode())
    chain = Chain(trusted)
    for leaf in case["control"]:
        chain.apply(parse_leaf(bytes.fromhex(leaf)))
    return trusted, chain


def a_log(case, kind=Log):
    """An export."""
    trusted, export = parse_bundle(case["bundle"].encode()), Export(case["export"])
    check_log(trusted, export.leaves(), export.heads(), kind)


def a_head(case):
    """A signed head, by who follows the chain."""
    trusted, chain = chain_of(case)
    check_head(parse_head(case["text"].encode()), trusted, chain)


def a_receipt(case):
    """A receipt, likewise."""
    trusted, chain = chain_of(case)
    check_receipt(case["text"].encode(), trusted, chain)


def a_feed(case):
    """A pull from nothing."""
    Follower(parse_bundle(case["bundle"].encode())).take(strictjson.parse(case["page"].encode()))


def record(shape):
    """A record by its shape."""
    return lambda case: judge_bytes(shape, bytes.fromhex(case["hex"]), "evidence-malformed", "x")


JUDGES = {
    "log": a_log, "head": a_head, "receipt": a_receipt, "feed": a_feed,
    "leaf": lambda case: parse_leaf(bytes.fromhex(case["hex"])),
    "bundle": lambda case: parse_bundle(case["text"].encode()),
    "inputs": record(inputs_record), "evidence": record(evidence_record),
}


class Shallow(Log):
    """A log without the rules that relate decisions, hosts and acts to what was there before them."""

    def _follow(self, leaf):
        pass


def refusal(judge):
    """The refusal, or None."""
    try:
        judge()
    except Refused as refused:
        assert refused.code in CODES, refused.code
        return refused
    return None


def main():
    """Until there are no more cases."""
    for line in sys.stdin:
        case = json.loads(line)
        found, deep = refusal(lambda: JUDGES[case["what"]](case)), False
        if found is not None and case["what"] == "log":
            shallow = refusal(lambda: a_log(case, Shallow))
            deep = (shallow and str(shallow)) != str(found)
            found = shallow
        print(json.dumps({"code": found and found.code, "detail": found and found.detail, "deep": bool(deep)}), flush=True)


main()
