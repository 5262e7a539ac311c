//! `admin join-token`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use countersign_core::api::admin::JoinTokenCall;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Lifetime, seconds.
    #[arg(long, default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    ttl_secs: u64,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let made = context.admin.client.make_join_token(&JoinTokenCall { ttl_secs: args.ttl_secs }).await?;
    if context.json {
        return output::json(&made);
    }
    // Alone on standard output, so that it can be captured; it is shown this once.
    anstream::println!("{}", made.token);
    anstream::eprintln!("valid for one host until {}", output::time(made.expires_ms));
    Ok(())
}
