use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer as Inner};

use super::clean::Clean;
use super::nllb::name_language;
use super::save::TOKENIZER_CONFIG_FILE;
use super::text::Encoded;
use crate::DataError;

/// What `transformers` wrote of special tokens before it wrote them into the file above.
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
/// What BERT's tokenizers and T5's pad with when no file says it.
const USUAL_PADDING: [&str; 2] = ["[PAD]", "<pad>"];
/// What BERT's end a text with when no file says it.
const USUAL_SEPARATOR: &str = "[SEP]";
/// In no vocabulary: a private character.
const UNKNOWN: &str = "\u{10fffd}";

/// Any tokenizer of Hugging Face's `tokenizers`, used as OpenCLIP's `HFTokenizer` does.
pub(super) struct HuggingFaceTokenizer {
    /// Its padding holds the id to pad with; a text alone is never padded by it.
    inner: Inner,
    pad_id: u32,
    /// What is replaced by 0.
    stripped: Option<u32>,
    /// `tokenizer_config.json`, as far as it was there.
    config: Map<String, Value>,
    options: Options,
    /// Ids around every text.
    around: usize,
}

/// OpenCLIP's keyword arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    clean: Option<Clean>,
    strip_separator: bool,
}

impl Options {
    /// Refuses what a tokenizer of CLIP's kind can't do: it cleans captions in CLIP's way alone.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] naming the argument.
    pub(super) fn refuse_others_than_clips(
        kwargs: Option<&Value>,
        origin: &str,
    ) -> Result<(), DataError> {
        match Self::read(kwargs, origin)?.clean {
            None | Some(Clean::Lower) => Ok(()),
            Some(clean) => Err(DataError::Tokenizer {
                origin: origin.to_owned(),
                reason: format!(
                    "tokenizer_kwargs: `clean` = {} is not implemented for a vocabulary of CLIP's kind, only `lower`",
                    clean.name()
                ),
            }),
        }
    }

    /// # Errors
    /// [`DataError::Tokenizer`] naming what is unknown.
    pub(super) fn read(kwargs: Option<&Value>, origin: &str) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Tokenizer {
            origin: origin.to_owned(),
            reason,
        };
        let mut options = Self {
            clean: None,
            strip_separator: false,
        };
        for (key, value) in kwargs.and_then(Value::as_object).into_iter().flatten() {
            match (key.as_str(), value) {
                ("clean", Value::String(name)) => {
                    let clean = Clean::by_name(name).ok_or_else(|| {
                        let known = Clean::NAMES.map(|(name, _)| name).join(", ");
                        wrong(format!(
                            "tokenizer_kwargs: no `clean` is called {name}; there are {known}"
                        ))
                    })?;
                    options.clean = Some(clean);
                }
                ("strip_sep_token", Value::Bool(strip)) => options.strip_separator = *strip,
                _ => {
                    return Err(wrong(format!(
                        "tokenizer_kwargs: `{key}` = {value} is not implemented"
                    )));
                }
            }
        }
        Ok(options)
    }

    pub(super) fn to_json(self) -> Map<String, Value> {
        let mut keys = Map::new();
        if let Some(clean) = self.clean {
            keys.insert("clean".to_owned(), json!(clean.name()));
        }
        if self.strip_separator {
            keys.insert("strip_sep_token".to_owned(), json!(true));
        }
        keys
    }
}

