//! Signatures, the policy document, and policies of other forms.

use aws_lc_rs::signature as lc;

use super::appraise::{Submission, appraise};
use super::import::{ImportError, Imported, checksums, keylime};
use super::policy::{FileDigestRule, Pattern, PolicyDraft, PolicyError, Root, RuntimePolicy, SignedBy};
use super::signature::{KeyFloor, KeyId, Keyring, KeyringError, MAX_KEYS, Verdict};
use super::template::{DigestKind, FileAlg, FileDigest, Measured};
use super::tests::{Host, compiled, listing, program, rule};
use crate::algorithm::HashAlg;

/// A key that signs files, as an operator has it.
pub(super) struct Signer {
    pub(super) pair: lc::EcdsaKeyPair,
    pub(super) certificate: Vec<u8>,
    pub(super) id: KeyId,
}

pub(super) fn signer() -> Signer {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
    let certificate = parameters.self_signed(&key).unwrap().der().to_vec();
    let pair =
        lc::EcdsaKeyPair::from_pkcs8(&lc::ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
    let id = Keyring::new(KeyFloor::Sound).add(&certificate).unwrap();
    Signer { pair, certificate, id }
}

impl Signer {
    /// `security.ima` of a file whose SHA-256 is `digest`.
    pub(super) fn sign(&self, kind: u8, version: u8, digest: &[u8]) -> Vec<u8> {
        let imported =
            aws_lc_rs::digest::Digest::import_less_safe(digest, &aws_lc_rs::digest::SHA256).unwrap();
        let signature = self.pair.sign_digest(&imported).unwrap();
        let len = u16::try_from(signature.as_ref().len()).unwrap();
        [&[kind, version, 4][..], &self.id.0, &len.to_be_bytes(), signature.as_ref()].concat()
    }
}

fn measured<'a>(kind: DigestKind, digest: &'a [u8], signature: &'a [u8]) -> Measured<'a> {
    let digest = FileDigest { algorithm: FileAlg::Sha256, bytes: digest };
    Measured { kind, digest, path: b"/usr/bin/app", signature, buffer: None, appended: None }
}

#[test]
fn a_signature_counts_for_its_digest_its_key_and_its_form_only() {
    let signer = signer();
    let mut keyring = Keyring::new(KeyFloor::Sound);
    let digest = program("/usr/bin/app");
    let signature = signer.sign(3, 2, &digest);
    let file = |signature: &[u8], digest: &[u8], keyring: &Keyring| {
        keyring.verify(&measured(DigestKind::Ima, digest, signature))
    };
    assert_eq!(file(&signature, &digest, &keyring), Verdict::UnknownKey(signer.id));
    assert_eq!(keyring.add(&signer.certificate), Ok(signer.id));
    assert_eq!(file(&signature, &digest, &keyring), Verdict::Valid(signer.id));
    assert_eq!(file(b"", &digest, &keyring), Verdict::Absent);
    assert_eq!(file(&signature, &program("other"), &keyring), Verdict::Invalid(signer.id));
    for (at, wrong) in [(0, 5), (1, 1), (1, 3), (2, 99)] {
        let mut other = signature.clone();
        other[at] = wrong;
        assert_eq!(file(&other, &digest, &keyring), Verdict::Unsupported, "{at} {wrong}");
    }
    // Another hash than the entry's digest is of.
    let mut other = signature.clone();
    other[2] = 5;
    assert_eq!(file(&other, &digest, &keyring), Verdict::Invalid(signer.id));
    for len in 0..signature.len() {
        let verdict = file(&signature[..len], &digest, &keyring);
        assert!(matches!(verdict, Verdict::Absent | Verdict::Unsupported), "{len}");
    }
    assert_eq!(file(&[&signature[..], b"x"].concat(), &digest, &keyring), Verdict::Unsupported);
    // SHA-1 is below the floor.
    let mut other = signature.clone();
    other[2] = 2;
    assert_eq!(file(&other, &digest, &keyring), Verdict::Unsupported);
}

#[test]
fn an_fs_verity_signature_is_over_kind_hash_and_digest() {
    let signer = signer();
    let mut keyring = Keyring::new(KeyFloor::Sound);
    keyring.add(&signer.certificate).unwrap();
    let root = program("tree");
    let signed = HashAlg::Sha256.digest_parts(&[&[6, 4], &root]);
    let signature = signer.sign(6, 3, &signed);
    let verdict = |kind, signature: &[u8]| keyring.verify(&measured(kind, &root, signature));
    assert_eq!(verdict(DigestKind::Verity, &signature), Verdict::Valid(signer.id));
    assert_eq!(verdict(DigestKind::Ima, &signature), Verdict::Invalid(signer.id));
    // A signature over the digest itself is another form.
    assert_eq!(verdict(DigestKind::Verity, &signer.sign(3, 2, &root)), Verdict::Invalid(signer.id));
    assert_eq!(verdict(DigestKind::Verity, &signer.sign(6, 3, &root)), Verdict::Invalid(signer.id));
}

#[test]
fn keyrings_are_bounded_and_refuse_what_is_no_key() {
    let mut keyring = Keyring::new(KeyFloor::Sound);
    assert_eq!(keyring.add(b"no key"), Err(KeyringError::Malformed));
    assert_eq!(keyring.add(&vec![0x30; 20_000]), Err(KeyringError::Malformed));
    let signer = signer();
    for _ in 0..MAX_KEYS {
        keyring.add(&signer.certificate).unwrap();
    }
    assert_eq!(keyring.add(&signer.certificate), Err(KeyringError::TooManyKeys));
}

/// A rule names a key by four bytes, and whoever makes a certificate chooses them.
#[test]
fn no_key_stands_in_for_another_by_its_identifier() {
    let named = |identifier: &[u8]| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
        parameters.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(identifier.to_vec());
        parameters.self_signed(&key).unwrap().der().to_vec()
    };
    let mut keyring = Keyring::new(KeyFloor::Sound);
    assert_eq!(keyring.add(&named(b"kernel modules")), Ok(KeyId(*b"ules")));
    assert_eq!(keyring.add(&named(b"a vendor's rules")), Err(KeyringError::Ambiguous));
    assert_eq!(keyring.add(&named(b"a vendor")), Ok(KeyId(*b"ndor")));
}

