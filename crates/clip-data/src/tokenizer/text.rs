use std::fmt;
use std::path::Path;

use super::clip::ClipTokenizer;
use super::hugging_face::HuggingFaceTokenizer;
use super::openai::clip_vocabulary;
use super::train::train_vocabulary;
use super::vocabulary::Vocabulary;
use crate::DataError;

/// A text is cut before it is encoded, to a length that no context needs: a token of real text has some five bytes.
const BYTES_A_TOKEN: usize = 64;
/// But not to less: so much is encoded in a few milliseconds.
const MIN_BYTES: usize = 64 << 10;

/// A model's tokenizer.
///
/// Those of CLIP's kind clean a text, split it by the reference's word pattern and apply byte-level BPE:
/// [`Tokenizer::clip`] has CLIP's own 49,408 tokens, [`Tokenizer::train`] a vocabulary of any size learned from captions.
/// In both, start and end of text are the last two ids, so that OpenCLIP's `argmax` finds the end; texts are padded with 0.
/// [`Tokenizer::load`] reads besides what Hugging Face's `tokenizers` runs, such as SigLIP's, BERT's and `RoBERTa`'s. Ids are those of
/// OpenCLIP's tokenizers over the same files.
///
/// # References
/// Radford et al. 2021, section 2.4; `SimpleTokenizer` and `HFTokenizer` in `open_clip/tokenizer.py`.
pub struct Tokenizer {
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Clip(Box<ClipTokenizer>),
    HuggingFace(Box<HuggingFaceTokenizer>),
}

/// A caption as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// From start to end of text, not padded.
    pub ids: Vec<u32>,
    /// Whether the caption was longer than the context, and lost its end.
    pub truncated: bool,
}

impl Tokenizer {
    /// CLIP's own vocabulary, of 49,408 tokens.
    pub fn clip() -> Self {
        Self::from_vocabulary(clip_vocabulary(), "CLIP's own vocabulary")
            // invariant: the vocabulary is part of the program, and the tests read all of it.
            .expect("the built-in vocabulary is whole")
    }

    /// Learns a vocabulary of exactly `vocab_size` tokens from captions, the same for the same captions in any order.
    ///
    /// Id 0 is padding, 1 to 512 are the bytes within a word and at its end, then come the merges, and start and end of
    /// text are the last two. Where the captions hold too few pairs to merge, unused tokens fill the rest, so that a
    /// model's embedding always has `vocab_size` rows.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] for a `vocab_size` below 515, or captions without a single word.
    pub fn train(
        captions: impl Iterator<Item = String>,
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        let vocabulary = train_vocabulary(captions, vocab_size)?;
        Self::from_vocabulary(vocabulary, "trained on captions")
    }

    pub(super) fn from_vocabulary(vocabulary: Vocabulary, origin: &str) -> Result<Self, DataError> {
        let tokenizer = ClipTokenizer::new(vocabulary, origin)?;
        Ok(Self {
            kind: Kind::Clip(Box::new(tokenizer)),
        })
    }

