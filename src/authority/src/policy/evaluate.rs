//! Evaluating a compiled policy over the facts of one request.

use super::reads::Reads;
use super::{CompiledPolicy, Slice, boot};
use cedar_policy::{Context, Decision, Entities, Entity, EntityId, EntityUid, Request, RestrictedExpression};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::decision::Delegation;
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::leaf::host::{Endorsement, EndorsementKind, HostKeyKind};
use countersign_core::request;
use countersign_tpm::attest::ClockInfo;
use countersign_tpm::eventlog::VerifiedBootLog;
use countersign_tpm::ima::appraise::Appraised;
use countersign_tpm::ima::register::Rule;
use std::collections::{HashMap, HashSet};

/// What is known of Secure Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBootFact {
    /// The boot log proves that it was on.
    On,
    /// The boot log proves that it was off.
    Off,
    /// Nothing proves either.
    Unknown,
}

impl SecureBootFact {
    /// The text that policies compare with.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        }
    }
}

/// Everything that a policy can look at.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFacts<'a> {
    /// The request.
    pub request: &'a request::Request,
    /// The appraisal of the host.
    pub appraisal: &'a Appraisal,
    /// Secure Boot as the boot log proves it.
    pub secure_boot: SecureBootFact,
    /// What else the boot log proves.
    pub boot: &'a VerifiedBootLog,
    /// TPMS_ATTEST.firmwareVersion.
    pub firmware_version: u64,
    /// TPMS_CLOCK_INFO of the quote.
    pub clock: ClockInfo,
    /// How the host key is held.
    pub host_key_kind: HostKeyKind,
    /// How the TPM is endorsed.
    pub endorsement: &'a Endorsement,
    /// Claims that rest on the host's word.
    pub asserted: &'a [String],
    /// Generations above.
    pub depth: u64,
    /// Leaf hash of the lineage's root, if there are parents.
    pub root: Option<&'a Sha256Digest>,
    /// What the IMA list shows, if an IMA policy is in force.
    pub ima: Option<&'a ImaFacts<'a>>,
}

/// What the IMA list shows of the boot.
#[derive(Clone, Debug)]
pub struct ImaFacts<'a> {
    /// The appraisal.
    pub appraised: &'a Appraised,
    /// The excludes that were needed since the boot.
    pub excludes: Vec<String>,
}

/// The answer, and the policies that determined it, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A policy permits and none forbids.
    Permitted(Vec<String>),
    /// No policy permits (the list is empty then), or these forbid.
    Denied(Vec<String>),
    /// These policies failed to evaluate; the list is empty if the facts themselves couldn't be put.
    Failed(Vec<String>),
}

impl CompiledPolicy {
    /// Asks the policies that bear on the request's action.
    #[must_use]
    pub fn evaluate(&self, facts: &PolicyFacts<'_>) -> Verdict {
        let name = facts.request.action.as_str();
        let family = name.split_once('.').map_or(name, |(family, _)| family);
        // Cedar entities of type Action are named by the family; a family that the schema doesn't declare is permitted by nothing.
        let Some(slice) = self.slices.iter().find(|slice| slice.action.id().unescaped() == family) else {
            return Verdict::Denied(Vec::new());
        };
        let Some((request, entities)) = self.question(slice, facts) else {
            return Verdict::Failed(Vec::new());
        };
        let response = self.authorizer.is_authorized(&request, &slice.policies, &entities);
        let diagnostics = response.diagnostics();
        // Cedar skips what fails: a failing `forbid` would let through. Any failure denies.
        let mut failed: Vec<String> = diagnostics.errors().map(failed_policy).collect();
        if !failed.is_empty() {
            failed.sort();
            failed.dedup();
            return Verdict::Failed(failed);
        }
        let mut determining: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        determining.sort();
        match response.decision() {
            Decision::Allow => Verdict::Permitted(determining),
            Decision::Deny => Verdict::Denied(determining),
        }
    }

    fn question(&self, slice: &Slice, facts: &PolicyFacts<'_>) -> Option<(Request, Entities)> {
        let action = slice.action.clone();
        let asked = facts.request;
        let uid = |name: &cedar_policy::EntityTypeName, id: &str| {
            EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
        };
        let runtime = uid(&self.types.runtime, asked.runtime.as_str());
        let workload = uid(&self.types.workload, &asked.workload.to_hex());
        let mut entities = Entities::empty();
        if slice.reads.principal() {
            let path = asked.runtime.as_str().splitn(6, '/').nth(5).unwrap_or_default();
            let attributes = HashMap::from([("path".to_owned(), text(path))]);
            let host = uid(&self.types.host, &asked.host.to_hex());
            let principal = Entity::new(runtime.clone(), attributes, HashSet::from([host])).ok()?;
            entities = Entities::from_entities([principal], None).ok()?;
        }
        let context = Context::from_pairs(context(facts, &slice.reads)).ok()?;
        // The types are the schema's by construction; a test puts the same question with the schema.
        let request = Request::new(runtime, action, workload, context, None).ok()?;
        Some((request, entities))
    }
}

fn failed_policy(error: &cedar_policy::AuthorizationError) -> String {
    match error {
        cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
    }
}

pub(super) fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

/// Cedar's Long is signed; every number here is bounded far below, except what saturates.
pub(super) fn long(value: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(text))
}

