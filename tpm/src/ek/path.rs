//! Bounded search for a path from a certificate to a trusted root.
//!
//! Comes in: the leaf, intermediates that came with it, the trust store, the time. Goes out: the issuers from the leaf's up to the root.
//! Refused: when every candidate fails, with the reason that weighs most. RFC 5280 §6.1, without name constraints and policy mapping: who
//! makes them critical is refused.
//!
//! Bounds: [`MAX_DEPTH`] issuers above the leaf and [`MAX_SIGNATURE_CHECKS`] signatures in all, those of revocation lists included. A step
//! up costs a signature that verified, so names that loop or repeat cost no more than that either. Revocation lists, which can be long, are
//! looked at only once a path ends at a root: a stranger who issues himself certificates in a manufacturer's name has none of them verified.

use super::certificate::Certificate;
use super::store::TrustStore;
use super::{EkRefusal, MAX_DEPTH, MAX_SIGNATURE_CHECKS};
use der::asn1::ObjectIdentifier;

/// What a path is asked for.
pub(super) struct Question<'a> {
    pub(super) store: &'a TrustStore,
    /// What the host sent along; never more than candidates.
    pub(super) sent: &'a [Certificate],
    /// The purpose that issuers, if they name any, must name.
    pub(super) purpose: ObjectIdentifier,
    pub(super) now_unix_secs: u64,
}

struct Search<'a> {
    question: &'a Question<'a>,
    checks_left: usize,
}

/// The issuers above `leaf`, its own first and the root last.
pub(super) fn build<'a>(
    leaf: &'a Certificate,
    question: &'a Question<'a>,
) -> Result<Vec<&'a Certificate>, EkRefusal> {
    leaf.require_valid_at(question.now_unix_secs)?;
    let mut search = Search { question, checks_left: MAX_SIGNATURE_CHECKS };
    let mut path = vec![leaf];
    search.climb(&mut path)?;
    path.remove(0);
    Ok(path)
}

/// Which of two reasons tells more: what is wrong with the certificate itself before what is wrong with a candidate.
const fn weight(refusal: &EkRefusal) -> u8 {
    match refusal {
        EkRefusal::IssuerUnknown => 0,
        EkRefusal::SignatureInvalid => 1,
        EkRefusal::PathTooComplex => 2,
        EkRefusal::NotAnAuthority => 3,
        EkRefusal::NotYetValid | EkRefusal::Expired => 4,
        EkRefusal::PolicyMissing => 5,
        EkRefusal::CrlMissing | EkRefusal::CrlStale => 6,
        EkRefusal::Revoked => 7,
        _ => 3,
    }
}

impl<'a> Search<'a> {
    /// Goes on from the last of `path` until a root ends it.
    fn climb(&mut self, path: &mut Vec<&'a Certificate>) -> Result<(), EkRefusal> {
        let Some(child) = path.last().copied() else { return Err(EkRefusal::IssuerUnknown) };
        if path.len() > MAX_DEPTH {
            return Err(EkRefusal::PathTooComplex);
        }
        let store = self.question.store;
        let mut reason = EkRefusal::IssuerUnknown;
        let roots = store.roots().iter().map(|root| (root, true));
        let between = store.intermediates().iter().chain(self.question.sent).map(|issuer| (issuer, false));
        for (issuer, is_root) in roots.chain(between) {
            // RFC 5280 §6.1.3 (a) (4). A certificate that is on the path already leads nowhere new.
            let seen = path.iter().any(|known| known.sha256() == issuer.sha256());
            if seen || child.issuer() != issuer.subject() {
                continue;
            }
            let step = self.step(path, issuer, is_root).and_then(|()| {
                path.push(issuer);
                let done = if is_root { self.judge(path) } else { self.climb(path) };
                if done.is_err() {
                    path.pop();
                }
                done
            });
            match step {
                Ok(()) => return Ok(()),
                Err(_) if self.checks_left == 0 => return Err(EkRefusal::PathTooComplex),
                Err(refusal) if weight(&refusal) >= weight(&reason) => reason = refusal,
                Err(_) => {}
            }
        }
        Err(reason)
    }

    /// One link: cheap questions first, the signatures last and counted.
    fn step(&mut self, path: &[&Certificate], issuer: &Certificate, is_root: bool) -> Result<(), EkRefusal> {
        let [.., child] = path else { return Err(EkRefusal::IssuerUnknown) };
        // RFC 5280 §6.1.4 (l): self-issued intermediates aren't counted.
        let below = path.iter().skip(1).filter(|below| !below.is_self_issued()).count();
        issuer.require_authority(below)?;
        if !is_root {
            issuer.require_issues_for(&self.question.purpose)?;
        }
        issuer.require_valid_at(self.question.now_unix_secs)?;
        self.count()?;
        child.require_signed_by(issuer)
    }

    fn count(&mut self) -> Result<(), EkRefusal> {
        self.checks_left = self.checks_left.checked_sub(1).ok_or(EkRefusal::PathTooComplex)?;
        Ok(())
    }

    /// RFC 5280 §6.3. A list that has ended still revokes, but vouches for nothing any more.
    fn require_not_revoked(&mut self, child: &Certificate, issuer: &Certificate) -> Result<(), EkRefusal> {
        let (mut current, mut ended) = (false, false);
        for list in self.question.store.revocation_lists() {
            if list.issuer() != issuer.subject() {
                continue;
            }
            self.count()?;
            if !list.is_signed_by(issuer) {
                continue;
            }
            if list.revokes(child.serial()) {
                return Err(EkRefusal::Revoked);
            }
            if list.is_current(self.question.now_unix_secs) {
                current = true;
            } else {
                ended = true;
            }
        }
        match (current, ended) {
            (true, _) => Ok(()),
            (false, true) => Err(EkRefusal::CrlStale),
            (false, false) if self.question.store.requires_revocation_lists() => Err(EkRefusal::CrlMissing),
            (false, false) => Ok(()),
        }
    }

    /// What is asked of a whole path: that nothing on it was revoked, looked at from the root down, so that each list is verified with a key that
    /// the root vouches for; and that every certificate under the root asserts one of the policies demanded. RFC 5280 §6.1.3 (a) (3), (d), (f).
    fn judge(&mut self, path: &[&Certificate]) -> Result<(), EkRefusal> {
        for link in path.windows(2).rev() {
            let [child, issuer] = link else { return Err(EkRefusal::IssuerUnknown) };
            self.require_not_revoked(child, issuer)?;
        }
        let demanded = self.question.store.policies();
        let under_root = path.split_last().map_or(path, |(_, under)| under);
        let asserted = |policy: &ObjectIdentifier| {
            under_root.iter().enumerate().all(|(place, certificate)| certificate.asserts(policy, place > 0))
        };
        if demanded.is_empty() || demanded.iter().any(asserted) {
            Ok(())
        } else {
            Err(EkRefusal::PolicyMissing)
        }
    }
}
