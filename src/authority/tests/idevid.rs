//! Machines that say which they are (IDevID): what is recorded of it, each way to be wrong with its code and nobody enrolled, and that a name can't be shed.
#[cfg(test)]
mod support;

use std::path::Path;

use countersign_authority::init::InitOptions;
use countersign_client::ClientIdentity;
use countersign_core::api::admin::PolicyCall;
use countersign_core::api::{
    B64, DeviceDocument, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, IdevidBegin, IdevidFinish,
};
use countersign_core::digest::sha256;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{Admission, EndorsementKind, Enrolment};
use countersign_core::request::{device_certification_data, device_possession};
use countersign_tpm::public::{Attributes, Public};
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use support::{EkPoint, House, Machine, Manufacturer, ORIGIN, code, policy, with_house};

/// A machine whose maker named it.
#[cfg(test)]
struct Named {
    machine: Machine,
    key: SimulatedDeviceKey,
    certificate: Vec<u8>,
}

#[cfg(test)]
fn key(attributes: u32) -> SimulatedDeviceKey {
    SimulatedDeviceKey::new(attributes, &mut |buffer| getrandom::fill(buffer).unwrap()).unwrap()
}

#[cfg(test)]
fn device_key() -> SimulatedDeviceKey {
    key(SimulatedDeviceKey::ATTRIBUTES)
}

#[cfg(test)]
impl Named {
    fn new(house: &House, maker: &Manufacturer, serial: &str) -> Self {
        let key = device_key();
        let certificate = maker.name_device(&EkPoint::of(key.public()), Some(serial), |_| ());
        Self { machine: house.machine(), key, certificate }
    }

    fn begin(&self, token: Option<&str>) -> EnrolmentBegin {
        begin(&self.machine, token, self.key.public(), &self.certificate)
    }

    fn finish(&self, offer: &EnrolmentOffer) -> EnrolmentFinish {
        let mut finish = self.machine.finish(offer);
        finish.idevid = Some(show(&self.machine, offer, &finish, &self.key));
        finish
    }

    async fn enrol(&self, house: &House, token: Option<&str>) -> Enrolment {
        let anyone = house.service(ClientIdentity::Anonymous);
        let offer = anyone.begin_enrolment(&self.begin(token)).await.unwrap();
        anyone.finish_enrolment(&offer.enrolment, &self.finish(&offer)).await.unwrap();
        newest(house, &self.machine).await
    }

    fn identity(&self, serial: &str) -> DeviceIdentity {
        DeviceIdentity {
            certificate: sha256(&self.certificate),
            key: sha256(self.key.public().bytes()),
            serial: Some(serial.to_owned()),
            hardware: None,
        }
    }
}

#[cfg(test)]
fn begin(machine: &Machine, token: Option<&str>, public: &Public, certificate: &[u8]) -> EnrolmentBegin {
    let mut call = machine.begin(token);
    call.idevid = Some(IdevidBegin {
        certificate: B64(certificate.to_vec()),
        intermediates: Vec::new(),
        public: B64(public.bytes().to_vec()),
    });
    call
}

#[cfg(test)]
fn id_and_secret(offer: &EnrolmentOffer, finish: &EnrolmentFinish) -> ([u8; 16], [u8; 32]) {
    let id = data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap();
    (id.try_into().unwrap(), finish.secret.0.as_slice().try_into().unwrap())
}

/// What a TPM that holds both keys says.
#[cfg(test)]
fn show(
    machine: &Machine,
    offer: &EnrolmentOffer,
    finish: &EnrolmentFinish,
    key: &SimulatedDeviceKey,
) -> IdevidFinish {
    let (id, secret) = id_and_secret(offer, finish);
    let nonce = device_certification_data(ORIGIN, &id, &secret);
    let certified = machine.tpm.certify(key.public(), nonce.as_bytes()).unwrap();
    IdevidFinish {
        attest: B64(certified.attest),
        signature: B64(certified.signature),
        possession: B64(key.sign(&device_possession(ORIGIN, &id, &secret)).unwrap()),
    }
}

/// The newest enrolment leaf of this machine.
#[cfg(test)]
async fn newest(house: &House, machine: &Machine) -> Enrolment {
    let document = house.admin().host(&machine.id()).await.unwrap();
    let leaves = house.admin().leaves(document.enrolment, 1).await.unwrap();
    Enrolment::parse(&Leaf::parse(&leaves.leaves[0].0).unwrap().body).unwrap()
}

#[cfg(test)]
async fn hosts(house: &House) -> usize {
    house.admin().hosts(None).await.unwrap().hosts.len()
}

