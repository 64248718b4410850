//! Rules for every Rust source file that neither rustc nor clippy has: its header, where unsafe may stand, its length,
//! and what must not be left behind. Each is a function from a file to its findings.

use super::Finding;
use super::source::SourceFile;

/// Lines of a file without its tests. Longer ones have more than one subject.
const FILE_LINES: usize = 600;
/// Columns of a line: `max_width` of rustfmt.toml.
const WIDTH: usize = 120;
/// How far above an `unsafe` its `SAFETY:` note may start, in lines.
const SAFETY_REACH: usize = 10;
/// Where unsafe code may stand: a lint can be lifted anywhere.
const UNSAFE_HOMES: &[&str] = &["mpnc/src/sys/", "mpnc/src/sys.rs", "mpnc-ebpf/src/bin/"];
/// What clippy does not see, because only the kernel programs' own compiler builds it.
const WITHOUT_CLIPPY: &str = "mpnc-ebpf/src/bin/";
/// Words that mark unfinished work. Taken apart, or this file would find itself.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// The first line says what the file is for.
pub(super) fn header(file: &SourceFile) -> Vec<Finding> {
    let first = file.text.lines().next().unwrap_or_default();
    if first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty()) {
        return Vec::new();
    }
    vec![Finding::new(file, 1, "the first line is no `//!` line saying what the file is for")]
}

/// Unsafe code stands in its homes only, each use with the reason why it is sound (elsewhere clippy asks for that).
pub(super) fn unsafe_code(file: &SourceFile) -> Vec<Finding> {
    let at_home = UNSAFE_HOMES.iter().any(|home| file.path.starts_with(home));
    let lines: Vec<_> = file.text.lines().collect();
    let mut findings = Vec::new();
    for (at, token) in file.tokens.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
        if !at_home {
            findings.push(Finding::new(file, token.line, "unsafe outside of mpnc/src/sys and mpnc-ebpf/src/bin"));
            continue;
        }
        // `#[unsafe(no_mangle)]` and `unsafe extern` declare; blocks, impls and functions need the note.
        let next = file.tokens.get(at + 1).map_or("", |next| next.text.as_str());
        let above = &lines[token.line.saturating_sub(SAFETY_REACH + 1)..token.line];
        let noted = above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
        if file.path.starts_with(WITHOUT_CLIPPY) && matches!(next, "{" | "impl" | "fn") && !noted {
            findings.push(Finding::new(file, token.line, "unsafe without a `// SAFETY:` note above it"));
        }
    }
    findings
}

/// Files have one subject.
pub(super) fn length(file: &SourceFile) -> Vec<Finding> {
    let lines = file.lines_without_tests();
    if lines <= FILE_LINES || file.in_tests {
        return Vec::new();
    }
    vec![Finding::new(file, 1, format!("{lines} lines without tests; {FILE_LINES} is the limit: split it by subject"))]
}

/// No line is wider than rustfmt would make it: what it cannot break (texts, comments, long patterns) is broken by
/// hand. Rows of tables in documentation cannot be.
pub(super) fn width(file: &SourceFile) -> Vec<Finding> {
    let is_row = |line: &str| line.trim_start().trim_start_matches(['/', '!']).starts_with(" |");
    let wide = file.text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH && !is_row(line));
    wide.map(|(at, line)| {
        let columns = line.chars().count();
        Finding::new(file, at + 1, format!("{columns} columns; {WIDTH} is the limit (rustfmt.toml): break it by hand"))
    })
    .collect()
}

/// No silenced dead code. (Stubs are clippy's; what is `#[ignore]`d is run by `cargo xtask test`.)
pub(super) fn unfinished(file: &SourceFile) -> Vec<Finding> {
    const SEQUENCES: &[(&[&str], &str)] = &[
        (&["allow", "(", "dead_code"], "dead code, silenced"),
        (&["expect", "(", "dead_code"], "dead code, silenced"),
    ];
    let mut findings = Vec::new();
    for (at, token) in file.tokens.iter().enumerate() {
        for (sequence, what) in SEQUENCES {
            let here = file.tokens[at..].iter().map(|t| t.text.as_str()).take(sequence.len());
            if here.eq(sequence.iter().copied()) {
                findings.push(Finding::new(file, token.line, format!("`{}`: {what}", sequence.concat())));
            }
        }
    }
    findings
}

