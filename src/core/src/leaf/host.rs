//! The host state map and the enrolment body (PROTOCOL §8.3, §8.4).

use super::LeafError;
use super::device::DeviceIdentity;
use super::field::{read_digest_or_null, write_digest};
use crate::cbor::{Decoder, Slot, encode_map};
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::name::HostId;
use crate::refusal::RefusalCode;

/// AR4SI trust tiers (PROTOCOL §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing was appraised.
    None,
    /// Everything appraised agrees with reference values.
    Affirming,
    /// Something isn't covered by reference values.
    Warning,
    /// Something contradicts reference values.
    Contraindicated,
}

impl Tier {
    /// The AR4SI number.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Affirming => 2,
            Self::Warning => 32,
            Self::Contraindicated => 96,
        }
    }

    /// The tier of this number; others are refused.
    pub fn from_number(number: u64) -> Result<Self, LeafError> {
        match number {
            0 => Ok(Self::None),
            2 => Ok(Self::Affirming),
            32 => Ok(Self::Warning),
            96 => Ok(Self::Contraindicated),
            _ => Err(LeafError::Value("tier")),
        }
    }

    /// The name in AR4SI.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// What the authority remembers of a host between calls (PROTOCOL §8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostState {
    /// Rises with enrolment, a new AK, and every change of resetCount or restartCount.
    pub version: u64,
    /// TPMS_CLOCK_INFO.resetCount of the newest quote.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.restartCount of the newest quote.
    pub restart_count: u32,
    /// Largest TPMS_CLOCK_INFO.clock for these counts, ms.
    pub clock_ms: u64,
    /// TPMS_ATTEST.firmwareVersion.
    pub firmware_version: u64,
    /// SHA-256 of the boot log that last replayed.
    pub boot_log: Option<Sha256Digest>,
    /// SHA-256 over the concatenated PCR values of the last good quote.
    pub pcr_digest: Option<Sha256Digest>,
    /// The host is trusted until then and not longer, ms.
    pub trusted_until_ms: u64,
    /// Tier of the last appraisal.
    pub tier: Tier,
    /// Evidence record of the last good quote.
    pub evidence: Option<Sha256Digest>,
    /// SHA-256 of the state of the IMA appraisal; the bytes are a blob.
    pub ima: Option<Sha256Digest>,
}

impl HostState {
    /// A host that has never been attested.
    #[must_use]
    pub const fn unattested(version: u64) -> Self {
        Self {
            version,
            reset_count: 0,
            restart_count: 0,
            clock_ms: 0,
            firmware_version: 0,
            boot_log: None,
            pcr_digest: None,
            trusted_until_ms: 0,
            tier: Tier::None,
            evidence: None,
            ima: None,
        }
    }

    /// Whether a body with this state, evidence and code says something new of its host (PROTOCOL §8.4): the state follows from this very
    /// evidence, and the evidence was fresh. Any other state in a body is the one that was read when it was decided.
    #[must_use]
    pub fn is_told_by(&self, code: Option<RefusalCode>, evidence: &Sha256Digest) -> bool {
        let fresh = !matches!(code, Some(RefusalCode::ChallengeExpired | RefusalCode::ChallengeSpent));
        fresh && self.evidence.as_ref() == Some(evidence)
    }

    /// Writes the map.
    pub fn write(&self, slot: Slot<'_>) {
        slot.map(|map| {
            map.entry(1).uint(self.version);
            map.entry(2).uint(u64::from(self.reset_count));
            map.entry(3).uint(u64::from(self.restart_count));
            map.entry(4).uint(self.clock_ms);
            map.entry(5).uint(self.firmware_version);
            write_digest(map.entry(6), self.boot_log.as_ref());
            write_digest(map.entry(7), self.pcr_digest.as_ref());
            map.entry(8).uint(self.trusted_until_ms);
            map.entry(9).uint(self.tier.number());
            write_digest(map.entry(10), self.evidence.as_ref());
            if let Some(ima) = &self.ima {
                map.entry(11).bytes(ima.as_bytes());
            }
        });
    }

