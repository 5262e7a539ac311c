//! What tests of the log need: keys in memory that can be taken away, leaves of every kind, and a rig of store, signer and sequencer that
//! can be stopped and opened again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use countersign_core::artifact::Receipt;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use countersign_core::leaf::Kind;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::control::{
    EpochRecord, Introduction, KeyEvent, KeyPurpose, KeyRecord, key_possession,
};
use countersign_core::leaf::decision::{
    Decision, Delegation, LeafRef, Lineage, PolicyClaim, Verdict as Decided,
};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState, Tier,
};
use countersign_core::leaf::record::JoinToken;
use countersign_core::name::{Action, Audience, HostId, Origin, RequestId, RuntimeId, TrustDomain};
use countersign_core::refusal::RefusalCode;
use countersign_fixture::Postgres;
use tempfile::TempDir;

use super::super::{
    Append, Entry, EntryBody, Guard, Health, Outcome, RequestRef, SequenceFault, Sequencer, SequencerLimits,
    SequencerParts, Spend, StartFault,
};
use crate::clock::DrivenClock;
use crate::sign::{HeadKey, KeyRing, SignFault, SignerMemory};
use crate::store::failpoint::{FailpointSet, Failpoints, Injected, WritePoint};
use crate::store::postgres::PostgresOptions;
use crate::store::sqlite::SqliteOptions;
use crate::store::{Opened, Place, Reader, Receipts};

pub(crate) const NOW: u64 = 1_760_000_000_000;
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The evidence that decisions of these tests name, unless they say otherwise.
pub(crate) const EVIDENCE: Sha256Digest = Sha256Digest::new([8; 32]);

pub(crate) fn origin() -> Origin {
    Origin::parse("log.countersign.example/test").unwrap()
}

/// A private key in memory that can be taken away, be made to lie, and be slow.
pub(crate) struct SoftwareKey {
    private: Private,
    public: VerifyingKey,
    pub(crate) away: AtomicBool,
    pub(crate) lies: AtomicBool,
    pub(crate) panics: AtomicBool,
    pub(crate) delay_ms: AtomicU64,
    /// Everything that it ever signed.
    pub(crate) messages: Mutex<Vec<String>>,
}

enum Private {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl SoftwareKey {
    pub(crate) fn new(algorithm: Algorithm) -> Arc<Self> {
        let (private, raw) = match algorithm {
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let raw = pair.public_key().as_ref().to_vec();
                (Private::Ed25519(pair), raw)
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
                let raw = pair.public_key().as_ref().to_vec();
                (Private::P256(pair), raw)
            }
        };
        Arc::new(Self {
            private,
            public: VerifyingKey::from_raw(algorithm, &raw).unwrap(),
            away: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            messages: Mutex::default(),
        })
    }

    pub(crate) fn raw_sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = match &self.private {
            Private::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Private::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        };
        signature.try_into().unwrap()
    }
}

impl HeadKey for SoftwareKey {
    fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignFault> {
        std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
        if self.away.load(Ordering::SeqCst) {
            return Err(SignFault::Device { code: "signer-token-absent", reason: "taken away".to_owned() });
        }
        self.messages.lock().unwrap().push(String::from_utf8(message.to_vec()).unwrap());
        assert!(!self.panics.load(Ordering::SeqCst), "told to panic");
        let mut signature = self.raw_sign(message);
        if self.lies.load(Ordering::SeqCst) {
            signature[9] ^= 1;
        }
        Ok(signature)
    }
}

/// The leaves that publish a head key and make it sign.
pub(crate) fn introduce(key: &SoftwareKey) -> Entry {
    let possession = key.raw_sign(&key_possession(origin().as_str(), KeyPurpose::Head, &key.public)).to_vec();
    let introduction = Introduction {
        possession,
        backend: "test".to_owned(),
        custody: Sha256Digest::new([7; 32]),
        approval: None,
    };
    key_entry(key, KeyEvent::Introduced, Some(introduction))
}

pub(crate) fn key_event(key: &SoftwareKey, event: KeyEvent) -> Entry {
    key_entry(key, event, None)
}

