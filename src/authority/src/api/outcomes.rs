//! What gateways did with artifacts. Their word, under their key, in the log (PROTOCOL §8.14).
//!
//! Comes in: outcomes of one gateway. Goes out: a leaf for each that can be true and is new. Refused: outcomes of leaves that aren't there, of
//! what isn't an artifact, of artifacts meant for others. Left out and counted: times that the artifact or the clock don't admit. Left out
//! without a word: what was reported before, since a gateway that got no answer reports again.

use super::artifacts::read_fault;
use super::problem::Refused;
use super::{Call, nothing};
use crate::outcome::{Founded, judge, mark};
use crate::sequence::{Append, Entry, Outcome as Sequenced, Spend};
use crate::serve::Authority;
use crate::store::SpentId;
use axum::response::Response;
use countersign_core::api::{OutcomeDocument, OutcomesCall};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::record::Outcome;
use countersign_core::refusal::RefusalCode;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Most outcomes of one call, as many as a call has requests.
const MAX_OUTCOMES: usize = 256;

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
        let now_ms = authority.now_ms();
        match judge(outcome, leaf.as_deref(), audiences, &(now_ms..=now_ms)) {
            Ok(Founded { expires_ms, .. }) => {
                plausible = true;
                let mark = mark(outcome);
                let spent = SpentId::Mark { expires_ms, digest: mark };
                if seen.insert(mark) && !authority.reader().is_spent(&spent).map_err(read_fault)? {
                    let entry = Entry::plain(Kind::Outcome, outcome.encode());
                    told.push(Told { entry, mark, expires_ms });
                }
            }
            Err(reason) => {
                let code = reason.code();
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
