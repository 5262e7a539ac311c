//! Simulation: from one seed a row of events at one process or at several with one log, and after each event everything that must hold.
//!
//! New calls, repeated ones, late ones; clocks that are set, signers that are away, writes that fail, processes that end and come back, hosts that are
//! revoked, reinstated and enrolled again, keys that are rotated. With one process the same seed gives the same answers. A failure prints its
//! seed; `COUNTERSIGN_SEED` repeats one, `COUNTERSIGN_SEEDS` sets how many fresh ones are tried.

mod dice;
mod invariants;
mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{Revocation, Subject};

use super::super::{Append, Entry, Guard, Health, Pending};
use super::support::{StoreKind, enrolment, host};
use crate::clock::{Clock as _, SETTLE_MS};
use crate::store::failpoint::{Injected, WritePoint};
use dice::Dice;
use world::{Ask, BENT, CUT, HOSTS, OPEN, Told, Wall, World};

const FAILURES: [Injected; 3] = [Injected::Io, Injected::DiskFull, Injected::Died];
/// How far two clocks may be from what they should show, ms: as much as a process bears of the store's.
const SMALL_STEP_MS: i64 = 900;
/// Time that passes at most before a clock that is off is set right, ms: less than what makes it believed.
const OFF_FOR_MS: u64 = 40_000;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    NewCall,
    EarlierCall,
    CallIsHeldBack,
    HeldBackCallArrives,
    CallsAtOnce,
    ChallengeUsedForAnotherCall,
    IdentifierUsedForOtherBytes,
    WriteFails,
    ProcessRestarts,
    ProcessDies,
    TimePasses,
    LongTimePasses,
    ClockIsNudged,
    ClockIsSetFarOff,
    ClockIsSetRight,
    ClockStands,
    SignerGoes,
    SignerComesBack,
    HostIsRevokedOrReinstated,
    HostIsEnrolledAgain,
    HeadKeyIsAdded,
    Heartbeat,
    LookAtOthers,
}

/// Every event with how often it comes.
const EVENTS: [(Event, usize); 23] = [
    (Event::NewCall, 26),
    (Event::EarlierCall, 16),
    (Event::CallIsHeldBack, 8),
    (Event::HeldBackCallArrives, 8),
    (Event::CallsAtOnce, 6),
    (Event::ChallengeUsedForAnotherCall, 4),
    (Event::IdentifierUsedForOtherBytes, 3),
    (Event::WriteFails, 9),
    (Event::ProcessRestarts, 2),
    (Event::ProcessDies, 3),
    (Event::TimePasses, 12),
    (Event::LongTimePasses, 2),
    (Event::ClockIsNudged, 6),
    (Event::ClockIsSetFarOff, 3),
    (Event::ClockIsSetRight, 4),
    (Event::ClockStands, 2),
    (Event::SignerGoes, 3),
    (Event::SignerComesBack, 5),
    (Event::HostIsRevokedOrReinstated, 5),
    (Event::HostIsEnrolledAgain, 3),
    (Event::HeadKeyIsAdded, 1),
    (Event::Heartbeat, 2),
    (Event::LookAtOthers, 4),
];

/// A call that was decided and not yet appended.
struct HeldBack {
    at: usize,
    ask: Ask,
    append: Append,
}

struct Simulation {
    world: World,
    dice: Dice,
    asks: Vec<Ask>,
    held_back: Vec<HeldBack>,
    /// Since the first clock was set off, ms.
    off_for_ms: u64,
    /// What happened and what was answered, for whoever looks for the cause of a failure.
    told: Vec<String>,
    line: String,
    seed: u64,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.told.iter().skip(self.told.len().saturating_sub(25));
            let last: Vec<&str> = last.map(String::as_str).chain([self.line.as_str()]).collect();
            eprintln!(
                "{}\n{} events; repeat with COUNTERSIGN_SEED={}",
                last.join("\n"),
                self.told.len(),
                self.seed
            );
        }
    }
}

impl Simulation {
    fn begin(store: StoreKind, processes: usize, seed: u64) -> Self {
        Self {
            world: World::begin(store, processes, seed),
            dice: Dice::of(seed),
            asks: Vec::new(),
            held_back: Vec::new(),
            off_for_ms: 0,
            told: Vec::new(),
            line: String::new(),
            seed,
        }
    }

    fn run(mut self, events: usize) -> Vec<String> {
        for number in 0..events {
            let event = self.draw();
            let at = self.dice.below(self.world.processes.len());
            self.line = format!("{number}: {event:?} at {at}");
            self.happens(event, at);
            self.world.settle();
            if number % 16 == 0 {
                self.world.seen.look_back(self.world.log(at).reader.as_ref());
            }
            self.told.push(std::mem::take(&mut self.line));
        }
        self.everything_heals();
        self.nobody_waits_in_vain();
        std::mem::take(&mut self.told)
    }

