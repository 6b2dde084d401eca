//! Attention among the tokens of a sequence.

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};

use crate::{
    backend::{Kernels, client},
    kernels,
};

/// Whether [`attention`] and [`attention_back`] compute on this device: it has matrix units for the precision, whose
/// registers hold known numbers, and cubes for so many sequences.
///
/// - `dtype`: of what is multiplied
/// - `shape`: `[batch, tokens, heads, head_width]`
pub fn attends(device: &Device, dtype: DType, shape: [usize; 4]) -> bool {
    client(device).is_some_and(|client| kernels::attention::fits(&client, dtype, shape))
}

/// What each head of each token finds among a sequence's tokens, side by side; and what [`attention_back`] wants to know.
///
/// # Shapes
/// - `projected`: `[batch, tokens, 3 * width]`, queries, keys and values of all heads, without a graph
/// - `mask`: `[tokens, tokens]`, added to the scores, in f32
/// - returns `[batch, tokens, width]`, and `[batch, heads, rows]`, in f32: the logarithms of the sums of the scores'
///   exponentials
///
/// # Panics
/// Where [`attends`] says no.
pub fn attention(
    projected: Tensor<3>,
    mask: Option<Tensor<2>>,
    heads: usize,
) -> (Tensor<3>, Tensor<3>) {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    let (mixed, logs) = Dispatch::clip_attention(projected.into_dispatch(), mask, masked, heads);
    (Tensor::from_dispatch(mixed), Tensor::from_dispatch(logs))
}

/// The gradient by what [`attention`] got from that by what it gave.
///
/// # Shapes
/// - `found`: what it gave
/// - `by_mixed`: `[batch, tokens, width]`
/// - returns `[batch, tokens, 3 * width]`
///
/// # Panics
/// As [`attention`].
pub fn attention_back(
    projected: Tensor<3>,
    mask: Option<Tensor<2>>,
    (mixed, logs): (Tensor<3>, Tensor<3>),
    by_mixed: Tensor<3>,
    heads: usize,
) -> Tensor<3> {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_attention_back(
        projected.into_dispatch(),
        mask,
        masked,
        mixed.into_dispatch(),
        logs.into_dispatch(),
        by_mixed.into_dispatch(),
        heads,
    ))
}
