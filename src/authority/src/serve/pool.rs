//! Worker threads for everything that costs CPU or reads the store: verification, policy, proofs.
//!
//! In: closures, through a bounded queue that refuses instead of waiting. Out: their results, to the task that asked. A closure that panics
//! takes nothing with it: its caller is told, the thread goes on. Threads of the network runtime never run such work, so that a slow
//! verification can't keep connections from being served.

use countersign_core::refusal::RefusalCode;
use crossbeam_channel::{Sender, TrySendError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue.
pub struct Pool {
    jobs: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(workers: usize, queue: usize) -> std::io::Result<Self> {
        let (sender, receiver) = bounded::<Job>(queue);
        let threads = (0..workers)
            .map(|number| {
                let receiver = receiver.clone();
                std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                    while let Ok(job) = receiver.recv() {
                        job();
                    }
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { jobs: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Runs `work` on a worker and waits for it.
    ///
    /// # Errors
    /// `overloaded` when the queue is full, `internal` when the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RefusalCode> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move || {
            // What a panic leaves half-done is dropped here with the closure; shared state is behind its own locks.
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(result) => drop(answer.send(result)),
                Err(_) => tracing::error!("a worker contained a panic"),
            }
        });
        self.submit(job)?;
        wait.await.map_err(|_| RefusalCode::Internal)
    }

    fn submit(&self, job: Job) -> Result<(), RefusalCode> {
        let jobs = self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(jobs) = jobs.as_ref() else { return Err(RefusalCode::Overloaded) };
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => RefusalCode::Overloaded,
            TrySendError::Disconnected(_) => RefusalCode::Internal,
        })
    }

    /// Calls that wait for a worker now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let jobs = self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        jobs.as_ref().map_or(0, Sender::len)
    }

    /// Takes no more work, finishes what was accepted, and waits for the threads.
    pub fn stop(&self) {
        drop(self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended in a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_is_contained() {
        let pool = Arc::new(Pool::start(1, 1).unwrap());
        let (held, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let first = {
            let (pool, held, release) = (Arc::clone(&pool), Arc::clone(&held), Arc::clone(&release));
            tokio::spawn(async move {
                pool.run(move || {
                    held.wait();
                    release.wait();
                })
                .await
            })
        };
        tokio::task::spawn_blocking(move || held.wait()).await.unwrap();
        // The worker is busy: one call fits into the queue, the next doesn't.
        pool.submit(Box::new(|| ())).unwrap();
        assert_eq!(pool.waiting(), 1);
        assert_eq!(pool.run(|| ()).await, Err(RefusalCode::Overloaded));
        tokio::task::spawn_blocking(move || release.wait()).await.unwrap();
        first.await.unwrap().unwrap();
        // The call that was queued has to have left its place.
        while pool.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| -> u8 { panic!("on purpose") }).await, Err(RefusalCode::Internal));
        assert_eq!(pool.run(|| 7).await, Ok(7));
        pool.stop();
        assert_eq!(pool.run(|| ()).await, Err(RefusalCode::Overloaded));
    }
}
