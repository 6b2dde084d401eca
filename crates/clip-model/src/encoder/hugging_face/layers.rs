use burn::{
    module::Module,
    nn::Linear,
    tensor::{Bool, Int, Tensor},
};

use super::super::{attention::mix, sequences};
use super::shape::PADDING;
use crate::Init;

/// Deviation of initial matrices: `initializer_range` of BERT's kin.
pub(super) const STD: f64 = 0.02;

/// Multi-head self-attention with a layer each for queries, keys and values.
#[derive(Module, Debug)]
pub struct HfAttention {
    /// `[width, width]`.
    pub query: Linear,
    /// `[width, width]`.
    pub key: Linear,
    /// `[width, width]`.
    pub value: Linear,
    /// `[width, width]`.
    pub output: Linear,
    heads: usize,
}

/// A linear layer as transformers initialises it.
pub(super) fn linear(from: usize, to: usize, init: &mut Init) -> Linear {
    Linear {
        weight: init.normal([from, to], STD),
        bias: Some(init.constant([to], 0.0)),
    }
}

impl HfAttention {
    pub(super) fn init(width: usize, heads: usize, init: &mut Init) -> Self {
        Self {
            query: linear(width, width, init),
            key: linear(width, width, init),
            value: linear(width, width, init),
            output: linear(width, width, init),
            heads,
        }
    }

    /// Mixes each sequence's tokens for those that ask.
    ///
    /// # Shapes
    /// - `queries`: `[batch, queries, width]`, and so is the result
    /// - `x`: `[batch, tokens, width]`
    /// - `mask`: `[batch, 1, 1, tokens]`, added to the scores
    pub fn forward(&self, queries: Tensor<3>, x: Tensor<3>, mask: Tensor<4>) -> Tensor<3> {
        let [batch, count, width] = queries.dims();
        let split = |layer: &Linear, x: Tensor<3>| {
            let [_, tokens, _] = x.dims();
            sequences::linear(layer, x)
                .reshape([batch, tokens, self.heads, width / self.heads])
                .swap_dims(1, 2)
        };
        let query = split(&self.query, queries);
        let key = split(&self.key, x.clone());
        let value = split(&self.value, x);
        let mixed = mix(query, key, value, Some(mask));
        let mixed = mixed.swap_dims(1, 2).reshape([batch, count, width]);
        sequences::linear(&self.output, mixed)
    }
}

/// A token's place among those that aren't padding, counted from after the padding's id, which padding has.
///
/// # Shapes
/// - `attended`: `[batch, tokens]`, and so is the result
pub(super) fn positions(attended: &Tensor<2, Bool>) -> Tensor<2, Int> {
    let counted = attended.clone().int();
    counted.clone().cumsum(1) * counted + PADDING
}

/// `[batch, 1, 1, tokens]`: 0 at a text's tokens, `-inf` at padding.
///
/// # Shapes
/// - `attended`: `[batch, tokens]`
pub(super) fn padding_mask(attended: Tensor<2, Bool>) -> Tensor<4> {
    let [batch, tokens] = attended.dims();
    Tensor::<2>::zeros([batch, tokens], &attended.device())
        .mask_fill(attended.bool_not(), f32::NEG_INFINITY)
        .reshape([batch, 1, 1, tokens])
}
