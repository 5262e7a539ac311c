//! Names that appear in requests and leaves (PROTOCOL §1.6, §2): each a type whose only constructor checks its form.

use std::fmt;

use crate::checkpoint::is_origin;

/// A name that doesn't have the form of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct NameInvalid(pub &'static str);

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Checks the form of a ", $what, ".")]
            pub fn parse(text: &str) -> Result<Self, NameInvalid> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(NameInvalid($what)) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(
    /// Name of the log and issuer (PROTOCOL §1.6).
    Origin, "origin", is_origin);
text_name!(
    /// Identifier of a request, unique per host (PROTOCOL §2).
    RequestId, "request identifier", is_request_id);
text_name!(
    /// What is to be done (PROTOCOL §2).
    Action, "action", is_action);
text_name!(
    /// The gateway or domain for which an artifact is meant (PROTOCOL §2).
    Audience, "audience", is_audience);
text_name!(
    /// SPIFFE trust domain: 1 to 255 characters of `[a-z0-9._-]` (SPIFFE-ID §2.1).
    TrustDomain, "trust domain", is_trust_domain);

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

/// Whether operators and gateways may be called this (PROTOCOL §8.9): 1 to 64 characters of `[A-Za-z0-9._-]`.
#[must_use]
pub fn is_principal_name(text: &str) -> bool {
    is_request_id(text)
}

fn is_request_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_action(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_audience(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| is_name_byte(b) || matches!(b, b':' | b'/'))
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

/// Host identifier: the UEID `0x01 || SHA-256(SPKI of the EK)` (PROTOCOL §2, RFC 9711 §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId([u8; 33]);

impl HostId {
    /// Checks length and the UEID type byte (0x01, RAND).
    pub fn from_slice(bytes: &[u8]) -> Result<Self, NameInvalid> {
        let array: [u8; 33] = bytes.try_into().map_err(|_| NameInvalid("host identifier"))?;
        if array.first() == Some(&0x01) { Ok(Self(array)) } else { Err(NameInvalid("host identifier")) }
    }

    /// From 66 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, NameInvalid> {
        let bytes =
            data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| NameInvalid("host identifier"))?;
        Self::from_slice(&bytes)
    }

    /// The 33 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }

    /// 66 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Runtime identifier `spiffe://<trust domain>/host/<host identifier>/<path>` (PROTOCOL §2). The path is the agent's word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuntimeId {
    text: String,
    trust_domain: TrustDomain,
    host: HostId,
}

impl RuntimeId {
    /// Checks the form; whether host and trust domain are the caller's is the verifier's question.
    pub fn parse(text: &str) -> Result<Self, NameInvalid> {
        let bad = NameInvalid("runtime identifier");
        let rest = text.strip_prefix("spiffe://").ok_or(bad)?;
        let mut parts = rest.split('/');
        let trust_domain = TrustDomain::parse(parts.next().ok_or(bad)?).map_err(|_| bad)?;
        if parts.next() != Some("host") {
            return Err(bad);
        }
        let host = HostId::from_hex(parts.next().ok_or(bad)?).map_err(|_| bad)?;
        let mut segments = 0_usize;
        for segment in parts {
            segments += 1;
            // SPIFFE-ID §2.2: no empty and no relative segments.
            let relative = segment == "." || segment == "..";
            if segment.is_empty() || segment.len() > 64 || relative || !segment.bytes().all(is_name_byte) {
                return Err(bad);
            }
        }
        if !(1..=4).contains(&segments) {
            return Err(bad);
        }
        Ok(Self { text: text.to_owned(), trust_domain, host })
    }

    /// Joins the parts; refuses a path that isn't of the form.
    pub fn new(trust_domain: &TrustDomain, host: &HostId, path: &str) -> Result<Self, NameInvalid> {
        Self::parse(&format!("spiffe://{trust_domain}/host/{host}/{path}"))
    }

    /// The whole identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The host under which it stands.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }
}

impl fmt::Display for RuntimeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostId {
        HostId::from_slice(&[1; 33]).unwrap()
    }

    #[test]
    fn origins_have_no_spaces_plus_signs_or_controls() {
        assert!(Origin::parse("demo.countersign.example/log").is_ok());
        for bad in ["", "a b", "https://a.example/log", "a+b", "a\nb", "é", &"x".repeat(256)] {
            assert!(Origin::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn actions_begin_with_a_lower_case_letter() {
        assert!(Action::parse("exec").is_ok());
        for bad in ["", "Exec", "1exec", "ex ec", "-x"] {
            assert!(Action::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_identifiers_are_random_type_ueids_in_lower_case() {
        assert_eq!(HostId::from_hex(&host().to_hex()).unwrap(), host());
        assert!(HostId::from_slice(&[2; 33]).is_err());
        assert!(HostId::from_slice(&[1; 32]).is_err());
        assert!(HostId::from_hex(&format!("01{}", "AB".repeat(32))).is_err());
    }

    #[test]
    fn runtime_identifiers_stand_under_one_host() {
        let td = TrustDomain::parse("demo.example").unwrap();
        let id = RuntimeId::new(&td, &host(), "payments/worker").unwrap();
        assert_eq!(RuntimeId::parse(id.as_str()).unwrap(), id);
        assert_eq!(id.host(), &host());
        for path in ["", "a/", "../a", "a/b/c/d/e", "a b", "."] {
            assert!(RuntimeId::new(&td, &host(), path).is_err(), "{path:?}");
        }
        assert!(RuntimeId::parse("spiffe://demo.example/node/x/y").is_err());
    }
}
