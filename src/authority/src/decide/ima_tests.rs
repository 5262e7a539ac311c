//! IMA in decisions: a policy in force is checked or the request denied, state goes on from good evidence only, and policies see the facts.

use super::kit::{World, code, parsed};
use super::{Inconsistent, Inputs, Outcome, decide};
use crate::verify::Call;
use crate::verify::kit::{NOW_MS, document, signed};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::ReferencesDocument;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::EpochRecord;
use countersign_core::leaf::host::Tier;
use countersign_core::record::ImaEntries;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::policy::{FileDigestRule, Pattern, PolicyDraft};
use countersign_tpm::ima::state::ImaState;
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::ima::SimulatedIma;
use std::sync::Arc;

const BANK: HashAlg = HashAlg::Sha256;

const WATCHFUL: &str = r#"
@id("exec")
permit (principal, action == Action::"exec", resource)
when { context has ima && context.ima.violations == 0 && context.ima.boot_aggregate == "checked" && context.ima.entries >= 1 };
@id("nothing-excluded")
forbid (principal, action, resource)
when { context has ima && context.ima.excludes.contains("/tmp/*") };
"#;

/// A world in which files `/a` and `/b` may run, and a kernel that measures.
struct Measured {
    world: World,
    list: SimulatedIma,
    extended: usize,
    ids: u32,
}

impl Measured {
    fn new() -> Self {
        let mut world = World::empty();
        let mut policy = document(&[("watchful", WATCHFUL)]);
        policy.settings.pcrs = vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14];
        world.activate(&policy);
        let boot = PcrSelectionSpec::new(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let values = world.host.tpm.pcr_values(&boot).unwrap();
        let values: Vec<Vec<u8>> = values.into_iter().map(|(_, value)| value).collect();
        let mut this = Self { world, list: SimulatedIma::after_boot(BANK, &values), extended: 0, ids: 0 };
        this.activate(&["/a", "/b"]);
        this
    }

    fn activate(&mut self, paths: &[&str]) {
        let mut draft = PolicyDraft::default();
        for path in paths {
            let bytes = BANK.digest(path.as_bytes());
            draft.allow(
                path.as_bytes(),
                FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes },
            );
        }
        draft.excludes.push(Pattern::Prefix(b"/tmp/".to_vec()));
        let bytes = draft.encode();
        let references = ReferencesDocument { ima: Some(sha256(&bytes)), ..ReferencesDocument::default() };
        let epoch = self.world.control.epoch() + 1;
        let record = EpochRecord { document: references.digest(), epoch, by: Sha256Digest::ZERO };
        self.world.control_leaf(Kind::References, record.encode());
        self.world.references = Some(parsed(&references, Some(&bytes)));
    }

    fn run(&mut self, path: &str) {
        self.list.measure(BANK, path.as_bytes(), &BANK.digest(path.as_bytes()));
    }

    /// A call that sends these bytes.
    fn call(&mut self, from: u64, list: &[u8]) -> Call {
        self.list.extend(&mut self.world.host.tpm, self.extended).unwrap();
        self.extended = self.list.entries();
        self.ids += 1;
        let request = signed(&self.world.host.request(&format!("r-{}", self.ids)));
        let challenge = self.world.host.challenge(NOW_MS);
        self.world.host.members.held.insert(sha256(list), Arc::from(list));
        let ima = Some(ImaEntries { from, column: HashAlg::Sha1.id(), list: sha256(list) });
        Call { ima, ..self.world.host.quoted(challenge, vec![request]) }
    }

    fn ask(&mut self, from: u64, list: &[u8]) -> Outcome {
        let call = self.call(from, list);
        self.world.decide_call(call)
    }

    fn whole(&mut self) -> Outcome {
        let list = self.list.bytes().to_vec();
        self.ask(0, &list)
    }

    /// The log shows what the outcome says.
    fn take(&mut self, outcome: &Outcome) {
        let (digest, bytes) = outcome.ima.clone().unwrap();
        assert_eq!(outcome.decision().host_state.ima, Some(digest));
        assert_eq!(sha256(&ImaState::parse(&bytes).unwrap().encode()), digest);
        let state = Arc::new(ImaState::parse(&bytes).unwrap());
        let endorsed = self.world.host.endorsed.clone();
        self.world.host.endorsed = endorsed.at(outcome.decision().host_state, Some(state));
    }
}

