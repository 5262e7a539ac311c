//! Words that systemd extends into registers behind what a boot log tells: boot phases into PCR 11, separators into others.
//!
//! Comes in: what the log extends into a register, the value that it leads to, the quoted value. Goes out: [`WordPath`], the words between
//! the two. No log tells them to the verifier and none has to: they are public, few, and come in one order (systemd-pcrphase.service(8)), so
//! the values that may follow are computed and compared, at most [`MAX_EXTENSIONS`] of them. Refused: any other word, order or number.
//!
//! What a register holds fixes the sequence of what was extended, not where the log ends and computing begins. So words that stand at the end
//! of the log count as if they had been computed, and every way to cut one sequence in two reads the same (`InLog`, `reached`).
//!
//! Nobody proves who extended a word: boot loaders measure the bytes of files, too. So a word with anything else behind it is an event like
//! any other: lists of digests are taken from the whole register then, and the command line is absent. Three things are never looked for
//! behind the first word: the firmware's separator, whose absence refuses, the end of its services, and the sections of a kernel image.

use std::collections::BTreeMap;
use std::fmt;

use super::{Event, EventLog};
use crate::algorithm::HashAlg;

/// The words of one register, in order, and where a path of them may begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    words: &'static [&'static str],
    beginnings: &'static [usize],
}

/// The words of a system's life, for PCR 11: from the first on, or from behind those that only an initial RAM disk with systemd inside
/// measures. systemd-pcrphase.service(8): without a final zero, and hashed by each bank's own algorithm.
pub static PHASES: Series = Series {
    words: &["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"],
    beginnings: &[0, 2],
};
/// Between what ran before the system and the system itself: `systemd-pcrosseparator.service`, from 261 on, in the initial RAM disk.
pub static SEPARATOR: Series = Series { words: &["os-separator"], beginnings: &[0] };
/// PCR 9: the same, and behind the words of NvPCRs, where there are any, another one (`systemd-pcrnvdone.service`, from 259 on).
pub static SEPARATORS: Series = Series { words: &["os-separator", "nvpcr-separator"], beginnings: &[0, 1] };

/// Every series.
const ALL: [&Series; 3] = [&PHASES, &SEPARATOR, &SEPARATORS];

/// Most extensions that are computed for one quote, over all of its registers: each path to its end. Each hashes its word, too.
pub const MAX_EXTENSIONS: usize = 24;

/// The words that systemd measures into a register. UAPI.7, Linux TPM PCR Registry.
#[must_use]
pub const fn of(pcr: u32) -> Option<&'static Series> {
    match pcr {
        0..=7 | 12..=14 => Some(&SEPARATOR),
        9 => Some(&SEPARATORS),
        11 => Some(&PHASES),
        _ => None,
    }
}

impl Series {
    /// The words.
    #[must_use]
    pub const fn words(&'static self) -> &'static [&'static str] {
        self.words
    }

    /// Without any word.
    #[must_use]
    pub const fn none(&'static self) -> WordPath {
        WordPath { series: self, first: 0, end: 0 }
    }
}

/// Words that were extended one after the other, from a beginning on. Without any, nothing of the kind was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordPath {
    series: &'static Series,
    first: usize,
    end: usize,
}

impl WordPath {
    /// The words.
    #[must_use]
    pub fn words(self) -> &'static [&'static str] {
        self.series.words.get(self.first..self.end).unwrap_or_default()
    }

    /// Whether no word was measured.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first == self.end
    }

    /// Whether these are boot phases.
    pub(super) fn is_of_phases(self) -> bool {
        *self.series == PHASES
    }

    /// The path and this word behind it, if that is one.
    fn with(self, word: usize) -> Option<Self> {
        let follows = if self.is_empty() { self.series.beginnings.contains(&word) } else { word == self.end };
        let first = if self.is_empty() { word } else { self.first };
        (follows && word < self.series.words.len()).then_some(Self {
            first,
            end: word.saturating_add(1),
            ..self
        })
    }
}

