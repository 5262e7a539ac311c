//! The one thread that owns the TPM.
//!
//! Comes in: jobs, through a bounded queue. Goes out: their answers. A TPM serves one command at a time and slowly, so there is one thread, and a
//! full queue refuses at once instead of making callers wait for what can't be served in time. A device that fails is closed, opened anew, and the
//! job tried once more, so a TPM that went away and came back costs no restart. Refused: keys other than those of the first opening.

use std::time::{Duration, Instant};

use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::{oneshot, watch};

use crate::device::{DeviceFault, DeviceKeys, HostDevice, OpenDevice};
use crate::refused::Refused;

/// Jobs that may wait. A hardware TPM does about five a second: more would be older than any deadline.
const QUEUE: usize = 64;
/// After a failed opening, jobs are refused for this long without another try, so that a dead TPM isn't hammered.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
/// How long a TLS handshake waits for its signature. A slow TPM signs in 600 ms; a few jobs may be ahead.
const SIGN_DEADLINE: Duration = Duration::from_secs(15);

/// Why the TPM's answer isn't there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The queue is full.
    #[error("too many jobs wait for the TPM")]
    Busy,
    /// The TPM can't be used; the next job tries anew.
    #[error(transparent)]
    Device(#[from] DeviceFault),
    /// The TPM now answers with other keys than at the start.
    #[error("the TPM was replaced by another while the agent ran")]
    Replaced,
    /// No answer in time.
    #[error("the TPM didn't answer in time")]
    TimedOut,
    /// The thread has ended.
    #[error("the TPM's thread has ended")]
    Ended,
}

impl From<TpmError> for Refused {
    fn from(error: TpmError) -> Self {
        let code = match &error {
            TpmError::Busy => RefusalCode::Overloaded,
            _ => RefusalCode::TpmUnavailable,
        };
        // The device's own words stay in the log.
        tracing::warn!(code = code.as_str(), error = %error, "no answer from the TPM");
        Self::new(
            code,
            match error {
                TpmError::Busy => "too many jobs wait for the TPM",
                _ => "the TPM can't be used now",
            },
        )
    }
}

trait Job: Send {
    /// Whether anybody still waits for the answer.
    fn wanted(&self) -> bool;
    /// Tries once; an answer goes to the waiting caller, a fault comes back.
    fn attempt(&mut self, device: &mut dyn HostDevice) -> Result<(), DeviceFault>;
    fn refuse(&mut self, error: TpmError);
}

enum Reply<T> {
    Task(oneshot::Sender<Result<T, TpmError>>),
    Thread(Sender<Result<T, TpmError>>),
    Given,
}

struct Call<T, F> {
    operation: F,
    reply: Reply<T>,
}

impl<T, F> Call<T, F> {
    fn answer(&mut self, answer: Result<T, TpmError>) {
        // Whoever asked may have given up; then nobody wants the answer.
        match std::mem::replace(&mut self.reply, Reply::Given) {
            Reply::Task(sender) => drop(sender.send(answer)),
            Reply::Thread(sender) => drop(sender.try_send(answer)),
            Reply::Given => {}
        }
    }
}

impl<T: Send, F> Job for Call<T, F>
where
    F: FnMut(&mut dyn HostDevice) -> Result<T, DeviceFault> + Send,
{
    fn wanted(&self) -> bool {
        match &self.reply {
            Reply::Task(sender) => !sender.is_closed(),
            Reply::Thread(_) => true,
            Reply::Given => false,
        }
    }

    fn attempt(&mut self, device: &mut dyn HostDevice) -> Result<(), DeviceFault> {
        let answer = (self.operation)(device)?;
        self.answer(Ok(answer));
        Ok(())
    }

    fn refuse(&mut self, error: TpmError) {
        self.answer(Err(error));
    }
}

enum Message {
    Job(Box<dyn Job>),
    Stop,
}

/// A handle to the thread. Clones share it.
#[derive(Clone)]
pub(crate) struct TpmWorker {
    queue: Sender<Message>,
    /// Closed when the thread ends.
    alive: watch::Receiver<()>,
}

impl std::fmt::Debug for TpmWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TpmWorker({} waiting)", self.queue.len())
    }
}

