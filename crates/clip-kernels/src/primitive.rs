//! Tensors as the CPU backend holds them.

use std::borrow::Cow;

use burn::{
    backend::{Backend, DispatchKindConversion, DispatchTensor},
    tensor::{Bytes, DType, Device, Shape, Tensor, bf16},
};
use burn_flex::{FlexTensor, Layout};

use crate::rows::vectorized;

/// Whether this crate's operations but [`residual_block`](crate::residual_block), which has conditions of its own, compute
/// on tensors like `x`: those in f32 on Burn's CPU backend, without autodiff.
pub fn computes_on<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_cpu(&x.device()) && !x.is_autodiff()
}

/// Whether it is the device of Burn's CPU backend, without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

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
    let whole = tensor.bytes().len() == tensor.layout().num_elements() * tensor.dtype().size();
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

/// The numbers of a contiguous tensor, in f32.
pub(crate) fn numbers(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    if tensor.dtype() != DType::BF16 {
        return Cow::Borrowed(tensor.storage());
    }
    let half: &[bf16] = tensor.storage();
    let mut numbers = vec![0.0; half.len()];
    vectorized(
        #[inline(always)]
        || {
            for (number, half) in numbers.iter_mut().zip(half) {
                *number = half.to_f32();
            }
        },
    );
    Cow::Owned(numbers)
}

/// Numbers in this shape, rounded to bf16 if `like` is in that.
pub(crate) fn tensor_like(numbers: Vec<f32>, shape: Shape, like: &FlexTensor) -> FlexTensor {
    if like.dtype() != DType::BF16 {
        return tensor(numbers, shape);
    }
    let mut half = vec![bf16::ZERO; numbers.len()];
    vectorized(
        #[inline(always)]
        || {
            for (half, number) in half.iter_mut().zip(&numbers) {
                *half = bf16::from_f32(*number);
            }
        },
    );
    FlexTensor::new(
        Bytes::from_elems(half),
        Layout::contiguous(shape),
        DType::BF16,
    )
}
