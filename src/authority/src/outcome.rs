//! Whether a gateway can have seen what it tells of an artifact (PROTOCOL §8.14). Pure; the API asks it before an outcome is appended, an
//! audit of every outcome that was.
//!
//! Comes in: an outcome, the leaf that it names as it is in the log, and when it was told. Goes out: the decision that it is about. Refused:
//! what is about no leaf, another leaf, no artifact, an artifact for others, or a time that artifact and clock don't admit.

use crate::sequence::CLOCK_TOLERANCE_MS;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use countersign_core::tuple::tuple_digest;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// How long after an artifact's end its outcomes are taken, ms: a gateway that was cut off for a day still tells. As long is remembered what was
/// told.
pub const TAKEN_FOR_MS: u64 = 86_400_000;

/// Why an outcome can't be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unfounded {
    /// No leaf of this index and hash.
    #[error("it names a leaf that isn't there")]
    NoSuchLeaf,
    /// Something that isn't an artifact was started, or refused for another reason than that.
    #[error("the leaf that it names isn't an allow")]
    NotAnAllow,
    /// The gateway doesn't stand for the artifact's audience.
    #[error("the artifact is for another audience")]
    Audience,
    /// Before the artifact existed.
    #[error("its time is before the artifact's")]
    BeforeArtifact,
    /// Started after the artifact's end.
    #[error("started after the artifact's end")]
    AfterEnd,
    /// Later than the moment at which it was told.
    #[error("its time is after the moment at which it was told")]
    FromFuture,
    /// Told when nobody listened any more.
    #[error("told more than a day after the artifact's end")]
    TooLate,
}

impl Unfounded {
    /// What the gateway is told.
    #[must_use]
    pub const fn code(self) -> RefusalCode {
        match self {
            Self::NoSuchLeaf => RefusalCode::NotFound,
            Self::NotAnAllow => RefusalCode::NotAnAllow,
            Self::Audience => RefusalCode::AudienceMismatch,
            Self::BeforeArtifact | Self::AfterEnd | Self::FromFuture | Self::TooLate => {
                RefusalCode::OutcomeImplausible
            }
        }
    }
}

/// An outcome that can be true.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The decision, if the leaf is an allow.
    pub decision: Option<Decision>,
    /// When the artifact ends, ms; of what isn't an artifact, when it was decided.
    pub ends_ms: u64,
    /// Until when it is worth telling, ms.
    pub expires_ms: u64,
}

/// Judges an outcome. `leaf` is the leaf at the index that the outcome names, `audiences` those of the gateway where they are known, `told` the
/// time at which the authority heard of it, as exactly as the caller knows it.
///
/// # Errors
/// [`Unfounded`], the first reason.
pub fn judge(
    outcome: &Outcome,
    leaf: Option<&[u8]>,
    audiences: Option<&BTreeSet<String>>,
    told: &RangeInclusive<u64>,
) -> Result<Founded, Unfounded> {
    let bytes = leaf.filter(|bytes| leaf_hash(bytes) == outcome.artifact.1).ok_or(Unfounded::NoSuchLeaf)?;
    let leaf = Leaf::parse(bytes).map_err(|_| Unfounded::NoSuchLeaf)?;
    // A gateway also refuses what was shown to it as an artifact and is none.
    let (decision, ends_ms) = match (allow(&leaf), outcome.refused) {
        (Some((decision, exp)), refused) => {
            // These are told before the audience is looked at, or because of it (PROTOCOL §13.2).
            let unlooked =
                [RefusalCode::ControlBehind, RefusalCode::OriginMismatch, RefusalCode::AudienceMismatch];
            let looked = refused.is_none_or(|code| !unlooked.contains(&code));
            let ours = audiences.is_none_or(|own| own.contains(decision.audience.as_str()));
            if looked && !ours {
                return Err(Unfounded::Audience);
            }
            (Some(decision), exp.saturating_mul(1_000))
        }
        (None, Some(RefusalCode::NotAnAllow)) => (None, leaf.time_ms),
        (None, _) => return Err(Unfounded::NotAnAllow),
    };
    if outcome.time_ms.saturating_add(CLOCK_TOLERANCE_MS) < leaf.time_ms {
        return Err(Unfounded::BeforeArtifact);
    }
    if outcome.time_ms > told.end().saturating_add(CLOCK_TOLERANCE_MS) {
        return Err(Unfounded::FromFuture);
    }
    if outcome.refused.is_none() && outcome.time_ms > ends_ms.saturating_add(CLOCK_TOLERANCE_MS) {
        return Err(Unfounded::AfterEnd);
    }
    let expires_ms = ends_ms.saturating_add(TAKEN_FOR_MS);
    if *told.start() > expires_ms {
        return Err(Unfounded::TooLate);
    }
    Ok(Founded { decision, ends_ms, expires_ms })
}

