//! The loop that keeps the host trusted between requests (PROTOCOL §9.3).
//!
//! A host is trusted until a deadline. The loop attests at the start and then after a third of what the trust lasts, so two tries may fail before
//! it runs out. A refusal of the evidence isn't an end: the next boot or the next policy may be a better one.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::leaf::host_state::HostStateRecord;

use crate::agent::{Agent, now_ms};
use crate::authority::AuthorityApi;
use crate::backoff::{Backoff, jitter};
use crate::refused::Refused;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// When the answer tells no trust to take a third of: a third of the 300 s that hold without a policy (PROTOCOL §8.1).
const INTERVAL_UNTRUSTED: Duration = Duration::from_secs(100);
/// Bounds of the derived interval: neither a busy loop nor so long that a revoked trust goes unnoticed.
const INTERVAL_LEAST: Duration = Duration::from_secs(5);
const INTERVAL_MOST: Duration = Duration::from_secs(600);

/// Attests for ever.
pub(crate) async fn attest<A: AuthorityApi>(agent: Arc<Agent<A>>, configured: Option<Duration>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        let (result, asked) = match attest_once(&agent).await {
            Ok(interval) => (Ok(interval), None),
            Err((refused, asked)) => (Err(refused), asked),
        };
        let wait = match result {
            Ok(derived) => {
                backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
                let interval = configured.unwrap_or(derived);
                // A tenth of spread, earlier only: hosts that started together drift apart.
                interval - jitter(interval / 10)
            }
            Err(refused) => {
                tracing::warn!(code = refused.code.as_str(), detail = refused.detail, "not attested");
                agent.note(|status| status.attestation_fault = Some(refused.code.as_str().to_owned()));
                backoff.step(asked)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

type Failed = (Refused, Option<Duration>);

/// One attestation. Answers after how long the next is due.
async fn attest_once<A: AuthorityApi>(agent: &Agent<A>) -> Result<Duration, Failed> {
    let answer = agent.attest().await.map_err(|error| {
        let asked = error.retry_after();
        (Refused::from(error), asked)
    })?;
    let judged = agent.judge.host_state(&agent.api, &answer.receipt, &agent.identity.host).await;
    let (leaf, record) = judged.map_err(|error| (Refused::from(error), None))?;
    let state = &record.state;
    agent.note(|status| {
        status.attested_ms = Some(now_ms());
        status.attestation_fault = None;
        status.attestation_code = record.code.map(|code| code.as_str().to_owned());
        status.tier = Some(state.tier.number());
        status.trusted_until_ms = Some(state.trusted_until_ms);
    });
    match record.code {
        None => tracing::info!(index = leaf.index, trusted_until_ms = state.trusted_until_ms, "attested"),
        Some(code) => {
            tracing::warn!(
                index = leaf.index,
                code = code.as_str(),
                "the authority refuses this host's evidence"
            );
        }
    }
    Ok(interval(leaf.time_ms, &record))
}

/// A third of the trust that this very attestation gave, by the authority's clock alone.
fn interval(leaf_ms: u64, record: &HostStateRecord) -> Duration {
    let trust = Duration::from_millis(record.state.trusted_until_ms.saturating_sub(leaf_ms));
    if record.code.is_some() || trust.is_zero() {
        return INTERVAL_UNTRUSTED;
    }
    (trust / 3).clamp(INTERVAL_LEAST, INTERVAL_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::digest::Sha256Digest;
    use countersign_core::leaf::host::HostState;
    use countersign_core::name::HostId;
    use countersign_core::refusal::RefusalCode;

    #[test]
    fn the_next_attestation_is_due_after_a_third_of_the_trust() {
        let mut id = [0; 33];
        id[0] = 1;
        let record = |until, code| HostStateRecord {
            host: HostId::from_slice(&id).unwrap(),
            state: HostState {
                version: 1,
                reset_count: 0,
                restart_count: 0,
                clock_ms: 0,
                firmware_version: 0,
                boot_log: None,
                ima: None,
                pcr_digest: None,
                trusted_until_ms: until,
                tier: countersign_core::leaf::host::Tier::None,
                evidence: None,
            },
            evidence: Sha256Digest::ZERO,
            code,
            basis: None,
        };
        let secs = |leaf, until, code| interval(leaf, &record(until, code)).as_secs();
        assert_eq!(secs(1_000, 301_000, None), 100);
        assert_eq!(secs(1_000, 2_000, None), 5);
        assert_eq!(secs(0, 86_400_000, None), 600);
        assert_eq!(secs(301_000, 1_000, None), 100);
        assert_eq!(secs(1_000, 31_000, Some(RefusalCode::ReferenceMismatch)), 100);
    }
}
