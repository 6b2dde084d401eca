use burn::{
    module::Module,
    nn::Linear,
    tensor::{DType, Device, Tensor, activation, module::attention, ops::AttentionModuleOptions},
};

use super::sequences::{linear, project};
use crate::{
    Init,
    products::{has_kernels, of_heads},
};

/// Multi-head self-attention with one fused query-key-value product.
///
/// # References
/// Vaswani et al. 2017, section 3.2; parameters as `torch.nn.MultiheadAttention` names them.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// `[width, 3 * width]`: queries, keys and values side by side.
    pub in_proj: Linear,
    /// `[width, width]`.
    pub out_proj: Linear,
    pub(super) heads: usize,
}

impl MultiHeadAttention {
    /// With initial weights as PyTorch draws them: xavier-uniform `in_proj`, zero biases.
    pub fn init(width: usize, heads: usize, init: &mut Init) -> Self {
        // fan_in + fan_out of the fused [3 * width, width] matrix.
        let xavier = (6.0 / (4 * width) as f64).sqrt();
        let in_proj = init.uniform([width, 3 * width], xavier);
        let out_proj = init.uniform([width, width], 1.0 / (width as f64).sqrt());
        Self::with_zero_biases(in_proj, out_proj, width, heads, init)
    }

    /// With initial weights as OpenAI draws the text encoder's: normal with the given deviations, zero biases.
    pub fn init_normal(
        width: usize,
        heads: usize,
        in_std: f64,
        out_std: f64,
        init: &mut Init,
    ) -> Self {
        let in_proj = init.normal([width, 3 * width], in_std);
        let out_proj = init.normal([width, width], out_std);
        Self::with_zero_biases(in_proj, out_proj, width, heads, init)
    }

    fn with_zero_biases(
        in_proj: burn::module::Param<Tensor<2>>,
        out_proj: burn::module::Param<Tensor<2>>,
        width: usize,
        heads: usize,
        init: &mut Init,
    ) -> Self {
        Self {
            in_proj: Linear {
                weight: in_proj,
                bias: Some(init.constant([3 * width], 0.0)),
            },
            out_proj: Linear {
                weight: out_proj,
                bias: Some(init.constant([width], 0.0)),
            },
            heads,
        }
    }

    /// Mixes each sequence's tokens.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `mask`: `[1, 1, tokens, tokens]`, or one for each sequence, added to the scores: 0 to attend, `-inf` not to
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<3> {
        #[cfg(feature = "gpu")]
        {
            let [_, tokens, _] = x.dims();
            let is_one = |mask: &Tensor<4>| mask.dims() == [1, 1, tokens, tokens];
            if mask.as_ref().is_none_or(is_one) && self.is_kernel(&x) {
                let mask = mask.map(|mask| mask.reshape([tokens, tokens]).cast(DType::F32));
                let (mixed, _) = clip_cube::attention(linear(&self.in_proj, x), mask, self.heads);
                return linear(&self.out_proj, mixed);
            }
        }
        self.attend(x.clone(), x, mask)
    }

    /// Whether the device of `x`, which has no graph, has one kernel for it, with one mask for all sequences.
    #[cfg(feature = "gpu")]
    pub(super) fn is_kernel(&self, x: &Tensor<3>) -> bool {
        let [batch, tokens, width] = x.dims();
        let shape = [batch, tokens, self.heads, width / self.heads];
        clip_cube::attends(&x.device(), x.dtype(), shape)
    }

    /// Mixes each sequence's tokens for those that ask.
    ///
    /// # Shapes
    /// - `queries`: `[batch, queries, width]`, and so is the result
    /// - `x`: `[batch, tokens, width]`
    /// - `mask`: `[batch, 1, queries, tokens]`, or the same for the whole batch, `[1, 1, queries, tokens]`
    pub(super) fn attend(
        &self,
        queries: Tensor<3>,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
    ) -> Tensor<3> {
        let [batch, count, width] = queries.dims();
        let head_width = width / self.heads;
        let (weight, bias) = (&self.in_proj.weight, &self.in_proj.bias);
        // Slices of the weights, not of the product: the backward pass of a slice fills a tensor as large as what
        // was sliced, and weights are smaller than activations.
        let [query, key, value] = [(0, &queries), (1, &x), (2, &x)].map(|(part, x)| {
            let [_, tokens, _] = x.dims();
            let weight = weight.val().narrow(1, part * width, width);
            let bias = bias
                .as_ref()
                .map(|bias| bias.val().narrow(0, part * width, width));
            project(x.clone(), weight, bias)
                .reshape([batch, tokens, self.heads, head_width])
                .swap_dims(1, 2)
        });
        let mixed = mix(query, key, value, mask);
        let mixed = mixed.swap_dims(1, 2).reshape([batch, count, width]);
        linear(&self.out_proj, mixed)
    }
}

