use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor, activation},
};

use super::MultiHeadAttention;
use crate::Init;

/// PyTorch's default.
pub(super) const LAYER_NORM_EPSILON: f64 = 1e-5;

/// A block's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`, what OpenCLIP's plain presets use.
    Gelu,
    /// `x * sigmoid(1.702 x)`, what OpenAI's weights were trained with.
    QuickGelu,
    /// GELU by its approximation with tanh, what SigLIP 2's text encoders use.
    GeluTanh,
}

impl Activation {
    /// Applies the function to each element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x.mul_scalar(1.702)),
        }
    }
}

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
        let [batch, tokens, width] = x.dims();
        let rows = x.reshape([batch * tokens, width]); // one product, not one a sequence
        let hidden = self.activation.forward(self.c_fc.forward(rows));
        self.c_proj.forward(hidden).reshape([batch, tokens, width])
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
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `mask`: as for [`MultiHeadAttention::forward`]
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<3> {
        let mixed = self.attn.forward(layer_norm(&self.ln_1, x.clone()), mask);
        let x = x + scaled(self.ls_1.as_ref(), mixed);
        let mixed = self.mlp.forward(layer_norm(&self.ln_2, x.clone()));
        x + scaled(self.ls_2.as_ref(), mixed)
    }
}

fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> Tensor<3> {
    match scale {
        Some(scale) => scale.forward(x),
        None => x,
    }
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
                ls_2: None,
            })
            .collect();
        Self { resblocks }
    }

    /// The same with layer scales, which begin with a value.
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
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `mask`: as for [`MultiHeadAttention::forward`]
    pub fn forward(&self, x: Tensor<3>, mask: Option<&Tensor<4>>) -> Tensor<3> {
        self.resblocks
            .iter()
            .fold(x, |x, block| block.forward(x, mask.cloned()))
    }

    /// The same with the first blocks locked: they have no gradient, and training leaves them as they are.
    pub(super) fn lock_first(self, blocks: usize) -> Self {
        let lock = |(at, block): (usize, ResidualAttentionBlock)| {
            if at < blocks { block.no_grad() } else { block }
        };
        Self {
            resblocks: self.resblocks.into_iter().enumerate().map(lock).collect(),
        }
    }
}
