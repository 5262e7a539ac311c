//! `countersign bench evidence`: what verifying evidence costs, one core, nothing but the verifier.
//!
//! Comes in: a boot log, or none for a simulated one of 30 KiB. Goes out: one JSON object whose members are medians. A file that already has members
//! keeps the others, so that several benches can write one file.

use super::clock::{Clock, Pace};
use super::evidence_ima::measure_ima;
use anyhow::Context;
use clap::Args;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::{EventLog, verify_replay};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, verify_quote};
use countersign_tpm::signature::{self, Signature};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Length of the simulated log.
const SIMULATED_LOG_BYTES: usize = 30 * 1024;
/// What the policies of a fresh deployment ask for.
const PCRS: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// Arguments of `bench evidence`.
#[derive(Args)]
pub(crate) struct EvidenceArgs {
    /// A real boot log (`binary_bios_measurements`) with a SHA-256 bank; otherwise one of 30 KiB is simulated.
    #[arg(long)]
    pub(crate) boot_log: Option<PathBuf>,
    /// Entries of the IMA list, all of which the policy lists.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=400_000))]
    pub(crate) ima_entries: u32,
    /// JSON file to write members into; printed otherwise.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// Measures and writes.
pub(crate) fn run(args: &EvidenceArgs) -> anyhow::Result<ExitCode> {
    measure(args, Pace::FULL)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &EvidenceArgs, pace: Pace) -> anyhow::Result<()> {
    let mut members = Map::new();
    let mut clock = Clock::new(pace)?;
    measure_quote(&mut clock, &mut members)?;
    measure_boot_log(&mut clock, args.boot_log.as_deref(), &mut members)?;
    measure_ima(&mut clock, args.ima_entries, &mut members)?;
    merge(args.json.as_deref(), members)
}

/// Writes members into a file, whose other members stay; prints them without one.
pub(super) fn merge(file: Option<&Path>, members: Map<String, Value>) -> anyhow::Result<()> {
    let mut all = match file.filter(|path| path.exists()) {
        Some(path) => known(path)?,
        None => Map::new(),
    };
    all.extend(members);
    let text = serde_json::to_string_pretty(&Value::Object(all))? + "\n";
    match file {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("{} isn't written", path.display()))?
        }
        None => anstream::print!("{text}"),
    }
    Ok(())
}

fn known(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = std::fs::read(path).with_context(|| format!("{} isn't read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} isn't a JSON object", path.display()))
}

pub(super) fn booted(boot: &SimulatedBoot) -> anyhow::Result<SimulatedTpm> {
    let mut next = 0u8;
    let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| {
        next = next.wrapping_add(1);
        buffer.fill(next);
    })?;
    tpm.boot(boot)?;
    Ok(tpm)
}

pub(super) fn micros(time: Duration) -> Value {
    json!((time.as_secs_f64() * 1e8).round() / 100.0)
}

/// A whole quote against the signature in it alone.
fn measure_quote(clock: &mut Clock, members: &mut Map<String, Value>) -> anyhow::Result<()> {
    let tpm = booted(&SimulatedBoot::new(&BootOptions::default()))?;
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &PCRS)?;
    let extra = [9; 32];
    let made = tpm.quote(&extra, &required)?;
    let values = tpm.pcr_values(&required)?;
    let input = QuoteInput {
        ak: tpm.ak_public(),
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &extra,
        required: &required,
        pcr_values: &values,
    };
    verify_quote(input)?;
    let parsed = Signature::parse(&made.signature)?;
    let bare = clock
        .median("bare_signature", || signature::verify(tpm.ak_public(), &made.attest, &parsed).is_ok())?;
    let whole = clock.median("quote_verify", || verify_quote(input).is_ok())?;
    members.insert("bare_signature_us".to_owned(), micros(bare));
    members.insert("quote_verify_us".to_owned(), micros(whole));
    Ok(())
}

/// A log parsed, replayed against a quote of the values that it leads to, and turned into facts.
fn measure_boot_log(
    clock: &mut Clock,
    file: Option<&Path>,
    members: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let simulated =
        SimulatedBoot::new(&BootOptions { pad_to_bytes: SIMULATED_LOG_BYTES, ..BootOptions::default() });
    let (bytes, name) = match file {
        None => (simulated.log().to_vec(), "simulated".to_owned()),
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| format!("{} isn't read", path.display()))?;
            (bytes, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        }
    };
    let log = EventLog::parse(&bytes).with_context(|| name.clone())?;
    let replay = log.replay(HashAlg::Sha256).with_context(|| name.clone())?;
    let values: Vec<(u32, Vec<u8>)> = replay.pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    let quote = booted(&simulated)?.worn(HashAlg::Sha256, &values)?;
    verify_replay(&log, &quote, &pcrs).with_context(|| name.clone())?;
    let time = clock.median("boot_log", || {
        EventLog::parse(&bytes).is_ok_and(|log| verify_replay(&log, &quote, &pcrs).is_ok())
    })?;
    members.insert("boot_log_us".to_owned(), micros(time));
    members.insert("boot_log_bytes".to_owned(), json!(bytes.len()));
    members.insert("boot_log".to_owned(), json!(name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_members_of_the_file_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.json");
        std::fs::write(&path, r#"{"requests_per_quote": 7, "boot_log_us": 1000000}"#).unwrap();
        let args = EvidenceArgs { boot_log: None, ima_entries: 50, json: Some(path.clone()) };
        measure(&args, Pace::QUICK).unwrap();
        let members = known(&path).unwrap();
        assert_eq!(members["requests_per_quote"], 7);
        for name in ["quote_verify_us", "bare_signature_us", "boot_log_us", "ima_incremental_10_us"] {
            let micros = members[name].as_f64().unwrap();
            assert!(micros > 0.0 && micros < 1_000_000.0, "{name}: {micros}");
        }
        assert!(members["ima_entries_per_s"].as_f64().unwrap() > 1.0);
        assert_eq!(members["boot_log"], "simulated");
        assert!(members["boot_log_bytes"].as_u64().unwrap() >= 30 * 1024);
    }
}
