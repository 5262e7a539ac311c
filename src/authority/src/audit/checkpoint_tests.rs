//! Verifying what was added since a checkpoint: nothing of what is below is read again, and nothing that is wrong passes because of that.

use super::kit::{HEAD, Log, NEXT_HEAD, extended, key_leaf, officer_leaf};
use super::outcomes::OutcomeFault;
use super::tests::compromised;
use super::{
    CheckpointReport, Finding, FindingKind, Follow, FollowFault, FollowState, HeadExport, LogSource,
    Unreadable, verify, verify_from,
};
use crate::outcome::Unfounded;
use crate::verify::kit::ed25519;
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{KeyEvent, PrincipalKind, PrincipalRecord, Subject};
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason, Outcome};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{NodeSource, Sha256Tree, inclusion_proof, root_of_leaf_hashes};
use countersign_core::refusal::RefusalCode;
use std::cell::Cell;
use std::convert::Infallible;

const GATE: u8 = 31;

fn beat(log: &mut Log) {
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
}

fn gateway(log: &mut Log) {
    let (thumbprint, kind) = (ed25519(GATE).1.thumbprint(), PrincipalKind::Gateway);
    let name = "gate".to_owned();
    let record = PrincipalRecord { added: true, kind, thumbprint, name, by: None, approval: None };
    log.append(vec![(Kind::Principal, record.encode())]);
}

fn tell(log: &mut Log, artifact: LeafRef, after_ms: u64) {
    log.time_ms += after_ms;
    let gateway = ed25519(GATE).1.thumbprint();
    let outcome = Outcome { gateway, artifact, refused: None, time_ms: log.time_ms };
    log.append(vec![(Kind::Outcome, outcome.encode())]);
}

fn from(
    log: &dyn LogSource,
    bundle: &TrustBundle,
    state: Option<&FollowState>,
) -> Result<CheckpointReport, FollowFault> {
    verify_from(log, bundle, state, &mut |_| {})
}

/// What an audit of the whole log keeps, through its file.
fn saved(log: &Log) -> FollowState {
    let state = from(log, &log.bundle, None).unwrap().state;
    serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap()
}

fn code(found: Result<CheckpointReport, FollowFault>) -> Option<&'static str> {
    found.unwrap_err().code()
}

/// The same log, which tells how low it was read.
struct Watched<'a> {
    log: &'a Log,
    lowest: Cell<u64>,
}

impl LogSource for Watched<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        self.lowest.set(self.lowest.get().min(from));
        self.log.leaves(from, count)
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        self.lowest.set(self.lowest.get().min(from));
        self.log.heads(from, count)
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        self.log.blob(digest)
    }
}

#[test]
fn only_what_was_added_is_read_and_the_end_is_that_of_the_whole() {
    let mut log = Log::with_policy();
    let origin = log.host.origin.as_str().to_owned();
    let mut state = saved(&log);
    let acts: [&dyn Fn(&mut Log); 6] = [
        &|log| drop(log.ask(&[log.request("one")])),
        &|log| log.append(vec![officer_leaf(), key_leaf(&origin, NEXT_HEAD, KeyEvent::Introduced)]).clear(),
        &|log| {
            log.signers = vec![HEAD, NEXT_HEAD];
            log.append(vec![key_leaf(&origin, NEXT_HEAD, KeyEvent::Activated)]);
        },
        &|log| {
            log.signers = vec![NEXT_HEAD];
            log.append(vec![key_leaf(&origin, HEAD, KeyEvent::Deactivated)]);
        },
        &|log| log.revoke(Subject::Host(log.host.endorsed.host), true),
        &beat,
    ];
    for act in acts {
        let before = log.leaves.len() as u64;
        act(&mut log);
        let watched = Watched { log: &log, lowest: Cell::new(u64::MAX) };
        let found = from(&watched, &log.bundle, Some(&state)).unwrap();
        assert_eq!(watched.lowest.get(), before);
        let whole = from(&log, &log.bundle, None).unwrap();
        assert_eq!((found.from, found.report.newest), (before, whole.report.newest));
        assert_eq!((found.report.leaves, found.report.control), (whole.report.leaves, whole.report.control));
        assert_eq!(
            found.state.sha256, whole.state.sha256,
            "it doesn't matter in how many steps it was verified"
        );
        state = found.state;
    }
    // Nothing was added.
    let again = from(&log, &log.bundle, Some(&state)).unwrap();
    assert_eq!((again.from, again.report.kinds.len()), (log.leaves.len() as u64, 0));
}

#[test]
fn a_log_that_ends_before_the_checkpoint_was_rolled_back() {
    let mut log = Log::with_policy();
    beat(&mut log);
    let state = saved(&log);
    log.leaves.pop();
    log.heads.pop();
    assert_eq!(code(from(&log, &log.bundle, Some(&state))), Some(RefusalCode::HeadRolledBack.as_str()));
    assert!(verify(&log, &log.bundle, &mut |_| {}).is_ok(), "only who kept a checkpoint knows");
}

