use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::{
    super::{
        attention::mix,
        sequences::{self, linear, project},
    },
    EvaFamily, EvaShape,
    network::STD,
    rotary::Rotation,
};
use crate::Init;

/// Multi-head self-attention, of queries and keys that are turned by where they are.
#[derive(Module, Debug)]
pub struct EvaAttention {
    /// To queries, keys and values. OpenCLIP has its layers here themselves.
    pub projections: EvaProjections,
    /// On what the heads give; EVA-02's.
    pub norm: Option<LayerNorm>,
    /// `[width, width]`.
    pub proj: Linear,
    heads: usize,
}

/// How tokens become queries, keys and values.
#[derive(Module, Debug)]
pub enum EvaProjections {
    /// By one matrix.
    Fused(FusedProjections),
    /// By a matrix each: EVA-02's.
    Separate(SeparateProjections),
}

/// One matrix, with a bias of its own in the Perception Encoder, and else two apart.
#[derive(Module, Debug)]
pub struct FusedProjections {
    /// `[width, 3 * width]`: queries, keys and values side by side.
    pub qkv: Linear,
    /// `[width]`: of queries.
    pub q_bias: Option<Param<Tensor<1>>>,
    /// `[width]`: of values.
    pub v_bias: Option<Param<Tensor<1>>>,
}

/// A matrix each; keys have no bias.
#[derive(Module, Debug)]
pub struct SeparateProjections {
    /// `[width, width]`.
    pub q_proj: Linear,
    /// `[width, width]`.
    pub k_proj: Linear,
    /// `[width, width]`.
    pub v_proj: Linear,
}

impl EvaProjections {
    fn init(family: EvaFamily, width: usize, init: &mut Init) -> Self {
        let without_bias = |to: usize, init: &mut Init| Linear {
            weight: init.normal([width, to], STD),
            bias: None,
        };
        match family {
            EvaFamily::Eva02 => Self::Separate(SeparateProjections {
                q_proj: init.linear_of_timm(width, width, STD),
                k_proj: without_bias(width, init),
                v_proj: init.linear_of_timm(width, width, STD),
            }),
            EvaFamily::Eva01 | EvaFamily::Eva02PostNorm => Self::Fused(FusedProjections {
                qkv: without_bias(3 * width, init),
                q_bias: Some(init.constant([width], 0.0)),
                v_bias: Some(init.constant([width], 0.0)),
            }),
            EvaFamily::PerceptionEncoder => Self::Fused(FusedProjections {
                qkv: init.linear_of_timm(width, 3 * width, STD),
                q_bias: None,
                v_bias: None,
            }),
        }
    }

    /// The matrix `[width, width]` and the bias `[width]` of queries, keys and values.
    fn parts(&self) -> [(Tensor<2>, Option<Tensor<1>>); 3] {
        match self {
            Self::Fused(FusedProjections {
                qkv,
                q_bias,
                v_bias,
            }) => {
                let weight = qkv.weight.val();
                let [width, _] = weight.dims();
                // Slices of the weights, as in `MultiHeadAttention`.
                [(0, q_bias), (1, &None), (2, v_bias)].map(|(part, apart)| {
                    let bias = match &qkv.bias {
                        Some(bias) => Some(bias.val().narrow(0, part * width, width)),
                        None => apart.as_ref().map(Param::val),
                    };
                    (weight.clone().narrow(1, part * width, width), bias)
                })
            }
            Self::Separate(layers) => [&layers.q_proj, &layers.k_proj, &layers.v_proj]
                .map(|layer| (layer.weight.val(), layer.bias.as_ref().map(Param::val))),
        }
    }
}

impl EvaAttention {
    /// `std` is the deviation of the last matrix.
    pub(super) fn init(shape: &EvaShape, std: f64, init: &mut Init) -> Self {
        let width = shape.width;
        Self {
            projections: EvaProjections::init(shape.family, width, init),
            norm: (shape.family == EvaFamily::Eva02)
                .then(|| init.layer_norm(width, shape.epsilon())),
            proj: init.linear_of_timm(width, width, std),
            heads: shape.heads,
        }
    }

    /// Mixes each sequence's tokens for those that ask; `epsilon` is the norm's.
    ///
    /// # Shapes
    /// - `queries`: `[batch, queries, width]`, the first of the tokens, and so is the result
    /// - `x`: `[batch, tokens, width]`
    pub(super) fn attend(
        &self,
        queries: Tensor<3>,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        epsilon: f64,
    ) -> Tensor<3> {
        let [batch, asked, width] = queries.dims();
        let [of_queries, of_keys, of_values] = self.projections.parts();
        let split = |x: Tensor<3>, (weight, bias): (Tensor<2>, Option<Tensor<1>>)| {
            let [_, tokens, _] = x.dims();
            project(x, weight, bias)
                .reshape([batch, tokens, self.heads, width / self.heads])
                .swap_dims(1, 2)
        };
        let turn = |x: Tensor<4>| match rotation {
            Some(rotation) => rotation.turn(x),
            None => x,
        };
        let query = turn(split(queries, of_queries));
        let key = turn(split(x.clone(), of_keys));
        let mixed = mix(query, key, split(x, of_values), None);
        let mixed = mixed.swap_dims(1, 2).reshape([batch, asked, width]);
        let mixed = match &self.norm {
            Some(norm) => sequences::layer_norm(norm, epsilon, mixed),
            None => mixed,
        };
        linear(&self.proj, mixed)
    }
}
