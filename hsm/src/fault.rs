//! What can go wrong with a device that holds keys, sorted by what has to happen next.
use std::borrow::Cow;
use std::fmt;

/// What has to happen before the next try can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FaultClass {
    /// A session or handle was lost and reopening did not help this time: try again later.
    Retry = 1,
    /// The device is not there: it has to come back.
    TokenAbsent,
    /// The PIN was refused. It is not tried again until the PIN file has changed.
    PinWrong,
    /// The token refuses every PIN: its security officer has to unlock it.
    PinLocked,
    /// The device is there, the key is not.
    KeyMissing,
    /// A key of that label is there already, so none is made.
    KeyExists,
    /// The private key can be taken out of the device, or once could.
    KeyExtractable,
    /// The private key was not generated inside the device.
    KeyImported,
    /// A custody attribute is missing or is not what it has to be.
    CustodyIncomplete,
    /// The device returned a signature that does not verify.
    BadSignature,
    /// The device did not answer in time.
    Timeout,
    /// Something that an operator configured does not fit: a path, a label, a key of another kind.
    Misconfigured,
    /// The message is over the limit.
    MessageTooLong,
    /// The queue in front of the device is full: try again later.
    Busy,
    /// The worker that owned the key has ended.
    Stopped,
}

impl FaultClass {
    /// Every class, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::Retry,
        Self::TokenAbsent,
        Self::PinWrong,
        Self::PinLocked,
        Self::KeyMissing,
        Self::KeyExists,
        Self::KeyExtractable,
        Self::KeyImported,
        Self::CustodyIncomplete,
        Self::BadSignature,
        Self::Timeout,
        Self::Misconfigured,
        Self::MessageTooLong,
        Self::Busy,
        Self::Stopped,
    ];

    /// The stable code of the class.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Retry => "signer-device-fault",
            Self::TokenAbsent => "signer-token-absent",
            Self::PinWrong => "signer-pin-wrong",
            Self::PinLocked => "signer-pin-locked",
            Self::KeyMissing => "signer-key-missing",
            Self::KeyExists => "signer-key-exists",
            Self::KeyExtractable => "signer-key-extractable",
            Self::KeyImported => "signer-key-imported",
            Self::CustodyIncomplete => "signer-custody-incomplete",
            Self::BadSignature => "signer-bad-signature",
            Self::Timeout => "signer-timeout",
            Self::Misconfigured => "signer-misconfigured",
            Self::MessageTooLong => "signer-message-too-long",
            Self::Busy => "signer-busy",
            Self::Stopped => "signer-stopped",
        }
    }

    /// Whether a later try can succeed with nobody acting on the configuration.
    #[must_use]
    pub const fn may_heal_by_itself(self) -> bool {
        matches!(self, Self::Retry | Self::TokenAbsent | Self::KeyMissing | Self::Timeout | Self::Busy)
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u8 == number)
    }
}

/// A fault of a signer: its class, the device call that failed, and the device's own word for it. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SignFault {
    class: FaultClass,
    call: &'static str,
    reason: Cow<'static, str>,
}

impl SignFault {
    /// A fault of `class` in `call` (the function of the device's interface, or the step here).
    #[must_use]
    pub fn new(class: FaultClass, call: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { class, call, reason: reason.into() }
    }

    /// What has to happen next.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        self.class
    }

    /// The stable code of the class.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.class.code()
    }

    /// The call that failed: a function of PKCS#11 or of the TPM, or a step of this crate.
    #[must_use]
    pub const fn call(&self) -> &'static str {
        self.call
    }
}

impl fmt::Display for SignFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.class.code(), self.call, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_class_has_a_code_and_a_number_of_its_own() {
        let codes: BTreeSet<_> = FaultClass::ALL.iter().map(|class| class.code()).collect();
        assert_eq!(codes.len(), FaultClass::ALL.len());
        for class in FaultClass::ALL {
            assert_eq!(FaultClass::from_number(class as u8), Some(class));
            assert!(class.code().starts_with("signer-"));
        }
        assert_eq!(FaultClass::from_number(0), None);
    }

    #[test]
    fn a_fault_names_the_call_that_failed() {
        let fault = SignFault::new(FaultClass::PinWrong, "C_Login", "CKR_PIN_INCORRECT");
        assert_eq!(fault.to_string(), "signer-pin-wrong: C_Login: CKR_PIN_INCORRECT");
        assert_eq!(fault.call(), "C_Login");
    }
}
