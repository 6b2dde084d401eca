use burn::{
    module::{Param, ParamId},
    nn::{LayerNorm, Linear},
    tensor::{DType, Tensor},
};

use super::layers::{Statistics, sum, weight_gradient};
#[cfg(feature = "gpu")]
use crate::encoder::sequences::has_norms;
use crate::encoder::{LayerScale, sequences};

/// Gradients by the parameters of a block that aren't locked, without a graph, in f32.
#[derive(Debug, Default)]
pub struct BlockGradients {
    /// Gains, biases, layer scales, each as long as it.
    pub vectors: Vec<(ParamId, Tensor<1>)>,
    /// Weights, `[from, to]`.
    pub matrices: Vec<(ParamId, Tensor<2>)>,
}

impl BlockGradients {
    pub(super) fn vector(&mut self, param: &Param<Tensor<1>>, grad: impl FnOnce() -> Tensor<1>) {
        if param.is_require_grad() {
            self.vectors.push((param.id, grad()));
        }
    }

    /// Of a layer that gave something with the gradient `by_y` for `x`.
    pub(super) fn linear(&mut self, layer: &Linear, x: Tensor<3>, by_y: &Tensor<3>) {
        if layer.weight.is_require_grad() {
            let grad = weight_gradient(x, by_y.clone());
            self.matrices.push((layer.weight.id, grad));
        }
        if let Some(bias) = &layer.bias {
            self.vector(bias, || sum(by_y.clone()));
        }
    }

    /// Of a layer scale of `x`. Returns the gradient by `x`.
    pub(super) fn layer_scale(
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
    pub(super) fn norm(
        &mut self,
        layer: &LayerNorm,
        x: Tensor<3>,
        of_x: Statistics,
        by_y: Tensor<3>,
        added: Tensor<3>,
    ) -> Tensor<3> {
        #[cfg(feature = "gpu")]
        if let Some(beta) = layer.beta.as_ref().filter(|_| has_norms(&x)) {
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
