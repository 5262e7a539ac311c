//! The worked examples of docs/LOG.md: every command in it is run, and prints what the page says.
//!
//! `UPDATE_DOCS=1 cargo test -p countersign-tests --test log_page` writes what they print into the page.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// What a command prints, both streams in order, run in the example's directory.
fn run(folder: &Path, command: &str) -> String {
    let binary = countersign_tests::tool("countersign");
    let binaries = binary.parent().unwrap().display().to_string();
    let path = format!("/usr/bin:{binaries}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .current_dir(folder)
        .env("PATH", path)
        .env("PYTHONPATH", root().join("deploy/verifier"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The page with every command's output as it is now. A command begins with `$ ` and goes on with `> `, within a block marked `console`.
fn worked(page: &str, folder: &Path) -> (String, usize) {
    let (mut out, mut commands) = (String::new(), 0);
    let mut lines = page.lines().peekable();
    let mut inside = false;
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ => {}
        }
        let Some(first) = line.strip_prefix("$ ").filter(|_| inside) else { continue };
        let mut command = first.to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("> ") || *line == ">") {
            out.push_str(more);
            out.push('\n');
            command.push('\n');
            command.push_str(more.get(2..).unwrap_or_default());
        }
        while lines.next_if(|line| !line.starts_with("$ ") && *line != "```").is_some() {}
        out.push_str(&run(folder, &command));
        commands += 1;
    }
    (out, commands)
}

#[test]
fn the_commands_of_the_page_print_what_it_says() {
    let path = root().join("docs/LOG.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let example = root().join("tests/verifier/example.py");
    let status = Command::new("/usr/bin/python3").arg(example).arg(folder.path()).status().unwrap();
    assert!(status.success());
    let (now, commands) = worked(&page, folder.path());
    assert!(commands >= 15, "{commands} commands");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    for (said, found) in page.lines().zip(now.lines()) {
        assert_eq!(said, found, "the page says the first, the command printed the second");
    }
    assert_eq!(page.lines().count(), now.lines().count());
}
