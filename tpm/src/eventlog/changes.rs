//! What changed between two boots, for people.
//!
//! Comes in: two logs that explain values ([`ExplainedValues`]), and the registers whose values differ. Goes out: [`Change`]s, the events that
//! only one of them has, put together by what they are about; [`FactChange`]s. Refused: registers that either log doesn't explain, of which
//! nothing is told.
//!
//! Every text that goes out is fit to be printed (`told.rs`). What is proven of it is said with it: a digest always, a text always, a name
//! if `name_proven`. Nothing may be decided from any of it.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::describe::{Described, describe, describe_words};
use super::facts::{BootFacts, SecureBoot};
use super::variable::{self, Signature};
use super::words::WordPath;
use super::{Event, ExplainedValues, pairs, told};

pub use super::describe::Subject;
pub use super::told::MAX_TOLD_CHARS;

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Both have it, not the same.
    Changed,
    /// Only the host has it.
    Gained,
    /// Only the reference has it.
    Lost,
    /// Both have it, in another order.
    Moved,
    /// The host has it; nothing is known of the reference.
    Present,
}

/// A part of a key database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// An X.509 certificate.
    Certificate,
    /// Digests of images, as a number of them.
    ImageDigests,
    /// Other entries, as a number of them.
    OtherEntries,
    /// The same entries, in another order or of other owners.
    Arrangement,
}

/// How it is in one of the two boots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Path, name of a variable, subject of a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it says. Proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// As it was measured, hexadecimal; of a certificate SHA-256. Proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One difference between two boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The register.
    pub pcr: u32,
    /// What it is about.
    pub subject: Subject,
    /// Which part of it, of a key database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// What became of it.
    pub change: ChangeKind,
    /// As it was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Side>,
    /// As the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Side>,
    /// Whether the digests stand for the names, too; otherwise these are what a log says.
    pub name_proven: bool,
}

/// A fact that isn't the same in both boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactChange {
    /// What it is about.
    pub fact: Subject,
    /// As it was captured; absent if it can't be told for sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// As the host has it; absent if it can't be told for sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// What changed in these registers, so far as both logs explain them, in the order of registers; of one register in the order of its events, and what
/// there are dozens of (commands, files) last.
#[must_use]
pub fn between(reference: &ExplainedValues<'_>, host: &ExplainedValues<'_>, pcrs: &[u32]) -> Vec<Change> {
    if reference.bank != host.bank {
        return Vec::new();
    }
    let both = pcrs.iter().filter(|pcr| reference.covers(**pcr) && host.covers(**pcr));
    both.flat_map(|pcr| of_register(*pcr, &described(reference, *pcr), &described(host, *pcr))).collect()
}

/// The host's own events of these registers, so far as its log explains them.
#[must_use]
pub fn events(host: &ExplainedValues<'_>, pcrs: &[u32]) -> Vec<Change> {
    let explained = pcrs.iter().copied().filter(|pcr| host.covers(*pcr));
    let present = |pcr: u32| {
        described(host, pcr).into_iter().map(move |one| change(pcr, ChangeKind::Present, None, Some(&one)))
    };
    explained.flat_map(present).collect()
}

/// Facts that differ. Facts are told of what a log proves for sure, whoever edited it; so one may be absent where there are events.
#[must_use]
pub fn facts_between(reference: &ExplainedValues<'_>, host: &ExplainedValues<'_>) -> Vec<FactChange> {
    let of = |facts: &BootFacts| {
        let secure_boot = match facts.secure_boot {
            SecureBoot::On => Some("on".to_owned()),
            SecureBoot::Off => Some("off".to_owned()),
            SecureBoot::Empty => Some("without a value".to_owned()),
            SecureBoot::Unknown => None,
        };
        [
            (Subject::FirmwareVersion, facts.firmware_version.clone()),
            (Subject::SecureBoot, secure_boot),
            (Subject::SbatLevel, facts.sbat_level.clone()),
            (Subject::CommandLine, facts.kernel_cmdline.clone()),
            (Subject::Phase, facts.phases.map(|path| path.words().join(", "))),
        ]
    };
    let pairs = of(&reference.facts).into_iter().zip(of(&host.facts));
    pairs
        .filter(|((_, was), (_, is))| was != is)
        .map(|((fact, was), (_, is))| {
            let (reference, host) = texts(was.as_deref(), is.as_deref());
            FactChange { fact, reference, host }
        })
        .collect()
}

fn described<'a>(log: &ExplainedValues<'a>, pcr: u32) -> Vec<Described<'a>> {
    let events = log.log.events().filter(move |event: &Event<'_>| event.extends() && event.pcr() == pcr);
    let (own, path) = log.ends(pcr);
    let mut described = describe(events.take(own), log.bank);
    described.extend(path.into_iter().flat_map(|path: WordPath| describe_words(path, log.bank)));
    described
}

/// Whether one event stands for another one.
type Rule<'a> = &'a dyn Fn(&Described<'_>, &Described<'_>) -> bool;

