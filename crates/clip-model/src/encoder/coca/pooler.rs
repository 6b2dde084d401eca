use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::super::{
    MultiHeadAttention,
    attention::mix,
    block::{LAYER_NORM_EPSILON, layer_norm},
    sequences,
};
use crate::{Init, VisionConfig};

/// Learned queries that attend to an image's tokens: the first for its features, the others for what a decoder reads.
///
/// # References
/// Lee et al. 2019 (Set Transformer); Yu et al. 2022, [CoCa](https://arxiv.org/abs/2205.01917), section 3.2, where the
/// features have a pooler of their own. Parameters as `OpenCLIP` names them.
#[derive(Module, Debug)]
pub struct AttentionalPooler {
    /// `[queries, embed_dim]`.
    pub query: Param<Tensor<2>>,
    /// From tokens to queries.
    pub attn: PoolerAttention,
    /// Of the queries.
    pub ln_q: LayerNorm,
    /// Of the tokens.
    pub ln_k: LayerNorm,
}

/// Attention as PyTorch keeps its weights: in one matrix where queries and tokens are of the same width.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One lives a model, and Burn's modules don't go into boxes.
pub enum PoolerAttention {
    /// Of one width.
    Fused(MultiHeadAttention),
    /// Of two.
    Separate(PoolerProjections),
}

/// Attention to tokens of another width than the queries'.
#[derive(Module, Debug)]
pub struct PoolerProjections {
    /// `[embed_dim, embed_dim]`, without bias.
    pub q_proj: Linear,
    /// `[width, embed_dim]`, without bias.
    pub k_proj: Linear,
    /// `[width, embed_dim]`, without bias.
    pub v_proj: Linear,
    /// `[3 * embed_dim]`: those of queries, keys and values.
    pub in_proj_bias: Param<Tensor<1>>,
    /// `[embed_dim, embed_dim]`.
    pub out_proj: Linear,
    heads: usize,
}

impl AttentionalPooler {
    pub(crate) fn init(config: &VisionConfig, embed_dim: usize, init: &mut Init) -> Self {
        let (width, heads) = (config.width, config.attn_pooler_heads);
        Self {
            query: init.normal([config.attn_pooler_queries, embed_dim], 1.0),
            attn: if width == embed_dim {
                PoolerAttention::Fused(MultiHeadAttention::init(width, heads, init))
            } else {
                PoolerAttention::Separate(PoolerProjections::init(embed_dim, width, heads, init))
            },
            ln_q: init.layer_norm(embed_dim, LAYER_NORM_EPSILON),
            ln_k: init.layer_norm(width, LAYER_NORM_EPSILON),
        }
    }

    /// What the first queries find. Each looks for itself, so the others change nothing.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - returns `[batch, queries, embed_dim]`
    pub fn forward(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let [batch, ..] = x.dims();
        let x = sequences::layer_norm(&self.ln_k, LAYER_NORM_EPSILON, x);
        let query = self.query.val().narrow(0, 0, queries);
        let query = layer_norm(&self.ln_q, query);
        let [_, embed_dim] = query.dims();
        let query = query.unsqueeze::<3>().expand([batch, queries, embed_dim]);
        match &self.attn {
            PoolerAttention::Fused(attention) => attention.attend(query, x, None),
            PoolerAttention::Separate(attention) => attention.forward(query, x),
        }
    }

    /// How many queries there are.
    pub fn queries(&self) -> usize {
        let [queries, _] = self.query.val().dims();
        queries
    }

    /// Number of parameters.
    pub(crate) fn num_params(config: &VisionConfig, embed_dim: usize) -> usize {
        let norms = 2 * (embed_dim + config.width);
        let projections = 2 * embed_dim * (embed_dim + config.width) + 4 * embed_dim;
        config.attn_pooler_queries * embed_dim + projections + norms
    }
}

impl PoolerProjections {
    /// As PyTorch initialises them: xavier-uniform for each matrix, zero biases.
    fn init(embed_dim: usize, width: usize, heads: usize, init: &mut Init) -> Self {
        let mut projection = |from: usize| Linear {
            weight: init.uniform([from, embed_dim], (6.0 / (from + embed_dim) as f64).sqrt()),
            bias: None,
        };
        let [q_proj, k_proj, v_proj] = [embed_dim, width, width].map(&mut projection);
        Self {
            q_proj,
            k_proj,
            v_proj,
            in_proj_bias: init.constant([3 * embed_dim], 0.0),
            out_proj: Linear {
                weight: init.uniform([embed_dim, embed_dim], (embed_dim as f64).powf(-0.5)),
                bias: Some(init.constant([embed_dim], 0.0)),
            },
            heads,
        }
    }

    /// # Shapes
    /// - `queries`: `[batch, queries, embed_dim]`, and so is the result
    /// - `x`: `[batch, tokens, width]`
    fn forward(&self, queries: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let [batch, count, embed_dim] = queries.dims();
        let biases = self.in_proj_bias.val();
        let projected = [
            (&self.q_proj, queries),
            (&self.k_proj, x.clone()),
            (&self.v_proj, x),
        ];
        let mut part = 0;
        let [query, key, value] = projected.map(|(layer, x)| {
            let [_, tokens, _] = x.dims();
            let bias = biases.clone().narrow(0, part * embed_dim, embed_dim);
            part += 1;
            sequences::project(x, layer.weight.val(), Some(bias))
                .reshape([batch, tokens, self.heads, embed_dim / self.heads])
                .swap_dims(1, 2)
        });
        let mixed = mix(query, key, value, None); // [batch, heads, queries, embed_dim / heads]
        let mixed = mixed.swap_dims(1, 2).reshape([batch, count, embed_dim]);
        sequences::linear(&self.out_proj, mixed)
    }
}
