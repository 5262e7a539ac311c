//! The gate: when it pulls, how often, what that may cost, and what becomes of outcomes.

use crate::authority::{Authority, key};
use crate::source::Memory;
use crate::world::{decision, rules};
use countersign_core::artifact::Receipt;
use countersign_core::digest::sha256;
use countersign_core::key::Algorithm;
use countersign_core::leaf::control::Subject;
use countersign_core::refusal::RefusalCode;
use countersign_core::verified_heads::VerifiedHeads;
use countersign_gateway::admit::Rules;
use countersign_gateway::clock::ClockReading;
use countersign_gateway::holder::key::HolderKey;
use countersign_gateway::outcome::{MAX_SPOOL_BYTES, OutcomeSpool, outcome};
use countersign_gateway::pull::{Gate, PullFault, PullLimits, Ready};
use countersign_gateway::refusal::Refusal;
use countersign_gateway::snapshot::store::StateDir;
use std::time::Duration;

pub(crate) struct Door {
    _temporary: tempfile::TempDir,
    pub(crate) state: StateDir,
    pub(crate) source: Memory,
    pub(crate) rules: Rules,
    limits: PullLimits,
}

pub(crate) fn now_ms() -> u64 {
    ClockReading::now().unwrap().wall_ms
}

impl Door {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let state = StateDir::open(&temporary.path().join("state")).unwrap();
        let source = Memory::new(Authority::new(now_ms()));
        let limits = PullLimits {
            deadline: Duration::from_secs(2),
            courtesy: Duration::from_millis(200),
            ..PullLimits::default()
        };
        Self { _temporary: temporary, state, source, rules: rules(), limits }
    }

    pub(crate) async fn ready(&self, receipt: Option<&Receipt>) -> Result<Ready, Refusal> {
        let bundle = self.source.authority(|authority| authority.bundle());
        let gate = Gate {
            source: &self.source,
            bundle: &bundle,
            state: &self.state,
            rules: &self.rules,
            limits: &self.limits,
            verified: &VerifiedHeads::default(),
        };
        gate.ready(receipt).await
    }

    /// A decision under a new head.
    fn receipt(&self) -> Receipt {
        let holder = HolderKey::generate(Algorithm::EdDsa).unwrap();
        let text = self.source.authority(|authority| {
            let index = authority.allow(&decision(authority, &holder, now_ms()));
            authority.time_ms = authority.time_ms.max(now_ms());
            authority.sign();
            authority.receipt(index)
        });
        Receipt::parse(&text).unwrap()
    }

    fn feeds(&self) -> usize {
        self.source.seen(|seen| seen.feeds)
    }
}

#[tokio::test]
async fn the_first_admission_pulls_and_the_next_one_doesnt() {
    let door = Door::new();
    let ready = door.ready(None).await.unwrap();
    assert_eq!(ready.snapshot.unwrap().control().number(), 3);
    door.ready(None).await.unwrap();
    assert_eq!(door.feeds(), 1);
    assert_eq!(door.source.seen(|seen| seen.acknowledged.clone()), [(3, 3)]);
}

#[tokio::test]
async fn a_receipt_ahead_of_the_gateway_costs_one_pull_and_one_behind_it_one_proof() {
    let door = Door::new();
    door.ready(None).await.unwrap();
    let first = door.receipt();
    let ready = door.ready(Some(&first)).await.unwrap();
    assert_eq!(door.feeds(), 2);
    assert!(ready.link.is_none());
    // Two heads go by; the first of them was never pulled.
    let between = door.receipt();
    let newest = door.receipt();
    door.ready(Some(&newest)).await.unwrap();
    assert_eq!(door.feeds(), 3);
    let ready = door.ready(Some(&between)).await.unwrap();
    assert!(ready.link.is_some());
    // From then on it is remembered.
    let again = door.ready(Some(&between)).await.unwrap();
    assert!(again.link.is_none());
    assert_eq!((door.feeds(), door.source.seen(|seen| seen.proofs)), (3, 1));
}

#[tokio::test]
async fn what_a_stranger_makes_up_costs_no_proof_and_at_most_one_pull() {
    let door = Door::new();
    door.ready(None).await.unwrap();
    let mut stranger = Authority::new(now_ms());
    stranger.signers = vec![key(66)];
    stranger.heartbeat();
    stranger.sign();
    let small = Receipt::parse(&stranger.receipt(0)).unwrap();
    for _ in 0..3 {
        door.receipt();
    }
    door.ready(Some(&door.receipt())).await.unwrap();
    let before = door.feeds();
    door.ready(Some(&small)).await.unwrap();
    assert_eq!((door.feeds(), door.source.seen(|seen| seen.proofs)), (before, 0));
    for _ in 0..20 {
        stranger.heartbeat();
    }
    stranger.sign();
    let large = Receipt::parse(&stranger.receipt(0)).unwrap();
    door.ready(Some(&large)).await.unwrap();
    assert_eq!((door.feeds(), door.source.seen(|seen| seen.proofs)), (before + 1, 0));
}

