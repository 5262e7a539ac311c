//! Bounded search for a path from an EK certificate to a trusted root.
//!
//! Comes in: the parsed leaf, intermediates, roots and the time. Goes out: the root that the path ends in. Refused:
//! when every candidate fails, with the reason of the candidate that came furthest. RFC 5280 §6.1, without policies
//! and name constraints.

use super::certificate::Certificate;
use super::{EkRefusal, MAX_DEPTH, MAX_SIGNATURE_CHECKS};

struct Search<'c, 'a> {
    intermediates: &'c [Certificate<'a>],
    roots: &'c [Certificate<'a>],
    now_unix_secs: u64,
    checks_left: usize,
}

/// Finds a root for `leaf`.
pub(super) fn build<'a>(
    leaf: &Certificate<'_>,
    intermediates: &'a [Vec<u8>],
    roots: &'a [Vec<u8>],
    now_unix_secs: u64,
) -> Result<Certificate<'a>, EkRefusal> {
    leaf.require_valid_at(now_unix_secs)?;
    let intermediates = readable(intermediates);
    let mut roots = readable(roots);
    let mut search = Search {
        intermediates: &intermediates,
        roots: &roots,
        now_unix_secs,
        checks_left: MAX_SIGNATURE_CHECKS,
    };
    let index = search.climb(leaf, 0)?;
    Ok(roots.swap_remove(index))
}

fn readable(ders: &[Vec<u8>]) -> Vec<Certificate<'_>> {
    ders.iter().filter_map(|der| Certificate::parse(der).ok()).collect()
}

impl Search<'_, '_> {
    /// Index of a root above `child`, which has `below` authorities under it. Depth is bounded by [`MAX_DEPTH`].
    fn climb(&mut self, child: &Certificate<'_>, below: usize) -> Result<usize, EkRefusal> {
        if below >= MAX_DEPTH {
            return Err(EkRefusal::PathTooComplex);
        }
        let mut reason = EkRefusal::IssuerUnknown;
        for (index, root) in self.roots.iter().enumerate() {
            if child.is_issued_by_name_of(root) {
                match self.step(child, root, below) {
                    Ok(()) => return Ok(index),
                    Err(_) if self.checks_left == 0 => return Err(EkRefusal::PathTooComplex),
                    Err(refusal) => reason = refusal,
                }
            }
        }
        for issuer in self.intermediates {
            if !child.is_issued_by_name_of(issuer) || child.is_same(issuer) {
                continue;
            }
            match self.step(child, issuer, below).and_then(|()| self.climb(issuer, below + 1)) {
                Ok(index) => return Ok(index),
                Err(_) if self.checks_left == 0 => return Err(EkRefusal::PathTooComplex),
                // "Unknown" further up says less than a reason already found.
                Err(EkRefusal::IssuerUnknown) if reason != EkRefusal::IssuerUnknown => {}
                Err(refusal) => reason = refusal,
            }
        }
        Err(reason)
    }

    /// One link: cheap questions first, the signature last and counted.
    fn step(
        &mut self,
        child: &Certificate<'_>,
        issuer: &Certificate<'_>,
        below: usize,
    ) -> Result<(), EkRefusal> {
        issuer.require_authority(below)?;
        issuer.require_valid_at(self.now_unix_secs)?;
        self.checks_left = self.checks_left.checked_sub(1).ok_or(EkRefusal::PathTooComplex)?;
        child.require_signed_by(issuer)
    }
}
