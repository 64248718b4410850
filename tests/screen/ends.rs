//! How the end is told: to a shell by the way mpnc dies, to a machine by an object, to a person once; and statistics
//! that fail.

use super::common::process::Side;
use super::{Guarded, MPNC, free_port, full_pipe, mpnc, strace, wait_for_port};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

// --- signals ---------------------------------------------------------------------------------------------------------

/// Starts a sender and its receiver; the sender's input stays open.
fn conversation(sender: &[&str], receiver: &[&str]) -> (Guarded, Side, impl Write) {
    let (mut receiver, port) = Side::receiver(receiver);
    let mut sender = mpnc(&[sender, &["127.0.0.1", &port.to_string()]].concat());
    let mut sender = Guarded::start(sender.stdin(Stdio::piped()).stderr(Stdio::piped()));
    let mut input = sender.0.stdin.take().unwrap();
    let mut output = receiver.stdout();
    // Twice: whoever writes the second has counted the first.
    for _ in 0..2 {
        input.write_all(b"some words").unwrap();
        output.read_exact(&mut [0; 10]).unwrap();
    }
    thread::spawn(move || io::copy(&mut output, &mut io::sink()));
    (sender, receiver, input)
}

fn words(child: &mut Guarded) -> String {
    let mut words = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    words
}

#[test]
fn death_by_a_signal_is_death_by_that_signal_after_the_message() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let line = format!("mpnc: interrupted by SIG{name}");
        let port = free_port();
        let mut listener = Guarded::start(mpnc(&["-l", &port]).stderr(Stdio::piped()));
        wait_for_port(&port);
        listener.signal(name);
        let status = listener.end();
        assert_eq!((status.signal(), status.core_dumped()), (Some(number), false), "{status}");
        assert!(words(&mut listener).ends_with(&format!("{line}\n")));
        let (mut sender, receiver, _input) = conversation(&[], &[]);
        sender.signal(name);
        assert_eq!(sender.end().signal(), Some(number));
        let said = words(&mut sender);
        assert!(
            said.contains(&format!("{line}; ")) && said.ends_with(" bytes had been delivered in order\n"),
            "{said}"
        );
        receiver.end().with_code(4).saying(&["interrupted by SIG", name]);
    }
}

/// A shell that is told of the interrupt only by its child's death goes on with its loop if the child exits instead.
#[test]
fn the_loop_of_a_shell_ends_with_it() {
    let mut shell = Command::new("env");
    shell.args(["--default-signal=INT", "bash", "-c", "for n in 1 2 3; do \"$0\" -l 0; echo next; done", MPNC]);
    let shell = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut shell = Guarded::start(shell);
    let mut said = BufReader::new(shell.0.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    // As a terminal does: to the whole job.
    let group = format!("-{}", shell.0.id());
    assert!(Command::new("kill").args(["-s", "INT", "--", &group]).status().unwrap().success());
    assert_eq!(shell.end().signal(), Some(2));
    let mut out = String::new();
    shell.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "");
}

/// After the loop that caught them, signals are not swallowed: here the doctor's findings go where nobody reads.
#[test]
fn a_signal_ends_what_comes_after_the_session_too() {
    let (_unread, stdout) = full_pipe();
    let mut doctor =
        Guarded::start(mpnc(&["--doctor", "127.0.0.1", &free_port()]).stdout(stdout).stderr(Stdio::null()));
    thread::sleep(Duration::from_secs(1));
    assert!(doctor.0.try_wait().unwrap().is_none(), "it waits for the reader");
    doctor.signal("TERM");
    assert_eq!(doctor.end().signal(), Some(15));
}

// --- what was asked for cannot be printed ----------------------------------------------------------------------------

#[test]
fn a_plan_or_diagnosis_that_nobody_can_read_is_a_failure() {
    let doctored = free_port();
    for args in
        [&["--plan", "127.0.0.1", "9"][..], &["--doctor", "127.0.0.1", &doctored], &["--generate", "man"], &["--help"]]
    {
        let (reader, broken) = io::pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for (stdout, reason) in [(Stdio::from(broken), "broken pipe"), (full.into(), "no space left on device")] {
            let output = mpnc(args).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
            let words = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {words}");
            assert_eq!(words, format!("mpnc: cannot write to standard output: {reason}\n"));
        }
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", "exec \"$@\" >&-", "sh", MPNC]).args(args).output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {words}");
        assert!(words.contains("standard output: it was closed"), "{words}");
    }
}

// --- machines --------------------------------------------------------------------------------------------------------

fn last_object(words: &str) -> Value {
    let last = words.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: the last line of {words}"))
}

