//! One test per way in which a call fails, and the order in which the ways are told.

use super::kit::{Host, NOW_MS, signed};
use super::{BootLogSource, Call, CallError, Finding, SourceFault};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use std::sync::Arc;

fn good(host: &mut Host) -> Call {
    let request = host.request("r-1");
    host.call(NOW_MS, &[request])
}

/// The unlogged answer that a changed call gets.
fn error(change: impl FnOnce(&mut Host, &mut Call)) -> RefusalCode {
    let mut host = Host::new(1);
    let mut call = good(&mut host);
    change(&mut host, &mut call);
    host.verify(call).unwrap_err().code()
}

/// The finding that a changed call leads to.
fn finding(change: impl FnOnce(&mut Host, &mut Call)) -> Finding {
    let mut host = Host::new(1);
    let mut call = good(&mut host);
    change(&mut host, &mut call);
    host.verify(call).unwrap().judged().finding().unwrap().clone()
}

fn code(change: impl FnOnce(&mut Host, &mut Call)) -> RefusalCode {
    finding(change).code()
}

/// Quotes again over the requests that the call has now.
fn requote(host: &Host, call: &mut Call) {
    *call = host.quoted(call.challenge.clone(), call.requests.clone());
}

#[test]
fn a_good_call_has_no_finding_and_binds_all_it_carries() {
    let mut host = Host::new(1);
    let requests = [host.request("r-1"), host.request("r-2")];
    let call = host.call(NOW_MS, &requests);
    let verified = host.verify(call.clone()).unwrap();
    assert_eq!(verified.judged().finding(), None);
    assert_eq!(verified.requests().len(), 2);
    let record = verified.judged().record();
    assert_eq!(record.requests, [sha256(&call.requests[0].request), sha256(&call.requests[1].request)]);
    assert_eq!(sha256(verified.judged().record_bytes()), *verified.judged().record_digest());
    assert_eq!(*verified.judged().challenge_digest(), sha256(&call.challenge));
}

#[test]
fn an_attestation_without_requests_is_a_call() {
    let mut host = Host::new(1);
    let call = host.call(NOW_MS, &[]);
    assert_eq!(host.verify(call).unwrap().judged().finding(), None);
}

#[test]
fn challenge_invalid() {
    assert_eq!(error(|_, call| call.challenge[5] ^= 1), RefusalCode::ChallengeInvalid);
    assert_eq!(error(|_, call| call.challenge.clear()), RefusalCode::ChallengeInvalid);
}

#[test]
fn challenge_host_mismatch() {
    let mut other = Host::new(2);
    let theirs = other.challenge(NOW_MS);
    assert_eq!(error(|_, call| call.challenge = theirs), RefusalCode::ChallengeHostMismatch);
}

#[test]
fn request_malformed() {
    assert_eq!(error(|_, call| call.requests[0].request.push(b'x')), RefusalCode::RequestMalformed);
    let twice = error(|host, call| {
        let mut again = host.request("r-1");
        again.ttl_secs = 1;
        call.requests.push(signed(&again));
    });
    assert_eq!(twice, RefusalCode::RequestMalformed);
    let many = error(|host, call| {
        call.requests = (0..257).map(|n| signed(&host.request(&format!("r-{n}")))).collect();
    });
    assert_eq!(many, RefusalCode::RequestMalformed);
    let consents = error(|_, call| call.requests[0].consents.push(vec![0; 64]));
    assert_eq!(consents, RefusalCode::RequestMalformed, "more consents than parents");
}

#[test]
fn request_host_mismatch() {
    let other = Host::new(2);
    let foreign_runtime = error(|host, call| {
        let mut request = host.request("r-1");
        request.runtime = other.request("r-1").runtime;
        call.requests[0] = signed(&request);
    });
    assert_eq!(foreign_runtime, RefusalCode::RequestHostMismatch);
    assert_eq!(
        error(|_, call| call.requests[0] = signed(&other.request("r-1"))),
        RefusalCode::RequestHostMismatch
    );
    let foreign_domain = error(|host, call| {
        let mut request = host.request("r-1");
        request.runtime = request.runtime.replace("example.org", "example.net");
        call.requests[0] = signed(&request);
    });
    assert_eq!(foreign_domain, RefusalCode::RequestHostMismatch);
}

