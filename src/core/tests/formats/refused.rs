//! What every reader refuses, as published vectors: one way to be wrong each, named by what is wrong. Each is refused here too.

use crate::log::{Asked, HOLDER, Made, ORIGIN, asked, made, note, public, secret};
use crate::samples::{basis, decision, digest, evidence, host, inputs, state};
use countersign_core::artifact::{Receipt, verify_note_with};
use countersign_core::bundle::TrustBundle;
use countersign_core::cbor::{MapBuilder, encode_map};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::{JsonKey, KnownKeys, VerifyingKey};
use countersign_core::leaf::body::read_body;
use countersign_core::leaf::decision::Verdict;
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, TpmModel,
};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf, LeafError};
use countersign_core::note::SignedNote;
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::request::{MAX_REQUEST_LEN, SignedRequest, holder_preimage};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer;
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// A leaf with its body, as a reader of the log takes it.
pub(crate) fn read_leaf(bytes: &[u8]) -> Result<(), LeafError> {
    read_body(&Leaf::parse(bytes)?, &mut KnownKeys::default()).map(drop)
}

pub(crate) fn leaf(kind: Kind, body: Vec<u8>) -> Vec<u8> {
    Leaf { kind, index: 1, time_ms: 2, salt: [3; 16], body }.encode().unwrap()
}

fn body(kind: Kind, fill: impl FnOnce(&mut MapBuilder)) -> Vec<u8> {
    leaf(kind, encode_map(fill))
}

/// Replaces the first occurrence, which must be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} isn't in {text:?}");
    text.replacen(from, to, 1)
}

pub(crate) fn swap_bytes(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// Envelopes: the leaf of a heartbeat begins `86 01 0a 01 02 50`.
fn envelopes() -> Vec<(&'static str, Vec<u8>)> {
    let good = leaf(Kind::Heartbeat, encode_map(|map| map.entry(1).uint(1)));
    read_leaf(&good).unwrap();
    let start = [0x86, 0x01, 0x0a, 0x01, 0x02, 0x50];
    let with = |bytes: &[u8]| swap_bytes(&good, &start, bytes);
    vec![
        ("version 2", with(&[0x86, 0x02, 0x0a, 0x01, 0x02, 0x50])),
        ("kind 0", with(&[0x86, 0x01, 0x00, 0x01, 0x02, 0x50])),
        ("kind 15", with(&[0x86, 0x01, 0x0f, 0x01, 0x02, 0x50])),
        ("kind as text", with(&[0x86, 0x01, 0x61, 0x61, 0x01, 0x02, 0x50])),
        ("negative index", with(&[0x86, 0x01, 0x0a, 0x20, 0x02, 0x50])),
        ("index in two bytes", with(&[0x86, 0x01, 0x0a, 0x18, 0x01, 0x02, 0x50])),
        ("time as a float", with(&[0x86, 0x01, 0x0a, 0x01, 0xf9, 0x40, 0x00, 0x50])),
        ("a salt of 15 bytes", swap_bytes(&good, &[0x50, 3], &[0x4f])),
        ("seven items", [&[0x87], &good[1..], &[0xf6]].concat()),
        ("five items", [&[0x85][..], &good[1..good.len() - 4]].concat()),
        ("a byte after the end", [&good[..], &[0]].concat()),
        ("the last byte missing", good[..good.len() - 1].to_vec()),
        ("a map for an array", [&[0xa3], &good[1..]].concat()),
        ("nothing", Vec::new()),
    ]
}

fn counter(reason: u64, id: usize) -> Vec<u8> {
    body(Kind::Heartbeat, |map| {
        map.entry(1).uint(reason);
        map.entry(2).array(|counter| {
            counter.item().bytes(&vec![7; id]);
            counter.item().uint(300);
        });
    })
}

fn small_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let digest = [8; 32];
    vec![
        ("heartbeat reason 4", body(Kind::Heartbeat, |map| map.entry(1).uint(4))),
        ("heartbeat reason 5", body(Kind::Heartbeat, |map| map.entry(1).uint(5))),
        ("heartbeat with a counter and reason 1", counter(1, 16)),
        ("heartbeat with a counter of 15 bytes", counter(4, 15)),
        ("heartbeat reason absent", body(Kind::Heartbeat, |_| {})),
        (
            "heartbeat with an unknown key",
            body(Kind::Heartbeat, |map| {
                map.entry(1).uint(1);
                map.entry(2).uint(1);
            }),
        ),
        ("heartbeat reason as bytes", body(Kind::Heartbeat, |map| map.entry(1).bytes(&[1]))),
        ("body that isn't a map", leaf(Kind::Heartbeat, vec![0x01])),
        ("body of two items", leaf(Kind::Heartbeat, vec![0xa1, 1, 1, 0xa1, 1, 1])),
        (
            "epoch without principal",
            body(Kind::Policy, |map| {
                map.entry(1).bytes(&digest);
                map.entry(2).uint(1);
            }),
        ),
        (
            "token digest of 31 bytes",
            body(Kind::JoinToken, |map| {
                map.entry(1).bytes(&digest[..31]);
                map.entry(2).uint(1);
                map.entry(3).bytes(&digest);
            }),
        ),
        ("key activated with a possession", activated_with(Some(&[0; 64]), None)),
        ("key activated with an approval", activated_with(None, Some(&[0; 64]))),
    ]
}

