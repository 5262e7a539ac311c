//! The log as W3C PROV-JSON (member submission of 2013-04-24; PROV-DM): decisions as activities, artifacts and what they rest on as entities,
//! hosts, runtimes, gateways and the authority as agents.
//!
//! Comes in: a range of the log. Goes out: one document. What lies outside of the range and is named in it stands there as an entity with
//! `cs:outside`, so that a shorter range shows as such. Refused: ranges of more than [`MAX_PROV_LEAVES`], since the format groups records by kind and so
//! has to be held as a whole.

use super::LogSource;
use super::dual_chain::ExportFault;
use super::events::{Event, Events, What, time};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::record::Outcome;
use serde_json::{Map, Value, json};

/// Most leaves of one document: about 400 MiB of JSON.
pub const MAX_PROV_LEAVES: u64 = 100_000;

/// Makes the document of the leaves from `range.0` up to `range.1`.
///
/// # Errors
/// [`ExportFault`].
pub fn export_prov(source: &dyn LogSource, origin: &str, range: (u64, u64)) -> Result<Value, ExportFault> {
    let mut events = Events::new(source, range);
    let mut document = Document { range, ..Document::default() };
    document.agent("log:authority", json!({ "prov:type": "prov:SoftwareAgent", "cs:origin": origin }));
    let mut count = 0;
    while let Some(event) = events.next()? {
        count += 1;
        if count > MAX_PROV_LEAVES {
            return Err(ExportFault::TooMany(MAX_PROV_LEAVES));
        }
        match &event.what {
            What::Decided(decision) => document.decision(&event, decision),
            What::Done(outcome) => document.outcome(&event, outcome),
            What::Other => document.other(&event),
        }
    }
    if count == 0 { Err(ExportFault::Empty) } else { Ok(document.finish(origin)) }
}

/// Records by kind, each by its identifier.
#[derive(Default)]
struct Document {
    range: (u64, u64),
    entities: Map<String, Value>,
    activities: Map<String, Value>,
    agents: Map<String, Value>,
    relations: std::collections::BTreeMap<&'static str, Map<String, Value>>,
    numbered: u64,
}

fn leaf(index: u64) -> String {
    format!("log:leaf-{index}")
}

fn digest(digest: &Sha256Digest) -> String {
    format!("sha256:{digest}")
}

/// A typed literal.
fn typed(value: impl ToString, kind: &str) -> Value {
    json!({ "$": value.to_string(), "type": kind })
}

fn time_value(ms: u64) -> Value {
    typed(time(ms), "xsd:dateTime")
}

impl Document {
    fn agent(&mut self, id: &str, attributes: Value) {
        self.agents.entry(id.to_owned()).or_insert(attributes);
    }

    /// An entity that is known by its digest only.
    fn blob(&mut self, of: &Sha256Digest, kind: &str) -> String {
        let id = digest(of);
        self.entities.entry(id.clone()).or_insert_with(|| json!({ "prov:type": kind }));
        id
    }

    /// A leaf that something in the range names.
    fn named(&mut self, (index, hash): &LeafRef) -> String {
        let id = leaf(*index);
        if *index < self.range.0 || *index >= self.range.1 {
            let outside = json!({ "cs:leafHash": hash.to_hex(), "cs:outside": true });
            self.entities.entry(id.clone()).or_insert(outside);
        }
        id
    }

    /// A relation without an identifier of its own: a blank one.
    fn relate(&mut self, relation: &'static str, attributes: Value) {
        self.numbered += 1;
        let id = format!("_:r{}", self.numbered);
        self.relations.entry(relation).or_default().insert(id, attributes);
    }

    fn entity(&mut self, event: &Event, kind: &str, more: Value) -> String {
        let id = leaf(event.index);
        let mut attributes = json!({
            "prov:type": kind,
            "cs:index": typed(event.index, "xsd:unsignedLong"),
            "cs:leafHash": event.leaf.to_hex(),
        });
        if let (Some(own), Some(more)) = (attributes.as_object_mut(), more.as_object()) {
            own.extend(more.clone());
        }
        self.entities.insert(id.clone(), attributes);
        id
    }

    fn activity(&mut self, event: &Event, kind: &str, start_ms: u64, end_ms: u64) -> String {
        let id = format!("log:act-{}", event.index);
        let attributes =
            json!({ "prov:type": kind, "prov:startTime": time(start_ms), "prov:endTime": time(end_ms) });
        self.activities.insert(id.clone(), attributes);
        id
    }

    fn generated(&mut self, entity: &str, activity: &str, time_ms: u64) {
        let attributes =
            json!({ "prov:entity": entity, "prov:activity": activity, "prov:time": time(time_ms) });
        self.relate("wasGeneratedBy", attributes);
    }

