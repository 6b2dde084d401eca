use burn::tensor::{IndexingUpdateOp, Tensor, TensorData, activation::log_softmax};

use super::{Lbfgs, Samples};
use crate::ZeroShotError;

/// Multinomial logistic regression with an L2 penalty on its weights, not on its biases.
///
/// It minimises the mean over samples of the cross-entropy, plus `strength / (2 samples)` times the squared
/// weights: scikit-learn's `LogisticRegression(C=1 / strength)`, with two classes as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticRegression {
    /// The paper's λ, scikit-learn's `1 / C`.
    pub strength: f64,
    /// The optimiser.
    pub optimizer: Lbfgs,
}

/// A fitted linear classifier.
#[derive(Clone, Debug)]
pub struct LinearProbe {
    /// `[features, classes]`
    weights: Tensor<2>,
    /// `[1, classes]`
    bias: Tensor<2>,
    iterations: usize,
    converged: bool,
}

impl LogisticRegression {
    /// The regression of a strength, with the paper's limit of 1,000 iterations.
    pub fn new(strength: f64) -> Self {
        Self {
            strength,
            optimizer: Lbfgs::default(),
        }
    }

    /// Fits to samples, starting from zero, so that the result depends on nothing else.
    ///
    /// # Errors
    /// [`ZeroShotError::Probe`] when fewer than two classes have samples.
    pub fn fit(&self, samples: &Samples) -> Result<LinearProbe, ZeroShotError> {
        let (width, classes, count) = (samples.width(), samples.classes(), samples.len() as f64);
        let present = samples.counts().iter().filter(|count| **count > 0).count();
        if present < 2 {
            return Err(ZeroShotError::Probe {
                reason: format!("{present} class has samples, and two are needed"),
            });
        }
        // scikit-learn fits two classes with one column, the difference of ours. Half of it in each of our
        // columns has half its penalty.
        let strength = if classes == 2 {
            2.0 * self.strength
        } else {
            self.strength
        };
        let penalty = strength / count;
        let start = vec![0.0; (width + 1) * classes];
        let minimum = self.optimizer.minimize(start, |point| {
            let probe = LinearProbe::from_point(point, samples);
            let (loss, mut gradient) = probe.cross_entropy(samples)?;
            for gradient in &mut gradient {
                *gradient /= count;
            }
            let (weights, _) = point.split_at(width * classes);
            let mut squares = 0.0;
            for (gradient, weight) in gradient.iter_mut().zip(weights) {
                *gradient += penalty * weight;
                squares += weight * weight;
            }
            Ok::<_, ZeroShotError>((loss / count + 0.5 * penalty * squares, gradient))
        })?;
        Ok(LinearProbe {
            iterations: minimum.iterations,
            converged: minimum.converged,
            ..LinearProbe::from_point(&minimum.point, samples)
        })
    }
}

