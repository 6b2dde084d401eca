use burn::tensor::{Int, Tensor, activation};

use super::{
    ContrastiveBatch, ContrastiveGradients,
    scores::{ByOperands, Scores, Tile, TileRows},
};
use crate::l2_normalize;

/// SigLIP's loss: each image and caption of a batch is a question of its own, whether they match.
///
/// `-sum(log sigmoid(z * (exp(logit_scale) * cosine + logit_bias))) / batch` over all images and captions of the batch,
/// where `z` is 1 for those that match and -1 for others. With [`Groups`](super::Groups), an image matches every caption
/// of its group.
///
/// # References
/// Zhai et al. 2023, [Sigmoid Loss for Language Image Pre-Training](https://arxiv.org/abs/2303.15343), algorithm 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct SigLip {
    tile: TileRows,
}

impl SigLip {
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

    /// The loss in its plain form, differentiable by Burn: `[batch, batch]` matrices.
    ///
    /// # Shapes
    /// - returns `[1]`, in nats
    pub fn forward(&self, batch: ContrastiveBatch) -> Tensor<1> {
        let [rows, _] = batch.image.dims();
        let Ids { tensor: ids, .. } = Ids::of(&batch);
        let image = l2_normalize(batch.image) * batch.logit_scale.exp().unsqueeze();
        let logits = image.matmul(l2_normalize(batch.text).transpose());
        let logits = match batch.logit_bias {
            Some(bias) => logits + bias.unsqueeze(),
            None => logits,
        };
        activation::log_sigmoid(logits * signs(ids.clone(), ids))
            .sum()
            .div_scalar(-(rows as f64))
    }

    /// The loss and its gradients, tile by tile: memory grows with `batch * tile`, not `batch * batch`.
    ///
    /// # Shapes
    /// The batch's tensors are detached from any graph.
    ///
    /// # Panics
    /// If the batch has a teacher: a distribution to learn is of [`InfoNce`](super::InfoNce).
    pub fn with_gradients(&self, batch: ContrastiveBatch) -> ContrastiveGradients {
        assert!(batch.teacher.is_none(), "a sigmoid has no teacher");
        let ids = Ids::of(&batch);
        let bias = batch.logit_bias.clone();
        let scores = Scores::new(batch, self.tile);
        let rows = scores.batch() as f64;
        let device = scores.image().device();

        let mut total = Tensor::<1>::zeros([1], &device);
        let mut by_bias = Tensor::<1>::zeros([1], &device);
        let mut sum = ByOperands::default();
        for Tile {
            start,
            image,
            logits,
        } in scores.tiles()
        {
            let (lost, by_logits) = ids.questions(start, logits);
            total = total + lost;
            let by_logits = by_logits.div_scalar(rows);
            by_bias = by_bias + by_logits.clone().sum();
            scores.back(image, by_logits, &mut sum);
        }
        ContrastiveGradients {
            logit_bias: bias.map(|_| by_bias),
            ..scores.gradients(total.div_scalar(rows), sum)
        }
    }
}

/// Equal numbers for rows that match, of all the batch.
struct Ids {
    #[cfg(feature = "cpu")]
    numbers: Vec<i32>,
    tensor: Tensor<1, Int>,
}

impl Ids {
    fn of(batch: &ContrastiveBatch) -> Self {
        let numbers = match &batch.groups {
            Some(groups) => groups.numbers(),
            None => (0..batch.image.dims()[0] as i32).collect(),
        };
        Self {
            tensor: Tensor::from_ints(numbers.as_slice(), &batch.image.device()),
            #[cfg(feature = "cpu")]
            numbers,
        }
    }

    /// What the answers of a tile lose together, `[1]`, and the derivative by its logits, which are `[rows, batch]` and
    /// begin with row `start` of the batch.
    fn questions(&self, start: usize, logits: Tensor<2>) -> (Tensor<1>, Tensor<2>) {
        #[cfg(feature = "cpu")]
        if clip_kernels::computes_on(&logits) {
            let [rows, _] = logits.dims();
            let row_ids = &self.numbers[start..start + rows];
            return clip_kernels::pairwise_sigmoid(&logits, row_ids, &self.numbers);
        }
        self.questions_by_burn(start, logits)
    }

