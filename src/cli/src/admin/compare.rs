//! Hosts against reference values, in words: what differs, and what a document that isn't active yet would change.
//!
//! Comes in: PCR values of a host's last good evidence, references documents. Goes out: text. Nothing is decided here; the authority decides by its
//! own comparison, which is the same: every register that a generation names has the quoted value (PROTOCOL §8.2).

use super::boot_changes::Boot;
use countersign_core::document::{Generation, Lifetime, ReferencesDocument};
use countersign_core::record::EvidenceRecord;
use serde::Serialize;

/// What a register holds (TCG PC Client Platform Firmware Profile 1.06, 3.3.4; Linux TPM PCR Registry from 8 on).
const fn meaning(pcr: u32) -> &'static str {
    match pcr {
        0 => "firmware code",
        1 => "firmware settings",
        2 => "option ROMs and other drivers",
        3 => "settings of option ROMs",
        4 => "boot loader and what the firmware started",
        5 => "partition table and boot choices",
        6 => "vendor's own data and resume events",
        7 => "Secure Boot keys and state",
        8 => "commands of the boot loader, kernel command line",
        9 => "files that the boot loader read: kernel, initrd",
        10 => "files run since boot (IMA)",
        11 => "unified kernel image",
        12 => "overrides of the kernel command line",
        13 => "system extensions",
        14 => "machine owner keys (MOK)",
        15 => "root file system and machine identity",
        _ => "no agreed meaning",
    }
}

/// One register that isn't as a generation says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// The register.
    pub(super) pcr: u32,
    /// What it holds.
    pub(super) meaning: &'static str,
    /// The reference value, hexadecimal.
    pub(super) reference: String,
    /// The host's value, hexadecimal; absent if its quote doesn't cover the register in that bank.
    pub(super) host: Option<String>,
}

/// A host against one generation.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    /// Name of the set.
    pub(super) set: String,
    /// Place of the generation in its set, from 1.
    pub(super) generation: usize,
    /// Generations of the set.
    pub(super) of: usize,
    /// Registers that the generation names.
    pub(super) registers: usize,
    /// Those that differ.
    pub(super) differences: Vec<Difference>,
    /// Why the generation doesn't count now, if it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lapsed: Option<&'static str>,
    /// What changed, so far as boot logs tell it; absent where nothing differs or the banks do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Boot>,
}

impl Comparison {
    /// Registers that differ.
    pub(super) fn differ(&self) -> Vec<u32> {
        self.differences.iter().map(|one| one.pcr).collect()
    }

    /// The generation that the host was compared with.
    pub(super) fn generation_in<'a>(&self, document: &'a ReferencesDocument) -> Option<&'a Generation> {
        document.sets.get(&self.set)?.get(self.generation.checked_sub(1)?)
    }

    /// The host matches.
    pub(super) const fn agrees(&self) -> bool {
        self.differences.is_empty() && self.lapsed.is_none()
    }
}

fn differences(generation: &Generation, evidence: &EvidenceRecord) -> Vec<Difference> {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let quoted = |pcr: u32| {
        let same_bank = generation.bank == evidence.bank;
        evidence.pcrs.iter().find(|(index, _)| same_bank && *index == pcr).map(|(_, value)| value)
    };
    let wrong = generation.pcrs.iter().filter(|(pcr, value)| quoted(*pcr) != Some(value));
    wrong
        .map(|(pcr, value)| Difference {
            pcr: *pcr,
            meaning: meaning(*pcr),
            reference: hex(value),
            host: quoted(*pcr).map(|value| hex(value)),
        })
        .collect()
}

fn lapsed(lifetime: &Lifetime, now_ms: u64) -> Option<&'static str> {
    if lifetime.contains(now_ms) {
        return None;
    }
    Some(if lifetime.has_begun(now_ms) { "its lifetime has ended" } else { "its lifetime hasn't begun" })
}

