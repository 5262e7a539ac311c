//! Every certificate of the vectors `ek-certs` and `ek-roots`: what it says, and what becomes of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::certificate::Certificate;
use super::extension::KeyUsage;
use super::keys::Scheme;
use super::*;
use crate::algorithm::HashAlg;
use crate::key::RsaPadding;
use crate::testing::{json, variant, vectors};

/// Every certificate of a file: PEM blocks, or one of DER.
fn certificates(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let Ok(text) = std::str::from_utf8(&bytes) else { return vec![bytes] };
    let end = "-----END CERTIFICATE-----";
    let blocks = text.split_inclusive(end).filter(|block| block.contains("-----BEGIN CERTIFICATE-----"));
    let blocks = blocks.map(|block| {
        let lines = block.lines().skip_while(|line| !line.starts_with("-----BEGIN"));
        let base64: String = lines.filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        data_encoding::BASE64.decode(base64.as_bytes()).unwrap()
    });
    blocks.collect()
}

fn moment(text: &str) -> u64 {
    let time: der::DateTime = text.parse().unwrap();
    time.unix_duration().as_secs()
}

fn text<'a>(item: &'a Value, member: &str) -> &'a str {
    item[member].as_str().unwrap()
}

fn signature_algorithm(scheme: Scheme) -> String {
    let hash = |hash: HashAlg| hash.name().to_owned();
    match scheme {
        Scheme::Rsa(RsaPadding::Pkcs1, digest) => format!("{}_rsa", hash(digest)),
        Scheme::Rsa(RsaPadding::Pss, digest) => format!("{}_pss", hash(digest)),
        Scheme::Ecdsa(digest) => format!("{}_ecdsa", hash(digest)),
        Scheme::Refused(number) if number.to_string() == "1.2.840.113549.1.1.5" => "sha1_rsa".to_owned(),
        Scheme::Refused(number) => number.to_string(),
    }
}

/// What both lists of expectations say of a certificate.
fn agrees(certificate: &Certificate, item: &Value, name: &str) {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    // A certificate that is followed by padding is digested here without, there by the file's own reading.
    assert_eq!(hex(certificate.sha256()), text(item, "sha256"), "{name}");
    let serial = text(item, "serial").trim_start_matches("0x");
    assert_eq!(hex(certificate.serial()).trim_start_matches('0'), serial.trim_start_matches('0'), "{name}");
    let (not_before, not_after) = certificate.validity();
    assert_eq!(not_before, moment(text(item, "not_before")), "{name}");
    assert_eq!(not_after, moment(text(item, "not_after")), "{name}");
    let key = certificate.key().unwrap().describe();
    let expected = match (text(&item["key"], "algorithm"), item["key"]["bits"].as_u64().unwrap()) {
        ("ec", bits) => format!("P-{bits}"),
        (_, bits) => format!("RSA-{bits}"),
    };
    assert_eq!(key, expected, "{name}");
    let constraints = certificate.extensions().constraints;
    let authority = item["basic_constraints"]["ca"].as_bool().unwrap();
    assert_eq!(constraints.is_some_and(|constraints| constraints.authority), authority, "{name}");
    let length = item["basic_constraints"]["path_len"].as_u64();
    assert_eq!(constraints.and_then(|constraints| constraints.path_length).map(u64::from), length, "{name}");
    assert_eq!(signature_algorithm(certificate.scheme()), text(item, "signature_algorithm"), "{name}");
    let purposes = certificate.extensions().purposes.as_ref().map(Vec::len);
    assert_eq!(purposes, item["extended_key_usage"].as_array().map(Vec::len), "{name}");
    // Expected names are written with long words; the last word of the last text is compared.
    for (ours, theirs) in
        [(certificate.subject(), text(item, "subject")), (certificate.issuer(), text(item, "issuer"))]
    {
        let last = theirs.rsplit('=').next().unwrap();
        assert!(theirs == "(empty)" && ours.is_empty() || ours.to_string().contains(last), "{name}: {ours}");
    }
}

