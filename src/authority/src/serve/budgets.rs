//! What one caller may use up of what all share: calls, requests, room for evidence, leaves of the log.
//!
//! One bucket for each caller and good; the numbers are the configuration's. Taken before the work that they pay for is done.

use super::rates::Rates;
use super::source::Source;
use crate::config::Limits;
use countersign_core::digest::Sha256Digest;
use countersign_core::name::HostId;
use std::time::Instant;

/// Denials of a revoked host that are logged at once. An operator sees from the first that it goes on.
const REVOKED_BURST: u32 = 8;

/// All buckets.
pub struct Budgets {
    /// Calls of a host.
    pub host_calls: Rates<HostId>,
    /// Requests of a host, in however many calls.
    pub host_requests: Rates<HostId>,
    /// KiB of evidence that a host has kept which wasn't known before.
    pub host_evidence_kib: Rates<HostId>,
    /// Denials that a revoked host gets into the log.
    pub revoked_denials: Rates<HostId>,
    /// Outcomes that a gateway reports.
    pub gateway_outcomes: Rates<Sha256Digest>,
    /// Enrolments begun by all together, and by one source.
    pub begun: Shared,
    /// Enrolments finished, likewise.
    pub finished: Shared,
    /// Tiles read by all together, and by one source.
    pub tiles: Shared,
    /// Attestation results signed for one caller's key.
    pub caller_jwts: Rates<Sha256Digest>,
    /// Attestation results signed for all together.
    pub jwts: Rates<()>,
}

/// Signatures over attestation results that one caller gets at once: a few nonces in a row.
const CALLER_JWT_BURST: u32 = 4;

/// What nobody has to show a key for: a bucket for each source beside one for all.
pub struct Shared {
    by_source: Rates<Source>,
    all: Rates<()>,
}

impl Shared {
    fn enrolments(limits: &Limits) -> Self {
        Self {
            by_source: Rates::new(limits.source_enrolments_per_sec, limits.source_enrolments_burst),
            all: Rates::new(limits.enrolments_per_sec, limits.enrolments_per_sec),
        }
    }

    fn tiles(limits: &Limits) -> Self {
        Self {
            by_source: Rates::new(limits.source_tiles_per_sec, limits.source_tiles_burst),
            all: Rates::new(limits.tiles_per_sec, limits.tiles_per_sec),
        }
    }

    /// Takes one for this source. A source that is over its own rate takes nothing from the others.
    pub fn take(&self, source: Source, now: Instant) -> bool {
        self.by_source.take(source, now) && self.all.take((), now)
    }
}

impl Budgets {
    /// Full buckets.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let revoked = limits.revoked_denials_per_hour;
        Self {
            host_calls: Rates::new(limits.host_calls_per_sec, limits.host_burst),
            host_requests: Rates::new(limits.host_requests_per_sec, limits.host_requests_burst),
            host_evidence_kib: Rates::new(limits.host_evidence_kib_per_sec, limits.host_evidence_kib_burst),
            revoked_denials: Rates::per_hour(revoked, revoked.min(REVOKED_BURST)),
            gateway_outcomes: Rates::new(limits.gateway_outcomes_per_sec, limits.gateway_outcomes_burst),
            begun: Shared::enrolments(limits),
            finished: Shared::enrolments(limits),
            tiles: Shared::tiles(limits),
            caller_jwts: Rates::per_hour(
                limits.caller_jwt_signatures_per_hour,
                limits.caller_jwt_signatures_per_hour.min(CALLER_JWT_BURST),
            ),
            jwts: Rates::new(limits.jwt_signatures_per_sec, limits.jwt_signatures_burst),
        }
    }
}
