//! The file of `--stats`: opened, written and closed on a thread of its own, so that a file that is stuck or full costs
//! only itself.
//!
//! A transfer matters more than its statistics: what fails here is a warning. Must not know what the lines say.

use super::observed::give_up_privileges;
use super::outlet::{Lines, Outlet};
use super::screen::printable;
use crate::engine::Place;
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
    /// Opens them at that place; standard output must be free.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(place: &Place) -> Result<Self, Error> {
        let name = match place {
            Place::Standard => "standard output".to_owned(),
            Place::Path(path) => path.display().to_string(),
        };
        let cannot = |error| Error::os(format!("cannot open {name} for statistics"), error);
        let open: Opening = match place {
            Place::Standard => ready(standard_output(cannot)?),
            Place::Path(path) if may_wait(path) => {
                let path = path.clone();
                Box::new(move || File::options().write(true).open(path))
            }
            Place::Path(path) => ready(File::create(path).map_err(cannot)?),
        };
        let own = name.clone();
        let outlet = Outlet::start("statistics", move |lines| {
            let opened = open();
            give_up_privileges(&[], false);
            let lost = opened.and_then(|file| write(file, lines));
            match lost {
                Ok(0) => {}
                Ok(lost) => log::warn!("{lost} lines of statistics were lost: {own} took them too slowly"),
                Err(error) => log::warn!("no more statistics: cannot write to {own}: {}", words(&error)),
            }
        });
        let outlet = outlet.map_err(|error| Error::os("cannot start a thread", error))?;
        Ok(Self { name, outlet, finished: Once::new() })
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

/// Opens the file on the thread, where nobody waits for it.
type Opening = Box<dyn FnOnce() -> io::Result<File> + Send>;

fn ready(file: File) -> Opening {
    Box::new(move || Ok(file))
}

/// Whether opening it may wait: a FIFO for its reader, a serial line for its carrier.
fn may_wait(path: &Path) -> bool {
    let kind = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(FileType::Fifo | FileType::CharacterDevice))
}

fn standard_output(cannot: impl Fn(io::Error) -> Error) -> Result<File, Error> {
    printable()?;
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(cannot)
}
