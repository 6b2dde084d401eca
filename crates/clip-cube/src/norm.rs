//! Layer norms, and sums over tokens.

use burn::{
    backend::{Dispatch, DispatchTensor},
    tensor::{DType, Device, Tensor},
};

use crate::{
    backend::{Kernels, client},
    kernels,
};

/// Whether [`norm`], [`norm_back`], [`norm_sums`] and [`sums`] compute on this device.
///
/// - `shape`: of all tokens, `[rows, width]`
pub fn norms(device: &Device, dtype: DType, shape: [usize; 2]) -> bool {
    client(device).is_some_and(|client| kernels::norm::fits(&client, dtype, shape))
}

/// A layer norm of each token, in f32 whatever `x` is in.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`, without a graph
/// - `gamma`, `beta`: `[width]`, in f32
/// - returns the result, like `x`; and mean and one over the standard deviation of each token, `[batch, tokens, 1]`, in f32
///
/// # Panics
/// Where [`norms`] says no.
pub fn norm(
    x: Tensor<3>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
    let (normed, mean, scale) = Dispatch::clip_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    );
    (
        Tensor::from_dispatch(normed),
        Tensor::from_dispatch(mean),
        Tensor::from_dispatch(scale),
    )
}

/// The gradient by what [`norm`] got, and `added` to it.
///
/// # Shapes
/// - `x`, `mean`, `scale`, `gamma`: as [`norm`] got and gave them
/// - `by_y`: the gradient by the result, like `x`, and so is `added`
///
/// # Panics
/// As [`norm`].
pub fn norm_back(
    x: Tensor<3>,
    [mean, scale]: [Tensor<3>; 2],
    by_y: Tensor<3>,
    gamma: Tensor<1>,
    added: Tensor<3>,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::clip_norm_back(
        x.into_dispatch(),
        mean.into_dispatch(),
        scale.into_dispatch(),
        by_y.into_dispatch(),
        gamma.into_dispatch(),
        added.into_dispatch(),
    ))
}

/// The gradients by `gamma` and `beta` of [`norm`], in f32.
///
/// # Shapes
/// As [`norm_back`]; returns `[width]` each
///
/// # Panics
/// As [`norm`].
pub fn norm_sums(
    x: Tensor<3>,
    [mean, scale]: [Tensor<3>; 2],
    by_y: Tensor<3>,
) -> (Tensor<1>, Tensor<1>) {
    let (beta, gamma) = Dispatch::clip_norm_sums(
        by_y.into_dispatch(),
        x.into_dispatch(),
        mean.into_dispatch(),
        scale.into_dispatch(),
    );
    (whole(gamma), whole(beta))
}

/// The sum of all tokens, in f32.
///
/// # Shapes
/// - `y`: `[batch, tokens, width]`, without a graph
/// - returns `[width]`
///
/// # Panics
/// As [`norm`].
pub fn sums(y: Tensor<3>) -> Tensor<1> {
    whole(Dispatch::clip_sums(y.into_dispatch()))
}

fn whole(parts: DispatchTensor) -> Tensor<1> {
    sum(Tensor::from_dispatch(parts))
}

/// The sum of all rows, in f32: `[rows, width]` to `[width]`, where [`norms`] says yes.
pub(crate) fn sum(rows: Tensor<2>) -> Tensor<1> {
    let [_, width] = rows.dims();
    let sum: Tensor<2> = Tensor::from_dispatch(Dispatch::clip_sum(rows.into_dispatch()));
    sum.reshape([width])
}
