//! Steps of `AdamW`.

use burn::{backend::Dispatch, tensor::Tensor};

use crate::{
    backend::{Kernels, client},
    kernels,
};

/// What a step of `AdamW` multiplies with.
///
/// # References
/// Loshchilov and Hutter 2019, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// The learning rate.
    pub lr: f64,
    /// The share of a parameter that goes in a step of learning rate 1.
    pub weight_decay: f32,
    /// How much of the first moment stays.
    pub beta_1: f32,
    /// How much of the second moment stays.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Which step of this parameter it is, counted from 1.
    pub time: usize,
}

/// Whether [`adamw`] computes on tensors like `x`: those in f32 on a GPU, without a graph.
pub fn steps<const D: usize>(x: &Tensor<D>) -> bool {
    let numbers = x.shape().num_elements();
    client(&x.device()).is_some_and(|client| kernels::adamw::fits(&client, x.dtype(), numbers))
}

/// The parameter and its moments after a step of `AdamW`.
///
/// # Shapes
/// - `factor`: `[1]`, what the gradient is multiplied by, if it is
/// - all others are of one shape; without `moments`, they are zero
///
/// # Panics
/// Where [`steps`] says no.
pub fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    factor: Option<Tensor<1>>,
    moments: Option<[Tensor<D>; 2]>,
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [first, second] = moments.unwrap_or_else(|| [(); 2].map(|()| gradient.zeros_like()));
    let scaled = factor.is_some();
    let factor = factor.map_or_else(|| gradient.clone().into_dispatch(), Tensor::into_dispatch);
    let (parameter, first, second) = Dispatch::clip_adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        factor,
        scaled,
        first.into_dispatch(),
        second.into_dispatch(),
        step,
    );
    let moments = [first, second].map(Tensor::from_dispatch);
    (Tensor::from_dispatch(parameter), moments)
}
