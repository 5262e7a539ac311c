//! The recovery key's word that a head key is compromised: held against this log, re-logged, and obeyed (PROTOCOL §8.5, §10).
//!
//! Comes in: a statement that somebody brings from where the recovery key is. Refused: one that the recovery key didn't sign, that isn't the next,
//! whose last good head isn't one of this log, that would leave no key to sign heads.

use super::{Authority, read_fault};
use crate::acts::{Draft, Mandate, act};
use crate::api::problem::Refused;
use crate::sequence::Entry;
use countersign_core::bundle::{Compromise, Says, Statement, statement_preimage};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{RecoveryRecord, Role};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

fn invalid(what: &'static str) -> Refused {
    Refused::new(RefusalCode::StatementInvalid, what)
}

/// Appends the statement; from its head on the key signs nothing any more.
///
/// # Errors
/// `statement-invalid`; faults of the log.
pub async fn record(
    authority: &Arc<Authority>,
    record: RecoveryRecord,
    by: Sha256Digest,
) -> Result<(), Refused> {
    authority
        .bundle()
        .recovery_key()
        .verify(&statement_preimage(&record.statement), &record.signature)
        .map_err(|_| invalid("the recovery key didn't sign it"))?;
    let statement = Statement::parse(&record.statement).map_err(|_| invalid("it isn't a statement"))?;
    let Says::Compromise(compromise) = &statement.says else {
        return Err(invalid("it isn't about a compromised key"));
    };
    // A key that signs is a step of a rotation; the two don't overlap.
    let _one = authority.rotating.lock().await;
    let (worker, last_good) = (Arc::clone(authority), compromise.last_good.clone());
    let held = authority
        .run(move || {
            Ok(worker
                .reader()
                .heads(last_good.size, 1)
                .map_err(read_fault)?
                .first()
                .map(|head| head.body().digest() == last_good.digest()))
        })
        .await?;
    if held != Some(true) {
        return Err(invalid("its last good head isn't one of this log"));
    }
    act(authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        admissible(control, &statement, compromise)?;
        Ok(Draft::of(Entry::plain(Kind::Recovery, record.encode())))
    })
    .await?;
    authority.release_head_key(&compromise.key);
    tracing::warn!(key = %compromise.key.thumbprint(), "head key compromised");
    Ok(())
}

fn admissible(control: &ControlState, statement: &Statement, compromise: &Compromise) -> Result<(), Refused> {
    if statement.origin.as_str() != control.origin() || statement.number != control.statements() + 1 {
        return Err(invalid("it isn't the next statement of this log"));
    }
    let known = control.head_keys().iter().find(|known| known.key == compromise.key);
    if known.is_none_or(|known| known.compromised) {
        return Err(invalid("no such head key, or it is known to be compromised"));
    }
    let mut active = control.head_keys_at(control.number());
    if !active.any(|key| *key != compromise.key) {
        return Err(invalid("no other head key is active: rotate first"));
    }
    let stranger = |key: &&countersign_core::key::VerifyingKey| {
        !control.head_keys_at(control.number()).any(|active| active == *key)
    };
    if compromise.head_keys.iter().find(stranger).is_some() {
        return Err(invalid("it names a key in the compromised one's stead that isn't active"));
    }
    Ok(())
}
