//! What the tests of the running authority share: an authority on a real SoftHSM token, hosts on simulated TPMs, gateways, operators.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of this file")]

pub(crate) mod raw;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use countersign_authority::api::admin::principals::possession_preimage;
use countersign_authority::config::{Config, EkProfile, Enrolment, Limits, Signer};
use countersign_authority::init::{InitOptions, Initialised, Recovery, init};
use countersign_authority::policy::SCHEMA;
use countersign_authority::serve::Serving;
use countersign_client::{Client, ClientError, ClientIdentity};
use countersign_core::api::admin::{
    GatewayCall, JoinTokenCall, KeyPrepared, Keys, OperatorCall, PolicyCall, PrepareKeyCall, RotateCall,
};
use countersign_core::api::{
    ApprovalDocument, ArtifactsAnswer, ArtifactsCall, AttestationCall, B64, CertificateIssued,
    ChallengeOffer, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, EvidenceDocument, NamedKey, PcrValue,
    SignedRequestDocument,
};
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{PolicyDocument, Settings};
use countersign_core::key::{Algorithm, JsonKey, VerifyingKey};
use countersign_core::leaf::control::{KeyPurpose, Role, key_introduction, officer_addition};
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::request::{activation_data, holder_preimage, qualifying_data, request_root};
use countersign_fixture::SoftHsm;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ek::ueid;
use countersign_tpm::public::Public;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

pub(crate) const PIN: &str = "correct-horse";
pub(crate) const ORIGIN: &str = "test.example/log";
pub(crate) const TRUST_DOMAIN: &str = "test.example";

/// Permits everything, with whatever appraisal.
pub(crate) const PERMIT: &str = "permit(principal, action, resource);";

/// A manufacturer of TPMs.
pub(crate) struct Manufacturer {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root_pem: String,
}

/// A P-256 key as the tools that issue certificates take it.
pub(crate) struct EkPoint(Vec<u8>);

impl EkPoint {
    pub(crate) fn of(key: &Public) -> Self {
        Self(key.key().sec1().unwrap())
    }
}

impl rcgen::PublicKeyData for EkPoint {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Manufacturer {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test TPM Root");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }

    /// One that this one certified, and its certificate with this serial number.
    pub(crate) fn plant(&self, serial: u64) -> (Self, Vec<u8>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("Test Plant {serial}"));
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            Self { issuer: Issuer::new(params, key), root_pem: self.root_pem.clone() },
            certificate.der().to_vec(),
        )
    }

    /// An EK certificate for this TPM.
    pub(crate) fn certify(&self, tpm: &SimulatedTpm) -> Vec<u8> {
        self.certify_key(tpm.ek_public(), |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement])
    }

    /// A certificate of any P-256 key.
    pub(crate) fn certify_key(&self, key: &Public, shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "TPM");
        params.is_ca = IsCa::ExplicitNoCa;
        shape(&mut params);
        let spki = key.spki_der();
        // SubjectPublicKeyInfo of P-256 ends with the uncompressed point.
        let point = spki[spki.len() - 65..].to_vec();
        params.signed_by(&EkPoint(point), &self.issuer).unwrap().der().to_vec()
    }

    /// A certificate of a machine's own key (IDevID).
    pub(crate) fn name_device(
        &self,
        key: &impl rcgen::PublicKeyData,
        serial: Option<&str>,
        shape: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "machine");
        if let Some(serial) = serial {
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), serial);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        shape(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// A revocation list that speaks from the first of January of one year to that of another.
    pub(crate) fn revocation_list(&self, serials: &[u64], years: (i32, i32)) -> Vec<u8> {
        let revoked = |serial: &u64| rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(years.0, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(years.0, 1, 1),
            next_update: rcgen::date_time_ymd(years.1, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

pub(crate) fn pin_file(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("{PIN}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Options for an authority whose tokens are in `hsm` and whose ports the system chooses.
pub(crate) fn options(hsm: &SoftHsm, maker: &Manufacturer) -> InitOptions {
    hsm.init_token("authority", PIN, "security-officer");
    hsm.init_token("recovery", PIN, "security-officer");
    let pin_file = pin_file(hsm.directory(), "pin");
    let roots = hsm.directory().join("roots.pem");
    std::fs::write(&roots, &maker.root_pem).unwrap();
    let token = |token: &str| Signer::Pkcs11 {
        module: SoftHsm::module(),
        token: token.to_owned(),
        pin_file: pin_file.clone(),
        head_key: "head-1".to_owned(),
        ca_key: "ca".to_owned(),
        jwt_key: "jwt".to_owned(),
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    InitOptions {
        directory: hsm.directory().join("authority"),
        origin: Origin::parse(ORIGIN).unwrap(),
        trust_domain: TrustDomain::parse(TRUST_DOMAIN).unwrap(),
        server_names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        service_listen: any,
        admin_listen: any,
        store: None,
        signer: token("authority"),
        recovery: Recovery { place: token("recovery"), label: "recovery".to_owned() },
        enrolment: Enrolment { ek_roots: vec![roots], ek_profile: EkProfile::P256, ..Enrolment::default() },
        limits: Limits { drain_secs: 5, ..Limits::default() },
    }
}

/// An authority that serves, and everything around it.
pub(crate) struct House {
    pub(crate) made: Initialised,
    pub(crate) config: Config,
    pub(crate) serving: Serving,
    pub(crate) maker: Manufacturer,
    pub(crate) scratch: PathBuf,
}

/// Runs `body` against a fresh authority in a process of its own.
pub(crate) fn with_house<F: Future<Output = ()>>(
    test_name: &str,
    tweak: impl FnOnce(&mut InitOptions),
    body: impl FnOnce(House) -> F,
) {
    SoftHsm::in_child(test_name, |hsm| {
        let maker = Manufacturer::new();
        let mut options = options(hsm, &maker);
        tweak(&mut options);
        let made = init(&options).unwrap();
        let config = Config::load(&made.config).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let serving = Serving::start(config.clone()).await.unwrap();
            body(House { made, config, serving, maker, scratch: hsm.directory().to_owned() }).await;
        });
    });
}

/// A client's key and certificate in files.
pub(crate) fn identity(scratch: &Path, name: &str, key: &SigningKey, certificates: &[B64]) -> ClientIdentity {
    let key_path = scratch.join(format!("{name}.key"));
    let pem = key.to_pkcs8_pem(p256::pkcs8::LineEnding::LF).unwrap();
    std::fs::write(&key_path, pem.as_bytes()).unwrap();
    let path = scratch.join(format!("{name}.pem"));
    let ders: Vec<&[u8]> = certificates.iter().map(|der| der.0.as_slice()).collect();
    std::fs::write(&path, countersign_authority::init::files::certificates_pem(&ders)).unwrap();
    ClientIdentity::Pem { certificates: path, key: key_path }
}

pub(crate) fn fresh_key() -> SigningKey {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    SigningKey::from_slice(&bytes).unwrap()
}

pub(crate) fn verifying(key: &SigningKey) -> VerifyingKey {
    let point = key.verifying_key().to_sec1_point(false);
    VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes()).unwrap()
}

pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_bytes().to_vec()
}

pub(crate) fn named_key(name: &str, key: &SigningKey) -> NamedKey {
    let public = verifying(key);
    let possession = sign(key, &possession_preimage(ORIGIN, name, &public));
    NamedKey { name: name.to_owned(), key: JsonKey::from(public), possession: B64(possession) }
}

impl House {
    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::verify(&std::fs::read(&self.made.trust_bundle).unwrap()).unwrap()
    }

    fn client(&self, address: SocketAddr, identity: ClientIdentity) -> Client {
        let bundle = self.bundle();
        Client::new(&format!("https://{address}"), identity, bundle.ca_certificates()).unwrap()
    }

    pub(crate) fn service(&self, identity: ClientIdentity) -> Client {
        self.client(self.serving.service_addr(), identity)
    }

    pub(crate) fn admin_side(&self, identity: ClientIdentity) -> Client {
        self.client(self.serving.admin_addr(), identity)
    }

    pub(crate) fn admin_identity(&self) -> ClientIdentity {
        ClientIdentity::Pem {
            certificates: self.made.admin_certificate.clone(),
            key: self.made.admin_key.clone(),
        }
    }

    /// The first operator on the admin listener.
    pub(crate) fn admin(&self) -> Client {
        self.admin_side(self.admin_identity())
    }

    pub(crate) async fn token(&self) -> String {
        self.admin().make_join_token(&JoinTokenCall { ttl_secs: 600 }).await.unwrap().token
    }

    pub(crate) async fn permit_all(&self) {
        let document = policy(PERMIT);
        let expected_epoch = self.admin().policy().await.unwrap().epoch;
        let call = PolicyCall { document: B64(document.encode()), expected_epoch };
        self.admin().activate_policy(&call).await.unwrap();
    }

    /// A gateway with its certificate.
    pub(crate) async fn gateway(&self, name: &str) -> (ClientIdentity, CertificateIssued) {
        let key = fresh_key();
        let call = GatewayCall { subject: named_key(name, &key) };
        let issued = self.admin().add_gateway(&call).await.unwrap();
        (identity(&self.scratch, name, &key, &issued.certificates), issued)
    }

    /// An operator with its certificate.
    pub(crate) async fn operator(&self, name: &str, role: Role) -> ClientIdentity {
        let key = fresh_key();
        let act = officer_addition(ORIGIN, name, &verifying(&key).thumbprint());
        let approval = (role == Role::SecurityOfficer).then(|| approved(&self.admin_key(), &act));
        let call = OperatorCall { subject: named_key(name, &key), role, approval };
        let issued = self.admin().add_operator(&call).await.unwrap();
        identity(&self.scratch, name, &key, &issued.certificates)
    }

    /// The first operator's own key.
    pub(crate) fn admin_key(&self) -> SigningKey {
        SigningKey::from_pkcs8_pem(&std::fs::read_to_string(&self.made.admin_key).unwrap()).unwrap()
    }

    /// A new head key, made and approved by the first operator.
    pub(crate) async fn rotate(&self, label: &str) -> Result<Keys, ClientError> {
        let admin = self.admin();
        let prepared = admin.prepare_key(&PrepareKeyCall { label: label.to_owned(), purpose: None }).await?;
        let (thumbprint, act) = introduction(&prepared);
        let approval = approved(&self.admin_key(), &act);
        admin.rotate_key(&RotateCall { thumbprint, approval }).await
    }

    /// A booted TPM that isn't enrolled.
    pub(crate) fn machine(&self) -> Machine {
        Machine::new(&self.maker)
    }

    /// An enrolled host.
    pub(crate) async fn host(&self, name: &str) -> Host {
        let machine = self.machine();
        let token = self.token().await;
        let offer = self.begin(&machine, Some(&token)).await.unwrap();
        self.finish(name, machine, &offer).await.unwrap()
    }

    pub(crate) async fn begin(
        &self,
        machine: &Machine,
        token: Option<&str>,
    ) -> Result<EnrolmentOffer, ClientError> {
        self.service(ClientIdentity::Anonymous).begin_enrolment(&machine.begin(token)).await
    }

    pub(crate) async fn finish(
        &self,
        name: &str,
        machine: Machine,
        offer: &EnrolmentOffer,
    ) -> Result<Host, ClientError> {
        let call = machine.finish(offer);
        self.finish_as(name, machine, offer, &call).await
    }

    pub(crate) async fn finish_as(
        &self,
        name: &str,
        machine: Machine,
        offer: &EnrolmentOffer,
        call: &EnrolmentFinish,
    ) -> Result<Host, ClientError> {
        let enrolled =
            self.service(ClientIdentity::Anonymous).finish_enrolment(&offer.enrolment, call).await?;
        let certificates = &enrolled.certificates;
        let signing = machine.tpm.host_signing_key().clone();
        let client = self.service(identity(&self.scratch, name, &signing, certificates));
        let id = HostId::from_hex(&enrolled.host).unwrap();
        Ok(Host { machine, id, client, holder: fresh_key() })
    }
}

/// The thumbprint of a prepared key, and what an officer signs to approve it.
pub(crate) fn introduction(prepared: &KeyPrepared) -> (String, Vec<u8>) {
    let key = VerifyingKey::try_from(prepared.key.clone()).unwrap();
    let custody = sha256(&prepared.custody.0);
    let act = key_introduction(ORIGIN, KeyPurpose::Head, &key, &prepared.backend, &custody);
    (key.thumbprint().to_hex(), act)
}

/// An officer's word for an act.
pub(crate) fn approved(officer: &SigningKey, act: &[u8]) -> ApprovalDocument {
    ApprovalDocument { key: JsonKey::from(verifying(officer)), signature: B64(sign(officer, act)) }
}

pub(crate) fn policy(source: &str) -> PolicyDocument {
    PolicyDocument {
        policies: [("test".to_owned(), source.to_owned())].into(),
        schema: SCHEMA.to_owned(),
        settings: Settings::default(),
    }
}

/// A simulated TPM that went through a simulated boot.
pub(crate) struct Machine {
    pub(crate) tpm: SimulatedTpm,
    pub(crate) boot: SimulatedBoot,
    pub(crate) ek_certificate: Vec<u8>,
}

impl Machine {
    pub(crate) fn new(maker: &Manufacturer) -> Self {
        let mut tpm = SimulatedTpm::new(&mut |buffer| getrandom::fill(buffer).unwrap()).unwrap();
        let boot = SimulatedBoot::new(&BootOptions::default());
        tpm.boot(&boot).unwrap();
        let ek_certificate = maker.certify(&tpm);
        Self { tpm, boot, ek_certificate }
    }

    pub(crate) fn id(&self) -> HostId {
        HostId::from_slice(&ueid(self.tpm.ek_public())).unwrap()
    }

    pub(crate) fn begin(&self, token: Option<&str>) -> EnrolmentBegin {
        EnrolmentBegin {
            token: token.map(str::to_owned),
            ek_certificate: Some(B64(self.ek_certificate.clone())),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(self.tpm.ek_public().bytes().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: B64(self.tpm.ak_public().bytes().to_vec()),
            host_key_public: B64(self.tpm.host_public().bytes().to_vec()),
            idevid: None,
        }
    }

    pub(crate) fn finish(&self, offer: &EnrolmentOffer) -> EnrolmentFinish {
        let secret = match &offer.secret {
            Some(secret) => secret.0.clone(),
            None => self.tpm.activate_credential(&offer.id_object.0, &offer.encrypted_secret.0).unwrap(),
        };
        self.finish_with(offer, &secret.try_into().unwrap())
    }

    pub(crate) fn finish_with(&self, offer: &EnrolmentOffer, secret: &[u8; 32]) -> EnrolmentFinish {
        let id = data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap();
        let nonce = activation_data(ORIGIN, &id.try_into().unwrap(), secret);
        let certified = self.tpm.certify_host_key(nonce.as_bytes()).unwrap();
        EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid: None,
        }
    }
}

/// The bytes of a request of this holder's on this host.
pub(crate) fn request(host: &HostId, holder: &SigningKey, id: &str) -> Vec<u8> {
    let request = serde_json::json!({
        "v": 1,
        "id": id,
        "host": host.to_hex(),
        "runtime": format!("spiffe://{TRUST_DOMAIN}/host/{host}/test"),
        "holder": JsonKey::from(verifying(holder)),
        "workload": sha256(b"workload").to_hex(),
        "action": "exec",
        "args": sha256(b"arguments").to_hex(),
        "aud": "gateway-1",
        "ttl_secs": 60,
    });
    serde_json::to_vec(&request).unwrap()
}

/// A request with its holder's signature.
pub(crate) fn signed(holder: &SigningKey, request: &[u8]) -> SignedRequestDocument {
    let signature = B64(sign(holder, &holder_preimage(request)));
    SignedRequestDocument { request: B64(request.to_vec()), signature, consents: Vec::new() }
}

/// An enrolled host at work.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) id: HostId,
    pub(crate) client: Client,
    pub(crate) holder: SigningKey,
}

impl Host {
    /// A request's bytes.
    pub(crate) fn request(&self, id: &str) -> Vec<u8> {
        request(&self.id, &self.holder, id)
    }

    pub(crate) fn signed(&self, request: &[u8]) -> SignedRequestDocument {
        signed(&self.holder, request)
    }

    /// Evidence over a challenge and requests.
    pub(crate) fn evidence(&self, offer: &ChallengeOffer, requests: &[&[u8]]) -> EvidenceDocument {
        let digests: Vec<Sha256Digest> = requests.iter().map(|request| sha256(request)).collect();
        let nonce = qualifying_data(ORIGIN, &offer.challenge.0, &request_root(&digests));
        let bank = HashAlg::from_id(offer.bank).unwrap();
        let selection = PcrSelectionSpec::new(bank, &offer.pcrs).unwrap();
        let quote = self.machine.tpm.quote(nonce.as_bytes(), &selection).unwrap();
        let values = self.machine.tpm.pcr_values(&selection).unwrap();
        let hex = |value: &[u8]| data_encoding::HEXLOWER.encode(value);
        EvidenceDocument {
            attest: B64(quote.attest),
            signature: B64(quote.signature),
            bank: offer.bank,
            pcrs: values.iter().map(|(index, value)| PcrValue { index: *index, value: hex(value) }).collect(),
            boot_log: Some(sha256(self.machine.boot.log()).to_hex()),
            ima: None,
            members: vec![B64(self.machine.boot.log().to_vec())],
        }
    }

    /// A call that is ready to be sent.
    pub(crate) async fn call(&self, ids: &[&str]) -> ArtifactsCall {
        let offer = self.client.challenge().await.unwrap();
        let requests: Vec<Vec<u8>> = ids.iter().map(|id| self.request(id)).collect();
        let borrowed: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
        ArtifactsCall {
            evidence: self.evidence(&offer, &borrowed),
            challenge: offer.challenge,
            requests: requests.iter().map(|request| self.signed(request)).collect(),
        }
    }

    pub(crate) async fn artifacts(&self, ids: &[&str]) -> Result<ArtifactsAnswer, ClientError> {
        self.client.artifacts(&self.call(ids).await).await
    }

    pub(crate) async fn attestation(&self) -> AttestationCall {
        let offer = self.client.challenge().await.unwrap();
        AttestationCall { evidence: self.evidence(&offer, &[]), challenge: offer.challenge }
    }
}

/// The code of a call that must fail.
#[track_caller]
pub(crate) fn code<T>(result: Result<T, ClientError>) -> String {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(ClientError::Problem { code, .. }) => code,
        Err(other) => panic!("{other}"),
    }
}
