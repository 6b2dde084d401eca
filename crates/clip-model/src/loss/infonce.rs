use burn::tensor::{Tensor, activation};

use super::{
    ContrastiveBatch, ContrastiveGradients, TeacherFeatures,
    scores::{ByOperands, Scores, Tile, TileRows},
    softmaxes::Softmaxes,
};
use crate::l2_normalize;

/// The symmetric cross-entropy of the paper: each image against all captions, each caption against all images.
///
/// With [`Groups`](super::Groups), the right answer is not one caption but all of an image's group, each as likely: the
/// cross-entropy is with the uniform distribution over the group, and so for captions. Leaving the others of the group
/// out of the denominator instead would say nothing about them; sharing the target draws them together, as their
/// captions do, and keeps the loss a cross-entropy, least where the model's probabilities are the target's.
///
/// With [`TeacherFeatures`], the same cross-entropies with a teacher's probabilities as the target are minimised too, as
/// `OpenCLIP`'s `DistillClipLoss` has it.
///
/// # References
/// CLIP figure 3; van den Oord et al. 2018 (InfoNCE); Yang et al. 2022, [Unified Contrastive Learning in
/// Image-Text-Label Space](https://arxiv.org/abs/2204.03610), section 3.
#[derive(Clone, Copy, Debug, Default)]
pub struct InfoNce {
    tile: TileRows,
}

impl InfoNce {
    /// Sets how many rows of the similarity matrix exist at once; by default as many as fit in 32 MiB. The result doesn't
    /// depend on it beyond rounding.
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn with_tile(rows: usize) -> Self {
        Self {
            tile: TileRows::new(rows),
        }
    }

    /// The loss in its plain form, differentiable by Burn: two `[batch, batch]` matrices. A teacher's part is added to it.
    ///
    /// # Shapes
    /// - returns `[1]`, in nats
    pub fn forward(&self, batch: ContrastiveBatch) -> Tensor<1> {
        let [rows, _] = batch.image.dims();
        let logits = logits(batch.image, batch.text, batch.logit_scale);
        let device = logits.device();
        let target = match batch.groups {
            Some(groups) => {
                let ids = groups.ids(&device);
                let same = ids.clone().unsqueeze_dim::<2>(1).equal(ids.unsqueeze());
                same.float() / groups.sizes(&device)
            }
            None => Tensor::eye(rows, &device),
        };
        let by_image = activation::log_softmax(logits.clone(), 1);
        let by_text = activation::log_softmax(logits, 0);
        let mut total = ((by_image.clone() + by_text.clone()) * target).sum();
        if let Some(teacher) = batch.teacher {
            let soft = self::logits(teacher.image, teacher.text, teacher.logit_scale);
            let by_image = by_image * activation::softmax(soft.clone(), 1);
            total = total + (by_image + by_text * activation::softmax(soft, 0)).sum();
        }
        total.div_scalar(-2.0 * rows as f64)
    }

    /// The loss and its gradients, tile by tile: memory grows with `batch * tile`, not `batch * batch`.
    ///
    /// # Shapes
    /// The batch's tensors are detached from any graph.
    pub fn with_gradients(&self, batch: ContrastiveBatch) -> ContrastiveGradients {
        let (groups, teacher) = (batch.groups.clone(), batch.teacher.clone());
        let softmaxes = |batch| Softmaxes::new(Scores::new(batch, self.tile));
        let found = softmaxes(ContrastiveBatch {
            logit_bias: None,
            teacher: None,
            ..batch
        });
        let teacher = teacher.map(|teacher| {
            let TeacherFeatures {
                image,
                text,
                logit_scale,
            } = teacher;
            softmaxes(ContrastiveBatch::new(image, text, logit_scale))
        });
        let scores = &found.scores;
        // What should score high: the mean over a group, for the target is uniform over it.
        let of_group = |features: &Tensor<2>| match &groups {
            Some(groups) => groups.mean(features),
            None => features.clone(),
        };
        let rows = scores.batch() as f64;

        let mut sum = ByOperands::default();
        // The teacher's probabilities times the logits, added up.
        let mut expected: Option<Tensor<1>> = None;
        let mut taught = teacher.iter().flat_map(Softmaxes::tiles);
        for (Tile { image, logits, .. }, softmaxes) in found.tiles() {
            // d loss / d logits = (softmax over captions + softmax over images - 2 target) / 2 batch
            // and of a teacher's part the same, with its softmaxes for targets.
            let by_logits = match taught.next() {
                Some((_, targets)) => {
                    let part = (targets.clone() * logits).sum();
                    expected = Some(match expected {
                        Some(sum) => sum + part,
                        None => part,
                    });
                    softmaxes.mul_scalar(2.0) - targets
                }
                None => softmaxes,
            };
            scores.back(image, by_logits.mul_scalar(0.5 / rows), &mut sum);
        }
        let factor = scores.factor().clone();
        let right_text = of_group(scores.text());
        let matched = scores.image().clone() * factor.clone() * right_text.clone();
        let log_sums = found.log_sums();
        let total = log_sums.clone() - matched.sum().mul_scalar(2.0);
        let right_image = of_group(scores.image()) * factor;
        let sum = sum.add(
            right_text.mul_scalar(-1.0 / rows),
            right_image.mul_scalar(-1.0 / rows),
        );
        let mean = |total: Tensor<1>| total.div_scalar(2.0 * rows);
        ContrastiveGradients {
            distill: expected.map(|expected| mean(log_sums - expected)),
            ..found.scores.gradients(mean(total), sum)
        }
    }
}

