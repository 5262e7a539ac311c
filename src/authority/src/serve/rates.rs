//! Token buckets: how often one caller may call, in the long run and at once.
//!
//! Time is an argument. Memory is bounded: a bucket that is full again says nothing and is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Callers remembered at once. Beyond, only callers that come for the first time in a while are refused.
const MAX_BUCKETS: usize = 65_536;

/// Parts of a call that buckets hold: so fine that a call an hour is a whole number of them each millisecond.
const UNIT: u64 = 3_600_000;

#[derive(Clone, Copy)]
struct Bucket {
    /// In parts of a call.
    tokens: u64,
    since: Instant,
}

/// One rate for many callers. What is counted in calls here may as well be requests or KiB.
pub struct Rates<K> {
    per_ms: u64,
    burst: u64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> Rates<K> {
    /// `per_sec` calls in the long run, `burst` at once.
    #[must_use]
    pub fn new(per_sec: u32, burst: u32) -> Self {
        Self::of(u64::from(per_sec) * 3_600, burst)
    }

    /// `per_hour` calls in the long run, `burst` at once.
    #[must_use]
    pub fn per_hour(per_hour: u32, burst: u32) -> Self {
        Self::of(u64::from(per_hour), burst)
    }

    fn of(per_ms: u64, burst: u32) -> Self {
        Self { per_ms, burst: u64::from(burst) * UNIT, buckets: Mutex::default() }
    }

    /// Takes one call from this caller's bucket; `false` if it is empty.
    pub fn take(&self, caller: K, now: Instant) -> bool {
        self.take_many(caller, 1, now)
    }

    /// Takes so many from this caller's bucket, all or none. More than fit into a bucket cost a full one, so that nothing is refused for ever.
    pub fn take_many(&self, caller: K, amount: u64, now: Instant) -> bool {
        // A bucket of nothing would cost nothing.
        if self.burst == 0 {
            return false;
        }
        let cost = amount.saturating_mul(UNIT).min(self.burst);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&caller) {
            buckets.retain(|_, bucket| self.level(bucket, now) < self.burst);
            if buckets.len() >= MAX_BUCKETS {
                return false;
            }
        }
        let bucket = buckets.entry(caller).or_insert(Bucket { tokens: self.burst, since: now });
        let level = self.level(bucket, now);
        // A refusal leaves the bucket as it is: whoever keeps asking doesn't get less than whoever waits.
        let Some(tokens) = level.checked_sub(cost) else { return false };
        *bucket = Bucket { tokens, since: now };
        true
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(bucket.since);
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        bucket.tokens.saturating_add(millis.saturating_mul(self.per_ms)).min(self.burst)
    }
}

/// Seconds to wait, spread so that those who were refused together don't come back together.
#[must_use]
pub fn retry_after() -> Duration {
    let mut byte = [0_u8];
    // Without randomness all wait the same: worse for us, not for them.
    let spread = getrandom::fill(&mut byte).map_or(0, |()| u64::from(byte.first().copied().unwrap_or(0)) % 4);
    Duration::from_secs(1 + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_its_burst_and_then_its_rate() {
        let rates = Rates::new(10, 3);
        let start = Instant::now();
        let taken = |at: u64| (0..100).filter(|_| rates.take("a", start + Duration::from_millis(at))).count();
        assert_eq!(taken(0), 3);
        assert_eq!(taken(99), 0);
        assert_eq!(taken(300), 3, "what was refused cost nothing");
        assert_eq!(taken(100_000), 3);
        assert!(rates.take("b", start), "another caller has a bucket of its own");
        let none = Rates::new(10, 0);
        assert!(
            !none.take("a", start) && !none.take("a", start + Duration::from_secs(100)),
            "no burst is no call"
        );
    }

    #[test]
    fn many_at_once_are_taken_together_and_never_refused_for_ever() {
        let rates = Rates::new(10, 8);
        let start = Instant::now();
        assert!(rates.take_many("a", 6, start));
        assert!(!rates.take_many("a", 3, start));
        assert!(rates.take_many("a", 2, start), "the refusal took nothing");
        assert!(
            !rates.take_many("b", 9, start) || !rates.take("b", start),
            "more than a bucket is a full one"
        );
        assert!(rates.take_many("a", 1_000, start + Duration::from_millis(800)));
        let slow = Rates::per_hour(2, 1);
        assert!(slow.take("a", start) && !slow.take("a", start + Duration::from_secs(1_799)));
        assert!(slow.take("a", start + Duration::from_secs(1_800)));
    }

    #[test]
    fn full_buckets_make_room_and_used_ones_do_not() {
        let rates = Rates::new(1, 1);
        let start = Instant::now();
        for caller in 0..MAX_BUCKETS {
            assert!(rates.take(caller, start));
        }
        assert!(!rates.take(MAX_BUCKETS, start), "nobody new while all are in use");
        assert!(rates.take(MAX_BUCKETS, start + Duration::from_secs(2)));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn waiting_times_are_short() {
        assert!((0..100).all(|_| (1..=4).contains(&retry_after().as_secs())));
    }
}
