//! Build, test and lab tasks of mpnc.
fn main() {}
