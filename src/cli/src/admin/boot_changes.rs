//! What changed between the boot that reference values were captured from and the one of a host, in words.
//!
//! Comes in: a generation, a host's evidence, the registers that differ. Goes out: [`Boot`], for programs and for people. Refused: logs that don't
//! lead to the values that they are named with; of these nothing is told. The authority decides by values alone; a log that explains them says
//! what they stand for. That two values differ by a separator of systemd's alone is told without a log: the values say so.
//!
//! Both logs are hostile. What is printed of them went through `countersign_tpm::eventlog::changes`, which leaves no control character and no text
//! without an end in it.

use super::Context;
use crate::failure::Failure;
use countersign_authority::verify::explained_by_boot_log;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::Generation;
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::changes::{
    Change, ChangeKind, FactChange, Item, Side, Subject, between, events, facts_between,
};
use countersign_tpm::eventlog::words::separators_between;
use countersign_tpm::eventlog::{EventLog, ExplainedValues, explain};
use serde::Serialize;
use std::collections::BTreeMap;

/// Most lines of one register.
const MAX_LINES: usize = 48;
/// Characters of a text that people are shown if it isn't beside another one.
const MAX_SHOWN_CHARS: usize = 320;
/// Hexadecimal digits of a digest that people are shown; programs get all.
const SHOWN_DIGITS: usize = 16;

/// What there is of a boot log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    /// It leads to the values.
    Explains,
    /// The generation doesn't say what it was captured from.
    NotNamed,
    /// Evidence or log were pruned.
    Pruned,
    /// Evidence or log aren't in this store.
    Missing,
    /// The evidence names no log.
    NoBootLog,
    /// Evidence or log can't be read.
    Malformed,
    /// It leads to other values.
    OtherValues,
}

impl Standing {
    const fn words(self) -> &'static str {
        match self {
            Self::Explains => "leads to the values",
            Self::NotNamed => "isn't known: the generation doesn't say what evidence it was captured from",
            Self::Pruned => "was pruned",
            Self::Missing => "isn't in this store",
            Self::NoBootLog => "was never sent: the evidence names none",
            Self::Malformed => "can't be read",
            Self::OtherValues => "leads to other values, so that nothing is told from it",
        }
    }
}

/// A register whose two values differ by separators of the system and nothing else.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Separated {
    pcr: u32,
    /// Whether the host measured them; otherwise the boot that the generation was captured from did.
    change: ChangeKind,
    words: Vec<&'static str>,
}

impl Separated {
    fn of(bank: HashAlg, pcr: u32, reference: &[u8], host: &[u8]) -> Option<Self> {
        let ways = [(ChangeKind::Gained, reference, host), (ChangeKind::Lost, host, reference)];
        ways.into_iter().find_map(|(change, from, to)| {
            let words = separators_between(bank, pcr, from, to)?.words().to_vec();
            Some(Self { pcr, change, words })
        })
    }
}

/// What changed, so far as logs tell it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Boot {
    /// The log of the boot that the generation was captured from.
    reference_log: Standing,
    /// The host's.
    host_log: Standing,
    /// Registers that differ by separators of the system alone.
    separated: Vec<Separated>,
    /// Facts that aren't the same.
    facts: Vec<FactChange>,
    /// Events of registers that differ and that only one of the boots has.
    changes: Vec<Change>,
    /// The host's events of registers that differ, where the other log isn't known.
    host_events: Vec<Change>,
    /// Registers that differ and that no boot log explains.
    unexplained: Vec<u32>,
}

/// Boot logs as they were fetched, by the evidence that names them.
#[derive(Default)]
pub(super) struct Logs(BTreeMap<Sha256Digest, Result<EventLog, Standing>>);

impl Logs {
    /// Compares the boots of a host and of a generation in the registers that differ; none if they can't be compared at all.
    pub(super) async fn compare(
        &mut self,
        context: &Context,
        generation: &Generation,
        host: &EvidenceRecord,
        differ: &[u32],
    ) -> Result<Option<Boot>, Failure> {
        let Some(bank) = HashAlg::from_id(generation.bank).ok().filter(|_| generation.bank == host.bank)
        else {
            return Ok(None);
        };
        let host_log = boot_log(context, host).await?;
        if let Some(evidence) = &generation.evidence
            && !self.0.contains_key(evidence)
        {
            let log = of_evidence(context, evidence).await?;
            self.0.insert(*evidence, log);
        }
        let unknown = Err(Standing::NotNamed);
        let reference_log =
            generation.evidence.and_then(|evidence| self.0.get(&evidence)).unwrap_or(&unknown);
        Ok(Some(compared(bank, (reference_log, &generation.pcrs), (&host_log, &host.pcrs), differ)))
    }
}

