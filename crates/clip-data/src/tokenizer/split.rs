use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Letters that the contractions `'s`, `'t`, `'m` and `'d` end in. The reference ignores case, and `ſ` is an `s`.
const CONTRACTED: [char; 5] = ['s', 'ſ', 't', 'm', 'd'];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Letter,
    Number,
    Other,
}

/// The ranges of `\p{L}` and `\p{N}` above ASCII, sorted.
static RANGES: LazyLock<Vec<(char, char, Kind)>> = LazyLock::new(|| {
    let mut ranges: Vec<(char, char, Kind)> = [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number)]
        .into_iter()
        .flat_map(|(class, kind)| {
            let hir = regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind);
            let Ok(HirKind::Class(Class::Unicode(class))) = hir else {
                // invariant: both constants are Unicode classes, and the tests read them.
                unreachable!("{class} is a Unicode class")
            };
            class
                .iter()
                .map(|range| (range.start(), range.end(), kind))
                .collect::<Vec<_>>()
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.0);
    ranges
});

fn kind(c: char) -> Kind {
    match c {
        'a'..='z' | 'A'..='Z' => Kind::Letter,
        '0'..='9' => Kind::Number,
        ' ' | '\t'..='\r' => Kind::Space,
        '\0'..='\x7f' => Kind::Other,
        _ if c.is_whitespace() => Kind::Space,
        _ => {
            let after = RANGES.partition_point(|range| range.0 <= c);
            match after.checked_sub(1).map(|at| RANGES[at]) {
                Some((_, end, kind)) if c <= end => kind,
                _ => Kind::Other,
            }
        }
    }
}

/// The words of a cleaned caption: special tokens, English contractions, runs of letters, single digits, runs of the rest.
///
/// It is the reference's pattern
/// `<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`
/// without a regular expression, since the pattern costs more than the rest of the encoding.
pub(super) fn words<'a>(text: &'a str, special: &'a [String]) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let first = rest.chars().next()?;
            let length = match kind(first) {
                Kind::Space => {
                    rest = &rest[first.len_utf8()..];
                    continue;
                }
                Kind::Number => first.len_utf8(),
                Kind::Letter => run(rest, Kind::Letter),
                Kind::Other => special_token(rest, special)
                    .or_else(|| contraction(rest))
                    .unwrap_or_else(|| run(rest, Kind::Other)),
            };
            let (word, after) = rest.split_at(length);
            rest = after;
            return Some(word);
        }
    })
}

fn run(text: &str, of: Kind) -> usize {
    text.char_indices()
        .find(|&(_, c)| kind(c) != of)
        .map_or(text.len(), |(end, _)| end)
}

fn special_token(text: &str, special: &[String]) -> Option<usize> {
    if !text.starts_with('<') {
        return None;
    }
    special
        .iter()
        .find(|token| text.starts_with(token.as_str()))
        .map(String::len)
}

fn contraction(text: &str) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    if ["re", "ve", "ll"].iter().any(|end| after.starts_with(end)) {
        return Some(3);
    }
    let first = after.chars().next()?;
    CONTRACTED.contains(&first).then(|| 1 + first.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        let special = ["<start_of_text>".to_owned(), "<end_of_text>".to_owned()];
        // The words borrow the list as well as the text.
        words(text, Box::leak(Box::new(special))).collect()
    }

    #[test]
    fn words_are_those_of_the_reference_pattern() {
        for (text, expected) in [
            ("a dog's 12th", vec!["a", "dog", "'s", "1", "2", "th"]),
            (
                "we're they'll i'd 'em",
                vec!["we", "'re", "they", "'ll", "i", "'d", "'", "em"],
            ),
            ("don't!?...", vec!["don", "'t", "!?..."]),
            ("!'s", vec!["!'", "s"]),
            ("日本語2", vec!["日本語", "2"]),
            ("x²½", vec!["x", "²", "½"]),
            ("e\u{301}a", vec!["e", "\u{301}", "a"]),
            (
                "<end_of_text>a<start_of_text>",
                vec!["<end_of_text>", "a", "<start_of_text>"],
            ),
            (
                "!<end_of_text>",
                vec!["!<", "end", "_", "of", "_", "text", ">"],
            ),
            ("'ſx", vec!["'ſ", "x"]),
            (" \u{a0} ", vec![]),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
