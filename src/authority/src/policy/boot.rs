//! What a boot log proves, as policies see it: the member `boot` of their context.
//!
//! Comes in: a verified boot log. Goes out: a Cedar record of exactly the schema's type `Boot`. Absent: everything that isn't proven or whose
//! register isn't covered, so that a policy has to ask with `has` and can't take silence for an answer.

use super::evaluate::{long, text, texts};
use cedar_policy::RestrictedExpression;
use countersign_tpm::eventlog::VerifiedBootLog;
use countersign_tpm::eventlog::facts::{BootFacts, SignatureDatabase};
use data_encoding::HEXLOWER;

/// The record; `None` if it can't be built, which makes every policy that reads it fail and so denies.
pub(super) fn record(boot: &VerifiedBootLog) -> Option<RestrictedExpression> {
    let facts = boot.facts();
    let registers = boot.covered().iter().map(|pcr| long(u64::from(*pcr)));
    let mut pairs =
        vec![("bank", text(boot.bank().name())), ("registers", RestrictedExpression::new_set(registers))];
    let database = |database: &SignatureDatabase| text(&HEXLOWER.encode(&database.digest));
    let certificates = |database: &Option<SignatureDatabase>| {
        digests(database.as_ref().and_then(|database| database.certificates.as_ref()))
    };
    let section = |name: &str| facts.sections.get(name).map(|digest| text(&HEXLOWER.encode(digest)));
    let flag = |flag: Option<bool>| flag.map(RestrictedExpression::new_bool);
    let first = facts.applications.as_ref().and_then(|list| list.first());
    let optional = [
        ("firmware", facts.firmware_version.as_deref().map(text)),
        ("pk", facts.platform_key.as_ref().map(database)),
        ("kek", facts.key_exchange_keys.as_ref().map(database)),
        ("db", facts.allowed.as_ref().map(database)),
        ("dbx", facts.forbidden.as_ref().map(database)),
        ("pk_certificates", certificates(&facts.platform_key)),
        ("kek_certificates", certificates(&facts.key_exchange_keys)),
        ("db_certificates", certificates(&facts.allowed)),
        ("dbx_certificates", certificates(&facts.forbidden)),
        ("authorities", digests(facts.authorities.as_ref())),
        ("sbat_level", facts.sbat_level.as_deref().and_then(sbat_level).map(long)),
        ("debug_mode", flag(facts.debug_mode)),
        ("dma_unprotected", flag(facts.dma_unprotected)),
        ("option_roms", digests(facts.option_roms.as_ref())),
        ("applications", digests(facts.applications.as_ref())),
        ("loader", first.map(|digest| text(&HEXLOWER.encode(digest)))),
        ("exit_boot_services", flag(facts.exit_boot_services)),
        ("files", digests(facts.files.as_ref())),
        ("mok", digests(facts.machine_owner_keys.as_ref())),
        ("cmdline", facts.kernel_cmdline.as_deref().map(text)),
        ("kernel", section(".linux")),
        ("initrd", section(".initrd")),
        ("phase", facts.phases.map(|path| text(&path.to_string()))),
    ];
    pairs.push(("sections", sections(facts)?));
    pairs.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    RestrictedExpression::new_record(pairs.into_iter().map(|(name, value)| (name.to_owned(), value))).ok()
}

/// The sections of a unified kernel image, by their names without the dot.
fn sections(facts: &BootFacts) -> Option<RestrictedExpression> {
    let named = facts
        .sections
        .iter()
        .map(|(name, digest)| (name.trim_start_matches('.').to_owned(), text(&HEXLOWER.encode(digest))));
    RestrictedExpression::new_record(named).ok()
}

fn digests<T: AsRef<[u8]>>(list: Option<&Vec<T>>) -> Option<RestrictedExpression> {
    let hex: Vec<String> = list?.iter().map(|digest| HEXLOWER.encode(digest.as_ref())).collect();
    Some(texts(hex.iter().map(String::as_str)))
}

/// The number in the first line: `sbat,1,2023012900`.
fn sbat_level(text: &str) -> Option<u64> {
    let mut fields = text.lines().next()?.split(',');
    let number = match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some("sbat"), Some(_), Some(number), None) => number,
        _ => return None,
    };
    let digits = number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}
