use std::collections::BTreeMap;

use serde::Serialize;

/// How often each value occurs: as small as there are different values, or steps with a value.
#[derive(Debug)]
pub(super) struct Histogram {
    step: u64,
    counts: BTreeMap<u64, u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::in_steps_of(1)
    }
}

/// A distribution in a few numbers. Each but the mean is a value that occurs; of images' bytes, the quantiles are rounded up to
/// a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The smallest.
    pub min: u64,
    /// A twentieth is at most this.
    pub p5: u64,
    /// Half is at most this.
    pub median: u64,
    /// All but a twentieth are at most this.
    pub p95: u64,
    /// The largest.
    pub max: u64,
    /// The arithmetic mean.
    pub mean: f64,
}

impl Histogram {
    /// Values are rounded up to a multiple of `step`, but in what is told of the least, the largest and the mean.
    pub(super) fn in_steps_of(step: u64) -> Self {
        Self {
            step,
            counts: BTreeMap::new(),
            min: u64::MAX,
            max: 0,
            sum: 0,
        }
    }

    pub(super) fn add(&mut self, value: u64) {
        let rounded = value.next_multiple_of(self.step);
        *self.counts.entry(rounded).or_default() += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += u128::from(value);
    }

    /// `None` where there is no value.
    pub(super) fn summary(&self) -> Option<Summary> {
        if self.counts.is_empty() {
            return None;
        }
        let (min, max) = (self.min, self.max);
        let count: u64 = self.counts.values().sum();
        let quantile = |hundredths: u64| {
            // The smallest value that so many are at most.
            let rank = (u128::from(count) * u128::from(hundredths)).div_ceil(100) as u64;
            let mut seen = 0;
            let found = self.counts.iter().find(|(_, count)| {
                seen += *count;
                seen >= rank
            });
            // The last step ends beyond the largest value.
            found.map_or(max, |(value, _)| (*value).min(max))
        };
        Some(Summary {
            min,
            p5: quantile(5),
            median: quantile(50),
            p95: quantile(95),
            max,
            mean: self.sum as f64 / count as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_leave_the_ends_and_the_mean_exact() {
        let mut histogram = Histogram::in_steps_of(100);
        for value in [7, 101, 102, 250] {
            histogram.add(value);
        }
        let expected = Summary {
            min: 7,
            p5: 100,
            median: 200,
            p95: 250,
            max: 250,
            mean: 115.0,
        };
        assert_eq!(histogram.summary(), Some(expected));
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let mut histogram = Histogram::default();
        assert!(histogram.summary().is_none());
        for value in 1..=100 {
            histogram.add(value);
        }
        let expected = Summary {
            min: 1,
            p5: 5,
            median: 50,
            p95: 95,
            max: 100,
            mean: 50.5,
        };
        assert_eq!(histogram.summary(), Some(expected));
        let mut one = Histogram::default();
        one.add(7);
        let summary = one.summary().unwrap();
        assert_eq!((summary.p5, summary.median, summary.p95), (7, 7, 7));
    }
}
