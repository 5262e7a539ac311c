//! Return values of PKCS#11 sorted into classes. PKCS #11 3.0, 5.1. An unknown value is taken for a passing fault of the device: it
//! is never a success, and never a reason to try a PIN again.
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::{FaultClass, SignFault};

impl From<Error> for SignFault {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(value, function) => {
                Self::new(class_of(&value), name_of(function), format!("{value:?}"))
            }
            Error::LibraryLoading(error) => Self::new(FaultClass::Misconfigured, "dlopen", error.to_string()),
            Error::NotSupported | Error::NullFunctionPointer | Error::MissingSymbol(_) => {
                Self::new(FaultClass::Misconfigured, "module", error.to_string())
            }
            _ => Self::new(FaultClass::Retry, "module", error.to_string()),
        }
    }
}

fn class_of(value: &RvError) -> FaultClass {
    match value {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired => {
            FaultClass::PinWrong
        }
        RvError::PinLocked => FaultClass::PinLocked,
        RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SlotIdInvalid => FaultClass::TokenAbsent,
        RvError::ArgumentsBad
        | RvError::AttributeReadOnly
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::ActionProhibited
        | RvError::FunctionNotSupported
        | RvError::CurveNotSupported
        | RvError::DataLenRange
        | RvError::DomainParamsInvalid
        | RvError::KeySizeRange
        | RvError::KeyTypeInconsistent
        | RvError::KeyFunctionNotPermitted
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::TokenWriteProtected
        | RvError::UserPinNotInitialized => FaultClass::Misconfigured,
        _ => FaultClass::Retry,
    }
}

/// The functions that this crate calls, as the specification names them.
fn name_of(function: Function) -> &'static str {
    match function {
        Function::Initialize => "C_Initialize",
        Function::Finalize => "C_Finalize",
        Function::GetInterface => "C_GetInterface",
        Function::GetFunctionList => "C_GetFunctionList",
        Function::GetSlotList => "C_GetSlotList",
        Function::GetTokenInfo => "C_GetTokenInfo",
        Function::OpenSession => "C_OpenSession",
        Function::CloseSession => "C_CloseSession",
        Function::GetSessionInfo => "C_GetSessionInfo",
        Function::Login => "C_Login",
        Function::FindObjectsInit => "C_FindObjectsInit",
        Function::FindObjects => "C_FindObjects",
        Function::FindObjectsFinal => "C_FindObjectsFinal",
        Function::GetAttributeValue => "C_GetAttributeValue",
        Function::GenerateKeyPair => "C_GenerateKeyPair",
        Function::CreateObject => "C_CreateObject",
        Function::DestroyObject => "C_DestroyObject",
        Function::SignInit => "C_SignInit",
        Function::Sign => "C_Sign",
        _ => "PKCS#11 call",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_values_have_the_class_that_says_what_to_do() {
        let check = |value: RvError, expect| {
            let fault = SignFault::from(Error::Pkcs11(value, Function::Sign));
            assert_eq!((fault.class(), fault.call()), (expect, "C_Sign"));
        };
        check(RvError::PinIncorrect, FaultClass::PinWrong);
        check(RvError::PinLocked, FaultClass::PinLocked);
        check(RvError::TokenNotPresent, FaultClass::TokenAbsent);
        check(RvError::SessionHandleInvalid, FaultClass::Retry);
        check(RvError::KeyHandleInvalid, FaultClass::Retry);
        check(RvError::CryptokiNotInitialized, FaultClass::Retry);
        check(RvError::MechanismInvalid, FaultClass::Misconfigured);
        check(RvError::VendorDefined(0x8000_0001), FaultClass::Retry);
    }
}
