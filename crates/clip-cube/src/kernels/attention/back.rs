use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;

use super::{Plan, VECTOR, by_keys::by_keys_kernel, by_queries::by_queries_kernel, launch};
use crate::kernels::memory::empty;

/// # Shapes
/// - `projected`, `mask`: as `forward` got them; `mixed`, `logs`: as it gave them
/// - `by_mixed`: `[batch, tokens, width]`, the gradient by what it gave
/// - returns the gradient by `projected`
pub(crate) fn back(
    projected: CubeTensor,
    (mask, masked): (CubeTensor, bool),
    (mixed, logs): (CubeTensor, CubeTensor),
    by_mixed: CubeTensor,
    heads: usize,
) -> CubeTensor {
    let [batch, tokens, all] = projected.meta.shape().dims();
    let plan = Plan::new(tokens, all / 3 / heads, masked);
    let dtype = dtype_to_storage_type(projected.dtype);
    let (count, dim) = launch(tokens, heads, batch);
    let by_projected = empty(&projected, projected.meta.shape().clone(), projected.dtype);
    let along = empty(&logs, logs.meta.shape().clone(), DType::F32);
    let client = projected.client.clone();
    by_queries_kernel::launch(
        &client,
        count.clone(),
        dim,
        VECTOR,
        projected.clone().into_buffer_arg(),
        mask.clone().into_buffer_arg(),
        mixed.into_buffer_arg(),
        logs.clone().into_buffer_arg(),
        by_mixed.clone().into_buffer_arg(),
        by_projected.clone().into_buffer_arg(),
        along.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype,
    );
    by_keys_kernel::launch(
        &client,
        count,
        dim,
        VECTOR,
        projected.into_buffer_arg(),
        mask.into_buffer_arg(),
        logs.into_buffer_arg(),
        by_mixed.into_buffer_arg(),
        along.into_buffer_arg(),
        by_projected.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype,
    );
    by_projected
}