#[test]
fn files_signed_by_a_key_that_may_sign_there_are_taken_and_forged_ones_are_named() {
    let signer = signer();
    let mut draft = listing(&[]);
    draft.keys.push(signer.certificate.clone());
    draft.signed_by.push(SignedBy { prefix: b"/usr/".to_vec(), keys: vec![signer.id] });
    let policy = compiled(&draft);
    let code = |path: &str, digest: &[u8], signature: &[u8], policy: &RuntimePolicy| {
        let mut host = Host::booted();
        host.ima.measure_signed(HashAlg::Sha256, path.as_bytes(), digest, signature);
        let quote = host.quote();
        let submission = Submission { from: 0, column: HashAlg::Sha1, list: host.ima.bytes() };
        appraise(&quote, None, &submission, policy)
            .map(|good| good.state().counts.signed)
            .map_err(|refusal| refusal.code())
    };
    let digest = program("app");
    let signature = signer.sign(3, 2, &digest);
    assert_eq!(code("/usr/bin/app", &digest, &signature, &policy), Ok(1));
    assert_eq!(code("/opt/app", &digest, &signature, &policy), Err("ima-file-unknown"));
    assert_eq!(code("/usr/bin/app", &program("other"), &signature, &policy), Err("ima-file-signature"));
    assert_eq!(code("/usr/bin/app", &digest, b"", &policy), Err("ima-file-unknown"));
    let stranger = self::signer();
    let other = stranger.sign(3, 2, &digest);
    assert_eq!(code("/usr/bin/app", &digest, &other, &policy), Err("ima-file-unknown"));
    // A listed digest needs no signature.
    draft.allow(b"/usr/bin/app", rule(&program("other")));
    assert_eq!(code("/usr/bin/app", &program("other"), &signature, &compiled(&draft)), Ok(0));
    // A rule must name keys that the document carries.
    draft.keys.clear();
    assert_eq!(RuntimePolicy::parse(&draft.encode()).err(), Some(PolicyError::KeyUnknown));
}

