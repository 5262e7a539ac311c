"""The command line. Exit status 0: verified; 1: refused, with `refused: CODE: detail` on standard error; 2: misuse."""

import argparse
import sys
import time

from . import strictjson
from .bundle import MAX_BUNDLE, parse_bundle
from .cose import MAX_RECEIPT as MAX_COSE
from .cose import check_cose
from .evidence_bundle import MAX_BUNDLE as MAX_EVIDENCE_BUNDLE
from .evidence_bundle import verify_bundle as judge_bundle
from .follow import Follower
from .hashing import consistent, hash_list, sha256, tuple_hash
from .head import MAX_NOTE, parse_head
from .judge import MAX_REQUEST, check_artifact, check_evidence, check_head, check_inputs, check_receipt, check_request
from .leaf import parse_leaf
from .log import check_log
from .receipt import MAX_RECEIPT, parse_proof
from .refusal import Refused, demand
from .result import MAX_RESULT, check_result, parse_jwks, parse_result
from .sources import MAX_PAGE, Authority, Export, read_file
from .strictjson import hexadecimal, to_base64url
from .tiles import Tiles, check_receipt_path

MAX_PROGRAM = 1 << 30
MAX_RECORD = 64 * 1024


def bundle_of(options):
    """The pinned trust bundle."""
    return parse_bundle(read_file(options.trust_bundle, MAX_BUNDLE))


def chain_of(options, bundle):
    """The control chain, if a feed was given; without one the reader knows the trust bundle's keys alone."""
    if not options.feed:
        return None
    follower = Follower(bundle)
    follower.take(*[strictjson.parse(read_file(path, MAX_PAGE)) for path in options.feed])
    return follower.chain


def now_ms(options):
    """The time by which an artifact is judged."""
    if options.at == "now":
        return time.time_ns() // 1_000_000
    demand(options.at.isascii() and options.at.isdigit() and len(options.at) < 16, "json-malformed", "--at takes `now` or milliseconds")
    return int(options.at)


def describe(receipt):
    """One line about a receipt."""
    leaf, head = receipt.leaf, receipt.head
    return f"{leaf.kind} leaf {leaf.index} {leaf.hash.hex()} under size {head.size} control {head.control_number}"


def check_members(options, leaf):
    """What the decision names by digest, as far as it was given."""
    if options.request is not None:
        check_request(leaf, read_file(options.request, MAX_REQUEST), read_file(options.request_signature, 64))
    if options.evidence is not None:
        check_evidence(leaf, read_file(options.evidence, MAX_RECORD))
    if options.inputs is not None:
        check_inputs(leaf, read_file(options.inputs, MAX_RECORD))


def verify_artifact(options):
    bundle = bundle_of(options)
    expected = {}
    for name in ("aud", "action"):
        if getattr(options, name) is not None:
            expected[name] = getattr(options, name)
    if options.argv:
        expected["arguments"] = tuple_hash("countersign-v1:argv", *[argument.encode("utf-8", "surrogateescape") for argument in options.argv])
    if options.program is not None:
        expected["workload"] = sha256(read_file(options.program, MAX_PROGRAM))
    receipt = check_artifact(read_file(options.artifact, MAX_RECEIPT), bundle, now_ms(options), chain_of(options, bundle), expected)
    check_members(options, receipt.leaf)
    print("verified:", describe(receipt))


def verify_receipt(options):
    bundle = bundle_of(options)
    receipt = check_receipt(read_file(options.receipt, MAX_RECEIPT), bundle, chain_of(options, bundle))
    check_members(options, receipt.leaf)
    print("verified:", describe(receipt))


def verify_cose(options):
    bundle = bundle_of(options)
    chain = chain_of(options, bundle)
    keys = bundle.head_keys if chain is None else chain.active(chain.number)
    proof = parse_proof(read_file(options.artifact, MAX_RECEIPT))
    index, size, issued = check_cose(read_file(options.receipt, MAX_COSE), proof.extra, bundle.origin, keys)
    demand(index == proof.index, "index-mismatch", f"the receipt is for leaf {index}")
    print(f"verified: leaf {index} in a tree of {size}, root signed for the head of {issued}")


def verify_head(options):
    bundle = bundle_of(options)
    head = parse_head(read_file(options.head, MAX_NOTE))
    check_head(head, bundle, chain_of(options, bundle))
    print(f"verified: head of size {head.size} digest {head.digest.hex()} control {head.control_number}")


