//! The tokenizer that belongs to weights.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clip_data::{TOKENIZER_CONFIG_FILE, Tokenizer};
use clip_model::{
    ClipConfig,
    presets::CLIP_VOCAB_SIZE,
    weights::{Checkpoint, TOKENIZER_FILE},
};
use serde_json::{Value, json};

/// The one beside the weights, or CLIP's own where there is none and the vocabulary is as large.
pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
    let text = &checkpoint.config.text_cfg;
    let may_be_clips = text.vocab_size == CLIP_VOCAB_SIZE && text.hf_tokenizer_name.is_none();
    let beside = checkpoint.path.with_file_name(TOKENIZER_FILE);
    if beside.is_file() {
        let found = Tokenizer::load_with(&beside, text.tokenizer_kwargs.as_ref())?;
        let clip = may_be_clips.then(Tokenizer::clip);
        // Under the names that OpenCLIP gives its start and end, whoever wrote the file.
        return Ok(Some(match clip {
            Some(clip) if words(&clip) == words(&found) => clip,
            _ => found,
        }));
    }
    if may_be_clips {
        return Ok(Some(Tokenizer::clip()));
    }
    let known = text
        .hf_tokenizer_name
        .as_ref()
        .map_or(String::new(), |name| {
            format!("; OpenCLIP takes the hub's {name}")
        });
    log::warn!(
        "the vocabulary of {} tokens is not CLIP's own, and there is no {}: texts can't be encoded without it{known}",
        text.vocab_size,
        beside.display()
    );
    Ok(None)
}

/// How a tokenizer makes words of ids, whatever it calls start and end of text.
fn words(tokenizer: &Tokenizer) -> Option<Value> {
    let mut json: Value = serde_json::from_str(&tokenizer.to_json()).ok()?;
    let mut model = json.get_mut("model")?.take();
    if let Some([start, _]) = tokenizer.start_and_end() {
        let ids = model.get_mut("vocab")?.as_object_mut()?;
        ids.retain(|_, id| id.as_u64() < Some(start.into()));
    }
    Some(model)
}

/// Whether the files beside two models' weights name other words. Of CLIP's own vocabulary there need be none.
pub(super) fn differ(a: &Checkpoint, b: &Checkpoint) -> Result<bool> {
    let read = |checkpoint: &Checkpoint| -> Result<Option<Value>> {
        let path = checkpoint.path.with_file_name(TOKENIZER_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON", path.display()))?;
        Ok(Some(json["model"].clone()))
    };
    let (a, b) = (read(a)?, read(b)?);
    Ok(a.is_some() && b.is_some() && a != b)
}

/// Lets OpenCLIP find a tokenizer that isn't CLIP's own.
pub(super) fn name_it(config: &mut ClipConfig, tokenizer: Option<&Tokenizer>) {
    let Some(tokenizer) = tokenizer else { return };
    let mut keys = tokenizer.open_clip_text_cfg();
    let name = keys.get("hf_tokenizer_name").and_then(Value::as_str);
    config.text_cfg.hf_tokenizer_name = name.map(str::to_owned);
    config.text_cfg.tokenizer_kwargs = keys.remove("tokenizer_kwargs");
}

/// Writes what `CLIPProcessor` makes the tokenizer of. Its own vocabulary's class also wants the vocabulary and the
/// merges as files of their own, before transformers 5.
pub(super) fn save_for_transformers(
    tokenizer: &Tokenizer,
    context_length: usize,
    folder: &Path,
) -> Result<()> {
    tokenizer.save_dir(folder)?;
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let read = |name: &str| -> Result<Value> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
    };
    let mut config = read(TOKENIZER_CONFIG_FILE)?;
    config["model_max_length"] = json!(context_length);
    if !tokenizer.has_padding_token() {
        config["tokenizer_class"] = json!("CLIPTokenizer");
        config["unk_token"] = config["eos_token"].clone();
        let model = read(TOKENIZER_FILE)?["model"].take();
        write("vocab.json", model["vocab"].to_string())?;
        let merges = model["merges"].as_array().into_iter().flatten();
        let lines = merges.map(|merge| match merge {
            Value::Array(pair) => pair
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(" "),
            merge => merge.as_str().unwrap_or_default().to_owned(),
        });
        let lines: Vec<String> = std::iter::once("#version: 0.2".to_owned())
            .chain(lines)
            .collect();
        write("merges.txt", lines.join("\n") + "\n")?;
    }
    write(TOKENIZER_CONFIG_FILE, format!("{config:#}\n"))
}
