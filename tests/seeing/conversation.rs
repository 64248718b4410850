//! A person at a terminal on either end, as with nc: lines arrive at once, Ctrl-D ends one direction, and a job in the
//! background is not stopped for want of a terminal that it was never told to read.

use crate::common::data::{Digest, Noise, pour};
use crate::common::process::Side;
use crate::tmux::Terminal;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

const MPNC: &str = env!("CARGO_BIN_EXE_mpnc");

/// A port that nobody has now. Another program may take it before mpnc does; then mpnc says so and the test fails, it
/// never lies.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Two terminals with a session between them, both ways; the listener's first.
fn conversation() -> [Terminal; 2] {
    let port = free_port();
    let listener = Terminal::run(80, &format!("{MPNC} -v --duplex -l 127.0.0.1 {port}"));
    listener.wait_for("listening on");
    let connector = Terminal::run(80, &format!("{MPNC} -v --duplex --streams 2 127.0.0.1 {port}"));
    connector.wait_for("stream 1 up");
    [listener, connector]
}

/// Types a line in one terminal and sees it in the other while both directions are open.
fn say(from: &Terminal, to: &Terminal, line: &str) {
    from.type_keys(&[line, "Enter"]);
    to.wait_for(line);
}

/// Ctrl-D in `first`, more words from `second`, Ctrl-D there as well.
fn ends_one_after_the_other(first: &Terminal, second: &Terminal) {
    say(first, second, "hello from the first");
    say(second, first, "hello from the second");
    say(first, second, "and again");
    first.type_keys(&["C-d"]);
    say(second, first, "the other direction goes on");
    assert!(!first.screen().iter().any(|line| line.contains("it ended with")), "half of it is still open");
    second.type_keys(&["C-d"]);
    for terminal in [first, second] {
        let screen = terminal.wait_for("it ended with");
        assert!(screen.iter().any(|line| line.contains("it ended with 0")), "{screen:#?}");
    }
}

#[test]
fn ctrl_d_at_the_listener_ends_its_direction_only() {
    if Terminal::is_there() {
        let [listener, connector] = conversation();
        ends_one_after_the_other(&listener, &connector);
    }
}

#[test]
fn ctrl_d_at_the_connector_ends_its_direction_only() {
    if Terminal::is_there() {
        let [listener, connector] = conversation();
        ends_one_after_the_other(&connector, &listener);
    }
}

#[test]
fn a_listener_in_the_background_is_not_stopped_by_the_terminal() {
    if !Terminal::is_there() {
        return;
    }
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("output");
    let shell = Terminal::run(100, "bash --norc -i");
    shell.type_keys(&[&format!("{MPNC} -v -l 127.0.0.1 {port} > {} &", output.display()), "Enter"]);
    shell.wait_for("listening on");
    Side::sender(port, &[], 100_000).end().with_code(0);
    // bash tells of a job that has stopped, or ended, before its next prompt.
    shell.type_keys(&["jobs; echo state; wait; echo over", "Enter"]);
    let screen = shell.wait_for("all written");
    assert!(!screen.iter().any(|line| line.contains("Stopped")), "{screen:#?}");
    assert_eq!(Digest::of(std::fs::File::open(output).unwrap()), Digest::of_noise(100_000));
}

#[test]
fn each_direction_ends_by_itself() {
    let mut listener = Side::start(&["-l", "--duplex", "0"]);
    let line = listener.wait_for_words("listening on ");
    let port = line.rsplit(':').next().unwrap();
    let mut connector = Side::start(&["--duplex", "--streams", "3", "127.0.0.1", port]);
    let (mut at_listener, mut at_connector) = (listener.stdout(), BufReader::new(connector.stdout()));
    let mut back = listener.stdin();
    // The connector's direction ends, the other goes on.
    pour(Noise::new(1_000_000), connector.stdin());
    // To its end: the reader of the listener's output sees that no more will come, while the other direction goes on.
    assert_eq!(Digest::of(&mut at_listener), Digest::of_noise(1_000_000));
    for n in 0..3 {
        let (said, mut heard) = (format!("still here {n}\n"), String::new());
        back.write_all(said.as_bytes()).unwrap();
        at_connector.read_line(&mut heard).unwrap();
        assert_eq!(heard, said);
    }
    drop(back);
    assert_eq!(at_connector.read_line(&mut String::new()).unwrap(), 0);
    connector.end().with_code(0);
    listener.end().with_code(0);
}