    /// Reads the map.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, LeafError> {
        let members = decoder.map()?;
        if !(10..=11).contains(&members) {
            return Err(LeafError::Value("host state"));
        }
        decoder.expect_key(1)?;
        let version = decoder.uint()?;
        decoder.expect_key(2)?;
        let reset_count = read_u32(decoder, "resetCount")?;
        decoder.expect_key(3)?;
        let restart_count = read_u32(decoder, "restartCount")?;
        decoder.expect_key(4)?;
        let clock_ms = decoder.uint()?;
        decoder.expect_key(5)?;
        let firmware_version = decoder.uint()?;
        decoder.expect_key(6)?;
        let boot_log = read_digest_or_null(decoder)?;
        decoder.expect_key(7)?;
        let pcr_digest = read_digest_or_null(decoder)?;
        decoder.expect_key(8)?;
        let trusted_until_ms = decoder.uint()?;
        decoder.expect_key(9)?;
        let tier = Tier::from_number(decoder.uint()?)?;
        decoder.expect_key(10)?;
        let evidence = read_digest_or_null(decoder)?;
        let ima = if members == 11 {
            decoder.expect_key(11)?;
            Some(Sha256Digest::new(decoder.byte_array()?))
        } else {
            None
        };
        Ok(Self {
            version,
            reset_count,
            restart_count,
            clock_ms,
            firmware_version,
            boot_log,
            pcr_digest,
            trusted_until_ms,
            tier,
            evidence,
            ima,
        })
    }

    /// The map alone, for tables.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = crate::cbor::encode_array(|array| self.write(array.item()));
        // One item: drop the array head (0x81), so that the bytes are the map.
        bytes.remove(0);
        bytes
    }

    /// Parses what [`HostState::encode`] made.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let state = Self::read(&mut decoder)?;
        decoder.finish()?;
        Ok(state)
    }
}

fn read_u32(decoder: &mut Decoder<'_>, what: &'static str) -> Result<u32, LeafError> {
    u32::try_from(decoder.uint()?).map_err(|_| LeafError::Value(what))
}

/// How a host proved that its host key lives beside its AK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyKind {
    /// TPM2_Certify by the AK.
    Certified,
    /// A key in software; policy sees it and may refuse.
    Software,
}

/// By what right a host was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A single-use join token.
    JoinToken,
    /// An EK that was registered beforehand.
    Preregistered,
    /// The same EK, AK and host key as before.
    Reenrolment,
}

/// What vouches that a host's TPM is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndorsementKind {
    /// A certificate of the endorsement key, by its manufacturer.
    EkCertificate,
    /// The operator's list of endorsement keys.
    EkAllowed,
    /// A certificate of the attestation key, by an issuer that saw it in a TPM.
    IakCertificate,
}

impl EndorsementKind {
    /// The word that policies compare with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EkCertificate => "ek-certificate",
            Self::EkAllowed => "ek-allowed",
            Self::IakCertificate => "iak-certificate",
        }
    }

    /// Somebody who makes TPMs or puts them into machines signed for it.
    #[must_use]
    pub const fn is_certified(self) -> bool {
        matches!(self, Self::EkCertificate | Self::IakCertificate)
    }
}

/// A TPM as its certificate describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmModel {
    /// Name in the TCG vendor registry.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Firmware version when the certificate was issued.
    pub version: String,
}

/// How a host's TPM is endorsed, and what is known of it from that (PROTOCOL §8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// By what.
    pub kind: EndorsementKind,
    /// The endorsed RSA key has the fingerprint of CVE-2017-15361.
    pub weak_key: bool,
    /// The TPM, if a certificate describes it.
    pub tpm: Option<TpmModel>,
    /// Which machine it is, if its maker named it by the certificate of another key of this TPM (IDevID).
    pub device: Option<DeviceIdentity>,
}

impl Endorsement {
    /// Writes the map.
    pub fn write(&self, slot: Slot<'_>) {
        slot.map(|map| {
            map.entry(1).uint(match self.kind {
                EndorsementKind::EkCertificate => 1,
                EndorsementKind::EkAllowed => 2,
                EndorsementKind::IakCertificate => 3,
            });
            map.entry(2).bool(self.weak_key);
            if let Some(tpm) = &self.tpm {
                map.entry(3).text(&tpm.manufacturer);
                map.entry(4).text(&tpm.model);
                map.entry(5).text(&tpm.version);
            }
            if let Some(device) = &self.device {
                device.write(map.entry(6));
            }
        });
    }

