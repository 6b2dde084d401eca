//! A block's passes, forward and back, as tensor operations without a graph.
//!
//! A GPU waits for whoever tells it what to do next. Autodiff tells it more than is needed, and of both towers by turns,
//! so that fewer operations become one kernel: a slice of a weight, for one, is filled with zeros, written to and added
//! on its way back. These passes ask for fewer.

use burn::{
    module::{Param, ParamId},
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor, activation, s},
};

use super::{LayerScale, Mlp, MultiHeadAttention, ResidualAttentionBlock, sequences};

/// Keys of a sequence are brought to a multiple of it: then each row of scores begins where a GPU reads 16 bytes at once.
const KEYS: usize = 8;

/// What is added to the scores of a block's attention.
#[derive(Clone, Debug)]
pub struct ScoreMask {
    /// `[tokens, tokens]`, in f32.
    #[cfg(feature = "gpu")]
    plain: Option<Tensor<2>>,
    /// `[1, tokens, keys]`
    scores: Option<Tensor<3>>,
    /// Tokens, and zeros up to a multiple of [`KEYS`].
    keys: usize,
}

impl ScoreMask {
    /// The mask of an attention among as many tokens as `x` `[batch, tokens, width]` has, without a graph.
    ///
    /// # Shapes
    /// - `mask`: `[1, 1, tokens, tokens]`: 0 to attend, `-inf` not to
    pub fn new(mask: Option<Tensor<4>>, x: &Tensor<3>) -> Self {
        let [_, tokens, _] = x.dims();
        let keys = tokens.next_multiple_of(KEYS);
        let device = x.device();
        let mask = mask.map(|mask| mask.reshape([1, tokens, tokens]).cast(DType::F32));
        #[cfg(feature = "gpu")]
        let plain = mask.clone().map(|mask| mask.reshape([tokens, tokens]));
        let scores = if keys == tokens {
            mask
        } else {
            let mask = mask.unwrap_or_else(|| Tensor::zeros([1, tokens, tokens], &device));
            let beyond = Tensor::full([1, tokens, keys - tokens], f32::NEG_INFINITY, &device);
            Some(Tensor::cat(vec![mask, beyond], 2))
        };
        Self {
            #[cfg(feature = "gpu")]
            plain,
            scores,
            keys,
        }
    }
}

/// What a block's backward pass needs of its forward pass.
///
/// `[batch, tokens, width]` where nothing else is said, in the model's precision.
#[derive(Clone, Debug)]
pub struct Kept {
    x: Tensor<3>,
    norm_1: Statistics,
    normed_1: Tensor<3>,
    attention: Attention,
    /// What attention gave, where it is scaled.
    attended: Option<Tensor<3>>,
    middle: Tensor<3>,
    norm_2: Statistics,
    normed_2: Tensor<3>,
    /// `[batch, tokens, hidden]`, before the non-linearity.
    hidden: Tensor<3>,
    /// What the MLP gave, where it is scaled.
    mapped: Option<Tensor<3>>,
}

/// Of each token, `[batch, tokens, 1]`, in f32.
#[derive(Clone, Debug)]
struct Statistics {
    mean: Tensor<3>,
    /// One over the standard deviation.
    scale: Tensor<3>,
}

#[derive(Clone, Debug)]
struct Attention {
    /// What the heads found, side by side.
    mixed: Tensor<3>,
    of: Attended,
}

/// What attention came from.
#[derive(Clone, Debug)]
enum Attended {
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
    },
}

/// Gradients by the parameters of a block that aren't locked, without a graph, in f32.
#[derive(Debug, Default)]
pub struct BlockGradients {
    /// Gains, biases, layer scales, each as long as it.
    pub vectors: Vec<(ParamId, Tensor<1>)>,
    /// Weights, `[from, to]`.
    pub matrices: Vec<(ParamId, Tensor<2>)>,
}

impl BlockGradients {
    fn vector(&mut self, param: &Param<Tensor<1>>, grad: impl FnOnce() -> Tensor<1>) {
        if param.is_require_grad() {
            self.vectors.push((param.id, grad()));
        }
    }

    /// Of a layer that gave something with the gradient `by_y` for `x`.
    fn linear(&mut self, layer: &Linear, x: Tensor<3>, by_y: &Tensor<3>) {
        if layer.weight.is_require_grad() {
            let grad = weight_gradient(x, by_y.clone());
            self.matrices.push((layer.weight.id, grad));
        }
        if let Some(bias) = &layer.bias {
            self.vector(bias, || sum(by_y.clone()));
        }
    }

