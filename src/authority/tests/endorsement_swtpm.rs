//! The classes of THREATS "Identity and enrolment" with real software TPMs: each ends in its own stable code, and the honest host enrols.
#[cfg(test)]
mod support;
#[cfg(test)]
#[path = "support/swtpm.rs"]
mod swtpm;

use countersign_authority::init::InitOptions;
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::{B64, EnrolmentBegin};
use countersign_fixture::SwTpmCa;
use countersign_tpm::public::Public;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SerialNumber, date_time_ymd};
use support::{House, Manufacturer, code, with_house};
use swtpm::{Keyed, ek};

#[cfg(test)]
async fn refused(client: &Client, call: &EnrolmentBegin, expected: &str) {
    assert_eq!(code(client.begin_enrolment(call).await), expected);
}

#[cfg(test)]
async fn wrong_certificates(house: &House, device: &Keyed, other: &Keyed) {
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
async fn wrong_keys(house: &House, device: &mut Keyed, other: &mut Keyed) {
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
    assert!(device.opened(&offer).is_err() && other.opened(&offer).is_err());
    let guess = other.finish(&offer, &[7; 32]);
    assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &guess).await), "activation-failed");
    // A host key of another TPM, which this AK can't have certified.
    let mut call = good.clone();
    call.host_key_public = other.public(other.host_key);
    let offer = anyone.begin_enrolment(&call).await.unwrap();
    let opened = device.opened(&offer).unwrap();
    for finish in [device.finish(&offer, &opened), other.finish(&offer, &opened)] {
        // Each guess needs an enrolment of its own; only the first is judged here.
        let answer = code(anyone.finish_enrolment(&offer.enrolment, &finish).await);
        assert!(["certification-invalid", "enrolment-unknown"].contains(&answer.as_str()), "{answer}");
    }
    // Everything as it should be; then the same secret again.
    let offer = anyone.begin_enrolment(&good).await.unwrap();
    let opened = device.opened(&offer).unwrap();
    let finish = device.finish(&offer, &opened);
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
        let (mut device, mut other) = (Keyed::new(&ca), Keyed::new(&ca));
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
        let mut device = Keyed::new(&SwTpmCa::new());
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
        let finish = device.finish(&offer, &secret);
        anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
        assert_eq!(house.admin().hosts(None).await.unwrap().hosts.len(), 1);
        house.serving.stop().await;
    });
}
