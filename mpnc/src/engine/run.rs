//! The two sides from outside: connect, or open the port and listen; and the signals that end either.
//!
//! Must not know frames or streams.

use super::bell::Bell;
use super::carrier::Crew;
use super::clock;
use super::connect::{Connect, Connector};
use super::ends::Open;
use super::guard::Guard;
use super::listen::{self, Listener};
use super::options::Options;
use super::report::{Report, conclude};
use super::sessions::{Service, Sessions};
use super::strangers::Strangers;
use super::worker::{ENDING, Parts, Role, STATUS, Worker};
use crate::bpf::EbpfMode;
use crate::error::Error;
use crate::steer::{self, Active, SteeringMode};
use crate::sys::signal::is_ignored;
use signal_hook::flag;
use signal_hook_mio::v1_0::Signals;
use std::iter;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};

/// The outcome of one attempt to connect.
pub enum Attempt {
    /// There was a session, and this came of it.
    Session(Result<Report, Error>),
    /// There was none, and the ends are as they were.
    Failed(Error),
}

/// The signals that end a transfer, and the one that asks how far it has got, from now on caught for an event loop.
pub struct Interrupts {
    signals: Signals,
    caught: Caught,
}

/// While it lives, signals are the loop's. Before and after, when nobody would hear of them, they have their ordinary
/// effect.
struct Caught;

static ORDINARY: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let ordinary = Arc::new(AtomicBool::new(true));
    for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
        if let Err(error) = flag::register_conditional_default(signal, Arc::clone(&ordinary)) {
            log::debug!("signal {signal} will not end mpnc outside of its loop: {error}");
        }
    }
    ordinary
});

impl Drop for Caught {
    fn drop(&mut self) {
        ORDINARY.store(true, Ordering::Relaxed);
    }
}

impl Interrupts {
    /// Catches them.
    ///
    /// # Errors
    /// The system's.
    pub fn catch() -> Result<Self, Error> {
        // Under nohup, and in the background of a script, some are ignored: they stay so.
        let wanted = ENDING.into_iter().chain([STATUS]).filter(|signal| !is_ignored(*signal));
        let ordinary = LazyLock::force(&ORDINARY);
        let signals = Signals::new(wanted).map_err(|error| Error::os("cannot catch signals", error))?;
        ordinary.store(false, Ordering::Relaxed);
        Ok(Self { signals, caught: Caught })
    }
}

fn failed_loop(error: std::io::Error) -> Error {
    Error::os("cannot set up the event loop", error)
}

/// Connects, transfers, and reports.
///
/// # Errors
/// What kept the loop from starting; everything later is in the [`Attempt`].
pub fn connect(how: Connect, options: Options, open: Open) -> Result<Attempt, Error> {
    let (target, workers, options) = (how.target, how.workers, options.shared_out());
    let (parts, bells) = parts(workers)?;
    let (crew, carriers) = Crew::new(bells.clone(), &options);
    let bell = bells.first().ok_or_else(|| Error::Bug("a connector without a worker".into()))?;
    let connector = Connector::new(how, options, open, (bell, crew), clock::look())?;
    let Interrupts { signals, caught: _caught } = Interrupts::catch()?;
    let roles = iter::once(Role::Connector(Box::new(connector))).chain(carriers.into_iter().map(Role::Carrier));
    let (first, others) = group(parts, signals, roles)?;
    let (role, error) = first.run();
    let Role::Connector(connector) = role else { return Err(Error::Bug("a connector became a listener".into())) };
    // With the crew: the carriers end.
    let (hub, opened) = connector.into_parts();
    let error = join(others).err().or(error);
    match (hub, error) {
        (Some(hub), None) => Ok(Attempt::Session(conclude(&hub, target, opened))),
        (Some(_), Some(error)) => Ok(Attempt::Session(Err(error))),
        (None, Some(error)) => Ok(Attempt::Failed(error)),
        (None, None) => Err(Error::Bug("the connector ended without a session".into())),
    }
}

/// A port that is held, before anybody can connect to it.
pub struct Bound {
    /// One for each worker.
    pub sockets: Sockets,
    /// The address listened on, with the port the kernel chose if none was given.
    pub addr: SocketAddr,
    /// What picks the worker of a new connection.
    pub steering: Active,
    /// Tells whether others listen there too.
    pub guard: Guard,
}

/// Sockets that hold one port.
pub struct Sockets(Vec<socket2::Socket>);

/// The listening sockets of one port.
pub struct OpenPort(Vec<socket2::Socket>);

impl Bound {
    /// Loops that share the port.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.sockets.0.len()
    }
}

/// How many loops share a listener's port, and what picks among them.
#[derive(Debug, Clone, Copy)]
pub struct Workers {
    /// Loops, each on a thread of its own.
    pub count: usize,
    /// What picks the worker.
    pub steering: SteeringMode,
    /// Whether kernel programs may be used.
    pub ebpf: EbpfMode,
}

