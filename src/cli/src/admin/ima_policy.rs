//! `admin ima-policy`: what may run after boot. A policy is imported from other forms into a file of its one encoding, and activated beside the
//! reference sets, as the next epoch.

use super::{Context, forecast};
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::B64;
use countersign_core::api::admin::{ReferencesCall, ReferencesCheckCall};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::ReferencesDocument;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::ima::import;
use countersign_tpm::ima::policy::{Pattern, PolicyDraft, Root, RuntimePolicy, SignedBy};
use countersign_tpm::ima::signature::{KeyFloor, Keyring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a policy file from policies of other forms. Needs no authority.
    Import(Box<ImportArgs>),
    /// Judge the newest evidence of every host again under a policy file, and say what would change. Exit status 1 if a host would break.
    Check {
        /// A file that `import` made.
        file: PathBuf,
    },
    /// Put a policy file into force; the reference sets stay as they are.
    Activate {
        /// A file that `import` made.
        file: PathBuf,
    },
    /// Take the policy out of force; the reference sets stay as they are.
    Clear,
    /// Print what is in force.
    Show,
}

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("files that may run").required(true).multiple(true).args(["keylime", "checksums", "signed_by"])))]
pub(super) struct ImportArgs {
    /// Keylime runtime policies (JSON).
    #[arg(long)]
    keylime: Vec<PathBuf>,
    /// Output of sha256sum and its kin.
    #[arg(long)]
    checksums: Vec<PathBuf>,
    /// What `./` in front of a path in such a list stands for.
    #[arg(long)]
    base: Option<String>,
    /// Accept this path unseen; a star at its end or beginning stands for anything. Each one used shows as a fact.
    #[arg(long)]
    exclude: Vec<String>,
    /// Where containers have their file systems, and how many path components to take off after it: `/var/lib/docker/overlay2/=2`.
    #[arg(long)]
    container_root: Vec<String>,
    /// Certificates (PEM) whose keys may vouch for files below a path: `/usr/=signers.pem`.
    #[arg(long)]
    signed_by: Vec<String>,
    /// Violations that a boot may have.
    #[arg(long, default_value_t = 0)]
    max_violations: u64,
    /// Entries that may follow the quoted moment.
    #[arg(long, default_value_t = 4_096)]
    max_lag: u64,
    /// Don't demand that boot_aggregate is compared with the quote.
    #[arg(long)]
    boot_aggregate_optional: bool,
    /// Accept the registers of kernels before 5.8, which extend padded SHA-1 hashes.
    #[arg(long)]
    accept_padded_sha1: bool,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
}

/// `import` needs no authority; all else does.
pub(super) fn offline(command: &Command) -> Option<&ImportArgs> {
    match command {
        Command::Import(args) => Some(args),
        _ => None,
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Import(args) => Ok(import_files(&args)?),
        Command::Activate { file } => {
            let policy = read(&file)?;
            RuntimePolicy::parse(&policy).with_context(|| file.display().to_string())?;
            activate(context, Some(policy)).await
        }
        Command::Check { file } => check(context, &file).await,
        Command::Clear => activate(context, None).await,
        Command::Show => show(context).await,
    }
}

/// What is in force, and since which epoch.
async fn active(context: &Context) -> Result<(ReferencesDocument, u64), Failure> {
    let active = context.admin.client.references().await?;
    let document = match active.document {
        Some(document) => ReferencesDocument::parse(&document.0).context("references document")?,
        None => ReferencesDocument::default(),
    };
    Ok((document, active.epoch))
}

async fn activate(context: &Context, policy: Option<Vec<u8>>) -> Result<(), Failure> {
    let (mut document, expected_epoch) = active(context).await?;
    document.ima = policy.as_deref().map(sha256);
    let call =
        ReferencesCall { document: B64(document.encode()), expected_epoch, ima_policy: policy.map(B64) };
    let recorded = context.admin.client.activate_references(&call).await?;
    if context.json {
        return output::json(&recorded);
    }
    match document.ima {
        Some(digest) => anstream::println!("IMA policy {digest} active, leaf {}", recorded.index),
        None => anstream::println!("no IMA policy is active, leaf {}", recorded.index),
    }
    Ok(())
}

async fn check(context: &Context, file: &Path) -> Result<(), Failure> {
    let policy = read(file)?;
    RuntimePolicy::parse(&policy).with_context(|| file.display().to_string())?;
    let (mut document, _) = active(context).await?;
    document.ima = Some(sha256(&policy));
    let (document, policy) = (B64(document.encode()), B64(policy));
    let page = async |before| {
        let ima_policy = Some(policy.clone());
        let call = ReferencesCheckCall { document: document.clone(), ima_policy, before };
        context.admin.client.check_references(&call).await
    };
    let checked = forecast::each_host(context, false, page).await?;
    forecast::tell(context, checked, RefusalCode::ImaFileUnknown, &file.display().to_string())
}

async fn show(context: &Context) -> Result<(), Failure> {
    let Some(digest) = active(context).await?.0.ima else {
        if context.json {
            return output::json(&Value::Null);
        }
        anstream::eprintln!("no IMA policy is active");
        return Ok(());
    };
    let bytes = context.admin.client.blob(&digest).await?;
    if context.json {
        return output::json(&document(&digest, &bytes)?);
    }
    describe(&digest, &bytes)?;
    Ok(())
}

