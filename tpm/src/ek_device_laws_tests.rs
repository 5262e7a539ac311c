//! Laws of the names of an IDevID certificate, whatever stands in it: nothing panics, what is taken is what a second reading of the rules takes, and an
//! enrolment leaf holds it.

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use proptest::collection::vec;
use proptest::prelude::*;

use super::EkRefusal;
use super::device::{DeviceNames, names};
use super::name::Name;

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = match u8::try_from(content.len()) {
        Ok(len @ 0..=0x7f) => vec![len],
        Ok(len) => vec![0x81, len],
        Err(_) => [&[0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes()].concat(),
    };
    [&[tag][..], &len, content].concat()
}

const CN: &[u8] = &[0x55, 4, 3];
const SERIAL: &[u8] = &[0x55, 4, 5];
const MODULE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 8, 4];
const TCG: &[u8] = &[0x67, 0x81, 0x05, 0x01, 0x02];

/// An attribute of the subject: whether it is the serialNumber, the tag of its value, the value.
#[derive(Clone, Debug)]
struct Attribute(bool, u8, Vec<u8>);

/// A name of the subjectAltName.
#[derive(Clone, Debug)]
enum Alternative {
    Dns(Vec<u8>),
    /// otherName of another type.
    Other(Vec<u8>),
    /// hardwareModuleName: hwSerialNum, and what follows in the sequence that nothing follows in.
    Module(Vec<u8>, Vec<u8>),
}

fn subject(attributes: &[Attribute]) -> Vec<u8> {
    let rdn = |one: &Attribute| {
        let kind = der(0x06, if one.0 { SERIAL } else { CN });
        der(0x31, &der(0x30, &[kind, der(one.1, &one.2)].concat()))
    };
    attributes.iter().flat_map(rdn).collect()
}

fn alternatives(all: &[Alternative]) -> Vec<u8> {
    let other = |kind: &[u8], value: &[u8]| der(0xa0, &[der(0x06, kind), der(0xa0, value)].concat());
    let one = |one: &Alternative| match one {
        Alternative::Dns(text) => der(0x82, text),
        Alternative::Other(value) => other(&[0x2b, 6, 1, 4, 1], value),
        Alternative::Module(serial, rest) => {
            other(MODULE, &der(0x30, &[der(0x06, TCG), der(0x04, serial), rest.clone()].concat()))
        }
    };
    der(0x30, &all.iter().flat_map(one).collect::<Vec<u8>>())
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let tag =
        prop_oneof![4 => Just(0x13_u8), 2 => Just(0x0c), 1 => Just(0x16), 1 => Just(0x03), 1 => Just(0x02)];
    let value = prop_oneof![
        4 => "[ -~]{0,70}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..70),
        1 => Just(vec![b'S'; 64]),
        1 => Just(vec![b'S'; 65]),
        1 => Just("S\u{0435}rial".as_bytes().to_vec()),
    ];
    (any::<bool>(), tag, value).prop_map(|(serial, tag, value)| Attribute(serial, tag, value))
}

fn alternative() -> impl Strategy<Value = Alternative> {
    let serial = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => Just(vec![7; 256]),
        1 => Just(vec![7; 257]),
    ];
    let rest = prop_oneof![6 => Just(Vec::new()), 1 => Just(vec![5, 0])];
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Alternative::Dns),
        vec(any::<u8>(), 0..20).prop_map(Alternative::Other),
        (serial, rest).prop_map(|(serial, rest)| Alternative::Module(serial, rest)),
    ]
}

/// The rules once more, over what the bytes were made of: `None` where they refuse.
fn expected(
    attributes: &[Attribute],
    all: Option<&[Alternative]>,
) -> Option<(Option<String>, Option<Vec<u8>>)> {
    let serials: Vec<_> = attributes.iter().filter(|one| one.0).collect();
    let serial = match serials.as_slice() {
        [] => None,
        [Attribute(_, 0x13 | 0x0c | 0x16, value)] => {
            let fits =
                (1..=64).contains(&value.len()) && value.iter().all(|byte| (b' '..=b'~').contains(byte));
            Some(fits.then(|| String::from_utf8(value.clone()).unwrap())?)
        }
        _ => return None,
    };
    let modules = all.unwrap_or_default().iter().filter_map(|one| match one {
        Alternative::Module(serial, rest) => Some((serial, rest)),
        _ => None,
    });
    let modules: Vec<_> = modules.collect();
    let module = match modules.as_slice() {
        [] => None,
        [(serial, rest)] if rest.is_empty() && (1..=256).contains(&serial.len()) => Some((*serial).clone()),
        _ => return None,
    };
    (serial.is_some() || module.is_some()).then_some((serial, module))
}

fn is_held(names: &DeviceNames) -> bool {
    let hardware = names.hardware.as_ref();
    let identity = DeviceIdentity {
        certificate: Sha256Digest::ZERO,
        key: Sha256Digest::ZERO,
        serial: names.serial.clone(),
        hardware: hardware.map(|name| HardwareName { kind: name.kind.clone(), serial: name.serial.clone() }),
    };
    identity.is_well_formed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn names_are_what_the_rules_say(
        attributes in vec(attribute(), 0..4),
        all in proptest::option::of(vec(alternative(), 0..4)),
    ) {
        let written = Name::read(&subject(&attributes));
        // A UTF8String that isn't UTF-8 is no name at all.
        let Ok(subject) = written else {
            prop_assert!(attributes.iter().any(|one| one.1 == 0x0c && std::str::from_utf8(&one.2).is_err()));
            return Ok(());
        };
        let content = all.as_deref().map(alternatives);
        let found = names(&subject, content.as_deref());
        prop_assert!(found.as_ref().is_ok_and(is_held) || found.is_err());
        let found = found.ok().map(|names| {
            let kind = names.hardware.as_ref().map(|name| name.kind.clone());
            assert!(kind.is_none_or(|kind| kind == "2.23.133.1.2"));
            (names.serial, names.hardware.map(|name| name.serial))
        });
        prop_assert_eq!(found, expected(&attributes, all.as_deref()));
    }

    #[test]
    fn whatever_bytes_there_are_they_are_read_to_an_end(
        subject in vec(any::<u8>(), 0..80),
        content in vec(any::<u8>(), 0..200),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let subject = Name::read(&subject).unwrap_or_default();
        for content in [content.clone(), der(0x30, &content), der(0x30, &der(0xa0, &content))] {
            prop_assert!(names(&subject, Some(&content)).is_ok_and(|names| is_held(&names)) || names(&subject, Some(&content)).is_err());
        }
        // A good one with one byte exchanged.
        let mut altered = alternatives(&[Alternative::Module(b"STM:7".to_vec(), Vec::new())]);
        let at = place.index(altered.len());
        altered[at] = byte;
        match names(&Name::default(), Some(&altered)) {
            Ok(names) => prop_assert!(is_held(&names)),
            Err(refusal) => prop_assert!(matches!(refusal, EkRefusal::Malformed(_) | EkRefusal::NamesNoDevice), "{refusal:?}"),
        }
    }
}
