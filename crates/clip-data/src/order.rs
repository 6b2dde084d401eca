use std::collections::BTreeMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// A position in the endless stream of training samples.
///
/// With the seed and the shard list it says exactly which samples come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Samples drawn in this pass, bad ones included.
    pub drawn: u64,
    /// Fingerprint of the data it is a position in, which tells other shards; 0 for the beginning of any.
    #[serde(default)]
    pub data: u64,
}

/// What a random stream decides; no two decisions share one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Shards = 0,
    Shuffle = 1,
    Caption = 2,
    Crop = 3,
    Upsample = 4,
    Augment = 5,
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

/// A shard in an epoch's order, and how many times the epoch had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) shard: usize,
    pub(crate) nth: u64,
}

/// The order in which an epoch reads the shards.
///
/// A source of weight 2.5 has each shard twice, and half of them once more, drawn anew every epoch. With
/// replacement, as many shards are drawn independently, each with a chance in proportion to its weight.
pub(crate) fn shard_order(
    seed: u64,
    epoch: u64,
    sources: &[Source],
    with_replacement: bool,
) -> Vec<Visit> {
    let mut rng = stream(seed, epoch, Purpose::Shards, 0);
    let order = if with_replacement {
        drawn_shards(sources, &mut rng)
    } else {
        let mut order = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            for _ in 0..source.weight as u64 {
                order.extend(source.shards.clone());
            }
            if source.weight.fract() > 0.0 {
                let mut rng = stream(seed, epoch, Purpose::Upsample, number as u64);
                order.extend(share(source, &mut rng));
            }
        }
        shuffle(&mut order, &mut rng);
        order
    };
    let mut visits = BTreeMap::new();
    let visit = |shard| {
        let count = visits.entry(shard).or_insert(0);
        *count += 1;
        Visit {
            shard,
            nth: *count - 1,
        }
    };
    order.into_iter().map(visit).collect()
}

fn shuffle(items: &mut [usize], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

/// The shards that the fraction of the source's weight adds; over many epochs exactly that fraction of them.
fn share(source: &Source, rng: &mut impl Rng) -> Vec<usize> {
    let mut shards: Vec<usize> = source.shards.clone().collect();
    let expected = source.weight.fract() * shards.len() as f64;
    let more = f64::from(uniform(rng, 0.0, 1.0)) < expected.fract();
    shuffle(&mut shards, rng);
    shards.truncate(expected as usize + usize::from(more));
    shards
}

fn drawn_shards(sources: &[Source], rng: &mut impl Rng) -> Vec<usize> {
    // Weights as whole numbers, so that no rounding differs from one machine to another.
    let unit = |source: &Source| (source.weight * f64::from(1 << 20)).round() as u64;
    let size = |source: &Source| source.shards.len() as u64;
    let all: u64 = sources
        .iter()
        .map(|source| unit(source) * size(source))
        .sum();
    let draws = sources
        .iter()
        .map(|source| source.weight * size(source) as f64);
    let draws = draws.sum::<f64>().round().max(1.0) as u64;
    let draw = |_| {
        let mut place = below(rng, all.max(1));
        for source in sources {
            let own = unit(source) * size(source);
            if place < own {
                return source.shards.start + (place / unit(source)) as usize;
            }
            place -= own;
        }
        unreachable!("the place is below the sum of all sources")
    };
    if all == 0 {
        return Vec::new();
    }
    (0..draws).map(draw).collect()
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

    fn order(epoch: u64, weights: &[(usize, f64)], with_replacement: bool) -> Vec<usize> {
        let mut first = 0;
        let sources: Vec<Source> = weights
            .iter()
            .map(|(shards, weight)| {
                let shards = first..first + shards;
                first = shards.end;
                Source {
                    shards,
                    weight: *weight,
                }
            })
            .collect();
        let visits = shard_order(7, epoch, &sources, with_replacement);
        visits.iter().map(|visit| visit.shard).collect()
    }

    #[test]
    fn streams_are_pinned() {
        // From this code at its first version: a change would reorder every run that is resumed.
        let mut rng = stream(1, 2, Purpose::Crop, 3);
        let drawn: Vec<u64> = (0..4).map(|_| below(&mut rng, 1000)).collect();
        assert_eq!(drawn, [8, 495, 480, 658]);
        assert_eq!(order(0, &[(6, 1.0)], false), [1, 5, 3, 0, 2, 4]);
    }

    #[test]
    fn epochs_and_purposes_differ() {
        let orders: BTreeSet<Vec<usize>> = (0..20)
            .map(|epoch| order(epoch, &[(10, 1.0)], false))
            .collect();
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

    #[test]
    fn weights_are_visits_an_epoch() {
        let mut counts = [0_i32; 5];
        for epoch in 0..400 {
            let order = order(epoch, &[(2, 2.0), (3, 0.5)], false);
            assert!(order.len() == 4 + 1 || order.len() == 4 + 2);
            for shard in order {
                counts[shard] += 1;
            }
        }
        assert_eq!(counts[..2], [800, 800]);
        // Half of 400, within five standard deviations of a binomial count.
        assert!(
            counts[2..].iter().all(|count| count.abs_diff(200) < 50),
            "{counts:?}"
        );
    }

    #[test]
    fn with_replacement_weights_are_chances() {
        let mut counts = [0_i32; 3];
        for epoch in 0..1000 {
            let order = order(epoch, &[(2, 1.0), (1, 2.0)], true);
            assert_eq!(order.len(), 4);
            for shard in order {
                counts[shard] += 1;
            }
        }
        // 1,000, 1,000 and 2,000 expected; five standard deviations.
        assert!(
            counts[0].abs_diff(1000) < 140 && counts[1].abs_diff(1000) < 140,
            "{counts:?}"
        );
        let visits = shard_order(
            7,
            0,
            &[Source {
                shards: 0..1,
                weight: 3.0,
            }],
            true,
        );
        assert_eq!(
            visits.iter().map(|visit| visit.nth).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    }
}
