//! A TPM without a TPM: makes well-formed structures for tests and load generators. It proves nothing.
//!
//! Comes in: randomness, and the calls that one would make to a TPM. Goes out: bytes of the forms that a real TPM
//! makes. Its keys lie in ordinary memory, so nothing that it says is evidence; a verifier refuses it because no
//! manufacturer certifies its endorsement key.

pub mod boot;
pub mod device_key;
pub mod ima;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use p256::ecdsa::SigningKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::algorithm::{HashAlg, id};
use crate::attest::{ClockInfo, ST_ATTEST_CERTIFY, ST_ATTEST_QUOTE, TPM_GENERATED};
use crate::credential::{integrity_bits, kdfa, kdfe};
use crate::public::{Attributes, Public, PublicError};
use crate::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use crate::wire::{Reader, WireError, Writer};

/// Policy of the TCG's endorsement key templates: PolicySecret of the endorsement hierarchy. TCG EK Credential
/// Profile 2.5, B.6.2.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const REGISTERS: usize = 24;
const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];

/// Why the simulation did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SimulationError {
    /// The random bytes are no private key.
    #[error("randomness is unusable")]
    Randomness,
    /// The generated public area is not what its own reader takes.
    #[error("{0}")]
    Public(#[from] PublicError),
    /// A credential is malformed.
    #[error("credential is malformed: {0}")]
    Wire(#[from] WireError),
    /// A credential was made for another TPM or another object (TPM_RC_INTEGRITY).
    #[error("credential is not for this TPM and key")]
    Integrity,
    /// No such register, bank or digest length.
    #[error("no such register")]
    Register,
    /// Signing failed.
    #[error("signing failed")]
    Signing,
}

/// An attestation and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// The software TPM: a P-256 endorsement key, a restricted P-256 attestation key, an unrestricted P-256 host key,
/// registers in two banks, clock and counters.
pub struct SimulatedTpm {
    ek: p256::SecretKey,
    ek_public: Public,
    ak: EcdsaKeyPair,
    ak_public: Public,
    host: SigningKey,
    host_public: Public,
    registers: [Vec<Vec<u8>>; 2],
    clock: ClockInfo,
    firmware_version: u64,
}

impl SimulatedTpm {
    /// A fresh TPM, switched on and not booted. `random` fills its buffer.
    pub fn new(random: &mut impl FnMut(&mut [u8])) -> Result<Self, SimulationError> {
        let ek = secret(random)?;
        let ak = secret(random)?;
        let host = secret(random)?;
        let ek_public = endorsement_public(&ek)?;
        let ak_public = signing_public(&ak, true)?;
        let host_public = signing_public(&host, false)?;
        let point = ak.public_key().to_sec1_point(false);
        let ak = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &Zeroizing::new(ak.to_bytes()),
            point.as_bytes(),
        )
        .map_err(|_| SimulationError::Randomness)?;
        Ok(Self {
            ek,
            ek_public,
            ak,
            ak_public,
            host: SigningKey::from(&host),
            host_public,
            registers: BANKS.map(fresh_registers),
            clock: ClockInfo { clock_ms: 1_000, reset_count: 1, restart_count: 0, safe: true },
            firmware_version: 0x2026_0101_0001_0000,
        })
    }

    /// Public area of the endorsement key.
    pub fn ek_public(&self) -> &Public {
        &self.ek_public
    }

    /// TPMT_PUBLIC of the endorsement key.
    pub fn ek_public_tpmt(&self) -> &[u8] {
        self.ek_public.bytes()
    }

    /// Public area of the attestation key.
    pub fn ak_public(&self) -> &Public {
        &self.ak_public
    }

    /// Public area of the host key.
    pub fn host_public(&self) -> &Public {
        &self.host_public
    }

    /// The host key itself.
    pub fn host_signing_key(&self) -> &SigningKey {
        &self.host
    }

    /// Clock and counters.
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }

    /// Lets time pass.
    pub fn advance_ms(&mut self, ms: u64) {
        self.clock.clock_ms = self.clock.clock_ms.saturating_add(ms);
    }

    /// TPM resume, as after hibernation: registers stay, restartCount is one higher (TPM 2.0 Part 1, 12.2.3).
    pub fn resume(&mut self) {
        self.clock.restart_count = self.clock.restart_count.wrapping_add(1);
    }

    /// TPM reset: registers as after power-on, resetCount one higher, restartCount zero.
    pub fn reset(&mut self) {
        self.registers = BANKS.map(fresh_registers);
        self.clock.reset_count = self.clock.reset_count.wrapping_add(1);
        self.clock.restart_count = 0;
    }

    /// Extends one register of one bank. TPM 2.0 Part 3, 22.2.
    pub fn extend(&mut self, bank: HashAlg, pcr: u32, digest: &[u8]) -> Result<(), SimulationError> {
        if digest.len() != bank.digest_len() {
            return Err(SimulationError::Register);
        }
        let register = self.register_mut(bank, pcr).ok_or(SimulationError::Register)?;
        *register = bank.digest_parts(&[register, digest]);
        Ok(())
    }

    /// Extends everything that a simulated boot measured, in order and in both banks.
    pub fn boot(&mut self, boot: &boot::SimulatedBoot) -> Result<(), SimulationError> {
        for measurement in boot.measurements() {
            self.extend(HashAlg::Sha256, measurement.pcr, &measurement.sha256)?;
            self.extend(HashAlg::Sha384, measurement.pcr, &measurement.sha384)?;
        }
        Ok(())
    }

    /// Values of the selected registers.
    pub fn pcr_values(&self, selection: &PcrSelectionSpec) -> Result<Vec<(u32, Vec<u8>)>, SimulationError> {
        let value = |pcr: &u32| {
            let value = self.register(selection.bank(), *pcr).ok_or(SimulationError::Register)?;
            Ok((*pcr, value.to_vec()))
        };
        selection.pcrs().iter().map(value).collect()
    }

    /// TPM2_Quote by the attestation key. TPM 2.0 Part 3, 18.4.
    pub fn quote(&self, extra: &[u8], selection: &PcrSelectionSpec) -> Result<Attestation, SimulationError> {
        self.quote_of(extra, selection, &self.pcr_values(selection)?)
    }

    /// The verified quote that a TPM whose registers have these values would lead to: real logs are replayed against it in tests.
    pub fn worn(&self, bank: HashAlg, values: &[(u32, Vec<u8>)]) -> Result<VerifiedQuote, SimulationError> {
        let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
        let required = PcrSelectionSpec::new(bank, &pcrs).map_err(|_| SimulationError::Register)?;
        let extra = [0x77; 32];
        let made = self.quote_of(&extra, &required, values)?;
        verify_quote(QuoteInput {
            ak: &self.ak_public,
            attest: &made.attest,
            signature: &made.signature,
            expected_extra_data: &extra,
            required: &required,
            pcr_values: values,
        })
        .map_err(|_| SimulationError::Register)
    }

    fn quote_of(
        &self,
        extra: &[u8],
        selection: &PcrSelectionSpec,
        values: &[(u32, Vec<u8>)],
    ) -> Result<Attestation, SimulationError> {
        let values: Vec<&[u8]> = values.iter().map(|(_, value)| value.as_slice()).collect();
        let digest = HashAlg::Sha256.digest_parts(&values);
        let mut bitmap = [0u8; 3];
        for pcr in selection.pcrs() {
            let byte = usize::try_from(pcr / 8).ok().and_then(|byte| bitmap.get_mut(byte));
            *byte.ok_or(SimulationError::Register)? |= 1 << (pcr % 8);
        }
        let attest = self.attest_header(ST_ATTEST_QUOTE, extra)?.u32(1);
        let attest = attest.u16(selection.bank().id()).u8(3).raw(&bitmap).tpm2b(&digest)?;
        self.attestation(attest.into_bytes())
    }

    /// TPM2_Certify of the host key by the attestation key. TPM 2.0 Part 3, 18.2.
    pub fn certify_host_key(&self, extra: &[u8]) -> Result<Attestation, SimulationError> {
        self.certify(&self.host_public, extra)
    }

    /// TPM2_Certify of any object: a lie that a real TPM would not tell, for tests of the verifier.
    pub fn certify(&self, subject: &Public, extra: &[u8]) -> Result<Attestation, SimulationError> {
        let name = subject.name().as_bytes();
        let attest = self.attest_header(ST_ATTEST_CERTIFY, extra)?;
        let attest = attest.tpm2b(name)?.tpm2b(&self.qualified_name(name))?;
        self.attestation(attest.into_bytes())
    }

    /// Signs any bytes with the attestation key, as no restricted key would: for tests of the verifier.
    pub fn attestation(&self, attest: Vec<u8>) -> Result<Attestation, SimulationError> {
        let signed = self.ak.sign(&SystemRandom::new(), &attest).map_err(|_| SimulationError::Signing)?;
        let (r, s) = signed.as_ref().split_at_checked(32).ok_or(SimulationError::Signing)?;
        let signature = Writer::new().u16(id::ECDSA).u16(id::SHA256).tpm2b(r)?.tpm2b(s)?;
        Ok(Attestation { attest, signature: signature.into_bytes() })
    }

    /// TPM2_ActivateCredential for the attestation key. TPM 2.0 Part 3, 12.5; Part 1, 24.
    pub fn activate_credential(
        &self,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, SimulationError> {
        let hash = self.ek_public.name_alg();
        let mut reader = Reader::new(encrypted_secret);
        let x = reader.tpm2b(32)?;
        let y = reader.tpm2b(32)?;
        reader.finish()?;
        let peer = p256::PublicKey::from_sec1_bytes(&[&[0x04], x, y].concat())
            .map_err(|_| SimulationError::Integrity)?;
        let z = p256::ecdh::diffie_hellman(self.ek.to_nonzero_scalar(), peer.as_affine());
        let own = self.ek.public_key().to_sec1_point(false);
        let own_x = own.as_bytes().get(1..33).ok_or(SimulationError::Integrity)?;
        let seed = kdfe(hash, z.raw_secret_bytes(), b"IDENTITY\0", x, own_x);
        let name = self.ak_public.name().as_bytes();
        let mut reader = Reader::new(id_object);
        let mac = reader.tpm2b(64)?;
        let sealed = reader.take(reader.remaining())?;
        let key = kdfa(hash, &seed, "INTEGRITY", &[], &[], integrity_bits(hash));
        if !bool::from(hash.hmac(&key, &[sealed, name]).ct_eq(mac)) {
            return Err(SimulationError::Integrity);
        }
        let key = kdfa(hash, &seed, "STORAGE", name, &[], 128);
        let mut opened = sealed.to_vec();
        cfb_decrypt(&key, &mut opened)?;
        let mut reader = Reader::new(&opened);
        let secret = reader.tpm2b(64)?.to_vec();
        reader.finish()?;
        Ok(secret)
    }

    fn attest_header(&self, kind: u16, extra: &[u8]) -> Result<Writer, SimulationError> {
        let signer = self.qualified_name(self.ak_public.name().as_bytes());
        let writer = Writer::new().u32(TPM_GENERATED).u16(kind).tpm2b(&signer)?.tpm2b(extra)?;
        let clock = self.clock;
        let writer = writer.u64(clock.clock_ms).u32(clock.reset_count).u32(clock.restart_count);
        Ok(writer.u8(u8::from(clock.safe)).u64(self.firmware_version))
    }

    /// Qualified Name under the endorsement hierarchy. TPM 2.0 Part 1, 16.2.
    fn qualified_name(&self, name: &[u8]) -> Vec<u8> {
        const RH_ENDORSEMENT: [u8; 4] = 0x4000_000bu32.to_be_bytes();
        let digest = HashAlg::Sha256.digest_parts(&[&RH_ENDORSEMENT, name]);
        [&id::SHA256.to_be_bytes(), digest.as_slice()].concat()
    }

    fn register(&self, bank: HashAlg, pcr: u32) -> Option<&[u8]> {
        let index = BANKS.iter().position(|one| *one == bank)?;
        self.registers.get(index)?.get(usize::try_from(pcr).ok()?).map(Vec::as_slice)
    }

    fn register_mut(&mut self, bank: HashAlg, pcr: u32) -> Option<&mut Vec<u8>> {
        let index = BANKS.iter().position(|one| *one == bank)?;
        self.registers.get_mut(index)?.get_mut(usize::try_from(pcr).ok()?)
    }
}

