//! Fuzzing: every parser of hostile bytes as a plain function over a slice, and what runs them.
//!
//! Comes in: bytes. Goes out: nothing; a body that returns has found nothing, a panic is a finding. [`TARGETS`] is the one list: the test
//! `fuzz_smoke` runs it for seconds over seeds and mutations of them, the program `fuzz` for as long as it is told, and the crate under
//! `tests/fuzz` hands the same bodies to libFuzzer.
//!
//! To add a parser: write its body in `targets.rs` or `evidence.rs`, add a line to [`TARGETS`] and a target to the crate. Seeds are shared: bytes that mean something to one parser
//! are good hostile bytes for the next.

mod evidence;
mod idevid;
mod mutate;
mod run;
mod seeds;
mod targets;

pub use mutate::Mutator;
pub use run::{Finding, Session, run};
pub use seeds::seeds;

/// A parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name: of the libFuzzer target too.
    pub name: &'static str,
    /// What is done with the bytes.
    pub body: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "boot_log", body: targets::boot_log },
    Target { name: "boot_log_agile", body: targets::boot_log_agile },
    Target { name: "cel_tlv", body: targets::cel_tlv },
    Target { name: "cel_json", body: targets::cel_json },
    Target { name: "ima", body: evidence::ima },
    Target { name: "ima_appraise", body: evidence::ima_appraise },
    Target { name: "ima_policy", body: evidence::ima_policy },
    Target { name: "modsig", body: evidence::modsig },
    Target { name: "attest", body: evidence::attest },
    Target { name: "credential", body: evidence::credential },
    Target { name: "certificates", body: evidence::certificates },
    Target { name: "public", body: targets::public },
    Target { name: "signature", body: targets::signature },
    Target { name: "ek_certificate", body: targets::ek_certificate },
    Target { name: "revocation_list", body: targets::revocation_list },
    Target { name: "corim", body: targets::corim },
    Target { name: "witness", body: targets::witness },
    Target { name: "bodies", body: targets::bodies },
    Target { name: "cbor", body: targets::cbor },
    Target { name: "request", body: targets::request },
    Target { name: "calls", body: targets::calls },
    Target { name: "leaf", body: targets::leaf },
    Target { name: "control", body: targets::control },
    Target { name: "records", body: targets::records },
    Target { name: "documents", body: targets::documents },
    Target { name: "artifact", body: targets::artifact },
    Target { name: "result", body: targets::result },
    Target { name: "keys", body: targets::keys },
];

/// Runs the body of one target, for the libFuzzer crate.
///
/// # Panics
/// When there is no such target, and when the body does: that is the finding.
pub fn body(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).body)(bytes);
}
