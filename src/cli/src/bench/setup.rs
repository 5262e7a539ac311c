//! Before the load: hosts enrolled, a policy and references active, one artifact issued and checked whole.
//!
//! Comes in: arguments, fleet, admin client. Goes out: [`Prepared`]. What is active already stays as it is; only where there is no policy, or no
//! references, ours are activated. Refused: an authority that then denies a simulated host, with the code that it gave.

use super::IssueArgs;
use super::enrol::{Enroller, enrol_fleet};
use super::fleet::Fleet;
use super::host::{Host, Log, Typical};
use super::report::bar;
use crate::profile::Admin;
use anyhow::Context;
use countersign_client::{Client, ClientIdentity, Limits};
use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, PolicyCall, ReferencesCall};
use countersign_core::document::{PolicyDocument, Settings, TPM_ALG_SHA256};
use std::collections::BTreeMap;

/// Registers that the policy requires: what firmware and boot loader measure.
const PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
/// All of them but 8, which holds the command line and differs from host to host.
const REFERENCE_PCRS: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];
const POLICY: &str = r#"permit(principal, action == Action::"exec", resource)
when { context.tier == "affirming" || context.tier == "warning" };
"#;

/// Ready to be loaded.
pub(crate) struct Prepared {
    pub(crate) hosts: Vec<Host>,
    pub(crate) log: Log,
    pub(crate) typical: Typical,
}

/// Does it all, on a runtime of its own.
pub(crate) fn prepare(args: &IssueArgs, fleet: &Fleet, admin: &Admin) -> anyhow::Result<Prepared> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(prepare_async(args, fleet, admin))
}

async fn prepare_async(args: &IssueArgs, fleet: &Fleet, admin: &Admin) -> anyhow::Result<Prepared> {
    let log = Log::new(&admin.bundle);
    activate_policy(&admin.client).await?;
    let limits = Limits { idle_connections: 64, ..Limits::default() };
    let service =
        Client::with_limits(&args.url, ClientIdentity::Anonymous, admin.bundle.ca_certificates(), limits)?;
    let enroller = Enroller {
        url: args.url.clone(),
        bundle: admin.bundle.clone(),
        admin: admin.client.clone(),
        service,
        run: run_name()?,
    };
    let bar = bar(u64::from(args.hosts), "hosts enrolled");
    let boot_log_bytes = usize::try_from(args.boot_log_bytes)?;
    let mut hosts = enrol_fleet(enroller, fleet, args.hosts, boot_log_bytes, &bar).await?;
    bar.finish_and_clear();
    let first = hosts.first_mut().context("no hosts")?;
    activate_references(&admin.client, first, &log).await?;
    let issued = first.issue(&log, true).await.map_err(|failure| failure.into_error());
    let issued = issued.context("the authority gives no artifact to a simulated host")?;
    let typical = first.typical(issued.leaf)?;
    Ok(Prepared { hosts, log, typical })
}

async fn activate_policy(admin: &Client) -> anyhow::Result<()> {
    let active = admin.policy().await.context("active policy")?;
    if active.digest.is_some() {
        return Ok(());
    }
    let settings =
        Settings { bank: TPM_ALG_SHA256, pcrs: PCRS.to_vec(), max_ttl_secs: 300, host_trust_secs: 300 };
    let document = PolicyDocument {
        policies: BTreeMap::from([("bench".to_owned(), POLICY.to_owned())]),
        schema: countersign_authority::policy::SCHEMA.to_owned(),
        settings,
    };
    let call = PolicyCall { document: B64(document.encode()), expected_epoch: active.epoch };
    admin.activate_policy(&call).await.context("policy")?;
    Ok(())
}

async fn activate_references(admin: &Client, host: &mut Host, log: &Log) -> anyhow::Result<()> {
    if admin.references().await.context("active references")?.digest.is_some() {
        return Ok(());
    }
    host.attest(log).await?;
    let capture = CaptureCall {
        host: host.id().to_hex(),
        set: "simulated".to_owned(),
        pcrs: Some(REFERENCE_PCRS.to_vec()),
        append: false,
    };
    let captured = admin.capture_references(&capture).await.context("capture of references")?;
    let call =
        ReferencesCall { document: captured.document, expected_epoch: captured.epoch, ima_policy: None };
    admin.activate_references(&call).await.context("references")?;
    Ok(())
}

/// Request identifiers are unique per host for ever, and the hosts of a fleet come back.
fn run_name() -> anyhow::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("the system gives no randomness")?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}
