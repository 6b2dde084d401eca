use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// Tables of ftfy 6.3.1 and of Python's `html.entities`, written by `tests/reference/text_tables.py`.
#[derive(Deserialize)]
pub(super) struct TextTables {
    /// What hardly occurs but in mojibake, as a regular expression.
    pub(super) badness: String,
    /// What looks like UTF-8 read as a one-byte encoding, as a regular expression.
    pub(super) utf8_detector: String,
    /// What must not stand before a match of `utf8_detector`, as a class.
    pub(super) utf8_continuation_strict: String,
    /// Bytes 128 to 255 of each one-byte encoding, by Python's name of it.
    pub(super) charmaps: HashMap<String, String>,
    /// Full-width and half-width forms to the usual ones.
    pub(super) width: HashMap<char, String>,
    /// Latin ligatures to their letters.
    pub(super) ligatures: HashMap<char, String>,
    /// Names of HTML 5, some without their semicolon.
    pub(super) html5: HashMap<String, String>,
    /// Upper-case spellings of those names that ftfy reads too.
    pub(super) html5_upper: HashMap<String, String>,
    /// Numeric character references that mean something other than their number.
    pub(super) charrefs: HashMap<u32, String>,
}

/// The tables, read when the first caption needs them.
pub(super) static TABLES: LazyLock<TextTables> = LazyLock::new(|| {
    serde_json::from_str(include_str!("data/text_tables.json"))
        // invariant: the file is part of the program, and the tests below read it.
        .expect("text_tables.json is well-formed")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_there() {
        assert_eq!(TABLES.html5.len(), 2231);
        assert!(
            TABLES
                .charmaps
                .values()
                .all(|map| map.chars().count() == 128)
        );
        assert_eq!(TABLES.charmaps.len(), 10);
        assert_eq!(TABLES.width[&'Ａ'], "A");
        assert_eq!(TABLES.ligatures[&'ﬁ'], "fi");
        assert_eq!(TABLES.charrefs[&0x80], "€");
    }
}
