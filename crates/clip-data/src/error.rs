use std::path::PathBuf;

use clip_files::{FolderError, IoError};

use crate::{
    FaultKind,
    decode::{MAX_NAMED_PIXELS, MAX_SIDE},
};

/// What can go wrong between shard names and batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// What is to be done takes tars on this machine.
    #[error(
        "{name} is no tar on this machine: name the tars of a folder as `DIR/*.tar`; of images and captions, \
         `clip data pack` makes tars"
    )]
    NoLocalTar {
        /// Its name.
        name: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A shard name can't be understood.
    #[error("shard name `{pattern}`: {reason}")]
    BadPattern {
        /// The part of the list at fault.
        pattern: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A table of images and captions can't be used.
    #[error("table {path}: {reason}")]
    BadTable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A list of classes doesn't fit the folders whose sub-folders are classes.
    #[error("the class folders of {path}: {reason}")]
    ClassFolders {
        /// The folder.
        path: PathBuf,
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
    /// A shard holds more samples than it held when it was counted.
    #[error(
        "shard {path} grew beyond the {counted} samples it had when the run began; \
         shards must not change during a run"
    )]
    ShardChanged {
        /// The file.
        path: PathBuf,
        /// Samples it had at first.
        counted: u64,
    },
    /// A file that should be an image isn't one that can be read.
    #[error("{path} is not a usable image: {kind}; {}", image_remedy(*kind))]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        kind: FaultKind,
    },
    /// A setting of the loader is out of range.
    #[error("{name} = {value}: {reason}")]
    BadSetting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
    /// The data can't fill a single batch.
    #[error(
        "a batch of {batch} is larger than the whole data set, which has {samples} samples; \
         lower the batch or give more shards"
    )]
    BatchTooLarge {
        /// Samples a batch.
        batch: usize,
        /// Samples of all shards.
        samples: u64,
    },
    /// A cursor points beyond the data.
    #[error(
        "the data position is sample {drawn} of an epoch, but an epoch has {samples} samples: \
         resume with the shards that the run began with"
    )]
    BadCursor {
        /// Where the cursor points.
        drawn: u64,
        /// Samples of an epoch.
        samples: u64,
    },
    /// A cursor was taken in other data.
    #[error(
        "the data position was taken in other data than these {shards} shards of {samples} samples, \
         `{first}` to `{last}`: resume with the shards, weights and number of replicas that the run began with"
    )]
    OtherData {
        /// Shards there are now.
        shards: usize,
        /// Samples of them.
        samples: u64,
        /// The first shard.
        first: String,
        /// The last shard.
        last: String,
    },
    /// A source gives nothing for too long.
    #[error(
        "nothing came from {shard} for {seconds} s; is its disk or server still there? \
         If it is only slow, raise `data.stall_seconds` of the run"
    )]
    Stalled {
        /// The shard being read.
        shard: String,
        /// The limit.
        seconds: u64,
    },
    /// More samples are bad than may be.
    #[error(
        "{bad} of {samples} samples are unusable, more than the allowed share of {allowed}; \
         worst shards: {worst}. {remedy}, or raise the share: \
         `data.max_bad_share` of a run, `--max-bad-share` of an evaluation"
    )]
    TooManyBad {
        /// Samples skipped.
        bad: u64,
        /// Samples seen.
        samples: u64,
        /// The allowed share.
        allowed: f64,
        /// The shards with most bad samples, with their kinds.
        worst: String,
        /// What is to be done about the most frequent kind.
        remedy: &'static str,
    },
    /// A whole pass over the data gave no sample.
    #[error("no usable sample in the whole data set; worst shards: {worst}")]
    NothingUsable {
        /// The shards with most bad samples, with their kinds, or the first of all where none holds any.
        worst: String,
    },
    /// Shards that something was to be made of could not be read to their ends.
    #[error(
        "could not read to the end: {shards}; nothing is written without what is missing. Run this again, or leave \
         these shards out"
    )]
    Unread {
        /// The first few by name.
        shards: String,
    },
    /// A copy was asked for of samples of which there are none.
    #[error("none of {unwanted} samples is wanted, so nothing is written")]
    NothingWanted {
        /// Samples that could have been.
        unwanted: u64,
    },
    /// A folder that a dataset is to be made in holds something else.
    #[error(
        "{path} holds `{file}`, which isn't part of a dataset made here, so nothing in it is replaced; \
         give another folder, or move that file away"
    )]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// A file in it that must stay.
        file: String,
    },
    /// A folder can't be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Two samples of a new shard would have the same key, and a reader would take only the first.
    #[error(
        "the key `{key}` comes twice within a shard: two samples have the same key, or names that become one; \
         `--renumber` numbers the samples anew"
    )]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// An index of shards can't be read.
    #[error("{path} is no index of shards: {reason}; index the shards again")]
    BadIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A list of queries or a corpus to make one of is of no use.
    #[error("{origin}: {reason}")]
    Queries {
        /// The file, or what it was to be made from.
        origin: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A tokenizer can't be made or read.
    #[error("tokenizer {origin}: {reason}")]
    Tokenizer {
        /// The file, or what it was to be made from.
        origin: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A thread of the loader panicked: a defect of the program.
    #[error("the data loader's {thread} thread panicked: {message}; please report this")]
    ThreadPanicked {
        /// What the thread does.
        thread: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// What to give in place of an image that can't be used.
fn image_remedy(kind: FaultKind) -> String {
    match kind {
        FaultKind::TooLarge => format!(
            "an image has at most {MAX_NAMED_PIXELS} pixels, and {MAX_SIDE} a side: reduce it"
        ),
        _ => "give a jpg, png, webp, gif or bmp file".to_owned(),
    }
}

impl DataError {
    pub(crate) fn setting(name: &'static str, value: impl ToString, reason: &'static str) -> Self {
        Self::BadSetting {
            name,
            value: value.to_string(),
            reason,
        }
    }
}
