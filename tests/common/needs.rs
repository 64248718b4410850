//! What tests need of a system beside mpnc. A build machine (`CI=true`) has to have it: there a test that lacks
//! something fails, as nobody would read that it was skipped.

use super::skip;

/// Skips the running test, which then returns: something is missing here that can be installed or granted. Says how.
#[track_caller]
pub(crate) fn missing(what: &str) {
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    assert!(!strict, "a build machine must be able to show this: {what}");
    skip::elsewhere(what);
}
