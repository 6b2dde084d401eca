use std::path::PathBuf;

use clip_files::IoError;

/// What can go wrong between a configuration or a weight file and a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// No preset has that name, and no file either.
    #[error(
        "unknown preset `{name}`: it is neither a file nor a preset; the nearest are {} (`clip weights list --presets` has all)",
        nearest.join(", ")
    )]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The names of presets that are most like it.
        nearest: Vec<&'static str>,
    },
    /// A configuration is not JSON of OpenCLIP's form.
    #[error("{origin} is not a model configuration")]
    ConfigSyntax {
        /// The file or preset.
        origin: String,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A configuration asks for something that isn't implemented.
    #[error("{origin}: `{key}` = {value} is not implemented")]
    UnsupportedConfig {
        /// The file or preset.
        origin: String,
        /// The key's full path, such as `vision_cfg.attentional_pool`.
        key: String,
        /// The value, as JSON.
        value: String,
    },
    /// A configuration's numbers don't fit together.
    #[error("{origin}: {reason}")]
    InvalidConfig {
        /// The file or preset.
        origin: String,
        /// Which keys disagree, and how.
        reason: String,
    },
    /// A tensor's numbers are of a type that no parameter has.
    #[error("{path}: {tensor} has type {dtype}, expected a float")]
    NoFloats {
        /// The file.
        path: PathBuf,
        /// Its name in the model.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// A weight file is not a safetensors file or the index of several, or a damaged one.
    #[error("{path} is not a readable safetensors file, or index of such: {reason}")]
    WeightsSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file's content is of no format that is known.
    #[error(
        "{path} holds no weights: by its content it is neither safetensors nor an archive of PyTorch's \
        (state dict, training checkpoint or TorchScript)"
    )]
    UnknownWeights {
        /// The file.
        path: PathBuf,
    },
    /// An archive of PyTorch's is damaged, or holds what weights never do.
    #[error("{path} is not a readable PyTorch file: {reason}")]
    TorchSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do where something helps.
        reason: String,
    },
    /// A pickle asks for a Python object that no weights need. Nothing of it was run.
    #[error(
        "{path} asks for the Python object `{object}`, which weights don't need: refused, and nothing was run. \
        Get the file from someone you trust, or as safetensors"
    )]
    ForbiddenPickle {
        /// The file.
        path: PathBuf,
        /// Module and name, such as `posix.system`.
        object: String,
    },
    /// A folder has no weights, or several and no way to choose.
    #[error("{path} is no folder of one model: {reason}")]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What was looked for, or found.
        reason: String,
    },
    /// The shapes of a file's tensors are those of no known architecture.
    #[error(
        "cannot tell the architecture of {path}: {reason}; give it by a preset or a configuration"
    )]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// Which tensor is missing or unusual.
        reason: String,
    },
    /// A model has no form in another's layout.
    #[error("cannot be written for transformers' CLIPModel: {reason}")]
    NotHuggingFace {
        /// What is in the way.
        reason: String,
    },
    /// A weight file doesn't fit the model. Nothing was changed.
    #[error(
        "{path} does not fit the model: {}",
        mismatch(missing, unexpected, misshapen)
    )]
    WeightsMismatch {
        /// The file.
        path: PathBuf,
        /// Parameters of the model that the file lacks.
        missing: Vec<String>,
        /// Tensors of the file that the model lacks.
        unexpected: Vec<String>,
        /// Tensors with another shape: name, expected, got.
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
}

fn mismatch(
    missing: &[String],
    unexpected: &[String],
    misshapen: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    // Of another architecture's weights there are hundreds, and they all say the same.
    const NAMED: usize = 3;
    let few = |what: &str, names: &[String]| {
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = names.iter().take(NAMED).map(String::as_str);
        let named = named.collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("{what}{named}{more}"))
    };
    let misshapen: Vec<String> = misshapen
        .iter()
        .map(|(name, expected, got)| format!("{name} has shape {got:?}, expected {expected:?}"))
        .collect();
    let parts = [
        few("missing ", missing),
        few("unexpected ", unexpected),
        few("", &misshapen),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
