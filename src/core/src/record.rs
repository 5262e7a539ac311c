//! The records that a decision names by digest: evidence (PROTOCOL §9.2) and inputs (PROTOCOL §7.2).
//!
//! They are kept as blobs beside the log. Whoever holds them can repeat a decision; each has one encoding, so its digest is its name.

use crate::cbor::{Decoder, encode_map};
use crate::digest::{Sha256Digest, sha256};
use crate::key::SIGNATURE_LEN;
use crate::leaf::LeafError;
use crate::leaf::control::Subject;
use crate::leaf::decision::{LeafRef, read_leaf_ref, write_leaf_ref};
use crate::leaf::field::{read_digest_or_null, write_digest};
use crate::leaf::host::HostState;
use crate::name::TrustDomain;

/// What a host presented in one call. Shared by all requests of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceRecord {
    /// Exact challenge bytes.
    pub challenge: Vec<u8>,
    /// Exact TPMS_ATTEST bytes.
    pub attest: Vec<u8>,
    /// Exact TPMT_SIGNATURE bytes.
    pub signature: Vec<u8>,
    /// TPM_ALG_ID of the PCR bank.
    pub bank: u16,
    /// PCR index and value, in the order sent.
    pub pcrs: Vec<(u32, Vec<u8>)>,
    /// Digest of the boot log.
    pub boot_log: Option<Sha256Digest>,
    /// Digests of the requests, in call order.
    pub requests: Vec<Sha256Digest>,
    /// New entries of the IMA list.
    pub ima: Option<ImaEntries>,
}

/// Entries of a host's IMA list, by the digest of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImaEntries {
    /// How many entries of this boot come before them; 0 for the whole list.
    pub from: u64,
    /// TPM_ALG_ID of the hash in their template-hash column.
    pub column: u16,
    /// SHA-256 of the entries, in binary form.
    pub list: Sha256Digest,
}

/// Most PCR values of one record: a TPM has 24.
pub const MAX_PCRS: usize = 24;

impl EvidenceRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(&self.challenge);
            map.entry(2).bytes(&self.attest);
            map.entry(3).bytes(&self.signature);
            map.entry(4).uint(u64::from(self.bank));
            map.entry(5).array(|pcrs| {
                for (index, value) in &self.pcrs {
                    pcrs.item().array(|pcr| {
                        pcr.item().uint(u64::from(*index));
                        pcr.item().bytes(value);
                    });
                }
            });
            write_digest(map.entry(6), self.boot_log.as_ref());
            map.entry(7)
                .array(|list| self.requests.iter().for_each(|digest| list.item().bytes(digest.as_bytes())));
            if let Some(ima) = &self.ima {
                map.entry(8).array(|list| {
                    list.item().uint(ima.from);
                    list.item().uint(u64::from(ima.column));
                    list.item().bytes(ima.list.as_bytes());
                });
            }
        })
    }

    /// Parses exact record bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let members = decoder.map()?;
        if !(7..=8).contains(&members) {
            return Err(LeafError::Value("evidence record"));
        }
        decoder.expect_key(1)?;
        let challenge = decoder.bytes()?.to_vec();
        decoder.expect_key(2)?;
        let attest = decoder.bytes()?.to_vec();
        decoder.expect_key(3)?;
        let signature = decoder.bytes()?.to_vec();
        decoder.expect_key(4)?;
        let bank = u16::try_from(decoder.uint()?).map_err(|_| LeafError::Value("bank"))?;
        decoder.expect_key(5)?;
        let pcrs = read_pcrs(&mut decoder)?;
        decoder.expect_key(6)?;
        let boot_log = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(7)?;
        let count = decoder.array()?;
        if count > crate::request::MAX_REQUESTS {
            return Err(LeafError::Value("requests"));
        }
        let requests = (0..count)
            .map(|_| Ok(Sha256Digest::new(decoder.byte_array()?)))
            .collect::<Result<_, LeafError>>()?;
        let ima = if members == 8 { Some(read_ima(&mut decoder)?) } else { None };
        decoder.finish()?;
        Ok(Self { challenge, attest, signature, bank, pcrs, boot_log, requests, ima })
    }

    /// The record's name.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        sha256(&self.encode())
    }
}

fn read_ima(decoder: &mut Decoder<'_>) -> Result<ImaEntries, LeafError> {
    decoder.expect_key(8)?;
    decoder.array_of(3)?;
    Ok(ImaEntries {
        from: decoder.uint()?,
        column: u16::try_from(decoder.uint()?).map_err(|_| LeafError::Value("IMA column"))?,
        list: Sha256Digest::new(decoder.byte_array()?),
    })
}

/// Reads `[[PCR, value]..]`.
pub(crate) fn read_pcrs(decoder: &mut Decoder<'_>) -> Result<Vec<(u32, Vec<u8>)>, LeafError> {
    let count = decoder.array()?;
    if count > MAX_PCRS {
        return Err(LeafError::Value("PCR values"));
    }
    (0..count)
        .map(|_| {
            decoder.array_of(2)?;
            let index = u32::try_from(decoder.uint()?).map_err(|_| LeafError::Value("PCR index"))?;
            Ok((index, decoder.bytes()?.to_vec()))
        })
        .collect()
}

/// How the challenge stood when the call was sequenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeStanding {
    /// Unspent and in time.
    Fresh,
    /// Spent before.
    Spent,
    /// Too late.
    Expired,
}

