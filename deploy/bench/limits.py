"""Raises, in an authority.toml, the bounds that would make the enrolment of a whole fleet at once take longer. Nothing else is changed."""

import pathlib
import sys

WANTED = {
    "enrolments_per_sec": 5000,
    "pending_enrolments": 4096,
    # The whole fleet comes from one address here.
    "source_enrolments_per_sec": 5000,
    "source_enrolments_burst": 5000,
    "connections_per_source": 4096,
}

path = pathlib.Path(sys.argv[1])
lines = [line for line in path.read_text().splitlines() if line.split("=")[0].strip() not in WANTED]
if "[limits]" not in lines:
    lines += ["", "[limits]"]
at = lines.index("[limits]") + 1
lines[at:at] = [f"{key} = {value}" for key, value in WANTED.items()]
path.write_text("\n".join(lines) + "\n")
