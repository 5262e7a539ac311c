//! The decision function: pure, the same bytes for the same inputs, on any machine and at any time (PROTOCOL §7, §9.4).
//!
//! Comes in: a proven request, judged evidence, the host's prior state, control state, policy, references, parents, the decision time; all
//! borrowed, all arguments. Goes out: an [`Outcome`] with the body of an allow or deny leaf, the inputs record that the body names, what is
//! charged to parents. Never read here: a clock, entropy, a global, a file. Refused, as [`Inconsistent`]: inputs that don't belong together,
//! from which no decision may follow at all.
//!
//! The checks stand in one function in the order of PROTOCOL §9.4; the first that fails names the code. Only evidence without a finding can
//! pass, since the facts exist nowhere else than inside such evidence.

mod assess;
mod body;
mod lineage;
mod state;

pub use lineage::{Family, MAX_ANCESTORS};

use crate::appraise::{References, secure_boot_fact, unappraised};
use crate::policy::{self, CompiledPolicy, ImaFacts, PolicyFacts};
use crate::verify::{Endorsed, Finding, Judged};
use assess::Assessment;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::Kind;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Verdict, WrittenDecision};
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::leaf::host_state::{Basis, HostStateRecord};
use countersign_core::name::{Origin, TrustDomain};
use countersign_core::record::{ChallengeStanding, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;
use state::Good;

/// Version of this function; stands in every body. It changes with every change that could change a body.
pub const ENGINE: &str = "countersign-decision-5";

/// Claims that rest on the host's word alone: which process asked, and what it says it runs.
pub const ASSERTED: [&str; 2] = ["runtime", "workload"];

/// What all requests of a call share.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Name of the log.
    pub origin: &'a Origin,
    /// Trust domain of runtimes.
    pub trust_domain: &'a TrustDomain,
    /// The host, its endorsement, its prior state.
    pub host: &'a Endorsed,
    /// The evidence.
    pub judged: &'a Judged,
    /// Whether the challenge was spent by an earlier call.
    pub challenge_spent: bool,
    /// Control state that was read.
    pub control: &'a ControlState,
    /// The policy that the control state names.
    pub policy: Option<&'a CompiledPolicy>,
    /// The references that the control state names.
    pub references: Option<&'a References>,
    /// Decision time, ms since the Unix epoch.
    pub time_ms: u64,
}

/// Everything that one decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What all requests of the call share.
    pub situation: Situation<'a>,
    /// The request.
    pub request: &'a SignedRequest,
    /// Its parents and their ancestors.
    pub family: &'a Family,
    /// Whether the request identifier was used before with another digest.
    pub request_id_reused: bool,
}

/// Inputs that don't belong together. Not a decision: the caller reads them again, or verifies again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// The evidence was judged under other settings than those in force: verify again.
    #[error("the settings moved since the evidence was judged")]
    Settings,
    /// The evidence is of another host or another AK.
    #[error("the evidence isn't of this host and AK")]
    Host,
    /// Policy or references aren't those that the control state names.
    #[error("policy or references aren't those of the control state")]
    Documents,
    /// The quote doesn't cover the request.
    #[error("the evidence doesn't cover the request")]
    Request,
    /// The family isn't that of the request's parents.
    #[error("the family isn't the request's")]
    Family,
}

/// A decision, and what has to happen with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The decision with the leaf's body; its `host_state` is the state after it.
    pub decision: WrittenDecision,
    /// What the decision depended on.
    pub inputs: InputsRecord,
    /// The inputs record's bytes: a blob named by the body.
    pub inputs_bytes: Vec<u8>,
    /// Parent index and amount, for allows with parents.
    pub charges: Vec<(u64, u64)>,
    /// The state of the IMA appraisal that the host's state names, if this evidence moved it: a blob.
    pub ima: Option<(Sha256Digest, Vec<u8>)>,
    /// For operators: more than the code. Never in a leaf or an answer.
    pub detail: String,
}

