//! The decision body: claims of an allow or a deny (PROTOCOL §7.1).
//!
//! Comes in: typed claims from the decision function, or exact body bytes from a leaf. Goes out: exact bytes, or typed claims. Refused: absent
//! or wrongly typed claims, claims that this version doesn't know, an allow without lifetime, a deny without code.

use super::LeafError;
use super::appraisal::Appraisal;
use super::host::HostState;
use crate::cbor::{Decoder, Key, MapBuilder, Slot, encode_map};
use crate::digest::Sha256Digest;
use crate::key::{KeyError, KnownKeys, VerifyingKey};
use crate::name::{Action, Audience, HostId, Origin, RequestId, RuntimeId};
use crate::refusal::RefusalCode;

/// Labels of PROTOCOL §7.1: CWT (RFC 8392), EAT (RFC 9711), then the private range.
mod label {
    pub(super) const ISS: i64 = 1;
    pub(super) const SUB: i64 = 2;
    pub(super) const AUD: i64 = 3;
    pub(super) const EXP: i64 = 4;
    pub(super) const NBF: i64 = 5;
    pub(super) const IAT: i64 = 6;
    pub(super) const CTI: i64 = 7;
    pub(super) const CNF: i64 = 8;
    pub(super) const UEID: i64 = 256;
    pub(super) const VERDICT: i64 = -65_537;
    pub(super) const CODE: i64 = -65_538;
    pub(super) const REQUEST: i64 = -65_539;
    pub(super) const WORKLOAD: i64 = -65_540;
    pub(super) const ACTION: i64 = -65_541;
    pub(super) const ARGUMENTS: i64 = -65_542;
    pub(super) const LINEAGE: i64 = -65_543;
    pub(super) const DELEGATION: i64 = -65_544;
    pub(super) const POLICY: i64 = -65_545;
    pub(super) const EVIDENCE: i64 = -65_546;
    pub(super) const APPRAISAL: i64 = -65_547;
    pub(super) const HOST_STATE: i64 = -65_548;
    pub(super) const INPUTS: i64 = -65_549;
    pub(super) const ASSERTED: i64 = -65_550;
    pub(super) const ENGINE: i64 = -65_551;
    pub(super) const CONTROL: i64 = -65_552;
}

/// Most parents of one decision.
pub const MAX_PARENTS: usize = 8;

/// A leaf named by index and SHA-256 leaf hash.
pub type LeafRef = (u64, Sha256Digest);

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed from `nbf` until `exp`, seconds.
    Allow {
        /// Not before.
        nbf: u64,
        /// Expires.
        exp: u64,
    },
    /// Denied for this reason.
    Deny(RefusalCode),
}

/// What children of an artifact may do (PROTOCOL §3.1, §7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Sorted, distinct.
    pub actions: Vec<Action>,
    /// Sorted, distinct.
    pub audiences: Vec<Audience>,
    /// Generations below.
    pub depth: u64,
    /// Descendants in all.
    pub budget: u64,
}

/// Where a decision stands in its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// At most eight.
    pub parents: Vec<LeafRef>,
    /// `None` when there is no parent: this decision is the root.
    pub root: Option<LeafRef>,
    /// 0 without parents.
    pub depth: u64,
}

/// The policy that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyClaim {
    /// Digest of the policy document.
    pub digest: Sha256Digest,
    /// Epoch in force.
    pub epoch: u64,
    /// Identifiers of the policies that determined the answer, sorted.
    pub determining: Vec<String>,
}

/// All claims of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `iss`.
    pub issuer: Origin,
    /// `sub`.
    pub runtime: RuntimeId,
    /// `aud`.
    pub audience: Audience,
    /// `iat`, seconds.
    pub issued_at: u64,
    /// `cti`.
    pub request_id: RequestId,
    /// `cnf`.
    pub holder: VerifyingKey,
    /// `ueid`.
    pub host: HostId,
    /// Verdict with lifetime or code.
    pub verdict: Verdict,
    /// Request digest.
    pub request: Sha256Digest,
    /// SHA-256 of the program.
    pub workload: Sha256Digest,
    /// What is to be done.
    pub action: Action,
    /// Digest of the arguments.
    pub arguments: Sha256Digest,
    /// Family.
    pub lineage: Lineage,
    /// What children may do.
    pub delegation: Option<Delegation>,
    /// Policy in force.
    pub policy: Option<PolicyClaim>,
    /// Evidence record.
    pub evidence: Sha256Digest,
    /// Attestation result.
    pub appraisal: Appraisal,
    /// The host after this decision.
    pub host_state: HostState,
    /// Inputs record.
    pub inputs: Sha256Digest,
    /// Claims that rest on the host's word, sorted.
    pub asserted: Vec<String>,
    /// Version of the decision function.
    pub engine: String,
    /// Control number read.
    pub control: u64,
}

