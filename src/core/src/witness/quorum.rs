//! Which witnesses are enough: a C2SP tlog-policy file, and its judgement of a signed checkpoint.
//!
//! In: the file; a note with whatever lines. Out: [`Witnessed`], if the rule is met. Refused: files with unknown words, undefined, repeated
//! or twice-used names, repeated keys, thresholds that can't be met; notes on which a known witness's line fails.
//!
//! Which log keys count is not this file's to say where a trust bundle says it; `log` lines are read and kept for those without one.

use std::collections::{HashMap, HashSet};

use super::cosignature::{CosignatureRefused, WitnessKey};
use super::vkey;
use crate::note::{NoteKey, SignedNote};

/// Largest file: the lines that `MAX_LINES` allows, several times over.
pub const MAX_QUORUM_BYTES: usize = 64 * 1024;
/// How far a cosignature's time may lie before its checkpoint's or after the reader's clock, seconds: witnesses keep clocks of their own.
pub const COSIGNATURE_LEEWAY_SECS: u64 = 60;
/// Most logs, most witnesses and most groups: C2SP tlog-policy asks for at least so many.
const MAX_LINES: usize = 32;

/// Why a file isn't taken: the line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct QuorumMalformed {
    /// Line, from 1; one behind the last if something is missing.
    pub line: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// Why a note isn't witnessed enough.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumRefused {
    /// A line of a known witness fails: somebody put it there who isn't the witness.
    #[error("witness {name}: {source}")]
    Invalid {
        /// The witness.
        name: String,
        /// Why.
        source: CosignatureRefused,
    },
    /// Too few.
    #[error("the quorum isn't met: cosigned in time by {}", list(.counted))]
    Unmet {
        /// Names in the file of those whose cosignatures count.
        counted: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// One witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the file.
    pub name: String,
    /// Its key.
    pub key: WitnessKey,
    /// Where it takes checkpoints.
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    threshold: usize,
    members: Vec<Member>,
}

/// The rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    logs: Vec<NoteKey>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// `None`: nobody needs to cosign.
    quorum: Option<Member>,
}

/// A checkpoint that enough witnesses cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    names: Vec<String>,
}

impl Witnessed {
    /// Names in the file of the witnesses that count.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl Quorum {
    /// Reads a file.
    ///
    /// # Errors
    /// [`QuorumMalformed`].
    pub fn parse(text: &str) -> Result<Self, QuorumMalformed> {
        if text.len() > MAX_QUORUM_BYTES {
            return Err(QuorumMalformed { line: 1, reason: "larger than 64 KiB" });
        }
        let mut reader = Reader::default();
        let mut last = 0;
        for (number, line) in text.lines().enumerate() {
            last = number + 1;
            if line.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
                return Err(QuorumMalformed { line: last, reason: "a control character" });
            }
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            if words.first().is_none_or(|first| first.starts_with('#')) {
                continue;
            }
            reader.take(&words).map_err(|reason| QuorumMalformed { line: last, reason })?;
        }
        let quorum = reader.quorum.ok_or(QuorumMalformed { line: last + 1, reason: "no quorum line" })?;
        Ok(Self { logs: reader.logs, witnesses: reader.witnesses, groups: reader.groups, quorum })
    }

    /// Keys of `log` lines.
    #[must_use]
    pub fn logs(&self) -> &[NoteKey] {
        &self.logs
    }

    /// Witnesses in the order of the file.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether enough witnesses cosigned the note. A cosignature counts if its time isn't more than [`COSIGNATURE_LEEWAY_SECS`] before the
    /// checkpoint's own time or after `now_ms`. Lines of others are ignored; whether the log signed is another question.
    ///
    /// # Errors
    /// [`QuorumRefused`].
    pub fn check(&self, note: &SignedNote, head_ms: u64, now_ms: u64) -> Result<Witnessed, QuorumRefused> {
        let earliest = (head_ms / 1_000).saturating_sub(COSIGNATURE_LEEWAY_SECS);
        let latest = (now_ms / 1_000).saturating_add(COSIGNATURE_LEEWAY_SECS);
        let mut cosigned = vec![false; self.witnesses.len()];
        for line in note.signatures() {
            let Some(at) = self.witnesses.iter().position(|witness| witness.key.made(line)) else { continue };
            let Some(witness) = self.witnesses.get(at) else { continue };
            // C2SP signed-note: a known key's line that fails speaks against the whole note.
            let time_secs = witness
                .key
                .verify(note.text(), line)
                .map_err(|source| QuorumRefused::Invalid { name: witness.name.clone(), source })?;
            if let Some(counts) = cosigned.get_mut(at) {
                *counts |= (earliest..=latest).contains(&time_secs);
            }
        }
        let names = || -> Vec<String> {
            let counted = self.witnesses.iter().zip(&cosigned).filter(|(_, counts)| **counts);
            counted.map(|(witness, _)| witness.name.clone()).collect()
        };
        if self.met(&cosigned) {
            Ok(Witnessed { names: names() })
        } else {
            Err(QuorumRefused::Unmet { counted: names() })
        }
    }

    fn met(&self, cosigned: &[bool]) -> bool {
        let mut groups: Vec<bool> = Vec::with_capacity(self.groups.len());
        let has = |member: &Member, groups: &[bool]| match member {
            Member::Witness(at) => cosigned.get(*at).copied().unwrap_or(false),
            Member::Group(at) => groups.get(*at).copied().unwrap_or(false),
        };
        // A group names only what stands before it, so that one pass is enough.
        for group in &self.groups {
            let count = group.members.iter().filter(|member| has(member, &groups)).count();
            groups.push(count >= group.threshold);
        }
        self.quorum.as_ref().is_none_or(|member| has(member, &groups))
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<NoteKey>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// Witnesses and groups share one name space.
    names: HashMap<String, Member>,
    /// Names that are a member of something already.
    used: HashSet<String>,
    #[expect(clippy::option_option, reason = "no line yet, or a line that says none")]
    quorum: Option<Option<Member>>,
}

