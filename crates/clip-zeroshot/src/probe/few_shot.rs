use std::collections::BTreeSet;

use burn::tensor::{DType, Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{LogisticRegression, Samples, StrengthSearch};
use crate::ZeroShotError;

/// Probes fitted to a few examples of each class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FewShotPoint {
    /// Examples a class; a class that has fewer gives all it has.
    pub shots: usize,
    /// Test accuracy of each draw of examples.
    pub accuracies: Vec<f64>,
    /// Their mean.
    pub accuracy: f64,
}

/// How few examples do.
#[derive(Clone, Debug, PartialEq)]
pub struct FewShot {
    /// Examples a class, each a point of the curve; their order doesn't matter.
    pub shots: Vec<usize>,
    /// Draws of examples for each point; a single one is luck.
    pub draws: usize,
    /// Decides the draws.
    pub seed: u64,
}

impl Default for FewShot {
    /// The paper's 1, 2, 4, 8 and 16 (figure 6), three draws each.
    fn default() -> Self {
        Self {
            shots: vec![1, 2, 4, 8, 16],
            draws: 3,
            seed: 0,
        }
    }
}

impl FewShot {
    /// Fits a probe to each draw from the samples at `pool`, its strength found on `validation`, and scores it on
    /// `test`. The points come in the order of their examples, each once.
    ///
    /// The probes are not fitted again to the validation split, whose examples would no longer be few. A draw's
    /// examples are among those of the larger draws.
    ///
    /// # Shapes
    /// - `features`: `[samples, width]`, with a label each
    ///
    /// # Errors
    /// Those of [`Samples::new`] and [`LogisticRegression::fit`].
    pub fn curve(
        &self,
        features: &Tensor<2>,
        labels: &[u32],
        pool: &[usize],
        validation: &Samples,
        test: &Samples,
    ) -> Result<Vec<FewShotPoint>, ZeroShotError> {
        let pool_labels: Vec<u32> = pool.iter().map(|&at| labels[at]).collect();
        let mut points: Vec<FewShotPoint> = Vec::new();
        let all_shots: BTreeSet<usize> = self.shots.iter().copied().collect();
        for shots in all_shots {
            let mut accuracies = Vec::new();
            for draw in 0..self.draws {
                let order = shuffled_by_class(&pool_labels, self.seed.wrapping_add(draw as u64));
                let drawn: Vec<usize> = order
                    .iter()
                    .flat_map(|class| class.iter().take(shots).map(|&at| pool[at]))
                    .collect();
                let train = pick(features, labels, &drawn, test.classes())?;
                let search = StrengthSearch::run(|strength| {
                    let probe = LogisticRegression::new(strength).fit(&train)?;
                    probe.accuracy(validation)
                })?;
                let strength = search.best().map_or(1.0, |best| best.strength);
                let probe = LogisticRegression::new(strength).fit(&train)?;
                accuracies.push(probe.accuracy(test)?);
            }
            points.push(FewShotPoint {
                shots,
                accuracy: accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64,
                accuracies,
            });
        }
        Ok(points)
    }
}

/// How many examples a class a probe needs to be as good as `zero_shot`, log-linearly between the points of a
/// [curve](FewShot::curve); nothing when all its points are below. Where the first point is above already, its examples
/// are an upper bound.
///
/// # References
/// Radford et al. 2021, figure 7.
pub fn break_even(points: &[FewShotPoint], zero_shot: f64) -> Option<f64> {
    let reached = points
        .iter()
        .position(|point| point.accuracy >= zero_shot)?;
    let above = &points[reached];
    let Some(below) = reached.checked_sub(1).map(|at| &points[at]) else {
        return Some(above.shots as f64);
    };
    let share = (zero_shot - below.accuracy) / (above.accuracy - below.accuracy);
    let (low, high) = ((below.shots as f64).ln(), (above.shots as f64).ln());
    Some((low + share * (high - low)).exp())
}

/// Positions of a training and of a validation part: of each class `share` of its samples for validation, drawn by
/// the seed, but never all.
pub fn split_by_class(labels: &[u32], share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for class in shuffled_by_class(labels, seed) {
        let count = (share * class.len() as f64).round() as usize;
        let (first, rest) = class.split_at(count.min(class.len().saturating_sub(1)));
        validation.extend_from_slice(first);
        train.extend_from_slice(rest);
    }
    train.sort_unstable();
    validation.sort_unstable();
    (train, validation)
}

