//! A new head key: made in its token, introduced when an officer has approved it, activated when every gateway knows it, the old one retired after both have signed one head.
//!
//! JWT keys go the same way, but that nobody acknowledges them: a new one is published for as long as a lease before it signs, the first one signs at
//! once, and nothing is signed twice.
//!
//! The state of a rotation is the control chain alone: a head key that is introduced and neither activated nor ended waits; two active ones
//! mean that the older is to go. So a restart at any point goes on where the chain stands (PROTOCOL §8.5, DESIGN "Keys").

use super::Authority;
use super::lock;
use crate::acts::{Draft, Mandate, act};
use crate::api::problem::Refused;
use crate::custody;
use crate::sequence::Entry;
use crate::sign::CustodyKey;
use countersign_core::api::B64;
use countersign_core::api::admin::KeyPrepared;
use countersign_core::control::{ControlState, HeadKey};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::control::{Approval, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, Role};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;
use countersign_hsm::FaultClass;
use countersign_hsm::worker::{SignerHandle, WorkerLimits};
use std::sync::Arc;

/// On top of the lease: what gateways' clocks may be off (PROTOCOL §13.1).
const SKEW_MS: u64 = 2_000;

fn keys(control: &ControlState, purpose: KeyPurpose) -> &[HeadKey] {
    match purpose {
        KeyPurpose::Head => control.head_keys(),
        KeyPurpose::Jwt => control.jwt_keys(),
        KeyPurpose::Ca => &[],
    }
}

fn waiting(control: &ControlState, purpose: KeyPurpose) -> Option<&HeadKey> {
    keys(control, purpose).iter().find(|key| key.activated.is_none() && key.ended.is_none())
}

fn refused(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(RefusalCode::RotationRefused, detail)
}

/// A key in its token that isn't in the log: it waits for an officer's approval.
pub(super) struct PreparedKey {
    key: Arc<CustodyKey>,
    record: KeyRecord,
    custody: custody::CustodyRecord,
}

/// Makes a key in the token and reads its custody back. Nothing is appended: an officer looks at it first. A key that was made under this label
/// and never introduced is taken again.
///
/// # Errors
/// `rotation-refused` while another rotation is under way, and when the device refuses.
pub async fn prepare(
    authority: &Arc<Authority>,
    label: String,
    purpose: KeyPurpose,
    by: Sha256Digest,
) -> Result<KeyPrepared, Refused> {
    let Ok(_one) = authority.rotating.try_lock() else {
        return Err(refused("another rotation is under way"));
    };
    idle(&authority.control(), purpose)?;
    let worker = Arc::clone(authority);
    let made =
        authority.run(move || make(&worker, &label, purpose, by).map_err(|fault| refused(fault.to_string())));
    let prepared = made.await?;
    let document = KeyPrepared {
        key: JsonKey::from(prepared.record.key.clone()),
        backend: prepared
            .record
            .introduction
            .as_ref()
            .map(|made| made.backend.clone())
            .ok_or(RefusalCode::Internal)?,
        custody: B64(prepared.custody.bytes().to_vec()),
    };
    *lock(&authority.prepared) = Some(prepared);
    Ok(document)
}