    /// Reads the map.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, LeafError> {
        let members = decoder.map()?;
        decoder.expect_key(1)?;
        let kind = match decoder.uint()? {
            1 => EndorsementKind::EkCertificate,
            2 => EndorsementKind::EkAllowed,
            3 => EndorsementKind::IakCertificate,
            _ => return Err(LeafError::Value("endorsement")),
        };
        decoder.expect_key(2)?;
        let weak_key = decoder.bool()?;
        let (described, identified) = match members {
            2 => (false, false),
            3 => (false, true),
            5 => (true, false),
            6 => (true, true),
            _ => return Err(LeafError::Value("endorsement")),
        };
        let mut tpm = None;
        if described {
            decoder.expect_key(3)?;
            let manufacturer = decoder.text()?.to_owned();
            decoder.expect_key(4)?;
            let model = decoder.text()?.to_owned();
            decoder.expect_key(5)?;
            tpm = Some(TpmModel { manufacturer, model, version: decoder.text()?.to_owned() });
        }
        let mut device = None;
        if identified {
            decoder.expect_key(6)?;
            device = Some(DeviceIdentity::read(decoder)?);
        }
        if tpm.is_some() && !kind.is_certified() {
            return Err(LeafError::Value("endorsement"));
        }
        Ok(Self { kind, weak_key, tpm, device })
    }
}

/// Body of an enrolment leaf (PROTOCOL §8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// UEID.
    pub host: HostId,
    /// SHA-256 of the TPMT_PUBLIC of the key that names the host: the EK, or the AK that an IAK certificate endorses.
    pub ek_public: Sha256Digest,
    /// SHA-256 of the certificate that endorses the host, if one does; the bytes are a blob.
    pub ek_certificate: Option<Sha256Digest>,
    /// SHA-256 of the AK's TPMT_PUBLIC; the bytes are a blob.
    pub ak_public: Sha256Digest,
    /// The AK's Name.
    pub ak_name: Vec<u8>,
    /// The key of the host's certificate.
    pub host_key: VerifyingKey,
    /// How the host key is held.
    pub host_key_kind: HostKeyKind,
    /// By what right.
    pub admission: Admission,
    /// The token that was spent.
    pub token: Option<Sha256Digest>,
    /// SHA-256 of the activation record.
    pub activation: Sha256Digest,
    /// Host version after this leaf.
    pub version: u64,
    /// How the TPM is endorsed.
    pub endorsement: Endorsement,
}

impl Enrolment {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.host.as_bytes());
            map.entry(2).bytes(self.ek_public.as_bytes());
            write_digest(map.entry(3), self.ek_certificate.as_ref());
            map.entry(4).bytes(self.ak_public.as_bytes());
            map.entry(5).bytes(&self.ak_name);
            map.entry(6).bytes(&self.host_key.cose_key());
            map.entry(7).uint(match self.host_key_kind {
                HostKeyKind::Certified => 1,
                HostKeyKind::Software => 2,
            });
            map.entry(8).uint(match self.admission {
                Admission::JoinToken => 1,
                Admission::Preregistered => 2,
                Admission::Reenrolment => 3,
            });
            write_digest(map.entry(9), self.token.as_ref());
            map.entry(10).bytes(self.activation.as_bytes());
            map.entry(11).uint(self.version);
            self.endorsement.write(map.entry(12));
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(12)?;
        decoder.expect_key(1)?;
        let host = HostId::from_slice(decoder.bytes()?).map_err(|_| LeafError::Value("host identifier"))?;
        decoder.expect_key(2)?;
        let ek_public = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(3)?;
        let ek_certificate = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(4)?;
        let ak_public = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(5)?;
        let ak_name = decoder.bytes()?.to_vec();
        decoder.expect_key(6)?;
        let host_key = super::field::read_key(&mut decoder)?;
        decoder.expect_key(7)?;
        let host_key_kind = match decoder.uint()? {
            1 => HostKeyKind::Certified,
            2 => HostKeyKind::Software,
            _ => return Err(LeafError::Value("host key kind")),
        };
        decoder.expect_key(8)?;
        let admission = match decoder.uint()? {
            1 => Admission::JoinToken,
            2 => Admission::Preregistered,
            3 => Admission::Reenrolment,
            _ => return Err(LeafError::Value("admission")),
        };
        decoder.expect_key(9)?;
        let token = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(10)?;
        let activation = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(11)?;
        let version = decoder.uint()?;
        decoder.expect_key(12)?;
        let endorsement = Endorsement::read(&mut decoder)?;
        decoder.finish()?;
        // PROTOCOL §8.3: the kind is what the other keys say too.
        let of_ak = ek_public == ak_public;
        if endorsement.kind.is_certified() != ek_certificate.is_some()
            || (endorsement.kind == EndorsementKind::IakCertificate) != of_ak
        {
            return Err(LeafError::Value("endorsement"));
        }
        Ok(Self {
            host,
            ek_public,
            ek_certificate,
            ak_public,
            ak_name,
            host_key,
            host_key_kind,
            admission,
            token,
            activation,
            version,
            endorsement,
        })
    }
}
