//! Faults of the TPM and its connection, sorted into classes.
use countersign_tpm::device::{DeviceError, ErrorClass};

use crate::{FaultClass, SignFault};

/// A fault of a command.
pub(super) fn of(error: impl Into<DeviceError>) -> SignFault {
    let error = error.into();
    let class = match error.class() {
        ErrorClass::Gone => FaultClass::TokenAbsent,
        ErrorClass::Busy | ErrorClass::Full => FaultClass::Retry,
        // Keys are made without a password and outside of the dictionary attack protection, so it is a hierarchy that is closed to us.
        ErrorClass::Auth => FaultClass::Misconfigured,
        ErrorClass::Fatal => match error {
            DeviceError::Address(_) | DeviceError::IndexTaken(_) | DeviceError::NotACounter => {
                FaultClass::Misconfigured
            }
            DeviceError::NoSuchIndex(_) => FaultClass::KeyMissing,
            DeviceError::Signature => FaultClass::BadSignature,
            _ => FaultClass::Retry,
        },
    };
    named(class, &error)
}

/// A fault while connecting: whatever it is, unless the address is none, no TPM answers there.
pub(super) fn connecting(error: DeviceError) -> SignFault {
    match error {
        DeviceError::Address(_) => named(FaultClass::Misconfigured, &error),
        _ => named(FaultClass::TokenAbsent, &error),
    }
}

/// A connection that isn't there although it was just made.
pub(super) fn closed() -> SignFault {
    SignFault::new(FaultClass::TokenAbsent, "connect", "the connection is closed")
}

/// A fault while loading a blob: what this TPM cannot load is not its key.
pub(super) fn loading(error: DeviceError) -> SignFault {
    match (error.class(), &error) {
        (ErrorClass::Fatal, _) => named(FaultClass::KeyMissing, &error),
        _ => of(error),
    }
}

fn named(class: FaultClass, error: &DeviceError) -> SignFault {
    let call = match error {
        DeviceError::Tss { call, .. } => call,
        _ => "TPM",
    };
    SignFault::new(class, call, error.to_string())
}
