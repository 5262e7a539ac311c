//! The quote of a call: which refusals show that the TPM spoke, and which don't (PROTOCOL §9.4).

use super::Finding;
use super::call::{CallError, Subject};
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{qualifying_data, request_root};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, QuoteRefusal, VerifiedQuote, verify_quote};
use countersign_tpm::signature::{self, Signature};

/// The inner error is a finding: the AK signed a quote, and it doesn't hold.
pub(super) fn judge_quote(
    subject: &Subject<'_>,
    record: &EvidenceRecord,
) -> Result<Result<VerifiedQuote, Finding>, CallError> {
    let bank = HashAlg::from_id(subject.settings.bank).map_err(|_| CallError::Settings)?;
    let required = PcrSelectionSpec::new(bank, &subject.settings.pcrs).map_err(|_| CallError::Settings)?;
    // PROTOCOL §4.3: bound to this log, this challenge and exactly these requests.
    let root = request_root(&record.requests);
    let expected = qualifying_data(subject.origin.as_str(), &record.challenge, &root);
    let verdict = verify_quote(QuoteInput {
        ak: subject.ak,
        attest: &record.attest,
        signature: &record.signature,
        expected_extra_data: expected.as_bytes(),
        required: &required,
        pcr_values: &record.pcrs,
    });
    // The bank that the host says its values are of isn't covered by the signature: a relabelled one is another selection.
    let relabelled = record.bank != subject.settings.bank;
    let refusal = match verdict {
        Ok(quote) if !relabelled => return Ok(Ok(quote)),
        Ok(_) => QuoteRefusal::SelectionMismatch,
        Err(refusal) => refusal,
    };
    require_signature(subject, record, &refusal)?;
    let code = match refusal {
        QuoteRefusal::NonceMismatch => RefusalCode::QuoteNonceMismatch,
        QuoteRefusal::SelectionMismatch => RefusalCode::QuoteSelectionMismatch,
        QuoteRefusal::ValuesMismatch
        | QuoteRefusal::ValueLength { .. }
        | QuoteRefusal::DigestMismatch
        | QuoteRefusal::BootPcrZero { .. }
            if relabelled =>
        {
            RefusalCode::QuoteSelectionMismatch
        }
        QuoteRefusal::ValuesMismatch | QuoteRefusal::ValueLength { .. } | QuoteRefusal::DigestMismatch => {
            RefusalCode::QuoteDigestMismatch
        }
        QuoteRefusal::BootPcrZero { .. } => RefusalCode::QuoteBootPcrZero,
        QuoteRefusal::NotAQuote => return Err(CallError::QuoteNotAQuote),
        QuoteRefusal::Malformed(_) | QuoteRefusal::SignatureMalformed(_) => {
            return Err(CallError::QuoteMalformed(refusal.to_string()));
        }
        QuoteRefusal::KeyUnfit(_) | QuoteRefusal::SignatureScheme | QuoteRefusal::SignatureInvalid => {
            return Err(CallError::QuoteSignatureInvalid(refusal.to_string()));
        }
    };
    Ok(Err(Finding::new(code, refusal.to_string())))
}

/// A refusal may come before the signature was looked at, since the structure is read first. Nothing is logged in a host's name, and no
/// code of the structure is answered, unless its AK signed these bytes. Only failing calls pay for the second look.
fn require_signature(
    subject: &Subject<'_>,
    record: &EvidenceRecord,
    refusal: &QuoteRefusal,
) -> Result<(), CallError> {
    let parsed = Signature::parse(&record.signature).map_err(|error| match refusal {
        QuoteRefusal::SignatureScheme => CallError::QuoteSignatureInvalid(error.to_string()),
        _ => CallError::QuoteMalformed(error.to_string()),
    })?;
    signature::verify(subject.ak, &record.attest, &parsed)
        .map_err(|error| CallError::QuoteSignatureInvalid(error.to_string()))
}
