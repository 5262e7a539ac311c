//! The rule: what files say, what they may not say, and which notes meet it.

use super::*;
use crate::key::VerifyingKey;
use crate::note::{NoteSignature, SignedNote};
use crate::witness::cosigned_message;
use ed25519_dalek::{Signer as _, SigningKey};

const TEXT: &str = "log.example\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
const HEAD_MS: u64 = 1_700_000_000_000;
const NOW_MS: u64 = HEAD_MS + 5_000;

struct Stranger {
    secret: SigningKey,
    key: WitnessKey,
}

fn stranger(seed: u8) -> Stranger {
    let secret = SigningKey::from_bytes(&[seed; 32]);
    let key = VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap();
    Stranger { key: WitnessKey::new(&format!("w{seed}.example"), key).unwrap(), secret }
}

impl Stranger {
    fn cosign(&self, text: &str, time_secs: u64) -> NoteSignature {
        let signature = self.secret.sign(cosigned_message(time_secs, text).as_bytes());
        self.key.line(time_secs, &signature.to_bytes()).unwrap()
    }
}

fn note(lines: Vec<NoteSignature>) -> SignedNote {
    let log = NoteSignature::new("log.example", [0; 4], vec![1]).unwrap();
    SignedNote::new(TEXT, [vec![log], lines].concat()).unwrap()
}

/// C2SP tlog-policy's own example.
fn example() -> String {
    let key = |seed| stranger(seed).key.vkey();
    format!(
        "# two organisations\n\nwitness X1 {}\n\twitness  X2\t{} https://x2.example/\nwitness X3 {}\n group X-witnesses 2 X1 X2 X3 \n\
         witness Y1 {}\nwitness Y2 {}\nwitness Y3 {}\ngroup Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n",
        key(1),
        key(2),
        key(3),
        key(4),
        key(5),
        key(6)
    )
}

#[test]
fn thresholds_of_groups_of_groups() {
    let quorum = Quorum::parse(&example()).unwrap();
    assert_eq!(quorum.witnesses()[1].url.as_deref(), Some("https://x2.example/"));
    let check = |seeds: &[u8]| {
        let lines = seeds.iter().map(|seed| stranger(*seed).cosign(TEXT, NOW_MS / 1_000)).collect();
        quorum.check(&note(lines), HEAD_MS, NOW_MS)
    };
    for (seeds, met) in [
        (&[1, 2, 4][..], true),
        (&[2, 3, 6], true),
        (&[1, 2, 3, 4, 5, 6], true),
        (&[1, 2, 3], false),
        (&[1, 4, 5, 6], false),
        (&[1, 1, 1, 4], false),
        (&[7, 8, 4], false),
        (&[], false),
    ] {
        assert_eq!(check(seeds).is_ok(), met, "{seeds:?}");
    }
    assert_eq!(check(&[1, 2, 4]).unwrap().names(), ["X1", "X2", "Y1"]);
    let unmet = check(&[7, 3]).unwrap_err();
    assert_eq!(unmet, QuorumRefused::Unmet { counted: vec!["X3".to_owned()] });
}

#[test]
fn times_that_cannot_be_do_not_count() {
    let quorum = Quorum::parse(&format!("witness w {}\nquorum w\n", stranger(1).key.vkey())).unwrap();
    let met = |time_secs: u64| {
        quorum.check(&note(vec![stranger(1).cosign(TEXT, time_secs)]), HEAD_MS, NOW_MS).is_ok()
    };
    let (head, now) = (HEAD_MS / 1_000, NOW_MS / 1_000);
    assert!(met(head) && met(now) && met(head - 60) && met(now + 60));
    assert!(!met(head - 61) && !met(now + 61) && !met(0) && !met(u64::MAX >> 1));
    // A good one beside a wrong one counts.
    let lines = vec![stranger(1).cosign(TEXT, 0), stranger(1).cosign(TEXT, now)];
    assert!(quorum.check(&note(lines), HEAD_MS, NOW_MS).is_ok());
}

#[test]
fn a_line_of_a_known_witness_that_fails_speaks_against_the_note() {
    let quorum = Quorum::parse(&format!("witness w {}\nquorum none\n", stranger(1).key.vkey())).unwrap();
    let other_text = stranger(1).cosign(&TEXT.replace('7', "8"), NOW_MS / 1_000);
    let refused = quorum.check(&note(vec![other_text]), HEAD_MS, NOW_MS).unwrap_err();
    assert!(matches!(refused, QuorumRefused::Invalid { .. }), "{refused}");
    // The same from somebody whom nobody knows says nothing.
    let unknown = stranger(2).cosign(&TEXT.replace('7', "8"), NOW_MS / 1_000);
    assert!(quorum.check(&note(vec![unknown]), HEAD_MS, NOW_MS).is_ok());
}

#[test]
fn files_that_could_mean_less_than_they_seem_to_are_refused() {
    let good = example();
    Quorum::parse(&good).unwrap();
    let (x1, y1) = (stranger(1).key.vkey(), stranger(4).key.vkey());
    for (from, to, reason) in [
        ("quorum X-and-Y\n", "", "no quorum line"),
        ("quorum X-and-Y\n", "quorum X-and-Y\nquorum X-and-Y\n", "a second quorum line"),
        ("quorum X-and-Y", "quorum Z", "a name that no line before defines"),
        ("quorum X-and-Y", "quorum X-and-Y Y1", "not `log`"),
        ("X-witnesses 2", "X-witnesses 0", "a threshold"),
        ("X-witnesses 2", "X-witnesses 4", "a threshold"),
        ("X-witnesses 2", "X-witnesses 02", "not `any`"),
        ("X-witnesses 2", "X-witnesses most", "not `any`"),
        ("2 X1 X2 X3", "2 X1 X1 X3", "a member of another group"),
        ("any Y1 Y2 Y3", "any Y1 Y2 X3", "a member of another group"),
        ("any Y1 Y2 Y3", "any", "a threshold"),
        ("any Y1 Y2 Y3", "all", "a threshold"),
        ("any Y1 Y2 Y3", "any Y1 Y2 Y4", "a member that no line before"),
        ("any Y1 Y2 Y3", "any Y1 Y2 none", "a member that no line before"),
        ("witness Y1", "witness X1", "a name that a line before"),
        ("witness Y1", "witness none", "`none`"),
        ("witness Y1", "witness", "not `log`"),
        ("witness Y1", "wittness Y1", "not `log`"),
        (y1.as_str(), x1.as_str(), "the key of another witness"),
        (y1.as_str(), "y1+00000000+BAAA", "not a witness's"),
        ("# two", "\u{1} two", "a control character"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        let refused = Quorum::parse(&changed).unwrap_err();
        assert!(refused.reason.starts_with(reason), "{from:?} {to:?}: {refused}");
    }
    assert!(Quorum::parse(&"#".repeat(MAX_QUORUM_BYTES + 1)).is_err());
    let many: String =
        (0..33).map(|seed| format!("witness w{seed} {}\n", stranger(seed).key.vkey())).collect();
    assert_eq!(Quorum::parse(&many).unwrap_err().reason, "more than 32 witnesses");
}
