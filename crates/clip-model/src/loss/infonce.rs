use burn::tensor::{Tensor, activation};

use super::{
    ContrastiveBatch, ContrastiveGradients,
    scores::{ByOperands, Scores, Tile, TileRows},
};
use crate::l2_normalize;

/// The symmetric cross-entropy of the paper: each image against all captions, each caption against all images.
///
/// With [`Groups`](super::Groups), the right answer is not one caption but all of an image's group, each as likely: the
/// cross-entropy is with the uniform distribution over the group, and so for captions. Leaving the others of the group
/// out of the denominator instead would say nothing about them; sharing the target draws them together, as their
/// captions do, and keeps the loss a cross-entropy, least where the model's probabilities are the target's.
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

    /// The loss in its plain form, differentiable by Burn: two `[batch, batch]` matrices.
    ///
    /// # Shapes
    /// - returns `[1]`, in nats
    pub fn forward(&self, batch: ContrastiveBatch) -> Tensor<1> {
        let [rows, _] = batch.image.dims();
        let image = l2_normalize(batch.image) * batch.logit_scale.exp().unsqueeze();
        let logits = image.matmul(l2_normalize(batch.text).transpose());
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
        ((by_image + by_text) * target)
            .sum()
            .div_scalar(-2.0 * rows as f64)
    }

    /// The loss and its gradients, tile by tile: memory grows with `batch * tile`, not `batch * batch`.
    ///
    /// # Shapes
    /// The batch's tensors are detached from any graph.
    pub fn with_gradients(&self, batch: ContrastiveBatch) -> ContrastiveGradients {
        let groups = batch.groups.clone();
        let scores = Scores::new(
            ContrastiveBatch {
                logit_bias: None,
                ..batch
            },
            self.tile,
        );
        // What should score high: the mean over a group, for the target is uniform over it.
        let of_group = |features: &Tensor<2>| match &groups {
            Some(groups) => groups.mean(features),
            None => features.clone(),
        };
        let rows = scores.batch() as f64;

        let mut by_image = Vec::new();
        let mut by_text: Option<Tensor<2>> = None;
        for tile in scores.tiles() {
            by_image.push(log_sum_exp(&tile.logits, 1));
            let columns = log_sum_exp(&tile.logits, 0);
            by_text = Some(match by_text {
                Some(sum) => log_add_exp(sum, columns),
                None => columns,
            });
        }
        // invariant: a batch has rows, so there was a tile.
        let by_text = by_text.expect("invariant: a batch has a tile");

        let mut total = by_text.clone().sum();
        let mut sum = ByOperands::default();
        for (Tile { image, logits, .. }, by_image) in scores.tiles().zip(by_image) {
            total = total + by_image.clone().sum();
            // d loss / d logits = (softmax over captions + softmax over images - 2 target) / 2 batch
            let softmaxes = sum_of_softmaxes(&logits, &by_image, &by_text);
            scores.back(image, softmaxes.mul_scalar(0.5 / rows), &mut sum);
        }
        let factor = scores.factor().clone();
        let right_text = of_group(scores.text());
        let matched = scores.image().clone() * factor.clone() * right_text.clone();
        let total = total - matched.sum().mul_scalar(2.0);
        let right_image = of_group(scores.image()) * factor;
        let sum = sum.add(
            right_text.mul_scalar(-1.0 / rows),
            right_image.mul_scalar(-1.0 / rows),
        );
        scores.gradients(total.div_scalar(2.0 * rows), sum)
    }
}

fn log_sum_exp(logits: &Tensor<2>, dim: usize) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if clip_kernels::computes_on(logits) {
        return clip_kernels::log_sum_exp(logits, dim);
    }
    let max = logits.clone().max_dim(dim);
    (logits.clone() - max.clone()).exp().sum_dim(dim).log() + max
}

/// The softmax over each row, given the rows' log-sum-exps, and that over each column.
fn sum_of_softmaxes(logits: &Tensor<2>, by_row: &Tensor<2>, by_column: &Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if clip_kernels::computes_on(logits) {
        return clip_kernels::sum_of_softmaxes(logits, by_row, by_column);
    }
    (logits.clone() - by_row.clone()).exp() + (logits.clone() - by_column.clone()).exp()
}

fn log_add_exp(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let max = a.clone().max_pair(b.clone());
    ((a - max.clone()).exp() + (b - max.clone()).exp()).log() + max
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::loss::{
        ContrastiveLoss,
        testing::{Operands, assert_is_derivative, assert_tiles_are_plain},
    };

    fn tiled(rows: usize) -> ContrastiveLoss {
        ContrastiveLoss::InfoNce(InfoNce::with_tile(rows))
    }

    #[test]
    fn tiled_gradients_are_the_plain_forms_for_any_tile() {
        let plain = |batch| InfoNce::default().forward(batch);
        for operands in Operands::with_and_without_groups() {
            assert_tiles_are_plain(tiled, plain, &operands, None);
        }
    }

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        for operands in Operands::with_and_without_groups() {
            assert_is_derivative(tiled(3), &operands, None);
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
