//! One bit for each number of a feature, to find the rows that are worth a whole product.

use crate::nearest::{dot, nearest};

/// Rows compared in full, for each row wanted. Of 200,000 features of no structure, the hardest case, that finds 99% of
/// the nearest ten.
const CANDIDATES: usize = 200;
/// Bits of a query's numbers, as in the paper cited.
const QUERY_BITS: usize = 4;
/// Words counted side by side, which the compiler makes vector instructions of.
const LANES: usize = 4;

/// An index's features in a 32nd of their size.
///
/// A row is kept as the signs of its distance from the mean row, and the factor that makes those signs point as far in
/// the row's own direction as the distance does. The mean changes all cosines with a query alike, so the order of
/// products with the signs is nearly the order of cosines.
///
/// # References
/// Gao and Long 2024, [RaBitQ](https://arxiv.org/abs/2405.12497), without its random rotation.
#[derive(Clone, Debug)]
pub struct Sketch {
    width: usize,
    /// `[rows, width / 64 / LANES]`, rounded up: number `n` of a row is bit `n % 64` of its word `n / 64`.
    signs: Vec<[u64; LANES]>,
    /// `[rows]`.
    factors: Vec<f32>,
}

impl Sketch {
    /// Sketches features, `[rows, width]`.
    pub(crate) fn new(features: &[f32], width: usize) -> Self {
        let rows = (features.len() / width).max(1);
        let mut mean = vec![0f64; width];
        for row in features.chunks_exact(width) {
            for (mean, &value) in mean.iter_mut().zip(row) {
                *mean += f64::from(value);
            }
        }
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / rows as f64) as f32).collect();
        let parts = width.div_ceil(64 * LANES);
        let mut signs = vec![[0; LANES]; rows * parts];
        let mut factors = Vec::with_capacity(rows);
        let mut distance = vec![0f32; width];
        for (row, own) in features
            .chunks_exact(width)
            .zip(signs.chunks_exact_mut(parts))
        {
            for ((distance, value), mean) in distance.iter_mut().zip(row).zip(&mean) {
                *distance = value - mean;
            }
            let sum: f32 = distance.iter().map(|value| value.abs()).sum();
            factors.push(dot(&distance, &distance) / sum.max(f32::MIN_POSITIVE));
            for (at, &value) in distance.iter().enumerate() {
                set_bit(own, at, value > 0.0);
            }
        }
        Self {
            width,
            signs,
            factors,
        }
    }

    /// The rows that are likely the nearest to a query.
    ///
    /// # Panics
    /// If the query has another length than the features.
    pub(crate) fn likely(&self, query: &[f32], k: usize) -> Vec<usize> {
        assert_eq!(query.len(), self.width, "numbers in the query");
        let parts = self.width.div_ceil(64 * LANES);
        let query = Query::new(query);
        let rows = self.factors.len();
        let found = nearest(rows, k.saturating_mul(CANDIDATES), |row| {
            query.product(&self.signs[row * parts..][..parts]) * self.factors[row]
        });
        found.into_iter().map(|found| found.position).collect()
    }
}

/// Number `at` of a row of bits.
fn set_bit(row: &mut [[u64; LANES]], at: usize, bit: bool) {
    row[at / 64 / LANES][at / 64 % LANES] |= u64::from(bit) << (at % 64);
}

/// A query's numbers in a few bits each, one plane of bits after the other.
struct Query {
    planes: [Vec<[u64; LANES]>; QUERY_BITS],
    /// A number is `least + step * bits`.
    least: f32,
    step: f32,
    /// Of all numbers.
    sum: f32,
}

impl Query {
    fn new(query: &[f32]) -> Self {
        let least = query.iter().copied().fold(f32::INFINITY, f32::min);
        let most = query.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let levels = (1 << QUERY_BITS) - 1;
        let step = ((most - least) / levels as f32).max(f32::MIN_POSITIVE);
        let parts = query.len().div_ceil(64 * LANES);
        let mut planes = [(); QUERY_BITS].map(|()| vec![[0; LANES]; parts]);
        let mut sum = 0.0;
        for (at, value) in query.iter().enumerate() {
            let level = (((value - least) / step).round() as u64).min(levels);
            sum += least + step * level as f32;
            for (bit, plane) in planes.iter_mut().enumerate() {
                set_bit(plane, at, level >> bit & 1 == 1);
            }
        }
        Self {
            planes,
            least,
            step,
            sum,
        }
    }

    /// The product with signs, of which a set bit is 1 and another -1: twice the sum over the set ones, less that of all.
    fn product(&self, signs: &[[u64; LANES]]) -> f32 {
        let set = count(signs.iter().copied());
        let mut weighted = 0;
        for (bit, plane) in self.planes.iter().enumerate() {
            let both = signs.iter().zip(plane);
            weighted +=
                count(both.map(|(a, b)| std::array::from_fn(|lane| a[lane] & b[lane]))) << bit;
        }
        2.0 * (self.least * set as f32 + self.step * weighted as f32) - self.sum
    }
}

/// Bits that are set.
fn count(words: impl Iterator<Item = [u64; LANES]>) -> u64 {
    let mut counts = [0; LANES];
    for words in words {
        for (count, word) in counts.iter_mut().zip(words) {
            *count += u64::from(word.count_ones());
        }
    }
    counts.iter().sum()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_product_with_signs_is_that_of_a_plain_loop() {
        let query: Vec<f32> = (0..70)
            .map(|at| ((at * 37) % 11) as f32 / 11.0 - 0.4)
            .collect();
        let signs = [0x0123_4567_89ab_cdef, 0b10_1101, 0, 0];
        let plain: f32 = query
            .iter()
            .enumerate()
            .map(|(at, value)| match signs[at / 64] >> (at % 64) & 1 {
                1 => *value,
                _ => -value,
            })
            .sum();
        let product = Query::new(&query).product(&[signs]);
        // Half a level of a fifteenth of the range, 0.9, for each of 70 numbers if all err alike.
        assert!((product - plain).abs() < 0.5, "{product} {plain}");
    }

    #[test]
    fn likely_rows_hold_the_nearest() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let (rows, width, k) = (20_000, 96, 5);
        // Off centre, as CLIP's features are.
        let mut random = |rows: usize| -> Vec<f32> {
            (0..rows * width)
                .map(|at| rng.random_range(-1.0..1.0) + (at % width % 3) as f32)
                .collect()
        };
        let (features, queries) = (random(rows), random(20));
        let sketch = Sketch::new(&features, width);
        let mut missed = 0;
        for query in queries.chunks(width) {
            let likely = sketch.likely(query, k);
            assert_eq!(likely.len(), k * CANDIDATES);
            let exact = nearest(rows, k, |row| dot(&features[row * width..][..width], query));
            missed += exact
                .iter()
                .filter(|found| !likely.contains(&found.position))
                .count();
        }
        // 96 bits of no structure say less than the 512 that a model has: at most one in twenty is missed.
        assert!(missed <= 5, "{missed} of 100");
    }
}
