//! The running authority: its parts wired together, its listeners, its clockwork, its end.
//!
//! [`Authority`] is what handlers see. [`run()`] starts everything in an order in which nothing serves before it was checked, and ends
//! everything in the reverse order. Absent: any decision; parts are asked, and their answers passed on.

pub mod budgets;
mod challenge_keys;
pub mod compromise;
pub mod cose;
#[cfg(feature = "tpm")]
mod counter;
mod deadline;
pub mod documents;
pub mod ear;
pub mod endorsement;
mod enrolments;
mod ima;
pub mod listener;
pub mod metrics;
pub mod pool;
pub mod rates;
pub mod refusals;
mod replica;
pub mod rotation;
mod run;
pub mod source;
mod start;
mod status;
mod tasks;
pub mod tls;

pub use run::{ServeError, Serving, run, signals};
pub use start::StartError;
pub(crate) use start::open_ca;

use crate::api::problem::Refused;
use crate::challenge::{ChallengeKeys, Minted, Rotation};
use crate::clock::Clock;
use crate::config::Config;
use crate::custody::KeyStore;
use crate::custody::ca::Ca;
use crate::lineage::Lineage;
use crate::policy::PolicyCache;
use crate::sequence::{Append, Health, Outcome, Pending, SequenceFault, Sequencer};
use crate::sign::{CustodyKey, HeadKey as _, KeyRing};
use crate::store::{Acknowledgement, HostNow, PendingEnrolment, ReadFault, Reader, SignedHead};
use crate::verify::{Endorsed, Verifier};
use crate::witness::Witnesses;
use arc_swap::ArcSwap;
use budgets::Budgets;
use countersign_core::api::B64;
use countersign_core::bundle::TrustBundle;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::refusal::RefusalCode;
use documents::Documents;
use endorsement::Endorsements;
use enrolments::OpenEnrolments;
use metrics::Metrics;
use pool::Pool;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Hosts, host keys and blob names that are remembered; beyond, the store is asked again.
const MAX_REMEMBERED: usize = 65_536;

/// Everything that handlers need.
pub struct Authority {
    config: Config,
    bundle: TrustBundle,
    pool: Pool,
    reader: Arc<dyn Reader>,
    lineage: Lineage,
    sequencer: Sequencer,
    ring: KeyRing,
    /// Workers of the head keys on the ring, for custody read-backs.
    head_keys: Mutex<Vec<Arc<CustodyKey>>>,
    key_store: KeyStore,
    #[cfg(feature = "tpm")]
    counter: Option<crate::counter::RollbackCounter>,
    ca: Ca,
    verifier: Verifier,
    policies: PolicyCache,
    documents: ArcSwap<Documents>,
    challenge_keys: ArcSwap<ChallengeKeys>,
    /// When they were last read for a challenge that nobody here knew.
    keys_looked_up: Mutex<Option<std::time::Instant>>,
    endorsements: ArcSwap<Endorsements>,
    clock: Arc<dyn Clock>,
    budgets: Budgets,
    metrics: Metrics,
    remembered: Remembered,
    refusals: refusals::Refusals,
    open_enrolments: OpenEnrolments,
    rotating: tokio::sync::Mutex<()>,
    /// A head key that waits for an officer's approval. Lost with the process, and taken from the token again.
    prepared: Mutex<Option<rotation::PreparedKey>>,
    witnesses: Witnesses,
    cose_roots: cose::SignedRoots,
    jwts: ear::JwtDesk,
    connections: Mutex<Vec<Arc<AtomicUsize>>>,
    /// Head keys that lost their custody: they sign nothing until the process starts again.
    barred: Mutex<HashSet<Sha256Digest>>,
}

/// What can be read from the store again at any time.
#[derive(Default)]
struct Remembered {
    /// Bindings of host keys, and the enrolments that they were read under.
    host_keys: RwLock<(u64, HashMap<Sha256Digest, HostId>)>,
    /// Parsed endorsements by host, each under its enrolment leaf.
    endorsed: RwLock<HashMap<HostId, (LeafRef, Endorsed)>>,
    /// Blobs that are surely in the store.
    blobs: RwLock<HashSet<Sha256Digest>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sequence_fault(fault: SequenceFault) -> Refused {
    let code = fault.code();
    tracing::warn!(code = code.as_str(), %fault, "append failed");
    code.into()
}

impl Authority {
    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The trust bundle that everybody pins.
    #[must_use]
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Name of the log.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.config.origin
    }

