use burn::{module::Module, nn::Linear, tensor::Tensor};

use super::{Activation, Mlp};
use crate::Init;

/// What OpenCLIP puts after timm's model, by `timm_proj`, where that has no projection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimmProjection {
    /// A matrix.
    Linear,
    /// Two layers around GELU, the hidden one of twice the joint space's width.
    Mlp,
}

impl TimmProjection {
    /// Number of parameters, from `width` features.
    pub(super) fn num_params(self, width: usize, embed_dim: usize) -> usize {
        match self {
            Self::Linear => width * embed_dim,
            Self::Mlp => (width + 1) * 2 * embed_dim + 2 * embed_dim * embed_dim,
        }
    }
}

/// OpenCLIP's projection: one of the two.
#[derive(Module, Debug)]
pub struct TimmHead {
    /// `[width, embed_dim]`, without bias.
    pub proj: Option<Linear>,
    /// To `2 * embed_dim` hidden features, and to `embed_dim` without bias.
    pub mlp: Option<Mlp>,
}

impl TimmHead {
    /// From `width` features.
    pub(super) fn init(
        projection: TimmProjection,
        width: usize,
        embed_dim: usize,
        init: &mut Init,
    ) -> Self {
        let matrix = |from: usize, to: usize, init: &mut Init| Linear {
            weight: init.uniform([from, to], (from as f64).powf(-0.5)),
            bias: None,
        };
        match projection {
            TimmProjection::Linear => Self {
                proj: Some(matrix(width, embed_dim, init)),
                mlp: None,
            },
            TimmProjection::Mlp => Self {
                proj: None,
                mlp: Some(Mlp {
                    c_fc: init.linear(width, 2 * embed_dim),
                    c_proj: matrix(2 * embed_dim, embed_dim, init),
                    activation: Activation::Gelu,
                }),
            },
        }
    }

    /// # Shapes
    /// - `x`: `[batch, width]`
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.mlp {
            Some(mlp) => mlp.forward(x.unsqueeze_dim(1)).squeeze_dim(1),
            None => x,
        };
        match &self.proj {
            Some(proj) => proj.forward(x),
            None => x,
        }
    }
}
