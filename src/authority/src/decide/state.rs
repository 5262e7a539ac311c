//! Host state: counters that must not run backwards, and the state after evidence (PROTOCOL §8.4).

use super::Situation;
use crate::challenge::CHALLENGE_LIFETIME_MS;
use crate::verify::{Finding, Quoted};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::refusal::RefusalCode;
use countersign_tpm::attest::ClockInfo;
use countersign_tpm::eventlog::VerifiedBootLog;
use countersign_tpm::ima::appraise::Appraised;
use std::sync::Arc;

/// Evidence that holds: the only source of facts for policy and artifact.
pub(super) struct Good<'a> {
    pub(super) quoted: &'a Quoted,
    pub(super) boot: &'a VerifiedBootLog,
    pub(super) appraisal: Appraisal,
    /// What the IMA list shows; `None` only if no IMA policy is in force.
    pub(super) ima: Option<Arc<Appraised>>,
}

/// Refuses a quote from before what was already seen (PROTOCOL §8.4; TPM 2.0 Part 1, 36).
pub(super) fn check_counters(prior: &HostState, clock: &ClockInfo) -> Result<(), Finding> {
    let seen = (prior.reset_count, prior.restart_count);
    let quoted = (clock.reset_count, clock.restart_count);
    // restartCount starts again with each reset, so the pair is ordered, not each number.
    if quoted < seen {
        return Err(Finding::new(
            RefusalCode::QuoteResetRegressed,
            format!("{quoted:?} was quoted, {seen:?} was seen"),
        ));
    }
    // Calls of one host may overtake each other by no more than a challenge lives.
    if quoted == seen && clock.clock_ms.saturating_add(CHALLENGE_LIFETIME_MS) < prior.clock_ms {
        let behind = prior.clock_ms.saturating_sub(clock.clock_ms);
        return Err(Finding::new(RefusalCode::QuoteClockBehind, format!("the clock trails by {behind} ms")));
    }
    Ok(())
}

/// The state after a quote that holds and whose boot log replayed, whatever the references say of it: counters move in any case, and an
/// operator captures new references from just such evidence. A contraindicated host is trusted no longer, from this moment.
pub(super) fn state_after_good_quote(situation: &Situation<'_>, good: &Good<'_>) -> HostState {
    let prior = &situation.host.prior;
    let clock = good.quoted.quote.clock();
    let rebooted = (clock.reset_count, clock.restart_count) != (prior.reset_count, prior.restart_count);
    let trust_secs = situation
        .policy
        .map_or(Settings::default().host_trust_secs, |policy| policy.settings().host_trust_secs);
    let trusted_until_ms = match good.appraisal.tier {
        Tier::Contraindicated => 0,
        _ => situation.time_ms.saturating_add(trust_secs.saturating_mul(1_000)),
    };
    HostState {
        version: prior.version.saturating_add(u64::from(rebooted)),
        reset_count: clock.reset_count,
        restart_count: clock.restart_count,
        clock_ms: if rebooted { clock.clock_ms } else { clock.clock_ms.max(prior.clock_ms) },
        firmware_version: good.quoted.quote.firmware_version(),
        boot_log: situation.judged.record().boot_log,
        pcr_digest: Some(good.quoted.pcr_digest),
        trusted_until_ms,
        tier: good.appraisal.tier,
        evidence: Some(*situation.judged.record_digest()),
        ima: good.ima.as_ref().map(|ima| Sha256Digest::new(ima.state().digest())),
    }
}
