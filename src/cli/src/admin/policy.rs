//! `admin policy`.

use super::{Context, documents, forecast};
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::B64;
use countersign_core::api::admin::{PolicyCall, PolicyCheckCall, PolicyValidateCall};
use countersign_core::document::PolicyDocument;
use countersign_core::refusal::RefusalCode;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check a policy folder without activating it.
    Validate {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
    },
    /// Check and activate a policy folder.
    Activate {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
        /// Epoch that the change was drafted against, as `policy show` and `policy validate` tell it; the one in force when absent.
        #[arg(long)]
        expected_epoch: Option<u64>,
    },
    /// Judge the newest decision about every host, or else its newest attestation, again under a policy folder, and say what would change. Exit status 1
    /// if a host would break.
    Check {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
    },
    /// Print the active policy.
    Show,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = &context.admin.client;
    match command {
        Command::Validate { folder } => {
            let document = B64(documents::read_policy(&folder)?.encode());
            let validated = client.validate_policy(&PolicyValidateCall { document }).await?;
            if context.json {
                return output::json(&validated);
            }
            for warning in &validated.warnings {
                anstream::eprintln!("warning: {warning}");
            }
            anstream::println!("valid, digest {}; epoch {} is in force", validated.digest, validated.epoch);
        }
        Command::Activate { folder, expected_epoch } => {
            let document = B64(documents::read_policy(&folder)?.encode());
            let validated =
                client.validate_policy(&PolicyValidateCall { document: document.clone() }).await?;
            let expected_epoch = expected_epoch.unwrap_or(validated.epoch);
            let recorded = client.activate_policy(&PolicyCall { document, expected_epoch }).await?;
            if context.json {
                return output::json(&recorded);
            }
            anstream::println!("policy active, leaf {}", recorded.index);
        }
        Command::Check { folder } => check(context, &folder).await?,
        Command::Show => {
            let active = client.policy().await?;
            if context.json {
                return output::json(&active);
            }
            let Some(document) = active.document else {
                anstream::eprintln!("no policy is active: every request is denied");
                return Ok(());
            };
            let document = PolicyDocument::parse(&document.0).context("policy document")?;
            anstream::println!("epoch {}, digest {}", active.epoch, document.digest());
            for (id, source) in &document.policies {
                anstream::println!("\n// {id}.cedar\n{}", source.trim_end());
            }
        }
    }
    Ok(())
}

async fn check(context: &Context, folder: &Path) -> Result<(), Failure> {
    let document = B64(documents::read_policy(folder)?.encode());
    let page = async |before| {
        context.admin.client.check_policy(&PolicyCheckCall { document: document.clone(), before }).await
    };
    let checked = forecast::each_host(context, true, page).await?;
    forecast::tell(context, checked, RefusalCode::PolicyDenied, &folder.display().to_string())
}
