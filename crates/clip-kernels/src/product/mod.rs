//! Matrix products on slices.

#[cfg(target_arch = "x86_64")]
mod tiles;

use std::mem::MaybeUninit;

use burn::tensor::bf16;

/// A matrix in a slice, read by rows or by columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A matrix in a slice, whose columns lie side by side.
pub(crate) struct MatrixMut<'a> {
    /// Whether it holds numbers already, to which may be added.
    is_set: bool,
    data: &'a mut [MaybeUninit<f32>],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

/// What becomes of the numbers that are in the place of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Replaced,
    AddedTo,
}

impl<'a, T> Matrix<'a, T> {
    /// `[rows, columns]`, as it lies in memory.
    pub(crate) fn new(data: &'a [T], columns: usize) -> Self {
        Self::strided(data, data.len() / columns, columns, columns)
    }

    /// `[rows, columns]`, with `row_stride` numbers from row to row.
    pub(crate) fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert_fits(data.len(), rows, columns, row_stride);
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// The transposed matrix, of the same numbers.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// `[rows, columns]`, as it lies in memory.
    pub(crate) fn new(data: &'a mut [f32], columns: usize) -> Self {
        let rows = data.len() / columns;
        Self::strided(data, rows, columns, columns)
    }

    /// `[rows, columns]`, with `row_stride` numbers from row to row.
    pub(crate) fn strided(
        data: &'a mut [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        assert_fits(data.len(), rows, columns, row_stride);
        // SAFETY: numbers may stand where there may be none, and nothing here takes one away.
        #[allow(unsafe_code)]
        let data = unsafe { &mut *(std::ptr::from_mut(data) as *mut [MaybeUninit<f32>]) };
        Self {
            is_set: true,
            data,
            rows,
            columns,
            row_stride,
        }
    }
}

/// A sum of products of one shape, in memory of its own: none yet is no numbers.
#[derive(Debug, Default)]
pub(crate) struct Sum(Vec<f32>);

impl Sum {
    /// Adds `a * b`.
    pub(crate) fn add(&mut self, factors: Factors, a: Matrix<'_>, b: Matrix<'_>) {
        let (rows, columns) = (a.rows, b.columns);
        if !self.0.is_empty() {
            let out = MatrixMut::strided(&mut self.0, rows, columns, columns);
            return factors.multiply(out, Place::AddedTo, 1.0, a, b);
        }
        // Zeros to add to would have to cross the memory once more.
        self.0.reserve_exact(rows * columns);
        let out = MatrixMut {
            is_set: false,
            data: &mut self.0.spare_capacity_mut()[..rows * columns],
            rows,
            columns,
            row_stride: columns,
        };
        factors.multiply(out, Place::Replaced, 1.0, a, b);
        // SAFETY: a product leaves a number in every place, and there was room for as many.
        #[allow(unsafe_code)]
        unsafe {
            self.0.set_len(rows * columns);
        }
    }

    pub(crate) fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }

    pub(crate) fn into_numbers(self) -> Vec<f32> {
        self.0
    }
}

/// What products are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    AsTheyAre,
    /// To bf16.
    Rounded,
}

impl Factors {
    /// `scale * a * b` to `out`, or added to it. On the calling thread.
    pub(crate) fn multiply(
        self,
        out: MatrixMut<'_>,
        place: Place,
        scale: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
    ) {
        match self {
            Self::AsTheyAre => multiply(out, place, scale, a, b),
            Self::Rounded => multiply_rounded(out, place, scale, a, b),
        }
    }
}

/// What rounded products take.
pub(crate) trait Number: Copy {
    /// By their type.
    fn numbers(numbers: &[Self]) -> Numbers<'_>;
}

/// Numbers of one of the types that are taken.
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Number for f32 {
    #[inline(always)]
    fn numbers(numbers: &[Self]) -> Numbers<'_> {
        Numbers::F32(numbers)
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn numbers(numbers: &[Self]) -> Numbers<'_> {
        Numbers::Bf16(numbers)
    }
}

