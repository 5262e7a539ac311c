//! Appended signatures: whose they are, every way to be wrong, and what an appraisal makes of them. Messages are written here element by
//! element; those of openssl are in `tpm/tests/modsig.rs`.

use super::appraise::{Submission, appraise};
use super::modsig::{AppendedSignature, MAX_MODSIG_BYTES, Signer as Named, issued};
use super::policy::{Objection, Pattern, PolicyDraft, SignedBy};
use super::policy_tests::{Signer, signer};
use super::signature::{KeyFloor, Keyring, MAX_KEYS, Verdict};
use super::template::{Appended, DigestKind, FileAlg, FileDigest, Measured, Template};
use super::tests::{Host, compiled, listing, program, rule};
use crate::algorithm::HashAlg;
use crate::simulated::ima::{ended, fields, named};
use crate::testing::each_bit_flip;
use der::{Decode, Encode};

const OID_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const OID_SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const OID_SHA1: &[u8] = &[0x2b, 14, 3, 2, 26];
const OID_SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const OID_SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const OID_SHA256_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const OID_ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const OID_ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const NULL: &[u8] = &[5, 0];

/// An element of DER.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let head = match len {
        0..0x80 => vec![tag, u8::try_from(len).unwrap()],
        0x80..0x100 => vec![tag, 0x81, u8::try_from(len).unwrap()],
        0x100..0x1_0000 => [&[tag, 0x82][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
        _ => [&[tag, 0x83][..], &u32::try_from(len).unwrap().to_be_bytes()[1..]].concat(),
    };
    [head, content].concat()
}

fn algorithm(oid: &[u8], parameters: &[u8]) -> Vec<u8> {
    element(0x30, &[&element(6, &[oid]), parameters])
}

/// A message, field by field, each as its whole element.
#[derive(Clone)]
struct Message {
    kind: Vec<u8>,
    version: u8,
    announced: Vec<Vec<u8>>,
    content: Vec<u8>,
    /// Certificates and revocation lists.
    along: Vec<u8>,
    signers: Vec<Vec<u8>>,
    behind: Vec<u8>,
}

impl Message {
    fn of(version: u8, signers: &[Vec<u8>]) -> Self {
        Self {
            kind: element(6, &[OID_SIGNED_DATA]),
            version,
            announced: vec![algorithm(OID_SHA256, &[])],
            content: element(0x30, &[&element(6, &[OID_DATA])]),
            along: Vec::new(),
            signers: signers.to_vec(),
            behind: Vec::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let set = |items: &[Vec<u8>]| element(0x31, &[&items.concat()]);
        let signed = element(
            0x30,
            &[
                &element(2, &[&[self.version]]),
                &set(&self.announced),
                &self.content,
                &self.along,
                &set(&self.signers),
                &self.behind,
            ],
        );
        element(0x30, &[&self.kind, &element(0xa0, &[&signed])])
    }
}

/// SignerInfo, field by field.
#[derive(Clone)]
struct Info {
    version: u8,
    sid: Vec<u8>,
    digest: Vec<u8>,
    signed_attributes: Vec<u8>,
    signature: Vec<u8>,
    value: Vec<u8>,
    behind: Vec<u8>,
}

impl Info {
    fn bytes(&self) -> Vec<u8> {
        let version = element(2, &[&[self.version]]);
        let parts: [&[u8]; 7] = [
            &version,
            &self.sid,
            &self.digest,
            &self.signed_attributes,
            &self.signature,
            &self.value,
            &self.behind,
        ];
        element(0x30, &parts)
    }

    fn message(&self) -> Message {
        Message::of(self.version, &[self.bytes()])
    }
}

fn by_certificate(certificate: &[u8]) -> Vec<u8> {
    let (issuer, serial) = issued(certificate).unwrap();
    element(0x30, &[&issuer, &element(2, &[&serial])])
}

impl Signer {
    /// What signs a file whose SHA-256 without the signature is `digest`, and names the certificate.
    fn info(&self, digest: &[u8]) -> Info {
        let imported =
            aws_lc_rs::digest::Digest::import_less_safe(digest, &aws_lc_rs::digest::SHA256).unwrap();
        let value = self.pair.sign_digest(&imported).unwrap();
        Info {
            version: 1,
            sid: by_certificate(&self.certificate),
            digest: algorithm(OID_SHA256, &[]),
            signed_attributes: Vec::new(),
            signature: algorithm(OID_ECDSA_SHA256, &[]),
            value: element(4, &[value.as_ref()]),
            behind: Vec::new(),
        }
    }

