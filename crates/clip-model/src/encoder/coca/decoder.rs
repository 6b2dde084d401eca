use burn::{
    module::{Module, Param},
    nn::LayerNorm,
    tensor::{DType, Tensor},
};

use super::super::{
    Activation, Mlp, MultiHeadAttention, ResidualAttentionBlock, Transformer,
    block::LAYER_NORM_EPSILON, sequences, text::causal_mask,
};
use crate::{Init, MultimodalConfig};

/// CoCa's decoder: from a caption's tokens and an image's to what each token of the caption is followed by.
///
/// Blocks that mix the caption's tokens, causally, take turns with blocks that attend to the image's. The latter are composed
/// of Burn's operations on any device.
///
/// # References
/// Yu et al. 2022, [CoCa](https://arxiv.org/abs/2205.01917), section 3.2; parameters as `OpenCLIP` names them.
#[derive(Module, Debug)]
pub struct MultimodalTransformer {
    /// Of the caption's tokens, first to last.
    pub resblocks: Vec<ResidualAttentionBlock>,
    /// One after each of these.
    pub cross_attn: Vec<CrossAttentionBlock>,
    /// After the blocks.
    pub ln_final: LayerNorm,
    /// `[width, vocab_size]`.
    pub text_projection: Param<Tensor<2>>,
}

/// Attention of a caption's tokens to an image's, then an MLP, each after a layer norm and beside a residual path.
#[derive(Module, Debug)]
pub struct CrossAttentionBlock {
    /// Of the caption's tokens, before the attention.
    pub ln_1: LayerNorm,
    /// From the image's tokens to the caption's.
    pub attn: MultiHeadAttention,
    /// Of the image's tokens.
    pub ln_1_kv: LayerNorm,
    /// Before the MLP.
    pub ln_2: LayerNorm,
    /// Mixes features.
    pub mlp: Mlp,
}

impl MultimodalTransformer {
    /// PyTorch's default initialisation, as `OpenCLIP` leaves it, but for the projection, whose memory it doesn't set: that
    /// is drawn as `OpenCLIP`'s unused `init_parameters` would.
    pub(crate) fn init(
        config: &MultimodalConfig,
        vocab_size: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let (width, heads, hidden) = (config.width, config.heads, config.mlp_width());
        let layers = config.layers;
        let blocks = Transformer::init_default(width, layers, heads, hidden, activation, init);
        let cross = |_| CrossAttentionBlock {
            ln_1: init.layer_norm(width, LAYER_NORM_EPSILON),
            attn: MultiHeadAttention::init(width, heads, init),
            ln_1_kv: init.layer_norm(width, LAYER_NORM_EPSILON),
            ln_2: init.layer_norm(width, LAYER_NORM_EPSILON),
            mlp: Mlp {
                c_fc: init.linear(width, hidden),
                c_proj: init.linear(hidden, width),
                activation,
            },
        };
        Self {
            resblocks: blocks.resblocks,
            cross_attn: (0..layers).map(cross).collect(),
            ln_final: init.layer_norm(width, LAYER_NORM_EPSILON),
            text_projection: init.normal([width, vocab_size], (width as f64).powf(-0.5)),
        }
    }

    /// What each of the caption's tokens knows of the one that follows it.
    ///
    /// # Shapes
    /// - `image`: `[batch, image tokens, width]`
    /// - `text`: `[batch, tokens, width]`, and so is the result
    pub fn forward(&self, image: &Tensor<3>, text: Tensor<3>) -> Tensor<3> {
        let [_, tokens, _] = text.dims();
        let mask = causal_mask(tokens, &text.device());
        let dtype = text.dtype();
        let blocks = self.resblocks.iter().zip(&self.cross_attn);
        let x = blocks.fold(text, |x, (block, cross)| {
            // Such a block rounds what it multiplies, whatever it gets.
            let x = if dtype == DType::BF16 && block.is_one_operation() {
                let x = block.forward(x.cast(DType::F32), Some(mask.clone()), None);
                x.cast(dtype)
            } else {
                block.forward(x, Some(mask.clone()), None)
            };
            cross.forward(x, image.clone())
        });
        sequences::layer_norm(&self.ln_final, LAYER_NORM_EPSILON, x)
    }

    /// Logits of the vocabulary, in f32.
    ///
    /// # Shapes
    /// - `x`: `[rows, width]`, of what [`forward`](Self::forward) gives
    /// - returns `[rows, vocab_size]`
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.text_projection.val()).cast(DType::F32)
    }
}

impl CrossAttentionBlock {
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `image`: `[batch, image tokens, width]`
    pub fn forward(&self, x: Tensor<3>, image: Tensor<3>) -> Tensor<3> {
        let norm = |norm, x| sequences::layer_norm(norm, LAYER_NORM_EPSILON, x);
        let queries = norm(&self.ln_1, x.clone());
        let image = norm(&self.ln_1_kv, image);
        let x = x + self.attn.attend(queries, image, None);
        let normed = norm(&self.ln_2, x.clone());
        x + self.mlp.forward(normed)
    }
}
