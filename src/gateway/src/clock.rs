//! Readings of the machine's clocks: what a gateway ages heads with.
//!
//! Goes out: wall time, boot time (which counts suspended time and can't be stepped) and the boot that it belongs to, read together. Judging
//! is pure and takes readings as arguments; only doors read. Refused: a machine whose clocks can't be read.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far two honest clocks may be apart, and how far boot and wall time may drift against each other unnoticed (PROTOCOL §13.2).
pub const CLOCK_LEEWAY_MS: u64 = 2_000;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the clocks can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ClockFault {
    /// The wall clock stands before 1970 or beyond what 64 bits hold.
    #[error("the wall clock is out of range")]
    Wall,
    /// No boot time.
    #[error("boot time: {0}")]
    Boot(#[from] nix::Error),
    /// The kernel doesn't say which boot this is.
    #[error("{BOOT_ID}: {0}")]
    BootId(#[from] std::io::Error),
}

/// Both clocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockReading {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Milliseconds since boot, suspended time included.
    pub boot_ms: u64,
    /// Which boot.
    pub boot_id: String,
}

impl ClockReading {
    /// Reads the machine's clocks.
    pub fn now() -> Result<Self, ClockFault> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| ClockFault::Wall)?;
        let wall_ms = u64::try_from(wall.as_millis()).map_err(|_| ClockFault::Wall)?;
        let boot = std::time::Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
        let boot_ms = u64::try_from(boot.as_millis()).map_err(|_| ClockFault::Wall)?;
        let boot_id = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { wall_ms, boot_ms, boot_id })
    }

    /// Boot time since `earlier`; `None` if that is of another boot, or later (a machine that went back to a snapshot of its memory).
    #[must_use]
    pub fn boot_since(&self, earlier: &Self) -> Option<u64> {
        if self.boot_id != earlier.boot_id {
            return None;
        }
        self.boot_ms.checked_sub(earlier.boot_ms)
    }

    /// By how much the wall clock was moved since `earlier` against boot time, without sign; `None` as [`ClockReading::boot_since`].
    #[must_use]
    pub fn wall_step_since(&self, earlier: &Self) -> Option<u64> {
        let expected = earlier.wall_ms.saturating_add(self.boot_since(earlier)?);
        Some(self.wall_ms.abs_diff(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_of_one_boot_advance_together() {
        let first = ClockReading::now().unwrap();
        let second = ClockReading::now().unwrap();
        assert!(second.boot_since(&first).is_some());
        assert_eq!(first.boot_id.len(), 36);
    }

    #[test]
    fn a_step_is_seen_in_both_directions_and_never_across_boots() {
        let first = ClockReading { wall_ms: 100_000, boot_ms: 1_000, boot_id: "a".to_owned() };
        let later = |wall_ms, boot_ms, id: &str| ClockReading { wall_ms, boot_ms, boot_id: id.to_owned() };
        assert_eq!(later(105_000, 6_000, "a").wall_step_since(&first), Some(0));
        assert_eq!(later(95_000, 6_000, "a").wall_step_since(&first), Some(10_000));
        assert_eq!(later(125_000, 6_000, "a").wall_step_since(&first), Some(20_000));
        assert_eq!(later(105_000, 6_000, "b").wall_step_since(&first), None);
        assert_eq!(later(105_000, 500, "a").boot_since(&first), None);
    }
}