/// A log, and the values that it should lead to.
type Told<'a> = (&'a Result<EventLog, Standing>, &'a [(u32, Vec<u8>)]);

fn compared(bank: HashAlg, reference: Told<'_>, host: Told<'_>, differ: &[u32]) -> Boot {
    let value = |(_, values): Told<'_>, pcr: u32| {
        values.iter().find(|(one, _)| *one == pcr).map(|(_, value)| value.clone())
    };
    let separated = |pcr: &u32| Separated::of(bank, *pcr, &value(reference, *pcr)?, &value(host, *pcr)?);
    let separated: Vec<Separated> = differ.iter().filter_map(separated).collect();
    let (reference, host) = (explained(bank, reference), explained(bank, host));
    let standing = |log: &Result<ExplainedValues<'_>, Standing>| {
        log.as_ref().err().copied().unwrap_or(Standing::Explains)
    };
    let mut boot = Boot {
        reference_log: standing(&reference),
        host_log: standing(&host),
        separated,
        facts: Vec::new(),
        changes: Vec::new(),
        host_events: Vec::new(),
        unexplained: Vec::new(),
    };
    let covers = |log: &Result<ExplainedValues<'_>, Standing>, pcr: u32| {
        log.as_ref().map_or(true, |log| log.covers(pcr))
    };
    let unexplained = differ.iter().filter(|pcr| !covers(&reference, **pcr) || !covers(&host, **pcr));
    boot.unexplained = unexplained.copied().collect();
    match (&reference, &host) {
        (Ok(reference), Ok(host)) => {
            boot.facts = facts_between(reference, host);
            boot.changes = between(reference, host, differ);
        }
        (Err(_), Ok(host)) => boot.host_events = events(host, differ),
        (_, Err(_)) => {}
    }
    boot
}

fn explained<'a>(bank: HashAlg, (log, values): Told<'a>) -> Result<ExplainedValues<'a>, Standing> {
    let log = log.as_ref().map_err(|standing| *standing)?;
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    explain(log, bank, values, &explained_by_boot_log(&pcrs)).map_err(|_| Standing::OtherValues)
}

async fn of_evidence(
    context: &Context,
    evidence: &Sha256Digest,
) -> Result<Result<EventLog, Standing>, Failure> {
    let bytes = match blob(context, evidence).await? {
        Ok(bytes) => bytes,
        Err(standing) => return Ok(Err(standing)),
    };
    match EvidenceRecord::parse(&bytes) {
        Ok(record) => boot_log(context, &record).await,
        Err(_) => Ok(Err(Standing::Malformed)),
    }
}

async fn boot_log(context: &Context, record: &EvidenceRecord) -> Result<Result<EventLog, Standing>, Failure> {
    let Some(digest) = &record.boot_log else { return Ok(Err(Standing::NoBootLog)) };
    let bytes = blob(context, digest).await?;
    Ok(bytes.and_then(|bytes| EventLog::parse(&bytes).map_err(|_| Standing::Malformed)))
}

/// A member, if the store has it.
async fn blob(context: &Context, digest: &Sha256Digest) -> Result<Result<Vec<u8>, Standing>, Failure> {
    match context.admin.client.blob(digest).await {
        Ok(bytes) if sha256(&bytes) == *digest => Ok(Ok(bytes)),
        Ok(_) => Err(anyhow::anyhow!("the authority answered with another member than {digest}").into()),
        Err(error) => match error.code() {
            Some(RefusalCode::EvidencePruned) => Ok(Err(Standing::Pruned)),
            Some(RefusalCode::NotFound) => Ok(Err(Standing::Missing)),
            _ => Err(error.into()),
        },
    }
}

