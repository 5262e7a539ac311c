//! How long to wait before a call is made again: doubling, jittered, never earlier than asked.

use std::time::Duration;

/// Waits between tries of one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `most`.
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// The next wait: between the half and the whole of the current step, so that hosts that failed together don't return together, and at
    /// least what the other side asked for.
    pub(crate) fn step(&mut self, asked: Option<Duration>) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.most);
        let half = step / 2;
        let wait = half + jitter(half);
        // A fleet that is told "in two seconds" mustn't come back as one.
        asked.map_or(wait, |asked| wait.max(asked.min(self.most) + jitter(half)))
    }
}

/// A random time below `span`. Without randomness it is zero: jitter is a courtesy, never a secret.
pub(crate) fn jitter(span: Duration) -> Duration {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return Duration::ZERO;
    }
    span.mul_f64(f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_honour_what_was_asked() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for most in [1, 2, 4, 5, 5] {
            let most = Duration::from_secs(most);
            let wait = backoff.step(None);
            assert!(wait >= most / 2 && wait <= most, "{wait:?} for {most:?}");
        }
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        assert!(backoff.step(Some(Duration::from_secs(9))) >= Duration::from_secs(9));
        assert!(backoff.step(Some(Duration::from_secs(999_999))) < Duration::from_secs(65));
    }
}
