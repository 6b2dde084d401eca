use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::load::{MERGES_FILE, VOCAB_FILE};
use super::openai::is_clips_own;
use super::text::{Kind, Tokenizer};
use crate::DataError;

/// The tokenizer in Hugging Face's format.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// What `transformers` needs to know beside it.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

impl Tokenizer {
    /// Writes a `tokenizer.json` that `tokenizers` and `transformers` load. They encode cleaned captions to the same ids;
    /// the repair of mojibake and HTML can't be expressed in that format.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        write(path, &self.to_json())
    }

    /// What [`Tokenizer::save`] writes: all that decides the ids of a text.
    pub fn to_json(&self) -> String {
        match &self.kind {
            Kind::Clip(clip) => clip.vocabulary.to_json(),
            Kind::HuggingFace(other) => other.to_json(),
        }
    }

    /// Writes the files from which OpenCLIP makes this tokenizer for a model directory: `tokenizer.json` and
    /// `tokenizer_config.json`. The `text_cfg` of the directory must hold [`Tokenizer::open_clip_text_cfg`].
    ///
    /// The ids are equal but for one oddity: where a caption spells a special token right after other punctuation
    /// (`!<end_of_text>`), CLIP's pattern reads plain characters, as this tokenizer does, and Hugging Face's the token.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save_dir(&self, dir: &Path) -> Result<(), DataError> {
        fs::create_dir_all(dir).map_err(clip_files::io("create", dir))?;
        self.save(&dir.join(TOKENIZER_FILE))?;
        let config = self.config();
        write(&dir.join(TOKENIZER_CONFIG_FILE), &format!("{config:#}\n"))
    }

    /// Writes the files from which transformers' `CLIPProcessor` makes this tokenizer for a model that reads
    /// `context_length` tokens: those of [`Tokenizer::save_dir`], and for CLIP's kind the vocabulary and the merges as
    /// files of their own, which its class wants before transformers 5.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save_for_transformers(
        &self,
        dir: &Path,
        context_length: usize,
    ) -> Result<(), DataError> {
        self.save_dir(dir)?;
        let mut config = self.config();
        config["model_max_length"] = json!(context_length);
        if let Kind::Clip(clip) = &self.kind
            && !clip.vocabulary.padded()
        {
            config["tokenizer_class"] = json!("CLIPTokenizer");
            config["unk_token"] = config["eos_token"].clone();
            let vocabulary = &clip.vocabulary;
            let ids: Map<String, Value> = vocabulary
                .tokens
                .iter()
                .zip(0..)
                .map(|(token, id)| (token.clone(), json!(id)))
                .collect();
            write(&dir.join(VOCAB_FILE), &Value::Object(ids).to_string())?;
            let mut merges = "#version: 0.2\n".to_owned();
            for (first, second) in &vocabulary.merges {
                merges.extend([first, " ", second, "\n"]);
            }
            write(&dir.join(MERGES_FILE), &merges)?;
        }
        write(&dir.join(TOKENIZER_CONFIG_FILE), &format!("{config:#}\n"))
    }

    /// What transformers' `tokenizer_config.json` says of it.
    fn config(&self) -> Value {
        match &self.kind {
            Kind::Clip(clip) => {
                let vocabulary = &clip.vocabulary;
                let name = |id: u32| &vocabulary.tokens[id as usize];
                let end = name(vocabulary.eot());
                json!({
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "bos_token": name(vocabulary.sot()),
                    "eos_token": end,
                    "pad_token": if vocabulary.padded() { name(0) } else { end },
                    "clean_up_tokenization_spaces": false,
                })
            }
            Kind::HuggingFace(other) => json!(other.config()),
        }
    }

    /// What `text_cfg` in `open_clip_config.json` must hold for OpenCLIP to use the tokenizer of [`Tokenizer::save_dir`].
    ///
    /// Nothing for CLIP's own vocabulary, which OpenCLIP uses by itself. For any other, `hf_tokenizer_name` makes OpenCLIP
    /// load the directory's own tokenizer (what the name says doesn't matter there), and `tokenizer_kwargs` make it treat
    /// captions as this tokenizer does.
    pub fn open_clip_text_cfg(&self) -> Map<String, Value> {
        let kwargs = match &self.kind {
            Kind::Clip(clip) if is_clips_own(&clip.vocabulary) => {
                return Map::new();
            }
            Kind::Clip(_) => Map::from_iter([("clean".to_owned(), json!("lower"))]),
            Kind::HuggingFace(other) => other.options().to_json(),
        };
        let mut keys = Map::new();
        keys.insert("hf_tokenizer_name".to_owned(), json!("tokenizer.json"));
        if !kwargs.is_empty() {
            keys.insert("tokenizer_kwargs".to_owned(), Value::Object(kwargs));
        }
        keys
    }
}

fn write(path: &Path, text: &str) -> Result<(), DataError> {
    Ok(clip_files::replace(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_tokenizer_encodes_the_same() {
        let captions = ["a red circle", "two red circles", "a circle"].map(String::from);
        let tokenizer = Tokenizer::train(captions.into_iter(), 540).unwrap();
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save_dir(dir.path()).unwrap();
        let loaded = Tokenizer::load(&dir.path().join(TOKENIZER_FILE)).unwrap();
        assert_eq!(loaded.vocab_size(), 540);
        for text in [
            "a red circle",
            "Two  blue circles!",
            "ΟΔΟΣ 😀",
            "<pad> <end_of_text>",
        ] {
            assert_eq!(
                loaded.encode(text, 20),
                tokenizer.encode(text, 20),
                "{text}"
            );
        }
        assert_eq!(
            loaded.open_clip_text_cfg()["tokenizer_kwargs"]["clean"],
            "lower"
        );
        assert!(!dir.path().join("tokenizer.json.partial").exists());
    }
}