fn administrative_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let digest = [8; 32];
    let thumbprint = digest;
    let principal = |kind: u64, role: u64| {
        body(Kind::Principal, |map| {
            map.entry(1).uint(1);
            map.entry(2).uint(kind);
            map.entry(3).bytes(&thumbprint);
            map.entry(4).text("gate-1");
            map.entry(5).uint(role);
            map.entry(6).null();
            map.entry(7).null();
        })
    };
    let outcome = |result: u64, code: Option<&str>| {
        body(Kind::Outcome, |map| {
            map.entry(1).bytes(&thumbprint);
            map.entry(2).array(|name| {
                name.item().uint(4);
                name.item().bytes(&digest);
            });
            map.entry(3).uint(result);
            match code {
                Some(code) => map.entry(4).text(code),
                None => map.entry(4).null(),
            }
            map.entry(5).uint(1);
        })
    };
    let revocation = |subject: u64, reason: usize| {
        body(Kind::Revocation, |map| {
            map.entry(1).array(|array| {
                array.item().uint(subject);
                array.item().bytes(&[1; 33]);
            });
            map.entry(2).uint(1);
            map.entry(3).text(&"x".repeat(reason));
            map.entry(4).bytes(&thumbprint);
        })
    };
    read_leaf(&principal(1, 3)).and_then(|()| read_leaf(&outcome(1, None))).unwrap();
    read_leaf(&revocation(1, 256)).unwrap();
    vec![
        ("gateway with a role", principal(2, 1)),
        ("operator without a role", principal(1, 0)),
        ("role 4", principal(1, 4)),
        ("outcome started with a code", outcome(1, Some("expired"))),
        ("outcome refused without a code", outcome(2, None)),
        ("outcome result 3", outcome(3, None)),
        ("revocation of an unknown kind of subject", revocation(4, 0)),
        ("revocation of an artifact named like a host", revocation(2, 0)),
        ("revocation with a reason of 257 bytes", revocation(1, 257)),
    ]
}

/// Host states that tell a part of what they follow from, or what no appraisal says.
fn host_states() -> Vec<(&'static str, Vec<u8>)> {
    let record =
        |basis| HostStateRecord { host: host(), state: state(), evidence: digest(9), code: None, basis };
    let leaf = |basis| leaf(Kind::HostState, record(basis).encode());
    let (short, good) = (leaf(None), leaf(Some(basis())));
    read_leaf(&short).and_then(|()| read_leaf(&good)).unwrap();
    let (five, ten) = (record(None).encode(), record(Some(basis())).encode());
    // The policy, the references, the version.
    let end = [0x08, 0x76, b'c'];
    let cut = ten.windows(3).position(|window| window == end).unwrap();
    let map = |members: u8, rest: &[u8]| self::leaf(Kind::HostState, [&[0xa0 | members], rest].concat());
    vec![
        ("host state without the version that it follows from", map(7, &ten[1..cut])),
        (
            "host state with an appraisal alone",
            map(5, &[&five[1..], &[0x05, 0xa2, 0x01, 0x00, 0x02, 0xa0]].concat()),
        ),
        ("host state with more members than it says", map(9, &ten[1..])),
        ("host state with a member of another number", swap_bytes(&good, &end, &[0x0b, 0x76, b'c'])),
        (
            "host state with a claim that AR4SI has and a decision hasn't",
            swap_bytes(&good, &[0x04, 0x02, 0x03, 0x65], &[0x05, 0x02, 0x03, 0x65]),
        ),
        (
            "host state with a tier that AR4SI hasn't",
            swap_bytes(&good, &[0x04, 0x02, 0x03, 0x65], &[0x04, 0x03, 0x03, 0x65]),
        ),
    ]
}

