//! The sequencer's thread: gather, append, sign, release, again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use countersign_core::control::ControlState;
use countersign_core::leaf::Kind;
use countersign_core::leaf::record::{Faults, Heartbeat, HeartbeatReason};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::oneshot;

use super::append::{Append, Entry, Outcome, Prepared, SequenceFault};
use super::faults::faults_entry;
use super::grow::BatchTree;
use super::others::{LookFault, Others};
use super::plan::{NoPlan, Plan, Terms, Verdict, plan};
use super::{DeskJob, Health, Job, NO_HEARTBEAT, Reply, SequencerLimits, Shared};
use crate::clock::ClockWatch;
use crate::sign::HeadSigner;
use crate::store::{
    Additions, MAX_PAGE, ReadFault, Reader, SignedHead, StoreFault, StoredHead, Wanted, Writer,
    newest_signed_head, receipts_for,
};

/// An Append and who waits for it.
struct Call {
    append: Box<Prepared>,
    /// `None` for what the sequencer appends on its own.
    reply: Option<oneshot::Sender<Reply>>,
}

/// What keeps appends from being taken, as far as this thread knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    No,
    Signer,
    Log,
    Clock,
    /// For good.
    Failed,
}

/// A batch that is durable.
struct Committed {
    additions: Option<Additions>,
    verdicts: Vec<Verdict>,
    tree: Arc<BatchTree>,
    /// The batch's head, once it is signed.
    head: Option<Arc<SignedHead>>,
}

impl Committed {
    /// Whether this is the batch's head, to which its tree leads.
    fn is_under(&self, head: &SignedHead) -> bool {
        self.additions.as_ref().is_some_and(|additions| additions.head.digest() == head.digest())
    }

    /// A leaf of this batch.
    fn leaf(&self, index: u64) -> Option<Arc<[u8]>> {
        let leaves = &self.additions.as_ref()?.leaves;
        let at = index.checked_sub(leaves.first()?.index)?;
        leaves.get(usize::try_from(at).ok()?).map(|leaf| Arc::clone(&leaf.bytes))
    }
}

/// Why a batch didn't come about. All of its calls get this answer.
enum NoBatch {
    Fault(SequenceFault),
    Failed,
}

/// Writes outside of appends that are done before Appends are looked at again: some 10 ms of small transactions.
pub(super) const DESK_BATCH: usize = 16;

pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: SequencerLimits,
    pub(super) jobs: Receiver<Job>,
    pub(super) desk: Receiver<DeskJob>,
    pub(super) writer: Box<dyn Writer>,
    pub(super) reader: Arc<dyn Reader>,
    pub(super) signer: HeadSigner,
    pub(super) watch: ClockWatch,
    /// The newest head that a commit of this process returned. Only this one is ever signed: what was found at start may not have been
    /// synced by whoever wrote it.
    pub(super) own: Option<StoredHead>,
    /// The newest head in the store when this process last committed or started.
    pub(super) newest: Option<StoredHead>,
    /// What other processes put into the log.
    pub(super) others: Others,
    pub(super) state: State,
}

/// The changing part of what the thread knows.
pub(super) struct State {
    down: Down,
    probed: Instant,
    /// Faults whose leaf is in the batch under way.
    telling: Option<Faults>,
    /// A heartbeat that is due, and why.
    due: Option<HeartbeatReason>,
    /// Something was down since faults were last told: the next batch tells them.
    owing: bool,
    /// The leaf with which this process begins has had its turn.
    begun: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self { down: Down::No, probed: Instant::now(), telling: None, due: None, owing: false, begun: false }
    }
}

impl Thread {
    /// Before the first job: a leaf of this process's own, so that there is a head that it may sign.
    pub(super) fn begin(&mut self) {
        if self.newest.is_some() {
            self.state.due = Some(HeartbeatReason::Start);
            self.batch(Vec::new());
        }
        self.state.begun = true;
        self.publish_health();
    }

    /// Whether nothing may be appended, signed or released.
    fn is_halted(&self) -> bool {
        self.state.begun && self.shared.halt.load(Ordering::SeqCst)
    }

    pub(super) fn run(mut self) {
        while self.state.down != Down::Failed {
            let (calls, go_on) = self.gather();
            // What was counted and not told is lost with the process.
            self.state.owing |= !go_on;
            // Also without calls: a probe or a heartbeat may be due.
            self.batch(calls);
            self.publish_health();
            if !go_on {
                break;
            }
        }
        let last = if self.state.down == Down::Failed { Health::Failed } else { Health::Stopped };
        self.shared.set_health(last);
        // Those still waiting see their sender dropped by the thread's last word.
    }