/// The host against every set: its nearest generation, that is the one with the fewest differences, of those one that counts now, of those the
/// newest.
pub(super) fn nearest(
    document: &ReferencesDocument,
    evidence: &EvidenceRecord,
    now_ms: u64,
) -> Vec<Comparison> {
    let set = |(name, generations): (&String, &Vec<Generation>)| {
        let all = generations.iter().enumerate().map(|(place, generation)| Comparison {
            set: name.clone(),
            generation: place + 1,
            of: generations.len(),
            registers: generation.pcrs.len(),
            differences: differences(generation, evidence),
            lapsed: lapsed(&generation.lifetime, now_ms),
            boot: None,
        });
        // A generation that agrees but has lapsed says more than one that counts and doesn't agree.
        let weight =
            |one: &Comparison| (one.differences.len(), one.lapsed.is_some(), usize::MAX - one.generation);
        all.min_by_key(weight)
    };
    document.sets.iter().filter_map(set).collect()
}

/// The set that the host matches, if any: the first by name, as the authority takes it.
pub(super) fn matching(
    document: &ReferencesDocument,
    evidence: &EvidenceRecord,
    now_ms: u64,
) -> Option<String> {
    nearest(document, evidence, now_ms).into_iter().find(Comparison::agrees).map(|one| one.set)
}

/// One comparison, for people.
pub(super) fn words(comparison: &Comparison) -> String {
    let Comparison { set, generation, of, registers, differences, lapsed, boot } = comparison;
    if let (true, Some(why)) = (differences.is_empty(), lapsed) {
        return format!("would agree with set {set}, generation {generation} of {of}, but {why}\n");
    }
    if differences.is_empty() {
        return format!(
            "agrees with set {set}, generation {generation} of {of}, in all {registers} registers\n"
        );
    }
    let mut text = format!(
        "differs from set {set}: generation {generation} of {of} is nearest, {} of {registers} registers differ\n",
        differences.len()
    );
    for line in boot.iter().flat_map(Boot::lines) {
        text.push_str(&format!("  {line}\n"));
    }
    for one in differences {
        text.push_str(&format!("  PCR {:<2} {}\n", one.pcr, one.meaning));
        text.push_str(&format!("         reference {}\n", one.reference));
        let host = one.host.as_deref().unwrap_or("not quoted in this bank");
        text.push_str(&format!("         host      {host}\n"));
    }
    text
}

/// What would become of a host under another document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// It is accepted now and wouldn't be any more.
    Breaks,
    /// It isn't accepted now and wouldn't be either.
    StaysOut,
    /// It has no good evidence, or none of what would be asked for: nothing can be said.
    Unknown,
    /// It isn't accepted now and would be.
    Heals,
    /// It is accepted now and would go on to be.
    Stays,
}

