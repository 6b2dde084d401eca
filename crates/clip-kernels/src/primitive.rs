//! Tensors as the CPU backend holds them.

use burn::{
    backend::{Backend, DispatchKindConversion, DispatchTensor},
    tensor::{Bytes, DType, Shape, Tensor},
};
use burn_flex::{FlexTensor, Layout};

/// # Panics
/// If the tensor is on another backend.
pub(crate) fn primitive<const D: usize, B: Backend>(tensor: Tensor<D>) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    tensor
        .try_into_primitive::<B>()
        .unwrap_or_else(|error| panic!("a tensor is on another device: {error:?}"))
}

/// The tensor alone in its memory, in the order of its axes.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
    if whole && tensor.is_contiguous() {
        tensor
    } else {
        FlexTensor::from_data(tensor.into_data())
    }
}

/// Numbers in this shape.
pub(crate) fn tensor(numbers: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(numbers),
        Layout::contiguous(shape),
        DType::F32,
    )
}
