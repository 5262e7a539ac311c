//! The `countersign` binary: parses the command line, calls the part that does the work, turns refusals into text and exit codes.
//!
//! Exit status: 0 done, 1 refused, 2 wrong usage or configuration, 3 a fault that may pass (docs/ERRORS.md).

mod admin;
mod agent;
mod artifact;
mod audit;
mod authority;
#[cfg(feature = "bench")]
mod bench;
mod exec;
mod failure;
mod holder;
mod output;
mod profile;
mod telemetry;
mod witness;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Requests are allocated on one thread and freed on another, which the C library's allocator does slowly: 12 % of an authority's time
/// under load, against 4 %.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Execution artifacts backed by TPMs and HSMs.
#[derive(Parser)]
#[command(name = "countersign", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the authority.
    #[command(subcommand)]
    Authority(authority::Command),
    /// Run the host's daemon.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Run a program if an artifact permits it.
    Exec(exec::Args),
    /// Administer an authority.
    Admin(admin::Args),
    /// Ask for artifacts and look at them.
    #[command(subcommand)]
    Artifact(artifact::Command),
    /// Check a log offline.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Measure a running authority with simulated hosts.
    #[cfg(feature = "bench")]
    #[command(subcommand)]
    Bench(bench::Command),
    /// Vouch for a log: remember its checkpoints, cosign what continues them.
    #[command(subcommand)]
    Witness(witness::Command),
    /// Make a holder key.
    #[command(subcommand)]
    Holder(holder::Command),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Authority(command) => authority::run(command),
        Command::Agent(command) => agent::run(command),
        Command::Exec(args) => exec::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Artifact(command) => artifact::run(command),
        Command::Audit(command) => audit::run(command),
        #[cfg(feature = "bench")]
        Command::Bench(command) => bench::run(command),
        Command::Witness(command) => witness::run(command),
        Command::Holder(command) => holder::run(&command),
    };
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
