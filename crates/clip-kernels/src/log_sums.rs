//! Log-sum-exps of a matrix's rows and columns, and the softmaxes that are their gradients.

use burn::{
    backend::Flex,
    tensor::{Shape, Tensor},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::{
    activation::exp,
    primitive::{contiguous, primitive, tensor},
    rows::{largest, sum, vectorized},
};

/// Columns that are summed at a time: their part of a matrix of some hundred rows stays in a core's cache.
const COLUMNS: usize = 256;
/// Numbers that are worth a task: some ten microseconds of work.
const NUMBERS: usize = 1 << 14;

/// The logarithm of the sum of exponentials over `dim`, by which a softmax over it is `exp(x - log_sum_exp)`.
///
/// # Shapes
/// - `x`: `[rows, columns]`
/// - returns `[1, columns]` over `dim` 0, `[rows, 1]` over `dim` 1
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies `x`, and if `dim` is neither.
pub fn log_sum_exp(x: &Tensor<2>, dim: usize) -> Tensor<2> {
    let [rows, columns] = x.dims();
    assert!(dim < 2, "a matrix has dimensions 0 and 1, not {dim}");
    let x = matrix(x);
    let sums = if dim == 0 {
        of_columns(x.storage(), columns)
    } else {
        of_rows(x.storage(), columns)
    };
    let shape = if dim == 0 { [1, columns] } else { [rows, 1] };
    Tensor::from_primitive::<Flex>(tensor(sums, Shape::from(shape)))
}

/// `exp(x - by_row) + exp(x - by_column)`: the softmaxes over rows and over columns, added.
///
/// # Shapes
/// - `x`: `[rows, columns]`
/// - `by_row`, `by_column`: `[rows, 1]` and `[1, columns]`, as [`log_sum_exp`] returns them
/// - returns `[rows, columns]`
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies one of them, and if a shape doesn't fit.
pub fn sum_of_softmaxes(x: &Tensor<2>, by_row: &Tensor<2>, by_column: &Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    assert_eq!(by_row.dims(), [rows, 1], "a number for each row");
    assert_eq!(by_column.dims(), [1, columns], "a number for each column");
    let [x, by_row, by_column] = [x, by_row, by_column].map(matrix);
    let by_column: &[f32] = by_column.storage();
    let mut sums = x.storage::<f32>().to_vec();
    sums.par_chunks_mut(columns)
        .zip(by_row.storage::<f32>())
        .with_min_len(rows_of_a_task(columns))
        .for_each(|(row, by_row)| {
            vectorized(
                #[inline(always)]
                || {
                    for (x, by_column) in row.iter_mut().zip(by_column) {
                        *x = exp(*x - by_row) + exp(*x - by_column);
                    }
                },
            );
        });
    Tensor::from_primitive::<Flex>(tensor(sums, Shape::from([rows, columns])))
}

pub(crate) fn matrix(x: &Tensor<2>) -> FlexTensor {
    contiguous(primitive::<2, Flex>(x.clone()))
}

/// Rows that are worth a task.
pub(crate) fn rows_of_a_task(columns: usize) -> usize {
    NUMBERS.div_ceil(columns)
}

fn of_rows(x: &[f32], columns: usize) -> Vec<f32> {
    let rows = x.par_chunks(columns);
    rows.with_min_len(rows_of_a_task(columns))
        .map(|row| {
            vectorized(
                #[inline(always)]
                || {
                    let largest = largest(row);
                    largest + sum([row], |[x]| exp(x - largest)).ln()
                },
            )
        })
        .collect()
}

fn of_columns(x: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    let parts = sums.par_chunks_mut(COLUMNS).enumerate();
    parts.for_each(|(part, sums)| {
        let first = part * COLUMNS;
        let rows = || {
            x.chunks_exact(columns)
                .map(|row| &row[first..][..sums.len()])
        };
        let mut largest = vec![f32::NEG_INFINITY; sums.len()];
        let mut sum = vec![0.0; sums.len()];
        vectorized(
            #[inline(always)]
            || {
                for row in rows() {
                    for (largest, x) in largest.iter_mut().zip(row) {
                        *largest = if *x > *largest { *x } else { *largest };
                    }
                }
                for row in rows() {
                    for ((sum, largest), x) in sum.iter_mut().zip(&largest).zip(row) {
                        *sum += exp(x - largest);
                    }
                }
            },
        );
        for ((out, sum), largest) in sums.iter_mut().zip(sum).zip(largest) {
            *out = largest + sum.ln();
        }
    });
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::computes_on;

    /// More columns than are summed at a time, and logits as far apart as a temperature of 1/100 makes them.
    fn logits() -> Tensor<2> {
        let (rows, columns) = (7, COLUMNS + 9);
        let numbers = (0..rows * columns).map(|at| (at * 7919 % 2003) as f32 * 0.1 - 100.0);
        let shape = Shape::from([rows, columns]);
        Tensor::from_primitive::<Flex>(tensor(numbers.collect(), shape))
    }

    fn numbers(x: Tensor<2>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn sums_are_those_in_double_precision() {
        let x = logits();
        let [rows, columns] = x.dims();
        let values = numbers(x.clone());
        let expected = |places: &mut dyn Iterator<Item = usize>| {
            places
                .map(|at| f64::from(values[at]).exp())
                .sum::<f64>()
                .ln()
        };
        for (row, got) in numbers(log_sum_exp(&x, 1)).into_iter().enumerate() {
            let expected = expected(&mut (row * columns..(row + 1) * columns));
            assert!((f64::from(got) - expected).abs() < 2e-5, "row {row}: {got}");
        }
        for (column, got) in numbers(log_sum_exp(&x, 0)).into_iter().enumerate() {
            let expected = expected(&mut (0..rows).map(|row| row * columns + column));
            assert!(
                (f64::from(got) - expected).abs() < 2e-5,
                "column {column}: {got}"
            );
        }
    }

    #[test]
    fn softmaxes_sum_to_one_over_rows_and_over_columns() {
        let x = logits();
        let (by_row, by_column) = (log_sum_exp(&x, 1), log_sum_exp(&x, 0));
        let both = sum_of_softmaxes(&x, &by_row, &by_column);
        let [rows, columns] = x.dims();
        let total: f32 = both.sum().into_scalar();
        assert!((total - (rows + columns) as f32).abs() < 1e-2, "{total}");
        // Without one of them.
        let never = Tensor::full([1, columns], f32::INFINITY, &x.device());
        let of_rows = sum_of_softmaxes(&x, &by_row, &never).sum_dim(1);
        assert!(numbers(of_rows).iter().all(|sum| (sum - 1.0).abs() < 1e-5));
    }

    #[test]
    fn a_matrix_with_autodiff_is_denied() {
        let x = logits();
        assert!(computes_on(&x));
        assert!(!computes_on(&x.autodiff()));
    }

    #[test]
    fn what_is_no_number_spreads() {
        let x = logits();
        let hole = Tensor::full([1, 1], f32::NAN, &x.device());
        let x = x.slice_assign([3..4, 5..6], hole);
        assert!(numbers(log_sum_exp(&x, 1))[3].is_nan());
        assert!(numbers(log_sum_exp(&x, 0))[5].is_nan());
    }
}
