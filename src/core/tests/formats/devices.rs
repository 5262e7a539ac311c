//! Enrolments with a device identity that no reader takes (PROTOCOL §8.3).

use crate::log::{HOLDER, public};
use crate::refused::{leaf, read_leaf, swap_bytes};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind};

/// Enrolments whose device identity names nobody, or not within its bounds.
pub(crate) fn refused() -> Vec<(&'static str, Vec<u8>)> {
    let digest = Sha256Digest::new([8; 32]);
    let named = |serial: Option<&str>, hardware: Option<(&str, usize)>| {
        let hardware =
            hardware.map(|(kind, length)| HardwareName { kind: kind.into(), serial: vec![1; length] });
        let device =
            DeviceIdentity { certificate: digest, key: digest, serial: serial.map(str::to_owned), hardware };
        let body = Enrolment {
            host: crate::samples::host(),
            ek_public: Sha256Digest::new([9; 32]),
            ek_certificate: None,
            ak_public: digest,
            ak_name: vec![0, 11, 1],
            host_key: public(HOLDER),
            host_key_kind: HostKeyKind::Certified,
            admission: Admission::Preregistered,
            token: None,
            activation: digest,
            version: 1,
            endorsement: Endorsement {
                kind: EndorsementKind::EkAllowed,
                weak_key: false,
                tpm: None,
                device: Some(device),
            },
        };
        leaf(Kind::Enrolment, body.encode())
    };
    let good = named(Some("SN-1"), Some(("1.2", 1)));
    read_leaf(&good).unwrap();
    read_leaf(&named(Some(&"9".repeat(64)), Some(("1.2", 256)))).unwrap();
    // The end of the body: .., 3: "SN-1", 4: "1.2", 5: 01}.
    let with = |from: &[u8], to: &[u8]| swap_bytes(&good, from, to);
    vec![
        ("device identity without any name", named(None, None)),
        ("device with an empty serial number", named(Some(""), None)),
        ("device with a serial number of 65 characters", named(Some(&"9".repeat(65)), None)),
        ("device with a control character in its serial number", named(Some("SN\n1"), None)),
        ("device whose serial number isn't ASCII", named(Some("SN\u{0435}1"), None)),
        ("device with an empty hardware serial number", named(None, Some(("1.2", 0)))),
        ("device with a hardware serial number of 257 bytes", named(None, Some(("1.2", 257)))),
        ("device with a hardware type of one number", named(None, Some(("1", 1)))),
        ("device with a hardware type that begins with 3", named(None, Some(("3.1", 1)))),
        ("device with a hardware type with a leading zero", named(None, Some(("1.02", 1)))),
        ("device whose serial number is bytes", with(&[0x03, 0x64], &[0x03, 0x44])),
        ("device with a key that isn't listed", with(&[0x05, 0x41, 0x01], &[0x06, 0x41, 0x01])),
    ]
}