/// Marks of unfinished work in any text file, comments included.
pub(super) fn markers(path: &str, text: &str) -> Vec<Finding> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for marker in MARKERS {
            if line.split(|c| !is_word(c)).any(|word| word == *marker) {
                findings.push(Finding {
                    path: path.into(),
                    line: number + 1,
                    text: format!("`{marker}`: finish it or file an issue"),
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&SourceFile) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&SourceFile::parse(path, text, false).unwrap()).len()
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_eq!(check(header, "a.rs", "//! What it is for.\n"), 0);
        for text in ["", "//!\nfn f() {}", "// comment", "fn f() {}\n//! late", "\n//! late"] {
            assert_eq!(check(header, "a.rs", text), 1, "{text:?}");
        }
    }

    #[test]
    fn unsafe_stays_in_its_homes() {
        let text = "// SAFETY: sound.\nunsafe { f() }";
        assert_eq!(check(unsafe_code, "mpnc/src/sys/a.rs", text), 0);
        assert_eq!(check(unsafe_code, "mpnc-ebpf/src/bin/a.rs", text), 0);
        for path in
            ["mpnc/src/engine/a.rs", "mpnc-ebpf/src/hash.rs", "xtask/src/a.rs", "tests/a.rs", "mpnc/src/system.rs"]
        {
            assert_eq!(check(unsafe_code, path, text), 1, "{path}");
        }
    }

    #[test]
    fn unsafe_that_clippy_does_not_see_needs_its_note() {
        const HERE: &str = "mpnc-ebpf/src/bin/a.rs";
        for text in ["fn f() { unsafe { g() } }", "unsafe impl Send for A {}", "unsafe fn f() {}"] {
            assert_eq!(check(unsafe_code, HERE, text), 1, "{text}");
            assert_eq!(check(unsafe_code, HERE, &format!("// SAFETY: because.\n{text}")), 0, "{text}");
        }
        let far = format!("// SAFETY: too far up.\n{}unsafe impl Send for A {{}}", "\n".repeat(SAFETY_REACH));
        assert_eq!(check(unsafe_code, HERE, &far), 1);
        assert_eq!(check(unsafe_code, HERE, "#[unsafe(no_mangle)]\nstatic A: u8 = 0;"), 0);
    }

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let constants = |lines| "const A: u8 = 0;\n".repeat(lines);
        assert_eq!(check(length, "a.rs", &constants(FILE_LINES)), 0);
        assert_eq!(check(length, "a.rs", &constants(FILE_LINES + 1)), 1);
        assert_eq!(check(length, "tests/a.rs", &constants(FILE_LINES + 1)), 0);
        let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{}\n\n}}\n", constants(FILE_LINES), constants(50));
        assert_eq!(check(length, "a.rs", &with_tests), 0);
        let hidden = format!("#[cfg(test)]\nuse a::b;\n{}#[cfg(test)]\nmod tests {{}}\n", constants(FILE_LINES + 1));
        assert_eq!(check(length, "a.rs", &hidden), 1);
    }

    #[test]
    fn wide_lines_are_found_but_in_tables() {
        assert!(include_str!("../../../rustfmt.toml").contains(&format!("max_width = {WIDTH}\n")));
        for (before, found) in [("// ", 1), ("/// ", 1), ("const A: &str = \"", 1), ("//! | ", 0), ("    /// | ", 0)] {
            let line = |columns: usize| format!("{before}{}", "\u{e9}".repeat(columns - before.len()));
            assert_eq!(lines(&line(WIDTH)), 0, "{before}");
            assert_eq!(lines(&line(WIDTH + 1)), found, "{before}");
        }
    }

    /// How many lines of a text are too wide, be it Rust or not.
    fn lines(text: &str) -> usize {
        let mut file = SourceFile::parse("a.rs", "", false).unwrap();
        file.text = text.into();
        width(&file).len()
    }

    #[test]
    fn silenced_code_is_found() {
        for text in ["#[allow(dead_code)]\nfn f() {}", "#[expect(dead_code, reason = \"later\")]\nfn f() {}"] {
            assert_eq!(check(unfinished, "a.rs", text), 1, "{text}");
        }
        assert_eq!(check(unfinished, "a.rs", "// ignore\nfn f() { ignore() }"), 0);
    }

    #[test]
    fn marks_of_unfinished_work_are_found_as_words() {
        for marker in MARKERS {
            let found = markers("a.toml", &format!("fine\n# {marker}: later\n"));
            assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), [2]);
            assert_eq!(markers("a.toml", &format!("a{marker}b")).len(), 0);
        }
    }
}
