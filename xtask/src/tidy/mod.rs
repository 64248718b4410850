//! `cargo xtask tidy`: the rules of this repository that no compiler checks. Reads files, changes none.
//!
//! A rule is a function from a file to findings, with a test beside it that shows that it can fail.

mod circles;
mod docs;
mod layers;
mod rules;
mod source;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{build_ebpf, kept, sh};
use source::SourceFile;

/// Folders and files that are looked at.
const LOOKED_AT: &[&str] = &["mpnc", "mpnc-ebpf", "xtask", "tests", ".ci", ".cargo", "Cargo.toml", "deny.toml"];
/// Extensions of text files in which unfinished work is looked for, beside `.ci/run`.
const TEXTS: &[&str] = &["rs", "toml", "sh", "py", "yml", "nft"];

/// The rules for Rust sources.
const RULES: &[fn(&SourceFile) -> Vec<Finding>] = &[
    rules::header,
    rules::unsafe_code,
    rules::length,
    rules::width,
    rules::unfinished,
    layers::arrows,
    layers::extern_crates,
];

/// Something that must change, and where.
#[derive(Debug)]
struct Finding {
    path: String,
    /// Counted from 1; 0 for the whole file.
    line: usize,
    text: String,
}

impl Finding {
    fn new(file: &SourceFile, line: usize, text: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, text: text.into() }
    }

    fn file(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.into(), line: 0, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.text),
            line => write!(f, "{}:{line}: {}", self.path, self.text),
        }
    }
}

/// Arguments of `cargo xtask tidy`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Check nothing: print which file of a folder of mpnc/src uses which, and their circles
    #[arg(long, value_name = "FOLDER")]
    graph: Option<String>,
}

/// Checks the repository; findings on stderr, one a line.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let (files, mut findings) = match &args.graph {
        Some(folder) => graph(&sh::root(), folder)?,
        None => check(&sh::root())?,
    };
    if args.graph.is_none() {
        findings.extend(purity());
        findings.extend(kept_object(&sh::root()));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    println!("tidy: {files} files, {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the graph of one folder; how many files it has, and its circles.
fn graph(root: &Path, folder: &str) -> Result<(usize, Vec<Finding>)> {
    let mut paths = Vec::new();
    list(root, &format!("mpnc/src/{folder}"), &mut paths)?;
    let sources = sources(root, &paths)?;
    let graph = circles::Graph::new(folder, &sources);
    print!("{graph}");
    Ok((sources.len(), graph.circles()))
}

/// The pure modules compile where there is nothing else: rustc says what they must not use.
fn purity() -> Option<Finding> {
    let error = sh::check(&mut sh::cargo(&["check", "--quiet", "--package", "mpnc-pure"])).err()?;
    Some(Finding::file("mpnc/pure/lib.rs", format!("the pure modules are not pure: {error}")))
}

/// The object of kernel programs that mpnc embeds is that of the sources.
fn kept_object(root: &Path) -> Option<Finding> {
    let error = kept::current(root, build_ebpf::FLAGS).err()?;
    Some(Finding::file("mpnc-ebpf/object/recipe.toml", format!("{error:#}")))
}

/// How many files were looked at, and what was found.
fn check(root: &Path) -> Result<(usize, Vec<Finding>)> {
    let mut files = Vec::new();
    for name in LOOKED_AT {
        list(root, name, &mut files)?;
    }
    files.sort();
    let exists = |path: &str| root.join(path).exists();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    let mut findings = docs::documents(exists);
    for path in &files {
        let text = read(path)?;
        findings.extend(rules::markers(path, &text));
        if docs::is_scenario(path) {
            findings.extend(docs::scenario(path, &text));
        }
    }
    let sources = sources(root, &files)?;
    findings.extend(sources.iter().flat_map(|file| RULES.iter().flat_map(|rule| rule(file))));
    findings.extend(circles::NONE_IN.iter().flat_map(|folder| circles::Graph::new(folder, &sources).circles()));
    if exists("mpnc/Cargo.toml") {
        findings.extend(docs::test_targets(&read("mpnc/Cargo.toml")?, &files)?);
    }
    if exists("ARCHITECTURE.md") {
        findings.extend(docs::map(&read("ARCHITECTURE.md")?, &files, exists));
    }
    // One `use` of several names is one finding.
    findings.dedup_by_key(|finding| finding.to_string());
    Ok((files.len(), findings))
}

/// Reads the Rust sources among the files.
fn sources(root: &Path, files: &[String]) -> Result<Vec<SourceFile>> {
    let read = |path: &String| -> Result<SourceFile> {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))?;
        SourceFile::parse(path, &text, false)
    };
    let once: Vec<_> = files.iter().filter(|path| has_extension(path, &["rs"])).map(read).collect::<Result<_>>()?;
    // Which files are for tests only is declared in other files.
    let again = |file: &SourceFile| {
        SourceFile::parse(&file.path, &file.text, once.iter().any(|other| other.declares_as_test(&file.path)))
    };
    once.iter().map(again).collect()
}

/// Lists text files under a folder, without build output.
fn list(root: &Path, name: &str, files: &mut Vec<String>) -> Result<()> {
    let path = root.join(name);
    if path.is_dir() {
        for entry in std::fs::read_dir(&path).with_context(|| format!("listing {name}"))? {
            let child = entry?.file_name();
            let child = child.to_str().with_context(|| format!("{name} has a file whose name is not UTF-8"))?;
            if child != "target" {
                list(root, &format!("{name}/{child}"), files)?;
            }
        }
    } else if path.is_file() && (has_extension(name, TEXTS) || name.starts_with(".ci/")) {
        files.push(name.into());
    }
    Ok(())
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    Path::new(path).extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_read_whole_and_each_kind_of_file_by_its_rules() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for name in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"] {
            write(name, "");
        }
        write("ARCHITECTURE.md", "mpnc/src/wire/");
        write("mpnc/src/wire/mod.rs", "//! Frames.\nuse crate::sys;\n#[cfg(test)]\nmod sim;\n");
        write("mpnc/src/wire/sim.rs", "//! A simulated link, which may use what the wire may not.\nuse crate::sys;\n");
        write("mpnc/target/debug/build/generated.rs", "no header, and not ours");
        write("tests/scenarios/a.toml", "summary = 'x'\nnative = true\n");
        write(".ci/run", concat!("#!/bin/sh\n# FIX", "ME\n"));
        let (files, findings) = check(dir.path()).unwrap();
        let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(files, 4);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with(".ci/run:2: "), "{texts:?}");
        assert!(texts[1].starts_with("mpnc/src/wire/mod.rs:2: `wire` must not use `sys`"), "{texts:?}");
    }
}