def verify_consistency(options):
    bundle = bundle_of(options)
    chain = chain_of(options, bundle)
    old, new = (parse_head(read_file(path, MAX_NOTE)) for path in (options.old, options.new))
    for head in (old, new):
        check_head(head, bundle, chain)
    demand(old.size != new.size or old.digest == new.digest, "head-forked", "two heads of one size")
    page = strictjson.members(strictjson.parse(read_file(options.proof, MAX_NOTE)), ("proof",), code="proof-malformed", what="a proof")
    proof = hash_list(page["proof"])
    demand(consistent(old.size, old.root, new.size, new.root, proof), "consistency-invalid", "the proof doesn't join the heads")
    print(f"verified: size {old.size} is a part of size {new.size}")


def verify_feed(options):
    bundle = bundle_of(options)
    follower = Follower(bundle)
    follower.take(*[strictjson.parse(read_file(path, MAX_PAGE)) for path in options.pages])
    print(f"verified: head of size {follower.head.size} control {follower.head.control_number}, "
          f"{len(follower.chain.active(follower.chain.number))} active head keys")


def verify_bundle(options):
    receipt = judge_bundle(read_file(options.bundle, MAX_EVIDENCE_BUNDLE), bundle_of(options))
    print("verified:", describe(receipt))


def verify_log(options):
    bundle = bundle_of(options)
    if options.export is not None:
        export = Export(options.export)
        log = check_log(bundle, export.leaves(), export.heads())
    else:
        authority = Authority(options.authority, bundle, options.certificate, options.key)
        size = authority.newest_signed()
        log = check_log(bundle, authority.leaves(size), authority.heads(size))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(log.counts.items()))
    print(f"verified: {log.size} leaves ({kinds}) under head {log.signed.digest.hex()}")


def export_log(options):
    bundle = bundle_of(options)
    authority = Authority(options.authority, bundle, options.certificate, options.key)
    try:
        with open(options.out, "xb") as out:
            size = authority.export(out)
    except OSError as error:
        raise Refused("file-unreadable", f"{options.out}: {error.strerror}") from None
    print(f"exported, not verified: {size} leaves")


def follow(options):
    bundle = bundle_of(options)
    authority = Authority(options.authority, bundle, options.certificate, options.key)
    follower = Follower(bundle)
    follower.take(*authority.feed())
    head = parse_head(authority.ask("/v1/head"))
    check_head(head, bundle, follower.chain if head.control_number <= follower.chain.number else None)
    print(f"verified: head of size {follower.head.size} control {follower.head.control_number}")


def verify_result(options):
    bundle = bundle_of(options)
    data = read_file(options.result, MAX_RESULT)
    if options.export is None:
        claims = check_result(data, parse_jwks(read_file(options.jwks, MAX_PAGE)), bundle.origin, now_ms(options))
    else:
        export = Export(options.export)
        log = check_log(bundle, export.leaves(), export.heads())
        keys = log.chain.jwt_keys()
        index = parse_result(data, keys)["countersign_record"]["index"]
        demand(type(index) is int and 0 <= index < log.signed.size, "result-mismatch", "it names no leaf under a signed head")
        leaf = next(parse_leaf(found) for at, found in enumerate(export.leaves()) if at == index)
        claims = check_result(data, keys, bundle.origin, now_ms(options), leaf)
    if options.nonce is not None:
        expected = to_base64url(hexadecimal(options.nonce, what="--nonce"))
        demand(claims.get("eat_nonce") == expected, "result-mismatch", "another nonce")
    status = claims["submods"]["host"]["ear_status"]
    print(f"verified: host {claims['sub']} is {status} until {claims['exp']} by leaf {claims['countersign_record']['index']}")


def verify_tiles(options):
    bundle = bundle_of(options)
    chain = chain_of(options, bundle)
    authority = Authority(options.authority, bundle, options.certificate, options.key)
    head = parse_head(authority.ask("/v1/log/checkpoint"))
    demand(chain is None or head.control_number <= chain.number, "control-behind", "the feed ends before the checkpoint's control number")
    check_head(head, bundle, chain)

    def fetch(path):
        return authority.ask(f"/v1/log/{path}")

    tiles = Tiles(fetch, head.size)
    entries = options.certificate is not None
    tiles.check(head.root, entries)
    for path in options.receipts:
        receipt = check_receipt(read_file(path, MAX_RECEIPT), bundle, chain)
        demand(receipt.head.size <= head.size, "head-regressed", "the receipt's head is larger than the checkpoint")
        check_receipt_path(fetch, receipt.leaf.index, receipt.head.size, receipt.head.root, receipt.path)
    print(f"verified: checkpoint of size {head.size} from {tiles.fetched} tiles{' and all entries' if entries else ''}, "
          f"{len(options.receipts)} receipts")


