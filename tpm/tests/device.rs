//! The device feature against a real swtpm, and the verifier of this crate against what that TPM makes.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::process::Command;
use std::slice::from_ref;
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::certify::verify_certification;
use countersign_tpm::credential::make_credential;
use countersign_tpm::device::{
    CounterIndex, DeviceError, EkProfile, ErrorClass, HostTpm, KeyBlob, QuoteEvidence,
};
use countersign_tpm::ek::{EkRefusal, require_same_key, verify_ek_chain};
use countersign_tpm::eventlog::facts::SecureBoot;
use countersign_tpm::eventlog::{BootLogRefusal, EventLog, verify_replay};
use countersign_tpm::public::{Public, require_attestation_key, require_endorsement_key, require_host_key};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, QuoteRefusal, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};

const NONCE: [u8; 32] = [0x3c; 32];
const BOOT_PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const SECRET: [u8; 32] = [0x77; 32];

fn assert_send<T: Send>(_: &T) {}

fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 0u64;
    move |buffer: &mut [u8]| {
        for chunk in buffer.chunks_mut(32) {
            state += 1;
            chunk.copy_from_slice(&HashAlg::Sha256.digest(&state.to_be_bytes())[..chunk.len()]);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn der(pem: &[u8]) -> Vec<u8> {
    der::pem::decode_vec(pem).unwrap().1
}

fn boot(host: &mut HostTpm, boot: &SimulatedBoot) {
    for one in boot.measurements() {
        host.extend(one.pcr, &[(HashAlg::Sha256, &one.sha256), (HashAlg::Sha384, &one.sha384)]).unwrap();
    }
}

fn judge(
    ak: &Public,
    made: &QuoteEvidence,
    required: &PcrSelectionSpec,
) -> Result<VerifiedQuote, QuoteRefusal> {
    verify_quote(QuoteInput {
        ak,
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &NONCE,
        required,
        pcr_values: &made.pcr_values,
    })
}

#[test]
fn endorsement_keys_are_certified_and_the_certificates_verify_under_the_private_ca() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    assert_send(&host);
    let (root, issuer) = (der(&swtpm.ca_root_pem()), der(&swtpm.ca_issuer_pem()));
    let other_root = der(&SwTpm::start_own().ca_root_pem());
    for (profile, file) in
        [(EkProfile::Rsa2048, swtpm.ek_rsa_cert_path()), (EkProfile::P384, swtpm.ek_p384_cert_path())]
    {
        let certificate = host.ek_certificate(profile).unwrap().unwrap();
        let written = std::fs::read(file).unwrap();
        assert!(certificate.starts_with(&written));
        let intermediates = [issuer.clone()];
        let verified = verify_ek_chain(&certificate, &intermediates, from_ref(&root), now()).unwrap();
        let public = host.ek_public(profile).unwrap();
        require_endorsement_key(&public).unwrap();
        require_same_key(&verified, &public).unwrap();
        let another = host.ek_public(EkProfile::P256).unwrap();
        assert_eq!(require_same_key(&verified, &another), Err(EkRefusal::KeyMismatch));
        let refusal = verify_ek_chain(&certificate, &intermediates, from_ref(&other_root), now());
        assert!(matches!(refusal, Err(EkRefusal::IssuerUnknown | EkRefusal::SignatureInvalid)));
        let refusal = verify_ek_chain(&certificate, &[], from_ref(&root), now());
        assert_eq!(refusal, Err(EkRefusal::IssuerUnknown));
        let refusal = verify_ek_chain(&certificate, &intermediates, from_ref(&root), now() - 86_400 * 3);
        assert_eq!(refusal, Err(EkRefusal::NotYetValid));
    }
    assert_eq!(host.ek_certificate(EkProfile::P256).unwrap(), None);
}

#[test]
fn a_credential_made_without_a_tpm_is_opened_by_the_right_tpm_only() {
    let ca = SwTpmCa::new();
    let (one, two) = (SwTpm::start(&ca), SwTpm::start(&ca));
    let mut host = HostTpm::open(&one.tcti()).unwrap();
    let mut other = HostTpm::open(&two.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let second = host.create_attestation_key().unwrap();
    let second = host.load(&second).unwrap();
    let other_blob = other.create_attestation_key().unwrap();
    let other_ak = other.load(&other_blob).unwrap();
    let name = host.public(ak).unwrap().name().as_bytes().to_vec();
    for profile in [EkProfile::Rsa2048, EkProfile::P256, EkProfile::P384] {
        let ek = host.ek_public(profile).unwrap();
        let made = make_credential(&ek, &name, &SECRET, &mut random()).unwrap();
        let opened = host.activate_credential(profile, ak, &made.id_object, &made.encrypted_secret).unwrap();
        assert_eq!(opened.as_slice(), SECRET, "{profile:?}");
        // Another object of the same TPM, and another TPM.
        let wrong = host.activate_credential(profile, second, &made.id_object, &made.encrypted_secret);
        assert_eq!(wrong.unwrap_err().class(), ErrorClass::Fatal);
        assert!(
            other.activate_credential(profile, other_ak, &made.id_object, &made.encrypted_secret).is_err()
        );
    }
}

#[test]
fn a_booted_tpm_quotes_what_its_log_leads_to() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let public = host.public(ak).unwrap().clone();
    require_attestation_key(&public).unwrap();
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &BOOT_PCRS).unwrap();

    // No firmware has run.
    let made = host.quote_with_values(ak, &NONCE, &required).unwrap();
    assert_eq!(judge(&public, &made, &required), Err(QuoteRefusal::BootPcrZero { pcr: 0 }));

    let simulated = SimulatedBoot::new(&BootOptions { pad_to_bytes: 30_000, ..BootOptions::default() });
    boot(&mut host, &simulated);
    let log = EventLog::parse(simulated.log()).unwrap();
    for bank in [HashAlg::Sha256, HashAlg::Sha384] {
        let required = PcrSelectionSpec::new(bank, &BOOT_PCRS).unwrap();
        let made = host.quote_with_values(ak, &NONCE, &required).unwrap();
        let quote = judge(&public, &made, &required).unwrap();
        let verified = verify_replay(&log, &quote, &BOOT_PCRS).unwrap();
        assert_eq!(verified.facts().secure_boot, SecureBoot::On);
    }

    // One more extension than the log tells.
    host.extend(7, &[(HashAlg::Sha256, &[1; 32])]).unwrap();
    let made = host.quote_with_values(ak, &NONCE, &required).unwrap();
    let quote = judge(&public, &made, &required).unwrap();
    let refusal = verify_replay(&log, &quote, &BOOT_PCRS).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: 7, .. }), "{refusal}");

    // Values of one moment, quote of another.
    let old = made;
    host.extend(8, &[(HashAlg::Sha256, &[2; 32])]).unwrap();
    let mut new = host.quote_with_values(ak, &NONCE, &required).unwrap();
    new.pcr_values = old.pcr_values;
    assert_eq!(judge(&public, &new, &required), Err(QuoteRefusal::DigestMismatch));
}

