use std::collections::HashMap;

use instant_clip_tokenizer::{Token, Tokenizer as Instant};

use super::vocabulary::{
    EOT, SOT, Vocabulary, WORD_END, alphabet_tokens, byte_alphabet, byte_characters,
};

/// CLIP's own vocabulary: 49,408 tokens with the two specials.
///
/// `instant-clip-tokenizer` holds it but tells only what a token decodes to. A token's bytes follow from that,
/// and its merge from the bytes: tokens are numbered in the order in which they were merged, so the merges before it
/// reduce its own text to the two parts that it joined.
pub(super) fn clip_vocabulary() -> Vocabulary {
    let instant = Instant::new();
    let sot = usize::from(instant.start_of_text().to_u16());
    let characters = byte_characters();
    let mut tokens = alphabet_tokens();
    for id in tokens.len()..sot {
        let (bytes, ends_word) = token_bytes(&instant, id as u16);
        let mut token: String = bytes
            .iter()
            .map(|&byte| characters[usize::from(byte)])
            .collect();
        if ends_word {
            token.push_str(WORD_END);
        }
        tokens.push(token);
    }
    let merges = recover_merges(&tokens);
    tokens.extend([SOT, EOT].map(str::to_owned));
    Vocabulary { tokens, merges }
}

/// Of CLIP's own, [`Vocabulary::words_sum`]: to recover the words, only to compare them, takes a tenth of a second.
const CLIPS_WORDS_SUM: &str = "be612586e4fc539cc38ecf74895de86cd942c8f47bb6a09d57add5930aa998cb";

/// Whether it gives every text CLIP's ids, whatever it calls start and end of text.
pub(super) fn is_clips_own(vocabulary: &Vocabulary) -> bool {
    vocabulary.words_sum() == CLIPS_WORDS_SUM
}

/// The bytes of a token, and whether it ends a word.
///
/// A decoder replaces bytes that aren't whole characters, as in many of the emoji's tokens. Other tokens before and
/// after complete the characters, and are then taken away again.
fn token_bytes(instant: &Instant, id: u16) -> (Vec<u8>, bool) {
    // Starts of a character of which the token holds the rest, and ends for a start which the token holds.
    const BEFORE: [&[u8]; 7] = [
        b"",
        b"\xc3",
        b"\xe1",
        b"\xf1",
        b"\xe1\x80",
        b"\xf1\x80",
        b"\xf1\x80\x80",
    ];
    const AFTER: [&[u8]; 8] = [
        b"",
        b"\x80",
        b"\x80\x80",
        b"\x80\x80\x80",
        b"\xa0\x80",
        b"\x90\x80\x80",
        b"\xa0",
        b"\x90\x80",
    ];
    let decode = |before: &[u8], after: &[u8]| {
        let byte = |&byte: &u8| byte_token(byte);
        let ids = before
            .iter()
            .map(byte)
            .chain([id])
            .chain(after.iter().map(byte));
        instant.decode(ids.filter_map(|id| Token::from_u16(id, instant)))
    };
    let pairs = BEFORE
        .iter()
        .flat_map(|before| AFTER.iter().map(move |after| (*before, *after)));
    let whole = pairs
        .map(|(before, after)| (before, decode(before, after), after))
        .find(|(_, text, _)| !text.contains(char::REPLACEMENT_CHARACTER));
    let (before, text, after) = match &whole {
        Some((before, text, after)) => (*before, text.clone(), *after),
        // No completion helps where the token is the replacement character itself.
        None => (&b""[..], decode(b"", b""), &b""[..]),
    };
    let bytes = &text.as_bytes()[before.len()..text.len() - after.len()];
    // The decoder writes `</w>` as a space, and no token holds another space.
    match bytes.strip_suffix(b" ") {
        Some(bytes) => (bytes.to_vec(), true),
        None => (bytes.to_vec(), false),
    }
}

fn byte_token(byte: u8) -> u16 {
    let position = byte_alphabet().iter().position(|&(other, _)| other == byte);
    position.unwrap_or_default() as u16
}

/// The two tokens that each token after the alphabet was merged from.
pub(super) fn recover_merges(tokens: &[String]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut ranks: HashMap<(usize, usize), usize> = HashMap::with_capacity(tokens.len());
    let mut merges = Vec::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate().skip(super::vocabulary::ALPHABET) {
        let parts = reduce(token, &ids, &ranks);
        if let [first, second] = parts[..] {
            ranks.insert((first, second), id);
            merges.push((tokens[first].clone(), tokens[second].clone()));
        }
    }
    merges
}

/// The parts of a token when only the merges in `ranks` are known.
fn reduce(
    token: &str,
    ids: &HashMap<&str, usize>,
    ranks: &HashMap<(usize, usize), usize>,
) -> Vec<usize> {
    let (word, end) = match token.strip_suffix(WORD_END) {
        Some(word) => (word, WORD_END),
        None => (token, ""),
    };
    let last = word.char_indices().next_back().map_or(0, |(at, _)| at);
    let symbols = word.char_indices().map(|(at, c)| {
        let suffix = if at == last { end } else { "" };
        ids.get(format!("{c}{suffix}").as_str())
            .copied()
            .unwrap_or_default()
    });
    let mut parts: Vec<usize> = symbols.collect();
    while let Some((pair, &merged)) = parts
        .windows(2)
        .filter_map(|pair| Some(((pair[0], pair[1]), ranks.get(&(pair[0], pair[1]))?)))
        .min_by_key(|&(_, rank)| rank)
    {
        let mut at = 0;
        while at + 1 < parts.len() {
            if (parts[at], parts[at + 1]) == pair {
                parts[at] = merged;
                parts.remove(at + 1);
            }
            at += 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_own_vocabulary_is_known_by_every_word() {
        let mut vocabulary = clip_vocabulary();
        assert!(is_clips_own(&vocabulary), "{}", vocabulary.words_sum());
        // OpenAI's names.
        vocabulary.tokens[49_406] = "<|startoftext|>".to_owned();
        assert!(is_clips_own(&vocabulary));
        vocabulary.tokens.swap(1929, 2368);
        assert!(!is_clips_own(&vocabulary));
    }

    #[test]
    fn every_token_of_clips_vocabulary_has_its_merge() {
        let vocabulary = clip_vocabulary();
        assert_eq!(vocabulary.tokens.len(), 49_408);
        assert_eq!(vocabulary.merges.len(), 49_406 - 512);
        let distinct: std::collections::HashSet<&String> = vocabulary.tokens.iter().collect();
        assert_eq!(distinct.len(), 49_408);
        // Lines 2 and 48,895 of OpenAI's bpe_simple_vocab_16e6.txt, and one of the emoji's, which isn't whole UTF-8.
        let pair = |at: usize| {
            (
                vocabulary.merges[at].0.as_str(),
                vocabulary.merges[at].1.as_str(),
            )
        };
        assert_eq!(pair(0), ("i", "n"));
        assert_eq!(pair(48_893), ("jeky", "ll</w>"));
        assert!(
            vocabulary
                .merges
                .contains(&("ð".to_owned(), "Ł".to_owned()))
        );
        for (at, (first, second)) in vocabulary.merges.iter().enumerate() {
            assert_eq!(format!("{first}{second}"), vocabulary.tokens[512 + at]);
        }
    }
}
