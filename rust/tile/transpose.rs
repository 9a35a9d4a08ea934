//! Transposing small matrices: results whose rows are positions, and weights that are packed.

/// A matrix and where its transpose goes: element (i, j) to byte `j * row` + element `i` of `to`.
pub struct Matrix<T> {
    pub from: *const T,
    /// Elements between rows.
    pub pitch: isize,
    pub rows: usize,
    pub columns: usize,
    pub to: *mut T,
    pub row: isize,
}

/// Transposes.
pub type Transpose<T> = unsafe fn(&Matrix<T>);

impl<T: Copy> Matrix<T> {
    /// The same of elements of another type and as many bytes.
    #[inline(always)]
    pub fn cast<S>(&self) -> Matrix<S> {
        assert!(size_of::<S>() == size_of::<T>());
        let Matrix { from, pitch, rows, columns, to, row } = *self;
        Matrix { from: from.cast(), pitch, rows, columns, to: to.cast(), row }
    }

    /// The part from row `i` and column `j` on.
    #[inline(always)]
    fn from(&self, i: usize, j: usize) -> Matrix<T> {
        Matrix {
            from: self.from.wrapping_offset(i as isize * self.pitch + j as isize),
            rows: self.rows - i,
            columns: self.columns - j,
            to: self.to.wrapping_byte_offset(j as isize * self.row).wrapping_add(i),
            ..*self
        }
    }
}

/// Element by element.
///
/// # Safety
/// `from` must be readable for every element, and `to` writable, of any alignment.
#[inline(always)]
pub unsafe fn plain<T: Copy>(matrix: &Matrix<T>) {
    for j in 0..matrix.columns {
        let to = matrix.to.wrapping_byte_offset(j as isize * matrix.row);
        for i in 0..matrix.rows {
            let from = matrix.from.wrapping_offset(i as isize * matrix.pitch + j as isize);
            // SAFETY: the caller vouches for both.
            unsafe { to.add(i).write_unaligned(from.read()) }
        }
    }
}

/// In square blocks of `N`, by a function that does one and writes some of its rows' elements: blocks at
/// the lower edge may go over rows twice, so only matrices of fewer than `N` rows need it to write less.
///
/// # Safety
/// As for [`plain`], and `block` may be called for any `N` columns of up to `N` rows.
#[inline(always)]
pub unsafe fn blocks<T: Copy, const N: usize>(matrix: &Matrix<T>, block: impl Fn(&Matrix<T>)) {
    let whole = matrix.columns / N * N;
    for j in (0..whole).step_by(N) {
        for i in (0..matrix.rows).step_by(N) {
            block(&matrix.from(i.min(matrix.rows.saturating_sub(N)), j));
        }
    }
    // SAFETY: a part of what the caller vouches for.
    unsafe { plain(&matrix.from(0, whole)) }
}
