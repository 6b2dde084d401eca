//! `SigLIP`'s questions, whether an image and a caption match: what all together lose, and the derivative by each logit.

use burn::{
    backend::Flex,
    tensor::{Shape, Tensor},
};
use rayon::prelude::*;

use crate::{
    activation::exp,
    log_sums::{matrix, rows_of_a_task},
    primitive::tensor,
    rows::{sum, vectorized},
};

/// The sum of `-log sigmoid(z * logit)` over a matrix, where `z` is 1 where row and column have one id and -1 elsewhere,
/// and its derivative by the logits, `-z * sigmoid(-z * logit)`.
///
/// # Shapes
/// - `logits`: `[rows, columns]`
/// - `row_ids`, `column_ids`: a number for each row and each column
/// - returns `[1]` and `[rows, columns]`
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies `logits`, and if there isn't an id for each row and column.
pub fn pairwise_sigmoid(
    logits: &Tensor<2>,
    row_ids: &[i32],
    column_ids: &[i32],
) -> (Tensor<1>, Tensor<2>) {
    let [rows, columns] = logits.dims();
    assert_eq!(row_ids.len(), rows, "an id for each row");
    assert_eq!(column_ids.len(), columns, "an id for each column");
    let mut by_logits = matrix(logits).storage::<f32>().to_vec();
    let losses: Vec<f32> = by_logits
        .par_chunks_mut(columns)
        .zip(row_ids)
        .with_min_len(rows_of_a_task(columns))
        .map_init(
            || vec![0.0; columns],
            |losses, (row, row_id)| {
                vectorized(
                    #[inline(always)]
                    || {
                        let places = row.iter_mut().zip(column_ids).zip(&mut *losses);
                        for ((logit, column_id), loss) in places {
                            let sign = if row_id == column_id { 1.0 } else { -1.0 };
                            let (lost, wrong) = surprise(sign * *logit);
                            *loss = lost;
                            *logit = -sign * wrong;
                        }
                        sum([losses], |[loss]| loss)
                    },
                )
            },
        )
        .collect();
    // Rows are few, and their losses of one sign.
    let total = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() as f32;
    (
        Tensor::from_primitive::<Flex>(tensor(vec![total], Shape::from([1]))),
        Tensor::from_primitive::<Flex>(tensor(by_logits, Shape::from([rows, columns]))),
    )
}

/// What is lost by an answer of this logit that is right, `-log sigmoid(x)`, and the probability of the wrong one,
/// `sigmoid(-x)`.
#[inline(always)]
fn surprise(x: f32) -> (f32, f32) {
    // Of the two probabilities the smaller, over the larger.
    let odds = exp(-x.abs());
    let larger = 1.0 / (1.0 + odds);
    if x < 0.0 {
        (log_1p(odds) - x, larger)
    } else {
        (log_1p(odds), odds * larger)
    }
}

/// `log(1 + x)` for `x` from 0 to 1, two units in the last place off at most.
#[inline(always)]
fn log_1p(x: f32) -> f32 {
    // 2 atanh(z) = 2 (z + z^3 / 3 + z^5 / 5 + ...), of which z <= 1/3 needs eight terms; highest power first.
    const TERMS: [f32; 7] = [
        2.0 / 15.0,
        2.0 / 13.0,
        2.0 / 11.0,
        2.0 / 9.0,
        2.0 / 7.0,
        2.0 / 5.0,
        2.0 / 3.0,
    ];
    let z = x / (x + 2.0);
    let square = z * z;
    let rest = TERMS
        .into_iter()
        .fold(0.0, |sum, factor| sum * square + factor);
    rest * square * z + 2.0 * z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_the_function_of_its_name() {
        let mut worst = 0.0_f64;
        for step in 1..=100_000 {
            let x = step as f32 / 100_000.0;
            let exact = f64::from(x).ln_1p();
            worst = worst.max((f64::from(log_1p(x)) / exact - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert_eq!(log_1p(0.0), 0.0);
        assert_eq!(log_1p(1e-30), 1e-30);
    }

    #[test]
    fn losses_and_derivatives_are_those_in_double_precision() {
        let (rows, columns) = (5, 43);
        let logits: Vec<f32> = (0..rows * columns)
            .map(|at| (at * 7919 % 2003) as f32 * 0.1 - 100.0)
            .collect();
        let row_ids: Vec<i32> = (0..5).collect();
        let column_ids: Vec<i32> = (0..43).map(|at| at % 7).collect();
        let x =
            Tensor::from_primitive::<Flex>(tensor(logits.clone(), Shape::from([rows, columns])));
        let (loss, by_logits) = pairwise_sigmoid(&x, &row_ids, &column_ids);
        let by_logits: Vec<f32> = by_logits.into_data().try_to_vec().unwrap();
        let mut expected = 0.0;
        for (at, logit) in logits.into_iter().enumerate() {
            let matches = row_ids[at / columns] == column_ids[at % columns];
            let sign = if matches { 1.0 } else { -1.0 };
            let wrong = 1.0 / (1.0 + (sign * f64::from(logit)).exp());
            expected += (-sign * f64::from(logit)).exp().ln_1p();
            let off = f64::from(by_logits[at]) + sign * wrong;
            // `exp` is 0 below -87.
            let near = 3e-7 * wrong + (-87_f64).exp();
            assert!(off.abs() < near, "{logit}: {off:e} of {wrong:e}");
        }
        let loss: f32 = loss.into_scalar();
        assert!((f64::from(loss) / expected - 1.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn what_is_no_number_spreads() {
        let x = Tensor::from_primitive::<Flex>(tensor(vec![f32::NAN], Shape::from([1, 1])));
        let (loss, by_logits) = pairwise_sigmoid(&x, &[0], &[0]);
        assert!(loss.into_scalar::<f32>().is_nan());
        assert!(by_logits.into_scalar::<f32>().is_nan());
    }
}
