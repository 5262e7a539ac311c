//! Whether the device behind a worker was working when last heard of, readable by any thread without a lock.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::FaultClass;

/// The state of the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// The last call succeeded, or none was made yet.
    Closed,
    /// The last call failed, or one is out for longer than its deadline.
    Open {
        /// When it opened: the first failure since the last success.
        since: Instant,
        /// The class of the latest failure.
        class: FaultClass,
    },
}

impl Circuit {
    /// Whether it is closed.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// INVARIANT: `word` is 0 when closed, else milliseconds since `origin` in the upper 56 bits and the class in the lower 8.
pub(super) struct CircuitCell {
    origin: Instant,
    word: AtomicU64,
    /// 1 + milliseconds since `origin` at which the call in progress began; 0 when the device is idle.
    began: AtomicU64,
    deadline: Duration,
}

impl CircuitCell {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { origin: Instant::now(), word: AtomicU64::new(0), began: AtomicU64::new(0), deadline }
    }

    pub(super) fn call_began(&self) {
        self.began.store(self.now_ms() + 1, Ordering::SeqCst);
    }

    pub(super) fn call_ended(&self) {
        self.began.store(0, Ordering::SeqCst);
    }

    pub(super) fn close(&self) {
        self.word.store(0, Ordering::SeqCst);
    }

    pub(super) fn open(&self, class: FaultClass) {
        let now = self.now_ms();
        // The time of the first failure stays, the class is the newest. The closure never returns `None`.
        let _ = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            let since = if word == 0 { now } else { word >> 8 };
            Some((since << 8) | u64::from(class as u8))
        });
    }

    pub(super) fn state(&self) -> Circuit {
        let word = self.word.load(Ordering::SeqCst);
        if let Some(class) = FaultClass::from_number((word & 0xff) as u8) {
            return Circuit::Open { since: self.origin + Duration::from_millis(word >> 8), class };
        }
        let began = self.began.load(Ordering::SeqCst);
        if began != 0 {
            let since = self.origin + Duration::from_millis(began - 1) + self.deadline;
            if Instant::now() >= since {
                return Circuit::Open { since, class: FaultClass::Timeout };
            }
        }
        Circuit::Closed
    }

    fn now_ms(&self) -> u64 {
        // 56 bits of milliseconds are two million years.
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX >> 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_dates_the_circuit_and_the_last_one_names_it() {
        let cell = CircuitCell::new(Duration::from_secs(5));
        assert!(cell.state().is_closed());
        cell.open(FaultClass::Retry);
        let Circuit::Open { since, class: FaultClass::Retry } = cell.state() else { panic!("not open") };
        std::thread::sleep(Duration::from_millis(3));
        cell.open(FaultClass::TokenAbsent);
        assert_eq!(cell.state(), Circuit::Open { since, class: FaultClass::TokenAbsent });
        cell.close();
        assert!(cell.state().is_closed());
    }

    #[test]
    fn a_call_past_its_deadline_opens_the_circuit_while_it_is_out() {
        let cell = CircuitCell::new(Duration::ZERO);
        cell.call_began();
        assert!(matches!(cell.state(), Circuit::Open { class: FaultClass::Timeout, .. }));
        cell.call_ended();
        assert!(cell.state().is_closed());
    }
}
