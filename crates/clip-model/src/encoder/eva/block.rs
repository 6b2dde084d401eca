use burn::{
    module::Module,
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor, activation},
};

use super::{
    super::{
        Activation, Mlp,
        sequences::{self, linear},
    },
    EvaAttention, EvaFamily, EvaShape,
    network::STD,
    rotary::Rotation,
};
use crate::Init;

/// Attention, then an MLP, each beside a residual path and with a layer norm before or after it.
#[derive(Module, Debug)]
pub struct EvaBlock {
    /// Of the attention.
    pub norm1: LayerNorm,
    /// Mixes tokens.
    pub attn: EvaAttention,
    /// Of the MLP.
    pub norm2: LayerNorm,
    /// Mixes features.
    pub mlp: EvaMlp,
    /// Whether norms are on what attention and MLP give, and not on what they get.
    post_norm: bool,
    /// Of all norms.
    #[module(skip)]
    epsilon: f64,
}

/// One of the two.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // Burn's modules don't go into boxes.
pub enum EvaMlp {
    /// CLIP's.
    Gelu(Mlp),
    /// EVA-02's.
    SwiGlu(SwiGlu),
}

/// Hidden features through a gate, then a norm.
///
/// # References
/// Shazeer 2020, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202); the norm: Fang et al. 2023, section
/// 2.1.
#[derive(Module, Debug)]
pub struct SwiGlu {
    /// `[width, hidden]`: the gate, before its `SiLU`.
    pub fc1_g: Linear,
    /// `[width, hidden]`: what is let through.
    pub fc1_x: Linear,
    /// On what came through.
    pub norm: LayerNorm,
    /// `[hidden, width]`.
    pub fc2: Linear,
}

impl EvaMlp {
    /// `std` is the deviation of the last matrix.
    fn init(shape: &EvaShape, std: f64, init: &mut Init) -> Self {
        let (width, hidden) = (shape.width, shape.mlp_width);
        match shape.family {
            EvaFamily::Eva02 => Self::SwiGlu(SwiGlu {
                fc1_g: init.linear_of_timm(width, hidden, STD),
                fc1_x: init.linear_of_timm(width, hidden, STD),
                norm: init.layer_norm(hidden, shape.epsilon()),
                fc2: init.linear_of_timm(hidden, width, std),
            }),
            _ => Self::Gelu(Mlp {
                c_fc: init.linear_of_timm(width, hidden, STD),
                c_proj: init.linear_of_timm(hidden, width, std),
                activation: Activation::Gelu,
            }),
        }
    }

    /// `epsilon` is the norm's.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        match self {
            Self::Gelu(mlp) => mlp.forward(x),
            Self::SwiGlu(mlp) => mlp.forward(x, epsilon),
        }
    }
}

impl SwiGlu {
    /// `epsilon` is the norm's.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    pub fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        let dtype = x.dtype();
        let gate = linear(&self.fc1_g, x.clone()).cast(DType::F32);
        let hidden = activation::silu(gate).cast(dtype) * linear(&self.fc1_x, x);
        linear(
            &self.fc2,
            sequences::layer_norm(&self.norm, epsilon, hidden),
        )
    }
}

impl EvaBlock {
    /// The block at `place`, counted from 0: deeper ones begin by adding less (timm, `Eva.fix_init_weight`).
    pub(super) fn init(shape: &EvaShape, place: usize, init: &mut Init) -> Self {
        let (width, epsilon) = (shape.width, shape.epsilon());
        let last_std = STD / ((2 * (place + 1)) as f64).sqrt();
        Self {
            norm1: init.layer_norm(width, epsilon),
            attn: EvaAttention::init(shape, last_std, init),
            norm2: init.layer_norm(width, epsilon),
            mlp: EvaMlp::init(shape, last_std, init),
            post_norm: shape.family == EvaFamily::Eva02PostNorm,
            epsilon,
        }
    }

    /// All tokens, or the first of each sequence: what it gives for that takes the keys and values of all, but neither
    /// their queries nor their MLP.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - returns `[batch, tokens, width]`, or `[batch, 1, width]` if `only_first`
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        only_first: bool,
    ) -> Tensor<3> {
        let normed = |norm: &LayerNorm, x| sequences::layer_norm(norm, self.epsilon, x);
        let before = |norm, x| if self.post_norm { x } else { normed(norm, x) };
        let after = |norm, x| if self.post_norm { normed(norm, x) } else { x };
        let asked = |x: Tensor<3>| if only_first { x.narrow(1, 0, 1) } else { x };
        let input = before(&self.norm1, x.clone());
        let queries = asked(input.clone());
        let mixed = self.attn.attend(queries, input, rotation, self.epsilon);
        let x = asked(x) + after(&self.norm1, mixed);
        let mixed = self
            .mlp
            .forward(before(&self.norm2, x.clone()), self.epsilon);
        x + after(&self.norm2, mixed)
    }
}