#[test]
fn a_tpm_that_went_through_the_boot_phases_of_an_image_tells_which() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let public = host.public(ak).unwrap().clone();
    let image = SimulatedBoot::new(&BootOptions { unified_kernel: true, ..BootOptions::default() });
    boot(&mut host, &image);
    let log = EventLog::parse(image.log()).unwrap();
    let pcrs: Vec<u32> = BOOT_PCRS.into_iter().chain([11]).collect();
    let mut path = Vec::new();
    for word in ["", "enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final", "unknown"] {
        if !word.is_empty() {
            let digests = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| (bank, bank.digest(word.as_bytes())));
            host.extend(11, &[(digests[0].0, &digests[0].1), (digests[1].0, &digests[1].1)]).unwrap();
            path.push(word);
        }
        for bank in [HashAlg::Sha256, HashAlg::Sha384] {
            let required = PcrSelectionSpec::new(bank, &pcrs).unwrap();
            let made = host.quote_with_values(ak, &NONCE, &required).unwrap();
            let quote = judge(&public, &made, &required).unwrap();
            let verified = verify_replay(&log, &quote, &BOOT_PCRS).unwrap();
            let known = word != "unknown";
            assert_eq!(verified.covered().contains(&11), known, "{word}");
            let told = verified.facts().phases.map(|path| path.to_string());
            assert_eq!(told, known.then(|| path.join(":")));
            assert_eq!(verified.facts().sections.len(), if known { 5 } else { 0 });
        }
    }
}

#[test]
fn a_host_key_is_certified_by_the_attestation_key_and_signs() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let (ak, key) = (host.create_attestation_key().unwrap(), host.create_signing_key().unwrap());
    let (ak, key) = (host.load(&ak).unwrap(), host.load(&key).unwrap());
    let (ak_public, key_public) = (host.public(ak).unwrap().clone(), host.public(key).unwrap().clone());
    require_host_key(&key_public).unwrap();
    let made = host.certify(key, ak, &NONCE).unwrap();
    let certified = verify_certification(&ak_public, &made.attest, &made.signature, &key_public, &NONCE);
    assert_eq!(certified.unwrap().public(), &key_public);
    // Many signatures, so that integers with leading zeros are among them.
    for n in 0..300u32 {
        let message = n.to_be_bytes();
        let digest = <[u8; 32]>::try_from(HashAlg::Sha256.digest(&message)).unwrap();
        let signature = host.sign_digest(key, &digest).unwrap();
        let (r, s) = signature.split_at(32);
        key_public.key().verify_ecdsa(HashAlg::Sha256, &message, r, s).unwrap();
    }
    // A restricted key signs no digest from outside (TPM_RC_TICKET).
    assert_eq!(host.sign_digest(ak, &NONCE).unwrap_err().class(), ErrorClass::Fatal);
}

