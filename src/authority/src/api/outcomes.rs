//! What gateways did with artifacts. Their word, under their key, in the log.

use super::problem::Refused;
use super::{Call, nothing};
use crate::sequence::{Append, Entry, Outcome as Sequenced};
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::{OutcomeDocument, OutcomesCall};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::record::Outcome;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// Most outcomes of one call, as many as a call has requests.
const MAX_OUTCOMES: usize = 256;

/// `POST /v1/outcomes`.
pub(super) async fn record(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let gateway = call.caller.principal()?;
    let document: OutcomesCall = call.document()?;
    if document.outcomes.is_empty() || document.outcomes.len() > MAX_OUTCOMES {
        return Err(Refused::new(RefusalCode::Malformed, "a call has 1 to 256 outcomes"));
    }
    let entries = document.outcomes.iter().map(|outcome| entry(gateway, outcome));
    match authority.append(Append::of(entries.collect::<Result<_, _>>()?)).await? {
        Sequenced::Appended(_) => Ok(nothing()),
        _ => Err(RefusalCode::Internal.into()),
    }
}

fn entry(gateway: Sha256Digest, outcome: &OutcomeDocument) -> Result<Entry, Refused> {
    let malformed = |what: &'static str| Refused::new(RefusalCode::Malformed, what);
    let leaf = Sha256Digest::from_hex(&outcome.leaf).map_err(|_| malformed("leaf isn't a SHA-256 digest"))?;
    let refused = match &outcome.refused {
        Some(code) => Some(RefusalCode::parse(code).ok_or_else(|| malformed("refused isn't a known code"))?),
        None => None,
    };
    let body = Outcome { gateway, artifact: (outcome.index, leaf), refused, time_ms: outcome.time_ms };
    Ok(Entry::plain(Kind::Outcome, body.encode()))
}
