//! Layers of each token of sequences, with gradients by their parameters that keep a GPU busy.
//!
//! Those gradients are sums over every token of a batch, tens of thousands, for few numbers. Burn's GPU backends compute
//! each number on one thread, those of a matrix in tiles on one multiprocessor each, and leave the rest idle. So both are
//! summed in two steps here. Autodiff does as it is told by the forward pass:
//!
//! - A vector is expanded to one for each sequence: its gradient is summed over the tokens of each, then over sequences.
//! - A matrix multiplies the batch in parts: its gradient is a product for each part, then their sum ("split-K").

use burn::{
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor},
};

use crate::products;

/// A vector for each of a batch's sequences: `[width]` to `[batch, 1, width]`.
fn for_each(vector: Tensor<1>, batch: usize) -> Tensor<3> {
    let [width] = vector.dims();
    vector.reshape([1, 1, width]).expand([batch, 1, width])
}

/// One product for all tokens, and a bias.
///
/// # Shapes
/// - `x`: `[batch, tokens, from]`
/// - `weight`: `[from, to]`
/// - `bias`: `[to]`
/// - returns `[batch, tokens, to]`
pub(super) fn project(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [batch, tokens, from] = x.dims();
    let [_, to] = weight.dims();
    #[cfg(feature = "gpu")]
    if !x.device().is_autodiff() {
        let shape = [batch * tokens, to, from];
        if clip_cube::multiplies(&x.device(), x.dtype(), shape) {
            let rows = x.reshape([batch * tokens, from]);
            return clip_cube::product(rows, weight, false, bias).reshape([batch, tokens, to]);
        }
    }
    let shape = [1, batch * tokens, to, from];
    let parts = if x.device().is_autodiff() && !products::has_kernels(&x.device(), x.dtype(), shape)
    {
        parts(batch, tokens, [from, to])
    } else {
        1
    };
    let product = match parts {
        1 => products::project(x.reshape([batch * tokens, from]), weight).unsqueeze(),
        _ => x
            .reshape([parts, batch * tokens / parts, from])
            .matmul(weight.unsqueeze::<3>()),
    };
    let product = product.reshape([batch, tokens, to]);
    match bias {
        Some(bias) => product + for_each(bias, batch),
        None => product,
    }
}

/// Numbers along a side of the tiles that products are made of.
const TILE: usize = 128;
/// Tiles enough for several rounds on a large GPU, so that the last, which fills it in part, is a small share.
const TILES: usize = 1024;
/// A part's sum is at least so long: below, it takes less time than what begins and ends it.
const PART_ROWS: usize = 1024;

/// In how many parts of whole sequences a batch multiplies a weight matrix: a power of two.
fn parts(batch: usize, tokens: usize, weight: [usize; 2]) -> usize {
    let tiles: usize = weight.iter().map(|side| side.div_ceil(TILE)).product();
    let most = (TILES / tiles).min(batch * tokens / PART_ROWS).max(1);
    let fits = |parts: &usize| *parts <= most && batch.is_multiple_of(*parts);
    (0..TILES.ilog2())
        .rev()
        .map(|log| 1 << log)
        .find(fits)
        .unwrap_or(1)
}

/// The gradient by a weight matrix that multiplied each token, in f32: of parts as [`project`]'s, then their sum.
///
/// # Shapes
/// - `x`: `[batch, tokens, from]`
/// - `by_y`: `[batch, tokens, to]`
/// - returns `[from, to]`
pub(super) fn weight_gradient(x: Tensor<3>, by_y: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, from] = x.dims();
    let [_, _, to] = by_y.dims();
    let parts = parts(batch, tokens, [from, to]);
    let rows = batch * tokens / parts;
    let x = x.reshape([parts, rows, from]).transpose();
    let products = x.matmul(by_y.reshape([parts, rows, to])).cast(DType::F32);
    let sum = match parts {
        1 => products,
        _ => products.sum_dim(0),
    };
    sum.reshape([from, to])
}

