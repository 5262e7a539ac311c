//! `countersign bench`: measures a running authority from the outside, with hosts that are simulated and an API that is real.
//!
//! Comes in: an admin profile, the service URL, a fleet directory written by `bench prepare`. Goes out: one JSON document and a summary for
//! people. The hosts' keys lie in ordinary memory; what is real are the bytes: TPM structures, quotes over fresh challenges, enrolment by
//! credential activation, mutual TLS, receipts that are checked.
//!
//! Refused: a fleet that the authority doesn't trust (its root has to be configured there on purpose), a window without artifacts.
//!
//! Absent: anything that changes the authority's configuration. A policy and references are activated only where none are.

mod check;
mod clock;
mod enrol;
mod evidence;
mod evidence_ima;
mod fill;
mod fleet;
mod floor;
mod host;
mod large;
mod load;
mod log;
mod metrics;
mod process;
mod report;
mod revocations;
mod setup;
mod shared_quote;
mod stats;
mod window;

use crate::failure::Outcome;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `countersign bench ..`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a fleet of simulated hosts: a seed, and the EK root that an authority has to trust for them. Never let an authority trust it that
    /// serves anything real: whoever reads the directory can enrol hosts there.
    Prepare(PrepareArgs),
    /// Load a running authority and measure how it issues artifacts.
    Issue(IssueArgs),
    /// Measure what verifying a quote, a boot log and an IMA list costs on one core.
    Evidence(evidence::EvidenceArgs),
    /// Measure how many requests one quote serves, at a running agent whose TPM is slow.
    Agent(shared_quote::SharedQuoteArgs),
    /// Measure what it costs to check an artifact and a whole log, on the store of an authority that isn't running.
    Check(check::CheckArgs),
    /// Append leaves to stores of one's own and measure how many they take.
    Log(Box<log::LogArgs>),
    /// Make the log of an authority of one's own long.
    Fill(fill::FillArgs),
    /// Measure what the length of a log costs: proofs, memory, start-up.
    Large(large::LargeArgs),
    /// Measure how long a revocation takes to the other authorities over one log.
    Revocations(revocations::RevocationsArgs),
}

/// Arguments of `bench prepare`.
#[derive(Args)]
pub(crate) struct PrepareArgs {
    /// Directory to make.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

/// Arguments of `bench issue`.
#[derive(Args)]
pub(crate) struct IssueArgs {
    /// URL of the service listener.
    #[arg(long)]
    pub(crate) url: String,
    /// Admin profile of a security officer, for join tokens and metrics, and for a policy and references where none are active.
    #[arg(long)]
    pub(crate) profile: PathBuf,
    /// Directory written by `bench prepare`.
    #[arg(long)]
    pub(crate) fleet: PathBuf,
    /// Simulated hosts, each with one connection and one call at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub(crate) hosts: u32,
    /// Length of the measured window.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// Load before the measured window.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) warmup_seconds: u64,
    /// The window ends early at this many artifacts.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    pub(crate) max_artifacts: u64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Boot log of each host, bytes.
    #[arg(long, default_value_t = 30_720, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) boot_log_bytes: u32,
    /// Every how many artifacts the head's signature and the claims are checked too; inclusion is checked always.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) verify_every: u64,
    /// Process of the authority on this machine: measures its CPU time and memory.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// How long one signature of the head key takes, ms; otherwise the authority's own metrics say it.
    #[arg(long, value_parser = positive)]
    pub(crate) raw_sign_ms: Option<f64>,
    /// Where to write the result as JSON; `-` is standard output.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if ms.is_finite() && ms > 0.0 => Ok(ms),
        _ => Err("a number above 0 is needed".to_owned()),
    }
}

/// Runs a bench command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Prepare(args) => Ok(fleet::prepare(&args.out)?),
        Command::Issue(args) => Ok(run_issue(&args)?),
        Command::Evidence(args) => Ok(evidence::run(&args)?),
        Command::Agent(args) => Ok(shared_quote::run(&args)?),
        Command::Check(args) => Ok(check::run(&args)?),
        Command::Log(args) => Ok(log::run(&args)?),
        Command::Fill(args) => Ok(fill::run(&args)?),
        Command::Large(args) => Ok(large::run(&args)?),
        Command::Revocations(args) => Ok(revocations::run(&args)?),
    }
}

/// Prepares the authority, loads it, and reports. Any error of a call makes the exit status 1.
pub(crate) fn run_issue(args: &IssueArgs) -> anyhow::Result<std::process::ExitCode> {
    process::raise_open_files(u64::from(args.hosts));
    let admin = crate::profile::open(&args.profile)?;
    let fleet = fleet::Fleet::load(&args.fleet)?;
    let prepared = setup::prepare(args, &fleet, &admin)?;
    let floor = floor::measure(&prepared.typical)?;
    let plan = load::Plan {
        threads: args.threads,
        warmup: Duration::from_secs(args.warmup_seconds),
        window: Duration::from_secs(args.seconds),
        max_artifacts: args.max_artifacts,
        verify_every: args.verify_every,
    };
    let server = args.server_pid.map(process::Server::new);
    let measured = load::run(plan, prepared.hosts, &prepared.log, &admin.client, server)?;
    let report = report::Report::new(args, &floor, &measured);
    report.write(args.json.as_deref())?;
    Ok(if report.errors == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::from(1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    fn issue(extra: &[&str]) -> Result<IssueArgs, clap::Error> {
        let fixed = ["bench", "issue", "--url", "https://localhost:1", "--profile", "p", "--fleet", "f"];
        match Cli::try_parse_from(fixed.iter().chain(extra))?.command {
            Command::Issue(args) => Ok(args),
            _ => unreachable!("another command was given"),
        }
    }

    #[test]
    fn the_defaults_are_64_hosts_with_boot_logs_of_30_kib_for_20_seconds() {
        let args = issue(&[]).unwrap();
        assert_eq!((args.hosts, args.boot_log_bytes, args.seconds), (64, 30 * 1024, 20));
        assert_eq!((args.server_pid, args.raw_sign_ms, args.json), (None, None, None));
    }

    #[test]
    fn what_would_never_end_or_divide_by_nothing_is_refused() {
        for extra in [
            ["--hosts", "0"],
            ["--hosts", "8193"],
            ["--seconds", "0"],
            ["--seconds", "3601"],
            ["--threads", "0"],
            ["--verify-every", "0"],
            ["--max-artifacts", "0"],
            ["--raw-sign-ms", "0"],
            ["--raw-sign-ms", "NaN"],
        ] {
            assert!(issue(&extra).is_err(), "{extra:?}");
        }
        assert_eq!(issue(&["--raw-sign-ms", "200"]).unwrap().raw_sign_ms, Some(200.0));
    }
}