impl HuggingFaceTokenizer {
    /// Of the bytes of a `tokenizer.json`, with what lies beside it in `folder`.
    pub(super) fn new(
        bytes: &[u8],
        folder: &Path,
        options: Options,
        origin: &str,
    ) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Tokenizer {
            origin: origin.to_owned(),
            reason,
        };
        let mut inner = Inner::from_bytes(bytes)
            .map_err(|error| wrong(format!("it is not a tokenizer.json: {error}")))?;
        // A text's length is the caller's affair.
        inner
            .with_truncation(None)
            .map_err(|error| wrong(error.to_string()))?;
        let mut config = object(&folder.join(TOKENIZER_CONFIG_FILE))?;
        name_language(&mut inner, &config).map_err(wrong)?;
        for side in ["padding_side", "truncation_side"] {
            if config.get(side).is_some_and(|side| side == "left") {
                return Err(wrong(format!("`{side}` = left is not implemented")));
            }
        }
        let special = object(&folder.join(SPECIAL_TOKENS_FILE))?;
        let named = |key: &str| {
            let entry = config.get(key).or_else(|| special.get(key))?;
            let name = entry.get("content").unwrap_or(entry);
            name.as_str().map(str::to_owned)
        };
        let own = inner.get_padding().map(|padding| padding.pad_token.clone());
        let usual = || {
            let known = |name: &&str| inner.token_to_id(name).is_some();
            USUAL_PADDING.into_iter().find(known).map(str::to_owned)
        };
        let pad_token = named("pad_token").or(own).or_else(usual).ok_or_else(|| {
            wrong(format!(
                "no `pad_token` is named in {TOKENIZER_CONFIG_FILE} beside it"
            ))
        })?;
        let separator = named("sep_token").unwrap_or_else(|| USUAL_SEPARATOR.to_owned());
        let id = |token: &str| {
            let missing = || {
                wrong(format!(
                    "it has no token `{token}`, which is named as special"
                ))
            };
            inner.token_to_id(token).ok_or_else(missing)
        };
        let pad_id = id(&pad_token)?;
        let stripped = options.strip_separator.then(|| id(&separator));
        let stripped = stripped.transpose()?;
        // For those who read what is saved, which names these in no other file.
        config.insert("pad_token".to_owned(), json!(pad_token));
        if stripped.is_some() {
            config.insert("sep_token".to_owned(), json!(separator));
        }
        config
            .entry("tokenizer_class")
            .or_insert_with(|| json!("PreTrainedTokenizerFast"));
        inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::BatchLongest,
            pad_id,
            pad_token,
            ..PaddingParams::default()
        }));
        inner
            .encode_fast(UNKNOWN, true)
            .map_err(|error| wrong(format!("it can't encode what it doesn't know: {error}")))?;
        let blank = inner
            .encode_fast("", true)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            around: blank.get_ids().len(),
            inner,
            pad_id,
            stripped,
            config,
            options,
        })
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(super) fn pad_id(&self) -> u32 {
        self.pad_id
    }

    pub(super) fn around(&self) -> usize {
        self.around
    }

    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn encode(&self, text: &str, context_length: usize) -> Encoded {
        let clean = self.options.clean.unwrap_or(Clean::Whitespace).apply(text);
        let encoding = match self.inner.encode_fast(clean.as_str(), true) {
            Ok(encoding) => encoding,
            Err(error) => {
                log::warn!("`{clean}` can't be encoded, and counts as blank: {error}");
                tokenizers::Encoding::default()
            }
        };
        let mut ids = encoding.get_ids().to_vec();
        let truncated = ids.len() > context_length;
        if truncated {
            // The last of the text's own are cut, in front of what ends every text.
            let around = encoding.get_special_tokens_mask().iter().rev();
            let ending = around.take_while(|special| **special == 1).count();
            let ending = ending.min(context_length);
            let end = ids.split_off(ids.len() - ending);
            ids.truncate(context_length - ending);
            ids.extend(end);
        }
        if let Some(stripped) = self.stripped {
            for id in ids.iter_mut().filter(|id| **id == stripped) {
                *id = 0;
            }
        }
        Encoded { ids, truncated }
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> String {
        // invariant: it was read from JSON, and nothing in it can't be written.
        let json = self.inner.to_string(false).expect("a tokenizer is JSON");
        json + "\n"
    }

    /// How words are made of ids.
    pub(super) fn words(&self) -> Value {
        // invariant: as in `to_json`.
        serde_json::to_value(self.inner.get_model()).expect("a tokenizer is JSON")
    }

    /// What `transformers` reads beside it.
    pub(super) fn config(&self) -> &Map<String, Value> {
        &self.config
    }
}

/// The object in a file, empty if there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>, DataError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(clip_files::io("read", path)(error).into()),
    };
    serde_json::from_slice(&bytes).map_err(|error| DataError::Tokenizer {
        origin: path.display().to_string(),
        reason: error.to_string(),
    })
}
