//! What gateways did with artifacts. Their word, under their key, in the log (PROTOCOL §8.14).
//!
//! Comes in: outcomes of one gateway. Goes out: a leaf for each that can be true and is new. Refused: outcomes of leaves that aren't there, of
//! what isn't an artifact, of artifacts meant for others. Left out and counted: times that the artifact or the clock don't admit. Left out
//! without a word: what was reported before, since a gateway that got no answer reports again.

use super::artifacts::read_fault;
use super::problem::Refused;
use super::{Call, nothing};
use crate::sequence::{Append, CLOCK_TOLERANCE_MS, Entry, Outcome as Sequenced, Spend};
use crate::serve::Authority;
use crate::store::SpentId;
use axum::response::Response;
use countersign_core::api::{OutcomeDocument, OutcomesCall};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use countersign_core::tuple::tuple_digest;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// Most outcomes of one call, as many as a call has requests.
const MAX_OUTCOMES: usize = 256;
/// How long after an artifact's end its outcomes are taken, ms: a gateway that was cut off for a day still tells. As long is remembered what was
/// told.
const TAKEN_FOR_MS: u64 = 86_400_000;

/// One outcome that can be true.
struct Told {
    entry: Entry,
    /// Names gateway, artifact and whether it was started or refused: of each one leaf is enough.
    mark: Sha256Digest,
    expires_ms: u64,
}

