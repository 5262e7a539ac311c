//! The endorsement key and its certificate, and the opening of credentials with it.

use tss_esapi::Context;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{
    AuthHandle, KeyHandle, NvIndexHandle, NvIndexTpmHandle, ObjectHandle, PersistentTpmHandle, SessionHandle,
    TpmHandle,
};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{EncryptedSecret, IdObject, SymmetricDefinition};
use tss_esapi::traits::Marshall;
use zeroize::Zeroizing;

use super::evidence::hashing;
use super::{DeviceError, HostTpm, KeyId};
use crate::algorithm::HashAlg;
use crate::ek::MAX_CERTIFICATE_BYTES;
use crate::public::{Public, require_endorsement_key};

/// Bytes read from NV memory at a time: every TPM can do this many. TPM 2.0 Part 2, annex: MAX_NV_BUFFER_SIZE.
const NV_CHUNK: usize = 512;

/// Which endorsement key. TCG EK Credential Profile 2.5, 2.2.1.4, 2.2.1.5 and annex B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EkProfile {
    /// RSA-2048, template L-1.
    Rsa2048,
    /// P-256, template L-2.
    P256,
    /// P-384, template H-3.
    P384,
}

impl EkProfile {
    fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
            Self::P384 => 0x01c0_0016,
        }
    }

    /// Where firmware or vendor tools keep the key, if they do.
    fn persistent_handle(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x8101_0001,
            Self::P256 => 0x8101_000a,
            Self::P384 => 0x8101_0016,
        }
    }

    fn algorithm(self) -> AsymmetricAlgorithmSelection {
        match self {
            Self::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
            Self::P256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
            Self::P384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
        }
    }

    /// Low range keys have no password, only the policy: PolicySecret of the endorsement hierarchy. Annex B.3.
    fn needs_policy(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::P256)
    }
}

/// An endorsement key in use: persistent, or made for the moment.
struct Ek {
    handle: KeyHandle,
    transient: bool,
    public: Public,
}

impl HostTpm {
    /// The EK certificate from NV memory as it stands there, padding included; `None` when there is none.
    pub fn ek_certificate(&mut self, profile: EkProfile) -> Result<Option<Vec<u8>>, DeviceError> {
        self.nv_certificate(profile.certificate_index())
    }

    /// What stands in an NV index that its own empty password reads, such as a certificate, padding included; `None` when there is no such index.
    pub fn nv_certificate(&mut self, index: u32) -> Result<Option<Vec<u8>>, DeviceError> {
        let index = NvIndexTpmHandle::new(index).map_err(|error| DeviceError::tss("NV index", error))?;
        let Some(object) = self.lookup(TpmHandle::NvIndex(index))? else { return Ok(None) };
        let handle = NvIndexHandle::from(object);
        let read = self.read_nv(handle);
        self.close(object);
        read.map(Some)
    }

    /// Public area of the endorsement key.
    pub fn ek_public(&mut self, profile: EkProfile) -> Result<Public, DeviceError> {
        self.with_keys([], |tpm, []| tpm.with_ek(profile, |_, ek| Ok(ek.public.clone())))
    }

    /// Opens a credential made for this TPM's endorsement key and `key`. Both byte strings are the contents of their
    /// TPM2B, as [`crate::credential::make_credential`] returns them. TPM 2.0 Part 3, 12.5.
    pub fn activate_credential(
        &mut self,
        profile: EkProfile,
        key: KeyId,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let bytes = |error| DeviceError::tss("credential", error);
        let id_object = IdObject::try_from(id_object.to_vec()).map_err(bytes)?;
        let secret = EncryptedSecret::try_from(encrypted_secret.to_vec()).map_err(bytes)?;
        self.with_keys([key], |tpm, [key]| {
            tpm.with_ek(profile, |tpm, ek| {
                let activate = |context: &mut Context| {
                    context.activate_credential(key, ek.handle, id_object.clone(), secret.clone())
                };
                let opened = if profile.needs_policy() {
                    tpm.with_ek_policy(|tpm, policy| {
                        let sessions = (Some(AuthSession::Password), Some(policy), None);
                        tpm.call_with("ActivateCredential", sessions, activate)
                    })
                } else {
                    let sessions = (Some(AuthSession::Password), Some(AuthSession::Password), None);
                    tpm.call_with("ActivateCredential", sessions, activate)
                }?;
                Ok(Zeroizing::new(opened.value().to_vec()))
            })
        })
    }

