//! Rules that look across files: the documents exist, ARCHITECTURE.md's map names what exists and all of it, every
//! integration test is one that cargo knows, and scenario files can be read.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Finding;

/// Documents that every clone has.
const DOCUMENTS: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"];
/// What a path of the map starts with.
const CRATES: &[&str] = &["mpnc/", "mpnc-ebpf/", "xtask/", "tests/"];

/// Documents that are missing.
pub(super) fn documents(exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    DOCUMENTS.iter().filter(|name| !exists(name)).map(|name| Finding::file(name, "missing")).collect()
}

/// Paths that the map names and that are not there, and top-level modules of mpnc that it does not name.
pub(super) fn map(architecture: &str, sources: &[String], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    const PAGE: &str = "ARCHITECTURE.md";
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let named: BTreeSet<_> = architecture
        .split(|c| !is_path(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| CRATES.iter().any(|name| word.starts_with(name)))
        .collect();
    let gone = named
        .iter()
        .filter(|path| !exists(path))
        .map(|path| Finding::file(PAGE, format!("names {path}, which does not exist")));
    let modules: BTreeSet<_> = sources.iter().filter_map(|path| top_module(path)).collect();
    let unnamed = modules.iter().filter(|module| !named.iter().any(|path| covers(path, module)));
    gone.chain(unnamed.map(|module| Finding::file(PAGE, format!("its map does not name {module}")))).collect()
}

/// `mpnc/src/wire` for a file of the wire folder, `mpnc/src/units` for `mpnc/src/units.rs`.
fn top_module(path: &str) -> Option<String> {
    let inner = path.strip_prefix("mpnc/src/")?.strip_suffix(".rs")?;
    let top = inner.split('/').next()?;
    (!matches!(top, "lib" | "main")).then(|| format!("mpnc/src/{top}"))
}

fn covers(named: &str, module: &str) -> bool {
    named.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// Integration tests that never run: files of `tests/` that mpnc's manifest does not name (it has `autotests = false`,
/// because they are in another folder), and those that need root, whose place is outside of a plain `cargo test`.
pub(super) fn test_targets(manifest: &str, files: &[String]) -> Result<Vec<Finding>> {
    const MANIFEST: &str = "mpnc/Cargo.toml";
    let manifest: toml::Table = manifest.parse().context("reading mpnc/Cargo.toml")?;
    let targets: Vec<_> = manifest.get("test").and_then(toml::Value::as_array).into_iter().flatten().collect();
    let stem =
        |path: &str| Some(path.strip_prefix("tests/")?.strip_suffix(".rs")?.to_owned()).filter(|s| !s.contains('/'));
    let mut findings = Vec::new();
    for (path, stem) in files.iter().filter_map(|path| Some((path, stem(path)?))) {
        let declared = format!("../{path}");
        let Some(target) = targets.iter().find(|t| t.get("path").and_then(toml::Value::as_str) == Some(&declared))
        else {
            findings.push(Finding::file(path, format!("no [[test]] of {MANIFEST} has its path: it never runs")));
            continue;
        };
        let by_default = target.get("test").and_then(toml::Value::as_bool) != Some(false);
        if by_default == stem.starts_with("netns") {
            let what =
                if by_default { "needs root: its [[test]] needs" } else { "runs anywhere: its [[test]] must not have" };
            findings.push(Finding::file(path, format!("{what} `test = false` in {MANIFEST} (see xtask/src/test.rs)")));
        }
        if target.get("name").and_then(toml::Value::as_str) != Some(&stem) {
            findings
                .push(Finding::file(path, format!("its [[test]] in {MANIFEST} must be named {stem}, as the file is")));
        }
    }
    Ok(findings)
}

/// A scenario file that its reader would refuse.
pub(super) fn scenario(path: &str, text: &str) -> Vec<Finding> {
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    match xtask::lab::scenario::Scenario::parse(&stem, text) {
        Ok(_) => Vec::new(),
        Err(e) => vec![Finding::file(path, format!("{e:#}"))],
    }
}

/// Whether a file of the repository is a scenario.
pub(super) fn is_scenario(path: &str) -> bool {
    path.starts_with("tests/scenarios/") && Path::new(path).extension().is_some_and(|e| e == "toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_missing_document_is_found() {
        assert_eq!(documents(|_| true).len(), 0);
        assert_eq!(texts(&documents(|name| name != "CHANGELOG.md")), ["CHANGELOG.md: missing"]);
    }

    #[test]
    fn the_map_names_what_exists() {
        let page = "```\nmpnc/src/wire/   frames\nmpnc/src/gone.rs\n```\nSee [units](mpnc/src/units.rs).";
        let sources = ["mpnc/src/wire/mod.rs".to_owned(), "mpnc/src/units.rs".into(), "mpnc/src/lib.rs".into()];
        let found = map(page, &sources, |path| path != "mpnc/src/gone.rs");
        assert_eq!(texts(&found), ["ARCHITECTURE.md: names mpnc/src/gone.rs, which does not exist"]);
    }

    #[test]
    fn the_map_names_every_module() {
        let sources = ["mpnc/src/wire/frame.rs".to_owned(), "mpnc/src/wired.rs".into()];
        assert_eq!(
            texts(&map("mpnc/src/wire/frame.rs", &sources, |_| true)),
            ["ARCHITECTURE.md: its map does not name mpnc/src/wired"]
        );
    }

    #[test]
    fn a_test_that_never_runs_is_found() {
        let manifest = "[[test]]\nname = 'cli'\npath = '../tests/cli.rs'\n\
            [[test]]\nname = 'netns'\npath = '../tests/netns.rs'\ntest = false\n";
        let files = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let good = files(&["tests/cli.rs", "tests/netns.rs", "tests/common/mod.rs", "tests/scenarios/a.toml"]);
        assert_eq!(texts(&test_targets(manifest, &good).unwrap()), Vec::<String>::new());
        let found = |manifest: &str, name| texts(&test_targets(manifest, &files(&[name])).unwrap());
        assert!(found(manifest, "tests/loopback.rs")[0].contains("it never runs"));
        assert!(found(&manifest.replace("test = false", ""), "tests/netns.rs")[0].contains("needs root"));
        assert!(
            found(&manifest.replace("rs'\n[", "rs'\ntest = false\n["), "tests/cli.rs")[0].contains("runs anywhere")
        );
        assert!(found(&manifest.replace("'cli'", "'other'"), "tests/cli.rs")[0].contains("must be named cli"));
    }

    #[test]
    fn a_broken_scenario_is_found() {
        assert!(
            is_scenario("tests/scenarios/a.toml")
                && !is_scenario("tests/scenarios/README.md")
                && !is_scenario("Cargo.toml")
        );
        let good = "summary = 'a bond'\nkernels = ['6.1']\n[topology]\nslaves = 2\n";
        assert_eq!(texts(&scenario("a.toml", good)), Vec::<String>::new());
        assert_eq!(scenario("a.toml", &good.replace("slaves = 2", "slaves =")).len(), 1);
        assert_eq!(scenario("a.toml", &good.replace("slaves", "slavse")).len(), 1);
    }
}
