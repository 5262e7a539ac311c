//! Canonical event logs: every real log written in both encodings replays and tells as the original; each way to be wrong is refused.

use super::facts_tests::{Log, facts_of};
use super::*;
use crate::testing::{every_vectors, json, vector_bytes};

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u32::try_from(value.len()).unwrap();
    [&[kind][..], &len.to_be_bytes(), value].concat()
}

fn digests(event: &Event<'_>) -> Vec<(u16, Vec<u8>)> {
    let banks = HashAlg::ALL.into_iter();
    banks.filter_map(|bank| Some((bank.id(), event.digest(bank)?.to_vec()))).collect()
}

fn record(number: u64, event: &Event<'_>) -> Vec<u8> {
    let digests: Vec<u8> =
        digests(event).iter().flat_map(|(alg, digest)| tlv(u8::try_from(*alg).unwrap(), digest)).collect();
    let content = [tlv(0, &event.kind().to_be_bytes()), tlv(1, event.data())].concat();
    [tlv(0, &number.to_be_bytes()), tlv(1, &event.pcr().to_be_bytes()), tlv(3, &digests), tlv(5, &content)]
        .concat()
}

fn to_tlv(log: &EventLog) -> Vec<u8> {
    log.events()
        .filter(|event| event.pcr() <= MAX_PCR)
        .flat_map(|event| record(event.index() as u64, &event))
        .collect()
}

fn to_json(log: &EventLog) -> Vec<serde_json::Value> {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let name = |id: u16| HashAlg::from_id(id).unwrap().name();
    let record = |event: Event<'_>| {
        let digests: Vec<serde_json::Value> = (digests(&event).iter())
            .map(|(alg, digest)| serde_json::json!({"hashAlg": name(*alg), "digest": hex(digest)}))
            .collect();
        serde_json::json!({
            "recnum": event.index(), "pcr": event.pcr(), "digests": digests, "content_type": "pcclient_std",
            "content": {"event_type": event.kind(), "event_data": hex(event.data())},
        })
    };
    log.events().filter(|event| event.pcr() <= MAX_PCR).map(record).collect()
}

fn same(path: &str, original: &EventLog, other: &EventLog) {
    for bank in HashAlg::ALL {
        let all: Vec<u32> = (0..=MAX_PCR).collect();
        let Ok(expect) = original.replay(bank) else { continue };
        if expect.pcrs().count() == 0 {
            continue;
        }
        assert_eq!(other.replay(bank), Ok(expect), "{path}");
        let facts = |log| facts_of(log, bank, &all);
        assert_eq!(facts(other), facts(original), "{path}");
    }
}

fn logs() -> Vec<(String, EventLog)> {
    let boot = crate::testing::booted(1).1;
    let mut logs = vec![("simulated".to_owned(), EventLog::parse(boot.log()).unwrap())];
    for folder in every_vectors("eventlog") {
        for path in json(&folder.join("expected.json"))["logs"].as_object().unwrap().keys() {
            logs.extend(EventLog::parse(&vector_bytes(&folder.join(path))).map(|log| (path.clone(), log)));
        }
    }
    logs
}

#[test]
fn every_real_log_means_the_same_in_both_encodings() {
    for (path, log) in logs() {
        same(&path, &log, &EventLog::parse(&to_tlv(&log)).unwrap_or_else(|error| panic!("{path}: {error}")));
        let records = to_json(&log);
        let array = serde_json::to_vec(&records).unwrap();
        if array.len() > MAX_LOG_BYTES {
            continue;
        }
        same(&path, &log, &EventLog::parse(&array).unwrap_or_else(|error| panic!("{path}: {error}")));
        let sequence: String = records.iter().map(|record| format!("\u{1e}{record}\n")).collect();
        same(&path, &log, &EventLog::parse(sequence.as_bytes()).unwrap());
    }
}

