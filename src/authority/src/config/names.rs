//! Names and addresses of the server's certificate.
//!
//! Refused: what neither a certificate nor a client could take as the name of a server (RFC 6125 §6.4.3: a wildcard stands for the first label).

use super::Config;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, de};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn server_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let is_none = |name: &&String| ServerName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_err();
    match names.iter().find(is_none) {
        Some(name) => Err(de::Error::custom(format!("{name:?} is neither a DNS name nor an IP address"))),
        None => Ok(names),
    }
}

impl Config {
    /// What the server's certificate is for: the configured names, and those under which operators reach the admin listener.
    #[must_use]
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = self.server_names.clone();
        let admin = Some(self.admin.listen.ip()).filter(|address| !address.is_unspecified());
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let more = admin.into_iter().chain(loopback).map(|address| address.to_string());
        for name in std::iter::once("localhost".to_owned()).chain(more) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
