//! The system's separators: what is reached in which register, what isn't, that a register reads one way wherever its log ends, and that
//! whoever extends a word himself hides and invents nothing.

use std::collections::BTreeMap;

use super::facts_tests::Log;
use super::words::{self, PHASES, separators_between};
use super::{BootLogRefusal, EventLog, VerifiedBootLog, event_type, explain, verify_replay};
use crate::algorithm::HashAlg;
use crate::quote::VerifiedQuote;
use crate::simulated::SimulatedTpm;
use crate::simulated::boot::{BootOptions, SimulatedBoot};
use crate::testing::{every_vectors, json, random, vector_bytes};

const BANK: HashAlg = HashAlg::Sha256;
const OS: &str = "os-separator";
const NV: &str = "nvpcr-separator";
/// What the authority has a boot log explain.
const REQUIRED: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];
/// Registers that the unit of systemd extends.
const SEPARATED: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14];

/// A word into each of these registers, one after the other.
type Behind<'a> = &'a [(u32, &'a str)];

fn simulated(options: &BootOptions) -> EventLog {
    EventLog::parse(SimulatedBoot::new(options).log()).unwrap()
}

/// What the log leads to, and the words behind it; registers of loaders that have to be explained are there, touched or not. Those of firmware
/// are never zero.
fn values(log: &EventLog, bank: HashAlg, behind: Behind<'_>) -> Vec<(u32, Vec<u8>)> {
    let replay = log.replay(bank).unwrap();
    let mut values: BTreeMap<u32, Vec<u8>> =
        replay.pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    for pcr in [8, 9, 14].into_iter().chain(behind.iter().map(|(pcr, _)| *pcr)) {
        values.entry(pcr).or_insert_with(|| log.initial(bank, pcr));
    }
    for (pcr, word) in behind {
        let value = values.get_mut(pcr).unwrap();
        *value = bank.digest_parts(&[value, &bank.digest(word.as_bytes())]);
    }
    values.into_iter().collect()
}

fn worn(bank: HashAlg, values: &[(u32, Vec<u8>)]) -> VerifiedQuote {
    SimulatedTpm::new(&mut random(8)).unwrap().worn(bank, values).unwrap()
}

fn judged(log: &EventLog, bank: HashAlg, behind: Behind<'_>) -> Result<VerifiedBootLog, BootLogRefusal> {
    let values = values(log, bank, behind);
    let quoted = |pcr: &u32| values.iter().any(|(quoted, _)| quoted == pcr);
    let required: Vec<u32> = REQUIRED.into_iter().filter(quoted).collect();
    verify_replay(log, &worn(bank, &values), &required)
}

fn refused_at(log: &EventLog, behind: Behind<'_>, expect: u32) {
    let refusal = judged(log, BANK, behind).unwrap_err();
    assert!(
        matches!(refusal, BootLogRefusal::Mismatch { pcr, .. } if pcr == expect),
        "{behind:?}: {refusal}"
    );
}

/// The events of a log with others behind them, each of a register and a text that is measured.
fn longer(log: &EventLog, events: Behind<'_>) -> EventLog {
    let mut bytes = log.bytes().to_vec();
    let banks: Vec<HashAlg> = log.bank_ids().filter_map(|id| HashAlg::from_id(id).ok()).collect();
    for (pcr, text) in events {
        let count = u32::try_from(banks.len()).unwrap();
        bytes.extend([*pcr, event_type::IPL, count].map(u32::to_le_bytes).concat());
        for bank in &banks {
            bytes.extend(bank.id().to_le_bytes());
            bytes.extend(bank.digest(text.as_bytes()));
        }
        bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    EventLog::parse(&bytes).unwrap()
}

#[test]
fn a_system_with_separators_tells_what_the_same_system_without_them_does() {
    let log = simulated(&BootOptions { unified_kernel: true, ..BootOptions::default() });
    for bank in [HashAlg::Sha256, HashAlg::Sha384] {
        let without = judged(&log, bank, &[]).unwrap();
        let each = REQUIRED.into_iter().filter(|pcr| *pcr != 8);
        for pcr in each.clone() {
            let with = judged(&log, bank, &[(pcr, OS)]).unwrap();
            assert_eq!((with.facts(), with.covered()), (without.facts(), without.covered()), "{pcr}");
        }
        let mut all: Vec<(u32, &str)> = each.map(|pcr| (pcr, OS)).collect();
        for more in [&[][..], &[(9, NV)], &[(11, "enter-initrd")], &[(11, "leave-initrd")]] {
            all.extend(more);
            let with = judged(&log, bank, &all).unwrap();
            assert_eq!(with.covered(), without.covered());
            let mut facts = with.facts().clone();
            let phases = facts.phases.replace(PHASES.none()).unwrap();
            assert_eq!(phases.words().len(), all.iter().filter(|(pcr, _)| *pcr == 11).count());
            assert_eq!(facts, *without.facts());
        }
        assert!(judged(&log, bank, &[(9, NV)]).is_ok(), "where no separator runs in an initial RAM disk");
    }
}

#[test]
fn any_other_word_number_or_order_is_no_explanation() {
    let log = simulated(&BootOptions::default());
    for pcr in REQUIRED {
        refused_at(&log, &[(pcr, "other")], pcr);
        refused_at(&log, &[(pcr, "os-separator\0")], pcr);
        refused_at(&log, &[(pcr, "OS-separator")], pcr);
        refused_at(&log, &[(pcr, "\0\0\0\0")], pcr);
        refused_at(&log, &[(pcr, OS), (pcr, OS)], pcr);
        refused_at(&log, &[(pcr, OS), (pcr, "other")], pcr);
        refused_at(&log, &[(pcr, "other"), (pcr, OS)], pcr);
        refused_at(&log, &[(pcr, "enter-initrd")], pcr);
        if pcr != 9 {
            refused_at(&log, &[(pcr, NV)], pcr);
            refused_at(&log, &[(pcr, OS), (pcr, NV)], pcr);
        }
    }
    refused_at(&log, &[(8, OS)], 8);
    refused_at(&log, &[(9, NV), (9, OS)], 9);
    refused_at(&log, &[(9, NV), (9, NV)], 9);
    refused_at(&log, &[(9, OS), (9, NV), (9, NV)], 9);
    let init = "nvpcr-init:hardware:0x1d10200:000b2a";
    refused_at(&log, &[(9, OS), (9, init), (9, NV)], 9);
    refused_at(&log, &[(9, init), (9, NV)], 9);
    // One register's word excuses no other one.
    refused_at(&log, &[(0, OS), (7, "other")], 7);
    // The digest of one bank is no word in another one.
    let mut values = values(&log, BANK, &[]);
    values[7].1 = BANK.digest_parts(&[&values[7].1, &HashAlg::Sha384.digest(OS.as_bytes())]);
    let refusal = verify_replay(&log, &worn(BANK, &values), &REQUIRED).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: 7, .. }), "{refusal}");
    let told = judged(&log, BANK, &[(9, "x")]).unwrap_err().to_string();
    assert!(
        told.ends_with("by the log (words that may follow there: os-separator, nvpcr-separator)"),
        "{told}"
    );
    let told = judged(&log, BANK, &[(8, "x")]).unwrap_err().to_string();
    assert!(told.ends_with("by the log"), "{told}");
}

