//! Asking: one task that chooses the head, one for each witness that has it cosigned.
//!
//! A witness is asked about one head at a time, the newest that was chosen when it is free: nothing queues. It is asked again at once after
//! an answer, and after a fault with growing pauses. What it says is believed in nothing: a cosignature is verified before it is kept, and a
//! refusal for a fork raises the alarm only if our own tree bears our proof out and the witness says the same twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::api::admin::WitnessAlarm;
use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{Sha256Tree, consistency_proof, root_at, verify_consistency};
use countersign_core::note::NoteSignature;
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::{
    AddCheckpoint, COSIGNATURE_LEEWAY_SECS, CosignatureRefused, Witness, cosignature_lines,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Answer, Line, Unreachable};
use crate::serve::Authority;
use crate::store::{SignedHead, StoredTree};

/// How often to look for a newer head: what a quorum is late by.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// First pause after a fault.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Requests about one head: the size isn't known, it is told, and the same once more to make sure.
const MAX_REQUESTS: usize = 6;

/// Why there is no cosignature; the next try may bring one.
#[derive(Debug, thiserror::Error)]
enum AskFault {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("it answered with status {0}: {1}")]
    Status(u16, String),
    #[error("its answer isn't of the protocol: {0}")]
    Answer(&'static str),
    #[error("its cosignature: {0}")]
    Cosignature(#[from] CosignatureRefused),
    #[error("its clock: {0} s")]
    Time(u64),
    #[error("the store: {0}")]
    Store(RefusalCode),
}

/// What a witness refuses this log for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conflict {
    kind: &'static str,
    witness_size: u64,
}

enum Step {
    Cosigned(NoteSignature),
    /// It has cosigned this size last.
    Knows(u64),
    /// It has cosigned a newer head of ours than the one in hand.
    Ahead(u64),
    Conflict(Conflict),
}

/// Runs until told to stop.
pub async fn run(authority: Arc<Authority>, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let witnesses = authority.witnesses().quorum.as_ref().map(|quorum| quorum.witnesses().to_vec());
    for (at, witness) in witnesses.unwrap_or_default().into_iter().enumerate() {
        let Some(endpoint) = authority.witnesses().endpoints.get(at).cloned().flatten() else { continue };
        let target = authority.witnesses().target.subscribe();
        let asker =
            Asker { authority: Arc::clone(&authority), at, witness, line: Line::new(endpoint), known: 0 };
        tasks.spawn(asker.run(target));
    }
    let look = async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !authority.witnesses().has_alarm() {
                authority.witnesses().aim(authority.newest_signed(), Instant::now());
            }
        }
    };
    tokio::select! {
        () = look => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // A request under way may be carried out all the same; asking again finds that out.
    tasks.shutdown().await;
}

struct Asker {
    authority: Arc<Authority>,
    at: usize,
    witness: Witness,
    line: Line,
    /// What the witness has cosigned last, as far as is known here.
    known: u64,
}

