//! A device's identity key (IDevID) in ordinary memory, beside a simulated TPM.
//!
//! Comes in: randomness, attributes. Goes out: a public area and signatures of the forms that a TPM makes. It proves nothing.

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

use super::{SimulationError, finish_public, secret};
use crate::algorithm::id;
use crate::public::{Attributes, Public};
use crate::wire::Writer;

/// An unrestricted P-256 key with a policy for its administration.
pub struct SimulatedDeviceKey {
    key: SigningKey,
    public: Public,
}

impl SimulatedDeviceKey {
    /// Attributes that the TCG's table demands. TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.1.
    pub const ATTRIBUTES: u32 = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::USER_WITH_AUTH
        | Attributes::ADMIN_WITH_POLICY
        | Attributes::SIGN;

    /// A fresh key with these attributes. `random` fills its buffer.
    pub fn new(attributes: u32, random: &mut impl FnMut(&mut [u8])) -> Result<Self, SimulationError> {
        let key = secret(random)?;
        let writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&[0x5a; 32])?;
        let public = finish_public(writer.u16(id::NULL).u16(id::ECDSA).u16(id::SHA256), &key)?;
        Ok(Self { key: SigningKey::from(&key), public })
    }

    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// TPM2_Sign over a message: TPMT_SIGNATURE.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SimulationError> {
        let signature: p256::ecdsa::Signature =
            self.key.try_sign(message).map_err(|_| SimulationError::Signing)?;
        let bytes = signature.to_bytes();
        let (r, s) = bytes.split_at_checked(32).ok_or(SimulationError::Signing)?;
        Ok(Writer::new().u16(id::ECDSA).u16(id::SHA256).tpm2b(r)?.tpm2b(s)?.into_bytes())
    }
}