    /// Trust domain of runtimes.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.config.trust_domain
    }

    /// The reading side of the store. For worker threads.
    #[must_use]
    pub fn reader(&self) -> &dyn Reader {
        self.reader.as_ref()
    }

    /// Which artifacts belong to what. For worker threads.
    #[must_use]
    pub const fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What verifies calls.
    #[must_use]
    pub const fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Which TPMs enrol, by the files as they were last read.
    #[must_use]
    pub fn endorsements(&self) -> Arc<Endorsements> {
        self.endorsements.load_full()
    }

    /// Counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What callers may use up.
    #[must_use]
    pub const fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Wall time, ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The time at which something is decided now: never before the newest head's.
    #[must_use]
    pub fn decision_time_ms(&self) -> u64 {
        let head = self.sequencer.signed_head().map_or(0, |head| head.body().time_ms);
        self.now_ms().max(head)
    }

    /// The control state after the newest committed batch.
    #[must_use]
    pub fn control(&self) -> Arc<ControlState> {
        self.sequencer.control()
    }

    /// The newest signed head.
    ///
    /// # Errors
    /// `signer-unavailable` while there is none.
    pub fn signed_head(&self) -> Result<Arc<SignedHead>, Refused> {
        self.sequencer.signed_head().ok_or_else(|| RefusalCode::SignerUnavailable.into())
    }

    /// Runs work on a worker thread.
    ///
    /// # Errors
    /// What the work refuses, `overloaded`, `internal`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        self.pool.run(work).await.unwrap_or_else(|code| Err(code.into()))
    }

    /// Refuses before any work is done for a call that can't be appended now.
    ///
    /// # Errors
    /// `signer-unavailable`, `log-unavailable`, `witness-conflict`.
    pub fn admission(&self) -> Result<(), Refused> {
        self.witnesses.admission()?;
        match *self.sequencer.health().borrow() {
            Health::Serving | Health::ClockUnreliable | Health::LogDown => Ok(()),
            Health::SignerDown => Err(RefusalCode::SignerUnavailable.into()),
            Health::Failed | Health::Stopped => Err(RefusalCode::LogUnavailable.into()),
        }
    }

    /// Counts attempts that no leaf will tell of by itself.
    pub fn count_fault(&self, code: RefusalCode, attempts: u64) {
        if attempts > 0 {
            self.sequencer.count_fault(code, attempts);
        }
    }

    /// Queues an append. Its bodies are read again here, so a large one belongs on a worker thread.
    ///
    /// # Errors
    /// What is known at once: overload, faults of log and signer, a witness's alarm.
    pub fn submit(&self, append: Append) -> Result<Pending, Refused> {
        self.witnesses.admission()?;
        self.sequencer.submit(append).map_err(sequence_fault)
    }

    /// Waits for what was queued: the leaves are durable and under a signed head then.
    ///
    /// # Errors
    /// Faults of log, signer and clock.
    pub async fn settled(&self, pending: Pending) -> Result<Outcome, Refused> {
        pending.outcome().await.map_err(sequence_fault)
    }

    /// Appends and waits for the signed head.
    ///
    /// # Errors
    /// Faults of log, signer and clock.
    pub async fn append(&self, append: Append) -> Result<Outcome, Refused> {
        self.settled(self.submit(append)?).await
    }

    /// The documents that the newest control state names, loaded on a worker if that is needed.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn documents(self: &Arc<Self>) -> Result<Arc<Documents>, Refused> {
        let held = self.documents.load_full();
        if held.control().number() == self.control().number() {
            return Ok(held);
        }
        let worker = Arc::clone(self);
        self.run(move || worker.documents_in_force()).await
    }

    /// The same for work that is on a worker thread already.
    ///
    /// # Errors
    /// Faults of the store.
    pub fn documents_in_force(&self) -> Result<Arc<Documents>, Refused> {
        let control = self.control();
        let held = self.documents.load_full();
        if held.control().number() == control.number() {
            return Ok(held);
        }
        let loaded = Documents::load(control, Some(&held), &self.policies, self.reader());
        let loaded = Arc::new(loaded.map_err(|fault| {
            tracing::error!(%fault, "the documents in force can't be loaded");
            Refused::from(fault.code())
        })?);
        self.documents.store(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// The challenge keys that are held.
    #[must_use]
    pub fn challenge_keys(&self) -> Arc<ChallengeKeys> {
        self.challenge_keys.load_full()
    }

    fn challenge_rotation(&self) -> Rotation {
        let limits = &self.config.limits;
        Rotation {
            every_ms: limits.challenge_key_secs.saturating_mul(1_000),
            lifetime_ms: limits.challenge_secs.saturating_mul(1_000),
        }
    }

    /// Mints a challenge.
    ///
    /// # Errors
    /// `log-unavailable` while there is no key that is young enough, since a new one can't be kept.
    pub fn mint_challenge(
        &self,
        host: HostId,
        head: Sha256Digest,
        random: [u8; 16],
    ) -> Result<Minted, Refused> {
        let rotation = self.challenge_rotation();
        self.challenge_keys
            .load()
            .mint(host, head, self.decision_time_ms(), &rotation, random)
            .map_err(|_| RefusalCode::LogUnavailable.into())
    }

    /// The host of a key. What is remembered of it ends with the next enrolment that any authority over this log has committed.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn host_of_key(self: &Arc<Self>, key: Sha256Digest) -> Result<Option<HostId>, Refused> {
        let under = self.sequencer.enrolments();
        let known = under.and_then(|under| {
            let known = self.remembered.host_keys.read().unwrap_or_else(PoisonError::into_inner);
            known.1.get(&key).copied().filter(|_| known.0 == under)
        });
        if known.is_some() {
            return Ok(known);
        }
        let worker = Arc::clone(self);
        self.run(move || {
            let host = worker.reader.host_of_key(&key).map_err(read_fault)?;
            if let (Some(host), Some(under)) = (host, under) {
                let mut known = worker.remembered.host_keys.write().unwrap_or_else(PoisonError::into_inner);
                if known.0 != under || known.1.len() >= MAX_REMEMBERED {
                    *known = (under, HashMap::new());
                }
                known.1.insert(key, host);
            }
            Ok(host)
        })
        .await
    }

    /// The host's endorsement with its state as this process last saw it. For worker threads; for a first look, since only the guards of
    /// the append transaction know whether it still holds.
    ///
    /// # Errors
    /// `unauthenticated` if the key isn't the host's any more; faults of the store.
    pub fn endorsed_as_seen(&self, host: &HostId, key: &Sha256Digest) -> Result<Endorsed, Refused> {
        match self.sequencer.host_row(host) {
            Some(row) if row.key == *key => self.endorsed_by(&row, host, key),
            _ => self.endorsed(host, key),
        }
    }

    /// The host's endorsement with its state as it is now. For worker threads.
    ///
    /// # Errors
    /// `unauthenticated` if the key isn't the host's any more; faults of the store.
    pub fn endorsed(&self, host: &HostId, key: &Sha256Digest) -> Result<Endorsed, Refused> {
        let at = self.sequencer.host_rows_at();
        let unknown = || Refused::from(RefusalCode::HostUnknown);
        let row = self.reader.host_now(host).map_err(read_fault)?.ok_or_else(unknown)?;
        let endorsed = self.endorsed_by(&row, host, key)?;
        self.sequencer.keep_host_row(at, *host, row);
        Ok(endorsed)
    }

    fn endorsed_by(&self, now: &HostNow, host: &HostId, key: &Sha256Digest) -> Result<Endorsed, Refused> {
        let unknown = || Refused::from(RefusalCode::HostUnknown);
        if now.key != *key {
            return Err(RefusalCode::Unauthenticated.into());
        }
        let known = self.remembered.endorsed.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((leaf, endorsed)) = known.get(host)
            && *leaf == now.enrolment_leaf
        {
            let endorsed = endorsed.clone();
            drop(known);
            return Ok(endorsed.at(now.state, self.ima_state(&now.state)?));
        }
        drop(known);
        let row = self.reader.host(host).map_err(read_fault)?.ok_or_else(unknown)?;
        if row.enrolment.host_key.thumbprint() != *key {
            return Err(RefusalCode::Unauthenticated.into());
        }
        let corrupt = || Refused::from(RefusalCode::LogUnavailable);
        let ak = self.reader.blob(&row.enrolment.ak_public).map_err(read_fault)?.ok_or_else(corrupt)?;
        let endorsed =
            Endorsed::new(&row.enrolment, row.enrolment_leaf, &ak, row.state).map_err(|fault| {
                tracing::error!(%fault, %host, "enrolment and AK don't agree");
                corrupt()
            })?;
        let mut known = self.remembered.endorsed.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(*host, (row.enrolment_leaf, endorsed.clone()));
        drop(known);
        Ok(endorsed.at(row.state, self.ima_state(&row.state)?))
    }

    /// Whether a blob is in the store.
    ///
    /// # Errors
    /// [`ReadFault`].
    pub fn holds_blob(&self, digest: &Sha256Digest) -> Result<bool, ReadFault> {
        if self.remembered.blobs.read().unwrap_or_else(PoisonError::into_inner).contains(digest) {
            return Ok(true);
        }
        let held = self.reader.blob(digest)?.is_some();
        if held {
            self.remember_blob(*digest);
        }
        Ok(held)
    }

    /// The answer to a call whose members were pruned while it was under way: it is repeated with them, and its challenge is unspent.
    pub fn needs_again(&self, gone: Vec<Sha256Digest>) -> Refused {
        let mut blobs = self.remembered.blobs.write().unwrap_or_else(PoisonError::into_inner);
        blobs.retain(|digest| !gone.contains(digest));
        drop(blobs);
        Refused::evidence_needed(gone)
    }

    /// Notes blobs that were just kept.
    pub fn remember_blobs(&self, blobs: &[(Sha256Digest, Arc<[u8]>)]) {
        blobs.iter().for_each(|(digest, _)| self.remember_blob(*digest));
    }

    fn remember_blob(&self, digest: Sha256Digest) {
        let mut blobs = self.remembered.blobs.write().unwrap_or_else(PoisonError::into_inner);
        if blobs.len() >= MAX_REMEMBERED {
            blobs.clear();
        }
        blobs.insert(digest);
    }

    /// Keeps an enrolment that was begun, in the place of an earlier one of the same claim.
    ///
    /// # Errors
    /// `overloaded` when too many are pending; faults of the store.
    pub async fn put_pending_enrolment(
        &self,
        pending: PendingEnrolment,
        claim: Sha256Digest,
    ) -> Result<(), Refused> {
        let (id, ends_ms) = (pending.id, pending.expires_ms);
        let replaced = self.open_enrolments.begin(claim, id, ends_ms, self.now_ms());
        if let Some(replaced) = replaced.map_err(|enrolments::TooMany| RefusalCode::Overloaded)? {
            let deleted = self.sequencer.take_pending_enrolment(replaced).map_err(sequence_fault)?;
            deleted.done().await.map_err(sequence_fault)?;
        }
        let written = match self.sequencer.put_pending_enrolment(pending) {
            Ok(written) => written.done().await,
            Err(fault) => Err(fault),
        };
        written.map_err(|fault| {
            self.open_enrolments.end(id, ends_ms);
            sequence_fault(fault)
        })
    }

    /// Takes an enrolment that was begun; nobody gets it again.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn take_pending_enrolment(&self, id: [u8; 16]) -> Result<Option<PendingEnrolment>, Refused> {
        let taken = self
            .sequencer
            .take_pending_enrolment(id)
            .map_err(sequence_fault)?
            .done()
            .await
            .map_err(sequence_fault)?;
        if let Some(pending) = &taken {
            self.open_enrolments.end(id, pending.expires_ms);
        }
        Ok(taken)
    }

    /// Notes what a gateway enforces.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn acknowledge(&self, gateway: Sha256Digest, control: u64) -> Result<(), Refused> {
        let acknowledgement = Acknowledgement { gateway, control, time_ms: self.now_ms() };
        self.sequencer
            .acknowledge(acknowledgement)
            .map_err(sequence_fault)?
            .done()
            .await
            .map_err(sequence_fault)
    }

    /// A certificate for a client's key, for so many days, and the CA's own, DER. The CA key signs on a worker thread.
    ///
    /// # Errors
    /// `signer-unavailable` when the CA key can't sign.
    pub async fn certify_client(
        self: &Arc<Self>,
        name: String,
        key: VerifyingKey,
        days: u32,
    ) -> Result<Vec<B64>, Refused> {
        let worker = Arc::clone(self);
        self.run(move || {
            let lifetime = Duration::from_secs(u64::from(days).saturating_mul(86_400));
            let der = worker.ca.client(&name, &key, worker.now_ms() / 1_000, lifetime).map_err(|fault| {
                tracing::error!(%fault, "the CA can't sign");
                Refused::from(RefusalCode::SignerUnavailable)
            })?;
            Ok(vec![B64(der), B64(worker.ca.certificate().to_vec())])
        })
        .await
    }

    /// A head key signs nothing here any more.
    fn release_head_key(&self, key: &VerifyingKey) {
        self.ring.remove(key);
        lock(&self.head_keys).retain(|held| held.verifying_key() != key);
    }

    /// Copies the newest signed head into the token. Blocks for the device.
    fn copy_memory(&self) {
        let Some(head) = self.sequencer.signed_head() else { return };
        let copy = crate::sign::Remembered {
            size: head.size(),
            digest: *head.digest(),
            root: head.body().sha256_root,
        };
        if let Err(fault) = self.key_store.remember(self.origin().as_str(), &copy) {
            tracing::warn!(%fault, "the token has no copy of the newest head");
        }
    }
}

fn read_fault(fault: ReadFault) -> Refused {
    tracing::warn!(code = fault.code().as_str(), %fault, "the store can't be read");
    fault.code().into()
}
