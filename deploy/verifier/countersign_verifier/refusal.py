"""Refusals: everything that this program has against an input has a stable code. No input leads to anything else."""

# Each code with its meaning. Codes of docs/ERRORS.md have the same meaning here.
CODES = {
    # form
    "file-unreadable": "A file can't be read.",
    "too-large": "An input is larger than the format allows.",
    "cbor-malformed": "The bytes aren't the restricted deterministic CBOR of §1.2.",
    "json-malformed": "The text isn't the restricted JSON of §1.3.",
    "key-malformed": "A key isn't one of §1.4.",
    "head-malformed": "The head isn't the signed note of §6.",
    "receipt-malformed": "The artifact isn't a well-formed receipt (§6.4).",
    "proof-malformed": "A proof isn't a list of hashes.",
    "leaf-malformed": "The leaf isn't the envelope of §5.1, of a kind of §5.2, with the body of that kind.",
    "request-malformed": "The request isn't of the form of §3.1.",
    "evidence-malformed": "The evidence record or inputs record isn't of the form of §9.2 or §7.2.",
    "bundle-malformed": "The trust bundle isn't of the form of §10.",
    "feed-malformed": "The feed isn't of the form of the API.",
    "tile-malformed": "A tile or entry bundle isn't of the width that a tree of this size has (C2SP tlog-tiles).",
    "export-malformed": "The export isn't made of pages of the API.",
    # judgement
    "bundle-invalid": "A statement of the trust bundle isn't the recovery key's, or is out of order.",
    "origin-mismatch": "The document is of another log.",
    "head-unsigned": "No key that is active at the head's control number signed it, or a known key's signature fails.",
    "head-forked": "Two different heads of one size, or two control digests of one number.",
    "head-unlinked": "A head's prev isn't the digest of the body before it.",
    "head-regressed": "Size, time or control number goes back.",
    "head-mismatch": "A root or the control line of the head isn't what the leaves give.",
    "inclusion-invalid": "The leaf isn't included under the head.",
    "consistency-invalid": "The proof doesn't join the two heads.",
    "index-mismatch": "A leaf's index isn't its place in the log.",
    "time-regressed": "A leaf is older than the one before it.",
    "control-mismatch": "The control leaves don't give the head's control digest.",
    "key-state-invalid": "A key leaf doesn't follow from the keys before it.",
    "possession-invalid": "A key leaf's proof of possession doesn't verify.",
    "approval-invalid": "No security officer's own key approved a new key or officer.",
    "key-compromised": "Only a compromised key signed the head, and it isn't that key's last good one.",
    "rotation-unsigned": "The first signed head after an activation lacks the old or the new key's signature.",
    "state-invalid": "A leaf doesn't follow from the leaves before it.",
    "narrowing-violated": "An allow decision widens what its parents delegated, or spends more than they had.",
    "unauthorised": "An administrative leaf names a principal that wasn't entitled to the act.",
    "not-an-allow": "The leaf isn't an allow decision.",
    "outcome-implausible": "The time of an outcome doesn't fit its artifact or the clock.",
    "revoked": "The artifact, its host or an ancestor was revoked.",
    "control-behind": "The artifact was made under later control state than the reader has.",
    "audience-mismatch": "The artifact is meant for another gateway or domain.",
    "action-mismatch": "The artifact permits another action.",
    "arguments-mismatch": "The arguments aren't the approved ones.",
    "workload-mismatch": "The program isn't the approved one.",
    "not-yet-valid": "The artifact's time hasn't come.",
    "expired": "The artifact's time is over.",
    "request-mismatch": "The request isn't the one that was decided.",
    "holder-signature-invalid": "The holder key's signature over the request doesn't verify.",
    "evidence-mismatch": "An evidence or inputs record isn't the one that the decision names, or says otherwise.",
    "evidence-bundle-malformed": "The evidence bundle isn't of its form (§14).",
    "evidence-bundle-incomplete": "The evidence bundle lacks a part that it names, or holds one that nothing names.",
    "evidence-bundle-mismatch": "The decision doesn't follow from what the evidence bundle holds.",
    "result-malformed": "The attestation result isn't a JWS of the form of §17.",
    "result-unsigned": "No key for attestation results signed it.",
    "result-mismatch": "The attestation result says otherwise than the leaf that it names.",
    "quote-not-a-quote": "The signed structure isn't a quote made inside a TPM.",
    "quote-signature-invalid": "The quote isn't signed by the enrolled AK.",
    "quote-nonce-mismatch": "The quote isn't bound to this challenge and these requests.",
    "quote-selection-mismatch": "The quoted PCR selection isn't exactly the required one.",
    "quote-digest-mismatch": "The PCR values aren't the quoted ones.",
    "boot-log-malformed": "The boot log can't be parsed.",
    "boot-log-mismatch": "The boot log doesn't replay to the quoted PCRs.",
    "boot-log-separator": "A boot PCR doesn't have exactly one separator.",
    "authority-unreachable": "The authority can't be reached or doesn't answer with what was asked.",
}


class Refused(Exception):
    """An input was refused; `code` is one of CODES."""

    def __init__(self, code, detail):
        assert code in CODES, code
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def demand(condition, code, detail):
    """Refuses unless the condition holds."""
    if not condition:
        raise Refused(code, detail)
