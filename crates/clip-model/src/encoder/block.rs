#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::{DType, Int, Tensor},
};

use super::{Activation, MultiHeadAttention, sequences, training_draws::along};
use crate::Init;

/// Added to variances in layer norms. 1e-5: PyTorch's default.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Two linear layers around the non-linearity.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[width, hidden]`.
    pub c_fc: Linear,
    /// `[hidden, width]`.
    pub c_proj: Linear,
    #[module(skip)]
    pub(super) activation: Activation,
}

impl Mlp {
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let hidden = self.activation.forward(sequences::linear(&self.c_fc, x));
        sequences::linear(&self.c_proj, hidden)
    }
}

/// Attention, then an MLP, each after a layer norm and beside a residual path.
///
/// # References
/// CLIP section 2.4 with the modifications of Radford et al. 2019 (pre-LN).
#[derive(Module, Debug)]
pub struct ResidualAttentionBlock {
    /// Before the attention.
    pub ln_1: LayerNorm,
    /// Mixes tokens.
    pub attn: MultiHeadAttention,
    /// On what the attention adds; the paper's blocks have none.
    pub ls_1: Option<LayerScale>,
    /// Before the MLP.
    pub ln_2: LayerNorm,
    /// Mixes features.
    pub mlp: Mlp,
    /// On what the MLP adds; the paper's blocks have none.
    pub ls_2: Option<LayerScale>,
    /// Of both norms.
    #[module(skip)]
    pub(super) epsilon: f64,
}

/// A factor for each feature of what a residual path adds, small at first.
///
/// # References
/// Touvron et al. 2021, [Going deeper with Image Transformers](https://arxiv.org/abs/2103.17239), section 2.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[width]`; OpenCLIP's `gamma`.
    pub scale: Param<Tensor<1>>,
}

impl LayerScale {
    fn init(width: usize, value: f64, init: &mut Init) -> Self {
        Self {
            scale: init.constant([width], value as f32),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.scale.val().unsqueeze()
    }
}

impl ResidualAttentionBlock {
    /// All tokens, or one of each sequence: what it gives for one token takes the keys and values of all, but neither
    /// their queries nor their MLP.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - `mask`: as for [`MultiHeadAttention::forward`]
    /// - `only`: `[batch, 1]`, the place of the token that is asked for
    /// - returns `[batch, tokens, width]`, or `[batch, 1, width]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        only: Option<&Tensor<2, Int>>,
    ) -> Tensor<3> {
        #[cfg(feature = "cpu")]
        if self.is_supported(&x) {
            return self.fused(x, mask, only);
        }
        self.composed(x, mask, only)
    }

    /// Whether [`forward`](Self::forward) is a single operation where the block is, with a backward pass of its own.
    pub fn is_one_operation(&self) -> bool {
        #[cfg(feature = "cpu")]
        return self.is_supported(&self.attn.in_proj.weight.val().unsqueeze());
        #[cfg(not(feature = "cpu"))]
        false
    }

    /// By that operation, for an input like `x`.
    #[cfg(feature = "cpu")]
    fn is_supported(&self, x: &Tensor<3>) -> bool {
        self.ls_1.is_none() && self.ls_2.is_none() && clip_kernels::supports(x)
    }

    /// The block of Burn's operations, on any device. Its mask may be one for each sequence.
    pub(super) fn composed(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        only: Option<&Tensor<2, Int>>,
    ) -> Tensor<3> {
        self.composed_along(x, mask, only, |_, added| added)
    }