#[test]
fn an_appraisal_checks_a_bounded_number_of_signatures() {
    let signer = signer();
    let mut draft = listing(&[]);
    draft.keys.push(signer.certificate.clone());
    draft.signed_by.push(SignedBy { prefix: b"/".to_vec(), keys: vec![signer.id] });
    let policy = compiled(&draft);
    let digest = program("app");
    let signature = signer.sign(3, 2, &digest);
    let mut left = 1;
    let one = measured(DigestKind::Ima, &digest, &signature);
    assert!(policy.judge(&one, &mut left).is_ok());
    let refused = policy.judge(&one, &mut left).unwrap_err();
    assert_eq!(refused, super::policy::Objection::TooManySignatures);
}

#[test]
fn a_document_has_one_encoding_and_its_digest_is_its_name() {
    let mut draft = listing(&["/b", "/a"]);
    draft
        .allow(b"/a", FileDigestRule { algorithm: FileAlg::Sha1, kind: DigestKind::Ima, bytes: vec![1; 20] });
    draft.anywhere.insert(rule(&program("x")));
    draft.excludes = vec![Pattern::Suffix(b".pyc".to_vec()), Pattern::Exact(b"/etc/x".to_vec())];
    draft.roots.push(Root { prefix: b"/var/lib/docker/".to_vec(), skip: 1 });
    let bytes = draft.encode();
    let read = PolicyDraft::parse(&bytes).unwrap();
    assert_eq!(read.encode(), bytes);
    assert_eq!(read.files, draft.files);
    assert_eq!(RuntimePolicy::parse(&bytes).unwrap().digest().as_slice(), HashAlg::Sha256.digest(&bytes));
    for len in 0..bytes.len() {
        assert!(PolicyDraft::parse(&bytes[..len]).is_err());
    }
    let refused = |change: fn(&mut PolicyDraft)| {
        let mut draft = draft.clone();
        change(&mut draft);
        assert!(RuntimePolicy::parse(&draft.encode()).is_err());
    };
    refused(|draft| draft.settings.pcr = 7);
    refused(|draft| draft.settings.pcr = 16);
    refused(|draft| draft.excludes.push(Pattern::Prefix(Vec::new())));
    refused(|draft| draft.roots.push(Root { prefix: b"/no/slash".to_vec(), skip: 0 }));
    refused(|draft| draft.roots.push(Root { prefix: b"/".to_vec(), skip: 17 }));
    refused(|draft| draft.keys.push(b"no key".to_vec()));
    refused(|draft| draft.signed_by.push(SignedBy { prefix: b"/".to_vec(), keys: Vec::new() }));
    refused(|draft| {
        draft.anywhere.insert(rule(b"short"));
    });
    refused(|draft| {
        draft.excludes = (0..257).map(|n| Pattern::Exact(format!("/{n}").into_bytes())).collect();
    });
}

const KEYLIME: &str = r#"{
  "meta": {"version": 1, "generator": 1, "timestamp": "2024-01-01 00:00:00"},
  "release": 0,
  "digests": {
    "boot_aggregate": ["f4845392eca429a4c941a6a07fc32faf843a88c5c3dfa3b9329ab8f4171d9ce3"],
    "/usr/bin/with space": ["96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754",
                            "009b0d8ee8fb8d890fa70f9c8e02b3f1eded1509"]
  },
  "excludes": ["/tmp/.*", "^/var/log(/.*)?$", "/etc/motd$", ".*\\.pyc$", "/opt/app\\-1\\.0/"],
  "keyrings": {".ima": ["96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754"]},
  "ima": {"ignored_keyrings": [".fs-verity"], "log_hash_alg": "sha1", "dm_policy": null},
  "ima-buf": {"dm_table_load": ["96d7fae8adb7286a419a88f78c13d35fb782d63df654b7db56f154765698b754"]},
  "verification-keys": ""
}"#;