/// Trusts this maker of machines.
#[cfg(test)]
fn trust(directory: &Path, maker: &Manufacturer, options: &mut InitOptions) {
    let path = directory.join("machines.pem");
    std::fs::write(&path, &maker.root_pem).unwrap();
    options.enrolment.idevid_roots.push(path);
}

#[cfg(test)]
async fn activate(house: &House, source: &str) {
    let expected_epoch = house.admin().policy().await.unwrap().epoch;
    let call = PolicyCall { document: B64(policy(source).encode()), expected_epoch };
    house.admin().activate_policy(&call).await.unwrap();
}

/// hardwareModuleName with tcg-sv-tpm20 and this number. RFC 4108 §5.
#[cfg(test)]
fn hardware(serial: &[u8]) -> CustomExtension {
    let der = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let name = der(0x30, &[der(0x06, &[0x67, 0x81, 0x05, 0x01, 0x02]), der(0x04, serial)].concat());
    let other = [der(0x06, &[0x2b, 6, 1, 5, 5, 7, 8, 4]), der(0xa0, &name)].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &der(0xa0, &other)))
}

#[test]
fn a_machines_name_is_recorded_shown_and_decides() {
    let name = "a_machines_name_is_recorded_shown_and_decides";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    with_house(
        name,
        |options| trust(folder.path(), &maker, options),
        async |house| {
            activate(
            &house,
            r#"permit (principal, action, resource) when {
                context.endorsement.kind == "ek-certificate" && context.endorsement has device &&
                context.endorsement.device has serial && ["SN-0001", "SN-0002"].contains(context.endorsement.device.serial)
            };"#,
        )
        .await;
            let mut named = Named::new(&house, &maker, "SN-0001");
            named.certificate =
                maker.name_device(&EkPoint::of(named.key.public()), Some("SN-0001"), |params| {
                    params.custom_extensions = vec![hardware(b"STM:7")];
                });
            let anyone = house.service(ClientIdentity::Anonymous);
            let offer = anyone.begin_enrolment(&named.begin(Some(&house.token().await))).await.unwrap();
            let finish = named.finish(&offer);
            let host = house.finish_as("named", named.machine, &offer, &finish).await.unwrap();
            let record = newest(&house, &host.machine).await;
            let module = HardwareName { kind: "2.23.133.1.2".to_owned(), serial: b"STM:7".to_vec() };
            let expected = DeviceIdentity {
                certificate: sha256(&named.certificate),
                key: sha256(named.key.public().bytes()),
                serial: Some("SN-0001".to_owned()),
                hardware: Some(module),
            };
            assert_eq!(record.endorsement.device.as_ref(), Some(&expected));
            // It endorses nothing: what does is what it was.
            assert_eq!(record.endorsement.kind, EndorsementKind::EkCertificate);
            for (digest, bytes) in [
                (expected.certificate, &named.certificate),
                (expected.key, &named.key.public().bytes().to_vec()),
            ] {
                assert_eq!(&house.admin().blob(&digest).await.unwrap(), bytes);
            }
            let shown = house.admin().host(&host.id).await.unwrap().device.unwrap();
            let wanted = DeviceDocument {
                certificate: expected.certificate.to_hex(),
                serial: Some("SN-0001".to_owned()),
                hardware_type: Some("2.23.133.1.2".to_owned()),
                hardware_serial: Some("53544d3a37".to_owned()),
            };
            assert_eq!(shown, wanted);
            assert_eq!(host.artifacts(&["r1"]).await.unwrap().decisions[0].verdict, "allow");
            // Another number, and none.
            let stranger = Named::new(&house, &maker, "SN-0003");
            let offer = anyone.begin_enrolment(&stranger.begin(Some(&house.token().await))).await.unwrap();
            let finish = stranger.finish(&offer);
            let stranger = house.finish_as("stranger", stranger.machine, &offer, &finish).await.unwrap();
            for host in [stranger, house.host("nameless").await] {
                let denied = host.artifacts(&["r1"]).await.unwrap();
                assert_eq!(denied.decisions[0].code.as_deref(), Some("policy-denied"));
            }
            house.serving.stop().await;
        },
    );
}

/// Answers to `begin` with a certificate of this shape, for a key of the right kind.
#[cfg(test)]
async fn answers(
    house: &House,
    maker: &Manufacturer,
    shape: impl FnOnce(&mut CertificateParams),
    expected: &str,
) {
    let mut named = Named::new(house, maker, "SN-0001");
    named.certificate = maker.name_device(&EkPoint::of(named.key.public()), Some("SN-0001"), shape);
    refused(house, &named.begin(Some(&house.token().await)), expected).await;
}

