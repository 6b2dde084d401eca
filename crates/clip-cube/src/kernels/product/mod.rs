//! Products of matrices: in bf16 and f16 by matrix units, which planes share, and in f32 by each thread for itself.

mod by_planes;
mod by_threads;

use burn::{
    cubecl::client::Client,
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{limits::counts, memory::reshaped};
use crate::Activation;

pub(crate) use by_threads::{fits as fits_any, parts as parts_of_any, products};

/// Whether a device multiplies `[m, k]` by `[k, n]` with these kernels.
pub(crate) fn fits(client: &Client, dtype: DType, shape: [usize; 3]) -> bool {
    let [m, n, k] = shape;
    by_planes::fits(client, dtype, shape) || fits_any(client, dtype, [1, m, n, k])
}

/// Whether it sums a product over `k` in [`parts`], whose sums kernels count one by one.
pub(crate) fn fits_sums(client: &Client, dtype: DType, shape: [usize; 3]) -> bool {
    let [m, n, _] = shape;
    fits(client, dtype, shape) && counts(parts(client, dtype, shape) * m * n)
}

/// In how many parts of `k` a product `[m, n]` is summed, so that there are enough of them for the device.
pub(crate) fn parts(client: &Client, dtype: DType, shape: [usize; 3]) -> usize {
    match dtype {
        DType::F32 => parts_of_any(shape),
        _ => by_planes::parts(client, shape),
    }
}

/// # Shapes
/// - `left`: `[m, k]`; `right`: `[k, n]`, or `[n, k]` if it is `transposed`; `bias`: `[n]`, if it is `biased`
/// - returns the product `[m, n]` like them, and what the activation makes of it, if there is one
pub(crate) fn product(
    left: CubeTensor,
    right: CubeTensor,
    transposed: bool,
    bias: CubeTensor,
    biased: bool,
    activation: Option<Activation>,
) -> (CubeTensor, CubeTensor) {
    if left.dtype != DType::F32 {
        return by_planes::product(left, right, transposed, bias, biased, activation);
    }
    let [m, k] = left.meta.shape().dims();
    let [a, b] = right.meta.shape().dims();
    let left = reshaped(left, Shape::new([1, m, k]));
    let right = reshaped(right, Shape::new([1, a, b]));
    let bias = biased.then_some(bias);
    let (product, value) = products(left, right, (false, transposed), bias, activation);
    let shape = Shape::new([m, if transposed { a } else { b }]);
    (reshaped(product, shape.clone()), reshaped(value, shape))
}

/// # Shapes
/// - `left`: `[k, m]`; `right`: `[k, n]`
/// - returns the transposed left one's product with the right one, in parts of `k`, `[parts, m, n]`, in f32
pub(crate) fn sums(left: CubeTensor, right: CubeTensor, parts: usize) -> CubeTensor {
    if left.dtype != DType::F32 {
        return by_planes::sums(left, right, parts);
    }
    let [k, m] = left.meta.shape().dims();
    let [_, n] = right.meta.shape().dims();
    let left = reshaped(left, Shape::new([parts, k / parts, m]));
    let right = reshaped(right, Shape::new([parts, k / parts, n]));
    products(left, right, (true, false), None, None).0
}
