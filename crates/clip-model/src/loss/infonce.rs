use burn::tensor::{Tensor, activation};

use crate::l2_normalize;

/// Side of a tile of the similarity matrix, in rows. At batch 32,768 one tile takes 64 MiB in f32,
/// and the few that live at once stay under half a gigabyte.
const DEFAULT_TILE: usize = 512;

/// Floor of a norm, as in [`l2_normalize`].
const MIN_NORM: f64 = 1e-12;

/// The symmetric cross-entropy of the paper: each image against all captions, each caption against all images.
///
/// # References
/// CLIP figure 3; van den Oord et al. 2018 (InfoNCE).
#[derive(Clone, Copy, Debug)]
pub struct InfoNce {
    tile: usize,
}

/// A loss and its derivative by everything it depends on.
#[derive(Clone, Debug)]
pub struct ContrastiveGradients {
    /// `[1]`, in nats.
    pub loss: Tensor<1>,
    /// `[batch, embed_dim]`: by the image features as they were given, not normalised.
    pub image: Tensor<2>,
    /// `[batch, embed_dim]`: by the text features as they were given, not normalised.
    pub text: Tensor<2>,
    /// `[1]`: by the logarithm of the temperature factor.
    pub logit_scale: Tensor<1>,
}

impl Default for InfoNce {
    fn default() -> Self {
        Self { tile: DEFAULT_TILE }
    }
}

impl InfoNce {
    /// Sets how many rows of the similarity matrix exist at once. The result doesn't depend on it beyond rounding.
    ///
    /// # Panics
    /// If `tile` is 0.
    pub fn with_tile(tile: usize) -> Self {
        assert!(tile > 0, "a tile needs at least one row");
        Self { tile }
    }

    /// The loss in its plain form, differentiable by Burn: two `[batch, batch]` matrices.
    ///
    /// # Shapes
    /// - `image`, `text`: `[batch, embed_dim]`, normalised here
    /// - `logit_scale`: `[1]`
    /// - returns `[1]`, in nats
    pub fn forward(&self, image: Tensor<2>, text: Tensor<2>, logit_scale: Tensor<1>) -> Tensor<1> {
        let [batch, _] = image.dims();
        let image = l2_normalize(image) * logit_scale.exp().unsqueeze();
        let logits = image.matmul(l2_normalize(text).transpose());
        let diagonal = Tensor::eye(batch, &logits.device());
        let by_image = activation::log_softmax(logits.clone(), 1);
        let by_text = activation::log_softmax(logits, 0);
        ((by_image + by_text) * diagonal)
            .sum()
            .div_scalar(-2.0 * batch as f64)
    }

    /// The loss and its gradients, tile by tile: memory grows with `batch * tile`, not `batch * batch`.
    ///
    /// # Shapes
    /// - `image`, `text`: `[batch, embed_dim]`, detached from any graph, normalised here
    /// - `logit_scale`: `[1]`
    pub fn with_gradients(
        &self,
        image: Tensor<2>,
        text: Tensor<2>,
        logit_scale: Tensor<1>,
    ) -> ContrastiveGradients {
        let (image, image_norm) = normalize(image);
        let (text, text_norm) = normalize(text);
        let scale = logit_scale.exp();
        let scaled = image.clone() * scale.clone().unsqueeze();

        let tiles = self.tiles(&scaled, &text);
        let by_image: Vec<_> = tiles
            .iter()
            .map(|tile| log_sum_exp(tile.logits(), 1))
            .collect();
        let by_text = log_sum_exp_over_tiles(&tiles);

        let [batch, _] = image.dims();
        let mut total = by_text.clone().sum();
        let mut grad_scaled = Vec::with_capacity(tiles.len());
        let mut grad_text: Option<Tensor<2>> = None;
        for (tile, by_image) in tiles.iter().zip(by_image) {
            let logits = tile.logits();
            total = total + by_image.clone().sum() - tile.positives().sum().mul_scalar(2.0);
            // d loss / d logits = (softmax over captions + softmax over images - 2 on the diagonal) / 2 batch
            let softmaxes = (logits.clone() - by_image).exp() + (logits - by_text.clone()).exp();
            let factor = 0.5 / batch as f64;
            let off = softmaxes.mul_scalar(factor);
            let on = tile.text_rows().mul_scalar(2.0 * factor);
            grad_scaled.push(off.clone().matmul(text.clone()) - on);
            let part = off.transpose().matmul(tile.image.clone());
            grad_text = Some(match grad_text {
                Some(sum) => sum + part,
                None => part,
            });
        }
        let grad_scaled = Tensor::cat(grad_scaled, 0);
        // invariant: `tiles` yields at least one tile, for a batch has at least one row.
        let grad_text = grad_text.expect("invariant: a batch has rows")
            - scaled.clone().div_scalar(batch as f64);
        // By the scaled features first: d/d logit_scale = sum(d/d scaled * scaled), for scaled = exp(logit_scale) * image.
        let grad_logit_scale = (grad_scaled.clone() * scaled).sum();
        ContrastiveGradients {
            loss: total.div_scalar(2.0 * batch as f64),
            image: through_norm(grad_scaled * scale.unsqueeze(), image, image_norm),
            text: through_norm(grad_text, text, text_norm),
            logit_scale: grad_logit_scale,
        }
    }