#[cfg(test)]
async fn refused(house: &House, call: &EnrolmentBegin, expected: &str) {
    assert_eq!(code(house.service(ClientIdentity::Anonymous).begin_enrolment(call).await), expected);
    assert_eq!(hosts(house).await, 0, "{expected}");
}

#[cfg(test)]
fn tcg(last: u64) -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last])
}

#[test]
fn each_wrong_certificate_of_a_machine_has_its_code_and_enrols_nobody() {
    let name = "each_wrong_certificate_of_a_machine_has_its_code_and_enrols_nobody";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("maker.crl"), maker.revocation_list(&[8], (2025, 2090))).unwrap();
    let stale = Manufacturer::new();
    std::fs::write(cache.join("stale.crl"), stale.revocation_list(&[], (2024, 2025))).unwrap();
    let tweak = |options: &mut InitOptions| {
        trust(folder.path(), &maker, options);
        let path = folder.path().join("stale.pem");
        std::fs::write(&path, &stale.root_pem).unwrap();
        options.enrolment.idevid_roots.push(path);
        options.enrolment.ek_cache = Some(cache.clone());
    };
    with_house(name, tweak, async |house| {
        let invalid = "idevid-certificate-invalid";
        answers(&house, &Manufacturer::new(), |_| (), "idevid-issuer-unknown").await;
        // Who makes TPMs doesn't name machines.
        answers(&house, &house.maker, |_| (), "idevid-issuer-unknown").await;
        answers(
            &house,
            &maker,
            |params| params.not_after = date_time_ymd(2020, 1, 1),
            "idevid-certificate-expired",
        )
        .await;
        answers(
            &house,
            &maker,
            |params| params.not_before = date_time_ymd(2090, 1, 1),
            "idevid-certificate-expired",
        )
        .await;
        let revoked = |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from(8_u64));
        answers(&house, &maker, revoked, "idevid-certificate-revoked").await;
        answers(&house, &stale, |_| (), "idevid-revocation-unknown").await;
        answers(&house, &maker, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), invalid)
            .await;
        answers(&house, &maker, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement], invalid)
            .await;
        for last in [1, 3] {
            answers(&house, &maker, |params| params.extended_key_usages = vec![tcg(last)], invalid).await;
        }
        let unknown = |params: &mut CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions = vec![extension];
        };
        answers(&house, &maker, unknown, invalid).await;
        let named = Named::new(&house, &maker, "SN-0001");
        let nameless = maker.name_device(&EkPoint::of(named.key.public()), None, |_| ());
        let token = house.token().await;
        let with = |der: &[u8]| begin(&named.machine, Some(&token), named.key.public(), der);
        refused(&house, &with(&nameless), invalid).await;
        refused(&house, &with(&[named.certificate.as_slice(), &[0xff; 20]].concat()), invalid).await;
        refused(&house, &with(b"no certificate"), invalid).await;
        // The certificate of another machine.
        refused(&house, &with(&Named::new(&house, &maker, "SN-0002").certificate), "idevid-key-mismatch")
            .await;
        // The TPM's own EK certificate in its place.
        refused(&house, &with(&named.machine.ek_certificate), invalid).await;
        house.serving.stop().await;
    });
}

/// An RSA key as the tools that issue certificates take it.
#[cfg(test)]
struct RsaKey(Vec<u8>);

#[cfg(test)]
impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// A 2048-bit modulus that is congruent to 65537 modulo every prime of the published test.
#[cfg(test)]
fn weak_key() -> (Public, RsaKey) {
    let tail =
        data_encoding::HEXLOWER.decode(b"06697ebed2c9cb1b810585593f81da320dfab10bdf2e0f1d9e812fcf").unwrap();
    let mut modulus = vec![0; 256];
    modulus[0] = 0x80;
    modulus[256 - tail.len()..].copy_from_slice(&tail);
    let attributes = SimulatedDeviceKey::ATTRIBUTES.to_be_bytes();
    let mut public =
        [&[0x00, 0x01, 0x00, 0x0b], &attributes[..], &[0, 0, 0, 0x10, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0]]
            .concat();
    public.extend(&modulus);
    let key = [&[0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0][..], &modulus, &[2, 3, 1, 0, 1]].concat();
    (Public::parse(&public).unwrap(), RsaKey(key))
}

