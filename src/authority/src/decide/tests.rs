//! Every code that a decision can name, the order in which they are told, and the laws that hold for all inputs.

use super::kit::{NOW, World, code, parsed, plain};
use super::{
    AttestationOutcome, ENGINE, Family, Inconsistent, Inputs, Outcome, Situation, decide, decide_attestation,
};
use crate::appraise::unappraised;
use crate::verify::kit::{Host, NOW_MS, PERMIT, delegation, document, ed25519, parent, references, signed};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{Lifetime, ReferencesDocument};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Delegation, LeafRef, Verdict};
use countersign_core::leaf::host::{EndorsementKind, HostKeyKind, HostState, Tier};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::name::{Action, Audience};
use countersign_core::record::{ChallengeStanding, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{RequestDocument, delegation_preimage, holder_preimage};
use countersign_tpm::simulated::boot::BootOptions;

#[test]
fn a_good_call_is_allowed_and_the_body_says_why() {
    let outcome = plain(|_| {});
    assert_eq!(code(&outcome), None, "{}", outcome.detail);
    let decision = Decision::parse(outcome.body()).unwrap();
    assert_eq!(&decision, outcome.decision());
    assert_eq!(decision.verdict, Verdict::Allow { nbf: NOW, exp: NOW + 120 });
    assert_eq!(decision.issued_at, NOW);
    assert_eq!(decision.policy.as_ref().unwrap().determining, ["base#exec-on-good-hosts"]);
    assert_eq!(decision.policy.as_ref().unwrap().epoch, 1);
    assert_eq!(decision.appraisal.tier, Tier::Warning, "no references are active");
    assert_eq!(decision.appraisal.vector, [(0, 2), (1, 2), (2, 0), (4, 2)]);
    assert_eq!(decision.asserted, ["runtime", "workload"]);
    assert_eq!(decision.engine, ENGINE);
    assert_eq!(decision.control, 1);
    assert_eq!(sha256(&outcome.inputs_bytes), decision.inputs);
    assert_eq!(InputsRecord::parse(&outcome.inputs_bytes).unwrap(), outcome.inputs);
    assert_eq!(outcome.kind(), Kind::Allow);
    assert!(outcome.spends_challenge());
    assert!(outcome.charges.is_empty());
}

#[test]
fn good_evidence_renews_the_hosts_state_also_when_policy_denies() {
    let allowed = plain(|_| {});
    let denied = plain(|world| world.activate(&document(&[])));
    assert_eq!(code(&denied), Some(RefusalCode::PolicyDenied));
    for state in [allowed.state_after(), denied.state_after()] {
        assert_eq!(state.version, 2, "the first boot that was seen");
        assert_eq!((state.reset_count, state.restart_count, state.clock_ms), (1, 0, 1_000));
        assert_eq!(state.trusted_until_ms, NOW_MS + 300_000);
        assert_eq!(state.tier, Tier::Warning);
        assert!(state.evidence.is_some() && state.boot_log.is_some() && state.pcr_digest.is_some());
    }
}

#[test]
fn challenge_expired_and_spent() {
    let expired = plain(|world| world.time_ms = NOW_MS + 30_001);
    assert_eq!(code(&expired), Some(RefusalCode::ChallengeExpired));
    assert_eq!(expired.inputs.challenge, ChallengeStanding::Expired);
    let spent = plain(|world| world.spent = true);
    assert_eq!(code(&spent), Some(RefusalCode::ChallengeSpent));
    let both = plain(|world| (world.spent, world.time_ms) = (true, NOW_MS + 30_001));
    assert_eq!(code(&both), Some(RefusalCode::ChallengeExpired), "a store forgets what expired");
    for outcome in [expired, spent, both] {
        assert!(!outcome.spends_challenge());
        assert_eq!(*outcome.state_after(), HostState::unattested(1), "old evidence says nothing new");
        assert_eq!(outcome.decision().appraisal.tier, Tier::None);
        assert_eq!(outcome.kind(), Kind::Deny);
    }
    assert_eq!(code(&plain(|world| world.time_ms = NOW_MS + 30_000)), None);
}

#[test]
fn request_id_reused() {
    let outcome = plain(|world| world.reused = true);
    assert_eq!(code(&outcome), Some(RefusalCode::RequestIdReused));
    // The host's state is the call's, not the request's: another request of the call may be allowed.
    assert_eq!(outcome.state_after().version, 2);
}

#[test]
fn host_revoked() {
    let outcome = plain(|world| world.revoke(Subject::Host(world.host.endorsed.host)));
    assert_eq!(code(&outcome), Some(RefusalCode::HostRevoked));
    assert_eq!(outcome.inputs.revoked, [Subject::Host(Host::new(1).endorsed.host)]);
    assert_eq!(*outcome.state_after(), HostState::unattested(1));
}

#[test]
fn a_finding_of_the_evidence_is_its_own_code_and_changes_nothing() {
    let mut world = World::new();
    let request = world.request();
    let mut call = world.host.call(NOW_MS, &[request]);
    call.boot_log = None;
    let outcome = world.decide_call(call.clone());
    assert_eq!(code(&outcome), Some(RefusalCode::BootLogMissing));
    assert_eq!(*outcome.state_after(), HostState::unattested(1));
    assert!(outcome.spends_challenge());
    // Counters come before the boot log.
    world.host.endorsed.prior.reset_count = 9;
    assert_eq!(code(&world.decide_call(call.clone())), Some(RefusalCode::QuoteResetRegressed));
    // The quote's own findings come before the counters.
    call.pcrs[0].1[0] ^= 1;
    assert_eq!(code(&world.decide_call(call)), Some(RefusalCode::QuoteDigestMismatch));
}

fn after(prior: impl FnOnce(&mut HostState)) -> Outcome {
    plain(|world| {
        let state = &mut world.host.endorsed.prior;
        *state = HostState { version: 4, reset_count: 1, restart_count: 0, clock_ms: 1_000, ..*state };
        prior(state);
    })
}

#[test]
fn what_the_boot_log_proves_decides() {
    let source = r#"permit (principal, action == Action::"exec", resource)
        when { context.boot has cmdline && context.boot.cmdline == "/vmlinuz ro" };"#;
    let decided = |line: &str| {
        let mut world = World::empty();
        world.activate(&document(&[("cmdline", source)]));
        world.host.reboot(&BootOptions { kernel_command_line: line.to_owned(), ..BootOptions::default() });
        let request = world.request();
        code(&world.decide(&request))
    };
    assert_eq!(decided("/vmlinuz ro"), None);
    assert_eq!(decided("/vmlinuz ro init=/bin/sh"), Some(RefusalCode::PolicyDenied));
}

#[test]
fn counters_may_rise_and_not_fall() {
    assert_eq!(code(&after(|prior| prior.reset_count = 2)), Some(RefusalCode::QuoteResetRegressed));
    assert_eq!(code(&after(|prior| prior.restart_count = 1)), Some(RefusalCode::QuoteResetRegressed));
    assert_eq!(code(&after(|prior| prior.clock_ms = 61_001)), Some(RefusalCode::QuoteClockBehind));
    let trailing = after(|prior| prior.clock_ms = 61_000);
    assert_eq!(code(&trailing), None);
    assert_eq!(trailing.state_after().clock_ms, 61_000, "the largest seen stays");
    assert_eq!(trailing.state_after().version, 4);
    // A restart count of an earlier reset says nothing.
    let rebooted = after(|prior| (prior.reset_count, prior.restart_count, prior.clock_ms) = (0, 7, 999_999));
    assert_eq!(code(&rebooted), None);
    assert_eq!((rebooted.state_after().version, rebooted.state_after().clock_ms), (5, 1_000));
}

#[test]
fn references_affirm_or_contradict() {
    let matching = plain(|world| {
        let generation = world.host.generation();
        world.activate_references(&references(&[("fleet", generation)]));
    });
    assert_eq!(code(&matching), None);
    assert_eq!(matching.decision().appraisal.tier, Tier::Affirming);
    assert_eq!(matching.decision().appraisal.reference_set.as_deref(), Some("fleet"));
    let contradicted = plain(|world| {
        let mut generation = world.host.generation();
        generation.pcrs[2].1[0] ^= 1;
        world.activate_references(&references(&[("fleet", generation)]));
    });
    assert_eq!(code(&contradicted), Some(RefusalCode::ReferenceMismatch));
    assert_eq!(contradicted.decision().appraisal.tier, Tier::Contraindicated);
    assert_eq!(contradicted.state_after().trusted_until_ms, 0);
    // An operator captures new references from this very evidence.
    assert!(contradicted.state_after().evidence.is_some());
    let unquoted = plain(|world| {
        let mut generation = world.host.generation();
        generation.pcrs.push((16, vec![0; 32]));
        world.activate_references(&references(&[("fleet", generation)]));
    });
    assert_eq!(
        code(&unquoted),
        Some(RefusalCode::ReferenceMismatch),
        "a register that wasn't quoted matches nothing"
    );
    let emptied = plain(|world| world.activate_references(&ReferencesDocument::default()));
    assert_eq!(code(&emptied), Some(RefusalCode::ReferenceMismatch));
}

#[test]
fn several_generations_hold_at_once() {
    let mut world = World::new();
    let old = world.host.generation();
    world.host.reboot(&BootOptions { seed: 8, ..BootOptions::default() });
    let new = world.host.generation();
    world.activate_references(&references(&[("fleet", old), ("fleet", new)]));
    let request = world.request();
    assert_eq!(code(&world.decide(&request)), None);
}

#[test]
fn a_generation_counts_within_its_lifetime_only() {
    let judged = |from: i64, until: i64| {
        let outcome = plain(|world| {
            let mut generation = world.host.generation();
            let at = |offset: i64| world.time_ms.checked_add_signed(offset);
            generation.lifetime = Lifetime { not_before_ms: at(from), not_after_ms: at(until) };
            world.activate_references(&references(&[("fleet", generation)]));
        });
        code(&outcome)
    };
    assert_eq!(judged(0, 0), None);
    assert_eq!(judged(-1_000, -1), Some(RefusalCode::ReferenceMismatch));
    assert_eq!(judged(1, 1_000), Some(RefusalCode::ReferenceMismatch));
}

#[test]
fn weak_endorsements_and_configurations_warn() {
    let affirmed = |change: fn(&mut World)| {
        plain(|world| {
            change(world);
            let generation = world.host.generation();
            world.activate_references(&references(&[("fleet", generation)]));
        })
        .decision()
        .appraisal
        .clone()
    };
    assert_eq!(affirmed(|_| {}).tier, Tier::Affirming);
    let listed = affirmed(|world| {
        std::sync::Arc::make_mut(&mut world.host.endorsed.endorsement).kind = EndorsementKind::EkAllowed;
    });
    assert_eq!((listed.tier, listed.vector), (Tier::Warning, vec![(0, 2), (1, 2), (2, 2), (4, 32)]));
    let insecure =
        affirmed(|world| world.host.reboot(&BootOptions { secure_boot: false, ..BootOptions::default() }));
    assert_eq!((insecure.tier, insecure.vector), (Tier::Warning, vec![(0, 2), (1, 32), (2, 2), (4, 2)]));
    let debugged =
        affirmed(|world| world.host.reboot(&BootOptions { debug_mode: true, ..BootOptions::default() }));
    assert_eq!((debugged.tier, debugged.vector), (Tier::Warning, vec![(0, 2), (1, 32), (2, 2), (4, 2)]));
}

#[test]
fn policy_absent_denied_and_error() {
    let mut world = World::empty();
    world.host.settings = countersign_core::document::Settings::default();
    let request = world.request();
    let absent = world.decide(&request);
    assert_eq!(code(&absent), Some(RefusalCode::PolicyAbsent));
    assert_eq!(absent.decision().policy, None);
    assert_eq!(absent.state_after().trusted_until_ms, NOW_MS + 300_000);
    let failing = "forbid (principal, action, resource) when { context.ttl_secs + 9223372036854775807 > 0 };";
    let failed = plain(|world| world.activate(&document(&[("base", PERMIT), ("bad", failing)])));
    assert_eq!(code(&failed), Some(RefusalCode::PolicyError));
    assert_eq!(failed.decision().policy.as_ref().unwrap().determining, ["bad"]);
    let software = r#"forbid (principal, action, resource) when { context.host_key == "software" };"#;
    let forbidden = plain(|world| {
        world.activate(&document(&[("base", PERMIT), ("hw", software)]));
        world.host.endorsed.host_key_kind = HostKeyKind::Software;
    });
    assert_eq!(code(&forbidden), Some(RefusalCode::PolicyDenied));
    assert_eq!(forbidden.decision().policy.as_ref().unwrap().determining, ["hw"]);
}

#[test]
fn the_lifetime_is_the_smallest_of_all_bounds() {
    let exp = |outcome: &Outcome| match outcome.decision().verdict {
        Verdict::Allow { exp, .. } => exp - NOW,
        Verdict::Deny(code) => panic!("{code}: {}", outcome.detail),
    };
    let mut world = World::new();
    let mut request = world.request();
    request.ttl_secs = 1;
    assert_eq!(exp(&world.decide(&request)), 1);
    request.ttl_secs = 86_400;
    assert_eq!(exp(&world.decide(&request)), 300, "the host's trust");
    let mut short = document(&[("base", PERMIT)]);
    short.settings.max_ttl_secs = 30;
    world.activate(&short);
    assert_eq!(exp(&world.decide(&request)), 30, "the settings");
    let parent = world.parent(7, |decision| decision.verdict = Verdict::Allow { nbf: NOW, exp: NOW + 9 });
    assert_eq!(exp(&world.child(&[parent], |_| {})), 9, "the parent");
}

#[test]
fn a_child_within_its_parents_delegation_is_allowed_and_charged() {
    let mut world = World::new();
    let (a, b) = (world.parent(7, |_| {}), world.parent(8, |_| {}));
    let child =
        world.child(&[a], |request| request.delegation = Some(delegation(&["exec"], &["gate"], 2, 10)));
    assert_eq!(code(&child), None, "{}", child.detail);
    assert_eq!(child.charges, [(7, 11)]);
    assert_eq!(child.decision().lineage.root, Some(a));
    assert_eq!(child.decision().lineage.depth, 1);
    assert_eq!(child.inputs.parents, [(a, 100)]);
    let child = world.append(9, child.decision(), 10);
    let grandchild = world.child(&[child], |_| {});
    assert_eq!(code(&grandchild), None);
    assert_eq!(grandchild.decision().lineage.root, Some(a));
    assert_eq!(grandchild.decision().lineage.depth, 2);
    // One of its parents is its other parent's root: one family.
    let both = world.child(&[child, a], |_| {});
    assert_eq!(code(&both), None);
    assert_eq!(both.charges, [(9, 1), (7, 1)]);
    assert_eq!(both.decision().lineage.depth, 2);
    assert_eq!(code(&world.child(&[a, b], |_| {})), Some(RefusalCode::LineageRootMismatch));
}

#[test]
fn parent_unknown() {
    let mut world = World::new();
    let good = world.parent(7, |_| {});
    let nowhere = world.child(&[(99, good.1)], |_| {});
    assert_eq!(code(&nowhere), Some(RefusalCode::ParentUnknown));
    assert_eq!(nowhere.inputs.parents, [((99, good.1), 0)]);
    assert_eq!(Decision::parse(nowhere.body()).unwrap(), *nowhere.decision());
    assert_eq!(code(&world.child(&[(7, Sha256Digest::ZERO)], |_| {})), Some(RefusalCode::ParentUnknown));
    world.spent = true;
    let request = world.host.request("denied");
    let denied = world.decide(&request).decision.into_parts().0;
    world.spent = false;
    let denied = world.append(8, &denied, 0);
    assert_eq!(code(&world.child(&[denied], |_| {})), Some(RefusalCode::ParentUnknown));
    // A child whose own parent can't be found isn't followed halfway.
    let orphan = world.parent(10, |decision| {
        decision.lineage.parents = vec![(98, Sha256Digest::ZERO)];
        decision.lineage.root = Some((98, Sha256Digest::ZERO));
        decision.lineage.depth = 1;
    });
    assert_eq!(code(&world.child(&[orphan], |_| {})), Some(RefusalCode::ParentUnknown));
}

#[test]
fn parent_expired() {
    let mut world = World::new();
    let parent = world.parent(7, |decision| decision.verdict = Verdict::Allow { nbf: NOW - 9, exp: NOW });
    assert_eq!(code(&world.child(&[parent], |_| {})), Some(RefusalCode::ParentExpired));
}

#[test]
fn a_revoked_parent_ancestor_or_host_above_denies() {
    let revoked = |subject: fn(LeafRef, LeafRef, LeafRef) -> Subject| {
        let mut world = World::new();
        let root = world.parent(7, |_| {});
        let mut line = vec![root];
        for index in [8, 9, 10] {
            let above = line[line.len() - 1];
            let depth = u64::try_from(line.len()).unwrap();
            line.push(world.parent(index, |decision| {
                decision.lineage.parents = vec![above];
                decision.lineage.root = Some(root);
                decision.lineage.depth = depth;
            }));
        }
        world.revoke(subject(line[0], line[1], line[3]));
        world.child(&[line[3]], |_| {})
    };
    let parent = revoked(|_, _, parent| Subject::Artifact(parent.0, parent.1));
    assert_eq!(code(&parent), Some(RefusalCode::ParentRevoked));
    let root = revoked(|root, _, _| Subject::Artifact(root.0, root.1));
    assert_eq!(code(&root), Some(RefusalCode::ParentRevoked));
    // Named in no lineage that the child can see: found by walking.
    let hidden = revoked(|_, hidden, _| Subject::Artifact(hidden.0, hidden.1));
    assert_eq!(code(&hidden), Some(RefusalCode::ParentRevoked));
    assert_eq!(hidden.inputs.revoked.len(), 1);
    let elsewhere = revoked(|_, hidden, _| Subject::Artifact(hidden.0, Sha256Digest::ZERO));
    assert_eq!(code(&elsewhere), None);
    let mut world = World::new();
    let other = Host::new(2).endorsed.host;
    let parent = world.parent(7, |decision| decision.host = other);
    world.revoke(Subject::Host(other));
    assert_eq!(code(&world.child(&[parent], |_| {})), Some(RefusalCode::ParentRevoked));
}

/// A child of two parents, of which the first is held by the holder of the tests and the second by another key.
fn child_of_two(consents: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) -> Outcome {
    let mut world = World::new();
    let first = world.parent(7, |_| {});
    let second = world.parent(8, |decision| {
        decision.holder = ed25519(98).1;
        decision.lineage.parents = vec![first];
        decision.lineage.root = Some(first);
        decision.lineage.depth = 1;
    });
    let mut request = world.request();
    request.parents = [first, second].iter().map(|(index, leaf)| parent(*index, leaf)).collect();
    let mut asked = signed(&request);
    asked.consents = consents(&asked.request);
    let challenge = world.host.challenge(NOW_MS);
    let call = world.host.quoted(challenge, vec![asked]);
    world.decide_call(call)
}

fn consent(seed: u8, preimage: &[u8]) -> Vec<u8> {
    ed25519(seed).0.sign(preimage).as_ref().to_vec()
}

#[test]
fn every_parents_holder_agrees_to_the_child() {
    let good =
        child_of_two(|request| [99, 98].map(|seed| consent(seed, &delegation_preimage(request))).to_vec());
    assert_eq!(code(&good), None, "{}", good.detail);
    assert_eq!(good.inputs.consents.len(), 2, "kept for whoever repeats the decision");
}

#[test]
fn consent_missing() {
    assert_eq!(code(&child_of_two(|_| Vec::new())), Some(RefusalCode::ConsentMissing));
    let one = child_of_two(|request| vec![consent(99, &delegation_preimage(request))]);
    assert_eq!(code(&one), Some(RefusalCode::ConsentMissing));
    assert_eq!(one.inputs.consents.len(), 1);
}

#[test]
fn consent_invalid() {
    let wrong =
        |consents: fn(&[u8]) -> [Vec<u8>; 2]| code(&child_of_two(|request| consents(request).to_vec()));
    let expected = Some(RefusalCode::ConsentInvalid);
    // The child's holder doesn't agree for somebody else's artifact.
    assert_eq!(wrong(|request| [99, 99].map(|seed| consent(seed, &delegation_preimage(request)))), expected);
    assert_eq!(wrong(|request| [98, 99].map(|seed| consent(seed, &delegation_preimage(request)))), expected);
    // A holder signature over a request isn't a consent, and a consent is to one request.
    assert_eq!(wrong(|request| [99, 98].map(|seed| consent(seed, &holder_preimage(request)))), expected);
    assert_eq!(wrong(|_| [99, 98].map(|seed| consent(seed, &delegation_preimage(b"another")))), expected);
    assert_eq!(wrong(|_| [Vec::new(), Vec::new()]), expected);
}

#[test]
fn delegation_absent_exceeded_and_budget() {
    let mut world = World::new();
    let barren = world.parent(7, |decision| decision.delegation = None);
    assert_eq!(code(&world.child(&[barren], |_| {})), Some(RefusalCode::DelegationAbsent));
    let narrow = world.parent(8, |decision| {
        decision.delegation = Some(Delegation {
            actions: vec![Action::parse("exec").unwrap()],
            audiences: vec![Audience::parse("gate").unwrap()],
            depth: 2,
            budget: 10,
        });
    });
    let mut exceeded = |change: fn(&mut RequestDocument)| code(&world.child(&[narrow], change));
    assert_eq!(
        exceeded(|request| request.action = "call.a".to_owned()),
        Some(RefusalCode::DelegationExceeded)
    );
    let cases: [fn(&mut RequestDocument); 3] = [
        |request| request.delegation = Some(delegation(&["call.a"], &["gate"], 1, 1)),
        |request| request.delegation = Some(delegation(&["exec"], &["gate", "other"], 1, 1)),
        |request| request.delegation = Some(delegation(&["exec"], &["gate"], 2, 1)),
    ];
    for case in cases {
        assert_eq!(exceeded(case), Some(RefusalCode::DelegationExceeded));
    }
    assert_eq!(exceeded(|request| request.delegation = Some(delegation(&["exec"], &["gate"], 1, 9))), None);
    let too_much: fn(&mut RequestDocument) =
        |request| request.delegation = Some(delegation(&["exec"], &["gate"], 1, 10));
    assert_eq!(exceeded(too_much), Some(RefusalCode::BudgetExhausted));
    world.leaves.get_mut(&8).unwrap().1 = 0;
    assert_eq!(code(&world.child(&[narrow], |_| {})), Some(RefusalCode::BudgetExhausted));
}

#[test]
fn audience_is_part_of_the_delegation() {
    let mut world = World::new();
    world.activate(&document(&[("all", "permit (principal, action, resource);")]));
    let parent = world.parent(7, |_| {});
    let elsewhere = world.child(&[parent], |request| request.aud = "third".to_owned());
    assert_eq!(code(&elsewhere), Some(RefusalCode::DelegationExceeded));
    assert_eq!(code(&world.child(&[parent], |request| request.aud = "other".to_owned())), None);
}

#[test]
fn attestations_leave_states_or_codes() {
    let mut world = World::empty();
    world.host.settings = countersign_core::document::Settings::default();
    let good = world.attest();
    assert_eq!(good.record.code, None, "no policy is needed to be known");
    assert_eq!(good.record.state.version, 2);
    assert_eq!(good.appraisal.tier, Tier::Warning);
    assert_eq!(HostStateRecord::parse(&good.body).unwrap(), good.record);
    let basis = |outcome: &AttestationOutcome| outcome.record.basis.clone().unwrap();
    assert_eq!(basis(&good).appraisal, good.appraisal);
    assert_eq!(good.appraisal.vector, [(0, 2), (1, 2), (2, 0), (4, 2)]);
    assert_eq!((basis(&good).policy, basis(&good).references), (None, None));
    assert_eq!((basis(&good).engine.as_str(), basis(&good).time_ms), (ENGINE, NOW_MS));
    world.spent = true;
    let spent = world.attest();
    assert_eq!(
        (spent.record.code, spent.challenge),
        (Some(RefusalCode::ChallengeSpent), ChallengeStanding::Spent)
    );
    assert_eq!(spent.record.state, HostState::unattested(1));
    assert_eq!(basis(&spent).appraisal, unappraised(), "evidence that isn't fresh says nothing");
    world.spent = false;
    world.activate_references(&ReferencesDocument::default());
    let contradicted = world.attest();
    assert_eq!(contradicted.record.code, Some(RefusalCode::ReferenceMismatch));
    assert_eq!(contradicted.record.state.tier, Tier::Contraindicated);
    assert_eq!(
        basis(&contradicted).appraisal.tier,
        Tier::Contraindicated,
        "the result is told with the refusal"
    );
    assert_eq!(basis(&contradicted).references, world.control.references().copied());
    world.revoke(Subject::Host(world.host.endorsed.host));
    assert_eq!(world.attest().record.code, Some(RefusalCode::HostRevoked));
}

#[test]
fn inputs_that_do_not_belong_together_decide_nothing() {
    let mut world = World::new();
    let request = world.request();
    let call = world.host.call(NOW_MS, &[request]);
    let call = world.host.verify(call).unwrap();
    let none = Family::none();
    let request = &call.requests()[0];
    let with = |situation| {
        decide(&Inputs { situation, request, family: &none, request_id_reused: false }).unwrap_err()
    };
    let situation = world.situation(&call);
    let other = Host::new(2).endorsed;
    assert_eq!(with(Situation { host: &other, ..situation }), Inconsistent::Host);
    assert_eq!(with(Situation { policy: None, ..situation }), Inconsistent::Documents);
    let references = parsed(&ReferencesDocument::default(), None);
    assert_eq!(with(Situation { references: Some(&references), ..situation }), Inconsistent::Documents);
    assert_eq!(decide_attestation(&situation).unwrap_err(), Inconsistent::Request);
    // The policy moved after the evidence was judged.
    let mut moved = World::new();
    let mut other_settings = document(&[("base", PERMIT)]);
    other_settings.settings.pcrs = vec![0, 7];
    moved.activate(&other_settings);
    let moved = Situation { control: &moved.control, policy: moved.policy.as_ref(), ..situation };
    assert_eq!(with(moved), Inconsistent::Settings);
    // A request that no quote covers.
    let mut elsewhere = Host::new(1);
    let foreign = elsewhere.call(NOW_MS, &[elsewhere.request("r-2")]);
    let foreign = elsewhere.verify(foreign).unwrap();
    let uncovered =
        Inputs { situation, request: &foreign.requests()[0], family: &none, request_id_reused: false };
    assert_eq!(decide(&uncovered).unwrap_err(), Inconsistent::Request);
    let family = world.family(&[(3, Sha256Digest::ZERO)]);
    assert_eq!(
        decide(&Inputs { situation, request, family: &family, request_id_reused: false }).unwrap_err(),
        Inconsistent::Family
    );
}

#[test]
fn all_requests_of_a_call_carry_one_state() {
    let mut world = World::new();
    let requests = [world.host.request("a"), world.host.request("b")];
    let call = world.host.call(NOW_MS, &requests);
    let call = world.host.verify(call).unwrap();
    let states: Vec<HostState> = (call.requests().iter().zip([false, true]))
        .map(|(request, request_id_reused)| {
            let family = Family::none();
            let inputs =
                Inputs { situation: world.situation(&call), request, family: &family, request_id_reused };
            *decide(&inputs).unwrap().state_after()
        })
        .collect();
    assert_eq!(states[0], states[1]);
}
