//! The state directory: what survives a restart, and what a damaged or foreign one does.

use crate::authority::{Authority, key};
use crate::world::{LEASE_MS, START_MS, at, first};
use countersign_core::digest::sha256;
use countersign_core::leaf::control::Subject;
use countersign_core::refusal::RefusalCode;
use countersign_gateway::snapshot::Snapshot;
use countersign_gateway::snapshot::advance::Advanced;
use countersign_gateway::snapshot::store::{StateDir, StoreFault};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

struct Kept {
    temporary: tempfile::TempDir,
    authority: Authority,
}

impl Kept {
    fn new() -> Self {
        Self { temporary: tempfile::tempdir().unwrap(), authority: Authority::new(START_MS) }
    }

    fn dir(&self) -> StateDir {
        StateDir::open(&self.temporary.path().join("state")).unwrap()
    }

    fn load(&self) -> Result<Option<Snapshot>, StoreFault> {
        self.dir().load(&self.authority.bundle())
    }

    async fn save(&self, advanced: &Advanced) {
        let dir = self.dir();
        dir.lock(Duration::ZERO).await.unwrap().save(advanced).unwrap();
    }

    /// Pulls and keeps.
    async fn pull(&self) -> Snapshot {
        let now = at(START_MS, 1_000);
        let advanced = match self.load().unwrap() {
            None => {
                Snapshot::first(&self.authority.bundle(), &self.authority.feed(0, 0), &now, &now).unwrap()
            }
            Some(held) => {
                let feed = self.authority.feed(held.head().body().size, held.control().number());
                held.advance(&feed, &now, &now).unwrap()
            }
        };
        self.save(&advanced).await;
        advanced.snapshot
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.temporary.path().join("state").join(name)
    }
}