    /// Of a layer scale of `x`. Returns the gradient by `x`.
    fn layer_scale(
        &mut self,
        scale: Option<&LayerScale>,
        x: Option<Tensor<3>>,
        by_y: Tensor<3>,
    ) -> Tensor<3> {
        let (Some(LayerScale { scale }), Some(x)) = (scale, x) else {
            return by_y;
        };
        self.vector(scale, || sum(by_y.clone() * x));
        by_y * scale.val().inner().unsqueeze()
    }

    /// Of a norm of `x`. Returns the gradient by `x`, and `added` to it.
    fn norm(
        &mut self,
        layer: &LayerNorm,
        x: Tensor<3>,
        of_x: Statistics,
        by_y: Tensor<3>,
        added: Tensor<3>,
    ) -> Tensor<3> {
        #[cfg(feature = "gpu")]
        if let Some(beta) = layer.beta.as_ref().filter(|_| has_kernels(&x)) {
            let statistics = [of_x.mean, of_x.scale];
            if layer.gamma.is_require_grad() || beta.is_require_grad() {
                let (by_gamma, by_beta) =
                    clip_cube::norm_sums(x.clone(), statistics.clone(), by_y.clone());
                self.vector(&layer.gamma, || by_gamma);
                self.vector(beta, || by_beta);
            }
            let gamma = layer.gamma.val().inner();
            return clip_cube::norm_back(x, statistics, by_y, gamma, added);
        }
        let dtype = x.dtype();
        let by_y = by_y.cast(DType::F32);
        let normed = (x.cast(DType::F32) - of_x.mean) * of_x.scale.clone();
        self.vector(&layer.gamma, || {
            sequences::sum(by_y.clone() * normed.clone())
        });
        if let Some(beta) = &layer.beta {
            self.vector(beta, || sequences::sum(by_y.clone()));
        }
        let by_normed = by_y * layer.gamma.val().inner().unsqueeze();
        let along = (by_normed.clone() * normed.clone()).mean_dim(2);
        let by_x = (by_normed.clone() - by_normed.mean_dim(2) - normed * along) * of_x.scale;
        (added.cast(DType::F32) + by_x).cast(dtype)
    }
}

impl ResidualAttentionBlock {
    /// The block for all tokens, and what [`back`](Self::back) needs. The block is on a graph, which takes no part.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, without a graph, and so is the first result
    /// - `mask`: of as many tokens
    pub fn pass(&self, x: Tensor<3>, mask: &ScoreMask) -> (Tensor<3>, Kept) {
        let (normed_1, norm_1) = norm(&self.ln_1, self.epsilon, x.clone());
        let attention = self.attn.pass(normed_1.clone(), mask);
        let attended = linear(&self.attn.out_proj, attention.mixed.clone());
        let (added, attended) = scaled(self.ls_1.as_ref(), attended);
        let middle = x.clone() + added;
        let (normed_2, norm_2) = norm(&self.ln_2, self.epsilon, middle.clone());
        let (hidden, value) = self.mlp.hidden(normed_2.clone());
        let mapped = linear(&self.mlp.c_proj, value);
        let (added, mapped) = scaled(self.ls_2.as_ref(), mapped);
        let y = middle.clone() + added;
        let kept = Kept {
            x,
            norm_1,
            normed_1,
            attention,
            attended,
            middle,
            norm_2,
            normed_2,
            hidden,
            mapped,
        };
        (y, kept)
    }

    /// From the gradient by what [`pass`](Self::pass) gave to that by what it got. A block that isn't on a graph has no
    /// parameters that train.
    ///
    /// # Shapes
    /// - `by_y`: `[batch, tokens, width]`, without a graph, and so is the first result
    pub fn back(&self, kept: Kept, by_y: Tensor<3>) -> (Tensor<3>, BlockGradients) {
        let mut found = BlockGradients::default();
        let by_mapped = found.layer_scale(self.ls_2.as_ref(), kept.mapped, by_y.clone());
        let by_value = by_input(&self.mlp.c_proj, by_mapped.clone());
        let (value, by_hidden) = self.mlp.hidden_back(kept.hidden, by_value);
        found.linear(&self.mlp.c_proj, value, &by_mapped);
        found.linear(&self.mlp.c_fc, kept.normed_2, &by_hidden);
        let by_normed = by_input(&self.mlp.c_fc, by_hidden);
        let by_middle = found.norm(&self.ln_2, kept.middle, kept.norm_2, by_normed, by_y);

        let by_attended = found.layer_scale(self.ls_1.as_ref(), kept.attended, by_middle.clone());
        let mixed = kept.attention.mixed.clone();
        found.linear(&self.attn.out_proj, mixed, &by_attended);
        let by_mixed = by_input(&self.attn.out_proj, by_attended);
        let by_projected = self.attn.back(kept.attention.of, by_mixed);
        found.linear(&self.attn.in_proj, kept.normed_1, &by_projected);
        let by_normed = by_input(&self.attn.in_proj, by_projected);
        let by_x = found.norm(&self.ln_1, kept.x, kept.norm_1, by_normed, by_middle);
        (by_x, found)
    }
}

