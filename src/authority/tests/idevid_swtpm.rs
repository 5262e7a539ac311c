//! Machines' own keys (IDevID) in real software TPMs: made by the TCG's template, certified by a maker, shown by the AK; and another machine's key.
#[cfg(test)]
mod support;

use countersign_authority::init::InitOptions;
use countersign_client::ClientIdentity;
use countersign_core::api::{
    B64, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, IdevidBegin, IdevidFinish,
};
use countersign_core::request::{activation_data, device_certification_data, device_possession};
use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::device::{EkProfile, HostTpm, KeyId};
use countersign_tpm::public::Public;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use support::{EkPoint, House, Manufacturer, ORIGIN, code, with_house};

/// A software TPM in use with the keys of a host and the machine's own, all of P-256.
#[cfg(test)]
struct Device {
    tpm: HostTpm,
    ek: Public,
    ak: KeyId,
    host_key: KeyId,
    idevid: KeyId,
    _swtpm: SwTpm,
}

/// Name algorithm, key, attributes and policy of template H-2. TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.
#[cfg(test)]
fn provision(swtpm: &SwTpm, attributes: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let policy = data_encoding::HEXLOWER
        .decode(b"ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea")
        .unwrap();
    std::fs::write(at("policy"), policy).unwrap();
    let (context, policy) = (at("context"), at("policy"));
    let key = [
        "-C",
        "e",
        "-g",
        "sha256",
        "-G",
        "ecc256:ecdsa-sha256:null",
        "-a",
        attributes,
        "-L",
        &policy,
        "-c",
        &context,
    ];
    swtpm.tpm2("tpm2_createprimary", &key);
    swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", &context, "0x81020000"]);
    swtpm.tpm2("tpm2_flushcontext", &["-t"]);
}

#[cfg(test)]
const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign";

#[cfg(test)]
impl Device {
    fn new(ca: &SwTpmCa, attributes: &str) -> Self {
        let swtpm = SwTpm::start(ca);
        provision(&swtpm, attributes);
        let mut tpm = HostTpm::open(&swtpm.tcti()).unwrap();
        let ek = tpm.ek_public(EkProfile::P256).unwrap();
        let (ak, host_key) = (tpm.create_attestation_key().unwrap(), tpm.create_signing_key().unwrap());
        let (ak, host_key) = (tpm.load(&ak).unwrap(), tpm.load(&host_key).unwrap());
        let idevid = tpm.persistent(0x8102_0000).unwrap();
        Self { tpm, ek, ak, host_key, idevid, _swtpm: swtpm }
    }

    fn public(&self, key: KeyId) -> B64 {
        B64(self.tpm.public(key).unwrap().bytes().to_vec())
    }

    fn begin(&self, house: &House, token: String, idevid: IdevidBegin) -> EnrolmentBegin {
        let ek_certificate = house.maker.certify_key(&self.ek, |params| {
            params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        });
        EnrolmentBegin {
            token: Some(token),
            ek_certificate: Some(B64(ek_certificate)),
            ek_intermediates: Vec::new(),
            ek_public: Some(B64(self.ek.bytes().to_vec())),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: self.public(self.ak),
            host_key_public: self.public(self.host_key),
            idevid: Some(idevid),
        }
    }

    fn named_by(&self, maker: &Manufacturer) -> IdevidBegin {
        let public = self.tpm.public(self.idevid).unwrap();
        let certificate = maker.name_device(&EkPoint::of(public), Some("SN-0001"), |_| ());
        IdevidBegin {
            certificate: B64(certificate),
            intermediates: Vec::new(),
            public: B64(public.bytes().to_vec()),
        }
    }

    fn opened(&mut self, offer: &EnrolmentOffer) -> [u8; 32] {
        let (object, secret) = (&offer.id_object.0, &offer.encrypted_secret.0);
        let opened = self.tpm.activate_credential(EkProfile::P256, self.ak, object, secret).unwrap();
        opened.as_slice().try_into().unwrap()
    }

    fn finish(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32], idevid: IdevidFinish) -> EnrolmentFinish {
        let nonce = activation_data(ORIGIN, &id(offer), secret);
        let certified = self.tpm.certify(self.host_key, self.ak, nonce.as_bytes()).unwrap();
        EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            idevid: Some(idevid),
        }
    }

    /// This TPM's AK certifies this TPM's key, which signs.
    fn show(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32]) -> IdevidFinish {
        let nonce = device_certification_data(ORIGIN, &id(offer), secret);
        let certified = self.tpm.certify_device_key(self.idevid, self.ak, nonce.as_bytes()).unwrap();
        let message = device_possession(ORIGIN, &id(offer), secret);
        let possession = self.tpm.sign_with_device_key(self.idevid, &message).unwrap();
        IdevidFinish {
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            possession: B64(possession),
        }
    }
}

#[cfg(test)]
fn id(offer: &EnrolmentOffer) -> [u8; 16] {
    data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap().try_into().unwrap()
}

#[cfg(test)]
async fn nobody(house: &House) {
    assert!(house.admin().hosts(None).await.unwrap().hosts.is_empty());
}

#[test]
fn a_real_machine_is_named_and_another_machines_name_is_not_taken() {
    let name = "a_real_machine_is_named_and_another_machines_name_is_not_taken";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    let root = folder.path().join("machines.pem");
    std::fs::write(&root, &maker.root_pem).unwrap();
    let tweak = |options: &mut InitOptions| options.enrolment.idevid_roots.push(root);
    with_house(name, tweak, async |house| {
        let ca = SwTpmCa::new();
        let (mut mine, mut other) = (Device::new(&ca, ATTRIBUTES), Device::new(&ca, ATTRIBUTES));
        let anyone = house.service(ClientIdentity::Anonymous);
        // Whoever has root on both machines: the other's TPM says everything that it can, over my enrolment.
        let call = mine.begin(&house, house.token().await, other.named_by(&maker));
        for borrowed_ak in [true, false] {
            let offer = anyone.begin_enrolment(&call).await.unwrap();
            let secret = mine.opened(&offer);
            let mut shown = other.show(&offer, &secret);
            if !borrowed_ak {
                // My AK can name only what is in my TPM.
                let own = mine.show(&offer, &secret);
                (shown.attest, shown.signature) = (own.attest, own.signature);
            }
            let finish = mine.finish(&offer, &secret, shown);
            let answer = anyone.finish_enrolment(&offer.enrolment, &finish).await;
            assert_eq!(code(answer), "idevid-certification-invalid");
            nobody(&house).await;
        }
        // A key that its password alone administers, which the TCG's table doesn't have.
        let plain = Device::new(&ca, &ATTRIBUTES.replace("|adminwithpolicy", ""));
        let call = plain.begin(&house, house.token().await, plain.named_by(&maker));
        assert_eq!(code(anyone.begin_enrolment(&call).await), "idevid-attributes-invalid");
        nobody(&house).await;
        let call = mine.begin(&house, house.token().await, mine.named_by(&maker));
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        let secret = mine.opened(&offer);
        let shown = mine.show(&offer, &secret);
        let finish = mine.finish(&offer, &secret, shown);
        anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
        let hosts = house.admin().hosts(None).await.unwrap().hosts;
        assert_eq!(hosts[0].device.as_ref().unwrap().serial.as_deref(), Some("SN-0001"));
        house.serving.stop().await;
    });
}
