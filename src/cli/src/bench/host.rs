//! One simulated host: asks for a challenge, quotes over it, signs a request, takes the artifact and checks it.
//!
//! Comes in: a booted simulated TPM, a holder key, a client with the host's own certificate. Goes out: [`Issued`], or a [`CallFailure`] by its
//! stable code. Refused: whatever isn't an allow leaf included under its own head; where asked, also a head that no head key of the trust
//! bundle signed, and claims of another request.

use super::window::CallFailure;
use anyhow::Context;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use countersign_client::{Client, ClientError};
use countersign_core::api::{
    ArtifactsAnswer, ArtifactsCall, AttestationCall, B64, ChallengeOffer, EvidenceDocument, PcrValue,
    SignedRequestDocument,
};
use countersign_core::artifact::{Receipt, verify_note_with};
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{JsonKey, SignatureInvalid, VerifyingKey};
use countersign_core::leaf::Kind;
use countersign_core::leaf::decision::Decision;
use countersign_core::name::{HostId, RuntimeId};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{
    RequestDocument, argv_digest, holder_preimage, qualifying_data, request_root,
};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::signature::Signature as TpmSignature;
use countersign_tpm::simulated::{Attestation, SimulatedTpm};
use data_encoding::HEXLOWER;
use std::time::Instant;

/// Lifetime that requests ask for.
const TTL_SECS: u64 = 60;

/// What every host knows of the log.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) origin: String,
    pub(crate) head_keys: Vec<VerifyingKey>,
}

impl Log {
    pub(crate) fn new(bundle: &TrustBundle) -> Self {
        Self { origin: bundle.origin().as_str().to_owned(), head_keys: bundle.head_keys().to_vec() }
    }
}

/// An enrolled host.
pub(crate) struct Host {
    id: HostId,
    tpm: SimulatedTpm,
    /// When the TPM's clock was set last.
    clock: Instant,
    boot_log: Vec<u8>,
    boot_log_digest: String,
    holder: Ed25519KeyPair,
    client: Client,
    /// Everything but the identifier.
    request: RequestDocument,
    /// Makes identifiers unique among runs.
    run: String,
    requests: u64,
}

/// A checked artifact.
pub(crate) struct Issued {
    pub(crate) leaf: Vec<u8>,
}

/// Inputs of the cryptographic floor.
pub(crate) struct Typical {
    quote: (VerifyingKey, Vec<u8>, Vec<u8>),
    holder: (VerifyingKey, Vec<u8>, Vec<u8>),
    pub(crate) leaf: Vec<u8>,
}

impl Typical {
    pub(crate) fn verify_quote(&self) -> Result<(), SignatureInvalid> {
        self.quote.0.verify(&self.quote.1, &self.quote.2)
    }

    pub(crate) fn verify_holder(&self) -> Result<(), SignatureInvalid> {
        self.holder.0.verify(&self.holder.1, &self.holder.2)
    }
}