fn fresh_registers(bank: HashAlg) -> Vec<Vec<u8>> {
    let fill = |pcr| if (17..=22).contains(&pcr) { 0xff } else { 0 };
    (0..REGISTERS).map(|pcr| vec![fill(pcr); bank.digest_len()]).collect()
}

fn secret(random: &mut impl FnMut(&mut [u8])) -> Result<p256::SecretKey, SimulationError> {
    let mut bytes = Zeroizing::new([0; 32]);
    random(bytes.as_mut());
    p256::SecretKey::from_slice(bytes.as_ref()).map_err(|_| SimulationError::Randomness)
}

/// Template L-2: ECC P-256, AES-128. TCG EK Credential Profile 2.5, B.3.4.
fn endorsement_public(key: &p256::SecretKey) -> Result<Public, SimulationError> {
    let attributes = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::ADMIN_WITH_POLICY
        | Attributes::RESTRICTED
        | Attributes::DECRYPT;
    let writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&EK_POLICY)?;
    let writer = writer.u16(id::AES).u16(128).u16(id::CFB).u16(id::NULL);
    finish_public(writer, key)
}

/// An ECDSA P-256 SHA-256 key without dictionary attack protection.
fn signing_public(key: &p256::SecretKey, restricted: bool) -> Result<Public, SimulationError> {
    let mut attributes = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::USER_WITH_AUTH
        | Attributes::NO_DA
        | Attributes::SIGN;
    if restricted {
        attributes |= Attributes::RESTRICTED;
    }
    let writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&[])?;
    let writer = writer.u16(id::NULL).u16(id::ECDSA).u16(id::SHA256);
    finish_public(writer, key)
}

fn finish_public(writer: Writer, key: &p256::SecretKey) -> Result<Public, SimulationError> {
    let point = key.public_key().to_sec1_point(false);
    let (x, y) = point.as_bytes().get(1..).and_then(|xy| xy.split_at_checked(32)).unwrap_or_default();
    let writer = writer.u16(0x0003).u16(id::NULL).tpm2b(x)?.tpm2b(y)?;
    Ok(Public::parse(&writer.into_bytes())?)
}

fn cfb_decrypt(key: &[u8], data: &mut [u8]) -> Result<(), SimulationError> {
    use aes::cipher::KeyIvInit;
    cfb_mode::Decryptor::<aes::Aes128>::new_from_slices(key, &[0; 16])
        .map(|cipher| cipher.decrypt(data))
        .map_err(|_| SimulationError::Integrity)
}

#[cfg(test)]
#[path = "simulated_tests.rs"]
mod tests;