/// The same as [`describe`], for programs; paths that aren't UTF-8 are shown as near as can be.
fn document(digest: &Sha256Digest, bytes: &[u8]) -> anyhow::Result<Value> {
    let policy = PolicyDraft::parse(bytes).context("IMA policy")?;
    let signed = policy.signed_by.iter().map(|rule| {
        let keys: Vec<String> = rule.keys.iter().map(ToString::to_string).collect();
        json!({"prefix": String::from_utf8_lossy(&rule.prefix), "keys": keys})
    });
    let roots = policy
        .roots
        .iter()
        .map(|root| json!({"prefix": String::from_utf8_lossy(&root.prefix), "skip": root.skip}));
    let settings = &policy.settings;
    Ok(json!({
        "digest": digest.to_hex(),
        "files": policy.files.len(),
        "anywhere": policy.anywhere.len(),
        "excludes": policy.excludes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "container_roots": roots.collect::<Vec<_>>(),
        "signed_by": signed.collect::<Vec<_>>(),
        "pcr": settings.pcr,
        "max_violations": settings.max_violations,
        "max_lag": settings.max_lag,
        "boot_aggregate_required": settings.require_boot_aggregate,
        "padded_sha1_accepted": settings.accept_padded_sha1,
    }))
}

fn describe(digest: &Sha256Digest, bytes: &[u8]) -> anyhow::Result<()> {
    let policy = PolicyDraft::parse(bytes).context("IMA policy")?;
    anstream::println!("IMA policy {digest}");
    anstream::println!("paths with digests: {}", policy.files.len());
    anstream::println!("digests at any path: {}", policy.anywhere.len());
    policy.excludes.iter().for_each(|pattern| anstream::println!("exclude: {pattern}"));
    for root in &policy.roots {
        anstream::println!("container root: {}={}", String::from_utf8_lossy(&root.prefix), root.skip);
    }
    for rule in &policy.signed_by {
        let keys: Vec<String> = rule.keys.iter().map(ToString::to_string).collect();
        anstream::println!("signed: {} by {}", String::from_utf8_lossy(&rule.prefix), keys.join(", "));
    }
    let settings = &policy.settings;
    anstream::println!(
        "PCR {}, {} violations, {} entries of lag, boot_aggregate {}, padded SHA-1 {}",
        settings.pcr,
        settings.max_violations,
        settings.max_lag,
        if settings.require_boot_aggregate { "required" } else { "optional" },
        if settings.accept_padded_sha1 { "accepted" } else { "refused" },
    );
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// Makes and writes a policy file.
pub(super) fn import_files(args: &ImportArgs) -> anyhow::Result<()> {
    let mut draft = PolicyDraft::default();
    for path in &args.keylime {
        let imported = import::keylime(&read(path)?).with_context(|| path.display().to_string())?;
        if imported.boot_aggregates > 0 {
            anstream::eprintln!(
                "{}: {} digests of boot_aggregate left out: it is held against the quoted boot registers, never against a list",
                path.display(),
                imported.boot_aggregates
            );
        }
        merge(&mut draft, imported.draft);
    }
    for path in &args.checksums {
        import::checksums(&read(path)?, args.base.as_deref(), &mut draft)
            .with_context(|| path.display().to_string())?;
    }
    for text in &args.exclude {
        draft.excludes.push(pattern(text));
    }
    for text in &args.container_root {
        let (prefix, skip) = text.rsplit_once('=').with_context(|| format!("{text:?} isn't PATH=COUNT"))?;
        let skip = skip.parse().with_context(|| format!("{text:?} isn't PATH=COUNT"))?;
        draft.roots.push(Root { prefix: prefix.as_bytes().to_vec(), skip });
    }
    for text in &args.signed_by {
        let (prefix, file) = text.split_once('=').with_context(|| format!("{text:?} isn't PATH=FILE"))?;
        let mut keyring = Keyring::new(KeyFloor::Sound);
        for certificate in CertificateDer::pem_file_iter(file).with_context(|| file.to_owned())? {
            let certificate = certificate.with_context(|| file.to_owned())?;
            keyring.add(&certificate).with_context(|| file.to_owned())?;
            draft.keys.push(certificate.to_vec());
        }
        draft.signed_by.push(SignedBy { prefix: prefix.as_bytes().to_vec(), keys: keyring.ids().collect() });
    }
    draft.settings.max_violations = args.max_violations;
    draft.settings.max_lag = args.max_lag;
    draft.settings.require_boot_aggregate = !args.boot_aggregate_optional;
    draft.settings.accept_padded_sha1 = args.accept_padded_sha1;
    let bytes = draft.encode();
    RuntimePolicy::parse(&bytes).context("the policy can't be put into force")?;
    std::fs::write(&args.out, &bytes).with_context(|| args.out.display().to_string())?;
    describe(&sha256(&bytes), &bytes)
}

fn merge(draft: &mut PolicyDraft, other: PolicyDraft) {
    for (path, digests) in other.files {
        draft.files.entry(path).or_default().extend(digests);
    }
    draft.anywhere.extend(other.anywhere);
    draft.excludes.extend(other.excludes);
    draft.keys.extend(other.keys);
    draft.signed_by.extend(other.signed_by);
}

/// A star at the end or at the beginning stands for anything.
fn pattern(text: &str) -> Pattern {
    match (text.strip_suffix('*'), text.strip_prefix('*')) {
        (Some(prefix), _) => Pattern::Prefix(prefix.as_bytes().to_vec()),
        (None, Some(suffix)) => Pattern::Suffix(suffix.as_bytes().to_vec()),
        (None, None) => Pattern::Exact(text.as_bytes().to_vec()),
    }
}
