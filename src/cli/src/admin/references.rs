//! `admin references`.

use super::boot_changes::{Boot, Logs};
use super::compare::{Change, Comparison};
use super::{Context, compare, documents, forecast};
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, HostDocument, ReferencesCall, ReferencesCheckCall};
use countersign_core::corim;
use countersign_core::digest::Sha256Digest;
use countersign_core::document::ReferencesDocument;
use countersign_core::name::HostId;
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make reference values from a host's last good evidence.
    Capture {
        /// Host identifier.
        host: String,
        /// Name of the set.
        #[arg(long)]
        set: String,
        /// Only these PCRs; all that were quoted when absent.
        #[arg(long, value_delimiter = ',')]
        pcrs: Option<Vec<u32>>,
        /// Keep what is active and add this as one more generation.
        #[arg(long)]
        append: bool,
        /// Activate at once instead of printing the document.
        #[arg(long)]
        activate: bool,
    },
    /// Activate a references file.
    Activate {
        /// JSON, as printed by `capture`.
        file: PathBuf,
        /// Epoch that the change was drafted against, as `references show` and `capture` tell it; the one in force when absent.
        #[arg(long)]
        expected_epoch: Option<u64>,
    },
    /// Print the active references: the file that `activate` takes.
    Show,
    /// Say in words how a host's last good evidence differs from reference values: registers, and what changed in the boot that they stand for.
    Diff {
        /// Host identifier.
        host: String,
        /// Only this set.
        #[arg(long)]
        set: Option<String>,
        /// A references file instead of the active references.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Make a references file from a CoRIM (draft-ietf-rats-corim-10, unsigned) and print it.
    Import {
        /// CBOR.
        file: PathBuf,
        /// Name of the set; the model that each environment names when absent.
        #[arg(long)]
        set: Option<String>,
        /// Bank whose digests are taken.
        #[arg(long, value_enum, default_value = "sha256")]
        bank: documents::Bank,
        /// Keep what is active and add to it.
        #[arg(long)]
        append: bool,
    },
    /// Judge the newest evidence of every host again under a references file, and say what would change. Exit status 1 if a host would break.
    Check {
        /// JSON, as printed by `capture`.
        file: PathBuf,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Capture { host, set, pcrs, append, activate } => {
            let captured =
                context.admin.client.capture_references(&CaptureCall { host, set, pcrs, append }).await?;
            if activate {
                return activate_document(context, captured.document, captured.epoch).await;
            }
            anstream::eprintln!("captured while epoch {} was in force", captured.epoch);
            print(&captured.document)
        }
        Command::Activate { file, expected_epoch } => {
            let mut document = documents::read_references(&file)?;
            let active = context.admin.client.references().await?;
            // A file of PCR values says nothing of what may run after boot: that stays as it is.
            if let Some(active) = &active.document {
                document.ima = ReferencesDocument::parse(&active.0).context("references document")?.ima;
            }
            let epoch = expected_epoch.unwrap_or(active.epoch);
            activate_document(context, B64(document.encode()), epoch).await
        }
        Command::Diff { host, set, file } => diff(context, &host, set.as_deref(), file.as_deref()).await,
        Command::Check { file } => check(context, &file).await,
        Command::Import { file, set, bank, append } => {
            import(context, &file, set.as_deref(), bank.id(), append).await
        }
        Command::Show => {
            let active = context.admin.client.references().await?;
            match active.document {
                Some(document) => {
                    anstream::eprintln!("epoch {} is in force", active.epoch);
                    print(&document)
                }
                None => {
                    anstream::eprintln!("no references are active");
                    Ok(())
                }
            }
        }
    }
}

async fn active(context: &Context) -> Result<Option<ReferencesDocument>, Failure> {
    let document = context.admin.client.references().await?.document;
    let document = document.map(|bytes| ReferencesDocument::parse(&bytes.0)).transpose();
    Ok(document.context("references document")?)
}

/// The host's last good evidence; none if it never had any.
async fn evidence(context: &Context, host: &HostDocument) -> Result<Option<EvidenceRecord>, Failure> {
    let Some(digest) = &host.evidence else { return Ok(None) };
    let digest = Sha256Digest::from_hex(digest).context("evidence digest")?;
    let bytes = context.admin.client.blob(&digest).await?;
    Ok(Some(EvidenceRecord::parse(&bytes).context("evidence record")?))
}