#[test]
fn holder_signature_invalid() {
    assert_eq!(error(|_, call| call.requests[0].signature[0] ^= 1), RefusalCode::HolderSignatureInvalid);
}

#[test]
fn quote_signature_invalid() {
    assert_eq!(error(|_, call| *call.signature.last_mut().unwrap() ^= 1), RefusalCode::QuoteSignatureInvalid);
    assert_eq!(error(|_, call| *call.attest.last_mut().unwrap() ^= 1), RefusalCode::QuoteSignatureInvalid);
    let other = Host::new(2);
    let foreign = error(|_, call| {
        let theirs = other.quoted(call.challenge.clone(), call.requests.clone());
        (call.attest, call.signature) = (theirs.attest, theirs.signature);
    });
    assert_eq!(foreign, RefusalCode::QuoteSignatureInvalid);
}

#[test]
fn quote_malformed() {
    assert_eq!(error(|_, call| call.signature.truncate(7)), RefusalCode::QuoteMalformed);
    assert_eq!(error(|_, call| call.attest = vec![0; 4_096]), RefusalCode::QuoteMalformed);
    let truncated_but_signed = error(|host, call| {
        let attestation = host.tpm.attestation(call.attest[..call.attest.len() - 1].to_vec()).unwrap();
        (call.attest, call.signature) = (attestation.attest, attestation.signature);
    });
    assert_eq!(truncated_but_signed, RefusalCode::QuoteMalformed);
}

#[test]
fn quote_not_a_quote() {
    let certification = error(|host, call| {
        let attestation = host.tpm.certify_host_key(&[0; 32]).unwrap();
        (call.attest, call.signature) = (attestation.attest, attestation.signature);
    });
    assert_eq!(certification, RefusalCode::QuoteNotAQuote);
    let no_magic = error(|host, call| {
        let mut attest = call.attest.clone();
        attest[0] ^= 1;
        let attestation = host.tpm.attestation(attest).unwrap();
        (call.attest, call.signature) = (attestation.attest, attestation.signature);
    });
    assert_eq!(no_magic, RefusalCode::QuoteNotAQuote);
}

#[test]
fn an_unsigned_structure_is_told_as_unsigned_whatever_else_is_wrong_with_it() {
    // The selection is broken as well: without the AK's signature nothing may be logged in the host's name.
    let broken_selection = error(|_, call| {
        let at = call.attest.len() - 35;
        call.attest[at - 1] = 0xff;
        call.attest[at] = 0xff;
        call.attest[at + 1] = 0xff;
    });
    assert_eq!(broken_selection, RefusalCode::QuoteSignatureInvalid);
}

#[test]
fn quote_nonce_mismatch() {
    let other_challenge = code(|host, call| call.challenge = host.challenge(NOW_MS));
    assert_eq!(other_challenge, RefusalCode::QuoteNonceMismatch);
    let added_request = code(|host, call| call.requests.push(signed(&host.request("r-2"))));
    assert_eq!(added_request, RefusalCode::QuoteNonceMismatch);
    let reordered = code(|host, call| {
        call.requests.push(signed(&host.request("r-2")));
        requote(host, call);
        call.requests.reverse();
    });
    assert_eq!(reordered, RefusalCode::QuoteNonceMismatch);
}

#[test]
fn quote_selection_mismatch() {
    let fewer = code(|host, call| {
        let required = host.settings.clone();
        host.settings.pcrs = vec![0, 1];
        requote(host, call);
        host.settings = required;
    });
    assert_eq!(fewer, RefusalCode::QuoteSelectionMismatch);
    assert_eq!(code(|_, call| call.bank = HashAlg::Sha384.id()), RefusalCode::QuoteSelectionMismatch);
}