/// The context, of which only what policies read is put. A record whose keys weren't distinct would be left out, and policies that read it
/// would fail, which denies.
pub(super) fn context(facts: &PolicyFacts<'_>, reads: &Reads) -> Vec<(String, RestrictedExpression)> {
    let asked = facts.request;
    let mut pairs = Vec::new();
    let mut put = |name: &str, value: &dyn Fn() -> Option<RestrictedExpression>| {
        if reads.member(name) {
            pairs.extend(value().map(|value| (name.to_owned(), value)));
        }
    };
    put("action", &|| Some(text(asked.action.as_str())));
    put("audience", &|| Some(text(asked.audience.as_str())));
    put("arguments", &|| Some(text(&asked.arguments.to_hex())));
    put("ttl_secs", &|| Some(long(asked.ttl_secs)));
    put("tier", &|| Some(text(facts.appraisal.tier.name())));
    put("secure_boot", &|| Some(text(facts.secure_boot.as_str())));
    put("host_key", &|| {
        Some(text(match facts.host_key_kind {
            HostKeyKind::Certified => "certified",
            HostKeyKind::Software => "software",
        }))
    });
    put("ek_certificate", &|| {
        Some(RestrictedExpression::new_bool(facts.endorsement.kind == EndorsementKind::EkCertificate))
    });
    put("endorsement", &|| endorsement(facts.endorsement));
    put("asserted", &|| Some(texts(facts.asserted.iter().map(String::as_str))));
    put("depth", &|| Some(long(facts.depth)));
    put("has_parent", &|| Some(RestrictedExpression::new_bool(!asked.parents.is_empty())));
    put("firmware", &|| firmware(facts.firmware_version));
    put("clock", &|| clock(&facts.clock));
    put("boot", &|| boot::record(facts.boot));
    put("reference_set", &|| facts.appraisal.reference_set.as_deref().map(text));
    put("root", &|| facts.root.map(|root| text(&root.to_hex())));
    put("ima", &|| facts.ima.and_then(ima));
    put("delegation", &|| asked.delegation.as_ref().and_then(delegation));
    pairs
}

fn firmware(version: u64) -> Option<RestrictedExpression> {
    let halves = [("version_1", version >> 32), ("version_2", version & 0xffff_ffff)];
    RestrictedExpression::new_record(halves.map(|(name, half)| (name.to_owned(), long(half)))).ok()
}

/// The clock itself isn't among them: it says nothing that holds from one quote to the next.
fn clock(clock: &ClockInfo) -> Option<RestrictedExpression> {
    let members = [
        ("resets", long(u64::from(clock.reset_count))),
        ("restarts", long(u64::from(clock.restart_count))),
        ("safe", RestrictedExpression::new_bool(clock.safe)),
    ];
    RestrictedExpression::new_record(members.map(|(name, value)| (name.to_owned(), value))).ok()
}

fn ima(facts: &ImaFacts<'_>) -> Option<RestrictedExpression> {
    let (state, appraised) = (facts.appraised.state(), facts.appraised);
    let members = [
        ("entries", long(state.counts.entries)),
        ("ignored", long(appraised.ignored_entries())),
        ("violations", long(state.counts.violations)),
        ("excluded", long(state.counts.excluded)),
        ("excludes", texts(facts.excludes.iter().map(String::as_str))),
        ("signed", long(state.counts.signed)),
        ("memfd", long(state.counts.memfd)),
        ("buffers", long(state.counts.buffers)),
        ("boot_aggregate", text(state.aggregate.as_str())),
        ("padded_sha1", RestrictedExpression::new_bool(state.rule == Rule::PaddedSha1)),
    ];
    RestrictedExpression::new_record(members.map(|(name, value)| (name.to_owned(), value))).ok()
}

fn endorsement(endorsement: &Endorsement) -> Option<RestrictedExpression> {
    let mut members = vec![
        ("kind", text(endorsement.kind.name())),
        ("weak_key", RestrictedExpression::new_bool(endorsement.weak_key)),
    ];
    if let Some(tpm) = &endorsement.tpm {
        members.push(("manufacturer", text(&tpm.manufacturer)));
        members.push(("model", text(&tpm.model)));
        members.push(("version", text(&tpm.version)));
    }
    if let Some(identity) = &endorsement.device {
        members.push(("device", device(identity)?));
    }
    let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(members).ok()
}

fn device(identity: &DeviceIdentity) -> Option<RestrictedExpression> {
    let mut members = vec![("certificate", text(&identity.certificate.to_hex()))];
    if let Some(serial) = &identity.serial {
        members.push(("serial", text(serial)));
    }
    if let Some(name) = &identity.hardware {
        members.push(("hardware_type", text(&name.kind)));
        members.push(("hardware_serial", text(&data_encoding::HEXLOWER.encode(&name.serial))));
    }
    let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(members).ok()
}

fn delegation(delegation: &Delegation) -> Option<RestrictedExpression> {
    let members = [
        ("actions", texts(delegation.actions.iter().map(|action| action.as_str()))),
        ("audiences", texts(delegation.audiences.iter().map(|audience| audience.as_str()))),
        ("depth", long(delegation.depth)),
        ("budget", long(delegation.budget)),
    ];
    RestrictedExpression::new_record(members.map(|(name, value)| (name.to_owned(), value))).ok()
}
