//! What has to hold whatever happens, each a function named by what it demands.
//!
//! Comes in: what the store shows, what the keys signed, what callers were told. All of it is held against a second account of the log that is
//! kept here from the leaves alone: no table, no cache and no word of a sequencer goes into it.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::artifact::Receipt;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::control::{Revocation, Subject};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash};
use countersign_core::name::{HostId, RequestId};

use super::super::super::{CLOCK_TOLERANCE_MS, MAX_DECISION_AGE_MS};
use super::super::support::SoftwareKey;
use crate::store::{LogReader, Reader, Receipts};

/// A request: whose, its identifier, the digest of its bytes.
pub(super) type Request = (HostId, RequestId, Sha256Digest);

/// The account of everything that was seen.
pub(super) struct Seen {
    leaves: Vec<Vec<u8>>,
    heads: BTreeMap<u64, String>,
    newest: Option<HeadBody>,
    trees: (Frontier<Sha256Tree>, Frontier<Sha3_512Tree>, Frontier<Blake2b512Tree>),
    control: ControlState,
    answered: BTreeMap<Request, u64>,
    allowed: BTreeMap<(HostId, RequestId), u64>,
    challenges: BTreeMap<Sha256Digest, u64>,
    revoked: BTreeSet<HostId>,
    versions: BTreeMap<HostId, u64>,
    /// When somebody decided over it, ms, by his own clock.
    decided: BTreeMap<Request, Vec<u64>>,
    told: BTreeMap<Request, Vec<u8>>,
    signed: BTreeMap<u64, String>,
    /// How much of what each key signed was looked at.
    looked: Vec<usize>,
}

impl Seen {
    pub(super) fn nothing(genesis: ControlState) -> Self {
        Self {
            leaves: Vec::new(),
            heads: BTreeMap::new(),
            newest: None,
            trees: (Frontier::new(), Frontier::new(), Frontier::new()),
            control: genesis,
            answered: BTreeMap::new(),
            allowed: BTreeMap::new(),
            challenges: BTreeMap::new(),
            revoked: BTreeSet::new(),
            versions: BTreeMap::new(),
            decided: BTreeMap::new(),
            told: BTreeMap::new(),
            signed: BTreeMap::new(),
            looked: Vec::new(),
        }
    }

    /// Somebody decides over it now.
    pub(super) fn decides(&mut self, request: &Request, now_ms: u64) {
        self.decided.entry(request.clone()).or_default().push(now_ms);
    }

    /// The answer to a request as the log has it.
    pub(super) fn answer(&self, request: &Request) -> Option<&[u8]> {
        self.answered.get(request).map(|index| self.leaves[usize::try_from(*index).unwrap()].as_slice())
    }

    /// Whether a leaf has spent it.
    pub(super) fn is_spent(&self, challenge: &Sha256Digest) -> bool {
        self.challenges.contains_key(challenge)
    }

    /// Time of the newest head.
    pub(super) fn newest_ms(&self) -> u64 {
        self.newest.as_ref().map_or(0, |head| head.time_ms)
    }

    pub(super) fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn was_told(&self, request: &Request) -> bool {
        self.told.contains_key(request)
    }

    /// Takes in what the store has gained, head by head.
    pub(super) fn look(&mut self, reader: &dyn Reader, keys: &[&SoftwareKey]) {
        // Before the heads: what is signed meanwhile is looked at the next time.
        let signed: Vec<usize> = keys.iter().map(|key| key.messages.lock().unwrap().len()).collect();
        let from = self.newest.as_ref().map_or(0, |head| head.size + 1);
        for head in reader.heads(from, 1_000).unwrap() {
            self.batch(reader, head.text());
        }
        every_body_signed_was_committed_and_is_the_only_one_of_its_size(self, keys, &signed);
    }

    /// The same when nothing is under way.
    pub(super) fn look_at_rest(&mut self, reader: &dyn Reader, keys: &[&SoftwareKey]) {
        self.look(reader, keys);
        nothing_lies_above_the_newest_head(self, reader);
    }

    fn batch(&mut self, reader: &dyn Reader, text: &str) {
        let head = HeadBody::parse(text).unwrap();
        while (self.leaves.len() as u64) < head.size {
            let page = reader.leaves(self.leaves.len() as u64, head.size - self.leaves.len() as u64).unwrap();
            assert!(!page.is_empty(), "leaf {} is under a head and isn't there", self.leaves.len());
            page.into_iter().for_each(|bytes| self.leaf(&head, bytes));
        }
        heads_chain_and_times_never_fall(self, &head);
        a_head_is_that_of_the_leaves_under_it(self, &head);
        a_head_names_the_control_leaves_under_it(self, &head);
        self.heads.insert(head.size, text.to_owned());
        self.newest = Some(head);
    }