impl Boot {
    /// For people: a line for each change, each with its register.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match (self.reference_log, self.host_log) {
            (Standing::Explains, Standing::Explains) => {}
            (reference, Standing::Explains) => {
                lines.push(format!("the boot log of the reference values {}", reference.words()));
                lines.push("what the host started and measured in the registers that differ:".to_owned());
            }
            (_, host) => lines.push(format!("the host's boot log {}", host.words())),
        }
        lines.extend(self.separators());
        for pcr in self.unexplained.iter().filter(|pcr| !self.is_separated(**pcr)) {
            lines.push(format!("PCR {pcr}: no boot log leads to its value: it grows after boot"));
        }
        let mut of_register = BTreeMap::<u32, usize>::new();
        let events = self.changes.iter().chain(&self.host_events);
        for change in events.filter(|change| !self.is_separated(change.pcr)) {
            let count = of_register.entry(change.pcr).or_default();
            *count += 1;
            if *count <= MAX_LINES {
                lines.push(line(change));
            }
        }
        for (pcr, count) in of_register.into_iter().filter(|(_, count)| *count > MAX_LINES) {
            lines.push(format!("PCR {pcr}: and {} more, which --json tells", count - MAX_LINES));
        }
        // What is in both is told by events, but for phases, which no log has; a fact that can't be told any more may have no event of its own.
        let no_event = |fact: &&FactChange| {
            fact.fact == Subject::Phase || fact.reference.is_none() || fact.host.is_none()
        };
        for fact in self.facts.iter().filter(no_event) {
            let text = |text: &Option<String>| {
                text.as_deref().map_or_else(|| "not to be told for sure".to_owned(), quoted)
            };
            let words = fact.fact.words();
            lines.push(format!("{words}: {} -> {}", text(&fact.reference), text(&fact.host)));
        }
        if self.changes.iter().chain(&self.host_events).any(|change| !self.is_separated(change.pcr)) {
            lines.push(
                "what an event is, and paths and names that aren't in double quotes, are what the logs say; registers, digests and what is in double quotes are proven"
                    .to_owned(),
            );
        }
        lines
    }

    /// For people, in one line: the first change, and how many there are.
    pub(super) fn reason(&self) -> Option<String> {
        let changes = self.changes.iter().filter(|change| !self.is_separated(change.pcr));
        let lines: Vec<String> = changes.map(line).chain(self.separators()).collect();
        let first = lines.first()?;
        Some(match lines.len() {
            1 => first.clone(),
            count => format!("{first}; and {} more", count - 1),
        })
    }

    fn is_separated(&self, pcr: u32) -> bool {
        self.separated.iter().any(|one| one.pcr == pcr)
    }

    /// A line for all registers that differ by the same separators and nothing else.
    fn separators(&self) -> Vec<String> {
        let mut alike: Vec<(ChangeKind, &[&str], Vec<String>)> = Vec::new();
        for one in &self.separated {
            let pcr = one.pcr.to_string();
            let same = |known: &&mut (ChangeKind, &[&str], Vec<String>)| {
                (known.0, known.1) == (one.change, one.words.as_slice())
            };
            match alike.iter_mut().find(same) {
                Some((_, _, pcrs)) => pcrs.push(pcr),
                None => alike.push((one.change, &one.words, vec![pcr])),
            }
        }
        let told = |(change, words, pcrs): (ChangeKind, &[&str], Vec<String>)| {
            let word: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            let (many, verb) = if pcrs.len() == 1 { ("", "s") } else { ("s", "") };
            let when = match change {
                ChangeKind::Lost => "which was measured when the values were captured and isn't any more",
                _ => "which systemd measures now and didn't when the values were captured",
            };
            format!("PCR{many} {}: differ{verb} by {} alone, {when}", pcrs.join(", "), word.join(" and "))
        };
        alike.into_iter().map(told).collect()
    }
}

/// One change.
fn line(change: &Change) -> String {
    let subject = change.subject.words();
    let (was, is) = (change.reference.as_ref(), change.host.as_ref());
    let one = is.or(was).cloned().unwrap_or_default();
    let became = match change.change {
        ChangeKind::Lost => "lost",
        _ => "gained",
    };
    let count = one.text.as_deref().unwrap_or("0");
    let words = match (change.item, change.change) {
        (Some(Item::Certificate), _) => {
            let name = one.name.as_deref().map_or_else(String::new, |name| format!(" {}", quoted(name)));
            format!("{subject} {became} certificate{name} ({})", digest(&one))
        }
        (Some(Item::ImageDigests), _) => {
            format!("{subject} {became} {count} image digest{}", if count == "1" { "" } else { "s" })
        }
        (Some(Item::OtherEntries), _) => {
            format!("{subject} {became} {count} other {}", if count == "1" { "entry" } else { "entries" })
        }
        (Some(Item::Arrangement), _) => {
            format!("{subject} has the same entries in another order or of other owners")
        }
        (None, ChangeKind::Changed) => match (was, is) {
            (Some(was), Some(is)) => format!("{subject} changed: {}", from_to(was, is)),
            _ => format!("{subject} changed"),
        },
        (None, ChangeKind::Gained) => format!("{subject} appeared: {}", whole(&one)),
        (None, ChangeKind::Lost) => format!("{subject} gone: {}", whole(&one)),
        (None, ChangeKind::Moved) => format!("{subject} in another place: {}", whole(&one)),
        (None, ChangeKind::Present) => format!("{subject}: {}", whole(&one)),
    };
    format!("PCR {}: {words}", change.pcr)
}

