use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::hugging_face::{HuggingFaceTokenizer, Options};
use super::openai::is_clips_own;
use super::save::TOKENIZER_FILE;
use super::text::{Kind, Tokenizer};
use super::vocabulary::{ALPHABET, EOT, SOT, Vocabulary, WORD_END, alphabet_tokens};
use crate::DataError;

/// Hugging Face's older layout: a JSON object of tokens and ids, and a merge a line.
pub(super) const VOCAB_FILE: &str = "vocab.json";
pub(super) const MERGES_FILE: &str = "merges.txt";
/// Merges of OpenAI's list that CLIP uses; the file has more than five times as many.
const CLIP_MERGES: usize = 49_152 - 256 - 2;

impl Tokenizer {
    /// Reads a tokenizer from
    ///
    /// - a `tokenizer.json`: of CLIP's kind, which is byte-level BPE with `</w>` and the end of text as its last token, or
    ///   any other that Hugging Face's `tokenizers` runs, with what `tokenizer_config.json` and `special_tokens_map.json`
    ///   beside it say,
    /// - a folder with a `tokenizer.json`, or with `vocab.json` and `merges.txt` of CLIP's kind,
    /// - OpenAI's `bpe_simple_vocab_16e6.txt.gz`, unpacked or not.
    ///
    /// `kwargs` are OpenCLIP's `tokenizer_kwargs`, of which `clean` and `strip_sep_token` are known. A tokenizer of CLIP's
    /// kind cleans captions by `lower`, its default, whatever they say: see [`refuse_kwargs`](Self::refuse_kwargs).
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be read, [`DataError::Tokenizer`] if it is none of these, or of a keyword argument that
    /// isn't implemented.
    pub fn load_with(path: &Path, kwargs: Option<&Value>) -> Result<Self, DataError> {
        Found::of(path, kwargs)?.tokenizer(path)
    }

    /// Refuses `tokenizer_kwargs` that a tokenizer of CLIP's kind doesn't know; `origin` names the model in the error.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`].
    pub fn refuse_kwargs(kwargs: Option<&Value>, origin: &str) -> Result<(), DataError> {
        Options::refuse_others_than_clips(kwargs, origin)
    }

    /// The tokenizer that belongs to the weights in a folder: its `tokenizer.json`, or CLIP's own where there is none and
    /// `may_be_clips`. CLIP's own words come under OpenCLIP's names of start and end, whoever wrote the file. None if it
    /// isn't known.
    ///
    /// # Errors
    /// What [`Tokenizer::load_with`] refuses, and for CLIP's own words [`Tokenizer::refuse_kwargs`].
    pub fn of_weights(
        folder: &Path,
        kwargs: Option<&Value>,
        may_be_clips: bool,
    ) -> Result<Option<Self>, DataError> {
        let path = folder.join(TOKENIZER_FILE);
        let refuse = || Self::refuse_kwargs(kwargs, &folder.display().to_string());
        if !path.is_file() {
            return if may_be_clips {
                refuse()?;
                Ok(Some(Self::clip()))
            } else {
                Ok(None)
            };
        }
        let mut found = Found::of(&path, kwargs)?;
        if let Found::Vocabulary(vocabulary) = &mut found
            && is_clips_own(vocabulary)
        {
            refuse()?;
            if may_be_clips {
                vocabulary.tokens.truncate(vocabulary.tokens.len() - 2);
                vocabulary.tokens.extend([SOT, EOT].map(str::to_owned));
            }
        }
        found.tokenizer(&path).map(Some)
    }
}

/// What a file or folder has, before it is a tokenizer.
enum Found {
    Vocabulary(Vocabulary),
    HuggingFace(Box<HuggingFaceTokenizer>),
}

