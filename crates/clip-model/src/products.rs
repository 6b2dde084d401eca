//! Products of matrices outside of blocks' own passes: by kernels of `clip-cube` where a GPU multiplies f32 without matrix
//! units, and Burn's elsewhere. Burn tries several kernels for each shape, and compilers of graphics drivers take seconds for
//! one; these are few, for all shapes.

use burn::tensor::{DType, Device, Tensor};

/// Whether a device has such kernels for `[products, m, n, k]`, on a graph and off it.
pub(crate) fn has_kernels(device: &Device, dtype: DType, shape: [usize; 4]) -> bool {
    #[cfg(feature = "gpu")]
    return clip_cube::multiplies_on_graph(device, dtype, shape);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = (device, dtype, shape);
        false
    }
}

/// Rows by a matrix.
///
/// # Shapes
/// - `rows`: `[m, k]`; `matrix`: `[k, n]`
/// - returns `[m, n]`
pub(crate) fn project(rows: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "gpu")]
    {
        let ([m, k], [_, n]) = (rows.dims(), matrix.dims());
        if has_kernels(&rows.device(), rows.dtype(), [1, m, n, k]) {
            return clip_cube::project(rows, matrix);
        }
    }
    rows.matmul(matrix)
}

/// Each head of each sequence by its own.
///
/// # Shapes
/// - `left`: `[batch, heads, m, k]`; `right`: `[batch, heads, k, n]`
/// - returns `[batch, heads, m, n]`
pub(crate) fn of_heads(left: Tensor<4>, right: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "gpu")]
    {
        let ([batch, heads, m, k], [.., n]) = (left.dims(), right.dims());
        if has_kernels(&left.device(), left.dtype(), [batch * heads, m, n, k]) {
            let left = left.reshape([batch * heads, m, k]);
            let right = right.reshape([batch * heads, k, n]);
            return clip_cube::multiply(left, right).reshape([batch, heads, m, n]);
        }
    }
    left.matmul(right)
}

/// Each of several matrices by another, without a graph; of either a matrix may lie by columns.
///
/// # Shapes
/// - `left`: `[matrices, m, k]`, or `[matrices, k, m]` by columns
/// - `right`: `[matrices, k, n]`, or `[matrices, n, k]` by columns
/// - returns `[matrices, m, n]`
pub(crate) fn multiply(left: Tensor<3>, right: Tensor<3>, by_column: (bool, bool)) -> Tensor<3> {
    #[cfg(feature = "gpu")]
    {
        let (of_left, of_right) = (left.dims(), right.dims());
        let (rows, common) = if by_column.0 { (2, 1) } else { (1, 2) };
        let columns = if by_column.1 { 1 } else { 2 };
        let shape = [
            of_left[0],
            of_left[rows],
            of_right[columns],
            of_left[common],
        ];
        if clip_cube::multiplies_any(&left.device(), left.dtype(), shape) {
            return clip_cube::products(left, right, by_column);
        }
    }
    let by_rows = |x: Tensor<3>, by_column| if by_column { x.transpose() } else { x };
    by_rows(left, by_column.0).matmul(by_rows(right, by_column.1))
}
