//! Following a log that grows, stops, goes back or turns into another.

use super::follow::{Follow, FollowFault, FollowState};
use super::kit::{HEAD, Log, NEXT_HEAD, extended, key_leaf};
use super::tests::compromised;
use super::{FindingKind, HeadExport, LogSource, Unreadable};
use countersign_core::api::B64;
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::KeyEvent;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::refusal::RefusalCode;

fn beat(log: &mut Log) {
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
}

/// Looks until there is no more; the indexes of the leaves handed out.
fn all(follow: &mut Follow<'_>, log: &dyn LogSource) -> Result<Vec<u64>, FollowFault> {
    let mut seen = Vec::new();
    while follow.look(log, &mut |leaf, _| seen.push(leaf.index))? {}
    Ok(seen)
}

fn kept(follow: &Follow<'_>) -> FollowState {
    let text = serde_json::to_string(&follow.state().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_leaf_is_handed_out_once_over_any_number_of_runs() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    let mut follow = Follow::new(&bundle);
    let mut seen = all(&mut follow, &log).unwrap();
    assert_eq!(all(&mut follow, &log).unwrap(), [0_u64; 0], "nothing twice");
    for round in 0..4 {
        log.ask(&[log.request(&format!("r{round}"))]);
        beat(&mut log);
        let state = kept(&follow);
        follow = Follow::resume(&bundle, &state).unwrap();
        assert_eq!(follow.size(), seen.len() as u64);
        seen.extend(all(&mut follow, &log).unwrap());
    }
    assert_eq!(seen, (0..log.leaves.len() as u64).collect::<Vec<_>>());
    assert_eq!(follow.control(), log.control.number());
}

#[test]
fn leaves_wait_for_a_signed_head() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    log.signers = Vec::new();
    beat(&mut log);
    let bare = log.last();
    assert_eq!(all(&mut follow, &log).unwrap(), [0_u64; 0]);
    log.signers = vec![HEAD];
    beat(&mut log);
    assert_eq!(all(&mut follow, &log).unwrap(), [bare, bare + 1]);
}

#[test]
fn a_long_run_of_bare_heads_is_passed_once_one_is_signed() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    log.signers = Vec::new();
    let first = log.last() + 1;
    // The source hands out two heads at a time: this is many pages.
    for _ in 0..20 {
        beat(&mut log);
    }
    assert_eq!(all(&mut follow, &log).unwrap(), [0_u64; 0]);
    log.signers = vec![HEAD];
    beat(&mut log);
    assert_eq!(all(&mut follow, &log).unwrap(), (first..=log.last()).collect::<Vec<_>>());
}

#[test]
fn a_rotation_is_followed_over_a_stop() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    let origin = log.host.origin.as_str().to_owned();
    log.append(vec![super::kit::officer_leaf(), key_leaf(&origin, NEXT_HEAD, KeyEvent::Introduced)]);
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    log.signers = vec![HEAD, NEXT_HEAD];
    log.append(vec![key_leaf(&origin, NEXT_HEAD, KeyEvent::Activated)]);
    let mut follow = Follow::resume(&bundle, &kept(&follow)).unwrap();
    all(&mut follow, &log).unwrap();
    log.signers = vec![NEXT_HEAD];
    log.append(vec![key_leaf(&origin, HEAD, KeyEvent::Deactivated)]);
    let mut again = Follow::resume(&bundle, &kept(&follow)).unwrap();
    assert_eq!(all(&mut again, &log).unwrap(), [log.last()]);
    log.signers = vec![99];
    beat(&mut log);
    let fault = all(&mut again, &log).unwrap_err();
    assert_eq!(fault.code(), Some("head-unvouched"));
}

#[test]
fn a_log_that_went_back_is_told() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    beat(&mut log);
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    let size = log.leaves.len() as u64;
    log.leaves.pop();
    log.heads.pop();
    let fault = all(&mut follow, &log).unwrap_err();
    assert_eq!(
        (fault.code(), &fault),
        (Some(RefusalCode::HeadRolledBack.as_str()), &FollowFault::RolledBack(size))
    );
    let mut later = Follow::resume(&bundle, &kept(&follow)).unwrap();
    assert_eq!(all(&mut later, &log).unwrap_err(), FollowFault::RolledBack(size));
}

/// Two logs of one beginning.
fn fork(grow: impl Fn(&mut Log)) -> FollowFault {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    beat(&mut log);
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    let state = kept(&follow);
    let mut other = Log::with_policy();
    other.time_ms += 1;
    grow(&mut other);
    let mut resumed = Follow::resume(&bundle, &state).unwrap();
    let fault = all(&mut resumed, &other).unwrap_err();
    assert_eq!(all(&mut follow, &other).unwrap_err(), fault);
    fault
}

#[test]
fn a_fork_is_told_whether_it_is_as_long_or_longer() {
    let same = fork(beat);
    assert_eq!(same.code(), Some(RefusalCode::HeadForked.as_str()));
    let longer = fork(|other| {
        beat(other);
        beat(other);
    });
    assert_eq!(longer.code(), Some(RefusalCode::HeadForked.as_str()));
    let skipped = fork(|other| {
        let twice = vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode()); 2];
        other.append(twice);
    });
    assert_eq!(skipped.code(), Some(RefusalCode::HeadForked.as_str()), "no head of the size that was seen");
}

/// A log that shows the head that was seen, and then goes on as another.
struct Spliced<'a> {
    seen: &'a Log,
    other: &'a Log,
}

impl LogSource for Spliced<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        if from < self.seen.leaves.len() as u64 {
            self.seen.leaves(from, count)
        } else {
            self.other.leaves(from, count)
        }
    }

    fn heads(&self, from: u64, _: u64) -> Result<Vec<HeadExport>, Unreadable> {
        let mut heads = self.seen.heads(from, 9)?;
        heads.extend(self.other.heads(self.seen.leaves.len() as u64 + 1, 9)?);
        Ok(heads)
    }

    fn blob(&self, _: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(None)
    }
}

