//! A standard error that nobody reads: a pipe that is full from a stated moment on.

use super::scene::{Scene, within};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

/// What has mpnc say all into the pipe; goes before other wrappers.
pub(crate) const REDIRECT: [&str; 4] = ["sh", "-c", "exec \"$@\" 2> said", "sh"];

/// The test's end of the pipe.
pub(crate) struct Stuck(File);

impl Stuck {
    /// Makes the pipe, of one page, in the scene's folder.
    pub(crate) fn new(scene: &Scene) -> Self {
        let path = scene.path("said");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        // Open for both, so that opening it waits for nobody.
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let pipe = pipe.expect("a named pipe opens");
        rustix::pipe::fcntl_setpipe_size(&pipe, 4096).expect("a pipe may be small");
        Self(pipe)
    }

    /// The port that a listener names in it.
    pub(crate) fn port(&self) -> u16 {
        let mut line = String::new();
        let mut reader = BufReader::new(&self.0);
        within(Duration::from_secs(20), || match reader.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') && line.contains("listening on ") => Ok(()),
            _ => Err(line.clone()),
        });
        line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Fills it.
    pub(crate) fn fill(&mut self) {
        while self.0.write(&[b'.'; 4096]).is_ok() {}
        assert_eq!(self.0.write(b".").map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}