impl Reader {
    fn take(&mut self, words: &[&str]) -> Result<(), &'static str> {
        match words {
            ["log", key] | ["log", key, _] => self.log(key),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some(url)),
            ["group", name, threshold, members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.name_quorum(name),
            _ => Err("not `log`, `witness`, `group` or `quorum` with what belongs behind it"),
        }
    }

    fn log(&mut self, key: &str) -> Result<(), &'static str> {
        let key = vkey::parse_log_key(key).map_err(|_| "not a log's verifier key")?;
        if self.logs.iter().any(|known| known.key() == key.key()) {
            return Err("the key of another log line");
        }
        self.logs.push(key);
        if self.logs.len() > MAX_LINES { Err("more than 32 logs") } else { Ok(()) }
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<&&str>) -> Result<(), &'static str> {
        let key = WitnessKey::parse(key).map_err(|_| "not a witness's verifier key")?;
        // C2SP tlog-policy: the same key under two names would count twice.
        if self.witnesses.iter().any(|known| known.key.key() == key.key()) {
            return Err("the key of another witness");
        }
        self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name: name.to_owned(), key, url: url.map(|url| (*url).to_owned()) });
        if self.witnesses.len() > MAX_LINES { Err("more than 32 witnesses") } else { Ok(()) }
    }

    fn group(&mut self, name: &str, threshold: &str, names: &[&str]) -> Result<(), &'static str> {
        let mut members = Vec::with_capacity(names.len());
        for member in names {
            members.push(self.names.get(*member).cloned().ok_or("a member that no line before defines")?);
            if !self.used.insert((*member).to_owned()) {
                return Err("a member of another group, or named twice");
            }
        }
        let threshold = match threshold {
            "any" => 1,
            "all" => members.len(),
            number => crate::checkpoint::decimal(number)
                .and_then(|number| usize::try_from(number).ok())
                .ok_or("not `any`, `all` or a number")?,
        };
        if threshold == 0 || threshold > members.len() {
            return Err("a threshold that isn't from 1 to the number of members");
        }
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { threshold, members });
        if self.groups.len() > MAX_LINES { Err("more than 32 groups") } else { Ok(()) }
    }

    fn name_quorum(&mut self, name: &str) -> Result<(), &'static str> {
        if self.quorum.is_some() {
            return Err("a second quorum line");
        }
        self.quorum = Some(match name {
            "none" => None,
            name => Some(self.names.get(name).cloned().ok_or("a name that no line before defines")?),
        });
        Ok(())
    }

    fn define(&mut self, name: &str, member: Member) -> Result<(), &'static str> {
        if name == "none" {
            return Err("`none` can't be defined");
        }
        if self.names.insert(name.to_owned(), member).is_some() {
            return Err("a name that a line before defines");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "quorum_tests.rs"]
mod tests;