impl Mlp {
    /// The hidden numbers before and after the non-linearity.
    fn hidden(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        #[cfg(feature = "gpu")]
        if let Some(bias) = &self.c_fc.bias {
            let ([batch, tokens, _], weight) = (x.dims(), self.c_fc.weight.val().inner());
            let [_, to] = weight.dims();
            if has_products(&x, &weight, false) {
                let bias = bias.val().inner();
                let kernel = self.activation.on_gpu();
                let (hidden, value) = clip_cube::product_activated(rows(x), weight, bias, kernel);
                return (
                    hidden.reshape([batch, tokens, to]),
                    value.reshape([batch, tokens, to]),
                );
            }
        }
        let hidden = linear(&self.c_fc, x);
        (hidden.clone(), self.activation.forward(hidden))
    }

    /// What the non-linearity made of the hidden numbers, and the gradient by them from that by it.
    fn hidden_back(&self, hidden: Tensor<3>, by_value: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        #[cfg(feature = "gpu")]
        {
            let weight = self.c_fc.weight.val();
            if has_products(&hidden, &weight, true) {
                return clip_cube::activation_back(hidden, by_value, self.activation.on_gpu());
            }
        }
        let dtype = hidden.dtype();
        let value = self.activation.forward(hidden.clone());
        let by_value = by_value.cast(DType::F32);
        (
            value,
            (by_value * self.activation.slope(hidden)).cast(dtype),
        )
    }
}

impl MultiHeadAttention {
    fn pass(&self, x: Tensor<3>, mask: &ScoreMask) -> Attention {
        let projected = linear(&self.in_proj, x);
        #[cfg(feature = "gpu")]
        if self.is_kernel(&projected) {
            let mask = mask.plain.clone();
            let mixed = clip_cube::attention(projected.clone(), mask.clone(), self.heads);
            let of = Attended::Kernel { projected, mask };
            return Attention { mixed, of };
        }
        self.composed(projected, mask)
    }

