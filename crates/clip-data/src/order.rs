use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};

/// A position in the endless stream of training samples.
///
/// With the seed and the shard list it says exactly which samples come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Samples drawn in this pass, bad ones included.
    pub drawn: u64,
}

/// What a random stream decides; no two decisions share one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Shards = 0,
    Shuffle = 1,
    Caption = 2,
    Crop = 3,
}

/// The random stream of one decision: the same whoever asks, and whenever.
pub(crate) fn stream(seed: u64, epoch: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [seed, epoch, purpose as u64, index];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// A whole number below `bound`, each as likely (Lemire 2019, *Fast Random Integer Generation in an Interval*).
///
/// Written here because the order of samples must not change with a version of `rand`.
pub(crate) fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    debug_assert!(bound > 0);
    let unfair = bound.wrapping_neg() % bound;
    loop {
        let wide = u128::from(rng.next_u64()) * u128::from(bound);
        if wide as u64 >= unfair {
            return (wide >> 64) as u64;
        }
    }
}

/// A number in `[low, high)` from 24 random bits, as PyTorch draws an `f32`.
pub(crate) fn uniform(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    let unit = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
    unit * (high - low) + low
}

/// The order in which an epoch reads its shards.
pub(crate) fn shard_order(seed: u64, epoch: u64, shards: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shards).collect();
    let mut rng = stream(seed, epoch, Purpose::Shards, 0);
    for last in (1..shards).rev() {
        order.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    order
}

/// A bounded buffer that gives its items in random order.
///
/// Which item leaves depends on the generator and on how many the buffer holds, never on what they
/// are: numbers in place of samples leave in the same order, and that is how a cursor is found again.
pub(crate) struct ShuffleBuffer<T> {
    items: Vec<T>,
    capacity: usize,
    rng: ChaCha8Rng,
}

impl<T> ShuffleBuffer<T> {
    pub(crate) fn new(seed: u64, epoch: u64, capacity: usize) -> Self {
        Self {
            items: Vec::new(),
            capacity: capacity.max(1),
            rng: stream(seed, epoch, Purpose::Shuffle, 0),
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.items.len() < self.capacity
    }

    pub(crate) fn push(&mut self, item: T) {
        self.items.push(item);
    }

    pub(crate) fn draw(&mut self) -> Option<T> {
        if self.items.is_empty() {
            return None;
        }
        let index = below(&mut self.rng, self.items.len() as u64);
        Some(self.items.swap_remove(index as usize))
    }

    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// Puts other items in the places of these.
    pub(crate) fn map<U>(self, replace: impl FnMut(T) -> U) -> ShuffleBuffer<U> {
        ShuffleBuffer {
            items: self.items.into_iter().map(replace).collect(),
            capacity: self.capacity,
            rng: self.rng,
        }
    }
}

/// The buffer, and how many of the epoch's `total` items have entered it, after `drawn` draws.
pub(crate) fn replay(
    mut buffer: ShuffleBuffer<u64>,
    total: u64,
    drawn: u64,
) -> (ShuffleBuffer<u64>, u64) {
    let mut read = 0;
    for _ in 0..drawn {
        while buffer.has_room() && read < total {
            buffer.push(read);
            read += 1;
        }
        buffer.draw();
    }
    (buffer, read)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn streams_are_pinned() {
        // From this code at its first version: a change would reorder every run that is resumed.
        let mut rng = stream(1, 2, Purpose::Crop, 3);
        let drawn: Vec<u64> = (0..4).map(|_| below(&mut rng, 1000)).collect();
        assert_eq!(drawn, [8, 495, 480, 658]);
        assert_eq!(shard_order(7, 0, 6), [1, 5, 3, 0, 2, 4]);
    }

    #[test]
    fn epochs_and_purposes_differ() {
        let orders: BTreeSet<Vec<usize>> = (0..20).map(|epoch| shard_order(7, epoch, 10)).collect();
        assert_eq!(orders.len(), 20);
        let first = |purpose| stream(7, 0, purpose, 0).next_u64();
        assert_ne!(first(Purpose::Shards), first(Purpose::Shuffle));
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let mut rng = stream(0, 0, Purpose::Shuffle, 0);
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            counts[below(&mut rng, 3) as usize] += 1;
        }
        // Five standard deviations of a binomial count.
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 410),
            "{counts:?}"
        );
        assert!((0..1000).all(|_| (0.9..1.0).contains(&uniform(&mut rng, 0.9, 1.0))));
    }

    #[test]
    fn a_replayed_buffer_goes_on_as_the_first_did() {
        let (total, capacity) = (100, 16);
        let run = |buffer: ShuffleBuffer<u64>, mut read: u64| {
            let mut buffer = buffer;
            let mut order = Vec::new();
            loop {
                while buffer.has_room() && read < total {
                    buffer.push(read);
                    read += 1;
                }
                match buffer.draw() {
                    Some(item) => order.push(item),
                    None => return order,
                }
            }
        };
        let whole = run(ShuffleBuffer::new(5, 1, capacity), 0);
        assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), 100);
        for drawn in [0, 1, 50, 84, 85, 99, 100] {
            let (buffer, read) = replay(ShuffleBuffer::new(5, 1, capacity), total, drawn);
            assert_eq!(run(buffer, read), whole[drawn as usize..], "{drawn}");
        }
    }
}
