//! Two implementations of PROTOCOL.md over logs that were altered and then rooted and signed again, so that what is altered is reached and not the
//! first root that no longer fits. Both have to accept or both to refuse; which code each gives is information.
//!
//! By hand: `COUNTERSIGN_CASES=100000 COUNTERSIGN_SEED=7 cargo test -p countersign-tests --all-features --test differential -- --nocapture`.
//! `COUNTERSIGN_CASE=<seed>` shows one case.

mod bases;
mod cases;
mod dice;
mod entries;
mod item;
mod judge;
mod keys;
mod named;
mod plan;
mod second;
mod text;

use bases::Base;
use cases::{Case, Source, log_case};
use data_encoding::HEXLOWER;
use dice::Dice;
use second::{Answer, Second};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Cases of `make test`: some 30 s on two cores that have nothing else to do.
const CASES: u64 = 1_000;
const SEED: u64 = 1;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn record(what: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/formats/record.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    HEXLOWER.decode(vectors[what].as_str().unwrap().as_bytes()).unwrap()
}

fn source() -> Source {
    let bases = bases::all();
    let built = bases.iter().map(|base| base.plan.build()).collect();
    Source { bases, built, inputs: record("inputs"), evidence: record("evidence") }
}

/// Both sides, each with a place for exports.
struct Both {
    second: Second,
    file: tempfile::NamedTempFile,
}

impl Both {
    fn new() -> Self {
        Self { second: Second::start(), file: tempfile::NamedTempFile::new().unwrap() }
    }

    fn judge(&mut self, case: &Case) -> (judge::Verdict, Answer) {
        if let Case::Log { export, .. } = case {
            std::fs::write(self.file.path(), export).unwrap();
        }
        self.second.ask(case, self.file.path());
        let own = judge::judge(case, self.file.path());
        (own, self.second.answer())
    }
}

/// How many cases of a kind both accepted and both refused, and by which codes.
#[derive(Default)]
struct Tally {
    accepted: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    deep: u64,
    codes: BTreeMap<(&'static str, String, String), u64>,
}

impl Tally {
    /// `Err` if the two don't agree.
    fn add(&mut self, case: &Case, own: judge::Verdict, answer: Answer) -> Result<(), String> {
        let kind = case.kind();
        self.deep += u64::from(answer.deep && answer.verdict.is_none());
        match (own, answer.verdict) {
            (None, None) => *self.accepted.entry(kind).or_default() += 1,
            (Some((own, _)), Some((other, _))) => {
                *self.refused.entry(kind).or_default() += 1;
                *self.codes.entry((kind, own, other)).or_default() += 1;
            }
            (own, other) => return Err(format!("{kind}: Rust {own:?}, Python {other:?}")),
        }
        Ok(())
    }
}

fn fails(tally: &mut Tally, both: &mut Both, case: &Case) -> Result<(), String> {
    let (own, answer) = both.judge(case);
    tally.add(case, own, answer)
}

#[test]
fn two_implementations_agree_over_altered_logs() {
    let (source, mut both, mut tally) = (source(), Both::new(), Tally::default());
    if let Some(seed) = number("COUNTERSIGN_CASE") {
        let case = source.case(seed);
        println!("{case:#?}\n{:?}", fails(&mut tally, &mut both, &case));
        return;
    }
    let (count, first) =
        (number("COUNTERSIGN_CASES").unwrap_or(CASES), number("COUNTERSIGN_SEED").unwrap_or(SEED));
    let mut disagreements = Vec::new();
    for at in 0..count {
        let seed = Dice::new(first).next().wrapping_add(at);
        let case = source.case(seed);
        if let Err(found) = fails(&mut tally, &mut both, &case) {
            disagreements.push(format!("COUNTERSIGN_CASE={seed} {found}"));
        }
    }
    println!("accepted {:?}, refused {:?}, {} by replay alone", tally.accepted, tally.refused, tally.deep);
    for ((kind, own, other), times) in &tally.codes {
        println!("{times:7} {kind}: {own} / {other}");
    }
    assert!(
        disagreements.is_empty(),
        "seed {first}: {} of {count}:\n{}",
        disagreements.len(),
        disagreements.join("\n")
    );
    // Neither everything nor nothing: of every kind some are accepted and many refused.
    let logs = (tally.accepted["log"], tally.refused["log"]);
    assert!(logs.0 * 20 > logs.1 && logs.1 * 2 > logs.0, "accepted and refused logs: {logs:?}");
    for kind in ["leaf", "head", "receipt", "bundle", "feed", "inputs", "evidence"] {
        assert!(tally.accepted[kind] > 0 && tally.refused[kind] > 0, "all {kind} cases end the same way");
    }
}

/// A log as it is, in one page of leaves and one of heads.
fn plain(base: &Base) -> Case {
    log_case(&base.plan.build(), &mut Dice::new(0))
}

#[test]
fn both_accept_the_logs_that_nothing_was_done_to() {
    let mut both = Both::new();
    for base in bases::all() {
        let case = plain(&base);
        let (own, answer) = both.judge(&case);
        assert_eq!((own, answer.verdict, answer.deep), (None, None, false), "{}", base.name);
    }
}

#[test]
fn what_was_once_seen_differently_is_seen_alike() {
    let (source, mut both) = (source(), Both::new());
    for (name, accepted, case) in named::all(&source) {
        let (own, answer) = both.judge(&case);
        println!("{name}: {own:?} / {:?}", answer.verdict);
        assert_eq!(
            (own.is_none(), answer.verdict.is_none()),
            (accepted, accepted),
            "{name}: {own:?}, {:?}",
            answer.verdict
        );
    }
}

#[test]
fn an_answer_that_differs_is_noticed() {
    let (source, mut both, mut tally) = (source(), Both::new(), Tally::default());
    let case = plain(&source.bases[0]);
    let wrong = Answer { verdict: Some(("head-forked".to_owned(), String::new())), deep: false };
    assert!(tally.add(&case, None, wrong).is_err());
    // One side is shown another case than the other.
    let other = Case::Leaf(Vec::new());
    both.second.ask(&other, both.file.path());
    let own = judge::judge(&Case::Leaf(source.built[0].leaves[0].clone()), both.file.path());
    assert!(tally.add(&other, own, both.second.answer()).is_err());
}
