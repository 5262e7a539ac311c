//! What survives when a write beside the batches fails, fails but persists, or the process ends: the desk's, witnesses' signatures, rebuilt tables,
//! newer tables, a log that moves.

use std::fmt::Debug;
use std::sync::atomic::Ordering;

use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::Algorithm;
use countersign_core::note::NoteSignature;
use rusqlite::Connection;

use super::super::Append;
use super::crash::FAILURES;
use super::support::{Call, NOW, Rig, StoreKind, enrol, epoch, host};
use super::tables::{projections, rebuild};
use crate::store::failpoint::{Injected, WritePoint};
use crate::store::postgres::MigrateFault;
use crate::store::{
    Acknowledgement, ChallengeKey, OpenFault, Opened, PendingEnrolment, Place, Reader, RebuildFault,
    StoreFault, Writer, postgres, sqlite,
};

/// Every way to fail at these two points, and whether the change is there all the same.
fn ways([before, after]: [WritePoint; 2]) -> impl Iterator<Item = (WritePoint, Injected, bool)> {
    FAILURES.into_iter().flat_map(move |failure| [(before, failure, false), (after, failure, true)])
}

/// What an armed call answered: an error, whatever came of it.
fn failed<T: Debug, E>(rig: &Rig, answer: Result<T, E>) -> E {
    assert!(rig.failpoints.hit.load(Ordering::SeqCst), "the point wasn't reached");
    match answer {
        Ok(done) => panic!("answered {done:?}"),
        Err(fault) => fault,
    }
}

/// A store under a writer that is lost and made again.
struct Desk {
    rig: Rig,
    opened: Option<Opened>,
}

impl Desk {
    fn over(store: StoreKind) -> Self {
        let (rig, log) = Rig::begun_in(store);
        drop(log);
        let opened = Some(rig.armed_place().open().unwrap());
        Self { rig, opened }
    }

    fn writer(&mut self) -> &mut dyn Writer {
        self.opened.as_mut().unwrap().writer.as_mut()
    }

    fn reader(&self) -> &dyn Reader {
        self.opened.as_ref().unwrap().reader.as_ref()
    }

    /// Runs a call into a failure. A writer that is lost stays so, until the process starts again.
    fn fails<T: Debug>(
        &mut self,
        point: WritePoint,
        failure: Injected,
        mut call: impl FnMut(&mut dyn Writer) -> Result<T, StoreFault>,
    ) {
        self.rig.arm(point, failure);
        let answer = call(self.writer());
        let fault = failed(&self.rig, answer);
        assert_eq!(fault.is_fatal(), failure != Injected::DiskFull, "{fault}");
        if fault.is_fatal() {
            assert!(call(self.writer()).unwrap_err().is_fatal());
            assert!(self.writer().put_blobs(&[]).unwrap_err().is_fatal());
            self.opened = None;
            self.opened = Some(self.rig.armed_place().open().unwrap());
        }
    }
}

#[test]
fn a_pending_enrolment_is_handed_out_at_most_once_whatever_fails() {
    for store in StoreKind::ALL {
        let mut desk = Desk::over(store);
        for (number, (point, failure, persists)) in (1..).zip(ways(WritePoint::ASIDE)) {
            let case = format!("{store:?} {point:?} {failure:?}");
            let pending =
                PendingEnrolment { id: [number; 16], expires_ms: NOW + 100, record: vec![number; 40] };
            desk.writer().put_pending_enrolment(&pending, NOW).unwrap();
            desk.fails(point, failure, |writer| writer.take_pending_enrolment(&pending.id, NOW));
            // Nobody was given it then. It is there for the next one, or for nobody.
            let taken = desk.writer().take_pending_enrolment(&pending.id, NOW).unwrap();
            assert_eq!(taken, (!persists).then_some(pending.clone()), "{case}");
            assert_eq!(desk.writer().take_pending_enrolment(&pending.id, NOW).unwrap(), None, "{case}");
        }
        for (number, (point, failure, persists)) in (101..).zip(ways(WritePoint::ASIDE)) {
            let pending =
                PendingEnrolment { id: [number; 16], expires_ms: NOW + 100, record: vec![number; 40] };
            desk.fails(point, failure, |writer| writer.put_pending_enrolment(&pending, NOW));
            let taken = desk.writer().take_pending_enrolment(&pending.id, NOW).unwrap();
            assert_eq!(taken, persists.then_some(pending), "{store:?} {point:?} {failure:?}");
        }
    }
}

/// A call of the desk: the points around its commit, what the case of this number writes, and whether that is there.
type Verb = (
    &'static str,
    [WritePoint; 2],
    fn(&mut dyn Writer, u8) -> Result<(), StoreFault>,
    fn(&dyn Reader, u8) -> bool,
);

/// Size of the first head: the leaves that begin a log.
const BEGUN: u64 = 2;

