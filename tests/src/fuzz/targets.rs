//! The bodies. Each parses, and where parsing succeeded does what the product does next, so that later code sees hostile values too.

use countersign_core::activation::ActivationRecord;
use countersign_core::artifact::Receipt;
use countersign_core::bundle::{Statement, TrustBundle};
use countersign_core::cbor::Decoder;
use countersign_core::challenge::ChallengeBody;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::document::{PolicyDocument, ReferencesDocument};
use countersign_core::ear::AttestationResult;
use countersign_core::key::{Algorithm, VerifyingKey};
use countersign_core::leaf::control::{EpochRecord, KeyRecord, PrincipalRecord, RecoveryRecord, Revocation};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::record::{Faults, Heartbeat, JoinToken, Outcome};
use countersign_core::leaf::{Leaf, LeafError};
use countersign_core::note::SignedNote;
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::request::{Request, SignedRequest};
use countersign_core::tile::parse_tile;
use countersign_core::tlog_proof::TlogProof;
use countersign_core::witness::{AddCheckpoint, Quorum, WitnessKey};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ek::TrustStore;
use countersign_tpm::eventlog::words::{PHASES, SEPARATORS};
use countersign_tpm::eventlog::{EventLog, MAX_EVENTS, MAX_LOG_BYTES, verify_replay};
use countersign_tpm::key::PublicKey;
use countersign_tpm::public::Public;
use countersign_tpm::quote::VerifiedQuote;
use countersign_tpm::signature::Signature;
use countersign_tpm::simulated::SimulatedTpm;

/// A TPM for each thread, for quotes to hold logs against.
fn worn(values: &[(u32, Vec<u8>)]) -> Option<VerifiedQuote> {
    thread_local! {
        static TPM: Option<SimulatedTpm> = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(0x17)).ok();
    }
    TPM.with(|tpm| tpm.as_ref()?.worn(HashAlg::Sha256, values).ok())
}

/// A log against a quote of just the values that it leads to, so that facts are taken from it, and against one of other values.
pub(super) fn boot_log(bytes: &[u8]) {
    let Ok(log) = EventLog::parse(bytes) else { return };
    assert!(log.bytes().len() <= MAX_LOG_BYTES && log.events().count() <= MAX_EVENTS);
    let Ok(replay) = log.replay(HashAlg::Sha256) else { return };
    let mut values: Vec<(u32, Vec<u8>)> = replay.pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    if let Some(quote) = worn(&values) {
        let _ = verify_replay(&log, &quote, &pcrs);
    }
    continued(&log, &values);
    separated(&log, &values);
    if let Some((_, value)) = values.first_mut() {
        value.fill(7);
    }
    if let Some(quote) = worn(&values) {
        assert!(
            verify_replay(&log, &quote, &pcrs).is_err(),
            "a value that the log doesn't lead to was taken"
        );
    }
}

/// PCR 11 beyond what the log leads to: by a boot phase, which may add one to the facts and changes no other, and by something else, which
/// takes all facts of it away.
fn continued(log: &EventLog, values: &[(u32, Vec<u8>)]) {
    const IMAGE: u32 = 11;
    let required: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).filter(|pcr| *pcr != IMAGE).collect();
    let judged = |word: Option<&[u8]>| {
        let mut values = values.to_vec();
        let (_, value) = values.iter_mut().find(|(pcr, _)| *pcr == IMAGE)?;
        if let Some(word) = word {
            *value = HashAlg::Sha256.digest_parts(&[value, &HashAlg::Sha256.digest(word)]);
        }
        verify_replay(log, &worn(&values)?, &required).ok()
    };
    let Some(led) = judged(None) else { return };
    let Some(other) = judged(Some(b"no phase")) else { return };
    assert!(!other.covered().contains(&IMAGE) && other.facts().sections.is_empty(), "unexplained, and told");
    for word in PHASES.words() {
        let Some(next) = judged(Some(word.as_bytes())) else { continue };
        if next.covered().contains(&IMAGE) {
            assert_eq!(next.facts().sections, led.facts().sections, "a phase changed the image");
            let before = led.facts().phases.map(|path| path.words().len() + 1);
            let after = next.facts().phases.map(|path| path.words().len());
            assert_eq!(after, before, "another phase than the one that followed");
        }
    }
}

