use burn::tensor::Tensor;

use crate::{ZeroShotError, features::finite_rows};

/// Equal intervals of confidence: ten, as in the paper cited.
const BINS: usize = 10;

/// Whether a classifier is right as often as it says: of the predictions with 80% probability, are 80% right?
///
/// # References
/// Guo et al. 2017, [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), section 2.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    bins: [Sums; BINS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    samples: usize,
    hits: usize,
    confidence: f64,
}

/// The predictions whose confidence lies in one interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ConfidenceBin {
    /// Their mean probability.
    pub confidence: f64,
    /// Share of them that are right.
    pub accuracy: f64,
    /// How many.
    pub samples: usize,
}

/// How far confidence and accuracy lie apart.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CalibrationReport {
    /// Expected calibration error: the mean distance of the intervals' confidence and accuracy, weighted by samples.
    pub ece: f64,
    /// The intervals with predictions, by rising confidence.
    pub bins: Vec<ConfidenceBin>,
}

impl Calibration {
    /// Adds a batch.
    ///
    /// # Shapes
    /// - `probabilities`: `[batch, classes]`
    /// - `labels`: `batch` of them
    ///
    /// # Errors
    /// [`ZeroShotError::NotFinite`].
    pub fn add(&mut self, probabilities: Tensor<2>, labels: &[u32]) -> Result<(), ZeroShotError> {
        let [_, classes] = probabilities.dims();
        let rows = finite_rows(probabilities, |row| {
            format!("a probability of sample {row}")
        })?;
        for (row, &label) in rows.chunks_exact(classes).zip(labels) {
            let mut predicted = 0;
            for (class, &probability) in row.iter().enumerate() {
                if probability > row[predicted] {
                    predicted = class;
                }
            }
            let confidence = f64::from(row[predicted]);
            let bin = ((confidence * BINS as f64) as usize).min(BINS - 1);
            let bin = &mut self.bins[bin];
            bin.samples += 1;
            bin.hits += usize::from(predicted == label as usize);
            bin.confidence += confidence;
        }
        Ok(())
    }

    /// The figures of all samples added.
    pub fn report(&self) -> CalibrationReport {
        let all: usize = self.bins.iter().map(|bin| bin.samples).sum();
        let known = self.bins.iter().filter(|bin| bin.samples > 0);
        let bins: Vec<ConfidenceBin> = known
            .map(|bin| ConfidenceBin {
                confidence: bin.confidence / bin.samples as f64,
                accuracy: bin.hits as f64 / bin.samples as f64,
                samples: bin.samples,
            })
            .collect();
        let distance = |bin: &ConfidenceBin| {
            (bin.confidence - bin.accuracy).abs() * bin.samples as f64 / all as f64
        };
        CalibrationReport {
            ece: bins.iter().map(distance).sum(),
            bins,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::features::from_host;

    #[test]
    fn the_error_is_the_distance_of_confidence_and_accuracy() {
        let mut calibration = Calibration::default();
        // Four times sure by 0.75, right once; once sure by 1, and right.
        let rows = [[0.75, 0.25]; 4].concat();
        let device = Device::flex();
        calibration
            .add(from_host(rows, [4, 2], &device), &[0, 1, 1, 1])
            .unwrap();
        calibration
            .add(from_host(vec![0.0, 1.0], [1, 2], &device), &[1])
            .unwrap();
        let report = calibration.report();
        assert_eq!(report.bins.len(), 2);
        assert!((report.bins[0].accuracy - 0.25).abs() < 1e-9);
        assert!((report.ece - 0.8 * 0.5).abs() < 1e-6, "{}", report.ece);
    }
}
