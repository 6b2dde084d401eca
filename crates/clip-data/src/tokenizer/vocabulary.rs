use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::DataError;

/// Marks a token that ends a word.
pub(super) const WORD_END: &str = "</w>";
/// Tokens before the merges: every byte within a word and every byte at a word's end.
pub(super) const ALPHABET: usize = 512;
/// OpenCLIP's names for the two special tokens.
pub(super) const SOT: &str = "<start_of_text>";
pub(super) const EOT: &str = "<end_of_text>";
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

/// A vocabulary before it becomes a `tokenizers` tokenizer. The last two tokens are start and end of text, so
/// that the end has the highest id: OpenCLIP finds it by `argmax`.
pub(super) struct Vocabulary {
    /// Tokens by id, without the two specials.
    pub(super) tokens: Vec<String>,
    /// Merges by rank.
    pub(super) merges: Vec<(String, String)>,
    /// Whether id 0 is [`PAD`].
    pub(super) padded: bool,
}

impl Vocabulary {
    /// The same as a `tokenizers` tokenizer, whose parts write CLIP's rules in Hugging Face's terms.
    pub(super) fn into_tokenizer(self, origin: &str) -> Result<Inner, DataError> {
        let wrong = |reason: tokenizers::Error| DataError::Tokenizer {
            origin: origin.to_owned(),
            reason: reason.to_string(),
        };
        let sot = self.tokens.len();
        let eot = sot + 1;
        let special = [(SOT, sot), (EOT, eot)];
        let vocab: Map<String, Value> = self
            .tokens
            .into_iter()
            .enumerate()
            .chain(special.map(|(token, id)| (id, token.to_owned())))
            .map(|(id, token)| (token, json!(id)))
            .collect();
        let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let marker = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let entry = |(token, id): (&str, usize)| {
            (
                token.to_owned(),
                json!({"id": token, "ids": [id], "tokens": [token]}),
            )
        };
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                // Python and Rust lower a word's last sigma to another letter than `Lowercase` does.
                {"type": "Replace", "pattern": {"Regex": r"(?<=\p{L})Σ(?!\p{L})"}, "content": "ς"},
                {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "behavior": "Removed", "invert": true, "pattern": {"Regex":
                    r"'s|'ſ|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"}},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [marker(SOT), sequence("A"), marker(EOT)],
                "pair": [marker(SOT), sequence("A"), sequence("B"), marker(EOT)],
                "special_tokens": special.map(entry).into_iter().collect::<Map<_, _>>(),
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
        let mut inner = Inner::from_bytes(json.to_string()).map_err(wrong)?;
        let pad = self.padded.then_some(PAD);
        let added = [SOT, EOT]
            .into_iter()
            .chain(pad)
            .map(|token| AddedToken::from(token, true).normalized(false));
        inner.add_special_tokens(added).map_err(wrong)?;
        Ok(inner)
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
