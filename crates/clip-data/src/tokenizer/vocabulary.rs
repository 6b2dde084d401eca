use std::collections::{HashMap, HashSet};

use clip_files::sha256::Parts;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, Vocab};

use crate::DataError;

/// Marks a token that ends a word.
pub(super) const WORD_END: &str = "</w>";
/// Tokens before the merges: every byte within a word and every byte at a word's end.
pub(super) const ALPHABET: usize = 512;
/// OpenCLIP's names for the two special tokens.
pub(super) const SOT: &str = "<start_of_text>";
pub(super) const EOT: &str = "<end_of_text>";
/// Names of start and end of text: OpenCLIP's and ours, then Hugging Face's.
const SPECIAL_NAMES: [(&str, &str); 2] = [(SOT, EOT), ("<|startoftext|>", "<|endoftext|>")];
/// The padding token of a trained vocabulary, at id 0.
///
/// CLIP pads with 0 too, which in its own vocabulary is `!`. A tokenizer of Hugging Face's kind can't pad with
/// a token that also occurs in text, so a trained vocabulary spends one id on it.
pub(super) const PAD: &str = "<pad>";

/// The 256 bytes in the order of CLIP's vocabulary, each with the printable character that stands for it.
///
/// # References
/// `bytes_to_unicode` in `open_clip/tokenizer.py`, after GPT-2's.
pub(super) fn byte_alphabet() -> [(u8, char); 256] {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut alphabet = [(0, '\0'); 256];
    let own = (0..=255u8)
        .filter(|&byte| printable(byte))
        .map(|byte| (byte, char::from(byte)));
    let moved = (0..=255u8)
        .filter(|&byte| !printable(byte))
        .zip('\u{100}'..);
    for (slot, pair) in alphabet.iter_mut().zip(own.chain(moved)) {
        *slot = pair;
    }
    alphabet
}

/// The character that stands for each byte, by byte.
pub(super) fn byte_characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    for (byte, character) in byte_alphabet() {
        characters[usize::from(byte)] = character;
    }
    characters
}

/// The first tokens of CLIP's vocabulary: bytes, then bytes at a word's end.
pub(super) fn alphabet_tokens() -> Vec<String> {
    let within = byte_alphabet()
        .into_iter()
        .map(|(_, character)| character.to_string());
    let at_end = byte_alphabet()
        .into_iter()
        .map(|(_, character)| format!("{character}{WORD_END}"));
    within.chain(at_end).collect()
}

