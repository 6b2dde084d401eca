use burn::{
    module::{Module, Param},
    nn::{Embedding, LayerNorm},
    tensor::{Int, Tensor},
};

use super::super::{
    Activation, EmbeddedCaptions, LockedGroups, TextEnd, TextProjection, TextTransformer,
    Transformer, block::layer_norm, text::causal_mask,
};
use crate::{Init, TextConfig};

/// The id that `OpenCLIP` pads captions with, and leaves out of what the class token reads.
pub const COCA_PADDING: i32 = 0;

/// CoCa's text encoder: causal, with a class token after the context that pools it, and tokens for a decoder.
///
/// Each caption's padding is hidden from its tokens in another way, so the blocks are composed of Burn's operations on any
/// device.
///
/// # References
/// Yu et al. 2022, [CoCa](https://arxiv.org/abs/2205.01917), section 3.2; parameters as `OpenCLIP` names them.
#[derive(Module, Debug)]
pub struct CocaTextTransformer {
    /// `[vocab_size, width]`.
    pub token_embedding: Embedding,
    /// `[context_length + 1, width]`: the class token's last.
    pub positional_embedding: Param<Tensor<2>>,
    /// `[width]`: the class token.
    pub cls_emb: Param<Tensor<1>>,
    /// The blocks.
    pub transformer: Transformer,
    /// On the class token, after the blocks.
    pub ln_final: LayerNorm,
    /// From `width` to `embed_dim`; without it they are equal.
    pub text_projection: Option<TextProjection>,
}