/// Scaled dot-product attention, whose softmax is in f32.
///
/// # Shapes
/// - `query`: `[batch, heads, queries, head_width]`, and so is the result
/// - `key`, `value`: `[batch, heads, tokens, head_width]`
pub(super) fn mix(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4>>,
) -> Tensor<4> {
    let (device, dtype) = (query.device(), query.dtype());
    let ([batch, heads, queries, head_width], [.., tokens, _]) = (query.dims(), key.dims());
    // Burn's kernels have the softmax in f32, but not what it does on GPUs with a mask, and may do where queries are few.
    let falls_back = mask.is_some() || queries <= head_width.next_power_of_two();
    let shape = [batch * heads, queries, tokens, head_width];
    if device.is_autodiff()
        || (dtype != DType::F32 && falls_back && !is_cpu(&device))
        || has_kernels(&device, dtype, shape)
    {
        return composed(query, key, value, mask);
    }
    let mask = mask.map(|mask| mask.cast(query.dtype()));
    attention(
        query,
        key,
        value,
        None,
        mask,
        AttentionModuleOptions::default(),
    )
}

/// Attention from differentiable parts: Burn's fused operation has no backward pass. The softmax is in f32.
///
/// # Shapes
/// - `query`, `key`, `value`: `[batch, heads, tokens, head_width]`
fn composed(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4>>,
) -> Tensor<4> {
    let [.., head_width] = query.dims();
    let dtype = query.dtype();
    let query = query.div_scalar((head_width as f64).sqrt());
    let scores = of_heads(query, key.transpose()).cast(DType::F32);
    let scores = match mask {
        Some(mask) => scores + mask,
        None => scores,
    };
    of_heads(activation::softmax(scores, 3).cast(dtype), value)
}

/// Whether it is the CPU backend's device, which computes attention of any precision in f32.
fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "cpu")]
    return clip_kernels::is_cpu(device);
    #[cfg(not(feature = "cpu"))]
    {
        let _ = device;
        false
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn training_and_inference_agree() {
        let device = Device::flex();
        let layer = MultiHeadAttention::init(32, 4, &mut Init::new(7, &device));
        let x = Tensor::random([2, 5, 32], Distribution::Normal(0.0, 1.0), &device);
        let mask = super::super::text::causal_mask(5, &device);
        let inference = layer.forward(x.clone(), Some(mask.clone()));

        let autodiff = device.autodiff();
        let layer = layer.fork(&autodiff);
        let x = Tensor::from_data(x.into_data(), &autodiff);
        let training = layer.forward(x, Some(Tensor::from_data(mask.into_data(), &autodiff)));
        training
            .into_data()
            .assert_approx_eq::<f32>(&inference.into_data(), Tolerance::default());
    }

    #[test]
    fn in_half_precision_a_softmax_is_of_all_of_a_score() {
        // Two keys score 1024, and the second an eighth less: half precision is of whole numbers there.
        for device in [Device::flex(), Device::default()] {
            for dtype in [DType::F16, DType::BF16] {
                if !device.supports_dtype(dtype) {
                    continue;
                }
                let there = |numbers: &[f32], shape: [usize; 4]| {
                    Tensor::<1>::from_floats(numbers, &device)
                        .reshape(shape)
                        .cast(dtype)
                };
                let query = there(&[64.0, 0.0, 0.0, 0.0], [1, 1, 1, 4]);
                let key = there(&[32.0, 0.0, 0.0, 0.0], [1, 1, 1, 4]).repeat_dim(2, 2);
                let value = there(&[1.0, 0.0], [1, 1, 2, 1]).repeat_dim(3, 4);
                let mask = Tensor::<4>::from_floats([[[[0.0, -0.125]]]], &device);
                let want = 1.0 / (1.0 + (-0.125_f32).exp());
                let composed = composed(
                    query.clone(),
                    key.clone(),
                    value.clone(),
                    Some(mask.clone()),
                );
                for found in [mix(query, key, value, Some(mask)), composed] {
                    let off = (found.cast(DType::F32) - want)
                        .abs()
                        .max()
                        .into_scalar::<f32>();
                    assert!(off < 4e-3, "{dtype:?} on {device:?}: off by {off}");
                }
            }
        }
    }
}
