//! Bodies that neither decide nor control: heartbeats, fault counts, join tokens, outcomes (PROTOCOL §8.10, §8.11, §8.13, §8.14).

use super::LeafError;
use super::field::read_code_or_null;
use crate::cbor::{Decoder, encode_map};
use crate::digest::Sha256Digest;
use crate::refusal::RefusalCode;
use std::collections::BTreeMap;

/// Why a heartbeat was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatReason {
    /// Nothing else kept the head young.
    Idle,
    /// The authority started.
    Start,
    /// The signer came back.
    SignerBack,
    /// A counter that only rises, kept where the store isn't, is about to be raised to this value.
    Counter {
        /// Which counter.
        id: [u8; 16],
        /// Its next value.
        value: u64,
    },
}

/// Body of a heartbeat leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat(pub HeartbeatReason);

impl Heartbeat {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).uint(match self.0 {
                HeartbeatReason::Idle => 1,
                HeartbeatReason::Start => 2,
                HeartbeatReason::SignerBack => 3,
                HeartbeatReason::Counter { .. } => 4,
            });
            if let HeartbeatReason::Counter { id, value } = &self.0 {
                map.entry(2).array(|counter| {
                    counter.item().bytes(id);
                    counter.item().uint(*value);
                });
            }
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let entries = decoder.map()?;
        if entries == 0 {
            return Err(LeafError::Value("heartbeat reason"));
        }
        decoder.expect_key(1)?;
        let reason = match (decoder.uint()?, entries) {
            (1, 1) => HeartbeatReason::Idle,
            (2, 1) => HeartbeatReason::Start,
            (3, 1) => HeartbeatReason::SignerBack,
            (4, 2) => {
                decoder.expect_key(2)?;
                decoder.array_of(2)?;
                HeartbeatReason::Counter { id: decoder.byte_array()?, value: decoder.uint()? }
            }
            _ => return Err(LeafError::Value("heartbeat reason")),
        };
        decoder.finish()?;
        Ok(Self(reason))
    }
}

/// Body of a faults leaf: what was refused while it could not be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How often, by code.
    pub counts: BTreeMap<RefusalCode, u64>,
    /// Since when, ms.
    pub since_ms: u64,
}

impl Faults {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).map(|counts| {
                for (code, count) in &self.counts {
                    counts.entry(code.as_str()).uint(*count);
                }
            });
            map.entry(2).uint(self.since_ms);
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(2)?;
        decoder.expect_key(1)?;
        let mut counts = BTreeMap::new();
        for _ in 0..decoder.map()? {
            let crate::cbor::Key::Text(code) = decoder.key()? else { return Err(LeafError::Value("code")) };
            let code = RefusalCode::parse(code).ok_or(LeafError::Value("code"))?;
            counts.insert(code, decoder.uint()?);
        }
        decoder.expect_key(2)?;
        let since_ms = decoder.uint()?;
        decoder.finish()?;
        Ok(Self { counts, since_ms })
    }
}

/// Body of a join-token leaf. The token itself is never recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// [`join_token_digest`] of the token.
    pub token: Sha256Digest,
    /// Until when it may be used, ms.
    pub expires_ms: u64,
    /// Who made it.
    pub by: Sha256Digest,
}

/// Digest under which a join token is known (PROTOCOL §8.13).
#[must_use]
pub fn join_token_digest(token: &str) -> Sha256Digest {
    crate::tuple::tuple_digest("countersign-v1:join-token", &[token.as_bytes()])
}

impl JoinToken {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.token.as_bytes());
            map.entry(2).uint(self.expires_ms);
            map.entry(3).bytes(self.by.as_bytes());
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(3)?;
        decoder.expect_key(1)?;
        let token = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(2)?;
        let expires_ms = decoder.uint()?;
        decoder.expect_key(3)?;
        let by = Sha256Digest::new(decoder.byte_array()?);
        decoder.finish()?;
        Ok(Self { token, expires_ms, by })
    }
}

/// Body of an outcome leaf: what a gateway did with an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The gateway's key thumbprint.
    pub gateway: Sha256Digest,
    /// Index and leaf hash of the artifact.
    pub artifact: (u64, Sha256Digest),
    /// `None`: the action was started. Otherwise why it was refused.
    pub refused: Option<RefusalCode>,
    /// The gateway's clock, ms.
    pub time_ms: u64,
}

impl Outcome {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.gateway.as_bytes());
            map.entry(2).array(|artifact| {
                artifact.item().uint(self.artifact.0);
                artifact.item().bytes(self.artifact.1.as_bytes());
            });
            map.entry(3).uint(if self.refused.is_none() { 1 } else { 2 });
            match self.refused {
                Some(code) => map.entry(4).text(code.as_str()),
                None => map.entry(4).null(),
            }
            map.entry(5).uint(self.time_ms);
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(5)?;
        decoder.expect_key(1)?;
        let gateway = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(2)?;
        decoder.array_of(2)?;
        let artifact = (decoder.uint()?, Sha256Digest::new(decoder.byte_array()?));
        decoder.expect_key(3)?;
        let result = decoder.uint()?;
        decoder.expect_key(4)?;
        let refused = read_code_or_null(&mut decoder)?;
        if !matches!((result, refused), (1, None) | (2, Some(_))) {
            return Err(LeafError::Value("outcome"));
        }
        decoder.expect_key(5)?;
        let time_ms = decoder.uint()?;
        decoder.finish()?;
        Ok(Self { gateway, artifact, refused, time_ms })
    }
}
