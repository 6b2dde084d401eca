use burn::{
    module::Module,
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::{
    super::{BatchNorm, MultiHeadAttention, Statistics, sequences},
    FastVitShape,
    conv_mlp::ConvMlp,
    layers::{ChannelScale, STD},
    shape::FASTVIT_EPSILON,
};
use crate::Init;

/// Attention between places after a norm, then an MLP, each beside a residual path.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    /// Before the attention.
    pub norm: FastVitNorm,
    /// Mixes places; queries, keys and values have no bias.
    pub token_mixer: MultiHeadAttention,
    /// On what the attention adds.
    pub layer_scale_1: ChannelScale,
    /// Mixes channels.
    pub mlp: ConvMlp,
    /// On what the MLP adds.
    pub layer_scale_2: ChannelScale,
}

/// One of two norms.
#[derive(Module, Debug)]
pub enum FastVitNorm {
    /// Of each channel over a batch.
    Batch(BatchNorm),
    /// Of each place's channels.
    Layer(LayerNorm),
}

impl FastVitNorm {
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - returns `[batch, places, channels]`, row by row
    fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<3> {
        let [batch, channels, height, width] = x.dims();
        let as_tokens = |x: Tensor<4>| x.reshape([batch, channels, height * width]).swap_dims(1, 2);
        match self {
            Self::Batch(norm) => as_tokens(norm.forward(x, statistics)),
            Self::Layer(norm) => sequences::layer_norm(norm, FASTVIT_EPSILON, as_tokens(x)),
        }
    }
}

impl AttentionBlock {
    pub(super) fn init(shape: &FastVitShape, channels: usize, init: &mut Init) -> Self {
        Self {
            norm: if shape.layer_norm {
                FastVitNorm::Layer(init.layer_norm(channels, FASTVIT_EPSILON))
            } else {
                FastVitNorm::Batch(BatchNorm::init(channels, 1.0, init))
            },
            token_mixer: MultiHeadAttention {
                in_proj: Linear {
                    weight: init.normal([channels, 3 * channels], STD),
                    bias: None,
                },
                out_proj: init.linear_of_timm(channels, channels, STD),
                heads: channels / shape.head_width,
            },
            layer_scale_1: ChannelScale::init(channels, init),
            mlp: ConvMlp::init(channels, shape.mlp_ratio, init),
            layer_scale_2: ChannelScale::init(channels, init),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let tokens = self.norm.forward(x.clone(), statistics);
        let mixed = self.token_mixer.forward(tokens, None);
        let mixed = mixed.swap_dims(1, 2).reshape(x.dims());
        let x = x + self.layer_scale_1.forward(mixed);
        let mixed = self.mlp.forward(x.clone(), statistics);
        x + self.layer_scale_2.forward(mixed)
    }

    /// In the order of the forward pass.
    pub(super) fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let norm = match &self.norm {
            FastVitNorm::Batch(norm) => Some(norm),
            FastVitNorm::Layer(_) => None,
        };
        norm.into_iter().chain([&self.mlp.conv.bn])
    }
}