/// `[images, texts]`: cosines times the factor.
fn logits(image: Tensor<2>, text: Tensor<2>, logit_scale: Tensor<1>) -> Tensor<2> {
    let image = l2_normalize(image) * logit_scale.exp().unsqueeze();
    image.matmul(l2_normalize(text).transpose())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::loss::{
        ContrastiveLoss,
        testing::{Operands, assert_close, assert_is_derivative, assert_tiles_are_plain, golden},
    };

    fn tiled(rows: usize) -> ContrastiveLoss {
        ContrastiveLoss::InfoNce(InfoNce::with_tile(rows))
    }

    #[test]
    fn tiled_gradients_are_the_plain_forms_for_any_tile() {
        let plain = |batch| InfoNce::default().forward(batch);
        let taught = Operands::with_teacher();
        for operands in Operands::with_and_without_groups().iter().chain(&taught) {
            assert_tiles_are_plain(tiled, plain, operands, None);
        }
    }

    /// `tests/reference/distill_loss.py`: OpenCLIP's `DistillClipLoss` and its gradients.
    #[test]
    fn the_loss_of_a_student_is_open_clips() {
        let data = golden(include_bytes!(
            "../../tests/reference/distill_loss.safetensors"
        ));
        let device = Device::default();
        let tensor = |name: &str| Tensor::from_data(data(name), &device);
        let scale = |name: &str| Tensor::<1>::from_data(data(name), &device);
        let teacher = TeacherFeatures {
            image: tensor("teacher.image"),
            text: tensor("teacher.text"),
            logit_scale: scale("teacher.logit_scale"),
        };
        let batch = ContrastiveBatch::new(tensor("image"), tensor("text"), scale("logit_scale"));
        let batch = batch.with_teacher(Some(teacher));
        for rows in [2, 5] {
            let found = InfoNce::with_tile(rows).with_gradients(batch.clone());
            assert_close(found.loss.into_data(), data("loss"));
            assert_close(found.distill.unwrap().into_data(), data("distill"));
            assert_close(found.image.into_data(), data("grad.image"));
            assert_close(found.text.into_data(), data("grad.text"));
            assert_close(found.logit_scale.into_data(), data("grad.logit_scale"));
        }
    }

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        let taught = Operands::with_teacher();
        for operands in Operands::with_and_without_groups().iter().chain(&taught) {
            assert_is_derivative(tiled(3), operands, None);
        }
    }

    #[test]
    fn a_uniform_batch_loses_the_logarithm_of_its_size() {
        let device = Device::default();
        let same = Tensor::<2>::ones([64, 8], &device);
        let batch = ContrastiveBatch::new(same.clone(), same, Tensor::from_floats([4.6], &device));
        let loss: f32 = InfoNce::with_tile(16)
            .with_gradients(batch)
            .loss
            .into_scalar();
        assert!((loss - 64_f32.ln()).abs() < 1e-4, "{loss}");
    }

    #[test]
    fn images_of_a_group_are_no_negatives_of_its_captions() {
        let device = Device::default();
        // Two kinds, twice each, that the model tells apart for certain.
        let kinds =
            Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], &device);
        let scale = Tensor::from_floats([crate::MAX_LOGIT_SCALE], &device);
        let batch = ContrastiveBatch::new(kinds.clone(), kinds, scale);
        let groups = super::super::Groups::alone(4).join_equal([0, 1, 0, 1]);
        let found = InfoNce::default().with_gradients(batch.with_groups(Some(groups)));
        // The entropy of the target, the least there is.
        let loss: f32 = found.loss.into_scalar();
        assert!((loss - 2_f32.ln()).abs() < 1e-5, "{loss}");
        let gradient: f32 = found.image.abs().max().into_scalar();
        assert!(gradient < 1e-5, "{gradient}");
    }

    #[test]
    fn far_apart_logits_stay_finite() {
        let device = Device::default();
        let image = Tensor::<2>::random([8, 8], Distribution::Normal(0.0, 1.0), &device);
        let text = image.clone().neg();
        let scale = Tensor::from_floats([crate::MAX_LOGIT_SCALE], &device);
        let result =
            InfoNce::with_tile(3).with_gradients(ContrastiveBatch::new(image, text, scale));
        let loss: f32 = result.loss.into_scalar();
        assert!(loss.is_finite() && loss > 8_f32.ln(), "{loss}");
        let gradient: Vec<f32> = result.image.into_data().try_to_vec().unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()));
    }
}
