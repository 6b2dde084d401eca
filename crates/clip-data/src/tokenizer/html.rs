use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::tables::TABLES;

/// Python's `html.unescape`: HTML 5's rules, so a missing semicolon and the longest known prefix count.
///
/// # References
/// <https://docs.python.org/3/library/html.html#html.unescape>
pub(super) fn unescape(text: &str) -> String {
    static REFERENCE: LazyLock<Regex> =
        // invariant: the pattern is a constant, compiled by the tests.
        LazyLock::new(|| {
            Regex::new("&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\u{c} <&#;]{1,32};?)").expect("valid")
        });
    REFERENCE
        .replace_all(text, |found: &Captures<'_>| character(&found[1]))
        .into_owned()
}

/// What ftfy unescapes before it repairs: references that end in a semicolon, and upper-case spellings of names.
pub(super) fn unescape_unambiguous(text: &str) -> String {
    static REFERENCE: LazyLock<Regex> =
        // invariant: the pattern is a constant, compiled by the tests.
        LazyLock::new(|| Regex::new("&(#?[0-9A-Za-z]{1,24};)").expect("valid"));
    REFERENCE
        .replace_all(text, |found: &Captures<'_>| {
            let name = &found[1];
            let named = TABLES
                .html5
                .get(name)
                .or_else(|| TABLES.html5_upper.get(name));
            match named {
                Some(characters) => characters.clone(),
                None if name.starts_with('#') => {
                    let read = unescape(&found[0]);
                    if read.contains(';') {
                        found[0].to_owned()
                    } else {
                        read
                    }
                }
                None => found[0].to_owned(),
            }
        })
        .into_owned()
}

/// What stands after the ampersand, to what it means.
fn character(reference: &str) -> String {
    let Some(number) = reference.strip_prefix('#') else {
        return named(reference);
    };
    let digits = number.trim_end_matches(';');
    let code = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    // A number too large for 32 bits is as invalid as one above U+10FFFF.
    let code = code.unwrap_or(u32::MAX);
    match TABLES.charrefs.get(&code) {
        Some(meant) => meant.clone(),
        None => char::from_u32(code)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
            .to_string(),
    }
}

fn named(name: &str) -> String {
    if let Some(characters) = TABLES.html5.get(name) {
        return characters.clone();
    }
    // `&notit` is `¬it`: the longest prefix of at least two characters that is a name.
    name.char_indices()
        .skip(2)
        .map(|(end, _)| end)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .find_map(|end| {
            Some(format!(
                "{}{}",
                TABLES.html5.get(&name[..end])?,
                &name[end..]
            ))
        })
        .unwrap_or_else(|| format!("&{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_browsers_do() {
        // Results of Python 3.11's html.unescape.
        for (text, expected) in [
            ("a &amp; b", "a & b"),
            ("&lt;b&gt", "<b>"),
            ("&notit; &notin;", "¬it; ∉"),
            ("&#8217;&#x2019;&#X2019", "’’’"),
            (
                "&#128;&#0;&#xD800;&#99999999999;",
                "€\u{fffd}\u{fffd}\u{fffd}",
            ),
            ("&#1;x&#xfdd0;", "x"),
            ("&nosuchthing; & &; &#; &#x;", "&nosuchthing; & &; &#; &#x;"),
            ("&amp;amp;", "&amp;"),
            ("&NotEqualTilde;", "\u{2242}\u{338}"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn only_what_is_unambiguous_is_read_before_repair() {
        for (text, expected) in [
            ("this&not that", "this&not that"),
            ("P&EACUTE;REZ", "PÉREZ"),
            ("&ntilde; &Ntilde; &NTILDE; &nTILDE;", "ñ Ñ Ñ &nTILDE;"),
            ("&#x2019;", "’"),
        ] {
            assert_eq!(unescape_unambiguous(text), expected, "{text}");
        }
    }
}
