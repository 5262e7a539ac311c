//! Enrolment of simulated hosts through the real API (PROTOCOL §12): join token, credential activation, certification of the host key.
//!
//! Comes in: a fleet, an admin client for tokens, the service URL. Goes out: hosts with their own certificates. Many enrol at once, within a
//! bound, since each waits for a signature of the head key; what the authority puts off is tried again a few times.

use super::fleet::{Fleet, FleetHost};
use super::host::Host;
use anyhow::{Context, bail};
use countersign_client::{Client, ClientError, ClientIdentity, Limits};
use countersign_core::api::admin::JoinTokenCall;
use countersign_core::api::{B64, EnrolmentBegin, EnrolmentFinish};
use countersign_core::bundle::TrustBundle;
use countersign_core::name::HostId;
use countersign_core::request::activation_data;
use countersign_tpm::ek;
use indicatif::ProgressBar;
use p256::pkcs8::EncodePrivateKey;
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Enrolments at once: with a key that signs five times a second, 64 at once enrol 1,000 hosts in about 15 s.
const AT_ONCE: usize = 64;
/// Tries of one enrolment.
const ATTEMPTS: u32 = 8;
const TOKEN_TTL_SECS: u64 = 600;

/// What every enrolment needs.
pub(crate) struct Enroller {
    pub(crate) url: String,
    pub(crate) bundle: TrustBundle,
    pub(crate) admin: Client,
    /// Without an identity: nobody has one before enrolment.
    pub(crate) service: Client,
    pub(crate) run: String,
}

/// Enrols hosts 0 to `count`.
pub(crate) async fn enrol_fleet(
    enroller: Enroller,
    fleet: &Fleet,
    count: u32,
    boot_log_bytes: usize,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Host>> {
    let enroller = Arc::new(enroller);
    let mut under_way = JoinSet::new();
    let mut hosts = Vec::new();
    for number in 0..count {
        if under_way.len() >= AT_ONCE
            && let Some(enrolled) = under_way.join_next().await
        {
            hosts.push(enrolled??);
            bar.inc(1);
        }
        let host = fleet.host(number, boot_log_bytes)?;
        let enroller = Arc::clone(&enroller);
        under_way.spawn(async move {
            enroller.enrol(host, number).await.with_context(|| format!("simulated host {number}"))
        });
    }
    while let Some(enrolled) = under_way.join_next().await {
        hosts.push(enrolled??);
        bar.inc(1);
    }
    Ok(hosts)
}

impl Enroller {
    async fn enrol(&self, host: FleetHost, number: u32) -> anyhow::Result<Host> {
        let mut attempt = 1;
        // Spent by the finish only, so one token serves all tries.
        let token = self.admin.make_join_token(&JoinTokenCall { ttl_secs: TOKEN_TTL_SECS }).await?.token;
        let certificates = loop {
            match self.try_enrol(&host, &token).await {
                Ok(certificates) => break certificates,
                Err(error) => match wait_before_retry(&error) {
                    Some(wait) if attempt < ATTEMPTS => tokio::time::sleep(wait).await,
                    _ => return Err(error),
                },
            }
            attempt += 1;
        };
        let id = HostId::from_slice(&ek::ueid(host.tpm.ek_public()))?;
        let client = self.host_client(&host, certificates)?;
        let run = format!("{}-{number}", self.run);
        Host::new(&self.bundle, id, host.tpm, host.boot_log, client, &run)
    }

    /// A spent enrolment can't be finished twice, so every try begins anew.
    async fn try_enrol(&self, host: &FleetHost, token: &str) -> anyhow::Result<Vec<Vec<u8>>> {
        let begin = EnrolmentBegin {
            token: Some(token.to_owned()),
            ek_certificate: Some(B64(host.ek_certificate.clone())),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(host.tpm.ek_public_tpmt().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: B64(host.tpm.ak_public().bytes().to_vec()),
            host_key_public: B64(host.tpm.host_public().bytes().to_vec()),
            idevid: None,
        };
        let offer = self.service.begin_enrolment(&begin).await?;
        let secret = host.tpm.activate_credential(&offer.id_object.0, &offer.encrypted_secret.0)?;
        let known: &[u8; 32] = secret.as_slice().try_into().context("the activated secret isn't 32 bytes")?;
        let enrolment =
            data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).context("enrolment identifier")?;
        let enrolment: &[u8; 16] = enrolment.as_slice().try_into().context("enrolment identifier")?;
        let activation = activation_data(self.bundle.origin().as_str(), enrolment, known);
        let certified = host.tpm.certify_host_key(activation.as_bytes())?;
        let finish = EnrolmentFinish {
            secret: B64(secret),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid: None,
        };
        let enrolled = self.service.finish_enrolment(&offer.enrolment, &finish).await?;
        if enrolled.certificates.is_empty() {
            bail!("the authority enrolled a host without a certificate");
        }
        Ok(enrolled.certificates.into_iter().map(|certificate| certificate.0).collect())
    }

    fn host_client(&self, host: &FleetHost, certificates: Vec<Vec<u8>>) -> anyhow::Result<Client> {
        let key = host.tpm.host_signing_key().to_pkcs8_der()?;
        let key = PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into());
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
        let identity = ClientIdentity::Key { certificates, key };
        let limits = Limits { idle_connections: 1, connect: Duration::from_secs(20), ..Limits::default() };
        Ok(Client::with_limits(&self.url, identity, self.bundle.ca_certificates(), limits)?)
    }
}

/// How long to wait if trying again may help.
fn wait_before_retry(error: &anyhow::Error) -> Option<Duration> {
    match error.downcast_ref::<ClientError>()? {
        ClientError::Problem { status: 429 | 503, retry_after, .. } => {
            Some(retry_after.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(10)))
        }
        ClientError::Problem { .. } | ClientError::BadAnswer(_) => None,
        ClientError::Unreachable { .. } => Some(Duration::from_millis(200)),
    }
}