    /// The same, and names the key.
    fn info_by_key(&self, digest: &[u8]) -> Info {
        Info { version: 3, sid: element(0x80, &[&self.identifier()]), ..self.info(digest) }
    }

    fn append(&self, digest: &[u8]) -> Vec<u8> {
        self.info(digest).message().bytes()
    }

    fn spki(&self) -> Vec<u8> {
        let certificate = x509_cert::Certificate::from_der(&self.certificate).unwrap();
        certificate.tbs_certificate().subject_public_key_info().to_der().unwrap()
    }

    /// As its certificate has it.
    fn identifier(&self) -> Vec<u8> {
        let certificate = x509_cert::Certificate::from_der(&self.certificate).unwrap();
        let extensions = certificate.tbs_certificate().extensions().unwrap();
        let found = extensions.iter().find(|one| one.extn_id.to_string() == "2.5.29.14").unwrap();
        // An OCTET STRING within: two bytes of header.
        found.extn_value.as_bytes()[2..].to_vec()
    }

    /// Of a key that came without a certificate: SHA-1 of its bits. RFC 5280 §4.2.1.2.
    fn bare_identifier(&self) -> Vec<u8> {
        let certificate = x509_cert::Certificate::from_der(&self.certificate).unwrap();
        let spki = certificate.tbs_certificate().subject_public_key_info();
        HashAlg::Sha1.digest(spki.subject_public_key.raw_bytes())
    }
}

fn ring(keys: &[&[u8]]) -> Keyring {
    let mut ring = Keyring::new(KeyFloor::Sound);
    for key in keys {
        ring.add(key).unwrap();
    }
    ring
}

fn judged(ring: &Keyring, digest: FileDigest<'_>, signature: &[u8]) -> Verdict {
    ring.verify_appended(&Appended { digest, signature }, &mut 1_000).unwrap()
}

fn sha256(bytes: &[u8]) -> FileDigest<'_> {
    FileDigest { algorithm: FileAlg::Sha256, bytes }
}

#[test]
fn a_signature_counts_for_its_digest_and_its_signer_however_it_is_named() {
    let (one, other) = (signer(), signer());
    let digest = program("module without");
    let by_issuer = one.append(&digest);
    let by_key = one.info_by_key(&digest).message().bytes();
    let sid = element(0x80, &[&one.bare_identifier()]);
    let by_bare_key = Info { sid, ..one.info_by_key(&digest) }.message().bytes();
    let certified = ring(&[&other.certificate, &one.certificate]);
    let bare = ring(&[&other.spki(), &one.spki()]);
    let bare_id = bare.ids().nth(1).unwrap();
    let other_digest = program("x");
    let (right, wrong) = (sha256(&digest), sha256(&other_digest));
    for signature in [&by_issuer, &by_key] {
        assert_eq!(judged(&certified, right, signature), Verdict::Valid(one.id));
        assert_eq!(judged(&certified, wrong, signature), Verdict::Invalid(one.id));
    }
    assert_eq!(judged(&bare, right, &by_bare_key), Verdict::Valid(bare_id));
    assert_eq!(judged(&bare, wrong, &by_bare_key), Verdict::Invalid(bare_id));
    // A bare key is tried where a certificate is named, and its failure says nothing of it.
    assert_eq!(judged(&bare, right, &by_issuer), Verdict::Valid(bare_id));
    assert_eq!(judged(&bare, wrong, &by_issuer), Verdict::UnknownSigner);
    // It isn't where a key is named: that has to be it, to the last byte of its identifier.
    assert!(matches!(judged(&bare, right, &by_key), Verdict::UnknownKey(_)));
    let sid = element(0x80, &[&one.bare_identifier()[1..]]);
    let shorter = Info { sid, ..one.info_by_key(&digest) }.message().bytes();
    assert_eq!(judged(&bare, right, &shorter), Verdict::UnknownKey(bare_id));
    // Nobody here, another certificate of another key, and no key at all.
    for ring in [ring(&[&other.certificate]), ring(&[&other.spki()]), ring(&[])] {
        assert_eq!(judged(&ring, right, &by_issuer), Verdict::UnknownSigner);
        assert!(matches!(judged(&ring, right, &by_key), Verdict::UnknownKey(_)));
    }
    // A signer who names another's certificate.
    let info = Info { sid: by_certificate(&other.certificate), ..one.info(&digest) };
    assert_eq!(judged(&certified, sha256(&digest), &info.message().bytes()), Verdict::Invalid(other.id));
}

