//! The classes of THREATS "Identity and enrolment" with real software TPMs: each ends in its own stable code, and the honest host enrols.
#[cfg(test)]
mod support;

use countersign_authority::init::InitOptions;
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::{B64, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer};
use countersign_core::request::activation_data;
use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::device::{EkProfile, HostTpm, KeyId};
use countersign_tpm::public::Public;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SerialNumber, date_time_ymd};
use support::{House, Manufacturer, ORIGIN, code, with_house};

/// A software TPM in use: its P-256 endorsement key, which swtpm's own tools give no certificate, and fresh AK and host key.
#[cfg(test)]
struct Device {
    tpm: HostTpm,
    ek: Public,
    ak: KeyId,
    host_key: KeyId,
    swtpm: SwTpm,
}

#[cfg(test)]
impl Device {
    fn new(ca: &SwTpmCa) -> Self {
        let swtpm = SwTpm::start(ca);
        let mut tpm = HostTpm::open(&swtpm.tcti()).unwrap();
        let ek = tpm.ek_public(EkProfile::P256).unwrap();
        let ak = tpm.create_attestation_key().unwrap();
        let ak = tpm.load(&ak).unwrap();
        let host_key = tpm.create_signing_key().unwrap();
        let host_key = tpm.load(&host_key).unwrap();
        Self { tpm, ek, ak, host_key, swtpm }
    }

    fn public(&self, key: KeyId) -> B64 {
        B64(self.tpm.public(key).unwrap().bytes().to_vec())
    }

    fn begin(&self, token: &str, certificate: Vec<u8>) -> EnrolmentBegin {
        EnrolmentBegin {
            token: Some(token.to_owned()),
            ek_certificate: Some(B64(certificate)),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(self.ek.bytes().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: self.public(self.ak),
            host_key_public: self.public(self.host_key),
            idevid: None,
        }
    }

    fn certify(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32]) -> EnrolmentFinish {
        let id = data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap();
        let nonce = activation_data(ORIGIN, &id.try_into().unwrap(), secret);
        let certified = self.tpm.certify(self.host_key, self.ak, nonce.as_bytes()).unwrap();
        EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid: None,
        }
    }
}

#[cfg(test)]
fn ek(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
}

#[cfg(test)]
async fn refused(client: &Client, call: &EnrolmentBegin, expected: &str) {
    assert_eq!(code(client.begin_enrolment(call).await), expected);
}

#[cfg(test)]
async fn wrong_certificates(house: &House, device: &Device, other: &Device) {
    let anyone = house.service(ClientIdentity::Anonymous);
    let token = house.token().await;
    let made = |key: &Public, shape: &dyn Fn(&mut CertificateParams)| {
        let der = house.maker.certify_key(key, |params| {
            ek(params);
            shape(params);
        });
        device.begin(&token, der)
    };
    refused(&anyone, &made(&other.ek, &|_| ()), "ek-key-mismatch").await;
    let expired = made(&device.ek, &|params| params.not_after = date_time_ymd(2020, 1, 1));
    refused(&anyone, &expired, "ek-certificate-expired").await;
    let revoked = made(&device.ek, &|params| params.serial_number = Some(SerialNumber::from(8_u64)));
    refused(&anyone, &revoked, "ek-certificate-revoked").await;
    let foreign = Manufacturer::new().certify_key(&device.ek, ek);
    refused(&anyone, &device.begin(&token, foreign), "ek-issuer-unknown").await;
    // The certificate that swtpm's tools wrote into NV memory, issued by a CA that nobody trusts here.
    let own = std::fs::read(device.swtpm.ek_rsa_cert_path()).unwrap();
    refused(&anyone, &device.begin(&token, own), "ek-issuer-unknown").await;
}