/// The decision of an allow leaf and its end, seconds.
#[must_use]
pub fn allow(leaf: &Leaf) -> Option<(Decision, u64)> {
    let decision = Decision::parse(&leaf.body).ok().filter(|_| leaf.kind == Kind::Allow)?;
    match decision.verdict {
        Verdict::Allow { exp, .. } => Some((decision, exp)),
        Verdict::Deny(_) => None,
    }
}

/// Names gateway, artifact and whether it was started or refused: of each one leaf is enough.
#[must_use]
pub fn mark(outcome: &Outcome) -> Sha256Digest {
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

    fn judged(one: &Outcome, leaf: Option<&[u8]>, told_ms: u64) -> Result<u64, Unfounded> {
        judge(one, leaf, None, &(told_ms..=told_ms)).map(|founded| founded.expires_ms)
    }

    #[test]
    fn only_what_the_gateway_can_have_seen_is_taken() {
        let (allowed, denied) = (leaf(true), leaf(false));
        let later = EXP_MS + 5_000;
        let check = |bytes: &[u8], refused, time_ms, expect: Result<u64, Unfounded>| {
            assert_eq!(judged(&outcome(bytes, refused, time_ms), Some(bytes), later), expect);
        };
        let taken = Ok(EXP_MS + TAKEN_FOR_MS);
        check(&allowed, None, NOW, taken);
        check(&allowed, None, NOW - CLOCK_TOLERANCE_MS, taken);
        check(&allowed, None, NOW - CLOCK_TOLERANCE_MS - 1, Err(Unfounded::BeforeArtifact));
        check(&allowed, None, EXP_MS + CLOCK_TOLERANCE_MS, taken);
        check(&allowed, None, EXP_MS + CLOCK_TOLERANCE_MS + 1, Err(Unfounded::AfterEnd));
        check(&allowed, Some(RefusalCode::Expired), later + CLOCK_TOLERANCE_MS, taken);
        let early = Err(Unfounded::FromFuture);
        check(&allowed, Some(RefusalCode::Expired), later + CLOCK_TOLERANCE_MS + 1, early);
        check(&denied, None, NOW, Err(Unfounded::NotAnAllow));
        check(&denied, Some(RefusalCode::NotAnAllow), NOW, Ok(NOW + TAKEN_FOR_MS));
        let absent = judged(&outcome(&allowed, None, NOW), None, later);
        assert_eq!(absent, Err(Unfounded::NoSuchLeaf));
        let other = judged(&outcome(&denied, None, NOW), Some(&allowed), later);
        assert_eq!(other, Err(Unfounded::NoSuchLeaf), "another leaf's hash");
        let late = judged(&outcome(&allowed, None, NOW), Some(&allowed), EXP_MS + TAKEN_FOR_MS + 1);
        assert_eq!(late, Err(Unfounded::TooLate));
    }

    #[test]
    fn every_reason_has_the_code_that_gateways_know() {
        let times =
            [Unfounded::BeforeArtifact, Unfounded::AfterEnd, Unfounded::FromFuture, Unfounded::TooLate];
        assert!(times.iter().all(|reason| reason.code() == RefusalCode::OutcomeImplausible));
        assert_eq!(Unfounded::NoSuchLeaf.code(), RefusalCode::NotFound);
        assert_eq!(Unfounded::NotAnAllow.code(), RefusalCode::NotAnAllow);
        assert_eq!(Unfounded::Audience.code(), RefusalCode::AudienceMismatch);
    }

    #[test]
    fn an_artifact_for_others_was_not_started_here() {
        let bytes = leaf(true);
        let judged = |refused, own: &[&str]| {
            let own = own.iter().map(|audience| (*audience).to_owned()).collect();
            judge(&outcome(&bytes, refused, NOW), Some(&bytes), Some(&own), &(NOW..=NOW)).map(drop)
        };
        assert_eq!(judged(None, &["other", "gw"]), Ok(()));
        assert_eq!(judged(None, &["other"]), Err(Unfounded::Audience));
        assert_eq!(judged(Some(RefusalCode::Revoked), &[]), Err(Unfounded::Audience));
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