impl Outcome {
    /// The decision's claims.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        self.decision.decision()
    }

    /// The leaf's body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.decision.bytes()
    }

    /// The leaf's kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.decision().verdict {
            Verdict::Allow { .. } => Kind::Allow,
            Verdict::Deny(_) => Kind::Deny,
        }
    }

    /// The host after the decision.
    #[must_use]
    pub const fn state_after(&self) -> &HostState {
        &self.decision().host_state
    }

    /// Why the call's evidence isn't good enough for any request, if it isn't; `None` also where a request alone was refused.
    #[must_use]
    pub fn evidence_refused(&self) -> Option<RefusalCode> {
        let decision = self.decision();
        let Verdict::Deny(code) = decision.verdict else { return None };
        let appraised =
            !decision.appraisal.vector.is_empty() && decision.appraisal.tier != Tier::Contraindicated;
        (!appraised && code != RefusalCode::RequestIdReused).then_some(code)
    }

    /// Whether the call spends its challenge with this outcome.
    #[must_use]
    pub fn spends_challenge(&self) -> bool {
        self.inputs.challenge == ChallengeStanding::Fresh
    }
}

/// What an attestation without requests leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationOutcome {
    /// The body of a host-state leaf.
    pub record: HostStateRecord,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Challenge standing: spent with this outcome only if fresh.
    pub challenge: ChallengeStanding,
    /// The attestation result.
    pub appraisal: Appraisal,
    /// Decision time, ms since the Unix epoch.
    pub time_ms: u64,
    /// The state of the IMA appraisal that the host's state names, if this evidence moved it: a blob.
    pub ima: Option<(Sha256Digest, Vec<u8>)>,
    /// For operators: more than the code. Never in a leaf or an answer.
    pub detail: String,
}

/// What the checks have found out by the time that one of them fails, or none.
struct Progress {
    appraisal: Appraisal,
    determining: Vec<String>,
}

/// Decides one request.
pub fn decide(inputs: &Inputs<'_>) -> Result<Outcome, Inconsistent> {
    let situation = &inputs.situation;
    situation.require_consistent()?;
    if !situation.judged.record().requests.contains(inputs.request.digest()) {
        return Err(Inconsistent::Request);
    }
    if !inputs.family.is_of(&inputs.request.request().parents) {
        return Err(Inconsistent::Family);
    }
    let assessment = Assessment::of(situation);
    let mut progress = Progress { appraisal: unappraised(), determining: Vec::new() };
    let verdict = checks(inputs, &assessment, &mut progress);
    Ok(body::outcome(inputs, &assessment, progress, verdict))
}

/// Judges an attestation without requests (PROTOCOL §9.3).
pub fn decide_attestation(situation: &Situation<'_>) -> Result<AttestationOutcome, Inconsistent> {
    situation.require_consistent()?;
    if !situation.judged.record().requests.is_empty() {
        return Err(Inconsistent::Request);
    }
    let assessment = Assessment::of(situation);
    let verdict = challenge_refusal(assessment.standing)
        .and_then(|()| host_refusal(situation))
        .and_then(|()| assessment.good.as_ref().map_err(Clone::clone))
        .and_then(|good| reference_refusal(&good.appraisal));
    let code = verdict.as_ref().err().map(Finding::code);
    let appraised = matches!(code, None | Some(RefusalCode::ReferenceMismatch));
    let appraisal = match &assessment.good {
        Ok(good) if appraised => good.appraisal.clone(),
        _ => unappraised(),
    };
    let basis = Basis {
        appraisal: appraisal.clone(),
        policy: situation.control.policy().copied(),
        references: situation.control.references().copied(),
        engine: ENGINE.to_owned(),
        time_ms: situation.time_ms,
        control: situation.control.number(),
    };
    let record = HostStateRecord {
        host: situation.host.host,
        state: assessment.state_after,
        evidence: *situation.judged.record_digest(),
        code,
        basis: Some(basis),
    };
    Ok(AttestationOutcome {
        body: record.encode(),
        record,
        ima: assessment.kept(),
        challenge: assessment.standing,
        appraisal,
        time_ms: situation.time_ms,
        detail: verdict.err().map(|finding| finding.detail().to_owned()).unwrap_or_default(),
    })
}

