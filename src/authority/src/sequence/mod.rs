//! The sequencer: one thread that owns the log's writer and its signer, and decides the order of everything.
//!
//! Comes in: [`Append`]s from any thread, through a bounded queue. Goes out: [`Outcome`]s, each released only when its leaves are durable
//! and under a head whose signature was verified and stored. All that waits is taken as one batch: one durable transaction, then one
//! signature; while that is under way the next batch gathers. There is no timer between.
//!
//! Refused: appends while the head can't be signed (nothing more is put under a head that may never come), while the log can't be
//! written, while the clock can't be relied upon, and when the queue is full. These attempts are counted, and a leaf tells of them when
//! the log is back.
//!
//! Absent: verification and policy. Leaves are read only where another process wrote them: what they say of hosts and of control state.

mod append;
mod faults;
mod grow;
mod hosts;
pub mod measure;
mod others;
mod plan;
mod run;
mod start;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::name::HostId;
use countersign_core::note::NoteSignature;
use countersign_core::refusal::RefusalCode;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::store::{
    Acknowledgement, ChallengeKey, HostNow, LeafReceipt, PendingEnrolment, Receipts, SignedHead, StoreFault,
    Writer,
};

pub use append::{
    Append, AppendError, CLOCK_TOLERANCE_MS, Entry, EntryBody, Guard, MAX_BODY_LEN, MAX_DECISION_AGE_MS,
    MAX_ENTRIES, Outcome, RequestRef, SequenceFault, Spend,
};
pub use faults::FaultCounts;
pub use hosts::ReadAt;
pub use start::{SequencerParts, StartFault};

#[cfg(test)]
pub(crate) use plan::plan_alone;

use append::Prepared;
use grow::BatchTree;
use hosts::HostRows;

/// Bounds of a sequencer.
#[derive(Clone, Copy, Debug)]
pub struct SequencerLimits {
    /// Calls that may wait; one more is told `overloaded`.
    pub queue: usize,
    /// Writes outside of appends that may wait; one more is told `overloaded`.
    pub desk: usize,
    /// Leaves after which a batch takes no further Append.
    pub batch_leaves: usize,
    /// How often a signer or a log that is down is tried again, and the clock is looked at.
    pub probe_every: Duration,
    /// How long after the first attempt that no leaf tells of a leaf does, at the latest.
    pub tell_faults_after: Duration,
}

impl Default for SequencerLimits {
    /// 4,096 calls: twice a thousand agents that come back at once with two calls each. 4,096 leaves: about 0.2 s of work, so that the last
    /// call of a batch waits no longer than a slow TPM takes to sign. 256 writes: five seconds of enrolments at their rate. Ten seconds: a
    /// heartbeat's time with the usual lease.
    fn default() -> Self {
        Self {
            queue: 4_096,
            desk: 256,
            batch_leaves: 4_096,
            probe_every: Duration::from_millis(500),
            tell_faults_after: Duration::from_secs(10),
        }
    }
}

/// How the sequencer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Appends are taken.
    Serving,
    /// The newest committed head isn't signed: appends are refused until a probe signs it.
    SignerDown,
    /// The last write found no space or no lock; the next one tries again.
    LogDown,
    /// The clock is behind the log or jumped.
    ClockUnreliable,
    /// Over. The process has to start again from what is durable.
    Failed,
    /// Stopped as asked.
    Stopped,
}

/// What a sequencer has done since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequencerCounts {
    /// Transactions that appended something.
    pub batches: u64,
    /// Leaves.
    pub leaves: u64,
    /// Heads signed.
    pub signed: u64,
    /// Appends answered `Stale`.
    pub stale: u64,
    /// Appends waiting now.
    pub waiting: u64,
}

#[derive(Default)]
struct Counters {
    batches: AtomicU64,
    leaves: AtomicU64,
    signed: AtomicU64,
    stale: AtomicU64,
}

