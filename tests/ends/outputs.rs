//! Outputs that report late, never open, or may not grow: rows 3, 4 and 16.

use crate::breaking::failing;
use crate::common::process::Side;
use crate::failed::failure_of;
use crate::scene::{Scene, none, within};
use crate::strace;
use crate::{MIB, PEER, SYSTEM, by_sigterm, holding, noise, send};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The calls by which a file system reports what it could not keep, and how strace makes them fail.
const LATE: [(&str, &str); 2] =
    [("trace=close", "inject=close:error=EIO"), ("trace=fsync,fdatasync", "inject=fsync,fdatasync:error=EIO")];

#[test]
fn row_3_what_a_file_system_reports_late_is_an_error_like_any_other() {
    if !strace::is_there() {
        return;
    }
    for (trace, inject) in LATE {
        for redirected in [false, true] {
            let scene = Scene::new();
            let out = scene.arg("out");
            let wrapper = failing(&out, trace, inject);
            let (listener, port) = if redirected {
                scene.listener(&wrapper, &[], File::create(&out).unwrap())
            } else {
                scene.listener(&wrapper, &["-o", &out], Stdio::null())
            };
            let name = if redirected { "standard output" } else { &out };
            send(port, &noise(MIB)).with_code(PEER).saying(&["gave up", name, "input/output error"]);
            listener.end().with_code(SYSTEM).saying(&[name, "input/output error"]);
        }
    }
}

#[test]
fn row_3_so_it_is_for_each_session_of_many() {
    if !strace::is_there() {
        return;
    }
    let scene = Scene::new();
    let bad = scene.arg("of-1");
    let wrapper = failing(&bad, LATE[0].0, LATE[0].1);
    let (listener, port) = scene.listener(&wrapper, &["-k", "--json", "-o", &scene.arg("of-%n")], Stdio::null());
    send(port, b"one").with_code(PEER).saying(&["input/output error"]);
    send(port, b"two").with_code(0);
    failure_of(&listener, 1);
    assert_eq!(scene.content("of-2"), b"two");
    drop(listener);
}

#[test]
fn row_3_statistics_that_cannot_be_kept_are_a_warning() {
    let scene = Scene::new();
    let (listener, port) = scene.listener(&[], &["--stats", "/dev/full", "-o", &scene.arg("out")], Stdio::null());
    send(port, b"data").with_code(0);
    let ended = listener.end();
    ended.with_code(0);
    assert!(ended.words.contains("/dev/full") && ended.words.contains("no space left"), "{ended:?}");
}

#[test]
fn row_3_statistics_that_are_reported_lost_late_are_a_warning() {
    if !strace::is_there() {
        return;
    }
    let scene = Scene::new();
    let stats = scene.arg("stats");
    let wrapper = failing(&stats, LATE[0].0, LATE[0].1);
    let (listener, port) = scene.listener(&wrapper, &["--stats", &stats, "-o", &scene.arg("out")], Stdio::null());
    send(port, b"data").with_code(0);
    let ended = listener.end();
    ended.with_code(0);
    assert!(ended.words.contains(&stats) && ended.words.contains("input/output error"), "{ended:?}");
}

fn make_fifo(scene: &Scene, name: &str) -> String {
    let path = scene.arg(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn row_4_a_pipe_without_a_reader_fails_its_session_alone() {
    let scene = Scene::new();
    let fifo = make_fifo(&scene, "f");
    let reader = {
        let fifo = fifo.clone();
        thread::spawn(move || fs::read(fifo).unwrap())
    };
    let (listener, port) = scene.listener(&[], &["-k", "--json", "-w", "3", "-o", &fifo], Stdio::null());
    let data = noise(MIB);
    send(port, &data).with_code(0);
    assert!(reader.join().unwrap() == data);
    // Nobody reads any more.
    send(port, &data).with_code(PEER).saying(&["f", "nobody", "read"]);
    failure_of(&listener, 2);
    // Somebody reads again.
    let reader = thread::spawn(move || fs::read(fifo).unwrap());
    send(port, &data).with_code(0);
    assert!(reader.join().unwrap() == data);
    listener.signal("TERM");
    by_sigterm(&listener.end());
}

#[test]
fn row_4_whoever_waits_for_a_reader_delays_nobody() {
    let scene = Scene::new();
    make_fifo(&scene, "f-1");
    let (listener, port) = scene.listener(&[], &["-k", "-w", "60", "-o", &scene.arg("f-%n")], Stdio::null());
    let (stuck, input) = holding(port, b"waits for a reader");
    thread::sleep(Duration::from_millis(300));
    let data = noise(MIB);
    send(port, &data).with_code(0);
    assert!(scene.content("f-2") == data);
    // Its reader comes late, and gets all.
    let mut late = File::open(scene.path("f-1")).unwrap();
    drop(input);
    let mut got = Vec::new();
    late.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"waits for a reader");
    stuck.end().with_code(0);
    drop(listener);
}

/// Asserts that SIGTERM ends it soon, whatever its session waits for.
#[track_caller]
fn dies_at_once(listener: Side) {
    listener.signal("TERM");
    let stat = format!("/proc/{}/stat", listener.pid());
    // Two seconds are promised.
    within(Duration::from_secs(6), || match fs::read_to_string(&stat) {
        Ok(stat) if !stat.contains(") Z ") => Err("it lives"),
        _ => Ok(()),
    });
    by_sigterm(&listener.end());
}

#[test]
fn row_4_a_signal_ends_it_whatever_an_output_waits_for() {
    for keep in [&[][..], &["-k"]] {
        let scene = Scene::new();
        // No reader: the open waits.
        let fifo = make_fifo(&scene, "f");
        let (listener, port) = scene.listener(&[], &[keep, &["-w", "60", "-o", &fifo]].concat(), Stdio::null());
        let held = holding(port, b"x");
        thread::sleep(Duration::from_millis(500));
        dies_at_once(listener);
        drop(held);
        // A reader that does not read: the write waits.
        let reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let (listener, port) = scene.listener(&[], &[keep, &["-w", "60", "-o", &fifo]].concat(), Stdio::null());
        let sender = Side::sender(port, &[], 1 << 40);
        thread::sleep(Duration::from_secs(1));
        dies_at_once(listener);
        drop((reader, sender));
    }
}

#[test]
fn row_16_a_file_that_may_not_grow_is_told_on_both_sides() {
    let scene = Scene::new();
    let limited = ["prlimit", "--fsize=100000"];
    let (listener, port) = scene.listener(&limited, &["-o", &scene.arg("out")], Stdio::null());
    send(port, &noise(MIB)).with_code(PEER).saying(&["gave up", "out", "file too large"]);
    listener.end().with_code(SYSTEM).saying(&["out", "file too large"]);
    assert_eq!(scene.content("out"), &noise(MIB)[..100_000]);
    let (listener, port) = scene.listener(&limited, &[], File::create(scene.path("redirected")).unwrap());
    send(port, &noise(MIB)).with_code(PEER).saying(&["gave up", "standard output", "file too large"]);
    listener.end().with_code(SYSTEM).saying(&["standard output", "file too large"]);
    // Statistics are not the transfer.
    let (mut listener, port) =
        scene.listener(&["prlimit", "--fsize=10"], &["--stats", &scene.arg("stats")], Stdio::piped());
    let output = listener.drain();
    send(port, &noise(MIB)).with_code(0);
    let ended = listener.end();
    ended.with_code(0);
    assert!(ended.words.contains("stats") && ended.words.contains("file too large"), "{ended:?}");
    assert_eq!(output.join().unwrap(), crate::Digest::of_noise(MIB));
    none(scene.commands()).unwrap();
}
