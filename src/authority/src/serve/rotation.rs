//! A new head key: introduced at once, activated when every gateway knows it, the old one retired after both have signed one head.
//!
//! The state of a rotation is the control chain alone: a head key that is introduced and neither activated nor ended waits; two active ones
//! mean that the older is to go. So a restart at any point goes on where the chain stands (PROTOCOL §8.5, DESIGN "Keys").

use super::Authority;
use super::lock;
use crate::acts::{Draft, Mandate, act};
use crate::api::problem::Refused;
use crate::custody;
use crate::sequence::Entry;
use crate::sign::{CustodyKey, HeadKey as _};
use countersign_core::control::{ControlState, HeadKey};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, Role};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;
use countersign_hsm::worker::{SignerHandle, WorkerLimits};
use std::sync::Arc;

/// On top of the lease: what gateways' clocks may be off (PROTOCOL §13.1).
const SKEW_MS: u64 = 2_000;

fn waiting(control: &ControlState) -> Option<&HeadKey> {
    control.head_keys().iter().find(|key| key.activated.is_none() && key.ended.is_none())
}

fn refused(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(RefusalCode::RotationRefused, detail)
}

/// Makes a key in the token, reads its custody back, and introduces it.
///
/// # Errors
/// `rotation-refused` while another rotation is under way, and when the device refuses; faults of the log.
pub async fn introduce(authority: &Arc<Authority>, label: String, by: Sha256Digest) -> Result<(), Refused> {
    let Ok(_one) = authority.rotating.try_lock() else {
        return Err(refused("another rotation is under way"));
    };
    let control = authority.control();
    if waiting(&control).is_some() || active(&control).count() > 1 {
        return Err(refused("another rotation is under way"));
    }
    let worker = Arc::clone(authority);
    let made = authority.run(move || make(&worker, &label, by).map_err(|fault| refused(fault.to_string())));
    let (key, record, custody) = made.await?;
    // On the ring before anything can make it active: the sequencer must never miss a key that has to sign.
    let handle: Arc<dyn crate::sign::HeadKey> = Arc::clone(&key) as _;
    authority.ring.add(&handle);
    lock(&authority.head_keys).push(key);
    act(authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        if waiting(control).is_some() {
            return Err(refused("another rotation is under way"));
        }
        Ok(Draft::of(Entry::plain(Kind::Key, record.encode())).with_blob(custody.bytes()))
    })
    .await?;
    tracing::info!(key = %record.key.thumbprint(), "head key introduced");
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum MakeFault {
    #[error(transparent)]
    Device(#[from] countersign_hsm::SignFault),
    #[error("no thread for the new key: {0}")]
    Thread(#[from] std::io::Error),
}

fn make(
    authority: &Authority,
    label: &str,
    by: Sha256Digest,
) -> Result<(Arc<CustodyKey>, KeyRecord, custody::CustodyRecord), MakeFault> {
    let keys = &authority.key_store;
    keys.generate(label, keys.head_algorithm())?;
    let mut signer = keys.signer(label)?;
    let origin = authority.origin().as_str();
    let (record, custody) = custody::introduce(signer.as_mut(), label, KeyPurpose::Head, origin, Some(by))?;
    let handle = SignerHandle::start("head-signer", signer, WorkerLimits::default())?;
    Ok((Arc::new(CustodyKey::new(handle)), record, custody))
}

fn active(control: &ControlState) -> impl Iterator<Item = &HeadKey> {
    control.head_keys().iter().filter(|key| key.activated.is_some() && key.ended.is_none())
}

/// Takes the next step of a rotation, if one is due. Called again and again.
pub(super) async fn step(authority: &Arc<Authority>) -> Result<(), Refused> {
    let control = authority.control();
    if waiting(&control).is_none() && active(&control).count() < 2 {
        return Ok(());
    }
    let Ok(_one) = authority.rotating.try_lock() else { return Ok(()) };
    let control = authority.control();
    if let Some(key) = waiting(&control) {
        let (worker, introduced) = (Arc::clone(authority), key.introduced);
        let Some(by) = authority.run(move || due(&worker, introduced)).await? else { return Ok(()) };
        append(authority, &key.key, KeyEvent::Activated, by).await?;
    }
    retire_older(authority).await
}

/// Who asked for the key, if every gateway knows it by now, or has stopped admitting.
fn due(authority: &Authority, introduced: u64) -> Result<Option<Option<Sha256Digest>>, Refused> {
    let internal = || Refused::from(RefusalCode::LogUnavailable);
    let leaves =
        authority.reader().control_leaves(introduced.saturating_sub(1), 1).map_err(super::read_fault)?;
    let (_, bytes) = leaves.first().ok_or_else(internal)?;
    let leaf = Leaf::parse(bytes).map_err(|_| internal())?;
    let by = KeyRecord::parse(&leaf.body).map_err(|_| internal())?.by;
    let wait_ms = authority.config().limits.lease_secs.saturating_mul(1_000).saturating_add(SKEW_MS);
    if authority.decision_time_ms() >= leaf.time_ms.saturating_add(wait_ms) {
        return Ok(Some(by));
    }
    let acknowledged = authority.reader().acknowledgements().map_err(super::read_fault)?;
    let control = authority.control();
    let mut gateways = control.principals().filter(|(thumbprint, principal)| {
        principal.kind == PrincipalKind::Gateway && control.principal(thumbprint).is_some()
    });
    let all = gateways.all(|(thumbprint, _)| {
        acknowledged.iter().any(|row| row.gateway == *thumbprint && row.control >= introduced)
    });
    Ok(all.then_some(by))
}

/// A crash before this: two keys are active, both sign, and the next step comes here again.
async fn retire_older(authority: &Arc<Authority>) -> Result<(), Refused> {
    let control = authority.control();
    let newest = active(&control).filter_map(|key| key.activated).max();
    for key in active(&control).filter(|key| key.activated != newest) {
        append(authority, &key.key, KeyEvent::Deactivated, None).await?;
        authority.ring.remove(&key.key);
        lock(&authority.head_keys).retain(|held| *held.verifying_key() != key.key);
    }
    Ok(())
}

async fn append(
    authority: &Arc<Authority>,
    key: &VerifyingKey,
    event: KeyEvent,
    by: Option<Sha256Digest>,
) -> Result<(), Refused> {
    let record = KeyRecord { event, purpose: KeyPurpose::Head, key: key.clone(), introduction: None, by };
    act(authority, Mandate::Authority, |_| Ok(Draft::of(Entry::plain(Kind::Key, record.encode())))).await?;
    tracing::info!(key = %key.thumbprint(), ?event, "head key changed state");
    Ok(())
}