/// What all threads see of the sequencer.
struct Shared {
    control: ArcSwap<ControlState>,
    signed: ArcSwapOption<SignedHead>,
    health: watch::Sender<Health>,
    faults: FaultCounts,
    hosts: HostRows,
    counters: Counters,
    clock: Arc<dyn Clock>,
    stopping: AtomicBool,
    /// The thread takes nothing out of its queues any more.
    ended: AtomicBool,
    /// A heartbeat was asked for if the newest head is older than this, ms; [`NO_HEARTBEAT`] if not. Beside the queue: a full queue is when
    /// heads must be made all the same.
    heartbeat_max_age_ms: AtomicU64,
    /// A look at other replicas was asked for.
    look: AtomicBool,
    /// A [`Job::Wake`] is in the queue: one is enough.
    woken: AtomicBool,
    /// Somebody said that nothing is appended, signed or released any more.
    halt: Arc<AtomicBool>,
}

const NO_HEARTBEAT: u64 = u64::MAX;

impl Shared {
    fn refuse(&self, fault: SequenceFault, attempts: u64) -> SequenceFault {
        self.faults.add(fault.code(), attempts, self.clock.now_ms());
        fault
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|current| std::mem::replace(current, health) != health);
    }
}

/// The thread's end of both queues. A queue keeps what was put into it for as long as anybody can put something there, so what is put there
/// after the thread's last look is taken out by whoever put it: a caller must not wait for an answer that nobody gives.
#[derive(Clone)]
struct Leftovers {
    jobs: Receiver<Job>,
    desk: Receiver<DeskJob>,
}

impl Leftovers {
    /// Drops everything that waits; whoever waits for it sees that it is over.
    fn drop_all(&self) {
        while self.jobs.try_recv().is_ok() {}
        while self.desk.try_recv().is_ok() {}
    }
}

/// A write outside of appends, run on the sequencer's thread.
type DeskJob = Box<dyn FnOnce(&mut dyn Writer) -> Result<(), StoreFault> + Send>;

enum Job {
    Append {
        append: Box<Prepared>,
        reply: oneshot::Sender<Reply>,
    },
    /// Look at what else was asked for: desk jobs, heartbeats, other replicas, the end.
    Wake,
}

/// What travels back; proofs are hashed by whoever waits, not by the sequencer.
enum Reply {
    Appended { leaves: Vec<(u64, Arc<[u8]>)>, tree: Arc<BatchTree>, head: Arc<SignedHead> },
    Existing { leaves: Vec<LeafReceipt>, head: Arc<SignedHead> },
    Outcome(Outcome),
    Fault(SequenceFault),
}

/// An Append on its way.
#[must_use = "the outcome is the only answer"]
pub struct Pending(oneshot::Receiver<Reply>);

impl Pending {
    /// Waits without holding a thread.
    ///
    /// # Errors
    /// [`SequenceFault`].
    pub async fn outcome(self) -> Result<Outcome, SequenceFault> {
        self.0.await.map_err(|_| SequenceFault::Stopped).and_then(Reply::outcome)
    }

    /// Waits on this thread, which must not be one of an async runtime.
    ///
    /// # Errors
    /// [`SequenceFault`].
    pub fn wait(self) -> Result<Outcome, SequenceFault> {
        self.0.blocking_recv().map_err(|_| SequenceFault::Stopped).and_then(Reply::outcome)
    }
}

impl Reply {
    fn outcome(self) -> Result<Outcome, SequenceFault> {
        match self {
            Self::Appended { leaves, tree, head } => {
                let receipts = leaves.into_iter().map(|(index, leaf)| tree.receipt(index, leaf));
                // The tree was grown by these very leaves: a missing node is a defect, and the leaf can be had on retry.
                let leaves = receipts.collect::<Result<_, _>>().map_err(|_| SequenceFault::LogUnavailable)?;
                Ok(Outcome::Appended(Receipts { leaves, head }))
            }
            Self::Existing { leaves, head } => Ok(Outcome::Existing(Receipts { leaves, head })),
            Self::Outcome(outcome) => Ok(outcome),
            Self::Fault(fault) => Err(fault),
        }
    }
}

/// A write outside of appends on its way.
#[must_use = "the write may have failed"]
pub struct Written<T>(oneshot::Receiver<Result<T, StoreFault>>);

impl<T> Written<T> {
    /// Waits without holding a thread.
    ///
    /// # Errors
    /// [`SequenceFault::LogUnavailable`], [`SequenceFault::Stopped`].
    pub async fn done(self) -> Result<T, SequenceFault> {
        self.0.await.map_err(|_| SequenceFault::Stopped)?.map_err(|_| SequenceFault::LogUnavailable)
    }

