//! What many rounds say together.

use serde::Serialize;

/// The middle of some values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// Of the quotients, round by round: a machine that is slow for a while is so for both.
    pub(super) fn of_ratios(ours: &[f64], peer: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = ours.iter().zip(peer).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        let odd = Spread::of(&[3.0, 1.0, 9.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (3.0, 1.0, 9.0));
        assert!((Spread::of(&[4.0, 1.0, 2.0, 9.0]).unwrap().median - 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_slow_minute_leaves_the_ratio_as_it_is() {
        let ratio = Spread::of_ratios(&[10.0, 1.0, 10.0], &[5.0, 0.5, 5.0]).unwrap();
        assert_eq!((ratio.min, ratio.max), (2.0, 2.0));
    }
}
