//! The newest refusal of each host, for operators: what a leaf and an answer don't tell.
//!
//! Comes in: a host, the code that it was answered, the detail that it wasn't, and when. Goes out: the newest of them, and a line in this
//! process's own log for each that is news. Kept in memory alone: what another replica refused, or this one before it was started, isn't known
//! here; the code of every logged refusal is in its leaf. Bounded: so many hosts, so much text of each.

use super::{Authority, MAX_REMEMBERED, lock};
use countersign_core::api::admin::LastRefusal;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// Longest detail kept, characters: a boot log's place with two SHA-512 values has 320.
const MAX_DETAIL: usize = 512;
/// The same refusal again is news after so long.
const NEWS_MS: u64 = 60_000;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the host was answered.
    pub code: RefusalCode,
    /// What it wasn't, without control characters; may be empty.
    pub detail: String,
    /// When, ms since the Unix epoch.
    pub time_ms: u64,
}

impl Refusal {
    /// With a detail that is bounded and can be printed: parts of it may be the host's own words.
    #[must_use]
    pub fn new(code: RefusalCode, detail: &str, time_ms: u64) -> Self {
        let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Self { code, detail: detail.chars().take(MAX_DETAIL).map(printable).collect(), time_ms }
    }

    /// As the admin API shows it.
    #[must_use]
    pub fn document(&self) -> LastRefusal {
        LastRefusal {
            code: self.code.as_str().to_owned(),
            detail: self.detail.clone(),
            time_ms: self.time_ms,
        }
    }
}

/// The newest refusal of each of the hosts that were refused last.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_host: HashMap<HostId, Kept>,
    by_age: BTreeMap<u64, HostId>,
    next: u64,
}

struct Kept {
    age: u64,
    refusal: Refusal,
    /// When there was a line of it.
    told_ms: u64,
}

impl Refusals {
    fn of(&self, host: &HostId) -> Option<Refusal> {
        lock(&self.0).by_host.get(host).map(|kept| kept.refusal.clone())
    }

    /// Keeps it in the place of the host's older one, and of the host's that was refused longest ago where there is no room; says whether it
    /// is news.
    fn keep(&self, host: HostId, refusal: Refusal, capacity: usize) -> bool {
        let mut inner = lock(&self.0);
        let older = inner.by_host.remove(&host);
        if let Some(older) = &older {
            inner.by_age.remove(&older.age);
        }
        while inner.by_host.len() >= capacity {
            let Some((_, oldest)) = inner.by_age.pop_first() else { break };
            inner.by_host.remove(&oldest);
        }
        let known = |older: &Kept| {
            (older.refusal.code, &older.refusal.detail) == (refusal.code, &refusal.detail)
                && refusal.time_ms < older.told_ms.saturating_add(NEWS_MS)
        };
        let told = older.filter(known).map(|older| older.told_ms);
        let age = inner.next;
        inner.next = age.wrapping_add(1);
        inner.by_age.insert(age, host);
        let told_ms = told.unwrap_or(refusal.time_ms);
        inner.by_host.insert(host, Kept { age, refusal, told_ms });
        told.is_none()
    }
}

impl Authority {
    /// The newest refusal of a host that this process knows of.
    #[must_use]
    pub fn last_refusal(&self, host: &HostId) -> Option<Refusal> {
        self.refusals.of(host)
    }

    /// Notes why a host was refused, for operators.
    pub fn note_refusal(&self, host: HostId, refusal: Refusal) {
        let (code, detail) = (refusal.code.as_str(), refusal.detail.clone());
        if self.refusals.keep(host, refusal, MAX_REMEMBERED) {
            tracing::warn!(%host, code, detail, "refused");
        } else {
            tracing::debug!(%host, code, "refused again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> HostId {
        HostId::from_slice(&[&[1][..], &[number; 32]].concat()).unwrap()
    }

    fn refusal(detail: &str, time_ms: u64) -> Refusal {
        Refusal::new(RefusalCode::BootLogMismatch, detail, time_ms)
    }

    #[test]
    fn the_newest_is_kept_and_the_same_again_is_no_news_for_a_minute() {
        let kept = Refusals::default();
        assert_eq!(kept.of(&host(1)), None);
        assert!(kept.keep(host(1), refusal("a", 0), 8));
        assert!(!kept.keep(host(1), refusal("a", NEWS_MS - 1), 8));
        assert_eq!(kept.of(&host(1)).unwrap().time_ms, NEWS_MS - 1, "the newest, also where it isn't news");
        assert!(kept.keep(host(1), refusal("a", NEWS_MS), 8));
        assert!(kept.keep(host(1), refusal("b", NEWS_MS), 8));
        assert!(kept.keep(host(2), refusal("b", NEWS_MS), 8));
        let other = Refusal::new(RefusalCode::BootLogMissing, "b", NEWS_MS);
        assert!(kept.keep(host(1), other.clone(), 8));
        assert_eq!(kept.of(&host(1)), Some(other));
    }

    #[test]
    fn where_there_is_no_room_the_host_that_was_refused_longest_ago_is_forgotten() {
        let kept = Refusals::default();
        for (number, time_ms) in [(1, 1), (2, 2), (1, 3), (3, 4)] {
            kept.keep(host(number), refusal("a", time_ms), 2);
        }
        assert_eq!([1, 2, 3].map(|number| kept.of(&host(number)).is_some()), [true, false, true]);
        let inner = lock(&kept.0);
        assert_eq!((inner.by_host.len(), inner.by_age.len()), (2, 2));
    }

    #[test]
    fn a_detail_is_bounded_and_has_no_control_characters() {
        let refusal = refusal(&"\u{1b}[2J\n".repeat(400), 0);
        assert_eq!(refusal.detail.chars().count(), MAX_DETAIL);
        assert!(refusal.detail.starts_with("\u{fffd}[2J\u{fffd}"), "{}", refusal.detail);
    }
}