#[test]
fn known_files_are_allowed_step_by_step_and_the_state_goes_on() {
    let mut host = Measured::new();
    host.run("/a");
    let first = host.whole();
    assert_eq!(code(&first), None);
    assert_eq!(first.decision().appraisal.vector.iter().find(|(claim, _)| *claim == 3), Some(&(3, 2)));
    host.take(&first);
    host.run("/b");
    let new = host.list.bytes_from(2).to_vec();
    let second = host.ask(2, &new);
    assert_eq!(code(&second), None);
    host.take(&second);
    // Nothing new needs no member.
    let call = host.call(3, &[]);
    host.world.host.members.held.remove(&sha256(&[]));
    let third = host.world.decide_call(call);
    assert_eq!(code(&third), None);
    assert_eq!(third.decision().host_state.ima, second.decision().host_state.ima);
    // The record of inputs names the state before.
    assert_eq!(third.inputs.prior.ima, second.decision().host_state.ima);
}

#[test]
fn a_check_that_did_not_run_is_a_denial() {
    let mut host = Measured::new();
    let mut call = host.call(0, &[]);
    call.ima = None;
    let outcome = host.world.decide_call(call);
    assert_eq!(code(&outcome), Some(RefusalCode::ImaMissing));
    assert_eq!((outcome.decision().host_state.evidence, outcome.ima), (None, None));
    // A hash that no list has.
    let mut call = host.call(0, &[]);
    call.ima = Some(ImaEntries { from: 0, column: 0x12, list: sha256(&[]) });
    assert_eq!(code(&host.world.decide_call(call)), Some(RefusalCode::ImaMalformed));
}

#[test]
fn refusals_have_their_codes_and_leave_the_earlier_good_state_alone() {
    let mut host = Measured::new();
    host.run("/a");
    let good = host.whole();
    host.take(&good);
    let known = good.decision().host_state;
    let mut check = |from: u64, list: Vec<u8>, expected: RefusalCode| {
        let outcome = host.ask(from, &list);
        assert_eq!(code(&outcome), Some(expected));
        assert_eq!((outcome.decision().host_state, outcome.ima), (known, None));
    };
    let list = Measured::new().list;
    check(0, list.bytes().to_vec(), RefusalCode::ImaRewound);
    check(1, Vec::new(), RefusalCode::ImaBaseMoved);
    check(0, vec![1, 2, 3], RefusalCode::ImaMalformed);
    host.run("/evil");
    let outcome = host.whole();
    assert_eq!(code(&outcome), Some(RefusalCode::ImaFileUnknown));
    assert!(outcome.detail.contains("/evil"), "{}", outcome.detail);
    assert_eq!(outcome.decision().host_state, known);
    // Another policy judges everything anew.
    host.activate(&["/a", "/b", "/evil"]);
    let new = host.list.bytes_from(2).to_vec();
    assert_eq!(code(&host.ask(2, &new)), Some(RefusalCode::ImaListNeeded));
    assert_eq!(code(&host.whole()), None);
}

#[test]
fn after_a_resume_the_whole_list_is_wanted_once_and_taken_at_once() {
    let mut host = Measured::new();
    host.run("/a");
    let good = host.whole();
    host.take(&good);
    host.world.host.tpm.resume();
    assert_eq!(code(&host.ask(2, &[])), Some(RefusalCode::ImaListNeeded));
    let whole = host.whole();
    assert_eq!(code(&whole), None);
    host.take(&whole);
    assert_eq!(code(&host.ask(2, &[])), None);
}

#[test]
fn an_exclude_that_was_needed_warns_and_policies_see_it() {
    let mut host = Measured::new();
    host.run("/tmp/x");
    let outcome = host.whole();
    assert_eq!(code(&outcome), Some(RefusalCode::PolicyDenied));
    assert_eq!(outcome.decision().appraisal.tier, Tier::Warning);
    assert!(outcome.decision().appraisal.vector.contains(&(3, 32)));
}

#[test]
fn a_prior_state_that_is_not_the_one_of_the_host_decides_nothing() {
    let mut host = Measured::new();
    let good = host.whole();
    host.take(&good);
    let call = host.call(1, &[]);
    let call = host.world.host.verify(call).unwrap();
    host.world.host.endorsed.ima = None;
    let family = host.world.family(&[]);
    let verdict = decide(&Inputs {
        situation: host.world.situation(&call),
        request: &call.requests()[0],
        family: &family,
        request_id_reused: false,
    });
    assert_eq!(verdict.unwrap_err(), Inconsistent::Host);
}

#[test]
fn a_missing_member_is_asked_for() {
    let mut host = Measured::new();
    let list = host.list.bytes().to_vec();
    let call = host.call(0, &list);
    host.world.host.members.held.remove(&sha256(&list));
    let error = host.world.host.verify(call).unwrap_err();
    let crate::verify::CallError::EvidenceNeeded(needed) = error else { panic!("{error}") };
    assert_eq!(needed, [sha256(&list)]);
}
