//! Every command that README.md shows is run here, or stands in a table with the reason why it cannot be, and then mpnc
//! at least understands it. A command that is in neither table, or no longer in the README, fails.
//!
//! What a person would replace is replaced: the host's name, the port, the names of disks.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const README: &str = include_str!("../README.md");
/// It only bounds a hang.
const LIMIT: Duration = Duration::from_mins(2);

/// A listener and a connector, as the README shows them; afterwards the second file must equal the first.
struct Pair {
    listener: &'static str,
    connector: &'static str,
    same: (&'static str, &'static str),
}

const fn pair(listener: &'static str, connector: &'static str, same: (&'static str, &'static str)) -> Pair {
    Pair { listener, connector, same }
}

/// A listener that goes on is ended by a signal, and so is whoever waits for standard input to end.
const PAIRS: &[Pair] = &[
    pair("mpnc -l 31337 > /dev/sdb", "mpnc newserver 31337 < /dev/sda", ("sda", "sdb")),
    pair("mpnc -l -o /dev/sdb 31337", "mpnc -i /dev/sda newserver 31337", ("sda", "sdb")),
    pair("mpnc -l 31337 > f", "mpnc newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l -o f 31337", "mpnc -i f.in newserver 31337", ("f.in", "f")),
    pair("mpnc -l 31337 > f", "mpnc -w 5 newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l 31337 > f", "mpnc -p 4000-4999 newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l --window 1G 31337 > f", "mpnc --window 1G newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l 31337 | tar -x -C /srv/new", "tar -c -C /srv/old . | mpnc newserver 31337", ("old/file", "new/file")),
    pair("mpnc -l -o vm.raw 31337", "mpnc -i vm.img newserver 31337", ("vm.img", "vm.raw")),
    pair("mpnc -k -l -o 'disk-%n.img' 31337", "mpnc -i /dev/sda newserver 31337", ("sda", "disk-1.img")),
    pair(
        "mpnc -k -l -e 'tar -x -C /srv/new' 31337",
        "tar -c -C /srv/old . | mpnc newserver 31337",
        ("old/file", "new/file"),
    ),
    pair("mpnc --reverse -l 31337 < vm.img", "mpnc --reverse newserver 31337 > vm.raw", ("vm.img", "vm.raw")),
    pair("mpnc --duplex -l 31337 < f.in > b", "mpnc --duplex newserver 31337 < /dev/sda > f", ("sda", "b")),
    pair("mpnc -l 31337 > f", "mpnc --slaves 4 --policy layer3+4 newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l --digest 31337 > f", "mpnc --digest --rate 200M newserver 31337 < f.in", ("f.in", "f")),
    pair("mpnc -l --stats log.json 31337 > f", "mpnc -v newserver 31337 < f.in", ("f.in", "f")),
];

/// Commands that end by themselves, with no other side.
const ALONE: &[&str] = &[
    "mpnc --plan newserver 31337",
    "mpnc --plan --slaves 4 newserver 31337",
    "mpnc --generate man > mpnc.1",
    "mpnc --generate bash > mpnc.bash",
];

/// Commands that this test must not or cannot run, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("mpnc --doctor -l 31337", "tests/doctor.rs runs both sides of it"),
    ("mpnc --doctor newserver 31337", "tests/doctor.rs runs both sides of it"),
    ("zfs send -R tank@today | mpnc newserver 31337", "needs a ZFS pool"),
    ("mpnc -l 31337 | zfs receive -F tank/copy", "needs a ZFS pool"),
    (
        "docker run --rm -i --network host -v \"$(cargo xtask static)\":/mpnc alpine /mpnc newserver 31337 < vm.img",
        "needs Docker; tests/netns_static.rs runs the program in an empty root folder",
    ),
    (
        "nft add rule inet filter input tcp dport 31337 ct state new accept",
        "changes the firewall; scenario native-even runs behind such a rule",
    ),
    ("ip link set bond0 type bond xmit_hash_policy layer3+4", "changes a bond"),
    ("setcap cap_bpf,cap_net_admin=ep mpnc", "changes a file's privileges; tests/ebpf runs with them"),
    ("mpnc --place newserver 31337 < f.in", "needs a bond; the scenarios place-* run it"),
    ("mpnc --reverse --place -l 31337 < f.in", "needs a bond; scenario place-reverse runs it"),
    ("cargo xtask run", "builds and runs everything; cargo xtask ci does it"),
    ("cargo xtask test", "is what runs this test"),
    ("cargo xtask static", "builds for minutes; tests/netns_static.rs does it"),
    ("cargo xtask bench loopback", "measures for minutes"),
    ("cargo xtask lab run native-even", "measures; cargo xtask test runs it"),
    ("cargo xtask lab run native-uneven", "measures; cargo xtask test runs it"),
    ("cargo xtask lab run native-duplex", "measures; cargo xtask test runs it"),
    ("cargo xtask bench observer", "measures for minutes"),
    ("cargo xtask lab run duplex-even", "needs a virtual machine; cargo xtask test runs it"),
    ("cargo xtask lab --slaves 4", "a shell in a virtual machine"),
    ("cargo xtask lab --slaves 4 -- mpnc --plan 10.77.84.2 31337", "needs a virtual machine"),
];

