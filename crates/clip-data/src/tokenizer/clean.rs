use std::borrow::Cow;

use super::html::unescape;
use super::mojibake::fix_text;

/// How a text is cleaned before it is split. All repair mojibake, unescape HTML twice and collapse white space.
///
/// # References
/// `get_clean_fn` in `open_clip/tokenizer.py`, with ftfy's `fix_text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clean {
    /// Nothing more.
    Whitespace,
    /// And lower case: CLIP's.
    Lower,
    /// And lower case without punctuation, `_` being a space: SigLIP's.
    Canonicalize,
}

impl Clean {
    /// OpenCLIP's names.
    pub(super) const NAMES: [(&'static str, Self); 3] = [
        ("whitespace", Self::Whitespace),
        ("lower", Self::Lower),
        ("canonicalize", Self::Canonicalize),
    ];

    pub(super) fn by_name(name: &str) -> Option<Self> {
        let same = |(known, _): &&(&str, Self)| *known == name;
        Self::NAMES.iter().find(same).map(|(_, clean)| *clean)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Whitespace => "whitespace",
            Self::Lower => "lower",
            Self::Canonicalize => "canonicalize",
        }
    }

    pub(super) fn apply(self, text: &str) -> String {
        match self {
            Self::Whitespace => collapse(&repair(text)),
            Self::Lower => clean_caption(text),
            Self::Canonicalize => {
                // Python's `string.punctuation` is ASCII's.
                let letters = repair(text)
                    .replace('_', " ")
                    .replace(|c: char| c.is_ascii_punctuation(), "");
                collapse(&letters.to_lowercase())
            }
        }
    }
}

/// A caption as CLIP's tokenizer sees it: mojibake repaired, HTML unescaped twice, white space collapsed, lower case.
///
/// # References
/// `_clean_lower` in `open_clip/tokenizer.py`, with ftfy's `fix_text`.
pub fn clean_caption(text: &str) -> String {
    let mut clean = collapse(&repair(text));
    if clean.is_ascii() {
        clean.make_ascii_lowercase();
        clean
    } else {
        clean.to_lowercase()
    }
}

/// Mojibake repaired, HTML unescaped twice.
fn repair(text: &str) -> Cow<'_, str> {
    // Printable ASCII without an ampersand has nothing to repair or unescape; nearly every caption is that.
    let plain = text
        .bytes()
        .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~') && byte != b'&');
    if plain {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(unescape(&unescape(&fix_text(text))))
    }
}

/// One space between words, none around them.
fn collapse(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    clean
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
