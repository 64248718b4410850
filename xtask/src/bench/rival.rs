//! The programs that are measured, and how each is told to move bytes from one host to another over one TCP port.
//! Adding a program is adding a row.

use std::path::Path;

/// A pair of command lines. In their words HOST stands for the receiver's address, PORT for the port, BYTES for the
/// number of bytes, SLAVES for the number of the bond's slaves, `mpnc` for the program under test.
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    pub(crate) receiver: &'static [&'static str],
    pub(crate) sender: &'static [&'static str],
    /// Whether it moves what comes on stdin; otherwise it makes up its bytes, and neither order nor a pipe costs it
    /// anything.
    pub(crate) pipe: bool,
}

/// What the placeholders stand for.
pub(crate) struct Values<'a> {
    pub(crate) mpnc: &'a Path,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) bytes: u64,
    pub(crate) slaves: usize,
}

impl Values<'_> {
    /// A command line with its placeholders replaced.
    pub(crate) fn fill(&self, words: &[&str]) -> Vec<String> {
        let fill = |word: &&str| {
            if *word == "mpnc" {
                return self.mpnc.display().to_string();
            }
            let word = word.replace("HOST", self.host).replace("PORT", &self.port.to_string());
            word.replace("BYTES", &self.bytes.to_string()).replace("SLAVES", &self.slaves.to_string())
        };
        words.iter().map(fill).collect()
    }
}

const NC: Rival = Rival {
    name: "nc",
    receiver: &["nc.openbsd", "-l", "HOST", "PORT"],
    sender: &["nc.openbsd", "-N", "HOST", "PORT"],
    pipe: true,
};

/// Over loopback, where the program itself is the limit. The first row is mpnc, the second what it is compared to.
pub(crate) const LOOPBACK: &[Rival] = &[
    Rival {
        name: "mpnc",
        receiver: &["mpnc", "-q", "-l", "HOST", "PORT"],
        sender: &["mpnc", "-q", "HOST", "PORT"],
        pipe: true,
    },
    NC,
    Rival {
        name: "socat",
        receiver: &["socat", "-u", "-b", "1048576", "TCP4-LISTEN:PORT,bind=HOST", "STDOUT"],
        sender: &["socat", "-u", "-b", "1048576", "STDIN", "TCP4:HOST:PORT"],
        pipe: true,
    },
    Rival {
        name: "mbuffer",
        receiver: &["mbuffer", "-q", "-4", "-s", "256k", "-m", "64M", "-I", "HOST:PORT"],
        sender: &["mbuffer", "-q", "-4", "-s", "256k", "-m", "64M", "-O", "HOST:PORT"],
        pipe: true,
    },
    Rival {
        name: "iperf3 -P 4",
        receiver: &["iperf3", "-s", "-1", "-B", "HOST", "-p", "PORT"],
        sender: &["iperf3", "-c", "HOST", "-p", "PORT", "-P", "4", "-n", "BYTES"],
        pipe: false,
    },
];

/// Event loops of the receiver, beside each other: the first is what the others are compared to.
pub(crate) const WORKERS: &[Rival] =
    &[worker("1 worker", &WITH_1), worker("2 workers", &WITH_2), worker("4 workers", &WITH_4)];
const WITH_1: [&str; 7] = ["mpnc", "-q", "-l", "--workers", "1", "HOST", "PORT"];
const WITH_2: [&str; 7] = ["mpnc", "-q", "-l", "--workers", "2", "HOST", "PORT"];
const WITH_4: [&str; 7] = ["mpnc", "-q", "-l", "--workers", "4", "HOST", "PORT"];

const fn worker(name: &'static str, receiver: &'static [&'static str]) -> Rival {
    Rival {
        name,
        receiver,
        sender: &["mpnc", "-q", "--slaves", "SLAVES", "--policy", "layer3+4", "HOST", "PORT"],
        pipe: true,
    }
}

/// Over several links, where the choice of links is the limit.
pub(crate) const BOND: &[Rival] = &[
    Rival {
        name: "mpnc",
        receiver: &["mpnc", "-q", "-l", "HOST", "PORT"],
        sender: &["mpnc", "-q", "--slaves", "SLAVES", "--policy", "layer3+4", "HOST", "PORT"],
        pipe: true,
    },
    NC,
    Rival {
        name: "iperf3 -P 4",
        receiver: &["iperf3", "-s", "-1", "-B", "HOST", "-p", "PORT"],
        sender: &["iperf3", "-c", "HOST", "-p", "PORT", "-P", "4", "-n", "BYTES"],
        pipe: false,
    },
    Rival {
        name: "iperf3 -P 16",
        receiver: &["iperf3", "-s", "-1", "-B", "HOST", "-p", "PORT"],
        sender: &["iperf3", "-c", "HOST", "-p", "PORT", "-P", "16", "-n", "BYTES"],
        pipe: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_in_every_row() {
        let values = Values { mpnc: Path::new("/built/mpnc"), host: "10.0.0.2", port: 4711, bytes: 99, slaves: 4 };
        for rival in LOOPBACK.iter().chain(BOND).chain(WORKERS) {
            for words in [rival.receiver, rival.sender] {
                let filled = values.fill(words).join(" ");
                assert!(filled.contains("4711") && filled.contains("10.0.0.2"), "{filled}");
                for placeholder in ["HOST", "PORT", "BYTES", "SLAVES"] {
                    assert!(!filled.split([' ', ':']).any(|word| word == placeholder), "{filled}");
                }
            }
        }
        assert_eq!(values.fill(LOOPBACK[0].sender)[0], "/built/mpnc");
    }
}
