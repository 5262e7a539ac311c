//! Challenges: minted without a write, for the calling host only.

use super::problem::Refused;
use super::{Call, json};
use crate::appraise::References;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::{B64, ChallengeOffer};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// `POST /v1/challenges`.
pub(super) async fn mint(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (host, _) = call.caller.host()?;
    let documents = authority.documents().await?;
    let settings = documents.settings();
    let head = *authority.signed_head()?.digest();
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Refused::from(RefusalCode::Internal))?;
    let ima_entries = match documents.references().and_then(References::ima) {
        Some(_) => {
            let worker = Arc::clone(&authority);
            authority.run(move || worker.ima_entries(&host)).await?
        }
        None => None,
    };
    let minted = authority.mint_challenge(host, head, random)?;
    json(&ChallengeOffer {
        challenge: B64(minted.challenge),
        expires_ms: minted.expires_ms,
        bank: settings.bank,
        pcrs: settings.pcrs,
        ima_entries,
    })
}
