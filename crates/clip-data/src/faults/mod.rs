//! What is wrong with samples: its kinds, how often each was found where, and when it is too much.

mod fault_log;

use std::{collections::BTreeMap, fmt};

pub(crate) use fault_log::FaultLog;
use serde::{Deserialize, Serialize};

use crate::{DataError, ShardSet};

/// Shards that a message names.
const NAMED: usize = 3;

/// Keys of bad samples that are kept, of each shard.
const EXAMPLES: usize = 3;

/// Why a sample can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Neither `txt` nor `json` holds a caption, and there is no class or a caption is needed.
    NoCaption,
    /// Every caption is blank.
    EmptyCaption,
    /// No `cls` and no class folder, where a class is needed.
    NoClass,
    /// No member with an image's extension.
    NoImage,
    /// The image's bytes can't be decoded.
    Undecodable,
    /// More bytes or pixels than are allowed.
    TooLarge,
    /// `json` is not JSON.
    BadJson,
    /// `cls` is not a whole number.
    BadClass,
    /// The key stood in the shard before.
    DuplicateKey,
    /// A file that a table names, or that was listed, is missing or can't be read.
    UnreadableFile,
    /// The file is empty, or doesn't begin as a tar.
    NoTar,
    /// The archive is cut off or damaged; what follows is lost.
    TruncatedShard,
    /// The operating system could not read on.
    UnreadableShard,
    /// A `sizes.json` counts a sample that the shard doesn't hold.
    Absent,
}

impl FaultKind {
    /// Whether it stands for all that a shard holds from there on: how many samples are lost is not known.
    pub fn ends_its_shard(self) -> bool {
        matches!(
            self,
            Self::NoTar | Self::TruncatedShard | Self::UnreadableShard
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCaption => "no caption",
            Self::EmptyCaption => "empty caption",
            Self::NoClass => "no class",
            Self::NoImage => "no image",
            Self::Undecodable => "undecodable image",
            Self::TooLarge => "too large",
            Self::BadJson => "bad json",
            Self::BadClass => "bad class",
            Self::DuplicateKey => "duplicate key",
            Self::UnreadableFile => "unreadable file",
            Self::NoTar => "no tar",
            Self::TruncatedShard => "truncated shard",
            Self::UnreadableShard => "unreadable shard",
            Self::Absent => "not there, though sizes.json counts it",
        })
    }
}

/// Samples read and samples skipped, by shard and kind: nothing is dropped silently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Samples seen, good and bad.
    pub samples: u64,
    /// Captions cut to the context length.
    pub truncated_captions: u64,
    /// Passes over the data that were completed.
    pub epochs: u64,
    /// Bad samples, per shard (by its path) and kind.
    pub shards: BTreeMap<String, BTreeMap<FaultKind, u64>>,
    /// The keys of the first few, per shard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub examples: BTreeMap<String, Vec<String>>,
}

impl FaultReport {
    /// Bad samples of all shards.
    pub fn bad(&self) -> u64 {
        self.shards.values().flat_map(BTreeMap::values).sum()
    }

    /// Bad samples of all shards by kind.
    pub fn kinds(&self) -> BTreeMap<FaultKind, u64> {
        let mut kinds = BTreeMap::new();
        for (kind, count) in self.shards.values().flatten() {
            *kinds.entry(*kind).or_default() += count;
        }
        kinds
    }