#[test]
fn the_digest_is_by_the_hash_of_the_signature() {
    let one = signer();
    let ring = ring(&[&one.certificate]);
    let digest = program("module");
    let signature = one.append(&digest);
    let long = HashAlg::Sha384.digest(b"module");
    let digests = [
        FileDigest { algorithm: FileAlg::Sha384, bytes: &long },
        FileDigest { algorithm: FileAlg::Sha1, bytes: &digest[..20] },
        // As many bytes, and another algorithm.
        FileDigest { algorithm: FileAlg::Sm3, bytes: &digest },
        FileDigest { algorithm: FileAlg::Sha3_256, bytes: &digest },
    ];
    for digest in digests {
        assert_eq!(judged(&ring, digest, &signature), Verdict::Invalid(one.id), "{digest:?}");
    }
    // A kind of key that isn't the signer's.
    let info = Info { signature: algorithm(OID_RSA, NULL), ..one.info(&digest) };
    assert_eq!(judged(&ring, sha256(&digest), &info.message().bytes()), Verdict::Invalid(one.id));
}

#[test]
fn what_a_signature_may_carry_beside_itself_changes_nothing() {
    let one = signer();
    let ring = ring(&[&one.certificate]);
    let digest = program("module");
    let info = one.info(&digest);
    let good = |message: Message| {
        assert_eq!(judged(&ring, sha256(&digest), &message.bytes()), Verdict::Valid(one.id));
    };
    good(Message { along: element(0xa0, &[&one.certificate]), ..info.message() });
    good(Message {
        along: [element(0xa0, &[b"what"]), element(0xa1, &[b"ever"])].concat(),
        ..info.message()
    });
    good(Message { announced: Vec::new(), ..info.message() });
    good(Message { announced: vec![algorithm(OID_SHA1, NULL); 8], ..info.message() });
    good(Info { digest: algorithm(OID_SHA256, NULL), ..info.clone() }.message());
    good(Info { behind: element(0xa1, &[b"a countersignature"]), ..info }.message());
    // A certificate that came along makes nobody known.
    let stranger = signer();
    let message =
        Message { along: element(0xa0, &[&stranger.certificate]), ..stranger.info(&digest).message() };
    assert_eq!(judged(&ring, sha256(&digest), &message.bytes()), Verdict::UnknownSigner);
}

/// A change of one field of a good message.
type Change = fn(&mut Message, &mut Info);

