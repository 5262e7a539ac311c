//! A boot log held against a quote.
//!
//! Comes in: a parsed log, a verified quote, the registers that the log must explain. Goes out: [`VerifiedBootLog`]; for people and of values
//! without a quote [`ExplainedValues`].
//! Refused: a register whose quoted value the log does not lead to, at once or by way of the words that systemd measures behind it
//! ([`words`]), and a boot register without exactly one separator of the firmware's.

use std::collections::BTreeMap;

use thiserror::Error;

use super::facts::{BootFacts, is_separator_data, separator_digests};
use super::words::{self, InLog, WordPath};
use super::{EventLog, Replay, ReplayError, event_type};
use crate::algorithm::HashAlg;
use crate::quote::VerifiedQuote;

/// Why a boot log is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootLogRefusal {
    /// No register was asked for: nothing would be proven.
    #[error("no PCR to be covered")]
    NothingCovered,
    /// A register is to be explained that the quote does not cover.
    #[error("PCR {pcr} is not in the quote")]
    NotQuoted {
        /// The register.
        pcr: u32,
    },
    /// The log cannot be replayed in the quote's bank.
    #[error("event log cannot be replayed: {0}")]
    Replay(#[from] ReplayError),
    /// The log leads to another value than quoted.
    #[error(
        "PCR {pcr}, {}: expected {} as quoted, found {} by the log{}",
        place(.event.as_ref()), hex(.expected), hex(.found), may_follow(*.pcr)
    )]
    Mismatch {
        /// The register.
        pcr: u32,
        /// Where to look: the first event after the quoted value was reached, else the last event of the register.
        /// `None` when the log does not touch the register.
        event: Option<usize>,
        /// The quoted value.
        expected: Vec<u8>,
        /// The replayed value.
        found: Vec<u8>,
    },
    /// A boot register has no separator: the firmware never finished with it.
    #[error("PCR {pcr} has no separator")]
    SeparatorMissing {
        /// The register.
        pcr: u32,
    },
    /// A boot register has a second separator.
    #[error("PCR {pcr} has another separator at event {event}")]
    SeparatorRepeated {
        /// The register.
        pcr: u32,
        /// Index of the second one.
        event: usize,
    },
    /// An event calls itself separator and is none: an error separator, or unmeasured data.
    #[error("PCR {pcr} has a false separator at event {event}")]
    SeparatorFalse {
        /// The register.
        pcr: u32,
        /// Index of the event.
        event: usize,
    },
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn place(event: Option<&usize>) -> String {
    event.map_or_else(|| "no event".to_owned(), |event| format!("event {event}"))
}

/// Words that systemd may measure there.
fn may_follow(pcr: u32) -> String {
    let words = words::of(pcr).map(|series| series.words().join(", "));
    words.map_or_else(String::new, |words| format!(" (words that may follow there: {words})"))
}

/// How the quoted value of a register follows from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not at all: nothing is told of it.
    Apart,
    /// The log leads to it.
    Led,
    /// The log leads to a value, and words from there. All of these, also those that the log ends with.
    Followed(WordPath),
}

/// What the log leads to in one register.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Led {
    pcr: u32,
    value: Vec<u8>,
    /// The value in front of the words that the log ends with, if it ends with any.
    before: Option<Vec<u8>>,
    /// The words that the log ends with, where others may follow that no log tells.
    open: Option<WordPath>,
}

impl Led {
    /// Of a register that the log extends or has to explain. One that need not be explained and of which the log has nothing but words is as
    /// if the log didn't know it, so that it reads the same whether they stand in the log or not.
    fn of(log: &EventLog, replay: &Replay, in_log: &InLog, pcr: u32, required: bool) -> Option<Self> {
        let found = in_log.register(pcr);
        let value = replay.pcr(pcr).filter(|_| required || found.is_none_or(|found| found.own() > 0));
        let value = value.map(<[u8]>::to_vec);
        let value = value.or_else(|| required.then(|| log.initial(replay.bank(), pcr)))?;
        let open = match found {
            Some(found) => found.path,
            None => words::of(pcr).map(words::Series::none),
        };
        let ends = found.filter(|found| found.own() < found.all);
        let before = ends.and_then(|found| extended(log, replay.bank(), pcr, found.own()));
        Some(Self { pcr, value, before, open })
    }

    fn standing(&self, bank: HashAlg, quoted: Option<&[u8]>) -> Standing {
        let Some(quoted) = quoted else { return Standing::Apart };
        if quoted == self.value {
            return Standing::Led;
        }
        let followed = self.open.and_then(|path| words::reached(bank, &self.value, path, quoted));
        followed.map_or(Standing::Apart, Standing::Followed)
    }
}

