//! Layers that towers share, from weights by OpenCLIP's names.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use clip_model::encoder::{Activation, BATCH_NORM_EPSILON, TimmProjection};

use crate::{
    graph::{Graph, Value},
    onnx::Attribute,
};

/// What a norm is at least before something is divided by it: that of `torch.nn.functional.normalize`.
const SMALLEST_NORM: f64 = 1e-12;
/// Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
const CUBIC: f64 = 0.044_715;
/// OpenAI, `clip/model.py`, `QuickGELU`.
const QUICK: f64 = 1.702;

/// How a convolution moves.
pub(crate) struct Convolution {
    pub(crate) stride: usize,
    /// On all sides.
    pub(crate) padding: usize,
    /// Parts of the channels that don't mix.
    pub(crate) groups: usize,
}

impl Graph<'_> {
    /// A product of the last axis, and a bias where the layer has one. Names begin with `prefix`, which ends in a dot or what
    /// stands for it.
    pub(crate) fn linear(&mut self, x: &Value, prefix: &str) -> Value {
        let weight = self.matrix(&format!("{prefix}weight"));
        let product = self.matmul(x, &weight);
        let bias = format!("{prefix}bias");
        if !self.weights.has(&bias) {
            return product;
        }
        let bias = self.weight(&bias);
        self.add(&product, &bias)
    }

    /// Of the last axis.
    pub(crate) fn layer_norm(&mut self, x: &Value, prefix: &str, epsilon: f64) -> Value {
        let weight = self.weight(&format!("{prefix}weight"));
        let bias = self.weight(&format!("{prefix}bias"));
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon as f32)),
        ];
        self.node("LayerNormalization", &[x, &weight, &bias], &attributes)
    }

    /// A layer norm of each place's channels, `[batch, channels, rows, columns]`.
    pub(crate) fn channel_norm(&mut self, x: &Value, prefix: &str, epsilon: f64) -> Value {
        let x = self.channels_last(x);
        let normed = self.layer_norm(&x, prefix, epsilon);
        self.channels_first(&normed)
    }

    /// `[batch, channels, rows, columns]` to `[batch, rows, columns, channels]`.
    pub(crate) fn channels_last(&mut self, x: &Value) -> Value {
        self.transpose(x, &[0, 2, 3, 1])
    }

    /// `[batch, rows, columns, channels]` to `[batch, channels, rows, columns]`.
    pub(crate) fn channels_first(&mut self, x: &Value) -> Value {
        self.transpose(x, &[0, 3, 1, 2])
    }

    /// Of the second axis, by its running statistics.
    pub(crate) fn batch_norm(&mut self, x: &Value, prefix: &str) -> Value {
        let [scale, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|field| self.weight(&format!("{prefix}{field}")));
        let epsilon = Attribute::Float(BATCH_NORM_EPSILON as f32);
        let inputs = [x, &scale, &bias, &mean, &variance];
        self.node("BatchNormalization", &inputs, &[("epsilon", epsilon)])
    }

    /// A convolution of the last two axes, with a bias where the layer has one.
    pub(crate) fn convolution(
        &mut self,
        x: &Value,
        prefix: &str,
        Convolution {
            stride,
            padding,
            groups,
        }: Convolution,
    ) -> Value {
        let side = self.weights.side(prefix);
        let (weight, bias) = (format!("{prefix}weight"), format!("{prefix}bias"));
        let weight = self.weight(&weight);
        let bias = self.weights.has(&bias).then(|| self.weight(&bias));
        let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
        let attributes = [
            ("kernel_shape", Attribute::Ints(&[side as i64; 2])),
            ("strides", Attribute::Ints(&[stride as i64; 2])),
            ("pads", Attribute::Ints(&[padding as i64; 4])),
            ("group", Attribute::Int(groups as i64)),
        ];
        self.node("Conv", &inputs, &attributes)
    }

    /// Squares of pixels or places, by a convolution whose stride is its side.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - returns `[batch, width, rows, columns]`
    pub(crate) fn patches(&mut self, x: &Value, prefix: &str) -> Value {
        let settings = Convolution {
            stride: self.weights.side(prefix),
            padding: 0,
            groups: 1,
        };
        self.convolution(x, prefix, settings)
    }

    /// `[batch, width, rows, columns]` to `[batch, rows * columns, width]`, row by row.
    pub(crate) fn places_as_tokens(&mut self, x: &Value) -> Value {
        let rows = self.reshape(x, &[0, 0, -1]);
        self.transpose(&rows, &[0, 2, 1])
    }

    /// GELU is composed of operators that any runtime has, and that most fuse.
    pub(crate) fn activation(&mut self, x: &Value, activation: Activation) -> Value {
        let gate = match activation {
            Activation::Gelu => {
                let scaled = self.scale(x, FRAC_1_SQRT_2);
                let erf = self.node("Erf", &[&scaled], &[]);
                self.share_of(&erf)
            }
            Activation::GeluTanh => {
                let squared = self.mul(x, x);
                let cubic = self.scale(&squared, CUBIC);
                let cubic = self.shift(&cubic, 1.0);
                let inner = self.mul(x, &cubic);
                let inner = self.scale(&inner, FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                let tanh = self.node("Tanh", &[&inner], &[]);
                self.share_of(&tanh)
            }
            Activation::QuickGelu => {
                let scaled = self.scale(x, QUICK);
                self.node("Sigmoid", &[&scaled], &[])
            }
        };
        self.mul(x, &gate)
    }

    /// `[-1, 1]` to `[0, 1]`.
    fn share_of(&mut self, x: &Value) -> Value {
        let shifted = self.shift(x, 1.0);
        self.scale(&shifted, 0.5)
    }

    /// Two linear layers around the non-linearity.
    pub(crate) fn mlp(
        &mut self,
        x: &Value,
        [c_fc, c_proj]: [&str; 2],
        activation: Activation,
    ) -> Value {
        let hidden = self.linear(x, c_fc);
        let hidden = self.activation(&hidden, activation);
        self.linear(&hidden, c_proj)
    }

    /// OpenCLIP's projection after timm's model.
    pub(crate) fn timm_head(&mut self, x: &Value, projection: TimmProjection) -> Value {
        match projection {
            TimmProjection::Linear => self.linear(x, "visual.head.proj."),
            TimmProjection::Mlp => {
                let names = ["visual.head.mlp.fc1.", "visual.head.mlp.fc2."];
                self.mlp(x, names, Activation::Gelu)
            }
        }
    }

    /// Each row divided by its Euclidean norm.
    pub(crate) fn l2_normalize(&mut self, x: &Value) -> Value {
        let attributes = [
            ("axes", Attribute::Ints(&[-1])),
            ("keepdims", Attribute::Int(1)),
        ];
        let norm = self.node("ReduceL2", &[x], &attributes);
        let smallest = self.float(SMALLEST_NORM);
        let norm = self.node("Max", &[&norm, &smallest], &[]);
        self.node("Div", &[x, &norm], &[])
    }
}
