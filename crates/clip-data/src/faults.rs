use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a sample can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Neither `txt` nor `json` holds a caption, and there is no class.
    NoCaption,
    /// Every caption is blank.
    EmptyCaption,
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
    /// The archive is cut off or damaged; what follows is lost.
    TruncatedShard,
    /// The operating system could not read on.
    UnreadableShard,
}

/// Samples read and samples skipped, by shard and kind: nothing is dropped silently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSummary {
    /// Samples seen, good and bad.
    pub samples: u64,
    /// Per shard, by its path.
    pub shards: BTreeMap<String, BTreeMap<FaultKind, u64>>,
}

impl FaultSummary {
    /// Counts a good sample.
    pub fn good(&mut self) {
        self.samples += 1;
    }

    /// Counts a bad sample of `shard`; returns how many of the kind that shard has had.
    pub fn fault(&mut self, shard: &str, kind: FaultKind) -> u64 {
        self.samples += 1;
        let count = self
            .shards
            .entry(shard.to_owned())
            .or_default()
            .entry(kind)
            .or_default();
        *count += 1;
        *count
    }

    /// Bad samples of all shards.
    pub fn bad(&self) -> u64 {
        self.shards.values().flat_map(BTreeMap::values).sum()
    }

    /// The `count` shards with the most bad samples, such as `a.tar (3 no_caption)`.
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
                .map(|(kind, count)| format!("{count} {kind:?}"))
                .collect();
            format!("{name} ({})", kinds.join(", "))
        };
        shards
            .iter()
            .take(count)
            .map(describe)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_shards_come_first() {
        let mut summary = FaultSummary::default();
        summary.good();
        summary.fault("a.tar", FaultKind::NoCaption);
        summary.fault("b.tar", FaultKind::Undecodable);
        assert_eq!(summary.fault("b.tar", FaultKind::Undecodable), 2);
        assert_eq!((summary.samples, summary.bad()), (4, 3));
        assert_eq!(summary.worst_shards(1), "b.tar (2 Undecodable)");
    }
}
