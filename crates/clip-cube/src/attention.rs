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
/// registers hold known numbers.
///
/// - `dtype`: of what is multiplied
/// - `head_width`: numbers of a query
pub fn attends(device: &Device, dtype: DType, head_width: usize) -> bool {
    client(device).is_some_and(|client| kernels::attention::fits(&client, dtype, head_width))
}

/// What each head of each token finds among a sequence's tokens, side by side.
///
/// # Shapes
/// - `projected`: `[batch, tokens, 3 * width]`, queries, keys and values of all heads, without a graph
/// - `mask`: `[tokens, tokens]`, added to the scores, in f32
/// - returns `[batch, tokens, width]`
///
/// # Panics
/// Where [`attends`] says no.
pub fn attention(projected: Tensor<3>, mask: Option<Tensor<2>>, heads: usize) -> Tensor<3> {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_attention(
        projected.into_dispatch(),
        mask,
        masked,
        heads,
    ))
}

/// The gradient by what [`attention`] got from that by what it gave.
///
/// # Shapes
/// - `by_mixed`: `[batch, tokens, width]`
/// - returns `[batch, tokens, 3 * width]`
///
/// # Panics
/// As [`attention`].
pub fn attention_back(
    projected: Tensor<3>,
    mask: Option<Tensor<2>>,
    by_mixed: Tensor<3>,
    heads: usize,
) -> Tensor<3> {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_attention_back(
        projected.into_dispatch(),
        mask,
        masked,
        by_mixed.into_dispatch(),
        heads,
    ))
}
