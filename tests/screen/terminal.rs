//! A terminal that has something else on it: other jobs, data, nobody who lets it go on.

use super::common::data::Noise;
use super::common::process::Side;
use super::tmux::Terminal;
use super::{LIMIT, LOOK, MPNC, free_port};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What a bar, or a line of progress, looks like.
fn has_bar(screen: &[String]) -> bool {
    screen.iter().any(|line| line.contains("B/s"))
}

/// Looks on for a while, in which many bars would be drawn.
fn assert_no_bar(terminal: &Terminal) {
    for _ in 0..20 {
        let screen = terminal.screen();
        assert!(!has_bar(&screen), "{screen:#?}");
        thread::sleep(Duration::from_millis(70));
    }
}

/// A file of noise, a receiver, and the words of a sender that takes some seconds.
fn sending(seconds: u64) -> (tempfile::TempDir, Side, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise");
    io::copy(&mut Noise::new(seconds * 2_000_000), &mut File::create(&path).unwrap()).unwrap();
    let (mut receiver, port) = Side::receiver(&[]);
    drop(receiver.drain());
    let command = format!("{MPNC} --no-bond --rate 2MB -i {} 127.0.0.1 {port}", path.display());
    (dir, receiver, command)
}

#[test]
fn a_job_in_the_background_draws_no_bar_and_has_one_when_it_comes_forward() {
    if !Terminal::is_there() {
        return;
    }
    let (_dir, receiver, command) = sending(8);
    let shell = Terminal::run(100, "bash --norc -i");
    // With TOSTOP a write from the background would stop it, were that not prevented.
    shell.type_keys(&["stty tostop; PS1='ready> '", "Enter"]);
    shell.wait_for("ready>");
    shell.type_keys(&[&format!("{command} &"), "Enter"]);
    shell.wait_for("[1]");
    assert_no_bar(&shell);
    shell.type_keys(&["kill -USR1 %1; jobs", "Enter"]);
    // Lines come all the same.
    shell.wait_for("MB/s");
    shell.wait_for("Running");
    shell.type_keys(&["clear; fg", "Enter"]);
    shell.wait_for("ETA");
    shell.wait_for("delivery confirmed");
    receiver.end().with_code(0);
}

#[test]
fn a_job_that_is_stopped_takes_its_bar_off_the_screen() {
    if !Terminal::is_there() {
        return;
    }
    let (_dir, receiver, command) = sending(8);
    let shell = Terminal::run(100, "bash --norc -i");
    shell.type_keys(&[&command, "Enter"]);
    shell.wait_for("ETA");
    shell.type_keys(&["C-z"]);
    shell.wait_for("Stopped");
    assert_no_bar(&shell);
    shell.type_keys(&["bg", "Enter"]);
    shell.wait_for("&");
    assert_no_bar(&shell);
    shell.type_keys(&["fg", "Enter"]);
    shell.wait_for("ETA");
    let screen = shell.wait_for("delivery confirmed");
    assert!(!screen.iter().any(|line| line.contains("ETA")), "{screen:#?}");
    receiver.end().with_code(0);
}

#[test]
fn text_that_is_typed_has_the_terminal_for_itself() {
    if !Terminal::is_there() {
        return;
    }
    let port = free_port();
    let listener = Terminal::run(80, &format!("{MPNC} -v -l 127.0.0.1 {port}"));
    listener.wait_for("listening on");
    let connector = Terminal::run(80, &format!("{MPNC} -v 127.0.0.1 {port}"));
    connector.wait_for("stream 0 up");
    for word in ["one line", "and another"] {
        connector.type_keys(&[word, "Enter"]);
        listener.wait_for(word);
        assert_no_bar(&connector);
        assert_no_bar(&listener);
    }
    connector.type_keys(&["C-d"]);
    for terminal in [&listener, &connector] {
        terminal.wait_for("it ended with 0");
    }
}

#[test]
fn the_screen_of_a_command_is_the_commands() {
    if !Terminal::is_there() {
        return;
    }
    let port = free_port();
    let listener = Terminal::run(80, &format!("{MPNC} -v -l --sh -e 'cat > /dev/null' 127.0.0.1 {port}"));
    listener.wait_for("listening on");
    let sender = Side::sender(port.parse().unwrap(), &["--rate", "2MB"], 4_000_000);
    assert_no_bar(&listener);
    sender.end().with_code(0);
    listener.wait_for("it ended with 0");
}

/// Waits until the exit code is in a file, and is 0.
fn wait_for_code(file: &Path) {
    let started = Instant::now();
    while !fs::read_to_string(file).is_ok_and(|code| code == "0\n") {
        assert!(started.elapsed() < LIMIT, "it waits for the terminal, or failed: {:?}", fs::read_to_string(file));
        thread::sleep(LOOK);
    }
}

#[test]
fn a_terminal_that_is_stopped_keeps_nobody() {
    if !Terminal::is_there() {
        return;
    }
    let (dir, receiver, command) = sending(3);
    let code = dir.path().join("code");
    let terminal = Terminal::run(80, &format!("{command}; echo $? > {}", code.display()));
    terminal.wait_for("ETA");
    terminal.type_keys(&["C-s"]);
    receiver.end().with_code(0);
    wait_for_code(&code);
    terminal.type_keys(&["C-q"]);
    terminal.wait_for("it ended with 0");
}

/// Whoever ignores SIGHUP, as under nohup, goes on when the terminal is closed; there is nothing to draw on then.
#[test]
fn a_terminal_that_is_gone_ends_nothing() {
    if !Terminal::is_there() {
        return;
    }
    let (dir, receiver, command) = sending(3);
    let code = dir.path().join("code");
    let terminal = Terminal::run(80, &format!("trap '' HUP; {command}; echo $? > {}", code.display()));
    terminal.wait_for("ETA");
    drop(terminal);
    receiver.end().with_code(0);
    wait_for_code(&code);
}