    /// The same with what `along` makes of what each of the two residual paths adds.
    fn composed_along(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        only: Option<&Tensor<2, Int>>,
        along: impl Fn(usize, Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let normed = sequences::layer_norm(&self.ln_1, self.epsilon, x.clone());
        let (x, mixed) = match only {
            Some(only) => {
                let mask = mask.map(|mask| rows_of_mask(mask, only));
                let queries = at(normed.clone(), only);
                (at(x, only), self.attn.attend(queries, normed, mask))
            }
            None => (x, self.attn.forward(normed, mask)),
        };
        let x = x + along(0, scaled(self.ls_1.as_ref(), mixed));
        let normed = sequences::layer_norm(&self.ln_2, self.epsilon, x.clone());
        let mixed = self.mlp.forward(normed);
        x + along(1, scaled(self.ls_2.as_ref(), mixed))
    }

    /// The block as one operation of the CPU backend.
    #[cfg(feature = "cpu")]
    fn fused(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        only: Option<&Tensor<2, Int>>,
    ) -> Tensor<3> {
        let device = x.device();
        let vector = |bias: &Option<Param<Tensor<1>>>, length| match bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([length], &device),
        };
        let norm = |norm: &LayerNorm| {
            let gamma = norm.gamma.val();
            let beta = vector(&norm.beta, gamma.dims()[0]);
            [gamma, beta]
        };
        let linear = |linear: &Linear| {
            let weight = linear.weight.val();
            let bias = vector(&linear.bias, weight.dims()[1]);
            (weight, bias)
        };
        let parameters = clip_kernels::BlockParameters {
            ln_1: norm(&self.ln_1),
            in_proj: linear(&self.attn.in_proj),
            out_proj: linear(&self.attn.out_proj),
            ln_2: norm(&self.ln_2),
            c_fc: linear(&self.mlp.c_fc),
            c_proj: linear(&self.mlp.c_proj),
            heads: self.attn.heads,
            activation: match self.mlp.activation {
                Activation::Gelu => clip_kernels::Activation::Gelu,
                Activation::GeluTanh => clip_kernels::Activation::GeluTanh,
                Activation::QuickGelu => clip_kernels::Activation::QuickGelu,
            },
            epsilon: self.epsilon,
        };
        let mask = mask.map(|mask| mask.squeeze_dims(&[0, 1]));
        let only = only.map(|only| {
            let places = only.to_data().convert::<i64>();
            places.iter::<i64>().map(|place| place as usize).collect()
        });
        clip_kernels::residual_block(x, mask, only, parameters)
    }
}

fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> Tensor<3> {
    match scale {
        Some(scale) => scale.forward(x),
        None => x,
    }
}

/// One token of each sequence, `[batch, 1, width]`, the one at `place` `[batch, 1]`.
fn at(x: Tensor<3>, place: &Tensor<2, Int>) -> Tensor<3> {
    let [batch, _, width] = x.dims();
    let index = place.clone().unsqueeze_dim::<3>(2);
    x.gather(1, index.expand([batch, 1, width]))
}

/// The rows of a mask `[1, 1, tokens, tokens]`, or of one for each sequence, for one token of each, `[batch, 1, 1, tokens]`.
fn rows_of_mask(mask: Tensor<4>, place: &Tensor<2, Int>) -> Tensor<4> {
    let [masks, .., tokens] = mask.dims();
    let [batch, _] = place.dims();
    if masks > 1 {
        let rows = place.clone().reshape([batch, 1, 1, 1]);
        return mask.gather(2, rows.expand([batch, 1, 1, tokens]));
    }
    mask.reshape([tokens, tokens])
        .select(0, place.clone().reshape([batch]))
        .reshape([batch, 1, 1, tokens])
}

/// A layer norm in f32, whatever the model computes in.
pub(super) fn layer_norm<const D: usize>(norm: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    norm.forward(x.cast(DType::F32)).cast(dtype)
}

