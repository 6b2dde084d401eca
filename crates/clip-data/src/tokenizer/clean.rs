use std::borrow::Cow;

use super::html::unescape;
use super::mojibake::fix_text;

/// A caption as CLIP's tokenizer sees it: mojibake repaired, HTML unescaped twice, white space collapsed, lower case.
///
/// # References
/// `_clean_lower` in `open_clip/tokenizer.py`, with ftfy's `fix_text`.
pub fn clean_caption(text: &str) -> String {
    // Printable ASCII without an ampersand has nothing to repair or unescape; nearly every caption is that.
    let plain = text
        .bytes()
        .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~') && byte != b'&');
    let repaired = if plain {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(unescape(&unescape(&fix_text(text))))
    };
    let mut clean = String::with_capacity(repaired.len());
    for word in repaired.split(is_space).filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    if plain {
        clean.make_ascii_lowercase();
        clean
    } else {
        clean.to_lowercase()
    }
}

/// Python's `str.isspace`: Unicode's white space and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_cleaned_as_the_reference_does() {
        // Results of open_clip 3.3.0's `_clean_lower`.
        for (text, expected) in [
            ("  A\tDog \r\n runs ", "a dog runs"),
            ("Caf&amp;eacute; &lt;b&gt;", "café <b>"),
            ("the dogâ€™s bone", "the dog's bone"),
            ("“Curly” quotes’", "\"curly\" quotes'"),
            ("ＦＵＬＬ\u{3000}width ﬁsh", "full width fish"),
            ("ΟΔΟΣ", "οδος"),
            ("a\u{200b}b\u{feff}c\u{0}d", "a\u{200b}bcd"),
            ("", ""),
        ] {
            assert_eq!(clean_caption(text), expected, "{text}");
        }
    }
}