/// The value of a register after so many of its events.
fn extended(log: &EventLog, bank: HashAlg, pcr: u32, events: usize) -> Option<Vec<u8>> {
    let own = log.events().filter(|event| event.extends() && event.pcr() == pcr).take(events);
    own.into_iter().try_fold(log.initial(bank, pcr), |value, event| {
        Some(bank.digest_parts(&[&value, event.digest(bank)?]))
    })
}

/// A log that explains the quoted registers, and what it proves. Only [`verify_replay`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBootLog {
    bank: HashAlg,
    covered: Vec<u32>,
    /// Each quoted register that the log touches or had to explain, ascending, and how its quoted value follows.
    led: Vec<(Led, Standing)>,
    facts: BootFacts,
}

impl VerifiedBootLog {
    /// What the log proves.
    pub fn facts(&self) -> &BootFacts {
        &self.facts
    }

    /// Memory that it takes: what a cache counts.
    pub fn bytes(&self) -> usize {
        let led = self.led.iter().map(|(led, _)| {
            let before = led.before.as_ref().map_or(0, Vec::capacity);
            led.value.capacity() + before + size_of::<(Led, Standing)>()
        });
        size_of::<Self>() + self.covered.capacity() * 4 + led.sum::<usize>() + self.facts.heap_bytes()
    }

    /// The bank that was replayed.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The value that an explained register had in front of the words of the system, whether they stand in the log or not: what the firmware and
    /// what it started left there. `None` of other registers.
    pub fn before_words(&self, pcr: u32) -> Option<&[u8]> {
        let (led, standing) = self.led.iter().find(|(led, _)| led.pcr == pcr)?;
        match standing {
            Standing::Apart => None,
            Standing::Led | Standing::Followed(_) => Some(led.before.as_ref().unwrap_or(&led.value)),
        }
    }

    /// Registers that the log explains, ascending: those that it had to explain, and others of the quote that it leads to, at once or by way
    /// of words.
    pub fn covered(&self) -> &[u32] {
        &self.covered
    }

    /// Whether another quote of the same registers stands to the log in each as the first one did: then just these facts follow from it, and
    /// otherwise others, or a refusal.
    pub fn serves(&self, quote: &VerifiedQuote) -> bool {
        quote.bank() == self.bank
            && self.led.iter().all(|(led, standing)| led.standing(self.bank, quote.pcr(led.pcr)) == *standing)
    }
}

/// Replays `log` in the bank of `quote` and requires that it leads to the quoted value of every register in
/// `required`, at once or by way of the words that systemd measures behind what a log tells ([`words`]). Registers that
/// grow after boot (PCR 10, for instance) are left out of `required` by the caller; one of them is explained if the log
/// touches it and leads to the quoted value in the same way, and otherwise nothing is told of it.
pub fn verify_replay(
    log: &EventLog,
    quote: &VerifiedQuote,
    required: &[u32],
) -> Result<VerifiedBootLog, BootLogRefusal> {
    let bank = quote.bank();
    let Held { led, covered, facts, .. } = hold(log, bank, &quote.pcrs().collect(), required)?;
    Ok(VerifiedBootLog { bank, covered, led, facts })
}

/// A log that leads to values which people hold: reference values, or those of a quote that was judged elsewhere. It tells people what the
/// values stand for; nothing may be decided from it, for which there is [`VerifiedBootLog`]. Only [`explain`] makes one.
#[derive(Debug, Clone)]
pub struct ExplainedValues<'a> {
    pub(super) log: &'a EventLog,
    pub(super) bank: HashAlg,
    pub(super) covered: Vec<u32>,
    pub(super) facts: BootFacts,
    pub(super) in_log: InLog,
    /// Words that lead on from the log, with those that it ends with.
    pub(super) followed: BTreeMap<u32, WordPath>,
}

impl ExplainedValues<'_> {
    /// Whether the log leads to the value of this register.
    pub fn covers(&self, pcr: u32) -> bool {
        self.covered.contains(&pcr)
    }

    /// How many of the register's events in the log aren't separators of the system at its end, and these with what follows them. Boot phases
    /// stay as they are.
    pub(super) fn ends(&self, pcr: u32) -> (usize, Option<WordPath>) {
        let found = self.in_log.register(pcr);
        let followed = self.followed.get(&pcr).copied();
        match followed.or_else(|| found.and_then(|found| found.path)) {
            Some(path) if !path.is_of_phases() => (found.map_or(0, |found| found.own()), Some(path)),
            _ => (usize::MAX, None),
        }
    }
}