#[test]
fn a_log_that_goes_on_from_another_head_is_a_fork() {
    let mut log = Log::with_policy();
    beat(&mut log);
    let state = saved(&log);
    for more in 1..4 {
        let mut fork = Log::with_policy();
        fork.time_ms += 1;
        (0..more).for_each(|_| beat(&mut fork));
        assert!(verify(&fork, &fork.bundle, &mut |_| {}).is_ok());
        assert_eq!(
            code(from(&fork, &log.bundle, Some(&state))),
            Some(RefusalCode::HeadForked.as_str()),
            "{more}"
        );
    }
    // The head of the checkpoint in front of another log's.
    let mut fork = Log::with_policy();
    fork.time_ms += 1;
    beat(&mut fork);
    beat(&mut fork);
    let at = log.heads.len() - 1;
    fork.heads[at] = log.heads[at].clone();
    assert_eq!(code(from(&fork, &log.bundle, Some(&state))), Some("head-root"));
}

#[test]
fn what_is_wrong_after_the_checkpoint_is_found_as_in_the_whole() {
    let mut log = Log::with_policy();
    let state = saved(&log);
    let fault = |log: &Log| match from(log, &log.bundle, Some(&state)).unwrap_err() {
        FollowFault::Wrong(finding) => finding,
        other => panic!("{other}"),
    };
    log.signers = Vec::new();
    beat(&mut log);
    assert_eq!(fault(&log).kind, FindingKind::NewestUnsigned);
    log.signers = vec![99];
    beat(&mut log);
    assert_eq!(fault(&log).kind, FindingKind::Unsigned);
    log.heads.pop();
    log.heads.pop();
    assert_eq!(fault(&log).kind, FindingKind::Uncovered);
    let size = log.leaves.len() - 2;
    log.leaves.truncate(size);
    log.leaves.push(vec![1]);
    assert_eq!(fault(&log).kind, FindingKind::Uncovered);
}

#[test]
fn gateways_and_what_they_told_before_the_checkpoint_are_remembered() {
    let mut log = Log::with_policy();
    gateway(&mut log);
    let artifact = log.ask(&[log.request("one")])[0].0;
    tell(&mut log, artifact, 5);
    let state = saved(&log);
    let finding = |log: &Log| match from(log, &log.bundle, Some(&state)).unwrap_err() {
        FollowFault::Wrong(finding) => finding,
        other => panic!("{other}"),
    };
    let outcome =
        |log: &Log, fault| Finding { leaf: Some(log.last()), head: None, kind: FindingKind::Outcome(fault) };
    tell(&mut log, artifact, 5);
    assert_eq!(finding(&log), outcome(&log, OutcomeFault::Twice));
    assert_eq!(verify(&log, &log.bundle, &mut |_| {}).unwrap_err(), finding(&log));
    let forgetful = FollowState { told: Vec::new(), ..state.clone() };
    let fault = from(&log, &log.bundle, Some(&forgetful)).unwrap_err();
    assert_eq!(fault.code(), Some(RefusalCode::CheckpointInvalid.as_str()));
}

#[test]
fn a_gateway_that_ended_before_the_checkpoint_tells_nothing_after_it() {
    let mut log = Log::with_policy();
    gateway(&mut log);
    let artifact = log.ask(&[log.request("one")])[0].0;
    log.revoke(Subject::Principal(ed25519(GATE).1.thumbprint()), true);
    let state = saved(&log);
    tell(&mut log, artifact, 70_000);
    let fault = from(&log, &log.bundle, Some(&state)).unwrap_err();
    let FollowFault::Wrong(finding) = fault else { panic!("{fault}") };
    assert_eq!(finding.kind, FindingKind::Outcome(OutcomeFault::EndedGateway));
}

/// A log whose source shows another leaf in one place, with or without the true paths.
struct Lying<'a> {
    log: &'a Log,
    place: u64,
    leaf: Vec<u8>,
    paths: bool,
}

struct Hashes(Vec<Sha256Digest>);

impl NodeSource<Sha256Tree> for Hashes {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Sha256Digest, Infallible> {
        let (from, count) = (usize::try_from(index << level).unwrap(), 1 << level);
        Ok(root_of_leaf_hashes::<Sha256Tree>(&self.0[from..from + count]))
    }
}

impl LogSource for Lying<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        let mut page = self.log.leaves(from, count)?;
        let at = self.place.checked_sub(from).and_then(|at| page.get_mut(usize::try_from(at).unwrap()));
        if let Some(leaf) = at {
            leaf.clone_from(&self.leaf);
        }
        Ok(page)
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        self.log.heads(from, count)
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        self.log.blob(digest)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Sha256Digest>>, Unreadable> {
        let hashes = Hashes(self.log.leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
        let path = inclusion_proof::<Sha256Tree, _>(index, size, &hashes);
        Ok(self.paths.then(|| path.unwrap()))
    }
}

