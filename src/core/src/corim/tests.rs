//! CoRIMs made by hand: what is read of them, and every way in which they are refused.

use super::*;

const SHA256: u16 = 0x000b;

fn head(major: u8, argument: u64) -> Vec<u8> {
    match argument {
        0..24 => vec![major << 5 | u8::try_from(argument).unwrap()],
        24..256 => vec![major << 5 | 24, u8::try_from(argument).unwrap()],
        _ => [&[major << 5 | 25][..], &u16::try_from(argument).unwrap().to_be_bytes()].concat(),
    }
}

fn count(parts: usize) -> u64 {
    u64::try_from(parts).unwrap()
}

fn uint(number: u64) -> Vec<u8> {
    head(0, number)
}

fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, count(value.len())), value.to_vec()].concat()
}

fn text(value: &str) -> Vec<u8> {
    [head(3, count(value.len())), value.as_bytes().to_vec()].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, count(items.len())), items.concat()].concat()
}

fn map(entries: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let inner: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [uint(*key), value.clone()].concat()).collect();
    [head(5, count(entries.len())), inner].concat()
}

fn tag(number: u64, inner: Vec<u8>) -> Vec<u8> {
    [head(6, number), inner].concat()
}

fn digests(fill: u8) -> Vec<u8> {
    array(&[array(&[uint(1), bytes(&[fill; 32])]), array(&[uint(7), bytes(&[fill; 48])])])
}

fn of_pcr(pcr: u64, fill: u8) -> Vec<u8> {
    map(&[(0, uint(pcr)), (1, map(&[(2, digests(fill))]))])
}

fn environment(model: &str) -> Vec<u8> {
    map(&[(0, map(&[(1, text("ACME")), (2, text(model))]))])
}

fn corim_of(triples: Vec<u8>) -> Vec<u8> {
    corim_valid(triples, map(&[(0, tag(1, uint(1_000))), (1, tag(1, uint(2_000)))]))
}

fn corim_valid(triples: Vec<u8>, validity: Vec<u8>) -> Vec<u8> {
    let comid = map(&[(1, map(&[(0, text("id"))])), (4, triples)]);
    let tags = array(&[tag(TAG_COMID, bytes(&comid))]);
    tag(TAG_CORIM, map(&[(0, text("corim")), (1, tags), (4, validity)]))
}

fn corim(records: &[Vec<u8>]) -> Vec<u8> {
    corim_of(map(&[(0, array(records))]))
}

#[test]
fn reference_triples_become_generations() {
    let registers = map(&[(1, map(&[(14, map(&[(0, digests(1)), (9, digests(9))]))]))]);
    let file = corim(&[
        array(&[environment("r7"), array(&[of_pcr(4, 4), of_pcr(0, 1)])]),
        array(&[environment("r8"), array(&[registers])]),
    ]);
    let manifest = read(&file, SHA256).unwrap();
    let lifetime = Lifetime { not_before_ms: Some(1_000_000), not_after_ms: Some(2_000_000) };
    assert!(manifest.generations.iter().all(|(_, generation)| generation.lifetime == lifetime));
    let expected = |pcrs: &[(u32, u8)], width: usize| {
        pcrs.iter().map(|(pcr, fill)| (*pcr, vec![*fill; width])).collect::<Vec<_>>()
    };
    let found: Vec<_> =
        manifest.generations.iter().map(|(name, one)| (name.as_str(), one.bank, one.pcrs.clone())).collect();
    assert_eq!(
        found,
        [("r7", SHA256, expected(&[(0, 1), (4, 4)], 32)), ("r8", SHA256, expected(&[(0, 1), (9, 9)], 32))]
    );
    let wide = read(&file, 0x000c).unwrap();
    assert_eq!(wide.generations[0].1.pcrs, expected(&[(0, 1), (4, 4)], 48));
    assert!(read(&file, 0x000d).unwrap_err().to_string().contains("PCR"));
    assert!(read(&file, 0x0004).is_err());
    // The bare map is the same CoRIM.
    assert_eq!(read(&file[3..], SHA256).unwrap(), read(&file, SHA256).unwrap());
}

