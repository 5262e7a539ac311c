//! Evidence without requests: keeps a host's trust alive, and gives operators something to capture references from (PROTOCOL §9.3).

use super::artifacts::{inconsistent, receipt_text};
use super::attempts::Attempts;
use super::evidence::{Heard, endorsed_now, guards, hear, kept, named, spend, stale_refusal};
use super::problem::Refused;
use super::{Call, json};
use crate::decide::{AttestationOutcome, Situation, decide_attestation};
use crate::sequence::{Append, Entry, Outcome, Pending, Spend};
use crate::serve::Authority;
use crate::serve::refusals::Refusal;
use crate::stale::Redecisions;
use crate::verify::Endorsed;
use axum::response::Response;
use countersign_core::api::{AttestationAnswer, AttestationCall};
use countersign_core::leaf::Kind;
use countersign_core::leaf::host::Tier;
use countersign_core::record::ChallengeStanding;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// `POST /v1/attestations`.
pub(super) async fn attest(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let attempts = Attempts::one(&authority);
    let answered = answer_call(&authority, call, &attempts).await;
    answered.map_err(|refused| attempts.refused(refused))
}

async fn answer_call(
    authority: &Arc<Authority>,
    call: Call,
    attempts: &Arc<Attempts>,
) -> Result<Response, Refused> {
    let caller = call.caller.host()?;
    authority.admission()?;
    let documents = authority.documents().await?;
    let (worker, account) = (Arc::clone(authority), Arc::clone(attempts));
    let (heard, mut drafted) = authority
        .run(move || {
            let document: AttestationCall = call.document()?;
            let challenge = document.challenge.0;
            let (heard, endorsed) =
                hear(&worker, &documents, caller, challenge, Vec::new(), document.evidence)?;
            let drafted = draft(&worker, &account, &heard, &endorsed, false)?;
            Ok((Arc::new(heard), drafted))
        })
        .await?;
    let mut replay = false;
    let mut redecisions = Redecisions::default();
    loop {
        let (outcome, pending) = drafted;
        let sequenced = authority.settled(pending).await?;
        if let Outcome::Appended(receipts) = sequenced {
            if let Some(code) = outcome.record.code {
                let refusal = Refusal::new(code, &outcome.detail, outcome.time_ms);
                authority.note_refusal(heard.host, refusal);
            }
            if outcome.challenge == ChallengeStanding::Fresh {
                authority.remember_blobs(&heard.members);
            }
            let leaf = receipts.leaves.first().ok_or(RefusalCode::Internal)?;
            return json(&answer(&outcome, receipt_text(leaf, &receipts.head)));
        }
        attempts.hold(1);
        match sequenced {
            Outcome::Stale => {}
            Outcome::ChallengeSpent => replay = true,
            Outcome::Spent(Spend::Mark { .. }) => return Err(stale_refusal(outcome.challenge).into()),
            Outcome::BlobsGone(gone) => return Err(authority.needs_again(gone)),
            Outcome::Appended(_) | Outcome::Existing(_) | Outcome::Spent(_) | Outcome::Refused(_) => {
                return Err(RefusalCode::Internal.into());
            }
        }
        redecisions.once_more()?;
        let (worker, heard, account) = (Arc::clone(authority), Arc::clone(&heard), Arc::clone(attempts));
        authority.documents().await?;
        let again = move || draft(&worker, &account, &heard, &endorsed_now(&worker, &heard)?, replay);
        drafted = authority.run(again).await?;
    }
}

fn draft(
    authority: &Authority,
    attempts: &Attempts,
    heard: &Heard,
    endorsed: &Endorsed,
    challenge_spent: bool,
) -> Result<(AttestationOutcome, Pending), Refused> {
    let documents = authority.documents_in_force()?;
    let situation = Situation {
        origin: authority.origin(),
        trust_domain: authority.trust_domain(),
        host: endorsed,
        judged: heard.call.judged(),
        challenge_spent,
        control: documents.control(),
        policy: documents.policy(),
        references: documents.references(),
        time_ms: authority.decision_time_ms(),
    };
    let outcome = decide_attestation(&situation).map_err(inconsistent)?;
    let ima = outcome.ima.iter().map(|(digest, bytes)| (*digest, Arc::from(bytes.as_slice())));
    let append = Append {
        guards: guards(&situation),
        spends: vec![spend(heard, outcome.challenge)],
        blobs: kept(heard, outcome.challenge).chain(ima).collect(),
        named: named(heard, outcome.challenge),
        entries: vec![Entry::plain(Kind::HostState, outcome.body.clone())],
    };
    // From here on the sequencer accounts for it.
    attempts.hold(0);
    Ok((outcome, authority.submit(append)?))
}

fn answer(outcome: &AttestationOutcome, receipt: String) -> AttestationAnswer {
    let tier: Tier = outcome.appraisal.tier;
    AttestationAnswer {
        tier: tier.name().to_owned(),
        code: outcome.record.code.map(|code| code.as_str().to_owned()),
        detail: outcome.record.code.map(|code| code.meaning().to_owned()),
        trusted_until_ms: outcome.record.state.trusted_until_ms,
        receipt,
    }
}
