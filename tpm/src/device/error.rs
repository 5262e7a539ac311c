//! What can go wrong with a TPM, by what the caller can do about it.

use thiserror::Error;
use tss_esapi::Error as TssError;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

use crate::public::PublicError;
use crate::wire::WireError;

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The TPM is busy or locked for a while: try again later.
    Busy,
    /// The connection is lost: [`super::HostTpm::reopen`].
    Gone,
    /// An authorization is missing or wrong: an operator must help.
    Auth,
    /// The TPM has no room for another object or session: whoever holds them must let go.
    Full,
    /// Nothing that repetition or reconnection would change.
    Fatal,
}

/// A failed operation of the device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The address is no TCTI of a known kind.
    #[error("{0:?} is not a TPM address")]
    Address(String),
    /// Nobody answers as a TPM there.
    #[error(
        "no TPM answers at {address} ({error}): is the device there, and may this user open it (group tss)?"
    )]
    Unreachable {
        /// TCTI.
        address: String,
        /// The stack's error.
        error: TssError,
    },
    /// There is no connection.
    #[error("no connection to the TPM")]
    Closed,
    /// A command failed.
    #[error("TPM: {call}: {error}")]
    Tss {
        /// The call that failed.
        call: &'static str,
        /// The stack's error.
        error: TssError,
    },
    /// The key is not one of this TPM's.
    #[error("no such key")]
    UnknownKey,
    /// A public area is not of a form that this crate reads.
    #[error("TPM key: {0}")]
    Public(#[from] PublicError),
    /// A blob or structure is malformed.
    #[error("TPM bytes: {0}")]
    Wire(#[from] WireError),
    /// The TPM lacks a selected register.
    #[error("the TPM does not show PCR {0} of the bank")]
    NoSuchPcr(u32),
    /// Registers kept changing while they were read and quoted.
    #[error("PCRs changed during every attempt to quote them")]
    Moving,
    /// The TPM returned another kind of signature than its key makes.
    #[error("the TPM returned an unexpected signature")]
    Signature,
    /// The certificate in NV memory is larger than any known.
    #[error("certificate of {0} bytes in NV memory")]
    CertificateTooLong(usize),
    /// The TPM has no such NV index.
    #[error("no NV index 0x{0:08x}")]
    NoSuchIndex(u32),
    /// The NV index is there already.
    #[error("NV index 0x{0:08x} is taken")]
    IndexTaken(u32),
    /// The NV index holds something else.
    #[error("the NV index isn't a counter")]
    NotACounter,
    /// No key at a persistent handle.
    #[error("the TPM keeps no key at 0x{0:08x}")]
    NoKeyAt(u32),
    /// A key whose policy isn't one that can be satisfied here.
    #[error("the key's policy is none of the TCG's templates: it can't be certified or used")]
    Policy,
    /// Another key than before at a persistent handle.
    #[error("the key that the TPM keeps at 0x{0:08x} was replaced by another")]
    OtherKeyAt(u32),
}

impl DeviceError {
    pub(super) fn tss(call: &'static str, error: TssError) -> Self {
        Self::Tss { call, error }
    }

    /// What the caller can do.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Tss { error, .. } => classify(*error),
            Self::Closed | Self::Unreachable { .. } => ErrorClass::Gone,
            Self::Moving => ErrorClass::Busy,
            Self::Address(_)
            | Self::UnknownKey
            | Self::Public(_)
            | Self::Wire(_)
            | Self::NoSuchPcr(_)
            | Self::Signature
            | Self::NoKeyAt(_)
            | Self::OtherKeyAt(_)
            | Self::Policy
            | Self::CertificateTooLong(_)
            | Self::NoSuchIndex(_)
            | Self::IndexTaken(_)
            | Self::NotACounter => ErrorClass::Fatal,
        }
    }

    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Tss { error: TssError::Tss2Error(code), .. } => code.kind(),
            _ => None,
        }
    }

    /// A handle that the TPM does not know (any more): after a reset. TPM 2.0 Part 2, 6.6.3.
    pub(super) fn is_stale_handle(&self) -> bool {
        matches!(self.kind(), Some(Kind::ReferenceH0 | Kind::ReferenceH1 | Kind::ReferenceH2 | Kind::Handle))
    }

    /// No room for another object or session.
    pub(super) fn is_full(&self) -> bool {
        self.class() == ErrorClass::Full
    }
}

/// TCTI layer of a response code, and the codes in it that mean a lost connection: no connection, I/O error, general
/// failure, bad context. After one of them the ESYS layer answers "bad sequence". TCG TSS 2.0 Overview, 8.
const LOST: [u32; 6] = [0x000a_0008, 0x000a_000a, 0x000a_0001, 0x000a_0005, 0x0007_0007, 0x0007_000a];

pub(super) fn classify(error: TssError) -> ErrorClass {
    let TssError::Tss2Error(code) = error else { return ErrorClass::Fatal };
    if LOST.iter().any(|lost| Tss2ResponseCode::from(*lost) == code) {
        return ErrorClass::Gone;
    }
    match code.kind() {
        Some(Kind::Retry | Kind::Testing | Kind::Yielded | Kind::NvRate | Kind::Canceled) => ErrorClass::Busy,
        Some(
            Kind::ObjectMemory
            | Kind::ObjectHandles
            | Kind::SessionMemory
            | Kind::SessionHandles
            | Kind::Memory,
        ) => ErrorClass::Full,
        // Not initialised: the TPM was reset and nobody has started it yet.
        Some(Kind::Initialize) => ErrorClass::Gone,
        Some(
            Kind::AuthFail
            | Kind::BadAuth
            | Kind::AuthMissing
            | Kind::AuthUnavailable
            | Kind::AuthType
            | Kind::PolicyFail
            | Kind::Lockout,
        ) => ErrorClass::Auth,
        _ => ErrorClass::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_codes_have_their_class() {
        let check = |code: u32, expect| {
            let error = DeviceError::tss("test", TssError::Tss2Error(Tss2ResponseCode::from(code)));
            assert_eq!(error.class(), expect, "0x{code:x}");
        };
        // TPM_RC_RETRY, TESTING, YIELDED; then TCTI I/O; AUTH_FAIL, LOCKOUT; INTEGRITY, FAILURE.
        for busy in [0x922, 0x90a, 0x908] {
            check(busy, ErrorClass::Busy);
        }
        for gone in [0x000a_000a, 0x0007_0007, 0x100] {
            check(gone, ErrorClass::Gone);
        }
        for auth in [0x98e, 0x921] {
            check(auth, ErrorClass::Auth);
        }
        // OBJECT_MEMORY, SESSION_MEMORY, MEMORY, OBJECT_HANDLES, SESSION_HANDLES: nothing is wrong with any key.
        for full in [0x902, 0x903, 0x904, 0x905, 0x906] {
            check(full, ErrorClass::Full);
        }
        for fatal in [0x1df, 0x101] {
            check(fatal, ErrorClass::Fatal);
        }
    }
}
