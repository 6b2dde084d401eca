use burn::{
    module::{Module, Param},
    nn::{Embedding, LayerNorm},
    tensor::{Bool, Device, Int, Tensor},
};

use super::{Activation, Chain, ResidualAttentionBlock, Transformer, block::layer_norm};
use crate::{Init, TextConfig};

/// The causal text transformer of the paper, pooled at the end-of-text token.
///
/// # References
/// CLIP section 2.4; Radford et al. 2019.
#[derive(Module, Debug)]
pub struct TextTransformer {
    /// `[vocab_size, width]`.
    pub token_embedding: Embedding,
    /// `[context_length, width]`.
    pub positional_embedding: Param<Tensor<2>>,
    /// The blocks.
    pub transformer: Transformer,
    /// After the blocks.
    pub ln_final: LayerNorm,
    /// `[width, embed_dim]`.
    pub text_projection: Param<Tensor<2>>,
}

impl TextTransformer {
    pub(crate) fn init(
        config: &TextConfig,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let width = config.width;
        Self {
            token_embedding: Embedding {
                weight: init.normal([config.vocab_size, width], 0.02),
            },
            positional_embedding: init.normal([config.context_length, width], 0.01),
            transformer: Transformer::init_scaled(
                width,
                config.layers,
                config.heads,
                config.mlp_width(),
                activation,
                init,
            ),
            ln_final: init.layer_norm(width),
            text_projection: init.normal([width, embed_dim], (width as f64).powf(-0.5)),
        }
    }

    /// The same with all but the last groups of layers locked: they have no gradient, and training leaves them as they
    /// are. Groups are the embeddings, each block, the last one with `ln_final`, and the projection.
    ///
    /// # References
    /// OpenCLIP's `--lock-text-unlocked-layers`.
    pub fn lock(self, unlocked_groups: usize) -> Self {
        let blocks = self.transformer.resblocks.len();
        let locked = (blocks + 2).saturating_sub(unlocked_groups);
        let trained = |group: usize| locked <= group;
        Self {
            token_embedding: self.token_embedding.set_require_grad(trained(0)),
            positional_embedding: self.positional_embedding.set_require_grad(trained(0)),
            transformer: self.transformer.lock_first(locked.saturating_sub(1)),
            ln_final: self.ln_final.set_require_grad(trained(blocks)),
            text_projection: self.text_projection.set_require_grad(trained(blocks + 1)),
        }
    }

    /// Features of each caption in the joint space, not normalised.
    ///
    /// The text's end is its token with the highest id, as in the reference. Attention is causal,
    /// so what follows it changes nothing: pad captions to the batch's longest, not to the context.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, zero padded
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If there are more tokens than the context has positions.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let x = self.stem(&tokens);
        let mask = self.mask(&x);
        self.head(self.transformer.forward(x, mask.as_ref()), &tokens)
    }
}

impl Chain for TextTransformer {
    /// `[batch, tokens]`.
    type Input = Tensor<2, Int>;

    fn stem(&self, tokens: &Self::Input) -> Tensor<3> {
        let [_, length] = tokens.dims();
        let positions = self.positional_embedding.val();
        let [context, _] = positions.dims();
        assert!(
            length <= context,
            "{length} tokens, but the context has {context} positions"
        );
        self.token_embedding.forward(tokens.clone()) + positions.narrow(0, 0, length).unsqueeze()
    }

    fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.transformer.resblocks
    }

    fn mask(&self, x: &Tensor<3>) -> Option<Tensor<4>> {
        let [_, length, _] = x.dims();
        Some(causal_mask(length, &x.device()))
    }

    fn head(&self, x: Tensor<3>, tokens: &Self::Input) -> Tensor<2> {
        let [batch, _, width] = x.dims();
        let end = tokens.clone().argmax(1); // [batch, 1]
        // Pool before the norm: it works on each token alone, and one token is cheaper than all.
        let index = end.unsqueeze_dim::<3>(2).expand([batch, 1, width]);
        let pooled = x.gather(1, index).reshape([batch, width]);
        layer_norm(&self.ln_final, pooled).matmul(self.text_projection.val())
    }
}

/// `[1, 1, tokens, tokens]`: 0 up to the diagonal, `-inf` beyond it.
pub(super) fn causal_mask(tokens: usize, device: &Device) -> Tensor<4> {
    let future = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, device);
    Tensor::<2>::zeros([tokens, tokens], device)
        .mask_fill(future, f32::NEG_INFINITY)
        .unsqueeze()
}
