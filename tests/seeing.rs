//! What is seen of a transfer: bars, lines, statistics, the bottleneck, digests, and the answer to SIGUSR1.
//!
//! A rate (`--rate`) makes a transfer last as long as the looking takes. Slow links are a matter for the lab: loopback
//! has none.

mod common;
#[path = "seeing/conversation.rs"]
mod conversation;
#[path = "common/needs.rs"]
mod needs;
#[path = "common/schema.rs"]
mod schema;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/tmux.rs"]
mod tmux;

use common::data::{Digest, Noise, drain, pour};
use common::process::Side;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tmux::Terminal;

const MB: u64 = 1_000_000;

/// Hands on 20 kB in a millisecond.
struct Slow<R>(R);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(1));
        let len = out.len().min(20_000);
        self.0.read(&mut out[..len])
    }
}

/// A file of `len` bytes of noise, in a directory of its own.
fn noise_file(len: u64) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise");
    io::copy(&mut Noise::new(len), &mut File::create(&path).unwrap()).unwrap();
    let name = path.to_str().unwrap().to_owned();
    (dir, name)
}

// --- on a terminal ---------------------------------------------------------------------------------------------------

/// Sends 10 MB at 3 MB/s from a terminal of so many columns, looks on, and answers the screens.
fn watch(columns: u16) -> Vec<Vec<String>> {
    let (_dir, input) = noise_file(10 * MB);
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let mpnc = env!("CARGO_BIN_EXE_mpnc");
    let command = format!("{mpnc} -v --streams 3 --no-bond --rate 3MB -i {input} 127.0.0.1 {port}");
    let terminal = Terminal::run(columns, &command);
    terminal.wait_for("ETA");
    let screens = (0..15).map(|_| {
        thread::sleep(Duration::from_millis(70));
        terminal.screen()
    });
    let screens: Vec<_> = screens.collect();
    let end = terminal.wait_for("it ended with");
    assert!(end.iter().any(|line| line.contains("it ended with 0")), "{end:#?}");
    assert!(!end.iter().any(|line| line.contains("ETA")), "the bars are gone: {end:#?}");
    assert_eq!(output.join().unwrap(), Digest::of_noise(10 * MB));
    receiver.end().with_code(0);
    screens
}

/// On every screen the total is one line, each stream is one line below it, and none is broken at the edge.
fn assert_steady(screens: &[Vec<String>], columns: u16) {
    for screen in screens {
        let shown = screen.join("\n");
        let totals: Vec<usize> = (0..screen.len()).filter(|n| screen[*n].contains("ETA")).collect();
        let [total] = totals[..] else { panic!("not one line with the total:\n{shown}") };
        let line = &screen[total];
        assert!(line.contains(" of 10.0 MB [") && line.contains("] ") && line.contains("/s, ETA "), "{line}");
        assert_eq!(screen.len(), total + 4, "three lines follow:\n{shown}");
        for (stream, line) in screen[total + 1..].iter().enumerate() {
            assert!(line.starts_with(&format!("  stream {stream} ")) && line.ends_with(" %"), "{shown}");
        }
        assert!(line.chars().count() <= usize::from(columns), "{line}");
    }
    let last = screens.last().unwrap();
    assert_ne!(screens[0], *last, "it moves");
}

#[test]
fn progress_fits_a_terminal_of_80_columns_without_flicker() {
    if Terminal::is_there() {
        assert_steady(&watch(80), 80);
    }
}

#[test]
fn progress_uses_a_terminal_of_200_columns() {
    if Terminal::is_there() {
        let screens = watch(200);
        assert_steady(&screens, 200);
        let total = screens[0].iter().find(|line| line.contains("ETA")).unwrap();
        assert!(total.chars().count() > 150, "the bar takes the room: {total}");
    }
}

// --- elsewhere -------------------------------------------------------------------------------------------------------

#[test]
fn lines_come_where_there_is_no_terminal_if_they_are_asked_for() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--rate", "2MB", "--progress", "always"], 9 * MB);
    let line = sender.wait_for_words("/s");
    assert!(
        line.starts_with("mpnc: ")
            && line.contains(" MB")
            && line.contains(" in ")
            && line.ends_with("limited by --rate"),
        "{line}"
    );
    assert!(!line.contains('\r') && !line.contains('\u{1b}'), "nothing for terminals: {line:?}");
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(9 * MB));
}

