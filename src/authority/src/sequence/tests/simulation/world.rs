//! The processes of a simulation: their clocks, their way to the head key, their crashes, and what their callers do.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use countersign_core::leaf::control::{KeyEvent, Subject};

use super::super::super::run::DESK_BATCH;
use super::super::super::{Append, Guard, Health, Outcome, Pending, SequenceFault, Spend};
use super::super::support::{
    Call, DEADLINE, Log, NOW, Rig, SoftwareKey, StoreKind, database_clock, enrol, host, introduce, key_event,
    state,
};
use super::invariants::{Request, Seen};
use crate::clock::{Clock as _, DrivenClock, MAX_BEHIND_MS};
use crate::sign::{HeadKey, KeyRing, SignFault};
use crate::store::{Place, Receipts, receipts_for};

/// Hosts that there are, from 1.
pub(super) const HOSTS: u8 = 3;
/// How long a challenge lives, ms.
const CHALLENGE_MS: u64 = 30_000;

/// One process's way to a key that others use as well: it can be cut, and bend what comes back.
pub(super) struct Way {
    key: Arc<SoftwareKey>,
    state: Arc<AtomicU8>,
}

pub(super) const OPEN: u8 = 0;
pub(super) const CUT: u8 = 1;
pub(super) const BENT: u8 = 2;

impl HeadKey for Way {
    fn verifying_key(&self) -> &VerifyingKey {
        self.key.verifying_key()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignFault> {
        let state = self.state.load(Ordering::SeqCst);
        if state == CUT {
            return Err(SignFault::Device { code: "signer-token-absent", reason: "cut off".to_owned() });
        }
        let mut signature = self.key.sign(message)?;
        signature[5] ^= u8::from(state == BENT);
        Ok(signature)
    }
}

/// What a process's wall clock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wall {
    /// Within what replicas bear of each other.
    Right,
    /// Stepped too far. Since a restart the process knows no other time, and stops only where the log or the database does.
    Off { restarted: bool },
}

pub(super) struct Process {
    pub(super) rig: Rig,
    log: Option<Log>,
    pub(super) way: Arc<AtomicU8>,
    pub(super) wall: Wall,
}

impl Process {
    pub(super) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub(super) fn signs(&self) -> bool {
        self.way.load(Ordering::SeqCst) == OPEN
    }

    /// Whether nothing keeps it from issuing.
    pub(super) fn is_well(&self) -> bool {
        self.signs() && self.wall == Wall::Right
    }

    pub(super) fn health(&self) -> Health {
        *self.log().sequencer.health().borrow()
    }

    fn hold(&self, key: &Arc<SoftwareKey>) {
        let way: Arc<dyn HeadKey> = Arc::new(Way { key: Arc::clone(key), state: Arc::clone(&self.way) });
        self.rig.ring.add(&way);
    }
}

/// Something that a caller wants, and will want again if he hears nothing.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) host: u8,
    pub(super) id: String,
    /// Other bytes under the same identifier.
    pub(super) variant: u8,
    /// How many other bytes have come under it.
    pub(super) others: u8,
    pub(super) challenge: Sha256Digest,
    pub(super) expires_ms: u64,
}

impl Ask {
    pub(super) fn request(&self) -> Request {
        let request = Call { variant: self.variant, ..Call::new(host(self.host), &self.id) }.request();
        (request.host, request.id, request.digest)
    }
}

/// What a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A new leaf.
    New,
    /// The leaf that was there.
    Known,
    /// The challenge was used.
    Spent,
    /// Decide again.
    Stale,
    /// The challenge is over, and there is no earlier answer.
    Expired,
    /// No answer: maybe a leaf, maybe none.
    Nothing(&'static str),
}

pub(super) struct World {
    pub(super) processes: Vec<Process>,
    pub(super) seen: Seen,
    /// Time as it is.
    pub(super) now_ms: u64,
    seed: u64,
    asked: u64,
    /// Keys that signed, or will.
    keys: Vec<Arc<SoftwareKey>>,
}

impl World {
    /// A log with hosts in it, served by this many processes.
    pub(super) fn begin(store: StoreKind, processes: usize, seed: u64) -> Self {
        let mut first = Rig::empty_in(store, Algorithm::EdDsa);
        first.limits.probe_every = Duration::from_millis(2);
        let genesis = first.genesis();
        let others: Vec<Rig> = (1..processes).map(|_| first.replica()).collect();
        let keys = vec![Arc::clone(&first.key)];
        let rigs = std::iter::once(first).chain(others);
        let processes = rigs.map(|mut rig| {
            rig.clock = Arc::new(DrivenClock::at(NOW));
            rig.ring = KeyRing::default();
            let process = Process { rig, log: None, way: Arc::default(), wall: Wall::Right };
            process.hold(&process.rig.key);
            process
        });
        let processes = processes.collect();
        let mut world = Self { processes, seen: Seen::nothing(genesis), now_ms: NOW, seed, asked: 0, keys };
        world.tell_the_database();
        world.start(0);
        let key = Arc::clone(&world.keys[0]);
        world.log(0).appended(Append::of(vec![introduce(&key), key_event(&key, KeyEvent::Activated)]));
        (1..=HOSTS).for_each(|number| drop(world.log(0).appended(enrol(number))));
        (1..world.processes.len()).for_each(|at| world.start(at));
        world.look();
        world
    }

