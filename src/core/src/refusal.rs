//! Every reason for which this system says no, as one closed list of stable codes.
//!
//! A code never changes its meaning and is never reused. `docs/ERRORS.md` is written from this table and a test holds the two together.
//! The table also says who is to blame and which HTTP status carries the code; it holds no text that depends on a request, so nothing of a
//! caller's input or of ours can leak through it.

use std::fmt;

/// Who has to act on a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Evidence, policy or state says no: the caller is understood and denied.
    Refusal,
    /// The caller sent something that this protocol doesn't allow.
    Misuse,
    /// Our side failed; the same call may succeed later.
    Fault,
}

macro_rules! codes {
    ($($variant:ident = $code:literal, $blame:ident, $status:literal, $meaning:literal;)+) => {
        /// A stable reason to refuse.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalCode {
            $(#[doc = $meaning] $variant,)+
        }

        impl RefusalCode {
            /// Every code, in the order of `docs/ERRORS.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code, kebab-case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// Who has to act.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)+ }
            }

            /// HTTP status with which an authority answers it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// The code of this text; `None` for any other text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    // Transport and form.
    Malformed = "malformed", Misuse, 400, "The body isn't what this endpoint takes.";
    BodyTooLarge = "body-too-large", Misuse, 413, "The body is larger than the stated limit.";
    NotFound = "not-found", Misuse, 404, "There is nothing at this path, or no such object.";
    TileMalformed = "tile-malformed", Misuse, 400, "The path isn't that of a tile or entry bundle (C2SP tlog-tiles).";
    MethodNotAllowed = "method-not-allowed", Misuse, 405, "The path exists, the method doesn't.";
    Unauthenticated = "unauthenticated", Misuse, 401, "The endpoint needs a client certificate of a known key.";
    Forbidden = "forbidden", Misuse, 403, "The caller's key has no right to this endpoint.";
    RateLimited = "rate-limited", Misuse, 429, "The caller used up its budget; see Retry-After.";
    Overloaded = "overloaded", Fault, 503, "A bounded queue is full; see Retry-After.";
    TimedOut = "timed-out", Fault, 503, "The call took longer than its deadline; it may be repeated as it was.";
    Internal = "internal", Fault, 500, "A defect or a panic was contained; nothing was decided.";
    // Authority state.
    SignerUnavailable = "signer-unavailable", Fault, 503, "The key that signs heads can't be used now.";
    LogUnavailable = "log-unavailable", Fault, 503, "The log can't be written durably now.";
    LineageUnavailable = "lineage-unavailable", Fault, 503, "The lineage index can't be read now; the log isn't touched by that.";
    ClockUnreliable = "clock-unreliable", Fault, 503, "The authority's clock is behind its own log or jumped.";
    WitnessConflict = "witness-conflict", Fault, 503, "A witness has cosigned another history of this log, or a later one: nothing is issued until an officer decides.";
    HeadUnwitnessed = "head-unwitnessed", Fault, 503, "No head that is young enough has been cosigned by enough witnesses.";
    VersionsMoved = "versions-moved", Fault, 503, "The state changed under the call three times in a row; repeat it.";
    EvidenceNeeded = "evidence-needed", Misuse, 422, "Members named by digest aren't known here; send them inline with the same challenge.";
    // Challenge and request.
    ChallengeInvalid = "challenge-invalid", Misuse, 400, "The challenge wasn't made by this authority, or is damaged.";
    ChallengeHostMismatch = "challenge-host-mismatch", Misuse, 403, "The challenge was made for another host.";
    ChallengeExpired = "challenge-expired", Refusal, 403, "The challenge is older than its lifetime.";
    ChallengeSpent = "challenge-spent", Refusal, 403, "The challenge was used before: a replay.";
    RequestMalformed = "request-malformed", Misuse, 400, "A request isn't of the form of PROTOCOL section 3.";
    RequestHostMismatch = "request-host-mismatch", Misuse, 403, "A request names a host that isn't the caller.";
    RequestIdReused = "request-id-reused", Refusal, 409, "The request identifier was used before for other bytes.";
    HolderSignatureInvalid = "holder-signature-invalid", Misuse, 400, "The holder key's signature over the request doesn't verify.";
    LineageTooLarge = "lineage-too-large", Misuse, 422, "The requests of one call have more ancestors than a call may have looked up; send fewer at once.";
    HostUnknown = "host-unknown", Refusal, 403, "The caller's key belongs to no enrolled host.";
    HostRevoked = "host-revoked", Refusal, 403, "The host was revoked.";
    // Attestation results as JWTs.
    JwtKeyAbsent = "jwt-key-absent", Misuse, 409, "The log has no active key for JWTs; an officer can introduce one.";
    ResultAbsent = "result-absent", Refusal, 403, "The host gave no good evidence since its last enrolment, so there is no attestation result.";
    ResultExpired = "result-expired", Refusal, 403, "Trust in the host has ended; its newest attestation result isn't given out any more.";
    // Quote.
    QuoteMalformed = "quote-malformed", Misuse, 400, "The quote's bytes aren't well-formed TPM structures.";
    QuoteSignatureInvalid = "quote-signature-invalid", Refusal, 403, "The quote isn't signed by the enrolled AK.";
    QuoteNotAQuote = "quote-not-a-quote", Refusal, 403, "The signed structure isn't a quote made inside a TPM.";
    QuoteNonceMismatch = "quote-nonce-mismatch", Refusal, 403, "The quote isn't bound to this challenge and these requests.";
    QuoteSelectionMismatch = "quote-selection-mismatch", Refusal, 403, "The quoted PCR selection isn't exactly the required one.";
    QuoteDigestMismatch = "quote-digest-mismatch", Refusal, 403, "The PCR values sent aren't the quoted ones.";
    QuoteBootPcrZero = "quote-boot-pcr-zero", Refusal, 403, "A boot PCR of the bank was never extended.";
    QuoteResetRegressed = "quote-reset-regressed", Refusal, 403, "The quote is of an earlier boot than one already seen.";
    QuoteClockBehind = "quote-clock-behind", Refusal, 403, "The TPM clock trails the largest value seen by more than a challenge lifetime.";
    // Boot log and appraisal.
    BootLogMissing = "boot-log-missing", Refusal, 403, "The evidence names no boot log.";
    BootLogMalformed = "boot-log-malformed", Refusal, 403, "The boot log can't be parsed.";
    BootLogMismatch = "boot-log-mismatch", Refusal, 403, "The boot log doesn't replay to the quoted PCRs.";
    BootLogSeparator = "boot-log-separator", Refusal, 403, "A boot PCR doesn't have exactly one separator.";
    VerifierPanicked = "verifier-panicked", Refusal, 403, "What was sent made its reader panic: it is refused, and an operator should be told.";
    // IMA.
    ImaMissing = "ima-missing", Refusal, 403, "An IMA policy is active and the evidence names no entries.";
    ImaMalformed = "ima-malformed", Refusal, 403, "The IMA list can't be parsed.";
    ImaPcrNotQuoted = "ima-pcr-not-quoted", Refusal, 403, "The quote doesn't cover the register of the IMA list.";
    ImaWrongBank = "ima-wrong-bank", Refusal, 403, "The IMA list is of another bank than the quote.";
    ImaListNeeded = "ima-list-needed", Refusal, 403, "New entries alone aren't enough: the whole IMA list has to be sent.";
    ImaBaseMoved = "ima-base-moved", Refusal, 403, "The entries don't begin where the last good evidence ended.";
    ImaRegisterEmpty = "ima-register-empty", Refusal, 403, "The register of the IMA list was never extended.";
    ImaOtherRegister = "ima-other-register", Refusal, 403, "An IMA entry says that it extended another register.";
    ImaEntryEdited = "ima-entry-edited", Refusal, 403, "The data of an IMA entry doesn't hash to its template hash.";
    ImaTrimmed = "ima-trimmed", Refusal, 403, "The IMA list doesn't begin with boot_aggregate.";
    ImaRewound = "ima-rewound", Refusal, 403, "The IMA list or the quote is older than what was seen of this boot.";
    ImaMismatch = "ima-mismatch", Refusal, 403, "No prefix of the IMA list leads to the quoted register.";
    ImaPaddedSha1 = "ima-padded", Refusal, 403, "The register holds padded SHA-1 hashes, which the IMA policy doesn't accept.";
    ImaLag = "ima-lag", Refusal, 403, "More IMA entries follow the quoted moment than the IMA policy allows.";
    ImaViolation = "ima-violation", Refusal, 403, "The kernel measured more violations than the IMA policy allows.";
    ImaBootAggregate = "ima-boot-aggregate", Refusal, 403, "boot_aggregate isn't the digest of the quoted boot registers.";
    ImaBootAggregateUnchecked = "ima-boot-aggregate-unchecked", Refusal, 403, "boot_aggregate is of registers that the quote doesn't cover.";
    ImaBuffer = "ima-buffer", Refusal, 403, "A measured buffer doesn't hash to its digest.";
    ImaFileUnknown = "ima-file-unknown", Refusal, 403, "A file was measured that the IMA policy doesn't know.";
    ImaFileDigest = "ima-file-digest", Refusal, 403, "A file was measured with another digest than the IMA policy lists.";
    ImaFileSignature = "ima-file-signature", Refusal, 403, "The signature of a measured file isn't by the key that it names.";
    ImaTooManySignatures = "ima-too-many-signatures", Refusal, 403, "More file signatures were sent than one appraisal checks.";
    // References and policy.
    ReferenceMismatch = "reference-mismatch", Refusal, 403, "The quoted PCRs match no active reference set.";
    PolicyAbsent = "policy-absent", Refusal, 403, "No policy is active.";
    PolicyDenied = "policy-denied", Refusal, 403, "No policy permits the request, or one forbids it.";
    PolicyError = "policy-error", Refusal, 403, "A policy failed to evaluate, which denies.";
    // Lineage.
    ParentUnknown = "parent-unknown", Refusal, 403, "A parent isn't an allow decision of this log.";
    ParentExpired = "parent-expired", Refusal, 403, "A parent has expired.";
    ParentRevoked = "parent-revoked", Refusal, 403, "A parent, its host or one of its ancestors was revoked.";
    ConsentMissing = "consent-missing", Refusal, 403, "A parent's holder key didn't sign the child's request.";
    ConsentInvalid = "consent-invalid", Refusal, 403, "A consent isn't a signature by the parent's holder key over the child's request.";
    DelegationAbsent = "delegation-absent", Refusal, 403, "A parent may not have children.";
    DelegationExceeded = "delegation-exceeded", Refusal, 403, "The child asks for more than a parent delegated.";
    BudgetExhausted = "budget-exhausted", Refusal, 403, "A parent's budget of descendants is used up.";
    LineageRootMismatch = "lineage-root-mismatch", Refusal, 403, "The parents don't have one common root.";
    // Enrolment.
    EkCertificateInvalid = "ek-certificate-invalid", Refusal, 403, "The EK certificate doesn't chain to a trusted vendor root.";
    EkIssuerUnknown = "ek-issuer-unknown", Refusal, 403, "No trusted manufacturer issued the EK certificate.";
    EkCertificateExpired = "ek-certificate-expired", Refusal, 403, "The EK certificate, or one above it, has expired or isn't valid yet.";
    EkCertificateRevoked = "ek-certificate-revoked", Refusal, 403, "The EK certificate, or one above it, was revoked by its issuer.";
    EkRevocationUnknown = "ek-revocation-unknown", Refusal, 403, "No current revocation list of the EK certificate's issuer is at hand.";
    EkKeyWeak = "ek-key-weak", Refusal, 403, "The endorsed RSA key has the fingerprint of a weak generator (CVE-2017-15361).";
    FirmwareTooOld = "firmware-too-old", Refusal, 403, "The TPM's firmware is older than the configured floor.";
    IakCertificateInvalid = "iak-certificate-invalid", Refusal, 403, "The AK certificate isn't one of a TPM-resident key, or doesn't chain to a trusted issuer.";
    IakKeyMismatch = "iak-key-mismatch", Refusal, 403, "The AK certificate is for another key than the AK public sent.";
    IdevidCertificateInvalid = "idevid-certificate-invalid", Refusal, 403, "The IDevID certificate isn't one of a device's key that names the device, or has no valid path to a trusted root.";
    IdevidIssuerUnknown = "idevid-issuer-unknown", Refusal, 403, "No trusted maker of devices issued the IDevID certificate.";
    IdevidCertificateExpired = "idevid-certificate-expired", Refusal, 403, "The IDevID certificate, or one above it, has expired or isn't valid yet.";
    IdevidCertificateRevoked = "idevid-certificate-revoked", Refusal, 403, "The IDevID certificate, or one above it, was revoked by its issuer.";
    IdevidRevocationUnknown = "idevid-revocation-unknown", Refusal, 403, "No current revocation list of the IDevID certificate's issuer is at hand.";
    IdevidKeyMismatch = "idevid-key-mismatch", Refusal, 403, "The IDevID certificate is for another key than the public area sent.";
    IdevidKeyReused = "idevid-key-reused", Refusal, 403, "The IDevID key is also the host's endorsement, attestation or host key.";
    IdevidKeyWeak = "idevid-key-weak", Refusal, 403, "The IDevID key has the fingerprint of a weak generator (CVE-2017-15361).";
    IdevidAttributesInvalid = "idevid-attributes-invalid", Refusal, 403, "The IDevID key isn't an unrestricted signing key that can't leave its TPM and is administered by policy.";
    IdevidCertificationInvalid = "idevid-certification-invalid", Refusal, 403, "The AK's certification of the IDevID key is missing or doesn't verify.";
    IdevidSignatureInvalid = "idevid-signature-invalid", Refusal, 403, "The IDevID key's own signature over the enrolment doesn't verify.";
    IdevidChanged = "idevid-changed", Refusal, 403, "The host is enrolled with another IDevID certificate, or with one where none was sent; changing that needs a join token.";
    EkNotAllowed = "ek-not-allowed", Refusal, 403, "No EK certificate was sent and the EK isn't on the allow-list.";
    EkKeyMismatch = "ek-key-mismatch", Refusal, 403, "The EK certificate is for another key than the EK public sent.";
    EkAttributesInvalid = "ek-attributes-invalid", Refusal, 403, "The EK isn't a restricted decryption key of the accepted profile.";
    AkAttributesInvalid = "ak-attributes-invalid", Refusal, 403, "The AK isn't a restricted signing key that can't leave its TPM.";
    HostKeyAttributesInvalid = "host-key-attributes-invalid", Refusal, 403, "The host key isn't a signing key that can't leave its TPM.";
    JoinTokenInvalid = "join-token-invalid", Refusal, 403, "The join token is unknown, expired or used, or none was sent.";
    KeysChanged = "keys-changed", Refusal, 403, "The EK is enrolled with another AK or host key; replacing them needs a join token.";
    EnrolmentUnknown = "enrolment-unknown", Refusal, 403, "No such enrolment is pending; it may be spent, expired or of another version of the authority.";
    ActivationFailed = "activation-failed", Refusal, 403, "The secret isn't the one that the TPM had to decrypt.";
    CertificationInvalid = "certification-invalid", Refusal, 403, "The AK's certification of the host key doesn't verify.";
    IdentityConflict = "identity-conflict", Refusal, 409, "This key or this EK already belongs to another enrolment.";
    // Administration.
    PolicyInvalid = "policy-invalid", Misuse, 422, "The policy doesn't parse or doesn't validate against the schema.";
    ReferencesInvalid = "references-invalid", Misuse, 422, "The references document isn't well-formed.";
    ImaPolicyInvalid = "ima-policy-invalid", Misuse, 422, "The IMA policy isn't well-formed, isn't known, or its register isn't quoted.";
    EvidenceAbsent = "evidence-absent", Misuse, 409, "The host has no good evidence to capture from.";
    RotationRefused = "rotation-refused", Misuse, 409, "Another rotation is under way, or the new key's custody can't be shown.";
    EpochMoved = "epoch-moved", Misuse, 409, "Policy or references changed since this change was drafted; look at what is active and draft again.";
    ApprovalInvalid = "approval-invalid", Refusal, 403, "No security officer's own key signed this very act.";
    StatementInvalid = "statement-invalid", Refusal, 403, "The recovery statement isn't signed by the recovery key, isn't the next, or doesn't fit the log.";
    ConflictingAct = "conflicting-act", Misuse, 409, "The object is already in that state, or the state has moved.";
    // Gateway.
    SnapshotMissing = "snapshot-missing", Fault, 503, "The gateway holds no verified snapshot of the authority.";
    LeaseExpired = "lease-expired", Refusal, 403, "The gateway's newest head is older than its lease.";
    FeedInvalid = "feed-invalid", Fault, 502, "What the authority sent isn't consistent with what this gateway knows.";
    HeadInFuture = "head-in-future", Refusal, 403, "The newest head's time is later than the gateway's clock allows.";
    HeadRolledBack = "head-rolled-back", Refusal, 403, "The log ends before a size that it was seen to have.";
    HeadForked = "head-forked", Refusal, 403, "Two different heads of one log: the authority or the network lies.";
    WitnessQuorumUnmet = "witness-quorum-unmet", Refusal, 403, "Too few of the witnesses that are demanded cosigned a head that covers this.";
    CosignatureInvalid = "cosignature-invalid", Refusal, 403, "A line in the name of a known witness isn't its cosignature.";
    EvidenceBundleMalformed = "evidence-bundle-malformed", Misuse, 400, "The evidence bundle isn't of its form.";
    EvidenceBundleIncomplete = "evidence-bundle-incomplete", Refusal, 422, "The evidence bundle lacks a part that it names, or holds one that nothing names.";
    CheckpointInvalid = "checkpoint-invalid", Misuse, 400, "What an earlier audit kept isn't whole, isn't signed by a key that it vouches for, or is of another log.";
    EvidencePruned = "evidence-pruned", Refusal, 422, "What the decision was made from was pruned, by the store's own record; copies that somebody kept are as good.";
    EvidenceLost = "evidence-lost", Refusal, 422, "What the decision was made from isn't in the store, and no pruning tells of it.";
    EvidenceBundleMismatch = "evidence-bundle-mismatch", Refusal, 422, "The decision doesn't follow from what the evidence bundle holds.";
    ReceiptMalformed = "receipt-malformed", Misuse, 400, "The artifact isn't a well-formed receipt.";
    HeadUnsigned = "head-unsigned", Refusal, 403, "No active head key signed the artifact's head.";
    KeyCompromised = "key-compromised", Refusal, 403, "Only a compromised key signed the head, and it isn't covered by that key's last good head.";
    HeadUnlinked = "head-unlinked", Refusal, 403, "The artifact's head can't be joined to the gateway's newest head.";
    InclusionInvalid = "inclusion-invalid", Refusal, 403, "The artifact isn't in the log under its head.";
    NotAnAllow = "not-an-allow", Refusal, 403, "The leaf isn't an allow decision.";
    ControlBehind = "control-behind", Refusal, 403, "The artifact was made under later control state than this gateway knows.";
    OriginMismatch = "origin-mismatch", Refusal, 403, "The artifact is of another authority.";
    AudienceMismatch = "audience-mismatch", Refusal, 403, "The artifact is meant for another gateway or domain.";
    NotYetValid = "not-yet-valid", Refusal, 403, "The artifact's time hasn't come.";
    Expired = "expired", Refusal, 403, "The artifact's time is over.";
    ActionMismatch = "action-mismatch", Refusal, 403, "The artifact permits another action.";
    ArgumentsMismatch = "arguments-mismatch", Refusal, 403, "The arguments aren't the approved ones.";
    WorkloadMismatch = "workload-mismatch", Refusal, 403, "The program isn't the approved one.";
    Revoked = "revoked", Refusal, 403, "The artifact, its host or an ancestor was revoked.";
    HolderProofInvalid = "holder-proof-invalid", Refusal, 403, "The presenter didn't prove the holder key.";
    ProgramUnreadable = "program-unreadable", Refusal, 403, "The program can't be opened, is no regular file or is too large.";
    ProgramUnsupported = "program-unsupported", Refusal, 403, "The program is a script or a format that can't be executed as it was hashed.";
    OutcomeImplausible = "outcome-implausible", Misuse, 422, "The time of an outcome doesn't fit its artifact or the clock.";
    // Agent.
    PeerUnknown = "peer-unknown", Refusal, 403, "No rule of the agent maps this process to a runtime.";
    ActionNotMapped = "action-not-mapped", Refusal, 403, "The agent's rule for this runtime doesn't name the action.";
    TpmUnavailable = "tpm-unavailable", Fault, 503, "The host's TPM doesn't answer.";
    AuthorityUnreachable = "authority-unreachable", Fault, 503, "The authority can't be reached or doesn't answer in time.";
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for RefusalCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for RefusalCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("unknown refusal code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_distinct_kebab_case_and_parse_back() {
        let mut seen = BTreeSet::new();
        for code in RefusalCode::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{text}");
            assert_eq!(RefusalCode::parse(text), Some(*code));
        }
        assert_eq!(RefusalCode::parse("policy_denied"), None);
    }

    #[test]
    fn a_fault_of_ours_is_never_answered_as_the_callers_and_the_other_way_round() {
        for code in RefusalCode::ALL {
            assert_eq!(code.blame() == Blame::Fault, code.status() >= 500, "{code}");
        }
    }
}
