//! The ends of a session own its outcome: exit 0 means that these bytes, alone, are in this output at that moment, and
//! nothing of a session is left when it is over. What is claimed, opened, refused and named here; commands and
//! successions of sessions in `ends/`.
//!
//! Needs strace for the errors of close(2) and fsync(2); root adds block devices. The whole table of ends and endings
//! is in `endings`.

#[path = "common/breaking.rs"]
mod breaking;
#[path = "ends/commands.rs"]
mod commands;
mod common;
#[path = "common/failed.rs"]
mod failed;
#[path = "common/needs.rs"]
mod needs;
#[path = "ends/outputs.rs"]
mod outputs;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/strace.rs"]
mod strace;
#[path = "ends/succession.rs"]
mod succession;

use common::data::{Digest, Noise};
use common::process::{Ended, Side};
use scene::Scene;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{ChildStdin, Stdio};
use std::thread;
use std::time::Duration;

/// Exit codes, as `--help` documents them.
const SYSTEM: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const PEER: i32 = 4;

const MIB: u64 = 1 << 20;

/// What [`Noise`] makes, as a whole.
fn noise(len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Noise::new(len).read_to_end(&mut bytes).unwrap();
    bytes
}

/// A sender that has sent `bytes` and does not end until its input is dropped.
fn holding(port: u16, bytes: &[u8]) -> (Side, ChildStdin) {
    let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    // Where the session is refused this breaks off: mpnc has to say why, not the test.
    let _ = input.write_all(bytes);
    (sender, input)
}

/// Sends these bytes.
fn send(port: u16, bytes: &[u8]) -> Ended {
    let (sender, input) = holding(port, bytes);
    drop(input);
    sender.end()
}

/// Asserts that SIGTERM ended it: by the signal itself, or by a code that says so.
#[track_caller]
fn by_sigterm(ended: &Ended) {
    assert!(matches!(ended.code, None | Some(143)), "not ended by SIGTERM: {ended:?}");
}

/// Whether it ends within a few seconds, without a signal: what is refused at the start does.
pub(crate) fn ended_early(side: &mut Side) -> bool {
    let stat = format!("/proc/{}/stat", side.pid());
    let gone = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let early = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        gone()
    });
    if !early {
        side.signal("KILL");
    }
    early
}

/// Waits until a file has all of these bytes.
#[track_caller]
fn wait_for_content(scene: &Scene, name: &str, bytes: &[u8]) {
    scene::eventually(|| match scene.content(name) {
        there if there == bytes => Ok(()),
        there => Err(format!("{name} has {} bytes", there.len())),
    });
}

// --- row 1: one output, one writer -----------------------------------------------------------------------------------

/// Two sessions at once with one output between them, however it is named: the second is refused in words, and the
/// first is whole.
#[track_caller]
fn second_is_refused(scene: &Scene, pattern: &str, output: &str) {
    let pattern = scene.arg(pattern);
    let (listener, port) = scene.listener(&[], &["-k", "--force", "-o", &pattern], Stdio::null());
    let first = noise(MIB);
    let (sender, input) = holding(port, &first);
    wait_for_content(scene, output, &first);
    send(port, b"of the second").with_code(PEER).saying(&["being written by session 1"]);
    drop(input);
    sender.end().with_code(0);
    assert!(scene.content(output) == first, "{output} is not what the first has sent");
    // It is free again.
    send(port, b"of the third").with_code(0);
    assert_eq!(scene.content(output), b"of the third");
    listener.signal("TERM");
    by_sigterm(&listener.end());
}

#[test]
fn row_1_sessions_at_once_never_share_a_file() {
    let scene = Scene::new();
    second_is_refused(&scene, "from-%a", "from-127.0.0.1");
}

#[test]
fn row_1_sessions_at_once_never_share_a_file_of_two_names() {
    let scene = Scene::new();
    fs::write(scene.path("1"), "").unwrap();
    std::os::unix::fs::symlink("1", scene.path("2")).unwrap();
    fs::hard_link(scene.path("1"), scene.path("3")).unwrap();
    second_is_refused(&scene, "%n", "1");
}