/// That the last element, and so every other, is in the slice, and that no two are the same.
fn assert_fits(length: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(rows > 0 && columns > 0 && row_stride >= columns);
    assert!((rows - 1) * row_stride + columns <= length);
}

fn assert_product(out: &MatrixMut<'_>, place: Place, a: [usize; 2], b: [usize; 2]) {
    assert_eq!(a[1], b[0]);
    assert_eq!([a[0], b[1]], [out.rows, out.columns]);
    assert!(out.is_set || place == Place::Replaced);
}

/// `scale * a * b` to `out`, or added to it. On the calling thread.
#[allow(unsafe_code)]
pub(crate) fn multiply(out: MatrixMut<'_>, place: Place, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert_product(&out, place, [a.rows, a.columns], [b.rows, b.columns]);
    let (rows, columns, inner) = (out.rows, out.columns, a.columns);
    // SAFETY: each matrix's last element is in its slice (`assert_fits`; transposing keeps the elements), so every
    // element that `gemm` reads or writes is. `out` is borrowed alone, hence doesn't overlap `a` or `b`, and is read only if
    // it holds numbers already.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.data.as_mut_ptr().cast::<f32>(),
            1,
            out.row_stride as isize,
            place == Place::AddedTo,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `scale * a * b` to `out`, or added to it, of numbers rounded to bf16, with sums in f32. On the calling thread, by its
/// processor's matrix unit where there is one.
pub(crate) fn multiply_rounded<T: Number>(
    out: MatrixMut<'_>,
    place: Place,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_, T>,
) {
    assert_product(&out, place, [a.rows, a.columns], [b.rows, b.columns]);
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = tiles::Tiles::find() {
        return tiles.multiply(out, place, scale, a, b);
    }
    multiply_after_rounding(out, place, scale, a, b);
}

/// The same on any processor.
fn multiply_after_rounding<T: Number>(
    out: MatrixMut<'_>,
    place: Place,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_, T>,
) {
    let (a, b) = (Rounded::of(a), Rounded::of(b));
    multiply(out, place, scale, a.matrix(), b.matrix());
}

/// A matrix's numbers rounded, which lie as its own do.
struct Rounded {
    data: Vec<f32>,
    columns: usize,
    is_transposed: bool,
}

impl Rounded {
    fn of<T: Number>(matrix: Matrix<'_, T>) -> Self {
        let is_transposed = matrix.column_stride != 1;
        let rows = if is_transposed { matrix.t() } else { matrix };
        let mut data = Vec::with_capacity(rows.rows * rows.columns);
        for row in 0..rows.rows {
            let row = &rows.data[row * rows.row_stride..][..rows.columns];
            match T::numbers(row) {
                Numbers::F32(row) => {
                    data.extend(row.iter().map(|number| bf16::from_f32(*number).to_f32()));
                }
                Numbers::Bf16(row) => data.extend(row.iter().map(|number| number.to_f32())),
            }
        }
        Self {
            data,
            columns: rows.columns,
            is_transposed,
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        let matrix = Matrix::new(&self.data, self.columns);
        if self.is_transposed {
            matrix.t()
        } else {
            matrix
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_transposes_name_the_same_numbers() {
        // Columns 1 and 2 of a matrix of 3 columns, times the transposed [[1, 2], [3, 4]].
        let wide = [9.0, 1.0, 2.0, 9.0, 3.0, 4.0];
        let a = Matrix::strided(&wide[1..], 2, 2, 3);
        let b = [1.0, 2.0, 3.0, 4.0];
        let mut out = [100.0; 4];
        multiply(
            MatrixMut::new(&mut out, 2),
            Place::Replaced,
            2.0,
            a,
            Matrix::new(&b, 2).t(),
        );
        assert_eq!(out, [10.0, 22.0, 22.0, 50.0]);
        multiply(
            MatrixMut::new(&mut out, 2),
            Place::AddedTo,
            1.0,
            a.t(),
            Matrix::new(&b, 2),
        );
        assert_eq!(out, [20.0, 36.0, 36.0, 70.0]);
    }

    /// Numbers between -1 and 1 of which bf16 holds few, and no two rows or columns alike.
    fn draw(length: usize) -> Vec<f32> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// All ways to lie in memory, within a tile and over blocks of them. The matrix unit's result, where there is one, and
    /// that of rounding first are within the error of sums in f32 of the exact one.
    #[test]
    fn a_rounded_product_is_that_of_rounded_numbers() {
        for (rows, inner, columns) in [
            (1, 1, 1),
            (3, 7, 5),
            (33, 31, 70),
            (16, 32, 17),
            (600, 800, 40),
        ] {
            let (a, b) = (draw(rows * inner), draw(inner * columns));
            let half: Vec<bf16> = b.iter().map(|number| bf16::from_f32(*number)).collect();
            for (a_by_rows, b_by_rows) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let a = if a_by_rows {
                    Matrix::new(&a, inner)
                } else {
                    Matrix::new(&a, rows).t()
                };
                let by_rows = |data| {
                    if b_by_rows {
                        Matrix::new(data, columns)
                    } else {
                        Matrix::new(data, inner).t()
                    }
                };
                let halves = if b_by_rows {
                    Matrix::new(&half, columns)
                } else {
                    Matrix::new(&half, inner).t()
                };
                let at = |matrix: Matrix<'_>, row, column| {
                    let place = row * matrix.row_stride + column * matrix.column_stride;
                    f64::from(bf16::from_f32(matrix.data[place]))
                };
                let product = |multiply: &dyn Fn(MatrixMut<'_>, Place)| {
                    let mut out = vec![3.0; rows * (columns + 2)];
                    for place in [Place::Replaced, Place::AddedTo] {
                        multiply(
                            MatrixMut::strided(&mut out, rows, columns, columns + 2),
                            place,
                        );
                    }
                    out
                };
                let b = by_rows(&b);
                let found = [
                    product(&|out, place| multiply_rounded(out, place, 0.5, a, b)),
                    product(&|out, place| multiply_rounded(out, place, 0.5, a, halves)),
                    product(&|out, place| multiply_after_rounding(out, place, 0.5, a, b)),
                    product(&|out, place| multiply_after_rounding(out, place, 0.5, a, halves)),
                ];
                for row in 0..rows {
                    for column in 0..columns {
                        let want: f64 = (0..inner)
                            .map(|at_| at(a, row, at_) * at(b, at_, column))
                            .sum();
                        for found in &found {
                            let got = f64::from(found[row * (columns + 2) + column]);
                            let bound = 1e-6 * inner as f64; // of sums in f32, in any order
                            assert!((got - want).abs() < bound, "{got} instead of {want}");
                        }
                    }
                    for found in &found {
                        let beside = &found[row * (columns + 2)..][columns..columns + 2];
                        assert_eq!(beside, [3.0; 2], "beside row {row}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut out = [0.0; 4];
        let a = [1.0, f32::NAN, f32::INFINITY, 1.0];
        let one = [1.0_f32, 0.0, 0.0, 1.0];
        let (a, one) = (Matrix::new(&a, 2), Matrix::new(&one, 2));
        multiply_rounded(MatrixMut::new(&mut out, 2), Place::Replaced, 1.0, a, one);
        assert!(
            out[1].is_nan() && !out[2].is_finite() && out[3].is_nan(),
            "{out:?}"
        );
    }

    #[test]
    #[should_panic(expected = "row_stride + columns <= length")]
    fn a_matrix_that_ends_outside_its_slice_is_refused() {
        Matrix::strided(&[0.0; 5], 2, 3, 3);
    }
}
