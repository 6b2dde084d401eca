//! What is done with a model's gradients as a whole: they come from memory, on all threads at once and each only once.

use burn::{
    backend::Flex,
    tensor::{Shape, Tensor},
};
use rayon::prelude::*;

use crate::{
    primitive::{contiguous, primitive, tensor},
    rows::{ALONE, TASK, add_rows, sum, vectorized},
};

/// `sum + part`, in the memory of `sum` where nobody shares it.
///
/// # Shapes
/// Both are of one shape.
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies one of them, and if shapes differ.
pub fn add_gradient<const D: usize>(sum: Tensor<D>, part: Tensor<D>) -> Tensor<D> {
    assert_eq!(sum.shape(), part.shape(), "gradients by one parameter");
    let [mut sum, part] = [sum, part].map(|x| contiguous(primitive::<D, Flex>(x)));
    let (numbers, part) = (sum.storage_mut::<f32>(), part.storage::<f32>());
    let add = |(sum, part): (&mut [f32], &[f32])| {
        vectorized(
            #[inline(always)]
            || add_rows(sum, part),
        );
    };
    if numbers.len() <= ALONE {
        add((numbers, part));
    } else {
        let sums = numbers.par_chunks_mut(TASK);
        sums.zip(part.par_chunks(TASK)).for_each(add);
    }
    Tensor::from_primitive::<Flex>(sum)
}

/// `gradient * factor`, in its own memory where nobody shares it.
///
/// # Shapes
/// - `factor`: `[1]`
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies one of them.
pub fn scale_gradient<const D: usize>(gradient: Tensor<D>, factor: Tensor<1>) -> Tensor<D> {
    let factor = factor.into_scalar::<f32>();
    let mut gradient = contiguous(primitive::<D, Flex>(gradient));
    let numbers = gradient.storage_mut::<f32>();
    let scale = |part: &mut [f32]| {
        vectorized(
            #[inline(always)]
            || part.iter_mut().for_each(|number| *number *= factor),
        );
    };
    if numbers.len() <= ALONE {
        scale(numbers);
    } else {
        numbers.par_chunks_mut(TASK).for_each(scale);
    }
    Tensor::from_primitive::<Flex>(gradient)
}

/// The sum of all numbers' squares, `[1]`: the same bits on any number of threads.
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies `x`.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let x = contiguous(primitive::<D, Flex>(x));
    let numbers = x.storage::<f32>();
    let squares = |part: &[f32]| {
        vectorized(
            #[inline(always)]
            || sum([part], |[number]| number * number),
        )
    };
    let parts: Vec<f32> = if numbers.len() <= ALONE {
        numbers.chunks(TASK).map(squares).collect()
    } else {
        numbers.par_chunks(TASK).map(squares).collect()
    };
    let squares = parts.into_iter().map(f64::from).sum::<f64>() as f32;
    Tensor::from_primitive::<Flex>(tensor(vec![squares], Shape::from([1])))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;
    use crate::computes_on;

    #[test]
    fn results_are_burns_and_what_is_shared_stays() {
        let device = Device::flex();
        // On one thread, and on all.
        for rows in [30, 3_000] {
            let normal = Distribution::Normal(0.0, 1.0);
            let draw = || Tensor::<2>::random([rows, 71], normal, &device);
            let (a, b) = (draw(), draw());
            assert!(computes_on(&a) && !computes_on(&a.clone().autodiff()));
            let before = a.to_data();
            // One of them by columns.
            let columns = b.clone().transpose().mul_scalar(1.0).transpose();
            for part in [b.clone(), columns] {
                let sum = add_gradient(a.clone(), part).into_data();
                sum.assert_eq(&(a.clone() + b.clone()).into_data(), true);
            }
            let scaled = scale_gradient(a.clone(), Tensor::from_floats([0.3], &device));
            let by_burn = a.clone().mul_scalar(0.3_f32);
            scaled.into_data().assert_eq(&by_burn.into_data(), true);
            a.to_data().assert_eq(&before, true);
            let squares = sum_of_squares(a.clone()).into_data();
            let tolerance = Tolerance::<f32>::rel_abs(1e-6, 0.0);
            squares.assert_approx_eq::<f32>(&a.square().sum().into_data(), tolerance);
        }
    }
}