    fn leaf(&mut self, head: &HeadBody, bytes: Vec<u8>) {
        let leaf = Leaf::parse(&bytes).unwrap();
        a_leaf_is_where_and_when_it_says(self, head, &leaf);
        match leaf.kind {
            Kind::Allow | Kind::Deny => self.decision(&leaf),
            Kind::Enrolment => {
                let enrolled = Enrolment::parse(&leaf.body).unwrap();
                self.versions.insert(enrolled.host, enrolled.version);
            }
            Kind::Revocation => match Revocation::parse(&leaf.body).unwrap() {
                Revocation { subject: Subject::Host(host), revoke: true, .. } => {
                    self.revoked.insert(host);
                }
                Revocation { subject: Subject::Host(host), revoke: false, .. } => {
                    self.revoked.remove(&host);
                }
                _ => {}
            },
            _ => {}
        }
        if leaf.kind.is_control() {
            self.control.apply(&bytes).expect("a control leaf follows from those before it");
        }
        self.trees.0.append(Sha256Tree::leaf_hash(&bytes), |_| ()).unwrap();
        self.trees.1.append(Sha3_512Tree::leaf_hash(&bytes), |_| ()).unwrap();
        self.trees.2.append(Blake2b512Tree::leaf_hash(&bytes), |_| ()).unwrap();
        self.leaves.push(bytes);
    }

    fn decision(&mut self, leaf: &Leaf) {
        let decision = Decision::parse(&leaf.body).unwrap();
        let request = (decision.host, decision.request_id.clone(), decision.request);
        if leaf.kind == Kind::Allow {
            no_allow_after_a_revocation(self, leaf, &decision);
            no_allow_under_an_enrolment_that_is_over(self, leaf, &decision);
            an_identifier_is_allowed_once(self, leaf, &decision);
        }
        a_challenge_is_spent_once(self, leaf, &decision);
        a_request_is_decided_once(self, leaf, &request);
        a_decision_is_as_fresh_as_it_must_be(self, leaf, &request);
    }

    /// Takes in what somebody was given, after the log was looked at.
    pub(super) fn hand_out(&mut self, request: &Request, receipts: &Receipts) {
        assert_eq!(receipts.leaves.len(), 1);
        for text in receipts.texts() {
            let receipt = Receipt::parse(&text).unwrap();
            every_answer_handed_out_is_in_the_log(self, request, &receipt);
            every_head_handed_out_was_committed(self, &receipt);
            no_answer_is_given_twice_with_different_bytes(self, request, &receipt);
            receipt.verify_signature(&self.control).expect("a head handed out is under a good signature");
        }
    }

    /// Reads all of the log again, through any reader.
    pub(super) fn look_back(&self, reader: &dyn Reader) {
        committed_leaves_never_change(self, reader);
        committed_bodies_never_change(self, reader);
        tables_say_what_the_log_says(self, reader);
    }
}

fn nothing_lies_above_the_newest_head(seen: &Seen, reader: &dyn Reader) {
    let size = seen.leaves.len() as u64;
    assert_eq!(reader.leaf(size).unwrap(), None, "a leaf under no head");
    assert_eq!(reader.newest_committed().unwrap().map_or(0, |tip| tip.head.body().size), size);
}

/// Signed is what is durable. And never is there a second body of one size, not even one that nobody got to see.
fn every_body_signed_was_committed_and_is_the_only_one_of_its_size(
    seen: &mut Seen,
    keys: &[&SoftwareKey],
    signed: &[usize],
) {
    seen.looked.resize(keys.len(), 0);
    for ((key, looked), signed) in keys.iter().zip(&mut seen.looked).zip(signed) {
        let messages = key.messages.lock().unwrap();
        for text in &messages[*looked..*signed] {
            // Proofs of possession are signed by the same key.
            let Ok(body) = HeadBody::parse(text) else { continue };
            assert_eq!(
                seen.heads.get(&body.size),
                Some(text),
                "signed and not committed, size {}",
                body.size
            );
            let first = seen.signed.entry(body.size).or_insert_with(|| text.clone());
            assert_eq!(first, text, "two bodies of size {}", body.size);
        }
        *looked = *signed;
    }
}

fn heads_chain_and_times_never_fall(seen: &Seen, head: &HeadBody) {
    let prev = seen.heads.last_key_value().map_or(Sha256Digest::ZERO, |(_, text)| sha256(text.as_bytes()));
    assert_eq!(head.prev, prev, "the head of size {} names another one", head.size);
    assert!(seen.newest.as_ref().is_none_or(|newest| newest.time_ms <= head.time_ms), "time fell");
}

fn a_head_is_that_of_the_leaves_under_it(seen: &Seen, head: &HeadBody) {
    assert_eq!(head.sha256_root, seen.trees.0.root());
    assert_eq!(head.sha3_root, seen.trees.1.root());
    assert_eq!(head.blake2_root, seen.trees.2.root());
}

