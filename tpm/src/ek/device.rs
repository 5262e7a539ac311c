//! What an IDevID certificate says of the machine. IEEE 802.1AR, 8; TCG, TPM 2.0 Keys for Device Identity and Attestation, 8.
//!
//! Comes in: a subject and the names of a subjectAltName. Goes out: [`DeviceNames`]. Refused: certificates that name no device, that name one twice,
//! or whose numbers are longer than RFC 5280 and this page say or aren't ASCII, which only looks like another number to people.

use super::EkRefusal;
use super::name::Name;
use super::tlv::{Elements, OCTET_STRING, OID, SEQUENCE, context};
use der::asn1::ObjectIdentifier;

/// serialNumber. X.520, 6.2.9.
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
/// id-on-hardwareModuleName. RFC 4108 §5.
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");

/// RFC 5280, A.1: ub-serial-number.
const MAX_SERIAL_CHARS: usize = 64;
/// The TCG's own are of eleven characters.
const MAX_HARDWARE_TYPE_CHARS: usize = 128;
/// The TCG joins manufacturer, key identifier and serial number of the EK's certificate in hexadecimal: some 110 bytes.
const MAX_HARDWARE_SERIAL_BYTES: usize = 256;
/// Most names of a subjectAltName.
const MAX_NAMES: usize = 32;

/// hardwareModuleName. RFC 4108 §5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareModule {
    /// hwType, dotted.
    pub kind: String,
    /// hwSerialNum.
    pub serial: Vec<u8>,
}

/// The names of a machine; one of the two at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNames {
    /// serialNumber of the subject, as it is written there.
    pub serial: Option<String>,
    /// hardwareModuleName of the subjectAltName.
    pub hardware: Option<HardwareModule>,
}

/// Reads the names of a certificate with this subject and this content of its subjectAltName.
pub(super) fn names(subject: &Name, alt_names: Option<&[u8]>) -> Result<DeviceNames, EkRefusal> {
    let malformed = EkRefusal::Malformed("serialNumber");
    let mut serials = subject.texts_of(&SERIAL_NUMBER);
    let serial = match (serials.next(), serials.next()) {
        (None, _) => None,
        (Some(Some(text)), None) if is_serial(text) => Some(text.to_owned()),
        // Twice, not text, or not within the bounds.
        _ => return Err(malformed),
    };
    let hardware = alt_names.map(hardware_module).transpose()?.flatten();
    if serial.is_none() && hardware.is_none() {
        return Err(EkRefusal::NamesNoDevice);
    }
    Ok(DeviceNames { serial, hardware })
}

fn is_serial(text: &str) -> bool {
    (1..=MAX_SERIAL_CHARS).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// GeneralName, otherName [0]: type-id and value [0], explicit. RFC 5280 §4.2.1.6. Names of other types are passed over.
fn hardware_module(content: &[u8]) -> Result<Option<HardwareModule>, EkRefusal> {
    let mut outer = Elements::of(content, "hardwareModuleName");
    let mut names = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let mut found = None;
    let mut count = 0;
    while !names.is_empty() {
        count += 1;
        let name = names.next()?;
        if count > MAX_NAMES {
            return Err(names.malformed());
        }
        if name.tag != context(0) {
            continue;
        }
        let mut other = Elements::of(name.content, "hardwareModuleName");
        // A type that this reader can't write as text isn't this one.
        if other.peek() != Some(OID) || !matches!(other.oid(), Ok(HARDWARE_MODULE_NAME)) {
            continue;
        }
        let mut value = other.inside(context(0))?;
        other.finish()?;
        let mut module = value.inside(SEQUENCE)?;
        value.finish()?;
        let kind = module.oid()?.to_string();
        let serial = module.expect(OCTET_STRING)?;
        module.finish()?;
        let fits = (1..=MAX_HARDWARE_SERIAL_BYTES).contains(&serial.len());
        if found.is_some() || !fits || kind.len() > MAX_HARDWARE_TYPE_CHARS {
            return Err(names.malformed());
        }
        found = Some(HardwareModule { kind, serial: serial.to_vec() });
    }
    Ok(found)
}
