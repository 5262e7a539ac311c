//! Boot phases: what is reached, what isn't, and that a register reads one way wherever its log ends.

use super::facts_tests::Log;
use super::words::{PHASES, WordPath};
use super::{BootLogRefusal, EventLog, VerifiedBootLog, event_type, verify_replay};
use crate::algorithm::HashAlg;
use crate::quote::VerifiedQuote;
use crate::simulated::SimulatedTpm;
use crate::simulated::boot::{BootOptions, SimulatedBoot};
use crate::testing::random;
use std::collections::BTreeMap;

const BANK: HashAlg = HashAlg::Sha256;
const REGISTER: u32 = 11;
/// The paths that systemd's units make, to their ends.
const PATHS: [&[&str]; 2] = [
    &["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"],
    &["sysinit", "ready", "shutdown", "final"],
];

fn unified() -> EventLog {
    let boot = SimulatedBoot::new(&BootOptions { unified_kernel: true, ..BootOptions::default() });
    EventLog::parse(boot.log()).unwrap()
}

/// What a log leads to, and further extensions of PCR 11 by digests.
fn values(log: &EventLog, bank: HashAlg, extended: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
    let replay = log.replay(bank).unwrap();
    let mut values: BTreeMap<u32, Vec<u8>> =
        replay.pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let value = values.entry(REGISTER).or_insert_with(|| vec![0; bank.digest_len()]);
    for digest in extended {
        *value = bank.digest_parts(&[value, digest]);
    }
    values.into_iter().collect()
}

fn worn(bank: HashAlg, values: &[(u32, Vec<u8>)]) -> VerifiedQuote {
    SimulatedTpm::new(&mut random(6)).unwrap().worn(bank, values).unwrap()
}

fn judged(log: &EventLog, bank: HashAlg, extended: &[Vec<u8>]) -> VerifiedBootLog {
    verify_replay(log, &worn(bank, &values(log, bank, extended)), &[0, 4, 7]).unwrap()
}

fn hashed(bank: HashAlg, words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| bank.digest(word.as_bytes())).collect()
}

fn phase(verified: &VerifiedBootLog) -> Option<String> {
    verified.facts().phases.as_ref().map(WordPath::to_string)
}

/// A phase and the sections, or nothing of the register.
fn read(verified: &VerifiedBootLog) -> Option<(Option<String>, usize)> {
    let covered = verified.covered().contains(&REGISTER);
    covered.then(|| (phase(verified), verified.facts().sections.len()))
}

#[test]
fn every_beginning_of_a_path_is_reached_and_the_facts_of_the_image_hold() {
    let log = unified();
    for bank in [HashAlg::Sha256, HashAlg::Sha384] {
        let image = judged(&log, bank, &[]);
        assert_eq!(read(&image), Some((Some(String::new()), 5)));
        for path in PATHS {
            for end in 1..=path.len() {
                let verified = judged(&log, bank, &hashed(bank, &path[..end]));
                assert_eq!(phase(&verified), Some(path[..end].join(":")));
                assert_eq!(verified.facts().sections, image.facts().sections);
                assert_eq!(verified.covered(), image.covered());
            }
        }
    }
}

#[test]
fn the_words_are_those_of_the_units_and_few() {
    assert_eq!(PHASES.words(), PATHS[0]);
    assert_eq!(PATHS.iter().map(|path| path.len()).sum::<usize>(), 10);
}

#[test]
fn any_other_sequence_leaves_the_register_unexplained() {
    let log = unified();
    let whole = PATHS[0];
    let once_more = |end: usize, word: &'static str| [&whole[..end], &[word]].concat();
    let mut rows: Vec<Vec<&str>> = vec![
        // Another beginning, another order, a word left out.
        vec!["leave-initrd"],
        vec!["ready"],
        vec!["shutdown"],
        vec!["leave-initrd", "enter-initrd"],
        vec!["enter-initrd", "sysinit"],
        vec!["enter-initrd", "leave-initrd", "ready"],
        vec!["enter-initrd", "leave-initrd", "ready", "sysinit"],
        vec!["sysinit", "enter-initrd"],
        vec!["sysinit", "shutdown"],
        // A word that is none, before, between and behind.
        vec!["other"],
        vec!["other", "enter-initrd"],
        vec!["enter-initrd", "other", "leave-initrd"],
        vec!["enter-initrd", "factory-reset"],
        // Other spellings.
        vec!["enter-initrd\0"],
        vec!["Enter-Initrd"],
        vec!["enter-initrd:leave-initrd"],
        vec![""],
    ];
    // Each word once more behind each path, and more than there are.
    for (end, word) in
        whole.iter().enumerate().flat_map(|(end, _)| whole.iter().map(move |word| (end + 1, word)))
    {
        if whole.get(end) != Some(word) {
            rows.push(once_more(end, word));
        }
    }
    rows.push([PATHS[1], PATHS[1]].concat());
    for row in rows {
        let verified = judged(&log, BANK, &hashed(BANK, &row));
        assert_eq!(read(&verified), None, "{row:?}");
        assert!(verified.facts().sections.is_empty() && phase(&verified).is_none(), "{row:?}");
    }
}