/// Replays `log` in `bank` and requires, as [`verify_replay`] does of a quote, that it leads to the value of every register in `required`.
pub fn explain<'a>(
    log: &'a EventLog,
    bank: HashAlg,
    values: &[(u32, Vec<u8>)],
    required: &[u32],
) -> Result<ExplainedValues<'a>, BootLogRefusal> {
    let values = values.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
    let Held { led, covered, facts, in_log } = hold(log, bank, &values, required)?;
    let followed = led.iter().filter_map(|(led, standing)| match standing {
        Standing::Followed(path) => Some((led.pcr, *path)),
        Standing::Apart | Standing::Led => None,
    });
    Ok(ExplainedValues { log, bank, covered, facts, in_log, followed: followed.collect() })
}

/// How a log stands to values, and what follows from it.
struct Held {
    led: Vec<(Led, Standing)>,
    covered: Vec<u32>,
    facts: BootFacts,
    in_log: InLog,
}

fn hold(
    log: &EventLog,
    bank: HashAlg,
    values: &BTreeMap<u32, &[u8]>,
    required: &[u32],
) -> Result<Held, BootLogRefusal> {
    if required.is_empty() {
        return Err(BootLogRefusal::NothingCovered);
    }
    let (replay, in_log) = (log.replay(bank)?, InLog::of(log, bank));
    let led = |(pcr, quoted): (&u32, &&[u8])| {
        let led = Led::of(log, &replay, &in_log, *pcr, required.contains(pcr))?;
        let standing = led.standing(bank, Some(quoted));
        Some((led, standing))
    };
    let led: Vec<(Led, Standing)> = values.iter().filter_map(led).collect();
    for &pcr in required {
        let expected = *values.get(&pcr).ok_or(BootLogRefusal::NotQuoted { pcr })?;
        let apart = led.iter().find(|(led, standing)| led.pcr == pcr && *standing == Standing::Apart);
        if let Some((led, _)) = apart {
            let event = divergence(log, bank, pcr, expected);
            let (expected, found) = (expected.to_vec(), led.value.clone());
            return Err(BootLogRefusal::Mismatch { pcr, event, expected, found });
        }
    }
    // Boot registers of the quote need their separator whether or not the caller lists them.
    for pcr in values.keys().copied().filter(|pcr| *pcr <= 7) {
        require_one_separator(log, bank, &in_log, pcr)?;
    }
    let explained = led.iter().filter(|(_, standing)| *standing != Standing::Apart);
    let covered: Vec<u32> = explained.map(|(led, _)| led.pcr).collect();
    let facts = BootFacts::extract(log, bank, &in_log, &covered);
    let phases = led.iter().find_map(|(_, standing)| match standing {
        Standing::Followed(path) if path.is_of_phases() => Some(*path),
        Standing::Apart | Standing::Led | Standing::Followed(_) => None,
    });
    let facts = match phases {
        Some(path) => facts.followed_by(path),
        None => facts,
    };
    Ok(Held { led, covered, facts, in_log })
}

/// Where the log and the quoted value part.
fn divergence(log: &EventLog, bank: HashAlg, pcr: u32, quoted: &[u8]) -> Option<usize> {
    let mut value = log.initial(bank, pcr);
    let mut reached = value == quoted;
    let mut last = None;
    for event in log.events().filter(|event| event.extends() && event.pcr() == pcr) {
        if reached {
            return Some(event.index());
        }
        value = bank.digest_parts(&[&value, event.digest(bank)?]);
        reached = value == quoted;
        last = Some(event.index());
    }
    last
}

/// Exactly one separator, in front of all words of the system. TCG PC Client Platform Firmware Profile 1.06, 3.3.2.2 and 10.4.1: its data is four bytes
/// of 00 or of FF and its digest is over them; 00000001 announces an error. Separators are counted by digest, which
/// the quote proves, and not by type, which nothing proves.
fn require_one_separator(
    log: &EventLog,
    bank: HashAlg,
    in_log: &InLog,
    pcr: u32,
) -> Result<(), BootLogRefusal> {
    let genuine = separator_digests(bank);
    let firmware = in_log.register(pcr).map_or(0, |found| found.before);
    let mut found = None;
    let events = log.events().filter(|event| event.extends() && event.pcr() == pcr);
    for (at, event) in events.enumerate() {
        let measured = event.digest(bank).is_some_and(|digest| genuine.iter().any(|one| one == digest));
        let named = event.kind() == event_type::SEPARATOR;
        if named && !(measured && is_separator_data(event.data()) && event.data_is_measured(bank)) {
            return Err(BootLogRefusal::SeparatorFalse { pcr, event: event.index() });
        }
        if measured {
            if found.is_some() {
                return Err(BootLogRefusal::SeparatorRepeated { pcr, event: event.index() });
            }
            found = Some(at);
        }
    }
    // Behind a word it isn't the firmware's, which never finished with the register then.
    if found.is_some_and(|at| at < firmware) { Ok(()) } else { Err(BootLogRefusal::SeparatorMissing { pcr }) }
}
