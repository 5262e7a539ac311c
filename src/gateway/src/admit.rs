//! Admission: the one judgement behind every door (PROTOCOL §13.2). Pure: snapshot, clocks, measurements and proofs are arguments.
//!
//! Comes in: an artifact from a stranger, what the door measured of the action, a holder proof, and the gateway's snapshot. Goes out: a
//! [`Permit`], which nothing else can make, copy or change; or a [`Refusal`] whose code is that of the first check that failed.

use crate::clock::{CLOCK_LEEWAY_MS, ClockReading};
use crate::holder::HolderProof;
use crate::refusal::Refusal;
use crate::snapshot::{LinkProof, LinkRefused, Snapshot};
use countersign_core::artifact::{Receipt, SignedReceipt};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::name::{Action, Audience, RuntimeId};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::MAX_TTL_SECS;
use countersign_core::verified_heads::VerifiedHeads;
use countersign_core::witness::{Quorum, QuorumRefused};
use std::sync::Arc;

/// What a gateway is and demands; the same for every admission.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Its name, which holder proofs carry.
    pub name: String,
    /// For which audiences it stands; at least one, or nothing is admitted.
    pub audiences: Vec<Audience>,
    /// For how long a head counts, ms.
    pub lease_ms: u64,
    /// Witnesses of which enough must have cosigned the newest head; `None`: none need to.
    pub quorum: Option<Arc<Quorum>>,
}

/// What the door knows of the action by itself.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What is to be done.
    pub action: Action,
    /// Digest of the exact arguments.
    pub arguments: Sha256Digest,
    /// SHA-256 of the program that will run.
    pub workload: Sha256Digest,
}

/// All that an admission reads.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionInput<'a> {
    /// The gateway.
    pub rules: &'a Rules,
    /// What it holds of the log; `None` if it never pulled, which refuses.
    pub snapshot: Option<&'a Snapshot>,
    /// Heads whose signatures were verified before.
    pub verified: &'a VerifiedHeads,
    /// The clocks now.
    pub now: &'a ClockReading,
    /// The artifact's text.
    pub artifact: &'a str,
    /// From the artifact's head to the newest, if one was pulled.
    pub link: Option<&'a LinkProof>,
    /// The action.
    pub measured: &'a Measured,
    /// The holder proof.
    pub holder: &'a HolderProof,
}

/// Leave to do one thing once, until it expires.
///
/// INVARIANT: private fields, no constructor but [`admit`], neither `Clone` nor `Copy` nor `Default`: whoever holds one has been admitted, and
/// whoever has used it holds none. `tests/permit` shows that code that tries otherwise doesn't compile.
#[derive(Debug)]
#[must_use = "a permit that isn't used is a refusal that nobody sees"]
pub struct Permit {
    artifact: LeafRef,
    runtime: RuntimeId,
    action: Action,
    arguments: Sha256Digest,
    workload: Sha256Digest,
    expires_ms: u64,
}

impl Permit {
    /// Index and leaf hash of the artifact.
    #[must_use]
    pub const fn artifact(&self) -> LeafRef {
        self.artifact
    }

    /// The runtime that the artifact names; its path is the agent's word.
    #[must_use]
    pub const fn runtime(&self) -> &RuntimeId {
        &self.runtime
    }

    /// What may be done.
    #[must_use]
    pub const fn action(&self) -> &Action {
        &self.action
    }

    /// With which arguments.
    #[must_use]
    pub const fn arguments(&self) -> &Sha256Digest {
        &self.arguments
    }

    /// By which program.
    #[must_use]
    pub const fn workload(&self) -> &Sha256Digest {
        &self.workload
    }

    /// Until when, ms, the leeway included.
    #[must_use]
    pub const fn expires_ms(&self) -> u64 {
        self.expires_ms
    }
}

