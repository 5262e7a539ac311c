//! A TPM without a resource manager whose users are killed: what they loaded stays there, and the next one works all the same.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::process::Command;
use std::str::FromStr as _;

use countersign_fixture::{SwTpm, wait_until};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::credential::make_credential;
use countersign_tpm::device::{EkProfile, HostTpm, KeyBlob};
use countersign_tpm::quote::PcrSelectionSpec;
use tss_esapi::Context;
use tss_esapi::constants::SessionType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinition;
use tss_esapi::tcti_ldr::TctiNameConf;

const NONCE: [u8; 32] = [0x3c; 32];
const SECRET: [u8; 32] = [0x77; 32];
/// Says to a process that was started by one of these tests what it is to do, with which TPM.
const TASK: &str = "CSN_LEAVES";
const TCTI: &str = "CSN_TCTI";
const BLOBS: &str = "CSN_BLOBS";
/// How a process ends that did what it was told, without closing anything.
const LEFT: i32 = 77;

/// This very test, in a process of its own, with a task.
fn child(test: &str, task: &str, swtpm: &SwTpm, blobs: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(TASK, task).env(TCTI, swtpm.tcti()).env(BLOBS, blobs).env("TSS2_LOG", "all+none");
    command
}

fn tcti() -> String {
    std::env::var(TCTI).unwrap()
}

/// What an agent has loaded while it attests.
fn attest(host: &mut HostTpm, [ak, host_key]: &[KeyBlob; 2]) {
    let (ak, host_key) = (host.load(ak).unwrap(), host.load(host_key).unwrap());
    let selected = PcrSelectionSpec::new(HashAlg::Sha256, &[0]).unwrap();
    host.quote(ak, &NONCE, &selected).unwrap();
    host.sign_digest(host_key, &NONCE).unwrap();
}

/// Opens a credential, which takes the endorsement key, the attestation key and a session.
fn activate(host: &mut HostTpm, blob: &KeyBlob) {
    let ak = host.load(blob).unwrap();
    let name = host.public(ak).unwrap().name().as_bytes().to_vec();
    let ek = host.ek_public(EkProfile::P256).unwrap();
    let made = make_credential(&ek, &name, &SECRET, &mut |buffer| buffer.fill(7)).unwrap();
    let opened = host.activate_credential(EkProfile::P256, ak, &made.id_object, &made.encrypted_secret);
    assert_eq!(opened.unwrap().as_slice(), SECRET);
}

fn written(blobs: &[KeyBlob]) -> String {
    let hex = |blob: &KeyBlob| data_encoding::HEXLOWER.encode(&blob.to_bytes().unwrap());
    blobs.iter().map(hex).collect::<Vec<_>>().join(",")
}

fn read() -> [KeyBlob; 2] {
    let text = std::env::var(BLOBS).unwrap();
    let blob = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    text.split(',')
        .map(|hex| KeyBlob::from_bytes(&blob(hex)).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn handles(swtpm: &SwTpm, kind: &str) -> usize {
    let out = String::from_utf8(swtpm.tpm2("tpm2_getcap", &[kind])).unwrap();
    out.lines().filter(|line| line.starts_with('-')).count()
}

/// As many primary keys and sessions as there is room for, left there.
fn fill() -> ! {
    let mut context = Context::new(TctiNameConf::from_str(&tcti()).unwrap()).unwrap();
    let template = tss_esapi::abstraction::ek::create_ek_public_from_default_template_2(
        tss_esapi::abstraction::AsymmetricAlgorithmSelection::Ecc(
            tss_esapi::interface_types::ecc::EccCurve::NistP256,
        ),
        None,
    )
    .unwrap();
    let (mut keys, mut sessions) = (0, 0);
    while context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
        })
        .is_ok()
    {
        keys += 1;
    }
    let cipher = SymmetricDefinition::AES_128_CFB;
    for kind in [SessionType::Policy, SessionType::Hmac].into_iter().cycle() {
        let started = context.start_auth_session(None, None, None, kind, cipher, HashingAlgorithm::Sha256);
        if started.is_err() {
            break;
        }
        sessions += 1;
    }
    assert!(keys >= 3 && sessions >= 3, "{keys} {sessions}");
    std::process::exit(LEFT)
}