fn key_entry(key: &SoftwareKey, event: KeyEvent, introduction: Option<Introduction>) -> Entry {
    let record =
        KeyRecord { event, purpose: KeyPurpose::Head, key: key.public.clone(), introduction, by: None };
    Entry::plain(Kind::Key, record.encode())
}

pub(crate) fn epoch(epoch: u64) -> Entry {
    let record = EpochRecord { document: Sha256Digest::new([3; 32]), epoch, by: Sha256Digest::new([4; 32]) };
    Entry::plain(Kind::Policy, record.encode())
}

pub(crate) fn host(number: u8) -> HostId {
    let mut bytes = [number; 33];
    bytes[0] = 1;
    HostId::from_slice(&bytes).unwrap()
}

pub(crate) fn host_key(number: u8) -> VerifyingKey {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    VerifyingKey::from_raw(Algorithm::EdDsa, pair.public_key().as_ref()).unwrap()
}

pub(crate) fn enrolment(host: HostId, key: u8, version: u64, token: Option<Sha256Digest>) -> Entry {
    let record = Enrolment {
        host,
        ek_public: sha256(host.as_bytes()),
        ek_certificate: None,
        ak_public: Sha256Digest::new([5; 32]),
        ak_name: vec![0, 11, 1],
        host_key: host_key(key),
        host_key_kind: HostKeyKind::Certified,
        admission: if token.is_some() { Admission::JoinToken } else { Admission::Preregistered },
        token,
        activation: Sha256Digest::new([6; 32]),
        version,
        endorsement: Endorsement {
            kind: EndorsementKind::EkAllowed,
            weak_key: false,
            tpm: None,
            device: None,
        },
    };
    Entry::plain(Kind::Enrolment, record.encode())
}

pub(crate) fn enrol(number: u8) -> Append {
    let host = host(number);
    Append { guards: vec![Guard::HostAbsent(host)], ..Append::of(vec![enrolment(host, number, 1, None)]) }
}

pub(crate) fn token(number: u8, expires_ms: u64) -> (Sha256Digest, Entry) {
    let token = Sha256Digest::new([number; 32]);
    let record = JoinToken { token, expires_ms, by: Sha256Digest::new([4; 32]) };
    (token, Entry::plain(Kind::JoinToken, record.encode()))
}

pub(crate) fn state(version: u64, clock_ms: u64) -> HostState {
    HostState {
        clock_ms,
        reset_count: u32::try_from(version).unwrap(),
        trusted_until_ms: NOW + 300_000,
        tier: Tier::Affirming,
        evidence: Some(EVIDENCE),
        ..HostState::unattested(version)
    }
}

/// A decision over request `id` of `host`, with everything that tests vary.
pub(crate) struct Call {
    pub(crate) host: HostId,
    pub(crate) id: String,
    pub(crate) allow: bool,
    pub(crate) state: HostState,
    pub(crate) evidence: Sha256Digest,
    pub(crate) parents: Vec<LeafRef>,
    pub(crate) budget: Option<u64>,
    /// Makes the request's bytes, and so its digest, differ.
    pub(crate) variant: u8,
}

impl Call {
    pub(crate) fn new(host: HostId, id: &str) -> Self {
        Self {
            host,
            id: id.to_owned(),
            allow: true,
            state: state(1, 1_000),
            evidence: EVIDENCE,
            parents: Vec::new(),
            budget: None,
            variant: 0,
        }
    }

