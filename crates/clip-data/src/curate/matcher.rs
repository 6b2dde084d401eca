use std::{collections::HashSet, fs, path::Path};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::spaced::spaced;
use crate::{DataError, clean_caption};

/// A list of queries, and a machine that finds all of them in a caption at once.
#[derive(Clone, Debug)]
pub struct Queries {
    list: Vec<String>,
    automaton: AhoCorasick,
    repeated: usize,
}

impl Queries {
    /// Reads a list: a query a line, or a JSON list of strings, such as `MetaCLIP`'s `metadata.json`. A file named so is JSON
    /// and nothing else.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Queries`].
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        let origin = path.display().to_string();
        let named_json = path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("json"));
        if named_json || text.trim_start().starts_with('[') {
            match serde_json::from_str::<Vec<String>>(&text) {
                Ok(queries) => return Self::new(queries.iter().map(String::as_str), &origin),
                Err(error) if named_json => {
                    return Err(DataError::Queries {
                        origin,
                        reason: format!("it is not a JSON list of strings: {error}"),
                    });
                }
                // Lines of which the first begins with a bracket.
                Err(_) => {}
            }
        }
        Self::new(text.lines(), &origin)
    }

    /// Makes the machine. Queries that are the same in lower case and with the same spaces are one; blank ones are none.
    ///
    /// # Errors
    /// [`DataError::Queries`] if none is left, or they are too many.
    pub fn new<'a>(
        queries: impl IntoIterator<Item = &'a str>,
        origin: &str,
    ) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Queries {
            origin: origin.to_owned(),
            reason,
        };
        let mut seen = HashSet::new();
        let (mut patterns, mut list) = (Vec::new(), Vec::new());
        let mut repeated = 0;
        for query in queries {
            let pattern = spaced(query);
            if pattern == " " {
                continue;
            }
            if seen.insert(pattern.clone()) {
                patterns.push(pattern);
                list.push(clean_caption(query));
            } else {
                repeated += 1;
            }
        }
        if patterns.is_empty() {
            return Err(wrong("it holds no query; write one a line".to_owned()));
        }
        // Of 50,000 generated queries it takes 3 MB and finds no slower than a DFA, which takes 22 MB and six times
        // as long to build; of 500,000 it takes 24 MB. `examples/curate.rs` compares them.
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::Standard)
            .build(&patterns)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            list,
            automaton,
            repeated,
        })
    }

    /// The queries, cleaned as captions are, in the list's order.
    pub fn queries(&self) -> &[String] {
        &self.list
    }

    /// Queries of the list that stood in it before.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// Numbers of the queries that any of the captions holds, rising, each once.
    pub fn find(&self, captions: &[String]) -> Vec<u32> {
        let mut found = Vec::new();
        for caption in captions {
            let text = spaced(caption);
            let matches = self.automaton.find_overlapping_iter(&text);
            found.extend(matches.map(|found| found.pattern().as_u32()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(queries: &Queries, captions: &[&str]) -> Vec<String> {
        let captions: Vec<String> = captions.iter().map(|&caption| caption.to_owned()).collect();
        let name = |query: u32| queries.queries()[query as usize].clone();
        queries.find(&captions).into_iter().map(name).collect()
    }

    #[test]
    fn whole_words_are_found_in_every_caption_of_a_pair() {
        let list = [
            "dog",
            "black dog",
            "black",
            "Cat",
            "it's",
            "cat ",
            "",
            "3.5",
        ];
        let queries = Queries::new(list, "test").unwrap();
        assert_eq!((queries.queries().len(), queries.repeated()), (6, 1));
        assert_eq!(
            found(&queries, &["A BLACK dog."]),
            ["dog", "black dog", "black"]
        );
        assert_eq!(
            found(&queries, &["a cat", "(Dog)", "a cat!"]),
            ["dog", "cat"]
        );
        assert_eq!(found(&queries, &["blackdog, concatenate; dogs"]), [""; 0]);
        assert_eq!(
            found(&queries, &["it's 3.5 km", "It&#39;s"]),
            ["it's", "3.5"]
        );
    }

    /// What `MetaCLIP` does one query at a time.
    #[test]
    fn what_is_found_is_what_a_search_for_each_finds() {
        let words = ["a", "b", "ab", "a b", "b a b", "b b", "c"];
        let queries = Queries::new(words, "test").unwrap();
        let mut state = 1_u32;
        for _ in 0..500 {
            let caption: String = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ['a', 'b', ' ', ' '][(state >> 30) as usize]
                })
                .collect();
            let text = spaced(&caption);
            let expected: Vec<&str> = words
                .into_iter()
                .filter(|word| text.contains(&format!(" {word} ")))
                .collect();
            assert_eq!(found(&queries, &[&caption]), expected, "{caption}");
        }
    }

    #[test]
    fn lists_are_lines_or_json() {
        let dir = tempfile::tempdir().unwrap();
        let load_as = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            Queries::load(&path)
        };
        let load = |text: &str| load_as("queries", text);
        assert_eq!(
            load("dog\n\nblack cat\r\n").unwrap().queries(),
            ["dog", "black cat"]
        );
        assert_eq!(
            load(r#"["dog", "black cat"]"#).unwrap().queries(),
            ["dog", "black cat"]
        );
        assert_eq!(load("[dog]\ncat\n").unwrap().queries(), ["[dog]", "cat"]);
        let error = load_as("queries.json", "[dog]\ncat\n").unwrap_err();
        assert!(error.to_string().contains("JSON list"), "{error}");
        assert!(load(" \n").unwrap_err().to_string().contains("no query"));
    }
}
