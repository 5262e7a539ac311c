//! How long pulls that could wait do wait after failed ones. Kept in the state directory, since every `exec` is a process of its own.

use crate::clock::ClockReading;
use crate::snapshot::store::{StateDir, read_bounded, replace};
use serde::{Deserialize, Serialize};

const FILE: &str = "backoff.json";
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 60_000;

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Backoff {
    failures: u32,
    boot_id: String,
    until_boot_ms: u64,
}

fn read(dir: &StateDir) -> Option<Backoff> {
    let bytes = read_bounded(&dir.file(FILE), 1_024).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Whether a pull that could wait should wait. What can't be read holds nothing up, and neither does another boot.
pub(super) fn holds(dir: &StateDir, now: &ClockReading) -> bool {
    read(dir).is_some_and(|backoff| backoff.boot_id == now.boot_id && now.boot_ms < backoff.until_boot_ms)
}

/// Doubles the wait, from one second to a minute, with up to a half more so that gateways don't come back together.
pub(super) fn failed(dir: &StateDir, now: &ClockReading) {
    let failures = read(dir).map_or(0, |backoff| backoff.failures).saturating_add(1);
    let wait = FIRST_MS.saturating_mul(1 << failures.min(7).saturating_sub(1)).min(LONGEST_MS);
    let mut random = [0; 8];
    // Without randomness the wait is merely not spread.
    let spread = getrandom::fill(&mut random).map_or(0, |()| u64::from_be_bytes(random) % (wait / 2));
    let until_boot_ms = now.boot_ms.saturating_add(wait).saturating_add(spread);
    let backoff = Backoff { failures, boot_id: now.boot_id.clone(), until_boot_ms };
    if let Err(error) = serde_json::to_vec(&backoff)
        .map_err(|error| error.to_string())
        .and_then(|bytes| replace(&dir.file(FILE), &bytes).map_err(|error| error.to_string()))
    {
        tracing::warn!(%error, "the back-off isn't kept");
    }
}

/// The authority answered.
pub(super) fn succeeded(dir: &StateDir) {
    // A file that stays merely delays a pull that could wait.
    let _ = std::fs::remove_file(dir.file(FILE));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, boot_id: &str) -> ClockReading {
        ClockReading { wall_ms: 0, boot_ms, boot_id: boot_id.to_owned() }
    }

    #[test]
    fn the_wait_doubles_up_to_a_bound_and_ends_with_success_or_reboot() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temporary.path()).unwrap();
        assert!(!holds(&dir, &at(0, "a")));
        failed(&dir, &at(0, "a"));
        assert!(holds(&dir, &at(999, "a")));
        assert!(!holds(&dir, &at(1_500, "a")));
        assert!(!holds(&dir, &at(999, "b")));
        for _ in 0..40 {
            failed(&dir, &at(0, "a"));
        }
        assert!(holds(&dir, &at(31_999, "a")));
        assert!(!holds(&dir, &at(90_000, "a")));
        succeeded(&dir);
        assert!(!holds(&dir, &at(0, "a")));
    }
}
