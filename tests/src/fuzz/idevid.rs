//! Certificates of machines' own keys (IDevID): a maker's root and what it issued, as seeds, and what an authority does with such a certificate.
//!
//! Comes in: bytes as the certificate, others as what a host sends beside it. Goes out: nothing. A certificate that is taken has a path and names that
//! an enrolment leaf holds.

use countersign_core::digest::sha256;
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_tpm::ek::{DeviceNames, StatedDevice, TrustStore, VerifiedDevice, require_same_device_key};
use countersign_tpm::public::Public;

/// A moment within the certificates' validity.
const NOW_SECS: u64 = 1_800_000_000;

/// What the seeds say: a root, then certificates with serialNumber, with hardwareModuleName and with both, made by `openssl x509 -req`.
const CERTIFICATES: [&str; 4] = [
    "3082017f30820124a003020102021456588d736c2c11487d793f435d54b93b1d244a14300a06082a8648ce3d040302301c311a301806035504030c114d616b6572206f66206d616368696e65733020170d3236313132323031343532375a180f32313236313032393031343532375a301c311a301806035504030c114d616b6572206f66206d616368696e65733059301306072a8648ce3d020106082a8648ce3d030107034200040925664e07db71ae157023f334ee714892fd2bb53e2c989311d53d2368b963cf0c41426dd63785e53cf3945d84f0b5bd357a65dda8c8b5d5da23a8e86e9a1f91a3423040300f0603551d130101ff040530030101ff300e0603551d0f0101ff040403020106301d0603551d0e04160414da9d5b52ffcf33985981a3f469ea0cb4709082e7300a06082a8648ce3d0403020349003046022100f361b3c81d721fe8c032818d7b848a39a968ceff8e8f3acd6b105123ceee47bb0221008abab3fef0df6b8cb43168955c151a8f1d4f9c7383f9e6ac703c1a8c7584d5f9",
    "3082019130820137a003020102020107300a06082a8648ce3d040302301c311a301806035504030c114d616b6572206f66206d616368696e65733020170d3236313132323031343532375a180f32313236313032393031343532375a30243110300e06035504030c076d616368696e653110300e06035504051307534e2d303030313059301306072a8648ce3d020106082a8648ce3d03010703420004d85293ecfc2bb9b6e5e4570e7ef8fccaa6a8b38d8abe0e985fe9a9686d3c670ea9f3bb6df57e65229445cef99f930a8ad1e5f5bf74b62cde1d602ca25441258fa360305e300c0603551d130101ff04023000300e0603551d0f0101ff040403020780301d0603551d0e0416041429e8ce61c4a1a1dee24ac3ee956cb4d4bf5caa55301f0603551d23041830168014da9d5b52ffcf33985981a3f469ea0cb4709082e7300a06082a8648ce3d0403020348003045022070f90fffe8d3bbf869154a3047b8d3fa10ddcea497cf5800deab65002d259e160221009d5ac1f421599455e2ccc73c4e01384ec93068e3ea6c93e4c91f7b8c5c1be291",
    "308201b43082015ba003020102020107300a06082a8648ce3d040302301c311a301806035504030c114d616b6572206f66206d616368696e65733020170d3236313132323031343532375a180f32313236313032393031343532375a30123110300e06035504030c076d616368696e653059301306072a8648ce3d020106082a8648ce3d03010703420004d85293ecfc2bb9b6e5e4570e7ef8fccaa6a8b38d8abe0e985fe9a9686d3c670ea9f3bb6df57e65229445cef99f930a8ad1e5f5bf74b62cde1d602ca25441258fa38195308192300c0603551d130101ff04023000300e0603551d0f0101ff04040302078030320603551d11042b3029a02706082b06010505070804a01b301906056781050102041053544d3a373a30313233343536373839301d0603551d0e0416041429e8ce61c4a1a1dee24ac3ee956cb4d4bf5caa55301f0603551d23041830168014da9d5b52ffcf33985981a3f469ea0cb4709082e7300a06082a8648ce3d0403020347003044022023fab9f2c484c1d7141281c8e3c77d822ff0bbef97b60594af7c391da787c6180220153f99aed29c2eb4287208c4f3119a187aee78f682b1edd78601b4ab2844ed74",
    "308201be30820165a003020102020107300a06082a8648ce3d040302301c311a301806035504030c114d616b6572206f66206d616368696e65733020170d3236313132323031343532375a180f32313236313032393031343532375a301c311a3018060355040513115049443a433933303020534e3a464f43313059301306072a8648ce3d020106082a8648ce3d03010703420004d85293ecfc2bb9b6e5e4570e7ef8fccaa6a8b38d8abe0e985fe9a9686d3c670ea9f3bb6df57e65229445cef99f930a8ad1e5f5bf74b62cde1d602ca25441258fa38195308192300c0603551d130101ff04023000300e0603551d0f0101ff04040302078030320603551d11042b3029a02706082b06010505070804a01b301906056781050102041053544d3a373a30313233343536373839301d0603551d0e0416041429e8ce61c4a1a1dee24ac3ee956cb4d4bf5caa55301f0603551d23041830168014da9d5b52ffcf33985981a3f469ea0cb4709082e7300a06082a8648ce3d040302034700304402204882b319a4962e9503df7a4c781ab723c51bc539303ab91a85dc1e361c61a3cc022074027cf610b29fb6c282431876209a857ce739993c300f7da4ae271bd213a6ea",
];
/// TPMT_PUBLIC of the key that they certify, by the TCG's template without its policy.
const KEY: &str = "0023000b000400f2000000100010000300100020d85293ecfc2bb9b6e5e4570e7ef8fccaa6a8b38d8abe0e985fe9a9686d3c670e0020a9f3bb6df57e65229445cef99f930a8ad1e5f5bf74b62cde1d602ca25441258f";