const CHANGES: [(&str, Change); 24] = [
    ("another kind of message", |message, _| message.kind = element(6, &[OID_DATA])),
    ("content of another kind", |message, _| {
        message.content = element(0x30, &[&element(6, &[OID_SIGNED_DATA])])
    }),
    ("content that came along", |message, _| {
        let data = element(0xa0, &[&element(4, &[b"module"])]);
        message.content = element(0x30, &[&element(6, &[OID_DATA]), &data]);
    }),
    ("a version that is none", |message, info| (message.version, info.version) = (2, 2)),
    ("two versions", |message, _| message.version = 3),
    ("the version of the other name", |message, info| (message.version, info.version) = (3, 3)),
    ("a key's identifier in the first version", |_, info| info.sid = element(0x80, &[&[7; 20]])),
    ("an issuer that is no name", |_, info| {
        info.sid = element(0x30, &[&element(0x31, &[]), &element(2, &[&[1]])]);
    }),
    ("a serial number without digits", |_, info| {
        info.sid = element(0x30, &[&element(0x30, &[]), &element(2, &[])]);
    }),
    ("more than issuer and serial number", |_, info| {
        info.sid = element(0x30, &[&element(0x30, &[]), &element(2, &[&[1]]), NULL]);
    }),
    ("SHA-1", |_, info| info.digest = algorithm(OID_SHA1, &[])),
    ("a hash with parameters", |_, info| info.digest = algorithm(OID_SHA256, &element(4, &[b"x"]))),
    ("a hash with a NULL that isn't empty", |_, info| info.digest = algorithm(OID_SHA256, &[5, 1, 0])),
    ("signed attributes", |_, info| info.signed_attributes = element(0xa0, &[&[0x30, 0]])),
    ("an unknown signature algorithm", |_, info| info.signature = algorithm(OID_SHA256_RSA, NULL)),
    ("a signature of another hash", |_, info| info.signature = algorithm(OID_ECDSA_SHA384, &[])),
    ("a hash of another signature", |_, info| info.digest = algorithm(OID_SHA384, &[])),
    ("ECDSA with parameters", |_, info| info.signature = algorithm(OID_ECDSA_SHA256, NULL)),
    ("a value that is no string of bytes", |_, info| info.value[0] = 3),
    ("something behind the signer", |_, info| info.behind = NULL.to_vec()),
    ("unsigned attributes twice", |_, info| info.behind = [[0xa1, 0], [0xa1, 0]].concat()),
    ("something behind the signers", |message, _| message.behind = NULL.to_vec()),
    ("too many hashes", |message, _| message.announced = vec![algorithm(OID_SHA256, &[]); 9]),
    ("a hash that is none", |message, _| message.announced = vec![NULL.to_vec()]),
];

#[test]
fn every_other_form_is_refused() {
    let one = signer();
    let digest = program("module");
    let good = one.info(&digest);
    assert!(AppendedSignature::parse(&good.message().bytes()).is_some());
    for (what, change) in CHANGES {
        let (mut message, mut info) = (good.message(), good.clone());
        change(&mut message, &mut info);
        message.signers = vec![info.bytes()];
        assert_eq!(AppendedSignature::parse(&message.bytes()), None, "{what}");
    }
    // None, and more than one, of whom one is good and the other as well.
    for signers in [vec![], vec![good.bytes(); 2], vec![good.bytes(), signer().info(&digest).bytes()]] {
        assert_eq!(AppendedSignature::parse(&Message::of(1, &signers).bytes()), None);
    }
    let bytes = good.message().bytes();
    // Encodings that aren't DER: an indefinite length, a length with a zero in front, something behind the end.
    assert_eq!(bytes[1], 0x81);
    let indefinite = [&[0x30, 0x80][..], &bytes[3..], &[0, 0]].concat();
    let long = [&[0x30, 0x82, 0][..], &bytes[2..]].concat();
    for other in [indefinite, long, [&bytes[..], &[0]].concat(), [&bytes[..], &bytes].concat()] {
        assert_eq!(AppendedSignature::parse(&other), None);
    }
    for len in 0..bytes.len() {
        assert_eq!(AppendedSignature::parse(&bytes[..len]), None, "{len}");
    }
    let padded = Message { along: element(0xa0, &[&vec![0; MAX_MODSIG_BYTES]]), ..good.message() };
    assert_eq!(AppendedSignature::parse(&padded.bytes()), None);
}