    fn decision(&mut self, event: &Event, decision: &Decision) {
        let kind = if event.kind == Kind::Allow { "cs:Artifact" } else { "cs:Denial" };
        let (not_before, expires, code) = match decision.verdict {
            Verdict::Allow { nbf, exp } => (Some(nbf), Some(exp), None),
            Verdict::Deny(code) => (None, None, Some(code.as_str())),
        };
        let seconds = |secs: Option<u64>| secs.map(|secs| time_value(secs.saturating_mul(1_000)));
        let mut more = json!({
            "cs:action": decision.action.as_str(),
            "cs:audience": decision.audience.as_str(),
            "cs:workload": digest(&decision.workload),
            "cs:tier": decision.appraisal.tier.name(),
            "cs:depth": typed(decision.lineage.depth, "xsd:unsignedLong"),
            "cs:notBefore": seconds(not_before),
            "cs:expires": seconds(expires),
            "cs:code": code,
        });
        if let Some(members) = more.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        let entity = self.entity(event, kind, more);
        let activity =
            self.activity(event, "cs:Decision", decision.issued_at.saturating_mul(1_000), event.time_ms);
        self.generated(&entity, &activity, event.time_ms);
        let mut used = vec![
            self.blob(&decision.request, "cs:Request"),
            self.blob(&decision.evidence, "cs:Evidence"),
            self.blob(&decision.inputs, "cs:Inputs"),
        ];
        used.extend(decision.policy.as_ref().map(|claim| self.blob(&claim.digest, "cs:Policy")));
        for entity in &used {
            self.relate("used", json!({ "prov:activity": activity, "prov:entity": entity }));
        }
        for parent in &decision.lineage.parents {
            let parent = self.named(parent);
            let derived = json!({
                "prov:generatedEntity": entity,
                "prov:usedEntity": parent,
                "prov:activity": activity,
                "prov:type": "cs:Delegation",
            });
            self.relate("wasDerivedFrom", derived);
        }
        let host = format!("log:host-{}", decision.host);
        self.agent(&host, json!({ "prov:type": "cs:Host" }));
        let runtime = decision.runtime.as_str();
        // The host's word, unless something measured it.
        self.agent(runtime, json!({ "prov:type": "prov:SoftwareAgent", "cs:asserted": decision.asserted }));
        let acted = json!({ "prov:delegate": runtime, "prov:responsible": host, "prov:activity": activity });
        self.relate("actedOnBehalfOf", acted);
        self.relate("wasAssociatedWith", json!({ "prov:activity": activity, "prov:agent": "log:authority" }));
        self.relate("wasAttributedTo", json!({ "prov:entity": entity, "prov:agent": "log:authority" }));
        let request = digest(&decision.request);
        self.relate("wasAttributedTo", json!({ "prov:entity": request, "prov:agent": runtime }));
        let evidence = digest(&decision.evidence);
        self.relate("wasAttributedTo", json!({ "prov:entity": evidence, "prov:agent": host }));
    }

    fn outcome(&mut self, event: &Event, outcome: &Outcome) {
        let result = outcome.refused.map_or("started", |code| code.as_str());
        let entity = self.entity(event, "cs:Outcome", json!({ "cs:result": result }));
        let kind = if outcome.refused.is_none() { "cs:Start" } else { "cs:Refusal" };
        let activity = self.activity(event, kind, outcome.time_ms, outcome.time_ms);
        self.generated(&entity, &activity, event.time_ms);
        let artifact = self.named(&outcome.artifact);
        self.relate("used", json!({ "prov:activity": activity, "prov:entity": artifact }));
        let gateway = format!("log:key-{}", outcome.gateway);
        self.agent(&gateway, json!({ "prov:type": "cs:Gateway", "cs:name": event.gateway }));
        self.relate("wasAssociatedWith", json!({ "prov:activity": activity, "prov:agent": gateway }));
        self.relate("wasAttributedTo", json!({ "prov:entity": entity, "prov:agent": gateway }));
    }

    fn other(&mut self, event: &Event) {
        let entity = self.entity(event, &format!("cs:{}", event.kind.name()), json!({}));
        let activity = self.activity(event, "cs:Append", event.time_ms, event.time_ms);
        self.generated(&entity, &activity, event.time_ms);
        self.relate("wasAssociatedWith", json!({ "prov:activity": activity, "prov:agent": "log:authority" }));
    }

    fn finish(self, origin: &str) -> Value {
        let mut document = json!({
            "prefix": {
                "log": format!("https://{origin}#"),
                "cs": "https://countersign.example/ns#",
                "sha256": "urn:sha-256:",
                "spiffe": "spiffe:",
            },
            "entity": self.entities,
            "activity": self.activities,
            "agent": self.agents,
        });
        if let Some(members) = document.as_object_mut() {
            let relations =
                self.relations.into_iter().map(|(name, records)| (name.to_owned(), json!(records)));
            members.extend(relations);
        }
        document
    }
}