    /// Whether the device has one kernel for it.
    #[cfg(feature = "gpu")]
    fn is_kernel(&self, projected: &Tensor<3>) -> bool {
        let [_, tokens, all] = projected.dims();
        let head_width = all / 3 / self.heads;
        clip_cube::attends(&projected.device(), projected.dtype(), tokens, head_width)
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
        let keys = mask.keys;
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
        let scores = queries
            .clone()
            .matmul(attention(0).transpose())
            .cast(DType::F32);
        let scores = match &mask.scores {
            Some(mask) => scores + mask.clone(),
            None => scores,
        };
        let weights = activation::softmax(scores, 2).cast(dtype);
        let mixed = weights
            .clone()
            .matmul(attention(1))
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
    fn back(&self, kept: Attended, by_mixed: Tensor<3>) -> Tensor<3> {
        let (queries, keys_and_values, weights) = match kept {
            Attended::Composed {
                queries,
                keys_and_values,
                weights,
            } => (queries, keys_and_values, weights),
            #[cfg(feature = "gpu")]
            Attended::Kernel { projected, mask } => {
                return clip_cube::attention_back(projected, mask, by_mixed, self.heads);
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
        let by_values = weights.clone().transpose().matmul(by_mixed.clone());
        let by_weights = by_mixed.matmul(values.transpose()).cast(DType::F32);
        let weights = weights.cast(DType::F32);
        let weighted = weights.clone() * by_weights;
        let by_scores = (weighted.clone() - weights * weighted.sum_dim(2)).cast(dtype);
        let by_queries = by_scores
            .clone()
            .matmul(keys)
            .div_scalar((head_width as f64).sqrt());
        let by_keys = by_scores.transpose().matmul(queries);
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

/// Whether the device of `x` has kernels for norms and sums of such rows.
#[cfg(feature = "gpu")]
fn has_kernels(x: &Tensor<3>) -> bool {
    let [_, _, width] = x.dims();
    clip_cube::norms(&x.device(), x.dtype(), width)
}

/// The sum of all tokens, in f32: `[batch, tokens, width]` to `[width]`.
fn sum(x: Tensor<3>) -> Tensor<1> {
    #[cfg(feature = "gpu")]
    if has_kernels(&x) {
        return clip_cube::sums(x);
    }
    sequences::sum(x)
}

/// A norm of each token, in f32 whatever the model computes in.
fn norm(layer: &LayerNorm, epsilon: f64, x: Tensor<3>) -> (Tensor<3>, Statistics) {
    #[cfg(feature = "gpu")]
    if let Some(beta) = layer.beta.as_ref().filter(|_| has_kernels(&x)) {
        let (gamma, beta) = (layer.gamma.val().inner(), beta.val().inner());
        let (normed, mean, scale) = clip_cube::norm(x, gamma, beta, epsilon);
        return (normed, Statistics { mean, scale });
    }
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean = x.clone().mean_dim(2);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let scale = (variance + epsilon).sqrt().recip();
    let normed = centred * scale.clone() * layer.gamma.val().inner().unsqueeze();
    let normed = match &layer.beta {
        Some(beta) => normed + beta.val().inner().unsqueeze(),
        None => normed,
    };
    (normed.cast(dtype), Statistics { mean, scale })
}

fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, _] = x.dims();
    let weight = layer.weight.val().inner();
    let bias = layer.bias.as_ref().map(|bias| bias.val().inner());
    let [_, to] = weight.dims();
    #[cfg(feature = "gpu")]
    if has_products(&x, &weight, false) {
        return clip_cube::product(rows(x), weight, false, bias).reshape([batch, tokens, to]);
    }
    let y = rows(x).matmul(weight).reshape([batch, tokens, to]);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// The gradient by what a layer got.
fn by_input(layer: &Linear, by_y: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, _] = by_y.dims();
    let weight = layer.weight.val().inner();
    let [from, _] = weight.dims();
    #[cfg(feature = "gpu")]
    if has_products(&by_y, &weight, true) {
        let by_x = clip_cube::product(rows(by_y), weight, true, None);
        return by_x.reshape([batch, tokens, from]);
    }
    let by_x = rows(by_y).matmul(weight.transpose());
    by_x.reshape([batch, tokens, from])
}

/// The gradient by the weights of a layer that got `x`, in f32.
fn weight_gradient(x: Tensor<3>, by_y: Tensor<3>) -> Tensor<2> {
    #[cfg(feature = "gpu")]
    {
        let ([batch, tokens, from], [_, _, to]) = (x.dims(), by_y.dims());
        if clip_cube::multiplies(&x.device(), x.dtype(), [from, to, batch * tokens]) {
            return clip_cube::weight_gradient(rows(x), rows(by_y));
        }
    }
    sequences::weight_gradient(x, by_y)
}

/// Whether the device has kernels that multiply all rows of `x` by a weight, or by it transposed.
#[cfg(feature = "gpu")]
fn has_products(x: &Tensor<3>, weight: &Tensor<2>, transposed: bool) -> bool {
    let ([batch, tokens, _], [from, to]) = (x.dims(), weight.dims());
    let [to, from] = if transposed { [from, to] } else { [to, from] };
    clip_cube::multiplies(&x.device(), x.dtype(), [batch * tokens, to, from])
}

/// `[batch, tokens, width]`, a row a token.
fn rows(x: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch * tokens, width])
}

/// What is added to the residual path; and, where it is scaled, what it is of.
fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> (Tensor<3>, Option<Tensor<3>>) {
    match scale {
        Some(LayerScale { scale }) => (x.clone() * scale.val().inner().unsqueeze(), Some(x)),
        None => (x, None),
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, ModuleVisitor},
        tensor::{Device, Distribution, Tolerance},
    };

    use super::*;
    use crate::{
        Init,
        encoder::{Activation, Transformer, text::causal_mask},
    };

    /// Sums in another order.
    const RELATIVE: f32 = 2e-5;
    const ABSOLUTE: f32 = 2e-5;