fn a_head_names_the_control_leaves_under_it(seen: &Seen, head: &HeadBody) {
    assert_eq!((head.control_seq, &head.control_digest), (seen.control.number(), seen.control.digest()));
}

fn a_leaf_is_where_and_when_it_says(seen: &Seen, head: &HeadBody, leaf: &Leaf) {
    assert_eq!(leaf.index, seen.leaves.len() as u64);
    assert_eq!(leaf.time_ms, head.time_ms, "leaf {}", leaf.index);
}

fn no_allow_after_a_revocation(seen: &Seen, leaf: &Leaf, decision: &Decision) {
    assert!(!seen.revoked.contains(&decision.host), "leaf {} allows a revoked host something", leaf.index);
}

fn no_allow_under_an_enrolment_that_is_over(seen: &Seen, leaf: &Leaf, decision: &Decision) {
    let version = seen.versions.get(&decision.host);
    assert_eq!(Some(&decision.host_state.version), version, "leaf {}", leaf.index);
}

fn an_identifier_is_allowed_once(seen: &mut Seen, leaf: &Leaf, decision: &Decision) {
    let before = seen.allowed.insert((decision.host, decision.request_id.clone()), leaf.index);
    assert_eq!(before, None, "leaf {} allows what was allowed under the same identifier", leaf.index);
}

/// The evidence of these calls is named by their challenge.
fn a_challenge_is_spent_once(seen: &mut Seen, leaf: &Leaf, decision: &Decision) {
    let before = seen.challenges.insert(decision.evidence, leaf.index);
    assert_eq!(before, None, "leaf {} spends a challenge again", leaf.index);
}

fn a_request_is_decided_once(seen: &mut Seen, leaf: &Leaf, request: &Request) {
    let before = seen.answered.insert(request.clone(), leaf.index);
    assert_eq!(before, None, "leaf {} answers {} again", leaf.index, request.1.as_str());
}

/// There is no decision that nobody asked for, and none whose look at the clock is older than the log allows.
fn a_decision_is_as_fresh_as_it_must_be(seen: &Seen, leaf: &Leaf, request: &Request) {
    let fresh = |decided: &u64| {
        leaf.time_ms <= decided + MAX_DECISION_AGE_MS && *decided <= leaf.time_ms + CLOCK_TOLERANCE_MS
    };
    let decided = seen.decided.get(request).expect("nobody asked for this");
    assert!(decided.iter().any(fresh), "leaf {} at {}, decided at {decided:?}", leaf.index, leaf.time_ms);
}

fn every_answer_handed_out_is_in_the_log(seen: &Seen, request: &Request, receipt: &Receipt) {
    assert_eq!(seen.answer(request), Some(receipt.leaf_bytes()), "{}", request.1.as_str());
    assert_eq!(seen.answered.get(request), Some(&receipt.leaf().index));
}

fn every_head_handed_out_was_committed(seen: &Seen, receipt: &Receipt) {
    let size = receipt.head().size;
    assert_eq!(seen.heads.get(&size).map(String::as_str), Some(receipt.note().text()), "size {size}");
}

fn no_answer_is_given_twice_with_different_bytes(seen: &mut Seen, request: &Request, receipt: &Receipt) {
    let first = seen.told.entry(request.clone()).or_insert_with(|| receipt.leaf_bytes().to_vec());
    assert_eq!(first, receipt.leaf_bytes(), "{}", request.1.as_str());
}

fn committed_leaves_never_change(seen: &Seen, reader: &dyn LogReader) {
    let mut next = 0;
    while next < seen.leaves.len() {
        let page = reader.leaves(next as u64, 1_000).unwrap();
        assert!(!page.is_empty(), "leaf {next} is gone");
        for bytes in page {
            assert_eq!(seen.leaves.get(next), Some(&bytes), "leaf {next}");
            next += 1;
        }
    }
}

fn committed_bodies_never_change(seen: &Seen, reader: &dyn LogReader) {
    let mut after = 0;
    for (size, text) in &seen.heads {
        let head = reader.heads(after, 1).unwrap().pop().expect("a head is gone");
        assert_eq!((head.body().size, head.text()), (*size, text.as_str()), "size {size}");
        after = size + 1;
    }
}

fn tables_say_what_the_log_says(seen: &Seen, reader: &dyn Reader) {
    // Of several answers under one identifier, the first keeps it.
    let mut first = BTreeMap::new();
    for ((host, id, digest), index) in &seen.answered {
        let answer = first.entry((*host, id.clone())).or_insert((*index, *digest));
        *answer = (*answer).min((*index, *digest));
    }
    for ((host, id), (index, digest)) in &first {
        let known = reader.outcome(host, id).unwrap().expect("an answer that no table knows");
        assert_eq!((known.index, known.request), (*index, *digest));
    }
    for (host, version) in &seen.versions {
        assert_eq!(reader.host_now(host).unwrap().unwrap().state.version, *version);
    }
}