#[test]
fn an_outcome_of_a_leaf_that_was_never_below_the_checkpoint_is_found() {
    let mut log = Log::with_policy();
    gateway(&mut log);
    let artifact = log.ask(&[log.request("one")])[0].0;
    let state = saved(&log);
    let mut other = Leaf::parse(&log.leaves[usize::try_from(artifact.0).unwrap()]).unwrap();
    other.salt = [9; 16];
    let leaf = other.encode().unwrap();
    let mut honest = Log::with_policy();
    gateway(&mut honest);
    tell(&mut log, (artifact.0, leaf_hash(&leaf)), 5);
    let lying = |paths| Lying { log: &log, place: artifact.0, leaf: leaf.clone(), paths };
    let fault = from(&lying(true), &log.bundle, Some(&state)).unwrap_err();
    let kind = FindingKind::Outcome(OutcomeFault::Unfounded(Unfounded::NoSuchLeaf));
    assert_eq!(fault, FollowFault::Wrong(Finding { leaf: Some(log.last()), head: None, kind }));
    assert_eq!(code(from(&lying(false), &log.bundle, Some(&state))), Some(RefusalCode::HeadForked.as_str()));
}

#[test]
fn an_outcome_of_a_leaf_below_the_checkpoint_is_taken_with_and_without_paths() {
    let mut log = Log::with_policy();
    gateway(&mut log);
    let artifact = log.ask(&[log.request("one")])[0].0;
    let state = saved(&log);
    tell(&mut log, artifact, 5);
    let leaf = log.leaves[usize::try_from(artifact.0).unwrap()].clone();
    for paths in [true, false] {
        let source = Lying { log: &log, place: artifact.0, leaf: leaf.clone(), paths };
        assert_eq!(from(&source, &log.bundle, Some(&state)).unwrap().report.kinds["outcome"], 1);
    }
}

#[test]
fn a_last_good_head_below_the_checkpoint_has_to_lead_to_it() {
    let (mut log, record) = compromised(|_| ());
    let state = saved(&log);
    log.append(vec![(Kind::Recovery, record.encode())]);
    let state = from(&log, &log.bundle, Some(&state)).unwrap().state;
    assert_eq!(state.sha256, saved(&log).sha256);
    beat(&mut log);
    from(&log, &log.bundle, Some(&state)).unwrap();
    // Who learns of it from the bundle first.
    let knowing = extended(&log.bundle, &record);
    let state = from(&log, &knowing, None).unwrap().state;
    beat(&mut log);
    from(&log, &knowing, Some(&state)).unwrap();

    let (mut log, record) = compromised(|head| head.time_ms += 1);
    let state = saved(&log);
    log.append(vec![(Kind::Recovery, record.encode())]);
    let another = |log: &Log| match from(log, &log.bundle, Some(&state)).unwrap_err() {
        FollowFault::Wrong(finding) => assert_eq!(finding.kind, FindingKind::LastGood),
        other => panic!("{other}"),
    };
    another(&log);
    // The source shows the very head that is asked for: nothing leads on from it.
    let mut other = HeadBody::parse(&log.heads[2].text).unwrap();
    other.time_ms += 1;
    log.heads[2] = log.sign(other.encode());
    another(&log);
    log.heads.remove(2);
    another(&log);
}

#[test]
fn what_a_tail_did_not_check_below_its_beginning_is_left_to_the_next_verification() {
    fn lying(log: &Log, name: LeafRef, paths: bool) -> Lying<'_> {
        let place = name.0;
        let mut other = Leaf::parse(&log.leaves[usize::try_from(place).unwrap()]).unwrap();
        other.salt = [9; 16];
        Lying { log, place, leaf: other.encode().unwrap(), paths }
    }
    let mut log = Log::with_policy();
    gateway(&mut log);
    let names: Vec<LeafRef> =
        ["one", "two", "three"].iter().map(|id| log.ask(&[log.request(id)])[0].0).collect();
    let state = saved(&log);
    let leaf = lying(&log, names[0], true).leaf;
    tell(&mut log, (names[0].0, leaf_hash(&leaf)), 5);
    let told = log.last();
    let no_such = |fault: FollowFault| match fault {
        FollowFault::Wrong(finding) => {
            let kind = FindingKind::Outcome(OutcomeFault::Unfounded(Unfounded::NoSuchLeaf));
            assert_eq!(finding, Finding { leaf: Some(told), head: None, kind });
        }
        other => panic!("{other}"),
    };
    let bundle = log.bundle.clone();
    let mut follow = Follow::resume(&bundle, &state).unwrap();
    while follow.look(&lying(&log, names[0], false), &mut |_, _| ()).unwrap() {}
    let tailed = follow.state().unwrap();
    assert_eq!(tailed.open.len(), 1);
    no_such(from(&lying(&log, names[0], true), &bundle, Some(&tailed)).unwrap_err());
    assert_eq!(
        code(from(&lying(&log, names[0], false), &bundle, Some(&tailed))),
        Some(RefusalCode::HeadForked.as_str())
    );
    // A run doesn't gather them without end.
    tell(&mut log, names[1], 5);
    tell(&mut log, names[2], 5);
    let mut follow = Follow::resume(&bundle, &tailed).unwrap();
    let fault = loop {
        match follow.look(&lying(&log, names[0], true), &mut |_, _| ()) {
            Ok(more) => assert!(more, "the lie was passed over"),
            Err(fault) => break fault,
        }
    };
    no_such(fault);
}