/// `POST /v1/outcomes`.
pub(super) async fn record(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let gateway = call.caller.principal()?;
    let document: OutcomesCall = call.document()?;
    if document.outcomes.is_empty() || document.outcomes.len() > MAX_OUTCOMES {
        return Err(Refused::new(RefusalCode::Malformed, "a call has 1 to 256 outcomes"));
    }
    let outcomes = document.outcomes.iter().map(|outcome| parse(gateway, outcome));
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    let many = outcomes.len() as u64;
    if !authority.budgets().gateway_outcomes.take_many(gateway, many, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    let worker = Arc::clone(&authority);
    let mut told = authority.run(move || sift(&worker, gateway, &outcomes)).await?;
    // Each round leaves out what another call told meanwhile.
    while !told.is_empty() {
        let append = Append {
            spends: told
                .iter()
                .map(|one| Spend::Mark { digest: one.mark, expires_ms: one.expires_ms })
                .collect(),
            ..Append::of(told.iter().map(|one| one.entry.clone()).collect())
        };
        match authority.append(append).await? {
            Sequenced::Appended(_) => break,
            Sequenced::Spent(Spend::Mark { digest, .. }) => told.retain(|one| one.mark != digest),
            _ => return Err(RefusalCode::Internal.into()),
        }
    }
    Ok(nothing())
}

fn parse(gateway: Sha256Digest, outcome: &OutcomeDocument) -> Result<Outcome, Refused> {
    let malformed = |what: &'static str| Refused::new(RefusalCode::Malformed, what);
    let leaf = Sha256Digest::from_hex(&outcome.leaf).map_err(|_| malformed("leaf isn't a SHA-256 digest"))?;
    let refused = match &outcome.refused {
        Some(code) => Some(RefusalCode::parse(code).ok_or_else(|| malformed("refused isn't a known code"))?),
        None => None,
    };
    Ok(Outcome { gateway, artifact: (outcome.index, leaf), refused, time_ms: outcome.time_ms })
}

/// What of it can be true and is new. A call of which nothing can be true is refused; of another the rest is kept, so that one bad outcome
/// doesn't hold back what waits with it in a gateway's spool.
fn sift(authority: &Authority, gateway: Sha256Digest, outcomes: &[Outcome]) -> Result<Vec<Told>, Refused> {
    let control = authority.control();
    let name = control.principal(&gateway).ok_or(RefusalCode::Unauthenticated)?.name.clone();
    let (mut told, mut seen, mut unfounded) = (Vec::new(), HashSet::new(), None);
    let mut plausible = false;
    for outcome in outcomes {
        let leaf = authority.reader().leaf(outcome.artifact.0).map_err(read_fault)?;
        let audiences = authority.config().gateway_audiences(&name);
        match judge(outcome, leaf.as_deref(), audiences, authority.now_ms()) {
            Ok(expires_ms) => {
                plausible = true;
                let mark = mark(outcome);
                let spent = SpentId::Mark { expires_ms, digest: mark };
                if seen.insert(mark) && !authority.reader().is_spent(&spent).map_err(read_fault)? {
                    let entry = Entry::plain(Kind::Outcome, outcome.encode());
                    told.push(Told { entry, mark, expires_ms });
                }
            }
            Err(code) => {
                tracing::warn!(%gateway, index = outcome.artifact.0, code = code.as_str(), "outcome left out");
                authority.count_fault(code, 1);
                plausible |= code == RefusalCode::OutcomeImplausible;
                unfounded = unfounded.or(Some(code));
            }
        }
    }
    match unfounded {
        Some(code) if !plausible => Err(code.into()),
        _ => Ok(told),
    }
}

/// Whether this gateway can have seen that: until when it is worth telling, ms.
fn judge(
    outcome: &Outcome,
    leaf: Option<&[u8]>,
    audiences: Option<&BTreeSet<String>>,
    now_ms: u64,
) -> Result<u64, RefusalCode> {
    let bytes = leaf.filter(|bytes| leaf_hash(bytes) == outcome.artifact.1).ok_or(RefusalCode::NotFound)?;
    let leaf = Leaf::parse(bytes).map_err(|_| RefusalCode::NotFound)?;
    // A gateway also refuses what was shown to it as an artifact and is none.
    let ends_ms = match (allow(&leaf), outcome.refused) {
        (Some((decision, exp)), refused) => {
            // These are told before the audience is looked at, or because of it (PROTOCOL §13.2).
            let unlooked =
                [RefusalCode::ControlBehind, RefusalCode::OriginMismatch, RefusalCode::AudienceMismatch];
            let looked = refused.is_none_or(|code| !unlooked.contains(&code));
            let ours = audiences.is_none_or(|own| own.contains(decision.audience.as_str()));
            if looked && !ours {
                return Err(RefusalCode::AudienceMismatch);
            }
            exp.saturating_mul(1_000)
        }
        (None, Some(RefusalCode::NotAnAllow)) => leaf.time_ms,
        (None, _) => return Err(RefusalCode::NotAnAllow),
    };
    let started_late =
        outcome.refused.is_none() && outcome.time_ms > ends_ms.saturating_add(CLOCK_TOLERANCE_MS);
    let in_time = outcome.time_ms.saturating_add(CLOCK_TOLERANCE_MS) >= leaf.time_ms
        && outcome.time_ms <= now_ms.saturating_add(CLOCK_TOLERANCE_MS)
        && !started_late;
    let expires_ms = ends_ms.saturating_add(TAKEN_FOR_MS);
    if in_time && now_ms <= expires_ms { Ok(expires_ms) } else { Err(RefusalCode::OutcomeImplausible) }
}

/// The decision of an allow leaf and its end, seconds.
fn allow(leaf: &Leaf) -> Option<(Decision, u64)> {
    let decision = Decision::parse(&leaf.body).ok().filter(|_| leaf.kind == Kind::Allow)?;
    match decision.verdict {
        Verdict::Allow { exp, .. } => Some((decision, exp)),
        Verdict::Deny(_) => None,
    }
}

fn mark(outcome: &Outcome) -> Sha256Digest {
    let (index, leaf) = outcome.artifact;
    let kind = [u8::from(outcome.refused.is_some())];
    let fields: [&[u8]; 4] = [outcome.gateway.as_bytes(), &index.to_be_bytes(), leaf.as_bytes(), &kind];
    tuple_digest("countersign-v1:outcome-mark", &fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::tests::support::{Call, NOW, host};

    const EXP_MS: u64 = NOW + 60_000;

    fn leaf(allow: bool) -> Vec<u8> {
        let body = Call { allow, ..Call::new(host(1), "r") }.body();
        let kind = if allow { Kind::Allow } else { Kind::Deny };
        Leaf { kind, index: 7, time_ms: NOW, salt: [0; 16], body }.encode().unwrap()
    }

    fn outcome(bytes: &[u8], refused: Option<RefusalCode>, time_ms: u64) -> Outcome {
        Outcome { gateway: Sha256Digest::new([1; 32]), artifact: (7, leaf_hash(bytes)), refused, time_ms }
    }

    #[test]
    fn only_what_the_gateway_can_have_seen_is_taken() {
        let (allowed, denied) = (leaf(true), leaf(false));
        let later = EXP_MS + 5_000;
        let check = |bytes: &[u8], refused, time_ms, expect: Result<u64, RefusalCode>| {
            assert_eq!(judge(&outcome(bytes, refused, time_ms), Some(bytes), None, later), expect);
        };
        let taken = Ok(EXP_MS + TAKEN_FOR_MS);
        let implausible = Err(RefusalCode::OutcomeImplausible);
        check(&allowed, None, NOW, taken);
        check(&allowed, None, NOW - CLOCK_TOLERANCE_MS, taken);
        check(&allowed, None, NOW - CLOCK_TOLERANCE_MS - 1, implausible);
        check(&allowed, None, EXP_MS + CLOCK_TOLERANCE_MS, taken);
        check(&allowed, None, EXP_MS + CLOCK_TOLERANCE_MS + 1, implausible);
        check(&allowed, Some(RefusalCode::Expired), later + CLOCK_TOLERANCE_MS, taken);
        check(&allowed, Some(RefusalCode::Expired), later + CLOCK_TOLERANCE_MS + 1, implausible);
        check(&denied, None, NOW, Err(RefusalCode::NotAnAllow));
        check(&denied, Some(RefusalCode::NotAnAllow), NOW, Ok(NOW + TAKEN_FOR_MS));
        let absent = judge(&outcome(&allowed, None, NOW), None, None, later);
        assert_eq!(absent, Err(RefusalCode::NotFound));
        let other = judge(&outcome(&denied, None, NOW), Some(&allowed), None, later);
        assert_eq!(other, Err(RefusalCode::NotFound), "another leaf's hash");
        let late = judge(&outcome(&allowed, None, NOW), Some(&allowed), None, EXP_MS + TAKEN_FOR_MS + 1);
        assert_eq!(late, implausible);
    }

    #[test]
    fn an_artifact_for_others_was_not_started_here() {
        let bytes = leaf(true);
        let judged = |refused, own: &[&str]| {
            let own = own.iter().map(|audience| (*audience).to_owned()).collect();
            judge(&outcome(&bytes, refused, NOW), Some(&bytes), Some(&own), NOW).map(drop)
        };
        assert_eq!(judged(None, &["other", "gw"]), Ok(()));
        assert_eq!(judged(None, &["other"]), Err(RefusalCode::AudienceMismatch));
        assert_eq!(judged(Some(RefusalCode::Revoked), &[]), Err(RefusalCode::AudienceMismatch));
        assert_eq!(judged(Some(RefusalCode::AudienceMismatch), &["other"]), Ok(()));
    }

    #[test]
    fn a_mark_names_gateway_artifact_and_kind() {
        let bytes = leaf(true);
        let started = outcome(&bytes, None, NOW);
        assert_eq!(mark(&started), mark(&outcome(&bytes, None, NOW + 1)));
        let refused = |code| mark(&outcome(&bytes, Some(code), NOW));
        assert_eq!(refused(RefusalCode::Expired), refused(RefusalCode::Revoked));
        let other = Outcome { gateway: Sha256Digest::new([2; 32]), ..started };
        assert!(mark(&started) != refused(RefusalCode::Expired) && mark(&started) != mark(&other));
    }
}