    /// Output, gradient by the input and by each parameter that isn't locked, by autodiff.
    fn by_autodiff(
        block: &ResidualAttentionBlock,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        by_y: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>, Vec<(ParamId, Vec<f32>)>) {
        struct Collect<'a>(&'a burn::tensor::Gradients, Vec<(ParamId, Vec<f32>)>);
        impl ModuleVisitor for Collect<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = param.val().grad(self.0) {
                    self.1
                        .push((param.id, grad.into_data().try_to_vec().unwrap()));
                }
            }
        }
        let x = Tensor::from_inner(x).require_grad();
        let y = block.forward(x.clone(), mask.map(Tensor::from_inner), None);
        let grads = (y.clone() * Tensor::from_inner(by_y)).sum().backward();
        let mut collect = Collect(&grads, Vec::new());
        block.visit(&mut collect);
        (y.inner(), x.grad(&grads).unwrap(), collect.1)
    }

    #[test]
    fn both_passes_are_those_of_the_block_on_a_graph() {
        let device = Device::flex().autodiff();
        let plain = device.clone().inner();
        for (batch, tokens, width, heads, activation, causal, scales, locked) in [
            // Keys to be filled up and not, and enough rows for a weight's gradient in parts.
            (3, 11, 24, 3, Activation::Gelu, false, false, false),
            (2, 16, 16, 1, Activation::QuickGelu, true, false, false),
            (4, 7, 16, 2, Activation::GeluTanh, true, true, false),
            (8, 300, 8, 2, Activation::Gelu, false, true, false),
            (2, 5, 16, 2, Activation::Gelu, true, false, true),
        ] {
            let mut init = Init::new(3, &device);
            let mut stack =
                Transformer::init_scaled(width, 1, heads, 2 * width, activation, 1e-5, &mut init);
            if scales {
                stack = stack.with_layer_scales(0.3, &mut init);
            }
            let mut block = stack.resblocks.remove(0);
            if locked {
                block.mlp.c_fc = block.mlp.c_fc.no_grad();
                block.ln_1 = block.ln_1.no_grad();
            }
            let draw = || {
                let normal = Distribution::Normal(0.0, 1.0);
                Tensor::<3>::random([batch, tokens, width], normal, &plain)
            };
            let (x, by_y) = (draw(), draw());
            let mask = causal.then(|| causal_mask(tokens, &plain));
            let (y, by_x, mut grads) = by_autodiff(&block, x.clone(), mask.clone(), by_y.clone());

            let (passed, kept) = block.pass(x.clone(), &ScoreMask::new(mask, &x));
            let (back, found) = block.back(kept, by_y);
            let numbers = |data: burn::tensor::TensorData| data.try_to_vec::<f32>().unwrap();
            let vectors = found.vectors.into_iter();
            let mut by_hand: Vec<_> = vectors
                .map(|(id, grad)| (id, numbers(grad.into_data())))
                .collect();
            let matrices = found.matrices.into_iter();
            by_hand.extend(matrices.map(|(id, grad)| (id, numbers(grad.into_data()))));

            let rows = (batch * tokens) as f32;
            let close = |got: Tensor<3>, want: Tensor<3>| {
                let tolerance = Tolerance::<f32>::rel_abs(RELATIVE, ABSOLUTE);
                got.into_data()
                    .assert_approx_eq::<f32>(&want.into_data(), tolerance);
            };
            close(passed, y);
            close(back, by_x);
            assert_eq!(
                grads.len(),
                if locked {
                    8
                } else {
                    12 + 2 * usize::from(scales)
                }
            );
            grads.sort_by_key(|(id, _)| id.val());
            by_hand.sort_by_key(|(id, _)| id.val());
            assert_eq!(grads.len(), by_hand.len());
            for ((id, want), (by_hand, got)) in grads.iter().zip(&by_hand) {
                assert_eq!((id, want.len()), (by_hand, got.len()));
                for (got, want) in got.iter().zip(want) {
                    let bound = RELATIVE * want.abs() + ABSOLUTE * rows.sqrt();
                    assert!((got - want).abs() < bound, "{got} instead of {want}");
                }
            }
        }
    }

    #[test]
    fn keys_that_fill_up_get_no_attention() {
        let device = Device::flex();
        let x = Tensor::<3>::zeros([1, 6, 4], &device);
        for mask in [None, Some(causal_mask(6, &device))] {
            let scores = ScoreMask::new(mask, &x).scores.unwrap();
            assert_eq!(scores.dims(), [1, 6, 8]);
            let beyond = scores.narrow(2, 6, 2).into_data();
            let beyond = beyond.try_to_vec::<f32>().unwrap();
            assert!(beyond.iter().all(|score| *score == f32::NEG_INFINITY));
        }
        let whole = Tensor::<3>::zeros([1, 8, 4], &device);
        assert!(ScoreMask::new(None, &whole).scores.is_none());
    }
}
