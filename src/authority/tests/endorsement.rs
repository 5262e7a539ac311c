//! What endorses a TPM, over the API: each certificate that is wrong in its own way, certificates of attestation keys, old firmware.
#[cfg(test)]
mod support;

use std::path::Path;

use countersign_authority::init::InitOptions;
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::admin::PolicyCall;
use countersign_core::api::{B64, EnrolmentBegin};
use countersign_core::leaf::Leaf;
use countersign_core::leaf::host::{Endorsement, EndorsementKind, Enrolment};
use countersign_core::name::HostId;
use countersign_tpm::ek::ueid;
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use support::{House, Machine, Manufacturer, code, policy, with_house};

/// tcg-kp-EKCertificate and tcg-kp-AIKCertificate.
#[cfg(test)]
fn usage(last: u64) -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last])
}

#[cfg(test)]
fn ek(params: &mut CertificateParams, serial: u64) {
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![usage(1)];
    params.serial_number = Some(SerialNumber::from(serial));
}

#[cfg(test)]
fn iak(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage(3)];
}

/// A manufacturer beside the one of the house, its root trusted for what `place` says.
#[cfg(test)]
fn trust(directory: &Path, maker: &Manufacturer, place: impl FnOnce(std::path::PathBuf)) {
    let path = directory.join("another-root.pem");
    std::fs::write(&path, &maker.root_pem).unwrap();
    place(path);
}

#[cfg(test)]
async fn refused(house: &House, machine: &Machine, shape: impl FnOnce(&mut EnrolmentBegin), expected: &str) {
    let token = house.token().await;
    let mut call = machine.begin(Some(&token));
    shape(&mut call);
    let answer = house.service(ClientIdentity::Anonymous).begin_enrolment(&call).await;
    assert_eq!(code(answer), expected);
}

/// A certification of an earlier enrolment, as it was and with the secret of this one, is worth nothing.
#[cfg(test)]
async fn replayed_certifications(anyone: &Client, machine: &Machine, call: &EnrolmentBegin) {
    let heard = machine.finish(&anyone.begin_enrolment(call).await.unwrap());
    for (fresh_secret, expected) in [(false, "activation-failed"), (true, "certification-invalid")] {
        let offer = anyone.begin_enrolment(call).await.unwrap();
        let mut replayed = heard.clone();
        if fresh_secret {
            replayed.secret = offer.secret.clone().unwrap();
        }
        assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &replayed).await), expected);
    }
}

