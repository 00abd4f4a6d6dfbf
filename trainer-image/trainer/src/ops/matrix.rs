#![allow(unsafe_code)]
//! Matrix products on slices: the one place where the `gemm` kernels are called.

use gemm::Parallelism;

/// A matrix in a slice: element (row, column) stands at `row * row_stride + column * column_stride`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix without gaps, at the start of `values`.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::with_row_stride(values, rows, columns, columns)
    }

    /// A row-major matrix whose rows begin `row_stride` values apart.
    pub(super) fn with_row_stride(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same values, rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    fn fits(&self) -> bool {
        fits(self.values.len(), self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// The row-major matrix that a product is written to.
#[derive(Debug)]
pub(super) struct Product<'a> {
    /// Where it stands, from its first element on.
    pub(super) values: &'a mut [f32],
    /// Values from the start of one row to the start of the next.
    pub(super) row_stride: usize,
    /// Whether the product is added to what is there, instead of replacing it.
    pub(super) accumulate: bool,
}

/// Who computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread; its callers run in parallel already.
    Caller,
    /// All threads of the process, if it has more than one and the product is large enough.
    All,
}

impl Threads {
    fn parallelism(self) -> Parallelism {
        match self {
            Self::All if rayon::current_num_threads() > 1 => Parallelism::Rayon(0),
            _ => Parallelism::None,
        }
    }
}

/// `product = scale * left * right`, or that added to it.
///
/// Each element is summed by one thread in one order.
///
/// # Panics
/// If the inner sizes differ, or a matrix reaches beyond its slice.
pub(super) fn multiply(product: Product<'_>, left: Matrix<'_>, right: Matrix<'_>, scale: f32, threads: Threads) {
    let Product { values, row_stride, accumulate } = product;
    let (rows, inner, columns) = (left.rows, left.columns, right.columns);
    assert_eq!(inner, right.rows, "inner sizes of a product");
    assert!(left.fits() && right.fits(), "a factor reaches beyond its slice");
    assert!(columns <= row_stride && fits(values.len(), rows, columns, row_stride, 1));
    // SAFETY: the three assertions above bound every address that the kernel forms from sizes and strides to the borrowed
    // slices; `columns <= row_stride` makes the elements of the product distinct, and the borrow of `values` is
    // exclusive, so that it overlaps neither factor. Strides fit in isize because slices do.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            values.as_mut_ptr(),
            1,
            row_stride as isize,
            accumulate,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            if accumulate { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            threads.parallelism(),
        );
    }
}

/// Whether the last element of a matrix lies inside a slice of `length`; an empty matrix always fits.
fn fits(length: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    let last = |count: usize, stride: usize| count.checked_sub(1).and_then(|before| before.checked_mul(stride));
    match (last(rows, row_stride), last(columns, column_stride)) {
        (Some(row), Some(column)) => row.checked_add(column).is_some_and(|last| last < length),
        _ => rows == 0 || columns == 0,
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn a_product_of_a_transposed_and_a_strided_matrix() {
        let left = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let right = [1.0, 0.0, 9.0, 0.0, 1.0, 9.0, 1.0, 1.0, 9.0];
        let mut values = [100.0; 5];
        let (left, right) = (Matrix::new(&left, 3, 2).transposed(), Matrix::with_row_stride(&right, 3, 2, 3));
        let product = Product { values: &mut values, row_stride: 3, accumulate: true };
        multiply(product, left, right, 2.0, Threads::Caller);
        assert_eq!(values, [112.0, 116.0, 100.0, 116.0, 120.0]);
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn a_matrix_that_reaches_beyond_its_slice_is_refused() {
        let product = Product { values: &mut [0.0; 4], row_stride: 2, accumulate: false };
        multiply(product, Matrix::new(&[1.0; 3], 2, 2), Matrix::new(&[1.0; 4], 2, 2), 1.0, Threads::Caller);
    }

    #[test]
    #[should_panic(expected = "beyond its slice")]
    fn sizes_whose_product_overflows_are_refused() {
        let product = Product { values: &mut [0.0; 4], row_stride: 2, accumulate: false };
        let huge = Matrix::with_row_stride(&[1.0; 3], 3, 2, usize::MAX);
        multiply(product, huge, Matrix::new(&[1.0; 4], 2, 2), 1.0, Threads::Caller);
    }
}
