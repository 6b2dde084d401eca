use std::sync::OnceLock;

use burn::tensor::{DType, Device, Tensor, activation, s};

use super::layers::linear;
use crate::{encoder::MultiHeadAttention, products::multiply};

/// Keys of a sequence are brought to a multiple of it: then each row of scores begins where a GPU reads 16 bytes at once.
const KEYS: usize = 8;

/// What is added to the scores of a block's attention.
#[derive(Clone, Debug)]
pub struct ScoreMask {
    /// `[tokens, tokens]`, in f32.
    mask: Option<Tensor<2>>,
    tokens: usize,
    device: Device,
    /// `[1, tokens, keys]`, where something is added: made when first asked for.
    filled_up: OnceLock<Option<Tensor<3>>>,
}

impl ScoreMask {
    /// The mask of an attention among as many tokens as `x` `[batch, tokens, width]` has, without a graph.
    ///
    /// # Shapes
    /// - `mask`: `[1, 1, tokens, tokens]`: 0 to attend, `-inf` not to
    pub fn new(mask: Option<Tensor<4>>, x: &Tensor<3>) -> Self {
        let [_, tokens, _] = x.dims();
        Self {
            mask: mask.map(|mask| mask.reshape([tokens, tokens]).cast(DType::F32)),
            tokens,
            device: x.device(),
            filled_up: OnceLock::new(),
        }
    }

    /// Tokens, and what fills them up to a multiple of [`KEYS`].
    fn keys(&self) -> usize {
        self.tokens.next_multiple_of(KEYS)
    }

    /// The mask of tokens and of what fills them up.
    fn filled_up(&self) -> Option<&Tensor<3>> {
        let filled_up = self.filled_up.get_or_init(|| {
            let (tokens, keys) = (self.tokens, self.keys());
            let mask = self.mask.clone().map(Tensor::unsqueeze);
            if keys == tokens {
                return mask;
            }
            let mask = mask.unwrap_or_else(|| Tensor::zeros([1, tokens, tokens], &self.device));
            let beyond = [1, tokens, keys - tokens];
            let beyond = Tensor::full(beyond, f32::NEG_INFINITY, &self.device);
            Some(Tensor::cat(vec![mask, beyond], 2))
        });
        filled_up.as_ref()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// What the heads found, side by side.
    pub(super) mixed: Tensor<3>,
    pub(super) of: Attended,
}

/// What attention came from.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one a block, in what a step keeps of it"
)]
pub(super) enum Attended {
    /// Of its parts a head of a sequence is a matrix of its own: there are `batch * heads`.
    Composed {
        /// `[batch * heads, tokens, head_width]`, divided by the root of `head_width`.
        queries: Tensor<3>,
        /// `[2 * batch * heads, keys, head_width]`: all keys, then all values.
        keys_and_values: Tensor<3>,
        /// `[batch * heads, tokens, keys]`: rows of scores through the softmax.
        weights: Tensor<3>,
    },
    /// One kernel, which computes the weights again on its way back.
    #[cfg(feature = "gpu")]
    Kernel {
        /// Queries, keys and values, `[batch, tokens, 3 * width]`.
        projected: Tensor<3>,
        mask: Option<Tensor<2>>,
        /// `[batch, heads, rows]`: the logarithms of what weights were divided by.
        logs: Tensor<3>,
    },
}

impl MultiHeadAttention {
    pub(super) fn pass(&self, x: Tensor<3>, mask: &ScoreMask) -> Attention {
        #[cfg(feature = "gpu")]
        if self.is_kernel(&x) {
            let projected = linear(&self.in_proj, x);
            let mask = mask.mask.clone();
            let (mixed, logs) = clip_cube::attention(projected.clone(), mask.clone(), self.heads);
            let of = Attended::Kernel {
                projected,
                mask,
                logs,
            };
            return Attention { mixed, of };
        }
        self.composed(linear(&self.in_proj, x), mask)
    }