#[test]
fn blobs_survive_a_restart_and_belong_to_one_tpm() {
    let ca = SwTpmCa::new();
    let (mut swtpm, other) = (SwTpm::start(&ca), SwTpm::start(&ca));
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[16]).unwrap();
    let public = host.public(ak).unwrap().clone();
    let before = host.quote_with_values(ak, &NONCE, &required).unwrap();
    let before = judge(&public, &before, &required).unwrap().clock();

    swtpm.stop();
    let error = host.quote(ak, &NONCE, &required).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Gone, "{error}");
    assert_eq!(host.reopen().unwrap_err().class(), ErrorClass::Gone);
    assert_eq!(host.quote(ak, &NONCE, &required).unwrap_err(), DeviceError::Closed);
    swtpm.restart();
    host.reopen().unwrap();
    let after = host.quote_with_values(ak, &NONCE, &required).unwrap();
    let after = judge(&public, &after, &required).unwrap().clock();
    // The key lies under the endorsement hierarchy, so the counters are the true ones.
    assert_eq!(after.reset_count, before.reset_count + 1);

    let bytes = blob.to_bytes().unwrap();
    let read = KeyBlob::from_bytes(&bytes).unwrap();
    assert_eq!(read, blob);
    assert!(KeyBlob::from_bytes(&bytes[1..]).is_err());
    drop(host);
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let again = host.load(&read).unwrap();
    assert_eq!(host.public(again).unwrap(), &public);
    let mut stranger = HostTpm::open(&other.tcti()).unwrap();
    assert_eq!(stranger.load(&read).unwrap_err().class(), ErrorClass::Fatal);
}

/// Keeps a restricted signing key at `handle`, in the place of what was there.
fn provision(swtpm: &SwTpm, handle: &str, curve: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let context = scratch.path().join("iak");
    let context = context.to_str().unwrap();
    let handles = swtpm.tpm2("tpm2_getcap", &["handles-persistent"]);
    if String::from_utf8(handles).unwrap().contains(handle) {
        swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", handle]);
    }
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
    let algorithm = format!("{curve}:ecdsa-sha256:null");
    swtpm.tpm2("tpm2_createprimary", &["-C", "e", "-G", &algorithm, "-a", attributes, "-c", context]);
    swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", context, handle]);
    swtpm.tpm2("tpm2_flushcontext", &["-t"]);
}

#[test]
fn a_key_that_the_tpm_keeps_quotes_and_certifies_until_another_lies_in_its_place() {
    const HANDLE: u32 = 0x8102_0001;
    let mut swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    assert_eq!(host.persistent(HANDLE).unwrap_err(), DeviceError::NoKeyAt(HANDLE));
    drop(host);
    provision(&swtpm, "0x81020001", "ecc256");
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let ak = host.persistent(HANDLE).unwrap();
    let public = host.public(ak).unwrap().clone();
    require_attestation_key(&public).unwrap();
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[16]).unwrap();
    let blob = host.create_signing_key().unwrap();
    let host_key = host.load(&blob).unwrap();
    for _ in 0..2 {
        let made = host.quote_with_values(ak, &NONCE, &required).unwrap();
        judge(&public, &made, &required).unwrap();
        let made = host.certify(host_key, ak, &NONCE).unwrap();
        let subject = Public::parse(blob.public()).unwrap();
        verify_certification(&public, &made.attest, &made.signature, &subject, &NONCE).unwrap();
        // Making room for others leaves it where it is.
        host.unload_all();
    }
    // More keys than there is room for push each other out, and never this one.
    for _ in 0..4 {
        let blob = host.create_signing_key().unwrap();
        let key = host.load(&blob).unwrap();
        host.sign_digest(key, &NONCE).unwrap();
        host.quote(ak, &NONCE, &required).unwrap();
    }
    swtpm.restart();
    host.reopen().unwrap();
    host.quote(ak, &NONCE, &required).unwrap();
    // Somebody puts another key there while nobody looks.
    swtpm.restart();
    provision(&swtpm, "0x81020001", "ecc384");
    host.reopen().unwrap();
    assert_eq!(host.quote(ak, &NONCE, &required).unwrap_err(), DeviceError::OtherKeyAt(HANDLE));
    assert_eq!(host.nv_certificate(0x01c9_0019).unwrap(), None);
    // An object at such a handle may be no key at all, and a number may be no handle.
    assert!(host.persistent(0x4000_0001).is_err());
}