    fn draw(&mut self) -> Event {
        let mut left = self.dice.below(EVENTS.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in EVENTS {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return event,
            }
        }
        unreachable!("below the sum of all weights")
    }

    fn happens(&mut self, event: Event, at: usize) {
        match event {
            Event::NewCall => self.new_call(at),
            Event::EarlierCall => self.earlier_call(at),
            Event::CallIsHeldBack => self.hold_back(at),
            Event::HeldBackCallArrives => self.arrive(),
            Event::CallsAtOnce => self.at_once(),
            Event::ChallengeUsedForAnotherCall => self.replay(at),
            Event::IdentifierUsedForOtherBytes => self.other_bytes(at),
            Event::WriteFails => self.fail(at),
            Event::ProcessRestarts => self.world.restart(at),
            Event::ProcessDies => self.die(at),
            Event::TimePasses => {
                let ms = self.dice.between(1, 4_000).unsigned_abs();
                self.pass(ms);
            }
            Event::LongTimePasses => {
                let ms = self.dice.pick(&[11_000, 35_000, 700_000]);
                self.pass(ms);
            }
            Event::ClockIsNudged if self.world.processes[at].wall == Wall::Right => {
                let offset = self.dice.between(-SMALL_STEP_MS, SMALL_STEP_MS);
                self.world.set_wall(at, offset);
            }
            Event::ClockIsSetFarOff => self.set_far_off(at),
            Event::ClockIsSetRight => self.set_right(at),
            Event::ClockStands => self.stand(at),
            Event::SignerGoes => {
                let way = self.dice.pick(&[CUT, BENT]);
                self.world.processes[at].way.store(way, Ordering::SeqCst);
            }
            Event::SignerComesBack => self.world.processes[at].way.store(OPEN, Ordering::SeqCst),
            Event::HostIsRevokedOrReinstated => self.revoke(at),
            Event::HostIsEnrolledAgain => self.enrol_again(at),
            Event::HeadKeyIsAdded => {
                if let Some(append) = self.world.rotate(at) {
                    self.control(at, append);
                }
            }
            Event::Heartbeat => self.world.log(at).sequencer.heartbeat(Duration::ZERO).unwrap(),
            Event::LookAtOthers => self.world.log(at).sequencer.refresh().unwrap(),
            Event::ClockIsNudged => {}
        }
    }

    fn note(&mut self, told: Told) {
        self.line.push_str(&format!(" -> {told:?}"));
    }

    fn wish(&mut self) -> Ask {
        let number = u8::try_from(self.dice.below(usize::from(HOSTS))).unwrap() + 1;
        self.world.wish(number)
    }

    fn new_call(&mut self, at: usize) {
        let ask = self.wish();
        self.asks.push(ask.clone());
        let told = self.world.ask(at, &ask);
        self.note(told);
    }

    /// The same bytes with the same challenge, or with a new one.
    fn earlier_call(&mut self, at: usize) {
        if self.asks.is_empty() {
            return;
        }
        // Mostly one of the last.
        let back = if self.dice.one_in(3) { self.asks.len() } else { self.asks.len().min(6) };
        let which = self.asks.len() - 1 - self.dice.below(back);
        let mut ask = self.asks[which].clone();
        if self.dice.one_in(2) {
            ask = self.world.renewed(&ask);
            self.asks[which] = ask.clone();
        }
        let answered = self.world.seen.answer(&ask.request()).is_some();
        let told = self.world.ask(at, &ask);
        assert!(!answered || told != Told::New, "{} was answered before", ask.id);
        self.note(told);
    }

    fn hold_back(&mut self, at: usize) {
        let ask = if self.asks.is_empty() || self.dice.one_in(2) {
            let ask = self.wish();
            self.asks.push(ask.clone());
            ask
        } else {
            self.asks[self.dice.below(self.asks.len())].clone()
        };
        if let Some(append) = self.world.decide(at, &ask) {
            self.held_back.push(HeldBack { at, ask, append });
        }
    }

    /// As it was decided, however long ago that was. A replica that got it may have restarted meanwhile.
    fn arrive(&mut self) {
        if self.held_back.is_empty() {
            return;
        }
        let which = self.dice.below(self.held_back.len());
        let HeldBack { at, ask, append } = self.held_back.swap_remove(which);
        let pending = self.world.log(at).sequencer.submit(append);
        let told = self.world.hear(at, &ask, pending);
        self.note(told);
    }

