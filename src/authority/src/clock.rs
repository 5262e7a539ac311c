//! Time as the sequencer sees it: a wall clock that may lie, and boot time that can't be set.
//!
//! Comes in: readings of a [`Clock`], the newest head's time, and the store's clock where several processes share it. Goes out: the time of a
//! batch. Refused: a wall clock more than [`MAX_BEHIND_MS`] behind the log, one more than [`MAX_AHEAD_MS`] ahead of the store's, and one that jumped against boot time, until it has come back or has stood still for
//! [`SETTLE_MS`] since.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};

/// How far the wall clock may be behind the newest head: what NTP slews away without a step.
pub const MAX_BEHIND_MS: u64 = 2_000;
/// How far the wall clock may be ahead of the store's: half of what another replica's may be behind a head, so that one ahead and one behind by
/// no more than this go on together.
pub const MAX_AHEAD_MS: u64 = 1_000;
/// How far wall time and boot time may drift apart between two readings before that counts as a step.
pub const MAX_STEP_MS: u64 = 2_000;
/// How long the clock has to run evenly after a step before the new time is believed. An NTP daemon steps once and then slews; a clock
/// that somebody plays with does not stand.
pub const SETTLE_MS: u64 = 60_000;

/// Where time comes from.
///
/// `now_ms` may jump in either direction. `boot_ms` never goes back while the process lives, counts time in suspend, and says nothing
/// about the date.
pub trait Clock: Send + Sync {
    /// Wall time in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// Milliseconds since boot.
    fn boot_ms(&self) -> u64;
}

/// The machine's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        read(ClockId::CLOCK_REALTIME)
    }

    fn boot_ms(&self) -> u64 {
        read(ClockId::CLOCK_BOOTTIME)
    }
}

/// A clock that can't be read says 1970, which is behind every log: refused, not guessed.
fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let secs = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        secs.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
    })
}

/// A clock that moves only when told to. For tests and simulations.
#[derive(Debug)]
pub struct DrivenClock {
    now_ms: AtomicU64,
    boot_ms: AtomicU64,
}

impl DrivenClock {
    /// Stands at `now_ms`; the machine booted a minute before.
    #[must_use]
    pub fn at(now_ms: u64) -> Self {
        Self { now_ms: AtomicU64::new(now_ms), boot_ms: AtomicU64::new(60_000) }
    }

    /// Time passes: both clocks go on.
    pub fn advance(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
        self.boot_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for DrivenClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn boot_ms(&self) -> u64 {
        self.boot_ms.load(Ordering::SeqCst)
    }
}

/// Why no batch is made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockFault {
    /// The log has seen a later time than this clock shows.
    #[error("the clock is {by_ms} ms behind the newest head")]
    Behind {
        /// By how much.
        by_ms: u64,
    },
    /// This clock shows a later time than the one that all replicas share.
    #[error("the clock is {by_ms} ms ahead of the store's")]
    Ahead {
        /// By how much.
        by_ms: u64,
    },
    /// The wall clock moved against boot time.
    #[error("the clock jumped by {by_ms} ms against boot time")]
    Stepped {
        /// By how much, forward or back.
        by_ms: u64,
    },
}

/// Watches one clock for steps.
///
/// The line that wall time is compared with follows every good reading, so slewing never adds up to a step; while a step is held
/// against the clock, the line stays where it was.
#[derive(Debug)]
pub struct ClockWatch {
    line: Reading,
    stepped: Option<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    now_ms: u64,
    boot_ms: u64,
}

/// Readings since the step; `first` dates it.
#[derive(Clone, Copy, Debug)]
struct Step {
    first: Reading,
    last: Reading,
}

impl Reading {
    fn of(clock: &dyn Clock) -> Self {
        Self { now_ms: clock.now_ms(), boot_ms: clock.boot_ms() }
    }

    /// Distance of `later` from where it would be had both clocks run evenly since `self`.
    fn step_to(self, later: Self) -> u64 {
        let expected = self.now_ms.saturating_add(later.boot_ms.saturating_sub(self.boot_ms));
        expected.abs_diff(later.now_ms)
    }
}

impl ClockWatch {
    /// Believes the clock as it is now.
    #[must_use]
    pub fn start(clock: &dyn Clock) -> Self {
        Self { line: Reading::of(clock), stepped: None }
    }

    /// Takes a reading. Call it about once a second also when idle, so that drift stays small between readings.
    ///
    /// # Errors
    /// [`ClockFault::Stepped`] from a step on until the clock is back on its old line, or has kept to a new one for [`SETTLE_MS`].
    pub fn observe(&mut self, clock: &dyn Clock) -> Result<u64, ClockFault> {
        let reading = Reading::of(clock);
        let by_ms = self.line.step_to(reading);
        if by_ms <= MAX_STEP_MS {
            self.line = reading;
            self.stepped = None;
            return Ok(reading.now_ms);
        }
        let step = match self.stepped {
            Some(step) if step.last.step_to(reading) <= MAX_STEP_MS => Step { last: reading, ..step },
            // The first reading after the step, or another step.
            _ => Step { first: reading, last: reading },
        };
        if reading.boot_ms.saturating_sub(step.first.boot_ms) >= SETTLE_MS {
            self.line = reading;
            self.stepped = None;
            return Ok(reading.now_ms);
        }
        self.stepped = Some(step);
        Err(ClockFault::Stepped { by_ms })
    }
}