/// A stack of blocks.
#[derive(Module, Debug)]
pub struct Transformer {
    /// First to last.
    pub resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    /// The image encoder's: PyTorch's default initialisation, as OpenAI's code leaves it.
    pub fn init_default(
        width: usize,
        layers: usize,
        heads: usize,
        mlp_width: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let resblocks = (0..layers)
            .map(|_| ResidualAttentionBlock {
                ln_1: init.layer_norm(width, LAYER_NORM_EPSILON),
                attn: MultiHeadAttention::init(width, heads, init),
                ls_1: None,
                ln_2: init.layer_norm(width, LAYER_NORM_EPSILON),
                mlp: Mlp {
                    c_fc: init.linear(width, mlp_width),
                    c_proj: init.linear(mlp_width, width),
                    activation,
                },
                epsilon: LAYER_NORM_EPSILON,
                ls_2: None,
            })
            .collect();
        Self { resblocks }
    }

    /// The text encoder's: deviations that keep the residual path's variance with depth
    /// (OpenAI, `clip/model.py`, `initialize_parameters`).
    pub fn init_scaled(
        width: usize,
        layers: usize,
        heads: usize,
        mlp_width: usize,
        activation: Activation,
        epsilon: f64,
        init: &mut Init,
    ) -> Self {
        let attn_std = (width as f64).powf(-0.5);
        let proj_std = attn_std * ((2 * layers) as f64).powf(-0.5);
        let fc_std = ((2 * width) as f64).powf(-0.5);
        let resblocks = (0..layers)
            .map(|_| ResidualAttentionBlock {
                ln_1: init.layer_norm(width, epsilon),
                attn: MultiHeadAttention::init_normal(width, heads, attn_std, proj_std, init),
                ls_1: None,
                ln_2: init.layer_norm(width, epsilon),
                mlp: Mlp {
                    c_fc: init.linear_normal(width, mlp_width, fc_std),
                    c_proj: init.linear_normal(mlp_width, width, proj_std),
                    activation,
                },
                epsilon,
                ls_2: None,
            })
            .collect();
        Self { resblocks }
    }

    /// The stack with layer scales, which begin with a value.
    pub(super) fn with_layer_scales(self, value: f64, init: &mut Init) -> Self {
        let mut add = |block: ResidualAttentionBlock| {
            let width = block.ln_1.gamma.lazy_shape()[0];
            ResidualAttentionBlock {
                ls_1: Some(LayerScale::init(width, value, init)),
                ls_2: Some(LayerScale::init(width, value, init)),
                ..block
            }
        };
        Self {
            resblocks: self.resblocks.into_iter().map(&mut add).collect(),
        }
    }

    /// # Shapes
    /// As for [`ResidualAttentionBlock::forward`]; `only` is what the last block is asked for.
    pub fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<4>>,
        only: Option<&Tensor<2, Int>>,
    ) -> Tensor<3> {
        let last = self.resblocks.len().saturating_sub(1);
        let blocks = self.resblocks.iter().enumerate();
        let through = |x| {
            blocks.fold(x, |x, (at, block)| {
                block.forward(x, mask.cloned(), only.filter(|_| at == last))
            })
        };
        let dtype = x.dtype();
        let first = self.resblocks.first();
        // Such a block rounds what it multiplies, whatever it gets: what blocks add to stays as it is.
        if dtype == DType::BF16 && first.is_some_and(ResidualAttentionBlock::is_one_operation) {
            through(x.cast(DType::F32)).cast(dtype)
        } else {
            through(x)
        }
    }

    /// One token of each image, with stochastic depth.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - `only`: `[batch, 1]`, the place of the token that is asked for
    /// - `paths`: `[batch, 2 * blocks]`, as in [`TrainingDraws`](super::TrainingDraws): each block's attention, then its MLP
    /// - returns `[batch, 1, width]`
    pub(super) fn forward_along(
        &self,
        x: Tensor<3>,
        only: &Tensor<2, Int>,
        paths: &Tensor<2>,
    ) -> Tensor<3> {
        let last = self.resblocks.len().saturating_sub(1);
        let blocks = self.resblocks.iter().enumerate();
        blocks.fold(x, |x, (at, block)| {
            let only = Some(only).filter(|_| at == last);
            block.composed_along(x, None, only, |path, added| {
                along(2 * at + path, Some(paths), added)
            })
        })
    }
}
