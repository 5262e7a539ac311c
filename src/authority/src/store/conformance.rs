//! What every store has to do: functions over a fresh store, called by the tests of each implementation.
//!
//! A [`Fresh`] makes an empty store of the log [`origin`] and keeps alive whatever has to live as long.

use std::any::Any;
use std::sync::Arc;

use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Leaf;
use countersign_core::name::RequestId;
use countersign_core::note::NoteSignature;

use super::{
    Acknowledgement, Additions, ChallengeKey, MAX_PAGE, PendingEnrolment, Prior, Reader, SpentId, StoreFault,
    Wanted, Writer,
};
use crate::sequence::tests::support::{Call, NOW, enrol, epoch, host, host_key, origin, token};
use crate::sequence::{Append, plan_alone};

/// An empty store.
pub(crate) struct Fresh {
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) _keep: Box<dyn Any>,
}

/// One function of the suite.
pub(crate) type Check = (&'static str, fn(Fresh));

/// Every function of the suite, with its name.
pub(crate) const SUITE: [Check; 13] = [
    ("an empty store has nothing", an_empty_store_has_nothing),
    ("a batch is there as a whole", a_batch_is_there_as_a_whole),
    ("a plan of nothing changes nothing", a_plan_of_nothing_changes_nothing),
    ("readers see nothing before the commit", readers_see_nothing_before_the_commit),
    ("what is wanted is answered", what_is_wanted_is_answered),
    ("a batch that does not follow is refused for good", a_batch_that_does_not_follow_is_refused),
    ("a spend exists once and is forgotten late", a_spend_exists_once_and_is_forgotten_late),
    ("signatures attach once", signatures_attach_once),
    ("cosignatures keep their names and sign nothing", cosignatures_keep_their_names_and_sign_nothing),
    ("pages are bounded and have no gaps", pages_are_bounded_and_have_no_gaps),
    ("a pending enrolment is taken once", a_pending_enrolment_is_taken_once),
    ("challenge keys come newest first", challenge_keys_come_newest_first),
    ("acknowledgements never go back", acknowledgements_never_go_back),
];

fn genesis() -> ControlState {
    ControlState::genesis(origin().as_str(), host_key(200))
}

/// Appends under a control state of its own, and returns what was added.
fn append(fresh: &mut Fresh, control: &mut ControlState, now_ms: u64, append: Append) -> Additions {
    let mut planned = None;
    let (wanted, plan) = plan_alone(append, control.clone(), now_ms);
    let added = fresh.writer.append(&wanted, &mut |prior| {
        let (additions, after) = plan(prior);
        planned = after;
        additions
    });
    if let Some(after) = planned {
        *control = after;
    }
    added.unwrap().expect("refused by the plan")
}

fn an_empty_store_has_nothing(fresh: Fresh) {
    let reader = &fresh.reader;
    assert!(reader.newest_committed().unwrap().is_none());
    assert!(reader.newest_signed().unwrap().is_none());
    assert!(reader.head(0).unwrap().is_none() && reader.heads(0, 10).unwrap().is_empty());
    assert!(reader.leaf(0).unwrap().is_none() && reader.leaves(0, 10).unwrap().is_empty());
    assert!(reader.control_leaves(0, 10).unwrap().is_empty() && reader.nodes(0, 0, 10).unwrap().is_empty());
    assert!(reader.host(&host(1)).unwrap().is_none() && reader.hosts(None, 10).unwrap().is_empty());
    assert!(reader.blob(&sha256(b"")).unwrap().is_none() && reader.budget_left(0).unwrap().is_none());
    assert!(reader.join_token(&sha256(b"")).unwrap().is_none());
    assert!(reader.challenge_keys().unwrap().is_empty() && reader.acknowledgements().unwrap().is_empty());
    // Indexes that no store can have are absent, not faults.
    assert!(reader.leaf(u64::MAX).unwrap().is_none() && reader.head(u64::MAX).unwrap().is_none());
    assert!(reader.leaves(u64::MAX, u64::MAX).unwrap().is_empty());
    assert!(
        reader.nodes(0, u64::MAX, 1).unwrap().is_empty() && reader.budget_left(u64::MAX).unwrap().is_none()
    );
}

fn a_batch_is_there_as_a_whole(mut fresh: Fresh) {
    let mut control = genesis();
    let first = append(&mut fresh, &mut control, NOW, enrol(1));
    let call = Call { budget: Some(4), ..Call::new(host(1), "r1") };
    let second = append(&mut fresh, &mut control, NOW + 5, call.append());
    let third = append(&mut fresh, &mut control, NOW + 9, Append::of(vec![epoch(1)]));
    let reader = &fresh.reader;
    for added in [&first, &second, &third] {
        for leaf in &added.leaves {
            assert_eq!(reader.leaf(leaf.index).unwrap().unwrap(), &*leaf.bytes);
            assert_eq!(reader.nodes(0, leaf.index, 1).unwrap(), [leaf.hashes]);
        }
        let head = reader.head(added.head.body().size).unwrap().unwrap();
        assert_eq!(head, added.head);
    }
    let tip = reader.newest_committed().unwrap().unwrap();
    assert_eq!((tip.head, tip.frontiers), (third.head, third.frontiers));
    let row = reader.host(&host(1)).unwrap().unwrap();
    assert_eq!((row.enrolment_leaf.0, row.enrolled_ms), (0, NOW));
    assert_eq!(row.enrolment_leaf.1, first.leaves[0].hashes.sha256);
    assert_eq!((row.state, row.state_index), (call.state, 1));
    assert_eq!(row.enrolment.host_key, host_key(1));
    assert_eq!(reader.hosts(None, 10).unwrap(), [row]);
    assert_eq!(reader.host_of_key(&host_key(1).thumbprint()).unwrap(), Some(host(1)));
    let known = reader.outcome(&host(1), &RequestId::parse("r1").unwrap()).unwrap().unwrap();
    assert_eq!((known.index, known.request), (1, call.request().digest));
    assert_eq!(reader.budget_left(1).unwrap(), Some(4));
    let (digest, bytes) = &second.blobs[0];
    assert_eq!(reader.blob(digest).unwrap().unwrap(), &**bytes);
    assert_eq!(reader.control_leaves(0, 10).unwrap(), [(2, third.leaves[0].bytes.to_vec())]);
    assert!(reader.control_leaves(1, 10).unwrap().is_empty());
}

fn a_plan_of_nothing_changes_nothing(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    let before = fresh.reader.newest_committed().unwrap().unwrap().head;
    let answer = fresh.writer.append(&Wanted::default(), &mut |_| None);
    assert!(answer.unwrap().is_none());
    assert_eq!(fresh.reader.newest_committed().unwrap().unwrap().head, before);
    append(&mut fresh, &mut control, NOW, enrol(2));
}

fn readers_see_nothing_before_the_commit(mut fresh: Fresh) {
    let control = genesis();
    let reader = Arc::clone(&fresh.reader);
    let (wanted, plan) = plan_alone(enrol(1), control, NOW);
    let added = fresh.writer.append(&wanted, &mut |prior| {
        assert!(reader.newest_committed().unwrap().is_none());
        plan(prior).0
    });
    assert!(added.unwrap().is_some());
    assert!(reader.newest_committed().unwrap().is_some());
}

fn what_is_wanted_is_answered(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    let call = Call { budget: Some(4), ..Call::new(host(1), "r1") };
    let added = append(&mut fresh, &mut control, NOW, call.append());
    let (joining, made) = token(1, NOW + 7);
    append(&mut fresh, &mut control, NOW, Append::of(vec![made, epoch(1), epoch(2)]));
    let (spent, unspent) = (added.spent[0], SpentId::Enrolment([1; 16]));
    let request = |id| (host(1), RequestId::parse(id).unwrap());
    let wanted = Wanted {
        outcomes: [request("r1"), request("r2")].into(),
        hosts: [host(1), host(2)].into(),
        host_keys: [host_key(1).thumbprint(), host_key(2).thumbprint()].into(),
        budgets: [1, 2, u64::MAX].into(),
        spent: [spent, unspent].into(),
        tokens: [joining, Sha256Digest::ZERO].into(),
        blobs: [added.blobs[0].0, Sha256Digest::ZERO].into(),
        control_after: 1,
        body_at: Some(2),
    };
    let mut seen: Option<Prior> = None;
    fresh
        .writer
        .append(&wanted, &mut |prior| {
            seen = Some(prior.clone());
            None
        })
        .unwrap();
    let prior = seen.unwrap();
    assert_eq!(prior.outcomes.keys().cloned().collect::<Vec<_>>(), [request("r1")]);
    assert_eq!(prior.host_versions, [(host(1), 1)].into());
    assert_eq!(prior.blobs, [added.blobs[0].0].into());
    assert_eq!(prior.enrolments, [(host(1), 0)].into());
    assert_eq!(prior.key_owners, [(host_key(1).thumbprint(), host(1))].into());
    assert_eq!(prior.budgets, [(1, 4)].into());
    assert_eq!(prior.spent, [spent].into());
    assert_eq!(prior.tokens.keys().copied().collect::<Vec<_>>(), [joining]);
    assert_eq!(prior.tokens[&joining].expires_ms, NOW + 7);
    assert_eq!(prior.control_leaves.len(), 1);
    assert_eq!(Leaf::parse(&prior.control_leaves[0]).unwrap().index, 4);
    assert_eq!(prior.body_at, Some(*added.head.digest()));
    let tip = prior.tip.unwrap();
    assert!(tip.frontiers.agree_with(tip.head.body()) && tip.head.body().size == 5);
}

fn a_batch_that_does_not_follow_is_refused(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    let (wanted, plan) = plan_alone(enrol(2), control, NOW);
    let answer = fresh.writer.append(&wanted, &mut |prior| {
        let mut additions = plan(prior).0?;
        additions.leaves[0].index += 1;
        Some(additions)
    });
    assert!(answer.unwrap_err().is_fatal());
    // The writer is lost, the log isn't.
    assert!(fresh.writer.append(&Wanted::default(), &mut |_| None).unwrap_err().is_fatal());
    assert_eq!(fresh.reader.newest_committed().unwrap().unwrap().head.body().size, 1);
    assert!(fresh.reader.leaves(0, 10).unwrap().len() == 1);
}

fn a_spend_exists_once_and_is_forgotten_late(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    let call = Call::new(host(1), "r1");
    let id = append(&mut fresh, &mut control, NOW, call.append()).spent[0];
    assert!(fresh.reader.is_spent(&id).unwrap());
    // Long past its expiry another batch lets go of it.
    append(&mut fresh, &mut control, NOW + 3_600_000, Append::of(vec![epoch(1)]));
    assert!(!fresh.reader.is_spent(&id).unwrap());
    let (wanted, plan) = plan_alone(Call::new(host(1), "r2").append(), control, NOW + 3_600_000);
    // A challenge that old counts as spent, though nobody remembers it.
    assert!(fresh.writer.append(&wanted, &mut |prior| plan(prior).0).unwrap().is_none());
}

fn signatures_attach_once(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    append(&mut fresh, &mut control, NOW, enrol(2));
    let line =
        |key: u8, bytes: &[u8]| NoteSignature::new(origin().as_str(), [key; 4], bytes.to_vec()).unwrap();
    fresh.writer.attach_signatures(1, &[line(1, b"first"), line(2, b"other key")]).unwrap();
    assert_eq!(fresh.reader.newest_signed().unwrap().unwrap().body().size, 1);
    fresh.writer.attach_signatures(1, &[line(1, b"second")]).unwrap();
    let head = fresh.reader.newest_signed().unwrap().unwrap();
    assert_eq!(head.signatures(), [line(1, b"first"), line(2, b"other key")]);
    assert!(fresh.reader.head(2).unwrap().unwrap().signatures().is_empty());
    fresh.writer.attach_signatures(2, &[line(1, b"newer")]).unwrap();
    assert_eq!(fresh.reader.newest_signed().unwrap().unwrap().body().size, 2);
    let sizes: Vec<usize> =
        fresh.reader.heads(1, 10).unwrap().iter().map(|head| head.signatures().len()).collect();
    assert_eq!(sizes, [2, 1]);
    assert!(fresh.writer.attach_signatures(3, &[line(1, b"no head")]).unwrap_err().is_fatal());
}

fn cosignatures_keep_their_names_and_sign_nothing(mut fresh: Fresh) {
    let mut control = genesis();
    append(&mut fresh, &mut control, NOW, enrol(1));
    let line = |name: &str, bytes: &[u8]| NoteSignature::new(name, [7; 4], bytes.to_vec()).unwrap();
    let (one, two) = (line("w1.example", b"first"), line("w2.example", b"same key id"));
    fresh.writer.attach_signatures(1, &[two.clone(), one.clone()]).unwrap();
    assert!(fresh.reader.newest_signed().unwrap().is_none(), "witnesses don't sign in the log's place");
    let own = line(origin().as_str(), b"the log's");
    fresh.writer.attach_signatures(1, std::slice::from_ref(&own)).unwrap();
    fresh.writer.attach_signatures(1, &[line("w1.example", b"later")]).unwrap();
    let head = fresh.reader.newest_signed().unwrap().unwrap();
    assert_eq!(head.signatures(), [own, one, two], "the log's first, then witnesses by name");
    assert_eq!(fresh.reader.head(1).unwrap().unwrap(), head);
    assert!(fresh.writer.attach_signatures(2, &[line("w1.example", b"no head")]).unwrap_err().is_fatal());
}

fn pages_are_bounded_and_have_no_gaps(mut fresh: Fresh) {
    let mut control = genesis();
    for at in 0..5_u64 {
        append(
            &mut fresh,
            &mut control,
            NOW,
            Append::of((at * 256..(at + 1) * 256).map(|n| epoch(n + 1)).collect()),
        );
    }
    let reader = &fresh.reader;
    for (count, expect) in [(0, 0), (3, 3), (MAX_PAGE, MAX_PAGE), (u64::MAX, MAX_PAGE)] {
        let found = [
            reader.leaves(0, count).unwrap().len(),
            reader.control_leaves(0, count).unwrap().len(),
            reader.nodes(0, 0, count).unwrap().len(),
        ];
        assert_eq!(found, [expect as usize; 3]);
    }
    assert_eq!(reader.leaves(1_278, 10).unwrap().len(), 2);
    assert_eq!(reader.nodes(8, 0, 10).unwrap().len(), 5);
    assert_eq!(reader.nodes(8, 4, 10).unwrap().len(), 1);
    let hosts = (1..=4).map(|number| {
        append(&mut fresh, &mut control, NOW, enrol(number));
        host(number)
    });
    let hosts: Vec<_> = hosts.collect();
    let page = fresh.reader.hosts(Some(&hosts[0]), 2).unwrap();
    assert_eq!(page.iter().map(|row| row.host).collect::<Vec<_>>(), hosts[1..3]);
}

fn a_pending_enrolment_is_taken_once(mut fresh: Fresh) {
    let pending = |id: u8, expires_ms| PendingEnrolment { id: [id; 16], expires_ms, record: vec![id; 40] };
    let writer = &mut fresh.writer;
    for id in 1..=3 {
        writer.put_pending_enrolment(&pending(id, NOW + 100), NOW).unwrap();
    }
    assert_eq!(writer.take_pending_enrolment(&[1; 16], NOW).unwrap(), Some(pending(1, NOW + 100)));
    assert_eq!(writer.take_pending_enrolment(&[1; 16], NOW).unwrap(), None);
    assert_eq!(writer.take_pending_enrolment(&[9; 16], NOW).unwrap(), None);
    // Too late, and gone by having been asked for.
    assert_eq!(writer.take_pending_enrolment(&[2; 16], NOW + 101).unwrap(), None);
    assert_eq!(writer.take_pending_enrolment(&[2; 16], NOW).unwrap(), None);
    // Swept out by another one.
    writer.put_pending_enrolment(&pending(4, NOW + 500), NOW + 101).unwrap();
    assert_eq!(writer.take_pending_enrolment(&[3; 16], NOW).unwrap(), None);
    assert!(writer.take_pending_enrolment(&[4; 16], NOW).unwrap().is_some());
}

fn challenge_keys_come_newest_first(mut fresh: Fresh) {
    let key = |id: u8, made_ms| ChallengeKey { id: [id; 8], key: [id; 32], made_ms };
    fresh.writer.put_challenge_key(&key(1, 100), 0).unwrap();
    fresh.writer.put_challenge_key(&key(2, 200), 0).unwrap();
    assert_eq!(fresh.reader.challenge_keys().unwrap(), [key(2, 200), key(1, 100)]);
    fresh.writer.put_challenge_key(&key(3, 300), 150).unwrap();
    assert_eq!(fresh.reader.challenge_keys().unwrap(), [key(3, 300), key(2, 200)]);
    let blob: Arc<[u8]> = Arc::from(&b"boot log"[..]);
    for _ in 0..2 {
        fresh.writer.put_blobs(&[(sha256(&blob), Arc::clone(&blob))]).unwrap();
    }
    assert_eq!(fresh.reader.blob(&sha256(&blob)).unwrap().unwrap(), &*blob);
}

fn acknowledgements_never_go_back(mut fresh: Fresh) {
    let says = |gateway: u8, control, time_ms| Acknowledgement {
        gateway: Sha256Digest::new([gateway; 32]),
        control,
        time_ms,
    };
    for said in [says(2, 5, 100), says(1, 7, 100), says(2, 4, 200)] {
        fresh.writer.acknowledge(&said).unwrap();
    }
    assert_eq!(fresh.reader.acknowledgements().unwrap(), [says(1, 7, 100), says(2, 5, 200)]);
}

/// A fault that a test of an implementation may expect.
pub(crate) fn is_unavailable<T>(result: Result<T, StoreFault>) -> bool {
    matches!(result, Err(StoreFault::Unavailable { .. }))
}