#[test]
fn what_is_of_another_kind_is_counted_and_what_is_not_a_pcr_is_refused() {
    let record = |measurement: Vec<u8>| array(&[environment("r7"), array(&[measurement])]);
    let check = |file: Vec<u8>, words: &str| {
        let error = read(&file, SHA256).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let good = record(of_pcr(4, 4));
    let more = corim_of(map(&[(0, array(std::slice::from_ref(&good))), (2, array(&[]))]));
    assert_eq!(read(&more, SHA256).unwrap().passed_over, 1);
    let named = map(&[(0, text("shim")), (1, map(&[(2, digests(1))]))]);
    check(corim(&[record(named)]), "isn't of a PCR");
    check(corim(&[record(of_pcr(24, 1))]), "isn't of a PCR");
    check(corim(&[record(map(&[(1, map(&[(1, uint(3))]))]))]), "isn't of a PCR");
    check(corim(&[array(&[environment("r7"), array(&[of_pcr(4, 4), of_pcr(4, 5)])])]), "twice");
    check(corim(&[array(&[environment("r7"), array(&[])])]), "without a PCR");
    for none in [uint(0), array(&[tag(1, uint(1_000)), tag(1, uint(2_000))]), bytes(&[])] {
        check(corim_valid(map(&[(0, array(std::slice::from_ref(&good)))]), none), "a map was expected");
    }
    check(corim(&[]), "no reference triple");
    let short = map(&[(0, uint(4)), (1, map(&[(2, array(&[array(&[uint(1), bytes(&[1; 31])])]))]))]);
    check(corim(&[record(short)]), "31 bytes");
    check(tag(TAG_COSE_SIGN1, array(&[])), "signed");
    check(tag(TAG_SIGNED_CORIM, tag(TAG_COSE_SIGN1, array(&[]))), "signed");
    check(uint(7), "not a CoRIM");
    check(tag(TAG_CORIM, map(&[(0, text("corim"))])), "no tags");
}

#[test]
fn bytes_that_are_no_cbor_of_ours_are_refused() {
    let good = corim(&[array(&[environment("r7"), array(&[of_pcr(4, 4)])])]);
    read(&good, SHA256).unwrap();
    for length in 0..good.len() {
        assert!(read(&good[..length], SHA256).is_err(), "{length}");
    }
    assert!(read(&[good.clone(), vec![0]].concat(), SHA256).is_err());
    let check = |file: &[u8], words: &str| {
        let error = read(file, SHA256).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&[0x9f, 0xff], "indefinite");
    check(&[0xfb, 0, 0, 0, 0, 0, 0, 0, 0], "float");
    check(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "more members");
    check(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "ends too early");
    check(&[0x81; 40], "too many levels");
    check(&[0xa2, 0, 0, 0, 0], "twice");
    check(&[0x61, 0xff], "UTF-8");
    // Memory and time are bounded by items, not by what a file may claim: arrays of empty arrays, and a map of many keys.
    let count = 300_000_u32;
    let nested = [&[0x9a][..], &count.to_be_bytes(), &vec![0x80; 300_000]].concat();
    check(&nested, "too many items");
    let keys: Vec<u8> =
        (0..100_000_u32).flat_map(|key| [&[0x1a][..], &key.to_be_bytes(), &[0]].concat()).collect();
    check(&[&[0xba][..], &100_000_u32.to_be_bytes(), &keys].concat(), "a map was expected");
    check(&vec![0; usize::try_from(MAX_CORIM_BYTES).unwrap() + 1], "larger");
    // Every byte changed: read or refused.
    for at in 0..good.len() {
        for value in [0x00, 0x1f, 0x7f, 0x9f, 0xbf, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = read(&bad, SHA256);
        }
    }
}