    /// Reads a tokenizer, to be used as OpenCLIP does without keyword arguments. See [`Tokenizer::load_with`].
    ///
    /// # Errors
    /// As there.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        Self::load_with(path, None)
    }

    /// Whether an id means the same word to both, so that embeddings of the one serve the other. What start and end of text
    /// are called doesn't matter.
    pub fn has_same_words(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Clip(a), Kind::Clip(b)) => a.vocabulary.has_same_words(&b.vocabulary),
            (Kind::HuggingFace(a), Kind::HuggingFace(b)) => a.words() == b.words(),
            _ => false,
        }
    }

    /// Tokens of the vocabulary, the special ones included: rows that the model's token embedding needs.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Clip(clip) => clip.vocabulary.tokens.len(),
            Kind::HuggingFace(other) => other.vocab_size(),
        }
    }

    /// Whether a model with a token embedding of `rows` can use it. Of CLIP's kind, the last id has a meaning for the
    /// model; other vocabularies may be smaller than the embedding, as BERT's is than CLIPA's.
    pub fn fits(&self, rows: usize) -> bool {
        match &self.kind {
            Kind::Clip(_) => self.vocab_size() == rows,
            Kind::HuggingFace(_) => self.vocab_size() <= rows,
        }
    }

    /// Ids of start and end of text, the highest two, of a tokenizer of CLIP's kind.
    pub fn start_and_end(&self) -> Option<[u32; 2]> {
        match &self.kind {
            Kind::Clip(clip) => Some([clip.vocabulary.sot(), clip.vocabulary.eot()]),
            Kind::HuggingFace(_) => None,
        }
    }

    /// The id that texts are padded with.
    pub fn pad_id(&self) -> u32 {
        match &self.kind {
            Kind::Clip(_) => 0,
            Kind::HuggingFace(other) => other.pad_id(),
        }
    }

    /// Whether id 0 is a padding token, as in trained vocabularies; in CLIP's own, it is also `!`.
    pub fn has_padding_token(&self) -> bool {
        match &self.kind {
            Kind::Clip(clip) => clip.vocabulary.padded(),
            Kind::HuggingFace(other) => other.pad_id() == 0,
        }
    }

    /// The ids of a caption, with those that stand around every text. A caption of more than `context_length` tokens is
    /// cut, and ends as every text does all the same.
    ///
    /// Of a text that is longer than any context needs, 64 KiB or 64 bytes a token of the context, the beginning is encoded.
    pub fn encode(&self, text: &str, context_length: usize) -> Encoded {
        let needed = context_length.saturating_mul(BYTES_A_TOKEN).max(MIN_BYTES);
        // White space counts until mojibake is repaired: it may be half of a letter, as `à` becomes `Ã` and a space that
        // doesn't break. Only where a text is cut anyway must none fill the part that is encoded.
        let text = if text.len() > needed {
            text.trim_ascii_start()
        } else {
            text
        };
        let (beginning, rest) = text.split_at(text.floor_char_boundary(needed));
        let mut encoded = match &self.kind {
            Kind::Clip(clip) => clip.encode(beginning, context_length),
            Kind::HuggingFace(other) => other.encode(beginning, context_length),
        };
        encoded.truncated |= !rest.trim().is_empty();
        encoded
    }

    /// Whether nothing of a text was left in its ids but what stands around every text.
    pub fn is_blank(&self, encoded: &Encoded) -> bool {
        let around = match &self.kind {
            Kind::Clip(_) => 2,
            Kind::HuggingFace(other) => other.around(),
        };
        encoded.ids.len() <= around
    }

    /// Texts as rows of equal length, `[texts, length]`, and that length: the longest text's.
    ///
    /// It is the whole context where texts aren't padded with 0, which is what a model adds by itself if the padding
    /// counts for it.
    pub fn pad<'a>(
        &self,
        texts: impl Iterator<Item = &'a [u32]> + Clone,
        context_length: usize,
    ) -> (Vec<i32>, usize) {
        let longest = texts.clone().map(<[u32]>::len).max().unwrap_or(0);
        let (id, length) = match self.pad_id() {
            0 => (0, longest),
            id => (id, context_length),
        };
        let mut rows = Vec::new();
        for text in texts {
            let end = rows.len() + length;
            rows.extend(text.iter().map(|id| *id as i32));
            rows.resize(end, id as i32);
        }
        (rows, length)
    }

    /// The text of token ids, as [`Tokenizer::encode`] saw it once it was cleaned. Special and unknown ids are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.kind {
            Kind::Clip(clip) => clip.decode(ids),
            Kind::HuggingFace(other) => other.decode(ids),
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_endless_text_the_beginning_is_encoded() {
        let tokenizer = Tokenizer::train(["a red circle".to_owned()].into_iter(), 520).unwrap();
        let circle = tokenizer.encode("a red circle", 77);
        // White space alone would fill the part that is encoded.
        let spaced = " ".repeat(1 << 20) + "a red circle" + &"\n".repeat(1 << 20);
        assert_eq!(tokenizer.encode(&spaced, 77), circle);
        let long = "\u{e9} red ".repeat(1 << 20);
        let cut = tokenizer.encode(&long, 77);
        assert_eq!(cut, tokenizer.encode(&long[..1 << 10], 77));
        assert!(cut.truncated && cut.ids.len() == 77);
        // A word beyond the part that is encoded is missed, and said to be.
        let sparse = format!("red{}", " ".repeat(1 << 20)) + "red";
        let cut = tokenizer.encode(&sparse, 77);
        assert_eq!(cut.ids, tokenizer.encode("red", 77).ids);
        assert!(cut.truncated);
        assert!(tokenizer.encode(&long, 5_000).ids.len() == 5_000);
    }
}