#[test]
fn quote_digest_mismatch() {
    assert_eq!(code(|_, call| call.pcrs[3].1[0] ^= 1), RefusalCode::QuoteDigestMismatch);
    assert_eq!(code(|_, call| drop(call.pcrs.pop())), RefusalCode::QuoteDigestMismatch);
    assert_eq!(code(|_, call| call.pcrs.swap(0, 1)), RefusalCode::QuoteDigestMismatch);
    assert_eq!(code(|_, call| call.pcrs[0].1.push(0)), RefusalCode::QuoteDigestMismatch);
}

#[test]
fn quote_boot_pcr_zero() {
    let unbooted = code(|host, call| {
        host.tpm.reset();
        requote(host, call);
    });
    assert_eq!(unbooted, RefusalCode::QuoteBootPcrZero);
}

#[test]
fn boot_log_missing() {
    assert_eq!(code(|_, call| call.boot_log = None), RefusalCode::BootLogMissing);
}

fn with_log(host: &mut Host, call: &mut Call, log: &[u8]) {
    host.members.held.insert(sha256(log), Arc::from(log));
    call.boot_log = Some(sha256(log));
}

#[test]
fn boot_log_malformed() {
    let truncated = code(|host, call| {
        let log = host.boot.log()[..host.boot.log().len() - 1].to_vec();
        with_log(host, call, &log);
    });
    assert_eq!(truncated, RefusalCode::BootLogMalformed);
}

#[test]
fn boot_log_mismatch() {
    let another = SimulatedBoot::new(&BootOptions { seed: 5, ..BootOptions::default() });
    assert_eq!(code(|host, call| with_log(host, call, another.log())), RefusalCode::BootLogMismatch);
}

