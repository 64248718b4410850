//! What the black-box tests share: mpnc as a child process that cannot outlive its test, and data that is made and
//! checked while it flows.
//!
//! It must not know mpnc's inside: these tests see what a person sees (arguments, files, exit codes, words). Every test
//! program uses all of it; what only one needs (the proxy, the impostors) is a file beside it.

pub(crate) mod data;
pub(crate) mod process;