impl CocaTextTransformer {
    pub(crate) fn init(
        config: &TextConfig,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let width = config.width;
        let positions = TextConfig {
            context_length: config.context_length + 1,
            ..config.clone()
        };
        let plain = TextTransformer::init(&positions, embed_dim, activation, init);
        Self {
            token_embedding: plain.token_embedding,
            positional_embedding: plain.positional_embedding,
            cls_emb: init.normal([width], 0.01),
            transformer: plain.transformer,
            ln_final: plain.ln_final,
            text_projection: plain.text_projection,
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The stem is the embeddings with the class token, the
    /// last block's has `ln_final`, and the head is the projection.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let groups = LockedGroups::of(self.transformer.resblocks.len(), unlocked_groups);
        Self {
            token_embedding: groups.stem(self.token_embedding),
            positional_embedding: groups.stem(self.positional_embedding),
            cls_emb: groups.stem(self.cls_emb),
            transformer: groups.transformer(self.transformer),
            ln_final: groups.last_block(self.ln_final),
            text_projection: groups.head(self.text_projection),
        }
    }

    /// Where a caption is over for it.
    pub fn end(&self) -> TextEnd {
        TextEnd::BeforePadding(COCA_PADDING)
    }

    /// Features of each caption in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, zero padded
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If there are more tokens than the context has positions.
    pub fn forward(&self, tokens: &Tensor<2, Int>) -> Tensor<2> {
        let tokens = self.padded(tokens);
        self.forward_embedded(&EmbeddedCaptions::of(tokens, &self.token_embedding))
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]`
    pub fn forward_embedded(&self, captions: &EmbeddedCaptions) -> Tensor<2> {
        let x = self.blocks(captions, true, true);
        self.head(x)
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised, and the tokens that a
    /// decoder reads.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]` and `[batch, tokens, width]`
    pub fn forward_with_tokens(&self, captions: &EmbeddedCaptions) -> (Tensor<2>, Tensor<3>) {
        let x = self.blocks(captions, true, false);
        let [_, length, _] = x.dims();
        let class = x.clone().narrow(1, length - 1, 1);
        (self.head(class), x.narrow(1, 0, length - 1))
    }

    /// The tokens that a decoder reads, without features: attention is causal, so the class token, which comes last,
    /// changes nothing of them.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`
    /// - returns `[batch, tokens, width]`
    ///
    /// # Panics
    /// If there are more tokens than the context has positions.
    pub fn tokens(&self, tokens: &Tensor<2, Int>) -> Tensor<3> {
        self.check(tokens);
        let captions = EmbeddedCaptions::of(tokens.clone(), &self.token_embedding);
        self.blocks(&captions, false, false)
    }

    /// All tokens after the blocks, the class token's last, or the last alone.
    ///
    /// # Shapes
    /// - returns `[batch, tokens, width]`, one token more `with_class`, or `[batch, 1, width]`
    fn blocks(&self, captions: &EmbeddedCaptions, with_class: bool, only_last: bool) -> Tensor<3> {
        let embedded = captions.embedded();
        let [batch, length, width] = embedded.dims();
        let positions = self.positional_embedding.val();
        let [context, _] = positions.dims();
        let of_tokens = positions.clone().narrow(0, 0, length).unsqueeze();
        let mut x = embedded.cast(positions.dtype()) + of_tokens;
        if with_class {
            let class = self.cls_emb.val().unsqueeze() + positions.narrow(0, context - 1, 1);
            let class = class.unsqueeze::<3>().expand([batch, 1, width]);
            x = Tensor::cat(vec![x, class], 1); // [batch, tokens + 1, width]
        }
        let mask = mask(captions.tokens(), with_class);
        let [_, count, _] = x.dims();
        let last = Tensor::full([batch, 1], count as i64 - 1, &x.device());
        let blocks = self.transformer.resblocks.iter().enumerate();
        let end = self.transformer.resblocks.len() - 1;
        blocks.fold(x, |x, (at, block)| {
            let only = (only_last && at == end).then_some(&last);
            block.composed(x, Some(mask.clone()), only)
        })
    }

    /// # Shapes
    /// - `class`: `[batch, 1, width]`
    /// - returns `[batch, embed_dim]`
    fn head(&self, class: Tensor<3>) -> Tensor<2> {
        let pooled = layer_norm(&self.ln_final, class.squeeze_dim::<2>(1));
        match &self.text_projection {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        }
    }

    /// The tokens and one of padding, if they are fewer than the context: that one the class token reads.
    pub(in super::super) fn padded(&self, tokens: &Tensor<2, Int>) -> Tensor<2, Int> {
        let [batch, length] = tokens.dims();
        if length == self.check(tokens) {
            return tokens.clone();
        }
        let padding = Tensor::full([batch, 1], i64::from(COCA_PADDING), &tokens.device());
        Tensor::cat(vec![tokens.clone(), padding], 1)
    }

    /// Tokens of the context.
    ///
    /// # Panics
    /// If there are more.
    fn check(&self, tokens: &Tensor<2, Int>) -> usize {
        let [_, length] = tokens.dims();
        let [positions, _] = self.positional_embedding.val().dims();
        let context = positions - 1;
        assert!(
            length <= context,
            "{length} tokens, but the context has {context} positions"
        );
        context
    }
}

/// Causal, and without what follows padding. `OpenCLIP` hides the token after each that is padding instead of that
/// itself, as its published weights were trained: the class token reads the first token of padding, and itself only where
/// there is none.
///
/// # Shapes
/// - `tokens`: `[batch, tokens]`
/// - returns `[batch, 1, length, length]`, of the tokens and the class token, or without it
fn mask(tokens: &Tensor<2, Int>, with_class: bool) -> Tensor<4> {
    let [batch, length] = tokens.dims();
    let device = tokens.device();
    let padding = tokens.clone().equal_elem(COCA_PADDING);
    let first = Tensor::<2, Int>::zeros([batch, 1], &device).bool();
    let hidden = Tensor::cat(vec![first, padding], 1);
    let keys = length + usize::from(with_class);
    let hidden = hidden.narrow(1, 0, keys);
    let hidden = Tensor::<2>::zeros([batch, keys], &device).mask_fill(hidden, f32::NEG_INFINITY);
    hidden.reshape([batch, 1, 1, keys]) + causal_mask(keys, &device)
}
