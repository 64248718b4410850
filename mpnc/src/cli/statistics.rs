//! The file of `--stats`: opened, written and closed on a thread of its own, so that a file that is stuck or full costs only itself.
//!
//! A transfer matters more than its statistics: what fails here is a warning. Must not know what the lines say.

use super::args::Args;
use super::observed::give_up_privileges;
use super::outlet::{Lines, Outlet};
use super::screen::printable;
use crate::error::{Error, words};
use crate::sys::close::close;
use rustix::fs::FileType;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

/// How long the end of mpnc waits for the file to take what is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(super) struct Statistics {
    name: String,
    outlet: Outlet,
    finished: Once,
}

impl Statistics {
    /// What `--stats` asks for.
    ///
    /// # Errors
    /// The file cannot be opened, or is standard output while that has another use.
    pub(super) fn open(args: &Args) -> Result<Option<Self>, Error> {
        let Some(path) = &args.stats else { return Ok(None) };
        let name = if is_standard(path) { "standard output".to_owned() } else { path.display().to_string() };
        let cannot = |error| Error::os(format!("cannot open {name} for statistics"), error);
        let file = if is_standard(path) {
            Some(standard_output(args, cannot)?)
        } else if may_wait(path) {
            None
        } else {
            Some(File::create(path).map_err(cannot)?)
        };
        let (own, path) = (name.clone(), path.clone());
        let outlet = Outlet::start("statistics", move |lines| {
            let opened = file.map_or_else(|| File::options().write(true).open(path), Ok);
            give_up_privileges(&[], false);
            let lost = opened.and_then(|file| write(file, lines));
            match lost {
                Ok(0) => {}
                Ok(lost) => log::warn!("{lost} lines of statistics were lost: {own} took them too slowly"),
                Err(error) => log::warn!("no more statistics: cannot write to {own}: {}", words(&error)),
            }
        });
        let outlet = outlet.map_err(|error| Error::os("cannot start a thread", error))?;
        Ok(Some(Self { name, outlet, finished: Once::new() }))
    }

    /// Hands a line over.
    pub(super) fn say(&self, line: String) {
        self.outlet.push(line + "\n");
    }

    /// No more lines will come. If the file is stuck, it stays incomplete.
    pub(super) fn finish(&self) {
        self.finished.call_once(|| {
            if !self.outlet.close(PATIENCE) {
                log::warn!("the statistics are not complete: {} takes no more", self.name);
            }
        });
    }
}

/// Writes what comes, and closes the file; answers how many lines were lost.
fn write(mut file: File, lines: &Lines) -> io::Result<u64> {
    let mut lost = 0;
    while let Some(taken) = lines.next() {
        lost += taken.lost;
        file.write_all(taken.line.as_bytes())?;
    }
    close(file)?;
    Ok(lost)
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether opening it may wait: a FIFO for its reader, a serial line for its carrier.
fn may_wait(path: &Path) -> bool {
    let kind = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::CharacterDevice))
}

fn standard_output(args: &Args, cannot: impl Fn(io::Error) -> Error) -> Result<File, Error> {
    let has_data = args.receives() && args.output.as_deref().is_none_or(is_standard);
    if has_data {
        let text = "--stats -: standard output is for what is received: name a file, or use -o";
        return Err(Error::Usage(text.into()));
    }
    printable()?;
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(cannot)
}