    pub(crate) fn request(&self) -> RequestRef {
        let digest = sha256(format!("{}/{}/{}", self.host, self.id, self.variant).as_bytes());
        RequestRef { host: self.host, id: RequestId::parse(&self.id).unwrap(), digest }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let domain = TrustDomain::parse("test.example").unwrap();
        let delegation = self.budget.map(|budget| Delegation {
            actions: vec![Action::parse("exec").unwrap()],
            audiences: vec![Audience::parse("gw").unwrap()],
            depth: 1,
            budget,
        });
        let request = self.request();
        let decision = Decision {
            issuer: origin(),
            runtime: RuntimeId::new(&domain, &self.host, "svc/worker").unwrap(),
            audience: Audience::parse("gw").unwrap(),
            issued_at: NOW / 1_000,
            request_id: request.id,
            holder: host_key(9),
            host: self.host,
            verdict: if self.allow {
                Decided::Allow { nbf: NOW / 1_000, exp: NOW / 1_000 + 60 }
            } else {
                Decided::Deny(RefusalCode::PolicyDenied)
            },
            request: request.digest,
            workload: Sha256Digest::new([1; 32]),
            action: Action::parse("exec").unwrap(),
            arguments: Sha256Digest::new([2; 32]),
            lineage: Lineage {
                parents: self.parents.clone(),
                root: self.parents.first().copied(),
                depth: u64::from(!self.parents.is_empty()),
            },
            delegation,
            policy: Some(PolicyClaim {
                digest: Sha256Digest::new([3; 32]),
                epoch: 1,
                determining: vec!["allow-exec".to_owned()],
            }),
            evidence: self.evidence,
            appraisal: Appraisal {
                tier: Tier::Affirming,
                vector: vec![(0, 2), (1, 2), (2, 2), (4, 2)],
                reference_set: Some("base".to_owned()),
            },
            host_state: self.state,
            inputs: Sha256Digest::new([9; 32]),
            asserted: vec!["runtime".to_owned(), "workload".to_owned()],
            engine: "test-1".to_owned(),
            control: 2,
        };
        decision.encode()
    }

    pub(crate) fn entry(&self) -> Entry {
        let amount = self.budget.unwrap_or(0) + 1;
        let charges = if self.allow { &self.parents[..] } else { &[] };
        Entry {
            kind: if self.allow { Kind::Allow } else { Kind::Deny },
            body: EntryBody::Bytes(self.body()),
            request: Some(self.request()),
            charges: charges.iter().map(|(index, _)| (*index, amount)).collect(),
        }
    }

    /// As a call of its own, with a challenge of its own.
    pub(crate) fn append(&self) -> Append {
        let challenge = sha256(format!("challenge {}/{}", self.host, self.id).as_bytes());
        self.append_with(challenge)
    }

    pub(crate) fn append_with(&self, challenge: Sha256Digest) -> Append {
        let inputs: Arc<[u8]> = format!("inputs of {}/{}", self.host, self.id).into_bytes().into();
        Append {
            guards: vec![Guard::HostVersion(self.host, self.state.version)],
            spends: vec![Spend::Challenge { digest: challenge, expires_ms: NOW + 60_000 }],
            blobs: vec![(sha256(&inputs), inputs)],
            named: Vec::new(),
            entries: vec![self.entry()],
        }
    }
}

/// Fails once, at the chosen point, on the chosen pass.
#[derive(Default)]
pub(crate) struct FailOnce {
    pub(crate) armed: Mutex<Option<(WritePoint, Injected)>>,
    pub(crate) hit: AtomicBool,
}

impl Failpoints for FailOnce {
    fn reach(&self, point: WritePoint) -> Option<Injected> {
        let mut armed = self.armed.lock().unwrap();
        let (at, what) = (*armed)?;
        if at != point {
            return None;
        }
        *armed = None;
        self.hit.store(true, Ordering::SeqCst);
        Some(what)
    }
}

/// SQL that makes the clock of a database stand there.
pub(crate) fn database_clock(ms: u64) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION countersign.clock_ms() RETURNS bigint LANGUAGE sql AS 'SELECT {ms}::bigint'"
    )
}

/// Which store a log is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Sqlite,
    Postgres,
}

impl StoreKind {
    /// Every one that there is.
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];
}