    /// Everything that waits, up to a batch's size; waits for the first. `false`: this is the last batch.
    fn gather(&mut self) -> (Vec<Call>, bool) {
        let mut calls = Vec::new();
        let mut leaves = 0;
        // Before looking: what is asked for from here on wakes again.
        self.shared.woken.store(false, Ordering::SeqCst);
        self.desk_work();
        let mut job = match self.jobs.recv_timeout(self.patience()) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return (calls, false),
        };
        while let Some(taken) = job {
            match taken {
                Job::Append { append, reply } => {
                    leaves += append.entries.len();
                    let closes = append.changes_keys();
                    calls.push(Call { append, reply: Some(reply) });
                    if closes || leaves >= self.limits.batch_leaves {
                        break;
                    }
                }
                // Taken out of the queue: whoever wakes from here on puts another one in.
                Job::Wake => self.shared.woken.store(false, Ordering::SeqCst),
            }
            job = self.jobs.try_recv().ok();
        }
        if self.shared.look.swap(false, Ordering::SeqCst) {
            self.refresh();
        }
        let asked_ms = self.shared.heartbeat_max_age_ms.swap(NO_HEARTBEAT, Ordering::SeqCst);
        if asked_ms != NO_HEARTBEAT {
            self.heartbeat(asked_ms);
        }
        let done = self.jobs.is_empty() && self.desk.is_empty();
        (calls, !(done && self.shared.stopping.load(Ordering::SeqCst)))
    }

    /// A few writes outside of appends; the rest after the next batch.
    fn desk_work(&mut self) {
        for _ in 0..DESK_BATCH {
            let Ok(work) = self.desk.try_recv() else { return };
            let result = work(self.writer.as_mut());
            self.judge_write(&result);
        }
    }

    fn patience(&self) -> Duration {
        if !self.desk.is_empty() {
            return Duration::ZERO;
        }
        if self.state.down == Down::No {
            return self.limits.probe_every;
        }
        self.limits.probe_every.saturating_sub(self.state.probed.elapsed())
    }

    /// Takes over what other replicas have committed and signed since. A store that can't be read now is read again by the next look.
    fn refresh(&mut self) {
        if !self.others.shared() {
            return;
        }
        if let Err(fault) = self.take_over() {
            tracing::debug!(%fault, "no look at the other replicas");
        }
    }

    fn take_over(&mut self) -> Result<(), ReadFault> {
        let looked = Instant::now();
        if let Some(tip) = self.reader.newest_committed()? {
            match self.others.found(self.reader.as_ref(), &tip.head) {
                Ok(()) => {}
                Err(LookFault::Read(fault)) => return Err(fault),
                Err(fault @ LookFault::PutBack { .. }) => {
                    self.note_down(Down::Failed, &fault);
                    return Ok(());
                }
            }
        }
        let held = self.shared.control.load_full();
        let mut control = ControlState::clone(&held);
        for (_, bytes) in self.reader.control_leaves(control.number(), MAX_PAGE)? {
            control.apply(&bytes).map_err(|_| ReadFault::Corrupt("a control leaf doesn't fold"))?;
        }
        if control.number() != held.number() {
            self.shared.control.store(Arc::new(control));
        }
        if let Some(head) = newest_signed_head(self.reader.as_ref())? {
            self.signer.note_signed(head.body().control_seq);
            self.publish_signed(head);
        }
        self.others.hear(self.reader.as_ref(), &self.shared.hosts)?;
        self.shared.hosts.looked(looked);
        Ok(())
    }

    /// The newest signed head never goes back.
    fn publish_signed(&self, head: SignedHead) {
        if self.shared.signed.load().as_ref().is_none_or(|held| held.size() < head.size()) {
            self.shared.signed.store(Some(Arc::new(head)));
        }
    }

    /// This process's own newest head counts, not another replica's: a heartbeat shows that this signer signs.
    fn heartbeat(&mut self, max_age_ms: u64) {
        let newest_ms = self.newest.as_ref().map(|head| head.body().time_ms);
        let age_ms = newest_ms.map(|then| self.shared.clock.now_ms().saturating_sub(then));
        // An empty log begins with its initialisation, not with a heartbeat.
        if age_ms.is_some_and(|age| age >= max_age_ms) && self.state.due.is_none() {
            self.state.due = Some(HeartbeatReason::Idle);
        }
    }

    /// One batch: appended, signed, released. Whatever happens, every call gets its answer, or sees that the process is over.
    fn batch(&mut self, calls: Vec<Call>) {
        // Watched also when idle, so that a step is seen when it happens and slewing isn't taken for one.
        let clock = self.watch.observe(self.shared.clock.as_ref());
        if self.is_halted() {
            return self.refuse(calls, &SequenceFault::Halted);
        }
        let probe = self.state.probed.elapsed() >= self.limits.probe_every;
        if self.state.down == Down::Signer && (!probe || !self.probe_signer()) {
            return self.refuse(calls, &SequenceFault::SignerUnavailable);
        }
        if self.state.down == Down::Failed {
            return self.refuse(calls, &SequenceFault::Stopped);
        }
        let now_ms = match clock {
            Ok(now_ms) => now_ms,
            Err(fault) => {
                self.note_down(Down::Clock, &fault);
                return self.refuse(calls, &SequenceFault::ClockUnreliable);
            }
        };
        let own = self.own_leaves(probe || !calls.is_empty(), now_ms);
        if calls.is_empty() && own.is_empty() {
            return;
        }
        let mut calls = calls;
        if let Ok(append) = Prepared::new(Append::of(own)) {
            calls.push(Call { append: Box::new(append), reply: None });
        }
        match self.commit(&calls, now_ms) {
            Ok(committed) => self.sign_and_release(calls, committed),
            Err(NoBatch::Fault(fault)) => {
                self.untold();
                self.refuse(calls, &fault);
            }
            // Dropped without an answer: whether the batch is durable is known after a restart.
            Err(NoBatch::Failed) => self.state.down = Down::Failed,
        }
    }

    /// Leaves that this thread appends on its own account: a heartbeat that is due, and the faults that can be told now. While something
    /// is down it adds them only when `trying` anyway.
    fn own_leaves(&mut self, trying: bool, now_ms: u64) -> Vec<Entry> {
        if self.state.down != Down::No {
            if !trying {
                return Vec::new();
            }
            self.state.probed = Instant::now();
        }
        let mut entries = Vec::new();
        if let Some(reason) = self.state.due {
            entries.push(Entry::plain(Kind::Heartbeat, Heartbeat(reason).encode()));
        }
        // While the log is busy no heartbeat is ever due.
        let overdue = self.shared.faults.since_ms().is_some_and(|since| {
            u128::from(now_ms.saturating_sub(since)) >= self.limits.tell_faults_after.as_millis()
        });
        // An empty log begins with its initialisation.
        if self.newest.is_some() && (self.state.due.is_some() || self.state.owing || overdue) {
            self.state.telling = self.shared.faults.take();
            entries.extend(self.state.telling.as_ref().map(faults_entry));
        }
        entries
    }

    /// The batch is in the log: so are the heartbeat and the counts.
    fn told(&mut self) {
        self.state.telling = None;
        self.state.due = None;
        self.state.owing = false;
    }

    fn untold(&mut self) {
        if let Some(faults) = self.state.telling.take() {
            self.shared.faults.put_back(faults);
        }
    }

    fn commit(&mut self, calls: &[Call], now_ms: u64) -> Result<Committed, NoBatch> {
        let control = self.shared.control.load_full();
        let met = self.others.met();
        let mut wanted = Wanted {
            control_after: control.number(),
            body_at: met.map(|(size, _)| size),
            ..Wanted::default()
        };
        calls.iter().for_each(|call| call.append.want(&mut wanted));
        let count = calls.iter().map(|call| call.append.entries.len()).sum();
        // Without entropy there are no salts, and without salts no leaves.
        let salts = salts(count).ok_or(NoBatch::Fault(SequenceFault::LogUnavailable))?;
        let met = met.map(|(_, digest)| digest);
        let terms = Terms { control: &control, now_ms, salts: &salts, met };
        let batch: Vec<&Prepared> = calls.iter().map(|call| call.append.as_ref()).collect();
        let mut planned: Option<Result<Plan, NoPlan>> = None;
        let result = self.writer.append(&wanted, &mut |prior| {
            let mut outcome = plan(prior, &batch, &terms);
            let additions = outcome.as_mut().ok().and_then(|plan| plan.additions.take());
            planned = Some(outcome);
            additions
        });
        self.judge_write(&result);
        let additions = match result {
            Ok(additions) => additions,
            Err(fault) if fault.is_fatal() => return Err(NoBatch::Failed),
            Err(_) => return Err(NoBatch::Fault(SequenceFault::LogUnavailable)),
        };
        match planned {
            Some(Ok(plan)) => Ok(self.committed(additions, plan)),
            Some(Err(NoPlan::Clock(fault))) => {
                self.note_down(Down::Clock, &fault);
                Err(NoBatch::Fault(SequenceFault::ClockUnreliable))
            }
            Some(Err(NoPlan::Contradiction(what))) => {
                tracing::error!("the store contradicts itself: {what}");
                Err(NoBatch::Failed)
            }
            Some(Err(NoPlan::Full)) | None => Err(NoBatch::Fault(SequenceFault::LogUnavailable)),
        }
    }

    fn committed(&mut self, additions: Option<Additions>, plan: Plan) -> Committed {
        if let Some(control) = plan.control {
            self.shared.control.store(Arc::new(control));
        }
        if let Some(additions) = &additions {
            let first = additions.leaves.first().map_or(additions.head.body().size, |leaf| leaf.index);
            self.others.committed(first, &additions.head);
            self.newest = Some(additions.head.clone());
            self.own = Some(additions.head.clone());
            self.told();
            self.shared.hosts.tell(additions.leaves.iter().flat_map(|leaf| &leaf.changes));
            count(&self.shared.counters.batches, 1);
            count(&self.shared.counters.leaves, additions.leaves.len() as u64);
        }
        if matches!(self.state.down, Down::Clock | Down::Log) {
            self.state.down = Down::No;
        }
        Committed { additions, verdicts: plan.verdicts, tree: Arc::new(plan.tree), head: None }
    }

    fn sign_and_release(&mut self, calls: Vec<Call>, mut committed: Committed) {
        let halted = self.is_halted();
        if !halted && self.sign_newest(false) {
            // The head of this very batch: another replica's may be the newest one in a moment, and the batch's tree doesn't lead to that.
            committed.head = self.shared.signed.load_full().filter(|head| committed.is_under(head));
        }
        if !halted {
            self.reach_existing(&committed);
        }
        if self.state.down == Down::Failed {
            // Signed or not, stored or not: nothing leaves any more.
            return;
        }
        let halted = self.is_halted();
        let head = self.shared.signed.load_full();
        for (call, verdict) in calls.into_iter().zip(&committed.verdicts) {
            let Some(reply) = call.reply else { continue };
            let answer = match verdict {
                // What was appended accounts for the attempt; it is handed out on retry, if ever.
                Verdict::Appended(_) | Verdict::Existing(_) if halted => Reply::Fault(SequenceFault::Halted),
                Verdict::Appended(range) => match &committed.head {
                    Some(head) => Reply::Appended {
                        leaves: range
                            .clone()
                            .filter_map(|index| Some((index, committed.leaf(index)?)))
                            .collect(),
                        tree: Arc::clone(&committed.tree),
                        head: Arc::clone(head),
                    },
                    None => Reply::Fault(SequenceFault::SignerUnavailable),
                },
                Verdict::Existing(indexes) => self.existing(indexes, head.as_ref(), &committed),
                Verdict::Stale => {
                    count(&self.shared.counters.stale, 1);
                    Reply::Outcome(Outcome::Stale)
                }
                Verdict::ChallengeSpent => Reply::Outcome(Outcome::ChallengeSpent),
                Verdict::Spent(spend) => Reply::Outcome(Outcome::Spent(*spend)),
                Verdict::BlobsGone(gone) => Reply::Outcome(Outcome::BlobsGone(gone.clone())),
                Verdict::Refused(refused) => Reply::Outcome(Outcome::Refused(*refused)),
            };
            // Whoever asked may have gone; the leaf stands and is handed out on retry.
            let _ = reply.send(answer);
        }
    }

    /// Sees to a head over earlier answers of another replica: its own, or, if that replica ended before it signed, one of this process over a
    /// leaf of this process.
    fn reach_existing(&mut self, committed: &Committed) {
        let answers = committed.verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Existing(indexes) => indexes.iter().max().copied(),
            _ => None,
        });
        let Some(highest) = answers.max() else { return };
        let covered =
            |thread: &Self| thread.shared.signed.load().as_ref().is_some_and(|head| highest < head.size());
        if !covered(self) {
            self.refresh();
        }
        if !covered(self) && self.state.down == Down::No {
            self.state.due = Some(HeartbeatReason::Idle);
            // Holds nothing but the heartbeat, so it doesn't come here again.
            self.batch(Vec::new());
        }
    }

    /// Earlier answers, from the log or from this very batch.
    fn existing(&self, indexes: &[u64], head: Option<&Arc<SignedHead>>, committed: &Committed) -> Reply {
        let Some(head) = head.filter(|head| indexes.iter().all(|index| *index < head.size())) else {
            return Reply::Fault(SequenceFault::SignerUnavailable);
        };
        let own = committed.is_under(head);
        let receipts = indexes.iter().map(|index| match committed.leaf(*index).filter(|_| own) {
            Some(leaf) => committed.tree.receipt(*index, leaf).ok(),
            None => {
                let found = receipts_for(self.reader.as_ref(), &[*index], Arc::clone(head)).ok()?;
                found.leaves.into_iter().next()
            }
        });
        match receipts.collect::<Option<Vec<_>>>() {
            Some(leaves) => Reply::Existing { leaves, head: Arc::clone(head) },
            None => Reply::Fault(SequenceFault::LogUnavailable),
        }
    }

    /// Signs the newest head that this process committed, if no signed head covers it yet, or `anyway`. `true`: it is under a stored signature.
    fn sign_newest(&mut self, anyway: bool) -> bool {
        let signed_size = self.shared.signed.load().as_ref().map_or(0, |head| head.size());
        let newest_size = self.newest.as_ref().map_or(0, |head| head.body().size);
        if signed_size >= newest_size && !anyway {
            return newest_size > 0;
        }
        // INVARIANT: a heartbeat is due from the start on until a commit succeeds, so `own` is set by the first commit at the latest.
        let Some(head) = self.own.clone().filter(|own| own.body().size == newest_size) else {
            self.note_down(Down::Signer, &"nothing of this process's own to sign yet");
            return false;
        };
        let control = self.shared.control.load_full();
        let lines = match self.signer.sign(&head, &control) {
            Ok(lines) => lines,
            Err(fault) => {
                let down = if fault.is_fatal() { Down::Failed } else { Down::Signer };
                self.note_down(down, &fault);
                return false;
            }
        };
        let attached = self.writer.attach_signatures(newest_size, &lines);
        let signed = StoredHead::new(head.text(), lines).ok().and_then(|head| SignedHead::new(head).ok());
        match (attached, signed) {
            (Ok(()), Some(signed)) => {
                count(&self.shared.counters.signed, 1);
                self.publish_signed(signed);
                true
            }
            (Err(fault), _) => {
                // Signed, but not stored: nothing is released, and the probe signs the same body again.
                let down = if fault.is_fatal() { Down::Failed } else { Down::Signer };
                self.note_down(down, &fault);
                false
            }
            (Ok(()), None) => {
                self.note_down(Down::Failed, &"a signed head can't be put together");
                false
            }
        }
    }

    /// Tries to sign again what is committed; when that works, tells of it in the log.
    fn probe_signer(&mut self) -> bool {
        self.state.probed = Instant::now();
        if self.own.as_ref() != self.newest.as_ref() {
            // Nothing of this process's own: the start heartbeat has to be committed first.
            self.state.down = Down::No;
            return true;
        }
        // Also if another replica's head covers it by now: the question is whether this signer signs.
        if !self.sign_newest(true) {
            return false;
        }
        tracing::info!("heads are signed again");
        self.state.down = Down::No;
        self.state.due = Some(HeartbeatReason::SignerBack);
        true
    }

    fn refuse(&self, calls: Vec<Call>, fault: &SequenceFault) {
        for call in calls {
            let Some(reply) = call.reply else { continue };
            let fault = self.shared.refuse(fault.clone(), call.append.entries.len() as u64);
            let _ = reply.send(Reply::Fault(fault));
        }
    }

    fn judge_write<T>(&mut self, result: &Result<T, StoreFault>) {
        let Err(fault) = result else { return };
        self.note_down(if fault.is_fatal() { Down::Failed } else { Down::Log }, fault);
    }

    fn note_down(&mut self, down: Down, why: &dyn std::fmt::Display) {
        let now = self.state.down;
        // An unsigned head weighs more than a write that found no space: it closes the door.
        let weighs_less = now == Down::Failed || (now == Down::Signer && down != Down::Failed);
        if now != down && !weighs_less {
            tracing::error!(?down, "{why}");
            self.state.down = down;
            self.state.probed = Instant::now();
            // Before the answers that follow from it, so that nobody who was refused reads that all is well.
            self.publish_health();
        }
        self.state.owing = true;
    }

    fn publish_health(&self) {
        self.shared.set_health(match self.state.down {
            Down::No => Health::Serving,
            Down::Signer => Health::SignerDown,
            Down::Log => Health::LogDown,
            Down::Clock => Health::ClockUnreliable,
            Down::Failed => Health::Failed,
        });
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn salts(count: usize) -> Option<Vec<[u8; 16]>> {
    let mut bytes = vec![0; count * 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.chunks_exact(16).filter_map(|chunk| chunk.try_into().ok()).collect())
}
