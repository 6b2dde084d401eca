use burn::{
    module::Module,
    nn::{Embedding, LayerNorm, Linear},
    tensor::{Bool, Tensor},
};

use super::{
    super::{Activation, EmbeddedCaptions, LockedGroups, Mlp, sequences},
    HfAttention, HfTextShape,
    layers::{STD, linear, padding_mask, positions},
    shape::{EPSILON, PADDING},
};
use crate::{HfPooler, Init};

/// BERT's transformer as `RoBERTa` and XLM-`RoBERTa` have it: each layer's norms come after its sums.
///
/// # References
/// Liu et al. 2019, [`RoBERTa`](https://arxiv.org/abs/1907.11692); Conneau et al. 2020, [Unsupervised Cross-lingual
/// Representation Learning at Scale](https://arxiv.org/abs/1911.02116); parameters as transformers names them.
#[derive(Module, Debug)]
pub struct Roberta {
    /// Of words and their places.
    pub embeddings: RobertaEmbeddings,
    /// The layers.
    pub encoder: RobertaEncoder,
    /// `[width, width]`, on the first token's features before tanh, where `cls_pooler` asks for it.
    pub pooler: Option<Linear>,
}

/// What is added up of each token.
#[derive(Module, Debug)]
pub struct RobertaEmbeddings {
    /// `[vocab_size, width]`.
    pub word_embeddings: Embedding,
    /// `[positions, width]`.
    pub position_embeddings: Embedding,
    /// `[1, width]`, the same of every token: `RoBERTa` has no pairs of sentences.
    pub token_type_embeddings: Embedding,
    /// Of the sum.
    pub norm: LayerNorm,
}

/// A stack of layers.
#[derive(Module, Debug)]
pub struct RobertaEncoder {
    /// First to last.
    pub layer: Vec<RobertaLayer>,
}

/// Attention, then an MLP, each beside a residual path, with a norm of the sum.
///
/// # References
/// Devlin et al. 2019, section 3; Vaswani et al. 2017, section 3.1 (post-LN).
#[derive(Module, Debug)]
pub struct RobertaLayer {
    /// Mixes tokens.
    pub attention: HfAttention,
    /// After the attention.
    pub attention_norm: LayerNorm,
    /// Mixes features.
    pub mlp: Mlp,
    /// After the MLP.
    pub mlp_norm: LayerNorm,
}

impl Roberta {
    pub(super) fn init(shape: &HfTextShape, init: &mut Init) -> Self {
        let width = shape.width;
        let padding = PADDING as usize;
        Self {
            embeddings: RobertaEmbeddings {
                word_embeddings: init.padded_embedding([shape.vocab_size, width], STD, padding),
                position_embeddings: init.padded_embedding(
                    [shape.positions(), width],
                    STD,
                    padding,
                ),
                token_type_embeddings: Embedding {
                    weight: init.normal([1, width], STD),
                },
                norm: init.layer_norm(width, EPSILON),
            },
            encoder: RobertaEncoder {
                layer: (0..shape.layers)
                    .map(|_| RobertaLayer::init(shape, init))
                    .collect(),
            },
            pooler: (shape.pooler == HfPooler::ClsPooler).then(|| linear(width, width, init)),
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The stem is the embeddings, and the last layer's has
    /// the pooler.
    pub(super) fn lock(self, unlocked_groups: usize) -> Self {
        let layers = self.encoder.layer;
        let groups = LockedGroups::without_head(layers.len(), unlocked_groups);
        Self {
            embeddings: groups.stem(self.embeddings),
            encoder: RobertaEncoder {
                layer: groups.blocks(layers),
            },
            pooler: groups.last_block(self.pooler),
        }
    }

    /// Features of all tokens, or of the first alone.
    ///
    /// # Shapes
    /// - `attended`: `[batch, tokens]`, what isn't padding
    /// - returns `[batch, tokens, width]` or `[batch, 1, width]`
    pub(super) fn forward(
        &self,
        captions: &EmbeddedCaptions,
        attended: &Tensor<2, Bool>,
        only_first: bool,
    ) -> Tensor<3> {
        let layers = &self.encoder.layer;
        let Some(first) = layers.first() else {
            return self.embeddings.forward(captions, attended);
        };
        let dtype = first.attention.query.weight.val().dtype();
        let x = self.embeddings.forward(captions, attended).cast(dtype);
        let mask = padding_mask(attended.clone());
        layers.iter().enumerate().fold(x, |x, (at, layer)| {
            let queries = if only_first && at + 1 == layers.len() {
                x.clone().narrow(1, 0, 1)
            } else {
                x.clone()
            };
            layer.forward(queries, x, mask.clone())
        })
    }
}

impl RobertaEmbeddings {
    /// # Shapes
    /// - `attended`: `[batch, tokens]`
    /// - returns `[batch, tokens, width]`, in f32
    fn forward(&self, captions: &EmbeddedCaptions, attended: &Tensor<2, Bool>) -> Tensor<3> {
        let positions = self.position_embeddings.forward(positions(attended));
        let of_all = self.token_type_embeddings.weight.val().narrow(0, 0, 1);
        let sum = captions.embedded() + positions + of_all.unsqueeze();
        sequences::layer_norm(&self.norm, EPSILON, sum)
    }
}

impl RobertaLayer {
    fn init(shape: &HfTextShape, init: &mut Init) -> Self {
        let width = shape.width;
        Self {
            attention: HfAttention::init(width, shape.heads, init),
            attention_norm: init.layer_norm(width, EPSILON),
            mlp: Mlp {
                c_fc: linear(width, shape.mlp_width, init),
                c_proj: linear(shape.mlp_width, width, init),
                activation: Activation::Gelu,
            },
            mlp_norm: init.layer_norm(width, EPSILON),
        }
    }

    /// # Shapes
    /// As for [`HfAttention::forward`]
    pub fn forward(&self, queries: Tensor<3>, x: Tensor<3>, mask: Tensor<4>) -> Tensor<3> {
        let mixed = self.attention.forward(queries.clone(), x, mask);
        let x = sequences::layer_norm(&self.attention_norm, EPSILON, queries + mixed);
        let mixed = self.mlp.forward(x.clone());
        sequences::layer_norm(&self.mlp_norm, EPSILON, x + mixed)
    }
}