/// A log and everything around it, as one process has it.
pub(crate) struct Rig {
    /// Where the store is, without failpoints.
    pub(crate) place: Place,
    /// Keeps the database's server alive.
    pub(crate) server: Option<Arc<Postgres>>,
    pub(crate) directory: TempDir,
    pub(crate) clock: Arc<DrivenClock>,
    pub(crate) recovery: VerifyingKey,
    pub(crate) key: Arc<SoftwareKey>,
    /// A key of either algorithm for rotations; the recovery key names them too, so nobody has to approve them.
    pub(crate) spare: [Arc<SoftwareKey>; 2],
    pub(crate) ring: KeyRing,
    pub(crate) failpoints: Arc<FailOnce>,
    pub(crate) halt: Arc<AtomicBool>,
    pub(crate) limits: SequencerLimits,
}

/// What [`Rig::open`] opens.
pub(crate) struct Log {
    pub(crate) sequencer: Sequencer,
    pub(crate) reader: Arc<dyn Reader>,
}

impl Rig {
    /// An empty log whose head key is of this algorithm.
    pub(crate) fn empty(algorithm: Algorithm) -> Self {
        Self::empty_in(StoreKind::Sqlite, algorithm)
    }

    /// The same in the store of one's choice.
    pub(crate) fn empty_in(store: StoreKind, algorithm: Algorithm) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = (store == StoreKind::Postgres).then(Postgres::shared);
        let place = match &server {
            None => Place::Sqlite(SqliteOptions::new(directory.path().join("log.db"), origin())),
            Some(server) => {
                let (host, database) = (server.socket_directory().to_str().unwrap(), server.database());
                let options = PostgresOptions::local(host, server.port(), &database, "postgres", origin());
                Place::Postgres(PostgresOptions { readers: 2, ..options })
            }
        };
        place.create().unwrap();
        if let (Some(server), Place::Postgres(options)) = (&server, &place) {
            // Tests drive their clocks: the database's is behind none of them, until a test says otherwise.
            server.psql(&options.database, &database_clock(i64::MAX.unsigned_abs()));
        }
        SignerMemory::create(&directory.path().join("memory")).unwrap();
        let key = SoftwareKey::new(algorithm);
        Self {
            place,
            server,
            directory,
            clock: Arc::new(DrivenClock::at(NOW)),
            recovery: host_key(200),
            ring: KeyRing::new(vec![Arc::clone(&key) as Arc<dyn HeadKey>]),
            key,
            spare: [Algorithm::EdDsa, Algorithm::Es256].map(SoftwareKey::new),
            failpoints: Arc::default(),
            halt: Arc::default(),
            limits: SequencerLimits { probe_every: Duration::from_millis(10), ..SequencerLimits::default() },
        }
    }

    /// A log that has been initialised: its head key is active at control number 2.
    pub(crate) fn begun() -> (Self, Log) {
        Self::begun_in(StoreKind::Sqlite)
    }

    /// The same in the store of one's choice.
    pub(crate) fn begun_in(store: StoreKind) -> (Self, Log) {
        let rig = Self::empty_in(store, Algorithm::EdDsa);
        let log = rig.open().unwrap();
        let first = Append::of(vec![introduce(&rig.key), key_event(&rig.key, KeyEvent::Activated)]);
        log.appended(first);
        (rig, log)
    }

    /// Another process with the same store and keys, but a memory of its own.
    pub(crate) fn replica(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        SignerMemory::create(&directory.path().join("memory")).unwrap();
        Self {
            place: self.place.clone(),
            server: self.server.clone(),
            directory,
            clock: Arc::clone(&self.clock),
            recovery: self.recovery.clone(),
            ring: self.ring.clone(),
            key: Arc::clone(&self.key),
            spare: self.spare.clone(),
            failpoints: Arc::default(),
            halt: Arc::default(),
            limits: self.limits,
        }
    }

    /// Runs SQL on the store behind everybody's back.
    pub(crate) fn tamper(&self, sql: &str) {
        match &self.place {
            Place::Sqlite(options) => {
                let connection = rusqlite::Connection::open(&options.path).unwrap();
                connection.execute_batch(sql).unwrap();
                connection.close().unwrap();
            }
            Place::Postgres(options) => {
                let sql = format!("SET search_path = countersign; {sql}");
                self.server.as_ref().unwrap().psql(&options.database, &sql);
            }
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path("log.db")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn armed_place(&self) -> Place {
        let failpoints = FailpointSet::of(Arc::clone(&self.failpoints) as Arc<dyn Failpoints>);
        match self.place.clone() {
            Place::Sqlite(options) => Place::Sqlite(SqliteOptions { failpoints, ..options }),
            Place::Postgres(options) => Place::Postgres(PostgresOptions { failpoints, ..options }),
        }
    }

    pub(crate) fn genesis(&self) -> ControlState {
        let keys = [&self.key, &self.spare[0], &self.spare[1]].map(|key| key.public.clone());
        ControlState::genesis(origin().as_str(), self.recovery.clone()).naming(&keys)
    }

    pub(crate) fn arm(&self, point: WritePoint, what: Injected) {
        self.failpoints.hit.store(false, Ordering::SeqCst);
        *self.failpoints.armed.lock().unwrap() = Some((point, what));
    }

    pub(crate) fn open(&self) -> Result<Log, StartFault> {
        let Opened { writer, reader } = self.armed_place().open().unwrap();
        let failpoints = FailpointSet::of(Arc::clone(&self.failpoints) as Arc<dyn Failpoints>);
        let memory = SignerMemory::open(&self.path("memory"), failpoints).unwrap();
        let sequencer = Sequencer::start(SequencerParts {
            writer,
            reader: Arc::clone(&reader),
            genesis: self.genesis(),
            ring: self.ring.clone(),
            memory,
            witnessed: Vec::new(),
            clock: Arc::clone(&self.clock) as Arc<_>,
            halt: Arc::clone(&self.halt),
            shared: self.place.is_shared(),
            limits: self.limits,
        })?;
        Ok(Log { sequencer, reader })
    }

    /// Copies the files of the store, as a backup does.
    pub(crate) fn copy_store(&self, to: &Path) {
        for suffix in ["", "-wal"] {
            let from = self.path(&format!("log.db{suffix}"));
            if from.exists() {
                std::fs::copy(&from, to.join(format!("log.db{suffix}"))).unwrap();
            }
        }
    }

    /// Puts the files of such a copy in the place of the store.
    pub(crate) fn restore_store(&self, from: &Path) {
        for suffix in ["", "-wal", "-shm"] {
            let name = format!("log.db{suffix}");
            let _ = std::fs::remove_file(self.path(&name));
            if from.join(&name).exists() {
                std::fs::copy(from.join(&name), self.path(&name)).unwrap();
            }
        }
    }
}

impl Log {
    pub(crate) fn submit(&self, append: Append) -> Result<Outcome, SequenceFault> {
        self.sequencer.submit(append)?.wait()
    }

    /// Appends, and checks every receipt as a relying party does.
    pub(crate) fn appended(&self, append: Append) -> Receipts {
        match self.submit(append).unwrap() {
            Outcome::Appended(receipts) => {
                self.check(&receipts);
                receipts
            }
            other => panic!("not appended: {other:?}"),
        }
    }

    pub(crate) fn check(&self, receipts: &Receipts) {
        let control = self.sequencer.control();
        for (text, receipt) in receipts.texts().zip(&receipts.leaves) {
            let parsed = Receipt::parse(&text).unwrap();
            assert_eq!(parsed.leaf().index, receipt.index);
            assert_eq!(parsed.leaf_hash(), &receipt.leaf_hash);
            parsed.verify_signature(&control).unwrap();
        }
    }

    pub(crate) fn wait_for(&self, health: Health) {
        let end = Instant::now() + DEADLINE;
        let seen = self.sequencer.health();
        while *seen.borrow() != health {
            assert!(Instant::now() < end, "still {:?}, not {health:?}", *seen.borrow());
            std::thread::yield_now();
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.reader.newest_committed().unwrap().map_or(0, |tip| tip.head.body().size)
    }

    /// Every head in the store, by size.
    pub(crate) fn bodies(&self) -> BTreeMap<u64, String> {
        let heads = self.reader.heads(0, 1_000).unwrap();
        heads.iter().map(|head| (head.body().size, head.text().to_owned())).collect()
    }
}
