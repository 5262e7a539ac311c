//! Laws that hold for all inputs: the same bytes everywhere, and children that never widen.

use super::kit::{NOW, World, code};
use crate::verify::kit::{NOW_MS, delegation, document, parent, references};
use crate::verify::{Asked, Call};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::{Decision, Delegation, LeafRef, Verdict};
use countersign_core::name::{Action, Audience};
use countersign_core::refusal::RefusalCode;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TRANSCRIPT: &str = "COUNTERSIGN_TEST_TRANSCRIPT";

/// A world that is the same in every process: quotes are randomised, so nothing of them stays in the parent's leaf.
fn fixed_world() -> (World, LeafRef) {
    let mut world = World::new();
    let generation = world.host.generation();
    world.activate_references(&references(&[("b", generation.clone()), ("a", generation)]));
    let parent = world.parent(7, |decision| {
        decision.evidence = Sha256Digest::ZERO;
        decision.inputs = Sha256Digest::ZERO;
        decision.host_state.evidence = None;
    });
    (world, parent)
}

fn transcript(call: &Call) -> String {
    let record = countersign_core::record::EvidenceRecord {
        challenge: call.challenge.clone(),
        attest: call.attest.clone(),
        signature: call.signature.clone(),
        bank: call.bank,
        pcrs: call.pcrs.clone(),
        boot_log: call.boot_log,
        requests: Vec::new(),
        ima: call.ima,
    };
    let asked = &call.requests[0];
    [&record.encode(), &asked.request, &asked.signature, &asked.consents[0]]
        .map(|bytes| data_encoding::HEXLOWER.encode(bytes))
        .join(",")
}

fn decide_transcript(text: &str) -> String {
    let parts: Vec<Vec<u8>> =
        text.split(',').map(|part| data_encoding::HEXLOWER.decode(part.as_bytes()).unwrap()).collect();
    let record = countersign_core::record::EvidenceRecord::parse(&parts[0]).unwrap();
    let (world, _) = fixed_world();
    let outcome = world.decide_call(Call {
        challenge: record.challenge,
        requests: vec![Asked {
            request: parts[1].clone(),
            signature: parts[2].clone(),
            consents: vec![parts[3].clone()],
        }],
        attest: record.attest,
        signature: record.signature,
        bank: record.bank,
        pcrs: record.pcrs,
        boot_log: record.boot_log,
        ima: record.ima,
    });
    assert_eq!(code(&outcome), None, "{}", outcome.detail);
    data_encoding::HEXLOWER.encode(&[outcome.body(), &outcome.inputs_bytes].concat())
}

#[test]
fn two_processes_decide_the_same_bytes() {
    if let Some(text) = std::env::var_os(TRANSCRIPT) {
        println!("bytes:{}:", decide_transcript(text.to_str().unwrap()));
        return;
    }
    let (mut world, above) = fixed_world();
    let mut request = world.host.request("child");
    request.parents = vec![parent(above.0, &above.1)];
    request.delegation = Some(delegation(&["exec"], &["gate"], 2, 5));
    let call = world.host.call(NOW_MS, &[request]);
    let text = transcript(&call);
    let ours = decide_transcript(&text);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "decide::laws::two_processes_decide_the_same_bytes", "--nocapture"])
        .env(TRANSCRIPT, &text)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let theirs = printed.split("bytes:").nth(1).and_then(|rest| rest.split(':').next());
    assert_eq!(theirs, Some(ours.as_str()), "{printed}");
}

fn subset(universe: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(universe, 1..=universe.len())
}

const ACTIONS: &[&str] = &["call.a", "call.b", "exec"];
const AUDIENCES: &[&str] = &["gate", "other", "third"];

