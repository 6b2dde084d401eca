use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{Corpus, spaced::spaced};
use crate::{DataError, clean_caption};

/// Which words and word pairs of a corpus become queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryConfig {
    /// Times that a word or a pair of words must occur. 100: CLIP section 2.2, of the English Wikipedia.
    pub min_count: u64,
    /// Word pairs at most. `MetaCLIP` found 100,646 in CLIP's list.
    pub max_bigrams: usize,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            min_count: 100,
            max_bigrams: 100_000,
        }
    }
}

/// Queries made of a corpus: words by falling frequency, pairs by falling mutual information, titles as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryList {
    /// All of them, each once.
    pub queries: Vec<String>,
    /// How many are single words.
    pub words: usize,
    /// How many are pairs of words.
    pub bigrams: usize,
    /// How many are titles, which are neither.
    pub titles: usize,
}

/// Makes a list of queries in two passes over a corpus: its frequent words, the pairs of them that occur together
/// far more often than by chance, and titles, such as those of an encyclopedia.
///
/// Memory grows with the number of different words, and of different pairs of frequent words (16 bytes each). The list
/// depends on the corpus alone.
///
/// # Errors
/// Those of [`Corpus::read`], and [`DataError::Queries`] if nothing is frequent enough.
///
/// # References
/// Radford et al. 2021, section 2.2.
pub fn build_queries(
    corpus: &Corpus,
    titles: Option<&Path>,
    config: QueryConfig,
) -> Result<QueryList, DataError> {
    let counts = count_words(corpus, config.min_count)?;
    let ids: HashMap<&str, u32> = counts
        .words
        .iter()
        .zip(0..)
        .map(|((word, _), id)| (word.as_str(), id))
        .collect();
    let mut seen = HashSet::new();
    let mut list = QueryList::default();
    for (word, _) in &counts.words {
        list.words += usize::from(seen.insert(word.clone()));
    }
    list.queries = counts.words.iter().map(|(word, _)| word.clone()).collect();
    for bigram in bigrams(corpus, &counts, &ids, config)? {
        if seen.insert(bigram.clone()) {
            list.bigrams += 1;
            list.queries.push(bigram);
        }
    }
    if let Some(path) = titles {
        let titles = Corpus {
            texts: vec![path.to_owned()],
            shards: None,
        };
        titles.read(|line| {
            let found = spaced(line).trim().to_owned();
            if !found.is_empty() && seen.insert(found) {
                list.titles += 1;
                list.queries.push(clean_caption(line));
            }
            true
        })?;
    }
    if list.queries.is_empty() {
        return Err(DataError::Queries {
            origin: "the corpus".to_owned(),
            reason: format!(
                "no word occurs {} times; give more text, or ask for fewer times",
                config.min_count
            ),
        });
    }
    Ok(list)
}

struct WordCounts {
    /// Frequent words, the most frequent first.
    words: Vec<(String, u64)>,
    /// All words of the corpus.
    total: u64,
}

/// What stands between spaces and is more than a mark.
fn words(spaced: &str) -> impl Iterator<Item = Option<&str>> {
    let is_word = |word: &str| word.contains(char::is_alphanumeric);
    spaced
        .split(' ')
        .filter(|part| !part.is_empty())
        .map(move |part| is_word(part).then_some(part))
}

fn count_words(corpus: &Corpus, min_count: u64) -> Result<WordCounts, DataError> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut total = 0;
    corpus.read(|line| {
        for word in words(&spaced(line)).flatten() {
            total += 1;
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.to_owned(), 1);
                }
            }
        }
        true
    })?;
    counts.retain(|_, count| *count >= min_count);
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(WordCounts { words, total })
}

/// The pairs of frequent words with the most mutual information, `log(p(ab) / p(a) p(b))`.
fn bigrams(
    corpus: &Corpus,
    counts: &WordCounts,
    ids: &HashMap<&str, u32>,
    config: QueryConfig,
) -> Result<Vec<String>, DataError> {
    if config.max_bigrams == 0 {
        return Ok(Vec::new());
    }
    let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
    corpus.read_again(|line| {
        let mut before = None;
        // A mark between two words parts them.
        for word in words(&spaced(line)) {
            let id = word.and_then(|word| ids.get(word).copied());
            if let (Some(first), Some(second)) = (before, id) {
                *pairs.entry((first, second)).or_default() += 1;
            }
            before = id;
        }
        true
    })?;
    pairs.retain(|_, count| *count >= config.min_count);
    let word = |id: u32| &counts.words[id as usize];
    let mut ranked: Vec<(f64, String)> = pairs
        .into_iter()
        .map(|((first, second), count)| {
            let ((a, count_a), (b, count_b)) = (word(first), word(second));
            let by_chance = *count_a as f64 * *count_b as f64 / counts.total as f64;
            ((count as f64 / by_chance).ln(), format!("{a} {b}"))
        })
        // Words that meet less often than by chance name nothing together.
        .filter(|(information, _)| *information > 0.0)
        .collect();
    ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    ranked.truncate(config.max_bigrams);
    Ok(ranked.into_iter().map(|(_, bigram)| bigram).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn frequent_words_telling_pairs_and_titles_become_queries() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "The golden retriever runs.\nA golden retriever, the golden age!\nthe dog. Runs the dog\n";
        let corpus = Corpus {
            texts: vec![write(&dir, "text.txt", lines.as_bytes())],
            shards: None,
        };
        let titles = write(&dir, "titles.txt", b"Golden Retriever\nMona Lisa\n\nDog\n");
        let config = QueryConfig {
            min_count: 2,
            max_bigrams: 10,
        };
        let list = build_queries(&corpus, Some(&titles), config).unwrap();
        assert_eq!((list.words, list.bigrams, list.titles), (5, 3, 1));
        // Sixteen words: 2 of `golden retriever` where 3 * 2 / 16 are expected, 2 of `the dog` for 4 * 2 / 16 and 2 of
        // `the golden` for 4 * 3 / 16. The full stop parts `dog` and `runs`.
        let expected = [
            "the",
            "golden",
            "dog",
            "retriever",
            "runs",
            "golden retriever",
            "the dog",
            "the golden",
            "mona lisa",
        ];
        assert_eq!(list.queries, expected);
        let one = QueryConfig {
            max_bigrams: 1,
            ..config
        };
        assert_eq!(build_queries(&corpus, None, one).unwrap().queries.len(), 6);
        let rare = QueryConfig {
            min_count: 100,
            ..config
        };
        let error = build_queries(&corpus, None, rare).unwrap_err().to_string();
        assert!(error.contains("no word occurs 100 times"), "{error}");
    }
}