#[tokio::test]
async fn pages_are_joined_and_rotations_with_them() {
    let mut door = Door::new();
    door.source.page = 2;
    door.source.authority(|authority| {
        for seed in 2..7 {
            authority.rotate(&key(seed));
            authority.sign();
            authority.revoke(Subject::Artifact(0, sha256(&[seed])));
            authority.sign();
        }
    });
    let ready = door.ready(None).await.unwrap();
    assert_eq!(ready.snapshot.unwrap().control().number(), 19);
    assert_eq!(door.feeds(), 10);
}

#[tokio::test]
async fn a_feed_without_end_ends() {
    let door = Door::new();
    door.source.seen(|seen| seen.endless = true);
    let ready = door.ready(None).await.unwrap();
    assert!(matches!(ready.fault, Some(PullFault::TooMuch)), "{:?}", ready.fault);
    assert_eq!(door.feeds(), 2);
}

#[tokio::test]
async fn a_feed_larger_than_the_limits_is_refused() {
    let mut door = Door::new();
    door.limits.leaves = 2;
    assert!(matches!(door.ready(None).await.unwrap().fault, Some(PullFault::TooMuch)));
    door.limits.leaves = 100;
    door.limits.bytes = 100;
    assert!(matches!(door.ready(None).await.unwrap().fault, Some(PullFault::TooMuch)));
    door.limits.bytes = 100_000;
    assert!(door.ready(None).await.unwrap().fault.is_none());
}

#[tokio::test]
async fn an_authority_that_hangs_is_left_at_the_deadline() {
    let mut door = Door::new();
    door.limits.deadline = Duration::from_millis(50);
    door.source.seen(|seen| seen.hangs = true);
    let ready = door.ready(None).await.unwrap();
    assert!(ready.snapshot.is_none());
    let fault = ready.fault.unwrap();
    assert_eq!(fault.code(), RefusalCode::AuthorityUnreachable);
}

#[tokio::test]
async fn while_the_lease_lasts_the_authority_may_be_away_and_isnt_asked_all_the_time() {
    let mut door = Door::new();
    let past = now_ms() - 30_000;
    door.source = Memory::new(Authority::new(past));
    door.ready(None).await.unwrap();
    // Half of the lease is over: a renewal would be good, and fails.
    door.source.seen(|seen| seen.down = true);
    let ready = door.ready(None).await.unwrap();
    assert!(ready.snapshot.is_some() && ready.fault.is_none());
    assert_eq!(door.feeds(), 2);
    for _ in 0..5 {
        assert!(door.ready(None).await.unwrap().fault.is_none());
    }
    assert_eq!(door.feeds(), 2, "the back-off holds renewals");
    // What is needed is asked for nevertheless.
    let ahead = door.receipt();
    assert!(door.ready(Some(&ahead)).await.unwrap().fault.is_some());
    assert_eq!(door.feeds(), 3);
}

#[tokio::test]
async fn two_histories_stop_the_gateway_and_are_kept_as_evidence() {
    let door = Door::new();
    let mut fork = door.source.authority(|authority| authority.clone());
    let receipt = door.receipt();
    door.ready(Some(&receipt)).await.unwrap();
    fork.heartbeat();
    fork.heartbeat();
    fork.time_ms = now_ms();
    fork.sign();
    door.source.authority(|authority| *authority = fork);
    let ahead = Receipt::parse(&door.source.authority(|authority| authority.receipt(4))).unwrap();
    let refusal = door.ready(Some(&ahead)).await.unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::HeadForked);
    let evidence = std::fs::read_to_string(door.state.file("fork-0.txt")).unwrap();
    assert_eq!(evidence.matches("control 3 ").count(), 2, "{evidence}");
    for _ in 0..20 {
        door.ready(Some(&ahead)).await.unwrap_err();
    }
    assert!(!door.state.file("fork-8.txt").exists());
}

