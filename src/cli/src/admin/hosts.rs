//! `admin hosts`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::DeviceDocument;
use countersign_core::api::admin::{HostDocument, LastRefusal};
use countersign_core::name::HostId;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Host identifier; all hosts when absent.
    host: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let hosts = match &args.host {
        Some(host) => {
            let host = HostId::from_hex(host).context("host identifiers are 66 hexadecimal digits")?;
            vec![context.admin.client.host(&host).await?]
        }
        None => all(context).await?,
    };
    if context.json {
        return output::json(&hosts);
    }
    if let ([host], Some(_)) = (hosts.as_slice(), &args.host) {
        print(host);
        return Ok(());
    }
    let rows = hosts
        .into_iter()
        .map(|host| {
            let (tier, until) = trust(&host);
            vec![host.host, host.status, tier, until, host.enrolment.to_string()]
        })
        .collect();
    output::table(&["HOST", "STATUS", "TIER", "TRUSTED UNTIL", "ENROLMENT LEAF"], rows);
    Ok(())
}

/// Tier and deadline, for people: what was last found of a host that isn't in force any more is worth nothing.
fn trust(host: &HostDocument) -> (String, String) {
    if host.status != "active" {
        return ("-".to_owned(), "-".to_owned());
    }
    let until = if host.trusted_until_ms == 0 { "-".to_owned() } else { output::time(host.trusted_until_ms) };
    (host.tier.clone(), until)
}

fn refusal(refusal: &LastRefusal) -> String {
    format!("{}, {}: {}", output::time(refusal.time_ms), refusal.code, refusal.detail)
}

/// What its maker calls the machine.
fn device(device: &DeviceDocument) -> String {
    let serial = device.serial.as_ref().map(|serial| format!("serial number {serial}"));
    let hardware = device.hardware_type.as_ref().zip(device.hardware_serial.as_ref());
    let hardware = hardware.map(|(kind, serial)| format!("hardware {kind} {serial}"));
    let certificate = format!("certificate {}", device.certificate);
    serial.into_iter().chain(hardware).chain([certificate]).collect::<Vec<_>>().join(", ")
}

/// One host, a line for each thing.
fn print(host: &HostDocument) {
    let (tier, until) = trust(host);
    let age = host.state_age_ms.map_or_else(|| "-".to_owned(), |age| format!("{} s", age / 1_000));
    let lines = [
        ("host", host.host.clone()),
        ("status", host.status.clone()),
        ("tier", tier),
        ("reason", host.reason.clone()),
        ("trusted until", until),
        ("told", format!("{age} ago")),
        ("last refusal", host.last_refusal.as_ref().map_or_else(|| "-".to_owned(), refusal)),
        ("endorsement", host.endorsement.clone()),
        ("device", host.device.as_ref().map_or_else(|| "-".to_owned(), device)),
        ("enrolment leaf", host.enrolment.to_string()),
        ("resets, restarts", format!("{}, {}", host.reset_count, host.restart_count)),
        ("evidence", host.evidence.clone().unwrap_or_else(|| "-".to_owned())),
    ];
    for (name, value) in lines {
        anstream::println!("{name:<17} {value}");
    }
}

pub(super) async fn all(context: &Context) -> Result<Vec<HostDocument>, Failure> {
    let mut hosts = Vec::new();
    let mut after = None;
    loop {
        let page = context.admin.client.hosts(after.as_ref()).await?;
        hosts.extend(page.hosts);
        match page.next {
            Some(next) => after = Some(HostId::from_hex(&next).context("next page")?),
            None => return Ok(hosts),
        }
    }
}
