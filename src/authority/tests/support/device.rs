//! A host on a software TPM whose every byte its tests choose: keys in the TPM, quotes over whatever they like, calls made of them.
//!
//! Each use opens the TPM and lets go of it, so that the machine can be reset, suspended and put back in between.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this file")]

use crate::support::{House, ORIGIN, fresh_key, request, signed};
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::{
    ArtifactsCall, B64, ChallengeOffer, EnrolmentBegin, EnrolmentFinish, EvidenceDocument, PcrValue,
    SignedRequestDocument,
};
use countersign_core::digest::sha256;
use countersign_core::name::HostId;
use countersign_core::note::ecdsa_fixed_to_der;
use countersign_core::request::{activation_data, qualifying_data, request_root};
use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::device::{Attested, EkProfile, HostTpm, KeyBlob, KeyId};
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use p256::ecdsa::SigningKey as Holder;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// What a TPM keeps and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    tcti: String,
    ak: KeyBlob,
    host: KeyBlob,
}

impl Keys {
    /// Works with the TPM, the AK and the host key.
    fn with<T>(&self, work: impl FnOnce(&mut HostTpm, KeyId, KeyId) -> T) -> T {
        let mut tpm = HostTpm::open(&self.tcti).unwrap();
        let (ak, host) = (tpm.load(&self.ak).unwrap(), tpm.load(&self.host).unwrap());
        work(&mut tpm, ak, host)
    }
}

