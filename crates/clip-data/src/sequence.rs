use std::{ops::Range, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    DataError, FaultKind, ShardItem, ShardReader, ShardSet,
    order::{Visit, shard_order},
    source::Bodies,
    surplus::Surplus,
    watch::Watch,
};

/// How an epoch is made of the shards, beside their weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampling {
    pub(crate) seed: u64,
    pub(crate) with_replacement: bool,
    /// This replica among `world_size`, counted from 0.
    pub(crate) rank: u64,
    /// Replicas that share each epoch; 0 is taken for 1.
    pub(crate) world_size: u64,
}

/// Which items of which shards belong to a stream; counted once, so that order is arithmetic.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: ShardSet,
    /// Items of each whole shard.
    items: Vec<u64>,
    /// Items of all shards before each.
    first: Vec<u64>,
    /// Items with an image and text of all shards.
    samples: u64,
    /// The part of each shard that this stream reads.
    pub(crate) ranges: Vec<Range<u64>>,
    /// Of each shard, whether its count is what a `sizes.json` says.
    told: Vec<bool>,
    surplus: Arc<Surplus>,
}

/// A replica's share of an epoch: some of the items that the visits read one after the other.
pub(crate) struct Epoch {
    pub(crate) visits: Vec<Visit>,
    /// Items before this replica's.
    pub(crate) before: u64,
    pub(crate) items: u64,
}

impl Plan {
    pub(crate) fn new(shards: ShardSet) -> Result<Self, DataError> {
        let counts = shards.count()?;
        let mut before = 0;
        let first = counts.iter().map(|count| {
            before += count.items;
            before - count.items
        });
        Ok(Self {
            first: first.collect(),
            shards,
            items: counts.iter().map(|count| count.items).collect(),
            samples: counts.iter().map(|count| count.samples).sum(),
            ranges: counts.iter().map(|count| 0..count.items).collect(),
            told: counts.iter().map(|count| count.told).collect(),
            surplus: Arc::default(),
        })
    }

    /// Samples that could be usable by their headers, in all shards.
    pub(crate) fn samples(&self) -> u64 {
        self.samples.min(self.total())
    }

    /// Items of all shards, each counted once.
    pub(crate) fn total(&self) -> u64 {
        self.ranges.iter().map(length).sum()
    }

    /// Items that a replica draws in an epoch; on the average, where weights are fractions.
    pub(crate) fn samples_per_epoch(&self, sampling: Sampling) -> u64 {
        let weighted = |source: &crate::source::Source| {
            let items: u64 = self.ranges[source.shards.clone()].iter().map(length).sum();
            source.weight * items as f64
        };
        let all = self.shards.sources().iter().map(weighted).sum::<f64>();
        all.round() as u64 / sampling.world_size.max(1)
    }

    /// What a replica reads in an epoch: the same items for no two of them, and together all.
    pub(crate) fn epoch(&self, sampling: Sampling, epoch: u64) -> Epoch {
        let visits = shard_order(
            sampling.seed,
            epoch,
            self.shards.sources(),
            sampling.with_replacement,
        );
        let items = visits.iter().map(|visit| length(&self.ranges[visit.shard]));
        let all = u128::from(items.sum::<u64>());
        let world = u128::from(sampling.world_size.max(1));
        let bound = |rank: u64| (all * u128::from(rank) / world) as u64;
        let before = bound(sampling.rank);
        Epoch {
            visits,
            before,
            items: bound(sampling.rank + 1) - before,
        }
    }

    /// A number that other shards, weights or replicas would not have.
    pub(crate) fn fingerprint(&self, sampling: Sampling) -> u64 {
        let mut hash = Sha256::new();
        for (shard, items) in self.items.iter().enumerate() {
            let name = self.shards.name(shard);
            // The folder may be moved while a run rests.
            let file = name.rsplit(['/', '\\']).next().unwrap_or_default();
            hash.update(file);
            hash.update([0]);
            let range = &self.ranges[shard];
            for number in [*items, range.start, range.end] {
                hash.update(number.to_le_bytes());
            }
        }
        for source in self.shards.sources() {
            hash.update((source.shards.len() as u64).to_le_bytes());
            hash.update(source.weight.to_le_bytes());
        }
        hash.update([u8::from(sampling.with_replacement)]);
        hash.update(sampling.rank.to_le_bytes());
        hash.update(sampling.world_size.max(1).to_le_bytes());
        let digest = hash.finalize();
        // 0 stands for the beginning of any data.
        let first = digest.iter().take(8);
        first
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
            .max(1)
    }

    /// The items `[start, end)` of this plan, counted through its shards in list order.
    pub(crate) fn slice(&self, start: u64, end: u64) -> Self {
        let mut first = 0;
        let ranges = self.ranges.iter().map(|range| {
            let length = length(range);
            let within =
                |position: u64| range.start + position.clamp(first, first + length) - first;
            let part = within(start)..within(end).max(within(start));
            first += length;
            part
        });
        let ranges = ranges.collect();
        Self {
            ranges,
            ..self.clone()
        }
    }

