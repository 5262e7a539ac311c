//! What IMA costs.
fn main() {}
