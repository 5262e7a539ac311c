//! Why a host stands as it does, in words.
//!
//! Comes in: the host's row, the control state, the store, the newest refusal that this process knows of. Goes out: words for operators. What a
//! warning is due to follows from the evidence that the host's state names, judged once more, from the state of its IMA appraisal and from the
//! leaf that told of it; nothing is guessed, and of what isn't kept any more it is said that it isn't. Nothing is decided here.

use crate::foresee::Blobs;
use crate::serve::refusals::Refusal;
use crate::store::{HostRow, ReadFault, Reader};
use crate::verify::{BootLogCache, Endorsed, judge_logged};
use countersign_core::control::ControlState;
use countersign_core::document::Settings;
use countersign_core::ear::AttestationResult;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::host::Tier;
use countersign_core::name::Origin;
use countersign_core::record::EvidenceRecord;
use countersign_tpm::eventlog::facts::{BootFacts, SecureBoot};
use countersign_tpm::ima::state::{Counts, ImaState};

/// AR4SI's executables (draft-ietf-rats-ar4si, 2.3).
const EXECUTABLES: u64 = 2;

/// Why a host stands as it does, the weightiest first. `causes` are those of a warning, `since` the refusal after what told of the state.
#[must_use]
pub fn reason(
    row: &HostRow,
    control: &ControlState,
    now_ms: u64,
    causes: &[String],
    since: Option<&Refusal>,
) -> String {
    if control.is_revoked(&Subject::Host(row.host)) {
        return "an operator revoked it".to_owned();
    }
    let standing = standing(row, now_ms, causes);
    match since {
        Some(Refusal { code, detail, .. }) if detail.is_empty() => {
            format!("{standing}; since then its evidence was refused: {}", code.as_str())
        }
        Some(Refusal { code, detail, .. }) => {
            format!("{standing}; since then its evidence was refused: {}, {detail}", code.as_str())
        }
        None => standing,
    }
}

fn standing(row: &HostRow, now_ms: u64, causes: &[String]) -> String {
    let state = &row.state;
    if state.evidence.is_none() {
        return "it never gave good evidence".to_owned();
    }
    match state.tier {
        // Such evidence ends trust at once, so this comes before what the clock says.
        Tier::Contraindicated => "its registers match no active reference set".to_owned(),
        _ if state.trusted_until_ms <= now_ms => {
            let ago = now_ms.saturating_sub(state.trusted_until_ms) / 1_000;
            format!("its trust ended {ago} s ago and it gave no good evidence since")
        }
        Tier::None => "nothing of it was appraised".to_owned(),
        Tier::Affirming => {
            "its TPM is certified, Secure Boot was on, and its registers match a reference set".to_owned()
        }
        Tier::Warning if causes.is_empty() => {
            "not all of it could be affirmed; asked for alone, why".to_owned()
        }
        Tier::Warning => causes.join("; "),
    }
}

/// What the warning of a host is due to: the causes that appraisal knows, each looked up where it shows. `told` is the leaf that told of its
/// state. For worker threads: a boot log is replayed.
///
/// # Errors
/// [`ReadFault`].
pub fn causes(
    origin: &Origin,
    reader: &dyn Reader,
    control: &ControlState,
    row: &HostRow,
    told: Option<&[u8]>,
) -> Result<Vec<String>, ReadFault> {
    let mut causes = Vec::new();
    if !row.enrolment.endorsement.kind.is_certified() {
        causes.push("its EK is allow-listed: no certificate endorses its TPM".to_owned());
    }
    let boot = boot_facts(origin, reader, row)?;
    let known = boot.is_some();
    match boot {
        Some(facts) => causes.extend(boot_causes(&facts).map(str::to_owned)),
        None => {
            causes.push("its evidence isn't kept any more, so what its boot showed can't be told".to_owned())
        }
    }
    if let Some(digest) = &row.state.ima {
        match reader.blob(digest)?.and_then(|bytes| ImaState::parse(&bytes).ok()) {
            Some(state) => causes.extend(ima_causes(&state.counts)),
            None => causes.push("the state of its IMA list isn't kept any more".to_owned()),
        }
    }
    let result = told.and_then(|bytes| AttestationResult::of_leaf(bytes).ok().flatten());
    let vector = result.map(|result| result.vector).unwrap_or_default();
    let unreferenced = match vector.iter().find(|(claim, _)| *claim == EXECUTABLES) {
        Some((_, tier)) => *tier == Tier::None.number(),
        // A leaf without a vector, that of an attestation as early versions told it: if nothing else makes the warning, this does.
        None => control.references().is_none() || (causes.is_empty() && known),
    };
    if unreferenced {
        causes.push("no reference values of boots were active when it was appraised".to_owned());
    }
    Ok(causes)
}

