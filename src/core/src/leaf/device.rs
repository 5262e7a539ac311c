//! The device identity of a host: what its IDevID certificate says, as the enrolment leaf has it (PROTOCOL §8.3).
//!
//! Comes in: member 6 of an endorsement. Goes out: [`DeviceIdentity`]. Refused: an identity that names no device, numbers that are longer than
//! their bounds or of other characters than their sources have.

use super::LeafError;
use crate::cbor::{Decoder, Slot};
use crate::digest::Sha256Digest;

/// Longest serialNumber of a subject. RFC 5280, A.1: ub-serial-number.
pub const MAX_SERIAL_CHARS: usize = 64;
/// Longest hwType as text. RFC 4108 has no bound; those of the TCG have eleven characters.
pub const MAX_HARDWARE_TYPE_CHARS: usize = 128;
/// Longest hwSerialNum. The TCG's form joins a manufacturer, a key identifier and a serial number in hexadecimal: some 110 bytes.
pub const MAX_HARDWARE_SERIAL_LEN: usize = 256;

/// hardwareModuleName: a kind of hardware, and the number that its maker gave this piece. RFC 4108 §5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareName {
    /// hwType, dotted.
    pub kind: String,
    /// hwSerialNum: text or not, as its maker pleases.
    pub serial: Vec<u8>,
}

/// A machine as its maker named it, by a certificate of a key that lives in the TPM of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// SHA-256 of the certificate; the bytes are a blob.
    pub certificate: Sha256Digest,
    /// SHA-256 of the key's TPMT_PUBLIC; the bytes are a blob.
    pub key: Sha256Digest,
    /// serialNumber of the certificate's subject.
    pub serial: Option<String>,
    /// hardwareModuleName of its subjectAltName.
    pub hardware: Option<HardwareName>,
}

impl DeviceIdentity {
    /// Whether it names a device within the bounds; what doesn't is in no leaf.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let serial = self.serial.as_deref().is_none_or(is_serial);
        let hardware = self.hardware.as_ref().is_none_or(|name| {
            is_dotted(&name.kind) && (1..=MAX_HARDWARE_SERIAL_LEN).contains(&name.serial.len())
        });
        (self.serial.is_some() || self.hardware.is_some()) && serial && hardware
    }

    /// Writes the map.
    pub fn write(&self, slot: Slot<'_>) {
        slot.map(|map| {
            map.entry(1).bytes(self.certificate.as_bytes());
            map.entry(2).bytes(self.key.as_bytes());
            if let Some(serial) = &self.serial {
                map.entry(3).text(serial);
            }
            if let Some(name) = &self.hardware {
                map.entry(4).text(&name.kind);
                map.entry(5).bytes(&name.serial);
            }
        });
    }

    /// Reads the map.
    ///
    /// # Errors
    /// [`LeafError`].
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, LeafError> {
        let (numbered, module) = match decoder.map()? {
            3 => (true, false),
            4 => (false, true),
            5 => (true, true),
            _ => return Err(LeafError::Value("device identity")),
        };
        decoder.expect_key(1)?;
        let certificate = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(2)?;
        let key = Sha256Digest::new(decoder.byte_array()?);
        let mut read = Self { certificate, key, serial: None, hardware: None };
        if numbered {
            decoder.expect_key(3)?;
            read.serial = Some(decoder.text()?.to_owned());
        }
        if module {
            decoder.expect_key(4)?;
            let kind = decoder.text()?.to_owned();
            decoder.expect_key(5)?;
            read.hardware = Some(HardwareName { kind, serial: decoder.bytes()?.to_vec() });
        }
        if read.is_well_formed() { Ok(read) } else { Err(LeafError::Value("device identity")) }
    }
}

/// X.520, 6.2.9: serialNumber is a PrintableString; makers write other ASCII too, and nothing that looks like another number to people.
fn is_serial(text: &str) -> bool {
    let printable = |byte: u8| (0x20..=0x7e).contains(&byte);
    (1..=MAX_SERIAL_CHARS).contains(&text.len()) && text.bytes().all(printable)
}

/// Numbers without leading zeros, joined by dots: at least two of them, the first 0 to 2. X.660.
fn is_dotted(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let first = text.split('.').next().unwrap_or_default();
    text.len() <= MAX_HARDWARE_TYPE_CHARS
        && text.contains('.')
        && matches!(first, "0" | "1" | "2")
        && text.split('.').all(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::encode_array;

    fn read(identity: &DeviceIdentity) -> Result<DeviceIdentity, LeafError> {
        let bytes = encode_array(|array| identity.write(array.item()));
        let mut decoder = Decoder::new(&bytes).unwrap();
        decoder.array_of(1).unwrap();
        let read = DeviceIdentity::read(&mut decoder)?;
        decoder.finish().unwrap();
        Ok(read)
    }

    fn named(serial: Option<&str>, hardware: Option<(&str, usize)>) -> DeviceIdentity {
        DeviceIdentity {
            certificate: Sha256Digest::new([1; 32]),
            key: Sha256Digest::new([2; 32]),
            serial: serial.map(str::to_owned),
            hardware: hardware
                .map(|(kind, length)| HardwareName { kind: kind.to_owned(), serial: vec![7; length] }),
        }
    }

    #[test]
    fn an_identity_names_a_device_by_either_number_or_both() {
        let longest = "S".repeat(MAX_SERIAL_CHARS);
        for good in [
            named(Some("PID:C9300 SN:FOC1"), None),
            named(Some(&longest), Some(("2.23.133.1.2", MAX_HARDWARE_SERIAL_LEN))),
            named(None, Some(("0.0", 1))),
        ] {
            assert_eq!(read(&good).unwrap(), good);
        }
        for bad in [
            named(None, None),
            named(Some(""), None),
            named(Some(&format!("{longest}S")), None),
            named(Some("line\nbreak"), None),
            named(Some("S\u{0435}rial"), None),
            named(None, Some(("2.23", 0))),
            named(None, Some(("2.23", MAX_HARDWARE_SERIAL_LEN + 1))),
            named(None, Some(("2", 1))),
            named(None, Some(("3.1", 1))),
            named(None, Some(("2.01", 1))),
            named(None, Some(("2..1", 1))),
            named(None, Some((&format!("2.{}", "1".repeat(MAX_HARDWARE_TYPE_CHARS)), 1))),
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }
}
