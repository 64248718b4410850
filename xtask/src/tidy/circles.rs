//! Which file of a folder uses which, and whether they form a circle: `cargo xtask tidy --graph engine` shows it. A
//! folder inside counts as one file of the folder around it, and what `mod.rs` passes on is its maker's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::Finding;
use super::source::{CodePath, SourceFile};

/// Folders of `mpnc/src` whose files must form no circle.
pub(super) const NONE_IN: &[&str] = &["bond", "doctor", "engine", "paths", "stats", "transfer", "wire"];

/// The file of a folder that stands for the folder itself.
const TOP: &str = "mod";

/// The files of one folder and where each uses another.
pub(super) struct Graph<'a> {
    folder: &'a str,
    /// From a file's name to those that it uses, each with the first place that does.
    uses: BTreeMap<&'a str, BTreeMap<&'a str, Finding>>,
    lines: BTreeMap<&'a str, usize>,
}

impl<'a> Graph<'a> {
    /// The graph of a folder, named from `mpnc/src` on: "engine", "engine/ends". Tests do not count.
    pub(super) fn new(folder: &'a str, files: &'a [SourceFile]) -> Self {
        let inside: Vec<_> = files.iter().filter_map(|f| Some((f, within(&f.path, folder)?))).collect();
        let names: BTreeSet<_> = inside.iter().map(|(_, inner)| name(inner)).collect();
        let makers: BTreeMap<_, _> =
            inside.iter().filter(|(_, inner)| *inner == TOP).flat_map(|(top, _)| passed_on(top, &names)).collect();
        let mut graph = Self { folder, uses: BTreeMap::new(), lines: BTreeMap::new() };
        for (file, inner) in inside.iter().filter(|(file, _)| !file.in_tests) {
            let from = name(inner);
            *graph.lines.entry(from).or_default() += file.lines_without_tests();
            let uses = graph.uses.entry(from).or_default();
            for path in file.paths.iter().filter(|path| !path.test && !path.passed_on) {
                let Some(target) = target(path, folder, inner) else { continue };
                let to = names.get(target).or_else(|| makers.get(target)).copied();
                let to = to.or_else(|| (*inner != TOP).then_some(TOP)).filter(|to| *to != from);
                if let Some(to) = to {
                    uses.entry(to).or_insert_with(|| Finding::new(file, path.line, ""));
                }
            }
        }
        graph
    }

    /// Its circles, each once, in the order of the files.
    pub(super) fn circles(&self) -> Vec<Finding> {
        let mut told = BTreeSet::new();
        let mut findings = Vec::new();
        for start in self.uses.keys().copied() {
            let Some(circle) = self.circle(start).filter(|circle| circle.iter().all(|file| !told.contains(file)))
            else {
                continue;
            };
            let first = &self.uses[circle[0]][circle[1]];
            let text = format!("a circle among the files of `{}`: {}", self.folder, circle.join(" -> "));
            findings.push(Finding { path: first.path.clone(), line: first.line, text });
            told.extend(circle);
        }
        findings
    }

    /// The shortest way from a file back to itself.
    fn circle(&self, start: &'a str) -> Option<Vec<&'a str>> {
        let mut before = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for to in self.uses.get(from).into_iter().flat_map(BTreeMap::keys).copied() {
                if to == start {
                    let mut way: Vec<_> = std::iter::successors(Some(from), |at| before.get(at).copied()).collect();
                    way.reverse();
                    way.push(start);
                    return Some(way);
                }
                if !before.contains_key(to) {
                    before.insert(to, from);
                    queue.push_back(to);
                }
            }
        }
        None
    }
}

impl fmt::Display for Graph<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, uses) in &self.uses {
            let used: Vec<_> = uses.keys().copied().collect();
            writeln!(f, "{name:<14} {:>4} lines  -> {}", self.lines[name], used.join(", "))?;
        }
        Ok(())
    }
}

/// A file's place in a folder, from there on and without its extension: `hub/seen`.
fn within<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    path.strip_prefix("mpnc/src/")?.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".rs")
}

fn name(inner: &str) -> &str {
    inner.split('/').next().unwrap_or(inner)
}

