//! Small state kept in a token as CKO_DATA objects, replaced so that a crash leaves the old value or the new one.
//!
//! SoftHSM does not let CKA_VALUE of a data object be changed, so a new object is made beside the old one, which then goes. Each object's
//! value begins with a number, 8 bytes big-endian, that grows with each writing; of several the one with the highest number counts. Like
//! all objects here they are private: nobody reads or writes them without the PIN.
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::{FaultClass, SignFault};

struct Found {
    number: u64,
    value: Vec<u8>,
}

/// The value kept under this label.
pub(super) fn read(session: &Session, label: &str) -> Result<Option<Vec<u8>>, SignFault> {
    Ok(newest(session, &find(session, label)?)?.map(|found| found.value))
}

/// Keeps `value` under this label instead of what was there.
pub(super) fn write(session: &Session, label: &str, value: &[u8]) -> Result<(), SignFault> {
    let old = find(session, label)?;
    let number = newest(session, &old)?.map_or(0, |found| found.number.saturating_add(1));
    let mut template = template(label);
    template
        .extend([Attribute::Private(true), Attribute::Value([&number.to_be_bytes()[..], value].concat())]);
    // A crash before this call leaves the old value, a crash after it the new one, beside the old one until the next writing.
    session.create_object(&template)?;
    destroy(session, old)
}

/// Removes whatever is kept under this label.
pub(super) fn remove(session: &Session, label: &str) -> Result<(), SignFault> {
    destroy(session, find(session, label)?)
}

fn template(label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

fn find(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, SignFault> {
    Ok(session.find_objects(&template(label))?)
}

fn destroy(session: &Session, objects: Vec<ObjectHandle>) -> Result<(), SignFault> {
    for object in objects {
        session.destroy_object(object)?;
    }
    Ok(())
}

fn newest(session: &Session, objects: &[ObjectHandle]) -> Result<Option<Found>, SignFault> {
    let mut newest: Option<Found> = None;
    for object in objects {
        let found = read_one(session, *object)?;
        if newest.as_ref().is_none_or(|newest| newest.number < found.number) {
            newest = Some(found);
        }
    }
    Ok(newest)
}

fn read_one(session: &Session, object: ObjectHandle) -> Result<Found, SignFault> {
    let fault = |class, reason: &'static str| SignFault::new(class, "C_GetAttributeValue", reason);
    let attribute = session.get_attributes(object, &[AttributeType::Value])?.into_iter().next();
    let Some(Attribute::Value(bytes)) = attribute else {
        return Err(fault(FaultClass::Retry, "a data object without CKA_VALUE"));
    };
    let Some((number, value)) = bytes.split_first_chunk() else {
        return Err(fault(FaultClass::Misconfigured, "a data object of another program has the label"));
    };
    Ok(Found { number: u64::from_be_bytes(*number), value: value.to_vec() })
}
