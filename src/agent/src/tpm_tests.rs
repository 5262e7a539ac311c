//! The TPM's thread: bounds, healing, refusals.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_core::digest::Sha256Digest;
use countersign_fixture::{PATIENCE, wait_until};

use super::*;
use crate::testing::{SimulatedHost, SimulatedOpener};

fn start(host: &Arc<SimulatedHost>) -> TpmWorker {
    TpmWorker::start(SimulatedOpener(Arc::clone(host))).unwrap()
}

fn opens(host: &SimulatedHost) -> usize {
    host.opens.load(Ordering::SeqCst)
}

async fn certify(worker: &TpmWorker) -> Result<(), TpmError> {
    worker.call(|device| device.certify_host_key(&Sha256Digest::ZERO).map(drop)).await
}

#[tokio::test]
async fn a_job_survives_one_loss_of_the_tpm_and_the_device_is_opened_anew() {
    let host = SimulatedHost::new();
    let worker = start(&host);
    certify(&worker).await.unwrap();
    assert_eq!(opens(&host), 1);
    host.failures.store(1, Ordering::SeqCst);
    certify(&worker).await.unwrap();
    assert_eq!(opens(&host), 2);
    host.failures.store(2, Ordering::SeqCst);
    assert!(matches!(certify(&worker).await, Err(TpmError::Device(DeviceFault::Unusable(_)))));
    certify(&worker).await.unwrap();
}

#[tokio::test]
async fn a_tpm_that_is_gone_is_not_hammered_and_is_found_when_it_is_back() {
    let host = SimulatedHost::new();
    host.gone.store(true, Ordering::SeqCst);
    let worker = start(&host);
    for _ in 0..50 {
        assert!(matches!(certify(&worker).await, Err(TpmError::Device(DeviceFault::Unusable(_)))));
    }
    assert!(opens(&host) < 25, "{} openings for 50 jobs", opens(&host));
    host.gone.store(false, Ordering::SeqCst);
    let started = Instant::now();
    while certify(&worker).await.is_err() {
        assert!(started.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_the_tpm_refuses_is_not_tried_again() {
    let host = SimulatedHost::new();
    let worker = start(&host);
    let refused = worker.call(|device| device.activate(&[0; 4], &[0; 4]).map(drop)).await;
    assert!(matches!(refused, Err(TpmError::Device(DeviceFault::Refused(_)))));
    certify(&worker).await.unwrap();
    assert_eq!(opens(&host), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_abandoned_jobs_are_skipped() {
    let host = SimulatedHost::new();
    let worker = start(&host);
    certify(&worker).await.unwrap();
    host.busy.store(true, Ordering::SeqCst);
    let runner = worker.clone();
    let first = tokio::spawn(async move { certify(&runner).await });
    // Once the thread holds the first job, the queue is empty.
    tokio::task::yield_now().await;
    assert!(wait_until(PATIENCE, || worker.queue.is_empty()));
    let mut abandoned = Vec::new();
    for _ in 0..QUEUE {
        let mut job = Box::pin(
            worker.call(|device| device.quote(&Sha256Digest::ZERO, &crate::testing::required()).map(drop)),
        );
        std::future::poll_fn(|context| {
            assert!(job.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        abandoned.push(job);
    }
    assert_eq!(certify(&worker).await, Err(TpmError::Busy));
    assert_eq!(worker.sign_blocking(Sha256Digest::ZERO), Err(TpmError::Busy));
    drop(abandoned);
    host.busy.store(false, Ordering::SeqCst);
    first.await.unwrap().unwrap();
    assert!(wait_until(PATIENCE, || worker.queue.is_empty()));
    certify(&worker).await.unwrap();
    assert_eq!(host.quotes.load(Ordering::SeqCst), 0);
}

/// Opens one host first and another afterwards.
struct Swapped(Vec<Arc<SimulatedHost>>);

impl OpenDevice for Swapped {
    fn open(&mut self) -> Result<Box<dyn HostDevice>, DeviceFault> {
        let host = if self.0.len() > 1 { self.0.remove(0) } else { Arc::clone(&self.0[0]) };
        SimulatedOpener(host).open()
    }
}

#[tokio::test]
async fn another_tpm_in_the_place_of_the_first_is_refused() {
    let (one, two) = (SimulatedHost::new(), SimulatedHost::new());
    let worker = TpmWorker::start(Swapped(vec![Arc::clone(&one), two])).unwrap();
    certify(&worker).await.unwrap();
    one.failures.store(1, Ordering::SeqCst);
    assert_eq!(certify(&worker).await, Err(TpmError::Replaced));
}

#[tokio::test]
async fn the_end_of_the_thread_is_noticed_and_jobs_are_refused_after_it() {
    let host = SimulatedHost::new();
    let worker = start(&host);
    worker.stop();
    worker.ended().await;
    assert_eq!(certify(&worker).await, Err(TpmError::Ended));
}

#[tokio::test]
async fn a_panic_in_a_job_is_seen_as_the_end_of_the_thread() {
    let worker = start(&SimulatedHost::new());
    let answer = worker.call(|_| -> Result<(), DeviceFault> { panic!("a defect") }).await;
    assert_eq!(answer, Err(TpmError::Ended));
    worker.ended().await;
}
