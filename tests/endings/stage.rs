//! The two sides of one session of the table, between the ends that its column names, with what its row needs to go
//! wrong.

use super::PATIENCE;
use super::breaking::{LoopDevice, failing};
use super::cell::{End, Way};
use super::common::process::Side;
use super::relay::Relay;
use super::scene::{Scene, within};
use super::stuck::{REDIRECT, Stuck};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a listener sends back with --duplex.
pub(crate) const BACK: &[u8] = &[b'b'; 100_000];
/// Where a command's input ends up, and only when it is whole.
const GOOD: &str = "cat > part-$MPNC_SESSION && mv part-$MPNC_SESSION whole-$MPNC_SESSION";

/// Bytes that a thread of the test collects.
#[derive(Clone, Default)]
pub(crate) struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads all, or so many bytes and then closes.
    fn read(&self, mut source: impl Read, most: usize) {
        let mut piece = vec![0; 20_000];
        while self.bytes().len() < most {
            match source.read(&mut piece) {
                Ok(n) if n > 0 => self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..n]),
                _ => return,
            }
        }
    }
}

/// A session under way.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) listener: Side,
    pub(crate) connector: Side,
    /// The listener's own port, whatever lies between.
    pub(crate) port: u16,
    pub(crate) relay: Relay,
    pub(crate) out: Collected,
    pub(crate) back: Collected,
    pub(crate) disk: Option<LoopDevice>,
    /// Threads and descriptors of a listener that goes on, before its first session.
    pub(crate) idle: (usize, usize),
    feeding: Option<JoinHandle<Option<ChildStdin>>>,
    _stuck: Option<Stuck>,
}

/// Threads and descriptors of a process.
pub(crate) fn holdings(pid: u32) -> (usize, usize) {
    let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    (count("task"), count("fd"))
}

/// The same of a listener that has said that it listens, once it has all that it waits with: it sleeps, and nothing
/// comes any more.
pub(crate) fn holdings_at_rest(pid: u32) -> (usize, usize) {
    let sleeps = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "));
    let (mut held, mut unchanged) = (holdings(pid), 0);
    for _ in 0..1000 {
        if unchanged == 20 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
        let now = holdings(pid);
        unchanged = if now == held && sleeps() { unchanged + 1 } else { 0 };
        held = now;
    }
    held
}

/// What the descriptors of a process are, for a person to read.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

/// How much a broken reader reads.
fn appetite(way: Way) -> usize {
    if way == Way::OutputEarly { 1000 } else { usize::MAX }
}

/// The command of -e for this way.
fn command(way: Way) -> String {
    let first = match way {
        Way::CommandFails => "cat > part-1; exit 3",
        Way::CommandKilled => "head -c 1000 > part-1; kill -s KILL $$",
        Way::CommandHangs => "sleep 300",
        Way::OutputEarly => "head -c 1000 > part-1",
        _ => GOOD,
    };
    format!("if [ $MPNC_SESSION = 1 ]; then {first}; else {GOOD}; fi")
}

/// What the receiving side is told of its end.
fn end_args(scene: &Scene, disk: Option<&LoopDevice>, way: Way, end: End) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    match end {
        End::StdoutPipe | End::StdoutFile => Vec::new(),
        End::File => words(&["-o", &scene.arg("out")]),
        End::Pattern => words(&["-k", "-o", &scene.arg("of-%n")]),
        End::Device if way == Way::OutputEarly => words(&["-o", "/dev/full"]),
        End::Device => words(&["-o", disk.map_or("", LoopDevice::path)]),
        End::Fifo => words(&["-o", &scene.arg("f")]),
        End::Command => words(&["--sh", "-e", &command(way)]),
        End::KeepCommand => words(&["-k", "--sh", "-e", &command(way)]),
        End::Duplex => words(&["--duplex"]),
        End::Reverse => words(&["--reverse", "-o", &scene.arg("out")]),
        End::Keep => words(&["-k"]),
    }
}

