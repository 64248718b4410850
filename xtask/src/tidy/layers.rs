//! The layers of mpnc: which module may use which, and what the pure ones must not touch. The tables are the
//! rule; ARCHITECTURE.md says why. A new top-level module of mpnc gets a row here.

use super::Finding;
use super::source::{CodePath, SourceFile};

/// Each top-level module of `mpnc/src` and the modules that it may use, callers before callees.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "engine", "observe", "discover", "steer", "bpf", "transfer", "wire", "doctor", "bond", "stats", "sys",
            "error",
        ],
    ),
    ("engine", &["observe", "discover", "steer", "bpf", "transfer", "wire", "bond", "stats", "sys", "error"]),
    ("observe", &["discover", "bpf", "wire", "bond", "sys", "error"]),
    ("discover", &["doctor", "bond", "sys", "error"]),
    ("steer", &["bpf", "bond", "sys", "error"]),
    ("bpf", &["sys", "error"]),
    ("transfer", &["wire", "bond", "stats"]),
    ("wire", &["bond"]),
    ("doctor", &["bond"]),
    ("bond", &[]),
    ("stats", &["wire"]),
    ("sys", &["error"]),
    ("error", &[]),
];

/// Folders whose code sees no socket, clock, file, thread or unsafe, so that simulation drives it whole.
const PURE: &[&str] = &["wire", "doctor", "bond", "transfer", "stats"];

