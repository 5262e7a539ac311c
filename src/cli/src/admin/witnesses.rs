//! `admin witnesses`: who cosigns heads, and an officer's decision about a witness that refuses.

use super::Context;
use crate::failure::Failure;
use crate::output;
use countersign_core::api::admin::{WitnessCall, Witnesses};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(clap::Subcommand)]
enum Act {
    /// Don't ask this witness any more; an alarm that it raised ends.
    SetAside(Decision),
    /// Ask it again.
    Reinstate(Decision),
}

#[derive(clap::Args)]
struct Decision {
    /// Its name in the quorum file.
    witness: String,
    /// Why; kept in the authority's state directory.
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let client = &context.admin.client;
    let call = |decision: Decision, set_aside| WitnessCall {
        witness: decision.witness,
        set_aside,
        reason: decision.reason,
    };
    let document = match args.act {
        None => client.witnesses().await?,
        Some(Act::SetAside(decision)) => client.decide_witness(&call(decision, true)).await?,
        Some(Act::Reinstate(decision)) => client.decide_witness(&call(decision, false)).await?,
    };
    if context.json {
        return output::json(&document);
    }
    print(&document);
    Ok(())
}

fn print(document: &Witnesses) {
    if let Some(alarm) = &document.alarm {
        anstream::println!(
            "ALARM since {}: {} refuses this log as {}; asked about size {}, it has cosigned size {}; nothing is issued",
            output::time(alarm.at_ms),
            alarm.witness,
            alarm.kind,
            alarm.size,
            alarm.witness_size
        );
    }
    if document.witnesses.is_empty() {
        anstream::println!("no witnesses: `quorum_file` in [witnesses] of authority.toml names them");
        return;
    }
    anstream::println!("witnessed up to size {}", document.witnessed);
    let rows = document.witnesses.iter().map(|witness| {
        let asked = if witness.asked { "yes" } else { "no" };
        let fault = witness.fault.clone().unwrap_or_default();
        vec![witness.name.clone(), asked.to_owned(), witness.cosigned.to_string(), fault]
    });
    output::table(&["witness", "asked", "cosigned", "fault"], rows.collect());
}
