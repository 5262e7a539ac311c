//! What the TPM says and signs: register values, quotes, certifications, signatures.

use tss_esapi::Context;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Attest as TssAttest, Data, Digest, DigestValues, HashcheckTicket, PcrSelectionList, PcrSlot,
    Signature as TssSignature, SignatureScheme,
};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

use super::{DeviceError, HostTpm, KeyId};
use crate::algorithm::HashAlg;
use crate::attest::{Attest, AttestBody};
use crate::key::left_pad;
use crate::quote::PcrSelectionSpec;
use crate::signature::Signature;

/// Digests that TPM2_PCR_Read returns at most. TPM 2.0 Part 2, 10.9.6.
const DIGESTS_PER_READ: usize = 8;
/// Times that values and quote are taken until they agree. PCR 10 grows with every measured file.
const QUOTE_ATTEMPTS: usize = 8;

/// An attestation and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// A quote and the register values that it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteEvidence {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Ascending by register.
    pub pcr_values: Vec<(u32, Vec<u8>)>,
}

pub(super) fn hashing(bank: HashAlg) -> HashingAlgorithm {
    match bank {
        HashAlg::Sha1 => HashingAlgorithm::Sha1,
        HashAlg::Sha256 => HashingAlgorithm::Sha256,
        HashAlg::Sha384 => HashingAlgorithm::Sha384,
        HashAlg::Sha512 => HashingAlgorithm::Sha512,
    }
}

fn selection(bank: HashAlg, pcrs: &[u32]) -> Result<PcrSelectionList, DeviceError> {
    let select = |error| DeviceError::tss("PCR selection", error);
    let mut slots = Vec::with_capacity(pcrs.len());
    for pcr in pcrs {
        let bit = 1u32.checked_shl(*pcr).ok_or(DeviceError::NoSuchPcr(*pcr))?;
        slots.push(PcrSlot::try_from(bit).map_err(select)?);
    }
    PcrSelectionList::builder().with_selection(hashing(bank), &slots).build().map_err(select)
}

pub(super) fn attested(
    call: &'static str,
    made: &(TssAttest, TssSignature),
) -> Result<Attested, DeviceError> {
    let marshall = |error| DeviceError::tss(call, error);
    Ok(Attested {
        attest: made.0.marshall().map_err(marshall)?,
        signature: made.1.marshall().map_err(marshall)?,
    })
}

impl HostTpm {
    /// Values of the selected registers, ascending. They are read in several calls and may belong to different
    /// moments; [`HostTpm::quote_with_values`] returns values of one moment.
    pub fn pcr_values(&mut self, selected: &PcrSelectionSpec) -> Result<Vec<(u32, Vec<u8>)>, DeviceError> {
        let mut values = Vec::with_capacity(selected.pcrs().len());
        for pcrs in selected.pcrs().chunks(DIGESTS_PER_READ) {
            let list = selection(selected.bank(), pcrs)?;
            let none = (None, None, None);
            let (_, _, digests) =
                self.call_with("PCR_Read", none, |context| context.pcr_read(list.clone()))?;
            let digests = digests.value();
            for (index, pcr) in pcrs.iter().enumerate() {
                // A register of a bank that is not allocated is left out of the answer.
                let digest = digests.get(index).filter(|_| digests.len() == pcrs.len());
                values.push((*pcr, digest.ok_or(DeviceError::NoSuchPcr(*pcr))?.value().to_vec()));
            }
        }
        Ok(values)
    }

    /// TPM2_Quote with the key's own scheme. TPM 2.0 Part 3, 18.4.
    pub fn quote(
        &mut self,
        ak: KeyId,
        extra: &[u8],
        selected: &PcrSelectionSpec,
    ) -> Result<Attested, DeviceError> {
        let list = selection(selected.bank(), selected.pcrs())?;
        let data = data(extra)?;
        self.with_keys([ak], |tpm, [ak]| {
            let made = tpm.call("Quote", |context| {
                context.quote(ak, data.clone(), SignatureScheme::Null, list.clone())
            })?;
            attested("Quote", &made)
        })
    }