/// A decision together with its body's bytes, which were made from it and from nothing else: what holds one needs to read neither again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenDecision {
    decision: Decision,
    bytes: Vec<u8>,
}

impl WrittenDecision {
    /// The claims.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The body's exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Claims and bytes.
    #[must_use]
    pub fn into_parts(self) -> (Decision, Vec<u8>) {
        (self.decision, self.bytes)
    }
}

impl From<Decision> for WrittenDecision {
    fn from(decision: Decision) -> Self {
        let bytes = decision.encode();
        Self { decision, bytes }
    }
}

impl Decision {
    /// The body's exact bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(label::ISS).text(self.issuer.as_str());
            map.entry(label::SUB).text(self.runtime.as_str());
            map.entry(label::AUD).text(self.audience.as_str());
            map.entry(label::IAT).uint(self.issued_at);
            map.entry(label::CTI).bytes(self.request_id.as_str().as_bytes());
            map.entry(label::CNF).map(|cnf| cnf.entry(1).bytes(&self.holder.cose_key()));
            map.entry(label::UEID).bytes(self.host.as_bytes());
            match self.verdict {
                Verdict::Allow { nbf, exp } => {
                    map.entry(label::EXP).uint(exp);
                    map.entry(label::NBF).uint(nbf);
                    map.entry(label::VERDICT).uint(1);
                }
                Verdict::Deny(code) => {
                    map.entry(label::VERDICT).uint(2);
                    map.entry(label::CODE).text(code.as_str());
                }
            }
            map.entry(label::REQUEST).bytes(self.request.as_bytes());
            map.entry(label::WORKLOAD).bytes(self.workload.as_bytes());
            map.entry(label::ACTION).text(self.action.as_str());
            map.entry(label::ARGUMENTS).bytes(self.arguments.as_bytes());
            self.encode_context(map);
        })
    }

    fn encode_context(&self, map: &mut MapBuilder) {
        map.entry(label::LINEAGE).map(|lineage| {
            lineage.entry(1).array(|parents| {
                for parent in &self.lineage.parents {
                    write_leaf_ref(parents.item(), parent);
                }
            });
            if let Some(root) = &self.lineage.root {
                write_leaf_ref(lineage.entry(2), root);
            }
            lineage.entry(3).uint(self.lineage.depth);
        });
        if let Some(delegation) = &self.delegation {
            map.entry(label::DELEGATION).map(|claim| {
                claim
                    .entry(1)
                    .array(|list| delegation.actions.iter().for_each(|a| list.item().text(a.as_str())));
                claim
                    .entry(2)
                    .array(|list| delegation.audiences.iter().for_each(|a| list.item().text(a.as_str())));
                claim.entry(3).uint(delegation.depth);
                claim.entry(4).uint(delegation.budget);
            });
        }
        if let Some(policy) = &self.policy {
            map.entry(label::POLICY).map(|claim| {
                claim.entry(1).bytes(policy.digest.as_bytes());
                claim.entry(2).uint(policy.epoch);
                claim.entry(3).array(|list| policy.determining.iter().for_each(|id| list.item().text(id)));
            });
        }
        map.entry(label::EVIDENCE).bytes(self.evidence.as_bytes());
        self.appraisal.write(map.entry(label::APPRAISAL));
        self.host_state.write(map.entry(label::HOST_STATE));
        map.entry(label::INPUTS).bytes(self.inputs.as_bytes());
        map.entry(label::ASSERTED).array(|list| self.asserted.iter().for_each(|name| list.item().text(name)));
        map.entry(label::ENGINE).text(&self.engine);
        map.entry(label::CONTROL).uint(self.control);
    }

    /// Parses exact body bytes of an allow or deny leaf.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        Self::parse_with(bytes, &mut VerifyingKey::from_cose_key)
    }

    /// The same for whoever reads many: holder keys that were met before aren't checked again.
    pub fn parse_among(bytes: &[u8], known: &mut KnownKeys) -> Result<Self, LeafError> {
        Self::parse_with(bytes, &mut |key| known.from_cose_key(key))
    }

    fn parse_with(bytes: &[u8], key: &mut ReadKey<'_>) -> Result<Self, LeafError> {
        let mut reader = Reader::new(bytes)?;
        let d = &mut reader;
        let issuer = Origin::parse(d.required(label::ISS)?.text()?).map_err(|_| LeafError::Value("iss"))?;
        let runtime =
            RuntimeId::parse(d.required(label::SUB)?.text()?).map_err(|_| LeafError::Value("sub"))?;
        let audience =
            Audience::parse(d.required(label::AUD)?.text()?).map_err(|_| LeafError::Value("aud"))?;
        let exp = d.optional(label::EXP)?.map(Decoder::uint).transpose()?;
        let nbf = d.optional(label::NBF)?.map(Decoder::uint).transpose()?;
        let issued_at = d.required(label::IAT)?.uint()?;
        let request_id = read_request_id(d.required(label::CTI)?)?;
        let holder = read_confirmation(d.required(label::CNF)?, key)?;
        let host =
            HostId::from_slice(d.required(label::UEID)?.bytes()?).map_err(|_| LeafError::Value("ueid"))?;
        let verdict = d.required(label::VERDICT)?.uint()?;
        let code = d.optional(label::CODE)?.map(Decoder::text).transpose()?;
        let verdict = verdict_of(verdict, nbf, exp, code)?;
        let request = d.digest(label::REQUEST)?;
        let workload = d.digest(label::WORKLOAD)?;
        let action =
            Action::parse(d.required(label::ACTION)?.text()?).map_err(|_| LeafError::Value("action"))?;
        let arguments = d.digest(label::ARGUMENTS)?;
        let lineage = read_lineage(d.required(label::LINEAGE)?)?;
        let delegation = d.optional(label::DELEGATION)?.map(read_delegation).transpose()?;
        let policy = d.optional(label::POLICY)?.map(read_policy).transpose()?;
        let evidence = d.digest(label::EVIDENCE)?;
        let appraisal = Appraisal::read(d.required(label::APPRAISAL)?)?;
        let host_state = HostState::read(d.required(label::HOST_STATE)?)?;
        let inputs = d.digest(label::INPUTS)?;
        let asserted = read_texts(d.required(label::ASSERTED)?)?;
        if !asserted.is_sorted_by(|a, b| a < b) {
            return Err(LeafError::Value("asserted"));
        }
        let engine = d.required(label::ENGINE)?.text()?.to_owned();
        let control = d.required(label::CONTROL)?.uint()?;
        reader.finish()?;
        Ok(Self {
            issuer,
            runtime,
            audience,
            issued_at,
            request_id,
            holder,
            host,
            verdict,
            request,
            workload,
            action,
            arguments,
            lineage,
            delegation,
            policy,
            evidence,
            appraisal,
            host_state,
            inputs,
            asserted,
            engine,
            control,
        })
    }
}