    /// The same of Burn's operations.
    fn questions_by_burn(&self, start: usize, logits: Tensor<2>) -> (Tensor<1>, Tensor<2>) {
        let [rows, _] = logits.dims();
        let signs = signs(
            self.tensor.clone().narrow(0, start, rows),
            self.tensor.clone(),
        );
        let right = logits * signs.clone();
        let lost = activation::log_sigmoid(right.clone()).sum().neg();
        (lost, activation::sigmoid(right.neg()) * signs.neg())
    }
}

/// `[rows, columns]`: 1 where row and column match, -1 elsewhere.
fn signs(rows: Tensor<1, Int>, columns: Tensor<1, Int>) -> Tensor<2> {
    let same = rows.unsqueeze_dim::<2>(1).equal(columns.unsqueeze());
    same.float().mul_scalar(2.0).sub_scalar(1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::loss::{
        ContrastiveLoss,
        testing::{Operands, assert_close, assert_is_derivative, assert_tiles_are_plain, golden},
    };

    fn tiled(rows: usize) -> ContrastiveLoss {
        ContrastiveLoss::SigLip(SigLip::with_tile(rows))
    }

    #[test]
    fn tiled_gradients_are_the_plain_forms_for_any_tile() {
        let plain = |batch| SigLip::default().forward(batch);
        for operands in Operands::with_and_without_groups() {
            assert_tiles_are_plain(tiled, plain, &operands, Some(-1.5));
            assert_tiles_are_plain(tiled, plain, &operands, None);
        }
    }

    /// What devices without the kernel take.
    #[test]
    fn burns_operations_answer_as_the_kernel_does() {
        for operands in Operands::with_and_without_groups() {
            let batch = operands.batch(2.0, None, &Device::default());
            let ids = Ids::of(&batch);
            let [rows, _] = batch.image.dims();
            // The second half, as a tile.
            let start = rows / 2;
            let image = batch.image.narrow(0, start, rows - start);
            let logits = image.matmul(batch.text.transpose());
            let (loss, by_logits) = ids.questions(start, logits.clone());
            let (plain_loss, plain_by_logits) = ids.questions_by_burn(start, logits);
            // Of a question, not of all together.
            let mean = |sum: Tensor<1>| sum.div_scalar(((rows - start) * rows) as f32).into_data();
            assert_close(mean(loss), mean(plain_loss));
            assert_close(by_logits.into_data(), plain_by_logits.into_data());
        }
    }

    #[test]
    fn the_gradients_are_those_of_finite_differences() {
        for operands in Operands::with_and_without_groups() {
            assert_is_derivative(tiled(3), &operands, Some(-1.5));
        }
    }

    #[test]
    fn logits_of_zero_lose_a_bit_for_every_caption() {
        let device = Device::default();
        let image = Tensor::<2>::from_floats([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], &device);
        let text = Tensor::<2>::from_floats([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], &device);
        let batch = ContrastiveBatch::new(image, text, Tensor::from_floats([2.0], &device));
        let loss: f32 = SigLip::default().with_gradients(batch).loss.into_scalar();
        assert!((loss - 3.0 * 2_f32.ln()).abs() < 1e-6, "{loss}");
    }

    /// `tests/reference/siglip_loss.py`: OpenCLIP's `SigLipLoss` and its gradients.
    #[test]
    fn the_loss_and_its_gradients_are_open_clips() {
        let file = include_bytes!("../../tests/reference/siglip_loss.safetensors");
        let data = golden(file);
        let device = Device::default();
        let batch = ContrastiveBatch::new(
            Tensor::from_data(data("image"), &device),
            Tensor::from_data(data("text"), &device),
            Tensor::from_data(data("logit_scale"), &device),
        )
        .with_bias(Some(Tensor::from_data(data("logit_bias"), &device)));
        for rows in [2, 5] {
            let found = SigLip::with_tile(rows).with_gradients(batch.clone());
            assert_close(found.loss.into_data(), data("loss"));
            assert_close(found.image.into_data(), data("grad.image"));
            assert_close(found.text.into_data(), data("grad.text"));
            assert_close(found.logit_scale.into_data(), data("grad.logit_scale"));
            let by_bias = found.logit_bias.unwrap().into_data();
            assert_close(by_bias, data("grad.logit_bias"));
        }
    }
}
