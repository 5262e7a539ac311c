//! A thread that owns a signer, so that a slow or hung device delays nobody but those who wait for its signature.
//!
//! In: messages, through a bounded queue that refuses instead of blocking. Out: one answer for each accepted message, to a callback or to
//! the blocked caller. Work that waited past its deadline is answered `Timeout` without being signed. A device call that does not return
//! makes its callers time out and opens the circuit; when it returns, the worker goes on with the next message.
//!
//! Absent: any retry. The circuit only tells; whoever owns the handle probes by signing.
mod circuit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

pub use circuit::Circuit;
use circuit::CircuitCell;

use crate::{CustodyEvidence, FaultClass, SignFault, Signature, Signer, VerifyingKey};

/// Limits of a worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// Messages that may wait; one more is refused as `Busy`. One signature covers a whole batch, so a handful is plenty.
    pub queue: usize,
    /// How long an accepted message may take from being accepted to being answered.
    pub deadline: Duration,
}

impl Default for WorkerLimits {
    /// Eight messages and 5 s: twice the time in which 95 of 100 hardware TPMs sign four messages (600 ms each).
    fn default() -> Self {
        Self { queue: 8, deadline: Duration::from_secs(5) }
    }
}

/// What a worker has done since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Signatures released.
    pub signatures: u64,
    /// Device calls that failed, and messages that waited too long.
    pub faults: u64,
    /// Time spent inside the signer.
    pub busy: Duration,
}

type SignReply = Box<dyn FnOnce(Result<Signature, SignFault>) + Send>;
type CustodyReply = Box<dyn FnOnce(Result<CustodyEvidence, SignFault>) + Send>;

enum Job {
    Sign { message: Vec<u8>, accepted: Instant, reply: SignReply },
    Custody { accepted: Instant, reply: CustodyReply },
}

struct Shared {
    circuit: CircuitCell,
    signatures: AtomicU64,
    faults: AtomicU64,
    busy_nanos: AtomicU64,
}

