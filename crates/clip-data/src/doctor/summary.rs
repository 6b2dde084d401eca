use std::collections::BTreeMap;

use serde::Serialize;

/// How often each value occurs: exact, and as small as there are different values.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: BTreeMap<u64, u64>,
}

/// A distribution in a few numbers. Each but the mean is a value that occurs.
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
    pub(super) fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
    }

    /// `None` where there is no value.
    pub(super) fn summary(&self) -> Option<Summary> {
        let (min, max) = (
            *self.counts.keys().next()?,
            *self.counts.keys().next_back()?,
        );
        let count: u64 = self.counts.values().sum();
        let sum: u128 = self
            .counts
            .iter()
            .map(|(value, count)| u128::from(*value) * u128::from(*count))
            .sum();
        let quantile = |hundredths: u64| {
            // The smallest value that so many are at most.
            let rank = (u128::from(count) * u128::from(hundredths)).div_ceil(100) as u64;
            let mut seen = 0;
            let found = self.counts.iter().find(|(_, count)| {
                seen += *count;
                seen >= rank
            });
            found.map_or(max, |(value, _)| *value)
        };
        Some(Summary {
            min,
            p5: quantile(5),
            median: quantile(50),
            p95: quantile(95),
            max,
            mean: sum as f64 / count as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