impl LinearProbe {
    /// Weights, row by row, and then biases, as the optimiser has them.
    fn from_point(point: &[f64], samples: &Samples) -> Self {
        let (width, classes) = (samples.width(), samples.classes());
        let (weights, bias) = point.split_at(width * classes);
        let tensor = |values: &[f64], shape: [usize; 2]| {
            let options = (&samples.device(), samples.dtype());
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), options)
        };
        Self {
            weights: tensor(weights, [width, classes]),
            bias: tensor(bias, [1, classes]),
            iterations: 0,
            converged: false,
        }
    }

    /// The summed cross-entropy of samples, and its gradient in the order of [`from_point`](Self::from_point).
    fn cross_entropy(&self, samples: &Samples) -> Result<(f64, Vec<f64>), ZeroShotError> {
        let [width, classes] = self.weights.dims();
        let mut loss = 0.0;
        let mut gradient = vec![0.0; (width + 1) * classes];
        // Chunks are added in f64, whatever they are computed in.
        let mut add = |place: usize, part: Tensor<2>| -> Result<(), ZeroShotError> {
            let part = part.try_into_vec_as::<f64>()?;
            for (sum, part) in gradient[place..].iter_mut().zip(part) {
                *sum += part;
            }
            Ok(())
        };
        for chunk in &samples.chunks {
            // [rows, classes]
            let logits = chunk.features.clone().matmul(self.weights.clone()) + self.bias.clone();
            let log_probabilities = log_softmax(logits, 1);
            // [rows, 1]
            let right = log_probabilities.clone().gather(1, chunk.labels.clone());
            let one = right.ones_like();
            loss -= right.try_into_vec_as::<f64>()?.iter().sum::<f64>();
            // The cross-entropy's gradient at the logits: probabilities less the labels' one-hot rows.
            let residual = log_probabilities.exp().scatter(
                1,
                chunk.labels.clone(),
                -one,
                IndexingUpdateOp::Add,
            );
            add(width * classes, residual.clone().sum_dim(0))?;
            add(0, chunk.features.clone().transpose().matmul(residual))?;
        }
        Ok((loss, gradient))
    }

    /// Logits of the classes.
    ///
    /// # Shapes
    /// - `features`: `[images, features]`, as the ones fitted to
    /// - returns `[images, classes]`
    ///
    /// # Errors
    /// [`ZeroShotError::Shape`] when the features have another width.
    pub fn logits(&self, features: Tensor<2>) -> Result<Tensor<2>, ZeroShotError> {
        let ([images, got], [width, _]) = (features.dims(), self.weights.dims());
        if got != width {
            return Err(ZeroShotError::Shape {
                what: "features for the linear probe".to_owned(),
                expected: [images, width],
                got: [images, got],
            });
        }
        let features = features.cast(self.weights.dtype());
        Ok(features.matmul(self.weights.clone()) + self.bias.clone())
    }

    /// Share of samples whose class has the highest logit, between 0 and 1; the first of equal ones counts.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn accuracy(&self, samples: &Samples) -> Result<f64, ZeroShotError> {
        let mut hits = 0;
        for chunk in &samples.chunks {
            let predicted = self.logits(chunk.features.clone())?.argmax(1);
            let predicted = predicted.try_into_vec_as::<i64>()?;
            let pairs = predicted.iter().zip(&chunk.host_labels);
            hits += pairs
                .filter(|(class, label)| **class == i64::from(**label))
                .count();
        }
        Ok(hits as f64 / samples.len() as f64)
    }

    /// The weights.
    ///
    /// # Shapes
    /// - `[features, classes]`
    pub fn weights(&self) -> Tensor<2> {
        self.weights.clone()
    }

    /// The biases.
    ///
    /// # Shapes
    /// - `[1, classes]`
    pub fn bias(&self) -> Tensor<2> {
        self.bias.clone()
    }

    /// Steps that the optimiser took.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Whether the optimiser met a tolerance, rather than its limit of iterations.
    pub fn converged(&self) -> bool {
        self.converged
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;

    fn doubles(values: &[f64], width: usize) -> Tensor<2> {
        let shape = [values.len() / width, width];
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    fn samples() -> Samples {
        let features: Vec<f64> = (0..36)
            .map(|at| f64::from(at * at % 17) / 5.0 - 1.5)
            .collect();
        let labels: Vec<u32> = (0..12).map(|at| at % 4).collect();
        Samples::new(doubles(&features, 3), &labels, 4).unwrap()
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let samples = samples();
        let point: Vec<f64> = (0..16)
            .map(|at| f64::from(at * 7 % 5) / 4.0 - 0.4)
            .collect();
        let loss = |point: &[f64]| {
            let probe = LinearProbe::from_point(point, &samples);
            probe.cross_entropy(&samples).unwrap()
        };
        let (_, gradient) = loss(&point);
        for at in 0..point.len() {
            let moved = |by: f64| {
                let mut point = point.clone();
                point[at] += by;
                loss(&point).0
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (slope - gradient[at]).abs() < 1e-7,
                "{at}: {slope} {}",
                gradient[at]
            );
        }
    }

    #[test]
    fn without_features_biases_are_the_logarithms_of_frequencies() {
        let labels = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2];
        let samples = Samples::new(doubles(&[0.0; 10], 1), &labels, 3).unwrap();
        let mut regression = LogisticRegression::new(1.0);
        regression.optimizer.gradient_tolerance = 1e-10;
        let probe = regression.fit(&samples).unwrap();
        let bias = probe.bias().try_into_vec_as::<f64>().unwrap();
        assert!(probe.converged());
        assert_eq!(probe.weights.dtype(), DType::F64);
        assert!(
            (bias[0] - bias[1] - (5.0f64 / 3.0).ln()).abs() < 1e-8,
            "{bias:?}"
        );
        assert!((bias[1] - bias[2] - 1.5f64.ln()).abs() < 1e-8, "{bias:?}");
        assert!((probe.accuracy(&samples).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn one_class_is_no_choice() {
        let samples = Samples::new(doubles(&[0.0; 3], 1), &[1, 1, 1], 3).unwrap();
        let error = LogisticRegression::new(1.0).fit(&samples).unwrap_err();
        assert!(error.to_string().contains("two are needed"), "{error}");
    }
}