/// Judges an artifact. The numbers are those of PROTOCOL §13.2.
pub fn admit(input: &AdmissionInput<'_>) -> Result<Permit, Refusal> {
    // 1
    let snapshot = input.snapshot.ok_or_else(|| {
        Refusal::new(RefusalCode::SnapshotMissing, "this gateway has no verified view of the log yet")
    })?;
    snapshot.age(input.now, input.rules.lease_ms).map_err(|end| Refusal::new(end.code(), end))?;
    check_witnessed(input, snapshot)?;
    // 2 and 3
    let refused = |error: countersign_core::artifact::ArtifactError| Refusal::new(error.code(), error);
    let receipt = Receipt::parse(input.artifact).map_err(refused)?;
    let signed = receipt.verify_signature_among(snapshot.control(), input.verified).map_err(refused)?;
    // 4
    snapshot.check_link(&signed, input.link).map_err(|refused| unlinked(input.rules, refused))?;
    // From here on the artifact is genuine; a refusal can be reported.
    let receipt = signed.receipt();
    let artifact = (receipt.leaf().index, *receipt.leaf_hash());
    judge(input, snapshot, &signed, artifact).map_err(|refusal| refusal.of_artifact(artifact))
}

/// PROTOCOL §15.4: enough of the witnesses that this gateway demands cosigned the newest head.
fn check_witnessed(input: &AdmissionInput<'_>, snapshot: &Snapshot) -> Result<(), Refusal> {
    let Some(quorum) = &input.rules.quorum else { return Ok(()) };
    let refused = |refused: QuorumRefused| {
        let code = match refused {
            QuorumRefused::Unmet { .. } => RefusalCode::WitnessQuorumUnmet,
            QuorumRefused::Invalid { .. } => RefusalCode::CosignatureInvalid,
        };
        Refusal::new(code, refused)
    };
    snapshot.head().check_witnessed(quorum, input.now.wall_ms).map(drop).map_err(refused)
}

fn unlinked(rules: &Rules, refused: LinkRefused) -> Refusal {
    let code = match refused {
        LinkRefused::Forked { .. } => RefusalCode::HeadForked,
        // The newest head is the newest that witnesses have seen: the artifact's is still to come.
        LinkRefused::Unlinked { size, newest } if rules.quorum.is_some() && size > newest => {
            RefusalCode::WitnessQuorumUnmet
        }
        LinkRefused::Unlinked { .. } => RefusalCode::HeadUnlinked,
    };
    Refusal::new(code, refused)
}

fn judge(
    input: &AdmissionInput<'_>,
    snapshot: &Snapshot,
    signed: &SignedReceipt,
    artifact: LeafRef,
) -> Result<Permit, Refusal> {
    let receipt = signed.receipt();
    // 5
    if receipt.leaf().kind != Kind::Allow {
        let found = receipt.leaf().kind.name();
        return Err(Refusal::new(RefusalCode::NotAnAllow, format!("the leaf is of kind {found}")));
    }
    let decision = Decision::parse(&receipt.leaf().body)
        .map_err(|error| Refusal::new(RefusalCode::ReceiptMalformed, error))?;
    let (nbf, exp) = lifetime(&decision)?;
    let needed = decision.control.max(receipt.head().control_seq);
    let held = snapshot.control().number();
    if needed > held {
        let text = format!("the artifact needs control number {needed}, this gateway holds {held}");
        return Err(Refusal::new(RefusalCode::ControlBehind, text));
    }
    // 6
    let expires_ms = check_claims(input, snapshot, &decision, nbf, exp)?;
    // 7
    check_revocation(snapshot, &decision, artifact)?;
    // 8
    let (name, now_ms) = (&input.rules.name, input.now.wall_ms);
    input
        .holder
        .verify(&decision.holder, name, receipt.leaf_hash(), now_ms)
        .map_err(|error| Refusal::new(RefusalCode::HolderProofInvalid, error))?;
    Ok(Permit {
        artifact,
        runtime: decision.runtime,
        action: decision.action,
        arguments: decision.arguments,
        workload: decision.workload,
        expires_ms,
    })
}