/// One register but PCR 11 by a separator of the system more, which changes no fact and is taken in the right registers alone; and the same by
/// two of them, in every order.
fn separated(log: &EventLog, values: &[(u32, Vec<u8>)]) {
    let required: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    let Some(led) = worn(values).and_then(|quote| verify_replay(log, &quote, &required).ok()) else { return };
    let [os, nvpcr] = SEPARATORS.words() else { return };
    // Each takes a quote for every sequence.
    let at = log.bytes().len().checked_rem(values.len()).unwrap_or_default();
    let Some((pcr, _)) = values.get(at).filter(|(pcr, _)| *pcr != 11) else { return };
    for words in [&[*os][..], &[*nvpcr], &[*os, *nvpcr], &[*nvpcr, *os], &[*os, *os]] {
        let mut values = values.to_vec();
        if let Some((_, value)) = values.get_mut(at) {
            for word in words {
                *value = HashAlg::Sha256.digest_parts(&[value, &HashAlg::Sha256.digest(word.as_bytes())]);
            }
        }
        let Some(quote) = worn(&values) else { continue };
        let known = match pcr {
            9 => *words != [*nvpcr, *os] && *words != [*os, *os],
            0..=7 | 12..=14 => *words == [*os],
            _ => false,
        };
        assert!(!led.serves(&quote), "served by a replay of other words");
        let Ok(next) = verify_replay(log, &quote, &required) else { continue };
        assert!(known, "{words:?} in PCR {pcr}");
        assert_eq!(next.facts(), led.facts(), "a separator changed a fact");
    }
}

/// The same behind a header that parses, so that mutations reach the events.
pub(super) fn boot_log_agile(bytes: &[u8]) {
    const HEADER: &[u8] =
        b"\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x25\0\0\0Spec ID Event03\0\
        \0\0\0\0\0\x02\0\x02\x02\0\0\0\x0b\0\x20\0\x12\0\x20\0\0";
    boot_log(&[HEADER, bytes].concat());
}

/// A canonical event log behind the two fields that tell its encoding.
pub(super) fn cel_tlv(bytes: &[u8]) {
    boot_log(&[b"\0\0\0\0\x01\x01\x01\0\0\0\x01\x04", bytes].concat());
}

/// A canonical event log in JSON: as it came, and in an array.
pub(super) fn cel_json(bytes: &[u8]) {
    boot_log(&[b"{", bytes].concat());
    boot_log(&[b"[", bytes, b"]"].concat());
}

/// TPMT_PUBLIC and TPM2B_PUBLIC: what parses has a name.
pub(super) fn public(bytes: &[u8]) {
    for public in [Public::parse(bytes), Public::from_tpm2b(bytes)].into_iter().flatten() {
        let _ = public.name();
        let _ = countersign_tpm::public::require_attestation_key(&public);
        let _ = countersign_tpm::ek::ueid(&public);
    }
}

/// TPMT_SIGNATURE.
pub(super) fn signature(bytes: &[u8]) {
    let _ = Signature::parse(bytes);
}

/// A certificate as a TPM's NV memory or an operator has it, and a bare public key.
pub(super) fn ek_certificate(bytes: &[u8]) {
    let _ = countersign_tpm::ek::check_issuer(bytes);
    // As a root, as what a host sent, as a revocation list, as the certificate that is judged: each in front of the others.
    let mut store = TrustStore::new();
    let _ = store.add_root(bytes);
    let _ = store.add_crl(bytes);
    let sent = [bytes.to_vec()];
    for now_unix_secs in [0, 1_800_000_000] {
        let _ = store.verify_iak(bytes, &sent, now_unix_secs);
        let _ = store.verify_device(bytes, &sent, now_unix_secs);
        if let Ok(verified) = store.verify_ek(bytes, &sent, now_unix_secs) {
            assert!(!verified.chain().is_empty(), "endorsed by nobody");
        }
    }
    super::idevid::judge(bytes, &[]);
    let _ = PublicKey::from_spki_der(bytes);
}

/// A revocation list, and every bundled certificate held against it.
pub(super) fn revocation_list(bytes: &[u8]) {
    let mut store = TrustStore::new();
    if store.add_crl(bytes).is_err() {
        return;
    }
    for one in countersign_tpm::ek::bundled().into_iter().flatten().take(8) {
        let _ = store.add_root(&one.der);
        let _ = store.verify_ek(&one.der, &[], 1_800_000_000);
    }
}

/// Reference values as an operator imports them, for every bank.
pub(super) fn corim(bytes: &[u8]) {
    for bank in [0x000b, 0x000c, 0x000d] {
        let Ok(manifest) = countersign_core::corim::read(bytes, bank) else { continue };
        assert!(manifest.generations.iter().all(|(_, generation)| !generation.pcrs.is_empty()));
    }
}

/// What witnesses, and who reads tiles, send; and the texts in which both are named.
pub(super) fn witness(bytes: &[u8]) {
    let _ = AddCheckpoint::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = WitnessKey::parse(text);
    let _ = Quorum::parse(text);
    if let Ok((level, tile)) = parse_tile(text) {
        assert_eq!(format!("{level}/{}", tile.path()), text, "a tile with two names");
    }
}

/// A recovery statement, and bodies of leaves beside those of [`leaf`]: what parses encodes to the same bytes.
pub(super) fn bodies(bytes: &[u8]) {
    fn once<T>(parsed: Result<T, LeafError>, encode: impl Fn(&T) -> Vec<u8>, bytes: &[u8]) {
        if let Ok(value) = parsed {
            assert_eq!(encode(&value), bytes, "another encoding was taken");
        }
    }
    once(Heartbeat::parse(bytes), Heartbeat::encode, bytes);
    once(Faults::parse(bytes), Faults::encode, bytes);
    once(JoinToken::parse(bytes), JoinToken::encode, bytes);
    once(Outcome::parse(bytes), Outcome::encode, bytes);
    once(KeyRecord::parse(bytes), KeyRecord::encode, bytes);
    once(EpochRecord::parse(bytes), EpochRecord::encode, bytes);
    once(Revocation::parse(bytes), Revocation::encode, bytes);
    once(PrincipalRecord::parse(bytes), PrincipalRecord::encode, bytes);
    once(RecoveryRecord::parse(bytes), RecoveryRecord::encode, bytes);
    once(Statement::parse(bytes), Statement::encode, bytes);
}