#[tokio::test]
async fn a_snapshot_is_found_again_as_it_was() {
    let mut kept = Kept::new();
    assert!(kept.load().unwrap().is_none());
    kept.pull().await;
    kept.authority.revoke(Subject::Artifact(9, sha256(b"x")));
    kept.authority.rotate(&key(2));
    kept.authority.sign();
    let saved = kept.pull().await;
    let loaded = kept.load().unwrap().unwrap();
    assert_eq!(loaded.head(), saved.head());
    assert_eq!(loaded.control().digest(), saved.control().digest());
    assert_eq!(loaded.remembered(), saved.remembered());
    assert_eq!(loaded.pulled(), saved.pulled());
    assert!(loaded.control().is_revoked(&Subject::Artifact(9, sha256(b"x"))));
    for name in ["snapshot.json", "control.leaves"] {
        let mode = std::fs::metadata(kept.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_fork_or_a_rollback_is_caught_after_a_restart() {
    let mut kept = Kept::new();
    let mut fork = kept.authority.clone();
    let old = kept.authority.clone();
    kept.authority.heartbeat();
    kept.authority.sign();
    kept.pull().await;
    let held = kept.load().unwrap().unwrap();
    let now = at(START_MS, 2_000);
    fork.append(countersign_core::leaf::Kind::Heartbeat, vec![1]);
    fork.sign();
    let refused = held.advance(&fork.feed(held.head().body().size, 3), &now, &now).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::HeadForked);
    let mut feed = old.feed(0, 3);
    feed.consistency.clear();
    let refused = held.advance(&feed, &now, &now).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::FeedInvalid);
}

#[tokio::test]
async fn an_older_copy_of_the_directory_is_as_old_as_its_head() {
    let mut kept = Kept::new();
    kept.pull().await;
    let copy = ["snapshot.json", "control.leaves"].map(|name| std::fs::read(kept.path(name)).unwrap());
    kept.authority.revoke(Subject::Host(crate::world::host()));
    kept.authority.time_ms += 2 * LEASE_MS;
    kept.authority.sign();
    let feed = kept.authority.feed(3, 3);
    let now = at(START_MS + 2 * LEASE_MS, 1_000 + 2 * LEASE_MS);
    let held = kept.load().unwrap().unwrap();
    kept.save(&held.advance(&feed, &now, &now).unwrap()).await;
    kept.load().unwrap().unwrap().age(&now, LEASE_MS).unwrap();
    for (name, bytes) in ["snapshot.json", "control.leaves"].into_iter().zip(copy) {
        std::fs::write(kept.path(name), bytes).unwrap();
    }
    let restored = kept.load().unwrap().unwrap();
    assert_eq!(restored.age(&now, LEASE_MS).unwrap_err().code(), RefusalCode::LeaseExpired);
    // And it follows the true log from there.
    assert_eq!(restored.advance(&feed, &now, &now).unwrap().snapshot.control().number(), 4);
}

#[tokio::test]
async fn leaves_that_no_snapshot_counts_are_ignored_and_overwritten() {
    let mut kept = Kept::new();
    kept.pull().await;
    let mut leaves = std::fs::read(kept.path("control.leaves")).unwrap();
    // What a process leaves that ended between the two files, cut in the middle.
    let counted = leaves.len();
    leaves.extend_from_slice(&[0, 0, 8, 0]);
    leaves.extend_from_slice(&[0xff; 2_000]);
    std::fs::write(kept.path("control.leaves"), &leaves).unwrap();
    assert_eq!(kept.load().unwrap().unwrap().control().number(), 3);
    kept.authority.revoke(Subject::Artifact(9, sha256(b"x")));
    kept.authority.sign();
    kept.pull().await;
    assert_eq!(kept.load().unwrap().unwrap().control().number(), 4);
    let revocation = kept.authority.leaf(3).len() + 4;
    assert_eq!(std::fs::read(kept.path("control.leaves")).unwrap().len(), counted + revocation);
}

#[tokio::test]
async fn every_damage_is_seen_and_nothing_starts_over_by_itself() {
    let kept = Kept::new();
    kept.pull().await;
    for name in ["snapshot.json", "control.leaves"] {
        let right = std::fs::read(kept.path(name)).unwrap();
        for place in 0..right.len() {
            let mut damaged = right.clone();
            damaged[place] ^= 1;
            std::fs::write(kept.path(name), &damaged).unwrap();
            // The clocks of the last pull are numbers like others; everything else is covered by the head's signature.
            let text = String::from_utf8_lossy(&right);
            let clocks = name == "snapshot.json" && place > text.find("\"pulled\"").unwrap();
            match kept.load() {
                Err(StoreFault::Damaged { .. }) => {}
                Ok(Some(_)) if clocks => {}
                other => panic!("{name}, byte {place}: {other:?}"),
            }
        }
        for cut in [0, 1, right.len() / 2, right.len() - 1] {
            std::fs::write(kept.path(name), &right[..cut]).unwrap();
            assert!(matches!(kept.load(), Err(StoreFault::Damaged { .. })), "{name} cut to {cut}");
        }
        std::fs::write(kept.path(name), &right).unwrap();
    }
    std::fs::remove_file(kept.path("control.leaves")).unwrap();
    assert!(matches!(kept.load(), Err(StoreFault::Damaged { .. })));
}

#[tokio::test]
async fn a_directory_of_another_bundle_is_refused() {
    let kept = Kept::new();
    kept.pull().await;
    let other = Authority::named("other.example/log", START_MS);
    assert!(matches!(kept.dir().load(&other.bundle()), Err(StoreFault::Damaged { .. })));
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    for mode in [0o770, 0o707, 0o722] {
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(StateDir::open(temporary.path()), Err(StoreFault::Mode(_))), "{mode:o}");
    }
}

#[tokio::test]
async fn only_one_process_changes_the_directory_at_a_time() {
    let kept = Kept::new();
    let dir = kept.dir();
    let held = dir.lock(Duration::ZERO).await.unwrap();
    assert!(matches!(dir.lock(Duration::from_millis(20)).await, Err(StoreFault::Lock(_))));
    drop(held);
    dir.lock(Duration::ZERO).await.unwrap();
}

#[test]
fn a_snapshot_is_as_old_as_the_older_of_its_two_ages() {
    let authority = Authority::new(START_MS);
    let snapshot = first(&authority, &at(START_MS + 5_000, 1_000));
    assert_eq!(snapshot.age(&at(START_MS + 6_000, 2_000), LEASE_MS), Ok(6_000));
    let snapshot = first(&authority, &at(START_MS - 1_500, 1_000));
    assert_eq!(snapshot.age(&at(START_MS + 500, 3_000), LEASE_MS), Ok(2_000));
}
