//! The command line as typed: the help, and what is refused before anything is opened or sent.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

/// The exit code of a command line that cannot be carried out.
const USAGE: i32 = 2;

/// What mpnc says and how it ends, when it ends at once.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn mpnc(args: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpnc"));
    // No terminal, so the help has the same width everywhere.
    command.args(args.split_whitespace()).env_remove("RUST_LOG").env_remove("COLUMNS").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn is_refused(args: &str, words: &[&str]) {
    let Said { code, out, err } = mpnc(args);
    assert_eq!((code, &*out), (Some(USAGE), ""), "{args}: {err}");
    for word in words {
        assert!(err.contains(word), "{args}: no {word:?} in {err}");
    }
}

/// After a wanted change: INSTA_UPDATE=always cargo test --test cli
#[test]
fn help_is_as_it_was_reviewed() {
    let Said { code, out, err } = mpnc("--help");
    assert_eq!((code, &*err), (Some(0), ""));
    insta::assert_snapshot!("help", out);
}

#[test]
fn exit_codes_are_a_promise() {
    // Scripts depend on these numbers: a change here is a change of the interface.
    let help = mpnc("--help").out;
    let table = help.split_once("Exit codes:\n").unwrap().1;
    insta::assert_snapshot!(table, @r"
      0        every byte was written by the receiver, in order, and confirmed
      1        this system refused something: the input, the output, the port
      2        the command line cannot be carried out
      3        the other side could not be reached; no data was sent
      4        the other side failed, vanished or refused; delivery is not confirmed
      5        --doctor found something in the way of full speed (0: it found nothing)
      70       a bug in mpnc
      128+N    died of signal N (this is what a shell shows)
    ");
}

/// Each of them really provoked, but for 70: that one would be a bug.
#[test]
fn exit_codes_are_kept() {
    let strangers = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = strangers.local_addr().unwrap().port();
    // Whoever takes a connection and hangs up is no mpnc.
    thread::spawn(move || strangers.incoming().for_each(drop));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (args, code, word) in [
        ("--plan 127.0.0.1 9".to_owned(), 0, ""),
        ("-l -o /nonexistent/file 0".to_owned(), 1, "/nonexistent/file"),
        ("127.0.0.1".to_owned(), USAGE, "HOST PORT"),
        (format!("127.0.0.1 {nobody}"), 3, "mpnc -l"),
        (format!("127.0.0.1 {stranger}"), 4, "is that mpnc"),
    ] {
        let Said { code: ended, err, .. } = mpnc(&args);
        assert_eq!(ended, Some(code), "{args}: {err}");
        assert!(err.contains(word), "{args}: {err}");
    }
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = Command::new("timeout");
        command.args(["--preserve-status", "-s", signal, "1", "env", "--default-signal=INT,TERM"]);
        let output = command.args([env!("CARGO_BIN_EXE_mpnc"), "-l", "0"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

#[test]
fn version_is_the_packages() {
    let Said { code, out, .. } = mpnc("--version");
    assert_eq!((code, &*out), (Some(0), concat!("mpnc ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn short_help_fits_the_same_options() {
    let (long, short) = (mpnc("--help").out, mpnc("-h").out);
    for option in long.split_whitespace().filter(|word| word.starts_with("--")) {
        assert!(short.contains(option.trim_end_matches(['.', ','])), "{option}");
    }
}

#[test]
fn the_target_is_checked() {
    is_refused("", &["HOST PORT"]);
    is_refused("host", &["HOST PORT", "-l"]);
    is_refused("host 1 2", &["'2'"]);
    is_refused("-l a b c", &["'c'"]);
    for port in ["abc", "65536", "-1", "0x50", "+-5", "0"] {
        is_refused(&format!("-- 127.0.0.1 {port}"), &[port, "65535"]);
    }
    is_refused("-l 65536", &["65536"]);
    is_refused("-n localhost 9", &["'localhost'", "-n"]);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    for (args, words) in [
        ("-4 -6 127.0.0.1 9", ["-4", "-6"]),
        ("-q -v 127.0.0.1 9", ["--quiet", "--verbose"]),
        ("--duplex --reverse 127.0.0.1 9", ["--duplex", "--reverse"]),
        ("--no-bond --slaves 2 127.0.0.1 9", ["--no-bond", "--slaves"]),
        ("--no-bond --policy layer2 127.0.0.1 9", ["--no-bond", "--policy"]),
        ("-l --plan 9", ["--listen", "--plan"]),
        ("--doctor --duplex 127.0.0.1 9", ["--doctor", "--duplex"]),
        ("--doctor -i /dev/null 127.0.0.1 9", ["--doctor", "--input"]),
        // nc would listen on that address: to listen on all of them instead would be worse than an error.
        ("-l -s 127.0.0.1 9", ["--listen", "--source"]),
        ("-l -p 5000-6000 9", ["--listen", "--source-ports"]),
        ("-l --streams 2 9", ["--listen", "--streams"]),
        ("-l -i /dev/null 0", ["only receives", "-i"]),
        ("-o /dev/null 127.0.0.1 9", ["only sends", "-o"]),
    ] {
        is_refused(args, &words);
    }
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (args, words) in [
        ("--streams 0 127.0.0.1 9", ["--streams", "1..=64"]),
        ("--streams 65 127.0.0.1 9", ["--streams", "1..=64"]),
        ("--slaves 0 127.0.0.1 9", ["--slaves", "1..=64"]),
        ("-w 0 127.0.0.1 9", ["--timeout", "1..=86400"]),
        ("--window 1000 127.0.0.1 9", ["--window", "1048576"]),
        ("--window 2T 127.0.0.1 9", ["--window", "1 TiB"]),
        ("--block 4095 127.0.0.1 9", ["--block", "4096"]),
        ("--block 17M 127.0.0.1 9", ["--block", "16777216"]),
        ("--block 5K --window 16K 127.0.0.1 9", ["--window", "20480"]),
        ("--window 5X 127.0.0.1 9", ["--window", "K, M, G or T"]),
        ("-p 9-5 127.0.0.1 9", ["--source-ports", "9-5"]),
        ("-p 0-5 127.0.0.1 9", ["--source-ports", "0-5"]),
        ("-p 5-65536 127.0.0.1 9", ["--source-ports", "65536"]),
        ("-s nowhere 127.0.0.1 9", ["--source", "nowhere"]),
        ("--policy layer5 127.0.0.1 9", ["layer5", "layer3+4"]),
        ("--progress sometimes 127.0.0.1 9", ["--progress", "never"]),
        ("--nonsense 127.0.0.1 9", ["--nonsense", "unexpected"]),
    ] {
        is_refused(args, &words);
    }
}

#[test]
fn families_that_do_not_match_are_told_before_anything_is_sent() {
    for args in ["-6 127.0.0.1 9", "-4 ::1 9", "-s ::1 127.0.0.1 9"] {
        let Said { code, err, .. } = mpnc(args);
        assert_eq!(code, Some(3), "{args}: {err}");
        assert!(err.contains("address of the family") && err.contains("-s"), "{args}: {err}");
    }
}

#[test]
fn a_plan_goes_to_standard_output_and_touches_nobody() {
    let Said { code, out, .. } = mpnc("--plan --streams 3 127.0.0.1 9");
    assert_eq!(code, Some(0));
    assert!(out.contains("stream") && out.contains("127.0.0.1"), "{out}");
    let Said { code, out, .. } = mpnc("--plan --json --slaves 4 127.0.0.1 9");
    assert_eq!(code, Some(0));
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(plan.get("version").is_some_and(serde_json::Value::is_number), "{plan}");
}