#[test]
fn boot_log_separator() {
    // The same separator once more, in the log and in the TPM.
    let repeated = code(|host, call| {
        let event = [
            &[4, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0x0b, 0][..],
            &HashAlg::Sha256.digest(&[0; 4]),
            &[0x0c, 0],
            &HashAlg::Sha384.digest(&[0; 4]),
            &[4, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let log = [host.boot.log(), &event].concat();
        host.tpm.extend(HashAlg::Sha256, 4, &HashAlg::Sha256.digest(&[0; 4])).unwrap();
        requote(host, call);
        with_log(host, call, &log);
    });
    assert_eq!(repeated, RefusalCode::BootLogSeparator);
}

#[test]
fn a_missing_boot_log_is_asked_for_by_digest() {
    let mut host = Host::new(1);
    let call = good(&mut host);
    let digest = call.boot_log.unwrap();
    let log = host.members.held.remove(&digest).unwrap();
    let refused = host.verify(call.clone()).unwrap_err();
    assert!(matches!(&refused, CallError::EvidenceNeeded(needed) if *needed == [digest]));
    assert_eq!(refused.code(), RefusalCode::EvidenceNeeded);
    host.members.held.insert(digest, log);
    assert_eq!(host.verify(call).unwrap().judged().finding(), None);
}

#[test]
fn a_cached_replay_is_compared_with_every_quote_and_asked_for_if_it_was_never_kept() {
    let mut host = Host::new(1);
    let first = good(&mut host);
    host.verify(first).unwrap();
    let second = good(&mut host);
    assert_eq!(host.verify(second).unwrap().judged().finding(), None);
    assert_eq!(host.members.fetched.lock().unwrap().len(), 1, "the second call needs no log");
    // The host extends a register: the cached values no longer are the quoted ones.
    host.tpm.extend(HashAlg::Sha256, 4, &[9; 32]).unwrap();
    let third = good(&mut host);
    let verified = host.verify(third).unwrap();
    let finding = verified.judged().finding().unwrap();
    assert_eq!(finding.code(), RefusalCode::BootLogMismatch);
    // The whole text, as if the log had never been replayed.
    let log = EventLog::parse(host.boot.log()).unwrap();
    let found = log.replay(HashAlg::Sha256).unwrap().pcr(4).unwrap().to_vec();
    let event = log.events().filter(|event| event.extends() && event.pcr() == 4).last().unwrap().index();
    let expected = HashAlg::Sha256.digest_parts(&[&found, &[9; 32]]);
    let [expected, found] = [expected, found].map(|value| data_encoding::HEXLOWER.encode(&value));
    let text = format!(
        "PCR 4, event {event}: expected {expected} as quoted, found {found} by the log (words that may follow there: os-separator)"
    );
    assert_eq!(finding.detail(), text);
    host.members.held.clear();
    let fourth = good(&mut host);
    assert_eq!(host.verify(fourth).unwrap_err().code(), RefusalCode::EvidenceNeeded);
}

#[test]
fn a_cached_replay_tells_no_quote_the_boot_phase_of_another() {
    let mut host = Host::new(1);
    host.settings.pcrs = vec![0, 4, 7, 11];
    let image = BootOptions { unified_kernel: true, ..BootOptions::default() };
    host.reboot(&image);
    let told = |host: &mut Host| {
        let call = good(host);
        let verified = host.verify(call).unwrap();
        let facts = verified.judged().boot_facts().unwrap().clone();
        (facts.phases.map(|path| path.to_string()), facts.sections.contains_key(".linux"))
    };
    let phase = |path: &str| (Some(path.to_owned()), true);
    // First as by a fresh replay, then as by one of the phase before, then as by its own.
    let mut path = String::new();
    assert_eq!(told(&mut host), phase(""));
    for word in ["enter-initrd", "leave-initrd", "sysinit", "ready"] {
        let extend = HashAlg::Sha256.digest(word.as_bytes());
        host.tpm.extend(HashAlg::Sha256, 11, &extend).unwrap();
        path = if path.is_empty() { word.to_owned() } else { format!("{path}:{word}") };
        assert_eq!(told(&mut host), phase(&path));
        let fetched = host.members.fetched.lock().unwrap().len();
        assert_eq!(told(&mut host), phase(&path));
        assert_eq!(host.members.fetched.lock().unwrap().len(), fetched, "served from memory");
    }
    // Something else: nothing is told, and no refusal. After a reboot the register is at its beginning.
    host.tpm.extend(HashAlg::Sha256, 11, &[9; 32]).unwrap();
    assert_eq!(told(&mut host), (None, false));
    host.reboot(&image);
    assert_eq!(told(&mut host), phase(""));
}

#[test]
fn the_cache_is_bounded_and_forgets_what_was_used_longest_ago() {
    let mut host = Host::new(1);
    host.verifier =
        super::Verifier::new(host.origin.clone(), host.trust_domain.clone(), super::BootLogCache::new(2));
    for seed in [1, 2, 1, 3, 1, 2] {
        host.reboot(&BootOptions { seed, ..BootOptions::default() });
        let call = good(&mut host);
        assert_eq!(host.verify(call).unwrap().judged().finding(), None);
    }
    // 1 and 2 are new, 1 is used, 3 replaces 2, 1 is used, 2 replaces 3.
    assert_eq!(host.members.fetched.lock().unwrap().len(), 4);
}

struct Broken;

impl BootLogSource for Broken {
    fn holds(&self, _: &Sha256Digest) -> Result<bool, SourceFault> {
        Err(SourceFault("down".to_owned()))
    }

    fn fetch(&self, _: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        Err(SourceFault("down".to_owned()))
    }
}

struct Panicking;

impl BootLogSource for Panicking {
    fn holds(&self, _: &Sha256Digest) -> Result<bool, SourceFault> {
        panic!("as a parser would");
    }

    fn fetch(&self, _: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        panic!("as a parser would");
    }
}

#[test]
fn a_fault_or_a_panic_of_ours_decides_nothing() {
    let mut host = Host::new(1);
    let call = good(&mut host);
    let verify = |source: &dyn BootLogSource| {
        host.verifier
            .verify(&host.endorsed, call.clone(), &host.settings, &host.keys, source)
            .unwrap_err()
            .code()
    };
    assert_eq!(verify(&Broken), RefusalCode::LogUnavailable);
    assert_eq!(verify(&Panicking), RefusalCode::VerifierPanicked);
    assert_eq!(verify(&Panicking), RefusalCode::VerifierPanicked);
}

#[test]
fn a_boot_log_that_makes_its_reader_panic_is_a_denial() {
    let panicked = code(|host, call| with_log(host, call, super::kit::PANICS));
    assert_eq!(panicked, RefusalCode::VerifierPanicked);
}

#[test]
fn facts_follow_from_the_quote_at_hand_and_not_from_the_one_that_was_cached() {
    let mut host = Host::new(1);
    host.settings.pcrs = vec![0, 1, 2, 3, 4, 5, 6, 7, 12];
    // A stub's command line, in the log and in the TPM.
    let line: Vec<u8> = "ro quiet\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let [digest, other] = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| bank.digest(&line));
    let head: Vec<u8> = [12_u32, 13, 2].into_iter().flat_map(u32::to_le_bytes).collect();
    let len = u32::try_from(line.len()).unwrap().to_le_bytes();
    let log = [host.boot.log(), &head, &[0x0b, 0], &digest, &[0x0c, 0], &other, &len, &line].concat();
    host.members.held.insert(sha256(&log), Arc::from(log.as_slice()));
    host.tpm.extend(HashAlg::Sha256, 12, &digest).unwrap();
    let told = |host: &mut Host| {
        let mut call = good(host);
        call.boot_log = Some(sha256(&log));
        let verified = host.verify(call).unwrap();
        let super::Evidence::Quoted(quoted) = verified.judged().evidence() else { panic!("the quote holds") };
        quoted.boot.as_ref().unwrap().facts().kernel_cmdline.clone()
    };
    assert_eq!(told(&mut host).as_deref(), Some("ro quiet"));
    assert_eq!(told(&mut host).as_deref(), Some("ro quiet"));
    assert_eq!(host.members.fetched.lock().unwrap().len(), 1);
    // The running system extends the register: the log explains it no longer, and that is no refusal.
    host.tpm.extend(HashAlg::Sha256, 12, &[9; 32]).unwrap();
    assert_eq!(told(&mut host), None);
    assert_eq!(told(&mut host), None);
    assert_eq!(host.members.fetched.lock().unwrap().len(), 2);
}

#[test]
fn settings_that_describe_no_quote_are_a_fault_of_ours() {
    assert_eq!(error(|host, _| host.settings.bank = HashAlg::Sha1.id()), RefusalCode::Internal);
    assert_eq!(error(|host, _| host.settings.pcrs.clear()), RefusalCode::Internal);
}

#[test]
fn a_quote_of_another_bank_is_judged_in_that_bank() {
    let mut host = Host::new(1);
    host.settings.bank = HashAlg::Sha384.id();
    let call = good(&mut host);
    assert!(PcrSelectionSpec::new(HashAlg::Sha384, &host.settings.pcrs).is_ok());
    assert_eq!(host.verify(call).unwrap().judged().finding(), None);
}

#[test]
fn an_enrolment_is_joined_only_with_its_own_ak() {
    let host = Host::new(1);
    let other = Host::new(2);
    let prior = host.endorsed.prior;
    assert!(
        super::Endorsed::new(&host.enrolment, (1, Sha256Digest::ZERO), other.tpm.ak_public().bytes(), prior)
            .is_err()
    );
    let mut renamed = host.enrolment.clone();
    renamed.ak_name = other.enrolment.ak_name;
    assert!(
        super::Endorsed::new(&renamed, (1, Sha256Digest::ZERO), host.tpm.ak_public().bytes(), prior).is_err()
    );
}
