//! A test that cannot show its subject here never says ok: under `cargo xtask test` it counts as skipped, with the
//! reason, and run in any other way it fails with the reason. Must not know what tests need (`needs`, and the tests
//! themselves).

use std::fs::File;
use std::io::Write as _;
use std::thread;

/// Names the file that `cargo xtask test` reads skips from (`xtask/src/skips.rs`), one on a line.
const RECORD: &str = "MPNC_TEST_SKIPS";

/// Skips the running test, which then returns: only another kernel or another host can show its subject.
#[track_caller]
pub(crate) fn elsewhere(why: &str) {
    let Some(record) = std::env::var_os(RECORD) else {
        panic!(
            "this cannot be shown here: {why} (`cargo xtask test` installs what it may, and counts the rest as skipped)"
        )
    };
    // libtest names each test's thread after it.
    let test = thread::current().name().expect("a test skips itself, not a thread that it started").to_owned();
    let line = format!("SKIP: {test}: {}\n", why.replace('\n', " "));
    // One write, so that tests which skip at once do not mix their lines; and past libtest, which keeps what a passing
    // test prints.
    let mut file = File::options().append(true).open(&record).expect("cargo xtask test has made the file");
    file.write_all(line.as_bytes()).expect("the file takes a line");
}
