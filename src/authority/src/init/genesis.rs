//! The first leaves of a log: recovery statement, head key, CA key, JWT key, first operator; and the first signed head over them.

use super::files::Undo;
use super::{ADMIN_NAME, InitError, NewKey};
use crate::clock::SystemClock;
use crate::config::{Config, Store};
use crate::custody::CustodyRecord;
use crate::sequence::{Append, Entry, Outcome, Sequencer, SequencerLimits, SequencerParts};
use crate::sign::{CustodyKey, HeadKey, KeyRing, SignerMemory};
use crate::store::Opened;
use crate::store::failpoint::FailpointSet;
use countersign_core::bundle::TrustBundle;
use countersign_core::control::ControlState;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{
    KeyEvent, KeyRecord, PrincipalKind, PrincipalRecord, RecoveryRecord, Role,
};
use countersign_hsm::worker::{SignerHandle, WorkerLimits};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the log begins with.
pub(super) struct Beginning {
    pub(super) statement: RecoveryRecord,
    pub(super) head: NewKey,
    pub(super) ca: (KeyRecord, CustodyRecord),
    pub(super) jwt: (KeyRecord, CustodyRecord),
    pub(super) admin_key: VerifyingKey,
}

/// Makes the store and the signer's memory, appends, and waits for the first signed head.
pub(super) fn begin_log(
    config: &Config,
    bundle: &TrustBundle,
    beginning: Beginning,
    undo: &mut Undo,
) -> Result<(), InitError> {
    let place = config.store.place(&config.origin);
    if let Store::Sqlite { path } = &config.store {
        for file in store_files(path) {
            undo.file(&file);
        }
    }
    place.create()?;
    undo.store(&place);
    let memory = config.signer_memory_path();
    undo.file(&memory);
    SignerMemory::create(&memory)?;
    let Beginning { statement, head, ca, jwt, admin_key } = beginning;
    let keys = [(&head.record, &head.custody), (&ca.0, &ca.1), (&jwt.0, &jwt.1)];
    let append = first_leaves(&statement, keys, &admin_key);
    let handle = SignerHandle::start("head-signer", head.signer, WorkerLimits::default());
    let key: Arc<dyn HeadKey> = Arc::new(CustodyKey::new(handle.map_err(InitError::Thread)?));
    let Opened { writer, reader } = place.open()?;
    let sequencer = Sequencer::start(SequencerParts {
        writer,
        reader,
        genesis: ControlState::of_bundle(bundle),
        ring: KeyRing::new(vec![key]),
        memory: SignerMemory::open(&memory, FailpointSet::none())?,
        witnessed: Vec::new(),
        clock: Arc::new(SystemClock),
        halt: Arc::default(),
        shared: place.is_shared(),
        limits: SequencerLimits::default(),
    })?;
    let outcome = sequencer.submit(append)?.wait()?;
    sequencer.stop();
    // Appended means: durable, under a head whose signature verified and is stored.
    if matches!(outcome, Outcome::Appended(_)) { Ok(()) } else { Err(InitError::NotAppended) }
}

/// The database and what SQLite puts beside it.
fn store_files(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", ".lock"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

fn first_leaves(
    statement: &RecoveryRecord,
    keys: [(&KeyRecord, &CustodyRecord); 3],
    admin_key: &VerifyingKey,
) -> Append {
    let activated =
        |record: &KeyRecord| KeyRecord { event: KeyEvent::Activated, introduction: None, ..record.clone() };
    let admin = PrincipalRecord {
        added: true,
        kind: PrincipalKind::Operator(Role::SecurityOfficer),
        thumbprint: admin_key.thumbprint(),
        name: ADMIN_NAME.to_owned(),
        by: None,
        // The recovery statement names the first officer.
        approval: None,
    };
    let mut entries = vec![Entry::plain(Kind::Recovery, statement.encode())];
    for (record, _) in keys {
        entries.push(Entry::plain(Kind::Key, record.encode()));
        entries.push(Entry::plain(Kind::Key, activated(record).encode()));
    }
    // Last: from here on new keys need an officer's approval.
    entries.push(Entry::plain(Kind::Principal, admin.encode()));
    let mut append = Append::of(entries);
    append.blobs =
        keys.map(|(_, custody)| (custody.digest(), Arc::from(custody.bytes()))).into_iter().collect();
    append
}
