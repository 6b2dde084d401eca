use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use foldhash::fast::RandomState;
use tokenizers::{Model, models::bpe::BPE};

use super::clean::clean_caption;
use super::split::words;
use super::text::Encoded;
use super::vocabulary::{Vocabulary, byte_characters, character_bytes};
use crate::DataError;

/// Words whose tokens are kept. English captions by the million use fewer than 65,536 words more than once.
const MAX_CACHED_WORDS: usize = 1 << 16;
/// Longer words don't come again.
const MAX_CACHED_BYTES: usize = 32;

/// A tokenizer of CLIP's kind: the reference's word pattern, and byte-level BPE over a vocabulary.
pub(super) struct ClipTokenizer {
    pub(super) vocabulary: Vocabulary,
    bpe: BPE,
    /// The padding token where the vocabulary has one of its own, start and end.
    special: Vec<String>,
    special_ids: Vec<u32>,
    characters: [char; 256],
    /// Asked for every word, so with a cheap hash; it is bounded, so that words chosen to collide can't fill it.
    cache: RwLock<HashMap<Box<str>, Box<[u32]>, RandomState>>,
}

impl ClipTokenizer {
    pub(super) fn new(vocabulary: Vocabulary, origin: &str) -> Result<Self, DataError> {
        let special_ids = vocabulary.special_ids();
        let name = |id: &u32| vocabulary.tokens[*id as usize].clone();
        Ok(Self {
            bpe: vocabulary.bpe(origin)?,
            special: special_ids.iter().map(name).collect(),
            special_ids,
            characters: byte_characters(),
            cache: RwLock::default(),
            vocabulary,
        })
    }

    /// The ids of a caption, from start to end of text, which it ends with even if it is cut.
    pub(super) fn encode(&self, text: &str, context_length: usize) -> Encoded {
        let clean = clean_caption(text);
        let mut ids = Vec::with_capacity(context_length.min(2 + clean.len()));
        ids.push(self.vocabulary.sot());
        let mut unknown = Vec::new();
        {
            let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
            for word in words(&clean, &self.special) {
                // One token too many already tells that the caption is cut.
                if ids.len() >= context_length {
                    break;
                }
                if let Some(known) = cache.get(word) {
                    ids.extend_from_slice(known);
                } else {
                    let tokens = self.encode_word(word);
                    ids.extend_from_slice(&tokens);
                    if word.len() <= MAX_CACHED_BYTES {
                        unknown.push((word, tokens));
                    }
                }
            }
        }
        if !unknown.is_empty() {
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            for (word, tokens) in unknown {
                if cache.len() < MAX_CACHED_WORDS {
                    cache.insert(word.into(), tokens.into());
                }
            }
        }
        let truncated = ids.len() >= context_length;
        ids.truncate(context_length.saturating_sub(1));
        if context_length > 0 {
            ids.push(self.vocabulary.eot());
        }
        Encoded { ids, truncated }
    }

    fn encode_word(&self, word: &str) -> Vec<u32> {
        if word.starts_with('<')
            && let Some(at) = self.special.iter().position(|token| token == word)
        {
            return vec![self.special_ids[at]];
        }
        let symbols: String = word
            .bytes()
            .map(|byte| self.characters[usize::from(byte)])
            .collect();
        self.bpe
            .tokenize(&symbols)
            .map(|tokens| tokens.into_iter().map(|token| token.id).collect())
            // invariant: a `Vocabulary` has a token for every byte, so there is no word that can't be encoded.
            .expect("every byte has a token")
    }

    /// The text of token ids, in lower case and with a space after each word. Special and unknown ids are left out.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let bytes = character_bytes();
        let mut text = Vec::new();
        for id in ids.iter().filter(|id| !self.special_ids.contains(id)) {
            let Some(token) = self.vocabulary.tokens.get(*id as usize) else {
                continue;
            };
            let (part, space) = match token.strip_suffix("</w>") {
                Some(part) => (part, &b" "[..]),
                None => (token.as_str(), &b""[..]),
            };
            text.extend(part.chars().filter_map(|c| bytes.get(&c)));
            text.extend_from_slice(space);
        }
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;

    fn trained() -> Tokenizer {
        let captions = ["a red circle", "a red square", "a blue circle", "wow!"].map(String::from);
        Tokenizer::train(captions.into_iter(), 530).unwrap()
    }

    #[test]
    fn a_truncated_caption_ends_with_the_end() {
        let tokenizer = trained();
        let whole = tokenizer.encode("a red circle", 32);
        assert!(!whole.truncated);
        assert_eq!((whole.ids[0], whole.ids.last().copied()), (528, Some(529)));
        let length = whole.ids.len();
        assert_eq!(tokenizer.encode("a red circle", length), whole);
        let cut = tokenizer.encode("a red circle", length - 1);
        assert!(cut.truncated);
        assert_eq!(cut.ids.len(), length - 1);
        assert_eq!(cut.ids[..length - 2], whole.ids[..length - 2]);
        assert_eq!(cut.ids.last(), Some(&529));
        for (context, expected) in [(0, vec![]), (1, vec![529]), (2, vec![528, 529])] {
            assert_eq!(tokenizer.encode("a red circle", context).ids, expected);
        }
    }

    #[test]
    fn padding_never_occurs_in_text() {
        let tokenizer = trained();
        let ids = tokenizer.encode("wow! !!! ! what?!", 77).ids;
        assert!(tokenizer.has_padding_token());
        assert!(!ids.contains(&0), "{ids:?}");
    }

    #[test]
    fn decoding_gives_the_cleaned_text_back() {
        let tokenizer = trained();
        for text in ["a red circle", "日本 😀 naïve", "it 's <b>"] {
            assert_eq!(
                tokenizer.decode(&tokenizer.encode(text, 77).ids),
                text.replace("<b>", "< b >")
            );
        }
    }

    #[test]
    fn words_from_the_cache_are_those_of_the_model() {
        let tokenizer = trained();
        let first = tokenizer.encode("a red square blue", 77);
        assert_eq!(tokenizer.encode("a red square blue", 77), first);
    }
}