/// Enrolments whose endorsement isn't what the other keys say.
fn enrolments() -> Vec<(&'static str, Vec<u8>)> {
    let digest = Sha256Digest::new([8; 32]);
    let other = Sha256Digest::new([9; 32]);
    let model = || TpmModel { manufacturer: "STM".into(), model: "ST33".into(), version: "1".into() };
    let enrolment = |kind, naming, certificate, tpm| {
        let body = Enrolment {
            host: host(),
            ek_public: naming,
            ek_certificate: certificate,
            ak_public: digest,
            ak_name: vec![0, 11, 1],
            host_key: public(HOLDER),
            host_key_kind: HostKeyKind::Certified,
            admission: Admission::Preregistered,
            token: None,
            activation: digest,
            version: 1,
            endorsement: Endorsement { kind, weak_key: false, tpm, device: None },
        };
        leaf(Kind::Enrolment, body.encode())
    };
    let (certified, listed, of_ak) =
        (EndorsementKind::EkCertificate, EndorsementKind::EkAllowed, EndorsementKind::IakCertificate);
    let good = enrolment(certified, other, Some(digest), Some(model()));
    read_leaf(&good).unwrap();
    // The endorsement is the end of the body: {1: 1, 2: false, 3: .., 4: .., 5: ..}.
    let members = [0x0c, 0xa5, 0x01, 0x01, 0x02, 0xf4];
    let with = |bytes: &[u8]| swap_bytes(&good, &members, bytes);
    vec![
        ("endorsed by a certificate that isn't named", enrolment(certified, other, None, None)),
        ("allow-listed with a certificate", enrolment(listed, other, Some(digest), None)),
        ("allow-listed with a description of its TPM", enrolment(listed, other, None, Some(model()))),
        (
            "named by the AK and endorsed by an EK certificate",
            enrolment(certified, digest, Some(digest), None),
        ),
        ("endorsed by an AK certificate and named by an EK", enrolment(of_ak, other, Some(digest), None)),
        ("endorsement of kind 4", with(&[0x0c, 0xa5, 0x01, 0x04, 0x02, 0xf4])),
        ("endorsement whose weakness is a number", with(&[0x0c, 0xa5, 0x01, 0x01, 0x02, 0x00])),
    ]
}

fn activated_with(possession: Option<&[u8]>, approval: Option<&[u8]>) -> Vec<u8> {
    body(Kind::Key, |map| {
        map.entry(1).uint(2);
        map.entry(2).uint(1);
        map.entry(3).bytes(&public(HOLDER).cose_key());
        match possession {
            Some(signature) => map.entry(4).bytes(signature),
            None => map.entry(4).null(),
        }
        map.entry(5).null();
        map.entry(6).null();
        match approval {
            Some(signature) => map.entry(7).array(|parts| {
                parts.item().bytes(&public(HOLDER).cose_key());
                parts.item().bytes(signature);
            }),
            None => map.entry(7).null(),
        }
    })
}

