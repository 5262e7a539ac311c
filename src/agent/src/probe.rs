//! Probing the authority: does it refuse what it must? For operators who take nobody's word, and for conformance.

use countersign_core::api::AttestationCall;
use countersign_core::refusal::RefusalCode;

use crate::agent::{Agent, ExchangeError};
use crate::authority::{AuthorityApi, CallError};
use crate::evidence::Evidence;

/// What the authority made of a challenge that was used twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayProbe {
    /// The second use was refused, with this code.
    Refused(RefusalCode),
    /// The second use was taken: the authority isn't what it has to be.
    Taken,
}

impl<A: AuthorityApi> Agent<A> {
    /// Attests twice over one challenge, each time with a fresh quote (PROTOCOL §4.2).
    pub(crate) async fn probe_replay(&self) -> Result<ReplayProbe, ExchangeError> {
        let offer = self.api.challenge().await?;
        let origin = self.judge.bundle().origin().as_str();
        for again in [false, true] {
            let evidence = Evidence::collect(&self.tpm, self.logs.clone(), origin, &offer, &[]).await?;
            let mut call =
                AttestationCall { challenge: offer.challenge.clone(), evidence: evidence.document.clone() };
            let mut answer = self.api.attestation(&call).await;
            if let Some(full) = crate::agent::completed(&evidence, &answer) {
                call.evidence = full;
                answer = self.api.attestation(&call).await;
            }
            let code = match answer {
                Ok(answer) => answer.code.as_deref().and_then(RefusalCode::parse),
                Err(CallError::Refused { code, .. }) if again => Some(code),
                Err(error) => return Err(error.into()),
            };
            if again {
                return Ok(code.map_or(ReplayProbe::Taken, ReplayProbe::Refused));
            }
        }
        Ok(ReplayProbe::Taken)
    }
}
