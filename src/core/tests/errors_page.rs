//! `docs/ERRORS.md` is the table of refusal codes, word for word. `UPDATE_DOCS=1 cargo test -p countersign-core --test errors_page` rewrites it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::refusal::{Blame, RefusalCode};
use std::fmt::Write;
use std::path::Path;

fn page() -> String {
    let mut page = String::from(
        "# Refusals\n\nEvery reason for which this system says no. A code never changes its meaning and is never reused. Answers over HTTP are\n\
         `application/problem+json` with the code in `code`; a logged denial carries it in its decision; command-line tools print it\n\
         as `refused: CODE: detail` and exit with status 1 (a refusal), 2 (misuse) or 3 (a fault that may pass). Wrong usage, files and\n\
         configurations are `error: ..`, with status 2.\n\nThis page is written from `src/core/src/refusal.rs`, `src/authority/src/audit/codes.rs` and `hsm/src/fault.rs`.\n",
    );
    for (blame, title, text) in [
        (Blame::Refusal, "Refusals", "Evidence, policy or state says no."),
        (Blame::Misuse, "Misuse", "The caller sent something that the protocol doesn't allow."),
        (Blame::Fault, "Faults", "Our side failed; the same call may succeed later."),
    ] {
        writeln!(page, "\n## {title}\n\n{text}\n\n| Code | HTTP | Meaning |\n|---|---|---|").unwrap();
        for code in RefusalCode::ALL.iter().filter(|code| code.blame() == blame) {
            writeln!(page, "| `{code}` | {} | {} |", code.status(), code.meaning()).unwrap();
        }
    }
    audit_codes(&mut page);
    signer_faults(&mut page);
    page
}

/// What audits find: a crate above this one has the table, so it is read from its source.
fn audit_codes(page: &mut String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../authority/src/audit/codes.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let table = source.split("\ncodes! {\n").nth(1).unwrap().split("\n}\n").next().unwrap();
    page.push_str(
        "\n## What audits find\n\n`countersign audit` says with them what is wrong with a log, a decision in it, or a document made from it, and exits with 1; \
         `refused: CODE: detail`\nif there is nothing more to say after it. With `--json` they stand in `code`.\n\n| Code | Meaning |\n|---|---|\n",
    );
    for line in table.lines() {
        let mut texts = line.split('"').skip(1).step_by(2);
        let (code, meaning) = (texts.next().unwrap(), texts.next().unwrap());
        writeln!(page, "| `{code}` | {meaning} |").unwrap();
    }
}

/// Classes of faults of the devices that hold keys: a crate above this one has them, so they are read from its source.
fn signer_faults(page: &mut String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hsm/src/fault.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let class = source.split("pub enum FaultClass {\n").nth(1).unwrap().split("\n}\n").next().unwrap();
    page.push_str(
        "\n## Faults of tokens and TPMs that hold keys\n\nIn logs, in what `authority init`, `join` and `serve` print before they end; a caller is \
         told `signer-unavailable`.\n\n| Code | Meaning |\n|---|---|\n",
    );
    let mut meaning = String::new();
    for line in class.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            meaning = format!("{meaning} {}", text.trim()).trim().to_owned();
            continue;
        }
        let name = line.trim_end_matches(',').split(" = ").next().unwrap();
        let code = source.split(&format!("Self::{name} => \"")).nth(1).unwrap().split('"').next().unwrap();
        writeln!(page, "| `{code}` | {} |", std::mem::take(&mut meaning)).unwrap();
    }
}

#[test]
fn the_page_of_refusals_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ERRORS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/ERRORS.md differs from the table; rewrite it with UPDATE_DOCS=1");
}