/// Bounds of the lifetime in milliseconds.
fn lifetime(decision: &Decision) -> Result<(u64, u64), Refusal> {
    let malformed = |text: &str| Refusal::new(RefusalCode::ReceiptMalformed, text);
    let Verdict::Allow { nbf, exp } = decision.verdict else {
        return Err(malformed("an allow leaf holds a deny decision"));
    };
    // PROTOCOL §3.1 and §7.1: no artifact lives longer than the longest lifetime that can be asked for.
    if exp.checked_sub(nbf).is_none_or(|secs| secs > MAX_TTL_SECS) {
        return Err(malformed("the artifact's lifetime is longer than any that can be asked for"));
    }
    nbf.checked_mul(1_000)
        .zip(exp.checked_mul(1_000))
        .ok_or_else(|| malformed("the artifact's time overflows"))
}

/// Issuer, audience, time, action, arguments, workload. Returns until when the permit holds.
fn check_claims(
    input: &AdmissionInput<'_>,
    snapshot: &Snapshot,
    decision: &Decision,
    nbf_ms: u64,
    exp_ms: u64,
) -> Result<u64, Refusal> {
    let refuse = |code, text: String| Err(Refusal::new(code, text));
    let (origin, issuer) = (snapshot.control().origin(), decision.issuer.as_str());
    if issuer != origin {
        return refuse(
            RefusalCode::OriginMismatch,
            format!("issued by {issuer}, this gateway follows {origin}"),
        );
    }
    if !input.rules.audiences.contains(&decision.audience) {
        return refuse(
            RefusalCode::AudienceMismatch,
            format!("the artifact is meant for {}", decision.audience),
        );
    }
    let now_ms = input.now.wall_ms;
    if now_ms.saturating_add(CLOCK_LEEWAY_MS) < nbf_ms {
        return refuse(RefusalCode::NotYetValid, format!("valid from {nbf_ms} ms, now is {now_ms} ms"));
    }
    let expires_ms = exp_ms.saturating_add(CLOCK_LEEWAY_MS);
    if now_ms >= expires_ms {
        return refuse(RefusalCode::Expired, format!("valid until {exp_ms} ms, now is {now_ms} ms"));
    }
    let measured = input.measured;
    if decision.action != measured.action {
        let text = format!("the artifact permits {}, this door does {}", decision.action, measured.action);
        return refuse(RefusalCode::ActionMismatch, text);
    }
    if decision.arguments != measured.arguments {
        let text = format!("approved arguments {}, presented {}", decision.arguments, measured.arguments);
        return refuse(RefusalCode::ArgumentsMismatch, text);
    }
    if decision.workload != measured.workload {
        let text = format!("approved program {}, presented {}", decision.workload, measured.workload);
        return refuse(RefusalCode::WorkloadMismatch, text);
    }
    Ok(expires_ms)
}

fn check_revocation(snapshot: &Snapshot, decision: &Decision, artifact: LeafRef) -> Result<(), Refusal> {
    let lineage = &decision.lineage;
    let family = std::iter::once(&artifact).chain(&lineage.parents).chain(&lineage.root);
    let artifacts = family.map(|(index, leaf)| Subject::Artifact(*index, *leaf));
    let mut subjects = std::iter::once(Subject::Host(decision.host)).chain(artifacts);
    match subjects.find(|subject| snapshot.control().is_revoked(subject)) {
        None => Ok(()),
        Some(subject) => Err(Refusal::new(RefusalCode::Revoked, revoked(&subject, artifact))),
    }
}

fn revoked(subject: &Subject, artifact: LeafRef) -> String {
    match subject {
        Subject::Host(host) => format!("host {host} was revoked"),
        Subject::Artifact(index, leaf) if (*index, *leaf) == artifact => {
            "the artifact was revoked".to_owned()
        }
        Subject::Artifact(index, _) => format!("the ancestor with index {index} was revoked"),
        Subject::Principal(_) => "a principal was revoked".to_owned(),
    }
}