/// Decisions: changed at the bytes, since nothing here makes wrong ones.
fn decisions() -> Vec<(&'static str, Vec<u8>)> {
    let good = decision(Verdict::Allow { nbf: 1_700_000_000, exp: 1_700_000_060 }).encode();
    let allow = |from: &[u8], to: &[u8]| leaf(Kind::Allow, swap_bytes(&good, from, to));
    let control = [0x3a, 0x00, 0x01, 0x00, 0x0f, 0x09];
    let entries = [0xb8, 24];
    let verdict = |value: u8| [0x3a, 0x00, 0x01, 0x00, 0x00, value];
    let tier = |value: &[u8]| [&[0x3a, 0x00, 0x01, 0x00, 0x0a, 0xa3, 0x01][..], value, &[0x02]].concat();
    vec![
        ("decision with an unknown claim", {
            let longer = [&good[..], &[0x3a, 0x00, 0x01, 0x00, 0x10, 0x00]].concat();
            leaf(Kind::Allow, swap_bytes(&longer, &entries, &[0xb8, 25]))
        }),
        ("decision without its control number", {
            let shorter = &good[..good.len() - control.len()];
            leaf(Kind::Allow, swap_bytes(shorter, &entries, &[0xb7]))
        }),
        ("decision that neither allows nor denies", allow(&verdict(1), &verdict(3))),
        ("denial with a lifetime and no code", allow(&verdict(1), &verdict(2))),
        ("tier 3", allow(&tier(&[0x02]), &tier(&[0x03]))),
        ("expires when it begins", allow(&1_700_000_060_u32.to_be_bytes(), &1_700_000_000_u32.to_be_bytes())),
        ("control number as text", allow(&control, &[0x3a, 0x00, 0x01, 0x00, 0x0f, 0x60])),
        ("action with a capital letter", allow(b"\x64exec", b"\x64Exec")),
        ("audience with a space", allow(b"gate-1", b"gate 1")),
        ("runtime of another scheme", allow(b"spiffe://", b"spiffy://")),
        ("runtime with a relative segment", allow(b"/job/one", b"/jobone/.")),
    ]
}

/// As long as the base64 of so many bytes: a padded piece before the others.
fn padded_in_the_middle(bytes: usize) -> String {
    let length = data_encoding::BASE64.encode_len(bytes);
    let mut text = format!("AQ=={}", data_encoding::BASE64.encode(&vec![2; bytes]));
    text.truncate(length - 4);
    text + "AgI="
}

fn receipts(log: &Made) -> Vec<(&'static str, String)> {
    let good = &log.receipts.iter().find(|(what, ..)| *what == "a denial").unwrap().1;
    let lines: Vec<&str> = good.split('\n').collect();
    let other = &log.receipts.iter().find(|(what, ..)| *what == "an enrolment").unwrap().1;
    let (front, back) = good.split_once("\n\n").unwrap();
    let with = |at: usize, line: &str| {
        let mut lines: Vec<&str> = lines.clone();
        lines[at] = line;
        lines.join("\n")
    };
    vec![
        ("nothing", String::new()),
        ("another first line", swap(good, "tlog-proof@v1", "tlog-proof@v2")),
        (
            "no extra line",
            good.split('\n').filter(|line| !line.starts_with("extra ")).collect::<Vec<_>>().join("\n"),
        ),
        ("extra of nothing", with(1, "extra ")),
        ("another index than the leaf's", with(2, "index 0")),
        ("an index with a leading zero", swap(good, "\nindex ", "\nindex 0")),
        ("an index beyond the tree", with(2, "index 99")),
        ("a hash missing", swap(good, &format!("{}\n", lines[3]), "")),
        ("a hash too many", swap(good, lines[3], &format!("{0}\n{0}", lines[3]))),
        ("a hash of 31 bytes", with(3, &data_encoding::BASE64.encode(&[1; 31]))),
        ("padding in the middle of a hash", with(3, &padded_in_the_middle(32))),
        ("padding in the middle of the extra data", with(1, &format!("extra {}", padded_in_the_middle(33)))),
        ("base64 without padding", with(3, lines[3].trim_end_matches('='))),
        ("another leaf's path", swap(other, other.split('\n').nth(3).unwrap(), lines[3])),
        ("another head", format!("{front}\n\n{}", log.heads[0])),
        ("a head that nobody signed", format!("{front}\n\n{}", back.split_once("\n\n").unwrap().0)),
        ("carriage returns", good.replace('\n', "\r\n")),
        ("a line after the end", format!("{good}\n")),
    ]
}