/// What the folder's own file passes on, and who made it.
fn passed_on<'a>(top: &'a SourceFile, names: &BTreeSet<&'a str>) -> Vec<(&'a str, &'a str)> {
    let made = |path: &'a CodePath| {
        let from = path.segments.iter().find(|s| *s != "self")?;
        Some((path.segments.last()?.as_str(), names.get(from.as_str()).copied()?))
    };
    top.paths.iter().filter(|path| path.passed_on).filter_map(made).collect()
}

/// The name in `folder` that a path of the file at `inner` leads to; `None` where it leads elsewhere.
fn target<'a>(path: &'a CodePath, folder: &str, inner: &str) -> Option<&'a str> {
    let segments = &path.segments;
    let own = inner.strip_suffix("/mod").unwrap_or(inner);
    // How many modules deep the file is, seen from the folder; what `super` means depends on it.
    let depth = path.depth + if own == TOP { 0 } else { own.split('/').count() };
    match segments.first()?.as_str() {
        "crate" => {
            let rest = folder.split('/').enumerate();
            let deep = folder.split('/').count();
            let here = rest.into_iter().all(|(at, part)| segments.get(at + 1).is_some_and(|s| s == part));
            here.then(|| segments.get(deep + 1).map(String::as_str)).flatten()
        }
        "super" => {
            let ups = segments.iter().take_while(|s| *s == "super").count();
            (ups == depth).then(|| segments.get(ups).map(String::as_str)).flatten()
        }
        "self" => (depth == 0).then(|| segments.get(1).map(String::as_str)).flatten(),
        first => (depth == 0).then_some(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
        let parse =
            |(path, text): &(&str, &str)| SourceFile::parse(&format!("mpnc/src/x/{path}.rs"), text, false).unwrap();
        texts.iter().map(parse).collect()
    }

    fn circles(texts: &[(&str, &str)]) -> Vec<String> {
        Graph::new("x", &files(texts)).circles().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_is_found_in_every_spelling_and_once() {
        for [there, back] in [
            ["use super::b;", "\nuse super::a::A;"],
            ["use crate::x::b::B;", "\nfn f() { super::a::f() }"],
            ["mod inner { use super::super::b; }", "\nuse super::{c, a};"],
        ] {
            let found =
                circles(&[("a", there), ("b", back), ("c", "use super::b::B;"), ("mod", "mod a; mod b; mod c;")]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].starts_with("mpnc/src/x/a.rs:1: a circle among the files of `x`: a -> b -> a"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn long_circles_are_found_whole() {
        let found =
            circles(&[("a", "use super::b;"), ("b", "use super::c;"), ("c", "use super::a;"), ("d", "use super::a;")]);
        assert!(found[0].ends_with("a -> b -> c -> a"), "{found:?}");
    }

    #[test]
    fn what_the_folders_file_passes_on_is_its_makers() {
        let both = [("mod", "pub use a::A;"), ("a", "use super::b::B;"), ("b", "use super::A;")];
        assert_eq!(circles(&both).len(), 1);
        let one = [("mod", "pub use a::A; pub use b::B;"), ("a", ""), ("b", "use super::A;")];
        assert_eq!(circles(&one), Vec::<String>::new());
    }

    #[test]
    fn the_folders_file_is_one_of_them() {
        let both = [("mod", "use a::A; pub struct M;"), ("a", "use super::M;")];
        assert!(circles(&both)[0].contains("a -> mod -> a"));
        assert_eq!(circles(&[("mod", "pub struct M;"), ("a", "use super::M;")]), Vec::<String>::new());
    }

    #[test]
    fn a_folder_inside_is_one_file_and_tests_do_not_count() {
        let inner = [("a", "use super::b::B;"), ("b", ""), ("b/deep", "use super::super::a; use super::B;")];
        assert!(circles(&inner)[0].ends_with("a -> b -> a"));
        let tests = [
            ("a", "use super::b;"),
            ("b", "#[cfg(test)] mod tests { use super::super::a; }"),
            ("b/tests", "use crate::x::a;"),
        ];
        assert_eq!(circles(&tests), Vec::<String>::new());
        let other = [("a", "use crate::y::b;"), ("b", "use std::a;")];
        assert_eq!(circles(&other), Vec::<String>::new());
    }
}
