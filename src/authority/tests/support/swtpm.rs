//! A software TPM in use, with the keys of a host that isn't enrolled, and the calls that it makes to be.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this file")]

use crate::support::ORIGIN;
use countersign_core::api::{B64, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer};
use countersign_core::request::activation_data;
use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::device::{DeviceError, EkProfile, HostTpm, KeyId};
use countersign_tpm::public::Public;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose};

/// Its P-256 endorsement key, which swtpm's own tools give no certificate, and fresh AK and host key.
pub(crate) struct Keyed {
    pub(crate) tpm: HostTpm,
    pub(crate) ek: Public,
    pub(crate) ak: KeyId,
    pub(crate) host_key: KeyId,
    pub(crate) swtpm: SwTpm,
}

/// What an EK certificate says of its key's use.
pub(crate) fn ek(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
}

/// An enrolment's 16 bytes.
pub(crate) fn enrolment_id(offer: &EnrolmentOffer) -> [u8; 16] {
    data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap().try_into().unwrap()
}

impl Keyed {
    pub(crate) fn new(ca: &SwTpmCa) -> Self {
        Self::with(SwTpm::start(ca))
    }

    /// In a TPM that has something in it already.
    pub(crate) fn with(swtpm: SwTpm) -> Self {
        let mut tpm = HostTpm::open(&swtpm.tcti()).unwrap();
        let ek = tpm.ek_public(EkProfile::P256).unwrap();
        let (ak, host_key) = (tpm.create_attestation_key().unwrap(), tpm.create_signing_key().unwrap());
        let (ak, host_key) = (tpm.load(&ak).unwrap(), tpm.load(&host_key).unwrap());
        Self { tpm, ek, ak, host_key, swtpm }
    }

    pub(crate) fn public(&self, key: KeyId) -> B64 {
        B64(self.tpm.public(key).unwrap().bytes().to_vec())
    }

    pub(crate) fn begin(&self, token: &str, certificate: Vec<u8>) -> EnrolmentBegin {
        EnrolmentBegin {
            token: Some(token.to_owned()),
            ek_certificate: Some(B64(certificate)),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(self.ek.bytes().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: self.public(self.ak),
            host_key_public: self.public(self.host_key),
            idevid: None,
        }
    }

    /// The secret of an offer, if it is for this TPM's keys.
    pub(crate) fn opened(&mut self, offer: &EnrolmentOffer) -> Result<[u8; 32], DeviceError> {
        let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
        let opened = self.tpm.activate_credential(EkProfile::P256, self.ak, object, secret)?;
        Ok(opened.as_slice().try_into().unwrap())
    }

    /// The AK certifies the host key over this secret.
    pub(crate) fn finish(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32]) -> EnrolmentFinish {
        let nonce = activation_data(ORIGIN, &enrolment_id(offer), secret);
        let certified = self.tpm.certify(self.host_key, self.ak, nonce.as_bytes()).unwrap();
        EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid: None,
        }
    }
}
