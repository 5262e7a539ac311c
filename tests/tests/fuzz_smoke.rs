//! Every fuzz body over all seeds and a moment of mutations. `FUZZ_MS` sets the moment; the seed is fixed, so a finding comes again.

use countersign_tests::fuzz::{Finding, Mutator, TARGETS, Target, run, seeds};
use std::time::Duration;

#[test]
fn no_parser_panics_on_a_seed_or_a_mutation() {
    let ms = std::env::var("FUZZ_MS").map_or(400, |text| text.parse().unwrap());
    let seeds = seeds();
    assert!(seeds.len() > 50, "{} seeds", seeds.len());
    for target in TARGETS {
        let session = run(*target, &seeds, Duration::from_millis(ms), 7).unwrap_or_else(|finding| {
            let hex = data_encoding::HEXLOWER.encode(&finding.input[..finding.input.len().min(4_096)]);
            panic!("{}: {} bytes: {hex}", finding.target, finding.input.len())
        });
        eprintln!("{:16} {:>8} inputs, slowest {:?}", target.name, session.inputs, session.slowest);
    }
}

#[test]
fn the_fuzz_crate_has_the_same_bodies() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let text = std::fs::read_to_string(folder.join(format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(text.contains(&format!("body(\"{}\", bytes)", target.name)), "{}", target.name);
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
    }
    assert_eq!(std::fs::read_dir(folder.join("fuzz_targets")).unwrap().count(), TARGETS.len());
}

#[test]
fn a_panic_is_found_and_its_input_kept() {
    fn body(bytes: &[u8]) {
        assert!(bytes.len() < 3, "too long for this parser");
    }
    let target = Target { name: "fragile", body };
    let found: Finding = run(target, &[vec![1], vec![2; 3]], Duration::ZERO, 1).unwrap_err();
    assert_eq!((found.target, found.input, found.panicked), ("fragile", vec![2; 3], true));
}

#[test]
fn mutations_repeat_with_their_seed_and_change_something() {
    let mutated = |seed| {
        let mut bytes = vec![0x55; 64];
        Mutator::new(seed).mutate(&mut bytes, &[0xaa; 32]);
        bytes
    };
    assert_eq!(mutated(3), mutated(3));
    assert!((1..100).any(|seed| mutated(seed) != vec![0x55; 64]));
    assert!(
        TARGETS.iter().map(|target| target.name).collect::<std::collections::BTreeSet<_>>().len()
            == TARGETS.len()
    );
}