/// Everything that a decision depends on, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputsRecord {
    /// Version of the decision function.
    pub engine: String,
    /// Request digest; the bytes are a blob.
    pub request: Sha256Digest,
    /// Holder signature over the request.
    pub holder_signature: Vec<u8>,
    /// Evidence record.
    pub evidence: Sha256Digest,
    /// Challenge standing.
    pub challenge: ChallengeStanding,
    /// The enrolment leaf that endorses the AK.
    pub enrolment: LeafRef,
    /// The host before this decision.
    pub prior: HostState,
    /// Active policy document.
    pub policy: Option<Sha256Digest>,
    /// Epoch in force.
    pub epoch: u64,
    /// Active references document.
    pub references: Option<Sha256Digest>,
    /// Parents and what is left of their budgets.
    pub parents: Vec<(LeafRef, u64)>,
    /// Control number and digest.
    pub control: (u64, Sha256Digest),
    /// Decision time, ms.
    pub time_ms: u64,
    /// Whether the request identifier was used before for other bytes.
    pub request_id_reused: bool,
    /// Revoked subjects that bear on this decision, sorted.
    pub revoked: Vec<Subject>,
    /// The deployment's trust domain.
    pub trust_domain: TrustDomain,
    /// Consents of the parents' holders as sent, in the order of the parents.
    pub consents: Vec<Vec<u8>>,
}

impl InputsRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).text(&self.engine);
            map.entry(2).bytes(self.request.as_bytes());
            map.entry(3).bytes(&self.holder_signature);
            map.entry(4).bytes(self.evidence.as_bytes());
            map.entry(5).uint(match self.challenge {
                ChallengeStanding::Fresh => 1,
                ChallengeStanding::Spent => 2,
                ChallengeStanding::Expired => 3,
            });
            write_leaf_ref(map.entry(6), &self.enrolment);
            self.prior.write(map.entry(7));
            write_digest(map.entry(8), self.policy.as_ref());
            map.entry(9).uint(self.epoch);
            write_digest(map.entry(10), self.references.as_ref());
            map.entry(11).array(|parents| {
                for ((index, hash), left) in &self.parents {
                    parents.item().array(|parent| {
                        parent.item().uint(*index);
                        parent.item().bytes(hash.as_bytes());
                        parent.item().uint(*left);
                    });
                }
            });
            write_leaf_ref(map.entry(12), &self.control);
            map.entry(13).uint(self.time_ms);
            map.entry(14).bool(self.request_id_reused);
            map.entry(15)
                .array(|revoked| self.revoked.iter().for_each(|subject| subject.write(revoked.item())));
            map.entry(16).text(self.trust_domain.as_str());
            map.entry(17).array(|list| self.consents.iter().for_each(|consent| list.item().bytes(consent)));
        })
    }

    /// Parses exact record bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        d.map_of(17)?;
        d.expect_key(1)?;
        let engine = d.text()?.to_owned();
        d.expect_key(2)?;
        let request = Sha256Digest::new(d.byte_array()?);
        d.expect_key(3)?;
        let holder_signature = d.byte_array::<SIGNATURE_LEN>()?.to_vec();
        d.expect_key(4)?;
        let evidence = Sha256Digest::new(d.byte_array()?);
        d.expect_key(5)?;
        let challenge = match d.uint()? {
            1 => ChallengeStanding::Fresh,
            2 => ChallengeStanding::Spent,
            3 => ChallengeStanding::Expired,
            _ => return Err(LeafError::Value("challenge standing")),
        };
        d.expect_key(6)?;
        let enrolment = read_leaf_ref(d)?;
        d.expect_key(7)?;
        let prior = HostState::read(d)?;
        d.expect_key(8)?;
        let policy = read_digest_or_null(d)?;
        d.expect_key(9)?;
        let epoch = d.uint()?;
        d.expect_key(10)?;
        let references = read_digest_or_null(d)?;
        d.expect_key(11)?;
        let parents = read_parents(d)?;
        d.expect_key(12)?;
        let control = read_leaf_ref(d)?;
        d.expect_key(13)?;
        let time_ms = d.uint()?;
        d.expect_key(14)?;
        let request_id_reused = d.bool()?;
        d.expect_key(15)?;
        let count = d.array()?;
        let revoked = (0..count).map(|_| Subject::read(d)).collect::<Result<Vec<_>, _>>()?;
        d.expect_key(16)?;
        let trust_domain = TrustDomain::parse(d.text()?).map_err(|_| LeafError::Value("trust domain"))?;
        d.expect_key(17)?;
        let count = d.array()?;
        if count > crate::request::MAX_PARENTS {
            return Err(LeafError::Value("consents"));
        }
        let consents = (0..count).map(|_| Ok(d.bytes()?.to_vec())).collect::<Result<Vec<_>, LeafError>>()?;
        decoder.finish()?;
        Ok(Self {
            engine,
            request,
            holder_signature,
            evidence,
            challenge,
            enrolment,
            prior,
            policy,
            epoch,
            references,
            parents,
            control,
            time_ms,
            request_id_reused,
            revoked,
            trust_domain,
            consents,
        })
    }
}

fn read_parents(decoder: &mut Decoder<'_>) -> Result<Vec<(LeafRef, u64)>, LeafError> {
    let count = decoder.array()?;
    if count > crate::request::MAX_PARENTS {
        return Err(LeafError::Value("parents"));
    }
    (0..count)
        .map(|_| {
            decoder.array_of(3)?;
            let reference = (decoder.uint()?, Sha256Digest::new(decoder.byte_array()?));
            Ok((reference, decoder.uint()?))
        })
        .collect()
}
