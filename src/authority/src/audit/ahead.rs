//! Leaves read ahead, and checked for themselves by every core.
//!
//! Comes in: a source. Goes out: leaf after leaf in order, each with the findings and hashes that depend on nothing else. What depends on the
//! leaves before (times, control chain, outcomes, roots) is for whoever takes them. Memory: [`AHEAD`] pages for each thread. The source is
//! read by the thread that takes the leaves, so it needn't be shared; that it ended or failed is told in its place.

use super::verify::FindingKind;
use super::{LogSource, PAGE, Unreadable};
use countersign_core::bundle::TrustBundle;
use countersign_core::key::KnownKeys;
use countersign_core::leaf::body::read_body;
use countersign_core::leaf::decision::Verdict;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// Pages under way for each thread: one that is worked on, one that waits.
const AHEAD: usize = 2;
/// Most threads. Beyond, the one that takes the leaves is the bottleneck.
const MAX_THREADS: usize = 16;

/// A leaf, and what it says of itself.
pub(super) struct CheckedLeaf {
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
    /// The envelope.
    pub(super) leaf: Result<Leaf, FindingKind>,
    /// Whether the body is one of its kind and of this log.
    pub(super) body: Result<(), FindingKind>,
    pub(super) sha256: <Sha256Tree as TreeHash>::Digest,
    pub(super) sha3: <Sha3_512Tree as TreeHash>::Digest,
    pub(super) blake2: <Blake2b512Tree as TreeHash>::Digest,
}

struct Worker {
    pages: SyncSender<(u64, Vec<Vec<u8>>)>,
    checked: Receiver<Vec<CheckedLeaf>>,
}

/// What every decision of the log names.
#[derive(Clone, Copy)]
pub(super) struct LogName<'a> {
    pub(super) origin: &'a str,
    pub(super) trust_domain: &'a str,
}

impl<'a> LogName<'a> {
    pub(super) fn of(bundle: &'a TrustBundle) -> Self {
        Self { origin: bundle.origin().as_str(), trust_domain: bundle.trust_domain().as_str() }
    }
}

/// Leaves in order.
pub(super) struct ReadAhead<'a> {
    source: &'a dyn LogSource,
    workers: Vec<Worker>,
    /// Index of the next page to read.
    next: u64,
    /// Pages that were sent, and pages that came back; each worker in its turn.
    sent: usize,
    taken: usize,
    /// Why no further page is read.
    ended: Option<Result<(), Unreadable>>,
    page: std::vec::IntoIter<CheckedLeaf>,
}

impl<'a> ReadAhead<'a> {
    /// Starts threads in `scope`, which read from an index on. They end when this is dropped.
    pub(super) fn start_at<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &'a dyn LogSource,
        log: LogName<'scope>,
        next: u64,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let worker = |_| {
            let (pages, work) = sync_channel::<(u64, Vec<Vec<u8>>)>(AHEAD);
            let (results, checked) = sync_channel(AHEAD);
            scope.spawn(move || {
                let mut known = KnownKeys::default();
                for (from, page) in work {
                    let page = (from..).zip(page).map(|(index, bytes)| check(index, bytes, log, &mut known));
                    if results.send(page.collect()).is_err() {
                        return;
                    }
                }
            });
            Worker { pages, checked }
        };
        Self {
            source,
            workers: (0..threads).map(worker).collect(),
            next,
            sent: 0,
            taken: 0,
            ended: None,
            page: Vec::new().into_iter(),
        }
    }

    /// The next leaf; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<CheckedLeaf>, Unreadable> {
        loop {
            if let Some(leaf) = self.page.next() {
                return Ok(Some(leaf));
            }
            self.read()?;
            if self.taken == self.sent {
                return self.ended.clone().unwrap_or(Ok(())).map(|()| None);
            }
            let page = self.turn(self.taken).and_then(|worker| worker.checked.recv().ok());
            self.page = page.ok_or_else(stopped)?.into_iter();
            self.taken += 1;
        }
    }

    fn turn(&self, page: usize) -> Option<&Worker> {
        self.workers.get(page.checked_rem(self.workers.len())?)
    }

    fn read(&mut self) -> Result<(), Unreadable> {
        while self.ended.is_none() && self.sent - self.taken < self.workers.len() * AHEAD {
            match self.source.leaves(self.next, PAGE) {
                Ok(page) if page.is_empty() => self.ended = Some(Ok(())),
                Ok(page) => {
                    let from = self.next;
                    self.next += u64::try_from(page.len()).unwrap_or(u64::MAX);
                    let sent =
                        self.turn(self.sent).is_some_and(|worker| worker.pages.send((from, page)).is_ok());
                    if !sent {
                        return Err(stopped());
                    }
                    self.sent += 1;
                }
                Err(unreadable) => self.ended = Some(Err(unreadable)),
            }
        }
        Ok(())
    }
}

