//! `countersign bench fill`: makes the log of an authority of one's own long, through the authority's own sequencer and signer.
//!
//! Comes in: the configuration of an authority that isn't running, a number of leaves. Goes out: a log of so many leaves, each a denial of the usual
//! size with its row in the table of answers, each batch under a head that was signed. The lineage index has followed to the end. Refused: a
//! disk of which the log would take more than three quarters of what is free.
//!
//! Never for an authority that serves anything real: what is denied was never asked.

use super::report::bar;
use anyhow::{Context, anyhow, ensure};
use clap::Args;
use countersign_authority::api::problem::Refused;
use countersign_authority::config::Config;
use countersign_authority::sequence::{Append, Entry, EntryBody, Outcome, RequestRef};
use countersign_authority::serve::Serving;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{Algorithm, VerifyingKey};
use countersign_core::leaf::Kind;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::decision::{Decision, Lineage, PolicyClaim, Verdict};
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::name::{Action, Audience, HostId, Origin, RequestId, RuntimeId, TrustDomain};
use countersign_core::refusal::RefusalCode;
use countersign_gateway::holder::key::HolderKey;
use nix::sys::statvfs::statvfs;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Leaves of one append: the most that a call asks for.
const ENTRIES: u64 = 256;
/// Appends under way: two batches of the sequencer.
const UNDER_WAY: usize = 32;
/// Hosts whose requests are denied, in turn.
const HOSTS: u64 = 1_000;
/// Bytes that a leaf takes in the store, with its hashes and its row, generously.
const BYTES_OF_LEAF: u64 = 1_200;

/// Arguments of `bench fill`.
#[derive(Args)]
pub(crate) struct FillArgs {
    /// Configuration of the authority.
    #[arg(long)]
    config: PathBuf,
    /// How many leaves the log is to have at least.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    leaves: u64,
}

/// Fills the log.
pub(crate) fn run(args: &FillArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config).with_context(|| args.config.display().to_string())?;
    let folder = args.config.parent().context("no directory")?;
    let disk = statvfs(folder)?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    ensure!(free / 4 * 3 > args.leaves.saturating_mul(BYTES_OF_LEAF), "not enough room for so many leaves");
    tokio::runtime::Runtime::new()?.block_on(fill(config, args.leaves))?;
    Ok(ExitCode::SUCCESS)
}

async fn fill(config: Config, leaves: u64) -> anyhow::Result<()> {
    let template = Template::new(&config.origin, &config.trust_domain)?;
    let serving = Serving::start(config).await?;
    let authority = std::sync::Arc::clone(serving.authority());
    let size = || authority.signed_head().map_or(0, |head| head.size());
    let bar = bar(leaves, "leaves");
    let control = authority.control().number();
    let (mut next, mut under_way) = (size(), VecDeque::new());
    while next < leaves || !under_way.is_empty() {
        while next < leaves && under_way.len() < UNDER_WAY {
            let upto = leaves.min(next.saturating_add(ENTRIES));
            let entries = (next..upto).map(|number| template.denial(number, control));
            let append = Append::of(entries.collect::<anyhow::Result<_>>()?);
            under_way.push_back(authority.submit(append).map_err(|refused| refusal(&refused))?);
            next = upto;
        }
        if let Some(pending) = under_way.pop_front() {
            let outcome = authority.settled(pending).await.map_err(|refused| refusal(&refused))?;
            ensure!(matches!(outcome, Outcome::Appended(_)), "not appended");
            bar.set_position(size());
        }
    }
    bar.finish_and_clear();
    // What a deployment that has grown has behind it, too.
    while authority.lineage().indexed().is_ok_and(|indexed| indexed < size()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(authority);
    serving.stop().await;
    Ok(())
}

fn refusal(refused: &Refused) -> anyhow::Error {
    anyhow!("not appended: {}", refused.code().as_str())
}

/// What all denials have in common.
struct Template {
    issuer: Origin,
    domain: TrustDomain,
    audience: Audience,
    action: Action,
    holder: VerifyingKey,
    /// Request identifiers are unique per host for ever, and a log may be filled twice.
    run: u64,
}

impl Template {
    fn new(origin: &Origin, domain: &TrustDomain) -> anyhow::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("the system gives no randomness")?;
        Ok(Self {
            issuer: origin.clone(),
            domain: domain.clone(),
            audience: Audience::parse("bench-gateway")?,
            action: Action::parse("exec")?,
            holder: HolderKey::generate(Algorithm::EdDsa).context("a key")?.public().clone(),
            run: u64::from_be_bytes(random),
        })
    }

    fn denial(&self, number: u64, control: u64) -> anyhow::Result<Entry> {
        let mut name = [1; 33];
        let (_, tail) = name.split_at_mut(1);
        tail.copy_from_slice(sha256(&(number % HOSTS).to_be_bytes()).as_bytes());
        let host = HostId::from_slice(&name)?;
        let id = RequestId::parse(&format!("{:016x}-{:012x}", self.run, number / HOSTS))?;
        let digest = |what: u8| sha256(&[&[what][..], &number.to_be_bytes()].concat());
        let decision = Decision {
            issuer: self.issuer.clone(),
            runtime: RuntimeId::new(&self.domain, &host, "bench/worker")?,
            audience: self.audience.clone(),
            issued_at: 0,
            request_id: id.clone(),
            holder: self.holder.clone(),
            host,
            verdict: Verdict::Deny(RefusalCode::PolicyDenied),
            request: digest(1),
            workload: digest(2),
            action: self.action.clone(),
            arguments: digest(3),
            lineage: Lineage { parents: Vec::new(), root: None, depth: 0 },
            delegation: None,
            policy: Some(PolicyClaim { digest: Sha256Digest::ZERO, epoch: 1, determining: Vec::new() }),
            evidence: digest(4),
            appraisal: Appraisal {
                tier: Tier::Affirming,
                vector: vec![(0, 2), (1, 2), (2, 2), (4, 2)],
                reference_set: Some("bench".to_owned()),
            },
            // It names no evidence, so it tells nothing of a host that nobody has enrolled.
            host_state: HostState::unattested(1),
            inputs: digest(5),
            asserted: vec!["runtime".to_owned(), "workload".to_owned()],
            engine: "bench".to_owned(),
            control,
        };
        let request = RequestRef { host, id, digest: decision.request };
        Ok(Entry {
            kind: Kind::Deny,
            body: EntryBody::Decision(Box::new(decision.into())),
            request: Some(request),
            charges: Vec::new(),
        })
    }
}
