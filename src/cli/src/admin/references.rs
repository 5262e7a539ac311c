//! `admin references`.

use super::{Context, documents};
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, ReferencesCall};
use countersign_core::document::ReferencesDocument;
use std::path::PathBuf;

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
    /// Print the active references.
    Show,
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
