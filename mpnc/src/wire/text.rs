//! Text of a peer: cut to what a frame may hold, made fit for a person's screen. Knows no frames.

use super::MAX_TEXT;

/// The longest front of `text` that fits [`MAX_TEXT`] and ends on a character.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Text from a peer: one line that fits a screen, nothing a terminal would act on. Of a long one its front and its end,
/// where the reason stands, are kept.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    const FRONT: usize = 200;
    const BACK: usize = 100;
    let text = String::from_utf8_lossy(bytes);
    let shown: Vec<char> = text.chars().map(|c| if acts(c) { ' ' } else { c }).collect();
    if shown.len() <= FRONT + BACK {
        return shown.into_iter().collect();
    }
    let back = &shown[shown.len() - BACK..];
    shown[..FRONT].iter().chain(&[' ', '.', '.', '.', ' ']).chain(back).collect()
}

/// Whether a terminal acts on it: control characters, and those that turn the direction of what follows or cannot be
/// seen.
fn acts(c: char) -> bool {
    let is_hidden =
        |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || is_hidden(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_peer_is_short_and_keeps_its_end() {
        let text = printable(format!("cannot write to {}: disk full", "é".repeat(500)).as_bytes());
        assert!(text.chars().count() <= 305, "{text}");
        assert!(
            text.starts_with("cannot write to é") && text.ends_with("é: disk full") && text.contains(" ... "),
            "{text}"
        );
        assert_eq!(printable(b"a\xe2\x80\xaeb"), "a b");
    }
}
