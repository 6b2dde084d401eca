//! Products of matrices.

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};

use crate::{
    Activation,
    backend::{Kernels, client},
    kernels,
    norm::{self, norms},
};

/// Whether [`product`] multiplies `[m, k]` by `[k, n]` on this device: in half precision it has matrix units for that, and the
/// matrices are of whole blocks of them; in f32 it has none.
pub fn multiplies(device: &Device, dtype: DType, shape: [usize; 3]) -> bool {
    client(device).is_some_and(|client| kernels::product::fits(&client, dtype, shape))
}

/// Whether [`weight_gradient`] multiplies `[m, k]` by `[k, n]`, which lie by columns and by rows, on this device.
pub fn multiplies_over_rows(device: &Device, dtype: DType, shape: [usize; 3]) -> bool {
    client(device).is_some_and(|client| kernels::product::fits_sums(&client, dtype, shape))
}

/// Rows by a matrix, and a bias.
///
/// # Shapes
/// - `rows`: `[m, k]`, without a graph
/// - `matrix`: `[k, n]`, or `[n, k]` if it is to be `transposed`
/// - `bias`: `[n]`
/// - returns `[m, n]`; all are in one precision, and sums in f32
///
/// # Panics
/// Where [`multiplies`] says no.
pub fn product(
    rows: Tensor<2>,
    matrix: Tensor<2>,
    transposed: bool,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    let biased = bias.is_some();
    let bias = bias.map_or_else(|| matrix.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_product(
        rows.into_dispatch(),
        matrix.into_dispatch(),
        transposed,
        bias,
        biased,
    ))
}

/// Rows by a matrix and a bias, and what an activation makes of them.
///
/// # Shapes
/// - `rows`: `[m, k]`, without a graph; `matrix`: `[k, n]`; `bias`: `[n]`, in the precision of both
/// - returns `[m, n]` each
///
/// # Panics
/// Where [`multiplies`] says no.
pub fn product_activated(
    rows: Tensor<2>,
    matrix: Tensor<2>,
    bias: Tensor<1>,
    activation: Activation,
) -> (Tensor<2>, Tensor<2>) {
    let (product, value) = Dispatch::clip_product_activated(
        rows.into_dispatch(),
        matrix.into_dispatch(),
        bias.into_dispatch(),
        activation,
    );
    (Tensor::from_dispatch(product), Tensor::from_dispatch(value))
}

/// Whether [`products`] multiplies matrices of such numbers on this device, in whichever order each lies: in f32, where it has
/// no matrix units for that.
///
/// - `shape`: `[products, m, n, k]`: of no more numbers than 32 bits count
pub fn multiplies_any(device: &Device, dtype: DType, shape: [usize; 4]) -> bool {
    client(device).is_some_and(|client| kernels::product::fits_any(&client, dtype, shape))
}

/// Each of several matrices by another.
///
/// # Shapes
/// - `left`: `[products, m, k]`, without a graph, or `[products, k, m]` if it lies `by_column`
/// - `right`: `[products, k, n]`, or `[products, n, k]` if it lies `by_column`
/// - returns `[products, m, n]`
///
/// # Panics
/// Where [`multiplies_any`] says no.
pub fn products(left: Tensor<3>, right: Tensor<3>, by_column: (bool, bool)) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::clip_products(
        left.into_dispatch(),
        right.into_dispatch(),
        by_column.0,
        by_column.1,
    ))
}

/// The gradient by a matrix that multiplied rows, in f32.
///
/// # Shapes
/// - `rows`: `[k, m]`, what was multiplied; `by_product`: `[k, n]`, in its precision
/// - returns `[m, n]`
///
/// # Panics
/// Where [`multiplies_over_rows`] says no for `[m, n, k]`.
pub fn weight_gradient(rows: Tensor<2>, by_product: Tensor<2>) -> Tensor<2> {
    let device = rows.device();
    let ([k, m], [_, n]) = (rows.dims(), by_product.dims());
    let parts = client(&device).map_or(1, |client| {
        kernels::product::parts(&client, rows.dtype(), [m, n, k])
    });
    let sums = Dispatch::clip_product_sums(rows.into_dispatch(), by_product.into_dispatch(), parts);
    let sums: Tensor<3> = Tensor::from_dispatch(sums);
    match parts {
        1 => sums.reshape([m, n]),
        _ if norms(&device, DType::F32, [parts, m * n]) => {
            norm::sum(sums.reshape([parts, m * n])).reshape([m, n])
        }
        _ => sums.sum_dim(0).reshape([m, n]),
    }
}
