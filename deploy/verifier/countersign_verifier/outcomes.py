"""Outcome leaves in the light of the leaves before them (PROTOCOL §8.14): who may tell, of what, when, and only once."""

from .refusal import demand

GATEWAY, ADDED, REVOKE, STARTED = 2, 1, 1, 1
LEEWAY_MS = 2000
# Between the check of an outcome, which comes before it is queued, and the time of its leaf.
QUEUED_MS = 60_000
TAKEN_FOR_MS = 86_400_000


class Outcomes:
    """What was told, and by whom something can be told."""

    def __init__(self):
        self.listed = set()
        self.revoked = set()
        # Thumbprints of everything that ever was a gateway's, and since when it isn't in force.
        self.ended = {}
        # By index: hash, time, and the end of what is an artifact.
        self.leaves = []
        self.told = set()

    def note(self, leaf):
        """Takes note of a leaf, in order."""
        ends_ms = leaf.body["exp"] * 1000 if leaf.kind == "allow" else None
        self.leaves.append((leaf.hash, leaf.time_ms, ends_ms))
        body = leaf.body
        if leaf.kind == "principal":
            key = body["thumbprint"]
            if body["event"] == ADDED and body["kind"] == GATEWAY:
                self.listed.add(key)
                self.ended.setdefault(key)
            else:
                self.listed.discard(key)
        elif leaf.kind == "revocation" and body["subject"][0] == 3:
            key = body["subject"][1]
            (self.revoked.add if body["effect"] == REVOKE else self.revoked.discard)(key)
        else:
            return
        if key in self.ended:
            in_force = key in self.listed and key not in self.revoked
            since = self.ended[key]
            self.ended[key] = None if in_force else leaf.time_ms if since is None else since

    def take(self, leaf):
        """Judges an outcome leaf; those before it were noted."""
        body, where = leaf.body, f"leaf {leaf.index}"
        gateway, (index, digest) = body["gateway"], body["artifact"]
        demand(gateway in self.ended, "unauthorised", f"{where}: told by a key that was never a gateway's")
        ended = self.ended[gateway]
        demand(ended is None or ended + QUEUED_MS >= leaf.time_ms, "unauthorised", f"{where}: told by a gateway that had ended")
        there = index < len(self.leaves) and self.leaves[index][0] == digest
        demand(there, "state-invalid", f"{where}: names a leaf that isn't there")
        _, made_ms, ends_ms = self.leaves[index]
        started = body["result"] == STARTED
        fits = ends_ms is not None or body["code"] == "not-an-allow"
        demand(fits, "not-an-allow", f"{where}: leaf {index} isn't an artifact")
        code = "outcome-implausible"
        demand(body["time_ms"] + LEEWAY_MS >= made_ms, code, f"{where}: before the artifact existed")
        demand(body["time_ms"] <= leaf.time_ms + LEEWAY_MS, code, f"{where}: after it was told")
        ends_ms = made_ms if ends_ms is None else ends_ms
        demand(not started or body["time_ms"] <= ends_ms + LEEWAY_MS, code, f"{where}: started after the artifact's end")
        demand(leaf.time_ms <= ends_ms + TAKEN_FOR_MS + QUEUED_MS, code, f"{where}: told more than a day after the artifact's end")
        mark = (gateway, index, started)
        demand(mark not in self.told, "state-invalid", f"{where}: told before")
        self.told.add(mark)
