//! The life of a session's ends, on the session's own thread: opened, in the hands of reader and writer, ended, gone.

use super::command::Running;
use super::reader::read;
use super::writer::write;
use super::{Open, Opened, Sink, Source};
use crate::engine::caller::Caller;
use crate::engine::halt::Note;
use crate::engine::hub::Hub;
use crate::engine::lookout::Lookout;
use crate::engine::queue::WriterQueue;
use crate::error::Error;
use crate::sys::interrupt::interrupt;
use crate::wire::Fault;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a thread that is blocked is woken until it has noticed that nobody wants more.
const WAKE_EVERY: Duration = Duration::from_millis(10);

/// Opens the ends of a session, sees them through, and comes back when nothing is left of them: no thread, no
/// descriptor, no process. `begun` is called when they are at work: whoever else has an interest in the session must
/// not keep its first byte waiting.
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
    if let Some(command) = &command {
        command.end();
    }
    // Not before the command is gone.
    drop(source);
    sink.into_iter().for_each(Sink::give_up);
    command.into_iter().for_each(Running::reap);
}

/// An end in the hands of its thread; or at rest, if there was no thread to be had.
struct Hand<E> {
    thread: Option<JoinHandle<Option<E>>>,
    at_rest: Option<E>,
}

impl<E: Send + 'static> Hand<E> {
    /// Nobody's.
    fn empty() -> Self {
        Self { thread: None, at_rest: None }
    }

    /// Starts the thread, and only then hands it the end: a pipe that closes because there was no thread would be taken
    /// for an end of data.
    fn of(end: E, name: &str, hub: &Arc<Hub>, work: impl FnOnce(E) -> Option<E> + Send + 'static) -> Self {
        let (give, take) = mpsc::sync_channel(1);
        let work = move || take.recv().ok().and_then(work);
        match thread::Builder::new().name(name.into()).spawn(work) {
            Ok(thread) => {
                // It waits for nothing else.
                let _ = give.send(end);
                Self { thread: Some(thread), at_rest: None }
            }
            Err(error) => {
                hub.fail(Fault::OUTPUT, Error::os("cannot start a thread", error));
                Self { thread: None, at_rest: Some(end) }
            }
        }
    }

    /// The thread, while it is at work.
    fn at_work(&self) -> Option<&JoinHandle<Option<E>>> {
        self.thread.as_ref().filter(|thread| !thread.is_finished())
    }

    /// Waits for the thread, and gives back the end if it is not closed.
    fn back(self) -> Option<E> {
        // A panic has ended the process.
        self.at_rest.or_else(|| self.thread?.join().ok().flatten())
    }
}

fn see_through(opened: Opened, hub: &Arc<Hub>, queue: WriterQueue, lookout: &mut Lookout, begun: impl FnOnce()) {
    let Opened { source, sink, command } = opened;
    if let Some(source) = &source {
        hub.expect(source.remaining());
    }
    let command = command.map(Arc::new);
    // The end that closes last has the last word: a command that answers is done when its answer is.
    let last = command.clone().filter(|_| source.is_none());
    let writer = sink.map_or_else(Hand::empty, |sink| writer(sink, queue, last, hub));
    let reader = source.map_or_else(Hand::empty, |source| reader(source, command.clone(), hub));
    begun();
    let mut left = usize::from(reader.thread.is_some()) + usize::from(writer.thread.is_some());
    while left > 0 && !hub.halt().is_set() {
        match lookout.wait(hub, None) {
            Some(Note::Through) => left -= 1,
            Some(Note::Over) | None => break,
            Some(Note::Flushed | Note::Look) => {}
        }
    }
    // One that is complete may be over before this thread knows; what its command has left running is the command's
    // affair then.
    let failed = hub.has_failed();
    if let Some(command) = command.as_ref().filter(|_| failed) {
        command.end();
    }
    while failed && (reader.at_work().is_some() || writer.at_work().is_some()) {
        reader.at_work().into_iter().for_each(interrupt);
        writer.at_work().into_iter().for_each(interrupt);
        thread::sleep(WAKE_EVERY);
    }
    // Closed when the command is gone, and not before.
    drop(reader.back());
    writer.back().into_iter().for_each(Sink::give_up);
    if let Some(command) = command.and_then(Arc::into_inner) {
        Running::reap(command);
    }
}

fn reader(source: Source, command: Option<Arc<Running>>, hub: &Arc<Hub>) -> Hand<Source> {
    let shared = Arc::clone(hub);
    Hand::of(source, "reader", hub, move |source| {
        read(&source, command.as_deref(), &shared);
        shared.halt().note(Note::Through);
        Some(source)
    })
}

fn writer(sink: Sink, queue: WriterQueue, command: Option<Arc<Running>>, hub: &Arc<Hub>) -> Hand<Sink> {
    let shared = Arc::clone(hub);
    Hand::of(sink, "writer", hub, move |sink| {
        let kept = write(sink, &queue, command.as_deref(), &shared);
        shared.halt().note(Note::Through);
        kept
    })
}
