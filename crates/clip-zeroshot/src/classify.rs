use burn::tensor::{
    Tensor,
    activation::{sigmoid, softmax},
};
use clip_model::l2_normalize;

use crate::{ClassifierHead, ZeroShotError, features::finite_rows};

/// A class and how probable the model holds it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// The class's position in the head.
    pub class: usize,
    /// The class's name.
    pub name: String,
    /// Between 0 and 1; over all classes the probabilities add up to 1, unless each class [is asked for
    /// alone](Classifier::with_bias).
    pub probability: f32,
}

/// A head with the temperature that turns its cosines into probabilities.
#[derive(Clone, Debug)]
pub struct Classifier {
    head: ClassifierHead,
    temperature_factor: f32,
    logit_bias: Option<f32>,
}

impl Classifier {
    /// `temperature_factor` is the factor between cosines and logits: `exp(logit_scale)` of the model.
    pub fn new(head: ClassifierHead, temperature_factor: f32) -> Self {
        Self {
            head,
            temperature_factor,
            logit_bias: None,
        }
    }

    /// Asks of each class alone whether an image shows it, if there is a bias: several classes may match, or none. It is
    /// what SigLIP's loss teaches, and the bias its model's; without one, an image shows one of the classes.
    ///
    /// # References
    /// Zhai et al. 2023, [Sigmoid Loss for Language Image Pre-Training](https://arxiv.org/abs/2303.15343), section 3.
    pub fn with_bias(self, logit_bias: Option<f32>) -> Self {
        Self { logit_bias, ..self }
    }

    /// The head.
    pub fn head(&self) -> &ClassifierHead {
        &self.head
    }

    /// Cosines of images and classes, times the temperature factor.
    ///
    /// # Shapes
    /// - `features`: `[images, embed_dim]`, normalised or not
    /// - returns `[images, classes]`
    ///
    /// # Errors
    /// [`ZeroShotError::Shape`] when the head is of a model with another `embed_dim`.
    pub fn logits(&self, features: Tensor<2>) -> Result<Tensor<2>, ZeroShotError> {
        let weights = self.head.weights();
        let ([images, got], [embed_dim, _]) = (features.dims(), weights.dims());
        if got != embed_dim {
            return Err(ZeroShotError::Shape {
                what: "image features for the classifier head".to_owned(),
                expected: [images, embed_dim],
                got: [images, got],
            });
        }
        let features = l2_normalize(features.cast(weights.dtype()));
        Ok(features.matmul(weights) * self.temperature_factor)
    }

    /// Probabilities of the classes for each image, which add up to 1 unless each class [is asked for
    /// alone](Self::with_bias).
    ///
    /// # Shapes
    /// - `features`: `[images, embed_dim]`, normalised or not
    /// - returns `[images, classes]`
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn probabilities(&self, features: Tensor<2>) -> Result<Tensor<2>, ZeroShotError> {
        let logits = self.logits(features)?;
        Ok(match self.logit_bias {
            Some(bias) => sigmoid(logits + bias),
            None => softmax(logits, 1),
        })
    }

    /// The `k` most probable classes for each image, the most probable first; of equally probable ones,
    /// the one that comes first in the head.
    ///
    /// # Shapes
    /// - `features`: `[images, embed_dim]`, normalised or not
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and [`ZeroShotError::NotFinite`].
    pub fn top_k(
        &self,
        features: Tensor<2>,
        k: usize,
    ) -> Result<Vec<Vec<Prediction>>, ZeroShotError> {
        let probabilities = self.probabilities(features)?;
        let names = self.head.names();
        let rows = finite_rows(probabilities, |row| format!("the feature of image {row}"))?;
        Ok(rows
            .chunks_exact(names.len())
            .map(|row| {
                let mut order: Vec<usize> = (0..names.len()).collect();
                order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
                order
                    .into_iter()
                    .take(k)
                    .map(|class| Prediction {
                        class,
                        name: names[class].clone(),
                        probability: row[class],
                    })
                    .collect()
            })
            .collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{
        encoder::tests::FakeEncoder,
        features::from_host,
        head::tests::{names, templates, values},
    };

    /// Two classes on the axes of the plane.
    pub(crate) fn axes(temperature_factor: f32) -> Classifier {
        let encoder = FakeEncoder::new([("x", vec![2.0, 0.0]), ("y", vec![0.0, 7.0])]);
        let head = ClassifierHead::build(&encoder, &names("x\ny"), &templates("{}")).unwrap();
        Classifier::new(head, temperature_factor)
    }

    fn image(feature: [f32; 2]) -> Tensor<2> {
        from_host(feature.to_vec(), [1, 2], &Device::flex())
    }

    #[test]
    fn logits_are_scaled_cosines() {
        let logits = axes(10.0).logits(image([30.0, 40.0])).unwrap();
        assert_eq!(values(logits), [6.0, 8.0]);
    }

    #[test]
    fn probabilities_are_the_softmax_of_logits() {
        let top = axes(10.0).top_k(image([30.0, 40.0]), 5).unwrap();
        let [first, second] = top[0].as_slice() else {
            panic!("two classes: {top:?}");
        };
        assert_eq!((first.name.as_str(), first.class), ("y", 1));
        // exp(8) / (exp(6) + exp(8)) = 1 / (1 + exp(-2))
        assert!((first.probability - 0.880_797_1).abs() < 1e-6);
        assert!((first.probability + second.probability - 1.0).abs() < 1e-6);
        assert_eq!(axes(10.0).top_k(image([1.0, 0.0]), 1).unwrap()[0].len(), 1);
    }

    #[test]
    fn a_class_that_is_asked_for_alone_has_a_sigmoid_of_its_own() {
        let classifier = axes(10.0).with_bias(Some(-7.0));
        let top = classifier.top_k(image([30.0, 40.0]), 2).unwrap();
        // The logits are 8 and 6: 1 / (1 + exp(-1)) and 1 / (1 + exp(1)).
        let found = top[0].iter().map(|found| found.probability);
        for (found, expected) in found.zip([0.731_058_6, 0.268_941_4]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        let nothing = classifier.top_k(image([-30.0, -40.0]), 1).unwrap();
        assert!(nothing[0][0].probability < 1e-5, "{nothing:?}");
    }

    #[test]
    fn features_of_another_model_or_of_nothing_are_refused() {
        let wide = from_host(vec![1.0; 3], [1, 3], &Device::flex());
        let error = axes(1.0).logits(wide).unwrap_err().to_string();
        assert!(
            error.contains("expected shape [1, 2], got [1, 3]"),
            "{error}"
        );
        let error = axes(1.0).top_k(image([f32::NAN, 0.0]), 1).unwrap_err();
        assert!(error.to_string().contains("image 0"), "{error}");
    }
}