/// Takes the one port, with a socket for each worker: a steered group, be it of one. [`Sockets::open`] lets others
/// connect; until then what steers can be told more.
///
/// # Errors
/// The system's, with the address and what to do.
pub fn bind(addr: SocketAddr, workers: Workers) -> Result<Bound, Error> {
    // Alone first: several sockets of one user may share a port with SO_REUSEPORT, and two receivers must never do so
    // silently.
    let first = listen::open(addr, false)?;
    let bound = first.local_addr().map_err(|source| Error::os(format!("cannot listen on {addr}"), source))?;
    let addr = bound.as_socket().ok_or_else(|| Error::Bug("a TCP socket without an address".into()))?;
    listen::share(&first, addr)?;
    let others = (1..workers.count).map(|_| listen::open(addr, true));
    let sockets = iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>, _>>()?;
    // Before they listen: a connection that comes in between would go by the kernel's hash.
    let steering = steer::attach(&sockets, workers.steering, workers.ebpf).map_err(|error| Error::Unreachable {
        doing: format!("cannot steer {} workers", workers.count),
        reason: error.to_string(),
        remedy: "",
    })?;
    let guard = Guard::of(&sockets, addr).map_err(|source| Error::os(format!("cannot listen on {addr}"), source))?;
    Ok(Bound { sockets: Sockets(sockets), addr, steering, guard })
}

impl Sockets {
    /// Lets others connect.
    ///
    /// # Errors
    /// The system's, with the address; that somebody else listens there.
    pub fn open(self, guard: &Guard) -> Result<OpenPort, Error> {
        // A socket joins the group when it listens, and the order of that is its number there
        // (net/core/sock_reuseport.c, 6.12).
        self.0.iter().try_for_each(|socket| listen::start(socket, guard.addr()))?;
        guard.begin()?;
        Ok(OpenPort(self.0))
    }
}

/// Serves sessions until the only one is over, or for ever; `service` is told what became of each.
///
/// # Errors
/// What ended the listener itself, in words; a session's error goes to `service`.
pub fn listen(
    OpenPort(sockets): OpenPort,
    interrupts: Interrupts,
    options: Options,
    service: Service,
) -> Result<(), Error> {
    // Sessions come and go, their windows with them; in blocks smaller than this there is no window worth mentioning.
    crate::sys::memory::give_back_from(64 << 10);
    let (parts, bells) = parts(sockets.len())?;
    let sessions = Sessions::new(options.shared_out(), service, bells);
    let strangers = Arc::<Strangers>::default();
    let Interrupts { signals, caught: _caught } = interrupts;
    let listener = |(index, socket)| Listener::new(index, socket, Arc::clone(&sessions), Arc::clone(&strangers));
    let roles = sockets.into_iter().enumerate().map(listener).map(Role::Listener);
    let (first, others) = group(parts, signals, roles)?;
    if let (_, Some(error)) = first.run() {
        strangers.settle(true);
        return Err(error);
    }
    join(others)
}

// --- the loops of either side ----------------------------------------------------------------------------------------

/// What so many loops need before there are roles for them, and what wakes each.
fn parts(workers: usize) -> Result<(Vec<Parts>, Vec<Arc<Bell>>), Error> {
    let parts: Vec<Parts> = (0..workers).map(|_| Parts::new()).collect::<Result<_, _>>().map_err(failed_loop)?;
    let bells = parts.iter().map(|part| Arc::clone(&part.bell)).collect();
    Ok((parts, bells))
}

/// A loop for each role: the first, which hears of signals, is for this thread; the others are at work.
fn group(parts: Vec<Parts>, signals: Signals, roles: impl Iterator<Item = Role>) -> Result<(Worker, Vec<Loop>), Error> {
    let mut signals = Some(signals);
    let worker = |(index, (parts, role))| Worker::new(index, parts, signals.take(), role);
    let workers = parts.into_iter().zip(roles).enumerate().map(worker);
    let mut workers = workers.collect::<Result<Vec<_>, _>>().map_err(failed_loop)?.into_iter();
    let first = workers.next().ok_or_else(|| Error::Bug("a side without a worker".into()))?;
    let others = workers.map(start).collect::<Result<_, _>>();
    Ok((first, others.map_err(|error| Error::os("cannot start a thread", error))?))
}

/// A loop on a thread of its own, and the error that ended it.
type Loop = JoinHandle<Option<Error>>;

fn start(worker: Worker) -> std::io::Result<Loop> {
    let work = move || match worker.run() {
        (Role::Carrier(carrier), Some(error)) => carrier.fail(error),
        (_, error) => error,
    };
    thread::Builder::new().name("worker".into()).spawn(work)
}

fn join(loops: Vec<Loop>) -> Result<(), Error> {
    for other in loops {
        if let Some(error) = other.join().map_err(|_| Error::Bug("a worker panicked".into()))? {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Steering;
    use std::net::TcpStream;

    #[test]
    fn nobody_connects_before_the_group_is_steered() {
        let steering = SteeringMode::Only(Steering::Cbpf);
        let workers = Workers { count: 2, steering, ebpf: EbpfMode::Off };
        let bound = bind(([127, 0, 0, 1], 0).into(), workers).unwrap();
        assert_eq!(bound.steering.steering(), Steering::Cbpf);
        let early = TcpStream::connect(bound.addr);
        assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let _open = bound.sockets.open(&bound.guard).unwrap();
        TcpStream::connect(bound.addr).unwrap();
    }
}
