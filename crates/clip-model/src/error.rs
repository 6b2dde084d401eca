use std::path::PathBuf;

/// What can go wrong between a configuration or a weight file and a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done: `read`, `write`, `create`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No preset has that name, and no file either.
    #[error(
        "unknown preset `{name}`: it is neither a file nor one of {}",
        known.join(", ")
    )]
    UnknownPreset {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A configuration is not JSON of OpenCLIP's form.
    #[error("{origin} is not a model configuration: {source}")]
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
    /// A weight file is not a safetensors file, or a damaged one.
    #[error("{path} is not a readable safetensors file: {reason}")]
    WeightsSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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

impl ModelError {
    /// Wraps an input/output error with what was being done to which path.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn mismatch(
    missing: &[String],
    unexpected: &[String],
    misshapen: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", missing.join(", ")));
    }
    if !unexpected.is_empty() {
        parts.push(format!("unexpected {}", unexpected.join(", ")));
    }
    for (name, expected, got) in misshapen {
        parts.push(format!("{name} has shape {got:?}, expected {expected:?}"));
    }
    parts.join("; ")
}
