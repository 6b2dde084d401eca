//! What a processor multiplies at most.

use burn::tensor::bf16;

use crate::product::{Matrix, MatrixMut, Place, multiply, multiply_rounded};

/// A product of two square matrices, as [`residual_block`](crate::residual_block) multiplies by weights: the limit that its
/// rate is compared with.
#[derive(Debug)]
pub struct SquareProduct {
    side: usize,
    left: Vec<f32>,
    /// In f32 or in bf16.
    right: Result<Vec<f32>, Vec<bf16>>,
    out: Vec<f32>,
}

impl SquareProduct {
    /// Of as many rows and columns, and of weights in f32 or in bf16.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(side: usize, in_bf16: bool) -> Self {
        assert!(side > 0, "a matrix has a row");
        // Any numbers that are no zeros.
        let numbers = (0..side * side).map(|at| (at % 251) as f32 / 251.0 - 0.5);
        let left: Vec<f32> = numbers.collect();
        let right = if in_bf16 {
            Err(left.iter().map(|number| bf16::from_f32(*number)).collect())
        } else {
            Ok(left.clone())
        };
        Self {
            side,
            out: vec![0.0; left.len()],
            left,
            right,
        }
    }

    /// Multiplies, on the calling thread.
    pub fn run(&mut self) {
        let out = MatrixMut::new(&mut self.out, self.side);
        let left = Matrix::new(&self.left, self.side);
        match &self.right {
            Ok(right) => {
                let right = Matrix::new(right, self.side);
                multiply(out, Place::Replaced, 1.0, left, right);
            }
            Err(right) => {
                let right = Matrix::new(right, self.side);
                multiply_rounded(out, Place::Replaced, 1.0, left, right);
            }
        }
        std::hint::black_box(&self.out);
    }
}