    fn read_nv(&mut self, handle: NvIndexHandle) -> Result<Vec<u8>, DeviceError> {
        let none = (None, None, None);
        let (public, _) = self.call_with("NV_ReadPublic", none, |context| context.nv_read_public(handle))?;
        let size = public.data_size();
        if size > MAX_CERTIFICATE_BYTES {
            return Err(DeviceError::CertificateTooLong(size));
        }
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let too_long = |_| DeviceError::CertificateTooLong(size);
            let chunk = u16::try_from((size - bytes.len()).min(NV_CHUNK)).map_err(too_long)?;
            let offset = u16::try_from(bytes.len()).map_err(too_long)?;
            let part = self
                .call("NV_Read", |context| context.nv_read(NvAuth::NvIndex(handle), handle, chunk, offset))?;
            if part.value().is_empty() {
                return Err(DeviceError::CertificateTooLong(size));
            }
            bytes.extend_from_slice(part.value());
        }
        Ok(bytes)
    }

    /// Runs `body` with the endorsement key: the persistent one if it is an endorsement key of this profile, else one
    /// made from the endorsement seed by the TCG's template, which is the same key.
    fn with_ek<T>(
        &mut self,
        profile: EkProfile,
        mut body: impl FnMut(&mut Self, &Ek) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let ek = match self.persistent_ek(profile)? {
            Some(ek) => ek,
            None => self.transient_ek(profile)?,
        };
        let result = body(self, &ek);
        if ek.transient {
            self.flush(ek.handle.into());
        } else {
            self.close(ek.handle.into());
        }
        result
    }

    fn persistent_ek(&mut self, profile: EkProfile) -> Result<Option<Ek>, DeviceError> {
        match self.persistent_object(profile.persistent_handle()) {
            Ok(Some((handle, public))) if require_endorsement_key(&public).is_ok() => {
                Ok(Some(Ek { handle, transient: false, public }))
            }
            Ok(Some((handle, _))) => {
                // Somebody keeps another key there.
                self.close(handle.into());
                Ok(None)
            }
            Ok(None) | Err(DeviceError::Public(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The object that the TPM keeps at a persistent handle, and its public area. Whoever asked closes it.
    pub(super) fn persistent_object(
        &mut self,
        handle: u32,
    ) -> Result<Option<(KeyHandle, Public)>, DeviceError> {
        let at =
            PersistentTpmHandle::new(handle).map_err(|error| DeviceError::tss("persistent handle", error))?;
        let Some(object) = self.lookup(TpmHandle::Persistent(at))? else { return Ok(None) };
        let handle = KeyHandle::from(object);
        let read = self.public_of(handle);
        if read.is_err() {
            self.close(object);
        }
        Ok(Some((handle, read?)))
    }

    fn public_of(&mut self, handle: KeyHandle) -> Result<Public, DeviceError> {
        let none = (None, None, None);
        let (public, _, _) = self.call_with("ReadPublic", none, |context| context.read_public(handle))?;
        let bytes = public.marshall().map_err(|error| DeviceError::tss("ReadPublic", error))?;
        Ok(Public::parse(&bytes)?)
    }

    fn transient_ek(&mut self, profile: EkProfile) -> Result<Ek, DeviceError> {
        let template = create_ek_public_from_default_template_2(profile.algorithm(), None)
            .map_err(|error| DeviceError::tss("EK template", error))?;
        let made = self.call("CreatePrimary", |context| {
            context.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
        })?;
        let bytes = made.out_public.marshall().map_err(|error| DeviceError::tss("CreatePrimary", error))?;
        match Public::parse(&bytes) {
            Ok(public) => Ok(Ek { handle: made.key_handle, transient: true, public }),
            Err(error) => {
                self.flush(made.key_handle.into());
                Err(error.into())
            }
        }
    }

    /// Runs `body` with a policy session that satisfies PolicySecret(endorsement hierarchy).
    fn with_ek_policy<T>(
        &mut self,
        body: impl FnOnce(&mut Self, AuthSession) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        self.with_policy(HashAlg::Sha256, |tpm, session| {
            let policy = PolicySession::try_from(session)
                .map_err(|error| DeviceError::tss("StartAuthSession", error))?;
            tpm.policy_secret(policy)?;
            body(tpm, session)
        })
    }

    /// Runs `body` with a policy session that nothing has been done in, for keys with this name algorithm.
    pub(super) fn with_policy<T>(
        &mut self,
        hash: HashAlg,
        body: impl FnOnce(&mut Self, AuthSession) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let none = (None, None, None);
        let session = self.call_with("StartAuthSession", none, |context| {
            context.start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                hashing(hash),
            )
        })?;
        let session = session.ok_or(DeviceError::Closed)?;
        let (attributes, mask) = SessionAttributesBuilder::new().with_continue_session(true).build();
        let set = self.call_with("session attributes", none, |context| {
            context.tr_sess_set_attributes(session, attributes, mask)
        });
        let result = set.and_then(|()| body(self, session));
        self.flush(SessionHandle::from(session).into());
        result
    }

    /// TPM2_PolicySecret with the empty password of the endorsement hierarchy.
    pub(super) fn policy_secret(&mut self, policy: PolicySession) -> Result<(), DeviceError> {
        self.call("PolicySecret", |context| {
            context
                .policy_secret(
                    policy,
                    AuthHandle::Endorsement,
                    Default::default(),
                    Default::default(),
                    Default::default(),
                    None,
                )
                .map(|_| ())
        })
    }

    /// The stack's object for a TPM handle; `None` when the TPM has no such object.
    pub(super) fn lookup(&mut self, handle: TpmHandle) -> Result<Option<ObjectHandle>, DeviceError> {
        let found =
            self.call_with("lookup", (None, None, None), |context| context.tr_from_tpm_public(handle));
        match found {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_stale_handle() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn close(&mut self, mut object: ObjectHandle) {
        if let Some(context) = self.context.as_mut() {
            let _ = context.tr_close(&mut object);
        }
    }
}
