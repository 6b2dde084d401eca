//! The tokenizer that belongs to weights.

use anyhow::Result;
use clip_data::Tokenizer;
use clip_model::{
    ClipConfig,
    weights::{ImportedWeights, TOKENIZER_FILE},
};
use serde_json::Value;

/// The one beside the weights, or CLIP's own where there is none and the vocabulary is as large.
pub(crate) fn of(checkpoint: &ImportedWeights) -> Result<Option<Tokenizer>> {
    let text = &checkpoint.config.text_cfg;
    let folder = &checkpoint.folder;
    let kwargs = text.tokenizer_kwargs.as_ref();
    let found = Tokenizer::of_weights(folder, kwargs, text.may_be_clips_vocabulary())?;
    if found.is_none() {
        let known = text
            .hf_tokenizer_name
            .as_ref()
            .map_or(String::new(), |name| {
                format!("; OpenCLIP takes the hub's {name}")
            });
        log::warn!(
            "the vocabulary of {} tokens is not CLIP's own, and there is no {}: texts can't be encoded without it{known}",
            text.vocab_size,
            folder.join(TOKENIZER_FILE).display()
        );
    }
    Ok(found)
}

/// Lets OpenCLIP find a tokenizer that isn't CLIP's own.
pub(super) fn name_it(config: &mut ClipConfig, tokenizer: Option<&Tokenizer>) {
    let Some(tokenizer) = tokenizer else { return };
    let mut keys = tokenizer.open_clip_text_cfg();
    let name = keys.get("hf_tokenizer_name").and_then(Value::as_str);
    config.text_cfg.hf_tokenizer_name = name.map(str::to_owned);
    config.text_cfg.tokenizer_kwargs = keys.remove("tokenizer_kwargs");
}