    /// Several calls in one batch of each process, some of them the same.
    fn at_once(&mut self) {
        let mut asks: Vec<Ask> = (0..2 + self.dice.below(4)).map(|_| self.wish()).collect();
        self.asks.extend(asks.iter().cloned());
        asks.push(asks[0].clone());
        asks.push(self.asks[self.dice.below(self.asks.len())].clone());
        let mut waiting = Vec::new();
        let paused = (0..self.world.processes.len()).map(|at| self.world.pause(at)).collect::<Vec<_>>();
        for ask in asks {
            let at = self.dice.below(self.world.processes.len());
            if let Some(append) = self.world.decide(at, &ask) {
                let pending = self.world.log(at).sequencer.submit(append);
                waiting.push((at, ask, pending));
            }
        }
        drop(paused);
        for (at, ask, pending) in waiting {
            let told = self.world.hear(at, &ask, pending);
            self.note(told);
        }
    }

    /// A challenge that another call has used, or will.
    fn replay(&mut self, at: usize) {
        if self.asks.is_empty() {
            return;
        }
        let earlier = self.asks[self.dice.below(self.asks.len())].clone();
        let ask = Ask { id: format!("{}-other", earlier.id), ..earlier };
        let told = self.world.ask(at, &ask);
        self.note(told);
    }

    fn other_bytes(&mut self, at: usize) {
        // Whoever comes first has the identifier, so the first ones are those that the log knows.
        let answered =
            self.asks.iter().enumerate().filter(|(_, ask)| self.world.seen.answer(&ask.request()).is_some());
        let answered: Vec<usize> = answered.map(|(which, _)| which).collect();
        if answered.is_empty() {
            return;
        }
        let earlier = &mut self.asks[self.dice.pick(&answered)];
        // Each time others: a denial of the same bytes under a new challenge is another leaf.
        earlier.others = earlier.others.checked_add(1).unwrap();
        let (variant, earlier) = (earlier.others, earlier.clone());
        let ask = Ask { variant, ..self.world.renewed(&earlier) };
        let told = self.world.ask(at, &ask);
        self.note(told);
    }

    /// A write fails at any point, or fails and persists, under one call or several.
    fn fail(&mut self, at: usize) {
        let (point, failure) = (self.dice.pick(&WritePoint::BATCH), self.dice.pick(&FAILURES));
        self.line.push_str(&format!(" {point:?} {failure:?}"));
        self.world.processes[at].rig.arm(point, failure);
        if self.dice.one_in(3) {
            self.at_once()
        } else {
            self.new_call(at)
        }
        *self.world.processes[at].rig.failpoints.armed.lock().unwrap() = None;
    }

    /// It ends in the middle of its work, and comes back.
    fn die(&mut self, at: usize) {
        let point = self.dice.pick(&WritePoint::BATCH);
        self.line.push_str(&format!(" {point:?}"));
        self.world.processes[at].rig.arm(point, Injected::Died);
        self.new_call(at);
        self.world.restart(at);
    }

    fn pass(&mut self, ms: u64) {
        if self.world.processes.iter().any(|process| process.wall != Wall::Right) {
            self.off_for_ms += ms;
            if self.off_for_ms > OFF_FOR_MS {
                (0..self.world.processes.len()).for_each(|at| self.set_right(at));
            }
        }
        self.world.pass(ms);
    }

    /// Beyond what anybody bears, forward or back: it stops issuing.
    fn set_far_off(&mut self, at: usize) {
        if self.world.processes[at].health() != Health::Serving || !self.world.processes[at].is_well() {
            return;
        }
        if self.world.processes.iter().all(|process| process.wall == Wall::Right) {
            self.off_for_ms = 0;
        }
        let forward = self.dice.between(3_000, 7_200_000);
        let back = -self.dice.between(3_000, 40_000);
        let offset = self.dice.pick(&[forward, back]);
        self.world.processes[at].wall = Wall::Off { restarted: false };
        self.world.set_wall(at, offset);
        self.line.push_str(&format!(" by {offset} ms"));
        let leaves = self.world.seen.leaf_count();
        // Whatever the clock shows, the challenge isn't over.
        let ask = self.wish();
        let ask = Ask { expires_ms: ask.expires_ms + 7_200_000, ..ask };
        let told = self.world.ask(at, &ask);
        self.note(told);
        self.asks.push(ask);
        self.world.log(at).wait_for(Health::ClockUnreliable);
        self.world.look();
        assert_eq!(self.world.seen.leaf_count(), leaves, "appended with a clock that was set off");
    }

    /// It heals at once; one that was started with the wrong time has to be started again.
    fn set_right(&mut self, at: usize) {
        let Wall::Off { restarted } = self.world.processes[at].wall else { return };
        self.world.set_wall(at, 0);
        self.world.processes[at].wall = Wall::Right;
        if restarted {
            self.world.restart(at);
        }
    }