    /// Waits on this thread, which must not be one of an async runtime.
    ///
    /// # Errors
    /// [`SequenceFault::LogUnavailable`], [`SequenceFault::Stopped`].
    pub fn wait(self) -> Result<T, SequenceFault> {
        self.0.blocking_recv().map_err(|_| SequenceFault::Stopped)?.map_err(|_| SequenceFault::LogUnavailable)
    }
}

/// The way to the sequencer, shared by reference between threads. Dropping it stops the thread.
pub struct Sequencer {
    jobs: Sender<Job>,
    /// Apart from the Appends, so that neither takes the other's places.
    desk: Sender<DeskJob>,
    leftovers: Leftovers,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sequencer {
    /// Queues an Append.
    ///
    /// # Errors
    /// [`SequenceFault::Malformed`], or what is known at once: overloaded, signer or log unavailable. Counted.
    pub fn submit(&self, append: Append) -> Result<Pending, SequenceFault> {
        let attempts = append.entries.len() as u64;
        let append = Prepared::new(append).map_err(|error| self.shared.refuse(error.into(), attempts))?;
        let append = Box::new(append);
        if self.shared.stopping.load(Ordering::SeqCst) {
            return Err(SequenceFault::Stopped);
        }
        match *self.shared.health.borrow() {
            // Refused before append: what can't be signed isn't put into the log.
            Health::SignerDown => return Err(self.shared.refuse(SequenceFault::SignerUnavailable, attempts)),
            Health::Failed | Health::Stopped => return Err(SequenceFault::Stopped),
            Health::Serving | Health::LogDown | Health::ClockUnreliable => {}
        }
        let (reply, pending) = oneshot::channel();
        match self.jobs.try_send(Job::Append { append, reply }) {
            Ok(()) => {
                self.drop_leftovers();
                Ok(Pending(pending))
            }
            Err(TrySendError::Full(_)) => Err(self.shared.refuse(SequenceFault::Overloaded, attempts)),
            Err(TrySendError::Disconnected(_)) => Err(SequenceFault::Stopped),
        }
    }

    /// Asks for a heartbeat leaf if the newest head is older than `max_age`; counted faults go with it. Idle is the normal case, so there
    /// is no answer: the newest signed head tells.
    ///
    /// # Errors
    /// [`SequenceFault::Stopped`].
    pub fn heartbeat(&self, max_age: Duration) -> Result<(), SequenceFault> {
        let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(NO_HEARTBEAT - 1);
        self.shared.heartbeat_max_age_ms.fetch_min(max_age_ms, Ordering::SeqCst);
        self.wake()
    }

    /// Asks for a look at what other replicas have committed and signed, so that control state and signed head here are theirs, too. What is
    /// decided doesn't depend on it: an append compares under the log's lock.
    ///
    /// # Errors
    /// [`SequenceFault::Stopped`].
    pub fn refresh(&self) -> Result<(), SequenceFault> {
        self.shared.look.store(true, Ordering::SeqCst);
        self.wake()
    }

    /// Keeps a pending enrolment.
    ///
    /// # Errors
    /// [`SequenceFault::Overloaded`], [`SequenceFault::Stopped`], here and below.
    pub fn put_pending_enrolment(&self, pending: PendingEnrolment) -> Result<Written<()>, SequenceFault> {
        let now_ms = self.shared.clock.now_ms();
        self.desk(move |writer| writer.put_pending_enrolment(&pending, now_ms))
    }

    /// Deletes a pending enrolment durably, then hands it out.
    ///
    /// # Errors
    /// As above.
    pub fn take_pending_enrolment(
        &self,
        id: [u8; 16],
    ) -> Result<Written<Option<PendingEnrolment>>, SequenceFault> {
        let now_ms = self.shared.clock.now_ms();
        self.desk(move |writer| writer.take_pending_enrolment(&id, now_ms))
    }

    /// Keeps a challenge key and drops those made before `drop_before_ms`.
    ///
    /// # Errors
    /// As above.
    pub fn put_challenge_key(
        &self,
        key: ChallengeKey,
        drop_before_ms: u64,
    ) -> Result<Written<()>, SequenceFault> {
        self.desk(move |writer| writer.put_challenge_key(&key, drop_before_ms))
    }

    /// Keeps blobs under their SHA-256, which the caller has computed.
    ///
    /// # Errors
    /// As above.
    pub fn put_blobs(&self, blobs: Vec<(Sha256Digest, Arc<[u8]>)>) -> Result<Written<()>, SequenceFault> {
        self.desk(move |writer| writer.put_blobs(&blobs))
    }

    /// Notes what a gateway enforces.
    ///
    /// # Errors
    /// As above.
    pub fn acknowledge(&self, acknowledgement: Acknowledgement) -> Result<Written<()>, SequenceFault> {
        self.desk(move |writer| writer.acknowledge(&acknowledgement))
    }

    /// Attaches cosignatures to a head.
    ///
    /// # Errors
    /// As above.
    pub fn attach(&self, size: u64, lines: Vec<NoteSignature>) -> Result<Written<()>, SequenceFault> {
        self.desk(move |writer| writer.attach_signatures(size, &lines))
    }

    /// The control state after the newest committed batch.
    #[must_use]
    pub fn control(&self) -> Arc<ControlState> {
        self.shared.control.load_full()
    }

    /// The newest signed head; `None` for a log without one.
    #[must_use]
    pub fn signed_head(&self) -> Option<Arc<SignedHead>> {
        self.shared.signed.load_full()
    }

    /// The host's row as this process last saw it: it was the store's, and need not be its newest.
    #[must_use]
    pub fn host_row(&self, host: &HostId) -> Option<HostNow> {
        self.shared.hosts.row(host)
    }

    /// Changes with each enrolment that is committed, by this process or another. What was read of keys and hosts before holds while it stays; `None` while
    /// that can't be known.
    #[must_use]
    pub fn enrolments(&self) -> Option<u64> {
        self.shared.hosts.enrolments()
    }

    /// To be asked before a host's row is read from the store, and given to [`Sequencer::keep_host_row`].
    #[must_use]
    pub fn host_rows_at(&self) -> ReadAt {
        self.shared.hosts.now()
    }

    /// Keeps a host's row for [`Sequencer::host_row`], unless a batch has said something of hosts since.
    pub fn keep_host_row(&self, at: ReadAt, host: HostId, row: HostNow) {
        self.shared.hosts.keep(at, host, row);
    }

    /// How the sequencer is doing, now and from now on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Counts attempts that were refused before they could become an Append (PROTOCOL §9.4).
    pub fn count_fault(&self, code: RefusalCode, attempts: u64) {
        self.shared.faults.add(code, attempts, self.shared.clock.now_ms());
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> SequencerCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        SequencerCounts {
            batches: read(&counters.batches),
            leaves: read(&counters.leaves),
            signed: read(&counters.signed),
            stale: read(&counters.stale),
            waiting: self.jobs.len() as u64,
        }
    }

    /// Takes no more Appends, finishes those that wait, and returns when the thread has ended and the store is closed.
    pub fn stop(mut self) {
        self.end();
    }

    /// To be called after something was put into a queue: the thread says that it has ended before it looks for the last time, so one of the two
    /// finds it.
    fn drop_leftovers(&self) {
        if self.shared.ended.load(Ordering::SeqCst) {
            self.leftovers.drop_all();
        }
    }

    /// A thread that has a full queue is awake.
    fn wake(&self) -> Result<(), SequenceFault> {
        if self.shared.ended.load(Ordering::SeqCst) {
            return Err(SequenceFault::Stopped);
        }
        if self.shared.woken.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        match self.jobs.try_send(Job::Wake) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(SequenceFault::Stopped),
        }
    }

    fn desk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Writer) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<Written<T>, SequenceFault> {
        let (reply, written) = oneshot::channel();
        let job = move |writer: &mut dyn Writer| {
            let result = work(writer);
            let verdict = result.as_ref().map(|_| ()).map_err(Clone::clone);
            // Whoever asked may have gone; the write stands.
            let _ = reply.send(result);
            verdict
        };
        self.desk.try_send(Box::new(job)).map_err(|refused| match refused {
            TrySendError::Full(_) => SequenceFault::Overloaded,
            TrySendError::Disconnected(_) => SequenceFault::Stopped,
        })?;
        // After the job, so that whoever wakes finds it.
        let woken = self.wake();
        self.drop_leftovers();
        woken.map(|()| Written(written))
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // If there is nobody to wake, it has ended.
        let _ = self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by the panic hook; every reply it owed is a dropped sender.
            let _ = thread.join();
        }
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        self.end();
    }
}
