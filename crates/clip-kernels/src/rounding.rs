//! Weights rounded for products in bf16, on all threads: of Burn's operations it is a pass on one.

use burn::{
    backend::Flex,
    tensor::{Bytes, DType, Tensor, bf16},
};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use crate::{
    primitive::{contiguous, primitive},
    rows::{ALONE, TASK, vectorized},
};

/// The numbers in bf16, as Burn's cast rounds them.
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies `x`.
pub fn round_to_bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = contiguous(primitive::<D, Flex>(x));
    let numbers = x.storage::<f32>();
    let shared = if numbers.len() > ALONE { numbers } else { &[] };
    let (tasks, _) = shared.as_chunks::<TASK>();
    // Tasks return arrays, so nothing is set to zero before it is written.
    let mut rounded = Vec::with_capacity(numbers.len().div_ceil(TASK));
    tasks
        .par_iter()
        .map(|task| {
            vectorized(
                #[inline(always)]
                || task.map(bf16::from_f32),
            )
        })
        .collect_into_vec(&mut rounded);
    let mut rounded = rounded.into_flattened();
    rounded.extend(numbers[rounded.len()..].iter().copied().map(bf16::from_f32));
    let layout = Layout::contiguous(x.layout().shape().clone());
    Tensor::from_primitive::<Flex>(FlexTensor::new(
        Bytes::from_elems(rounded),
        layout,
        DType::BF16,
    ))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, FloatDType};

    use super::*;

    #[test]
    fn numbers_are_rounded_as_burn_casts_them() {
        let device = Device::flex();
        // On one thread, and on all with a rest.
        for rows in [3, 400] {
            let normal = Distribution::Normal(0.0, 1.0);
            let x = Tensor::<2>::random([rows, 700], normal, &device);
            let odd =
                Tensor::<2>::from_floats([[f32::NAN, f32::INFINITY, 1e-40, -0.0, 3.4e38]], &device);
            let x = x.slice_assign([1..2, 0..5], odd);
            let want = x.clone().cast(FloatDType::BF16).into_data();
            let bits = |data: burn::tensor::TensorData| -> Vec<u16> {
                data.iter::<bf16>().map(bf16::to_bits).collect()
            };
            assert_eq!(bits(round_to_bf16(x).into_data()), bits(want));
        }
    }
}