#[test]
fn each_wrong_certificate_has_its_own_code() {
    let (maker, cache) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    let list = maker.revocation_list(&[8], (2025, 2090));
    std::fs::write(cache.path().join("maker.crl"), list).unwrap();
    std::fs::write(cache.path().join("README"), "passed over").unwrap();
    let stale = Manufacturer::new();
    let stale_list = stale.revocation_list(&[], (2024, 2025));
    std::fs::write(cache.path().join("stale.crl"), stale_list).unwrap();
    let tweak = |options: &mut InitOptions| {
        for (maker, name) in [(&maker, "maker.pem"), (&stale, "stale.pem")] {
            let path = cache.path().join(name);
            std::fs::write(&path, &maker.root_pem).unwrap();
            options.enrolment.ek_roots.push(path);
        }
        options.enrolment.ek_cache = Some(cache.path().to_owned());
    };
    with_house("each_wrong_certificate_has_its_own_code", tweak, async |house| {
        let machine = house.machine();
        let certify = |maker: &Manufacturer, shape: &dyn Fn(&mut CertificateParams)| {
            let der = maker.certify_key(machine.tpm.ek_public(), |params| {
                ek(params, 7);
                shape(params);
            });
            move |call: &mut EnrolmentBegin| call.ek_certificate = Some(B64(der))
        };
        refused(&house, &machine, certify(&Manufacturer::new(), &|_| ()), "ek-issuer-unknown").await;
        let old = certify(&maker, &|params| params.not_after = date_time_ymd(2020, 1, 1));
        refused(&house, &machine, old, "ek-certificate-expired").await;
        let early = certify(&maker, &|params| params.not_before = date_time_ymd(2090, 1, 1));
        refused(&house, &machine, early, "ek-certificate-expired").await;
        let revoked = certify(&maker, &|params| params.serial_number = Some(SerialNumber::from(8_u64)));
        refused(&house, &machine, revoked, "ek-certificate-revoked").await;
        refused(&house, &machine, certify(&stale, &|_| ()), "ek-revocation-unknown").await;
        let server = certify(&maker, &|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        refused(&house, &machine, server, "ek-certificate-invalid").await;
        let other = house.machine();
        let other = maker.certify_key(other.tpm.ek_public(), |params| ek(params, 7));
        let other = |call: &mut EnrolmentBegin| call.ek_certificate = Some(B64(other));
        refused(&house, &machine, other, "ek-key-mismatch").await;
        // The right one, padded as in NV memory.
        let mut call = machine.begin(Some(&house.token().await));
        certify(&maker, &|_| ())(&mut call);
        call.ek_certificate.as_mut().unwrap().0.extend([0xff; 100]);
        let offer = house.service(ClientIdentity::Anonymous).begin_enrolment(&call).await.unwrap();
        house.finish("host", machine, &offer).await.unwrap();
        house.serving.stop().await;
    });
}

#[test]
fn policies_are_demanded_of_each_kind_of_certificate_by_its_own_key() {
    let name = "policies_are_demanded_of_each_kind_of_certificate_by_its_own_key";
    let issuer = Manufacturer::new();
    let root = tempfile::tempdir().unwrap();
    let tweak = |options: &mut InitOptions| {
        trust(root.path(), &issuer, |path| options.enrolment.iak_roots.push(path));
        options.enrolment.ek_policies = vec!["2.23.133.1".to_owned()];
        options.enrolment.iak_policies = vec!["2.23.133.2".to_owned()];
    };
    with_house(name, tweak, async |house| {
        let machine = house.machine();
        // certificatePolicies with 2.23.133.1, with 2.23.133.2, or none. RFC 5280, 4.2.1.4.
        let asserting = |params: &mut CertificateParams, last: Option<u8>| {
            let content = last.map(|last| vec![0x30, 8, 0x30, 6, 0x06, 4, 0x67, 0x81, 0x05, last]);
            params.custom_extensions = content
                .into_iter()
                .map(|it| CustomExtension::from_oid_content(&[2, 5, 29, 32], it))
                .collect();
        };
        let by_iak = |last: Option<u8>| {
            let der = B64(issuer.certify_key(machine.tpm.ak_public(), |params| {
                iak(params);
                asserting(params, last);
            }));
            move |call: &mut EnrolmentBegin| {
                call.ek_public = None;
                call.ek_certificate = None;
                call.ak_certificate = Some(der);
            }
        };
        let by_ek = |last: Option<u8>| {
            let der = B64(house.maker.certify_key(machine.tpm.ek_public(), |params| {
                ek(params, 7);
                asserting(params, last);
            }));
            move |call: &mut EnrolmentBegin| call.ek_certificate = Some(der)
        };
        for last in [None, Some(1)] {
            refused(&house, &machine, by_iak(last), "iak-certificate-invalid").await;
        }
        for last in [None, Some(2)] {
            refused(&house, &machine, by_ek(last), "ek-certificate-invalid").await;
        }
        let anyone = house.service(ClientIdentity::Anonymous);
        for shape in
            [Box::new(by_iak(Some(2))) as Box<dyn FnOnce(&mut EnrolmentBegin)>, Box::new(by_ek(Some(1)))]
        {
            let mut call = machine.begin(Some(&house.token().await));
            shape(&mut call);
            anyone.begin_enrolment(&call).await.unwrap();
        }
        house.serving.stop().await;
    });
}

#[test]
fn a_certificate_of_the_attestation_key_takes_the_place_of_the_endorsement_key() {
    let name = "a_certificate_of_the_attestation_key_takes_the_place_of_the_endorsement_key";
    let issuer = Manufacturer::new();
    let root = tempfile::tempdir().unwrap();
    let tweak = |options: &mut InitOptions| {
        trust(root.path(), &issuer, |path| options.enrolment.iak_roots.push(path));
    };
    with_house(name, tweak, async |house| {
        let only = r#"permit (principal, action, resource) when {
            context.endorsement.kind == "iak-certificate" && !context.ek_certificate
        };"#;
        let document = policy(only);
        let expected_epoch = house.admin().policy().await.unwrap().epoch;
        let call = PolicyCall { document: B64(document.encode()), expected_epoch };
        house.admin().activate_policy(&call).await.unwrap();
        let machine = house.machine();
        let certificate = issuer.certify_key(machine.tpm.ak_public(), iak);
        let by_iak = |der: &[u8]| {
            let der = B64(der.to_vec());
            move |call: &mut EnrolmentBegin| {
                call.ek_public = None;
                call.ek_certificate = None;
                call.ak_certificate = Some(der);
            }
        };
        // Another TPM's, another issuer's, another purpose, no certificate at all, or an EK besides.
        let other = house.machine();
        refused(&house, &other, by_iak(&certificate), "iak-key-mismatch").await;
        let foreign = house.maker.certify_key(machine.tpm.ak_public(), iak);
        refused(&house, &machine, by_iak(&foreign), "iak-certificate-invalid").await;
        let plain = issuer.certify_key(machine.tpm.ak_public(), |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        });
        refused(&house, &machine, by_iak(&plain), "iak-certificate-invalid").await;
        refused(&house, &machine, |call| call.ek_public = None, "malformed").await;
        let both = |call: &mut EnrolmentBegin| call.ak_certificate = Some(B64(certificate.clone()));
        refused(&house, &machine, both, "malformed").await;

        let mut call = machine.begin(Some(&house.token().await));
        by_iak(&certificate)(&mut call);
        let anyone = house.service(ClientIdentity::Anonymous);
        // The secret in the offer is only fresh: without the AK it opens nothing.
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        assert!(offer.id_object.0.is_empty() && offer.encrypted_secret.0.is_empty());
        let by_another = other.finish(&offer);
        assert_eq!(
            code(anyone.finish_enrolment(&offer.enrolment, &by_another).await),
            "certification-invalid"
        );
        replayed_certifications(&anyone, &machine, &call).await;
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        let named = HostId::from_slice(&ueid(machine.tpm.ak_public())).unwrap();
        let host = house.finish("iak", machine, &offer).await.unwrap();
        assert_eq!(host.id, named);
        let document = house.admin().host(&host.id).await.unwrap();
        let leaves = house.admin().leaves(document.enrolment, 1).await.unwrap();
        let record = Enrolment::parse(&Leaf::parse(&leaves.leaves[0].0).unwrap().body).unwrap();
        let expected =
            Endorsement { kind: EndorsementKind::IakCertificate, weak_key: false, tpm: None, device: None };
        assert_eq!(record.endorsement, expected);
        assert_eq!(record.ek_public, record.ak_public);
        // Policy sees which endorsement it was.
        assert_eq!(host.artifacts(&["r1"]).await.unwrap().decisions[0].verdict, "allow");
        let ordinary = house.host("ordinary").await;
        let denied = ordinary.artifacts(&["r1"]).await.unwrap();
        assert_eq!(denied.decisions[0].code.as_deref(), Some("policy-denied"));
        house.serving.stop().await;
    });
}

