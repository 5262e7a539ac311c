//! `admin attestation-result`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::{AttestationResultCall, B64};
use countersign_core::name::HostId;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Host identifier.
    host: String,
    /// 8 to 64 bytes, hexadecimal, that stand in the result.
    #[arg(long)]
    nonce: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let host = HostId::from_hex(&args.host).context("host identifiers are 66 hexadecimal digits")?;
    let decode = |nonce: &String| data_encoding::HEXLOWER_PERMISSIVE.decode(nonce.as_bytes());
    let nonce = args.nonce.as_ref().map(decode).transpose().context("the nonce isn't hexadecimal")?;
    let call = AttestationResultCall { nonce: nonce.map(B64) };
    let answer = context.admin.client.attestation_result_of(&host, &call).await?;
    if context.json {
        return output::json(&answer);
    }
    anstream::println!("{}", answer.jwt);
    Ok(())
}
