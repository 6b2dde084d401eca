//! Tensors as kernels read and write them.

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;

/// The tensor alone in its memory, in the order of its axes.
pub(crate) fn contiguous(x: CubeTensor) -> CubeTensor {
    burn_cubecl::kernel::into_contiguous(x)
}

/// Memory beside that of `x`, not yet written.
pub(crate) fn empty(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let handle = x.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(x.client.clone(), x.device.clone(), shape, handle, dtype)
}

/// A [`contiguous`] tensor of as many numbers in another shape.
pub(crate) fn reshaped(x: CubeTensor, shape: Shape) -> CubeTensor {
    CubeTensor::new_contiguous(x.client, x.device, shape, x.handle, x.dtype)
}
