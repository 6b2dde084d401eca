//! A port of ftfy 6.3.1's `fix_text` with its default settings (Apache-2.0, Robyn Speer): captions crawled
//! from the web hold UTF-8 that was once read as another encoding, and CLIP's vocabulary was made after this repair.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Regex, bytes};
use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};

use super::html::unescape_unambiguous;
use super::tables::TABLES;

/// Longest piece repaired at once, in characters; ftfy's `max_decode_length`.
const MAX_SEGMENT: usize = 1_000_000;

/// One-byte encodings that UTF-8 is read as by mistake, in the order in which they are tried.
const ENCODINGS: [&str; 10] = [
    "latin-1",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "sloppy-windows-1253",
    "sloppy-windows-1254",
    "sloppy-windows-1257",
    "iso-8859-2",
    "macroman",
    "cp437",
];

/// The byte that stands for a character already lost.
const SUBSTITUTE: u8 = 0x1a;

struct Patterns {
    badness: Regex,
    utf8_detector: Regex,
    utf8_continuation_strict: Regex,
    altered_utf8: bytes::Regex,
    lossy_utf8: bytes::Regex,
    terminal_escape: Regex,
    charmaps: Vec<HashMap<char, u8>>,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    // invariant: the patterns are constants of the program, compiled by the tests.
    let text = |pattern: &str| Regex::new(pattern).expect("valid");
    // invariant: as above.
    let bytes = |pattern: &str| bytes::Regex::new(pattern).expect("valid");
    Patterns {
        badness: text(&TABLES.badness),
        utf8_detector: text(&TABLES.utf8_detector),
        utf8_continuation_strict: text(&TABLES.utf8_continuation_strict),
        // UTF-8 in which a byte A0 became a space.
        altered_utf8: bytes(concat!(
            r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9][ ]",
            r"|[\xe2\xe3][ ][\x80-\x84\x86-\x9f\xa1-\xbf]",
            r"|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf][ ]",
            r"|[\xf0][ ][\x80-\xbf][\x80-\xbf]",
            r"|[\xf0][\x80-\xbf][ ][\x80-\xbf]",
            r"|[\xf0][\x80-\xbf][\x80-\xbf][ ]",
        )),
        // UTF-8 in which some continuation bytes are lost.
        lossy_utf8: bytes(concat!(
            r"(?-u)[\xc2-\xdf][\x1a]",
            r"|[\xc2-\xc3][?]",
            r"|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
            r"|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
            r"|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
            r"|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
            r"|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
            r"|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
            r"|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
            r"|\x1a",
        )),
        terminal_escape: text(r"\x1b\[[\d;]*[a-zA-Z]"),
        charmaps: ENCODINGS.iter().map(|name| charmap(name)).collect(),
    }
});

fn charmap(name: &str) -> HashMap<char, u8> {
    let high = TABLES.charmaps[name].chars().zip(128..=u8::MAX);
    let ascii = (0u8..128).map(|byte| (char::from(byte), byte));
    let mut map: HashMap<char, u8> = ascii.chain(high).collect();
    if name.starts_with("sloppy") {
        map.remove(&char::from(SUBSTITUTE));
        map.insert(char::REPLACEMENT_CHARACTER, SUBSTITUTE);
    }
    map
}

/// Repairs mojibake and typography: ftfy's `fix_text`.
pub(super) fn fix_text(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut unescape = true;
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let longest = rest
            .char_indices()
            .nth(MAX_SEGMENT)
            .map_or(rest.len(), |(end, _)| end);
        let (segment, after) = rest.split_at(line.min(longest));
        // Text with a `<` may be HTML itself, whose entities must stay.
        unescape &= !segment.contains('<');
        fixed.push_str(&fix_segment(segment, unescape));
        rest = after;
    }
    fixed
}

