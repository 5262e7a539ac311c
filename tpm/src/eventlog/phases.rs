//! Boot phases: the words that systemd extends into PCR 11 after the kernel of a unified image has started.
//!
//! Comes in: what the log extends into that register, the value that it leads to, the quoted value. Goes out: [`PhasePath`], the words between
//! the two. No log tells them to the verifier and none has to: they are public, few, and come in one order (systemd-pcrphase.service(8)), so
//! the values that may follow are computed and compared, at most [`MAX_EXTENSIONS`] of them. Refused: any other word, order or number.
//!
//! What a register holds fixes the sequence of what was extended, not where the log ends and computing begins. So words that stand in the log
//! count as if they had been computed, and every way to cut one sequence in two reads the same (`in_log`, `reached`).

use crate::algorithm::HashAlg;
use std::fmt;

/// The words of a system's life, in order. systemd-pcrphase.service(8): without a final zero, and hashed by each bank's own algorithm.
pub const WORDS: [&str; 6] = ["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"];

/// Where a path begins: with the first word, or behind those that only an initial RAM disk with systemd inside measures.
const BEGINNINGS: [usize; 2] = [0, 2];

/// Most extensions that are computed for one quote: each path to its end.
pub const MAX_EXTENSIONS: usize = 10;

/// Words that were extended one after the other, from one of the two beginnings on. Without any, nothing of the kind was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PhasePath {
    first: usize,
    end: usize,
}

impl PhasePath {
    /// The words.
    pub fn words(self) -> &'static [&'static str] {
        WORDS.get(self.first..self.end).unwrap_or_default()
    }

    /// Whether no word was measured.
    pub const fn is_empty(self) -> bool {
        self.first == self.end
    }

    /// The path and this word behind it, if that is one.
    fn with(self, word: usize) -> Option<Self> {
        let follows = if self.is_empty() { BEGINNINGS.contains(&word) } else { word == self.end };
        let first = if self.is_empty() { word } else { self.first };
        (follows && word < WORDS.len()).then_some(Self { first, end: word.saturating_add(1) })
    }
}

/// As systemd-measure(1) writes it: words with colons between them.
impl fmt::Display for PhasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(":"))
    }
}

/// What the log itself extends of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InLog {
    /// How many events come before the first of the words: only these can be a stub's.
    pub(super) before: usize,
    /// The words up to the last event; `None` if what begins there isn't a path.
    pub(super) path: Option<PhasePath>,
}

/// Looks for the words among the digests of the register. They are found by digest, which the quote proves, and at any place.
pub(super) fn in_log<'a>(bank: HashAlg, digests: impl Iterator<Item = &'a [u8]>) -> InLog {
    let words = WORDS.map(|word| bank.digest(word.as_bytes()));
    let mut found = InLog { before: 0, path: Some(PhasePath::default()) };
    let mut begun = false;
    for digest in digests {
        let word = words.iter().position(|word| word == digest);
        begun |= word.is_some();
        if begun {
            found.path = found.path.and_then(|path| path.with(word?));
        } else {
            found.before = found.before.saturating_add(1);
        }
    }
    found
}

/// The path with the words that lead from a value to the quoted one, of which there has to be one at least. `from` is where the log's own words
/// end. One hash for each word that may follow, so that no quote costs more than [`MAX_EXTENSIONS`].
pub(super) fn reached(bank: HashAlg, value: &[u8], from: PhasePath, quoted: &[u8]) -> Option<PhasePath> {
    let beginnings: &[usize] = if from.is_empty() { &BEGINNINGS } else { &[from.end] };
    beginnings.iter().find_map(|first| {
        let (mut path, mut value) = (from, value.to_vec());
        for (word, text) in WORDS.iter().enumerate().skip(*first) {
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