impl Change {
    /// From matching now to matching then. Without active references every host goes on, so nothing stays out.
    pub(super) const fn of(now: bool, then: bool) -> Self {
        match (now, then) {
            (true, true) => Self::Stays,
            (true, false) => Self::Breaks,
            (false, true) => Self::Heals,
            (false, false) => Self::StaysOut,
        }
    }

    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Breaks => "would break",
            Self::StaysOut => "stays refused",
            Self::Unknown => "no evidence",
            Self::Heals => "would be accepted",
            Self::Stays => "stays accepted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn evidence(pcrs: &[(u32, u8)]) -> EvidenceRecord {
        EvidenceRecord {
            challenge: Vec::new(),
            attest: Vec::new(),
            signature: Vec::new(),
            bank: 0x000b,
            pcrs: pcrs.iter().map(|(pcr, fill)| (*pcr, vec![*fill; 32])).collect(),
            boot_log: None,
            requests: Vec::new(),
            ima: None,
        }
    }

    /// Registers, each with the byte that its value is made of.
    type Registers<'a> = &'a [(u32, u8)];

    fn document(sets: &[(&str, &[Registers<'_>])]) -> ReferencesDocument {
        let generation = |pcrs: &Registers<'_>| Generation {
            bank: 0x000b,
            pcrs: pcrs.iter().map(|(pcr, fill)| (*pcr, vec![*fill; 32])).collect(),
            lifetime: Lifetime::default(),
            evidence: None,
        };
        let sets =
            sets.iter().map(|(name, list)| ((*name).to_owned(), list.iter().map(generation).collect()));
        ReferencesDocument { ima: None, sets: sets.collect() }
    }

    #[test]
    fn the_nearest_generation_is_told_with_its_registers_in_words() {
        let references = document(&[("fleet", &[&[(0, 1), (4, 2), (9, 3)], &[(0, 1), (4, 2), (9, 4)]])]);
        let host = evidence(&[(0, 1), (4, 2), (9, 9)]);
        let [one] = &nearest(&references, &host, NOW)[..] else { panic!("one set") };
        // Both generations differ in one register: the newer is told.
        assert_eq!((one.generation, one.of, one.registers, one.agrees()), (2, 2, 3, false));
        let text = words(one);
        assert!(text.contains("1 of 3 registers differ") && text.contains("PCR 9"), "{text}");
        assert!(text.contains("kernel, initrd") && text.contains(&"09".repeat(32)), "{text}");
        assert!(text.contains(&"04".repeat(32)), "{text}");
        assert_eq!(matching(&references, &host, NOW), None);
        let updated = evidence(&[(0, 1), (4, 2), (9, 3)]);
        assert_eq!(matching(&references, &updated, NOW).as_deref(), Some("fleet"));
        assert!(
            words(&nearest(&references, &updated, NOW)[0])
                .starts_with("agrees with set fleet, generation 1 of 2")
        );
    }

    #[test]
    fn a_register_that_was_not_quoted_and_another_bank_do_not_agree() {
        let references = document(&[("fleet", &[&[(0, 1), (14, 2)]])]);
        let host = evidence(&[(0, 1)]);
        let [one] = &nearest(&references, &host, NOW)[..] else { panic!("one set") };
        assert_eq!(one.differences.len(), 1);
        assert_eq!((one.differences[0].pcr, one.differences[0].host.as_deref()), (14, None));
        assert!(words(one).contains("not quoted in this bank"));
        let other = EvidenceRecord { bank: 0x000c, ..evidence(&[(0, 1), (14, 2)]) };
        assert_eq!(nearest(&references, &other, NOW)[0].differences.len(), 2);
    }

    #[test]
    fn the_first_matching_set_by_name_counts() {
        let references = document(&[("b", &[&[(0, 1)]]), ("a", &[&[(0, 2)]]), ("c", &[&[(0, 1)]])]);
        assert_eq!(matching(&references, &evidence(&[(0, 1)]), NOW).as_deref(), Some("b"));
    }

    #[test]
    fn a_generation_outside_its_lifetime_does_not_count_and_says_so() {
        let mut references = document(&[("fleet", &[&[(0, 1)], &[(0, 2)]])]);
        let host = evidence(&[(0, 1)]);
        let mut with = |not_before_ms, not_after_ms| {
            let generations = references.sets.get_mut("fleet").unwrap();
            generations[0].lifetime = Lifetime { not_before_ms, not_after_ms };
            (matching(&references, &host, NOW).is_some(), words(&nearest(&references, &host, NOW)[0]))
        };
        assert!(with(Some(NOW), Some(NOW)).0);
        let (agrees, text) = with(None, Some(NOW - 1));
        assert!(!agrees && text.contains("generation 1 of 2, but its lifetime has ended"), "{text}");
        let (agrees, text) = with(Some(NOW + 1), None);
        assert!(!agrees && text.contains("hasn't begun"), "{text}");
    }

    #[test]
    fn every_change_has_its_word() {
        assert_eq!(Change::of(true, true), Change::Stays);
        assert_eq!(Change::of(true, false).words(), "would break");
        assert_eq!(Change::of(false, true).words(), "would be accepted");
        assert_eq!(Change::of(false, false).words(), "stays refused");
        assert!(Change::Breaks < Change::Stays);
    }
}