#[test]
fn no_changed_bit_leaves_a_signature_good() {
    let one = signer();
    let ring = ring(&[&one.certificate]);
    let digest = program("module");
    for info in [one.info(&digest), one.info_by_key(&digest)] {
        // Nothing is in it that isn't looked at.
        let message = Message { announced: Vec::new(), ..info.message() };
        let bytes = message.bytes();
        assert_eq!(judged(&ring, sha256(&digest), &bytes), Verdict::Valid(one.id));
        each_bit_flip(&bytes, |flipped| {
            let verdict = judged(&ring, sha256(&digest), flipped);
            assert!(!matches!(verdict, Verdict::Valid(_) | Verdict::Absent), "{verdict:?}");
        });
    }
}

#[test]
fn every_key_that_is_tried_counts() {
    let one = signer();
    let digest = program("module");
    let by_issuer = one.append(&digest);
    let stranger = signer().spki();
    let mut crowd = Keyring::new(KeyFloor::Sound);
    for _ in 0..MAX_KEYS {
        crowd.add(&stranger).unwrap();
    }
    let tried = |ring: &Keyring, signature: &[u8], mut left: usize| {
        let verdict = ring.verify_appended(&Appended { digest: sha256(&digest), signature }, &mut left);
        (verdict, left)
    };
    assert_eq!(tried(&crowd, &by_issuer, 100), (Some(Verdict::UnknownSigner), 100 - MAX_KEYS));
    assert_eq!(tried(&crowd, &by_issuer, MAX_KEYS - 1), (None, 0));
    assert_eq!(tried(&crowd, b"no signature", 0), (Some(Verdict::Unsupported), 0));
    let own = ring(&[&one.certificate]);
    assert_eq!(tried(&own, &by_issuer, 1), (Some(Verdict::Valid(one.id)), 0));
    assert_eq!(tried(&own, &by_issuer, 0), (None, 0));
}

const MODULE: &str = "/usr/lib/modules/6.1/a.ko";

/// The data of an entry of the template ima-modsig.
fn entry(digest: &[u8], signature: &[u8], without: &[u8], appended: &[u8]) -> Vec<u8> {
    let (digest, without) = (named(HashAlg::Sha256, digest), named(HashAlg::Sha256, without));
    fields(&[&digest, &ended(MODULE.as_bytes()), signature, &without, appended])
}

/// How many files counted as signed, or the code.
fn appraised(draft: &PolicyDraft, data: &[u8]) -> Result<u64, &'static str> {
    let mut host = Host::booted();
    host.ima.entry(Template::ImaModsig, data);
    let quote = host.quote();
    let submission = Submission { from: 0, column: HashAlg::Sha1, list: host.ima.bytes() };
    let good = appraise(&quote, None, &submission, &compiled(draft));
    good.map(|good| good.state().counts.signed).map_err(|refusal| refusal.code())
}

fn signed_below(prefix: &str, signer: &Signer) -> PolicyDraft {
    let mut draft = listing(&[]);
    draft.keys.push(signer.certificate.clone());
    draft.signed_by.push(SignedBy { prefix: prefix.as_bytes().to_vec(), keys: vec![signer.id] });
    draft
}

#[test]
fn a_module_that_a_known_key_signed_is_taken_as_by_a_signature_of_its_own() {
    let one = signer();
    let draft = signed_below("/usr/lib/modules/", &one);
    let (whole, without) = (program("module"), program("module without"));
    let good = one.append(&without);
    assert_eq!(appraised(&draft, &entry(&whole, b"", &without, &good)), Ok(1));
    // Of another file, of nobody, and where the key mayn't sign.
    assert_eq!(appraised(&draft, &entry(&whole, b"", &whole, &good)), Err("ima-file-signature"));
    let stranger = signer().append(&without);
    assert_eq!(appraised(&draft, &entry(&whole, b"", &without, &stranger)), Err("ima-file-unknown"));
    assert_eq!(appraised(&draft, &entry(&whole, b"", &without, b"pkcs7")), Err("ima-file-unknown"));
    assert_eq!(appraised(&draft, &entry(&whole, b"", &without, b"")), Err("ima-file-unknown"));
    let elsewhere = signed_below("/opt/", &one);
    assert_eq!(appraised(&elsewhere, &entry(&whole, b"", &without, &good)), Err("ima-file-unknown"));
    // The digest of the whole file is what is listed, and counts first.
    let mut listed = draft.clone();
    listed.allow(MODULE.as_bytes(), rule(&whole));
    assert_eq!(appraised(&listed, &entry(&whole, b"", &without, &stranger)), Ok(0));
    let mut other = draft.clone();
    other.allow(MODULE.as_bytes(), rule(&program("other")));
    assert_eq!(appraised(&other, &entry(&whole, b"", &without, &good)), Ok(1));
    assert_eq!(appraised(&other, &entry(&whole, b"", &without, &stranger)), Err("ima-file-digest"));
    // An exclude comes last, as ever.
    let mut excused = draft;
    excused.excludes.push(Pattern::Exact(MODULE.as_bytes().to_vec()));
    assert_eq!(appraised(&excused, &entry(&whole, b"", &without, &stranger)), Ok(0));
    assert_eq!(appraised(&excused, &entry(&whole, b"", &without, &good)), Ok(1));
}