fn heads(log: &Made) -> Vec<(&'static str, String)> {
    let good = &log.heads[0];
    let text = SignedNote::parse(good).unwrap().text().to_owned();
    let (_, lines) = good.rsplit_once("\n\n").unwrap();
    let signed = |text: String| note(&text, &[23]);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    vec![
        ("without signatures", text.clone()),
        ("signed by a stranger", note(&text, &[99])),
        (
            "a known key's signature fails beside a good one",
            format!("{good}{}", {
                let wrong = note(&swap(&text, "time 17", "time 18"), &[23]);
                wrong.rsplit_once("\n\n").unwrap().1.to_owned()
            }),
        ),
        ("a size with a leading zero", signed(swap(&text, "log\n5\n", "log\n05\n"))),
        ("a size of 2^63", signed(swap(&text, "log\n5\n", "log\n9223372036854775808\n"))),
        ("a time with a sign", signed(swap(&text, "time ", "time +"))),
        ("no time", signed(swap(&text, &format!("{}\n", line("time ")), ""))),
        (
            "trees in another order",
            signed({
                let (a, b) = (line("sha3-512 "), line("blake2b-512 "));
                swap(&swap(&swap(&text, &a, "x"), &b, &a), "\nx\n", &format!("\n{b}\n"))
            }),
        ),
        ("a ninth line", signed(format!("{text}extension\n"))),
        ("an origin with a plus sign", signed(swap(&text, "test.example/log", "test.example+log"))),
        ("an origin with a scheme", signed(swap(&text, "test.example/log", "https://test.example/log"))),
        (
            "a root of 31 bytes",
            signed(swap(&text, text.lines().nth(2).unwrap(), &data_encoding::BASE64.encode(&[1; 31]))),
        ),
        (
            "a root with padding in the middle",
            signed(swap(&text, text.lines().nth(2).unwrap(), &padded_in_the_middle(32))),
        ),
        (
            "a signature with padding in the middle",
            format!("{text}\n\u{2014} {ORIGIN} {}\n", padded_in_the_middle(68)),
        ),
        ("a control character", swap(good, "time ", "time\t")),
        ("a signature line without its dash", swap(good, "\u{2014} ", "- ")),
        ("a signature of no bytes", format!("{text}\n\u{2014} {ORIGIN} AAAAAA==\n")),
        ("65 signatures", format!("{text}\n{}", lines.repeat(65))),
        (
            "more than 16 KiB",
            format!(
                "{text}\n{lines}\u{2014} witness.example/w {}\n",
                data_encoding::BASE64.encode(&[7; 16 * 1024])
            ),
        ),
        ("no newline at the end", good.trim_end().to_owned()),
    ]
}

