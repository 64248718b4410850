//! From the command line to the exit code: a job, its ends, the way, the transfer, what became of it.

use super::address;
use super::args::Args;
use super::doctor;
use super::exit::Exit;
use super::failure;
use super::generate;
use super::job::{Calling, Job, Listening, Moves, Show, Transfer};
use super::observed::{Observed, give_up_privileges};
use super::placing;
use super::plan;
use super::prepare::{self, Target, WaysBack};
use super::screen::{self, AboveBars, print, say};
use super::service::{self, open, report};
use super::summary::{Group, Subject};
use super::watch::{Shown, Watches};
use crate::bpf::privilege::Capability;
use crate::engine::{
    self, Attempt, Caller, Connect, Ends, Introduce, Introduction, OnSession, Options, Tuning, Wanted,
};
use crate::error::Error;
use crate::observe::arrivals::Sight;
use crate::place::Placer;
use crate::sys::child::settle_signals;
use clap::Parser;
use std::io::Write;
use std::sync::{Arc, PoisonError};

/// Runs mpnc as the command line says.
#[must_use]
pub fn run() -> Exit {
    let args = match parsed() {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let show = Show::of(&args);
    failure::end_on_panic(show.json);
    start_log(show);
    settle_signals();
    let exit = Job::of(&args).and_then(|job| carry_out(job, show)).unwrap_or_else(|error| {
        say(&failure::text(show.json, None, &error));
        Exit::of(&error)
    });
    screen::settle();
    exit
}

/// The command line, or what to end with: its help, or what is wrong with it, has been printed then.
fn parsed() -> Result<Args, Exit> {
    Args::try_parse().map_err(|error| {
        let exit = if error.use_stderr() { misunderstood(&error) } else { helped(&error) };
        screen::settle();
        exit
    })
}

/// People are told by the error itself. Whether a machine asks cannot be known from what could not be understood.
fn misunderstood(error: &clap::Error) -> Exit {
    let _ = error.print();
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        say(&failure::text(true, None, &Error::Usage(text.to_owned())));
    }
    Exit::Usage
}

fn helped(help: &clap::Error) -> Exit {
    match screen::printable().and_then(|()| help.print().map_err(screen::unprinted)) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(&failure::text(false, None, &error));
            Exit::of(&error)
        }
    }
}

fn start_log(show: Show) {
    let level = match (show.quiet, show.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "trace",
    };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    if show.verbose < 2 && std::env::var_os("RUST_LOG").is_none() {
        builder.format(|out, record| writeln!(out, "mpnc: {}", record.args()));
    }
    builder.target(env_logger::Target::Pipe(Box::new(AboveBars)));
    builder.init();
}

fn carry_out(job: Job, show: Show) -> Result<Exit, Error> {
    match job {
        Job::Generate(what) => done(print(&generate::text(what)?)),
        Job::Plan(calling, rate) => done(show_plan(&calling, rate, show)),
        Job::Examine(calling, timeout) => doctor::connect(&calling, timeout, show),
        Job::AwaitDoctor(listening, timeout) => doctor::listen(&listening, timeout, show),
        Job::Listen(listening, at_once, transfer) => done(listen(&listening, at_once, &transfer, show)),
        Job::Connect(calling, transfer) => done(connect(&calling, &transfer, show)),
    }
}

fn done(outcome: Result<(), Error>) -> Result<Exit, Error> {
    outcome.map(|()| Exit::Success)
}

fn show_plan(calling: &Calling, rate: Option<u64>, show: Show) -> Result<(), Error> {
    let routes = address::routes(&calling.to)?;
    let target = Target::look(&calling.plan, routes[0])?;
    let render = if show.json { plan::render_json } else { plan::render_text };
    let plan = render(&target.view, &target.plan, target.tuning(rate), target.workers(calling.workers));
    print(&plan)
}

// --- one side and the other ------------------------------------------------------------------------------------------

/// What is still to be opened, or ended, when privileges are given up.
fn needed_later(ends: &Wanted) -> Vec<Capability> {
    let named = Moves::named(ends);
    let opens = named.sends || named.receives || ends.command.is_some();
    let files = opens.then_some(Capability::CAP_DAC_OVERRIDE);
    // A command may have become another user.
    files.into_iter().chain(ends.command.as_ref().map(|_| Capability::CAP_KILL)).collect()
}

fn subject(transfer: &Transfer, observed: &Arc<Observed>, placer: Option<&Arc<Placer>>, workers: usize) -> Subject {
    let (observed, placer) = (Arc::clone(observed), placer.cloned());
    Subject { moves: transfer.moves, named: Moves::named(&transfer.ends), observed, placer, workers, group: None }
}

