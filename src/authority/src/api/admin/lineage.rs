//! Families of artifacts, and artifacts by what they belong to.
//!
//! Comes in: an index, or one property. Goes out: pages of artifacts as the log has them, how far the lineage index has read, and every gap
//! that was met: leaves that aren't there or aren't what a child says, inputs that were pruned, boots whose registers nobody knows any more.
//! Refused: questions for two properties at once or for none.

use super::malformed;
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, faulted, json};
use crate::lineage::{Cursor, Found, IndexFault, MAX_FOUND, MAX_OUTCOMES, PcrValue, Wanted};
use crate::outcome::allow;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::admin::{LineageEntry, LineageGap, LineageName, LineagePage};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::{Leaf, leaf_hash};
use countersign_core::name::HostId;
use countersign_core::note::NoteKey;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Artifacts of one page unless the caller wants fewer.
const PAGE: usize = 100;
/// PROTOCOL §7.3: no decision has more.
const MAX_ANCESTORS: usize = 1_024;
/// Leaves that are read for one page of descendants at most; with less found by then the page is short and goes on with its cursor.
const MAX_VISITS: usize = 8_192;
/// Gaps that one page names.
const MAX_GAPS: usize = 256;

/// `GET /v1/admin/lineage/artifacts`.
pub(in crate::api) async fn artifacts(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let wanted = wanted(&call, &authority)?;
    let (after, count) = (cursor(&call)?, count(&call)?);
    let page = answer(authority, move |reading| {
        let found = reading
            .authority
            .lineage()
            .artifacts(&wanted, after, count)
            .map_err(|fault| index_fault(&fault))?;
        reading.indexed = found.indexed;
        for (values, first) in &found.unknown {
            reading.gap("registers-unknown", Some(*first), None, Some(*values));
        }
        reading.list(&found.artifacts)?;
        Ok(found.next)
    });
    json(&page.await?)
}

/// `GET /v1/admin/lineage/ancestors/{index}`.
pub(in crate::api) async fn ancestors(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (index, after, count) = (subject(&call)?, cursor(&call)?, count(&call)?);
    let page = answer(authority, move |reading| {
        let Some(decision) = reading.subject(index)? else { return Ok(None) };
        let known = reading.ancestors(&decision)?;
        let mut page: Vec<u64> = known.range(after.from()..).take(count + 1).copied().collect();
        let more = page.len() > count;
        page.truncate(count);
        reading.list(&page)?;
        Ok(page.last().filter(|_| more).map(|last| Cursor::after(*last)))
    });
    json(&page.await?)
}

/// `GET /v1/admin/lineage/descendants/{index}`.
pub(in crate::api) async fn descendants(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (index, after, count) = (subject(&call)?, cursor(&call)?, count(&call)?);
    let page = answer(authority, move |reading| {
        let Some(decision) = reading.subject(index)? else { return Ok(None) };
        let root = decision.lineage.root.map_or(index, |(root, _)| root);
        let after = if after == Cursor::default() { Cursor::after(index) } else { after };
        reading.descendants(index, root, after, count)
    });
    json(&page.await?)
}

fn index_fault(fault: &IndexFault) -> Refused {
    faulted(fault, RefusalCode::LineageUnavailable)
}

