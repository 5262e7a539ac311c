//! Laws of what is told of two logs (`pairs.rs`, `told.rs`, `changes.rs`), whatever is in them: nothing panics, texts are short and printable, every event is
//! told of at most once, nothing changed between a log and itself, and who compares the other way round is told the same the other way round.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::changes::{Change, ChangeKind, MAX_TOLD_CHARS, Side, between, events, facts_between};
use super::facts_tests::Log;
use super::{EventLog, ExplainedValues, event_type, explain, pairs, told};
use crate::algorithm::HashAlg;

const BANK: HashAlg = HashAlg::Sha256;
/// A character is told by at most `\u{10ffff}`; something may be left out at either end.
const MOST_BYTES: usize = MAX_TOLD_CHARS * 10 + 6;

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// Length of a longest common subsequence, found by trying.
fn longest(one: &[u8], other: &[u8]) -> usize {
    let mut row = vec![0; other.len() + 1];
    for a in one {
        let mut diagonal = 0;
        for (at, b) in other.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if a == b { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[other.len()]
}

fn without(all: &[u8], left_out: &[usize]) -> Vec<u8> {
    let kept = all.iter().enumerate().filter(|(at, _)| !left_out.contains(at));
    kept.map(|(_, one)| *one).collect()
}

/// Text with the characters that matter: plain, of other scripts, invisible, turning.
fn text(most: usize) -> impl Strategy<Value = String> {
    let one = prop_oneof![
        6 => proptest::char::range(' ', '['),
        2 => proptest::char::range(']', '~'),
        2 => any::<char>().prop_filter("stands for others", |one| *one != '\\'),
        1 => Just('\u{202e}'),
        1 => Just('\n'),
    ];
    vec(one, 0..most).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #[test]
    fn what_is_paired_is_a_longest_common_part_in_order(
        one in vec(0..5_u8, 0..40),
        other in vec(0..5_u8, 0..40),
    ) {
        let (left, right) = pairs::unpaired(&one, &other);
        for (all, places) in [(&one, &left), (&other, &right)] {
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "no place twice");
            prop_assert!(places.last().is_none_or(|last| *last < all.len()));
        }
        let common = without(&one, &left);
        prop_assert_eq!(&common, &without(&other, &right));
        prop_assert_eq!(common.len(), longest(&one, &other));
        // The other way round as much stays in common.
        let (back_left, back_right) = pairs::unpaired(&other, &one);
        prop_assert_eq!((back_left.len(), back_right.len()), (right.len(), left.len()));
        prop_assert_eq!(pairs::unpaired(&one, &one), (Vec::new(), Vec::new()));
    }

    #[test]
    fn told_texts_are_short_and_printable(all in text(3_000), bytes in vec(any::<u8>(), 0..9_000)) {
        let shown = told::printable(&all);
        prop_assert!(is_printable(&shown) && shown.len() <= MOST_BYTES);
        if all.len() <= MAX_TOLD_CHARS && is_printable(&all) {
            prop_assert_eq!(&shown, &all);
        }
        for read in [Some(told::utf16(&bytes)), told::label(&bytes), told::subject(&bytes)] {
            let Some(read) = read else { continue };
            prop_assert!(read.chars().count() <= 8 * MAX_TOLD_CHARS);
            let shown = told::printable(&read);
            prop_assert!(is_printable(&shown) && shown.len() <= MOST_BYTES);
        }
        prop_assert!(told::label(&bytes).is_none_or(|label| !label.is_empty()));
    }

    #[test]
    fn where_two_texts_part_is_seen(
        common in text(2_500),
        one in text(200),
        other in text(200),
        long in any::<bool>(),
    ) {
        let tail = if long { "x".repeat(1_500) } else { String::new() };
        let (one, other) = (format!("{common}{one}{tail}"), format!("{common}{other}{tail}"));
        let (was, is) = told::parted(&one, &other);
        prop_assert!([&was, &is].into_iter().all(|text| is_printable(text) && text.len() <= MOST_BYTES));
        prop_assert_eq!(was == is, one == other);
        prop_assert_eq!(told::parted(&other, &one), (is, was));
    }
}

/// An event that may be in a log: register, type, data, and whether its data are what is measured.
#[derive(Clone, Debug)]
struct Made {
    pcr: u32,
    kind: u32,
    data: Vec<u8>,
    measured: bool,
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let utf16 = |text: String| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let variable = (
        prop_oneof![Just("BootOrder"), Just("Boot0001"), Just("SecureBoot"), Just("Other")],
        vec(any::<u8>(), 0..6),
    )
        .prop_map(move |(name, value)| {
            let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let lengths = [name.len() / 2, value.len()].map(|len| (len as u64).to_le_bytes()).concat();
            [&super::variable::EFI_GLOBAL_VARIABLE[..], &lengths, &name, &value].concat()
        });
    prop_oneof![
        vec(any::<u8>(), 0..40),
        text(60).prop_map(String::into_bytes),
        text(40).prop_map(utf16),
        "(/boot/vmlinuz|/initrd\\.img|linux|grub_cmd: set|kernel_cmdline: ro) ?[a-z]{0,6}"
            .prop_map(String::into_bytes),
        variable,
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let kind = prop_oneof![
        Just(event_type::POST_CODE),
        Just(event_type::S_CRTM_VERSION),
        Just(event_type::EVENT_TAG),
        Just(event_type::ACTION),
        Just(event_type::EFI_ACTION),
        Just(event_type::EFI_GPT_EVENT),
        Just(event_type::EFI_VARIABLE_DRIVER_CONFIG),
        Just(event_type::EFI_VARIABLE_BOOT),
        Just(event_type::EFI_VARIABLE_AUTHORITY),
        Just(event_type::EFI_BOOT_SERVICES_APPLICATION),
        Just(event_type::EFI_BOOT_SERVICES_DRIVER),
        Just(0x0d),
    ];
    (0..15_u32, kind, data(), any::<bool>()).prop_map(|(pcr, kind, data, measured)| Made {
        pcr,
        kind,
        data,
        measured,
    })
}

/// A log of these events, each with a number of its own where its data aren't what is measured. The boot registers have their separators.
fn log(all: &[(usize, Made)]) -> EventLog {
    let mut log = Log::new();
    for (number, one) in all {
        let measured = if one.measured { one.data.clone() } else { number.to_le_bytes().to_vec() };
        log = log.with(one.pcr, one.kind, &one.data, &measured);
    }
    let log = (0..8).fold(log, Log::separator);
    EventLog::parse(log.bytes()).unwrap()
}

fn explained(log: &EventLog) -> ExplainedValues<'_> {
    let replay = log.replay(BANK).unwrap();
    // Registers that no event extends have their value, too.
    let value = |pcr: u32| (pcr, replay.pcr(pcr).map_or_else(|| vec![0; 32], <[u8]>::to_vec));
    let values: Vec<(u32, Vec<u8>)> = PCRS.map(value).to_vec();
    explain(log, BANK, &values, &[0]).unwrap()
}

const PCRS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Events with their numbers.
type Events = Vec<(usize, Made)>;

/// Two logs of the same events, some left out of each and in another order.
fn two_logs(distinct: bool) -> impl Strategy<Value = (Events, Events)> {
    vec(made(), 1..24).prop_flat_map(move |all| {
        let mut seen = BTreeSet::new();
        let all: Events = all
            .into_iter()
            .enumerate()
            .filter(|(_, one)| !distinct || seen.insert((one.pcr, one.kind, one.data.clone())))
            .collect();
        let some = || {
            let count = all.len();
            (subsequence(all.clone(), 0..=count), any::<[Index; 3]>()).prop_map(|(mut some, places)| {
                // Out of order here and there.
                if !some.is_empty() {
                    for place in places {
                        let at = place.index(some.len());
                        let one = some.remove(at);
                        some.push(one);
                    }
                }
                some
            })
        };
        (some(), some())
    })
}

fn of(changes: &[Change], kind: ChangeKind) -> usize {
    changes.iter().filter(|one| one.change == kind).count()
}

/// How a change is told from the other side.
fn mirrored(one: &Change) -> Change {
    let change = match one.change {
        ChangeKind::Gained => ChangeKind::Lost,
        ChangeKind::Lost => ChangeKind::Gained,
        other => other,
    };
    // The subject is that of the side that is compared, if there is one.
    Change { change, reference: one.host.clone(), host: one.reference.clone(), ..one.clone() }
}

fn sorted(changes: impl Iterator<Item = Change>) -> Vec<String> {
    let mut all: Vec<String> = changes
        .filter(|one| one.change != ChangeKind::Moved)
        .map(|one| {
            format!("{:?}", (one.pcr, one.subject, one.change, one.reference, one.host, one.name_proven))
        })
        .collect();
    all.sort();
    all
}

fn well_told(one: &Change) -> bool {
    let side = |side: &Side| {
        let texts = [&side.name, &side.text];
        texts.into_iter().flatten().all(|text| is_printable(text) && text.len() <= MOST_BYTES)
            && side
                .digest
                .as_ref()
                .is_none_or(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    [&one.reference, &one.host].into_iter().flatten().all(side)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_event_is_told_of_at_most_once((was, is) in two_logs(false)) {
        let (was, is) = (log(&was), log(&is));
        let (one, other) = (explained(&was), explained(&is));
        for pcr in PCRS {
            let found = between(&one, &other, &[pcr]);
            prop_assert!(found.iter().all(|one| one.pcr == pcr && well_told(one)));
            // Of a register that one of the logs doesn't extend nothing is told.
            if !one.covers(pcr) || !other.covers(pcr) {
                prop_assert!(found.is_empty());
                continue;
            }
            let count = |log: &EventLog| log.events().filter(|event| event.extends() && event.pcr() == pcr).count();
            let both = of(&found, ChangeKind::Changed) + of(&found, ChangeKind::Moved);
            let kept = |log: &EventLog, alone: ChangeKind| count(log).checked_sub(both + of(&found, alone));
            // What isn't told of is in both: as many here as there.
            let (in_one, in_other) = (kept(&was, ChangeKind::Lost), kept(&is, ChangeKind::Gained));
            prop_assert!(in_one.is_some() && in_one == in_other, "{pcr}: {found:?}");
            prop_assert_eq!(events(&other, &[pcr]).len(), count(&is));
        }
        prop_assert!(events(&one, &PCRS).iter().all(well_told));
        prop_assert_eq!(between(&one, &one, &PCRS), Vec::new());
        prop_assert_eq!(facts_between(&one, &one), Vec::new());
    }

    #[test]
    fn the_other_way_round_the_same_is_told_the_other_way_round((was, is) in two_logs(true)) {
        let (was, is) = (log(&was), log(&is));
        let (one, other) = (explained(&was), explained(&is));
        let (there, back) = (between(&one, &other, &PCRS), between(&other, &one, &PCRS));
        prop_assert_eq!(of(&there, ChangeKind::Moved), of(&back, ChangeKind::Moved));
        prop_assert_eq!(sorted(there.iter().cloned()), sorted(back.iter().map(mirrored)));
        let facts = facts_between(&one, &other);
        let turned = facts_between(&other, &one);
        prop_assert_eq!(facts.len(), turned.len());
        for (one, other) in facts.iter().zip(&turned) {
            prop_assert_eq!((one.fact, &one.reference, &one.host), (other.fact, &other.host, &other.reference));
        }
    }
}
