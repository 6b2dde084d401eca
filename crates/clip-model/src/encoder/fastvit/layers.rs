use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor, activation},
};

use super::{
    super::{
        BatchNorm, BiasedConvolution, Statistics, convolution::convolve,
        modified_resnet::Convolution,
    },
    kernel::{Kernel, becomes_one},
    shape::LARGE_KERNEL,
};
use crate::Init;

/// What layer scales begin with. Vasu et al. 2023: timm's `layer_scale_init_value`.
const LAYER_SCALE: f32 = 1e-5;
/// Deviation of an MLP's initial weights: timm's `ConvMlp`. Its bounds, 100 deviations away, cut nothing off.
pub(super) const STD: f64 = 0.02;

/// A convolution, then a batch norm; timm's `ConvNormAct` without an activation.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// Without bias.
    pub conv: Convolution,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl ConvNorm {
    /// PyTorch's default; `channels` are those that come in of each group, and those that come out.
    pub(super) fn init(channels: [usize; 2], side: usize, stride: usize, init: &mut Init) -> Self {
        Self {
            conv: Convolution::init(channels, side, stride, init),
            bn: BatchNorm::init(channels[1], 1.0, init),
        }
    }

    /// Normal weights, as an MLP's begin.
    pub(super) fn init_normal(channels: usize, init: &mut Init) -> Self {
        let conv = Convolution {
            weight: init.normal([channels, 1, LARGE_KERNEL, LARGE_KERNEL], STD),
            stride: 1,
        };
        Self {
            conv,
            bn: BatchNorm::init(channels, 1.0, init),
        }
    }

    /// As one convolution.
    pub(super) fn kernel(&self) -> Kernel {
        Kernel::normed(&self.conv, &self.bn)
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / stride, width / stride]`, rounded up
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let stride = self.conv.stride;
        if becomes_one(&x, statistics) {
            return self.kernel().forward(x, stride);
        }
        let x = convolve(x, self.conv.weight.val(), None, stride);
        self.bn.forward(x, statistics)
    }
}

/// A convolution of single places, with PyTorch's default.
fn pointwise(from: usize, to: usize, init: &mut Init) -> BiasedConvolution {
    BiasedConvolution::init([to, from, 1, 1], 1, init)
}

/// A factor for each channel, between 0 and 1, by the averages of all.
///
/// # References
/// Hu et al. 2018, [Squeeze-and-Excitation Networks](https://arxiv.org/abs/1709.01507).
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    /// To fewer channels.
    pub fc1: BiasedConvolution,
    /// And back.
    pub fc2: BiasedConvolution,
}

impl SqueezeExcite {
    pub(super) fn init(channels: usize, hidden: usize, init: &mut Init) -> Self {
        Self {
            fc1: pointwise(channels, hidden, init),
            fc2: pointwise(hidden, channels, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        let means = means(x.clone()).reshape([batch, channels, 1, 1]);
        let hidden = activation::relu(self.fc1.forward(means));
        x * activation::sigmoid(self.fc2.forward(hidden))
    }
}

/// The average of each channel's places, computed in f32, whatever the model computes in: `[batch, channels]`.
pub(super) fn means(x: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = x.dims();
    let dtype = x.dtype();
    let places = x.reshape([batch, channels, height * width]);
    let means = places.cast(DType::F32).mean_dim(2);
    means.reshape([batch, channels]).cast(dtype)
}

/// A factor for each channel of what a residual path adds; timm's `LayerScale2d`.
#[derive(Module, Debug)]
pub struct ChannelScale {
    /// `[channels, 1, 1]`; OpenCLIP's `gamma`, which weight decay is for, as it is no vector.
    pub scale: Param<Tensor<3>>,
}

impl ChannelScale {
    pub(super) fn init(channels: usize, init: &mut Init) -> Self {
        Self {
            scale: init.constant([channels, 1, 1], LAYER_SCALE),
        }
    }

    /// `[channels]`.
    pub(super) fn factors(&self) -> Tensor<1> {
        let [channels, ..] = self.scale.val().dims();
        self.scale.val().reshape([channels])
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        x * self.scale.val().unsqueeze()
    }
}

/// What a depthwise convolution finds around each place is added to it: its position shows there.
///
/// # References
/// Chu et al. 2021, [Conditional Positional Encodings for Vision Transformers](https://arxiv.org/abs/2102.10882).
#[derive(Module, Debug)]
pub struct PositionEncoding {
    /// `[channels, 1, 7, 7]`, with bias.
    pub pos_enc: BiasedConvolution,
}

impl PositionEncoding {
    /// PyTorch's default.
    pub(super) fn init(channels: usize, init: &mut Init) -> Self {
        let shape = [channels, 1, LARGE_KERNEL, LARGE_KERNEL];
        Self {
            pos_enc: BiasedConvolution::init(shape, 1, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.pos_enc.forward(x.clone()) + x
    }
}