/// Reads on a worker thread and makes the page.
async fn answer(
    authority: Arc<Authority>,
    work: impl FnOnce(&mut Reading<'_>) -> Result<Option<Cursor>, Refused> + Send + 'static,
) -> Result<LineagePage, Refused> {
    let worker = Arc::clone(&authority);
    authority
        .run(move || {
            let _turn = worker.lineage().turn().ok_or(RefusalCode::Overloaded)?;
            let size = worker.signed_head()?.body().size;
            let control = worker.control();
            let indexed = worker.lineage().indexed().map_err(|fault| index_fault(&fault))?;
            let mut reading = Reading {
                authority: &worker,
                control: &control,
                indexed,
                size,
                subject: None,
                entries: Vec::new(),
                gaps: Vec::new(),
            };
            let next = work(&mut reading)?;
            let Reading { indexed, size, subject, entries, gaps, .. } = reading;
            let next = next.map(|cursor| cursor.to_string());
            Ok(LineagePage { indexed, size, subject, entries, gaps, next })
        })
        .await
}

fn subject(call: &Call) -> Result<u64, Refused> {
    let digits = call.parameter.bytes().all(|byte| byte.is_ascii_digit());
    let index = call.parameter.parse().ok().filter(|_| digits);
    index.ok_or_else(|| RefusalCode::NotFound.into())
}

fn cursor(call: &Call) -> Result<Cursor, Refused> {
    let given =
        call.value("after").map(|text| Cursor::parse(text).ok_or_else(|| malformed("after isn't a cursor")));
    Ok(given.transpose()?.unwrap_or_default())
}

fn count(call: &Call) -> Result<usize, Refused> {
    let count = call.number("count")?.map_or(PAGE, |count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(count.clamp(1, MAX_FOUND))
}

/// The one property that is asked for.
fn wanted(call: &Call, authority: &Authority) -> Result<Wanted, Refused> {
    const NAMES: [&str; 8] =
        ["host", "ak", "head_key", "policy", "references", "reference_set", "workload", "pcr"];
    let mut given = NAMES.iter().filter_map(|name| call.value(name).map(|value| (*name, value)));
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(malformed("exactly one property is asked for"));
    };
    let digest =
        || Sha256Digest::from_hex(value).map_err(|_| malformed(format!("{name} isn't a SHA-256 digest")));
    Ok(match name {
        "host" => {
            Wanted::Host(HostId::from_hex(value).map_err(|_| malformed("host isn't a host identifier"))?)
        }
        "ak" => Wanted::Ak(digest()?),
        "head_key" => Wanted::HeadKey(head_key(authority, &digest()?)?),
        "policy" => Wanted::Policy(digest()?),
        "references" => Wanted::References(digest()?),
        "reference_set" => Wanted::ReferenceSet(set_name(value)?),
        "workload" => Wanted::Workload(digest()?),
        _ => Wanted::Pcr(register(value)?),
    })
}

/// How a head key's signature lines name it.
fn head_key(authority: &Authority, thumbprint: &Sha256Digest) -> Result<[u8; 4], Refused> {
    let control = authority.control();
    let known = control.head_keys().iter().find(|known| known.key.thumbprint() == *thumbprint);
    let key = known.ok_or(RefusalCode::NotFound)?.key.clone();
    let named = NoteKey::new(authority.origin().as_str(), key).map_err(|_| RefusalCode::Internal)?;
    Ok(named.key_id())
}

/// Set names are any text, so they come as hexadecimal digits of their bytes.
fn set_name(value: &str) -> Result<String, Refused> {
    let bytes = data_encoding::HEXLOWER.decode(value.as_bytes()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| malformed("reference_set isn't a name in hex"))
}

/// `bank:index:value`, such as `sha256:7:` and 64 digits.
fn register(text: &str) -> Result<PcrValue, Refused> {
    let wrong = || malformed("pcr isn't bank:index:value");
    let mut parts = text.splitn(3, ':');
    let (bank, pcr, value) = (parts.next(), parts.next(), parts.next());
    let bank = match bank {
        Some("sha1") => HashAlg::Sha1,
        Some("sha256") => HashAlg::Sha256,
        Some("sha384") => HashAlg::Sha384,
        Some("sha512") => HashAlg::Sha512,
        _ => return Err(wrong()),
    };
    let pcr = pcr.and_then(|text| text.parse().ok()).filter(|pcr| *pcr < 24).ok_or_else(wrong)?;
    let value =
        value.and_then(|text| data_encoding::HEXLOWER.decode(text.as_bytes()).ok()).ok_or_else(wrong)?;
    if value.len() != bank.digest_len() {
        return Err(wrong());
    }
    Ok(PcrValue { bank: bank.id(), pcr, value })
}

/// A page that is being put together.
struct Reading<'a> {
    authority: &'a Authority,
    control: &'a ControlState,
    indexed: u64,
    size: u64,
    subject: Option<LineageEntry>,
    entries: Vec<LineageEntry>,
    gaps: Vec<LineageGap>,
}

/// An allow of the log.
struct Known {
    name: LeafRef,
    time_ms: u64,
    decision: Decision,
}