/// The way to a key in custody. Shared by reference between threads; the last owner stops the worker by [`SignerHandle::stop`] or by
/// dropping it.
pub struct SignerHandle {
    public: VerifyingKey,
    limits: WorkerLimits,
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl SignerHandle {
    /// Hands `signer` to a new thread called `name`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(name: &str, signer: Box<dyn Signer>, limits: WorkerLimits) -> std::io::Result<Self> {
        let (jobs, queue) = bounded(limits.queue);
        let (ended_sender, ended) = bounded::<()>(0);
        let shared = Arc::new(Shared {
            circuit: CircuitCell::new(limits.deadline),
            signatures: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
        });
        let public = signer.public_key().clone();
        let worker =
            Worker { signer, shared: Arc::clone(&shared), deadline: limits.deadline, _ended: ended_sender };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run(&queue))?;
        Ok(Self { public, limits, shared, jobs: Some(jobs), ended, thread: Some(thread) })
    }

    /// The public half of the key.
    #[must_use]
    pub fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// The limits it was started with.
    #[must_use]
    pub fn limits(&self) -> WorkerLimits {
        self.limits
    }

    /// Whether the device was working when last heard of. Takes no lock.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.shared.circuit.state()
    }

    /// What has been done so far. Takes no lock.
    #[must_use]
    pub fn counts(&self) -> WorkerCounts {
        WorkerCounts {
            signatures: self.shared.signatures.load(Ordering::Relaxed),
            faults: self.shared.faults.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.shared.busy_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Queues `message`; `reply` runs on the worker's thread with the answer and should only pass it on. A caller that waits for the
    /// reply bounds its wait by the deadline: while the device hangs, no reply comes. If the worker ends first, `reply` is dropped
    /// without being called.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Stopped` when the worker has ended, `MessageTooLong`; `reply` is then dropped.
    pub fn submit(
        &self,
        message: Vec<u8>,
        reply: impl FnOnce(Result<Signature, SignFault>) + Send + 'static,
    ) -> Result<(), SignFault> {
        crate::signer::bounded(&message)?;
        self.send(Job::Sign { message, accepted: Instant::now(), reply: Box::new(reply) })
    }

    /// Signs and waits, at most for the deadline.
    ///
    /// # Errors
    /// The signer's fault, or `Busy`, `Stopped`, `Timeout`, `MessageTooLong`.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, SignFault> {
        let (sender, answer) = bounded(1);
        self.submit(message.to_vec(), move |result| drop(sender.send(result)))?;
        self.wait(&answer)
    }

    /// Reads the custody attributes back and waits, at most for the deadline.
    ///
    /// # Errors
    /// As [`SignerHandle::sign`].
    pub fn custody(&self) -> Result<CustodyEvidence, SignFault> {
        let (sender, answer) = bounded(1);
        let reply: CustodyReply = Box::new(move |result| drop(sender.send(result)));
        self.send(Job::Custody { accepted: Instant::now(), reply })?;
        self.wait(&answer)
    }

    /// Takes no more work, lets what was accepted be answered, and waits for the thread, at most for the deadline. Says whether the
    /// thread has ended; one that is stuck in the device is left behind.
    pub fn stop(mut self) -> bool {
        self.shut_down()
    }

    fn send(&self, job: Job) -> Result<(), SignFault> {
        let Some(jobs) = &self.jobs else { return Err(stopped()) };
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => SignFault::new(FaultClass::Busy, "queue", "full"),
            TrySendError::Disconnected(_) => stopped(),
        })
    }

    fn wait<T>(&self, answer: &Receiver<Result<T, SignFault>>) -> Result<T, SignFault> {
        match answer.recv_timeout(self.limits.deadline) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(late("no answer from the device within the deadline")),
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    fn shut_down(&mut self) -> bool {
        drop(self.jobs.take());
        let Some(thread) = self.thread.take() else { return true };
        if matches!(self.ended.recv_timeout(self.limits.deadline), Err(RecvTimeoutError::Timeout)) {
            tracing::warn!(
                thread = thread.thread().name(),
                "a signer's device does not return; its thread is left behind"
            );
            return false;
        }
        thread.join().is_ok()
    }
}

impl Drop for SignerHandle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn stopped() -> SignFault {
    SignFault::new(FaultClass::Stopped, "queue", "the worker has ended")
}

fn late(reason: &'static str) -> SignFault {
    SignFault::new(FaultClass::Timeout, "queue", reason)
}

struct Worker {
    signer: Box<dyn Signer>,
    shared: Arc<Shared>,
    deadline: Duration,
    /// Dropped with the worker, by a panic of the signer too, which the handle sees.
    _ended: Sender<()>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Sign { message, accepted, reply } => {
                    let result = self.call(accepted, |signer| signer.sign(&message));
                    if result.is_ok() {
                        self.shared.signatures.fetch_add(1, Ordering::Relaxed);
                    }
                    reply(result);
                }
                Job::Custody { accepted, reply } => reply(self.call(accepted, |signer| signer.custody())),
            }
        }
    }

    fn call<T>(
        &mut self,
        accepted: Instant,
        work: impl FnOnce(&mut dyn Signer) -> Result<T, SignFault>,
    ) -> Result<T, SignFault> {
        if accepted.elapsed() >= self.deadline {
            // Its caller has gone; signing for nobody would only delay those who wait.
            self.shared.faults.fetch_add(1, Ordering::Relaxed);
            return Err(late("waited in the queue past its deadline"));
        }
        let began = Instant::now();
        self.shared.circuit.call_began();
        let result = work(self.signer.as_mut());
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.shared.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        match &result {
            Ok(_) => self.shared.circuit.close(),
            Err(fault) => {
                self.shared.faults.fetch_add(1, Ordering::Relaxed);
                self.shared.circuit.open(fault.class());
                tracing::warn!(code = fault.code(), call = fault.call(), "signer fault: {fault}");
            }
        }
        self.shared.circuit.call_ended();
        result
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.circuit.open(FaultClass::Stopped);
    }
}