fn boot_causes(facts: &BootFacts) -> impl Iterator<Item = &'static str> {
    let secure_boot = match facts.secure_boot {
        SecureBoot::On => None,
        SecureBoot::Off => Some("Secure Boot was off"),
        SecureBoot::Empty => Some("its firmware measured Secure Boot without a value"),
        SecureBoot::Unknown => Some("its boot log doesn't prove that Secure Boot was on"),
    };
    let debug = (facts.debug_mode == Some(true)).then_some("its firmware was in debug mode");
    secure_boot.into_iter().chain(debug)
}

fn ima_causes(counts: &Counts) -> impl Iterator<Item = String> + use<> {
    let told = |count: u64, what: &str| (count > 0).then(|| format!("its IMA list has {what}: {count}"));
    let violations = told(counts.violations, "violations");
    let excluded = told(counts.excluded, "files that the IMA policy only excuses");
    violations.into_iter().chain(excluded)
}

/// What the boot log of the host's last good evidence proves; `None` if that isn't kept any more, or if the host has another AK since.
fn boot_facts(origin: &Origin, reader: &dyn Reader, row: &HostRow) -> Result<Option<BootFacts>, ReadFault> {
    let Some(digest) = &row.state.evidence else { return Ok(None) };
    let record = reader.blob(digest)?.and_then(|bytes| EvidenceRecord::parse(&bytes).ok());
    let (Some(record), Some(ak)) = (record, reader.blob(&row.enrolment.ak_public)?) else { return Ok(None) };
    let Ok(host) = Endorsed::new(&row.enrolment, row.enrolment_leaf, &ak, row.state) else { return Ok(None) };
    // It was good: what it selects is what was asked for then.
    let pcrs = record.pcrs.iter().map(|(pcr, _)| *pcr).collect();
    let settings = Settings { bank: record.bank, pcrs, ..Settings::default() };
    let (once, blobs) = (BootLogCache::new(0), Blobs(reader));
    let judged = judge_logged(origin, row.host, &host.ak, &settings, record, (&once, &blobs));
    Ok(judged.ok().and_then(|judged| judged.boot_facts().cloned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_a_warning_has_its_words() {
        let words = |secure_boot, debug_mode| {
            let mut facts = BootFacts::default();
            (facts.secure_boot, facts.debug_mode) = (secure_boot, debug_mode);
            boot_causes(&facts).collect::<Vec<_>>()
        };
        assert_eq!(words(SecureBoot::On, Some(false)), [""; 0]);
        assert_eq!(words(SecureBoot::On, None), [""; 0]);
        assert_eq!(words(SecureBoot::On, Some(true)), ["its firmware was in debug mode"]);
        assert_eq!(
            words(SecureBoot::Off, Some(true)),
            ["Secure Boot was off", "its firmware was in debug mode"]
        );
        assert_eq!(words(SecureBoot::Empty, None), ["its firmware measured Secure Boot without a value"]);
        assert_eq!(words(SecureBoot::Unknown, None), ["its boot log doesn't prove that Secure Boot was on"]);
        let counts = |violations, excluded| Counts { violations, excluded, ..Counts::default() };
        let words = |counts: Counts| ima_causes(&counts).collect::<Vec<_>>();
        assert_eq!(words(counts(0, 0)), [""; 0]);
        assert_eq!(
            words(counts(2, 1)),
            ["its IMA list has violations: 2", "its IMA list has files that the IMA policy only excuses: 1"]
        );
    }
}
