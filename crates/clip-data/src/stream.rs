use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Cursor, DataError, FaultKind, ShardItem,
    order::{ShuffleBuffer, Visit, replay},
    sequence::{Epoch, Located, Plan, Sampling, Sequence, length},
    watch::Watch,
};

/// A drawn item.
pub(crate) struct Draw {
    pub(crate) item: ShardItem,
    pub(crate) shard: usize,
    /// The item's number in the shard list, the same in every epoch, and apart for each visit of one epoch.
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    /// The position after this item.
    pub(crate) after: Cursor,
}

/// What the shuffle buffer holds of an item.
enum Held {
    Whole(ShardItem),
    /// Its place alone: read again when it is drawn.
    Place(u64),
}

struct Slot {
    visit: Visit,
    index: u64,
    held: Held,
}

impl Slot {
    fn bytes(&self) -> usize {
        match &self.held {
            Held::Whole(item) => item.held_bytes(),
            Held::Place(_) => 0,
        }
    }
}

/// The endless stream of training items from a cursor on.
///
/// Each epoch reads its shards in a permuted order through a bounded shuffle buffer.
pub(crate) struct TrainStream {
    plan: Arc<Plan>,
    sampling: Sampling,
    capacity: usize,
    max_held_bytes: usize,
    cursor: Cursor,
    epoch: Option<Reading>,
    held_bytes: usize,
    failed: bool,
    watch: Watch,
}

/// An epoch being read.
struct Reading {
    sequence: Sequence,
    buffer: ShuffleBuffer<Slot>,
    /// Items that have not left the sequence yet.
    left: u64,
    /// Items of this stream in the whole epoch.
    items: u64,
}

impl TrainStream {
    /// # Errors
    /// [`DataError::BadCursor`] or [`DataError::OtherData`] if these data have no such position.
    pub(crate) fn new(
        plan: Arc<Plan>,
        sampling: Sampling,
        capacity: usize,
        max_held_bytes: usize,
        cursor: Cursor,
        watch: Watch,
    ) -> Result<Self, DataError> {
        check(&plan, sampling, cursor)?;
        let data = plan.fingerprint(sampling);
        Ok(Self {
            failed: plan.samples_per_epoch(sampling) == 0,
            plan,
            sampling,
            capacity,
            max_held_bytes,
            cursor: Cursor { data, ..cursor },
            epoch: None,
            held_bytes: 0,
            watch,
        })
    }

    /// The reader and the buffer as they stand at the cursor.
    fn begin(&mut self) -> Reading {
        let Cursor { epoch, drawn, .. } = self.cursor;
        let Epoch {
            visits,
            before,
            items,
        } = self.plan.epoch(self.sampling, epoch);
        let buffer = ShuffleBuffer::new(self.sampling.seed, epoch, self.capacity);
        let (buffer, read) = replay(buffer, items, drawn);
        self.held_bytes = 0;
        let mut slots = self.locate(&visits, before, buffer.items());
        // `locate` finds every number that the buffer holds: both count the same epoch.
        let buffer = buffer.map(|number| {
            slots.remove(&(before + number)).unwrap_or(Slot {
                visit: Visit { shard: 0, nth: 0 },
                index: 0,
                held: Held::Whole(ShardItem::Fault(FaultKind::UnreadableShard, String::new())),
            })
        });
        let sequence = Sequence::new(Arc::clone(&self.plan), visits, self.watch.clone());
        Reading {
            sequence: sequence.after(before + read),
            buffer,
            left: items - read,
            items,
        }
    }

