//! The mpnc binary: parse, resolve, run, exit code.
fn main() {}
