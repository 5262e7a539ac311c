//! The worker: its queue refuses instead of blocking, its deadline holds though the device hangs, and its circuit tells.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, fault};
use countersign_core::key::VerifyingKey;
use countersign_fixture::wait_until;
use countersign_hsm::software::DangerSoftwareSigner;
use countersign_hsm::worker::{Circuit, SignerHandle, WorkerLimits};
use countersign_hsm::{Algorithm, CustodyEvidence, FaultClass, SignFault, Signature, Signer};

fn key() -> DangerSoftwareSigner {
    DangerSoftwareSigner::generate(Algorithm::EdDsa, Duration::ZERO).unwrap()
}

/// A device that the test holds in its hand: each call waits to be told how it ends.
struct Held {
    key: DangerSoftwareSigner,
    entered: mpsc::Sender<()>,
    verdict: mpsc::Receiver<Result<(), FaultClass>>,
}

impl Signer for Held {
    fn public_key(&self) -> &VerifyingKey {
        self.key.public_key()
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, SignFault> {
        self.entered.send(()).unwrap();
        match self.verdict.recv().unwrap() {
            Ok(()) => self.key.sign(message),
            Err(class) => Err(SignFault::new(class, "held", "told to fail")),
        }
    }

    fn custody(&mut self) -> Result<CustodyEvidence, SignFault> {
        self.key.custody()
    }
}

type Hand = (SignerHandle, mpsc::Receiver<()>, mpsc::Sender<Result<(), FaultClass>>);

fn held(limits: WorkerLimits) -> Hand {
    let (entered, entry) = mpsc::channel();
    let (verdict, verdicts) = mpsc::channel();
    let signer = Held { key: key(), entered, verdict: verdicts };
    (SignerHandle::start("held", Box::new(signer), limits).unwrap(), entry, verdict)
}

#[test]
fn a_handle_is_shared_between_threads() {
    let handle = SignerHandle::start("shared", Box::new(key()), WorkerLimits::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| handle.sign(b"m").unwrap());
        }
    });
    assert_eq!(handle.counts().signatures, 4);
}

#[test]
fn a_worker_signs_and_counts() {
    let handle = SignerHandle::start("signs", Box::new(key()), WorkerLimits::default()).unwrap();
    for message in [b"one", b"two"] {
        let signature = handle.sign(message).unwrap();
        handle.public_key().verify(message, signature.as_bytes()).unwrap();
    }
    let counts = handle.counts();
    assert_eq!((counts.signatures, counts.faults), (2, 0));
    assert!(counts.busy > Duration::ZERO);
    assert!(handle.circuit().is_closed());
    assert!(!handle.custody().unwrap().attributes.is_empty());
    assert!(handle.stop());
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (handle, entered, verdict) = held(WorkerLimits { queue: 1, deadline: PATIENCE });
    let (sender, answers) = mpsc::channel();
    let submit = |message: &[u8]| {
        let sender = sender.clone();
        handle.submit(message.to_vec(), move |result| sender.send(result).unwrap())
    };
    submit(b"in the device").unwrap();
    entered.recv().unwrap();
    submit(b"in the queue").unwrap();
    let start = Instant::now();
    assert_eq!(fault(submit(b"refused")).class(), FaultClass::Busy);
    assert!(start.elapsed() < PATIENCE / 10);
    assert!(handle.circuit().is_closed(), "a full queue says nothing about the device");
    for _ in 0..2 {
        verdict.send(Ok(())).unwrap();
        answers.recv().unwrap().unwrap();
    }
}

#[test]
fn the_circuit_opens_on_a_fault_and_closes_on_the_next_signature() {
    let (handle, _entered, verdict) = held(WorkerLimits { queue: 4, deadline: PATIENCE });
    verdict.send(Err(FaultClass::TokenAbsent)).unwrap();
    assert_eq!(fault(handle.sign(b"m")).class(), FaultClass::TokenAbsent);
    assert!(matches!(handle.circuit(), Circuit::Open { class: FaultClass::TokenAbsent, .. }));
    verdict.send(Ok(())).unwrap();
    handle.sign(b"probe").unwrap();
    assert!(handle.circuit().is_closed());
    assert_eq!((handle.counts().signatures, handle.counts().faults), (1, 1));
}

#[test]
fn a_hung_call_times_out_and_the_worker_goes_on_when_it_returns() {
    let (handle, entered, verdict) = held(WorkerLimits { queue: 4, deadline: Duration::from_millis(50) });
    assert_eq!(fault(handle.sign(b"hangs")).class(), FaultClass::Timeout);
    entered.recv().unwrap();
    assert!(wait_until(PATIENCE, || matches!(
        handle.circuit(),
        Circuit::Open { class: FaultClass::Timeout, .. }
    )));
    // A message that waits behind it past its deadline is not signed any more.
    let (sender, answer) = mpsc::channel();
    handle.submit(b"too late".to_vec(), move |result| sender.send(result).unwrap()).unwrap();
    let accepted = Instant::now();
    assert!(wait_until(PATIENCE, || accepted.elapsed() > Duration::from_millis(60)));
    verdict.send(Ok(())).unwrap();
    assert_eq!(fault(answer.recv().unwrap()).class(), FaultClass::Timeout);
    // The device is back; a probe closes the circuit. On a loaded machine a probe may be late itself, then the next one does.
    assert!(wait_until(PATIENCE, || {
        let _ = verdict.send(Ok(()));
        handle.sign(b"probe").is_ok()
    }));
    assert!(handle.circuit().is_closed());
}

#[test]
fn what_was_accepted_is_answered_before_the_worker_stops() {
    let (handle, _entered, verdict) = held(WorkerLimits { queue: 4, deadline: PATIENCE });
    let (sender, answers) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        handle.submit(b"m".to_vec(), move |result| sender.send(result.is_ok()).unwrap()).unwrap();
        verdict.send(Ok(())).unwrap();
    }
    assert!(handle.stop());
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [true; 3]);
}

#[test]
fn a_hung_device_does_not_hold_up_the_end() {
    let (handle, entered, verdict) = held(WorkerLimits { queue: 4, deadline: Duration::from_millis(20) });
    handle.submit(b"m".to_vec(), |_| ()).unwrap();
    entered.recv().unwrap();
    assert!(!handle.stop());
    drop(verdict);
}

#[test]
fn a_signer_that_panics_leaves_an_open_circuit_and_clear_answers() {
    let (handle, _entered, verdict) = held(WorkerLimits { queue: 4, deadline: PATIENCE });
    drop(verdict);
    assert_eq!(fault(handle.sign(b"panics")).class(), FaultClass::Stopped);
    assert!(wait_until(PATIENCE, || !handle.circuit().is_closed()));
    assert!(matches!(handle.circuit(), Circuit::Open { class: FaultClass::Stopped, .. }));
    assert_eq!(fault(handle.sign(b"m")).class(), FaultClass::Stopped);
    assert!(!handle.stop(), "the thread ended by a panic");
}