/// As systemd-measure(1) writes it: words with colons between them.
impl fmt::Display for WordPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(":"))
    }
}

/// What the log itself extends into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How many events come before the first word: only these are surely not the system's.
    pub(super) before: usize,
    /// How many events there are.
    pub(super) all: usize,
    /// The words up to the last event; `None` if what begins with the first of them isn't a path.
    pub(super) path: Option<WordPath>,
}

impl Found {
    const fn nothing(series: &'static Series) -> Self {
        Self { before: 0, all: 0, path: Some(series.none()) }
    }

    fn add(&mut self, word: Option<usize>) {
        if word.is_none() && self.before == self.all {
            self.before = self.before.saturating_add(1);
        } else {
            self.path = self.path.and_then(|path| path.with(word?));
        }
        self.all = self.all.saturating_add(1);
    }

    /// How many events aren't words at the end.
    pub(super) const fn own(&self) -> usize {
        if self.path.is_some() { self.before } else { self.all }
    }
}

/// What a log extends of the words, by register. They are found by digest, which the quote proves, and at any place.
#[derive(Debug, Clone)]
pub(super) struct InLog(BTreeMap<u32, Found>);

impl InLog {
    pub(super) fn of(log: &EventLog, bank: HashAlg) -> Self {
        let hashed: [Vec<Vec<u8>>; ALL.len()] =
            ALL.map(|series| series.words.iter().map(|word| bank.digest(word.as_bytes())).collect());
        let mut found: BTreeMap<u32, Found> = BTreeMap::new();
        for event in log.events().filter(Event::extends) {
            let Some(series) = of(event.pcr()) else { continue };
            let words = ALL.iter().zip(&hashed).find(|(one, _)| **one == series).map(|(_, words)| words);
            let digest = event.digest(bank).unwrap_or_default();
            let word = words.and_then(|words| words.iter().position(|word| word == digest));
            found.entry(event.pcr()).or_insert(Found::nothing(series)).add(word);
        }
        Self(found)
    }

    /// Of a register that the log extends and that has words.
    pub(super) fn register(&self, pcr: u32) -> Option<Found> {
        self.0.get(&pcr).copied()
    }
}

/// The path with the words that lead from a value to the quoted one, of which there has to be one at least. `from` is where the log's own words
/// end. No quote costs more than [`MAX_EXTENSIONS`], and one whose values are the log's own costs none.
pub(super) fn reached(bank: HashAlg, value: &[u8], from: WordPath, quoted: &[u8]) -> Option<WordPath> {
    let beginnings: &[usize] = if from.is_empty() { from.series.beginnings } else { &[from.end] };
    beginnings.iter().find_map(|first| {
        let (mut path, mut value) = (from, value.to_vec());
        for (word, text) in from.series.words.iter().enumerate().skip(*first) {
            path = path.with(word)?;
            // TPM 2.0 Part 1, 17.4.2: new = H(old || digest).
            value = bank.digest_parts(&[&value, &bank.digest(text.as_bytes())]);
            if value == quoted {
                return Some(path);
            }
        }
        None
    })
}

/// The separators that lead from one value of a register to another one: all that the two differ by. For people; boot phases are facts of
/// their own.
#[must_use]
pub fn separators_between(bank: HashAlg, pcr: u32, from: &[u8], to: &[u8]) -> Option<WordPath> {
    let series = of(pcr).filter(|series| **series != PHASES)?;
    reached(bank, from, series.none(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_what_all_registers_take() {
        let series = || (0..=super::super::MAX_PCR).filter_map(of);
        let each = series().flat_map(|one| one.beginnings.iter().map(|first| one.words.len() - first));
        assert_eq!(each.sum::<usize>(), MAX_EXTENSIONS);
        assert!(series().all(|one| ALL.contains(&one)));
    }
}