/// Reads the entries of the one map in their order, knowing how many are left.
struct Reader<'a> {
    decoder: Decoder<'a>,
    left: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let left = decoder.map()?;
        Ok(Self { decoder, left })
    }

    fn optional(&mut self, label: i64) -> Result<Option<&mut Decoder<'a>>, LeafError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut ahead = self.decoder;
        if ahead.key()? != Key::Int(label) {
            return Ok(None);
        }
        self.decoder = ahead;
        self.left -= 1;
        Ok(Some(&mut self.decoder))
    }

    fn required(&mut self, label: i64) -> Result<&mut Decoder<'a>, LeafError> {
        let mut ahead = self.decoder;
        match self.optional(label)? {
            Some(decoder) => Ok(decoder),
            None => {
                // Either a claim that is unknown stands here, or this one is absent.
                let _ = ahead.key()?;
                Err(LeafError::Cbor(ahead.unknown_key()))
            }
        }
    }

    fn digest(&mut self, label: i64) -> Result<Sha256Digest, LeafError> {
        Ok(Sha256Digest::new(self.required(label)?.byte_array()?))
    }

    fn finish(self) -> Result<(), LeafError> {
        Ok(self.decoder.finish()?)
    }
}

/// Writes `[index, leaf hash]`.
pub fn write_leaf_ref(slot: Slot<'_>, reference: &LeafRef) {
    slot.array(|array| {
        array.item().uint(reference.0);
        array.item().bytes(reference.1.as_bytes());
    });
}

