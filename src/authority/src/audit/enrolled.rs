//! An enrolment leaf held against the records that it names: that the leaf says what they say.
//!
//! Comes in: an enrolment body; public areas, certificates and the activation record by their digests. Refused, by the name of what differs: another
//! host identifier, key, attribute, name or description than the records have, and certifications that the AK didn't make of these very keys.
//!
//! What was judged at the time and isn't kept can't be looked at again: issuers, dates, revocation lists and the operator's list. Nor can it be seen
//! that EK and AK share a TPM: only who ran the activation saw it (PROTOCOL §12).

use super::LogSource;
use super::named::{Stop, named};
use super::replayed::MismatchKind;
use crate::verify::contained;
use countersign_core::activation::{ActivationRecord, DeviceShown, Session};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::leaf::host::{EndorsementKind, Enrolment, HostKeyKind};
use countersign_core::request::{activation_data, device_certification_data, device_possession};
use countersign_tpm::attest::Attest;
use countersign_tpm::certify::{verify_certification, verify_device_certification};
use countersign_tpm::ek::{StatedDevice, StatedTpm, has_roca_fingerprint, ueid};
use countersign_tpm::key::PublicKey;
use countersign_tpm::public::{Public, require_attestation_key, require_endorsement_key};
use countersign_tpm::signature::{self, Signature};

/// Whether the leaf says what its records show. Goes out: whether these say for which enrolment they were made. Records are read in one place, so a
/// panic over one is a record that bears nothing out.
pub(super) fn follows(source: &dyn LogSource, origin: &str, enrolment: &Enrolment) -> Result<bool, Stop> {
    contained(|| {
        let shown = Shown::read(source, enrolment)?;
        shown.names_host(enrolment)?;
        shown.is_endorsed(source, enrolment)?;
        shown.is_certified(origin, enrolment)?;
        match (&enrolment.endorsement.device, &shown.record.device) {
            (None, None) => {}
            (Some(identity), Some(device)) => shown.names_device(source, origin, identity, device)?,
            _ => return Err(differs("device identity")),
        }
        Ok(shown.record.session.is_some())
    })
    .unwrap_or_else(|| Err(differs("what made its reader panic")))
}

const fn differs(what: &'static str) -> Stop {
    Stop::Mismatch(MismatchKind::Enrolment(what))
}

fn require(holds: bool, what: &'static str) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(differs(what)) }
}

fn is_weak(key: &PublicKey) -> bool {
    matches!(key, PublicKey::Rsa { n, .. } if has_roca_fingerprint(n))
}

/// The keys of the host, and what it showed of them.
struct Shown {
    /// The key that names the host: its EK, or its AK.
    naming: Public,
    ak: Public,
    host_key: Public,
    record: ActivationRecord,
}

impl Shown {
    fn read(source: &dyn LogSource, enrolment: &Enrolment) -> Result<Self, Stop> {
        let record = named(source, &enrolment.activation)?;
        #[cfg(test)]
        assert_ne!(record, crate::verify::kit::PANICS, "told to panic");
        let record = ActivationRecord::parse(&record).map_err(|_| differs("activation record"))?;
        Ok(Self {
            naming: public(source, &enrolment.ek_public, "endorsed key")?,
            ak: public(source, &enrolment.ak_public, "attestation key")?,
            host_key: Public::parse(&record.host_key).map_err(|_| differs("host key"))?,
            record,
        })
    }

    /// PROTOCOL §2, §12: names are made from keys, and the keys have the attributes of their roles.
    fn names_host(&self, enrolment: &Enrolment) -> Result<(), Stop> {
        require(ueid(&self.naming).as_slice() == enrolment.host.as_bytes(), "host identifier")?;
        let of_ek = enrolment.endorsement.kind != EndorsementKind::IakCertificate;
        require(!of_ek || require_endorsement_key(&self.naming).is_ok(), "endorsed key")?;
        require(require_attestation_key(&self.ak).is_ok(), "attestation key")?;
        require(self.ak.name().as_bytes() == enrolment.ak_name, "attestation key")?;
        let host_key = VerifyingKey::from_spki_der(&self.host_key.spki_der());
        require(host_key.is_ok_and(|key| key == enrolment.host_key), "host key")
    }