    fn tiles(self, scaled: &Tensor<2>, text: &Tensor<2>) -> Vec<Tile> {
        let [batch, _] = scaled.dims();
        let whole = batch <= self.tile;
        (0..batch)
            .step_by(self.tile)
            .map(|start| {
                let rows = self.tile.min(batch - start);
                let image = scaled.clone().narrow(0, start, rows);
                // A single tile is small enough to keep; several are computed again where needed.
                let kept = whole.then(|| image.clone().matmul(text.clone().transpose()));
                Tile {
                    start,
                    image,
                    text: text.clone(),
                    kept,
                }
            })
            .collect()
    }
}

/// Some rows of the similarity matrix.
struct Tile {
    start: usize,
    /// `[rows, embed_dim]`, times the temperature factor.
    image: Tensor<2>,
    /// `[batch, embed_dim]`.
    text: Tensor<2>,
    kept: Option<Tensor<2>>,
}

impl Tile {
    /// `[rows, batch]`.
    fn logits(&self) -> Tensor<2> {
        match &self.kept {
            Some(logits) => logits.clone(),
            None => self.image.clone().matmul(self.text.clone().transpose()),
        }
    }

    /// `[rows, embed_dim]`: the captions that belong to the tile's images.
    fn text_rows(&self) -> Tensor<2> {
        let [rows, _] = self.image.dims();
        self.text.clone().narrow(0, self.start, rows)
    }

    /// `[rows, 1]`: logits of the matching pairs.
    fn positives(&self) -> Tensor<2> {
        (self.image.clone() * self.text_rows()).sum_dim(1)
    }
}

/// Unit rows, and the `[batch, 1]` norms they had.
fn normalize(features: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let norm = features
        .clone()
        .square()
        .sum_dim(1)
        .sqrt()
        .clamp_min(MIN_NORM);
    (features / norm.clone(), norm)
}

/// The gradient by `x`, given that by `unit = x / norm`: what points along `unit` has no effect.
fn through_norm(grad: Tensor<2>, unit: Tensor<2>, norm: Tensor<2>) -> Tensor<2> {
    let along = (grad.clone() * unit.clone()).sum_dim(1);
    (grad - unit * along) / norm
}

fn log_sum_exp(logits: Tensor<2>, dim: usize) -> Tensor<2> {
    let max = logits.clone().max_dim(dim);
    (logits - max.clone()).exp().sum_dim(dim).log() + max
}

/// `[1, batch]`: the log-sum-exp of each column, carried from tile to tile.
fn log_sum_exp_over_tiles(tiles: &[Tile]) -> Tensor<2> {
    tiles
        .iter()
        .map(|tile| log_sum_exp(tile.logits(), 0))
        .reduce(|a, b| {
            let max = a.clone().max_pair(b.clone());
            ((a - max.clone()).exp() + (b - max.clone()).exp()).log() + max
        })
        // invariant: a batch has at least one row, so there is at least one tile.
        .expect("invariant: a batch has rows")
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;

    fn features(batch: usize, seed: u64, device: &Device) -> Tensor<2> {
        // A plain congruential sequence: the same values on every backend.
        let mut state = seed;
        let values: Vec<f32> = (0..batch * 8)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_data(TensorData::new(values, [batch, 8]), device)
    }

    fn scale(value: f32, device: &Device) -> Tensor<1> {
        Tensor::from_floats([value], device)
    }

    #[test]
    fn tiled_gradients_are_the_plain_forms_for_any_tile() {
        let device = Device::flex();
        let autodiff = device.clone().autodiff();
        for batch in [1, 7, 12] {
            let image = features(batch, 1, &autodiff).require_grad();
            let text = features(batch, 2, &autodiff).require_grad();
            let logit_scale = scale(2.0, &autodiff).require_grad();
            let loss = InfoNce::default().forward(image.clone(), text.clone(), logit_scale.clone());
            let grads = loss.backward();
            for tile in [1, 4, 5, 64] {
                let tiled = InfoNce::with_tile(tile).with_gradients(
                    features(batch, 1, &device),
                    features(batch, 2, &device),
                    scale(2.0, &device),
                );
                let tolerance = Tolerance::absolute(2e-6);
                let check = |got: TensorData, want: TensorData| {
                    got.assert_approx_eq::<f32>(&want, tolerance);
                };
                check(tiled.loss.into_data(), loss.clone().into_data());
                check(
                    tiled.image.into_data(),
                    image.grad(&grads).unwrap().into_data(),
                );
                check(
                    tiled.text.into_data(),
                    text.grad(&grads).unwrap().into_data(),
                );
                let by_scale = logit_scale.grad(&grads).unwrap();
                check(tiled.logit_scale.into_data(), by_scale.into_data());
            }
        }
    }

    #[test]
    fn a_uniform_batch_loses_the_logarithm_of_its_size() {
        let device = Device::flex();
        let same = Tensor::<2>::ones([64, 8], &device);
        let result = InfoNce::with_tile(16).with_gradients(same.clone(), same, scale(4.6, &device));
        let loss: f32 = result.loss.into_scalar();
        assert!((loss - 64_f32.ln()).abs() < 1e-4, "{loss}");
    }

    #[test]
    fn far_apart_logits_stay_finite() {
        let device = Device::flex();
        let image = Tensor::<2>::random([8, 8], Distribution::Normal(0.0, 1.0), &device);
        let text = image.clone().neg();
        let result = InfoNce::with_tile(3).with_gradients(
            image,
            text,
            scale(crate::MAX_LOGIT_SCALE, &device),
        );
        let loss: f32 = result.loss.into_scalar();
        assert!(loss.is_finite() && loss > 8_f32.ln(), "{loss}");
        let gradient: Vec<f32> = result.image.into_data().try_to_vec().unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()));
    }
}