/// What pure code must not name. `std::net` value types (`IpAddr`, `SocketAddr`) are fine.
const IMPURE_PATHS: &[&[&str]] = &[
    &["mio"],
    &["libc"],
    &["socket2"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "os"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];
const IMPURE_WORDS: &[&str] =
    &["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "File", "unsafe", "println", "eprintln"];

/// Where a file of mpnc stands: its top-level module, and how many modules deep it is.
fn place(path: &str) -> Option<(&str, usize)> {
    let inner = path.strip_prefix("mpnc/src/")?.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    let depth = if matches!(inner, "lib" | "main") { 0 } else { inner.split('/').count() };
    inner.split('/').next().map(|top| (top, depth))
}

/// Arrows that point the wrong way, and top-level modules without a row.
pub(super) fn arrows(file: &SourceFile) -> Vec<Finding> {
    let Some((top, depth)) = place(&file.path) else { return Vec::new() };
    if top == "lib" {
        return Vec::new(); // names every module, uses none
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == top) else {
        return vec![Finding::new(
            file,
            1,
            format!("module `{top}` has no row in the table of layers (xtask/src/tidy/layers.rs)"),
        )];
    };
    let wrong = |path: &CodePath| {
        let target = target(path, top, depth)?;
        let known = ARROWS.iter().any(|(name, _)| *name == target);
        // A name that is no module (a macro, a re-export of the crate's top) is no arrow.
        (known && target != top && !allowed.contains(&target.as_str())).then(|| {
            let text = format!("`{top}` must not use `{target}`: the layers point one way (ARCHITECTURE.md)");
            Finding::new(file, path.line, text)
        })
    };
    file.paths.iter().filter(|path| !path.test).filter_map(wrong).collect()
}

/// The top-level module that a path leads to, if it is one of mpnc's own.
fn target(path: &CodePath, top: &str, depth: usize) -> Option<String> {
    let segments = &path.segments;
    match segments.first().map(String::as_str) {
        Some("crate") => segments.get(1).cloned(),
        Some("mpnc") if top == "main" => segments.get(1).cloned(),
        Some("super") => {
            let ups = segments.iter().take_while(|s| *s == "super").count();
            (ups == depth + path.depth).then(|| segments.get(ups).cloned()).flatten()
        }
        _ => None,
    }
}

/// Sockets, clocks, files, threads and unsafe in code that must not know them.
pub(super) fn purity(file: &SourceFile) -> Vec<Finding> {
    let in_pure_folder = place(&file.path).is_some_and(|(top, _)| PURE.contains(&top));
    let in_shared_hash = file.path.starts_with("mpnc-ebpf/src/") && !file.path.starts_with("mpnc-ebpf/src/bin/");
    if !in_pure_folder && !in_shared_hash {
        return Vec::new();
    }
    let finding = |line, name: &str| {
        Finding::new(file, line, format!("`{name}` in pure code: no socket, clock, file, thread or unsafe here"))
    };
    let paths = file.paths.iter().filter(|path| !path.test).filter_map(|path| {
        let hit = |bad: &&&[&str]| path.segments.windows(bad.len()).any(|part| part == **bad);
        IMPURE_PATHS.iter().find(hit).map(|bad| finding(path.line, &bad.join("::")))
    });
    let words = file.tokens.iter().filter(|token| !token.test && IMPURE_WORDS.contains(&token.text.as_str()));
    paths.chain(words.map(|token| finding(token.line, &token.text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&SourceFile) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
        rule(&SourceFile::parse(path, text, false).unwrap()).into_iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn an_arrow_against_the_layers_is_found_in_every_spelling() {
        for text in [
            "use crate::engine::Loop;",
            "use crate::{wire::Frame, engine};",
            "fn f() { crate::engine::run() }",
            "use super::super::engine;",
            "mod inner { use super::super::super::engine; }",
        ] {
            let found = check(arrows, "mpnc/src/wire/frame.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("mpnc/src/wire/frame.rs:1: `wire` must not use `engine`"), "{found:?}");
        }
    }

    #[test]
    fn arrows_along_the_layers_and_within_a_module_are_fine() {
        for (path, text) in [
            (
                "mpnc/src/engine/conn.rs",
                "use crate::{sys, transfer::Sender, wire}; use super::listen; use crate::engine::x;",
            ),
            ("mpnc/src/wire/mod.rs", "use crate::wire::Frame; use super::transfer_size;"),
            ("mpnc/src/wire/frame.rs", "#[cfg(test)] mod tests { use crate::engine; }"),
            ("mpnc/src/main.rs", "use mpnc::cli;"),
            ("xtask/src/main.rs", "use crate::engine;"),
        ] {
            assert_eq!(check(arrows, path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn main_reaches_only_the_command_line() {
        assert_eq!(check(arrows, "mpnc/src/main.rs", "use mpnc::engine;").len(), 1);
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        let found = check(arrows, "mpnc/src/helpers.rs", "");
        assert!(found[0].contains("`helpers` has no row"), "{found:?}");
    }

    #[test]
    fn every_impurity_is_found_in_pure_code_and_nowhere_else() {
        for text in [
            "use mio::Token;",
            "use libc;",
            "fn f() { socket2::Socket::new() }",
            "use std::{fs, io};",
            "fn f() { std::thread::spawn(f) }",
            "use std::net::{IpAddr, TcpStream};",
            "fn f() { Instant::now() }",
            "fn f() { std::time::SystemTime::now() }",
            "fn f() { unsafe { g() } }",
            "fn f() { eprintln!() }",
        ] {
            for pure in [
                "mpnc/src/wire/a.rs",
                "mpnc/src/bond.rs",
                "mpnc/src/transfer/mod.rs",
                "mpnc/src/stats/b.rs",
                "mpnc-ebpf/src/hash.rs",
            ] {
                assert_eq!(check(purity, pure, text).len(), 1, "{pure}: {text}");
            }
            for free in ["mpnc/src/engine/a.rs", "mpnc-ebpf/src/bin/steer.rs", "tests/loopback.rs"] {
                assert_eq!(check(purity, free, text).len(), 0, "{free}: {text}");
            }
        }
        assert_eq!(check(purity, "mpnc/src/wire/a.rs", "use std::net::IpAddr; use std::time::Duration;").len(), 0);
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        for (row, (name, uses)) in ARROWS.iter().enumerate() {
            for used in *uses {
                let at = ARROWS.iter().position(|(other, _)| other == used);
                assert!(at.is_some_and(|at| at > row), "{name} -> {used} points upwards");
            }
        }
    }
}