fn from_to(was: &Side, is: &Side) -> String {
    let renamed = was.name != is.name;
    let name = if renamed { named(is) } else { String::new() };
    match (&was.text, &is.text) {
        // The same words measured in another way differ in nothing but their digests.
        (Some(old), Some(new)) if old != new => {
            format!("{}{} -> {name}{}", named(was), quoted(old), quoted(new))
        }
        _ => {
            // The algorithm is told once.
            let new = digest(is);
            let bare = new.split_once(' ').filter(|_| !renamed).map_or(new.as_str(), |(_, digits)| digits);
            format!("{}{} -> {name}{bare}", named(was), digest(was))
        }
    }
}

fn whole(side: &Side) -> String {
    let text = side.text.as_deref().map_or_else(|| digest(side), |text| quoted(&beginning(text)));
    format!("{}{text}", named(side))
}

fn named(side: &Side) -> String {
    let plain = |one: char| one.is_alphanumeric() || "\\/._-(),:+=#@".contains(one);
    match &side.name {
        None => String::new(),
        Some(name) if name.chars().all(plain) => format!("{name} "),
        Some(name) => format!("'{}' ", name.replace('\'', "\\u{27}")),
    }
}

/// A boot loader's command may be a whole menu.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// So that no text can end its quotation.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\u{22}"))
}