#[test]
fn a_full_tpm_that_nobody_uses_has_room_for_the_next_one() {
    const NAME: &str = "a_full_tpm_that_nobody_uses_has_room_for_the_next_one";
    if std::env::var_os(TASK).is_some() {
        fill();
    }
    let swtpm = SwTpm::start_own();
    let blobs = {
        let mut host = HostTpm::open_alone(&swtpm.tcti()).unwrap();
        [host.create_attestation_key().unwrap(), host.create_signing_key().unwrap()]
    };
    for round in 0..3 {
        let left = child(NAME, "fill", &swtpm, "").output().unwrap();
        assert_eq!(left.status.code(), Some(LEFT), "{}", String::from_utf8_lossy(&left.stderr));
        assert!(handles(&swtpm, "handles-transient") >= 3, "{round}");
        let mut host = HostTpm::open_alone(&swtpm.tcti()).unwrap();
        // Each begins with another thing that there is no room for.
        match round {
            0 => attest(&mut host, &blobs),
            1 => activate(&mut host, &blobs[0]),
            _ => drop(host.create_signing_key().unwrap()),
        }
        drop(host);
        assert_eq!(handles(&swtpm, "handles-transient"), 0, "{round}");
    }
}

#[test]
fn a_user_that_is_killed_at_any_moment_over_and_over_leaves_a_usable_tpm() {
    const NAME: &str = "a_user_that_is_killed_at_any_moment_over_and_over_leaves_a_usable_tpm";
    match std::env::var(TASK).as_deref() {
        // Has its keys loaded, and ends as after SIGKILL.
        Ok("keys") => {
            let mut host = HostTpm::open_alone(&tcti()).unwrap();
            attest(&mut host, &read());
            std::process::exit(LEFT)
        }
        // Is killed in the middle of something.
        Ok(marker) => {
            let mut host = HostTpm::open_alone(&tcti()).unwrap();
            loop {
                attest(&mut host, &read());
                activate(&mut host, &read()[0]);
                std::fs::write(marker, b"at work").unwrap();
            }
        }
        Err(_) => {}
    }
    let (swtpm, scratch) = (SwTpm::start_own(), tempfile::tempdir().unwrap());
    let blobs = {
        let mut host = HostTpm::open_alone(&swtpm.tcti()).unwrap();
        [host.create_attestation_key().unwrap(), host.create_signing_key().unwrap()]
    };
    let written = written(&blobs);
    for _ in 0..4 {
        let left = child(NAME, "keys", &swtpm, &written).output().unwrap();
        assert_eq!(left.status.code(), Some(LEFT), "{}", String::from_utf8_lossy(&left.stdout));
    }
    assert!(handles(&swtpm, "handles-transient") >= 2, "the last one's keys are still there");
    for round in 0..6 {
        let marker = scratch.path().join(round.to_string());
        let at_work = marker.display().to_string();
        let mut killed = child(NAME, &at_work, &swtpm, &written).spawn().unwrap();
        let working = wait_until(countersign_fixture::PATIENCE, || marker.exists());
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(working, "{round}");
    }
    let mut host = HostTpm::open_alone(&swtpm.tcti()).unwrap();
    attest(&mut host, &blobs);
    activate(&mut host, &blobs[0]);
}

#[test]
fn what_is_in_nobodys_way_stays() {
    let (swtpm, scratch) = (SwTpm::start_own(), tempfile::tempdir().unwrap());
    let context = scratch.path().join("context").display().to_string();
    swtpm.tpm2("tpm2_createprimary", &["-C", "o", "-c", &context]);
    assert_eq!(handles(&swtpm, "handles-transient"), 1);
    let mut host = HostTpm::open_alone(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    host.load(&blob).unwrap();
    drop(host);
    assert_eq!(handles(&swtpm, "handles-transient"), 1);
}

#[test]
fn a_simulator_that_others_may_use_is_left_as_it_is() {
    let swtpm = SwTpm::start_own();
    let mut live = HostTpm::open(&swtpm.tcti()).unwrap();
    let blobs = [live.create_attestation_key().unwrap(), live.create_signing_key().unwrap()];
    attest(&mut live, &blobs);
    let loaded = handles(&swtpm, "handles-transient");
    assert!(loaded >= 2, "its keys stay loaded");
    // There is no room for all that the next one wants, and it isn't made out of what somebody else has.
    let mut next = HostTpm::open(&swtpm.tcti()).unwrap();
    let mut work = || {
        let (ak, host_key) = (next.load(&blobs[0])?, next.load(&blobs[1])?);
        next.quote(ak, &NONCE, &PcrSelectionSpec::new(HashAlg::Sha256, &[0]).unwrap())?;
        next.sign_digest(host_key, &NONCE)?;
        next.ek_public(EkProfile::P256)
    };
    let opened = work();
    assert!(opened.is_err(), "a TPM of three places has room for two users");
    drop(next);
    assert_eq!(handles(&swtpm, "handles-transient"), loaded);
    attest(&mut live, &blobs);
}
