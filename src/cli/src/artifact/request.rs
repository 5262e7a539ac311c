//! `countersign artifact request`: the runtime's side. The holder key stays here; the agent measures the program and the host proves itself.

use crate::failure::{Failure, Outcome};
use crate::output;
use anyhow::{Context, ensure};
use countersign_agent::local::{Arguments, PrepareCall, Workload};
use countersign_agent::local_client::{self, LocalClientError};
use countersign_core::artifact::Receipt;
use countersign_core::key::JsonKey;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{DelegationDocument, ParentDocument, delegation_preimage};
use countersign_gateway::holder::key::HolderKey;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The agent's socket.
    #[arg(long, env = "COUNTERSIGN_AGENT", default_value = "/run/countersign/agent.sock")]
    agent: PathBuf,
    /// Holder key, PEM; its proof will be asked for at the gateway.
    #[arg(long)]
    holder_key: PathBuf,
    /// Where to write the artifact.
    #[arg(long)]
    out: PathBuf,
    /// Gateway or domain for which the artifact is meant.
    #[arg(long)]
    audience: String,
    /// What is to be done.
    #[arg(long, default_value = "exec")]
    action: String,
    /// Wished lifetime, seconds.
    #[arg(long, default_value_t = 60)]
    ttl_secs: u64,
    /// Request identifier; the same identifier and request give the same artifact.
    #[arg(long)]
    id: Option<String>,
    /// Parent artifacts.
    #[arg(long)]
    parent: Vec<PathBuf>,
    /// Holder keys of the parents, PEM, in the order of the parents; one alone stands for all. The holder key, if none is given.
    #[arg(long, requires = "parent")]
    parent_key: Vec<PathBuf>,
    /// Actions that children may ask for.
    #[arg(long, requires = "delegate_audience")]
    delegate_action: Vec<String>,
    /// Audiences that children may ask for.
    #[arg(long, requires = "delegate_action")]
    delegate_audience: Vec<String>,
    /// Generations of children.
    #[arg(long, default_value_t = 1)]
    delegate_depth: u64,
    /// Descendants in all.
    #[arg(long, default_value_t = 1)]
    delegate_budget: u64,
    /// Print the decision as JSON.
    #[arg(long)]
    json: bool,
    /// The program, by path, and its exact arguments.
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let holder = HolderKey::load(&args.holder_key).with_context(|| args.holder_key.display().to_string())?;
    let call = prepare_call(args, &holder)?;
    let parent_keys = parent_keys(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let decision = runtime.block_on(async {
        let prepared = local_client::prepare(&args.agent, &call).await?;
        let signature = holder.sign(&prepared.to_sign.0);
        // PROTOCOL §3.5: `prepare` has checked that these are the bytes that were asked for.
        let consented = delegation_preimage(&prepared.request.0);
        let consents: Vec<Vec<u8>> = (0..args.parent.len())
            .map(|at| parent_keys.get(at).or(parent_keys.last()).unwrap_or(&holder).sign(&consented).to_vec())
            .collect();
        local_client::submit(&args.agent, &prepared.request.0, &signature, &consents).await
    });
    let decision = decision.map_err(refused)?;
    if args.json {
        output::json(&decision)?;
    }
    if decision.verdict != "allow" {
        let code = decision.code.as_deref().and_then(RefusalCode::parse).unwrap_or(RefusalCode::Internal);
        // A denial is signed and logged like an artifact; it is kept beside it for whoever wants to show it.
        let mut name = args.out.as_os_str().to_owned();
        name.push(".denied");
        output::write_file(Path::new(&name), decision.receipt.as_bytes(), false)?;
        return Err(Failure::refused(code, decision.detail.unwrap_or_default()));
    }
    output::write_file(&args.out, decision.receipt.as_bytes(), false)?;
    if !args.json {
        let receipt = Receipt::parse(&decision.receipt).context("the artifact")?;
        anstream::println!("artifact: leaf {} of {}", receipt.leaf().index, receipt.head().origin);
    }
    Ok(ExitCode::SUCCESS)
}

fn parent_keys(args: &Args) -> anyhow::Result<Vec<HolderKey>> {
    let count = args.parent_key.len();
    ensure!(
        count <= 1 || count == args.parent.len(),
        "give one --parent-key for all parents, or one for each --parent"
    );
    let load = |path: &PathBuf| HolderKey::load(path).with_context(|| path.display().to_string());
    args.parent_key.iter().map(load).collect()
}

fn prepare_call(args: &Args, holder: &HolderKey) -> anyhow::Result<PrepareCall> {
    let program = args.argv.first().context("a program is needed")?;
    ensure!(
        program.contains('/') || Path::new(program).exists(),
        "{program}: no such file here; a program is named by its path, PATH isn't searched"
    );
    let program = std::path::absolute(program).context("program path")?;
    let program = program.to_str().context("program paths are UTF-8")?.to_owned();
    let mut delegation = None;
    if !args.delegate_action.is_empty() {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list.dedup();
            list
        };
        delegation = Some(DelegationDocument {
            actions: sorted(&args.delegate_action),
            audiences: sorted(&args.delegate_audience),
            depth: args.delegate_depth,
            budget: args.delegate_budget,
        });
    }
    Ok(PrepareCall {
        id: args.id.clone(),
        holder: JsonKey::from(holder.public().clone()),
        workload: Workload::Path(program),
        action: args.action.clone(),
        args: Arguments::Argv(args.argv.clone()),
        aud: args.audience.clone(),
        ttl_secs: args.ttl_secs,
        parents: args.parent.iter().map(|path| parent(path)).collect::<anyhow::Result<_>>()?,
        delegation,
    })
}

fn parent(path: &Path) -> anyhow::Result<ParentDocument> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let receipt = Receipt::parse(&text).with_context(|| path.display().to_string())?;
    ensure!(
        receipt.leaf().kind == countersign_core::leaf::Kind::Allow,
        "{} isn't an artifact",
        path.display()
    );
    Ok(ParentDocument { index: receipt.leaf().index, leaf: receipt.leaf_hash().to_hex() })
}

fn refused(error: LocalClientError) -> Failure {
    match error {
        LocalClientError::Refused(problem) => match RefusalCode::parse(&problem.code) {
            Some(code) => Failure::refused(code, problem.detail),
            None => Failure::Error(anyhow::anyhow!("{}: {}", problem.code, problem.detail)),
        },
        other => Failure::Error(other.into()),
    }
}
