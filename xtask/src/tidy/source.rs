//! One Rust source file as the rules see it: its text, its tokens with their lines (comments and the insides of
//! strings are no tokens), and its paths with `use` trees spelled out. Knows the language, not the rules.

use std::str::FromStr as _;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A token without its content's nesting: what a rule compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Inside an item that exists for tests only (`#[cfg(test)]`, `#[test]`).
    pub(crate) test: bool,
}

/// A path as written in code (`std::fs::read`), or one leaf of a `use` tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodePath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    pub(crate) test: bool,
    /// How many inline modules (`mod x { ... }`) it stands in: what `super` means depends on it.
    pub(crate) depth: usize,
    /// Stands in a `pub use`: the module does not use it, it passes it on.
    pub(crate) passed_on: bool,
}

/// A source file, read once for all rules.
pub(crate) struct SourceFile {
    /// From the workspace's top folder: `mpnc/src/wire/frame.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) paths: Vec<CodePath>,
    /// Whether all of it exists for tests only.
    pub(crate) in_tests: bool,
    /// The names of its modules in files of their own that exist for tests only (`#[cfg(test)] mod sim;`).
    test_modules: Vec<String>,
}

impl SourceFile {
    /// Reads a file's text; `in_tests` says that another file declares it to be for tests only.
    ///
    /// # Errors
    /// Text that is no Rust: unbalanced brackets, unknown characters.
    pub(crate) fn parse(path: &str, text: &str, in_tests: bool) -> Result<Self> {
        let stream = TokenStream::from_str(text)
            .map_err(|e| anyhow!("{path}:{}: no Rust source: {e}", e.span().start().line))?;
        let in_tests =
            in_tests || path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let mut walk = Walk { tokens: Vec::new(), paths: Vec::new(), test_modules: Vec::new(), in_use: false };
        walk.stream(&stream.into_iter().collect::<Vec<_>>(), in_tests, 0);
        let Walk { tokens, paths, test_modules, .. } = walk;
        Ok(Self { path: path.into(), text: text.into(), tokens, paths, in_tests, test_modules })
    }

    /// Whether this file declares the one at `path`, or a folder above it, to be for tests only.
    pub(crate) fn declares_as_test(&self, path: &str) -> bool {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|name| stem.strip_suffix(name)).unwrap_or(stem);
        let inner = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let name = inner.and_then(|inner| inner.split(['/', '.']).next());
        name.is_some_and(|name| self.test_modules.iter().any(|module| module == name))
    }

    /// Lines that are not test code, comments and empty lines included.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let mut test_lines: Vec<_> = self.tokens.iter().filter(|t| t.test).map(|t| t.line).collect();
        test_lines.dedup();
        let all = self.text.lines().count();
        let (Some(first), Some(last)) = (test_lines.first(), test_lines.last()) else { return all };
        // A test module's own comments and empty lines belong to it; it is one block at the end of the file.
        let block = last - first + 1;
        let scattered = self.tokens.iter().any(|t| !t.test && t.line > *first && t.line < *last);
        all - if scattered { test_lines.len() } else { block }
    }
}

struct Walk {
    tokens: Vec<Token>,
    paths: Vec<CodePath>,
    test_modules: Vec<String>,
    /// Within a `use` item, whose paths are spelled out already.
    in_use: bool,
}

