//! Tests that found that they cannot run here: they append a line to a file (`tests/common/skip.rs`), because libtest
//! knows no skip at run time and would call them ok.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Tells tests which file takes their lines.
pub(crate) const VARIABLE: &str = "MPNC_TEST_SKIPS";

/// The file, gone when dropped.
pub(crate) struct Record(tempfile::NamedTempFile);

impl Record {
    pub(crate) fn new() -> Result<Self> {
        tempfile::NamedTempFile::new().map(Self).context("making a file for the tests that cannot run")
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What was skipped so far: the reasons by the tests' names.
    pub(crate) fn read(&self) -> BTreeMap<String, String> {
        // A line that cannot be read leaves a test counted as passed: rather an end with words.
        let text = std::fs::read_to_string(self.path()).unwrap_or_else(|error| format!("SKIP: (unreadable): {error}"));
        text.lines().filter_map(parse).map(|(test, reason)| (test.to_owned(), reason.to_owned())).collect()
    }
}

/// The test and the reason in a line that a test wrote; `None` for any other line.
pub(crate) fn parse(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("SKIP: ")?.split_once(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_test_and_the_reason() {
        assert_eq!(parse("SKIP: a::b: no x: install it"), Some(("a::b", "no x: install it")));
        assert_eq!(parse("test a::b ... ok"), None);
    }

    #[test]
    fn what_tests_append_is_read() {
        let record = Record::new().unwrap();
        assert!(record.read().is_empty());
        std::fs::write(record.path(), "SKIP: a: no x\nSKIP: b::c: no y\n").unwrap();
        let read = record.read();
        assert_eq!((read.len(), read["b::c"].as_str()), (2, "no y"));
    }
}
