use burn::{
    module::{Module, Param},
    nn::LayerNorm,
    tensor::Tensor,
};

use super::{
    super::{Activation, BiasedConvolution, Mlp, PatchEmbedding, sequences},
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
    /// `[channels, 1, 7, 7]`: mixes places.
    pub conv_dw: BiasedConvolution,
    /// Before the MLP.
    pub norm: LayerNorm,
    /// Mixes channels.
    pub mlp: Mlp,
    /// `[channels]`: on what the block adds; timm's `gamma`.
    pub scale: Param<Tensor<1>>,
}

/// A norm by itself.
#[derive(Module, Debug)]
pub struct ConvNeXtNorm {
    /// The norm.
    pub norm: LayerNorm,
}

/// A convolution whose stride is its side, as timm initialises it.
pub(super) fn patches(from: usize, to: usize, side: usize, init: &mut Init) -> PatchEmbedding {
    PatchEmbedding {
        weight: init.normal([to, from, side, side], STD),
        bias: Some(init.constant([to], 0.0)),
    }
}

impl ConvNeXtBlock {
    pub(super) fn init(channels: usize, epsilon: f64, init: &mut Init) -> Self {
        Self {
            conv_dw: BiasedConvolution::init_normal([channels, 1, KERNEL, KERNEL], 1, STD, init),
            norm: init.layer_norm(channels, epsilon),
            mlp: Mlp {
                c_fc: init.linear_of_timm(channels, MLP_RATIO * channels, STD),
                c_proj: init.linear_of_timm(MLP_RATIO * channels, channels, STD),
                activation: Activation::Gelu,
            },
            scale: init.constant([channels], LAYER_SCALE),
        }
    }

    /// What it adds to the residual path; `epsilon` is the norm's.
    ///
    /// # Shapes
    /// - `x`: `[batch, rows, columns, channels]`, and so is the result
    pub(super) fn added(&self, x: Tensor<4>, epsilon: f64) -> Tensor<4> {
        let [batch, rows, columns, channels] = x.dims();
        let mixed = self.conv_dw.forward(x.permute([0, 3, 1, 2]));
        let mixed = mixed.permute([0, 2, 3, 1]);
        let mixed = mixed.reshape([batch, rows * columns, channels]);
        let mixed = sequences::layer_norm(&self.norm, epsilon, mixed);
        let mixed = self.mlp.forward(mixed) * self.scale.val().unsqueeze();
        mixed.reshape([batch, rows, columns, channels])
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