#[test]
fn row_1_two_listeners_never_share_a_file() {
    let scene = Scene::new();
    let file = scene.arg("file");
    let [(one, port), (other, other_port)] =
        [0, 1].map(|_| scene.listener(&[], &["--force", "-o", &file], Stdio::null()));
    let first = noise(MIB);
    let (sender, input) = holding(port, &first);
    wait_for_content(&scene, "file", &first);
    send(other_port, b"of the second").with_code(PEER).saying(&["another process is writing it"]);
    other.end().with_code(SYSTEM).saying(&["another process is writing it"]);
    drop(input);
    sender.end().with_code(0);
    one.end().with_code(0);
    assert!(scene.content("file") == first);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn row_1_two_listeners_never_share_a_disk() {
    if !breaking::LoopDevice::is_possible() {
        return;
    }
    let disk = breaking::LoopDevice::new(4 * MIB);
    let scene = Scene::new();
    let [(one, port), (other, other_port)] = [0, 1].map(|_| scene.listener(&[], &["-o", disk.path()], Stdio::null()));
    let first = noise(MIB);
    let (sender, input) = holding(port, &first);
    scene::eventually(|| if disk.content().starts_with(&first) { Ok(()) } else { Err("the disk is not written") });
    send(other_port, b"of the second").with_code(PEER);
    other.end().with_code(SYSTEM).saying(&[disk.path()]);
    drop(input);
    sender.end().with_code(0);
    one.end().with_code(0);
    assert!(disk.content().starts_with(&first));
}

#[test]
fn a_file_that_is_not_empty_is_replaced_only_by_force() {
    let scene = Scene::new();
    let file = scene.arg("file");
    fs::write(&file, "precious").unwrap();
    let args = ["-l", "-o", &file, "0"];
    let refused = Side::of(&mut scene.command(&[], &args), Stdio::null(), Stdio::null()).end();
    refused.with_code(SYSTEM).saying(&[&file, "--force"]);
    assert_eq!(scene.content("file"), b"precious");
    // Made while it waits: the session finds it, and nobody has said that it may go.
    let (listener, port) = scene.listener(&[], &["-o", &scene.arg("later")], Stdio::null());
    fs::write(scene.path("later"), "precious").unwrap();
    send(port, b"new").with_code(PEER).saying(&["later", "--force"]);
    listener.end().with_code(SYSTEM).saying(&["later", "--force"]);
    assert_eq!(scene.content("later"), b"precious");
    let (listener, port) = scene.listener(&[], &["--force", "-o", &file], Stdio::null());
    send(port, b"new").with_code(0);
    listener.end().with_code(0);
    assert_eq!(scene.content("file"), b"new");
}

#[test]
fn with_k_each_session_answers_for_its_own_file() {
    let scene = Scene::new();
    fs::write(scene.path("of-1"), "precious").unwrap();
    let (listener, port) = scene.listener(&[], &["-k", "-o", &scene.arg("of-%n")], Stdio::null());
    send(port, b"first").with_code(PEER).saying(&["of-1", "--force"]);
    send(port, b"second").with_code(0);
    assert_eq!((scene.content("of-1"), scene.content("of-2")), (b"precious".to_vec(), b"second".to_vec()));
    listener.signal("TERM");
    by_sigterm(&listener.end());
}

#[test]
fn with_k_a_name_that_is_no_text_is_taken_byte_for_byte() {
    let scene = Scene::new();
    let [pattern, name] = [&b"out\xff-%n"[..], b"out\xff-1"].map(OsStr::from_bytes);
    let mut command = scene.command(&[], &["-k", "-l", "-o"]);
    let listener = Side::of(command.arg(pattern).arg("0"), Stdio::null(), Stdio::null());
    send(listener.port(), b"bytes").with_code(0);
    let names: Vec<_> = scene.path("").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [name]);
    assert_eq!(fs::read(scene.path("").join(name)).unwrap(), b"bytes");
    listener.signal("TERM");
    by_sigterm(&listener.end());
}

// --- row 27: untouched until there is something to write -------------------------------------------------------------

