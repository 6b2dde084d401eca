//! Softmax of rows.

use crate::{
    activation::exp,
    rows::{largest, sum, vectorized},
};

/// Makes probabilities of each row's scores, where they stand.
pub(crate) fn softmax(rows: &mut [f32], columns: usize) {
    vectorized(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(columns) {
                let largest = largest(row);
                for score in row.iter_mut() {
                    *score = exp(*score - largest);
                }
                let scale = 1.0 / sum([row], |[score]| score);
                for score in row.iter_mut() {
                    *score *= scale;
                }
            }
        },
    );
}

/// Makes the scores' gradient of the probabilities', where it stands.
pub(crate) fn softmax_back(probabilities: &[f32], gradient: &mut [f32], columns: usize) {
    let rows = probabilities
        .chunks_exact(columns)
        .zip(gradient.chunks_exact_mut(columns));
    vectorized(
        #[inline(always)]
        || {
            for (probabilities, gradient) in rows {
                let mean = sum([probabilities, gradient], |[p, g]| p * g);
                for (p, g) in probabilities.iter().zip(gradient) {
                    *g = p * (*g - mean);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_scores_get_nothing_and_the_rest_sums_to_one() {
        let mut rows = vec![f32::NEG_INFINITY; 22];
        for (at, score) in rows[..10].iter_mut().enumerate() {
            *score = 100.0 + at as f32;
        }
        rows[11] = -5.0;
        softmax(&mut rows, 11);
        assert_eq!(rows[10], 0.0);
        assert_eq!(rows[11..], [&[1.0][..], &[0.0; 10]].concat());
        assert!((rows[..11].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let e = std::f32::consts::E;
        assert!((rows[9] / rows[8] - e).abs() < 1e-5);
    }
}