/// The samples at some positions.
///
/// # Shapes
/// - `features`: `[samples, width]`, with a label each
///
/// # Errors
/// Those of [`Samples::new`].
pub fn pick(
    features: &Tensor<2>,
    labels: &[u32],
    positions: &[usize],
    classes: usize,
) -> Result<Samples, ZeroShotError> {
    if positions.is_empty() {
        return Err(ZeroShotError::NoSamples);
    }
    let labels: Vec<u32> = positions.iter().map(|&at| labels[at]).collect();
    let rows: Vec<i64> = positions.iter().map(|&at| at as i64).collect();
    let rows = TensorData::new(rows, [positions.len()]);
    let rows = Tensor::<1, Int>::from_data(rows, (&features.device(), DType::I64));
    Samples::new(features.clone().select(0, rows), &labels, classes)
}

/// The positions of each class that has samples, in an order drawn by the seed.
fn shuffled_by_class(labels: &[u32], seed: u64) -> Vec<Vec<usize>> {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut by_class = vec![Vec::new(); classes];
    for (at, &label) in labels.iter().enumerate() {
        by_class[label as usize].push(at);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for class in &mut by_class {
        // Fisher and Yates.
        for last in (1..class.len()).rev() {
            class.swap(last, rng.random_range(0..=last));
        }
    }
    by_class.retain(|class| !class.is_empty());
    by_class
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::features::from_host;

    fn point(shots: usize, accuracy: f64) -> FewShotPoint {
        FewShotPoint {
            shots,
            accuracies: vec![accuracy],
            accuracy,
        }
    }

    #[test]
    fn the_break_even_lies_log_linearly_between_points() {
        let curve = [point(1, 0.2), point(4, 0.4), point(16, 0.8)];
        // Half way from 4 to 16 in the logarithm.
        assert!((break_even(&curve, 0.6).unwrap() - 8.0).abs() < 1e-9);
        assert!((break_even(&curve, 0.4).unwrap() - 4.0).abs() < 1e-9);
        assert!((break_even(&curve, 0.1).unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(break_even(&curve, 0.9), None);
    }

    #[test]
    fn a_split_is_the_seeds_and_leaves_no_class_without_training() {
        let labels: Vec<u32> = [vec![0; 10], vec![1; 4], vec![2]].concat();
        let (train, validation) = split_by_class(&labels, 0.5, 3);
        assert_eq!((train.len(), validation.len()), (8, 7));
        assert!(train.contains(&14), "the only sample of class 2");
        assert_eq!(split_by_class(&labels, 0.5, 3), (train.clone(), validation));
        assert_ne!(split_by_class(&labels, 0.5, 4).0, train);
    }

    #[test]
    fn more_examples_tell_noisy_classes_better_apart() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let labels: Vec<u32> = (0..120).map(|at| at % 2).collect();
        let values = labels.iter().flat_map(|&label| {
            let noise: Vec<f32> = (0..8)
                .map(|axis| {
                    let centre = if axis == label { 0.6 } else { 0.0 };
                    centre + rng.random_range(-1.0..1.0)
                })
                .collect();
            noise
        });
        let features = from_host(values.collect(), [120, 8], &Device::flex());
        let part = |rows: std::ops::Range<usize>| {
            pick(&features, &labels, &rows.collect::<Vec<_>>(), 2).unwrap()
        };
        let (validation, test) = (part(60..80), part(80..120));
        let few = FewShot {
            shots: vec![30, 1, 30],
            draws: 4,
            seed: 0,
        };
        let pool: Vec<usize> = (0..60).collect();
        let fit = || few.curve(&features, &labels, &pool, &validation, &test);
        let curve = fit().unwrap();
        let shots: Vec<usize> = curve.iter().map(|point| point.shots).collect();
        assert_eq!(shots, [1, 30], "in their order, each once");
        assert_eq!(curve[0].accuracies.len(), 4);
        assert!(curve[1].accuracy > curve[0].accuracy, "{curve:?}");
        assert_eq!(fit().unwrap(), curve, "draws are the seed's");
    }
}
