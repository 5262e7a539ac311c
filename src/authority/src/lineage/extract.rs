//! What a leaf is filed under. Pure.

use super::{PcrValue, Term};
use crate::store::project::decision_tells_of_host;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::control::EpochRecord;
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, LeafError};
use countersign_core::name::HostId;
use countersign_core::record::EvidenceRecord;
use countersign_core::tuple::tuple_digest;

/// What one leaf tells the index.
pub(super) enum Told {
    /// An artifact.
    Artifact(Box<Artifact>),
    /// A host has this attestation key from here on.
    Ak { host: HostId, ak: Sha256Digest },
    /// These references are in force from this control leaf on.
    References(Sha256Digest),
    /// A gateway tells of an artifact.
    Outcome { artifact: u64 },
    /// Nothing that is filed.
    Nothing,
}

/// An allow, as far as it says itself under what it belongs.
pub(super) struct Artifact {
    pub(super) host: HostId,
    pub(super) terms: Vec<Term>,
    /// Control number of the state that was read.
    pub(super) control: u64,
    pub(super) boot: Option<Boot>,
}

/// The boot that an artifact rests on.
#[derive(Clone, Copy)]
pub(super) struct Boot {
    /// Names quoted values and policy together: only the policy says of which registers they are.
    pub(super) name: Sha256Digest,
    /// SHA-256 over the quoted values, as the leaf has it.
    pub(super) values: Sha256Digest,
    /// Evidence record with the values themselves.
    pub(super) evidence: Sha256Digest,
}

/// Reads a leaf.
pub(super) fn told(leaf: &Leaf) -> Result<Told, LeafError> {
    Ok(match leaf.kind {
        Kind::Allow => Told::Artifact(Box::new(artifact(&Decision::parse(&leaf.body)?))),
        Kind::Enrolment => {
            let record = Enrolment::parse(&leaf.body)?;
            Told::Ak { host: record.host, ak: record.ak_public }
        }
        Kind::References => Told::References(EpochRecord::parse(&leaf.body)?.document),
        Kind::Outcome => Told::Outcome { artifact: Outcome::parse(&leaf.body)?.artifact.0 },
        _ => Told::Nothing,
    })
}

fn artifact(decision: &Decision) -> Artifact {
    let policy = decision.policy.as_ref().map(|claim| claim.digest);
    let mut terms = vec![Term::Any, Term::Host(decision.host), Term::Workload(decision.workload)];
    terms.extend(policy.map(Term::Policy));
    terms.extend(decision.appraisal.reference_set.clone().map(Term::ReferenceSet));
    terms.extend(decision.lineage.root.map(|(index, _)| Term::Root(index)));
    let state = &decision.host_state;
    let fresh = decision_tells_of_host(decision);
    let boot = state.pcr_digest.filter(|_| fresh).map(|values| {
        let policy = policy.unwrap_or(Sha256Digest::ZERO);
        let fields: [&[u8]; 2] = [values.as_bytes(), policy.as_bytes()];
        let name = tuple_digest("countersign-v1:lineage-boot", &fields);
        Boot { name, values, evidence: decision.evidence }
    });
    Artifact { host: decision.host, terms, control: decision.control, boot }
}

/// The registers of an evidence record, if it is the one named and its values are those of the leaf.
pub(super) fn registers(bytes: &[u8], boot: &Boot) -> Option<Vec<PcrValue>> {
    if sha256(bytes) != boot.evidence {
        return None;
    }
    let record = EvidenceRecord::parse(bytes).ok()?;
    let values: Vec<u8> = record.pcrs.iter().flat_map(|(_, value)| value.iter().copied()).collect();
    if sha256(&values) != boot.values {
        return None;
    }
    let bank = record.bank;
    Some(record.pcrs.into_iter().map(|(pcr, value)| PcrValue { bank, pcr, value }).collect())
}