impl Found {
    fn of(path: &Path, kwargs: Option<&Value>) -> Result<Self, DataError> {
        let origin = path.display().to_string();
        if path.is_dir() {
            if path.join(TOKENIZER_FILE).exists() {
                return Self::of(&path.join(TOKENIZER_FILE), kwargs);
            }
            return from_vocab_and_merges(path, &origin).map(Self::Vocabulary);
        }
        let bytes = fs::read(path).map_err(clip_files::io("read", path))?;
        let vocabulary = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => {
                let mut text = String::new();
                GzDecoder::new(&bytes[..])
                    .read_to_string(&mut text)
                    .map_err(clip_files::io("read", path))?;
                from_merges(&text, &origin)?
            }
            Some("txt") => from_merges(&String::from_utf8_lossy(&bytes), &origin)?,
            _ if is_of_clips_kind(&bytes) => from_json(&bytes, &origin)?,
            _ => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let options = Options::read(kwargs, &origin)?;
                let other = HuggingFaceTokenizer::new(&bytes, folder, options, &origin)?;
                return Ok(Self::HuggingFace(Box::new(other)));
            }
        };
        Ok(Self::Vocabulary(vocabulary))
    }

    fn tokenizer(self, path: &Path) -> Result<Tokenizer, DataError> {
        match self {
            Self::Vocabulary(vocabulary) => {
                Tokenizer::from_vocabulary(vocabulary, &path.display().to_string())
            }
            Self::HuggingFace(other) => Ok(Tokenizer {
                kind: Kind::HuggingFace(other),
            }),
        }
    }
}

/// Whether the model's words end as CLIP's do. What is no JSON at all is for others to say.
fn is_of_clips_kind(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Json {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        end_of_word_suffix: Option<String>,
    }
    let json: Result<Json, _> = serde_json::from_slice(bytes);
    json.is_ok_and(|json| json.model.end_of_word_suffix.as_deref() == Some(WORD_END))
}

/// The parts of a `tokenizer.json` that make a vocabulary. The rest are CLIP's rules, which are known.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct ModelJson {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// Merges are written as two strings, and were once written as one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

fn from_json(bytes: &[u8], origin: &str) -> Result<Vocabulary, DataError> {
    let json: TokenizerJson = serde_json::from_slice(bytes).map_err(|error| {
        let reason = format!("it is not the tokenizer.json of a byte-level BPE: {error}");
        wrong(origin, reason)
    })?;
    let merges = json.model.merges.iter().map(|merge| match merge {
        Merge::Pair(first, second) => Ok((first.clone(), second.clone())),
        Merge::Line(line) => parse_merge(line, origin, "a merge"),
    });
    let mut ids = json.model.vocab;
    ids.extend(
        json.added_tokens
            .into_iter()
            .map(|added| (added.content, added.id)),
    );
    Vocabulary::new(
        by_id(ids, origin)?,
        merges.collect::<Result<_, _>>()?,
        origin,
    )
}

fn from_vocab_and_merges(dir: &Path, origin: &str) -> Result<Vocabulary, DataError> {
    let path = dir.join(VOCAB_FILE);
    let bytes = fs::read(&path).map_err(clip_files::io("read", &path))?;
    let ids = serde_json::from_slice(&bytes).map_err(|error| {
        wrong(
            origin,
            format!("{VOCAB_FILE} has no tokens and ids: {error}"),
        )
    })?;
    let path = dir.join(MERGES_FILE);
    let merges = fs::read_to_string(&path).map_err(clip_files::io("read", &path))?;
    Vocabulary::new(
        by_id(ids, origin)?,
        read_merges(&merges, usize::MAX, origin)?,
        origin,
    )
}

/// OpenAI's file: merges alone, from which the tokens follow.
fn from_merges(text: &str, origin: &str) -> Result<Vocabulary, DataError> {
    let merges = read_merges(text, CLIP_MERGES, origin)?;
    let mut tokens = Vec::with_capacity(ALPHABET + merges.len() + 2);
    tokens.extend(alphabet_tokens());
    tokens.extend(
        merges
            .iter()
            .map(|(first, second)| format!("{first}{second}")),
    );
    tokens.extend([SOT, EOT].map(str::to_owned));
    Vocabulary::new(tokens, merges, origin)
}