#[test]
fn more_keys_than_the_tpm_has_room_for_are_used_in_turn() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let mut keys = Vec::new();
    for _ in 0..6 {
        let blob = host.create_signing_key().unwrap();
        keys.push(host.load(&blob).unwrap());
    }
    for _ in 0..3 {
        for key in &keys {
            host.sign_digest(*key, &NONCE).unwrap();
            host.ek_public(EkProfile::P256).unwrap();
        }
    }
}

#[test]
fn names_are_those_that_the_tpm_computes() {
    let swtpm = SwTpm::start_own();
    let publics = {
        let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
        [EkProfile::Rsa2048, EkProfile::P384].map(|profile| host.ek_public(profile).unwrap())
    };
    let scratch = tempfile::tempdir().unwrap();
    for (public, handle) in publics.iter().zip(["0x81010001", "0x81010016"]) {
        let (name, area) = (scratch.path().join("name"), scratch.path().join("area"));
        let (name_arg, area_arg) = (name.to_str().unwrap(), area.to_str().unwrap());
        swtpm.tpm2("tpm2_readpublic", &["-c", handle, "-n", name_arg, "-o", area_arg, "-f", "tss"]);
        assert_eq!(std::fs::read(name).unwrap(), public.name().as_bytes());
        assert_eq!(&Public::from_tpm2b(&std::fs::read(area).unwrap()).unwrap(), public);
    }
}

#[test]
fn an_address_that_is_none_and_a_tpm_that_is_not_there_are_told_apart() {
    let error = HostTpm::open("carrier-pigeon").err().unwrap();
    assert_eq!(error, DeviceError::Address("carrier-pigeon".to_owned()));
    let port = countersign_fixture::free_port();
    let error = HostTpm::open(&format!("swtpm:host=127.0.0.1,port={port}")).err().unwrap();
    assert_eq!(error.class(), ErrorClass::Gone, "{error}");
}

#[test]
fn a_counter_only_rises_even_when_it_is_made_anew() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let counter = CounterIndex { index: 0x0180_c516, auth: [5; 32] };
    assert_eq!(host.read_counter(&counter), Err(DeviceError::NoSuchIndex(counter.index)));
    host.define_counter(&counter).unwrap();
    assert_eq!(host.read_counter(&counter).unwrap(), None, "it has no value before it is raised");
    let first = host.raise_counter(&counter).unwrap();
    assert_eq!(host.read_counter(&counter).unwrap(), Some(first));
    assert_eq!(host.raise_counter(&counter).unwrap(), first + 1);
    assert_eq!(host.define_counter(&counter), Err(DeviceError::IndexTaken(counter.index)));

    let stranger = CounterIndex { auth: [6; 32], ..counter.clone() };
    assert_eq!(host.raise_counter(&stranger).unwrap_err().class(), ErrorClass::Auth);
    assert_eq!(host.read_counter(&stranger).unwrap_err().class(), ErrorClass::Auth);
    host.reopen().unwrap();
    assert_eq!(host.read_counter(&counter).unwrap(), Some(first + 1));

    // TPM 2.0 Part 1, 37.2.4.3: a new counter begins above all that were.
    host.undefine_counter(counter.index).unwrap();
    host.define_counter(&stranger).unwrap();
    assert_eq!(host.read_counter(&stranger).unwrap(), None);
    assert!(host.raise_counter(&stranger).unwrap() > first + 1);
    assert_eq!(host.undefine_counter(0x0180_0000), Err(DeviceError::NoSuchIndex(0x0180_0000)));
}

#[test]
fn an_index_that_can_be_written_back_is_no_counter() {
    let swtpm = SwTpm::start_own();
    let define = Command::new("tpm2_nvdefine")
        .args(["-T", &swtpm.tcti(), "-C", "o", "-s", "8", "-a", "authread|authwrite", "-p"])
        .arg(format!("hex:{}", "05".repeat(32)))
        .arg("0x0180c516")
        .output()
        .unwrap();
    assert!(define.status.success(), "{}", String::from_utf8_lossy(&define.stderr));
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let counter = CounterIndex { index: 0x0180_c516, auth: [5; 32] };
    assert_eq!(host.read_counter(&counter), Err(DeviceError::NotACounter));
    assert_eq!(host.raise_counter(&counter), Err(DeviceError::NotACounter));
}