fn of_register(pcr: u32, was: &[Described<'_>], is: &[Described<'_>]) -> Vec<Change> {
    let keys = |all: &[Described<'_>]| -> Vec<(u32, Vec<u8>)> {
        all.iter().map(|one| (one.kind, one.digest.to_vec())).collect()
    };
    let (lost, gained) = pairs::unpaired(&keys(was), &keys(is));
    let pick = |all: &[usize], of: &[Described<'_>]| -> Vec<Option<usize>> {
        all.iter().map(|at| Some(*at).filter(|at| of.get(*at).is_some())).collect()
    };
    let (mut lost, mut gained) = (pick(&lost, was), pick(&gained, is));
    let mut found: Vec<((bool, usize), Vec<Change>)> = Vec::new();
    let place = |one: &Described<'_>| (one.subject.is_one_of_many(), one.at);
    // The same at another place; then what stands for the same thing by name; then the only one of its kind, or the next in order.
    let same = |a: &Described<'_>, b: &Described<'_>| (a.kind, &a.digest) == (b.kind, &b.digest);
    let named = |a: &Described<'_>, b: &Described<'_>| {
        a.name.is_some() && (a.subject, &a.name) == (b.subject, &b.name)
    };
    let next = |a: &Described<'_>, b: &Described<'_>| a.subject == b.subject && a.subject.stands_in();
    let rules: [Rule<'_>; 3] = [&same, &named, &next];
    for (pass, rule) in rules.into_iter().enumerate() {
        for left in &mut lost {
            let Some(old) = left.and_then(|at| was.get(at)) else { continue };
            let fits = |right: &&mut Option<usize>| {
                right.and_then(|at| is.get(at)).is_some_and(|new| rule(old, new))
            };
            let Some(right) = gained.iter_mut().find(fits) else { continue };
            if let Some(new) = right.take().and_then(|at| is.get(at)) {
                let told = if pass == 0 {
                    vec![change(pcr, ChangeKind::Moved, Some(old), Some(new))]
                } else {
                    changed(pcr, old, new)
                };
                found.push((place(new), told));
                *left = None;
            }
        }
    }
    for old in lost.into_iter().flatten().filter_map(|at| was.get(at)) {
        found.push((place(old), vec![change(pcr, ChangeKind::Lost, Some(old), None)]));
    }
    for new in gained.into_iter().flatten().filter_map(|at| is.get(at)) {
        found.push((place(new), vec![change(pcr, ChangeKind::Gained, None, Some(new))]));
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().flat_map(|(_, changes)| changes).collect()
}

fn changed(pcr: u32, old: &Described<'_>, new: &Described<'_>) -> Vec<Change> {
    let whole = change(pcr, ChangeKind::Changed, Some(old), Some(new));
    let (Some(was), Some(is)) = (old.database, new.database) else { return vec![whole] };
    let (Some(was), Some(is)) = (Database::read(was), Database::read(is)) else { return vec![whole] };
    let parts = was.parts_changed(&is, &whole);
    if parts.is_empty() {
        return vec![Change { item: Some(Item::Arrangement), ..whole }];
    }
    parts
}

fn change(
    pcr: u32,
    change: ChangeKind,
    reference: Option<&Described<'_>>,
    host: Option<&Described<'_>>,
) -> Change {
    let one = host.or(reference);
    let text = |side: Option<&Described<'_>>| side.and_then(|side| side.text.clone());
    let (was, is) = texts(text(reference).as_deref(), text(host).as_deref());
    let side = |side: &Described<'_>, text: Option<String>| {
        let digest = match side.certificate {
            Some(certificate) => variable::sha256(certificate).to_vec(),
            None => side.digest.to_vec(),
        };
        Side {
            name: side.name.as_deref().map(told::printable),
            text,
            digest: Some(data_encoding::HEXLOWER.encode(&digest)),
        }
    };
    Change {
        pcr,
        subject: one.map_or(Subject::Event, |one| one.subject),
        item: None,
        change,
        reference: reference.map(|one| side(one, was)),
        host: host.map(|one| side(one, is)),
        name_proven: [reference, host].into_iter().flatten().all(|one| one.name.is_none() || one.name_proven),
    }
}

fn texts(was: Option<&str>, is: Option<&str>) -> (Option<String>, Option<String>) {
    match (was, is) {
        (Some(was), Some(is)) => {
            let (was, is) = told::parted(was, is);
            (Some(was), Some(is))
        }
        (was, is) => (was.map(told::printable), is.map(told::printable)),
    }
}

/// What is in a key database.
#[derive(Default)]
struct Database<'a> {
    certificates: BTreeSet<&'a [u8]>,
    images: BTreeSet<&'a [u8]>,
    others: BTreeSet<&'a [u8]>,
}

impl<'a> Database<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let mut found = Self::default();
        let read = variable::each_signature(value, |signature| {
            match signature {
                Signature::Certificate(one) => found.certificates.insert(one),
                Signature::ImageDigest(one) => found.images.insert(one),
                Signature::Other(one) => found.others.insert(one),
            };
        });
        read.ok().map(|()| found)
    }

    fn parts_changed(&self, is: &Self, whole: &Change) -> Vec<Change> {
        let part = |item: Item, kind: ChangeKind, side: Side| {
            let (reference, host) =
                if kind == ChangeKind::Lost { (Some(side), None) } else { (None, Some(side)) };
            Change { item: Some(item), change: kind, reference, host, ..whole.clone() }
        };
        let certificate = |one: &[u8]| Side {
            name: told::subject(one).as_deref().map(told::printable),
            text: None,
            digest: Some(data_encoding::HEXLOWER.encode(&variable::sha256(one))),
        };
        let number = |count: usize| Side { text: Some(count.to_string()), ..Side::default() };
        let mut parts = Vec::new();
        for (kind, from, to) in [(ChangeKind::Lost, self, is), (ChangeKind::Gained, is, self)] {
            let certificates =
                from.certificates.difference(&to.certificates).take(variable::MAX_CERTIFICATES);
            parts.extend(certificates.map(|one| part(Item::Certificate, kind, certificate(one))));
            let counts = [
                (Item::ImageDigests, from.images.difference(&to.images).count()),
                (Item::OtherEntries, from.others.difference(&to.others).count()),
            ];
            let some = counts.into_iter().filter(|(_, count)| *count > 0);
            parts.extend(some.map(|(item, count)| part(item, kind, number(count))));
        }
        parts
    }
}
