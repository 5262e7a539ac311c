//! `admin revoke` and `admin reinstate`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use countersign_core::api::admin::{RevocationCall, SubjectDocument};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    subject: Subject,
    /// Why, for those who read the log.
    #[arg(long, global = true, default_value = "")]
    reason: String,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// A host and all that it was given.
    Host {
        /// Host identifier.
        host: String,
    },
    /// An artifact and its descendants.
    Artifact {
        /// Index in the log.
        index: u64,
        /// SHA-256 leaf hash.
        leaf: String,
    },
    /// An operator or a gateway.
    Principal {
        /// Key thumbprint.
        thumbprint: String,
    },
}

pub(super) async fn run(context: &Context, args: Args, revoke: bool) -> Result<(), Failure> {
    let subject = match args.subject {
        Subject::Host { host } => SubjectDocument::Host { host },
        Subject::Artifact { index, leaf } => SubjectDocument::Artifact { index, leaf },
        Subject::Principal { thumbprint } => SubjectDocument::Principal { thumbprint },
    };
    let recorded =
        context.admin.client.revoke(&RevocationCall { subject, revoke, reason: args.reason }).await?;
    if context.json {
        return output::json(&recorded);
    }
    anstream::println!("{}, leaf {}", if revoke { "revoked" } else { "reinstated" }, recorded.index);
    Ok(())
}
