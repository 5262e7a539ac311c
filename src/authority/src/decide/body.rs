//! The bytes of a decision: claims of the body, and the inputs record that it names (PROTOCOL §7.1, §7.2).

use super::assess::Assessment;
use super::{ASSERTED, ENGINE, Inputs, Outcome, Progress};
use crate::verify::Finding;
use countersign_core::digest::sha256;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, PolicyClaim, Verdict};
use countersign_core::record::InputsRecord;
use std::collections::BTreeSet;

pub(super) fn outcome(
    inputs: &Inputs<'_>,
    assessment: &Assessment<'_>,
    progress: Progress,
    verdict: Result<u64, Finding>,
) -> Outcome {
    let situation = &inputs.situation;
    let request = inputs.request.request();
    let record = inputs_record(inputs, assessment);
    let inputs_bytes = record.encode();
    let nbf = situation.time_ms / 1_000;
    let allowed = verdict.is_ok();
    let decision = Decision {
        issuer: situation.origin.clone(),
        runtime: request.runtime.clone(),
        audience: request.audience.clone(),
        issued_at: nbf,
        request_id: request.id.clone(),
        holder: request.holder.clone(),
        host: situation.host.host,
        verdict: match &verdict {
            Ok(exp) => Verdict::Allow { nbf, exp: *exp },
            Err(finding) => Verdict::Deny(finding.code()),
        },
        request: *inputs.request.digest(),
        workload: request.workload,
        action: request.action.clone(),
        arguments: request.arguments,
        lineage: inputs.family.lineage(),
        // PROTOCOL §7.1: when granted.
        delegation: request.delegation.clone().filter(|_| allowed),
        policy: situation.policy.map(|policy| PolicyClaim {
            digest: *policy.digest(),
            epoch: situation.control.epoch(),
            determining: progress.determining,
        }),
        evidence: *situation.judged.record_digest(),
        appraisal: progress.appraisal,
        host_state: assessment.state_after,
        inputs: sha256(&inputs_bytes),
        asserted: ASSERTED.map(str::to_owned).to_vec(),
        engine: ENGINE.to_owned(),
        control: situation.control.number(),
    };
    Outcome {
        decision: decision.into(),
        inputs: record,
        inputs_bytes,
        charges: if allowed { inputs.family.charges(request) } else { Vec::new() },
        ima: assessment.kept(),
        detail: verdict.err().map(|finding| finding.detail().to_owned()).unwrap_or_default(),
    }
}

fn inputs_record(inputs: &Inputs<'_>, assessment: &Assessment<'_>) -> InputsRecord {
    let situation = &inputs.situation;
    let own = Subject::Host(situation.host.host);
    let revoked: BTreeSet<Subject> = (inputs.family.revoked(situation.control).copied())
        .chain(Some(own).filter(|own| situation.control.is_revoked(own)))
        .collect();
    InputsRecord {
        engine: ENGINE.to_owned(),
        request: *inputs.request.digest(),
        holder_signature: inputs.request.signature().to_vec(),
        evidence: *situation.judged.record_digest(),
        challenge: assessment.standing,
        enrolment: situation.host.enrolment,
        prior: situation.host.prior,
        policy: situation.policy.map(|policy| *policy.digest()),
        epoch: situation.control.epoch(),
        references: situation.references.map(|references| *references.digest()),
        parents: inputs.family.budgets(),
        control: (situation.control.number(), *situation.control.digest()),
        time_ms: situation.time_ms,
        request_id_reused: inputs.request_id_reused,
        revoked: revoked.into_iter().collect(),
        trust_domain: situation.trust_domain.clone(),
        consents: inputs.request.consents().to_vec(),
    }
}
