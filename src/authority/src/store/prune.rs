//! Pruning: what old decisions were made from leaves the store; leaves, proofs, heads and every document stay.
//!
//! Comes in: a store, a time before which evidence is old, and the present. Goes out: how much went; the store keeps the digest of every member
//! that was pruned, so that an audit can tell what was pruned from what is missing. Refused: a log with a leaf that doesn't parse.
//!
//! Members of a decision that can go: request, inputs record, evidence record, and the boot log and IMA entries that the evidence names. What stays
//! whatever its age: what a younger leaf names too, what an artifact that hasn't ended rests on, what the present state of a host rests on,
//! attestation keys, activations, policies, references, IMA policies and appraisal states, custody records, and of the evidence that the references in
//! force were captured from the record and the boot log, by which people are told what changed since (PROTOCOL §8.2).
//!
//! It may be done while authorities serve. Each page of leaves is one durable transaction under the log's lock, and begins with what was appended
//! since: a leaf that is in the log keeps its members, and one that is appended later finds in its own transaction whether they are there
//! ([`crate::sequence::Append::named`]). A pruning that is cut short has pruned less, and the next one begins anew.
//!
//! Memory doesn't grow with the log: what is to stay is noted in a temporary table of the store.

use std::collections::BTreeSet;
use std::time::Instant;

use countersign_core::digest::Sha256Digest;
use countersign_core::document::ReferencesDocument;
use countersign_core::leaf::control::{EpochRecord, KeyRecord};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host::{Enrolment, HostState};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::record::EvidenceRecord;

use super::{OpenFault, Pruning, ReadFault, Reader};

/// Names of members.
pub(super) type Digests = BTreeSet<Sha256Digest>;

/// Leaves of one transaction: some thousand small deletions, which others wait for.
const PAGE: u64 = 256;

/// What to prune.
#[derive(Clone, Copy, Debug)]
pub struct PrunePlan {
    /// Members of decisions older than this may go, ms.
    pub before_ms: u64,
    /// The present, ms: what ends later is needed.
    pub now_ms: u64,
    /// Only count.
    pub dry_run: bool,
}

/// Why a store isn't pruned, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum PruneFault {
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenFault),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// It can't be written.
    #[error("database: {0}")]
    Write(String),
    /// A leaf doesn't parse: nothing is pruned on the word of such a log.
    #[error("leaf {0} is malformed")]
    Malformed(u64),
    /// The database is another file now.
    #[error("the database was deleted or replaced")]
    Replaced,
}

/// How many members, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