def arguments():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="countersign_verifier", description="Checks what a Countersign authority gave out.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, text, feed=True):
        one = commands.add_parser(function.__name__.replace("_", "-"), help=text)
        one.set_defaults(run=function)
        one.add_argument("--trust-bundle", required=True, help="the pinned trust bundle")
        if feed:
            one.add_argument("--feed", action="append", default=[], metavar="FILE",
                             help="pages of GET /v1/feed?size=0, in order: judge by key states, forks and revocations too")
        return one

    one = command(verify_artifact, "an artifact: allowed, in time, and what is expected")
    one.add_argument("artifact")
    one.add_argument("--at", default="now", help="the time to judge by, `now` or ms since the epoch")
    one.add_argument("--aud")
    one.add_argument("--action")
    one.add_argument("--program", metavar="FILE", help="the program that is to run")
    one.add_argument("--argv", nargs="+", metavar="ARG", help="its command line, argv[0] first")
    add_members(one)
    one = command(verify_receipt, "a receipt of any leaf, denials too")
    one.add_argument("receipt")
    add_members(one)
    one = command(verify_cose, "a COSE receipt for the leaf of an artifact")
    one.add_argument("receipt")
    one.add_argument("artifact", help="the artifact, or any receipt, whose leaf it is about")
    command(verify_head, "a signed head").add_argument("head")
    one = command(verify_consistency, "that one head's log is the beginning of another's")
    for name in ("old", "new", "proof"):
        one.add_argument(name)
    command(verify_feed, "a feed, from the trust bundle to its head", feed=False).add_argument("pages", nargs="+")
    one = command(verify_result, "an attestation result: signed, in time, and with the log that it says what its leaf says", feed=False)
    one.add_argument("result")
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--export", metavar="FILE", help="the log")
    source.add_argument("--jwks", metavar="FILE", help="the keys of GET /.well-known/jwks.json, over TLS, where there is no log")
    one.add_argument("--at", default="now", help="the time to judge by, `now` or ms since the epoch")
    one.add_argument("--nonce", metavar="HEX", help="the nonce that it was asked with")
    one = command(verify_bundle, "an evidence bundle: an artifact with all that bears it out", feed=False)
    one.add_argument("bundle")
    one = command(verify_log, "a whole log", feed=False)
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--export", metavar="FILE")
    source.add_argument("--authority", metavar="URL", help="the admin listener of a running authority")
    add_client(one)
    one = command(verify_tiles, "the log of a running authority by its tiles; with a viewer's certificate, its entries too")
    one.add_argument("--authority", metavar="URL", required=True, help="the service listener")
    one.add_argument("receipts", nargs="*", help="receipts whose path the tiles have to give")
    add_client(one)
    one = command(export_log, "writes an export of a running authority, to be verified later", feed=False)
    one.add_argument("--authority", metavar="URL", required=True, help="the admin listener")
    one.add_argument("out", help="a file that isn't there yet")
    add_client(one)
    one = command(follow, "the feed of a running authority, from the trust bundle to its newest head", feed=False)
    one.add_argument("--authority", metavar="URL", required=True, help="the service listener")
    add_client(one)
    return parser


def add_members(one):
    """Options for what a decision names by digest."""
    one.add_argument("--request", metavar="FILE", help="the exact request bytes")
    one.add_argument("--request-signature", metavar="FILE", help="the holder's signature over them")
    one.add_argument("--evidence", metavar="FILE", help="the evidence record that it names")
    one.add_argument("--inputs", metavar="FILE", help="the inputs record that it names")


def add_client(one):
    """Options for a client certificate."""
    one.add_argument("--certificate", metavar="PEM")
    one.add_argument("--key", metavar="PEM")


def main():
    """Runs the command; whatever an input is, the answer is a code."""
    parser = arguments()
    options = parser.parse_args()
    if (getattr(options, "request", None) is None) != (getattr(options, "request_signature", None) is None):
        parser.error("--request and --request-signature go together")
    try:
        options.run(options)
    except Refused as refused:
        print(f"refused: {refused.code}: {refused.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
