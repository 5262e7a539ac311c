//! A device's own key (IDevID) in a real swtpm, made by the TCG's templates: certified by an AK, and used, whatever authorizes it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use countersign_fixture::SwTpm;
use countersign_tpm::certify::verify_device_certification;
use countersign_tpm::device::{DeviceError, HostTpm};
use countersign_tpm::public::{AttributeRefusal, require_device_key};
use countersign_tpm::signature::{Signature, verify};

const NONCE: [u8; 32] = [0x3c; 32];
const HANDLE: u32 = 0x8102_0000;
const TEXT: &str = "0x81020000";
/// Attributes and policies of the templates H-1, H-2 and H-3. TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.1, 7.3.6.6.
const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign";
const POLICY_SHA256: &str = "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea";
const POLICY_SHA384: &str =
    "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33";
/// PolicyCommandCode(TPM2_Certify) and nothing else.
const POLICY_CERTIFY: &str = "048e9a3ace08583f79f344ff785bbea9f07ac7fa3325b3d49a21dd5194c65850";

/// Keeps a key of this kind at the handle, in the place of what was there.
fn provision(swtpm: &SwTpm, hash: &str, algorithm: &str, attributes: &str, policy: Option<&str>) {
    let scratch = tempfile::tempdir().unwrap();
    let context = scratch.path().join("idevid");
    let context = context.to_str().unwrap();
    let handles = swtpm.tpm2("tpm2_getcap", &["handles-persistent"]);
    if String::from_utf8(handles).unwrap().contains(TEXT) {
        swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", TEXT]);
    }
    let mut args = vec!["-C", "e", "-g", hash, "-G", algorithm, "-a", attributes, "-c", context];
    let digest = policy.map(|policy| {
        let path = scratch.path().join("policy");
        std::fs::write(&path, data_encoding::HEXLOWER.decode(policy.as_bytes()).unwrap()).unwrap();
        path.display().to_string()
    });
    args.extend(digest.iter().flat_map(|path| ["-L", path]));
    swtpm.tpm2("tpm2_createprimary", &args);
    swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", context, TEXT]);
    swtpm.tpm2("tpm2_flushcontext", &["-t"]);
}

#[test]
fn keys_of_the_templates_are_certified_and_sign() {
    let mut swtpm = SwTpm::start_own();
    let by_policy = ATTRIBUTES.replace("userwithauth|", "");
    for (hash, algorithm, attributes, policy) in [
        ("sha256", "ecc256:ecdsa-sha256:null", ATTRIBUTES, POLICY_SHA256),
        ("sha256", "rsa2048:null:null", ATTRIBUTES, POLICY_SHA256),
        ("sha256", "ecc256:null:null", by_policy.as_str(), POLICY_SHA256),
        ("sha384", "ecc384:ecdsa-sha384:null", by_policy.as_str(), POLICY_SHA384),
        ("sha384", "ecc384:null:null", ATTRIBUTES, POLICY_SHA384),
        ("sha256", "rsa2048:rsapss-sha256:null", ATTRIBUTES, POLICY_CERTIFY),
    ] {
        provision(&swtpm, hash, algorithm, attributes, Some(policy));
        let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
        let blob = host.create_attestation_key().unwrap();
        let ak = host.load(&blob).unwrap();
        let key = host.persistent(HANDLE).unwrap();
        let (ak_public, public) = (host.public(ak).unwrap().clone(), host.public(key).unwrap().clone());
        require_device_key(&public).unwrap();
        // Often: no session is left over that takes the room of the next.
        for _ in 0..4 {
            let made = host.certify_device_key(key, ak, &NONCE).unwrap();
            let shown =
                verify_device_certification(&ak_public, &made.attest, &made.signature, &public, &NONCE);
            assert_eq!(shown.unwrap().public(), &public, "{algorithm}");
            let signed = host.sign_with_device_key(key, b"possession").unwrap();
            let signature = Signature::parse(&signed).unwrap();
            verify(&public, b"possession", &signature).unwrap();
            assert!(verify(&public, b"another", &signature).is_err());
        }
        // Other clients have to wait until this one goes.
        drop(host);
    }
    swtpm.stop();
}

#[test]
fn keys_that_nobody_here_may_administer_are_told_before_the_tpm_is_asked() {
    let swtpm = SwTpm::start_own();
    let foreign = "5a".repeat(32);
    provision(&swtpm, "sha256", "ecc256:ecdsa-sha256:null", ATTRIBUTES, Some(&foreign));
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let key = host.persistent(HANDLE).unwrap();
    assert_eq!(host.certify_device_key(key, ak, &NONCE).unwrap_err(), DeviceError::Policy);
    host.sign_with_device_key(key, b"possession").unwrap();
    drop(host);
    // Without adminWithPolicy the empty password does, and the key isn't of the TCG's kind.
    let plain = ATTRIBUTES.replace("|adminwithpolicy", "");
    provision(&swtpm, "sha256", "ecc256:ecdsa-sha256:null", &plain, None);
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let ak = host.load(&blob).unwrap();
    let key = host.persistent(HANDLE).unwrap();
    host.certify_device_key(key, ak, &NONCE).unwrap();
    assert_eq!(require_device_key(host.public(key).unwrap()), Err(AttributeRefusal::NoAdminPolicy));
}