/// The beginning of a digest, with its algorithm, which its length tells.
fn digest(side: &Side) -> String {
    let Some(digest) = &side.digest else { return "unknown".to_owned() };
    let bank = HashAlg::ALL.into_iter().find(|bank| bank.digest_len() * 2 == digest.len());
    let shown: String = digest.chars().take(SHOWN_DIGITS).collect();
    format!("{} {shown}..", bank.map_or("digest", HashAlg::name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(name: &str, text: &str, digest: &str) -> Option<Side> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Some(Side { name: some(name), text: some(text), digest: some(digest) })
    }

    fn change(subject: Subject, change: ChangeKind, reference: Option<Side>, host: Option<Side>) -> Change {
        Change { pcr: 4, subject, item: None, change, reference, host, name_proven: false }
    }

    fn check(one: &Change, expect: &str) {
        assert_eq!(line(one), format!("PCR 4: {expect}"));
    }

    #[test]
    fn each_change_has_its_words() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let both = |subject, was, is| change(subject, ChangeKind::Changed, was, is);
        let path = "\\EFI\\debian\\shimx64.efi";
        check(
            &both(Subject::BootLoader, side(path, "", &a), side(path, "", &b)),
            &format!("boot loader changed: {path} sha256 aaaaaaaaaaaaaaaa.. -> bbbbbbbbbbbbbbbb.."),
        );
        check(
            &both(Subject::BootLoader, side(path, "", &a), side("\\b.efi", "", &b)),
            &format!(
                "boot loader changed: {path} sha256 aaaaaaaaaaaaaaaa.. -> \\b.efi sha256 bbbbbbbbbbbbbbbb.."
            ),
        );
        check(
            &both(Subject::CommandLine, side("", "/a quiet", &a), side("", "/a quiet iommu=off", &b)),
            "command line changed: \"/a quiet\" -> \"/a quiet iommu=off\"",
        );
        check(
            &both(Subject::CommandLine, side("", "/a", &a), side("", "/a", &b)),
            "command line changed: sha256 aaaaaaaaaaaaaaaa.. -> bbbbbbbbbbbbbbbb..",
        );
        check(
            &both(Subject::BootOption, side("Boot0001", "debian", &a), side("Boot0001", "other", &b)),
            "boot option changed: Boot0001 \"debian\" -> \"other\"",
        );
        check(
            &change(Subject::File, ChangeKind::Gained, None, side("/extra", "", &a)),
            "file appeared: /extra sha256 aaaaaaaaaaaaaaaa..",
        );
        check(
            &change(Subject::Command, ChangeKind::Lost, side("", "set a=b", &a), None),
            "boot loader command gone: \"set a=b\"",
        );
        let certificate = Change {
            item: Some(Item::Certificate),
            ..change(Subject::Allowed, ChangeKind::Lost, side("Windows CA 2011", "", &a), None)
        };
        check(&certificate, "db lost certificate \"Windows CA 2011\" (sha256 aaaaaaaaaaaaaaaa..)");
        let images = Change {
            item: Some(Item::ImageDigests),
            ..change(Subject::Forbidden, ChangeKind::Gained, None, side("", "71", ""))
        };
        check(&images, "dbx gained 71 image digests");
    }

    #[test]
    fn no_text_ends_its_quotation() {
        let one = change(Subject::File, ChangeKind::Gained, None, side("a' \"b", "c\" -> \"d", ""));
        check(&one, "file appeared: 'a\\u{27} \"b' \"c\\u{22} -> \\u{22}d\"");
        let long = change(Subject::Command, ChangeKind::Gained, None, side("", &"a".repeat(999), ""));
        check(&long, &format!("boot loader command appeared: \"{}...\"", "a".repeat(MAX_SHOWN_CHARS)));
    }

    #[test]
    fn a_register_with_many_changes_is_told_in_part_and_counted() {
        let one = change(Subject::File, ChangeKind::Gained, None, side("/a", "", ""));
        let boot = Boot {
            reference_log: Standing::Explains,
            host_log: Standing::Explains,
            separated: Vec::new(),
            facts: vec![FactChange {
                fact: Subject::CommandLine,
                reference: Some("/a".to_owned()),
                host: None,
            }],
            changes: vec![one; MAX_LINES + 3],
            host_events: Vec::new(),
            unexplained: vec![10],
        };
        let lines = boot.lines();
        assert_eq!(lines.iter().filter(|line| line.contains("appeared")).count(), MAX_LINES);
        assert!(lines.contains(&"PCR 4: and 3 more, which --json tells".to_owned()), "{lines:?}");
        assert!(lines.contains(&"command line: \"/a\" -> not to be told for sure".to_owned()), "{lines:?}");
        assert!(lines[0].starts_with("PCR 10: no boot log"), "{lines:?}");
        assert_eq!(boot.reason().unwrap(), "PCR 4: file appeared: /a unknown; and 50 more");
    }

    #[test]
    fn registers_that_differ_by_a_separator_alone_are_told_in_one_line_and_without_a_log() {
        let on = |value: &[u8], word: &str| {
            HashAlg::Sha256.digest_parts(&[value, &HashAlg::Sha256.digest(word.as_bytes())])
        };
        let pcrs = [0, 1, 4, 9, 12];
        let was: Vec<(u32, Vec<u8>)> = pcrs.iter().map(|pcr| (*pcr, vec![7; 32])).collect();
        let mut is: Vec<(u32, Vec<u8>)> =
            was.iter().map(|(pcr, value)| (*pcr, on(value, "os-separator"))).collect();
        is[2].1 = on(&[7; 32], "another boot loader");
        is[3].1 = on(&is[3].1, "nvpcr-separator");
        let log: Result<EventLog, Standing> = Err(Standing::NotNamed);
        let boot = |was: &[(u32, Vec<u8>)], is: &[(u32, Vec<u8>)]| {
            compared(HashAlg::Sha256, (&log, was), (&log, is), &pcrs)
        };
        let told = boot(&was, &is);
        let one = "PCRs 0, 1, 12: differ by \"os-separator\" alone, which systemd measures now and didn't when the values were captured";
        let two = "PCR 9: differs by \"os-separator\" and \"nvpcr-separator\" alone, which systemd measures now and didn't when the values were captured";
        let lines = told.lines();
        assert!(lines.contains(&one.to_owned()) && lines.contains(&two.to_owned()), "{lines:?}");
        assert_eq!(told.separated.iter().map(|one| one.pcr).collect::<Vec<_>>(), [0, 1, 9, 12]);
        assert_eq!(told.reason(), Some(format!("{one}; and 1 more")));
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(
            json["separated"][0],
            serde_json::json!({"pcr": 0, "change": "gained", "words": ["os-separator"]})
        );
        let back = boot(&is, &was).lines();
        let lost = "PCRs 0, 1, 12: differ by \"os-separator\" alone, which was measured when the values were captured and isn't any more";
        assert!(back.contains(&lost.to_owned()), "{back:?}");
        assert!(!told.lines().iter().any(|line| line.contains("PCR 4")), "nothing explains it");
    }

    #[test]
    fn a_log_that_does_not_lead_to_the_values_tells_nothing() {
        let log = Err(Standing::Pruned);
        let host: Result<EventLog, Standing> = Err(Standing::NoBootLog);
        let boot = compared(HashAlg::Sha256, (&log, &[(4, vec![1; 32])]), (&host, &[(4, vec![2; 32])]), &[4]);
        assert_eq!((boot.reference_log, boot.host_log), (Standing::Pruned, Standing::NoBootLog));
        assert_eq!(boot.lines(), ["the host's boot log was never sent: the evidence names none"]);
        assert_eq!(boot.reason(), None);
    }
}