fn stopped() -> Unreadable {
    Unreadable("a thread that checks leaves has ended".to_owned())
}

fn check(index: u64, bytes: Vec<u8>, log: LogName<'_>, known: &mut KnownKeys) -> CheckedLeaf {
    let leaf = match Leaf::parse(&bytes) {
        Ok(leaf) if leaf.index == index => Ok(leaf),
        Ok(leaf) => Err(FindingKind::Index(leaf.index)),
        Err(error) => Err(FindingKind::Malformed(error)),
    };
    CheckedLeaf {
        index,
        body: leaf.as_ref().map_or(Ok(()), |leaf| check_body(leaf, log, known)),
        leaf,
        sha256: Sha256Tree::leaf_hash(&bytes),
        sha3: Sha3_512Tree::leaf_hash(&bytes),
        blake2: Blake2b512Tree::leaf_hash(&bytes),
        bytes,
    }
}

fn check_body(leaf: &Leaf, log: LogName<'_>, known: &mut KnownKeys) -> Result<(), FindingKind> {
    let Some(decision) = read_body(leaf, known).map_err(FindingKind::Malformed)? else { return Ok(()) };
    let allows = matches!(decision.verdict, Verdict::Allow { .. });
    // PROTOCOL §2: runtimes are those of the bundle's trust domain.
    let own = decision.issuer.as_str() == log.origin
        && decision.runtime.trust_domain().as_str() == log.trust_domain;
    if allows == (leaf.kind == Kind::Allow) && own { Ok(()) } else { Err(FindingKind::Body) }
}

#[cfg(test)]
mod tests {
    use super::super::HeadExport;
    use super::*;
    use countersign_core::digest::Sha256Digest;
    use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};

    /// Leaves in pages of odd sizes, up to an index from which on nothing can be read.
    struct Pages {
        leaves: Vec<Vec<u8>>,
        broken_from: usize,
    }

    impl LogSource for Pages {
        fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
            let from = usize::try_from(from).unwrap();
            let count = usize::try_from(count).unwrap().min(1 + from % 7);
            if from >= self.broken_from {
                return Err(Unreadable("broken".to_owned()));
            }
            let end = self.leaves.len().min(self.broken_from);
            Ok(self.leaves[..end].iter().skip(from).take(count).cloned().collect())
        }

        fn heads(&self, _: u64, _: u64) -> Result<Vec<HeadExport>, Unreadable> {
            Ok(Vec::new())
        }

        fn blob(&self, _: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
            Ok(None)
        }
    }

    const LOG: LogName<'static> = LogName { origin: "log.example", trust_domain: "example" };

    fn leaf(index: u64) -> Vec<u8> {
        let body = Heartbeat(HeartbeatReason::Idle).encode();
        Leaf { kind: Kind::Heartbeat, index, time_ms: 7, salt: [0; 16], body }.encode().unwrap()
    }

    /// How many leaves came in order, and how it ended.
    fn walk(source: &Pages) -> (u64, Result<(), Unreadable>, Vec<u64>) {
        std::thread::scope(|scope| {
            let mut leaves = ReadAhead::start_at(scope, source, LOG, 0);
            let (mut count, mut wrong) = (0, Vec::new());
            loop {
                match leaves.next() {
                    Ok(None) => return (count, Ok(()), wrong),
                    Err(unreadable) => return (count, Err(unreadable), wrong),
                    Ok(Some(checked)) => {
                        assert_eq!(checked.index, count);
                        assert_eq!(checked.sha256, Sha256Tree::leaf_hash(&checked.bytes));
                        wrong.extend(checked.leaf.is_err().then_some(count));
                        count += 1;
                    }
                }
            }
        })
    }

    #[test]
    fn leaves_come_in_order_and_what_is_wrong_is_told_in_its_place() {
        let mut source = Pages { leaves: (0..1_000).map(leaf).collect(), broken_from: usize::MAX };
        assert_eq!(walk(&source), (1_000, Ok(()), Vec::new()));
        source.leaves.swap(500, 501);
        source.leaves[900] = vec![0];
        assert_eq!(walk(&source), (1_000, Ok(()), vec![500, 501, 900]));
        source.broken_from = 700;
        assert_eq!(walk(&source), (700, Err(Unreadable("broken".to_owned())), vec![500, 501]));
        source.broken_from = 0;
        assert_eq!(walk(&source), (0, Err(Unreadable("broken".to_owned())), Vec::new()));
    }

    #[test]
    fn whoever_stops_early_leaves_no_thread_behind() {
        let source = Pages { leaves: (0..1_000).map(leaf).collect(), broken_from: usize::MAX };
        std::thread::scope(|scope| {
            let mut leaves = ReadAhead::start_at(scope, &source, LOG, 0);
            assert!(leaves.next().unwrap().is_some());
        });
    }
}
