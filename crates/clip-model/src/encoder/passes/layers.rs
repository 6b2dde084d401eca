//! Layers of each token: a kernel where the device has one, and composed of Burn's operations elsewhere.

use burn::{
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor},
};

#[cfg(feature = "gpu")]
use crate::encoder::sequences::has_norms;
use crate::encoder::{Mlp, sequences};

/// Of each token, `[batch, tokens, 1]`, in f32.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    pub(super) mean: Tensor<3>,
    /// One over the standard deviation.
    pub(super) scale: Tensor<3>,
}

impl Mlp {
    /// The hidden numbers before and after the non-linearity.
    pub(super) fn hidden(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        #[cfg(feature = "gpu")]
        if let Some(bias) = &self.c_fc.bias {
            let ([batch, tokens, _], weight) = (x.dims(), self.c_fc.weight.val().inner());
            let [_, to] = weight.dims();
            if has_products(&x, &weight, false) {
                let bias = bias.val().inner();
                let kernel = self.activation.on_gpu();
                let (hidden, value) = clip_cube::product_activated(rows(x), weight, bias, kernel);
                return (
                    hidden.reshape([batch, tokens, to]),
                    value.reshape([batch, tokens, to]),
                );
            }
        }
        let hidden = linear(&self.c_fc, x);
        (hidden.clone(), self.activation.forward(hidden))
    }

    /// What the non-linearity made of the hidden numbers, and the gradient by them from that by it.
    pub(super) fn hidden_back(
        &self,
        hidden: Tensor<3>,
        by_value: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        #[cfg(feature = "gpu")]
        {
            let weight = self.c_fc.weight.val();
            if has_products(&hidden, &weight, true) {
                return clip_cube::activation_back(hidden, by_value, self.activation.on_gpu());
            }
        }
        let dtype = hidden.dtype();
        let value = self.activation.forward(hidden.clone());
        let by_value = by_value.cast(DType::F32);
        (
            value,
            (by_value * self.activation.slope(hidden)).cast(dtype),
        )
    }
}

/// The sum of all tokens, in f32: `[batch, tokens, width]` to `[width]`.
pub(super) fn sum(x: Tensor<3>) -> Tensor<1> {
    #[cfg(feature = "gpu")]
    if has_norms(&x) {
        return clip_cube::sums(x);
    }
    sequences::sum(x)
}

/// A norm of each token, in f32 whatever the model computes in.
pub(super) fn norm(layer: &LayerNorm, epsilon: f64, x: Tensor<3>) -> (Tensor<3>, Statistics) {
    #[cfg(feature = "gpu")]
    if let Some(beta) = layer.beta.as_ref().filter(|_| has_norms(&x)) {
        let (gamma, beta) = (layer.gamma.val().inner(), beta.val().inner());
        let (normed, mean, scale) = clip_cube::norm(x, gamma, beta, epsilon);
        return (normed, Statistics { mean, scale });
    }
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean = x.clone().mean_dim(2);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let scale = (variance + epsilon).sqrt().recip();
    let normed = centred * scale.clone() * layer.gamma.val().inner().unsqueeze();
    let normed = match &layer.beta {
        Some(beta) => normed + beta.val().inner().unsqueeze(),
        None => normed,
    };
    (normed.cast(dtype), Statistics { mean, scale })
}

pub(super) fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, _] = x.dims();
    let weight = layer.weight.val().inner();
    let bias = layer.bias.as_ref().map(|bias| bias.val().inner());
    let [_, to] = weight.dims();
    #[cfg(feature = "gpu")]
    if has_products(&x, &weight, false) {
        return clip_cube::product(rows(x), weight, false, bias).reshape([batch, tokens, to]);
    }
    let y = rows(x).matmul(weight).reshape([batch, tokens, to]);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// The gradient by what a layer got.
pub(super) fn by_input(layer: &Linear, by_y: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, _] = by_y.dims();
    let weight = layer.weight.val().inner();
    let [from, _] = weight.dims();
    #[cfg(feature = "gpu")]
    if has_products(&by_y, &weight, true) {
        let by_x = clip_cube::product(rows(by_y), weight, true, None);
        return by_x.reshape([batch, tokens, from]);
    }
    let by_x = rows(by_y).matmul(weight.transpose());
    by_x.reshape([batch, tokens, from])
}

/// The gradient by the weights of a layer that got `x`, in f32.
pub(super) fn weight_gradient(x: Tensor<3>, by_y: Tensor<3>) -> Tensor<2> {
    #[cfg(feature = "gpu")]
    {
        let ([batch, tokens, from], [_, _, to]) = (x.dims(), by_y.dims());
        let shape = [from, to, batch * tokens];
        if clip_cube::multiplies_over_rows(&x.device(), x.dtype(), shape) {
            return clip_cube::weight_gradient(rows(x), rows(by_y));
        }
    }
    sequences::weight_gradient(x, by_y)
}

/// Whether the device has kernels that multiply all rows of `x` by a weight, or by it transposed.
#[cfg(feature = "gpu")]
fn has_products(x: &Tensor<3>, weight: &Tensor<2>, transposed: bool) -> bool {
    let ([batch, tokens, _], [from, to]) = (x.dims(), weight.dims());
    let [to, from] = if transposed { [from, to] } else { [to, from] };
    clip_cube::multiplies(&x.device(), x.dtype(), [batch * tokens, to, from])
}

/// `[batch, tokens, width]`, a row a token.
fn rows(x: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch * tokens, width])
}
