//! Layer norms of rows.

use crate::rows::{sum, vectorized};

/// A layer norm's parameters, each `[width]`.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

/// A row's mean, and one over its standard deviation.
pub(crate) type Moments = (f32, f32);

impl Norm<'_> {
    /// Each row's moments.
    pub(crate) fn moments(&self, x: &[f32]) -> Vec<Moments> {
        let width = self.gamma.len();
        let moments = |row: &[f32]| {
            let mean = sum([row], |[x]| x) / width as f32;
            let variance = sum([row], |[x]| (x - mean) * (x - mean)) / width as f32;
            (mean, 1.0 / (variance + self.epsilon).sqrt())
        };
        vectorized(
            #[inline(always)]
            || x.chunks_exact(width).map(moments).collect(),
        )
    }

    /// The rows normalised.
    pub(crate) fn normalize(&self, x: &[f32], moments: &[Moments], out: &mut [f32]) {
        let width = self.gamma.len();
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        vectorized(
            #[inline(always)]
            || {
                for ((row, out), (mean, scale)) in rows.zip(moments) {
                    let parameters = self.gamma.iter().zip(self.beta);
                    for ((x, out), (gamma, beta)) in row.iter().zip(out).zip(parameters) {
                        *out = (x - mean) * scale * gamma + beta;
                    }
                }
            },
        );
    }

    /// Adds to `dx` the gradient by `x` of rows whose norms have the gradient `dy`, and to the last two those by the
    /// parameters.
    pub(crate) fn back(
        &self,
        x: &[f32],
        moments: &[Moments],
        dy: &[f32],
        dx: &mut [f32],
        [dgamma, dbeta]: &mut [Vec<f32>; 2],
    ) {
        let width = self.gamma.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        let rows = rows.zip(dx.chunks_exact_mut(width)).zip(moments);
        vectorized(
            #[inline(always)]
            || {
                for (((x, dy), dx), (mean, scale)) in rows {
                    // The mean gradient by normalised numbers, and that of its products with them.
                    let direct = sum([dy, self.gamma], |[dy, gamma]| dy * gamma) / width as f32;
                    let along = sum([dy, self.gamma, x], |[dy, gamma, x]| {
                        dy * gamma * ((x - mean) * scale)
                    }) / width as f32;
                    let parameters = dgamma.iter_mut().zip(dbeta.iter_mut()).zip(self.gamma);
                    let numbers = x.iter().zip(dy).zip(dx.iter_mut());
                    for (((x, dy), dx), ((dgamma, dbeta), gamma)) in numbers.zip(parameters) {
                        let normal = (x - mean) * scale;
                        *dgamma += dy * normal;
                        *dbeta += dy;
                        *dx += (dy * gamma - direct - normal * along) * scale;
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normalised_row_has_mean_beta_and_deviation_gamma() {
        let x: Vec<f32> = (0..24).map(|at| (at * at % 17) as f32 + 100.0).collect();
        let norm = Norm {
            gamma: &[2.0; 12],
            beta: &[3.0; 12],
            epsilon: 1e-5,
        };
        let moments = norm.moments(&x);
        let mut out = vec![0.0; 24];
        norm.normalize(&x, &moments, &mut out);
        for row in out.chunks(12) {
            let mean = row.iter().sum::<f32>() / 12.0;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 12.0;
            assert!(
                (mean - 3.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-3,
                "{mean} {variance}"
            );
        }
    }
}