impl Walk {
    fn stream(&mut self, trees: &[TokenTree], test: bool, depth: usize) {
        let mut at = 0;
        let mut item_is_test = test;
        let mut use_starts_here = false;
        while at < trees.len() {
            if is_test_attribute(&trees[at..]) {
                item_is_test = true;
            }
            let here = &trees[at..];
            let uses = ident(here.first()).as_deref() == Some("use") && here.get(1).and_then(punct) != Some('<');
            if uses && !self.in_use {
                let tree: Vec<_> = here[1..].iter().take_while(|t| punct(t) != Some(';')).cloned().collect();
                let from = self.paths.len();
                self.use_tree(&tree, &[], item_is_test, depth);
                let passed_on = is_public(&trees[..at]);
                self.paths[from..].iter_mut().for_each(|path| path.passed_on = passed_on);
                self.in_use = true;
                use_starts_here = true;
            } else if !self.in_use && !joins(&trees[..at]) {
                self.path(here, item_is_test, depth);
            }
            if let (true, Some("mod"), Some(name)) = (item_is_test, ident(here.first()).as_deref(), ident(here.get(1)))
                && here.get(2).and_then(punct) == Some(';')
            {
                self.test_modules.push(name);
            }
            let enters_module = ident(at.checked_sub(2).and_then(|i| trees.get(i))) == Some("mod".into());
            self.tree(&trees[at], item_is_test, depth + usize::from(enters_module));
            if !use_starts_here && is_body(&trees[at]) || punct(&trees[at]) == Some(';') {
                // the item ends here
                item_is_test = test;
            }
            if use_starts_here && punct(&trees[at]) == Some(';') {
                (self.in_use, use_starts_here) = (false, false);
            }
            at += 1;
        }
    }

    fn tree(&mut self, tree: &TokenTree, test: bool, depth: usize) {
        let mut push = |text: String, line| self.tokens.push(Token { text, line, test });
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                push(open.into(), group.span_open().start().line);
                self.stream(&group.stream().into_iter().collect::<Vec<_>>(), test, depth);
                self.tokens.push(Token { text: close.into(), line: group.span_close().start().line, test });
            }
            TokenTree::Literal(_) => push("\"\"".into(), line(tree)),
            other => push(other.to_string(), line(other)),
        }
    }

    /// The path that starts at the first tree, if one does: an identifier followed by `::`.
    fn path(&mut self, trees: &[TokenTree], test: bool, depth: usize) {
        let Some(first) = ident(trees.first()) else { return };
        let mut segments = vec![first];
        let mut at = 1;
        while is_colons(trees.get(at..).unwrap_or_default()) {
            let Some(next) = ident(trees.get(at + 2)) else { break };
            segments.push(next);
            at += 3;
        }
        if segments.len() > 1 {
            self.paths.push(CodePath { segments, line: line(&trees[0]), test, depth, passed_on: false });
        }
    }

    /// Spells out `a::{b, c::{d, e as f}, *}`.
    fn use_tree(&mut self, trees: &[TokenTree], prefix: &[String], test: bool, depth: usize) {
        for branch in trees.split(|t| punct(t) == Some(',')).filter(|branch| !branch.is_empty()) {
            let mut segments = prefix.to_vec();
            let mut group = None;
            for tree in branch {
                match tree {
                    TokenTree::Ident(name) if name == "as" => break,
                    TokenTree::Ident(name) => segments.push(name.to_string()),
                    TokenTree::Group(inner) => group = Some(inner.stream().into_iter().collect::<Vec<_>>()),
                    TokenTree::Punct(p) if p.as_char() == '*' => segments.push("*".into()),
                    _ => {}
                }
            }
            match group {
                Some(inner) => self.use_tree(&inner, &segments, test, depth),
                None => self.paths.push(CodePath { segments, line: line(&branch[0]), test, depth, passed_on: false }),
            }
        }
    }
}

fn line(tree: &TokenTree) -> usize {
    tree.span().start().line
}

