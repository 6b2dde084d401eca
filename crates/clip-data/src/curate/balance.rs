use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Sets these streams apart from those that order training samples.
const PURPOSE: u64 = u64::from_le_bytes(*b"curation");

/// Draws which queries take a pair, by `MetaCLIP`'s rule: each of the pair's queries takes it with probability
/// `min(1, t / count)`, independently, and a pair that any takes is kept.
///
/// A query of `count` pairs takes `min(count, t)` of them in expectation. It may stand in more of the pairs kept: in
/// those that rarer queries of the same captions took.
pub(super) struct Balance {
    seed: u64,
    per_query: u64,
    counts: Vec<u64>,
}

impl Balance {
    pub(super) fn new(seed: u64, per_query: u64, counts: Vec<u64>) -> Self {
        Self {
            seed,
            per_query,
            counts,
        }
    }

    /// Pairs that hold each query.
    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Those of the pair's queries that take it. `pair` is its number in the whole set, so that nothing depends on
    /// the order in which pairs are asked for.
    pub(super) fn takers(&self, pair: u64, queries: &[u32]) -> Vec<u32> {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip([self.seed, PURPOSE, pair, 0]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        let mut takes = |query: &u32| {
            let count = self.counts[*query as usize];
            // A draw from [0, 1) times the count, below t: exact, in whole numbers.
            let draw = u128::from(rng.next_u64()) * u128::from(count);
            ((draw >> 64) as u64) < self.per_query
        };
        queries
            .iter()
            .copied()
            .filter(|query| takes(query))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_takes_more_than_its_share_in_expectation() {
        // Query 0 is in all pairs, 1 in every tenth, 2 in three.
        let (pairs, t) = (20_000_u64, 500);
        let queries = |pair: u64| {
            let mut queries = vec![0];
            queries.extend(pair.is_multiple_of(10).then_some(1));
            queries.extend((pair < 3).then_some(2));
            queries
        };
        let mut taken = [0_u64; 3];
        let balance = Balance::new(5, t, vec![pairs, pairs / 10, 3]);
        for pair in 0..pairs {
            for query in balance.takers(pair, &queries(pair)) {
                taken[query as usize] += 1;
            }
        }
        // Four standard deviations of binomial counts around 500: sqrt(500 * (1 - 1/40)), sqrt(500 * 3/4).
        assert!(
            taken[0].abs_diff(t) < 89 && taken[1].abs_diff(t) < 78,
            "{taken:?}"
        );
        assert_eq!(taken[2], 3, "a rare query takes all of its pairs");
    }

    #[test]
    fn draws_depend_on_the_seed_and_the_pair_alone() {
        let balance = |seed| Balance::new(seed, 1, vec![2, 2, 2]);
        let takers = |seed| {
            (0..50)
                .map(|pair| balance(seed).takers(pair, &[0, 1, 2]))
                .collect()
        };
        let (first, again, other): (Vec<_>, Vec<_>, Vec<_>) = (takers(1), takers(1), takers(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
    }
}
