//! CLIP's own vocabulary against OpenCLIP's `SimpleTokenizer`.

use clip_data::{Tokenizer, clean_caption};
use serde::Deserialize;

/// CLIP's context length, in tokens.
const CONTEXT: usize = 77;

/// What `tests/reference/tokenizer_goldens.py` recorded of one text.
#[derive(Deserialize)]
struct Golden {
    text: String,
    clean: String,
    /// Tokens without start and end.
    tokens: usize,
    ids: Vec<u32>,
}

#[test]
fn hard_captions_have_the_ids_of_openclip() {
    let goldens: Vec<Golden> =
        serde_json::from_str(include_str!("reference/tokenizer_goldens.json")).unwrap();
    let tokenizer = Tokenizer::clip();
    for golden in &goldens {
        let shown: String = golden.text.chars().take(60).collect();
        assert_eq!(clean_caption(&golden.text), golden.clean, "{shown:?}");
        // Twice: from the model, then from the cache.
        for _ in 0..2 {
            let encoded = tokenizer.encode(&golden.text, CONTEXT);
            assert_eq!(encoded.ids, golden.ids, "{shown:?}");
            assert_eq!(encoded.truncated, golden.tokens + 2 > CONTEXT, "{shown:?}");
        }
        let whole = tokenizer.encode(&golden.text, usize::MAX);
        assert_eq!(whole.ids.len(), golden.tokens + 2, "{shown:?}");
    }
}

#[test]
fn clips_vocabulary_has_its_published_ids() {
    let tokenizer = Tokenizer::clip();
    // openai/CLIP: clip.tokenize("a diagram").
    assert_eq!(
        tokenizer.encode("a diagram", CONTEXT).ids,
        [49406, 320, 22697, 49407]
    );
    assert_eq!(tokenizer.vocab_size(), 49_408);
    assert!(tokenizer.open_clip_text_cfg().is_empty());
    assert_eq!(tokenizer.decode(&[49406, 320, 22697, 49407]), "a diagram");
}