fn options(transfer: &Transfer, introduce: Introduce, observed: &Observed, on_session: OnSession) -> Options {
    let numbers = transfer.numbers;
    Options {
        directions: transfer.directions,
        window: numbers.window,
        block: numbers.block,
        rate: numbers.rate,
        digest: transfer.digest,
        timeout: numbers.timeout,
        introduce,
        on_session,
        sight: transfer.moves.receives.then(|| Arc::new(Sight::new(observed.observer()))),
        placer: None,
        tuning: Tuning::of(&[], numbers.rate),
    }
}

fn listen(listening: &Listening, at_once: Option<usize>, transfer: &Transfer, show: Show) -> Result<(), Error> {
    let (addr, keep) = (address::listen_address(&listening.at)?, listening.keep);
    let bonds = prepare::host_bonds();
    // The port first: who has it is the more likely mistake.
    let bound = engine::bind(addr, prepare::workers(listening, &bonds))?;
    for error in bound.steering.fallbacks() {
        log::info!("{error}");
    }
    let group = Arc::new(Group { workers: bound.workers(), active: bound.steering, guard: bound.guard });
    group.serve_queues();
    let port = bound.sockets.open(&group.guard)?;
    log::info!("{group}");
    let shown = Shown::of(show, transfer);
    let ends = Arc::new(Ends::check(transfer.ends.clone())?);
    let observed = Arc::new(Observed::of_host(transfer.ebpf, transfer.moves, bound.addr.port())?);
    let placer = placing::of_host(transfer, bound.addr.port(), &bonds)?;
    // Before others learn that they can connect, or interrupt.
    let interrupts = engine::Interrupts::catch()?;
    // A port that the kernel chose must be told, or nobody could connect.
    let level = if addr.port() == 0 { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "listening on {}", bound.addr);
    let watches = Watches::new(shown, transfer.stats.as_ref())?;
    let ending = Arc::clone(&watches);
    let on_end = move |caller: &Caller| if keep { ending.finish_one(caller.number) } else { ending.finish() };
    let told =
        Subject { group: Some(Arc::clone(&group)), ..subject(transfer, &observed, placer.as_ref(), group.workers) };
    let (service, outcome) = service::service(ends, (keep, at_once), (show, told), on_end);
    let ways = Arc::new(WaysBack::of_listener(bound.addr, placer.clone()));
    let (watch, followed) = (watches.on_session(), Arc::clone(&ways));
    let on_session: OnSession = Arc::new(move |hub, caller| {
        group.look();
        followed.follow_bond(hub, caller.peer.ip());
        watch(hub, caller);
    });
    let speeds = if transfer.moves.sends { prepare::speeds(&bonds) } else { Vec::new() };
    let tuning = Tuning::of(&speeds, transfer.numbers.rate);
    let options = Options { tuning, placer, ..options(transfer, ways.introduce(), &observed, on_session) };
    give_up_privileges(&needed_later(&transfer.ends), transfer.ends.command.is_some());
    let served = engine::listen(port, interrupts, options, service);
    watches.finish();
    // What became of the only session says more than the signal that ended it.
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    outcome.map_or(served, Err)
}