#[test]
fn a_keylime_policy_is_imported_and_nothing_of_it_is_dropped_in_silence() {
    let Imported { draft, boot_aggregates } = keylime(KEYLIME.as_bytes()).unwrap();
    assert_eq!(boot_aggregates, 1, "told by number");
    let paths: Vec<&[u8]> = draft.files.keys().map(Vec::as_slice).collect();
    assert_eq!(paths, [&b".ima"[..], b"/usr/bin/with_space", b"dm_table_load"]);
    let algorithms: Vec<FileAlg> =
        draft.files[&b"/usr/bin/with_space"[..]].iter().map(|rule| rule.algorithm).collect();
    assert_eq!(algorithms, [FileAlg::Sha1, FileAlg::Sha256]);
    let excludes: Vec<String> = draft.excludes.iter().map(Pattern::to_string).collect();
    let expected = ["/tmp/*", "/var/log", "/var/log/*", "/etc/motd", "*.pyc", "/opt/app-1.0/*", ".fs-verity"];
    assert_eq!(excludes, expected);
    assert!(RuntimePolicy::parse(&draft.encode()).is_ok());
    let with = |from: &str, to: &str| {
        let changed = KEYLIME.replacen(from, to, 1);
        assert_ne!(changed, KEYLIME);
        keylime(changed.as_bytes()).unwrap_err()
    };
    assert_eq!(with("/tmp/.*", "/tmp/[a-z]+"), ImportError::Exclude("/tmp/[a-z]+".to_owned()));
    assert_eq!(with("/tmp/.*", "(/a|/b)"), ImportError::Exclude("(/a|/b)".to_owned()));
    assert_eq!(with("/tmp/.*", ".*"), ImportError::Exclude(".*".to_owned()));
    assert_eq!(with("/tmp/.*", "/a\\\\d"), ImportError::Exclude("/a\\d".to_owned()));
    assert_eq!(with("null", "{}"), ImportError::Unsupported("a device mapper policy"));
    assert_eq!(
        with("\"version\": 1", "\"version\": 2"),
        ImportError::Unsupported("a policy of this version")
    );
    assert_eq!(with(".fs-verity", "*"), ImportError::Unsupported("ignoring every keyring"));
    assert!(matches!(with("96d7", "zz"), ImportError::Digest(_)));
    assert!(matches!(with("\"release\"", "\"surprise\""), ImportError::Json(_)));
    assert!(matches!(with("/usr/bin/with space", "boot_aggregate"), ImportError::Json(_)));
}

#[test]
fn keylimes_verification_keys_become_signers_of_every_path() {
    let signer = signer();
    let key = data_encoding::BASE64.encode(&signer.certificate);
    let keys = format!(r#"{{"meta":{{"version":1}},"keyids":[1],"pubkeys":["{key}"]}}"#);
    let mut page: serde_json::Value = serde_json::from_str(KEYLIME).unwrap();
    page["verification-keys"] = keys.into();
    let draft = keylime(page.to_string().as_bytes()).unwrap().draft;
    assert_eq!(draft.signed_by, [SignedBy { prefix: b"/".to_vec(), keys: vec![signer.id] }]);
    assert!(RuntimePolicy::parse(&draft.encode()).is_ok());
    page["verification-keys"] = "{}".into();
    assert!(keylime(page.to_string().as_bytes()).is_err());
}

#[test]
fn checksum_lists_are_imported_line_by_line() {
    let digest = data_encoding::HEXLOWER.encode(&program("a"));
    let mut draft = PolicyDraft::default();
    let text =
        format!("{digest}  /usr/bin/a\n{digest} */usr/bin/b c\n\\{digest}  /usr/bin/d\\ne\n{digest}  ./f\n");
    checksums(text.as_bytes(), Some("/opt/"), &mut draft).unwrap();
    let paths: Vec<&[u8]> = draft.files.keys().map(Vec::as_slice).collect();
    assert_eq!(paths, [&b"/opt/f"[..], b"/usr/bin/a", b"/usr/bin/b_c", b"/usr/bin/d\ne"]);
    let refused =
        |text: &str, base| checksums(text.as_bytes(), base, &mut PolicyDraft::default()).unwrap_err();
    assert_eq!(refused(&format!("{digest}  usr/bin/a"), Some("/")), ImportError::Relative(1));
    assert_eq!(refused(&format!("{digest}  ./a"), None), ImportError::Relative(1));
    assert_eq!(refused("nothing", None), ImportError::Line(1));
    assert_eq!(refused(&format!("\n{digest} /a"), None), ImportError::Line(2));
    assert!(matches!(refused("abcd  /a", None), ImportError::Digest(_)));
}