/// The tokens and merges of a tokenizer of CLIP's kind. The last two tokens are start and end of text, so that the end
/// has the highest id: OpenCLIP finds it by `argmax`.
pub(super) struct Vocabulary {
    /// Tokens by id.
    pub(super) tokens: Vec<String>,
    /// Merges by rank.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// # Errors
    /// [`DataError::Tokenizer`] if a byte or a merge has no token, or the last two aren't start and end of text.
    pub(super) fn new(
        tokens: Vec<String>,
        merges: Vec<(String, String)>,
        origin: &str,
    ) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Tokenizer {
            origin: origin.to_owned(),
            reason: format!("{reason}; a tokenizer of CLIP's kind is needed"),
        };
        let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
        if let Some(token) = alphabet_tokens()
            .iter()
            .find(|token| !known.contains(token.as_str()))
        {
            return Err(wrong(format!("it has no token `{token}`")));
        }
        if known.len() < tokens.len() {
            return Err(wrong("it has a token twice".to_owned()));
        }
        let (sot, eot) = SPECIAL_NAMES
            .into_iter()
            .find(|(sot, eot)| known.contains(sot) && known.contains(eot))
            .ok_or_else(|| wrong(format!("it has no tokens `{SOT}` and `{EOT}`")))?;
        if !tokens.ends_with(&[sot.to_owned(), eot.to_owned()]) {
            return Err(wrong(format!(
                "`{sot}` and `{eot}` aren't its last tokens, of which a model finds the end of a text by the second"
            )));
        }
        // The `tokenizers` crate takes it for granted that a merge's result is no longer than the longest token.
        let is_known = |(first, second): &&(String, String)| {
            let joined = format!("{first}{second}");
            [first, second, &joined]
                .iter()
                .all(|token| known.contains(token.as_str()))
        };
        if let Some((first, second)) = merges.iter().find(|merge| !is_known(merge)) {
            return Err(wrong(format!(
                "it merges `{first}` and `{second}`, and has no token for one of them or for both together"
            )));
        }
        Ok(Self { tokens, merges })
    }

    /// Whether texts become the same ids, whatever start and end of text are called.
    pub(super) fn has_same_words(&self, other: &Self) -> bool {
        let words = |vocabulary: &Self| vocabulary.tokens.len().saturating_sub(2);
        self.tokens[..words(self)] == other.tokens[..words(other)] && self.merges == other.merges
    }

    /// A hash of what [`has_same_words`](Self::has_same_words) compares.
    pub(super) fn words_sum(&self) -> String {
        let words = self.tokens[..self.tokens.len().saturating_sub(2)].iter();
        let merges = self
            .merges
            .iter()
            .flat_map(|(first, second)| [first, second]);
        Parts::of(words.chain(merges)).finish()
    }

    pub(super) fn sot(&self) -> u32 {
        self.eot() - 1
    }

    pub(super) fn eot(&self) -> u32 {
        self.tokens.len() as u32 - 1
    }

    /// Whether id 0 is [`PAD`].
    pub(super) fn padded(&self) -> bool {
        self.tokens[0] == PAD
    }

    /// The ids that are no part of a word: padding if there is such a token, start and end of text.
    pub(super) fn special_ids(&self) -> Vec<u32> {
        let pad = self.padded().then_some(0);
        pad.into_iter().chain([self.sot(), self.eot()]).collect()
    }

    /// The merges as the `tokenizers` crate applies them to a word.
    pub(super) fn bpe(&self, origin: &str) -> Result<BPE, DataError> {
        let vocab: Vocab = self.tokens.iter().cloned().zip(0..).collect();
        BPE::builder()
            .vocab_and_merges(vocab, self.merges.clone())
            .end_of_word_suffix(WORD_END.to_owned())
            .build()
            .map_err(|error| DataError::Tokenizer {
                origin: origin.to_owned(),
                reason: error.to_string(),
            })
    }

    /// A `tokenizer.json`, whose parts write CLIP's rules in Hugging Face's terms.
    pub(super) fn to_json(&self) -> String {
        let token = |id: u32| self.tokens[id as usize].as_str();
        let (sot, eot) = (token(self.sot()), token(self.eot()));
        let vocab: Map<String, Value> = self
            .tokens
            .iter()
            .zip(0..)
            .map(|(token, id)| (token.clone(), json!(id)))
            .collect();
        let added = self.special_ids().into_iter().map(|id| {
            json!({"id": id, "content": token(id), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let marker = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let special = [(eot, self.eot()), (sot, self.sot())].map(|(token, id)| {
            (
                token.to_owned(),
                json!({"id": token, "ids": [id], "tokens": [token]}),
            )
        });
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                // Python and Rust lower a word's last sigma to another letter than `Lowercase` does.
                {"type": "Replace", "pattern": {"Regex": r"(?<=\p{L})Σ(?!\p{L})"}, "content": "ς"},
                {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex":
                    r"'s|'ſ|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [marker(sot), sequence("A"), marker(eot)],
                "pair": [marker(sot), sequence("A"), sequence("B"), marker(eot)],
                "special_tokens": special.into_iter().collect::<Map<_, _>>(),
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                {"type": "Replace", "pattern": {"String": WORD_END}, "content": " "},
            ]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": WORD_END, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": vocab, "merges": self.merges,
            },
        });
        json.to_string() + "\n"
    }
}

/// Bytes that a token of the vocabulary stands for, by the character of each byte.
pub(super) fn character_bytes() -> HashMap<char, u8> {
    byte_alphabet()
        .into_iter()
        .map(|(byte, character)| (character, byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt_2s() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet[0], (b'!', '!'));
        // 188 bytes stand for themselves, then the rest from U+0100 on.
        assert_eq!(alphabet[187], (0xff, 'ÿ'));
        assert_eq!(alphabet[188], (0, 'Ā'));
        assert_eq!(byte_characters()[usize::from(b' ')], 'Ġ');
        assert_eq!(character_bytes().len(), 256);
        assert_eq!(alphabet_tokens().len(), ALPHABET);
    }
}