/// The host key, as TLS uses it.
#[derive(Clone, Debug)]
struct TlsKey(Keys);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = self.0.with(|tpm, _, host| tpm.sign_digest(host, sha256(message).as_bytes()));
        Ok(ecdsa_fixed_to_der(&signed.unwrap()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// An enrolled host on a software TPM.
pub(crate) struct Device {
    pub(crate) swtpm: SwTpm,
    pub(crate) boot: SimulatedBoot,
    pub(crate) keys: Keys,
    pub(crate) id: HostId,
    pub(crate) client: Client,
    pub(crate) holder: Holder,
}

impl Device {
    /// Sets a TPM up, boots it and enrols it.
    pub(crate) async fn enrolled(house: &House, ca: &SwTpmCa) -> Self {
        let swtpm = SwTpm::start(ca);
        let mut tpm = HostTpm::open(&swtpm.tcti()).unwrap();
        let ek = tpm.ek_public(EkProfile::P256).unwrap();
        let (ak, host) = (tpm.create_attestation_key().unwrap(), tpm.create_signing_key().unwrap());
        let keys = Keys { tcti: swtpm.tcti(), ak, host };
        let ek_certificate = house.maker.certify_key(&ek, |params| {
            params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        });
        drop(tpm);
        let begin = EnrolmentBegin {
            token: Some(house.token().await),
            ek_certificate: Some(B64(ek_certificate)),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(ek.bytes().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: B64(keys.ak.public().to_vec()),
            host_key_public: B64(keys.host.public().to_vec()),
            idevid: None,
        };
        let anyone = house.service(ClientIdentity::Anonymous);
        let offer = anyone.begin_enrolment(&begin).await.unwrap();
        let finish = keys.with(|tpm, ak, host| {
            let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
            let opened = tpm.activate_credential(EkProfile::P256, ak, object, secret).unwrap();
            let secret: [u8; 32] = opened.as_slice().try_into().unwrap();
            let id = data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap();
            let nonce = activation_data(ORIGIN, &id.try_into().unwrap(), &secret);
            let Attested { attest, signature } = tpm.certify(host, ak, nonce.as_bytes()).unwrap();
            EnrolmentFinish {
                secret: B64(secret.to_vec()),
                attest: B64(attest),
                signature: B64(signature),
                idevid: None,
            }
        });
        let enrolled = anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
        let identity = ClientIdentity::Key {
            certificates: enrolled.certificates.into_iter().map(|der| der.0).collect(),
            key: Arc::new(TlsKey(keys.clone())),
        };
        let (client, boot) = (house.service(identity), SimulatedBoot::new(&BootOptions::default()));
        let id = HostId::from_hex(&enrolled.host).unwrap();
        let this = Self { swtpm, boot, keys, id, client, holder: fresh_key() };
        this.measure();
        this
    }

    /// What firmware does after a reset.
    pub(crate) fn measure(&self) {
        self.keys.with(|tpm, _, _| {
            for measured in self.boot.measurements() {
                let digests =
                    [(HashAlg::Sha256, &measured.sha256[..]), (HashAlg::Sha384, &measured.sha384[..])];
                tpm.extend(measured.pcr, &digests).unwrap();
            }
        });
    }

    /// Extends one register in both banks by the digests of `data`.
    pub(crate) fn extend(&self, pcr: u32, data: &[u8]) {
        let digests = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| (bank, bank.digest(data)));
        let [first, second] = &digests;
        self.keys.with(|tpm, _, _| {
            tpm.extend(pcr, &[(first.0, &first.1), (second.0, &second.1)]).unwrap();
        });
    }

    /// Resets the machine and boots it as ever.
    pub(crate) fn reboot(&self) {
        self.swtpm.reboot();
        self.measure();
    }

    /// A request's bytes.
    pub(crate) fn request(&self, id: &str) -> Vec<u8> {
        request(&self.id, &self.holder, id)
    }

    pub(crate) fn signed(&self, request: &[u8]) -> SignedRequestDocument {
        signed(&self.holder, request)
    }

    /// A quote by this TPM's AK over whatever challenge, requests and registers, and the values of these.
    pub(crate) fn evidence(
        &self,
        challenge: &[u8],
        requests: &[&[u8]],
        bank: HashAlg,
        pcrs: &[u32],
    ) -> EvidenceDocument {
        let digests: Vec<_> = requests.iter().map(|request| sha256(request)).collect();
        let nonce = qualifying_data(ORIGIN, challenge, &request_root(&digests));
        let selection = PcrSelectionSpec::new(bank, pcrs).unwrap();
        let made =
            self.keys.with(|tpm, ak, _| tpm.quote_with_values(ak, nonce.as_bytes(), &selection).unwrap());
        let hex = |value: &[u8]| data_encoding::HEXLOWER.encode(value);
        let value = |(index, value): &(u32, Vec<u8>)| PcrValue { index: *index, value: hex(value) };
        EvidenceDocument {
            attest: B64(made.attest),
            signature: B64(made.signature),
            bank: bank.id(),
            pcrs: made.pcr_values.iter().map(value).collect(),
            boot_log: Some(sha256(self.boot.log()).to_hex()),
            ima: None,
            members: vec![B64(self.boot.log().to_vec())],
        }
    }

    /// Evidence as it is asked for.
    pub(crate) fn asked(&self, offer: &ChallengeOffer, requests: &[&[u8]]) -> EvidenceDocument {
        self.evidence(&offer.challenge.0, requests, HashAlg::from_id(offer.bank).unwrap(), &offer.pcrs)
    }

    /// The host key, certified by the AK over the nonce of a quote: something that the AK signs and that is no quote.
    pub(crate) fn certification(&self, challenge: &[u8], request: &[u8]) -> Attested {
        let nonce = qualifying_data(ORIGIN, challenge, &request_root(&[sha256(request)]));
        self.keys.with(|tpm, ak, host| tpm.certify(host, ak, nonce.as_bytes()).unwrap())
    }

    /// `allow`, or the code of a denial.
    pub(crate) async fn verdict(&self, id: &str) -> String {
        let decision = self.client.artifacts(&self.call(id).await).await.unwrap().decisions.remove(0);
        decision.code.unwrap_or(decision.verdict)
    }

    /// An honest call for one artifact.
    pub(crate) async fn call(&self, id: &str) -> ArtifactsCall {
        let offer = self.client.challenge().await.unwrap();
        let request = self.request(id);
        ArtifactsCall {
            evidence: self.asked(&offer, &[&request]),
            challenge: offer.challenge,
            requests: vec![self.signed(&request)],
        }
    }

    /// Copies the TPM's permanent state to or from a folder. The TPM is stopped.
    pub(crate) fn copy_state(&self, folder: &Path, back: bool) {
        let own = self.swtpm.ek_rsa_cert_path().parent().unwrap().join("tpm2-00.permall");
        let kept = folder.join("permall");
        let (from, to) = if back { (kept, own) } else { (own, kept) };
        std::fs::copy(from, to).unwrap();
    }
}