    /// A quote and the register values that it is over, taken again while registers change in between.
    pub fn quote_with_values(
        &mut self,
        ak: KeyId,
        extra: &[u8],
        selected: &PcrSelectionSpec,
    ) -> Result<QuoteEvidence, DeviceError> {
        for _ in 0..QUOTE_ATTEMPTS {
            let Attested { attest, signature } = self.quote(ak, extra, selected)?;
            let pcr_values = self.pcr_values(selected)?;
            if covers(&attest, &signature, &pcr_values)? {
                return Ok(QuoteEvidence { attest, signature, pcr_values });
            }
        }
        Err(DeviceError::Moving)
    }

    /// TPM2_Certify of `subject` by `ak`. TPM 2.0 Part 3, 18.2.
    pub fn certify(&mut self, subject: KeyId, ak: KeyId, extra: &[u8]) -> Result<Attested, DeviceError> {
        let data = data(extra)?;
        self.with_keys([subject, ak], |tpm, [subject, ak]| {
            let sessions = (Some(AuthSession::Password), Some(AuthSession::Password), None);
            let made = tpm.call_with("Certify", sessions, |context| {
                context.certify(subject.into(), ak, data.clone(), SignatureScheme::Null)
            })?;
            attested("Certify", &made)
        })
    }

    /// Signs a SHA-256 digest with an unrestricted P-256 key: r || s. TPM 2.0 Part 3, 20.2.
    pub fn sign_digest(&mut self, key: KeyId, digest: &[u8; 32]) -> Result<[u8; 64], DeviceError> {
        let sign = |error| DeviceError::tss("Sign", error);
        let digest = Digest::try_from(digest.to_vec()).map_err(sign)?;
        let ticket = no_ticket().map_err(sign)?;
        self.with_keys([key], |tpm, [key]| {
            let command = |context: &mut Context| {
                context.sign(key, digest.clone(), SignatureScheme::Null, ticket.clone())
            };
            match tpm.call("Sign", command)? {
                TssSignature::EcDsa(made) => fixed(made.signature_r().value(), made.signature_s().value())
                    .ok_or(DeviceError::Signature),
                _ => Err(DeviceError::Signature),
            }
        })
    }

    /// TPM2_PCR_Extend in several banks at once. TPM 2.0 Part 3, 22.2.
    pub fn extend(&mut self, pcr: u32, digests: &[(HashAlg, &[u8])]) -> Result<(), DeviceError> {
        let handle = pcr_handle(pcr).ok_or(DeviceError::NoSuchPcr(pcr))?;
        let mut values = DigestValues::new();
        for (bank, digest) in digests {
            let digest = Digest::try_from(digest.to_vec());
            values.set(hashing(*bank), digest.map_err(|error| DeviceError::tss("PCR_Extend", error))?);
        }
        self.call("PCR_Extend", |context| context.pcr_extend(handle, values.clone()))
    }
}

pub(super) fn data(extra: &[u8]) -> Result<Data, DeviceError> {
    Data::try_from(extra.to_vec()).map_err(|error| DeviceError::tss("qualifying data", error))
}

/// ESYS numbers the PCRs from 0. TCG TSS 2.0 ESAPI, 9.
fn pcr_handle(pcr: u32) -> Option<PcrHandle> {
    if pcr <= crate::quote::MAX_PCR { PcrHandle::try_from(pcr).ok() } else { None }
}

/// Whether the quote's digest is over these values.
fn covers(attest: &[u8], signature: &[u8], values: &[(u32, Vec<u8>)]) -> Result<bool, DeviceError> {
    let attest = Attest::parse(attest).map_err(|_| DeviceError::Signature)?;
    let signature = Signature::parse(signature).map_err(|_| DeviceError::Signature)?;
    let AttestBody::Quote { pcr_digest, .. } = attest.body else { return Err(DeviceError::Signature) };
    let values: Vec<&[u8]> = values.iter().map(|(_, value)| value.as_slice()).collect();
    Ok(signature.hash().digest_parts(&values) == pcr_digest)
}

/// The null ticket: the digest was not made by the TPM, which an unrestricted key does not mind.
pub(super) fn no_ticket() -> tss_esapi::Result<HashcheckTicket> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    })
}

/// TPMs leave out leading zeros.
fn fixed(r: &[u8], s: &[u8]) -> Option<[u8; 64]> {
    let bytes = [left_pad(r, 32)?, left_pad(s, 32)?].concat();
    <[u8; 64]>::try_from(bytes).ok()
}