#[test]
fn of_two_signatures_the_appended_one_counts_where_the_other_is_nobodys() {
    let (one, other) = (signer(), signer());
    let draft = signed_below("/", &one);
    let (whole, without) = (program("module"), program("module without"));
    let good = one.append(&without);
    let result =
        |signature: &[u8], appended: &[u8]| appraised(&draft, &entry(&whole, signature, &without, appended));
    assert_eq!(result(&one.sign(3, 2, &whole), b"pkcs7"), Ok(1));
    assert_eq!(result(&other.sign(3, 2, &whole), &good), Ok(1));
    assert_eq!(result(&other.sign(3, 2, &whole), b"pkcs7"), Err("ima-file-unknown"));
    // A known key that didn't sign isn't made good by another signature.
    assert_eq!(result(&one.sign(3, 2, &without), &good), Err("ima-file-signature"));
    // A known key that mayn't sign here leaves the word to the other one.
    let mut both = draft.clone();
    both.keys.push(other.certificate.clone());
    let signed = entry(&whole, &other.sign(3, 2, &whole), &without, &good);
    assert_eq!(appraised(&both, &signed), Ok(1));
}

#[test]
fn a_buffer_is_signed_by_nothing_that_stands_behind_it() {
    let one = signer();
    let draft = signed_below("/", &one);
    let without = program("module");
    let digest = HashAlg::Sha256.digest(b"a buffer");
    let data = entry(&digest, b"a buffer", &without, &one.append(&without));
    assert_eq!(appraised(&draft, &data), Err("ima-file-unknown"));
}

#[test]
fn an_appraisal_tries_a_bounded_number_of_keys() {
    let one = signer();
    let policy = compiled(&signed_below("/", &one));
    let (whole, without) = (program("module"), program("module without"));
    let signature = one.append(&without);
    let appended = Some(Appended { digest: sha256(&without), signature: &signature });
    let measured = Measured {
        kind: DigestKind::Ima,
        digest: sha256(&whole),
        path: MODULE.as_bytes(),
        signature: &[],
        buffer: None,
        appended,
    };
    let mut left = 1;
    assert!(policy.judge(&measured, &mut left).is_ok());
    assert_eq!(policy.judge(&measured, &mut left), Err(Objection::TooManySignatures));
}

#[test]
fn a_message_says_who_signed() {
    let one = signer();
    let digest = program("module");
    let (by_issuer, by_key) = (one.append(&digest), one.info_by_key(&digest).message().bytes());
    let (issuer, serial) = issued(&one.certificate).unwrap();
    let read = AppendedSignature::parse(&by_issuer).unwrap();
    assert_eq!(read.signer, Named::Certificate { issuer: &issuer, serial: &serial });
    assert_eq!(AppendedSignature::parse(&by_key).unwrap().signer, Named::Key(&one.identifier()));
}

proptest::proptest! {
    /// Bytes of any kind end in a verdict, and none of them is good.
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let one = signer();
        let verdict = judged(&ring(&[&one.certificate]), sha256(&program("x")), &bytes);
        proptest::prop_assert!(!matches!(verdict, Verdict::Valid(_)));
    }
}
