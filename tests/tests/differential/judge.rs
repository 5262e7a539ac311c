//! The verdict of this implementation: the functions that audits, gateways and hosts call, and nothing of the tests.

use crate::cases::Case;
use countersign_authority::audit::{AuditCode, ExportLog, FindingKind, verify};
use countersign_core::api::Feed;
use countersign_core::artifact::{ArtifactError, Receipt, verify_head_signature};
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::key::KnownKeys;
use countersign_core::leaf::body::read_body;
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::{Kind, Leaf, LeafError};
use countersign_core::note::SignedNote;
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_gateway::clock::ClockReading;
use countersign_gateway::snapshot::Snapshot;
use countersign_gateway::snapshot::chain::Chain;
use std::path::Path;

/// `None`: accepted; else a code and more about it.
pub(crate) type Verdict = Option<(String, String)>;

fn refused(code: impl ToString, detail: impl ToString) -> Verdict {
    Some((code.to_string(), detail.to_string()))
}

fn of<T, E: ToString>(code: &str, result: Result<T, E>) -> Verdict {
    result.err().and_then(|error| refused(code, error))
}

/// Judges a case; logs are read from `export`.
pub(crate) fn judge(case: &Case, export: &Path) -> Verdict {
    match case {
        Case::Log { bundle, .. } => log(bundle, export),
        Case::Leaf(bytes) => of("leaf-malformed", read_leaf(bytes)),
        Case::Head { bundle, control, text } => head(bundle, control, text),
        Case::Receipt { bundle, control, text } => receipt(bundle, control, text),
        Case::Bundle(text) => of("bundle", TrustBundle::verify(text.as_bytes())),
        Case::Feed { bundle, page } => feed(bundle, page),
        Case::Inputs(bytes) => of("evidence-malformed", InputsRecord::parse(bytes)),
        Case::Evidence(bytes) => of("evidence-malformed", EvidenceRecord::parse(bytes)),
    }
}

fn log(bundle: &str, export: &Path) -> Verdict {
    let bundle = match TrustBundle::verify(bundle.as_bytes()) {
        Ok(bundle) => bundle,
        Err(error) => return refused("bundle", error),
    };
    let log = match ExportLog::open(export) {
        Ok(log) => log,
        Err(error) => return refused(AuditCode::LogUnreadable, error),
    };
    let finding = verify(&log, &bundle, &mut |_| {}).err()?;
    let code = FindingKind::code(&finding.kind);
    refused(code, finding)
}

fn read_leaf(bytes: &[u8]) -> Result<(), LeafError> {
    let leaf = Leaf::parse(bytes)?;
    let Some(decision) = read_body(&leaf, &mut KnownKeys::default())? else { return Ok(()) };
    let allows = matches!(decision.verdict, countersign_core::leaf::decision::Verdict::Allow { .. });
    if allows == (leaf.kind == Kind::Allow) { Ok(()) } else { Err(LeafError::Value("verdict")) }
}

/// The control chain as a gateway holds it.
fn chain(bundle: &str, control: &[Vec<u8>]) -> Result<(TrustBundle, Chain), Verdict> {
    let bundle = TrustBundle::verify(bundle.as_bytes()).map_err(|error| refused("bundle", error))?;
    let mut chain = Chain::genesis(&bundle);
    for leaf in control {
        chain.apply(leaf).map_err(|error| refused("control-chain", error))?;
    }
    Ok((bundle, chain))
}

/// What a reader that follows the chain asks of a head (PROTOCOL §6.3, §8.5, §13.2).
fn follows(note: &SignedNote, head: &HeadBody, chain: &Chain) -> Verdict {
    if head.origin != chain.state().origin() {
        return refused(ArtifactError::Origin.code().as_str(), "origin");
    }
    match chain.digest_at(head.control_seq) {
        None => return refused("control-behind", "a number beyond the chain"),
        Some(digest) if digest != head.control_digest => return refused("head-forked", "another digest"),
        Some(_) => {}
    }
    let error = verify_head_signature(note, head, chain.state()).err()?;
    refused(error.code().as_str(), error)
}

fn head(bundle: &str, control: &[Vec<u8>], text: &str) -> Verdict {
    let (_, chain) = match chain(bundle, control) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let note = match SignedNote::parse(text) {
        Ok(note) => note,
        Err(error) => return refused("head-malformed", error),
    };
    match HeadBody::parse(note.text()) {
        Ok(head) => follows(&note, &head, &chain),
        Err(error) => refused("head-malformed", error),
    }
}

fn receipt(bundle: &str, control: &[Vec<u8>], text: &str) -> Verdict {
    let (bundle, chain) = match chain(bundle, control) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let receipt = match Receipt::parse(text) {
        Ok(receipt) => receipt,
        Err(error) => return refused(error.code().as_str(), error),
    };
    let body = of("receipt-malformed", read_leaf(receipt.leaf_bytes()));
    let verdict = body.or_else(|| follows(receipt.note(), receipt.head(), &chain));
    if verdict.is_some() || !matches!(receipt.leaf().kind, Kind::Allow | Kind::Deny) {
        return verdict;
    }
    // PROTOCOL §13.2, 5 and 6.
    let decision = Decision::parse(&receipt.leaf().body).ok()?;
    if decision.issuer != *bundle.origin() || decision.runtime.trust_domain() != bundle.trust_domain() {
        return refused("origin-mismatch", "another issuer or trust domain");
    }
    (decision.control > receipt.head().control_seq)
        .then(|| ("receipt-malformed".to_owned(), "control".to_owned()))
}

fn feed(bundle: &str, page: &str) -> Verdict {
    let bundle = match TrustBundle::verify(bundle.as_bytes()) {
        Ok(bundle) => bundle,
        Err(error) => return refused("bundle", error),
    };
    let feed: Feed = match serde_json::from_str(page) {
        Ok(feed) => feed,
        Err(error) => return refused("feed-malformed", error),
    };
    // Heads of any time are from the past.
    let clock = ClockReading { wall_ms: u64::MAX, boot_ms: 0, boot_id: String::new() };
    let error = Snapshot::first(&bundle, &feed, &clock, &clock).err()?;
    refused(error.code().as_str(), error)
}
