//! From a configuration to a running [`Authority`]: everything is compared before anything serves.
//!
//! Refused: a bundle of another log, a CA key that isn't the one of the pinned certificate, a head key that is active and can't be opened or
//! isn't in custody, a store that was rolled back or contradicts itself, an empty store.

use super::budgets::Budgets;
use super::challenge_keys::challenge_key;
use super::cose::SignedRoots;
use super::documents::{Documents, DocumentsFault};
use super::ear::JwtDesk;
use super::endorsement::{Endorsements, RootsError};
use super::enrolments::OpenEnrolments;
use super::metrics::Metrics;
use super::pool::Pool;
use super::{Authority, Remembered};
use crate::challenge::ChallengeKeys;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
#[cfg(feature = "tpm")]
use crate::counter::{CounterFault, RollbackCounter};
use crate::custody::ca::Ca;
use crate::custody::certificate::certified_spki;
use crate::custody::{CustodyRecord, KeyStore};
use crate::lineage::Lineage;
use crate::policy::PolicyCache;
use crate::sequence::{Sequencer, SequencerLimits, SequencerParts, StartFault};
use crate::sign::{CustodyKey, HeadKey, KeyRing, MemoryFault, SignerMemory};
use crate::store::failpoint::FailpointSet;
use crate::store::{MAX_PAGE, OpenFault, Opened, ReadFault, Reader};
use crate::verify::{BootLogCache, Verifier};
use crate::witness::{Witnesses, WitnessesError};
use arc_swap::ArcSwap;
use countersign_core::bundle::{BundleError, TrustBundle};
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyPurpose, KeyRecord};
use countersign_core::leaf::{Kind, LeafError};
use countersign_hsm::SignFault;
use countersign_hsm::worker::{SignerHandle, WorkerLimits};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Boot logs whose replay is remembered: fleets boot a few kinds of machine.
const BOOT_LOGS: usize = 512;

