use std::path::{Path, PathBuf};

use super::ShapesConfig;
use super::split::PairSplit;
use super::vocabulary::{Colour, Shape};
use crate::DataError;

/// Names of all classes, a line each; the line's number, from 0, is the class in `cls`.
pub(super) const CLASSES: &str = include_str!("../../../../datasets/shapes/classes.txt");
/// Prompt templates that suit the captions.
pub(super) const TEMPLATES: &str = include_str!("../../../../datasets/shapes/templates.txt");
/// Name of the file of classes.
pub(super) const CLASSES_FILE: &str = "classes.txt";
/// Name of the file of templates.
pub(super) const TEMPLATES_FILE: &str = "templates.txt";

/// Samples a shard: small enough for both shards of a shuffle buffer to mix well, and for every core to have one to
/// write.
pub(super) const SHARD: usize = 1_000;

/// A dataset of shapes on disk. The four shard patterns are what [`ShardSet::parse`](crate::ShardSet::parse) reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapesDataset {
    /// The folder.
    pub dir: PathBuf,
    /// Shards to train on: no scene or caption of them holds an unseen pair.
    pub train: String,
    /// Shards to measure retrieval on, of the same kind.
    pub val: String,
    /// Shards of single objects whose pairs occur in training.
    pub zeroshot_seen: String,
    /// Shards of single objects whose pairs don't.
    pub zeroshot_unseen: String,
    /// The names of all pairs of colour and shape, seen and unseen.
    pub classes: PathBuf,
    /// Prompt templates.
    pub templates: PathBuf,
    /// Whether it was there already, and nothing was written.
    pub reused: bool,
}

impl ShapesDataset {
    pub(super) fn new(config: &ShapesConfig, dir: &Path, reused: bool) -> Result<Self, DataError> {
        // What a shard pattern would read as a pattern or a list can't be a folder's name.
        let text = dir
            .to_str()
            .filter(|text| !text.contains(['{', '}']) && !text.contains("::"));
        let text = text.filter(|text| !text.contains("://") && text.trim() == *text);
        // `.` and `/` can't be renamed to.
        let text = text.filter(|_| dir.file_name().is_some());
        let Some(text) = text else {
            return Err(DataError::BadPattern {
                pattern: dir.display().to_string(),
                reason: "a folder of shards needs a name, and a path without braces, `::`, `://`, spaces at its ends \
                         and bytes that aren't UTF-8; choose another"
                    .to_owned(),
            });
        };
        let pattern = |split: Split| {
            let last = split.shards(config) - 1;
            let number = match last {
                0 => "000000".to_owned(),
                _ => format!("{{000000..{last:06}}}"),
            };
            let path = Path::new(text).join(format!("{}-{number}.tar", split.name()));
            path.display().to_string()
        };
        Ok(Self {
            dir: dir.to_owned(),
            train: pattern(Split::Train),
            val: pattern(Split::Val),
            zeroshot_seen: pattern(Split::Seen),
            zeroshot_unseen: pattern(Split::Unseen),
            classes: dir.join(CLASSES_FILE),
            templates: dir.join(TEMPLATES_FILE),
            reused,
        })
    }
}

/// A part of the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Val,
    Seen,
    Unseen,
}

impl Split {
    pub(super) const ALL: [Self; 4] = [Self::Train, Self::Val, Self::Seen, Self::Unseen];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Seen => "zeroshot-seen",
            Self::Unseen => "zeroshot-unseen",
        }
    }

    /// Images of it.
    pub(super) fn samples(self, config: &ShapesConfig) -> usize {
        match self {
            Self::Train => config.train,
            Self::Val => config.val,
            Self::Seen | Self::Unseen => config.zeroshot,
        }
    }

    pub(super) fn shards(self, config: &ShapesConfig) -> usize {
        self.samples(config).div_ceil(SHARD)
    }

    /// Whether its scenes are single objects with a class.
    pub(super) fn has_classes(self) -> bool {
        matches!(self, Self::Seen | Self::Unseen)
    }

    /// The pairs that its scenes hold.
    pub(super) fn pairs(self, pairs: &PairSplit) -> &[(Colour, Shape)] {
        match self {
            Self::Unseen => &pairs.unseen,
            _ => &pairs.seen,
        }
    }
}

/// The file name of a shard.
pub(super) fn shard_file(split: Split, shard: usize) -> String {
    format!("{}-{shard:06}.tar", split.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_no_pattern_can_name_is_refused() {
        let config = ShapesConfig::default();
        let dataset = ShapesDataset::new(&config, Path::new("data/shapes"), false).unwrap();
        assert_eq!(dataset.train, "data/shapes/train-{000000..000059}.tar");
        assert_eq!(dataset.val, "data/shapes/val-000000.tar");
        for folder in ["a{b}", "a::b", "s3://a", " a", ".", ""] {
            let error = ShapesDataset::new(&config, Path::new(folder), false).unwrap_err();
            assert!(error.to_string().contains("choose another"), "{error}");
        }
    }
}