    /// The certificate is of the key that names the host, and describes the TPM as the leaf does.
    fn is_endorsed(&self, source: &dyn LogSource, enrolment: &Enrolment) -> Result<(), Stop> {
        let endorsement = &enrolment.endorsement;
        require(is_weak(self.naming.key()) == endorsement.weak_key, "fingerprint of a weak key")?;
        let Some(certificate) = &enrolment.ek_certificate else { return Ok(()) };
        let certificate = named(source, certificate)?;
        let stated = StatedTpm::of(&certificate).map_err(|_| differs("endorsement certificate"))?;
        require(stated.key == *self.naming.key(), "endorsement certificate")?;
        let described = stated.tpm.map(|tpm| (tpm.manufacturer, tpm.model, tpm.version));
        let told = endorsement.tpm.clone().map(|tpm| (tpm.manufacturer, tpm.model, tpm.version));
        require(described == told, "description of the TPM")
    }

    /// The AK certified the host key; for this enrolment at this authority, if the record says for which it was.
    fn is_certified(&self, origin: &str, enrolment: &Enrolment) -> Result<(), Stop> {
        require(enrolment.host_key_kind == HostKeyKind::Certified, "host key")?;
        let (attest, by_ak) = (&self.record.attest, &self.record.signature);
        let nonce = self.nonce(attest, |session| {
            *activation_data(origin, &session.enrolment, &session.secret).as_bytes()
        })?;
        let certified = verify_certification(&self.ak, attest, by_ak, &self.host_key, &nonce);
        require(certified.is_ok(), "certification of the host key")
    }

    /// What a certification has to carry. Early records don't say it, and what theirs carries says nothing.
    fn nonce(&self, attest: &[u8], expected: impl Fn(&Session) -> [u8; 32]) -> Result<[u8; 32], Stop> {
        match &self.record.session {
            Some(session) => Ok(expected(session)),
            None => {
                let carried = Attest::parse(attest).map_err(|_| differs("activation record"))?.extra_data;
                <[u8; 32]>::try_from(carried.as_slice()).map_err(|_| differs("activation record"))
            }
        }
    }

    /// The certificate names the device as the leaf does, its key is in the TPM of the AK, and was used for this enrolment.
    fn names_device(
        &self,
        source: &dyn LogSource,
        origin: &str,
        identity: &DeviceIdentity,
        shown: &DeviceShown,
    ) -> Result<(), Stop> {
        let key = public(source, &identity.key, "device key")?;
        let others = [&self.naming, &self.ak, &self.host_key];
        require(others.iter().all(|other| other.key() != key.key()), "device key")?;
        let certificate = named(source, &identity.certificate)?;
        let stated = StatedDevice::of(&certificate).map_err(|_| differs("device certificate"))?;
        require(stated.key == *key.key(), "device certificate")?;
        // One certificate is one identity: nothing lies behind it (PROTOCOL §12).
        require(stated.certificate_sha256 == *identity.certificate.as_bytes(), "device certificate")?;
        require(!is_weak(key.key()), "device key")?;
        let hardware = stated.names.hardware.map(|module| (module.kind, module.serial));
        let told = identity.hardware.clone().map(|module| (module.kind, module.serial));
        require((stated.names.serial, hardware) == (identity.serial.clone(), told), "names of the device")?;
        let nonce = self.nonce(&shown.attest, |session| {
            *device_certification_data(origin, &session.enrolment, &session.secret).as_bytes()
        })?;
        let certified = verify_device_certification(&self.ak, &shown.attest, &shown.signature, &key, &nonce);
        require(certified.is_ok(), "certification of the device key")?;
        match (&self.record.session, &shown.possession) {
            (Some(session), Some(own)) => {
                let message = device_possession(origin, &session.enrolment, &session.secret);
                let own = Signature::parse(own).and_then(|own| signature::verify(&key, &message, &own));
                require(own.is_ok(), "possession of the device key")
            }
            _ => Ok(()),
        }
    }
}

fn public(source: &dyn LogSource, digest: &Sha256Digest, what: &'static str) -> Result<Public, Stop> {
    Public::parse(&named(source, digest)?).map_err(|_| differs(what))
}