    /// Adds what another loader, or an earlier part of the run, counted.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.truncated_captions += other.truncated_captions;
        self.epochs += other.epochs;
        for (shard, kinds) in &other.shards {
            let own = self.shards.entry(shard.clone()).or_default();
            for (kind, count) in kinds {
                *own.entry(*kind).or_default() += count;
            }
        }
        for (shard, keys) in &other.examples {
            for key in keys {
                self.example(shard, key);
            }
        }
    }

    /// What was counted after `earlier`, a report of the same loader.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut fresh = Self {
            samples: self.samples - earlier.samples,
            truncated_captions: self.truncated_captions - earlier.truncated_captions,
            epochs: self.epochs - earlier.epochs,
            shards: self.shards.clone(),
            examples: self.examples.clone(),
        };
        for (shard, kinds) in &earlier.shards {
            let Some(own) = fresh.shards.get_mut(shard) else {
                continue;
            };
            for (kind, count) in kinds {
                if let Some(own) = own.get_mut(kind) {
                    *own -= count;
                }
            }
            own.retain(|_, count| *count > 0);
        }
        fresh.shards.retain(|_, kinds| !kinds.is_empty());
        let bad = &fresh.shards;
        fresh.examples.retain(|shard, _| bad.contains_key(shard));
        fresh
    }

    /// The `count` shards with the most bad samples, such as `a.tar (3 no caption)`.
    pub fn worst_shards(&self, count: usize) -> String {
        let mut shards: Vec<_> = self
            .shards
            .iter()
            .map(|(name, kinds)| (kinds.values().sum::<u64>(), name, kinds))
            .collect();
        shards.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let describe = |(_, name, kinds): &(u64, &String, &BTreeMap<FaultKind, u64>)| {
            let kinds: Vec<String> = kinds
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            format!("{name} ({})", kinds.join(", "))
        };
        let worst: Vec<String> = shards.iter().take(count).map(describe).collect();
        worst.join("; ")
    }

    /// Checks that what is made of the samples lacks none that another try would read.
    ///
    /// # Errors
    /// [`DataError::Unread`].
    pub(crate) fn require_read(&self) -> Result<(), DataError> {
        match shards_with(&self.shards, |kind| kind == FaultKind::UnreadableShard) {
            Some(shards) => Err(DataError::Unread { shards }),
            None => Ok(()),
        }
    }

    /// Warns of shards that are damaged, as their fault is one in the count and stands for any number of samples.
    pub(crate) fn warn_of_lost_ends(&self) {
        if let Some(shards) = shards_with(&self.shards, FaultKind::ends_its_shard) {
            log::warn!(
                "not whole, so that samples are missing which no count knows of: {shards}; \
                 `clip data doctor` says what is wrong with them"
            );
        }
    }

    /// The error of a pass that gave no sample.
    pub(crate) fn nothing_usable(&self, shards: &ShardSet) -> DataError {
        let worst = match self.bad() {
            0 => shards.without_samples(),
            _ => self.worst_shards(3),
        };
        DataError::NothingUsable { worst }
    }

    /// What is to be done about the kind that is most frequent.
    fn remedy(&self) -> &'static str {
        let kinds = self.kinds();
        match kinds.into_iter().max_by_key(|(_, count)| *count) {
            Some((FaultKind::NoClass, _)) => {
                "A class is a number from 0 in `KEY.cls`, or an image's sub-folder, of two or more, where no image has a text \
                 of its own; names of classes in captions are read with `--labels-from caption`. Give classes, leave out these \
                 shards"
            }
            Some((FaultKind::NoCaption, _)) => {
                "A caption is beside its image in `KEY.txt` or `KEY.json`; sub-folders are classes to evaluations alone. Give \
                 captions, leave out these shards"
            }
            _ => "Repair or leave out these shards",
        }
    }

    /// Keeps the key of a bad sample, if it is one of the first of its shard.
    fn example(&mut self, shard: &str, key: &str) {
        if key.is_empty() {
            return;
        }
        let keys = self.examples.entry(shard.to_owned()).or_default();
        if keys.len() < EXAMPLES && !keys.iter().any(|kept| kept == key) {
            keys.push(key.to_owned());
        }
    }

    /// Counts a bad sample; returns how many of the kind there are in the shard.
    pub(crate) fn fault(&mut self, shard: &str, kind: FaultKind) -> u64 {
        self.samples += 1;
        // Looked up first, so that the shard's name is only copied once.
        if !self.shards.contains_key(shard) {
            self.shards.insert(shard.to_owned(), BTreeMap::new());
        }
        let count = self
            .shards
            .get_mut(shard)
            .map(|kinds| kinds.entry(kind).or_default());
        count.map_or(0, |count| {
            *count += 1;
            *count
        })
    }
}

/// The first shards with a fault of these kinds, such as `a.tar, b.tar, c.tar and 2 more`, if there are any.
pub(crate) fn shards_with(
    shards: &BTreeMap<String, BTreeMap<FaultKind, u64>>,
    of_kind: impl Fn(FaultKind) -> bool,
) -> Option<String> {
    let found = shards
        .iter()
        .filter(|(_, kinds)| kinds.keys().any(|kind| of_kind(*kind)));
    let mut names: Vec<&str> = found.map(|(name, _)| name.as_str()).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(NAMED);
    (!names.is_empty()).then(|| names.join(", ") + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_shards_come_first() {
        let mut report = FaultReport::default();
        report.fault("a.tar", FaultKind::NoCaption);
        report.fault("b.tar", FaultKind::Undecodable);
        assert_eq!(report.fault("b.tar", FaultKind::Undecodable), 2);
        assert_eq!((report.samples, report.bad()), (3, 3));
        assert_eq!(report.worst_shards(1), "b.tar (2 undecodable image)");
    }

    #[test]
    fn shards_that_are_not_whole_are_told_from_others() {
        let mut report = FaultReport::default();
        report.fault("a.tar", FaultKind::NoCaption);
        report.fault("b.tar", FaultKind::TruncatedShard);
        report.require_read().unwrap();
        let cut = shards_with(&report.shards, FaultKind::ends_its_shard);
        assert_eq!(cut.as_deref(), Some("b.tar"));
        for shard in ["c.tar", "d.tar", "e.tar", "f.tar"] {
            report.fault(shard, FaultKind::UnreadableShard);
        }
        let error = report.require_read().unwrap_err().to_string();
        assert!(error.contains("c.tar, d.tar, e.tar and 1 more"), "{error}");
    }

    #[test]
    fn reports_add_up_and_survive_json() {
        let mut report = FaultReport::default();
        report.fault("a.tar", FaultKind::NoCaption);
        let mut sum = report.clone();
        sum.merge(&report);
        let json = serde_json::to_string(&sum).unwrap();
        assert!(json.contains(r#""a.tar":{"no_caption":2}"#), "{json}");
        assert_eq!(serde_json::from_str::<FaultReport>(&json).unwrap(), sum);
        assert_eq!(sum.kinds()[&FaultKind::NoCaption], 2);
        assert_eq!(sum.since(&report), report);
        assert_eq!(sum.since(&sum), FaultReport::default());
    }
}
