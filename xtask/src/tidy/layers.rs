//! The layers of mpnc: which module may use which. The table is the rule; ARCHITECTURE.md says why. A new top-level
//! module of mpnc gets a row here. That the pure ones touch nothing is the compiler's proof: `mpnc/pure/lib.rs`.

use super::Finding;
use super::source::{CodePath, SourceFile, Token};

/// Each top-level module of `mpnc/src` and the modules that it may use, callers before callees.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "engine", "place", "observe", "discover", "steer", "bpf", "paths", "transfer", "wire", "doctor", "bond",
            "stats", "sys", "error",
        ],
    ),
    (
        "engine",
        &["place", "observe", "discover", "steer", "bpf", "paths", "transfer", "wire", "bond", "stats", "sys", "error"],
    ),
    ("paths", &["transfer", "wire", "bond"]),
    ("place", &["observe", "discover", "bpf", "bond", "error"]),
    ("observe", &["discover", "bpf", "wire", "bond", "sys", "error"]),
    ("discover", &["doctor", "bond", "sys", "error"]),
    ("steer", &["bpf", "bond", "sys", "error"]),
    ("bpf", &["sys", "error"]),
    ("transfer", &["wire", "bond", "stats"]),
    ("stats", &["wire"]),
    ("wire", &["bond"]),
    ("doctor", &["bond"]),
    ("bond", &[]),
    ("sys", &["error"]),
    ("error", &[]),
];

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

/// Names that come from nowhere but the manifest: `extern crate std as other` would let pure code pass its proof.
pub(super) fn extern_crates(file: &SourceFile) -> Vec<Finding> {
    if place(&file.path).is_none() {
        return Vec::new();
    }
    let here = |pair: &&[Token]| pair[0].text == "extern" && pair[1].text == "crate";
    let finding = |pair: &[Token]| Finding::new(file, pair[0].line, "`extern crate`: Cargo.toml names what is used");
    file.tokens.windows(2).filter(here).map(finding).collect()
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

    /// Whether a line of code compiles where the pure modules have to; what the compiler says if not.
    fn pure(line: &str) -> Result<(), String> {
        let root = std::fs::read_to_string(crate::sh::root().join("mpnc/pure/lib.rs")).unwrap();
        // In the place of the modules, which need other crates.
        let is_module = |l: &str| l.starts_with("#[path") || l.starts_with("pub mod") && l.ends_with(';');
        let own: Vec<_> = root.lines().filter(|line| !is_module(line)).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lib.rs"), format!("{}\nmod pure {{ {line} }}\n", own.join("\n"))).unwrap();
        let mut rustc = std::process::Command::new("rustc");
        rustc
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "lib.rs"])
            .current_dir(dir.path());
        let output = rustc.output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    #[test]
    fn what_pure_code_may_use_compiles() {
        for line in [
            "use std::{net::IpAddr, time::Duration, sync::Arc};",
            "fn f() -> String { format!(\"{}\", vec![1].len()) }",
        ] {
            pure(line).unwrap();
        }
    }

    #[test]
    fn what_pure_code_must_not_know_does_not_compile() {
        for (line, named) in [
            ("use std::fs::File;", "std::fs"),
            ("use std::io::Read;", "std::io"),
            ("use std::os::fd::OwnedFd;", "`os` in `std`"),
            ("use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
            ("use std::{thread, mem};", "std::thread"),
            ("use std::sync::Mutex;", "std::sync::Mutex"),
            ("use std::{env, process};", "std::env"),
            ("use std::collections::HashMap;", "std::collections::HashMap"),
            ("fn f() { ::std::time::Instant::now(); }", "`Instant` in `time`"),
            ("fn f() { let _ = std::time::SystemTime::now(); }", "`SystemTime` in `time`"),
            ("fn f() { eprintln!() }", "pure code neither prints"),
            ("fn f() { dbg!(1); }", "pure code neither prints"),
            ("#[allow(unsafe_code)] fn f() { unsafe {} }", "unsafe"),
            ("use mio::Token;", "mio"),
            ("use crate::engine;", "crate::engine"),
        ] {
            let said = pure(line).expect_err(line);
            assert!(said.contains(named), "{line}: {said}");
        }
    }

    #[test]
    fn a_crate_under_another_name_is_found() {
        assert_eq!(check(extern_crates, "mpnc/src/wire/a.rs", "extern crate std as other;").len(), 1);
        assert_eq!(check(extern_crates, "mpnc/pure/lib.rs", "extern crate self as std;").len(), 0);
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
