use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::{Tensor, module::conv2d, ops::ConvOptions},
};

use super::{
    super::{Activation, Mlp, PatchEmbedding, sequences},
    ConvNeXtProjection, ConvNeXtShape,
    shape::{KERNEL, MLP_RATIO},
};
use crate::Init;

/// What layer scales begin with. Liu et al. 2022, table 5.
const LAYER_SCALE: f32 = 1e-6;
/// Deviation of the trunk's initial matrices: timm's `_init_weights`. Its bounds, 100 deviations away, cut nothing off.
const STD: f64 = 0.02;

/// Patches of 4 by 4 pixels, then a norm.
#[derive(Module, Debug)]
pub struct ConvNeXtStem {
    /// `[channels, 3, 4, 4]`, with bias.
    pub conv: PatchEmbedding,
    /// After `conv`.
    pub norm: LayerNorm,
}

/// Blocks of one size.
#[derive(Module, Debug)]
pub struct ConvNeXtStage {
    /// Before the blocks; the first stage has none.
    pub downsample: Option<ConvNeXtDownsample>,
    /// First to last.
    pub blocks: Vec<ConvNeXtBlock>,
}

/// A norm, then patches of 2 by 2 places.
#[derive(Module, Debug)]
pub struct ConvNeXtDownsample {
    /// Before `conv`.
    pub norm: LayerNorm,
    /// `[channels, channels before, 2, 2]`, with bias.
    pub conv: PatchEmbedding,
}

/// A depthwise convolution, then a norm and an MLP on each place, beside a residual path.
#[derive(Module, Debug)]
pub struct ConvNeXtBlock {
    /// Mixes places.
    pub conv_dw: DepthwiseConvolution,
    /// Before the MLP.
    pub norm: LayerNorm,
    /// Mixes channels.
    pub mlp: Mlp,
    /// `[channels]`: on what the block adds; timm's `gamma`.
    pub scale: Param<Tensor<1>>,
}

/// A convolution of each channel by itself, padded so that it keeps the size.
#[derive(Module, Debug)]
pub struct DepthwiseConvolution {
    /// `[channels, 1, 7, 7]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
}

/// A norm by itself.
#[derive(Module, Debug)]
pub struct ConvNeXtNorm {
    /// The norm.
    pub norm: LayerNorm,
}

/// OpenCLIP's projection: one of the two.
#[derive(Module, Debug)]
pub struct ConvNeXtHead {
    /// `[channels, embed_dim]`, without bias.
    pub proj: Option<Linear>,
    /// To `2 * embed_dim` hidden features, and to `embed_dim` without bias.
    pub mlp: Option<Mlp>,
}

/// A convolution whose stride is its side, as timm initialises it.
pub(super) fn patches(from: usize, to: usize, side: usize, init: &mut Init) -> PatchEmbedding {
    PatchEmbedding {
        weight: init.normal([to, from, side, side], STD),
        bias: Some(init.constant([to], 0.0)),
    }
}

impl DepthwiseConvolution {
    pub(super) fn init(channels: usize, init: &mut Init) -> Self {
        Self {
            weight: init.normal([channels, 1, KERNEL, KERNEL], STD),
            bias: init.constant([channels], 0.0),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, rows, columns, channels]`, and so is the result
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let [channels, _, side, _] = weight.dims();
        let options = ConvOptions::new([1, 1], [side / 2; 2], [1, 1], channels);
        let x = x.permute([0, 3, 1, 2]); // [batch, channels, rows, columns]
        conv2d(x, weight, Some(self.bias.val()), options).permute([0, 2, 3, 1])
    }
}

impl ConvNeXtBlock {
    pub(super) fn init(channels: usize, epsilon: f64, init: &mut Init) -> Self {
        Self {
            conv_dw: DepthwiseConvolution::init(channels, init),
            norm: init.layer_norm(channels, epsilon),
            mlp: Mlp {
                c_fc: init.linear_of_timm(channels, MLP_RATIO * channels, STD),
                c_proj: init.linear_of_timm(MLP_RATIO * channels, channels, STD),
                activation: Activation::Gelu,
            },
            scale: init.constant([channels], LAYER_SCALE),
        }
    }

    /// `epsilon` is the norm's.
    ///
    /// # Shapes
    /// - `x`: `[batch, rows, columns, channels]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, epsilon: f64) -> Tensor<4> {
        let [batch, rows, columns, channels] = x.dims();
        let mixed = self.conv_dw.forward(x.clone());
        let mixed = mixed.reshape([batch, rows * columns, channels]);
        let mixed = sequences::layer_norm(&self.norm, epsilon, mixed);
        let mixed = self.mlp.forward(mixed) * self.scale.val().unsqueeze();
        x + mixed.reshape([batch, rows, columns, channels])
    }
}

impl ConvNeXtDownsample {
    /// # Shapes
    /// - `x`: `[batch, rows, columns, channels before]`
    /// - returns `[batch, rows / 2, columns / 2, channels]`, without a last row or column that is odd
    pub(super) fn forward(&self, x: Tensor<4>, epsilon: f64) -> Tensor<4> {
        let [batch, rows, columns, channels] = x.dims();
        let x = x.reshape([batch, rows * columns, channels]);
        let x = sequences::layer_norm(&self.norm, epsilon, x);
        let x = x.reshape([batch, rows, columns, channels]);
        let x = self.conv.forward(x.permute([0, 3, 1, 2]));
        let [.., channels] = x.dims();
        x.reshape([batch, rows / 2, columns / 2, channels])
    }
}

impl ConvNeXtHead {
    pub(super) fn init(shape: &ConvNeXtShape, embed_dim: usize, init: &mut Init) -> Self {
        let features = shape.features();
        let matrix = |from: usize, to: usize, init: &mut Init| Linear {
            weight: init.uniform([from, to], (from as f64).powf(-0.5)),
            bias: None,
        };
        match shape.projection {
            ConvNeXtProjection::Linear => Self {
                proj: Some(matrix(features, embed_dim, init)),
                mlp: None,
            },
            ConvNeXtProjection::Mlp => Self {
                proj: None,
                mlp: Some(Mlp {
                    c_fc: init.linear(features, 2 * embed_dim),
                    c_proj: matrix(2 * embed_dim, embed_dim, init),
                    activation: Activation::Gelu,
                }),
            },
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels]`
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.mlp {
            Some(mlp) => mlp.forward(x.unsqueeze_dim(1)).squeeze_dim(1),
            None => x,
        };
        match &self.proj {
            Some(proj) => proj.forward(x),
            None => x,
        }
    }
}
