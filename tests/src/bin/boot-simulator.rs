//! Stands in for firmware: writes a boot event log and prints what to extend into a TPM that has no firmware of its own.
//!
//! `boot-simulator LOG [SEED] [KERNEL COMMAND LINE] [BOOT LOADER BUILD] [BOOT LOADER PATH]` writes the log to LOG and prints one
//! `PCR:sha256=..,sha384=..` per measurement, as `tpm2_pcrextend` takes them. The same arguments give the same boot.

use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use data_encoding::HEXLOWER;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(log) = args.next() else {
        eprintln!(
            "usage: boot-simulator LOG [SEED] [KERNEL COMMAND LINE] [BOOT LOADER BUILD] [BOOT LOADER PATH]"
        );
        return ExitCode::from(2);
    };
    let mut options = BootOptions { pad_to_bytes: 30 * 1024, ..BootOptions::default() };
    if let Some(seed) = args.next() {
        match seed.parse() {
            Ok(seed) => options.seed = seed,
            Err(error) => {
                eprintln!("seed {seed:?}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(line) = args.next() {
        options.kernel_command_line = line;
    }
    if let Some(build) = args.next() {
        match build.parse() {
            Ok(build) => options.boot_loader_build = build,
            Err(error) => {
                eprintln!("boot loader build {build:?}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    if let Some(path) = args.next() {
        options.boot_loader_path = path;
    }
    let boot = SimulatedBoot::new(&options);
    if let Err(error) = std::fs::write(&log, boot.log()) {
        eprintln!("{log}: {error}");
        return ExitCode::from(1);
    }
    for measurement in boot.measurements() {
        println!(
            "{}:sha256={},sha384={}",
            measurement.pcr,
            HEXLOWER.encode(&measurement.sha256),
            HEXLOWER.encode(&measurement.sha384)
        );
    }
    ExitCode::SUCCESS
}
