//! `countersign agent`.

use crate::failure::{Failure, Outcome};
use crate::output;
use anyhow::Context;
use clap::Subcommand;
use countersign_agent::{AgentError, Config, ReplayProbe};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Enrol this host, or renew its enrolment.
    Enrol {
        /// Configuration.
        #[arg(long, default_value = "/etc/countersign/agent.toml")]
        config: PathBuf,
        /// Single-use join token; not needed to renew.
        // Tokens are base64url: one in sixty-four begins with a hyphen.
        #[arg(long, env = "COUNTERSIGN_TOKEN", hide_env_values = true, allow_hyphen_values = true)]
        token: Option<String>,
    },
    /// Serve this host's runtimes.
    Run {
        /// Configuration.
        #[arg(long, default_value = "/etc/countersign/agent.toml")]
        config: PathBuf,
    },
    /// Use one challenge twice: the authority must refuse the second time. No agent of this host may be running.
    ProbeReplay {
        /// Configuration.
        #[arg(long, default_value = "/etc/countersign/agent.toml")]
        config: PathBuf,
    },
    /// Ask a running agent how it is.
    Status {
        /// The agent's socket.
        #[arg(long, env = "COUNTERSIGN_AGENT", default_value = "/run/countersign/agent.sock")]
        agent: PathBuf,
    },
}

pub(crate) fn run(command: Command) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        Command::Enrol { config, token } => {
            let config = load(&config)?;
            let enrolled =
                runtime.block_on(countersign_agent::enrol(&config, token.as_deref())).map_err(failure)?;
            anstream::println!(
                "enrolled {}, certificate until {}",
                enrolled.host,
                output::time(enrolled.certificate_expires_ms)
            );
        }
        Command::Run { config } => {
            let config = load(&config)?;
            crate::telemetry::start();
            runtime
                .block_on(countersign_agent::run(config, countersign_agent::terminated()))
                .map_err(failure)?;
        }
        Command::ProbeReplay { config } => {
            let config = load(&config)?;
            return match runtime.block_on(countersign_agent::probe_replay(&config)).map_err(failure)? {
                ReplayProbe::Refused(code) => Err(Failure::refused(code, "the second use of a challenge")),
                ReplayProbe::Taken => {
                    Err(Failure::Error(anyhow::anyhow!("the authority took one challenge twice")))
                }
            };
        }
        Command::Status { agent } => {
            let status = runtime.block_on(countersign_agent::status(&agent)).context("agent")?;
            output::json(&status)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(path: &std::path::Path) -> Result<Config, Failure> {
    Ok(Config::load(path).with_context(|| path.display().to_string())?)
}

fn failure(error: AgentError) -> Failure {
    match error.code() {
        Some(code) => Failure::refused(code, error.to_string()),
        None => Failure::Error(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::Command;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn a_token_may_begin_with_a_hyphen() {
        let line = Line::try_parse_from(["agent", "enrol", "--token", "-6f-token"]).ok();
        let Some(Command::Enrol { token, .. }) = line.map(|line| line.command) else {
            panic!("the line isn't taken");
        };
        assert_eq!(token.as_deref(), Some("-6f-token"));
    }
}