/// Introduces the key that was prepared, with an officer's approval.
///
/// # Errors
/// `rotation-refused` if no such key is prepared or another rotation is under way; `approval-invalid`; faults of the log.
pub async fn introduce(
    authority: &Arc<Authority>,
    thumbprint: &Sha256Digest,
    approval: Approval,
    by: Sha256Digest,
) -> Result<(), Refused> {
    let Ok(_one) = authority.rotating.try_lock() else {
        return Err(refused("another rotation is under way"));
    };
    let (key, record, custody) = {
        let prepared = lock(&authority.prepared);
        let found = prepared.as_ref().filter(|prepared| prepared.record.key.thumbprint() == *thumbprint);
        let found = found.ok_or_else(|| refused("no such key is prepared"))?;
        let mut record = KeyRecord { by: Some(by), ..found.record.clone() };
        if let Some(introduction) = &mut record.introduction {
            introduction.approval = Some(approval);
        }
        (Arc::clone(&found.key), record, found.custody.clone())
    };
    let admissible = |control: &ControlState| {
        idle(control, record.purpose)?;
        control.require_introduction(&record).map_err(|_| Refused::from(RefusalCode::ApprovalInvalid))
    };
    admissible(&authority.control())?;
    // On the ring before anything can make it active: the sequencer must never miss a key that has to sign.
    if record.purpose == KeyPurpose::Head {
        let handle: Arc<dyn crate::sign::HeadKey> = Arc::clone(&key) as _;
        authority.ring.add(&handle);
        lock(&authority.head_keys).push(key);
    }
    act(authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        admissible(control)?;
        Ok(Draft::of(Entry::plain(Kind::Key, record.encode())).with_blob(custody.bytes()))
    })
    .await?;
    *lock(&authority.prepared) = None;
    tracing::info!(key = %record.key.thumbprint(), purpose = ?record.purpose, "key introduced");
    Ok(())
}

/// Withdraws a JWT key at once, also one that a successor has replaced: nobody needs it to read the log, and who doesn't trust its token any
/// more wants it gone.
///
/// # Errors
/// `not-found` if there is no such key, or it is withdrawn; faults of the log.
pub async fn withdraw(
    authority: &Arc<Authority>,
    thumbprint: &Sha256Digest,
    by: Sha256Digest,
) -> Result<(), Refused> {
    act(authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        let held = |key: &&HeadKey| !key.compromised && key.key.thumbprint() == *thumbprint;
        let key = control.jwt_keys().iter().find(held).ok_or(RefusalCode::NotFound)?;
        let (event, purpose) = (KeyEvent::Deactivated, KeyPurpose::Jwt);
        let record = KeyRecord { event, purpose, key: key.key.clone(), introduction: None, by: Some(by) };
        Ok(Draft::of(Entry::plain(Kind::Key, record.encode())))
    })
    .await?;
    tracing::warn!(key = %thumbprint, "JWT key withdrawn");
    Ok(())
}