#[test]
fn every_ek_certificate_of_the_vectors_reads_as_expected() {
    let Some(folder) = vectors("ek-certs") else { return };
    let expected = json(&folder.join("expected.json"));
    let list = expected["certificates"].as_object().unwrap();
    assert!(list.len() >= 28);
    for (name, item) in list {
        let [der] = &certificates(&folder.join(name))[..] else { panic!("{name}") };
        let certificate = Certificate::parse(der).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        agrees(&certificate, item, name);
        let names = item["subject_alt_name"]["names"].as_array();
        let attribute = |kind: &str| {
            let find = |name: &Value| name.as_str().unwrap().strip_prefix(kind).map(str::to_owned);
            names.and_then(|names| names.iter().find_map(find))
        };
        let tpm = certificate.extensions().tpm.as_ref();
        assert_eq!(tpm.map(|tpm| tpm.model.clone()), attribute("tpm-model="), "{name}");
        assert_eq!(tpm.map(|tpm| format!("id:{}", tpm.version)), attribute("tpm-version="), "{name}");
        let vendor = attribute("tpm-manufacturer=").map(|id| match id.as_str() {
            "id:53544D20" => "STM",
            "id:4E544300" => "NTC",
            "id:49465800" => "IFX",
            "id:474F4F47" => "GOOG",
            other => panic!("{other}"),
        });
        assert_eq!(tpm.map(|tpm| tpm.manufacturer.as_str()), vendor, "{name}");
        let specification = certificate.extensions().specification.as_ref();
        let stated = &item["tpm_specification"];
        assert_eq!(specification.map(|s| s.family.as_str()), stated["family"].as_str(), "{name}");
        assert_eq!(specification.map(|s| u64::from(s.revision)), stated["revision"].as_u64(), "{name}");
        let usage = certificate.extensions().usage;
        for (word, bit) in [
            ("digital_signature", KeyUsage::DIGITAL_SIGNATURE),
            ("key_encipherment", KeyUsage::KEY_ENCIPHERMENT),
            ("key_agreement", KeyUsage::KEY_AGREEMENT),
            ("key_cert_sign", KeyUsage::KEY_CERT_SIGN),
            ("crl_sign", KeyUsage::CRL_SIGN),
        ] {
            let expected = item["key_usage"].as_array().map(|list| list.iter().any(|one| one == word));
            assert_eq!(usage.map(|usage| usage.has(bit)), expected, "{name}: {word}");
        }
        let signed = item["self_signed"].as_bool().unwrap();
        let sha1 = text(item, "signature_algorithm").starts_with("sha1");
        assert_eq!(certificate.is_self_signed(), signed && !sha1, "{name}");
    }
}

/// The certificates at the places of a `chain.path`.
fn at(above: &Path, place: &str) -> Vec<u8> {
    let (file, index) = place.split_once('#').unwrap_or((place, "0"));
    certificates(&above.join(file))[index.parse::<usize>().unwrap()].clone()
}

#[test]
fn every_ek_certificate_of_the_vectors_is_judged_as_expected() {
    let Some(folder) = vectors("ek-certs") else { return };
    let above = folder.parent().unwrap();
    let expected = json(&folder.join("expected.json"));
    let mut verdicts: BTreeMap<String, String> = BTreeMap::new();
    for (name, item) in expected["certificates"].as_object().unwrap() {
        let der = &certificates(&folder.join(name))[0];
        let path: Vec<Vec<u8>> = item["chain"]["path"]
            .as_array()
            .map_or(Vec::new(), |path| path.iter().map(|place| at(above, place.as_str().unwrap())).collect());
        let mut store = TrustStore::new();
        if let Some((root, between)) = path.split_last() {
            store.add_root(root).unwrap();
            for issuer in between {
                store.add_intermediate(issuer).unwrap();
            }
        }
        let now = moment(text(item, "not_before")) + 1;
        let verdict = match store.verify_ek(der, &[], now) {
            Ok(verified) => {
                let depth = verified.chain().len();
                assert_eq!(depth, path.len(), "{name}");
                assert_eq!(
                    data_encoding::HEXLOWER.encode(verified.root_sha256()),
                    text(&item["chain"], "root_sha256")
                );
                "good".to_owned()
            }
            Err(refusal) => variant(&refusal),
        };
        // What isn't an EK's certificate still has the path that is expected of it.
        if verdict == "NotAnEkCertificate" && !path.is_empty() {
            let leaf = Certificate::parse(der).unwrap();
            if leaf.require_authority(0).is_ok() {
                assert_eq!(store.find_issuers(der, now).unwrap().len(), path.len(), "{name}");
            }
        }
        verdicts.insert(name.clone(), verdict);
    }
    let check = |name: &str, expect: &str| assert_eq!(verdicts[name], expect, "{name}");
    for family in ["pca", "uca"] {
        for kind in ["ecc", "rsa"] {
            check(&format!("go-tpm-tools/{family}_tpm_{kind}_enc_cert.pem"), "good");
            check(&format!("go-tpm-tools/{family}_tpm_{kind}_sign_cert.pem"), "NotAnEkCertificate");
        }
    }
    check("keylime/st_ecdsa_sha256.der", "good");
    check("keylime/st_sha256_with_rsa.der", "good");
    // Of TPMs 1.2; signed with SHA-1 besides.
    for name in [
        "hirs/nuc-1/tpmcert.pem",
        "hirs/nuc-1/ek_cert_untouched.cer",
        "hirs/nuc-1/ek_cert_7_byte_header_removed.cer",
        "hirs/nuc-2/tpmcert.pem",
        "hirs/ab21ccf2-tpmcert.pem",
        "hirs/ek_cert_with_security_assertions.cer",
    ] {
        check(name, "OtherTpm");
    }
    // It doesn't say of which TPM it is, nor what its key is used for; signed with SHA-1.
    check("hirs/ek_cert_with_padded_bytes.cer", "NotAnEkCertificate");
    let issuers = ["guard-oss/IFX-RootCA.cer", "hirs/gstpmroot.pem", "keylime/nuvoton_ecdsa_sha256.der"];
    for name in issuers {
        check(name, "NotAnEkCertificate");
    }
    check("keylime/iak.der", "NotAnEkCertificate");
    check("keylime/idevid.der", "NotAnEkCertificate");
}

