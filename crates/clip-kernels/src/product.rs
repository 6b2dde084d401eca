//! Matrix products on slices.

/// A matrix in a slice, read at any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A matrix in a slice, whose columns lie side by side.
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
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

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, as it lies in memory.
    pub(crate) fn new(data: &'a [f32], columns: usize) -> Self {
        Self::strided(data, data.len() / columns, columns, columns)
    }

    /// `[rows, columns]`, with `row_stride` numbers from row to row.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
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
        Self {
            data,
            rows,
            columns,
            row_stride,
        }
    }
}

/// That the last element, and so every other, is in the slice, and that no two are the same.
fn assert_fits(length: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(rows > 0 && columns > 0 && row_stride >= columns);
    assert!((rows - 1) * row_stride + columns <= length);
}

/// `scale * a * b` to `out`, or added to it. On the calling thread.
#[allow(unsafe_code)]
pub(crate) fn multiply(out: MatrixMut<'_>, place: Place, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.columns, b.rows);
    assert_eq!((a.rows, b.columns), (out.rows, out.columns));
    let (rows, columns, inner) = (out.rows, out.columns, a.columns);
    // SAFETY: each matrix's last element is in its slice (`assert_fits`; transposing keeps the elements), so every
    // element that `gemm` reads or writes is. `out` is borrowed alone, hence doesn't overlap `a` or `b`, and holds
    // numbers already, which may be read.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.data.as_mut_ptr(),
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

    #[test]
    #[should_panic(expected = "row_stride + columns <= length")]
    fn a_matrix_that_ends_outside_its_slice_is_refused() {
        Matrix::strided(&[0.0; 5], 2, 3, 3);
    }
}
