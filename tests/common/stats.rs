//! A file for `--stats`, and waiting for what it says.

use serde_json::Value;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// It only bounds a hang.
const LIMIT: Duration = Duration::from_mins(1);

/// The file; gone when dropped.
pub(crate) struct Stats(tempfile::NamedTempFile);

impl Stats {
    pub(crate) fn new() -> Self {
        Self(tempfile::NamedTempFile::new().expect("a temporary file"))
    }

    /// What `--stats` is given.
    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("it is text")
    }

    /// Waits until so many streams are up at once.
    #[track_caller]
    pub(crate) fn wait_for_streams(&self, count: usize) {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(self.path()).expect("mpnc writes text");
            // The last line may not be whole yet.
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let up =
                |line: &Value| line["streams"].as_array().map(|all| all.iter().filter(|s| s["up"] == true).count());
            if lines.filter_map(|line| up(&line)).any(|up| up >= count) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "never {count} streams up, but:\n{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
