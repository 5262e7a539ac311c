//! A permit can't be made, copied or opened outside of `admit`: code that tries doesn't compile.

#[test]
fn nothing_but_admit_makes_a_permit() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/permit/used.rs");
    cases.compile_fail("tests/permit/built.rs");
    cases.compile_fail("tests/permit/cloned.rs");
    cases.compile_fail("tests/permit/copied.rs");
    cases.compile_fail("tests/permit/defaulted.rs");
    cases.compile_fail("tests/permit/changed.rs");
}