#[test]
fn row_27_an_output_is_untouched_until_the_first_block_is_there() {
    let scene = Scene::new();
    fs::write(scene.path("file"), "precious").unwrap();
    for (name, before) in [("file", &b"precious"[..]), ("new", b"")] {
        let output = scene.arg(name);
        let untouched = |when: &str| {
            assert_eq!(scene.content(name), before, "{name}: {when}");
            assert_eq!(scene.path(name).exists(), !before.is_empty(), "{name}: {when}");
        };
        // Nobody comes.
        let (listener, _) = scene.listener(&[], &["--force", "-o", &output], Stdio::null());
        listener.signal("TERM");
        by_sigterm(&listener.end());
        untouched("nobody came");
        // Nobody listens.
        let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = held.local_addr().unwrap().as_socket().unwrap().port().to_string();
        let args = ["--reverse", "--force", "-o", &output, "127.0.0.1", &port];
        let connector = Side::of(&mut scene.command(&[], &args), Stdio::null(), Stdio::null());
        connector.end().with_code(UNREACHABLE);
        untouched("nobody listened");
        // Somebody comes, and goes without a byte.
        let (listener, port) = scene.listener(&[], &["--force", "-w", "2", "-o", &output], Stdio::null());
        let (sender, input) = holding(port, b"");
        thread::sleep(Duration::from_millis(500));
        sender.signal("KILL");
        drop((sender, input));
        listener.end().with_code(PEER);
        // Opened, and claimed so that no other session has it: a new name is a new file by then, with nothing in it.
        assert_eq!(scene.content(name), before, "{name}: nothing was sent");
        if before.is_empty() {
            fs::remove_file(scene.path(name)).unwrap_or_default();
        }
    }
    // A transfer of nothing is a transfer: it leaves an empty file.
    let (listener, port) = scene.listener(&[], &["--force", "-o", &scene.arg("file")], Stdio::null());
    send(port, b"").with_code(0);
    listener.end().with_code(0);
    assert_eq!(fs::read(scene.path("file")).unwrap(), b"");
}

#[test]
fn a_failed_sessions_part_stays_and_is_named() {
    let scene = Scene::new();
    let (listener, port) = scene.listener(&[], &["-w", "2", "-o", &scene.arg("part")], Stdio::null());
    let (sender, input) = holding(port, b"the beginning");
    wait_for_content(&scene, "part", b"the beginning");
    sender.signal("KILL");
    listener.end().with_code(PEER).saying(&[&scene.arg("part"), "13 bytes"]);
    assert_eq!(scene.content("part"), b"the beginning");
    drop((sender, input));
}

// --- row 15: names that are not what they look like ------------------------------------------------------------------

#[test]
fn row_15_nothing_is_made_in_dev() {
    let name = format!("/dev/mpnc-typo-{}", std::process::id());
    let scene = Scene::new();
    for force in [&[][..], &["--force"]] {
        let args = [&["-l", "-o", &name], force, &["0"]].concat();
        let mut side = Side::of(&mut scene.command(&[], &args), Stdio::null(), Stdio::null());
        let refused = ended_early(&mut side);
        let made = fs::remove_file(&name).is_ok();
        assert!(refused && !made, "refused at start: {refused}, a file made in /dev: {made}");
        side.end().with_code(SYSTEM).saying(&[&name]);
    }
}

#[test]
fn row_15_a_dash_and_dev_stdout_are_the_standard_files() {
    for (input, output) in [("-", "-"), ("/dev/stdin", "/dev/stdout"), ("/dev/fd/0", "/dev/fd/1")] {
        let scene = Scene::new();
        let (mut listener, port) = scene.listener(&[], &["-o", output], Stdio::piped());
        let drained = listener.drain();
        let args = ["-i", input, "127.0.0.1", &port.to_string()];
        let mut sender = Side::of(&mut scene.command(&[], &args), Stdio::piped(), Stdio::null());
        sender.stdin().write_all(b"through the standard files").unwrap();
        sender.end().with_code(0);
        listener.end().with_code(0);
        assert_eq!(drained.join().unwrap(), Digest::of(&b"through the standard files"[..]), "-i {input} -o {output}");
        assert_eq!(fs::read_dir(scene.path("")).unwrap().count(), 0, "a file was made for {output}");
    }
}

#[test]
fn row_15_a_standard_output_that_is_a_file_is_written_where_it_stands() {
    for output in ["-", "/dev/stdout"] {
        let scene = Scene::new();
        let mut file = fs::File::create(scene.path("file")).unwrap();
        file.write_all(b"kept;").unwrap();
        let (listener, port) = scene.listener(&[], &["-o", output], file);
        send(port, b"added").with_code(0);
        listener.end().with_code(0);
        assert_eq!(scene.content("file"), b"kept;added", "-o {output}");
    }
}