#[test]
fn words_of_another_bank_and_one_changed_bit_are_not_reached() {
    let log = unified();
    for (bank, other) in [(HashAlg::Sha256, HashAlg::Sha384), (HashAlg::Sha384, HashAlg::Sha256)] {
        let mut digest = other.digest(b"enter-initrd");
        digest.resize(bank.digest_len(), 0);
        assert_eq!(read(&judged(&log, bank, &[digest])), None, "{}", bank.name());
        let mut changed = values(&log, bank, &hashed(bank, PATHS[0]));
        let (_, value) = changed.iter_mut().find(|(pcr, _)| *pcr == REGISTER).unwrap();
        value[0] ^= 1;
        let verified = verify_replay(&log, &worn(bank, &changed), &[0, 4, 7]).unwrap();
        assert_eq!(read(&verified), None);
    }
    // The value of one bank says nothing about a quote of another.
    let verified = judged(&log, HashAlg::Sha256, &hashed(HashAlg::Sha256, &["enter-initrd"]));
    assert!(!verified.serves(&worn(HashAlg::Sha384, &values(&log, HashAlg::Sha384, &[]))));
}

#[test]
fn only_the_register_of_the_image_is_continued_and_only_behind_events_of_the_log() {
    // The same words into the kernel's configuration.
    let log = unified();
    for pcr in [8, 9, 12, 15] {
        let mut all = values(&log, BANK, &[]);
        all.retain(|(one, _)| *one != pcr);
        let from = log.replay(BANK).unwrap().pcr(pcr).map_or_else(|| vec![0; 32], <[u8]>::to_vec);
        all.push((pcr, BANK.digest_parts(&[&from, &BANK.digest(b"sysinit")])));
        all.sort();
        let verified = verify_replay(&log, &worn(BANK, &all), &[0, 4, 7]).unwrap();
        assert!(!verified.covered().contains(&pcr), "{pcr}");
    }
    // A host without such an image: the log doesn't touch the register, and the words alone explain nothing.
    let plain = SimulatedBoot::new(&BootOptions::default());
    let plain = EventLog::parse(plain.log()).unwrap();
    assert_eq!(read(&judged(&plain, BANK, &hashed(BANK, PATHS[1]))), None);
    // Neither do they where they stand in the log: it reads the same.
    assert_eq!(read(&judged(&measured(PATHS[1]), BANK, &[])), None);
    // Where the log has to explain the register, words may lead on, and nothing else.
    let quote = |words: &[&str]| worn(BANK, &values(&log, BANK, &hashed(BANK, words)));
    assert!(verify_replay(&log, &quote(&["enter-initrd"]), &[0, REGISTER]).is_ok());
    let refusal = verify_replay(&log, &quote(&["leave-initrd"]), &[0, REGISTER]).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: REGISTER, .. }), "{refusal}");
}

/// A log with these texts measured into PCR 11, behind the separators of the registers that are quoted.
fn measured(texts: &[&str]) -> EventLog {
    let log = [0, 4, 7].into_iter().fold(Log::new(), Log::separator);
    let log = texts.iter().fold(log, |log, text| log.with(REGISTER, event_type::IPL, b"", text.as_bytes()));
    EventLog::parse(log.bytes()).unwrap()
}

const IMAGE: [&str; 4] = [".linux\0", "kernel", ".initrd\0", "disk"];