    /// Says that a shard holds more than was told, the first time and ever more seldom.
    fn warn_of_surplus(&self, shard: usize) {
        if let Some(number) = self.surplus.note(shard) {
            log::warn!(
                "{}: the sizes.json beside it counts {} samples and it holds more, which are left out ({number} shards \
                 so far); `clip data index` counts tars on this machine",
                self.shards.name(shard),
                self.items[shard],
            );
        }
    }

    /// A number for a visit's item that doesn't depend on the order it is read in.
    pub(crate) fn id(&self, visit: Visit, index: u64) -> u64 {
        let all = self.items.iter().sum::<u64>();
        (all * visit.nth)
            .wrapping_add(self.first[visit.shard])
            .wrapping_add(index)
    }
}

pub(crate) fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// An item and its place.
pub(crate) struct Located {
    pub(crate) visit: Visit,
    pub(crate) index: u64,
    /// Where it begins in its shard.
    pub(crate) start: u64,
    pub(crate) item: ShardItem,
}

/// The plan's items, shard after shard in a given order.
///
/// A shard that can no longer be read gives a fault for each item it should have held, so that
/// positions stay what they were. Where a `sizes.json` counted wrong, its number stands all the same, as the order is
/// made of it: what a shard holds beyond it isn't read, and what it lacks is [`FaultKind::Absent`].
pub(crate) struct Sequence {
    plan: Arc<Plan>,
    order: Vec<Visit>,
    place: usize,
    index: u64,
    /// Items still to pass over before the first one that is given.
    skip: u64,
    reader: Option<ShardReader>,
    pub(crate) headers_only: bool,
    lost: Option<FaultKind>,
    watch: Watch,
}

impl Sequence {
    pub(crate) fn new(plan: Arc<Plan>, order: Vec<Visit>, watch: Watch) -> Self {
        Self {
            plan,
            order,
            place: 0,
            index: 0,
            skip: 0,
            reader: None,
            headers_only: false,
            lost: None,
            watch,
        }
    }

    /// Begins after `read` items; shards that lie wholly before are not opened.
    pub(crate) fn after(mut self, read: u64) -> Self {
        self.skip = read;
        while let Some(visit) = self.order.get(self.place) {
            let length = length(&self.plan.ranges[visit.shard]);
            if self.skip < length {
                break;
            }
            self.skip -= length;
            self.place += 1;
        }
        self
    }

    fn next_shard(&mut self) {
        self.place += 1;
        self.index = 0;
        self.reader = None;
        self.lost = None;
    }

    /// Looks behind the last item that was given, where its shard should end: whoever asks for no further item would
    /// not learn that the shard grew.
    ///
    /// # Errors
    /// [`DataError::ShardChanged`].
    pub(crate) fn check_end(&mut self) -> Result<(), DataError> {
        match self.order.get(self.place) {
            Some(visit) if self.index == self.plan.ranges[visit.shard].end => self.leave(*visit),
            _ => Ok(()),
        }
    }

    /// Goes on to the next shard from the end of this one's range.
    fn leave(&mut self, visit: Visit) -> Result<(), DataError> {
        let end = self.plan.ranges[visit.shard].end;
        let whole = end == self.plan.items[visit.shard];
        let more = whole
            && self
                .reader
                .as_mut()
                .is_some_and(|reader| reader.next_located().is_some());
        if more && self.plan.told[visit.shard] {
            self.plan.warn_of_surplus(visit.shard);
        } else if more {
            self.place = self.order.len();
            return Err(DataError::ShardChanged {
                path: self.plan.shards.name(visit.shard).into(),
                counted: end,
            });
        }
        self.next_shard();
        Ok(())
    }

    /// The shard's next item; its contents need not be read if it is not `wanted`.
    fn read(&mut self, shard: usize, wanted: bool) -> (u64, ShardItem) {
        self.watch.reads(shard);
        if self.reader.is_none() && self.lost.is_none() {
            match self.plan.shards.open(shard) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => {
                    log::warn!("{}", clip_files::one_line(&error));
                    self.lost = Some(FaultKind::UnreadableShard);
                }
            }
        }
        if let Some(reader) = &mut self.reader {
            let all = wanted && !self.headers_only;
            reader.read_bodies(if all { Bodies::All } else { Bodies::None });
            if let Some(found) = reader.next_located() {
                if found.1.ends_its_shard() {
                    self.lost = Some(FaultKind::UnreadableShard);
                }
                return found;
            }
        }
        self.reader = None;
        let kind = *self.lost.get_or_insert(if self.plan.told[shard] {
            FaultKind::Absent
        } else {
            FaultKind::UnreadableShard
        });
        (0, ShardItem::Fault(kind, String::new()))
    }
}