fn fix_segment(text: &str, unescape: bool) -> String {
    let mut text = text.to_owned();
    loop {
        let mut fixed = if unescape {
            unescape_unambiguous(&text)
        } else {
            text.clone()
        };
        fixed = fix_encoding(&fixed);
        fixed = fix_characters(&fix_c1_controls(&fixed));
        fixed = PATTERNS
            .terminal_escape
            .replace_all(&fixed, "")
            .into_owned();
        fixed.retain(|c| !is_stray_control(c));
        fixed = compose(&fixed);
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

/// Unicode's normal form C.
fn compose(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut normalized = NormalizedString::from(text);
    match NFC.normalize(&mut normalized) {
        Ok(()) => normalized.get().to_owned(),
        Err(_) => text.to_owned(),
    }
}

/// Ligatures, widths, curly quotes and line breaks.
fn fix_characters(text: &str) -> String {
    // Each pass sees the result of the one before, as in ftfy: `ŉ` gives `ʼn`, whose quote is then made straight.
    let mut fixed = String::with_capacity(text.len());
    let ligatures = text
        .chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match TABLES.ligatures.get(&c) {
                Some(letters) => out.push_str(letters),
                None => out.push(c),
            }
            out
        });
    for c in ligatures.chars() {
        match TABLES.width.get(&c) {
            Some(usual) => fixed.push_str(usual),
            None => fixed.push(match c {
                '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
                '\u{201c}'..='\u{201f}' => '"',
                '\u{2028}' | '\u{2029}' | '\u{85}' => '\n',
                c => c,
            }),
        }
    }
    fixed.replace("\r\n", "\n").replace('\r', "\n")
}

fn is_stray_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

fn is_bad(text: &str) -> bool {
    PATTERNS.badness.is_match(text)
}

fn fix_encoding(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let fixed = fix_encoding_once(&text);
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

fn fix_encoding_once(text: &str) -> String {
    if text.is_ascii() || !is_bad(text) {
        return text.to_owned();
    }
    let mut latin_1 = None;
    for (name, charmap) in ENCODINGS.iter().zip(&PATTERNS.charmaps) {
        let encoded: Option<Vec<u8>> = text.chars().map(|c| charmap.get(&c).copied()).collect();
        let Some(encoded) = encoded else { continue };
        if let Some(fixed) = decode_utf8(encoded.clone(), name) {
            return fixed;
        }
        if *name == "latin-1" {
            latin_1 = Some(encoded);
        }
    }
    let fixed = decode_inconsistent_utf8(text);
    if fixed != text {
        return fixed;
    }
    // Latin-1 was meant to be Windows-1252; nobody wants the control characters that tell the two apart.
    if let Some(fixed) = latin_1.and_then(|bytes| decode_windows_1252(&bytes))
        && fixed != text
    {
        return fixed;
    }
    fix_c1_controls(text)
}

/// Reads `bytes`, which were once read as `encoding`, as the UTF-8 that they were, damage repaired.
fn decode_utf8(mut bytes: Vec<u8>, encoding: &str) -> Option<String> {
    // MacRoman would match an en dash before a space.
    if encoding != "macroman" && PATTERNS.altered_utf8.is_match(&bytes) {
        bytes = restore_byte_a0(&bytes);
    }
    if encoding.starts_with("sloppy") {
        let lost: &[u8] = "\u{fffd}".as_bytes();
        bytes = PATTERNS.lossy_utf8.replace_all(&bytes, lost).into_owned();
    }
    String::from_utf8(decode_variants(bytes)).ok()
}

/// `Ã la` was `à la`, and other sequences are whole again when a space is the byte A0.
fn restore_byte_a0(bytes: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut restored = Vec::with_capacity(bytes.len() + 4);
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        restored.push(first);
        rest = after;
        if first == 0xc3
            && let Some(after) = rest.strip_prefix(b" ")
            && !WORDS.iter().any(|word| after.starts_with(word))
        {
            restored.extend_from_slice(b"\xa0 ");
            rest = after;
        }
    }
    PATTERNS
        .altered_utf8
        .replace_all(&restored, |found: &bytes::Captures<'_>| {
            found[0]
                .iter()
                .map(|&byte| if byte == b' ' { 0xa0 } else { byte })
                .collect::<Vec<u8>>()
        })
        .into_owned()
}