    fn composed(&self, projected: Tensor<3>, mask: &ScoreMask) -> Attention {
        let [batch, tokens, all] = projected.dims();
        let width = all / 3;
        let (heads, head_width) = (self.heads, width / self.heads);
        let matrices = batch * heads;
        let projected = projected
            .reshape([batch, tokens, 3, heads, head_width])
            .permute([2, 0, 3, 1, 4]);
        let queries = projected
            .clone()
            .narrow(0, 0, 1)
            .div_scalar((head_width as f64).sqrt())
            .reshape([matrices, tokens, head_width]);
        let found = projected.narrow(0, 1, 2);
        let keys = mask.keys();
        let keys_and_values = if keys == tokens {
            found
        } else {
            let options = (&found.device(), found.dtype());
            Tensor::zeros([2, batch, heads, keys, head_width], options)
                .slice_assign(s![.., .., .., 0..tokens, ..], found)
        };
        let keys_and_values = keys_and_values.reshape([2 * matrices, keys, head_width]);
        let dtype = queries.dtype();
        let attention = |part| keys_and_values.clone().narrow(0, part * matrices, matrices);
        let scores = multiply(queries.clone(), attention(0), (false, true)).cast(DType::F32);
        let scores = match mask.filled_up() {
            Some(mask) => scores + mask.clone(),
            None => scores,
        };
        let weights = activation::softmax(scores, 2).cast(dtype);
        let mixed = multiply(weights.clone(), attention(1), (false, false))
            .reshape([batch, heads, tokens, head_width])
            .swap_dims(1, 2)
            .reshape([batch, tokens, width]);
        let of = Attended::Composed {
            queries,
            keys_and_values,
            weights,
        };
        Attention { mixed, of }
    }

    /// The gradient by queries, keys and values side by side, `[batch, tokens, 3 * width]`.
    pub(super) fn back(&self, kept: Attention, by_mixed: Tensor<3>) -> Tensor<3> {
        let (queries, keys_and_values, weights) = match kept.of {
            Attended::Composed {
                queries,
                keys_and_values,
                weights,
            } => (queries, keys_and_values, weights),
            #[cfg(feature = "gpu")]
            Attended::Kernel {
                projected,
                mask,
                logs,
            } => {
                let found = (kept.mixed, logs);
                return clip_cube::attention_back(projected, mask, found, by_mixed, self.heads);
            }
        };
        let [batch, tokens, width] = by_mixed.dims();
        let (heads, head_width) = (self.heads, width / self.heads);
        let matrices = batch * heads;
        let dtype = by_mixed.dtype();
        let by_mixed = by_mixed
            .reshape([batch, tokens, heads, head_width])
            .swap_dims(1, 2)
            .reshape([matrices, tokens, head_width]);
        let keys = keys_and_values.clone().narrow(0, 0, matrices);
        let values = keys_and_values.narrow(0, matrices, matrices);
        let by_values = multiply(weights.clone(), by_mixed.clone(), (true, false));
        let by_weights = multiply(by_mixed, values, (false, true)).cast(DType::F32);
        let weights = weights.cast(DType::F32);
        let weighted = weights.clone() * by_weights;
        let by_scores = (weighted.clone() - weights * weighted.sum_dim(2)).cast(dtype);
        let by_queries = multiply(by_scores.clone(), keys, (false, false))
            .div_scalar((head_width as f64).sqrt());
        let by_keys = multiply(by_scores, queries, (true, false));
        let parts = [by_queries, by_keys, by_values].map(|part| {
            // Keys beyond the tokens are not there.
            part.narrow(1, 0, tokens)
                .reshape([batch, heads, tokens, head_width])
                .swap_dims(1, 2)
                .unsqueeze_dim::<5>(2)
        });
        Tensor::cat(parts.into(), 2).reshape([batch, tokens, 3 * width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::text::causal_mask;

    #[test]
    fn keys_that_fill_up_get_no_attention() {
        let device = Device::flex();
        let x = Tensor::<3>::zeros([1, 6, 4], &device);
        for mask in [None, Some(causal_mask(6, &device))] {
            let scores = ScoreMask::new(mask, &x).filled_up().unwrap().clone();
            assert_eq!(scores.dims(), [1, 6, 8]);
            let beyond = scores.narrow(2, 6, 2).into_data();
            let beyond = beyond.try_to_vec::<f32>().unwrap();
            assert!(beyond.iter().all(|score| *score == f32::NEG_INFINITY));
        }
        let whole = Tensor::<3>::zeros([1, 8, 4], &device);
        assert!(ScoreMask::new(None, &whole).filled_up().is_none());
    }
}