/// What breaks the receiving side from outside.
fn wrapper(scene: &Scene, disk: Option<&LoopDevice>, way: Way, end: End) -> Vec<String> {
    let path = match end {
        End::Pattern => scene.arg("of-1"),
        End::Device => disk.map_or("", LoopDevice::path).to_owned(),
        End::Fifo => scene.arg("f"),
        _ => scene.arg("out"),
    };
    let words: Vec<&str> = match (way, way.injects()) {
        (Way::StderrStuck, _) => REDIRECT.to_vec(),
        // A device is full by itself.
        (Way::DiskFull, _) if end == End::Device => Vec::new(),
        (_, Some((trace, inject))) => failing(&path, trace, inject),
        (Way::OutputEarly, _) if end.is_named() && end != End::Device => vec!["prlimit", "--fsize=1000"],
        _ => Vec::new(),
    };
    words.into_iter().map(str::to_owned).collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The port that a listener names; one that does not is no reason to wait long.
fn port_of(listener: &Side) -> u16 {
    within(PATIENCE, || listener.heard("listening on ").map(|_| ()).ok_or("it never listened"));
    listener.port()
}

impl Stage {
    /// Starts both sides.
    pub(crate) fn start(way: Way, end: End, input: &[u8]) -> Self {
        let scene = Scene::new();
        let len = if way == Way::DiskFull { 256 << 10 } else { 4 << 20 };
        let disk = (end == End::Device).then(|| LoopDevice::new(len));
        if end == End::Fifo {
            assert!(Command::new("mkfifo").arg(scene.path("f")).status().unwrap().success());
        }
        let mut stuck = (way == Way::StderrStuck).then(|| Stuck::new(&scene));
        let receiving = end_args(&scene, disk.as_ref(), way, end);
        let breaking = wrapper(&scene, disk.as_ref(), way, end);
        let stdout = if end == End::StdoutFile {
            File::create(scene.path("out")).unwrap().into()
        } else if end.is_command() {
            Stdio::null()
        } else {
            Stdio::piped()
        };
        let reverse = end == End::Reverse;
        let sending = match way {
            Way::InputError => vec!["-i", "/proc/self/mem"],
            // In the midst of it much is still to come.
            _ if way.is_midway() && input.len() == 3_000_000 => vec!["--rate", "5M"],
            _ => Vec::new(),
        };
        let at_listener = if reverse { [&["--reverse"][..], &sending].concat() } else { strs(&receiving) };
        let args = [&["-l", "-w", "2"], &at_listener[..], &["0"]].concat();
        let around = if reverse { Vec::new() } else { strs(&breaking) };
        let mut listener = Side::of(&mut scene.command(&around, &args), Stdio::piped(), stdout);
        let port = match &stuck {
            Some(stuck) if !reverse => stuck.port(),
            _ => port_of(&listener),
        };
        if let Some(stuck) = &mut stuck {
            stuck.fill();
        }
        let idle = if end.keeps() { holdings_at_rest(listener.pid()) } else { (0, 0) };
        let (out, back) = (Collected::default(), Collected::default());
        collect(&scene, &mut listener, way, end, &out);
        let relay = Relay::to(port);
        let to = if way == Way::AllReset { relay.port } else { port }.to_string();
        let at_connector = match end {
            End::Reverse => strs(&receiving),
            End::Duplex => [&["--duplex"][..], &sending].concat(),
            _ => sending,
        };
        let args = [&["-w", "2", "--streams", "2"], &at_connector[..], &["127.0.0.1", &to]].concat();
        let around = if reverse { strs(&breaking) } else { Vec::new() };
        let mut connector = Side::of(&mut scene.command(&around, &args), Stdio::piped(), Stdio::piped());
        let (stdout, collected) = (connector.stdout(), back.clone());
        thread::spawn(move || collected.read(stdout, usize::MAX));
        if end == End::Duplex {
            let mut stdin = listener.stdin();
            thread::spawn(move || stdin.write_all(BACK));
        }
        let stdin = if reverse { listener.stdin() } else { connector.stdin() };
        let feeding = Some(feed(stdin, input.to_vec(), way.is_midway()));
        Self { scene, listener, connector, port, relay, out, back, disk, idle, feeding, _stuck: stuck }
    }

    /// Lets the sender's input end.
    pub(crate) fn let_go(&mut self) {
        if let Some(feeding) = self.feeding.take() {
            drop(feeding.join());
        }
        // Whoever still waits to open the pipe for reading reads nothing.
        let _ = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.scene.path("f"));
    }
}

/// Has a thread read what comes out, where the test is the reader.
fn collect(scene: &Scene, listener: &mut Side, way: Way, end: End, out: &Collected) {
    if !end.is_read_here() || way == Way::NoReader {
        return;
    }
    let (out, most) = (out.clone(), appetite(way));
    if end == End::Fifo {
        let path = scene.path("f");
        thread::spawn(move || out.read(File::open(path).unwrap(), most));
    } else {
        let stdout = listener.stdout();
        thread::spawn(move || out.read(stdout, most));
    }
}

/// Writes all of it, and keeps the input open until it is asked back where the session is to end in its middle.
fn feed(mut stdin: ChildStdin, bytes: Vec<u8>, hold: bool) -> JoinHandle<Option<ChildStdin>> {
    thread::spawn(move || {
        let _ = stdin.write_all(&bytes);
        Some(stdin).filter(|_| hold)
    })
}
