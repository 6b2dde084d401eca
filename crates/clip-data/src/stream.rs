use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Cursor, DataError, FaultKind, ShardItem, ShardReader,
    order::{ShuffleBuffer, replay, shard_order},
    sequence::{Located, Plan, Sequence},
};

/// A drawn item.
pub(crate) struct Draw {
    pub(crate) item: ShardItem,
    pub(crate) shard: usize,
    /// The item's number in the shard list, the same in every epoch.
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
    shard: usize,
    index: u64,
    held: Held,
}

impl Slot {
    fn bytes(&self) -> usize {
        match &self.held {
            Held::Whole(ShardItem::Sample(sample)) => sample.held_bytes(),
            _ => 0,
        }
    }
}

/// The endless stream of training items from a cursor on.
///
/// Each epoch reads its shards in a permuted order through a bounded shuffle buffer.
pub(crate) struct TrainStream {
    plan: Arc<Plan>,
    seed: u64,
    capacity: usize,
    max_held_bytes: usize,
    cursor: Cursor,
    epoch: Option<(Sequence, ShuffleBuffer<Slot>)>,
    held_bytes: usize,
    failed: bool,
}

impl TrainStream {
    /// # Errors
    /// [`DataError::BadCursor`] if the cursor points beyond an epoch.
    pub(crate) fn new(
        plan: Arc<Plan>,
        seed: u64,
        capacity: usize,
        max_held_bytes: usize,
        cursor: Cursor,
    ) -> Result<Self, DataError> {
        let samples = plan.total();
        if cursor.drawn > 0 && cursor.drawn >= samples {
            return Err(DataError::BadCursor {
                drawn: cursor.drawn,
                samples,
            });
        }
        Ok(Self {
            plan,
            seed,
            capacity,
            max_held_bytes,
            cursor,
            epoch: None,
            held_bytes: 0,
            failed: samples == 0,
        })
    }

    /// The reader and the buffer as they stand at the cursor.
    fn begin(&mut self) -> (Sequence, ShuffleBuffer<Slot>) {
        let Cursor { epoch, drawn } = self.cursor;
        let order = shard_order(self.seed, epoch, self.plan.ranges.len());
        let buffer = ShuffleBuffer::new(self.seed, epoch, self.capacity);
        let (buffer, read) = replay(buffer, self.plan.total(), drawn);
        let mut slots = self.locate(&order, buffer.items());
        // `locate` finds every number that the buffer holds: both count the same epoch.
        let buffer = buffer.map(|number| {
            slots.remove(&number).unwrap_or(Slot {
                shard: 0,
                index: 0,
                held: Held::Whole(ShardItem::Fault(FaultKind::UnreadableShard, String::new())),
            })
        });
        self.held_bytes = 0;
        let sequence = Sequence::new(Arc::clone(&self.plan), order).after(read);
        (sequence, buffer)
    }

    /// The places of items by their number in the epoch's reading order, from headers alone.
    fn locate(&self, order: &[usize], numbers: &[u64]) -> BTreeMap<u64, Slot> {
        let mut wanted: Vec<u64> = numbers.to_vec();
        wanted.sort_unstable();
        let mut slots = BTreeMap::new();
        let mut first = 0;
        for shard in order {
            let range = &self.plan.ranges[*shard];
            let end = first + range.end - range.start;
            let from = wanted.partition_point(|number| *number < first);
            let to = wanted.partition_point(|number| *number < end);
            if let Some(last) = wanted[from..to].last() {
                let mut headers = Sequence::new(Arc::clone(&self.plan), vec![*shard]);
                headers.headers_only = true;
                for (number, located) in (first..=*last).zip(headers.flatten()) {
                    if wanted[from..to].binary_search(&number).is_ok() {
                        let held = match located.item {
                            ShardItem::Sample(_) => Held::Place(located.start),
                            fault @ ShardItem::Fault(..) => Held::Whole(fault),
                        };
                        slots.insert(
                            number,
                            Slot {
                                shard: located.shard,
                                index: located.index,
                                held,
                            },
                        );
                    }
                }
            }
            first = end;
        }
        slots
    }

    fn hold(&mut self, located: Located) -> Slot {
        let mut slot = Slot {
            shard: located.shard,
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
            let (mut sequence, mut buffer) = match self.epoch.take() {
                Some(epoch) => epoch,
                None => self.begin(),
            };
            while buffer.has_room() {
                match sequence.next() {
                    Some(located) => {
                        let slot = self.hold(located?);
                        buffer.push(slot);
                    }
                    None => break,
                }
            }
            let Some(slot) = buffer.draw() else {
                self.cursor = Cursor {
                    epoch: self.cursor.epoch + 1,
                    drawn: 0,
                };
                continue;
            };
            self.epoch = Some((sequence, buffer));
            self.held_bytes -= slot.bytes();
            let epoch = self.cursor.epoch;
            self.cursor.drawn += 1;
            if self.cursor.drawn == self.plan.total() {
                self.cursor = Cursor {
                    epoch: epoch + 1,
                    drawn: 0,
                };
                self.epoch = None;
            }
            let item = match slot.held {
                Held::Whole(item) => item,
                Held::Place(start) => {
                    let path = &self.plan.shards.paths()[slot.shard];
                    ShardReader::read_at(path, slot.shard, start)
                }
            };
            return Ok(Draw {
                item,
                shard: slot.shard,
                id: self.plan.id(slot.shard, slot.index),
                epoch,
                after: self.cursor,
            });
        }
    }
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