#[test]
fn each_wrong_key_of_a_machine_has_its_code_and_enrols_nobody() {
    let name = "each_wrong_key_of_a_machine_has_its_code_and_enrols_nobody";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    with_house(
        name,
        |options| trust(folder.path(), &maker, options),
        async |house| {
            let machine = house.machine();
            let token = house.token().await;
            let certified = |public: &Public| {
                let der = maker.name_device(&EkPoint::of(public), Some("SN-0001"), |_| ());
                begin(&machine, Some(&token), public, &der)
            };
            let attributes = SimulatedDeviceKey::ATTRIBUTES;
            for wrong in [
                attributes & !Attributes::FIXED_TPM,
                attributes & !Attributes::FIXED_PARENT,
                attributes & !Attributes::SENSITIVE_DATA_ORIGIN,
                attributes & !Attributes::ADMIN_WITH_POLICY,
                attributes & !Attributes::SIGN,
                attributes | Attributes::RESTRICTED,
                attributes | Attributes::DECRYPT,
                attributes | Attributes::ST_CLEAR,
            ] {
                refused(&house, &certified(key(wrong).public()), "idevid-attributes-invalid").await;
            }
            // Keys of the enrolment itself: the AK is restricted, the EK decrypts, the host key looks like one with a single bit.
            refused(&house, &certified(machine.tpm.ak_public()), "idevid-attributes-invalid").await;
            refused(&house, &certified(machine.tpm.ek_public()), "idevid-attributes-invalid").await;
            let mut dressed = machine.tpm.host_public().bytes().to_vec();
            dressed[7] |= 0x80;
            refused(&house, &certified(&Public::parse(&dressed).unwrap()), "idevid-key-reused").await;
            let (weak, key) = weak_key();
            let der = maker.name_device(&key, Some("SN-0001"), |_| ());
            refused(&house, &begin(&machine, Some(&token), &weak, &der), "idevid-key-weak").await;
            let mut call = certified(device_key().public());
            call.idevid.as_mut().unwrap().public.0.push(0);
            refused(&house, &call, "malformed").await;
            house.serving.stop().await;
        },
    );
}

#[cfg(test)]
async fn not_shown(
    house: &House,
    named: &Named,
    alter: impl FnOnce(&EnrolmentOffer, &mut EnrolmentFinish),
    expected: &str,
) {
    let anyone = house.service(ClientIdentity::Anonymous);
    let offer = anyone.begin_enrolment(&named.begin(Some(&house.token().await))).await.unwrap();
    let mut finish = named.finish(&offer);
    alter(&offer, &mut finish);
    assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), expected);
    assert_eq!(hosts(house).await, 0, "{expected}");
    // Nor does the right answer help afterwards.
    let finish = named.finish(&offer);
    assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), "enrolment-unknown");
}

#[test]
fn only_what_the_ak_and_the_key_say_for_this_enrolment_counts() {
    let name = "only_what_the_ak_and_the_key_say_for_this_enrolment_counts";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    with_house(
        name,
        |options| trust(folder.path(), &maker, options),
        async |house| {
            let named = Named::new(&house, &maker, "SN-0001");
            let (uncertified, unsigned) = ("idevid-certification-invalid", "idevid-signature-invalid");
            not_shown(&house, &named, |_, finish| finish.idevid = None, uncertified).await;
            // A key of another machine: its TPM certifies it, and ours doesn't hold it.
            let other = house.machine();
            let foreign = |offer: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                finish.idevid = Some(show(&other, offer, finish, &named.key));
            };
            not_shown(&house, &named, foreign, uncertified).await;
            let another = device_key();
            let swapped = |offer: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                finish.idevid = Some(show(&named.machine, offer, finish, &another));
            };
            not_shown(&house, &named, swapped, uncertified).await;
            // What the IDevID key itself signs in the form of an attestation, since it signs anything.
            let forged = |_: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                let shown = finish.idevid.as_mut().unwrap();
                shown.signature = B64(named.key.sign(&shown.attest.0).unwrap());
            };
            not_shown(&house, &named, forged, uncertified).await;
            // The host key's certification, which carries the other tag.
            let borrowed = |_: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                let shown = finish.idevid.as_mut().unwrap();
                (shown.attest, shown.signature) = (finish.attest.clone(), finish.signature.clone());
            };
            not_shown(&house, &named, borrowed, uncertified).await;
            // All of an earlier enrolment, and its two parts one by one.
            let anyone = house.service(ClientIdentity::Anonymous);
            let earlier = anyone.begin_enrolment(&named.begin(Some(&house.token().await))).await.unwrap();
            let earlier = named.finish(&earlier).idevid.unwrap();
            not_shown(&house, &named, |_, finish| finish.idevid = Some(earlier.clone()), uncertified).await;
            let old_name = |_: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                finish.idevid.as_mut().unwrap().attest = earlier.attest.clone();
            };
            not_shown(&house, &named, old_name, uncertified).await;
            let old_word = |_: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                finish.idevid.as_mut().unwrap().possession = earlier.possession.clone();
            };
            not_shown(&house, &named, old_word, unsigned).await;
            // A key that lies in the TPM and that the agent can't use; and bytes that are no signature.
            let mute = |offer: &EnrolmentOffer, finish: &mut EnrolmentFinish| {
                let (id, secret) = id_and_secret(offer, finish);
                let signed = another.sign(&device_possession(ORIGIN, &id, &secret)).unwrap();
                finish.idevid.as_mut().unwrap().possession = B64(signed);
            };
            not_shown(&house, &named, mute, unsigned).await;
            not_shown(
                &house,
                &named,
                |_, finish| finish.idevid.as_mut().unwrap().possession.0.clear(),
                unsigned,
            )
            .await;
            // A name that nobody began with.
            let offer = house.begin(&named.machine, Some(&house.token().await)).await.unwrap();
            let finish = named.finish(&offer);
            assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), "malformed");
            assert_eq!(hosts(&house).await, 0);
            named.enrol(&house, Some(&house.token().await)).await;
            house.serving.stop().await;
        },
    );
}