#[test]
fn with_json_a_failure_is_an_object_too() {
    let nobody = free_port();
    for (args, kind, exit) in [
        (&["--json", "127.0.0.1", &nobody][..], "unreachable", 3),
        (&["--json", "-l", "-i", "/dev/null", "0"], "usage", 2),
        (&["--json", "-i", "/nonexistent/file", "127.0.0.1", "9"], "system", 1),
        (&["--json", "--plan", "-s", "::1", "127.0.0.1", "9"], "unreachable", 3),
        (&["--json", "--doctor", "-s", "::1", "127.0.0.1", "9"], "unreachable", 3),
        (&["--json", "--streams", "none", "127.0.0.1", "9"], "usage", 2),
    ] {
        let output = mpnc(args).output().unwrap();
        let object = last_object(&String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {object}");
        assert_eq!((object["kind"].as_str(), object["exit"].as_i64()), (Some(kind), Some(exit.into())), "{object}");
        assert_eq!((&object["confirmed"], &object["bytes"]), (&Value::Bool(false), &Value::from(0)), "{object}");
        assert!(object["error"].as_str().is_some_and(|text| !text.is_empty()), "{object}");
    }
}

#[test]
fn with_json_a_session_that_fails_says_how_far_it_got() {
    let (mut sender, receiver, _input) = conversation(&["--json"], &["--json"]);
    receiver.signal("TERM");
    let object = last_object(&receiver.end().with_code(143).words);
    let fields = ["kind", "exit", "signal", "sent"].map(|name| object[name].clone());
    assert_eq!(fields, ["interrupted".into(), Value::from(143), 15.into(), 0.into()]);
    assert!(
        [10, 20].contains(&object["received"].as_u64().unwrap()) && object["bytes"] == object["received"],
        "{object}"
    );
    assert_eq!(sender.end().code(), Some(4));
    let object = last_object(&words(&mut sender));
    assert_eq!((&object["kind"], &object["exit"], object.get("signal")), (&"peer".into(), &4.into(), None));
    // As far as it has heard.
    assert!(
        object["error"].as_str().unwrap().ends_with(&format!("; {} bytes had been delivered in order", object["sent"]))
    );
}

#[test]
fn how_far_it_got_is_told_once_and_each_side_counts_for_itself() {
    let (sender, receiver, _input) = conversation(&[], &[]);
    receiver.signal("TERM");
    let ended = receiver.end();
    let mut sender = sender;
    assert_eq!(sender.end().code(), Some(4));
    for words in [&ended.words, &words(&mut sender)] {
        let last = words.lines().last().unwrap();
        assert_eq!(last.matches("delivered in order").count(), 1, "{last}");
    }
}

// --- status ----------------------------------------------------------------------------------------------------------

/// Names of a process's threads.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).map(|name| name.trim().to_owned()).collect()
}

#[test]
fn where_nothing_is_shown_no_thread_waits_and_status_is_told_when_asked() {
    let (sender, receiver, _input) = conversation(&["--progress", "always"], &[]);
    let [shown, hidden] = [sender.0.id(), receiver.pid()].map(threads);
    assert!(shown.contains(&"watch".to_owned()), "{shown:?}");
    assert!(!hidden.contains(&"watch".to_owned()), "{hidden:?}");
    receiver.signal("USR1");
    receiver.wait_for_words(" B in ");
}

// --- statistics ------------------------------------------------------------------------------------------------------

/// A transfer whose sender writes its statistics to `path`: what the sender says.
fn with_statistics(path: &str, tool: &[&str]) -> Vec<String> {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let port = port.to_string();
    let own = ["env", "--default-signal=INT,TERM", MPNC, "--stats", path, "-i", "/bin/sh", "127.0.0.1", &port];
    let command = [tool, &own].concat();
    let sender = Side::of(Command::new(command[0]).args(&command[1..]), Stdio::null(), Stdio::null());
    let ended = sender.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), super::Digest::of(File::open("/bin/sh").unwrap()));
    let lines: Vec<String> = ended.words.lines().map(str::to_owned).collect();
    assert!(lines.last().unwrap().contains("delivery confirmed"), "the summary is the last line: {lines:#?}");
    lines
}

#[track_caller]
fn assert_warned(lines: &[String], parts: &[&str]) {
    let warned = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(warned, "no warning with {parts:?}: {lines:#?}");
}

#[test]
fn statistics_that_fail_are_a_warning() {
    let lines = with_statistics("/dev/full", &[]);
    assert_warned(&lines, &["mpnc: ", "/dev/full", "no space left on device"]);
}

#[test]
fn statistics_that_fail_when_they_are_closed_are_a_warning() {
    if !strace::is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stats");
    fs::write(&path, "").unwrap();
    let (path, log) = (path.to_str().unwrap(), dir.path().join("log"));
    let tool =
        ["strace", "-f", "-o", log.to_str().unwrap(), "-P", path, "-e", "trace=close", "-e", "inject=close:error=EIO"];
    let lines = with_statistics(path, &tool);
    assert_warned(&lines, &["mpnc: ", path, "input/output error"]);
}

#[test]
fn statistics_that_are_stuck_keep_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let path = path.to_str().unwrap();
    // Nobody opens it at all; then somebody does, and never reads.
    let lines = with_statistics(path, &[]);
    assert_warned(&lines, &["mpnc: ", path, "takes no more"]);
    let reader = File::options().read(true).write(true).open(path).unwrap();
    let filled = [b'.'; 4096];
    assert_eq!(rustix::pipe::fcntl_setpipe_size(&reader, filled.len()).unwrap(), filled.len());
    (&reader).write_all(&filled).unwrap();
    let lines = with_statistics(path, &[]);
    assert_warned(&lines, &["mpnc: ", path, "takes no more"]);
}

#[test]
fn statistics_go_to_standard_output_where_that_is_free() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let mut sender = Side::sender(port, &["--stats", "-"], 1000);
    let mut text = String::new();
    sender.stdout().read_to_string(&mut text).unwrap();
    sender.end().with_code(0);
    receiver.end().with_code(0);
    output.join().unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["end"], true);
    Side::start(&["-l", "--stats", "-", "0"]).end().with_code(2).saying(&["--stats -", "standard output"]);
}
