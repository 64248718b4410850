//! Names of devices as text. The kernel allows every byte but `/`, `:` and blanks (`dev_valid_name`, net/core/dev.c,
//! 6.12): a name need not be UTF-8, and may hold what a terminal takes for a command.
//!
//! Must not know where a name came from.

use std::fmt::Write as _;

/// The bytes as text that can be printed: what is no character, or commands a terminal, becomes `\xNN`. Lines and tabs
/// stay. Names are compared in this form everywhere, so that one source's device is found in another.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' => text.push(character),
                c if c.is_control() => escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Whether a name may stand for other bytes than its own.
pub(super) fn is_escaped(name: &str) -> bool {
    name.contains("\\x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_printed_and_told_from_others() {
        for (bytes, text) in [
            (&b"bond0"[..], "bond0"),
            ("größe0".as_bytes(), "größe0"),
            (b"bond\xff\xfe", "bond\\xff\\xfe"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            ("a\u{85}b".as_bytes(), "a\\xc2\\x85b"),
            (b"", ""),
        ] {
            assert_eq!(printable(bytes), text);
            assert_eq!(is_escaped(text), bytes != text.as_bytes());
        }
        assert_eq!(printable(b"e0 1\n\te1 2\n"), "e0 1\n\te1 2\n");
    }
}