/// The order of PROTOCOL §9.4 from the challenge's standing on. What passes gets a lifetime: `exp`, seconds.
fn checks(inputs: &Inputs<'_>, assessment: &Assessment<'_>, progress: &mut Progress) -> Result<u64, Finding> {
    let situation = &inputs.situation;
    challenge_refusal(assessment.standing)?;
    if inputs.request_id_reused {
        return Err(Finding::new(RefusalCode::RequestIdReused, "the identifier names other bytes already"));
    }
    host_refusal(situation)?;
    // Qualifying data, selection, PCR digest, zeroed PCRs; counters; boot log, IMA list: assessed in this order.
    let good = assessment.good.as_ref().map_err(Clone::clone)?;
    progress.appraisal = good.appraisal.clone();
    reference_refusal(&good.appraisal)?;
    let policy =
        situation.policy.ok_or_else(|| Finding::new(RefusalCode::PolicyAbsent, "no policy is active"))?;
    progress.determining = permitted(inputs, good, policy).map_err(|(finding, determining)| {
        progress.determining = determining;
        finding
    })?;
    inputs.family.narrow(inputs.request, situation.control, situation.time_ms)?;
    Ok(expiry(inputs, policy.settings(), &assessment.state_after))
}

/// PROTOCOL §4.2.
fn challenge_refusal(standing: ChallengeStanding) -> Result<(), Finding> {
    match standing {
        ChallengeStanding::Fresh => Ok(()),
        ChallengeStanding::Expired => {
            Err(Finding::new(RefusalCode::ChallengeExpired, "decided after the challenge's end"))
        }
        ChallengeStanding::Spent => {
            Err(Finding::new(RefusalCode::ChallengeSpent, "an earlier call spent it"))
        }
    }
}

fn host_refusal(situation: &Situation<'_>) -> Result<(), Finding> {
    if situation.control.is_revoked(&Subject::Host(situation.host.host)) {
        return Err(Finding::new(RefusalCode::HostRevoked, "the host is revoked"));
    }
    Ok(())
}

fn reference_refusal(appraisal: &Appraisal) -> Result<(), Finding> {
    if appraisal.tier == Tier::Contraindicated {
        return Err(Finding::new(
            RefusalCode::ReferenceMismatch,
            "no generation of an active reference set matches",
        ));
    }
    Ok(())
}

fn permitted(
    inputs: &Inputs<'_>,
    good: &Good<'_>,
    policy: &CompiledPolicy,
) -> Result<Vec<String>, (Finding, Vec<String>)> {
    let asserted = ASSERTED.map(str::to_owned);
    let root = inputs.family.root();
    let host = inputs.situation.host;
    let ima = ima_facts(&inputs.situation, good);
    let verdict = policy.evaluate(&PolicyFacts {
        request: inputs.request.request(),
        appraisal: &good.appraisal,
        secure_boot: secure_boot_fact(good.boot.facts().secure_boot),
        boot: good.boot,
        firmware_version: good.quoted.quote.firmware_version(),
        clock: good.quoted.quote.clock(),
        host_key_kind: host.host_key_kind,
        endorsement: &host.endorsement,
        asserted: &asserted,
        depth: inputs.family.depth(),
        root: root.as_ref().map(|(_, leaf_hash)| leaf_hash),
        ima: ima.as_ref(),
    });
    let refused =
        |code, ids: Vec<String>| (Finding::new(code, format!("policies: [{}]", ids.join(", "))), ids);
    match verdict {
        policy::Verdict::Permitted(determining) => Ok(determining),
        policy::Verdict::Denied(determining) => Err(refused(RefusalCode::PolicyDenied, determining)),
        policy::Verdict::Failed(failed) => Err(refused(RefusalCode::PolicyError, failed)),
    }
}

fn ima_facts<'a>(situation: &Situation<'a>, good: &'a Good<'_>) -> Option<ImaFacts<'a>> {
    let appraised = good.ima.as_deref()?;
    let policy = situation.references.and_then(References::ima)?;
    let excludes = appraised.state().used_excludes().filter_map(|number| policy.excludes().get(number));
    Some(ImaFacts { appraised, excludes: excludes.map(ToString::to_string).collect() })
}

/// PROTOCOL §7.1: the smallest of what was asked, what the settings grant, what is left of every parent and of the host's trust. Every term
/// is at least a second: parents that expired were refused, and trust was renewed by this very evidence.
fn expiry(inputs: &Inputs<'_>, settings: &Settings, state: &HostState) -> u64 {
    let nbf = inputs.situation.time_ms / 1_000;
    let asked = nbf.saturating_add(inputs.request.request().ttl_secs);
    let granted = nbf.saturating_add(settings.max_ttl_secs);
    let trusted = state.trusted_until_ms / 1_000;
    inputs.family.expiries().chain([asked, granted, trusted]).min().unwrap_or(nbf)
}

#[cfg(test)]
mod ima_tests;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