#[test]
fn words_in_the_log_read_as_words_behind_it() {
    let told = |in_log: &[&str], behind: &[&str]| {
        read(&judged(&measured(&[&IMAGE[..], in_log].concat()), BANK, &hashed(BANK, behind)))
    };
    for path in PATHS {
        for end in 0..=path.len() {
            for cut in 0..=end {
                let expect = Some((Some(path[..end].join(":")), 2));
                assert_eq!(told(&path[..cut], &path[cut..end]), expect, "{path:?} {cut} {end}");
            }
        }
    }
    // What is no path stays none, and nothing follows it: the log alone explains such a register, without telling a phase.
    assert_eq!(told(&["ready"], &[]), Some((None, 2)));
    assert_eq!(told(&["ready"], &["shutdown"]), None);
    assert_eq!(told(&["enter-initrd", "enter-initrd"], &[]), Some((None, 2)));
    assert_eq!(told(&["enter-initrd", "other"], &[]), Some((None, 2)));
    assert_eq!(told(&["enter-initrd", "other"], &["leave-initrd"]), None);
    assert_eq!(told(&["sysinit"], &["leave-initrd"]), None);
    // An image that measured all of it ahead is told apart once the real units measure theirs.
    assert_eq!(told(&PATHS[0][..4], &["enter-initrd"]), None);
}

#[test]
fn what_comes_behind_a_phase_is_no_section_of_the_image() {
    let facts = |texts: &[&str]| judged(&measured(texts), BANK, &[]).facts().clone();
    let late = facts(&[".linux\0", "kernel", "enter-initrd", ".initrd\0", "disk"]);
    assert_eq!(late.sections.keys().copied().collect::<Vec<_>>(), [".linux"]);
    assert_eq!(late.phases, None);
    // A name whose contents would be a word has none, wherever the log ends.
    for (in_log, behind) in [(&["sysinit"][..], &[][..]), (&[], &["sysinit"])] {
        let log = measured(&[&[".linux\0", "kernel", ".initrd\0"], in_log].concat());
        let facts = judged(&log, BANK, &hashed(BANK, behind)).facts().clone();
        assert_eq!(facts.sections.keys().copied().collect::<Vec<_>>(), [".linux"]);
        assert_eq!(facts.phases.unwrap().to_string(), "sysinit");
    }
    // A second name behind the phases takes the first one with it, as before.
    assert_eq!(facts(&[".linux\0", "kernel", "sysinit", ".linux\0", "other"]).sections.len(), 0);
    // Without a kernel's section no stub ran, and what measured the words can't be told.
    for texts in [&["enter-initrd"][..], &[".initrd\0", "disk", "enter-initrd"], &["something"]] {
        assert_eq!(facts(texts).phases, None, "{texts:?}");
    }
}

#[test]
fn a_replay_serves_quotes_of_its_own_phase_alone() {
    let log = unified();
    let steps: Vec<Vec<Vec<u8>>> =
        [&[][..], &["enter-initrd"], PATHS[0], PATHS[1], &["other"], &["other", "x"]]
            .iter()
            .map(|words| hashed(BANK, words))
            .collect();
    for (one, first) in steps.iter().enumerate() {
        let verified = judged(&log, BANK, first);
        for (another, second) in steps.iter().enumerate() {
            let serves = verified.serves(&worn(BANK, &values(&log, BANK, second)));
            // Two values that nothing leads to tell the same: nothing.
            assert_eq!(serves, one == another || (one >= 4 && another >= 4), "{one} {another}");
            let same = *judged(&log, BANK, second).facts() == *verified.facts();
            assert_eq!(serves, same, "{one} {another}");
        }
    }
}

/// The words and what else a register may see.
const ALPHABET: [&str; 11] = [
    "enter-initrd",
    "leave-initrd",
    "sysinit",
    "ready",
    "shutdown",
    "final",
    ".linux\0",
    "kernel",
    ".initrd\0",
    "disk",
    "other",
];

proptest::proptest! {
    /// However a sequence of extensions is cut into a log and what comes behind it, the facts are those of the whole, or none.
    #[test]
    fn a_register_reads_one_way(picked in proptest::collection::vec(0usize..ALPHABET.len(), 0..10), image in proptest::bool::ANY) {
        let picked: Vec<&str> = picked.into_iter().map(|at| ALPHABET[at]).collect();
        let texts = if image { [&IMAGE[..], &picked].concat() } else { picked };
        let whole = judged(&measured(&texts), BANK, &[]);
        for cut in 0..texts.len() {
            let (front, back) = texts.split_at(cut);
            let verified = judged(&measured(front), BANK, &hashed(BANK, back));
            if read(&verified).is_some() {
                proptest::prop_assert_eq!(verified.facts(), whole.facts());
                proptest::prop_assert!(back.iter().all(|word| PHASES.words().contains(word)));
            } else {
                proptest::prop_assert!(verified.facts().sections.is_empty() && verified.facts().phases.is_none());
            }
        }
    }
}