const VERBS: [Verb; 4] = [
    (
        "challenge key",
        WritePoint::ASIDE,
        |writer, number| {
            let key = ChallengeKey { id: [number; 8], key: [number; 32], made_ms: NOW };
            writer.put_challenge_key(&key, 0)
        },
        |reader, number| reader.challenge_keys().unwrap().iter().any(|key| key.id == [number; 8]),
    ),
    (
        "blobs",
        WritePoint::ASIDE,
        |writer, number| writer.put_blobs(&[(sha256(&[number]), [number].as_slice().into())]),
        |reader, number| reader.blob(&sha256(&[number])).unwrap().is_some(),
    ),
    (
        "acknowledgement",
        WritePoint::ASIDE,
        |writer, number| {
            let gateway = Sha256Digest::new([number; 32]);
            writer.acknowledge(&Acknowledgement { gateway, control: 1, time_ms: NOW })
        },
        |reader, number| {
            let gateway = Sha256Digest::new([number; 32]);
            reader.acknowledgements().unwrap().iter().any(|row| row.gateway == gateway)
        },
    ),
    (
        "cosignature",
        [WritePoint::BeforeAttach, WritePoint::AfterAttach],
        |writer, number| {
            let line = NoteSignature::new("witness.example", [number; 4], vec![number; 72]).unwrap();
            writer.attach_signatures(BEGUN, &[line])
        },
        |reader, number| {
            let head = reader.head(BEGUN).unwrap().unwrap();
            head.signatures().iter().any(|line| line.key_id() == [number; 4])
        },
    ),
];

#[test]
fn what_the_desk_writes_is_there_or_not_whatever_fails() {
    for store in StoreKind::ALL {
        let mut desk = Desk::over(store);
        for (name, points, write, is_there) in VERBS {
            for (number, (point, failure, persists)) in (1..).zip(ways(points)) {
                let case = format!("{store:?} {name} {point:?} {failure:?}");
                desk.fails(point, failure, |writer| write(writer, number));
                assert_eq!(is_there(desk.reader(), number), persists, "{case}");
                if !persists {
                    write(desk.writer(), number).unwrap();
                }
                assert!(is_there(desk.reader(), number), "{case}");
            }
        }
        for (point, failure, _) in ways(WritePoint::ASIDE) {
            desk.fails(point, failure, |writer| writer.settle());
            desk.writer().settle().unwrap();
        }
    }
}

#[test]
fn tables_are_rebuilt_as_a_whole_or_not_at_all_whatever_fails() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        log.appended(Call::new(host(1), "r1").append());
        drop(log);
        let live = projections(&rig);
        rig.tamper("DELETE FROM outcome; UPDATE host SET state_idx = 0;");
        let changed = projections(&rig);
        assert_ne!(changed, live);
        for (point, failure, persists) in ways(WritePoint::ASIDE) {
            rig.arm(point, failure);
            let fault = failed(&rig, rebuild(&rig.armed_place()));
            assert!(matches!(fault, RebuildFault::Store(_)), "{fault}");
            assert_eq!(&projections(&rig), if persists { &live } else { &changed }, "{store:?} {point:?}");
            rig.tamper("DELETE FROM outcome; UPDATE host SET state_idx = 0;");
        }
    }
}

#[test]
fn an_older_store_is_brought_up_to_date_as_a_whole_or_not_at_all() {
    for store in StoreKind::ALL {
        let rig = Rig::empty_in(store, Algorithm::EdDsa);
        for (point, failure, persists) in ways(WritePoint::ASIDE) {
            rig.tamper(
                "DROP TABLE cosignature; DROP TABLE pruning; DROP TABLE pruned;
                 DELETE FROM migration WHERE version > 1;",
            );
            if let Place::Sqlite(options) = &rig.place {
                let connection = Connection::open(&options.path).unwrap();
                connection.pragma_update(None, "user_version", 1).unwrap();
            }
            rig.arm(point, failure);
            let fault = failed(&rig, rig.armed_place().open().map(drop));
            assert!(matches!(fault, OpenFault::Upgrade(_)), "{fault}");
            // Who only reads sees what is there, and leaves it so.
            match rig.place.open_reader().map(drop) {
                Ok(()) => assert!(persists, "{store:?} {point:?} {failure:?}"),
                Err(OpenFault::Older { found: 1, known: 3 }) => assert!(!persists, "{store:?} {point:?}"),
                Err(other) => panic!("{other}"),
            }
            rig.place.open().unwrap();
            rig.place.open_reader().unwrap();
        }
    }
}

#[test]
fn a_log_moves_as_a_whole_or_not_at_all_whatever_fails() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    log.appended(Append::of((1..=300).map(epoch).collect()));
    let size = log.size();
    drop(log);
    let Place::Sqlite(from) = &rig.place else { panic!() };
    let source = sqlite::open_reader(from).unwrap();
    for (point, failure, persists) in ways(WritePoint::ASIDE) {
        let target = Rig::empty_in(StoreKind::Postgres, Algorithm::EdDsa);
        let (Place::Postgres(armed), Place::Postgres(to)) = (target.armed_place(), &target.place) else {
            panic!()
        };
        target.arm(point, failure);
        let fault = failed(&target, postgres::import(&armed, &source, &mut |_| {}));
        assert!(matches!(fault, MigrateFault::Target(_)), "{fault}");
        let there = target.place.open_reader().unwrap().newest_committed().unwrap();
        assert_eq!(there.map(|tip| tip.head.body().size), persists.then_some(size), "{point:?} {failure:?}");
        match postgres::import(to, &source, &mut |_| {}) {
            Ok(moved) => assert!(!persists && moved == size),
            Err(MigrateFault::NotEmpty) => assert!(persists),
            Err(other) => panic!("{other}"),
        }
    }
}