/// The time of a batch: never before the newest head's (PROTOCOL §5.1).
///
/// # Errors
/// [`ClockFault::Behind`] if the clock is more than [`MAX_BEHIND_MS`] behind that head.
pub fn batch_time(now_ms: u64, newest_head_ms: u64) -> Result<u64, ClockFault> {
    let by_ms = newest_head_ms.saturating_sub(now_ms);
    if by_ms > MAX_BEHIND_MS { Err(ClockFault::Behind { by_ms }) } else { Ok(now_ms.max(newest_head_ms)) }
}

/// Compares a reading with the clock of the store, read later. A batch from the future would stop every replica whose clock is right.
///
/// # Errors
/// [`ClockFault::Ahead`] if the clock is more than [`MAX_AHEAD_MS`] ahead. Behind is told by the newest head.
pub fn not_ahead(now_ms: u64, store_ms: u64) -> Result<(), ClockFault> {
    let by_ms = now_ms.saturating_sub(store_ms);
    if by_ms > MAX_AHEAD_MS { Err(ClockFault::Ahead { by_ms }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn the_systems_clocks_run() {
        let clock = SystemClock;
        assert!(clock.now_ms() > NOW);
        let boot = clock.boot_ms();
        assert!(boot > 0 && clock.boot_ms() >= boot);
    }

    #[test]
    fn a_clock_ahead_of_the_stores_is_refused_and_one_behind_is_not() {
        assert_eq!(not_ahead(NOW, NOW), Ok(()));
        assert_eq!(not_ahead(NOW, NOW + 60_000), Ok(()));
        assert_eq!(not_ahead(NOW + MAX_AHEAD_MS, NOW), Ok(()));
        let by_ms = MAX_AHEAD_MS + 1;
        assert_eq!(not_ahead(NOW + by_ms, NOW), Err(ClockFault::Ahead { by_ms }));
    }

    #[test]
    fn batches_never_go_back_in_time() {
        assert_eq!(batch_time(NOW, NOW - 5), Ok(NOW));
        assert_eq!(batch_time(NOW, NOW + MAX_BEHIND_MS), Ok(NOW + MAX_BEHIND_MS));
        let behind = ClockFault::Behind { by_ms: MAX_BEHIND_MS + 1 };
        assert_eq!(batch_time(NOW, NOW + MAX_BEHIND_MS + 1), Err(behind));
    }

    #[test]
    fn slewing_is_no_step_however_long_it_lasts() {
        let clock = DrivenClock::at(NOW);
        let mut watch = ClockWatch::start(&clock);
        for _ in 0..100 {
            clock.advance(1_000);
            clock.set_wall(clock.now_ms() + 500);
            assert!(watch.observe(&clock).is_ok());
        }
    }

    #[test]
    fn a_step_is_refused_until_the_clock_comes_back() {
        for step in [60_000_i64, -60_000] {
            let clock = DrivenClock::at(NOW);
            let mut watch = ClockWatch::start(&clock);
            clock.advance(1_000);
            clock.set_wall(clock.now_ms().saturating_add_signed(step));
            assert_eq!(watch.observe(&clock), Err(ClockFault::Stepped { by_ms: 60_000 }));
            clock.advance(10_000);
            assert_eq!(watch.observe(&clock), Err(ClockFault::Stepped { by_ms: 60_000 }));
            clock.set_wall(clock.now_ms().saturating_add_signed(-step));
            assert_eq!(watch.observe(&clock), Ok(NOW + 11_000));
        }
    }

    #[test]
    fn a_new_line_is_believed_only_after_it_has_stood() {
        let clock = DrivenClock::at(NOW);
        let mut watch = ClockWatch::start(&clock);
        clock.set_wall(NOW + 3_600_000);
        assert!(watch.observe(&clock).is_err());
        clock.advance(SETTLE_MS - 1);
        assert!(watch.observe(&clock).is_err());
        // Another step starts the wait anew.
        clock.set_wall(NOW + 7_200_000);
        assert!(watch.observe(&clock).is_err());
        clock.advance(SETTLE_MS - 1);
        assert!(watch.observe(&clock).is_err());
        clock.advance(1);
        assert_eq!(watch.observe(&clock), Ok(clock.now_ms()));
        clock.advance(1_000);
        assert!(watch.observe(&clock).is_ok());
    }
}