impl Asker {
    async fn run(mut self, mut target: watch::Receiver<Option<Arc<SignedHead>>>) {
        let longest = Duration::from_secs(self.authority.config().witnesses.retry_secs);
        let mut pause = FIRST_PAUSE;
        loop {
            // The sender lives as long as the authority.
            if target.changed().await.is_err() {
                return;
            }
            let Some(head) = target.borrow_and_update().clone() else { continue };
            match self.cosign(&head).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(fault) => {
                    tracing::warn!(witness = self.witness.name, size = head.size(), %fault, "not cosigned");
                    self.authority.witnesses().note(self.at, None, Some(fault.to_string()));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                    // What was in hand is asked about again, or what came since.
                    target.mark_changed();
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        let standing = self.authority.witnesses().standing.load();
        standing.alarm.is_some() || standing.is_set_aside(&self.witness.name)
    }

    /// Has one head cosigned.
    async fn cosign(&mut self, head: &Arc<SignedHead>) -> Result<(), AskFault> {
        let mut suspected = None;
        for _ in 0..MAX_REQUESTS {
            if self.is_idle() || self.known > head.size() {
                return Ok(());
            }
            match self.ask(head).await? {
                Step::Cosigned(line) => return self.keep(head, line).await,
                Step::Knows(size) => self.known = size,
                Step::Ahead(size) => {
                    self.known = size;
                    return Ok(());
                }
                Step::Conflict(conflict) if suspected == Some(conflict) => {
                    self.raise(head, conflict);
                    return Ok(());
                }
                // Once more from the beginning: what it has cosigned is asked anew.
                Step::Conflict(conflict) => {
                    suspected = Some(conflict);
                    self.known = 0;
                }
            }
        }
        Err(AskFault::Answer("it names another size each time"))
    }

    async fn ask(&mut self, head: &Arc<SignedHead>) -> Result<Step, AskFault> {
        let old = self.known;
        let proof = self.prove(old, head).await?;
        let request = AddCheckpoint::encode(old, &proof, head.note());
        let limit = Duration::from_secs(self.authority.config().witnesses.request_secs);
        let answer = self.line.add_checkpoint(request, limit).await?;
        match answer.status {
            200 => self.cosigned(head, &answer).map(Step::Cosigned),
            409 => self.conflict(old, head, &answer).await,
            // The proof was verified with our own tree: the witness has another one of that size.
            422 if old > 0 => Ok(Step::Conflict(Conflict { kind: "forked", witness_size: old })),
            status => Err(AskFault::Status(status, answer.body.chars().take(120).collect())),
        }
    }

    /// The proof from what the witness has to this head, checked before it is sent.
    async fn prove(&self, old: u64, head: &Arc<SignedHead>) -> Result<Vec<Sha256Digest>, AskFault> {
        let (worker, new, root) = (Arc::clone(&self.authority), head.size(), head.body().sha256_root);
        let prove = move || {
            let unreadable = |_| RefusalCode::LogUnavailable;
            let tree = StoredTree(worker.reader());
            let proof = consistency_proof::<Sha256Tree, _>(old, new, &tree).map_err(unreadable)?;
            let old_root = root_at::<Sha256Tree, _>(old, &tree).map_err(unreadable)?;
            let holds = verify_consistency::<Sha256Tree>(old, &old_root, new, &root, &proof);
            holds.map_err(|_| RefusalCode::LogUnavailable)?;
            Ok(proof)
        };
        self.authority.run(prove).await.map_err(|refused| AskFault::Store(refused.code()))
    }

    /// The witness's own line, verified. Lines of others are ignored (C2SP tlog-witness).
    fn cosigned(&self, head: &SignedHead, answer: &Answer) -> Result<NoteSignature, AskFault> {
        let lines = cosignature_lines(&answer.body).ok_or(AskFault::Answer("no signature lines"))?;
        let line = lines.into_iter().find(|line| self.witness.key.made(line));
        let line = line.ok_or(AskFault::Answer("no cosignature by its key"))?;
        let time_secs = self.witness.key.verify(head.text(), &line)?;
        let now_secs = self.authority.now_ms() / 1_000;
        let (early, late) =
            (now_secs.saturating_sub(COSIGNATURE_LEEWAY_SECS), now_secs + COSIGNATURE_LEEWAY_SECS);
        if (early..=late).contains(&time_secs) { Ok(line) } else { Err(AskFault::Time(time_secs)) }
    }

    async fn conflict(&self, old: u64, head: &SignedHead, answer: &Answer) -> Result<Step, AskFault> {
        let size = answer.body.strip_suffix('\n').filter(|_| answer.is_size);
        let size: u64 =
            size.and_then(|size| size.parse().ok()).ok_or(AskFault::Answer("a conflict without a size"))?;
        if size == old {
            // C2SP tlog-witness: the old size fits, so it is the root that doesn't.
            let same_size = old == head.size();
            let forked = Step::Conflict(Conflict { kind: "forked", witness_size: size });
            return if same_size {
                Ok(forked)
            } else {
                Err(AskFault::Answer("a conflict with the size that it names"))
            };
        }
        if size <= head.size() {
            return Ok(Step::Knows(size));
        }
        // More than this head: another replica's, or one that was signed and whose signature a crash took. A size that isn't even committed
        // here was never this store's.
        let worker = Arc::clone(&self.authority);
        let committed = move || {
            let tip = worker.reader().newest_committed().map_err(|fault| fault.code())?;
            Ok(tip.map_or(0, |tip| tip.head.body().size))
        };
        let committed =
            self.authority.run(committed).await.map_err(|refused| AskFault::Store(refused.code()))?;
        if size > committed {
            return Ok(Step::Conflict(Conflict { kind: "rolled-back", witness_size: size }));
        }
        Ok(Step::Ahead(size))
    }

    async fn keep(&mut self, head: &Arc<SignedHead>, line: NoteSignature) -> Result<(), AskFault> {
        self.known = head.size();
        self.authority
            .attach(head.size(), vec![line.clone()])
            .await
            .map_err(|refused| AskFault::Store(refused.code()))?;
        let witnesses = self.authority.witnesses();
        witnesses.gather(head, line, self.authority.now_ms());
        witnesses.note(self.at, Some(head.size()), None);
        Ok(())
    }

    fn raise(&self, head: &SignedHead, conflict: Conflict) {
        let witnesses = self.authority.witnesses();
        witnesses.note(self.at, None, Some(format!("it refuses this log: {}", conflict.kind)));
        witnesses.raise(WitnessAlarm {
            witness: self.witness.name.clone(),
            kind: conflict.kind.to_owned(),
            size: head.size(),
            witness_size: conflict.witness_size,
            at_ms: self.authority.now_ms(),
        });
    }
}