impl Reading<'_> {
    fn gap(
        &mut self,
        what: &str,
        index: Option<u64>,
        leaf: Option<Sha256Digest>,
        digest: Option<Sha256Digest>,
    ) {
        let full = self.gaps.len() + 1 >= MAX_GAPS;
        let what = if full { "more-gaps" } else { what };
        if self.gaps.len() < MAX_GAPS {
            let (leaf, digest) = (leaf.map(|leaf| leaf.to_hex()), digest.map(|digest| digest.to_hex()));
            self.gaps.push(LineageGap { what: what.to_owned(), index, leaf, digest });
        }
    }

    /// The allow at an index that signed heads cover; a gap if there is none, or if it has another leaf hash than the one given.
    fn known(&mut self, index: u64, leaf: Option<Sha256Digest>) -> Result<Option<Known>, Refused> {
        let bytes =
            if index < self.size { self.authority.reader().leaf(index).map_err(read_fault)? } else { None };
        let Some(bytes) = bytes else {
            self.gap("leaf-missing", Some(index), leaf, None);
            return Ok(None);
        };
        let name = (index, leaf_hash(&bytes));
        if leaf.is_some_and(|leaf| leaf != name.1) {
            self.gap("leaf-mismatch", Some(index), leaf, None);
            return Ok(None);
        }
        let parsed = Leaf::parse(&bytes).ok().filter(|parsed| parsed.index == index);
        let decided =
            parsed.and_then(|parsed| allow(&parsed).map(|(decision, _)| (parsed.time_ms, decision)));
        let Some((time_ms, decision)) = decided else {
            self.gap("not-an-allow", Some(index), Some(name.1), None);
            return Ok(None);
        };
        Ok(Some(Known { name, time_ms, decision }))
    }

    /// What the question is about.
    fn subject(&mut self, index: u64) -> Result<Option<Decision>, Refused> {
        let Some(known) = self.known(index, None)? else { return Ok(None) };
        if index >= self.indexed {
            self.gap("not-indexed", Some(index), Some(known.name.1), None);
        }
        self.subject = Some(self.entry(&known)?);
        Ok(Some(known.decision))
    }

    fn list(&mut self, indexes: &[u64]) -> Result<(), Refused> {
        for index in indexes {
            if let Some(known) = self.known(*index, None)? {
                let entry = self.entry(&known)?;
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    fn entry(&mut self, known: &Known) -> Result<LineageEntry, Refused> {
        let Known { name, time_ms, decision } = known;
        let inputs = [
            ("evidence-pruned", decision.evidence),
            ("inputs-pruned", decision.inputs),
            ("request-pruned", decision.request),
        ];
        for (what, digest) in inputs {
            if self.authority.reader().blob(&digest).map_err(read_fault)?.is_none() {
                self.gap(what, Some(name.0), Some(name.1), Some(digest));
            }
        }
        let mut outcomes = self.authority.lineage().outcomes(name.0).map_err(|fault| index_fault(&fault))?;
        if outcomes.len() > MAX_OUTCOMES {
            outcomes.truncate(MAX_OUTCOMES);
            self.gap("more-outcomes", Some(name.0), Some(name.1), None);
        }
        let (not_before, expires) = match decision.verdict {
            Verdict::Allow { nbf, exp } => (nbf, exp),
            Verdict::Deny(_) => (0, 0),
        };
        let lineage = &decision.lineage;
        let family = lineage.parents.iter().chain(lineage.root.as_ref()).chain([name]);
        let subjects = family.map(|(index, leaf)| Subject::Artifact(*index, *leaf));
        let revoked =
            subjects.chain([Subject::Host(decision.host)]).any(|subject| self.control.is_revoked(&subject));
        Ok(LineageEntry {
            index: name.0,
            leaf: name.1.to_hex(),
            time_ms: *time_ms,
            request_id: decision.request_id.as_str().to_owned(),
            host: decision.host.to_hex(),
            runtime: decision.runtime.as_str().to_owned(),
            audience: decision.audience.as_str().to_owned(),
            action: decision.action.as_str().to_owned(),
            workload: decision.workload.to_hex(),
            not_before,
            expires,
            parents: lineage.parents.iter().map(named).collect(),
            root: lineage.root.as_ref().map(named),
            depth: lineage.depth,
            delegates: decision.delegation.is_some(),
            policy: decision.policy.as_ref().map(|claim| claim.digest.to_hex()),
            epoch: decision.policy.as_ref().map(|claim| claim.epoch),
            reference_set: decision.appraisal.reference_set.clone(),
            tier: decision.appraisal.tier.name().to_owned(),
            evidence: decision.evidence.to_hex(),
            inputs: decision.inputs.to_hex(),
            revoked,
            outcomes,
        })
    }

    /// Indexes of all ancestors that the log has.
    fn ancestors(&mut self, decision: &Decision) -> Result<BTreeSet<u64>, Refused> {
        let (mut known, mut waiting) = (BTreeSet::new(), decision.lineage.parents.clone());
        let mut asked: BTreeSet<LeafRef> = waiting.iter().copied().collect();
        while let Some((index, leaf)) = waiting.pop() {
            let Some(found) = self.known(index, Some(leaf))? else { continue };
            known.insert(index);
            if known.len() >= MAX_ANCESTORS {
                self.gap("too-many-ancestors", Some(index), Some(leaf), None);
                return Ok(known);
            }
            // Proven earlier than its child, or a gap: nothing here goes in circles.
            for parent in found.decision.lineage.parents {
                if parent.0 >= index {
                    self.gap("parent-not-earlier", Some(index), Some(leaf), None);
                } else if asked.insert(parent) {
                    waiting.push(parent);
                }
            }
        }
        Ok(known)
    }

    /// The members of a family that come from one of it. Children are younger than their parents, so a walk by rising index meets them first.
    fn descendants(
        &mut self,
        of: u64,
        root: u64,
        after: Cursor,
        count: usize,
    ) -> Result<Option<Cursor>, Refused> {
        let mut from = after;
        let subject = self.subject.as_ref().and_then(|entry| Sha256Digest::from_hex(&entry.leaf).ok());
        let mut family = Family { of, known: HashMap::from([(of, (true, subject))]), visits: 0 };
        loop {
            let asked = self.authority.lineage().artifacts(&Wanted::Root(root), from, MAX_FOUND);
            let Found { artifacts, next, indexed, .. } = asked.map_err(|fault| index_fault(&fault))?;
            self.indexed = indexed;
            for index in artifacts {
                if family.visits >= MAX_VISITS || self.entries.len() >= count {
                    return Ok(Some(Cursor::after(index.saturating_sub(1))));
                }
                if family.comes_from(self, index)? {
                    self.list(&[index])?;
                }
            }
            match next {
                Some(next) => from = next,
                None => return Ok(None),
            }
        }
    }
}

/// Which members of a family come from one of it, as far as it was asked.
struct Family {
    of: u64,
    /// By index: whether it comes from there, and its leaf hash if the log has it.
    known: HashMap<u64, (bool, Option<Sha256Digest>)>,
    visits: usize,
}

/// A member whose parents have to be known first.
struct Waiting {
    leaf: Option<Sha256Digest>,
    parents: Vec<LeafRef>,
}

impl Family {
    fn comes_from(&mut self, reading: &mut Reading<'_>, index: u64) -> Result<bool, Refused> {
        let (mut stack, mut waiting) = (vec![index], BTreeMap::<u64, Waiting>::new());
        while let Some(at) = stack.last().copied() {
            if self.known.contains_key(&at) {
                stack.pop();
                continue;
            }
            if let Entry::Vacant(place) = waiting.entry(at) {
                self.visits += 1;
                let found = reading.known(at, None)?;
                let leaf = found.as_ref().map(|known| known.name.1);
                let parents = found.map_or_else(Vec::new, |known| known.decision.lineage.parents);
                // Proven earlier than the child; what is older than the one asked about doesn't come from it.
                let parents = parents.into_iter().filter(|(parent, _)| *parent < at && *parent >= self.of);
                place.insert(Waiting { leaf, parents: parents.collect() });
            }
            let Some(Waiting { leaf, parents }) = waiting.get(&at) else { return Ok(false) };
            let first = parents.iter().map(|(parent, _)| *parent);
            let unknown: Vec<u64> = first.filter(|parent| !self.known.contains_key(parent)).collect();
            if unknown.is_empty() {
                let mut comes = false;
                for (parent, named) in parents {
                    match self.known.get(parent) {
                        Some((true, leaf)) if *leaf == Some(*named) => comes = true,
                        Some((true, _)) => reading.gap("leaf-mismatch", Some(*parent), Some(*named), None),
                        _ => {}
                    }
                }
                self.known.insert(at, (comes, *leaf));
                stack.pop();
            } else if self.visits >= MAX_VISITS.saturating_mul(2) {
                reading.gap("too-many-ancestors", Some(index), None, None);
                return Ok(false);
            } else {
                stack.extend(unknown);
            }
        }
        Ok(self.known.get(&index).is_some_and(|(comes, _)| *comes))
    }
}

fn named((index, leaf): &LeafRef) -> LineageName {
    LineageName { index: *index, leaf: leaf.to_hex() }
}