#[test]
fn a_signal_asks_for_a_line() {
    let (mut receiver, port) = Side::receiver(&["-v"]);
    receiver.signal("USR1");
    receiver.wait_for_words("no session yet");
    let output = receiver.drain();
    let (_dir, input) = noise_file(8 * MB);
    let port = port.to_string();
    let sender = ["-v", "--rate", "2MB", "-i", &input, "127.0.0.1", &port];
    let sender = Side::start_with(&sender, Stdio::null(), Stdio::null());
    // Before the session the signal would do to the sender what it does to any program.
    sender.wait_for_words("stream 0 up");
    receiver.wait_for_words("stream 0 from");
    for side in [&sender, &receiver] {
        side.signal("USR1");
    }
    for side in [sender, receiver] {
        // The summary has a rate too, but comes later and says more.
        let line = side.wait_for_words("B/s");
        assert!(line.starts_with("mpnc: ") && line.contains(" in ") && !line.contains("over"), "{line}");
        side.end().with_code(0);
    }
    assert_eq!(output.join().unwrap(), Digest::of_noise(8 * MB));
}

// --- statistics ------------------------------------------------------------------------------------------------------

/// The lines of a statistics file, each checked against the published schema.
fn stats(path: &str) -> Vec<Value> {
    let schema = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/stats.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for line in &lines {
        schema::assert_valid(&schema, line);
    }
    lines
}

fn assert_whole(lines: &[Value], direction: &str, len: u64) {
    assert!(lines.len() >= 3, "one a second and one at the end: {lines:#?}");
    let (last, running) = lines.split_last().unwrap();
    assert!(running.iter().all(|line| line["end"] == false) && last["end"] == true);
    let bytes: Vec<u64> = lines.iter().map(|line| line[direction]["bytes"].as_u64().unwrap()).collect();
    assert!(bytes.is_sorted() && bytes.last() == Some(&len), "{bytes:?}");
    let field = format!("{direction}_bytes");
    let streams = last["streams"].as_array().unwrap();
    let carried: u64 = streams.iter().map(|stream| stream[&field].as_u64().unwrap()).sum();
    assert!(carried >= len && streams.len() == 3, "{last:#?}");
    assert!(streams.iter().all(|stream| stream["source_port"].is_u64() && stream["rtt_ms"].is_f64()), "{last:#?}");
}

#[test]
fn statistics_are_as_published_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (at_sender, at_receiver) = (path("sender"), path("receiver"));
    let (mut receiver, port) = Side::receiver(&["--stats", &at_receiver]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--streams", "3", "--rate", "4MB", "--stats", &at_sender], 12 * MB);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(12 * MB));
    let (sent, received) = (stats(&at_sender), stats(&at_receiver));
    assert_whole(&sent, "sent", 12 * MB);
    assert_whole(&received, "received", 12 * MB);
    assert!(sent.iter().all(|line| line["received"].is_null() && line["session"] == 1));
    assert_eq!(sent.last().unwrap()["sent"]["limited_by"], "rate");
    let ports = |lines: &[Value]| -> Vec<u64> {
        let streams = lines.last().unwrap()["streams"].as_array().unwrap().clone();
        streams.iter().map(|stream| stream["source_port"].as_u64().unwrap()).collect()
    };
    assert_eq!(ports(&sent), ports(&received), "both sides see the connector's ports");
}

// --- the bottleneck --------------------------------------------------------------------------------------------------

#[test]
fn a_slow_reader_of_the_output_is_named_on_both_sides() {
    let (mut receiver, port) = Side::receiver(&["--window", "1M", "--block", "64K"]);
    let output = drain(Slow(receiver.stdout()));
    let sender = Side::sender(port, &["--streams", "3", "--block", "64K"], 20 * MB);
    sender.end().with_code(0).saying(&["; limited by the output"]);
    receiver.end().with_code(0).saying(&["; limited by the output"]);
    assert_eq!(output.join().unwrap(), Digest::of_noise(20 * MB));
}

#[test]
fn a_slow_input_is_named_where_it_is_and_elsewhere_not_as_the_output() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let mut sender = Side::start(&["--streams", "3", "127.0.0.1", &port.to_string()]);
    pour(Slow(Noise::new(20 * MB)), sender.stdin());
    sender.end().with_code(0).saying(&["; limited by the input"]);
    receiver.end().with_code(0).saying(&["; limited by the sender or the links"]);
    assert_eq!(output.join().unwrap(), Digest::of_noise(20 * MB));
}

#[test]
fn a_stated_rate_is_named_and_belongs_to_the_sender() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--streams", "2", "--rate", "80Mbit"], 10 * MB);
    sender.end().with_code(0).saying(&["; limited by --rate"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(10 * MB));
    let wrong = Side::start(&["-l", "--rate", "1M", "0"]);
    wrong.end().with_code(2).saying(&["--rate belongs to the side that sends"]);
}