/// A request and its holder's signature over just these bytes: the form is what is wrong.
fn requests() -> Vec<(&'static str, Asked)> {
    let good = String::from_utf8(asked("r-1", "").bytes).unwrap();
    let made = |text: String| {
        let bytes = text.into_bytes();
        let signature = secret(HOLDER).sign(&holder_preimage(&bytes)).to_bytes().to_vec();
        Asked { bytes, signature, consents: Vec::new() }
    };
    let with = |from: &str, to: &str| made(swap(&good, from, to));
    let more = |extra: &str| made(swap(&good, "\"ttl_secs\":60", &format!("\"ttl_secs\":60{extra}")));
    let parent = r#"{"index":1,"leaf":"0808080808080808080808080808080808080808080808080808080808080808"}"#;
    let grant = |inner: &str| more(&format!(r#","delegation":{{{inner}}}"#));
    vec![
        ("version 2", with("\"v\":1", "\"v\":2")),
        ("an unknown member", more(r#","x":1"#)),
        ("a repeated member", more(r#","ttl_secs":60"#)),
        ("a missing member", with(",\"ttl_secs\":60", "")),
        ("a lifetime of nothing", with("\"ttl_secs\":60", "\"ttl_secs\":0")),
        ("a lifetime of more than a day", with("\"ttl_secs\":60", "\"ttl_secs\":86401")),
        ("a lifetime with a fraction", with("\"ttl_secs\":60", "\"ttl_secs\":60.0")),
        ("an identifier with a slash", with("\"id\":\"r-1\"", "\"id\":\"r/1\"")),
        ("a host in capital letters", with("\"host\":\"01", "\"host\":\"0A")),
        ("a workload of 31 bytes", with("\"workload\":\"04", "\"workload\":\"")),
        ("nine parents", more(&format!(r#","parents":[{}]"#, [parent; 9].join(",")))),
        ("a parent twice", more(&format!(r#","parents":[{parent},{parent}]"#))),
        ("a delegation of no action", grant(r#""actions":[],"audiences":["a"],"depth":1,"budget":1"#)),
        (
            "delegated actions out of order",
            grant(r#""actions":["b","a"],"audiences":["a"],"depth":1,"budget":1"#),
        ),
        ("a delegation of depth 17", grant(r#""actions":["a"],"audiences":["a"],"depth":17,"budget":1"#)),
        ("a delegation without a budget", grant(r#""actions":["a"],"audiences":["a"],"depth":1,"budget":0"#)),
        ("more than 8,192 bytes", made(format!("{good}{}", " ".repeat(MAX_REQUEST_LEN)))),
        ("two values", made(format!("{good}{good}"))),
        ("not UTF-8", {
            let bytes = swap_bytes(good.as_bytes(), b"gate-1", b"gate\xff1");
            let signature = secret(HOLDER).sign(&holder_preimage(&bytes)).to_bytes().to_vec();
            Asked { bytes, signature, consents: Vec::new() }
        }),
        ("another key's signature", {
            let bytes = good.clone().into_bytes();
            let signature = secret(99).sign(&holder_preimage(&bytes)).to_bytes().to_vec();
            Asked { bytes, signature, consents: Vec::new() }
        }),
        ("a signature over the bytes without the tag", {
            let bytes = good.clone().into_bytes();
            let signature = secret(HOLDER).sign(&bytes).to_bytes().to_vec();
            Asked { bytes, signature, consents: Vec::new() }
        }),
    ]
}

fn keys() -> Vec<(&'static str, JsonKey)> {
    let key = |alg: &str, bytes: &[u8]| JsonKey {
        alg: alg.to_owned(),
        public: data_encoding::BASE64URL_NOPAD.encode(bytes),
    };
    let mut one = [0; 32];
    one[0] = 1;
    let mut order_8 = *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05";
    let order_8_low = order_8;
    order_8[31] |= 0x80;
    let mut above = [0xff; 32];
    (above[0], above[31]) = (0xf0, 0x7f);
    vec![
        ("Ed25519 of 31 bytes", key("EdDSA", &[7; 31])),
        ("Ed25519, the neutral point", key("EdDSA", &one)),
        ("Ed25519, y of zero", key("EdDSA", &[0; 32])),
        ("Ed25519, order 8", key("EdDSA", &order_8_low)),
        ("Ed25519, order 8, the other sign", key("EdDSA", &order_8)),
        ("Ed25519, y not reduced", key("EdDSA", &above)),
        ("P-256 compressed", key("ES256", &[&[2][..], &[7; 32]].concat())),
        ("P-256 off the curve", key("ES256", &[&[4][..], &[7; 64]].concat())),
        ("an algorithm that isn't one of two", key("RS256", &[7; 32])),
        ("an algorithm in small letters", key("eddsa", public(HOLDER).raw())),
    ]
}

fn bundles(log: &Made) -> Vec<(&'static str, String)> {
    let good = &log.bundle;
    let document: Value = serde_json::from_str(good).unwrap();
    vec![
        ("version 2", swap(good, "\"v\":1", "\"v\":2")),
        ("an unknown member", swap(good, "{\"v\":1", "{\"x\":1,\"v\":1")),
        ("another origin than the statement's", swap(good, "test.example/log", "test.example/gol")),
        ("another recovery key", {
            let other = data_encoding::BASE64URL_NOPAD.encode(public(99).raw());
            swap(good, &data_encoding::BASE64URL_NOPAD.encode(public(22).raw()), &other)
        }),
        ("no statements", swap(good, &format!("[{}]", statement_text(good)), "[]")),
        ("the statement twice", swap(good, &statement_text(good), &format!("{0},{0}", statement_text(good)))),
        ("a statement without a signature", {
            let signature = document["statements"][0]["signature"].as_str().unwrap();
            swap(good, signature, "")
        }),
        (
            "a trust domain in capital letters",
            swap(good, "\"trust_domain\":\"test", "\"trust_domain\":\"Test"),
        ),
    ]
}

/// The one statement as it stands in the bundle.
fn statement_text(bundle: &str) -> String {
    let (_, rest) = bundle.split_once("\"statements\":[").unwrap();
    rest.rsplit_once("]}").unwrap().0.to_owned()
}

fn records() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (evidence, inputs) = (evidence().encode(), inputs().encode());
    let digest = [&[0x58, 0x20][..], &[1; 32]].concat();
    vec![
        (
            "evidence",
            "an evidence record of eight entries",
            [&[0xa8], &evidence[1..], &[0x08, 0x00]].concat(),
        ),
        (
            "evidence",
            "a boot log named by 31 bytes",
            swap_bytes(&evidence, &digest, &[&[0x58, 0x1f][..], &[1; 31]].concat()),
        ),
        ("evidence", "a bank of 17 bits", swap_bytes(&evidence, &[0x04, 0x0b], &[0x04, 0x1a, 0, 1, 0, 0])),
        (
            "inputs",
            "a challenge of standing 4",
            swap_bytes(&inputs, &[0x05, 0x01, 0x06], &[0x05, 0x04, 0x06]),
        ),
        ("inputs", "the last byte missing", inputs[..inputs.len() - 1].to_vec()),
        (
            "inputs",
            "a trust domain with a capital letter",
            swap_bytes(&inputs, b"test.example", b"Test.example"),
        ),
    ]
}

#[test]
fn whatever_is_wrong_is_refused() {
    let log = made();
    let trusted = TrustBundle::verify(log.bundle.as_bytes()).unwrap();
    let mut published = Vec::new();
    for (name, bytes) in envelopes()
        .into_iter()
        .chain(small_bodies())
        .chain(administrative_bodies())
        .chain(enrolments())
        .chain(host_states())
        .chain(crate::devices::refused())
        .chain(decisions())
    {
        assert!(read_leaf(&bytes).is_err(), "accepted: {name}");
        published.push(json!({ "what": "leaf", "name": name, "hex": hex(&bytes) }));
    }
    for (name, text) in receipts(&log) {
        let verdict = Receipt::parse(&text).and_then(|receipt| receipt.verify_signature(&log.control));
        assert!(verdict.is_err(), "accepted: {name}");
        published.push(json!({ "what": "receipt", "name": name, "text": text }));
    }
    for (name, text) in heads(&log) {
        let signed = SignedNote::parse(&text).is_ok_and(|note| {
            HeadBody::parse(note.text()).is_ok()
                && verify_note_with(&note, ORIGIN, trusted.head_keys()).is_ok()
        });
        assert!(!signed, "accepted: {name}");
        published.push(json!({ "what": "head", "name": name, "text": text }));
    }
    for (name, asked) in requests() {
        let verdict = SignedRequest::verify(asked.bytes.clone(), asked.signature.clone(), Vec::new());
        assert!(verdict.is_err(), "accepted: {name}");
        let (hex, signature) = (hex(&asked.bytes), hex(&asked.signature));
        published.push(json!({ "what": "request", "name": name, "hex": hex, "signature": signature }));
    }
    for (name, key) in keys() {
        assert!(VerifyingKey::try_from(key.clone()).is_err(), "accepted: {name}");
        published.push(json!({ "what": "key", "name": name, "key": serde_json::to_value(key).unwrap() }));
    }
    for (name, text) in bundles(&log) {
        assert!(TrustBundle::verify(text.as_bytes()).is_err(), "accepted: {name}");
        published.push(json!({ "what": "bundle", "name": name, "text": text }));
    }
    for (what, name, bytes) in records() {
        let taken = if what == "evidence" {
            EvidenceRecord::parse(&bytes).is_ok()
        } else {
            InputsRecord::parse(&bytes).is_ok()
        };
        assert!(!taken, "accepted: {name}");
        published.push(json!({ "what": what, "name": name, "hex": hex(&bytes) }));
    }
    crate::vectors::published("refused.json", json!({ "refused": published }));
}
