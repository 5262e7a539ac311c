//! The cache of replays: no more entries than told, and no more bytes than stated.

use super::{BootLogCache, Key, MAX_CACHE_BYTES, weight};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::{EventLog, MAX_EVENTS, MAX_LOG_BYTES, VerifiedBootLog, verify_replay};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use std::sync::Arc;

/// A replay of a log with as many files as a log may have events.
fn large() -> Arc<VerifiedBootLog> {
    let boot = SimulatedBoot::new(&BootOptions::default());
    let mut bytes = boot.log().to_vec();
    let events = EventLog::parse(&bytes).unwrap().events().count();
    for number in events..MAX_EVENTS {
        let digest = HashAlg::Sha256.digest(&number.to_le_bytes());
        let head: Vec<u8> = [9_u32, 13, 2].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend([&head[..], &[0x0b, 0], &digest, &[0x0c, 0], &[0; 48], &[0; 4]].concat());
    }
    assert!(bytes.len() <= MAX_LOG_BYTES);
    let log = EventLog::parse(&bytes).unwrap();
    let values: Vec<(u32, Vec<u8>)> =
        log.replay(HashAlg::Sha256).unwrap().pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let quote = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(3)).unwrap();
    let quote = quote.worn(HashAlg::Sha256, &values).unwrap();
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    Arc::new(verify_replay(&log, &quote, &pcrs).unwrap())
}

fn key(number: usize) -> Key {
    Key { log: sha256(&number.to_le_bytes()), bank: HashAlg::Sha256.id(), selected: vec![0, 4, 7] }
}

#[test]
fn what_is_kept_is_bounded_by_bytes_however_large_logs_are() {
    let verified = large();
    let one = weight(&key(0), &verified);
    assert!(one > 200_000, "{one}");
    let fit = MAX_CACHE_BYTES / one;
    assert!(fit < 400, "the bound by entries would do");
    let cache = BootLogCache::new(512);
    for number in 0..fit + 40 {
        cache.keep(key(number), Arc::clone(&verified));
        // The same one again takes nothing more.
        cache.keep(key(number), Arc::clone(&verified));
        let inner = cache.inner.lock().unwrap();
        assert_eq!(inner.bytes, inner.entries.len() * one);
        assert!(inner.bytes <= MAX_CACHE_BYTES && inner.entries.len() == inner.by_use.len());
    }
    assert_eq!(cache.inner.lock().unwrap().entries.len(), fit);
    assert!(cache.find(&key(fit + 39)).is_some() && cache.find(&key(0)).is_none());
    // What was used last stays.
    let eldest = key(40);
    assert!(cache.find(&eldest).is_some());
    cache.keep(key(1_000_000), verified);
    assert!(cache.find(&eldest).is_some() && cache.find(&key(41)).is_none());
    assert_ne!(eldest.log, Sha256Digest::ZERO);
}
