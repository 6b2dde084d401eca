use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Bootstrap confidence intervals: how a statistic varies over resamples, with replacement, of the samples.
///
/// # References
/// Efron 1979, Bootstrap methods: another look at the jackknife; percentile intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many resamples: 1,000, at which the bounds of a 95% interval vary by some 2% of its width.
    pub resamples: usize,
    /// Seed of the resampling, so that one evaluation always prints the same interval.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 1000,
            seed: 0,
        }
    }
}

impl Bootstrap {
    /// The 95% percentile intervals, `[low, high]`, of several statistics of `samples` samples.
    ///
    /// `statistics` gets the positions of one resample, between 0 and `samples`.
    pub fn intervals<const N: usize>(
        self,
        samples: usize,
        mut statistics: impl FnMut(&[u32]) -> [f64; N],
    ) -> [[f64; 2]; N] {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut drawn = vec![0u32; samples];
        let mut values: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
        for _ in 0..self.resamples.max(1) {
            if samples > 0 {
                drawn.fill_with(|| rng.random_range(0..samples as u32));
            }
            for (values, value) in values.iter_mut().zip(statistics(&drawn)) {
                values.push(value);
            }
        }
        values.map(|mut values| {
            values.sort_by(f64::total_cmp);
            [quantile(&values, 0.025), quantile(&values, 0.975)]
        })
    }
}

/// Linear interpolation between the two nearest of some sorted values, as `numpy.quantile` does.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_interval(values: &[f64], seed: u64) -> [f64; 2] {
        let bootstrap = Bootstrap {
            seed,
            ..Bootstrap::default()
        };
        let [interval] = bootstrap.intervals(values.len(), |drawn| {
            [drawn.iter().map(|&at| values[at as usize]).sum::<f64>() / values.len() as f64]
        });
        interval
    }

    #[test]
    fn an_accuracys_interval_is_the_binomials() {
        let hits: Vec<f64> = (0..2000)
            .map(|at| f64::from(u8::from(at % 4 == 0)))
            .collect();
        let [low, high] = mean_interval(&hits, 7);
        // 1.96 standard deviations of a mean of 2,000 draws with probability 1/4.
        let half = 1.96 * (0.25f64 * 0.75 / 2000.0).sqrt();
        // Sampling noise of a percentile of 1,000 resamples.
        let tolerance = 0.15 * half;
        assert!((low - (0.25 - half)).abs() < tolerance, "{low}");
        assert!((high - (0.25 + half)).abs() < tolerance, "{high}");
    }

    #[test]
    fn a_seed_means_its_interval_and_certainty_has_no_width() {
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let bits = |seed| mean_interval(&values, seed).map(f64::to_bits);
        assert_eq!(bits(3), bits(3));
        assert_ne!(bits(3), bits(4));
        assert_eq!(
            mean_interval(&[1.0; 20], 0).map(f64::to_bits),
            [1.0f64.to_bits(); 2]
        );
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], 0.4) = 2.4
        assert!((quantile(&[1.0, 2.0, 4.0, 8.0], 0.4) - 2.4).abs() < 1e-12);
    }
}
