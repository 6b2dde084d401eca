use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, BpeTrainer};

use super::clean::clean_caption;
use super::split::words;
use super::vocabulary::{
    ALPHABET, EOT, PAD, SOT, Vocabulary, WORD_END, alphabet_tokens, byte_alphabet,
};
use crate::DataError;

/// Two letters seen together only once say nothing about other captions.
const MIN_FREQUENCY: u64 = 2;
/// Padding, start and end of text.
const SPECIALS: usize = 3;
/// Tokens of the smallest vocabulary that can be learned: the alphabet and the special ones.
pub const LEAST_VOCABULARY: usize = ALPHABET + SPECIALS;

/// The first of the private-use characters that stand for the alphabet's 512 tokens while training. In this form the
/// trainer's own order, by code point, is CLIP's order; left to itself, it numbers word ends in the order of a
/// hash table, and ties between merges would fall differently in each run.
const FIRST_SYMBOL: u32 = 0xe000;

#[derive(Deserialize)]
struct Trained {
    vocab: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
}

/// Learns a vocabulary of exactly `vocab_size` tokens: padding, the alphabet, merges, start and end of text.
pub(super) fn train_vocabulary(
    captions: impl Iterator<Item = String>,
    vocab_size: usize,
) -> Result<Vocabulary, DataError> {
    let wrong = |reason: String| DataError::Tokenizer {
        origin: format!("of {vocab_size} tokens, trained on captions"),
        reason,
    };
    if vocab_size < LEAST_VOCABULARY {
        return Err(wrong(format!(
            "the alphabet and the special tokens alone are {LEAST_VOCABULARY}; use a `vocab_size` of at least that"
        )));
    }
    let counts = count_words(captions);
    if counts.is_empty() {
        return Err(wrong(
            "there is no word in them; check that the shards have captions, or the files text"
                .to_owned(),
        ));
    }
    let symbols = (0..ALPHABET as u32)
        .filter_map(symbol)
        .collect::<HashSet<char>>();
    let trainer = BpeTrainer::builder()
        .min_frequency(MIN_FREQUENCY)
        .vocab_size(vocab_size - SPECIALS)
        .initial_alphabet(symbols)
        .show_progress(false)
        .build();
    let mut model = BPE::default();
    let counts = counts
        .into_iter()
        .map(|(word, count)| (word.into(), count))
        .collect();
    trainer
        .do_train(&counts, &mut model)
        .map_err(|error| wrong(error.to_string()))?;
    let trained = serde_json::to_value(&model)
        .and_then(serde_json::from_value::<Trained>)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(to_clips_layout(&trained, vocab_size))
}

/// How often each word occurs, as symbols. In the order of the alphabet, so that nothing depends on a hash.
fn count_words(captions: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut positions = [0u32; 256];
    for (position, (byte, _)) in byte_alphabet().into_iter().enumerate() {
        positions[usize::from(byte)] = position as u32;
    }
    let mut words_seen: BTreeMap<String, u64> = BTreeMap::new();
    for caption in captions {
        for word in words(&clean_caption(&caption), &[]) {
            match words_seen.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    words_seen.insert(word.to_owned(), 1);
                }
            }
        }
    }
    // The trainer counts pairs in 32 bits. Halving all counts together changes no order that matters.
    let total: u64 = words_seen
        .iter()
        .map(|(word, count)| word.len() as u64 * count)
        .sum();
    let halvings = (0..64)
        .find(|shift| i32::try_from(total >> shift).is_ok())
        .unwrap_or_default();
    words_seen
        .into_iter()
        .map(|(word, count)| {
            let last = word.len() - 1;
            let symbols = word.bytes().enumerate().filter_map(|(at, byte)| {
                let end = if at == last { 256 } else { 0 };
                symbol(positions[usize::from(byte)] + end)
            });
            (symbols.collect(), (count >> halvings).max(1))
        })
        .collect()
}

fn symbol(position: u32) -> Option<char> {
    char::from_u32(FIRST_SYMBOL + position)
}

fn to_clips_layout(trained: &Trained, vocab_size: usize) -> Vocabulary {
    let alphabet = alphabet_tokens();
    let name = |symbols: &String| {
        let mut token: String = symbols
            .chars()
            .filter_map(|c| alphabet.get((u32::from(c) - FIRST_SYMBOL) as usize))
            .map(String::as_str)
            .collect();
        // Word ends stand only at a token's end, so one suffix is all that there is.
        if let Some(at) = token.find(WORD_END) {
            token.truncate(at + WORD_END.len());
        }
        token
    };
    let mut by_id: Vec<(&u32, &String)> = trained
        .vocab
        .iter()
        .map(|(token, id)| (id, token))
        .collect();
    by_id.sort_unstable();
    let mut tokens = vec![PAD.to_owned()];
    tokens.extend(by_id.into_iter().map(|(_, symbols)| name(symbols)));
    // A small corpus runs out of pairs. The rest is filled, so that the model's embedding has the size its preset says;
    // such a token never occurs, because the pattern splits its name at the brackets.
    let unused = (0..).map(|n| format!("<unused_{n}>"));
    let missing = (vocab_size - 2).saturating_sub(tokens.len());
    tokens.extend(unused.take(missing));
    tokens.extend([SOT, EOT].map(str::to_owned));
    let merges = trained
        .merges
        .iter()
        .map(|(first, second)| (name(first), name(second)))
        .collect();
    Vocabulary { tokens, merges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions() -> impl Iterator<Item = String> {
        [
            "A red circle.",
            "a RED square",
            "two red circles &amp; a blue square",
            "café",
        ]
        .map(String::from)
        .into_iter()
    }

    #[test]
    fn a_small_corpus_still_gives_every_id() {
        let vocabulary = train_vocabulary(captions(), 600).unwrap();
        assert_eq!(vocabulary.tokens.len(), 600);
        assert_eq!(vocabulary.tokens[0], PAD);
        assert_eq!(vocabulary.tokens[1], "!");
        assert_eq!(vocabulary.tokens[257], "!</w>");
        assert!(vocabulary.tokens.contains(&"red</w>".to_owned()));
        assert!(vocabulary.tokens[597].starts_with("<unused_"));
    }

    #[test]
    fn the_order_of_captions_changes_nothing() {
        let forward = train_vocabulary(captions(), 560).unwrap();
        let mut reversed: Vec<String> = captions().collect();
        reversed.reverse();
        let backward = train_vocabulary(reversed.into_iter(), 560).unwrap();
        assert_eq!(forward.tokens, backward.tokens);
        assert_eq!(forward.merges, backward.merges);
    }

    #[test]
    fn too_small_a_vocabulary_and_an_empty_corpus_are_refused() {
        let error = train_vocabulary(captions(), 500).err().unwrap().to_string();
        assert!(error.contains("515"), "{error}");
        let error = train_vocabulary(std::iter::empty(), 600)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no word"), "{error}");
    }
}
