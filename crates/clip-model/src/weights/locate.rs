use std::path::{Path, PathBuf};

use super::{CONFIG_FILE, WEIGHTS_FILE, WeightsFile};
use crate::ModelError;

/// Hugging Face's configuration.
pub(super) const HF_CONFIG_FILE: &str = "config.json";
/// Hugging Face's weights, as they are written here.
pub(super) const HF_WEIGHTS_FILE: &str = "model.safetensors";
/// Hugging Face's preprocessing.
pub(super) const HF_PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// A configuration and the weights beside it, the first that is there before others.
pub const LAYOUTS: [(&str, &[&str]); 2] = [
    (CONFIG_FILE, &[WEIGHTS_FILE, "open_clip_pytorch_model.bin"]),
    (
        HF_CONFIG_FILE,
        &[
            HF_WEIGHTS_FILE,
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ],
    ),
];

/// A folder's name without the `local-dir:` that OpenCLIP has before it.
pub fn without_local_dir(name: &str) -> &str {
    name.strip_prefix("local-dir:").unwrap_or(name)
}

/// The file that holds a folder's weights, or starts them.
///
/// # Errors
/// [`ModelError::NoCheckpoint`] if there is none, or several.
pub(super) fn weights_in(folder: &Path) -> Result<PathBuf, ModelError> {
    for (config, names) in LAYOUTS {
        let weights = names.iter().map(|name| folder.join(name));
        let found = weights.into_iter().find(|path| path.is_file());
        if let Some(found) = found.filter(|_| folder.join(config).is_file()) {
            return Ok(found);
        }
    }
    let none = |reason: String| ModelError::NoCheckpoint {
        path: folder.to_owned(),
        reason,
    };
    let entries = std::fs::read_dir(folder).map_err(clip_files::io("read", folder))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // A hidden file is another's, such as the index that `clip search` keeps.
    let is_hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(b".")
    };
    let mut found: Vec<PathBuf> = files
        .filter(|path| !is_hidden(path))
        .filter(|path| path.is_file() && WeightsFile::open(path).is_ok())
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(none(format!(
            "it holds neither {WEIGHTS_FILE} nor {HF_WEIGHTS_FILE} nor another file of weights"
        ))),
        several => {
            let names = several.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            let names = names.join(", ");
            Err(none(format!("name one of its files of weights: {names}")))
        }
    }
}
