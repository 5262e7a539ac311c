//! The activation record that an enrolment leaf names by digest (PROTOCOL §8.3): what a host showed of its keys, so that others can look at it again.
//!
//! Comes in: a blob. Goes out: [`ActivationRecord`]. Refused: any other members than one of the four forms has. Nothing in it is judged here.

use crate::cbor::{Decoder, Key, encode_map};
use crate::leaf::LeafError;

/// For which enrolment a host's keys were certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The identifier of the enrolment.
    pub enrolment: [u8; 16],
    /// The secret that the host had to find. The enrolment was spent before it was compared, so it opens nothing any more.
    pub secret: [u8; 32],
}

/// What was shown of the machine's own key (IDevID).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceShown {
    /// TPMS_ATTEST: the AK over the key.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE by the AK.
    pub signature: Vec<u8>,
    /// TPMT_SIGNATURE by the key itself; absent in records without a session.
    pub possession: Option<Vec<u8>>,
}

/// What a host showed of its keys when it enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivationRecord {
    /// TPMS_ATTEST: the AK over the host key.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE by the AK.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the host key.
    pub host_key: Vec<u8>,
    /// With a device identity.
    pub device: Option<DeviceShown>,
    /// Absent in records of early versions.
    pub session: Option<Session>,
}

impl ActivationRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(&self.attest);
            map.entry(2).bytes(&self.signature);
            map.entry(3).bytes(&self.host_key);
            if let Some(device) = &self.device {
                map.entry(4).bytes(&device.attest);
                map.entry(5).bytes(&device.signature);
            }
            if let Some(session) = &self.session {
                map.entry(6).bytes(&session.enrolment);
                map.entry(7).bytes(&session.secret);
            }
            if let Some(possession) = self.device.as_ref().and_then(|device| device.possession.as_ref()) {
                map.entry(8).bytes(possession);
            }
        })
    }

    /// Parses exact record bytes.
    ///
    /// # Errors
    /// [`LeafError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        let members = d.map()?;
        d.expect_key(1)?;
        let attest = d.bytes()?.to_vec();
        d.expect_key(2)?;
        let signature = d.bytes()?.to_vec();
        d.expect_key(3)?;
        let host_key = d.bytes()?.to_vec();
        let mut record = Self { attest, signature, host_key, device: None, session: None };
        // Three, with a device or a session five, with both eight.
        let mut next = match members {
            3 => None,
            5 | 8 => Some(d.key()?),
            _ => return Err(LeafError::Value("activation record")),
        };
        if next == Some(Key::Int(4)) {
            let attest = d.bytes()?.to_vec();
            d.expect_key(5)?;
            let signature = d.bytes()?.to_vec();
            record.device = Some(DeviceShown { attest, signature, possession: None });
            next = if members == 8 { Some(d.key()?) } else { None };
        }
        match next {
            None => {}
            Some(Key::Int(6)) => {
                let enrolment = d.byte_array()?;
                d.expect_key(7)?;
                record.session = Some(Session { enrolment, secret: d.byte_array()? });
            }
            Some(_) => return Err(d.unknown_key().into()),
        }
        if members == 8 {
            let device = record.device.as_mut().ok_or(LeafError::Value("activation record"))?;
            d.expect_key(8)?;
            device.possession = Some(d.bytes()?.to_vec());
        }
        decoder.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(device: bool, session: bool) -> ActivationRecord {
        let possession = session.then(|| vec![8]);
        ActivationRecord {
            attest: vec![1],
            signature: vec![2],
            host_key: vec![3],
            device: device.then(|| DeviceShown { attest: vec![4], signature: vec![5], possession }),
            session: session.then_some(Session { enrolment: [6; 16], secret: [7; 32] }),
        }
    }

    #[test]
    fn all_four_forms_read_as_they_were_written() {
        for (device, session) in [(false, false), (true, false), (false, true), (true, true)] {
            let record = record(device, session);
            assert_eq!(ActivationRecord::parse(&record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn other_members_are_refused() {
        let whole = record(true, true);
        let mut without_possession = whole.clone();
        without_possession.device.as_mut().unwrap().possession = None;
        let mut without_session = whole.clone();
        without_session.session = None;
        let mut possession_alone = record(false, true).encode();
        possession_alone[0] = 0xa6;
        possession_alone.extend([8, 0x41, 8]);
        let nine = [&[0xa9][..], &whole.encode()[1..], &[9, 0xf6]].concat();
        for bytes in
            [without_possession.encode(), without_session.encode(), possession_alone, nine, vec![0xa0]]
        {
            assert!(ActivationRecord::parse(&bytes).is_err());
        }
        let bytes = whole.encode();
        for end in 0..bytes.len() {
            assert!(ActivationRecord::parse(&bytes[..end]).is_err());
        }
    }
}
