//! Endorsement rules: bundled manufacturers, weak keys, firmware floors, directories.

use super::*;
use crate::config::Enrolment;

/// TPMT_PUBLIC of an RSA-2048 endorsement key (template L-1) with this modulus.
fn rsa_ek(modulus: &[u8]) -> Public {
    let mut bytes = vec![0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20];
    bytes.extend([7; 32]);
    bytes.extend([0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0, 0, 0, 0, 0x01, 0x00]);
    bytes.extend(modulus);
    Public::parse(&bytes).unwrap()
}

/// Congruent to 65537 modulo every prime of the published test, and 2048 bits long.
fn weak_modulus() -> Vec<u8> {
    let mut modulus = vec![0; 256];
    modulus[0] = 0x80;
    let tail = data_encoding::HEXLOWER.decode(WEAK_TAIL.as_bytes()).unwrap();
    modulus[256 - tail.len()..].copy_from_slice(&tail);
    modulus
}

const WEAK_TAIL: &str = "06697ebed2c9cb1b810585593f81da320dfab10bdf2e0f1d9e812fcf";

fn allowing(ek: &Public) -> Enrolment {
    Enrolment { ek_allow: vec![sha256(&ek.spki_der()).to_hex()], ..Enrolment::default() }
}

#[test]
fn a_weak_key_is_refused_even_on_the_list_unless_the_operator_wants_it() {
    let weak = rsa_ek(&weak_modulus());
    let mut rules = allowing(&weak);
    let judged = Endorsements::load(&rules).unwrap().judge(&weak, None, &[], 0);
    assert!(matches!(judged, Err(EkRefused::Weak)));
    rules.danger_weak_keys = true;
    let judged = Endorsements::load(&rules).unwrap().judge(&weak, None, &[], 0).unwrap();
    assert!(judged.endorsement.weak_key && judged.preregistered);
    assert_eq!(judged.endorsement.kind, EndorsementKind::EkAllowed);
    let mut sound = weak_modulus();
    sound[100] = 1;
    let sound = rsa_ek(&sound);
    let judged = Endorsements::load(&allowing(&sound)).unwrap().judge(&sound, None, &[], 0).unwrap();
    assert!(!judged.endorsement.weak_key);
    assert!(matches!(
        Endorsements::load(&rules).unwrap().judge(&sound, None, &[], 0),
        Err(EkRefused::NotAllowed)
    ));
}

#[test]
fn bundled_manufacturers_are_trusted_when_they_are_named() {
    let counts = |vendors: &[&str]| {
        let vendors = vendors.iter().map(|name| (*name).to_owned()).collect();
        Endorsements::load(&Enrolment { ek_vendors: vendors, ..Enrolment::default() }).map(|it| it.counts())
    };
    assert_eq!(counts(&[]).unwrap(), (0, 0, 0));
    assert_eq!(counts(&["Intel"]).unwrap(), (2, 3, 0));
    let (roots, intermediates, _) = counts(&["all"]).unwrap();
    assert_eq!(roots + intermediates, bundled().unwrap().len());
    let unknown = counts(&["Intel", "Nobody"]).unwrap_err().to_string();
    assert!(unknown.contains("\"Nobody\"") && unknown.contains("STMicroelectronics"), "{unknown}");
}

#[test]
fn a_floor_is_a_manufacturers_own_or_that_of_all_others() {
    let floor = [("IFX", "00070055:0011cb00"), ("*", "00000001:00000000")];
    let floor = floor.map(|(vendor, version)| (vendor.to_owned(), version.to_owned())).into();
    let rules = Endorsements::load(&Enrolment { firmware_floor: floor, ..Enrolment::default() }).unwrap();
    let of = |vendor: Option<&str>| Endorsement {
        kind: EndorsementKind::EkCertificate,
        weak_key: false,
        tpm: vendor.map(|vendor| TpmModel {
            manufacturer: vendor.to_owned(),
            model: "m".to_owned(),
            version: "v".to_owned(),
        }),
        device: None,
    };
    assert!(rules.accepts_firmware(&of(Some("IFX")), 0x0007_0055_0011_cb00));
    assert!(!rules.accepts_firmware(&of(Some("IFX")), 0x0007_0055_0011_caff));
    for vendor in [Some("STM"), None] {
        assert!(rules.accepts_firmware(&of(vendor), 0x0000_0001_0000_0000));
        assert!(!rules.accepts_firmware(&of(vendor), 0x0000_0000_ffff_ffff));
    }
    let none = Endorsements::load(&Enrolment::default()).unwrap();
    assert!(none.accepts_firmware(&of(None), 0));
}

#[test]
fn a_directory_with_something_that_could_never_serve_is_a_mistake_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let load = || {
        let cache = Some(directory.path().to_owned());
        Endorsements::load(&Enrolment { ek_cache: cache, ..Enrolment::default() })
    };
    let put = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    let intel = bundled().unwrap().iter().find(|one| one.vendor == "Intel").unwrap();
    put("intel.der", &intel.der);
    put("notes.txt", b"passed over");
    assert_eq!(load().unwrap().counts(), (0, 1, 0));
    for (name, bytes) in
        [("list.crl", &intel.der[..]), ("empty.pem", b"no certificate"), ("bad.crt", b"0\x01\x00")]
    {
        put(name, bytes);
        let error = load().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        std::fs::remove_file(directory.path().join(name)).unwrap();
    }
    std::fs::create_dir(directory.path().join("folder.crl")).unwrap();
    assert!(matches!(load(), Err(RootsError::NotAFile(_))));
    std::fs::remove_dir(directory.path().join("folder.crl")).unwrap();
    // Reading a pipe that nobody writes to would never end.
    let made = std::process::Command::new("mkfifo").arg(directory.path().join("pipe.pem")).status().unwrap();
    assert!(made.success());
    assert!(matches!(load(), Err(RootsError::NotAFile(_))));
    let absent = Some(directory.path().join("absent"));
    let absent = Endorsements::load(&Enrolment { ek_cache: absent, ..Enrolment::default() });
    assert!(matches!(absent, Err(RootsError::Read { .. })));
    let policies = vec!["not an identifier".to_owned()];
    let of_ek = Enrolment { ek_policies: policies.clone(), ..Enrolment::default() };
    let of_iak = Enrolment { iak_policies: policies, ..Enrolment::default() };
    let of_idevid =
        Enrolment { idevid_policies: vec!["not an identifier".to_owned()], ..Enrolment::default() };
    for (key, rules) in [("ek_policies", of_ek), ("iak_policies", of_iak), ("idevid_policies", of_idevid)] {
        assert!(matches!(Endorsements::load(&rules), Err(RootsError::Policy(named, _)) if named == key));
    }
}