fn fault(bytes: &[u8]) -> CelFault {
    match EventLog::parse(bytes) {
        Err(EventLogError::Cel { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn malformed_records_are_refused() {
    let log = EventLog::parse(Log::new().with(4, event_type::IPL, b"x", b"x").bytes()).unwrap();
    let good = to_tlv(&log);
    let head = [tlv(0, &[1]), tlv(1, &[4])].concat();
    let digest = tlv(3, &tlv(0x0b, &[1; 32]));
    let content = tlv(5, &[tlv(0, &[0xd]), tlv(1, b"x")].concat());
    assert!(EventLog::parse(&[&head[..], &digest, &content].concat()).is_ok());
    assert_eq!(fault(&good[..good.len() - 1]), CelFault::Truncated);
    assert_eq!(fault(&[&head[..], &content].concat()), CelFault::Field);
    // An NV index in the place of a register, behind a good record.
    let nv = [tlv(0, &[9]), tlv(2, &[1])].concat();
    assert_eq!(fault(&[&good[..], &nv, &digest, &content].concat()), CelFault::Field);
    assert_eq!(fault(&[&good[..], &good].concat()), CelFault::RecordNumber);
    for (alg, len) in [(0x0bu8, 20usize), (0x0c, 32), (0x12, 65), (0x10, 32)] {
        let digest = tlv(3, &tlv(alg, &vec![1; len]));
        assert_eq!(fault(&[&head[..], &digest, &content].concat()), CelFault::Digest, "{alg}");
    }
    let twice = tlv(3, &tlv(0x0b, &[1; 32]).repeat(2));
    assert_eq!(fault(&[&head[..], &twice, &content].concat()), CelFault::Digest);
    assert_eq!(fault(&[&head[..], &tlv(3, &[]), &content].concat()), CelFault::Digest);
    assert_eq!(fault(&[&head[..], &digest, &tlv(5, &tlv(0, &[0; 9]))].concat()), CelFault::Number);
    let pcr = [&tlv(0, &[1])[..], &tlv(1, &[24]), &digest, &content].concat();
    assert_eq!(EventLog::parse(&pcr).err(), Some(EventLogError::Pcr { event: 0, pcr: 24 }));
}

#[test]
fn malformed_json_is_refused() {
    let good = r#"{"pcr":4,"digests":[{"hashAlg":"sha1","digest":"0000000000000000000000000000000000000000"}],"content_type":"pcclient_std","content":{"event_type":"EV_IPL","event_data":"78"}}"#;
    assert!(EventLog::parse(good.as_bytes()).is_ok());
    for (from, to, expect) in [
        ("\"pcr\":4", "\"pcr\":4,\"pcr\":5", CelFault::Json),
        ("\"pcr\":4", "\"nv_index\":4", CelFault::Json),
        ("\"pcr\":4", "\"pcr\":\"four\"", CelFault::Number),
        ("\"pcr\":4", "\"pcr\":4294967296", CelFault::Number),
        ("sha1", "sha1024", CelFault::Digest),
        ("sha1", "sha256", CelFault::Digest),
        ("\"78\"", "\"7\"", CelFault::Json),
        ("EV_IPL", "EV_NEW", CelFault::Number),
        ("\"event_type\":\"EV_IPL\",", "", CelFault::Field),
        ("}}", "}} trailing", CelFault::Json),
    ] {
        assert_eq!(fault(good.replacen(from, to, 1).as_bytes()), expect, "{to}");
    }
    assert_eq!(fault(format!("[{good}").as_bytes()), CelFault::Json);
    assert_eq!(EventLog::parse(b"[]").err(), Some(EventLogError::Empty));
    assert_eq!(fault("[".repeat(10_000).as_bytes()), CelFault::Json);
}

#[test]
fn what_systemd_writes_is_read() {
    let digest = data_encoding::HEXLOWER.encode(&HashAlg::Sha256.digest(b"enter-initrd"));
    let text = format!(
        "\u{1e}{{\"pcr\":11,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\"content_type\":\"systemd\",\
         \"content\":{{\"string\":\"enter-initrd\",\"bootId\":\"0\",\"timestamp\":1,\"eventType\":\"phase\"}}}}\n"
    );
    let log = EventLog::parse(text.as_bytes()).unwrap();
    let event = log.events().next().unwrap();
    assert_eq!((event.pcr(), event.kind(), event.data()), (11, OPAQUE, b"enter-initrd".as_slice()));
    assert!(event.data_is_measured(HashAlg::Sha256));
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let head = [tlv(0, &[1]), tlv(1, &[4])].concat();
        let _ = EventLog::parse(&[&head[..], &bytes].concat());
        let _ = EventLog::parse(&[b"[", &bytes[..]].concat());
    }
}
