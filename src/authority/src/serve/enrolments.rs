//! Enrolments that were begun here and not finished: how many there are, and at most one for each endorsement key and token.
//!
//! Comes in: what an enrolment claims, its identifier, its end. Goes out: the identifier of the one that it replaces. Refused: one more than
//! the limit. The newest of one claim counts: a host that lost its answer begins again, and whoever begins over and over holds one place.

use countersign_core::digest::Sha256Digest;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

type Id = [u8; 16];

/// As many as may be are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// What is open. Memory is bounded by the limit.
pub(super) struct OpenEnrolments {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_end: BTreeMap<(u64, Id), Sha256Digest>,
    by_claim: HashMap<Sha256Digest, (u64, Id)>,
}

impl OpenEnrolments {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Takes a place until `ends_ms`, and returns the enrolment of the same claim that loses its own.
    pub(super) fn begin(
        &self,
        claim: Sha256Digest,
        id: Id,
        ends_ms: u64,
        now_ms: u64,
    ) -> Result<Option<Id>, TooMany> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((key, claim)) = inner.by_end.first_key_value().map(|(key, claim)| (*key, *claim)) {
            if key.0 > now_ms {
                break;
            }
            inner.remove(key, claim);
        }
        let replaced = inner.by_claim.get(&claim).copied();
        match replaced {
            Some(key) => inner.remove(key, claim),
            None if inner.by_end.len() >= self.limit => return Err(TooMany),
            None => {}
        }
        inner.by_end.insert((ends_ms, id), claim);
        inner.by_claim.insert(claim, (ends_ms, id));
        Ok(replaced.map(|(_, id)| id))
    }

    /// It was finished, or never got into the store.
    pub(super) fn end(&self, id: Id, ends_ms: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = inner.by_end.get(&(ends_ms, id)).copied() {
            inner.remove((ends_ms, id), claim);
        }
    }
}

impl Inner {
    fn remove(&mut self, key: (u64, Id), claim: Sha256Digest) {
        self.by_end.remove(&key);
        self.by_claim.remove(&claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_has_one_place_and_places_come_back() {
        let open = OpenEnrolments::new(2);
        let claim = |byte: u8| Sha256Digest::new([byte; 32]);
        assert_eq!(open.begin(claim(1), [1; 16], 100, 0), Ok(None));
        assert_eq!(open.begin(claim(1), [2; 16], 110, 0), Ok(Some([1; 16])));
        assert_eq!(open.begin(claim(2), [3; 16], 120, 0), Ok(None));
        assert_eq!(open.begin(claim(3), [4; 16], 130, 0), Err(TooMany));
        assert_eq!(open.begin(claim(2), [5; 16], 130, 0), Ok(Some([3; 16])), "a full house replaces, too");
        // The one that was replaced has no place to give back.
        open.end([3; 16], 120);
        assert_eq!(open.begin(claim(3), [6; 16], 140, 0), Err(TooMany));
        open.end([5; 16], 130);
        assert_eq!(open.begin(claim(3), [6; 16], 140, 0), Ok(None));
        // At its end each is forgotten by itself.
        assert_eq!(open.begin(claim(4), [7; 16], 150, 110), Ok(None));
    }
}