/// One CBOR item, walked to its end.
pub(super) fn cbor(bytes: &[u8]) {
    let Ok(mut decoder) = Decoder::new(bytes) else { return };
    let _ = decoder.kind();
    let _ = decoder.item();
    let _ = decoder.finish();
}

/// A request, alone and with a signature.
pub(super) fn request(bytes: &[u8]) {
    let _ = Request::parse(bytes);
    let (signature, request) = bytes.split_at(bytes.len().min(64));
    let _ = SignedRequest::verify(request.to_vec(), signature.to_vec(), Vec::new());
}

/// Bodies of the API.
pub(super) fn calls(bytes: &[u8]) {
    let _ = serde_json::from_slice::<countersign_core::api::ArtifactsCall>(bytes);
    let _ = serde_json::from_slice::<countersign_core::api::EnrolmentBegin>(bytes);
    let _ = serde_json::from_slice::<countersign_core::api::EnrolmentFinish>(bytes);
}

/// A leaf and the bodies that it may have.
pub(super) fn leaf(bytes: &[u8]) {
    let parsed = Leaf::parse(bytes);
    let body = parsed.as_ref().map_or(bytes, |leaf| leaf.body.as_slice());
    let _ = Decision::parse(body);
    let _ = Enrolment::parse(body);
    let _ = HostStateRecord::parse(body);
}

/// A control leaf, applied: on an error the state stays as it was.
pub(super) fn control(bytes: &[u8]) {
    let Ok(key) = VerifyingKey::from_raw(Algorithm::EdDsa, &ED25519_BASE) else { return };
    let mut state = ControlState::genesis("fuzz.example/log", key);
    let before = (state.number(), *state.digest());
    if state.apply(bytes).is_err() {
        assert_eq!(before, (state.number(), *state.digest()), "a refused leaf changed the state");
    }
}

/// The base point of Ed25519 compressed: a public key like any other (RFC 8032, 5.1).
const ED25519_BASE: [u8; 32] = {
    let mut bytes = [0x66; 32];
    bytes[0] = 0x58;
    bytes
};

/// Records that an auditor reads, and challenges: what parses encodes to the same bytes.
pub(super) fn records(bytes: &[u8]) {
    if let Ok(record) = EvidenceRecord::parse(bytes) {
        assert_eq!(record.encode(), bytes, "another encoding was taken");
    }
    if let Ok(record) = InputsRecord::parse(bytes) {
        assert_eq!(record.encode(), bytes, "another encoding was taken");
    }
    if let Ok(record) = ActivationRecord::parse(bytes) {
        assert_eq!(record.encode(), bytes, "another encoding was taken");
    }
    let _ = ChallengeBody::read_unverified(bytes);
    let _ = TrustBundle::verify(bytes);
}

/// Policy and references documents: what parses encodes to the same bytes.
pub(super) fn documents(bytes: &[u8]) {
    if let Ok(document) = PolicyDocument::parse(bytes) {
        assert_eq!(document.encode(), bytes, "another encoding was taken");
    }
    if let Ok(document) = ReferencesDocument::parse(bytes) {
        assert_eq!(document.encode(), bytes, "another encoding was taken");
    }
}

/// Texts: receipts, notes, heads: what parses is written as the same text.
pub(super) fn artifact(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Receipt::parse(text);
    if let Ok(proof) = TlogProof::parse(text) {
        assert_eq!(proof.encode(), text, "another encoding was taken");
    }
    if let Ok(note) = SignedNote::parse(text) {
        assert_eq!(note.format(), text, "another encoding was taken");
    }
    if let Ok(head) = HeadBody::parse(text) {
        assert_eq!(head.encode(), text, "another encoding was taken");
    }
}

/// An attestation result: as the JWT that somebody shows, and out of the leaf that it renders.
pub(super) fn result(bytes: &[u8]) {
    if let Ok(Some(result)) = AttestationResult::of_leaf(bytes) {
        let _ = result.claims("https://fuzz.example", "1", None);
    }
    let Ok(key) = VerifyingKey::from_raw(Algorithm::EdDsa, &ED25519_BASE) else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = countersign_core::jws::verify(text, "eat+jwt", &[key]);
}

/// Public keys in their forms.
pub(super) fn keys(bytes: &[u8]) {
    let _ = VerifyingKey::from_cose_key(bytes);
    let _ = VerifyingKey::from_spki_der(bytes);
    let _ = VerifyingKey::from_raw(Algorithm::EdDsa, bytes);
}