#[tokio::test]
async fn outcomes_that_cant_be_sent_wait_and_go_with_the_next_pull() {
    let door = Door::new();
    let spool = OutcomeSpool::new(&door.state);
    door.source.seen(|seen| seen.down = true);
    for number in 0..300 {
        let refused = (number % 2 == 0).then_some(RefusalCode::Revoked);
        spool
            .report(&door.source, outcome((number, sha256(b"a")), refused, number), Duration::from_millis(50))
            .await;
    }
    assert_eq!(spool.waiting().unwrap().len(), 300);
    door.source.seen(|seen| seen.down = false);
    door.ready(None).await.unwrap();
    assert!(spool.waiting().unwrap().is_empty());
    let sent = door.source.seen(|seen| seen.outcomes.clone());
    assert_eq!(sent.len(), 300);
    assert!(sent.iter().zip(0..).all(|(sent, number)| sent.index == number));
    assert_eq!(sent[0].refused.as_deref(), Some("revoked"));
    assert_eq!(sent[1].refused, None);
}

#[tokio::test]
async fn what_will_never_be_taken_holds_nothing_back() {
    let door = Door::new();
    let spool = OutcomeSpool::new(&door.state);
    let deadline = Duration::from_millis(50);
    // As an authority that has no leaf 0: a call of which something stands is taken, one that isn't understood is refused whole.
    door.source.seen(|seen| {
        seen.refuses = Some(|outcomes| {
            let malformed = outcomes.iter().any(|one| one.refused.as_deref() == Some("internal"));
            let unfounded = outcomes.iter().all(|one| one.index == 0).then_some(RefusalCode::NotFound);
            if malformed { Some(RefusalCode::Malformed) } else { unfounded }
        });
    });
    for time in 0..600 {
        spool.append(&outcome((0, sha256(b"a")), None, time)).await.unwrap();
    }
    for time in 0..40 {
        let refused = (time == 17).then_some(RefusalCode::Internal);
        spool.append(&outcome((time, sha256(b"a")), refused, time)).await.unwrap();
    }
    door.ready(None).await.unwrap();
    assert!(spool.waiting().unwrap().is_empty());
    let mut sent: Vec<u64> = door.source.seen(|seen| seen.outcomes.iter().map(|one| one.index).collect());
    sent.retain(|index| *index != 0);
    assert_eq!(sent, (1..40).filter(|index| *index != 17).collect::<Vec<_>>(), "each once");
    // What is refused at once for good isn't kept, what may be taken later is.
    spool.report(&door.source, outcome((0, sha256(b"a")), None, 1), deadline).await;
    assert!(spool.waiting().unwrap().is_empty());
    for code in [RefusalCode::RateLimited, RefusalCode::Overloaded, RefusalCode::Unauthenticated] {
        door.source.seen(|seen| {
            seen.refuses = Some(match code {
                RefusalCode::RateLimited => |_| Some(RefusalCode::RateLimited),
                RefusalCode::Overloaded => |_| Some(RefusalCode::Overloaded),
                _ => |_| Some(RefusalCode::Unauthenticated),
            });
        });
        let waiting = spool.waiting().unwrap().len();
        spool.report(&door.source, outcome((1, sha256(b"a")), None, 1), deadline).await;
        door.ready(None).await.unwrap();
        assert_eq!(spool.waiting().unwrap().len(), waiting + 1, "{code}");
    }
}

#[tokio::test]
async fn the_spool_is_bounded_and_keeps_the_oldest() {
    let door = Door::new();
    let spool = OutcomeSpool::new(&door.state);
    let mut kept = 0;
    while spool.append(&outcome((kept, sha256(b"a")), None, 1)).await.is_ok() {
        kept += 1;
    }
    assert!((1_000..5_000).contains(&kept), "{kept}");
    assert!(std::fs::metadata(door.state.file("outcomes.jsonl")).unwrap().len() <= MAX_SPOOL_BYTES);
    let waiting = spool.waiting().unwrap();
    assert_eq!(waiting[0].index, 0);
    assert_eq!(u64::try_from(waiting.len()).unwrap(), kept);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_spoils_no_other() {
    let door = Door::new();
    let spool = OutcomeSpool::new(&door.state);
    spool.append(&outcome((1, sha256(b"a")), None, 1)).await.unwrap();
    let mut bytes = std::fs::read(door.state.file("outcomes.jsonl")).unwrap();
    bytes.extend_from_slice(b"\n{\"index\":2,\"le");
    std::fs::write(door.state.file("outcomes.jsonl"), bytes).unwrap();
    spool.append(&outcome((3, sha256(b"a")), None, 1)).await.unwrap();
    let indexes: Vec<u64> = spool.waiting().unwrap().iter().map(|outcome| outcome.index).collect();
    assert_eq!(indexes, [1, 3]);
}
