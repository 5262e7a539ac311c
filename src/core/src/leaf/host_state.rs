//! The host-state body: what an attestation without requests came to (PROTOCOL §8.4).
//!
//! Comes in: an outcome, or exact body bytes. Refused: absent or wrongly typed members, other members than the two forms have.

use super::LeafError;
use super::appraisal::Appraisal;
use super::field::{read_code_or_null, read_digest_or_null, write_digest};
use super::host::HostState;
use crate::cbor::{Decoder, encode_map};
use crate::digest::Sha256Digest;
use crate::name::HostId;
use crate::refusal::RefusalCode;

/// What the state follows from, and how the host was appraised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The attestation result; of evidence that wasn't appraised, the tier is none and the vector empty.
    pub appraisal: Appraisal,
    /// Digest of the policy document in force, whose settings say what is quoted and how long trust lasts.
    pub policy: Option<Sha256Digest>,
    /// Digest of the references document in force.
    pub references: Option<Sha256Digest>,
    /// Version of the decision function.
    pub engine: String,
    /// Decision time, ms since the Unix epoch.
    pub time_ms: u64,
    /// Control number of the state that was read.
    pub control: u64,
}

/// Body of a host-state leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStateRecord {
    /// Whose state.
    pub host: HostId,
    /// The state after it.
    pub state: HostState,
    /// The evidence record.
    pub evidence: Sha256Digest,
    /// Why the evidence was refused, if it was.
    pub code: Option<RefusalCode>,
    /// `None` in leaves from before countersign-decision-4, which told the state alone.
    pub basis: Option<Basis>,
}

impl HostStateRecord {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.host.as_bytes());
            self.state.write(map.entry(2));
            map.entry(3).bytes(self.evidence.as_bytes());
            match self.code {
                Some(code) => map.entry(4).text(code.as_str()),
                None => map.entry(4).null(),
            }
            if let Some(basis) = &self.basis {
                basis.appraisal.write(map.entry(5));
                write_digest(map.entry(6), basis.policy.as_ref());
                write_digest(map.entry(7), basis.references.as_ref());
                map.entry(8).text(&basis.engine);
                map.entry(9).uint(basis.time_ms);
                map.entry(10).uint(basis.control);
            }
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let members = decoder.map()?;
        decoder.expect_key(1)?;
        let host = HostId::from_slice(decoder.bytes()?).map_err(|_| LeafError::Value("host identifier"))?;
        decoder.expect_key(2)?;
        let state = HostState::read(&mut decoder)?;
        decoder.expect_key(3)?;
        let evidence = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(4)?;
        let code = read_code_or_null(&mut decoder)?;
        let basis = match members {
            4 => None,
            10 => Some(read_basis(&mut decoder)?),
            _ => return Err(LeafError::Value("host state")),
        };
        decoder.finish()?;
        Ok(Self { host, state, evidence, code, basis })
    }
}

fn read_basis(decoder: &mut Decoder<'_>) -> Result<Basis, LeafError> {
    decoder.expect_key(5)?;
    let appraisal = Appraisal::read(decoder)?;
    decoder.expect_key(6)?;
    let policy = read_digest_or_null(decoder)?;
    decoder.expect_key(7)?;
    let references = read_digest_or_null(decoder)?;
    decoder.expect_key(8)?;
    let engine = decoder.text()?.to_owned();
    decoder.expect_key(9)?;
    let time_ms = decoder.uint()?;
    decoder.expect_key(10)?;
    Ok(Basis { appraisal, policy, references, engine, time_ms, control: decoder.uint()? })
}
