//! What a call's evidence is worth at the time of the decision: standing, counters, appraisal, the host's state after it.
//!
//! Depends on the call and the host, never on one of its requests, so that all leaves of a call carry the same state.

use super::state::{Good, check_counters, state_after_good_quote};
use super::{Inconsistent, Situation};
use crate::appraise::{self, appraise};
use crate::verify::{Evidence, Finding, Quoted};
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

impl Situation<'_> {
    /// Refuses inputs that don't belong together.
    pub(super) fn require_consistent(&self) -> Result<(), Inconsistent> {
        let judged = self.judged;
        if *judged.host() != self.host.host || judged.ak().name() != self.host.ak.name() {
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
}

fn judge<'a>(situation: &Situation<'a>) -> Result<Good<'a>, Finding> {
    let quoted: &'a Quoted = match situation.judged.evidence() {
        Evidence::Refused(finding) => return Err(finding.clone()),
        Evidence::Quoted(quoted) => quoted,
    };
    check_counters(&situation.host.prior, &quoted.quote.clock())?;
    let boot: &'a VerifiedBootLog = quoted.boot.as_ref().map_err(Clone::clone)?;
    let appraisal = appraise(&appraise::Facts {
        quote: &quoted.quote,
        boot: boot.facts(),
        ek_certified: situation.host.ek_certified,
        references: situation.references,
    });
    Ok(Good { quoted, boot, appraisal })
}
