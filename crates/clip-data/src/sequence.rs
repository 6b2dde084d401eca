use std::{ops::Range, sync::Arc};

use crate::{DataError, FaultKind, ShardItem, ShardReader, ShardSet};

/// Which items of which shards belong to a stream; counted once, so that order is arithmetic.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: ShardSet,
    /// Items of each whole shard.
    items: Vec<u64>,
    /// Items of all shards before each.
    first: Vec<u64>,
    /// Items with an image and text of each whole shard.
    samples: u64,
    /// The part of each shard that this stream reads.
    pub(crate) ranges: Vec<Range<u64>>,
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
        })
    }

    /// Samples that could be usable by their headers, in all shards.
    pub(crate) fn samples(&self) -> u64 {
        self.samples.min(self.total())
    }

    /// Items of one epoch.
    pub(crate) fn total(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// The items `[start, end)` of this plan, counted through its shards in list order.
    pub(crate) fn slice(&self, start: u64, end: u64) -> Self {
        let mut first = 0;
        let ranges = self.ranges.iter().map(|range| {
            let length = range.end - range.start;
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

    /// A number for an item that doesn't depend on the order it is read in.
    pub(crate) fn id(&self, shard: usize, index: u64) -> u64 {
        self.first[shard] + index
    }
}

/// An item and its place.
pub(crate) struct Located {
    pub(crate) shard: usize,
    pub(crate) index: u64,
    /// Where it begins in its shard.
    pub(crate) start: u64,
    pub(crate) item: ShardItem,
}

/// The plan's items, shard after shard in a given order.
///
/// A shard that can no longer be read gives a fault for each item it should have held, so that
/// positions stay what they were.
pub(crate) struct Sequence {
    plan: Arc<Plan>,
    order: Vec<usize>,
    place: usize,
    index: u64,
    /// Items still to pass over before the first one that is given.
    skip: u64,
    reader: Option<ShardReader>,
    pub(crate) headers_only: bool,
    lost: Option<FaultKind>,
}

impl Sequence {
    pub(crate) fn new(plan: Arc<Plan>, order: Vec<usize>) -> Self {
        Self {
            plan,
            order,
            place: 0,
            index: 0,
            skip: 0,
            reader: None,
            headers_only: false,
            lost: None,
        }
    }

    /// Begins after `read` items; shards that lie wholly before are not opened.
    pub(crate) fn after(mut self, read: u64) -> Self {
        self.skip = read;
        while let Some(shard) = self.order.get(self.place) {
            let range = &self.plan.ranges[*shard];
            let length = range.end - range.start;
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

    fn read(&mut self, shard: usize) -> (u64, ShardItem) {
        if self.reader.is_none() && self.lost.is_none() {
            match ShardReader::open(&self.plan.shards.paths()[shard], shard) {
                Ok(reader) if self.headers_only => self.reader = Some(reader.headers_only()),
                Ok(reader) => self.reader = Some(reader),
                Err(_) => self.lost = Some(FaultKind::UnreadableShard),
            }
        }
        if let Some(found) = self.reader.as_mut().and_then(ShardReader::next_located) {
            return found;
        }
        self.reader = None;
        let kind = *self.lost.get_or_insert(FaultKind::UnreadableShard);
        (0, ShardItem::Fault(kind, String::new()))
    }
}

impl Iterator for Sequence {
    type Item = Result<Located, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let shard = *self.order.get(self.place)?;
            let range = self.plan.ranges[shard].clone();
            if range.is_empty() {
                self.next_shard();
                continue;
            }
            if self.index == range.end {
                let whole = range.end == self.plan.items[shard];
                let more = whole
                    && self
                        .reader
                        .as_mut()
                        .is_some_and(|reader| reader.next_located().is_some());
                if more {
                    self.place = self.order.len();
                    return Some(Err(DataError::ShardChanged {
                        path: self.plan.shards.paths()[shard].clone(),
                        counted: range.end,
                    }));
                }
                self.next_shard();
                continue;
            }
            let (start, item) = self.read(shard);
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
                shard,
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
    use crate::testing::shards;

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
        let order = vec![2, 1, 0, 3];
        let all = keys(Sequence::new(Arc::clone(&plan), order.clone()));
        assert_eq!(all, ["k3", "k4", "k5", "k6", "k1", "k2", "k7"]);
        for read in 0..=7 {
            let rest = Sequence::new(Arc::clone(&plan), order.clone()).after(read);
            assert_eq!(keys(rest), all[read as usize..], "{read}");
        }
        assert_eq!(plan.id(3, 1), 8);
    }

    #[test]
    fn a_shard_cut_shorter_gives_a_fault_for_each_sample_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[4]);
        let plan = Arc::new(Plan::new(set.clone()).unwrap());
        let bytes = std::fs::read(&set.paths()[0]).unwrap();
        std::fs::write(&set.paths()[0], &bytes[..3000]).unwrap();
        let found = keys(Sequence::new(plan, vec![0]));
        assert_eq!(found[..2], ["k0", "k1:truncated shard"]);
        assert_eq!(found[2..], [":unreadable shard", ":unreadable shard"]);
    }
}