/// The sum of all tokens, in f32: over each sequence's, which come out in the precision of `x`, then over sequences.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`
/// - returns `[width]`
pub(super) fn sum(x: Tensor<3>) -> Tensor<1> {
    let [_, _, width] = x.dims();
    let sums = x.sum_dim(1).cast(DType::F32);
    sums.sum_dim(0).reshape([width])
}

/// The layer on each token.
///
/// # Shapes
/// As [`project`]
pub(super) fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let bias = layer.bias.as_ref().map(burn::module::Param::val);
    project(x, layer.weight.val(), bias)
}

/// Whether the device of `x` has kernels for norms and sums of such rows.
#[cfg(feature = "gpu")]
pub(super) fn has_norms(x: &Tensor<3>) -> bool {
    let [batch, tokens, width] = x.dims();
    clip_cube::norms(&x.device(), x.dtype(), [batch * tokens, width])
}

/// The norm of each token, in f32, whatever the model computes in.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`, and so is the result
pub(super) fn layer_norm(norm: &LayerNorm, epsilon: f64, x: Tensor<3>) -> Tensor<3> {
    if !x.device().is_autodiff() {
        #[cfg(feature = "gpu")]
        if let Some(beta) = &norm.beta
            && has_norms(&x)
        {
            return clip_cube::norm(x, norm.gamma.val(), beta.val(), epsilon).0;
        }
        return super::block::layer_norm(norm, x);
    }
    let [batch, _, _] = x.dims();
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let normed = centred / (variance + epsilon).sqrt() * for_each(norm.gamma.val(), batch);
    let shifted = match &norm.beta {
        Some(beta) => normed + for_each(beta.val(), batch),
        None => normed,
    };
    shifted.cast(dtype)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;
    use crate::Init;

    /// Enough rows for four parts.
    const BATCH: usize = 4;
    const TOKENS: usize = 1100;

    #[test]
    fn parts_are_whole_sequences_and_fill_a_gpu() {
        // ViT-B/32's attention and MLP, ViT-B/16's attention, and text of 32 tokens.
        assert_eq!(parts(512, 50, [768, 768]), 16);
        assert_eq!(parts(512, 50, [768, 3072]), 4);
        assert_eq!(parts(512, 32, [512, 512]), 16);
        assert_eq!(parts(12, 400, [512, 512]), 4);
        assert_eq!(parts(7, 1000, [512, 512]), 1);
        assert_eq!(parts(1, 1, [8, 8]), 1);
    }

    #[test]
    fn layers_and_their_gradients_are_burns() {
        let device = Device::flex().autodiff();
        let mut init = Init::new(2, &device);
        let (norm, layer) = (init.layer_norm(8, 1e-3), init.linear(8, 5));
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<3>::random([BATCH, TOKENS, 8], normal, &device).require_grad();
        let weight = Tensor::<3>::random([BATCH, TOKENS, 5], normal, &device);
        let pass = |y: Tensor<3>| {
            let grads = (y.clone() * weight.clone()).sum().backward();
            let bias = layer.bias.as_ref().unwrap().val().grad(&grads);
            let beta = norm.beta.as_ref().unwrap().val().grad(&grads);
            let vectors = [bias, beta, norm.gamma.val().grad(&grads)];
            let matrix = layer.weight.val().grad(&grads);
            let mut found = vec![y.into_data(), x.grad(&grads).unwrap().into_data()];
            found.extend(vectors.map(|grad| grad.unwrap().into_data()));
            found.push(matrix.unwrap().into_data());
            found
        };
        let ours = pass(linear(&layer, layer_norm(&norm, 1e-3, x.clone())));
        let burns = pass(layer.forward(norm.forward(x.clone())));
        for (ours, burns) in ours.iter().zip(&burns) {
            // Sums of thousands of terms of size 1, in another order.
            ours.assert_approx_eq::<f32>(burns, Tolerance::rel_abs(1e-4, 1e-3));
        }
    }
}
