//! The life of a session's ends, on the session's own thread: opened, in the hands of reader and writer, ended, gone.

use super::command::Running;
use super::halt::Note;
use super::reader::read;
use super::writer::{WriterQueue, write};
use super::{Open, Opened, Sink, Source, place};
use crate::engine::hub::Hub;
use crate::engine::lookout::Lookout;
use crate::engine::sessions::Caller;
use crate::error::Error;
use crate::sys::interrupt::interrupt;
use crate::wire::Fault;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a thread that is blocked is woken until it has noticed that nobody wants more.
const WAKE_EVERY: Duration = Duration::from_millis(10);

/// Opens the ends of a session, sees them through, and comes back when nothing is left of them: no thread, no descriptor, no process.
/// `begun` is called when they are at work: whoever else has an interest in the session must not keep its first byte waiting.
pub(in crate::engine) fn attend(
    open: &Open,
    caller: &Caller,
    hub: &Arc<Hub>,
    queue: WriterQueue,
    lookout: &mut Lookout,
    begun: impl FnOnce(),
) {
    match open(caller, hub) {
        Ok(opened) if !hub.halt().is_set() => see_through(opened, hub, queue, lookout, begun),
        Ok(opened) => put_away(opened),
        Err(error) => hub.fail(Fault::OUTPUT, error),
    }
    hub.ends_gone();
}

/// The session was over before its ends were used.
fn put_away(Opened { source, sink, command }: Opened) {
    if let Some(command) = command {
        command.end();
        drop((source, sink));
        command.reap();
    }
}

struct Threads {
    reader: Option<JoinHandle<Source>>,
    writer: Option<JoinHandle<Option<Sink>>>,
}

fn see_through(opened: Opened, hub: &Arc<Hub>, queue: WriterQueue, lookout: &mut Lookout, begun: impl FnOnce()) {
    let Opened { source, sink, command } = opened;
    if let Some(source) = &source {
        hub.expect(place::remaining(&source.file));
    }
    let command = command.map(Arc::new);
    let threads = Threads {
        // The end that closes last has the last word: a command that answers is done when its answer is.
        writer: sink.and_then(|sink| writer(sink, queue, command.clone().filter(|_| source.is_none()), hub)),
        reader: source.and_then(|source| reader(source, command.clone(), hub)),
    };
    begun();
    let mut left = usize::from(threads.reader.is_some()) + usize::from(threads.writer.is_some());
    while left > 0 && !hub.halt().is_set() {
        match lookout.wait(hub, None) {
            Some(Note::Through) => left -= 1,
            Some(Note::Over) | None => break,
            Some(Note::Flushed | Note::Look) => {}
        }
    }
    let failed = hub.halt().is_set();
    if let Some(command) = command.as_ref().filter(|_| failed) {
        command.end();
    }
    let kept = threads.stop(failed);
    // Not before the command is gone.
    drop(kept);
    if let Some(command) = command.and_then(Arc::into_inner) {
        Running::reap(command);
    }
}

fn reader(source: Source, command: Option<Arc<Running>>, hub: &Arc<Hub>) -> Option<JoinHandle<Source>> {
    let shared = Arc::clone(hub);
    started(hub, "reader", move || {
        read(&source, command.as_deref(), &shared);
        shared.halt().note(Note::Through);
        source
    })
}

fn writer(
    sink: Sink,
    queue: WriterQueue,
    command: Option<Arc<Running>>,
    hub: &Arc<Hub>,
) -> Option<JoinHandle<Option<Sink>>> {
    let shared = Arc::clone(hub);
    started(hub, "writer", move || {
        let kept = write(sink, &queue, command.as_deref(), &shared);
        shared.halt().note(Note::Through);
        kept
    })
}

fn started<T: Send + 'static>(
    hub: &Arc<Hub>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    let thread: io::Result<JoinHandle<T>> = thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| hub.fail(Fault::OUTPUT, Error::os("cannot start a thread", error))).ok()
}

impl Threads {
    /// Waits for both, with `wake` also for those that are blocked, and gives back what they have not closed.
    fn stop(self, wake: bool) -> (Option<Source>, Option<Sink>) {
        let Self { reader, writer } = self;
        let running = || {
            reader.as_ref().is_some_and(|thread| !thread.is_finished())
                || writer.as_ref().is_some_and(|thread| !thread.is_finished())
        };
        while wake && running() {
            reader.as_ref().into_iter().for_each(interrupt);
            writer.as_ref().into_iter().for_each(interrupt);
            thread::sleep(WAKE_EVERY);
        }
        // A panic has ended the process.
        (reader.and_then(|thread| thread.join().ok()), writer.and_then(|thread| thread.join().ok()).flatten())
    }
}