/// The lines of the README's blocks of sh, without comments and prompts.
fn shown() -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    let mut inside = false;
    for line in README.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            let command = line.split(" #").next().unwrap_or_default().trim();
            if !command.is_empty() && !command.starts_with('#') {
                commands.insert(command.to_owned());
            }
        }
    }
    // The right column of the translation table.
    let cells = README.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split("| ").nth(2));
    for cell in cells.filter(|cell| cell.starts_with("`mpnc")) {
        commands.insert(cell.split('`').nth(1).unwrap_or_default().to_owned());
    }
    commands
}

#[test]
fn every_command_is_in_a_table_and_the_tables_hold_nothing_else() {
    let mut known: BTreeSet<String> = ALONE.iter().map(|command| (*command).to_owned()).collect();
    known.extend(PAIRS.iter().flat_map(|pair| [pair.listener.to_owned(), pair.connector.to_owned()]));
    known.extend(ELSEWHERE.iter().map(|(command, _)| (*command).to_owned()));
    let shown = shown();
    let untested: Vec<_> = shown.difference(&known).collect();
    let stale: Vec<_> = known.difference(&shown).collect();
    assert!(untested.is_empty() && stale.is_empty(), "in no table: {untested:#?}\nnot in the README: {stale:#?}");
}

/// A directory with what the commands read.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["old", "new"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    for (seed, name) in ["sda", "f.in", "vm.img", "old/file"].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..300_000_usize).map(|n| u8::try_from(n * (seed + 3) % 251).unwrap()).collect();
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn start(command: &str, port: u16, dir: &Path) -> Child {
    let port = port.to_string();
    let replaced = [("newserver", "127.0.0.1"), ("31337", &*port), ("/dev/sd", "sd"), ("/srv/", "")];
    let line = replaced.iter().fold(command.to_owned(), |line, (from, to)| line.replace(from, to));
    let folder = Path::new(env!("CARGO_BIN_EXE_mpnc")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut sh = Command::new("env");
    // As a terminal would start it; `exec` so that a signal reaches mpnc and not the shell.
    sh.args(["--default-signal=HUP,INT,TERM", "bash", "-c"]);
    let simple = line.starts_with("mpnc") && !line.contains('|');
    sh.arg(if simple { format!("exec {line}") } else { format!("set -o pipefail; {line}") });
    sh.current_dir(dir).env("PATH", path).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    sh.spawn().unwrap()
}

fn end(mut child: Child, command: &str) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("still running: {command}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for a socket that listens on the port (state 0A in /proc/net/tcp, proc_net_tcp).
fn wait_for_listener(port: u16, command: &str) {
    let started = Instant::now();
    let wanted = format!(":{port:04X} ");
    loop {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
        let listens = |line: &str| line.contains(&wanted) && line.split_whitespace().nth(3) == Some("0A");
        if tables.iter().any(|table| table.lines().any(listens)) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "never listened: {command}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_pairs_do_what_they_are_shown_to_do() {
    for Pair { listener, connector, same } in PAIRS {
        let (dir, port) = (prepared(), free_port());
        let mut listening = start(listener, port, dir.path());
        wait_for_listener(port, listener);
        assert!(end(start(connector, port, dir.path()), connector).success(), "{connector}");
        if listener.contains("-k") {
            let pid = listening.id().to_string();
            assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
            assert_eq!(listening.wait().unwrap().signal(), Some(15), "{listener}");
        } else {
            assert!(end(listening, listener).success(), "{listener}");
        }
        let [from, to] = [same.0, same.1].map(|name| fs::read(dir.path().join(name)).unwrap_or_default());
        assert!(!from.is_empty() && from == to, "{listener}\n{connector}");
    }
}

#[test]
fn what_needs_no_other_side_runs_alone() {
    for command in ALONE {
        let dir = prepared();
        assert!(end(start(command, 31337, dir.path()), command).success(), "{command}");
    }
}

#[test]
fn what_is_not_run_is_at_least_understood() {
    for (command, _) in ELSEWHERE.iter().filter(|(command, _)| command.contains("mpnc ") && command.contains("31337")) {
        let typed = command.split("mpnc ").last().unwrap().split(['|', '<', '>']).next().unwrap();
        let args = typed.split_whitespace().chain(["--help"]);
        let output = Command::new(env!("CARGO_BIN_EXE_mpnc")).args(args).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
}