/// Nothing changed: this call is refused and the newest leaf is what it was.
#[cfg(test)]
async fn stays(house: &House, machine: &Machine, call: &EnrolmentBegin, expected: &str) {
    let before = newest(house, machine).await;
    assert_eq!(code(house.service(ClientIdentity::Anonymous).begin_enrolment(call).await), expected);
    assert_eq!(newest(house, machine).await, before);
}

#[test]
fn a_name_is_added_freely_and_neither_shed_nor_exchanged_without_a_token() {
    let name = "a_name_is_added_freely_and_neither_shed_nor_exchanged_without_a_token";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    with_house(
        name,
        |options| trust(folder.path(), &maker, options),
        async |house| {
            let mut named = Named::new(&house, &maker, "SN-0001");
            let anyone = house.service(ClientIdentity::Anonymous);
            let offer = house.begin(&named.machine, Some(&house.token().await)).await.unwrap();
            // One that was begun while the host had no name, and that is finished after it got one.
            anyone.finish_enrolment(&offer.enrolment, &named.machine.finish(&offer)).await.unwrap();
            let late = house.begin(&named.machine, Some("any")).await.unwrap();
            let record = named.enrol(&house, None).await;
            let kept = (record.admission, record.version, record.endorsement.device.clone());
            assert_eq!(kept, (Admission::Reenrolment, 1, Some(named.identity("SN-0001"))));
            let answer = anyone.finish_enrolment(&late.enrolment, &named.machine.finish(&late)).await;
            assert_eq!(code(answer), "join-token-invalid");
            assert_eq!(newest(&house, &named.machine).await, record);
            // The same again.
            let again = named.enrol(&house, None).await;
            assert_eq!((again.version, again.endorsement), (1, record.endorsement));
            // None; another key; the same key by another certificate.
            stays(&house, &named.machine, &named.machine.begin(None), "idevid-changed").await;
            stays(&house, &named.machine, &named.machine.begin(Some("no such token")), "join-token-invalid")
                .await;
            let other = Named::new(&house, &maker, "SN-0002");
            stays(
                &house,
                &named.machine,
                &begin(&named.machine, None, other.key.public(), &other.certificate),
                "idevid-changed",
            )
            .await;
            let renamed = maker.name_device(&EkPoint::of(named.key.public()), Some("SN-0001"), |_| ());
            stays(
                &house,
                &named.machine,
                &begin(&named.machine, None, named.key.public(), &renamed),
                "idevid-changed",
            )
            .await;
            // An operator's word makes a new version, which begins without trust.
            (named.key, named.certificate) = (other.key, other.certificate);
            let exchanged = named.enrol(&house, Some(&house.token().await)).await;
            assert_eq!((exchanged.admission, exchanged.version), (Admission::JoinToken, 2));
            assert_eq!(exchanged.endorsement.device, Some(named.identity("SN-0002")));
            let document = house.admin().host(&named.machine.id()).await.unwrap();
            assert_eq!((document.tier.as_str(), document.trusted_until_ms), ("none", 0));
            let offer = house.begin(&named.machine, Some(&house.token().await)).await.unwrap();
            anyone.finish_enrolment(&offer.enrolment, &named.machine.finish(&offer)).await.unwrap();
            let dropped = newest(&house, &named.machine).await;
            assert_eq!((dropped.admission, dropped.version), (Admission::JoinToken, 3));
            assert_eq!(dropped.endorsement.device, None);
            house.serving.stop().await;
        },
    );
}