    pub(super) fn log(&self, at: usize) -> &Log {
        self.processes[at].log()
    }

    pub(super) fn start(&mut self, at: usize) {
        let process = &mut self.processes[at];
        assert!(process.log.is_none());
        process.log = Some(process.rig.open().unwrap());
    }

    pub(super) fn end(&mut self, at: usize) {
        let process = &mut self.processes[at];
        *process.rig.failpoints.armed.lock().unwrap() = None;
        process.log = None;
    }

    /// Ends and starts it again. What was read of the log before is there afterwards.
    pub(super) fn restart(&mut self, at: usize) {
        self.look();
        self.end(at);
        let newest_ms = self.seen.newest_ms();
        self.start(at);
        let process = &mut self.processes[at];
        if let Wall::Off { .. } = process.wall {
            let (alone, wall_ms) = (!process.rig.place.is_shared(), process.rig.clock.now_ms());
            process.wall = if alone && newest_ms <= wall_ms + MAX_BEHIND_MS {
                // Nobody is there to know better: this is the time from now on.
                self.now_ms = wall_ms;
                Wall::Right
            } else {
                Wall::Off { restarted: true }
            };
        }
        self.look();
        self.seen.look_back(self.log(at).reader.as_ref());
    }

    /// Keeps a process from beginning a batch until what is returned is dropped.
    pub(super) fn pause(&self, at: usize) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel();
        let (begins, begun) = mpsc::channel::<()>();
        let paused = self.log(at).sequencer.desk(move |_| {
            drop(begins);
            // An error, too, means that it may go on.
            let _ = wait.recv();
            Ok(())
        });
        if paused.is_ok() {
            let _ = begun.recv();
        }
        go
    }

    /// Takes in what is new, through each process's eyes.
    pub(super) fn look(&mut self) {
        let keys: Vec<&SoftwareKey> = self.keys.iter().map(AsRef::as_ref).collect();
        for process in self.processes.iter().filter(|process| process.log.is_some()) {
            self.seen.look(process.log().reader.as_ref(), &keys);
        }
    }

    /// Time passes.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.processes.iter().for_each(|process| process.rig.clock.advance(ms));
        self.tell_the_database();
    }

    fn tell_the_database(&self) {
        let rig = &self.processes[0].rig;
        if let (Some(server), Place::Postgres(options)) = (&rig.server, &rig.place) {
            server.psql(&options.database, &database_clock(self.now_ms));
        }
    }

    /// Sets a process's wall clock against the time as it is.
    pub(super) fn set_wall(&self, at: usize, offset_ms: i64) {
        self.processes[at].rig.clock.set_wall(self.now_ms.saturating_add_signed(offset_ms));
    }

    /// Every process that nothing holds back serves again, by itself or after a restart if it is over.
    pub(super) fn settle(&mut self) {
        for at in 0..self.processes.len() {
            let end = Instant::now() + DEADLINE;
            if self.processes[at].health() == Health::Failed {
                self.restart(at);
            }
            while self.processes[at].is_well() && self.processes[at].health() != Health::Serving {
                assert!(Instant::now() < end, "process {at} stays {:?}", self.processes[at].health());
                // Whether it has ended meanwhile is seen in the next round.
                let _ = self.log(at).sequencer.heartbeat(Duration::ZERO);
                std::thread::yield_now();
            }
        }
        (0..self.processes.len()).for_each(|at| self.come_to_rest(at));
        let keys: Vec<&SoftwareKey> = self.keys.iter().map(AsRef::as_ref).collect();
        for process in &self.processes {
            self.seen.look_at_rest(process.log().reader.as_ref(), &keys);
        }
    }

    /// Waits until what was asked for before has been done: so many writes outside of appends don't come between two batches, so one of these
    /// comes after the next one.
    pub(super) fn come_to_rest(&self, at: usize) {
        (0..=DESK_BATCH).for_each(|_| drop(self.pause(at)));
    }

    /// A new wish with a challenge of its own.
    pub(super) fn wish(&mut self, number: u8) -> Ask {
        self.asked += 1;
        let id = format!("r{}", self.asked);
        let challenge = sha256(format!("challenge {} of {}", self.asked, self.seed).as_bytes());
        Ask { host: number, id, variant: 0, others: 0, challenge, expires_ms: self.now_ms + CHALLENGE_MS }
    }

    /// The same wish with a new challenge, as a caller repeats it.
    pub(super) fn renewed(&mut self, ask: &Ask) -> Ask {
        let Ask { challenge, expires_ms, .. } = self.wish(ask.host);
        Ask { challenge, expires_ms, ..ask.clone() }
    }

    /// Decides as the authority does: with what this process knows now, and guards that say what it was. `None`: the challenge is over.
    pub(super) fn decide(&mut self, at: usize, ask: &Ask) -> Option<Append> {
        let process = &self.processes[at];
        let now_ms = process.rig.clock.now_ms();
        if now_ms > ask.expires_ms {
            return None;
        }
        let control = process.log().sequencer.control();
        let id = host(ask.host);
        let row = process.log().reader.host_now(&id).unwrap().unwrap();
        let version = row.state.version;
        let call = Call {
            allow: !control.is_revoked(&Subject::Host(id)),
            state: state(version, now_ms - NOW.min(now_ms)),
            evidence: ask.challenge,
            variant: ask.variant,
            ..Call::new(id, &ask.id)
        };
        let mut append = call.append_with(ask.challenge);
        append.guards = vec![
            Guard::HostVersion(id, version),
            Guard::Enrolment(id, row.enrolment_leaf.0),
            Guard::Control(control.number()),
            Guard::DecidedAt(now_ms),
        ];
        append.spends = vec![Spend::Challenge { digest: ask.challenge, expires_ms: ask.expires_ms }];
        self.seen.decides(&ask.request(), now_ms);
        Some(append)
    }

    /// Asks, and decides again as often as the authority does.
    pub(super) fn ask(&mut self, at: usize, ask: &Ask) -> Told {
        for _ in 0..3 {
            let Some(append) = self.decide(at, ask) else { return self.look_up(at, ask) };
            let pending = self.log(at).sequencer.submit(append);
            let told = self.hear(at, ask, pending);
            if told != Told::Stale {
                return told;
            }
        }
        Told::Stale
    }

    /// A challenge that is over still gets an answer that was given.
    fn look_up(&mut self, at: usize, ask: &Ask) -> Told {
        let (id, request_id, digest) = ask.request();
        let log = self.processes[at].log();
        let known = log.reader.outcome(&id, &request_id).unwrap().filter(|known| known.request == digest);
        let Some(known) = known else { return Told::Expired };
        let Some(head) = log.sequencer.signed_head() else { return Told::Nothing("no head") };
        match receipts_for(log.reader.as_ref(), &[known.index], head) {
            Ok(receipts) => self.handed_out(ask, &receipts, Told::Known),
            Err(_) => Told::Nothing("not under a head"),
        }
    }

    /// Waits for an answer, and judges it.
    pub(super) fn hear(&mut self, at: usize, ask: &Ask, pending: Result<Pending, SequenceFault>) -> Told {
        match pending.and_then(Pending::wait) {
            Ok(Outcome::Appended(receipts)) => {
                a_process_that_cannot_sign_or_tell_the_time_issues_nothing(&self.processes[at]);
                self.handed_out(ask, &receipts, Told::New)
            }
            Ok(Outcome::Existing(receipts)) => self.handed_out(ask, &receipts, Told::Known),
            Ok(Outcome::Stale) => Told::Stale,
            Ok(Outcome::ChallengeSpent) => {
                self.look();
                a_challenge_called_spent_was_spent(&self.seen, ask);
                Told::Spent
            }
            Ok(other) => panic!("{other:?}"),
            Err(SequenceFault::Malformed(fault)) => panic!("{fault}"),
            Err(SequenceFault::Stopped) => {
                self.log(at).wait_for(Health::Failed);
                Told::Nothing("stopped")
            }
            Err(fault) => Told::Nothing(fault.code().as_str()),
        }
    }

    fn handed_out(&mut self, ask: &Ask, receipts: &Receipts, told: Told) -> Told {
        self.look();
        self.seen.hand_out(&ask.request(), receipts);
        told
    }

    /// The next head key is published and made to sign beside the others, if there is one left.
    pub(super) fn rotate(&mut self, at: usize) -> Option<Append> {
        let key = Arc::clone(self.processes[at].rig.spare.get(self.keys.len() - 1)?);
        self.processes.iter().for_each(|process| process.hold(&key));
        let append = Append::of(vec![introduce(&key), key_event(&key, KeyEvent::Activated)]);
        self.keys.push(key);
        Some(append)
    }
}

fn a_process_that_cannot_sign_or_tell_the_time_issues_nothing(process: &Process) {
    let sees_it = process.wall != (Wall::Off { restarted: false });
    assert!(
        process.signs() && sees_it,
        "issued with a clock that is {:?}, signs: {}",
        process.wall,
        process.signs()
    );
}

fn a_challenge_called_spent_was_spent(seen: &Seen, ask: &Ask) {
    assert!(seen.is_spent(&ask.challenge), "{} was called a replay", ask.id);
}