#[test]
fn firmware_below_the_floor_does_not_enrol() {
    // The simulated TPM's firmware is 20260101:00010000.
    let tweak = |options: &mut InitOptions| {
        options.enrolment.firmware_floor.insert("*".to_owned(), "20260101:00010001".to_owned());
    };
    with_house("firmware_below_the_floor_does_not_enrol", tweak, async |house| {
        let machine = house.machine();
        let offer = house.begin(&machine, Some(&house.token().await)).await.unwrap();
        let finish = machine.finish(&offer);
        let anyone = house.service(ClientIdentity::Anonymous);
        let answer = anyone.finish_enrolment(&offer.enrolment, &finish).await;
        assert_eq!(code(answer), "firmware-too-old");
        house.serving.stop().await;
    });
}

#[test]
fn a_directory_that_is_read_again_revokes_and_neither_junk_nor_forged_lists_take_that_back() {
    let cache = tempfile::tempdir().unwrap();
    let tweak = |options: &mut InitOptions| options.enrolment.ek_cache = Some(cache.path().to_owned());
    let name = "a_directory_that_is_read_again_revokes_and_neither_junk_nor_forged_lists_take_that_back";
    with_house(name, tweak, async |house| {
        let machine = house.machine();
        let certificate = house.maker.certify_key(machine.tpm.ek_public(), |params| ek(params, 7));
        let certified = |call: &mut EnrolmentBegin| call.ek_certificate = Some(B64(certificate.clone()));
        let begins = async || {
            let mut call = machine.begin(Some(&house.token().await));
            certified(&mut call);
            house.service(ClientIdentity::Anonymous).begin_enrolment(&call).await.map(drop)
        };
        begins().await.unwrap();
        let file = |name: &str| cache.path().join(name);
        std::fs::write(file("maker.crl"), house.maker.revocation_list(&[7], (2025, 2090))).unwrap();
        begins().await.unwrap();
        house.serving.authority().reload_endorsements();
        assert_eq!(code(begins().await), "ek-certificate-revoked");
        // Of the same name and longer life, by whoever could write there.
        std::fs::write(file("newer.crl"), Manufacturer::new().revocation_list(&[], (2026, 2095))).unwrap();
        house.serving.authority().reload_endorsements();
        assert_eq!(code(begins().await), "ek-certificate-revoked");
        // What can't be read leaves everything as it was read last.
        std::fs::remove_file(file("maker.crl")).unwrap();
        std::fs::write(file("junk.crl"), b"0\x82").unwrap();
        house.serving.authority().reload_endorsements();
        assert_eq!(code(begins().await), "ek-certificate-revoked");
        std::fs::remove_file(file("junk.crl")).unwrap();
        house.serving.authority().reload_endorsements();
        begins().await.unwrap();
        house.serving.stop().await;
    });
}
