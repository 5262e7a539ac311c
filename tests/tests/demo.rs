//! The demo's script ends what it started, however it ends itself.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::wait_until;
use countersign_tests::tool;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Processes that name this folder on their command line.
fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap();
    // A process may end while it is looked at.
    let lines = entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let texts = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    texts.filter(|text| text.contains(folder)).collect()
}

#[test]
fn a_demo_whose_output_nobody_reads_on_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let binaries = tool("countersign").parent().unwrap().to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/run.sh");
    let mut command = Command::new("bash");
    command.arg(script).env("BIN", binaries).env("TMPDIR", scratch.path()).env_remove("KEEP");
    let mut demo = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // Nobody has the other end of the pipe now.
    let ended = wait_until(Duration::from_secs(60), || demo.try_wait().unwrap().is_some());
    if !ended {
        demo.kill().unwrap();
    }
    let status = demo.wait().unwrap();
    assert!(ended && !status.success() && line.starts_with("Parts: "), "{status}: {line}");
    assert_eq!(processes(scratch.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files are left");
}
