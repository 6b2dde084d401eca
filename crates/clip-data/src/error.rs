use std::path::PathBuf;

/// What can go wrong between shard names and samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
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
    /// A shard name can't be understood.
    #[error("shard name `{pattern}`: {reason}")]
    BadPattern {
        /// The part of the list at fault.
        pattern: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A shard that was named doesn't exist.
    #[error(
        "shard {path} does not exist (named by `{pattern}`); check the path and the brace range"
    )]
    MissingShard {
        /// The file.
        path: PathBuf,
        /// The part of the list that named it.
        pattern: String,
    },
    /// A tokenizer can't be made or read.
    #[error("tokenizer {origin}: {reason}")]
    Tokenizer {
        /// The file, or what it was to be made from.
        origin: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl DataError {
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
