"""Writes the published example log (tests/vectors/formats/log.json) into a directory as the files that docs/LOG.md works with.

example.py DIRECTORY"""

import base64
import json
import sys
from pathlib import Path

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "formats" / "log.json"
NAMES = {
    "an enrolment": "enrolment",
    "an artifact that may have children": "parent",
    "a denial": "denial",
    "a child, after the rotation": "child",
}


def main():
    """One file for each thing that an authority gives out."""
    if len(sys.argv) != 2:
        sys.exit("usage: example.py FOLDER")
    log, folder = json.loads(VECTORS.read_text()), Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, data):
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    write("trust-bundle.json", log["trust_bundle"])
    write("export.jsonl", "".join(line + "\n" for line in log["export"]))
    write("feed.json", json.dumps(log["feed"]))
    pages = [json.loads(line) for line in log["export"]]
    leaves = [leaf for page in pages for leaf in page.get("leaves", [])]
    for index, leaf in enumerate(leaves):
        write(f"leaf-{index}", base64.urlsafe_b64decode(leaf + "=="))
    for head in (head for page in pages for head in page.get("heads", [])):
        write(f"head-{head.splitlines()[1]}", head)
    for vector in log["receipts"]:
        name = NAMES[vector["what"]]
        write(name, vector["receipt"])
        if vector["asked"] is not None:
            write(f"{name}.request", vector["asked"]["request"])
            write(f"{name}.signature", bytes.fromhex(vector["asked"]["signature"]))
    for vector in log["consistency"]:
        if vector["tree"] == "sha-256":
            write(f"consistency-{vector['from']}-{vector['to']}.json", json.dumps({"proof": vector["proof"]}))


main()
