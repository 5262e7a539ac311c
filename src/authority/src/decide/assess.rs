//! What a call's evidence is worth at the time of the decision: standing, counters, appraisal, the host's state after it.
//!
//! Depends on the call and the host, never on one of its requests, so that all leaves of a call carry the same state.

use super::state::{Good, check_counters, state_after_good_quote};
use super::{Inconsistent, Situation};
use crate::appraise::{self, References, appraise};
use crate::verify::{Evidence, Finding, Quoted};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::host::HostState;
use countersign_core::record::ChallengeStanding;
use countersign_tpm::eventlog::VerifiedBootLog;

pub(super) struct Assessment<'a> {
    pub(super) standing: ChallengeStanding,
    pub(super) good: Result<Good<'a>, Finding>,
    pub(super) state_after: HostState,
}

/// Bytes of the state that a host's state names, to be kept as a blob.
pub(super) type Kept = Option<(Sha256Digest, Vec<u8>)>;

impl Situation<'_> {
    /// Refuses inputs that don't belong together.
    pub(super) fn require_consistent(&self) -> Result<(), Inconsistent> {
        let judged = self.judged;
        if *judged.host() != self.host.host || judged.ak().name() != self.host.ak.name() {
            return Err(Inconsistent::Host);
        }
        if self.host.prior.ima != self.host.ima.as_ref().map(|ima| Sha256Digest::new(ima.digest())) {
            return Err(Inconsistent::Host);
        }
        let policy = self.policy.map(|policy| policy.digest());
        let references = self.references.map(|references| references.digest());
        if policy != self.control.policy() || references != self.control.references() {
            return Err(Inconsistent::Documents);
        }
        let unsettled = match self.policy {
            Some(policy) => policy.settings() != judged.settings(),
            None => Settings::default() != *judged.settings(),
        };
        if unsettled { Err(Inconsistent::Settings) } else { Ok(()) }
    }

    /// How the challenge stands at the time of the decision.
    #[must_use]
    pub fn standing(&self) -> ChallengeStanding {
        // Expiry first: a store may forget what was spent once it has expired, and the answer stays the same.
        if self.time_ms > self.judged.challenge().expires_ms {
            ChallengeStanding::Expired
        } else if self.challenge_spent {
            ChallengeStanding::Spent
        } else {
            ChallengeStanding::Fresh
        }
    }
}

impl<'a> Assessment<'a> {
    pub(super) fn of(situation: &Situation<'a>) -> Self {
        let standing = situation.standing();
        let prior = &situation.host.prior;
        let good = judge(situation);
        let revoked = situation.control.is_revoked(&Subject::Host(situation.host.host));
        let state_after = match &good {
            // Only fresh evidence of a host in good standing says anything new of it.
            Ok(good) if standing == ChallengeStanding::Fresh && !revoked => {
                state_after_good_quote(situation, good)
            }
            _ => *prior,
        };
        Self { standing, good, state_after }
    }

    /// The state of the IMA appraisal, if this evidence moved it.
    pub(super) fn kept(&self) -> Kept {
        let ima = self.good.as_ref().ok()?.ima.as_ref()?;
        let digest = self.state_after.ima?;
        (digest.as_bytes() == &ima.state().digest()).then(|| (digest, ima.state().encode()))
    }
}

fn judge<'a>(situation: &Situation<'a>) -> Result<Good<'a>, Finding> {
    let quoted: &'a Quoted = match situation.judged.evidence() {
        Evidence::Refused(finding) => return Err(finding.clone()),
        Evidence::Quoted(quoted) => quoted,
    };
    check_counters(&situation.host.prior, &quoted.quote.clock())?;
    let boot: &'a VerifiedBootLog = quoted.boot.as_ref().map_err(Clone::clone)?;
    // A policy in force whose check didn't run is a denial: there is no way past this line without it.
    let ima = match situation.references.and_then(References::ima) {
        Some(policy) => Some(situation.judged.appraise_ima(quoted, situation.host, policy)?),
        None => None,
    };
    let appraisal = appraise(&appraise::Facts {
        quote: &quoted.quote,
        boot: boot.facts(),
        certified: situation.host.endorsement.kind.is_certified(),
        references: situation.references,
        ima: ima.as_deref(),
        time_ms: situation.time_ms,
    });
    Ok(Good { quoted, boot, appraisal, ima })
}