/// The rates, in bytes a second, of every 5 s of what `source` yields, looked at each time that something comes; the
/// first second is left out.
fn rates_of_5_s(mut source: impl Read) -> Vec<f64> {
    let (mut seen, mut total, mut piece) = (Vec::new(), 0_u64, vec![0; 64 << 10]);
    let start = Instant::now();
    while let Ok(n @ 1..) = source.read(&mut piece) {
        total += n as u64;
        seen.push((start.elapsed().as_secs_f64(), total));
    }
    let settled = seen.iter().filter(|(at, _)| *at >= 1.0);
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than a few digits")]
    let rate = |(from, before): &(f64, u64)| {
        let (to, after) = seen.iter().find(|(at, _)| *at >= from + 5.0)?;
        Some((after - before) as f64 / (to - from))
    };
    settled.filter_map(rate).collect()
}

#[test]
fn a_stated_rate_holds_over_any_5_seconds() {
    const RATE: f64 = 8e6;
    // A busy machine may hold up either side; a pace that is wrong is wrong every time.
    let worst = (0..3).map(|_| {
        let (mut receiver, port) = Side::receiver(&[]);
        let output = receiver.stdout();
        let output = thread::spawn(move || rates_of_5_s(output));
        Side::sender(port, &["--streams", "3", "--rate", "8MB"], 90 * MB).end().with_code(0);
        receiver.end().with_code(0);
        let rates = output.join().unwrap();
        assert!(rates.len() > 100, "long enough to look at");
        rates.iter().map(|rate| (rate / RATE - 1.0).abs()).fold(0.0, f64::max)
    });
    let worst: Vec<f64> = worst.take_while(|worst| *worst > 0.05).collect();
    assert!(worst.len() < 3, "off by so much each time: {worst:?}");
}

// --- digests ---------------------------------------------------------------------------------------------------------

fn blake3_of(mut source: impl Read) -> String {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut source, &mut hasher).unwrap();
    hasher.finalize().to_hex().to_string()
}

/// The lines that both sides print for a file whose name has to be escaped, and the folder that the names lead to.
fn digest_lines() -> (tempfile::TempDir, [String; 2]) {
    let len = 5 * MB + 7;
    let (dir, input) = noise_file(len);
    let output = dir.path().join("output \\ with a backslash").to_str().unwrap().to_owned();
    let hex = blake3_of(Noise::new(len));
    let (receiver, port) = Side::receiver(&["--digest", "-o", &output]);
    let sender = Side::start_with(
        &["--digest", "--streams", "3", "-i", &input, "127.0.0.1", &port.to_string()],
        Stdio::null(),
        Stdio::null(),
    );
    let lines = [sender.wait_for_words(&hex), receiver.wait_for_words(&hex)];
    assert_eq!(lines[0], format!("{hex}  {input}"));
    assert_eq!(lines[1], format!("\\{hex}  {}", output.replace('\\', "\\\\")));
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0).saying(&["all written"]);
    (dir, lines)
}

#[test]
fn digests_have_the_form_of_b3sum_on_both_sides() {
    digest_lines();
}

#[test]
fn b3sum_itself_takes_the_digests_for_its_own() {
    if Command::new("b3sum").arg("--version").output().is_err() {
        return needs::missing("b3sum is not installed");
    }
    let (dir, lines) = digest_lines();
    for line in lines {
        let list = dir.path().join("list");
        fs::write(&list, format!("{line}\n")).unwrap();
        let output = Command::new("b3sum").arg("-c").arg(&list).output().unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
    }
}

#[test]
fn digests_of_both_directions_are_told_apart() {
    let (there, back) = (3 * MB, MB);
    let mut listener = Side::start(&["-l", "--duplex", "--digest", "0"]);
    let line = listener.wait_for_words("listening on ");
    let port = line.rsplit(':').next().unwrap();
    let mut connector = Side::start(&["--duplex", "--digest", "--streams", "2", "127.0.0.1", port]);
    pour(Noise::new(back), listener.stdin());
    pour(Noise::new(there), connector.stdin());
    let outputs = (listener.drain(), connector.drain());
    let digests = [there, back].map(|len| blake3_of(Noise::new(len)));
    for side in [&listener, &connector] {
        for hex in &digests {
            assert_eq!(side.wait_for_words(hex), format!("{hex}  -"));
        }
        side.wait_for_words("the digest of what was sent:");
        side.wait_for_words("the digest of what was received:");
    }
    connector.end().with_code(0);
    listener.end().with_code(0);
    assert_eq!(outputs.0.join().unwrap(), Digest::of_noise(there));
    assert_eq!(outputs.1.join().unwrap(), Digest::of_noise(back));
}
