//! What stands behind the gateway in tests: adds a line to the file that its first argument names, and says so.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else { return ExitCode::from(2) };
    let written =
        std::fs::OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| writeln!(f, "ran"));
    println!("canary: {}", args.next().unwrap_or_default());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