fn ident(tree: Option<&TokenTree>) -> Option<String> {
    match tree {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

fn punct(tree: &TokenTree) -> Option<char> {
    match tree {
        TokenTree::Punct(p) => Some(p.as_char()),
        _ => None,
    }
}

fn is_body(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

fn is_colons(trees: &[TokenTree]) -> bool {
    trees.len() >= 2 && trees[..2].iter().all(|t| punct(t) == Some(':'))
}

/// Whether the trees end in `pub` or `pub(...)`.
fn is_public(before: &[TokenTree]) -> bool {
    let before = match before {
        [head @ .., TokenTree::Group(scope)] if scope.delimiter() == Delimiter::Parenthesis => head,
        _ => before,
    };
    ident(before.last()).as_deref() == Some("pub")
}

/// Whether what comes after continues a path: the trees end in `ident::`.
fn joins(before: &[TokenTree]) -> bool {
    before.len() >= 3 && is_colons(&before[before.len() - 2..]) && ident(before.get(before.len() - 3)).is_some()
}

/// `#[test]`, `#[cfg(test)]`, and combinations such as `#[cfg(all(test, ...))]`.
fn is_test_attribute(trees: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(attribute), ..] = trees else { return false };
    if punct(hash) != Some('#') || attribute.delimiter() != Delimiter::Bracket {
        return false;
    }
    let text = attribute.stream().to_string();
    let words: Vec<_> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    words == ["test"] || words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SourceFile {
        SourceFile::parse("mpnc/src/x.rs", text, false).unwrap()
    }

    fn paths(text: &str) -> Vec<String> {
        parse(text).paths.iter().map(|p| p.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_spelled_out() {
        let text = "use std::{fs, io::{self, Read as _}, net::*};\npub use crate::wire;";
        assert_eq!(paths(text), ["std::fs", "std::io::self", "std::io::Read", "std::net::*", "crate::wire"],);
    }

    #[test]
    fn paths_in_code_are_seen_once_and_whole() {
        assert_eq!(
            paths("fn f() { let t = std::time::Instant::now(); a.b(c::d) }"),
            ["std::time::Instant::now", "c::d"]
        );
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let file = parse("//! unsafe\nfn f() -> &'static str { \"unsafe std::fs\" } // unsafe\n/* unsafe */");
        assert!(file.tokens.iter().all(|t| t.text != "unsafe"));
        assert!(file.paths.is_empty());
    }

    #[test]
    fn test_code_is_told_apart() {
        let file = parse("fn a() {}\n#[cfg(test)]\nmod tests {\n  use std::fs;\n\n  #[test]\n  fn t() {}\n}\n");
        assert!(file.paths[0].test);
        assert!(!file.tokens[0].test);
        assert_eq!(file.lines_without_tests(), 1);
        let file = parse("#[cfg(test)]\nuse x::y;\nfn a() { b::c }\n#[cfg(not(test))]\nuse d::e;");
        assert_eq!(file.paths.iter().map(|p| p.test).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_known() {
        let text = "mod core;\n#[cfg(test)]\nmod sim;\n#[cfg(test)]\nmod inner { fn f() {} }";
        for (path, folder) in [("mpnc/src/a/mod.rs", "mpnc/src/a"), ("mpnc/src/a.rs", "mpnc/src/a"), ("x/lib.rs", "x")]
        {
            let file = SourceFile::parse(path, text, false).unwrap();
            for (child, is_test) in [("sim.rs", true), ("sim/peer.rs", true), ("core.rs", false), ("simple.rs", false)]
            {
                assert_eq!(file.declares_as_test(&format!("{folder}/{child}")), is_test, "{path}: {child}");
            }
            assert!(!file.declares_as_test("other/sim.rs"));
        }
        assert!(SourceFile::parse("a/sim.rs", "fn f() {}", true).unwrap().tokens.iter().all(|t| t.test));
    }

    #[test]
    fn what_is_passed_on_is_told_apart() {
        let file = parse("use a::b;\npub use c::d;\npub(in crate::x) use e::{f, g};\nfn h() { i::j }");
        assert_eq!(
            file.paths.iter().filter(|p| p.passed_on).map(|p| p.segments[0].as_str()).collect::<Vec<_>>(),
            ["c", "e", "e"]
        );
    }

    #[test]
    fn inline_modules_are_counted() {
        let file = parse("use super::a;\nmod inner { use super::b; mod deeper { use super::c; } }");
        assert_eq!(file.paths.iter().map(|p| p.depth).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn what_is_no_rust_is_an_error_with_its_place() {
        let error = SourceFile::parse("a.rs", "fn a() {", false).err().unwrap().to_string();
        assert!(error.starts_with("a.rs:1"), "{error}");
    }
}