/// Why the authority doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the authority's own can't be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The trust bundle isn't good.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The trust bundle is of another log or trust domain than the configuration.
    #[error("the trust bundle and the configuration name different logs or trust domains")]
    OtherLog,
    /// Heads would be made more rarely than the gateways need them.
    #[error(
        "limits.lease_secs is {configured}; the trust bundle publishes a lease of {published} s, and heads must not be rarer"
    )]
    Lease {
        /// In the configuration.
        configured: u64,
        /// In the trust bundle.
        published: u64,
    },
    /// The roots of TPM manufacturers.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A key can't be opened or isn't in custody.
    #[error("key {label:?}: {source}")]
    Key {
        /// Its label.
        label: String,
        /// What the device said.
        source: SignFault,
    },
    /// The token's copy of the signer's memory can't be read.
    #[error("the token's copy of the signer's memory: {0}")]
    Copy(SignFault),
    /// The CA key isn't the one that the trust bundle pins.
    #[error("the CA key isn't the one of the trust bundle's CA certificate")]
    OtherCa,
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenFault),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// A control leaf doesn't follow.
    #[error("the control chain doesn't fold: {0}")]
    Control(#[from] ControlError),
    /// A record in the store isn't well-formed.
    #[error("the store holds a malformed record: {0}")]
    Record(#[from] LeafError),
    /// No custody record says where an active key lives.
    #[error("nothing says where key {0} lives")]
    Unlocated(Sha256Digest),
    /// The log is empty: `init` did not end.
    #[error("the log is empty: initialise the authority first")]
    Empty,
    /// The signer's memory.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    /// The rollback counter, or what it says of the store.
    #[cfg(feature = "tpm")]
    #[error(transparent)]
    Counter(#[from] CounterFault),
    /// The sequencer.
    #[error(transparent)]
    Sequencer(#[from] StartFault),
    /// The quorum file, a witness's address, or what earlier processes noted of witnesses.
    #[error("witnesses: {0}")]
    Witnesses(#[from] WitnessesError),
    /// Policy or references in force.
    #[error(transparent)]
    Documents(#[from] DocumentsFault),
    /// The operating system gives no thread.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Starts everything but the listeners. Blocks: opens devices and the store.
pub(super) fn start(config: Config) -> Result<Authority, StartError> {
    let bundle = load_bundle(&config)?;
    let endorsements = Endorsements::load(&config.enrolment)?;
    let witnesses = Witnesses::open(&config)?;
    let (key_store, labels) = KeyStore::new(&config.signer);
    let ca = open_ca(&key_store, &labels.ca, &bundle)?;
    let place = config.store.place(&config.origin);
    let Opened { writer, reader } = place.open()?;
    let head_keys = open_head_keys(reader.as_ref(), &key_store, ControlState::of_bundle(&bundle))?;
    let ring = KeyRing::new(head_keys.iter().map(|key| Arc::clone(key) as Arc<dyn HeadKey>).collect());
    let memory = SignerMemory::open(&config.signer_memory_path(), FailpointSet::none())?;
    // Before the sequencer, whose start commits and signs.
    #[cfg(feature = "tpm")]
    let counter = open_counter(&config, reader.as_ref(), &bundle)?;
    let witnessed = key_store.recall(config.origin.as_str()).map_err(StartError::Copy)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sequencer = Sequencer::start(SequencerParts {
        writer,
        reader: Arc::clone(&reader),
        genesis: ControlState::of_bundle(&bundle),
        ring: ring.clone(),
        memory,
        witnessed: witnessed.into_iter().collect(),
        clock: Arc::clone(&clock),
        halt: witnesses.halt(),
        shared: place.is_shared(),
        limits: sequencer_limits(&config),
    })?;
    let policies = PolicyCache::default();
    let documents = Documents::load(sequencer.control(), None, &policies, reader.as_ref())?;
    let limits = &config.limits;
    let verifier =
        Verifier::new(config.origin.clone(), config.trust_domain.clone(), BootLogCache::new(BOOT_LOGS));
    let challenge_keys = challenge_keys(reader.as_ref())?;
    let authority = Authority {
        pool: Pool::start(limits.worker_count(), limits.queue)?,
        budgets: Budgets::of(limits),
        lineage: Lineage::start(&config.lineage_path(), &config.origin, Arc::clone(&reader))?,
        reader,
        sequencer,
        ring,
        head_keys: Mutex::new(head_keys),
        key_store,
        #[cfg(feature = "tpm")]
        counter,
        ca,
        verifier,
        policies,
        documents: ArcSwap::from_pointee(documents),
        challenge_keys: ArcSwap::from_pointee(challenge_keys),
        keys_looked_up: Mutex::default(),
        endorsements: ArcSwap::from_pointee(endorsements),
        clock,
        metrics: Metrics::new(),
        remembered: Remembered::default(),
        refusals: super::refusals::Refusals::default(),
        open_enrolments: OpenEnrolments::new(limits.pending_enrolments),
        rotating: tokio::sync::Mutex::new(()),
        prepared: Mutex::new(None),
        witnesses,
        cose_roots: SignedRoots::new(limits),
        jwts: JwtDesk::default(),
        connections: Mutex::default(),
        barred: Mutex::default(),
        bundle,
        config,
    };
    authority.open_jwt_key();
    Ok(authority)
}

fn challenge_keys(reader: &dyn Reader) -> Result<ChallengeKeys, StartError> {
    Ok(ChallengeKeys::new(reader.challenge_keys()?.iter().map(challenge_key).collect()))
}

fn sequencer_limits(config: &Config) -> SequencerLimits {
    let (queue, tell_faults_after) = (config.limits.queue, config.limits.heartbeat());
    SequencerLimits { queue, tell_faults_after, ..SequencerLimits::default() }
}

#[cfg(feature = "tpm")]
fn open_counter(
    config: &Config,
    reader: &dyn Reader,
    bundle: &TrustBundle,
) -> Result<Option<RollbackCounter>, CounterFault> {
    let open = |wanted| RollbackCounter::open(wanted, &config.rollback_counter_path(), reader, bundle);
    config.rollback_counter.as_ref().map(open).transpose()
}

fn load_bundle(config: &Config) -> Result<TrustBundle, StartError> {
    let path = config.bundle_path();
    let bytes = std::fs::read(&path).map_err(|source| StartError::File { path, source })?;
    let bundle = TrustBundle::verify(&bytes)?;
    if *bundle.origin() != config.origin || *bundle.trust_domain() != config.trust_domain {
        return Err(StartError::OtherLog);
    }
    let (configured, published) = (config.limits.lease_secs, bundle.lease_secs());
    if configured > published {
        return Err(StartError::Lease { configured, published });
    }
    Ok(bundle)
}

/// Opens a key, reads its custody back and gives it a thread.
pub(super) fn open_key(keys: &KeyStore, label: &str, thread: &str) -> Result<SignerHandle, StartError> {
    let fault = |source| StartError::Key { label: label.to_owned(), source };
    let mut signer = keys.signer(label).map_err(fault)?;
    let evidence = signer.custody().map_err(fault)?;
    tracing::info!(label, backend = evidence.backend.name(), "key in custody");
    Ok(SignerHandle::start(thread, signer, WorkerLimits::default())?)
}

/// The CA key, if it is the one of a certificate in the bundle.
pub(crate) fn open_ca(keys: &KeyStore, label: &str, bundle: &TrustBundle) -> Result<Ca, StartError> {
    let handle = open_key(keys, label, "ca-signer")?;
    let spki = handle.public_key().spki_der();
    let certificate = bundle.ca_certificates().iter().find(|der| certified_spki(der).as_ref() == Some(&spki));
    let certificate = certificate.ok_or(StartError::OtherCa)?.clone();
    Ok(Ca::new(handle, certificate))
}

/// Every head key that signs or is going to: where it lives stands in the custody record of its introduction.
fn open_head_keys(
    reader: &dyn Reader,
    keys: &KeyStore,
    mut control: ControlState,
) -> Result<Vec<Arc<CustodyKey>>, StartError> {
    let mut introduced: Vec<(VerifyingKey, Sha256Digest)> = Vec::new();
    loop {
        let leaves = reader.control_leaves(control.number(), MAX_PAGE)?;
        if leaves.is_empty() {
            break;
        }
        for (_, bytes) in leaves {
            let leaf = control.apply(&bytes)?;
            if leaf.kind == Kind::Key {
                let record = KeyRecord::parse(&leaf.body)?;
                if let (KeyPurpose::Head, Some(introduction)) = (record.purpose, record.introduction) {
                    introduced.push((record.key, introduction.custody));
                }
            }
        }
    }
    if control.number() == 0 {
        return Err(StartError::Empty);
    }
    let mut opened = Vec::new();
    for key in control.head_keys().iter().filter(|key| key.ended.is_none()) {
        let thumbprint = key.key.thumbprint();
        let custody = introduced.iter().find(|(known, _)| *known == key.key).map(|(_, custody)| custody);
        let record = match custody {
            Some(custody) => reader.blob(custody)?,
            None => None,
        };
        let label = CustodyRecord::label_of(&record.ok_or(StartError::Unlocated(thumbprint))?)?;
        let handle = open_key(keys, &label, "head-signer")?;
        if *handle.public_key() != key.key {
            return Err(StartError::Unlocated(thumbprint));
        }
        opened.push(Arc::new(CustodyKey::new(handle)));
    }
    Ok(opened)
}