async fn diff(context: &Context, host: &str, set: Option<&str>, file: Option<&Path>) -> Result<(), Failure> {
    let host = HostId::from_hex(host).context("host identifiers are 66 hexadecimal digits")?;
    let references = match file {
        Some(file) => documents::read_references(file)?,
        None => active(context).await?.context("no references are active")?,
    };
    let host = context.admin.client.host(&host).await?;
    let evidence = evidence(context, &host).await?.context("the host has no good evidence yet")?;
    let mut found = compare::nearest(&references, &evidence, now_ms()?);
    found.retain(|one| set.is_none_or(|set| set == one.set));
    if found.is_empty() {
        return Err(anyhow::anyhow!("there is no such set").into());
    }
    let mut logs = Logs::default();
    for one in &mut found {
        one.boot = boot_changes(context, &mut logs, one, &references, &evidence).await?;
    }
    if context.json {
        return output::json(&found);
    }
    for one in &found {
        anstream::print!("{}", compare::words(one));
    }
    Ok(())
}

/// What changed since the generation was captured that the host is nearest to in a set.
async fn boot_changes(
    context: &Context,
    logs: &mut Logs,
    comparison: &Comparison,
    references: &ReferencesDocument,
    evidence: &EvidenceRecord,
) -> Result<Option<Boot>, Failure> {
    match comparison.generation_in(references).filter(|_| !comparison.differences.is_empty()) {
        Some(generation) => logs.compare(context, generation, evidence, &comparison.differ()).await,
        None => Ok(None),
    }
}

async fn import(
    context: &Context,
    file: &Path,
    set: Option<&str>,
    bank: u16,
    append: bool,
) -> Result<(), Failure> {
    let named = || file.display().to_string();
    let size = std::fs::metadata(file).with_context(named)?.len();
    if size > corim::MAX_CORIM_BYTES {
        return Err(
            anyhow::anyhow!("{}: larger than {} bytes", file.display(), corim::MAX_CORIM_BYTES).into()
        );
    }
    let manifest = corim::read(&std::fs::read(file).with_context(named)?, bank)
        .map_err(anyhow::Error::new)
        .with_context(named)?;
    let active = if append { active(context).await? } else { None };
    let mut references = active.unwrap_or_default();
    for (model, generation) in manifest.generations {
        let name = set.unwrap_or(&model);
        if name.is_empty() {
            return Err(
                anyhow::anyhow!("an environment names no model: give the set a name with --set").into()
            );
        }
        references.add(name, generation);
    }
    if manifest.passed_over > 0 {
        anstream::eprintln!("{} tags or triples of other kinds were passed over", manifest.passed_over);
    }
    print(&B64(references.encode()))
}

/// This machine's time; the authority judges by its own.
fn now_ms() -> Result<u64, Failure> {
    Ok(documents::to_ms(jiff::Timestamp::now())?)
}

async fn check(context: &Context, file: &Path) -> Result<(), Failure> {
    let mut candidate = documents::read_references(file)?;
    // As `activate` does.
    candidate.ima = active(context).await?.and_then(|active| active.ima);
    let document = B64(candidate.encode());
    let page = async |before| {
        let call = ReferencesCheckCall { document: document.clone(), ima_policy: None, before };
        context.admin.client.check_references(&call).await
    };
    let mut checked = forecast::each_host(context, false, page).await?;
    let now_ms = now_ms()?;
    let mut logs = Logs::default();
    for one in &mut checked {
        let id = HostId::from_hex(&one.host).context("host identifier")?;
        let host = context.admin.client.host(&id).await?;
        let evidence = evidence(context, &host).await?;
        let Some(evidence) = evidence else { continue };
        one.set = compare::matching(&candidate, &evidence, now_ms);
        if one.change == Change::Breaks {
            let all = compare::nearest(&candidate, &evidence, now_ms);
            let Some(nearest) = all.into_iter().min_by_key(|one| one.differences.len()) else { continue };
            let boot = boot_changes(context, &mut logs, &nearest, &candidate, &evidence).await?;
            one.reason = boot.and_then(|boot| boot.reason());
        }
    }
    forecast::tell(context, checked, RefusalCode::ReferenceMismatch, &file.display().to_string())
}

fn print(document: &B64) -> Result<(), Failure> {
    let document = ReferencesDocument::parse(&document.0).context("references document")?;
    anstream::println!("{}", documents::references_json(&document)?);
    Ok(())
}

async fn activate_document(context: &Context, document: B64, expected_epoch: u64) -> Result<(), Failure> {
    let call = ReferencesCall { document, expected_epoch, ima_policy: None };
    let recorded = context.admin.client.activate_references(&call).await?;
    if context.json {
        return output::json(&recorded);
    }
    anstream::println!("references active, leaf {}", recorded.index);
    Ok(())
}