/// Java's null and surrogate pairs written as two sequences, to proper UTF-8.
fn decode_variants(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.iter().any(|byte| matches!(byte, 0xc0 | 0xed)) {
        return bytes;
    }
    let mut proper = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let Some((&first, after)) = rest.split_first() {
        match *rest {
            [0xc0, 0x80, ..] => {
                proper.push(0);
                rest = &rest[2..];
            }
            [
                0xed,
                a @ 0xa0..=0xaf,
                b @ 0x80..=0xbf,
                0xed,
                c @ 0xb0..=0xbf,
                d @ 0x80..=0xbf,
                ..,
            ] => {
                let bits = |byte: u8, mask: u8| u32::from(byte & mask);
                let code = (bits(a, 0x0f) << 16)
                    + (bits(b, 0x3f) << 10)
                    + (bits(c, 0x0f) << 6)
                    + bits(d, 0x3f)
                    + 0x10000;
                let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                proper.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[6..];
            }
            _ => {
                proper.push(first);
                rest = after;
            }
        }
    }
    proper
}

/// Repairs each run that looks like UTF-8 by itself, where the text as a whole isn't of one encoding.
fn decode_inconsistent_utf8(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut done = 0;
    let mut from = 0;
    while let Some(found) = PATTERNS.utf8_detector.find_at(text, from) {
        let before = text[..found.start()].chars().next_back();
        let first = found.as_str().chars().next().map_or(1, char::len_utf8);
        if before.is_some_and(|c| {
            PATTERNS
                .utf8_continuation_strict
                .is_match(c.encode_utf8(&mut [0; 4]))
        }) {
            from = found.start() + first;
            continue;
        }
        fixed.push_str(&text[done..found.start()]);
        // The whole text again would not end.
        if found.len() < text.len() && is_bad(found.as_str()) {
            fixed.push_str(&fix_encoding(found.as_str()));
        } else {
            fixed.push_str(found.as_str());
        }
        done = found.end();
        from = done;
    }
    fixed.push_str(&text[done..]);
    fixed
}

/// What a byte from 80 to 9F is in Windows-1252; itself where that assigns nothing.
fn windows_1252(control: char) -> char {
    let map = &TABLES.charmaps["sloppy-windows-1252"];
    map.chars().nth(control as usize - 0x80).unwrap_or(control)
}

fn decode_windows_1252(latin_1: &[u8]) -> Option<String> {
    latin_1
        .iter()
        .map(|&byte| match byte {
            0x81 | 0x8d | 0x8f | 0x90 | 0x9d => None,
            0x80..=0x9f => Some(windows_1252(char::from(byte))),
            _ => Some(char::from(byte)),
        })
        .collect()
}

/// Control characters from 80 to 9F are read as Windows-1252, as browsers do.
fn fix_c1_controls(text: &str) -> String {
    text.chars()
        .map(|c| {
            if matches!(c, '\u{80}'..='\u{9f}') {
                windows_1252(c)
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ftfy_repairs_is_repaired() {
        // Results of ftfy 6.3.1.
        for (text, expected) in [
            ("âœ” No problems", "✔ No problems"),
            ("&macr;\\_(ã\u{83}\u{84})_/&macr;", "¯\\_(ツ)_/¯"),
            ("voilÃ le travail", "voilà le travail"),
            ("sÃ³", "só"),
            ("â€œ like this â€\u{fffd}", "\" like this \u{fffd}"),
            ("l’humanitÃ©", "l'humanité"),
            ("ðŸ˜€ grinning", "😀 grinning"),
            ("\u{1b}[36;44mblue\u{1b}[0m", "blue"),
            ("ŉ", "'n"),
        ] {
            assert_eq!(fix_text(text), expected, "{text}");
        }
    }

    #[test]
    fn sound_text_stays() {
        for text in [
            "naïve café",
            "日本語",
            "Ça va à l'école",
            "ÅÄÖ",
            "10 °C ± 2",
            "Ольга",
            "été",
        ] {
            assert_eq!(fix_text(text), text);
        }
    }
}