/// The genuine EK certificates verify under the forged intermediate's key, which is the genuine one. Its own issuer is nobody.
#[test]
fn a_forged_intermediate_with_the_genuine_name_and_key_leads_nowhere() {
    let Some(folder) = vectors("ek-certs") else { return };
    let one = |name: &str| certificates(&folder.join(name))[0].clone();
    let forged = one("hirs/fakestmtpmekint02.pem");
    let mut store = TrustStore::new();
    store.add_root(&one("hirs/gstpmroot.pem")).unwrap();
    store.add_intermediate(&one("hirs/st-micro-ca-certs/stmtpmekroot.crt")).unwrap();
    store.add_intermediate(&forged).unwrap();
    let now = moment("2015-01-01T00:00:00Z");
    assert_eq!(store.find_issuers(&forged, now), Err(EkRefusal::IssuerUnknown));
    let genuine = one("hirs/stmtpmekint02.pem");
    assert_eq!(store.find_issuers(&genuine, now).unwrap().len(), 2);
    // The EK below is SHA-1-signed, so it ends at its own signature, whichever of the two is tried.
    let ek = Certificate::parse(&one("hirs/nuc-1/tpmcert.pem")).unwrap();
    let forged = Certificate::parse(&forged).unwrap();
    assert_eq!(ek.issuer(), forged.subject());
    assert_eq!(forged.key().unwrap(), Certificate::parse(&genuine).unwrap().key().unwrap());
}

#[test]
fn an_iak_certificate_without_purpose_or_policy_of_an_iak_is_refused() {
    let Some(folder) = vectors("ek-certs") else { return };
    // Shaped like one, but it says "server" and nothing of a TPM.
    for name in ["keylime/iak.der", "keylime/idevid.der"] {
        let der = &certificates(&folder.join(name))[0];
        assert_eq!(TrustStore::new().verify_iak(der, &[], 0), Err(EkRefusal::NotAnIakCertificate), "{name}");
    }
}

#[test]
fn every_vendor_certificate_of_the_vectors_reads_and_chains_as_expected() {
    let Some(folder) = vectors("ek-roots") else { return };
    let expected = json(&folder.join("expected.json"));
    let list = expected["certificates"].as_array().unwrap();
    assert_eq!(list.len(), 225);
    let mut files: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut store = TrustStore::new();
    let ders: Vec<Vec<u8>> = list
        .iter()
        .map(|item| {
            let file = text(item, "file").to_owned();
            let read = files.entry(file.clone()).or_insert_with(|| certificates(&folder.join(file)));
            read[usize::try_from(item["index"].as_u64().unwrap()).unwrap()].clone()
        })
        .collect();
    for (der, item) in ders.iter().zip(list) {
        let name = text(item, "subject");
        let certificate = Certificate::parse(der).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        agrees(&certificate, item, name);
        let signed = item["self_signed"].as_bool().unwrap();
        let sha1 = text(item, "signature_algorithm").starts_with("sha1");
        assert_eq!(certificate.is_self_signed(), signed && !sha1, "{name}");
        let put = if signed { store.add_root(der) } else { store.add_intermediate(der) };
        put.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    }
    let (mut good, mut without) = (0, 0);
    for (der, item) in ders.iter().zip(list).filter(|(_, item)| !item["self_signed"].as_bool().unwrap()) {
        let name = text(item, "subject");
        let (from, to) = (moment(text(item, "not_before")), moment(text(item, "not_after")));
        let now = from.max(moment("2025-06-01T00:00:00Z")).min(to);
        let reaches = !item["reaches_self_signed_root"].as_array().unwrap().is_empty();
        let sha1 = text(item, "signature_algorithm").starts_with("sha1");
        match store.find_issuers(der, now) {
            Ok(path) => {
                assert!(reaches && !sha1 && !path.is_empty(), "{name}");
                good += 1;
            }
            // Their root isn't in this folder.
            Err(EkRefusal::IssuerUnknown) => {
                assert!(!reaches || sha1, "{name}");
                without += 1;
            }
            Err(refusal) => {
                assert!(sha1, "{name}: {refusal}");
                assert_eq!(variant(&refusal), "SignatureAlgorithm", "{name}");
                without += 1;
            }
        }
    }
    assert_eq!((good, without), (158, 31));
}