#[test]
fn registers_that_may_grow_are_explained_behind_events_of_the_log_alone() {
    let line: Vec<u8> = "root=/dev/sda2\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut made = Log::new();
    for pcr in 0..=7 {
        made = made.separator(pcr);
    }
    let log = EventLog::parse(made.clone().with(12, event_type::IPL, &line, &line).bytes()).unwrap();
    let told = |behind: Behind<'_>| {
        let verified = judged(&log, BANK, behind).unwrap();
        (verified.covered().contains(&12), verified.facts().kernel_cmdline.clone())
    };
    let line = Some("root=/dev/sda2".to_owned());
    assert_eq!(told(&[(12, OS)]), (true, line.clone()));
    assert_eq!(told(&[(12, "other")]), (false, None));
    assert_eq!(told(&[(12, OS), (12, OS)]), (false, None));
    // Where nothing else was measured there, the word explains nothing, in the log or behind it.
    let none = EventLog::parse(made.bytes()).unwrap();
    for (log, behind) in
        [(none.clone(), &[(12, OS), (13, OS)][..]), (longer(&none, &[(12, OS), (13, OS)]), &[])]
    {
        let verified = judged(&log, BANK, behind).unwrap();
        assert!(!verified.covered().iter().any(|pcr| [12, 13].contains(pcr)));
    }
}

#[test]
fn real_logs_read_the_same_with_the_words_behind_them_and_at_their_end() {
    let mut read = 0;
    for folder in every_vectors("eventlog") {
        for (path, item) in json(&folder.join("expected.json"))["logs"].as_object().unwrap() {
            if item["outcome"] != "complete" {
                continue;
            }
            let log = EventLog::parse(&vector_bytes(&folder.join(path))).unwrap();
            for bank in [HashAlg::Sha256, HashAlg::Sha384] {
                if log.replay(bank).is_ok_and(|replay| replay.pcrs().count() > 0) {
                    read += usize::from(reads_the_same(&log, bank, path));
                }
            }
        }
    }
    assert!(read >= if every_vectors("eventlog").len() > 1 { 20 } else { 2 }, "{read}");
}

