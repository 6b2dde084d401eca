use crate::clean_caption;

/// Text as queries are looked for in it: cleaned as for the tokenizer, which lower-cases it, and with a space before
/// and after each word and each mark that may touch one.
///
/// A query between spaces then only matches whole words: `cat` not in `concatenate`, but in `(cat)!`.
///
/// # References
/// `spacing` in `MetaCLIP`'s `substr_matching.py`, which sets off `,.;:?!` and the backquote; quotes and brackets are
/// set off here too, since captions off the web are full of them.
pub(super) fn spaced(text: &str) -> String {
    let clean = clean_caption(text);
    let mut spaced = String::with_capacity(clean.len() + 16);
    spaced.push(' ');
    for c in clean.chars() {
        if matches!(
            c,
            ',' | '.' | ';' | ':' | '?' | '!' | '`' | '"' | '(' | ')' | '[' | ']' | '{' | '}'
        ) {
            if !spaced.ends_with(' ') {
                spaced.push(' ');
            }
            spaced.push(c);
            spaced.push(' ');
        } else if c != ' ' || !spaced.ends_with(' ') {
            spaced.push(c);
        }
    }
    if !spaced.ends_with(' ') {
        spaced.push(' ');
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks_stand_between_single_spaces() {
        for (text, expected) in [
            ("A dog, a  cat.", " a dog , a cat . "),
            ("\"Café\" (2.5 km) it's", " \" café \" ( 2 . 5 km ) it's "),
            ("...", " . . . "),
            ("", " "),
        ] {
            assert_eq!(spaced(text), expected, "{text}");
        }
    }
}
