use burn::{
    module::{Module, Param},
    nn::{Embedding, LayerNorm, Linear},
    tensor::{Bool, Device, Int, Tensor, module::embedding},
};

use super::{
    Activation, Chain, LockedGroups, ResidualAttentionBlock, TextEnd, Transformer,
    block::layer_norm,
};
use crate::{Init, ProjType, TextConfig, TextPool, products};

/// The text transformer of the paper, causal and pooled at the end-of-text token, or SigLIP's, which is neither.
///
/// # References
/// CLIP section 2.4; Radford et al. 2019. SigLIP: Zhai et al. 2023.
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
    /// From `width` to `embed_dim`; without it they are equal.
    pub text_projection: Option<TextProjection>,
    #[module(skip)]
    pool: TextPool,
    eos_id: i32,
    causal: bool,
}

/// Captions as a text encoder begins with them.
#[derive(Clone, Debug)]
pub struct EmbeddedCaptions {
    /// `[batch, tokens]`.
    tokens: Tensor<2, Int>,
    /// `[batch, tokens, width]`, in f32.
    embedded: Tensor<3>,
}

impl EmbeddedCaptions {
    pub(super) fn of(tokens: Tensor<2, Int>, embedding: &Embedding) -> Self {
        Self {
            embedded: embedding.forward(tokens.clone()), // f32, whatever the rest computes in
            tokens,
        }
    }

    /// Captions whose graph begins with the leaf that comes beside them.
    pub(super) fn as_leaf(tokens: Tensor<2, Int>, table: &Embedding) -> (Self, Tensor<3>) {
        let weight = table.weight.val();
        let embedded = embedding(weight.clone().inner(), tokens.clone().inner());
        let leaf = Tensor::from_inner(embedded).set_require_grad(weight.is_require_grad());
        let embedded = leaf.clone();
        (Self { tokens, embedded }, leaf)
    }

    pub(super) fn tokens(&self) -> &Tensor<2, Int> {
        &self.tokens
    }

    pub(super) fn embedded(&self) -> Tensor<3> {
        self.embedded.clone()
    }
}

/// Into the joint space.
#[derive(Module, Debug)]
pub enum TextProjection {
    /// `[width, embed_dim]`, without bias: the paper's.
    Matrix(Param<Tensor<2>>),
    /// With bias: SigLIP's.
    Linear(Linear),
}

impl TextProjection {
    fn init(config: &TextConfig, embed_dim: usize, init: &mut Init) -> Option<Self> {
        let shape = [config.width, embed_dim];
        let std = (config.width as f64).powf(-0.5);
        (config.proj_type == ProjType::Linear).then(|| {
            if config.proj_bias {
                Self::Linear(Linear {
                    weight: init.normal(shape, std),
                    bias: Some(init.constant([embed_dim], 0.0)),
                })
            } else {
                Self::Matrix(init.normal(shape, std))
            }
        })
    }

    /// # Shapes
    /// - `x`: `[batch, width]`
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Matrix(matrix) => products::project(x, matrix.val()),
            Self::Linear(linear) => linear.forward(x),
        }
    }
}

impl TextTransformer {
    pub(crate) fn init(
        config: &TextConfig,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let width = config.width;
        let epsilon = config.layer_norm_epsilon();
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
                config.activation(activation),
                epsilon,
                init,
            ),
            ln_final: init.layer_norm(width, epsilon),
            text_projection: TextProjection::init(config, embed_dim, init),
            pool: config.pool_type,
            eos_id: config.eos_id,
            causal: !config.no_causal_mask,
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The stem is the embeddings, the last block's has
    /// `ln_final`, and the head is the projection.
    pub(super) fn lock(self, unlocked_groups: usize) -> Self {
        let groups = LockedGroups::of(self.transformer.resblocks.len(), unlocked_groups);
        Self {
            token_embedding: groups.stem(self.token_embedding),
            positional_embedding: groups.stem(self.positional_embedding),
            transformer: groups.transformer(self.transformer),
            ln_final: groups.last_block(self.ln_final),
            text_projection: groups.head(self.text_projection),
            ..self
        }
    }

    /// Features of each caption in the joint space, not normalised.
    ///
    /// The paper's text ends with its token of the highest id. Attention is causal, so what follows that changes
    /// nothing: pad captions to the batch's longest, not to the context. Without a causal mask, or pooled at the last
    /// position, padding counts: it is brought up to the context here.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, zero padded
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If there are more tokens than the context has positions.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.forward_embedded(&self.embed(&tokens))
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]`
    pub fn forward_embedded(&self, captions: &EmbeddedCaptions) -> Tensor<2> {
        let x = self.stem(captions);
        let (mask, only) = (self.mask(&x), self.pool(&x, captions));
        let x = self.transformer.forward(x, mask.as_ref(), only.as_ref());
        self.head(x, captions)
    }

    /// Looks up the captions' tokens.
    fn embed(&self, tokens: &Tensor<2, Int>) -> EmbeddedCaptions {
        EmbeddedCaptions::of(self.padded(tokens), &self.token_embedding)
    }

    /// Where a text is over for it.
    pub fn end(&self) -> TextEnd {
        TextEnd::of_transformer(self.causal, self.pool)
    }

    /// The tokens, brought up to the context where padding counts.
    pub(super) fn padded(&self, tokens: &Tensor<2, Int>) -> Tensor<2, Int> {
        let [batch, length] = tokens.dims();
        let [context, _] = self.positional_embedding.val().dims();
        assert!(
            length <= context,
            "{length} tokens, but the context has {context} positions"
        );
        let whole_context = !self.causal || self.pool == TextPool::Last;
        if !whole_context || length == context {
            return tokens.clone();
        }
        let padding = Tensor::zeros([batch, context - length], &tokens.device());
        Tensor::cat(vec![tokens.clone(), padding], 1)
    }
}

impl Chain for TextTransformer {
    type Input = EmbeddedCaptions;

    fn stem(&self, captions: &Self::Input) -> Tensor<3> {
        let embedded = captions.embedded.clone();
        let [_, length, _] = embedded.dims();
        let positions = self.positional_embedding.val().narrow(0, 0, length);
        embedded.cast(positions.dtype()) + positions.unsqueeze()
    }

    fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.transformer.resblocks
    }

    fn mask(&self, x: &Tensor<3>) -> Option<Tensor<4>> {
        let [_, length, _] = x.dims();
        self.causal.then(|| causal_mask(length, &x.device()))
    }

    fn pool(&self, _x: &Tensor<3>, captions: &Self::Input) -> Option<Tensor<2, Int>> {
        Some(self.pool.positions(&captions.tokens, self.eos_id))
    }

    fn head(&self, x: Tensor<3>, _captions: &Self::Input) -> Tensor<2> {
        let [batch, _, width] = x.dims();
        let pooled = x.reshape([batch, width]);
        let pooled = layer_norm(&self.ln_final, pooled);
        match &self.text_projection {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        }
    }
}

/// `[1, 1, tokens, tokens]`: 0 up to the diagonal, `-inf` beyond it.
pub(super) fn causal_mask(tokens: usize, device: &Device) -> Tensor<4> {
    let future = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, device);
    Tensor::<2>::zeros([tokens, tokens], device)
        .mask_fill(future, f32::NEG_INFINITY)
        .unsqueeze()
}