#[test]
fn a_head_that_does_not_follow_from_the_seen_one_is_told() {
    let (mut seen, mut other) = (Log::with_policy(), Log::with_policy());
    let bundle = seen.bundle.clone();
    beat(&mut seen);
    other.time_ms += 1;
    beat(&mut other);
    beat(&mut other);
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &seen).unwrap();
    let fault = all(&mut follow, &Spliced { seen: &seen, other: &other }).unwrap_err();
    assert_eq!(fault.code(), Some("head-root"), "{fault}");
}

#[test]
fn what_was_kept_is_checked() {
    let log = Log::with_policy();
    let bundle = log.bundle.clone();
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    let good = kept(&follow);
    assert!(Follow::resume(&bundle, &good).is_ok());
    let changes: [&dyn Fn(&mut FollowState); 14] = [
        &|state| state.v = 2,
        &|state| state.head = state.head.replacen("\ntime 1", "\ntime x", 1),
        &|state| state.head = state.head.replacen(bundle.origin().as_str(), "other.example/log", 1),
        &|state| drop(state.frontiers.pop()),
        &|state| state.frontiers.swap(1, 2),
        &|state| state.frontiers[0].0[9] ^= 1,
        &|state| drop(state.control.pop()),
        &|state| state.control.push(B64(vec![1, 2, 3])),
        &|state| state.told.push((7, B64(vec![1; 31]))),
        &|state| state.open.push((0, B64(vec![1; 31]), 1)),
        &|state| state.open.push((log.leaves.len() as u64, B64(vec![1; 32]), 1)),
        &|state| state.head = state.head.replacen("time 179", "time 178", 1),
        &|state| state.head.truncate(state.head.find("\n\n").unwrap() + 1),
        &|state| {
            let line = state.head.rfind(' ').unwrap() + 9;
            let other = if state.head.get(line..=line) == Some("A") { "B" } else { "A" };
            state.head.replace_range(line..=line, other);
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state);
        let unsealed = Follow::resume(&bundle, &state).err();
        assert!(matches!(unsealed, Some(FollowFault::State(_))), "{number}: {unsealed:?}");
        // Whoever writes the digest, too, has no head key.
        let fault = Follow::resume(&bundle, &state.sealed()).err();
        assert!(matches!(fault, Some(FollowFault::State(_))), "{number}: {fault:?}");
        assert_eq!(fault.unwrap().code(), Some(RefusalCode::CheckpointInvalid.as_str()));
    }
    for change in [&(|state: &mut FollowState| state.told.clear()) as &dyn Fn(&mut FollowState), &|state| {
        state.open.push((0, B64(vec![1; 32]), 1));
    }] {
        let mut state = FollowState { told: vec![(7, B64(vec![1; 32]))], ..good.clone() }.sealed();
        assert!(Follow::resume(&bundle, &state).is_ok());
        change(&mut state);
        assert_eq!(Follow::resume(&bundle, &state).err(), Some(FollowFault::State("its digest")));
    }
}

#[test]
fn a_last_good_head_of_another_log_is_found_and_never_kept() {
    let (mut log, record) = compromised(|head| head.time_ms += 1);
    let bundle = log.bundle.clone();
    let mut follow = Follow::new(&bundle);
    all(&mut follow, &log).unwrap();
    let state = kept(&follow);
    log.append(vec![(Kind::Recovery, record.encode())]);
    let last_good = |fault: FollowFault| matches!(fault, FollowFault::Wrong(finding) if finding.kind == FindingKind::LastGood);
    assert!(last_good(all(&mut follow, &log).unwrap_err()));
    assert!(last_good(all(&mut Follow::resume(&bundle, &state).unwrap(), &log).unwrap_err()));
    // A source that shows the head that is asked for has no chain from there.
    let mut other = HeadBody::parse(&log.heads[2].text).unwrap();
    other.time_ms += 1;
    log.heads[2] = log.sign(other.encode());
    assert!(last_good(all(&mut Follow::resume(&bundle, &state).unwrap(), &log).unwrap_err()));
    let (mut honest, record) = compromised(|_| ());
    honest.append(vec![(Kind::Recovery, record.encode())]);
    all(&mut Follow::resume(&bundle, &state).unwrap(), &honest).unwrap();
}

#[test]
fn what_only_a_compromised_key_signed_is_neither_handed_out_nor_kept() {
    let (mut log, record) = compromised(|_| ());
    let knowing = extended(&log.bundle, &record);
    beat(&mut log);
    let mut follow = Follow::new(&knowing);
    let (mut seen, mut states) = (Vec::new(), Vec::new());
    while follow.look(&log, &mut |leaf, _| seen.push(leaf.index)).unwrap() {
        states.extend(follow.state());
    }
    assert_eq!(seen, (0..log.leaves.len() as u64).collect::<Vec<_>>());
    assert!(!states.is_empty());
    for state in states {
        Follow::resume(&knowing, &state).unwrap();
    }
}

#[test]
fn what_verify_refuses_is_refused_here() {
    let mut log = Log::with_policy();
    let bundle = log.bundle.clone();
    beat(&mut log);
    let place = log.leaves.len() - 1;
    log.leaves[place][3] ^= 1;
    let fault = all(&mut Follow::new(&bundle), &log).unwrap_err();
    let FollowFault::Wrong(finding) = &fault else { panic!("{fault}") };
    assert!(matches!(finding.kind, FindingKind::Index(_) | FindingKind::Malformed(_)), "{finding}");
    assert_eq!(fault.code(), Some("leaf-index"));
}
