//! `countersign admin`: acts and questions of operators, over the admin listener. What an act does is a leaf; the receipt is printed or kept.

mod boot_changes;
mod compare;
mod documents;
mod ek_roots;
mod forecast;
mod hosts;
mod ima_policy;
mod keys;
mod lineage;
mod migrate;
mod policy;
mod principals;
mod references;
mod results;
mod revocation;
mod tokens;
mod witnesses;

use crate::failure::Outcome;
use crate::profile::{self, Admin};
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

/// Administer an authority.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Admin profile, as written by `authority init`.
    #[arg(long, env = "COUNTERSIGN_PROFILE", default_value = "admin.toml")]
    profile: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a single-use join token.
    JoinToken(tokens::Args),
    /// List hosts, or show one.
    Hosts(hosts::Args),
    /// Print a host's newest attestation result as a JWT (EAR).
    AttestationResult(results::Args),
    /// List the certificates of TPM manufacturers that are part of this build.
    EkRoots(ek_roots::Args),
    /// Reference values: capture, activate, show.
    #[command(subcommand)]
    References(references::Command),
    /// What may run after boot: import, activate, clear, show.
    #[command(subcommand)]
    ImaPolicy(ima_policy::Command),
    /// Policy: validate, activate, show.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Revoke a host, an artifact, an operator or a gateway.
    Revoke(revocation::Args),
    /// Take a revocation back.
    Reinstate(revocation::Args),
    /// Add a gateway and get its certificate.
    Gateway(principals::GatewayArgs),
    /// Add an operator and get a certificate.
    Operator(principals::OperatorArgs),
    /// List operators and gateways.
    Principals,
    /// Who cosigns heads; set one aside that refuses.
    Witnesses(witnesses::Args),
    /// Families of artifacts, and artifacts by host, key, policy, boot.
    #[command(subcommand)]
    Lineage(lineage::Command),
    /// Head and JWT keys: list, rotate.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Move the log to another kind of store. Works on this machine, without the admin listener.
    #[command(subcommand)]
    Migrate(migrate::Command),
}

/// Where a command talks to and how it prints.
struct Context {
    admin: Admin,
    json: bool,
}

pub(crate) fn run(args: Args) -> Outcome {
    if let Command::ImaPolicy(command) = &args.command
        && let Some(import) = ima_policy::offline(command)
    {
        ima_policy::import_files(import)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::EkRoots(wanted) = &args.command {
        ek_roots::run(wanted, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Migrate(command) = &args.command {
        return migrate::run(command);
    }
    let context = Context { admin: profile::open(&args.profile)?, json: args.json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.command {
            Command::JoinToken(args) => tokens::run(&context, &args).await,
            Command::Hosts(args) => hosts::run(&context, &args).await,
            Command::AttestationResult(args) => results::run(&context, &args).await,
            Command::EkRoots(args) => ek_roots::run(&args, context.json),
            Command::References(command) => references::run(&context, command).await,
            Command::ImaPolicy(command) => ima_policy::run(&context, command).await,
            Command::Policy(command) => policy::run(&context, command).await,
            Command::Revoke(args) => revocation::run(&context, args, true).await,
            Command::Reinstate(args) => revocation::run(&context, args, false).await,
            Command::Gateway(args) => principals::add_gateway(&context, &args).await,
            Command::Operator(args) => principals::add_operator(&context, &args).await,
            Command::Principals => principals::list(&context).await,
            Command::Witnesses(args) => witnesses::run(&context, args).await,
            Command::Lineage(command) => lineage::run(&context, command).await,
            Command::Keys(command) => keys::run(&context, command).await,
            // Done above, without a profile.
            Command::Migrate(_) => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