impl Weight {
    pub(super) const fn add(&mut self, bytes: u64) {
        self.blobs = self.blobs.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One connection that prunes. What it notes is its own and goes with it.
pub(super) trait Shears {
    /// Begins a transaction under the log's lock: nothing is appended until [`Shears::commit`]. If that never comes, nothing has happened.
    fn begin(&mut self) -> Result<(), PruneFault>;

    /// Notes that these stay; `opened`: what they name themselves was looked at. Returns those that are noted so for the first time.
    fn keep(&mut self, digests: &Digests, opened: bool) -> Result<Vec<Sha256Digest>, PruneFault>;

    /// Those of these members that are there and that nothing keeps.
    fn weigh(&mut self, digests: &Digests) -> Result<Weight, PruneFault>;

    /// Removes them, and records each under this pruning.
    fn remove(&mut self, digests: &Digests, id: i64) -> Result<Weight, PruneFault>;

    /// A number for a pruning that isn't recorded yet.
    fn next_id(&mut self) -> Result<i64, PruneFault>;

    /// Records how far a pruning has come.
    fn record(&mut self, id: i64, pruning: &Pruning) -> Result<(), PruneFault>;

    /// Commits durably.
    fn commit(&mut self) -> Result<(), PruneFault>;
}

/// Prunes. `paced`: others use the store, and get at least as much time as this takes. `progress` is told how many leaves are done, of both
/// passes together.
pub(super) fn prune(
    shears: &mut dyn Shears,
    reader: &dyn Reader,
    plan: &PrunePlan,
    paced: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Pruning, PruneFault> {
    let size = reader.newest_committed()?.map_or(0, |tip| tip.head.body().size);
    let mut pass = Pass { plan, size, noted: 0, activated: None, shears, reader };
    pass.catch_up(progress)?;
    pass.keep_what_hosts_rest_on()?;
    pass.remove(paced, progress)
}

struct Pass<'a> {
    plan: &'a PrunePlan,
    /// Leaves below this index may be old; later ones are young whatever their time.
    size: u64,
    /// Leaves whose needs are noted.
    noted: u64,
    /// The references that the newest of those leaves activated, until what they were captured from is noted, too.
    activated: Option<Sha256Digest>,
    shears: &'a mut dyn Shears,
    reader: &'a dyn Reader,
}

/// What a decision or a host-state leaf was made from.
struct Members {
    own: Vec<Sha256Digest>,
    evidence: Sha256Digest,
    old: bool,
}

/// What a leaf keeps.
#[derive(Default)]
struct Needs {
    /// Evidence records and references documents: what they name stays, too.
    opened: Digests,
    named: Digests,
}

impl Pass<'_> {
    /// Notes what every leaf keeps that isn't noted yet.
    fn catch_up(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), PruneFault> {
        loop {
            let leaves = self.reader.leaves(self.noted, PAGE)?;
            if leaves.is_empty() {
                return self.keep_what_references_tell_of();
            }
            let mut needs = Needs::default();
            for bytes in &leaves {
                let leaf = parse(bytes, self.noted)?;
                if leaf.kind == Kind::References {
                    self.activated = EpochRecord::parse(&leaf.body).ok().map(|record| record.document);
                }
                self.needs_of(&leaf, &mut needs).ok_or(PruneFault::Malformed(self.noted))?;
                self.noted += 1;
            }
            self.keep(needs)?;
            if self.noted <= self.size {
                progress(self.noted);
            }
        }
    }

    fn keep_what_hosts_rest_on(&mut self) -> Result<(), PruneFault> {
        let mut after = None;
        loop {
            let hosts = self.reader.hosts(after.as_ref(), PAGE)?;
            let Some(last) = hosts.last() else { return Ok(()) };
            after = Some(last.host);
            let mut needs = Needs::default();
            hosts.iter().for_each(|host| needs.add_state(&host.state));
            self.keep(needs)?;
        }
    }

    /// What the references in force were captured from. Nothing is decided from it, so that of earlier references it may go.
    fn keep_what_references_tell_of(&mut self) -> Result<(), PruneFault> {
        let Some(digest) = self.activated.take() else { return Ok(()) };
        let bytes = self.reader.blob(&digest)?;
        let Some(document) = bytes.and_then(|bytes| ReferencesDocument::parse(&bytes).ok()) else {
            return Ok(());
        };
        let mut named = Digests::new();
        for evidence in document.sets.values().flatten().filter_map(|generation| generation.evidence) {
            // Without its IMA list, of which references don't tell: so as members, and not opened.
            let bytes = self.reader.blob(&evidence)?;
            let record = bytes.and_then(|bytes| EvidenceRecord::parse(&bytes).ok());
            named.extend(std::iter::once(evidence).chain(record.and_then(|record| record.boot_log)));
        }
        self.shears.keep(&named, false)?;
        Ok(())
    }

    fn keep(&mut self, needs: Needs) -> Result<(), PruneFault> {
        let Needs { opened, mut named } = needs;
        for digest in self.shears.keep(&opened, true)? {
            let Some(bytes) = self.reader.blob(&digest)? else { continue };
            if let Ok(record) = EvidenceRecord::parse(&bytes) {
                named.extend(inside(&record));
            } else if let Ok(document) = ReferencesDocument::parse(&bytes) {
                named.extend(document.ima);
            }
        }
        // As members only: a host can name any bytes as its boot log, and must not keep an evidence record from being opened by that.
        self.shears.keep(&named, false)?;
        Ok(())
    }

    /// Second pass: removes what old leaves name and nothing living does.
    fn remove(&mut self, paced: bool, progress: &mut dyn FnMut(u64)) -> Result<Pruning, PruneFault> {
        let plan = self.plan;
        let mut pruned = Pruning { upto: 0, ..self.as_recorded() };
        let mut record = None;
        while pruned.upto < self.size {
            let began = Instant::now();
            let gone = self.gone(&mut pruned.upto)?;
            let weight = if plan.dry_run {
                let weight = self.shears.weigh(&gone)?;
                // Each is counted once.
                self.shears.keep(&gone, false)?;
                weight
            } else {
                self.shears.begin()?;
                self.catch_up(&mut |_| {})?;
                let id = record.map_or_else(|| self.shears.next_id(), Ok)?;
                let weight = self.shears.remove(&gone, id)?;
                if weight.blobs > 0 || record.is_some() {
                    // A member of this page may be one of an old leaf of a later page, too: the record reaches all of them from the start.
                    let so_far = Pruning { upto: self.size, ..added(&pruned, weight) };
                    self.shears.record(id, &so_far)?;
                    record = Some(id);
                }
                // A crash before this commit leaves this page's members and the record of the pages before; after it, neither.
                self.shears.commit()?;
                weight
            };
            pruned = added(&pruned, weight);
            progress(self.size.saturating_add(pruned.upto));
            if paced && !plan.dry_run {
                std::thread::sleep(began.elapsed());
            }
        }
        Ok(pruned)
    }

    /// This pruning before it took anything.
    fn as_recorded(&self) -> Pruning {
        let PrunePlan { before_ms, now_ms, .. } = *self.plan;
        Pruning { at_ms: now_ms, before_ms, upto: self.size, ..Pruning::default() }
    }

    /// What the old ones of a page of leaves name. Evidence records are read before they go, since they alone name their members.
    fn gone(&self, next: &mut u64) -> Result<Digests, PruneFault> {
        let leaves = self.reader.leaves(*next, PAGE.min(self.size.saturating_sub(*next)))?;
        if leaves.is_empty() {
            return Err(PruneFault::Malformed(*next));
        }
        let mut gone = BTreeSet::new();
        for bytes in &leaves {
            let leaf = parse(bytes, *next)?;
            let members = self.members(&leaf).ok_or(PruneFault::Malformed(*next))?;
            *next += 1;
            let Some(members) = members.filter(|members| members.old) else { continue };
            gone.extend(members.own);
            if gone.insert(members.evidence)
                && let Some(bytes) = self.reader.blob(&members.evidence)?
                && let Ok(record) = EvidenceRecord::parse(&bytes)
            {
                gone.extend(inside(&record));
            }
        }
        Ok(gone)
    }

    /// Adds what a leaf keeps in the store; `None` if its body doesn't parse.
    fn needs_of(&self, leaf: &Leaf, needs: &mut Needs) -> Option<()> {
        let body = leaf.body.as_slice();
        match leaf.kind {
            Kind::Allow | Kind::Deny | Kind::HostState => {
                let members = self.members(leaf)??;
                let state = state_of(leaf)?;
                // A later decision may go on from it, however old it is.
                needs.named.extend(state.ima);
                if !members.old {
                    needs.add_state(&state);
                    needs.opened.insert(members.evidence);
                    needs.named.extend(members.own);
                }
            }
            Kind::Enrolment => {
                let record = Enrolment::parse(body).ok()?;
                needs.named.extend([record.ek_public, record.ak_public, record.activation]);
                needs.named.extend(record.ek_certificate);
                needs.named.extend(
                    record.endorsement.device.iter().flat_map(|device| [device.certificate, device.key]),
                );
            }
            Kind::Policy => needs.named.extend([EpochRecord::parse(body).ok()?.document]),
            Kind::References => needs.opened.extend([EpochRecord::parse(body).ok()?.document]),
            Kind::Key => {
                let introduction = KeyRecord::parse(body).ok()?.introduction;
                needs.named.extend(introduction.map(|introduction| introduction.custody));
            }
            _ => {}
        }
        Some(())
    }

    /// The members of a leaf; inside, `None` if it has none; outside, if its body doesn't parse.
    #[expect(clippy::option_option, reason = "no members and no body are different answers")]
    fn members(&self, leaf: &Leaf) -> Option<Option<Members>> {
        let old = self.as_recorded().reaches(leaf);
        Some(match leaf.kind {
            Kind::Allow | Kind::Deny => {
                let decision = Decision::parse(&leaf.body).ok()?;
                let own = vec![decision.request, decision.inputs];
                Some(Members { own, evidence: decision.evidence, old })
            }
            Kind::HostState => {
                let record = HostStateRecord::parse(&leaf.body).ok()?;
                Some(Members { own: Vec::new(), evidence: record.evidence, old })
            }
            _ => None,
        })
    }
}

impl Needs {
    fn add_state(&mut self, state: &HostState) {
        self.opened.extend(state.evidence);
        self.named.extend([state.boot_log, state.ima].into_iter().flatten());
    }
}

fn state_of(leaf: &Leaf) -> Option<HostState> {
    match leaf.kind {
        Kind::HostState => HostStateRecord::parse(&leaf.body).ok().map(|record| record.state),
        _ => Decision::parse(&leaf.body).ok().map(|decision| decision.host_state),
    }
}

fn parse(bytes: &[u8], index: u64) -> Result<Leaf, PruneFault> {
    Leaf::parse(bytes).ok().filter(|leaf| leaf.index == index).ok_or(PruneFault::Malformed(index))
}

fn inside(record: &EvidenceRecord) -> impl Iterator<Item = Sha256Digest> {
    [record.boot_log, record.ima.map(|ima| ima.list)].into_iter().flatten()
}

fn added(pruned: &Pruning, weight: Weight) -> Pruning {
    Pruning {
        blobs: pruned.blobs.saturating_add(weight.blobs),
        bytes: pruned.bytes.saturating_add(weight.bytes),
        ..*pruned
    }
}