    /// The places of items by their number in the epoch's reading order.
    ///
    /// Headers alone say where they begin; where reading again from there would be slow, they are read now.
    fn locate(&mut self, visits: &[Visit], before: u64, numbers: &[u64]) -> BTreeMap<u64, Slot> {
        let mut wanted: Vec<u64> = numbers.iter().map(|number| before + number).collect();
        wanted.sort_unstable();
        let mut slots = BTreeMap::new();
        let mut first = 0;
        for visit in visits {
            let end = first + length(&self.plan.ranges[visit.shard]);
            let from = wanted.partition_point(|number| *number < first);
            let to = wanted.partition_point(|number| *number < end);
            if let Some(last) = wanted[from..to].last() {
                let plan = Arc::clone(&self.plan);
                let mut items = Sequence::new(plan, vec![*visit], self.watch.clone());
                items = items.after(wanted[from] - first);
                items.headers_only = self.plan.shards.is_seekable(visit.shard);
                let whole = !items.headers_only;
                for (number, located) in (wanted[from]..=*last).zip(items.flatten()) {
                    if wanted[from..to].binary_search(&number).is_err() {
                        continue;
                    }
                    let slot = if whole {
                        self.hold(located)
                    } else {
                        let held = match located.item {
                            ShardItem::Sample(_) => Held::Place(located.start),
                            fault @ ShardItem::Fault(..) => Held::Whole(fault),
                        };
                        Slot {
                            visit: located.visit,
                            index: located.index,
                            held,
                        }
                    };
                    slots.insert(number, slot);
                }
            }
            first = end;
        }
        slots
    }

    fn hold(&mut self, located: Located) -> Slot {
        let mut slot = Slot {
            visit: located.visit,
            index: located.index,
            held: Held::Whole(located.item),
        };
        if self.held_bytes + slot.bytes() > self.max_held_bytes && slot.bytes() > 0 {
            slot.held = Held::Place(located.start);
        }
        self.held_bytes += slot.bytes();
        slot
    }

    fn draw(&mut self) -> Result<Draw, DataError> {
        loop {
            let mut reading = match self.epoch.take() {
                Some(reading) => reading,
                None => self.begin(),
            };
            while reading.left > 0 && reading.buffer.has_room() {
                let Some(located) = reading.sequence.next() else {
                    break;
                };
                let slot = self.hold(located?);
                reading.buffer.push(slot);
                reading.left -= 1;
                if reading.left == 0 {
                    reading.sequence.check_end()?;
                }
            }
            let Some(slot) = reading.buffer.draw() else {
                self.next_epoch();
                continue;
            };
            self.held_bytes -= slot.bytes();
            let epoch = self.cursor.epoch;
            self.cursor.drawn += 1;
            if self.cursor.drawn == reading.items {
                self.next_epoch();
            } else {
                self.epoch = Some(reading);
            }
            let shard = slot.visit.shard;
            let item = match slot.held {
                Held::Whole(item) => item,
                Held::Place(start) => {
                    self.watch.reads(shard);
                    self.plan.shards.read_at(shard, start)
                }
            };
            return Ok(Draw {
                item,
                shard,
                id: self.plan.id(slot.visit, slot.index),
                epoch,
                after: self.cursor,
            });
        }
    }

    fn next_epoch(&mut self) {
        self.cursor.epoch += 1;
        self.cursor.drawn = 0;
    }
}

/// Whether the cursor is a position in these data.
pub(crate) fn check(plan: &Plan, sampling: Sampling, cursor: Cursor) -> Result<(), DataError> {
    if cursor.data != 0 && cursor.data != plan.fingerprint(sampling) {
        let list = || (0..plan.shards.len()).map(|shard| plan.shards.name(shard));
        return Err(DataError::OtherData {
            shards: plan.shards.len(),
            samples: plan.total(),
            first: list().next().unwrap_or_default(),
            last: list().next_back().unwrap_or_default(),
        });
    }
    let samples = plan.epoch(sampling, cursor.epoch).items;
    if cursor.drawn > 0 && cursor.drawn >= samples {
        return Err(DataError::BadCursor {
            drawn: cursor.drawn,
            samples,
        });
    }
    Ok(())
}

impl Iterator for TrainStream {
    type Item = Result<Draw, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let drawn = self.draw();
        self.failed = drawn.is_err();
        Some(drawn)
    }
}