    /// A clock that runs evenly long enough is believed, if nobody knows better.
    fn stand(&mut self, at: usize) {
        let process = &self.world.processes[at];
        let alone = !process.rig.place.is_shared();
        if !alone || process.wall != (Wall::Off { restarted: false }) || !process.signs() {
            return;
        }
        self.world.log(at).wait_for(Health::ClockUnreliable);
        self.world.pass(SETTLE_MS);
        let process = &mut self.world.processes[at];
        process.wall = Wall::Right;
        self.world.now_ms = process.rig.clock.now_ms();
    }

    /// A leaf of the operator's; whether it came into the log is read from the log.
    fn control(&mut self, at: usize, append: Append) {
        let pending = self.world.log(at).sequencer.submit(append);
        let told = match pending.and_then(Pending::wait) {
            Ok(outcome) => format!("{outcome:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
            Err(super::super::SequenceFault::Stopped) => {
                self.world.log(at).wait_for(Health::Failed);
                "Stopped".to_owned()
            }
            Err(fault) => fault.to_string(),
        };
        self.line.push_str(&format!(" -> {told}"));
    }

    fn revoke(&mut self, at: usize) {
        let subject = Subject::Host(host(u8::try_from(self.dice.below(usize::from(HOSTS))).unwrap() + 1));
        let revoke = !self.world.log(at).sequencer.control().is_revoked(&subject);
        let by = Sha256Digest::new([4; 32]);
        let record = Revocation { subject, revoke, reason: "simulated".to_owned(), by };
        if self.dice.one_in(4) {
            let point = self.dice.pick(&WritePoint::BATCH);
            self.world.processes[at].rig.arm(point, self.dice.pick(&FAILURES));
        }
        self.control(at, Append::of(vec![Entry::plain(Kind::Revocation, record.encode())]));
        *self.world.processes[at].rig.failpoints.armed.lock().unwrap() = None;
    }

    fn enrol_again(&mut self, at: usize) {
        let number = u8::try_from(self.dice.below(usize::from(HOSTS))).unwrap() + 1;
        let id = host(number);
        let version = self.world.log(at).reader.host_now(&id).unwrap().unwrap().state.version;
        let key = 10 + u8::try_from(self.told.len() % 180).unwrap();
        let append = Append {
            guards: vec![Guard::HostVersion(id, version)],
            ..Append::of(vec![enrolment(id, key, version + 1, None)])
        };
        self.control(at, append);
    }

    /// Signers are back, clocks right, and every process starts again.
    fn everything_heals(&mut self) {
        self.line = "the end".to_owned();
        for at in 0..self.world.processes.len() {
            self.world.processes[at].way.store(OPEN, Ordering::SeqCst);
            self.set_right(at);
            self.world.restart(at);
        }
        self.world.settle();
    }

    /// Whoever asked gets an answer now, and whatever the log has for him, he gets.
    fn nobody_waits_in_vain(&mut self) {
        for (number, ask) in std::mem::take(&mut self.asks).into_iter().enumerate() {
            let at = number % self.world.processes.len();
            let answered = self.world.seen.answer(&ask.request()).is_some();
            let told = self.world.ask(at, &ask);
            assert_eq!(told == Told::Known, answered, "{} was told {told:?}", ask.id);
            assert_eq!(answered || told == Told::New, self.world.seen.was_told(&ask.request()));
        }
    }
}

/// Seeds to try: the one that is asked for, or these and as many fresh ones as are asked for.
fn seeds(always: &[u64], fresh: usize) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    if let Some(seed) = number("COUNTERSIGN_SEED") {
        return vec![seed];
    }
    let fresh = number("COUNTERSIGN_SEEDS").map_or(fresh, |count| usize::try_from(count).unwrap());
    always.iter().copied().chain((0..fresh).map(|_| Dice::fresh_seed())).collect()
}

#[test]
fn whatever_happens_to_one_process_every_invariant_holds() {
    for seed in seeds(&[1, 2, 3], 1) {
        Simulation::begin(StoreKind::Sqlite, 1, seed).run(250);
    }
}

#[test]
fn whatever_happens_to_two_replicas_every_invariant_holds() {
    for seed in seeds(&[1, 2], 1) {
        Simulation::begin(StoreKind::Postgres, 2, seed).run(150);
    }
}

#[test]
fn a_seed_gives_the_same_answers_each_time() {
    let [first, again] = [(); 2].map(|()| Simulation::begin(StoreKind::Sqlite, 1, 7).run(150));
    assert_eq!(first, again);
}
