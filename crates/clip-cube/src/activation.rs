//! A block's non-linearity.

use burn::{backend::Dispatch, tensor::Tensor};

use crate::backend::Kernels;

/// A block's non-linearity.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Activation {
    /// `x * Phi(x)`.
    Gelu,
    /// GELU by its approximation with tanh.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// What an activation makes of `x`, and the gradient by `x` from that by the result.
///
/// # Shapes
/// All are like `x`.
///
/// # Panics
/// Where [`multiplies`] says no for what made `x`.
pub fn activation_back<const D: usize>(
    x: Tensor<D>,
    by_y: Tensor<D>,
    activation: Activation,
) -> (Tensor<D>, Tensor<D>) {
    let (value, by_x) =
        Dispatch::clip_activation_back(x.into_dispatch(), by_y.into_dispatch(), activation);
    (Tensor::from_dispatch(value), Tensor::from_dispatch(by_x))
}