fn grants() -> impl Strategy<Value = (Vec<&'static str>, Vec<&'static str>, u64, u64)> {
    (subset(ACTIONS), subset(AUDIENCES), 1..5_u64, 1..20_u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_child_never_widens(
        above in grants(),
        asked in prop::option::of(grants()),
        action in prop::sample::select(ACTIONS),
        audience in prop::sample::select(AUDIENCES),
        left in 0..25_u64,
        lifetime in 1..200_u64,
        ttl_secs in 1..200_u64,
    ) {
        let mut world = World::new();
        world.activate(&document(&[("all", "permit (principal, action, resource);")]));
        let (actions, audiences, depth, budget) = &above;
        let granted = Delegation {
            actions: actions.iter().map(|text| Action::parse(text).unwrap()).collect(),
            audiences: audiences.iter().map(|text| Audience::parse(text).unwrap()).collect(),
            depth: *depth,
            budget: *budget,
        };
        let parent = world.parent(7, |decision| {
            decision.delegation = Some(granted.clone());
            decision.verdict = Verdict::Allow { nbf: NOW, exp: NOW + lifetime };
        });
        world.leaves.get_mut(&7).unwrap().1 = left;
        let child = world.child(&[parent], |request| {
            request.action = action.to_owned();
            request.aud = audience.to_owned();
            request.ttl_secs = ttl_secs;
            request.delegation =
                asked.as_ref().map(|(actions, audiences, depth, budget)| delegation(actions, audiences, *depth, *budget));
        });
        let decision = child.decision();
        match decision.verdict {
            Verdict::Allow { nbf, exp } => {
                prop_assert!(nbf < exp && exp <= NOW + lifetime && exp <= NOW + ttl_secs);
                prop_assert!(granted.actions.contains(&decision.action));
                prop_assert!(granted.audiences.contains(&decision.audience));
                let own = decision.delegation.as_ref();
                prop_assert!(own.is_none_or(|own| own.depth < granted.depth));
                prop_assert!(own.is_none_or(|own| own.actions.iter().all(|action| granted.actions.contains(action))));
                prop_assert!(own.is_none_or(|own| own.audiences.iter().all(|one| granted.audiences.contains(one))));
                let taken = 1 + own.map_or(0, |own| own.budget);
                prop_assert!(taken <= left);
                prop_assert_eq!(&child.charges, &vec![(7, taken)]);
            }
            Verdict::Deny(code) => {
                prop_assert!(matches!(code, RefusalCode::DelegationExceeded | RefusalCode::BudgetExhausted));
                prop_assert!(child.charges.is_empty());
                prop_assert_eq!(&decision.delegation, &None);
            }
        }
        prop_assert_eq!(&Decision::parse(child.body()).unwrap(), decision);
    }

    #[test]
    fn the_order_in_which_parents_and_documents_were_put_changes_no_verdict(
        order in Just(vec![7_u64, 8, 9, 10]).prop_shuffle(),
        names in Just(vec!["a", "b", "c", "d"]).prop_shuffle(),
    ) {
        let bodies = |order: &[u64], names: &[&str]| {
            let mut world = World::new();
            let policies: Vec<(&str, &str)> = names.iter().map(|name| (*name, "permit (principal, action, resource);")).collect();
            world.activate(&document(&policies));
            let generation = world.host.generation();
            let sets: Vec<_> = names.iter().map(|name| (*name, generation.clone())).collect();
            world.activate_references(&references(&sets));
            let root = world.parent(6, |decision| {
                decision.evidence = Sha256Digest::ZERO;
                decision.inputs = Sha256Digest::ZERO;
                decision.host_state.evidence = None;
            });
            let mut parents: BTreeMap<u64, LeafRef> = BTreeMap::new();
            for index in [7, 8, 9, 10] {
                let parent = world.parent(index, |decision| {
                    decision.lineage.parents = vec![root];
                    decision.lineage.root = Some(root);
                    decision.lineage.depth = 1;
                });
                parents.insert(index, parent);
            }
            let parents: Vec<LeafRef> = order.iter().map(|index| parents[index]).collect();
            let outcome = world.child(&parents, |_| {});
            assert_eq!(code(&outcome), None, "{}", outcome.detail);
            let mut charges = outcome.charges.clone();
            charges.sort_unstable();
            let decision = outcome.decision().clone();
            (decision.verdict, decision.policy, decision.appraisal, decision.lineage.depth, decision.lineage.root, charges)
        };
        prop_assert_eq!(bodies(&order, &names), bodies(&[7, 8, 9, 10], &["a", "b", "c", "d"]));
    }
}