impl TpmWorker {
    /// Starts the thread.
    pub(crate) fn start(opener: impl OpenDevice) -> std::io::Result<Self> {
        let (queue, jobs) = crossbeam_channel::bounded(QUEUE);
        let (living, alive) = watch::channel(());
        std::thread::Builder::new().name("tpm".to_owned()).spawn(move || {
            // Dropped, and so noticed, also if the thread unwinds.
            let _living: watch::Sender<()> = living;
            Owner::new(opener).serve(&jobs);
        })?;
        Ok(Self { queue, alive })
    }

    /// Resolves when the thread has ended, for whatever reason.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Asks the thread to close the TPM and end after the jobs that already wait.
    pub(crate) fn stop(&self) {
        // With a full queue the thread ends when the last handle is dropped.
        let _ = self.queue.try_send(Message::Stop);
    }

    fn send(&self, job: Box<dyn Job>) -> Result<(), TpmError> {
        self.queue.try_send(Message::Job(job)).map_err(|error| match error {
            TrySendError::Full(_) => TpmError::Busy,
            TrySendError::Disconnected(_) => TpmError::Ended,
        })
    }

    /// Runs an operation on the device. It may run twice: the second time on a freshly opened device.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        operation: impl FnMut(&mut dyn HostDevice) -> Result<T, DeviceFault> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(Call { operation, reply: Reply::Task(reply) }))?;
        // A job that reached the queue as the thread ended lies there unseen, so the end is waited for beside the answer.
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or(Err(TpmError::Ended)),
            () = self.ended() => Err(TpmError::Ended),
        }
    }

    /// Public parts of the keys; opens the device if it isn't open.
    pub(crate) async fn keys(&self) -> Result<DeviceKeys, TpmError> {
        self.call(|device| Ok(device.keys().clone())).await
    }

    /// A signature by the host key, for callers that can't await: a TLS handshake.
    pub(crate) fn sign_blocking(&self, digest: Sha256Digest) -> Result<[u8; 64], TpmError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let operation = move |device: &mut dyn HostDevice| device.sign(&digest);
        self.send(Box::new(Call { operation, reply: Reply::Thread(reply) }))?;
        answer.recv_timeout(SIGN_DEADLINE).unwrap_or(Err(TpmError::TimedOut))
    }
}

/// The thread's own state.
struct Owner<O> {
    opener: O,
    device: Option<Box<dyn HostDevice>>,
    keys: Option<DeviceKeys>,
    failed: Option<(Instant, TpmError)>,
}

impl<O: OpenDevice> Owner<O> {
    fn new(opener: O) -> Self {
        Self { opener, device: None, keys: None, failed: None }
    }

    fn serve(mut self, jobs: &Receiver<Message>) {
        for message in jobs {
            match message {
                Message::Stop => return,
                Message::Job(mut job) if job.wanted() => self.run(job.as_mut()),
                Message::Job(_) => {}
            }
        }
    }

    fn run(&mut self, job: &mut dyn Job) {
        let mut last = TpmError::Ended;
        for _ in 0..2 {
            let device = match self.device() {
                Ok(device) => device,
                Err(error) => return job.refuse(error),
            };
            match job.attempt(device.as_mut()) {
                Ok(()) => return,
                Err(fault @ DeviceFault::Refused(_)) => return job.refuse(fault.into()),
                Err(fault) => {
                    tracing::warn!(error = %fault, "the TPM failed; opening it anew");
                    // Dropping it flushes what can be flushed.
                    self.device = None;
                    last = fault.into();
                }
            }
        }
        job.refuse(last);
    }

    fn device(&mut self) -> Result<&mut Box<dyn HostDevice>, TpmError> {
        if self.device.is_none() {
            if let Some((at, error)) = &self.failed
                && at.elapsed() < REOPEN_PAUSE
            {
                return Err(error.clone());
            }
            match self.open() {
                Ok(device) => {
                    self.failed = None;
                    self.device = Some(device);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "the TPM can't be opened");
                    self.failed = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            }
        }
        self.device.as_mut().ok_or(TpmError::Ended)
    }

    fn open(&mut self) -> Result<Box<dyn HostDevice>, TpmError> {
        let device = self.opener.open()?;
        // The host's name follows from its TPM: another TPM is another host, which needs another start.
        match &self.keys {
            Some(keys) if !keys.same_keys(device.keys()) => return Err(TpmError::Replaced),
            Some(_) => tracing::info!("the TPM is open again"),
            None => self.keys = Some(device.keys().clone()),
        }
        Ok(device)
    }
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