fn decoded(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap_or_default()
}

/// The certificates one by one and as an NV index holds them, and the key.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let [root, leaves @ ..] = CERTIFICATES.map(decoded);
    let nv = |leaf: &Vec<u8>| [leaf.as_slice(), &root, &[0xff; 16]].concat();
    let stored: Vec<_> = leaves.iter().map(nv).collect();
    [root.clone(), decoded(KEY)].into_iter().chain(leaves).chain(stored).collect()
}

thread_local! {
    static STORE: TrustStore = {
        let mut store = TrustStore::new();
        let [root, ..] = CERTIFICATES.map(decoded);
        let _ = store.add_root(&root);
        store
    };
    static OWN: Option<Public> = Public::parse(&decoded(KEY)).ok();
    static KNOWN: Vec<DeviceNames> = {
        let [_, leaves @ ..] = CERTIFICATES.map(decoded);
        let names = |leaf: &Vec<u8>| StatedDevice::of(leaf).ok().map(|stated| stated.names);
        leaves.iter().filter_map(names).collect()
    };
}

/// Judges bytes as an authority does.
pub(super) fn judge(bytes: &[u8], sent: &[Vec<u8>]) {
    let Ok(verified) = STORE.with(|store| store.verify_device(bytes, sent, NOW_SECS)) else { return };
    assert!(!verified.chain().is_empty(), "named by nobody");
    assert!(named(&verified).is_well_formed(), "a name that no leaf holds");
    // Nobody else can sign under that root: whatever is taken says what a seed says.
    OWN.with(|own| {
        let same = own.as_ref().map(|own| require_same_device_key(&verified, own));
        assert!(matches!(same, Some(Ok(()))), "another key under that root");
    });
    KNOWN.with(|known| assert!(known.contains(verified.names()), "another machine under that root"));
}

fn named(verified: &VerifiedDevice) -> DeviceIdentity {
    let names = verified.names();
    let hardware = names.hardware.as_ref();
    DeviceIdentity {
        certificate: sha256(verified.certificate_sha256()),
        key: sha256(b"key"),
        serial: names.serial.clone(),
        hardware: hardware.map(|name| HardwareName { kind: name.kind.clone(), serial: name.serial.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_the_names_and_the_key() {
        let [_, leaves @ ..] = CERTIFICATES.map(decoded);
        let found = leaves.each_ref().map(|leaf| {
            judge(leaf, &[]);
            let verified = STORE.with(|store| store.verify_device(leaf, &[], NOW_SECS)).unwrap();
            OWN.with(|own| require_same_device_key(&verified, own.as_ref().unwrap())).unwrap();
            let hardware = verified.names().hardware.clone();
            (verified.names().serial.clone(), hardware.map(|name| (name.kind, name.serial)))
        });
        let module = || Some(("2.23.133.1.2".to_owned(), b"STM:7:0123456789".to_vec()));
        let expected = [
            (Some("SN-0001".to_owned()), None),
            (None, module()),
            (Some("PID:C9300 SN:FOC1".to_owned()), module()),
        ];
        assert_eq!(found, expected);
        let seeds = crate::fuzz::seeds();
        assert!(super::seeds().iter().all(|seed| seeds.contains(seed)));
    }
}