fn reads_the_same(log: &EventLog, bank: HashAlg, path: &str) -> bool {
    let touched = |pcr: &u32| [9, 14].contains(pcr) || log.replay(bank).unwrap().pcr(*pcr).is_some();
    let behind: Vec<(u32, &str)> = SEPARATED.into_iter().filter(touched).map(|pcr| (pcr, OS)).collect();
    // Logs of no whole boot are refused, with words as without.
    let Ok(without) = judged(log, bank, &[]) else {
        assert!(judged(log, bank, &behind).is_err(), "{path}");
        return false;
    };
    let ends = longer(log, &behind);
    let split = behind.len() / 2;
    for (log, behind) in
        [(log, &behind[..]), (&ends, &[]), (&longer(log, &behind[..split]), &behind[split..])]
    {
        let with = judged(log, bank, behind).unwrap();
        assert_eq!((with.facts(), with.covered()), (without.facts(), without.covered()), "{path}");
    }
    for at in &behind {
        assert!(judged(&ends, bank, &[*at]).is_err() || !REQUIRED.contains(&at.0), "{path}: twice");
    }
    true
}

#[test]
fn a_replay_serves_quotes_of_the_same_words_alone() {
    let log = simulated(&BootOptions::default());
    let steps: [Behind<'_>; 6] =
        [&[], &[(0, OS)], &[(7, OS)], &[(0, OS), (7, OS)], &[(9, OS)], &[(9, OS), (9, NV)]];
    for (one, first) in steps.iter().enumerate() {
        let verified = judged(&log, BANK, first).unwrap();
        for (another, second) in steps.iter().enumerate() {
            let serves = verified.serves(&worn(BANK, &values(&log, BANK, second)));
            assert_eq!(serves, one == another, "{first:?} {second:?}");
        }
        // A replay of words never serves a quote that has to be refused.
        for other in [&[(0, "other")][..], &[(0, OS), (0, OS)], &[(9, NV), (9, OS)]] {
            assert!(!verified.serves(&worn(BANK, &values(&log, BANK, other))), "{first:?} {other:?}");
        }
    }
}

/// A boot of which a word was extended before it was over, as a loader does that measures a file of this content.
fn early(events: Behind<'_>) -> EventLog {
    let log = (0..=7).fold(Log::new(), Log::separator);
    longer(&EventLog::parse(log.bytes()).unwrap(), events)
}

#[test]
fn a_word_with_something_behind_it_hides_nothing() {
    let digest = |text: &str| BANK.digest(text.as_bytes());
    let list = |texts: &[&str]| Some(texts.iter().map(|text| digest(text)).collect::<Vec<_>>());
    for pcr in [2, 4, 9, 14] {
        let log = early(&[(pcr, "good"), (pcr, OS), (pcr, "evil")]);
        let verified = judged(&log, BANK, &[]).unwrap();
        let facts = verified.facts();
        let told = match pcr {
            2 => &facts.option_roms,
            4 => &facts.applications,
            9 => &facts.files,
            _ => &facts.machine_owner_keys,
        };
        assert_eq!(*told, list(&["good", OS, "evil"]), "{pcr}");
        refused_at(&log, &[(pcr, OS)], pcr);
        // A second word is no path either.
        let twice = early(&[(pcr, "good"), (pcr, OS), (pcr, OS)]);
        let facts = judged(&twice, BANK, &[]).unwrap();
        assert_eq!(facts.covered(), REQUIRED);
        refused_at(&twice, &[(pcr, OS)], pcr);
    }
    // The first program stays the first, and no later one takes its place where a word came first.
    let log = early(&[(4, OS), (4, "shim")]);
    let facts = judged(&log, BANK, &[]).unwrap();
    assert_eq!(facts.facts().applications, list(&[OS, "shim"]));
    // A debugger that the firmware told of stays told.
    let log = early(&[(7, OS), (7, "UEFI Debug Mode"), (7, OS)]);
    assert_eq!(judged(&log, BANK, &[]).unwrap().facts().debug_mode, Some(true));
    let log = early(&[(7, "UEFI Debug Mode")]);
    assert_eq!(judged(&log, BANK, &[(7, OS)]).unwrap().facts().debug_mode, Some(true));
}

#[test]
fn what_the_firmware_says_comes_before_the_word() {
    let done = "Exit Boot Services Returned with Success";
    let told = |events: Behind<'_>, behind: Behind<'_>| {
        judged(&early(events), BANK, behind).unwrap().facts().exit_boot_services
    };
    assert_eq!(told(&[(5, done)], &[(5, OS)]), Some(true));
    assert_eq!(told(&[(5, done), (5, OS), (5, "later")], &[]), Some(true));
    assert_eq!(told(&[(5, OS), (5, done)], &[]), Some(false));
    assert_eq!(told(&[], &[(5, OS)]), Some(false));
    // A version isn't read from the word, and not from what comes behind it.
    let version: Vec<u8> = "1.0\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let log = Log::new().with(0, event_type::IPL, OS.as_bytes(), OS.as_bytes());
    let log = (0..=7).fold(log.with(0, event_type::S_CRTM_VERSION, &version, &version), Log::separator);
    let log = EventLog::parse(log.bytes()).unwrap();
    let refusal = judged(&log, BANK, &[]).unwrap_err();
    assert_eq!(refusal, BootLogRefusal::SeparatorMissing { pcr: 0 });
}

#[test]
fn a_separator_behind_the_word_is_not_the_firmwares() {
    for pcr in 0..=7u32 {
        let others = (0..=7).filter(|other| *other != pcr).fold(Log::new(), Log::separator);
        let log = |events: Behind<'_>| longer(&EventLog::parse(others.bytes()).unwrap(), events);
        let zeros = "\0\0\0\0";
        let missing = Err(BootLogRefusal::SeparatorMissing { pcr });
        let verdict = |events: Behind<'_>, behind: Behind<'_>| judged(&log(events), BANK, behind).map(|_| ());
        assert_eq!(verdict(&[(pcr, zeros)], &[(pcr, OS)]), Ok(()));
        assert_eq!(verdict(&[(pcr, OS), (pcr, zeros)], &[]), missing);
        assert_eq!(verdict(&[(pcr, "x"), (pcr, OS), (pcr, zeros), (pcr, OS)], &[]), missing);
        assert_eq!(verdict(&[(pcr, "x")], &[(pcr, OS)]), missing, "the system's is none of the firmware's");
        assert_eq!(verdict(&[(pcr, "x"), (pcr, OS)], &[]), missing);
        let twice = verdict(&[(pcr, zeros), (pcr, OS), (pcr, zeros)], &[]).unwrap_err();
        assert!(matches!(twice, BootLogRefusal::SeparatorRepeated { .. }), "{twice}");
        let twice = verdict(&[(pcr, zeros), (pcr, zeros)], &[(pcr, OS)]).unwrap_err();
        assert!(matches!(twice, BootLogRefusal::SeparatorRepeated { .. }), "{twice}");
    }
    // In a bank that the firmware leaves alone the word comes first; a boot made up behind it is none.
    let made_up = (0..=7).flat_map(|pcr| [(pcr, OS), (pcr, "made up"), (pcr, "\0\0\0\0")]);
    let log = longer(&EventLog::parse(Log::new().bytes()).unwrap(), &made_up.collect::<Vec<_>>());
    assert_eq!(judged(&log, BANK, &[]).unwrap_err(), BootLogRefusal::SeparatorMissing { pcr: 0 });
}

#[test]
fn a_command_line_behind_the_word_is_nobodys() {
    let line = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (one, evil) = (line("quiet"), line("init=/bin/sh"));
    let base = (0..=7).fold(Log::new(), Log::separator);
    let told = |events: &[&[u8]]| {
        let log = events.iter().fold(base.clone(), |log, text| log.with(12, event_type::IPL, text, text));
        let log = EventLog::parse(log.bytes()).unwrap();
        judged(&log, BANK, &[]).unwrap().facts().kernel_cmdline.clone()
    };
    assert_eq!(told(&[&one, OS.as_bytes()]).as_deref(), Some("quiet"));
    assert_eq!(told(&[&one, OS.as_bytes(), &evil]), None);
    assert_eq!(told(&[OS.as_bytes(), &evil]), None);
    assert_eq!(told(&[&one, OS.as_bytes(), &one]), None);
    // The word reads as a text of UTF-16, too.
    assert_eq!(told(&[OS.as_bytes(), OS.as_bytes()]), None);
}

#[test]
fn values_that_differ_by_separators_alone_are_told_apart_from_others() {
    let value = BANK.digest(b"any");
    let on = |words: &[&str]| {
        words
            .iter()
            .fold(value.clone(), |value, word| BANK.digest_parts(&[&value, &BANK.digest(word.as_bytes())]))
    };
    let told = |pcr: u32, words: &[&str]| {
        separators_between(BANK, pcr, &value, &on(words)).map(|path| path.to_string())
    };
    for pcr in SEPARATED {
        assert_eq!(told(pcr, &[OS]).as_deref(), Some(OS), "{pcr}");
        assert_eq!(told(pcr, &[]), None);
        assert_eq!(told(pcr, &["other"]), None);
        assert_eq!(told(pcr, &[OS, OS]), None);
        assert_eq!(told(pcr, &[NV]).is_some(), pcr == 9);
        assert_eq!(told(pcr, &[OS, NV]).is_some(), pcr == 9);
    }
    for pcr in [8, 10, 11, 15, 16, 23] {
        assert_eq!(told(pcr, &[OS]), None, "{pcr}");
        assert_eq!(told(pcr, &["enter-initrd"]), None, "phases are a fact of their own");
    }
    let log = simulated(&BootOptions::default());
    let wrong = values(&log, BANK, &[(7, "x")]);
    assert!(explain(&log, BANK, &wrong, &REQUIRED).is_err());
}

/// What a register may see. The last is a separator of the firmware's.
const ALPHABET: [&str; 6] = [OS, NV, "one", "two", "Exit Boot Services Returned with Success", "\0\0\0\0"];

/// Whether these words lead on from those events, by the rule as it is written and not as it is computed.
fn leads(pcr: u32, front: &[&str], back: &[&str]) -> bool {
    let paths: &[&[&str]] = if pcr == 9 { &[&[OS], &[NV], &[OS, NV]] } else { &[&[OS]] };
    let words: &[&str] = if pcr == 9 { &[OS, NV] } else { &[OS] };
    let whole = [front, back].concat();
    let first = whole.iter().position(|text| words.contains(text)).unwrap_or(whole.len());
    back.is_empty() || (first <= front.len() && paths.contains(&&whole[first..]))
}

proptest::proptest! {
    /// However a sequence of extensions is cut into a log and what comes behind it, the verdict is that of the whole, or a refusal; never
    /// more is taken than if the log had told it all.
    #[test]
    fn a_register_reads_one_way(
        picked in proptest::collection::vec(0usize..ALPHABET.len(), 1..7),
        at in 0usize..SEPARATED.len(),
        required in proptest::bool::ANY,
    ) {
        let pcr = SEPARATED[at];
        let texts: Vec<&str> = picked.into_iter().map(|at| ALPHABET[at]).collect();
        let others = (0..=7).filter(|other| *other != pcr).fold(Log::new(), Log::separator);
        let others = EventLog::parse(others.bytes()).unwrap();
        let needed: &[u32] = if required { &[8, pcr] } else { &[8] };
        let judged = |front: &[&str], back: &[&str]| {
            let of = |texts: &[&'static str]| texts.iter().map(|text| (pcr, *text)).collect::<Vec<_>>();
            let statics = |texts: &[&str]| -> Vec<&'static str> {
                texts.iter().map(|text| *ALPHABET.iter().find(|one| *one == text).unwrap()).collect()
            };
            let log = longer(&others, &of(&statics(front)));
            let quote = worn(BANK, &values(&log, BANK, &of(&statics(back))));
            verify_replay(&log, &quote, needed).map(|verified| (verified.covered().to_vec(), verified.facts().clone()))
        };
        let whole = judged(&texts, &[]);
        for cut in 0..texts.len() {
            let (front, back) = texts.split_at(cut);
            match judged(front, back) {
                Ok(cut) if required || cut.0.contains(&pcr) => {
                    proptest::prop_assert!(leads(pcr, front, back));
                    proptest::prop_assert_eq!(Ok(cut), whole.clone());
                }
                // Where it isn't explained, nothing is told of it.
                Ok(_) => proptest::prop_assert!(!required),
                Err(BootLogRefusal::Mismatch { .. }) => proptest::prop_assert!(!leads(pcr, front, back)),
                Err(_) => proptest::prop_assert!(pcr <= 7),
            }
        }
    }
}

#[test]
fn every_word_has_its_registers() {
    let of = |pcr: u32| words::of(pcr).map(|series| series.words()).unwrap_or_default();
    for pcr in 0..=23 {
        assert_eq!(of(pcr).contains(&OS), SEPARATED.contains(&pcr), "{pcr}");
        assert_eq!(of(pcr).contains(&NV), pcr == 9, "{pcr}");
    }
}