fn connect(calling: &Calling, transfer: &Transfer, show: Show) -> Result<(), Error> {
    let routes = address::routes(&calling.to)?;
    let shown = Shown::of(show, transfer);
    let open = open(Arc::new(Ends::check(transfer.ends.clone())?));
    let watches = Watches::new(shown, transfer.stats.as_ref())?;
    let mut failures = Failures { left: routes.len(), errors: Vec::new() };
    for route in routes {
        let mut target = match Target::look(&calling.plan, route) {
            Ok(target) => target,
            Err(error @ Error::Unreachable { .. }) => {
                failures.add(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        target.say_notes();
        let own = Introduction { bond: prepare::facts(&target.view), ..Introduction::default() };
        let introduce: Introduce = Arc::new(move |_| own.clone());
        let measured = target.is_measured();
        let observed = Arc::new(Observed::of_path(transfer.ebpf, transfer.moves, &target.view, measured)?);
        let placer = placing::of_path(transfer, &target.view)?;
        target.tell(placer.clone());
        if failures.left == 1 {
            // This is the last address to try. Source ports below 1024 may still be asked for.
            give_up_privileges(
                &[&needed_later(&transfer.ends)[..], &[Capability::CAP_NET_BIND_SERVICE]].concat(),
                false,
            );
        }
        let leaving = observed.leaving();
        let way = target.way(&leaving);
        let others = (calling.may_use_others() && !target.view.placed)
            .then(|| target.others(Arc::clone(&leaving), (transfer.moves.sends, transfer.moves.receives)));
        let follow = target.follow(leaving, observed.observer());
        let stated = calling.plan.is_stated();
        let (tuning, workers) = (target.tuning(transfer.numbers.rate), target.workers(calling.workers));
        let (planner, plan, spare) = (target.planner, target.plan, target.spare);
        let how = Connect { target: route.to, way, planner, plan, stated, workers, spare, follow, others };
        let on_session = watches.on_session();
        let told = subject(transfer, &observed, placer.as_ref(), workers);
        let options = Options { tuning, placer, ..options(transfer, introduce, &observed, on_session) };
        match engine::connect(how, options, Arc::clone(&open))? {
            Attempt::Session(outcome) => {
                watches.finish();
                report(&outcome?, &told, show);
                return Ok(());
            }
            Attempt::Failed(error @ Error::Interrupted { .. }) => return Err(error),
            Attempt::Failed(error) => failures.add(error),
        }
    }
    Err(failures.last())
}

/// What became of the addresses of one name.
struct Failures {
    /// Addresses not tried yet.
    left: usize,
    errors: Vec<Error>,
}

impl Failures {
    fn add(&mut self, error: Error) {
        self.left -= 1;
        if self.left > 0 {
            log::info!("{error}; trying the next address");
        }
        self.errors.push(error);
    }

    /// The error to end with. Nobody could know from it that there were other addresses, so they are told first.
    fn last(mut self) -> Error {
        let last = self.errors.pop();
        if !log::log_enabled!(log::Level::Info) {
            self.errors.iter().for_each(|earlier| log::warn!("{earlier}"));
        }
        last.unwrap_or_else(|| Error::Bug("no address to connect to".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::failure::tests::{assert_bug, own_process};
    use super::*;
    use log::{LevelFilter, Log, Metadata, Record};
    use std::sync::Mutex;
    use std::sync::mpsc::{self, Sender};
    use std::thread;
    use std::time::{Duration, Instant};

    /// The thread that is to fail, of a test that is run as a process of its own.
    const FAILS: &str = "MPNC_TEST_FAILS";
    /// Nothing is asserted about speed: it only bounds a hang.
    const LIMIT: Duration = Duration::from_mins(1);

    /// A logger that fails on one thread, at whatever is logged there: what else a thread calls is mpnc's own.
    struct FailsOn {
        thread: String,
        /// Hears the port that is listened on.
        port: Mutex<Sender<String>>,
    }

    impl Log for FailsOn {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            assert!(thread::current().name() != Some(&self.thread), "the {} has failed", self.thread);
            if let Some(("listening on 127.0.0.1", port)) = record.args().to_string().rsplit_once(':') {
                self.port.lock().unwrap().send(port.to_owned()).unwrap();
            }
        }

        fn flush(&self) {}
    }

    fn mpnc(line: &str) -> Result<Exit, Error> {
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        carry_out(Job::of(&args)?, Show::of(&args))
    }

    /// A session of this process with itself, if it is told which thread of it fails: see the next test. What is read
    /// or written there cannot be, so that there is something to log.
    #[test]
    fn has_a_failing_thread_if_told_to() {
        let Ok(thread) = std::env::var(FAILS) else { return };
        let [input, output] = match thread.as_str() {
            "reader" => ["/proc/self/mem", "/dev/null"],
            "writer" => ["/proc/self/exe", "/dev/full"],
            // That a stream is dealt to it is logged.
            _ => ["/dev/zero", "/dev/null"],
        };
        let (tell, port) = mpsc::channel();
        log::set_boxed_logger(Box::new(FailsOn { thread, port: Mutex::new(tell) })).unwrap();
        log::set_max_level(LevelFilter::Trace);
        failure::end_on_panic(false);
        let listener = thread::spawn(move || mpnc(&format!("mpnc -l -o {output} 127.0.0.1 0")));
        let connected = mpnc(&format!("mpnc --workers 2 --streams 2 -i {input} 127.0.0.1 {}", port.recv().unwrap()));
        unreachable!("the process has ended: {connected:?}, {:?}", listener.join());
    }

    #[test]
    fn a_panic_of_a_reader_writer_or_further_loop_ends_the_process_as_a_bug() {
        for thread in ["reader", "writer", "worker"] {
            let mut command = own_process("cli::run::tests::has_a_failing_thread_if_told_to", (FAILS, thread));
            let (mut process, begun) = (command.spawn().unwrap(), Instant::now());
            while process.try_wait().unwrap().is_none() && begun.elapsed() < LIMIT {
                thread::sleep(Duration::from_millis(5));
            }
            // Where it has ended this does nothing.
            process.kill().unwrap();
            assert_bug(&process.wait_with_output().unwrap(), &format!("the {thread}"));
        }
    }
}
