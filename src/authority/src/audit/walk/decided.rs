//! The parts of one decision, and of those above it.

use super::{MAX_DECISIONS, Standing, Step, WalkFault, Walker};
use crate::audit::PAGE;
use countersign_core::challenge::ChallengeBody;
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::ReferencesDocument;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyEvent, Subject};
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::note::{self, NoteKey, SignedNote};
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::request::SignedRequest;
use countersign_tpm::public::Public;
use countersign_tpm::signature::{self, Signature};

impl Walker<'_> {
    /// A decision that is named by index and leaf hash, with everything that it rests on.
    pub(super) fn decision(&mut self, level: usize, name: LeafRef) -> Result<(), WalkFault> {
        let mut open = vec![(level, name)];
        while let Some((level, name)) = open.pop() {
            let parents = self.one_decision(level, name)?;
            open.extend(parents.into_iter().rev().map(|parent| (level + 1, parent)));
        }
        Ok(())
    }

    /// One decision without its parents, which are returned.
    fn one_decision(&mut self, level: usize, name: LeafRef) -> Result<Vec<LeafRef>, WalkFault> {
        let found = self.read(name.0)?.filter(|(_, hash)| *hash == name.1);
        let Some((leaf, hash)) = found else {
            let (leaf, digest) = (Some(name.0), Some(name.1));
            let detail = "the log has another leaf there, or none".to_owned();
            let standing = Standing::Contradicted;
            self.push(Step { level, what: "decision", leaf, digest, standing, detail });
            return Ok(Vec::new());
        };
        if !matches!(leaf.kind, Kind::Allow | Kind::Deny) {
            self.leaf(level, "leaf", (name.0, hash), format!("of kind {}: no decision", leaf.kind.name()));
            return Ok(Vec::new());
        }
        let decision = Decision::parse(&leaf.body).map_err(|_| WalkFault::Malformed(name.0))?;
        let (runtime, action, audience) = (&decision.runtime, &decision.action, &decision.audience);
        let (what, verdict) = match decision.verdict {
            Verdict::Allow { exp, .. } => ("artifact", format!("until {exp} s")),
            Verdict::Deny(code) => ("denial", format!("denied: {code}")),
        };
        if !self.decisions.insert(name.0) {
            self.leaf(level, what, name, "shown above");
            return Ok(Vec::new());
        }
        if self.decisions.len() > MAX_DECISIONS {
            self.gap(level, what, Standing::Unknown, "more decisions above than one can have");
            return Ok(Vec::new());
        }
        self.leaf(level, what, name, format!("{runtime}: {action} at {audience}, {verdict}"));
        self.revocations(level + 1, name, &decision);
        self.parts(level + 1, &leaf, &decision)?;
        self.head(level + 1, name.0)?;
        Ok(decision.lineage.parents)
    }

    fn revocations(&mut self, level: usize, name: LeafRef, decision: &Decision) {
        let facts = self.facts;
        let subjects =
            [("the artifact", Subject::Artifact(name.0, name.1)), ("the host", Subject::Host(decision.host))];
        for (what, subject) in subjects {
            for (leaf, revocation) in facts.revocations_of(subject) {
                let effect = if revocation.revoke { "revoked" } else { "reinstated" };
                self.leaf(level, "revocation", leaf, format!("{what} was {effect}: {}", revocation.reason));
            }
        }
    }

    fn parts(&mut self, level: usize, leaf: &Leaf, decision: &Decision) -> Result<(), WalkFault> {
        let request = self.member_of(Some(leaf), level, "request", &decision.request)?;
        let inputs = self.member_of(Some(leaf), level, "inputs record", &decision.inputs)?;
        let record = inputs.as_deref().map(InputsRecord::parse);
        let record = match record {
            Some(Ok(record)) => Some(record),
            Some(Err(_)) => {
                self.gap(level + 1, "inputs record", Standing::Contradicted, "it doesn't parse");
                None
            }
            None => None,
        };
        match (&request, &record) {
            (Some(bytes), Some(record)) => self.holder(level + 1, bytes, record),
            _ => self.gap(level + 1, "holder signature", Standing::Unknown, "it is in the inputs record"),
        }
        let ak = self.enrolment(level, leaf.index, decision, record.as_ref())?;
        self.evidence(level, leaf, decision, ak.as_ref())?;
        if let Some(state) = record.as_ref().and_then(|record| record.prior.ima) {
            self.member(level, "state of the IMA appraisal", &state)?;
        }
        self.policy(level, decision)?;
        match &record {
            Some(record) => self.references(level, record),
            None => {
                self.gap(level, "references", Standing::Unknown, "the inputs record names them");
                Ok(())
            }
        }
    }

    fn holder(&mut self, level: usize, request: &[u8], record: &InputsRecord) {
        let (signature, consents) = (record.holder_signature.clone(), record.consents.clone());
        let verified = SignedRequest::verify(request.to_vec(), signature, consents);
        let (standing, detail) = match verified {
            Ok(signed) => (
                Standing::Here,
                format!("verifies; the holder key is {}", signed.request().holder.thumbprint()),
            ),
            Err(error) => (Standing::Contradicted, error.to_string()),
        };
        self.gap(level, "holder signature", standing, detail);
    }

    /// The enrolment under which it was decided; the AK, if its bytes are there.
    fn enrolment(
        &mut self,
        level: usize,
        index: u64,
        decision: &Decision,
        record: Option<&InputsRecord>,
    ) -> Result<Option<Public>, WalkFault> {
        let facts = self.facts;
        let name = record.map(|record| record.enrolment).or_else(|| facts.enrolment(&decision.host, index));
        let found = match name {
            Some(name) => {
                self.read(name.0)?.filter(|(leaf, hash)| *hash == name.1 && leaf.kind == Kind::Enrolment)
            }
            None => None,
        };
        let (Some(name), Some((leaf, _))) = (name, found) else {
            self.gap(level, "enrolment", Standing::Contradicted, "the log has no such enrolment");
            return Ok(None);
        };
        let enrolment = Enrolment::parse(&leaf.body).map_err(|_| WalkFault::Malformed(name.0))?;
        if enrolment.host != decision.host {
            self.gap(level, "enrolment", Standing::Contradicted, "it is another host's");
            return Ok(None);
        }
        let by = if record.is_some() { "" } else { ", the newest before; the inputs record would name it" };
        self.leaf(level, "enrolment", name, format!("host {}{by}", enrolment.host));
        if !self.hosts.insert((enrolment.host, name.0)) {
            return self.ak(&enrolment);
        }
        if let Some(token) = &enrolment.token {
            match facts.token(token) {
                Some(leaf) => self.leaf(level + 1, "join token", leaf, "spent by this enrolment"),
                None => self.gap(level + 1, "join token", Standing::Contradicted, "nobody made it"),
            }
        }
        self.member(level + 1, "endorsement key", &enrolment.ek_public)?;
        match &enrolment.ek_certificate {
            Some(certificate) => drop(self.member(level + 1, "endorsement certificate", certificate)?),
            None => {
                let detail = "none: the key was on the operator's list";
                self.gap(level + 1, "endorsement certificate", Standing::Here, detail);
            }
        }
        if let Some(device) = &enrolment.endorsement.device {
            self.member(level + 1, "device certificate", &device.certificate)?;
            self.member(level + 1, "device key", &device.key)?;
        }
        self.member(level + 1, "attestation key", &enrolment.ak_public)?;
        self.member(level + 1, "activation record", &enrolment.activation)?;
        self.ak(&enrolment)
    }

    fn ak(&self, enrolment: &Enrolment) -> Result<Option<Public>, WalkFault> {
        let bytes = self.source.blob(&enrolment.ak_public)?;
        let bytes = bytes.filter(|bytes| sha256(bytes) == enrolment.ak_public);
        let ak = bytes.and_then(|bytes| Public::parse(&bytes).ok());
        Ok(ak.filter(|ak| ak.name().as_bytes() == enrolment.ak_name))
    }

    fn evidence(
        &mut self,
        level: usize,
        leaf: &Leaf,
        decision: &Decision,
        ak: Option<&Public>,
    ) -> Result<(), WalkFault> {
        let bytes = self.member_of(Some(leaf), level, "evidence record", &decision.evidence)?;
        let inner = level + 1;
        let Some(bytes) = bytes else {
            for what in ["challenge", "quote"] {
                self.gap(inner, what, Standing::Unknown, "it is in the evidence record");
            }
            match decision.host_state.boot_log {
                Some(log) => drop(self.member_of(Some(leaf), inner, "boot log of the host's state", &log)?),
                None => self.gap(inner, "boot log", Standing::Unknown, "the evidence record names it"),
            }
            return Ok(());
        };
        let Ok(record) = EvidenceRecord::parse(&bytes) else {
            self.gap(inner, "evidence record", Standing::Contradicted, "it doesn't parse");
            return Ok(());
        };
        self.challenge(inner, leaf.index, &record)?;
        let (standing, detail) = match (ak, Signature::parse(&record.signature)) {
            (None, _) => (Standing::Unknown, "the attestation key isn't here".to_owned()),
            (_, Err(error)) => (Standing::Contradicted, error.to_string()),
            (Some(ak), Ok(parsed)) => match signature::verify(ak, &record.attest, &parsed) {
                Ok(_) => {
                    (Standing::Here, "signed by the attestation key; what it says is for replay".to_owned())
                }
                Err(error) => (Standing::Contradicted, error.to_string()),
            },
        };
        self.gap(inner, "quote", standing, detail);
        if let Some(log) = &record.boot_log {
            self.member_of(Some(leaf), inner, "boot log", log)?;
        }
        // No new entries of the list are no member.
        if let Some(list) = record.ima.map(|ima| ima.list).filter(|list| *list != sha256(&[])) {
            self.member_of(Some(leaf), inner, "IMA entries", &list)?;
        }
        Ok(())
    }

    fn challenge(&mut self, level: usize, index: u64, record: &EvidenceRecord) -> Result<(), WalkFault> {
        let Ok(challenge) = ChallengeBody::read_unverified(&record.challenge) else {
            self.gap(level, "challenge", Standing::Contradicted, "it doesn't parse");
            return Ok(());
        };
        let (standing, detail) = match self.size_of(&challenge.head, index)? {
            Some(size) => (Standing::Here, format!("the quote is younger than the head of size {size}")),
            None => (Standing::Contradicted, "it names a head that isn't in the log".to_owned()),
        };
        self.push(Step {
            level,
            what: "challenge",
            leaf: None,
            digest: Some(sha256(&record.challenge)),
            standing,
            detail,
        });
        Ok(())
    }

    /// The size of a head body that was the newest not long before a leaf, by its digest.
    fn size_of(&self, digest: &Sha256Digest, index: u64) -> Result<Option<u64>, WalkFault> {
        let (mut low, mut high) = (index.saturating_sub(PAGE), index);
        loop {
            let mut from = low;
            while from <= high {
                let page = self.source.heads(from, PAGE)?;
                let Some(last) = page.last() else { break };
                from = size(&last.text)?.saturating_add(1);
                if let Some(head) = page.iter().find(|head| sha256(head.text.as_bytes()) == *digest) {
                    return size(&head.text).map(|size| Some(size).filter(|size| *size <= index));
                }
            }
            if low == 0 {
                return Ok(None);
            }
            (low, high) = (low.saturating_sub(PAGE), low);
        }
    }

    fn policy(&mut self, level: usize, decision: &Decision) -> Result<(), WalkFault> {
        let Some(claim) = &decision.policy else {
            self.gap(level, "policy", Standing::Here, "none was in force");
            return Ok(());
        };
        let facts = self.facts;
        match facts.in_force(Kind::Policy, claim.epoch) {
            Some((name, record)) if record.document == claim.digest => {
                let rules = claim.determining.join(", ");
                self.leaf(level, "policy", name, format!("epoch {}, determined by {rules}", claim.epoch));
                self.principal(level + 1, "activated by", &record.by, name.0);
            }
            _ => self.gap(level, "policy", Standing::Contradicted, "the log had another policy in force"),
        }
        self.member(level + 1, "policy document", &claim.digest)?;
        Ok(())
    }

    fn references(&mut self, level: usize, inputs: &InputsRecord) -> Result<(), WalkFault> {
        let Some(digest) = &inputs.references else {
            self.gap(level, "references", Standing::Here, "none were in force");
            return Ok(());
        };
        let facts = self.facts;
        match facts.in_force(Kind::References, inputs.epoch) {
            Some((name, record)) if record.document == *digest => {
                self.leaf(level, "references", name, format!("epoch {}", record.epoch));
                self.principal(level + 1, "activated by", &record.by, name.0);
            }
            _ => self.gap(level, "references", Standing::Contradicted, "the log had others in force"),
        }
        let bytes = self.member(level + 1, "references document", digest)?;
        let named =
            bytes.and_then(|bytes| ReferencesDocument::parse(&bytes).ok()).and_then(|found| found.ima);
        if let Some(policy) = named {
            self.member(level + 1, "IMA policy", &policy)?;
        }
        Ok(())
    }

    /// The first signed head over a leaf, and the keys that signed it.
    fn head(&mut self, level: usize, index: u64) -> Result<(), WalkFault> {
        let mut from = index.saturating_add(1);
        loop {
            let page = self.source.heads(from, PAGE)?;
            if page.is_empty() {
                self.gap(level, "signed head", Standing::Missing, "no signed head covers it");
                return Ok(());
            }
            for head in page {
                let body = HeadBody::parse(&head.text).map_err(|_| malformed_head())?;
                from = body.size.saturating_add(1);
                let signers = head.note.as_deref().map_or_else(Vec::new, |text| self.signers(text, &body));
                if signers.is_empty() {
                    continue;
                }
                let (size, digest) = (body.size, Some(sha256(head.text.as_bytes())));
                let detail = format!("of size {size}, at {} ms", body.time_ms);
                let (leaf, standing) = (None, Standing::Here);
                self.push(Step { level, what: "signed head", leaf, digest, standing, detail });
                return signers.iter().try_for_each(|key| self.key(level + 1, key));
            }
        }
    }

    /// Keys that were active at a head's control number and signed it.
    fn signers(&self, text: &str, body: &HeadBody) -> Vec<VerifyingKey> {
        let Ok(parsed) = SignedNote::parse(text) else { return Vec::new() };
        let active = self.facts.control.head_keys_at(body.control_seq);
        let signed = active.filter(|key| {
            let Ok(known) = NoteKey::new(&body.origin, (*key).clone()) else { return false };
            note::verify(&parsed, std::slice::from_ref(&known)).is_ok()
        });
        signed.cloned().collect()
    }

    fn key(&mut self, level: usize, key: &VerifyingKey) -> Result<(), WalkFault> {
        let (facts, thumbprint) = (self.facts, key.thumbprint());
        let Some((name, record)) = facts.introduction(key) else {
            self.gap(level, "head key", Standing::Contradicted, format!("no leaf introduced {thumbprint}"));
            return Ok(());
        };
        if !self.keys.insert(thumbprint) {
            self.leaf(level, "head key", name, "shown above");
            return Ok(());
        }
        self.leaf(level, "head key", name, format!("{thumbprint} introduced"));
        let introduction = record.introduction.as_ref();
        match introduction.and_then(|introduction| introduction.approval.as_ref()) {
            Some(approval) => self.principal(level + 1, "approved by", &approval.key.thumbprint(), name.0),
            None => match facts.statements.first() {
                Some(statement) => {
                    self.leaf(level + 1, "recovery statement", *statement, "the trust bundle names the key");
                }
                None => self.gap(level + 1, "approval", Standing::Contradicted, "nobody approved the key"),
            },
        }
        if let Some(introduction) = introduction {
            self.member(level + 1, "custody record", &introduction.custody)?;
        }
        for (event, record) in
            facts.key_events(key).filter(|(_, record)| record.event != KeyEvent::Introduced)
        {
            self.leaf(level + 1, "key event", event, format!("{:?}", record.event).to_lowercase());
        }
        Ok(())
    }
}

fn malformed_head() -> WalkFault {
    WalkFault::Unreadable(crate::audit::Unreadable("a head body doesn't parse".to_owned()))
}

fn size(text: &str) -> Result<u64, WalkFault> {
    HeadBody::parse(text).map(|body| body.size).map_err(|_| malformed_head())
}