fn idle(control: &ControlState, purpose: KeyPurpose) -> Result<(), Refused> {
    if waiting(control, purpose).is_some() || active(control, purpose).count() > 1 {
        return Err(refused("another rotation is under way"));
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum MakeFault {
    #[error(transparent)]
    Device(#[from] countersign_hsm::SignFault),
    #[error("the log knows a key of this label")]
    Known,
    #[error("no thread for the new key: {0}")]
    Thread(#[from] std::io::Error),
}

fn make(
    authority: &Authority,
    label: &str,
    purpose: KeyPurpose,
    by: Sha256Digest,
) -> Result<PreparedKey, MakeFault> {
    let keys = &authority.key_store;
    match keys.generate(label, keys.head_algorithm()) {
        Ok(_) => {}
        Err(fault) if fault.class() == FaultClass::KeyExists => {}
        Err(fault) => return Err(fault.into()),
    }
    let mut signer = keys.signer(label)?;
    let control = authority.control();
    let mut logged = control.head_keys().iter().chain(control.jwt_keys());
    let known = logged.any(|known| known.key == *signer.public_key());
    if known || signer.public_key() == authority.ca.signer().public_key() {
        return Err(MakeFault::Known);
    }
    let origin = authority.origin().as_str();
    let (record, custody) = custody::introduce(signer.as_mut(), label, purpose, origin, Some(by))?;
    let handle = SignerHandle::start("new-signer", signer, WorkerLimits::default())?;
    Ok(PreparedKey { key: Arc::new(CustodyKey::new(handle)), record, custody })
}

fn active(control: &ControlState, purpose: KeyPurpose) -> impl Iterator<Item = &HeadKey> {
    keys(control, purpose).iter().filter(|key| key.activated.is_some() && key.ended.is_none())
}

/// Takes the next step of a rotation, if one is due. Called again and again.
pub(super) async fn step(authority: &Arc<Authority>) -> Result<(), Refused> {
    for purpose in [KeyPurpose::Head, KeyPurpose::Jwt] {
        step_of(authority, purpose).await?;
    }
    Ok(())
}

async fn step_of(authority: &Arc<Authority>, purpose: KeyPurpose) -> Result<(), Refused> {
    let control = authority.control();
    if waiting(&control, purpose).is_none() && active(&control, purpose).count() < 2 {
        return Ok(());
    }
    let Ok(_one) = authority.rotating.try_lock() else { return Ok(()) };
    let control = authority.control();
    if let Some(key) = waiting(&control, purpose) {
        let (worker, introduced) = (Arc::clone(authority), key.introduced);
        let Some(by) = authority.run(move || due(&worker, introduced, purpose)).await? else { return Ok(()) };
        append(authority, (purpose, &key.key), KeyEvent::Activated, by).await?;
    }
    retire_older(authority, purpose).await
}

/// Who asked for the key, if every gateway knows it by now, or has stopped admitting; a JWT key, if its readers had that time or none before it signs.
fn due(
    authority: &Authority,
    introduced: u64,
    purpose: KeyPurpose,
) -> Result<Option<Option<Sha256Digest>>, Refused> {
    let internal = || Refused::from(RefusalCode::LogUnavailable);
    let leaves =
        authority.reader().control_leaves(introduced.saturating_sub(1), 1).map_err(super::read_fault)?;
    let (_, bytes) = leaves.first().ok_or_else(internal)?;
    let leaf = Leaf::parse(bytes).map_err(|_| internal())?;
    let by = KeyRecord::parse(&leaf.body).map_err(|_| internal())?.by;
    let wait_ms = authority.bundle().lease_secs().saturating_mul(1_000).saturating_add(SKEW_MS);
    if authority.decision_time_ms() >= leaf.time_ms.saturating_add(wait_ms) {
        return Ok(Some(by));
    }
    let control = authority.control();
    if purpose != KeyPurpose::Head {
        return Ok(control.jwt_key().is_none().then_some(by));
    }
    let acknowledged = authority.reader().acknowledgements().map_err(super::read_fault)?;
    let mut gateways = control.principals().filter(|(thumbprint, principal)| {
        principal.kind == PrincipalKind::Gateway && control.principal(thumbprint).is_some()
    });
    let all = gateways.all(|(thumbprint, _)| {
        acknowledged.iter().any(|row| row.gateway == *thumbprint && row.control >= introduced)
    });
    Ok(all.then_some(by))
}

/// A crash before this: two keys are active, both sign, and the next step comes here again.
async fn retire_older(authority: &Arc<Authority>, purpose: KeyPurpose) -> Result<(), Refused> {
    let control = authority.control();
    let newest = active(&control, purpose).filter_map(|key| key.activated).max();
    for key in active(&control, purpose).filter(|key| key.activated != newest) {
        append(authority, (purpose, &key.key), KeyEvent::Deactivated, None).await?;
        if purpose == KeyPurpose::Head {
            authority.release_head_key(&key.key);
        }
    }
    Ok(())
}

async fn append(
    authority: &Arc<Authority>,
    (purpose, key): (KeyPurpose, &VerifyingKey),
    event: KeyEvent,
    by: Option<Sha256Digest>,
) -> Result<(), Refused> {
    let record = KeyRecord { event, purpose, key: key.clone(), introduction: None, by };
    act(authority, Mandate::Authority, |_| Ok(Draft::of(Entry::plain(Kind::Key, record.encode())))).await?;
    tracing::info!(key = %key.thumbprint(), ?purpose, ?event, "key changed state");
    Ok(())
}