#[cfg(test)]
async fn wrong_keys(house: &House, device: &mut Device, other: &mut Device) {
    let anyone = house.service(ClientIdentity::Anonymous);
    let token = house.token().await;
    let certificate = house.maker.certify_key(&device.ek, ek);
    let good = device.begin(&token, certificate);
    // A key of this TPM that signs anything.
    let mut call = good.clone();
    call.ak_public = device.public(device.host_key);
    refused(&anyone, &call, "ak-attributes-invalid").await;
    // An AK of another TPM: neither opens the credential, and a guess isn't it.
    let mut call = good.clone();
    call.ak_public = other.public(other.ak);
    let offer = anyone.begin_enrolment(&call).await.unwrap();
    let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
    assert!(device.tpm.activate_credential(EkProfile::P256, device.ak, object, secret).is_err());
    assert!(other.tpm.activate_credential(EkProfile::P256, other.ak, object, secret).is_err());
    let guess = other.certify(&offer, &[7; 32]);
    assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &guess).await), "activation-failed");
    // A host key of another TPM, which this AK can't have certified.
    let mut call = good.clone();
    call.host_key_public = other.public(other.host_key);
    let offer = anyone.begin_enrolment(&call).await.unwrap();
    let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
    let opened = device.tpm.activate_credential(EkProfile::P256, device.ak, object, secret).unwrap();
    let opened: [u8; 32] = opened.as_slice().try_into().unwrap();
    for finish in [device.certify(&offer, &opened), other.certify(&offer, &opened)] {
        // Each guess needs an enrolment of its own; only the first is judged here.
        let answer = code(anyone.finish_enrolment(&offer.enrolment, &finish).await);
        assert!(["certification-invalid", "enrolment-unknown"].contains(&answer.as_str()), "{answer}");
    }
    // Everything as it should be; then the same secret again.
    let offer = anyone.begin_enrolment(&good).await.unwrap();
    let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
    let opened = device.tpm.activate_credential(EkProfile::P256, device.ak, object, secret).unwrap();
    let finish = device.certify(&offer, &opened.as_slice().try_into().unwrap());
    anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
    assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), "enrolment-unknown");
    // The identity is the EK's: the token is spent, and another AK needs a new one.
    let fresh = device.tpm.create_attestation_key().unwrap();
    device.ak = device.tpm.load(&fresh).unwrap();
    let again = device.begin(&token, house.maker.certify_key(&device.ek, ek));
    refused(&anyone, &again, "join-token-invalid").await;
}

#[test]
fn real_tpms_with_something_wrong_are_refused_and_an_honest_one_enrols() {
    let name = "real_tpms_with_something_wrong_are_refused_and_an_honest_one_enrols";
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().to_owned();
    let tweak = |options: &mut InitOptions| {
        options.enrolment.ek_cache = Some(path);
    };
    with_house(name, tweak, async |house| {
        // What an operator's timer does between two readings of the directory.
        let list = house.maker.revocation_list(&[8], (2025, 2090));
        std::fs::write(cache.path().join("maker.crl"), list).unwrap();
        house.serving.authority().reload_endorsements();
        let ca = SwTpmCa::new();
        let (mut device, mut other) = (Device::new(&ca), Device::new(&ca));
        wrong_certificates(&house, &device, &other).await;
        wrong_keys(&house, &mut device, &mut other).await;
        house.serving.stop().await;
    });
}

#[test]
fn a_real_tpm_enrols_by_the_certificate_of_its_attestation_key() {
    let name = "a_real_tpm_enrols_by_the_certificate_of_its_attestation_key";
    let (issuer, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    let root = folder.path().join("iak.pem");
    std::fs::write(&root, &issuer.root_pem).unwrap();
    let tweak = |options: &mut InitOptions| options.enrolment.iak_roots.push(root);
    with_house(name, tweak, async |house| {
        let mut device = Device::new(&SwTpmCa::new());
        let ak = device.tpm.public(device.ak).unwrap().clone();
        let iak = issuer.certify_key(&ak, |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
        });
        let mut call = device.begin(&house.token().await, Vec::new());
        call.ek_certificate = None;
        call.ek_public = None;
        call.ak_certificate = Some(B64(iak));
        let anyone = house.service(ClientIdentity::Anonymous);
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        let secret: [u8; 32] = offer.secret.as_ref().unwrap().0.as_slice().try_into().unwrap();
        let finish = device.certify(&offer, &secret);
        anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
        assert_eq!(house.admin().hosts(None).await.unwrap().hosts.len(), 1);
        house.serving.stop().await;
    });
}
