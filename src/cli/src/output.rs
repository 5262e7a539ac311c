//! What a command prints: tables for people, JSON for programs; files written whole or not at all.

use crate::failure::Failure;
use anyhow::Context;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    anstream::println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    anstream::println!("{table}");
}

/// Milliseconds since the epoch as RFC 3339 in UTC.
pub(crate) fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |time| time.to_string())
}

/// Writes a file by way of a neighbour, so that nobody ever reads half of it. `secret` makes it readable by its owner only.
pub(crate) fn write_file(path: &Path, bytes: &[u8], secret: bool) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().context("a file name is needed")?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let neighbour = path.with_file_name(name);
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&neighbour)
        .with_context(|| neighbour.display().to_string())?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&neighbour, path).with_context(|| path.display().to_string())?;
    Ok(())
}

/// Certificates in PEM (RFC 7468).
pub(crate) fn pem(certificates: &[Vec<u8>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in data_encoding::BASE64.encode(certificate).as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}
