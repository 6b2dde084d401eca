use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Random choices of one sample.
///
/// Written here, and not with `rand`, because the dataset of a seed must not change with a version of that crate.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    /// The choices of sample `index` of `stream`: the same whoever asks, and in whatever order.
    pub(super) fn new(seed: u64, stream: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream((stream << 48) | index);
        Self(rng)
    }

    /// A number in `[low, high)`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        // 24 random bits, as many as an f32 holds.
        let unit = (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32;
        low + (high - low) * unit
    }

    /// A number below `count`, which is at least one.
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    /// Whether something of this probability happens.
    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.between(0.0, 1.0) < probability
    }

    /// One of several.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A permutation of the numbers below `count`.
    pub(super) fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_depend_on_seed_stream_and_index_alone() {
        let numbers = |seed, stream, index| {
            let mut draw = Draw::new(seed, stream, index);
            (0..8).map(|_| draw.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 2, 3), numbers(1, 2, 3));
        assert_ne!(numbers(1, 2, 3), numbers(2, 2, 3));
        assert_ne!(numbers(1, 2, 3), numbers(1, 3, 3));
        assert_ne!(numbers(1, 2, 3), numbers(1, 2, 4));
    }

    #[test]
    fn numbers_stay_in_range_and_reach_all_of_it() {
        let mut draw = Draw::new(0, 0, 0);
        let mut seen = [0; 7];
        for _ in 0..7000 {
            seen[draw.below(7)] += 1;
            assert!((2.0..3.0).contains(&draw.between(2.0, 3.0)));
        }
        assert!(
            seen.iter().all(|&count| (850..1150).contains(&count)),
            "{seen:?}"
        );
        let mut order = draw.permutation(50);
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