/// Reads `[index, leaf hash]`.
pub fn read_leaf_ref(decoder: &mut Decoder<'_>) -> Result<LeafRef, LeafError> {
    decoder.array_of(2)?;
    Ok((decoder.uint()?, Sha256Digest::new(decoder.byte_array()?)))
}

fn read_request_id(decoder: &mut Decoder<'_>) -> Result<RequestId, LeafError> {
    let text = std::str::from_utf8(decoder.bytes()?).ok();
    text.and_then(|text| RequestId::parse(text).ok()).ok_or(LeafError::Value("cti"))
}

/// How a COSE_Key becomes a key.
type ReadKey<'a> = dyn FnMut(&[u8]) -> Result<VerifyingKey, KeyError> + 'a;

fn read_confirmation(decoder: &mut Decoder<'_>, key: &mut ReadKey<'_>) -> Result<VerifyingKey, LeafError> {
    decoder.map_of(1)?;
    decoder.expect_key(1)?;
    key(decoder.bytes()?).map_err(|_| LeafError::Value("COSE_Key"))
}

/// PROTOCOL §7.1: an allow has a lifetime and no code, a deny has a code and no lifetime.
fn verdict_of(
    verdict: u64,
    nbf: Option<u64>,
    exp: Option<u64>,
    code: Option<&str>,
) -> Result<Verdict, LeafError> {
    match (verdict, nbf, exp, code) {
        (1, Some(nbf), Some(exp), None) if nbf < exp => Ok(Verdict::Allow { nbf, exp }),
        (2, None, None, Some(code)) => {
            RefusalCode::parse(code).map(Verdict::Deny).ok_or(LeafError::Value("code"))
        }
        _ => Err(LeafError::Value("verdict")),
    }
}

fn read_lineage(decoder: &mut Decoder<'_>) -> Result<Lineage, LeafError> {
    let entries = decoder.map()?;
    decoder.expect_key(1)?;
    let count = decoder.array()?;
    if count > MAX_PARENTS {
        return Err(LeafError::Value("parents"));
    }
    let parents = (0..count).map(|_| read_leaf_ref(decoder)).collect::<Result<Vec<_>, _>>()?;
    let root = match (entries, parents.is_empty()) {
        (2, true) => None,
        (3, false) => {
            decoder.expect_key(2)?;
            Some(read_leaf_ref(decoder)?)
        }
        _ => return Err(LeafError::Value("lineage")),
    };
    decoder.expect_key(3)?;
    let depth = decoder.uint()?;
    if (depth == 0) != parents.is_empty() {
        return Err(LeafError::Value("lineage depth"));
    }
    Ok(Lineage { parents, root, depth })
}

fn read_delegation(decoder: &mut Decoder<'_>) -> Result<Delegation, LeafError> {
    decoder.map_of(4)?;
    decoder.expect_key(1)?;
    let actions = read_texts(decoder)?
        .iter()
        .map(|text| Action::parse(text).map_err(|_| LeafError::Value("delegated action")))
        .collect::<Result<Vec<_>, _>>()?;
    decoder.expect_key(2)?;
    let audiences = read_texts(decoder)?
        .iter()
        .map(|text| Audience::parse(text).map_err(|_| LeafError::Value("delegated audience")))
        .collect::<Result<Vec<_>, _>>()?;
    decoder.expect_key(3)?;
    let depth = decoder.uint()?;
    decoder.expect_key(4)?;
    let budget = decoder.uint()?;
    Ok(Delegation { actions, audiences, depth, budget })
}

fn read_policy(decoder: &mut Decoder<'_>) -> Result<PolicyClaim, LeafError> {
    decoder.map_of(3)?;
    decoder.expect_key(1)?;
    let digest = Sha256Digest::new(decoder.byte_array()?);
    decoder.expect_key(2)?;
    // PROTOCOL §8.6: numbered from 1.
    let epoch = decoder.uint()?;
    if epoch == 0 {
        return Err(LeafError::Value("epoch"));
    }
    decoder.expect_key(3)?;
    let determining = read_texts(decoder)?;
    Ok(PolicyClaim { digest, epoch, determining })
}

fn read_texts(decoder: &mut Decoder<'_>) -> Result<Vec<String>, LeafError> {
    let count = decoder.array()?;
    (0..count).map(|_| Ok(decoder.text()?.to_owned())).collect()
}