impl Iterator for Sequence {
    type Item = Result<Located, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let visit = *self.order.get(self.place)?;
            let range = self.plan.ranges[visit.shard].clone();
            if range.is_empty() {
                self.next_shard();
                continue;
            }
            if self.index == range.end {
                if let Err(error) = self.leave(visit) {
                    return Some(Err(error));
                }
                continue;
            }
            // A tar knows where a sample ends by the first file of the next, which is read on the way.
            let passed_over = range.start.saturating_sub(self.index) + self.skip;
            let (start, item) = self.read(visit.shard, passed_over <= 1);
            let index = self.index;
            self.index += 1;
            if index < range.start {
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            return Some(Ok(Located {
                visit,
                index,
                start,
                item,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{compressed::gzip, shards, write};

    fn sequence(plan: &Arc<Plan>, order: &[usize]) -> Sequence {
        let visit = |shard: &usize| Visit {
            shard: *shard,
            nth: 0,
        };
        let order = order.iter().map(visit).collect();
        Sequence::new(Arc::clone(plan), order, Watch::default())
    }

    fn keys(sequence: Sequence) -> Vec<String> {
        sequence
            .map(|located| match located.unwrap().item {
                ShardItem::Sample(sample) => sample.key,
                ShardItem::Fault(kind, key) => format!("{key}:{kind}"),
            })
            .collect()
    }

    #[test]
    fn a_sequence_begins_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(shards(&dir, &[3, 0, 4, 2])).unwrap();
        let plan = Arc::new(plan.slice(1, 8));
        let order = [2, 1, 0, 3];
        let all = keys(sequence(&plan, &order));
        assert_eq!(all, ["k3", "k4", "k5", "k6", "k1", "k2", "k7"]);
        for read in 0..=7 {
            let rest = sequence(&plan, &order).after(read);
            assert_eq!(keys(rest), all[read as usize..], "{read}");
        }
        assert_eq!(plan.id(Visit { shard: 3, nth: 0 }, 1), 8);
        assert_eq!(plan.id(Visit { shard: 3, nth: 2 }, 1), 8 + 2 * 9);
    }

    #[test]
    fn a_shard_cut_shorter_gives_a_fault_for_each_sample_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[4]);
        let plan = Arc::new(Plan::new(set.clone()).unwrap());
        let bytes = std::fs::read(set.name(0)).unwrap();
        std::fs::write(set.name(0), &bytes[..3000]).unwrap();
        let found = keys(sequence(&plan, &[0]));
        assert_eq!(found[..2], ["k0", "k1:truncated shard"]);
        assert_eq!(found[2..], [":unreadable shard", ":unreadable shard"]);
    }

    #[test]
    fn a_sizes_json_that_counts_wrong_ends_no_run() {
        let dir = tempfile::tempdir().unwrap();
        let plain = std::fs::read(shards(&dir, &[4]).name(0)).unwrap();
        let shard = write(&dir, "s.tar.gz", &gzip(&plain));
        let found = |counted: u64| {
            let sizes = format!(r#"{{"s.tar.gz": {counted}}}"#);
            write(&dir, "sizes.json", sizes.as_bytes());
            let set = ShardSet::from_paths(vec![shard.clone()]);
            keys(sequence(&Arc::new(Plan::new(set).unwrap()), &[0, 0]))
        };
        assert_eq!(found(3), ["k0", "k1", "k2", "k0", "k1", "k2"]);
        let absent = format!(":{}", FaultKind::Absent);
        let five = ["k0", "k1", "k2", "k3", &absent];
        assert_eq!(found(5), [five, five].concat());
    }

    #[test]
    fn replicas_share_an_epoch_without_overlap_or_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Arc::new(Plan::new(shards(&dir, &[3, 0, 4, 2, 9])).unwrap());
        // More replicas than shards, and than samples.
        for world_size in [1, 2, 3, 7, 18, 25] {
            let mut all = Vec::new();
            for rank in 0..world_size {
                let sampling = Sampling {
                    seed: 5,
                    rank,
                    world_size,
                    ..Sampling::default()
                };
                let epoch = plan.epoch(sampling, 3);
                let share = Sequence::new(Arc::clone(&plan), epoch.visits, Watch::default());
                let share = share.after(epoch.before);
                let found: Vec<String> = share
                    .take(epoch.items as usize)
                    .map(|located| match located.unwrap().item {
                        ShardItem::Sample(sample) => sample.key,
                        ShardItem::Fault(kind, _) => panic!("{kind}"),
                    })
                    .collect();
                assert!(found.len().abs_diff(18 / world_size as usize) <= 1);
                all.extend(found);
            }
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 18, "{world_size} replicas");
        }
    }
}
