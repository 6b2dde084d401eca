//! CLIP's own vocabulary against OpenCLIP's `SimpleTokenizer`, and tokenizers of other kinds against its `HFTokenizer`.

use std::{collections::BTreeMap, fs, path::Path};

use clip_data::{Tokenizer, clean_caption};
use serde::Deserialize;
use serde_json::{Value, json};

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

#[test]
fn a_saved_file_is_as_the_tokenizers_crate_writes_and_reads_it() {
    let captions = ["a red circle", "two red circles", "a circle"].map(String::from);
    let trained = Tokenizer::train(captions.into_iter(), 540).unwrap();
    for tokenizer in [trained, Tokenizer::clip()] {
        let json = tokenizer.to_json();
        let theirs: tokenizers::Tokenizer = json.parse().unwrap();
        assert_eq!(theirs.to_string(false).unwrap(), json.trim_end());
        // Where nothing needs repair, others make the same ids of it.
        for text in [
            "a red circle",
            "Two  blue circles!",
            "ΟΔΟΣ 😀",
            "<pad> <end_of_text>",
        ] {
            let plain = theirs.encode(text, true).unwrap();
            assert_eq!(
                plain.get_ids(),
                tokenizer.encode(text, CONTEXT).ids,
                "{text}"
            );
        }
    }
}

/// Draws text that mixes scripts, marks and spaces, the same in every run.
struct Babble(u64);

impl Babble {
    fn below(&mut self, bound: u32) -> u32 {
        // Knuth's MMIX generator; its high bits are good enough for a test.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(bound)) as u32
    }

    fn text(&mut self) -> String {
        // First and number of characters: letters, ASCII, spaces, Latin, Greek, Cyrillic, Arabic, Devanagari, signs,
        // kana, ideographs, Hangul, full width, emoji, everything.
        const RANGES: [(u32, u32); 15] = [
            (0x61, 26),
            (0x20, 95),
            (0x20, 1),
            (0xa0, 0x1b0),
            (0x370, 0x90),
            (0x400, 0x100),
            (0x600, 0x100),
            (0x900, 0x80),
            (0x2000, 0x700),
            (0x3040, 0xc0),
            (0x4e00, 0x5200),
            (0xac00, 0x2ba4),
            (0xff00, 0xf0),
            (0x1f300, 0x700),
            (0, 0x11_0000),
        ];
        let length = self.below(60);
        (0..length)
            .filter_map(|_| {
                let range = self.below(RANGES.len() as u32 + 8) as usize;
                // Mostly letters, so that there are words.
                let (first, count) = RANGES.get(range).copied().unwrap_or(RANGES[0]);
                char::from_u32(first + self.below(count))
            })
            // Special tokens in text are an oddity, documented at `Tokenizer::save_dir`.
            .filter(|c| *c != '<')
            .collect()
    }
}

#[test]
fn any_text_has_the_ids_that_the_tokenizers_crate_gives_it() {
    let tokenizer = Tokenizer::clip();
    let theirs: tokenizers::Tokenizer = tokenizer.to_json().parse().unwrap();
    let mut babble = Babble(7);
    for _ in 0..3_000 {
        let text = babble.text();
        let clean = clean_caption(&text);
        let expected = theirs.encode(clean.as_str(), true).unwrap();
        // From the model and from the cache alike: words come again all the time.
        assert_eq!(
            tokenizer.encode(&text, usize::MAX).ids,
            expected.get_ids(),
            "{text:?}"
        );
    }
}

/// What `tests/reference/hugging_face_goldens.py` recorded of one tokenizer.
#[derive(Deserialize)]
struct OtherKind {
    name: String,
    context: usize,
    kwargs: Value,
    files: BTreeMap<String, Value>,
    texts: Vec<Padded>,
}

/// A text as the row that its model sees.
#[derive(Deserialize)]
struct Padded {
    text: String,
    ids: Vec<i32>,
}

impl OtherKind {
    fn all() -> Vec<Self> {
        serde_json::from_str(include_str!("reference/hugging_face_goldens.json")).unwrap()
    }

    fn write(&self, folder: &Path) {
        for (file, content) in &self.files {
            fs::write(folder.join(file), content.to_string()).unwrap();
        }
    }

    fn check(&self, tokenizer: &Tokenizer) {
        let texts = self.texts.iter();
        let encoded: Vec<_> = texts
            .map(|golden| tokenizer.encode(&golden.text, self.context))
            .collect();
        let ids = encoded.iter().map(|encoded| &encoded.ids[..]);
        let (rows, length) = tokenizer.pad(ids, self.context);
        for (golden, row) in self.texts.iter().zip(rows.chunks(length)) {
            let (seen, unseen) = golden.ids.split_at(length);
            assert_eq!(row, seen, "{}: {}", self.name, golden.text);
            // What is left out is what a model adds by itself.
            assert!(unseen.iter().all(|id| *id == 0), "{}", self.name);
        }
    }
}

#[test]
fn tokenizers_of_other_kinds_have_the_ids_of_openclip() {
    for golden in OtherKind::all() {
        let dir = tempfile::tempdir().unwrap();
        golden.write(dir.path());
        let tokenizer = Tokenizer::load_with(dir.path(), Some(&golden.kwargs)).unwrap();
        golden.check(&tokenizer);
        assert_eq!(tokenizer.start_and_end(), None);
        assert!(tokenizer.is_blank(&tokenizer.encode(" ", golden.context)));
        assert!(!tokenizer.is_blank(&tokenizer.encode("a", golden.context)));
        let cut = |text| tokenizer.encode(text, golden.context).truncated;
        assert!(cut("dogs dogs dogs dogs dogs dogs") && !cut("a photo of a dog"));
        let rows = tokenizer.vocab_size();
        assert!(tokenizer.fits(rows) && tokenizer.fits(rows + 1) && !tokenizer.fits(rows - 1));

        // What is saved makes the same tokenizer, the file alone too.
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save_dir(saved.path()).unwrap();
        let keys = tokenizer.open_clip_text_cfg();
        let kwargs = keys.get("tokenizer_kwargs").cloned();
        assert_eq!(kwargs.unwrap_or(json!({})), golden.kwargs);
        golden.check(&Tokenizer::load_with(saved.path(), Some(&golden.kwargs)).unwrap());
        fs::remove_file(saved.path().join("tokenizer_config.json")).unwrap();
        golden.check(&Tokenizer::load_with(saved.path(), Some(&golden.kwargs)).unwrap());
    }
}

#[test]
fn what_openclip_would_do_otherwise_is_refused() {
    let golden = OtherKind::all().swap_remove(0);
    let refused = |config: Value, kwargs: Value, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        golden.write(dir.path());
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let error = Tokenizer::load_with(dir.path(), Some(&kwargs)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(expected) && error.contains("tokenizer.json"),
            "{error}"
        );
    };
    let padded = json!({"pad_token": "</s>"});
    refused(json!({}), json!({}), "no `pad_token` is named");
    refused(
        json!({"pad_token": "<gone>"}),
        json!({}),
        "no token `<gone>`",
    );
    let left = json!({"pad_token": "</s>", "padding_side": "left"});
    refused(left, json!({}), "`padding_side` = left");
    refused(
        padded.clone(),
        json!({"clean": "nothing"}),
        "no `clean` is called nothing",
    );
    refused(
        padded.clone(),
        json!({"language": "de"}),
        "`language` = \"de\" is not implemented",
    );
    refused(padded, json!({"strip_sep_token": true}), "no token `[SEP]`");
}
