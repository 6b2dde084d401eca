use burn::{
    module::Module,
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::{
    super::{
        Activation, MultiHeadAttention,
        sequences::{layer_norm, linear},
        training_draws::along,
    },
    network::STD,
    shape::{MLP_RATIO, VITAMIN_EPSILON, ViTaminShape},
};
use crate::Init;

/// Attention, then an MLP with a gate, each after a layer norm and beside a residual path: the paper's TFB-GeGLU.
#[derive(Module, Debug)]
pub struct ViTaminBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Mixes tokens.
    pub attn: MultiHeadAttention,
    /// Before the MLP, which has a norm of its own.
    pub norm2: LayerNorm,
    /// Mixes features.
    pub mlp: GeGlu,
}

/// Hidden features through a gate with GELU, after a norm.
///
/// # References
/// Shazeer 2020, [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202).
#[derive(Module, Debug)]
pub struct GeGlu {
    /// Of what comes in.
    pub norm: LayerNorm,
    /// `[width, hidden]`: the gate, before its GELU.
    pub w0: Linear,
    /// `[width, hidden]`: what is let through.
    pub w1: Linear,
    /// `[hidden, width]`.
    pub w2: Linear,
}

impl GeGlu {
    fn init(width: usize, init: &mut Init) -> Self {
        let hidden = MLP_RATIO * width;
        Self {
            norm: init.layer_norm(width, VITAMIN_EPSILON),
            w0: init.linear_of_timm(width, hidden, STD),
            w1: init.linear_of_timm(width, hidden, STD),
            w2: init.linear_of_timm(hidden, width, STD),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = layer_norm(&self.norm, VITAMIN_EPSILON, x);
        let gate = Activation::Gelu.forward(linear(&self.w0, x.clone()));
        linear(&self.w2, gate * linear(&self.w1, x))
    }
}

impl ViTaminBlock {
    pub(super) fn init(shape: &ViTaminShape, init: &mut Init) -> Self {
        let ViTaminShape { width, heads, .. } = *shape;
        Self {
            norm1: init.layer_norm(width, VITAMIN_EPSILON),
            attn: MultiHeadAttention::init_normal(width, heads, STD, STD, init),
            norm2: init.layer_norm(width, VITAMIN_EPSILON),
            mlp: GeGlu::init(width, init),
        }
    }

    /// `place` is its own among the blocks.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `paths`: `[batch, 2 * blocks]`
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        place: usize,
        paths: Option<&Tensor<2>>,
    ) -> Tensor<3> {
        let normed = layer_norm(&self.norm1, VITAMIN_EPSILON, x.clone());
        let x = x + along(2 * place, paths, self.attn.forward(normed, None));
        let normed = layer_norm(&self.norm2, VITAMIN_EPSILON, x.clone());
        x + along(2 * place + 1, paths, self.mlp.forward(normed))
    }
}
