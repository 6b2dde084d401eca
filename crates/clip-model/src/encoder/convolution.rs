use burn::{
    module::{Module, Param},
    tensor::{Tensor, module::conv2d, ops::ConvOptions},
};

use crate::Init;

/// A convolution with bias, padded so that stride 1 keeps the size, in as many groups as its weight has.
#[derive(Module, Debug)]
pub struct BiasedConvolution {
    /// `[channels out, channels in of a group, side, side]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels out]`.
    pub bias: Param<Tensor<1>>,
    pub(super) stride: usize,
}

impl BiasedConvolution {
    /// PyTorch's default: `U(±1/sqrt(fan_in))`. `shape` is the weight's.
    pub(super) fn init(shape: [usize; 4], stride: usize, init: &mut Init) -> Self {
        let [to, of_group, side, _] = shape;
        let bound = ((of_group * side * side) as f64).powf(-0.5);
        Self {
            weight: init.uniform(shape, bound),
            bias: init.uniform([to], bound),
            stride,
        }
    }

    /// Normal weights of a deviation, and a bias of 0. `shape` is the weight's.
    pub(super) fn init_normal(shape: [usize; 4], stride: usize, std: f64, init: &mut Init) -> Self {
        let [to, ..] = shape;
        Self {
            weight: init.normal(shape, std),
            bias: init.constant([to], 0.0),
            stride,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / stride, width / stride]`, rounded up
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolve(x, self.weight.val(), Some(self.bias.val()), self.stride)
    }
}

/// A convolution, padded so that stride 1 keeps the size, in as many groups as the weight has; of one place it is a product.
///
/// # Shapes
/// - `x`: `[batch, channels in, height, width]`
/// - `weight`: `[channels out, channels in of a group, side, side]`
/// - `bias`: `[channels out]`
/// - returns `[batch, channels out, height / stride, width / stride]`, rounded up
pub(super) fn convolve(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
) -> Tensor<4> {
    let [batch, from, height, width] = x.dims();
    let [to, of_group, side, _] = weight.dims();
    let x = x.cast(weight.dtype());
    if side > 1 || stride > 1 || of_group < from {
        let options = ConvOptions::new([stride; 2], [side / 2; 2], [1, 1], from / of_group);
        return conv2d(x, weight, bias, options);
    }
    let product = weight
        .reshape([1, to, from])
        .matmul(x.reshape([batch, from, height * width]));
    let product = match bias {
        Some(bias) => product + bias.reshape([1, to, 1]),
        None => product,
    };
    product.reshape([batch, to, height, width])
}