impl Host {
    pub(crate) fn new(
        bundle: &TrustBundle,
        id: HostId,
        tpm: SimulatedTpm,
        boot_log: Vec<u8>,
        client: Client,
        run: &str,
    ) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("the system gives no randomness")?;
        let holder = Ed25519KeyPair::from_seed_unchecked(&seed).context("holder key")?;
        let request = RequestDocument {
            v: 1,
            id: String::new(),
            host: id.to_hex(),
            runtime: RuntimeId::new(bundle.trust_domain(), &id, "bench")?.as_str().to_owned(),
            holder: JsonKey::from(holder_key(&holder)?),
            workload: sha256(b"the program of a load generator").to_hex(),
            action: "exec".to_owned(),
            args: argv_digest(&["true"]).to_hex(),
            aud: "bench".to_owned(),
            ttl_secs: TTL_SECS,
            parents: Vec::new(),
            delegation: None,
        };
        let boot_log_digest = sha256(&boot_log).to_hex();
        let run = run.to_owned();
        Ok(Self {
            id,
            tpm,
            clock: Instant::now(),
            boot_log,
            boot_log_digest,
            holder,
            client,
            request,
            run,
            requests: 0,
        })
    }

    pub(crate) const fn id(&self) -> &HostId {
        &self.id
    }

    /// Opens the connection that the host keeps.
    pub(crate) async fn connect(&self) -> Result<(), CallFailure> {
        Ok(self.client.livez().await?)
    }

    /// One artifact, start to end. `thorough` checks the head's signature and the claims too.
    pub(crate) async fn issue(&mut self, log: &Log, thorough: bool) -> Result<Issued, CallFailure> {
        let offer = self.client.challenge().await?;
        let (request, signature, digest) = self.signed_request()?;
        let evidence = self.evidence(log, &offer, &request_root(&[digest]))?;
        let mut call = ArtifactsCall {
            challenge: offer.challenge,
            requests: vec![SignedRequestDocument {
                request: B64(request),
                signature: B64(signature),
                consents: Vec::new(),
            }],
            evidence,
        };
        let answer = match self.client.artifacts(&call).await {
            Err(error) if wants_members(&error) => {
                call.evidence.members = vec![B64(self.boot_log.clone())];
                self.client.artifacts(&call).await?
            }
            other => other?,
        };
        check(&answer, log, &digest, thorough)
    }

    /// Evidence without requests: makes the host known as good, so that references can be captured from it.
    pub(crate) async fn attest(&mut self, log: &Log) -> anyhow::Result<()> {
        let offer = self.client.challenge().await?;
        let mut evidence =
            self.evidence(log, &offer, &request_root(&[])).map_err(|failure| failure.into_error())?;
        evidence.members = vec![B64(self.boot_log.clone())];
        let call = AttestationCall { challenge: offer.challenge, evidence };
        let answer = self.client.attest(&call).await?;
        match answer.code {
            None => Ok(()),
            Some(code) => anyhow::bail!("the evidence of a simulated host was refused: {code}"),
        }
    }

    /// What one artifact makes the authority verify.
    pub(crate) fn typical(&self, leaf: Vec<u8>) -> anyhow::Result<Typical> {
        let selection = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])?;
        let Attestation { attest, signature } = self.tpm.quote(sha256(&leaf).as_bytes(), &selection)?;
        let TpmSignature::Ecdsa { r, s, .. } = TpmSignature::parse(&signature)? else {
            anyhow::bail!("the simulated AK isn't an ECDSA key");
        };
        let padded = |number: &[u8]| [&vec![0; 32_usize.saturating_sub(number.len())], number].concat();
        let ak = self.tpm.ak_public().key().sec1().context("the simulated AK isn't an ECDSA key")?;
        let ak = VerifyingKey::p256(ak.as_slice().try_into().context("AK point")?)?;
        let preimage = holder_preimage(&serde_json::to_vec(&self.request)?);
        let by_holder = self.holder.sign(&preimage).as_ref().to_vec();
        Ok(Typical {
            quote: (ak, attest, [padded(&r), padded(&s)].concat()),
            holder: (holder_key(&self.holder)?, preimage, by_holder),
            leaf,
        })
    }

    fn signed_request(&mut self) -> Result<(Vec<u8>, Vec<u8>, Sha256Digest), CallFailure> {
        self.requests += 1;
        self.request.id = format!("{}-{}", self.run, self.requests);
        let request =
            serde_json::to_vec(&self.request).map_err(|error| CallFailure::own("request", error))?;
        let signature = self.holder.sign(&holder_preimage(&request)).as_ref().to_vec();
        let digest = sha256(&request);
        Ok((request, signature, digest))
    }

    fn evidence(
        &mut self,
        log: &Log,
        offer: &ChallengeOffer,
        root: &Sha256Digest,
    ) -> Result<EvidenceDocument, CallFailure> {
        let bank = HashAlg::from_id(offer.bank).map_err(|error| CallFailure::own("offer", error))?;
        let selection =
            PcrSelectionSpec::new(bank, &offer.pcrs).map_err(|error| CallFailure::own("offer", error))?;
        let passed = self.clock.elapsed();
        self.clock += passed;
        // Rounded up: a TPM's clock never stands still between two calls.
        self.tpm.advance_ms(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
        let qualifying = qualifying_data(&log.origin, &offer.challenge.0, root);
        let simulated = |error| CallFailure::own("simulated-tpm", error);
        let Attestation { attest, signature } =
            self.tpm.quote(qualifying.as_bytes(), &selection).map_err(simulated)?;
        let values = self.tpm.pcr_values(&selection).map_err(simulated)?;
        let pcrs = values
            .into_iter()
            .map(|(index, value)| PcrValue { index, value: HEXLOWER.encode(&value) })
            .collect();
        Ok(EvidenceDocument {
            attest: B64(attest),
            signature: B64(signature),
            bank: offer.bank,
            pcrs,
            boot_log: Some(self.boot_log_digest.clone()),
            ima: None,
            members: Vec::new(),
        })
    }
}

fn wants_members(error: &ClientError) -> bool {
    error.code() == Some(RefusalCode::EvidenceNeeded)
}

fn holder_key(pair: &Ed25519KeyPair) -> anyhow::Result<VerifyingKey> {
    Ok(VerifyingKey::ed25519(pair.public_key().as_ref().try_into().context("holder key")?)?)
}

/// PROTOCOL §6.4 and §13 as far as a runtime can go that holds the trust bundle and no newer head.
fn check(
    answer: &ArtifactsAnswer,
    log: &Log,
    request: &Sha256Digest,
    thorough: bool,
) -> Result<Issued, CallFailure> {
    let [decision] = answer.decisions.as_slice() else {
        return Err(CallFailure::own("bad-answer", "not one decision for one request"));
    };
    if let Some(code) = &decision.code {
        return Err(CallFailure::denied(code));
    }
    let receipt =
        Receipt::parse(&decision.receipt).map_err(|error| CallFailure::own(error.code().as_str(), error))?;
    if receipt.leaf().kind != Kind::Allow {
        return Err(CallFailure::own("not-an-allow", "the leaf isn't an allow decision"));
    }
    if thorough {
        verify_note_with(receipt.note(), &log.origin, &log.head_keys)
            .map_err(|error| CallFailure::own(error.code().as_str(), error))?;
        let claims =
            Decision::parse(&receipt.leaf().body).map_err(|error| CallFailure::own("bad-claims", error))?;
        if receipt.head().origin != log.origin || claims.request != *request {
            return Err(CallFailure::own("bad-claims", "the artifact is for another request or log"));
        }
    }
    Ok(Issued { leaf: receipt.leaf_bytes().to_vec() })
}
