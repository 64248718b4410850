//! The static build in a root folder with nothing in it, as in a container of another C library: it runs there, and
//! finds a host in /etc/hosts. Needs root (chroot, mknod) and some minutes of building.

mod common;

use common::data::{Digest, Noise, pour};
use common::process::Side;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds it as the README says, and answers its path.
fn built() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--package", "xtask", "--", "static"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
}

/// What every container has of /dev and /etc, and mpnc.
fn root(program: &Path) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["dev", "etc"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    for (name, minor) in [("random", "8"), ("urandom", "9")] {
        let node = root.path().join("dev").join(name);
        assert!(Command::new("mknod").arg(node).args(["c", "1", minor]).status().unwrap().success());
    }
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 newserver\n").unwrap();
    fs::copy(program, root.path().join("mpnc")).unwrap();
    root
}

fn inside(root: &Path, args: &[&str]) -> Side {
    Side::of(Command::new("chroot").arg(root).arg("/mpnc").args(args), Stdio::piped(), Stdio::piped())
}

/// With the build for this system on the other side, in both roles.
#[test]
fn a_static_build_transfers_where_there_is_nothing_else() {
    const LEN: u64 = 3_000_000;
    let root = root(&built());
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let mut sender = inside(root.path(), &["--streams", "2", "newserver", &port.to_string()]);
    pour(Noise::new(LEN), sender.stdin());
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(LEN));
    let listener = inside(root.path(), &["-k", "-l", "-o", "/received-%n", "0"]);
    Side::sender(listener.port(), &["--streams", "2"], LEN).end().with_code(0);
    listener.signal("KILL");
    let received = File::open(root.path().join("received-1")).unwrap();
    assert_eq!(Digest::of(received), Digest::of_noise(LEN));
    // The one of this system would not even start there.
    let dynamic = root.path().join("dynamic");
    fs::copy(env!("CARGO_BIN_EXE_mpnc"), &dynamic).unwrap();
    assert!(!Command::new("chroot").arg(root.path()).arg("/dynamic").status().is_ok_and(|status| status.success()));
}
