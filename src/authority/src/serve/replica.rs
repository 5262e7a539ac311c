//! What one of several authorities does because the others append to the same log: it looks at what they committed.
//!
//! A thread waits for notifications and looks anyway after a while. It takes over control state, signed head, challenge keys and new head
//! keys. All of this only saves time or makes this replica useful sooner: what is decided is compared under the log's lock.
//!
//! Refused: a head key whose custody can't be shown; this replica then doesn't sign with it, and says so.

use super::start::{StartError, open_key};
use super::{Authority, lock};
use crate::custody::CustodyRecord;
use crate::sign::CustodyKey;
use crate::store::Place;
use crate::store::postgres::Watch;
use countersign_core::control::HeadKey;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::control::KeyRecord;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long to wait for a notification before looking anyway.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Least time between two looks: a busy replica notifies after each batch, and one look in this time sees them all.
const PAUSE: Duration = Duration::from_millis(20);
/// How often challenge keys are read; one that isn't known when it is needed is read at once.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// Pauses between two tries to open a key that isn't at hand.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Starts the thread if others append to the same log. It ends with the other tasks.
pub(super) fn spawn(authority: &Arc<Authority>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    let Place::Postgres(options) = authority.config().store.place(authority.origin()) else { return };
    let (authority, stop) = (Arc::clone(authority), stop.clone());
    tasks.spawn_blocking(move || {
        let mut watch = Watch::new(options);
        let mut keys_read = Instant::now();
        let mut failed = Failed::new();
        while !*stop.borrow() {
            watch.wait(LOOK_EVERY);
            // Full or stopping: the next look comes soon, or none is needed.
            let _ = authority.sequencer.refresh();
            if keys_read.elapsed() >= KEYS_EVERY {
                keys_read = Instant::now();
                authority.read_challenge_keys();
            }
            adopt_head_keys(&authority, &mut failed);
            std::thread::sleep(PAUSE);
        }
    });
}

/// Keys that couldn't be opened: when to try again, and the pause after that.
type Failed = BTreeMap<Sha256Digest, (Instant, Duration)>;

/// Opens head keys that another replica has introduced, and lets go of those that have ended. One that lost its custody here stays away.
fn adopt_head_keys(authority: &Authority, failed: &mut Failed) {
    let control = authority.control();
    for key in control.head_keys() {
        let (held, thumbprint) = (authority.ring.find(&key.key).is_some(), key.key.thumbprint());
        if key.ended.is_some() {
            if held {
                authority.release_head_key(&key.key);
            }
            failed.remove(&thumbprint);
            continue;
        }
        let now = Instant::now();
        let waits = failed.get(&thumbprint).is_some_and(|(again, _)| now < *again);
        if held || waits || lock(&authority.barred).contains(&thumbprint) {
            continue;
        }
        match open_introduced(authority, key) {
            Ok(opened) => {
                failed.remove(&thumbprint);
                let handle: Arc<dyn crate::sign::HeadKey> = Arc::clone(&opened) as _;
                authority.ring.add(&handle);
                lock(&authority.head_keys).push(opened);
            }
            Err(fault) => {
                let pause =
                    failed.get(&thumbprint).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LAST_PAUSE));
                tracing::warn!(key = %thumbprint, %fault, again_in = ?pause, "a head key isn't at hand here");
                failed.insert(thumbprint, (now + pause, pause));
            }
        }
    }
}

/// Where a head key lives stands in the custody record of its introduction.
fn open_introduced(authority: &Authority, key: &HeadKey) -> Result<Arc<CustodyKey>, StartError> {
    let thumbprint = key.key.thumbprint();
    let unlocated = || StartError::Unlocated(thumbprint);
    let leaves = authority.reader().control_leaves(key.introduced.saturating_sub(1), 1)?;
    let (_, bytes) = leaves.first().ok_or_else(unlocated)?;
    let introduction = KeyRecord::parse(&Leaf::parse(bytes)?.body)?.introduction.ok_or_else(unlocated)?;
    let record = authority.reader().blob(&introduction.custody)?.ok_or_else(unlocated)?;
    let handle = open_key(&authority.key_store, &CustodyRecord::label_of(&record)?, "head-signer")?;
    if *handle.public_key() != key.key {
        return Err(unlocated());
    }
    Ok(Arc::new(CustodyKey::new(handle)))
}
