//! The body `modsig` of tests/src/fuzz for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_tests::fuzz::body("modsig", bytes));