/// A merge a line, after a line that names the version.
fn read_merges(text: &str, most: usize, origin: &str) -> Result<Vec<(String, String)>, DataError> {
    let has_header = |line: &str| line.contains("version");
    let lines = text.lines().zip(1..);
    lines
        .filter(|(line, number)| !(line.is_empty() || *number == 1 && has_header(line)))
        .take(most)
        .map(|(line, number)| parse_merge(line, origin, &format!("line {number}")))
        .collect()
}

fn parse_merge(line: &str, origin: &str, place: &str) -> Result<(String, String), DataError> {
    if let [first, second] = line.split(' ').collect::<Vec<_>>()[..] {
        return Ok((first.to_owned(), second.to_owned()));
    }
    let reason = format!("{place}, `{line}`, is not two tokens with a space between");
    Err(wrong(origin, reason))
}

/// The tokens in the order of their ids, which leave none out.
fn by_id(ids: BTreeMap<String, u32>, origin: &str) -> Result<Vec<String>, DataError> {
    let mut tokens: Vec<(u32, String)> = ids.into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    if let Some(((id, token), place)) = tokens.iter().zip(0..).find(|((id, _), place)| id != place)
    {
        let reason = format!("`{token}` has the id {id}, where {place} comes next");
        return Err(wrong(origin, reason));
    }
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

fn wrong(origin: &str, reason: String) -> DataError {
    DataError::Tokenizer {
        origin: origin.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const TEXT: &str = "A red circle and 2 dogs' bones, 日本 😀 <end_of_text>!";

    fn vocabulary_of(tokenizer: &Tokenizer) -> &Vocabulary {
        match &tokenizer.kind {
            Kind::Clip(clip) => &clip.vocabulary,
            Kind::HuggingFace(_) => panic!("not of CLIP's kind"),
        }
    }

    #[test]
    fn weights_bring_a_tokenizer_or_mean_clips_own() {
        let dir = tempfile::tempdir().unwrap();
        let of = |kwargs: Option<&Value>, may| Tokenizer::of_weights(dir.path(), kwargs, may);
        assert!(of(None, false).unwrap().is_none());
        assert_eq!(of(None, true).unwrap().unwrap().vocab_size(), 49_408);
        // What would be cleaned otherwise is refused, whoever names the vocabulary.
        let canonical = serde_json::json!({"clean": "canonicalize"});
        assert!(of(Some(&canonical), true).is_err());
        let lower = serde_json::json!({"clean": "lower"});
        assert!(of(Some(&lower), true).is_ok());

        // CLIP's own words under OpenAI's names.
        let clip = Tokenizer::clip();
        let theirs = clip.to_json().replace(SOT, "<|startoftext|>");
        let theirs = theirs.replace(EOT, "<|endoftext|>");
        let path = dir.path().join(TOKENIZER_FILE);
        fs::write(&path, theirs).unwrap();
        assert_eq!(of(None, true).unwrap().unwrap().to_json(), clip.to_json());
        assert_ne!(of(None, false).unwrap().unwrap().to_json(), clip.to_json());
        let error = of(Some(&canonical), false).err().unwrap().to_string();
        assert!(error.contains("canonicalize"), "{error}");

        // As many others are others.
        let own = Tokenizer::train(["a red circle".to_owned()].into_iter(), 540).unwrap();
        assert!(!own.has_same_words(&clip));
        own.save(&path).unwrap();
        let found = of(None, true).unwrap().unwrap();
        assert!(found.has_same_words(&own) && !found.has_same_words(&clip));
    }

    /// CLIP's vocabulary in OpenAI's format, with lines after the last that CLIP uses.
    fn openai_lines() -> String {
        let clip = Tokenizer::clip();
        let vocabulary = vocabulary_of(&clip);
        let lines = vocabulary
            .merges
            .iter()
            .map(|(first, second)| format!("{first} {second}\n"));
        let header = "\"bpe_simple_vocab_16e6.txt#version: 0.2\n".to_owned();
        std::iter::once(header)
            .chain(lines)
            .chain(["x y</w>\n".to_owned()])
            .collect()
    }

    #[test]
    fn every_layout_gives_the_ids_of_clips_own_vocabulary() {
        let clip = Tokenizer::clip();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        clip.save(&path("own.json")).unwrap();
        fs::write(path("merges.txt"), openai_lines()).unwrap();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(openai_lines().as_bytes()).unwrap();
        fs::write(path("bpe.txt.gz"), gz.finish().unwrap()).unwrap();
        let loaded = |name: &str| Tokenizer::load(&path(name)).unwrap();
        for name in ["own.json", "merges.txt", "bpe.txt.gz"] {
            assert_eq!(
                vocabulary_of(&loaded(name)).tokens,
                vocabulary_of(&clip).tokens,
                "{name}"
            );
            assert_eq!(
                loaded(name).encode(TEXT, 77),
                clip.encode(TEXT, 77),
                "{name}"
            );
        }

        // Hugging Face's folder, which names the special tokens otherwise.
        let mut ids = serde_json::Map::new();
        let names = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
        let tokens = vocabulary_of(&clip).tokens[..49_406]
            .iter()
            .cloned()
            .chain(names);
        ids.extend(
            tokens
                .zip(0..)
                .map(|(token, id)| (token, serde_json::json!(id))),
        );
        fs::write(path(VOCAB_FILE), serde_json::to_vec(&ids).unwrap()).unwrap();
        let lines = openai_lines();
        let merges = lines.strip_suffix("x y</w>\n").unwrap();
        fs::write(path(MERGES_FILE), merges).unwrap();
        let folder = Tokenizer::load(dir.path()).unwrap();
        let text = TEXT.replace("<end_of_text>", "<|endoftext|>");
        assert_eq!(folder.encode(&text, 77), clip.encode(TEXT, 77));

        clip.save(&path(TOKENIZER_FILE)).unwrap();
        let folder = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(folder.encode(TEXT, 77), clip.encode(TEXT, 77));
    }

    #[test]
    fn what_is_no_tokenizer_of_clips_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let gone = Tokenizer::load(&path("gone.json"));
        assert!(matches!(gone, Err(DataError::Io { .. })));
        let trained = Tokenizer::train(["red", "red"].map(String::from).into_iter(), 530).unwrap();
        let json = trained.to_json();
        for (name, text, expected) in [
            ("a.json", "{}", "it is not a tokenizer.json"),
            (
                "b.json",
                r#"{"model": {"end_of_word_suffix": "</w>"}}"#,
                "not the tokenizer.json of a byte-level BPE",
            ),
            (
                "c.json",
                r#"{"model": {"vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}"#,
                "no token `!`",
            ),
            (
                "d.json",
                &json.replace("<end_of_text>", "<the_end>"),
                "no tokens `<start_of_text>`",
            ),
            (
                "e.json",
                &json.replace("\"!\":1,", "\"!\":9,"),
                "where 1 comes next",
            ),
            (
                "f.json",
                &json.replace("\"merges\":[", "\"merges\":[\"red\","),
                "`red`, is not two tokens",
            ),
            (
                "i.json",
                &json.replace("\"merges\":[", "\"merges\":[[\"a\",\"b\"],"),
                "merges `a` and `b`",
            ),
            ("g.txt", "#version: 0.2\ni n\nt h e\n", "line 3, `t h e`"),
            ("h.txt", "#version: 0.2\nin g\n", "`in`"),
        ] {
            fs::write(path(name), text).unwrap();
            let error = Tokenizer::load(&path(name)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
        fs::write(path("bpe.txt.gz"), "no gzip").unwrap();
        assert!(matches!(
            Tokenizer::load(&path("bpe.txt.gz")),
            Err(DataError::Io { .. })
        ));
    }
}
