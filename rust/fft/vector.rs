//! What transforms ask of vectors beyond what tiles do.

use crate::tile::{Array, Vector};
use crate::view::Element;

/// A vector that transforms are made of.
///
/// # Safety
/// `transpose` touches exactly the two squares that it is given.
pub unsafe trait Wave: Vector {
    /// Rows of outputs and of positions that a tile of products has: its sums, one factor of each
    /// row and one of each column fill the registers.
    const PRODUCTS: (usize, usize);

    /// `value` in every lane.
    ///
    /// # Safety
    /// The CPU must have the instructions of this vector type; so for all that follow.
    #[inline(always)]
    unsafe fn set(value: Self::Element) -> Self {
        // SAFETY: the element is a local.
        unsafe { Self::splat(&value) }
    }

    /// Lane-wise self - other.
    ///
    /// # Safety
    /// As for `set`.
    unsafe fn sub(self, other: Self) -> Self;

    /// Lane-wise self * other.
    ///
    /// # Safety
    /// As for `set`.
    unsafe fn mul(self, other: Self) -> Self;

    /// Lane-wise addend - self * factor, rounded once.
    ///
    /// # Safety
    /// As for `set`.
    unsafe fn neg_mul_add(self, factor: Self, addend: Self) -> Self;

    /// Turns `LANES` rows of `LANES` elements, `from.1` elements apart, into columns.
    ///
    /// # Safety
    /// As for `set`; the square at `from` must be readable and that at `to` writable, and they must
    /// not overlap.
    unsafe fn transpose(from: (*const Self::Element, usize), to: (*mut Self::Element, usize));
}

// SAFETY: every element of the squares and no other.
unsafe impl<T: Element, const LANES: usize> Wave for Array<T, LANES> {
    const PRODUCTS: (usize, usize) = (3, 2);

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].sub(other.0[i])))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].mul(other.0[i])))
    }

    #[inline(always)]
    unsafe fn neg_mul_add(self, factor: Self, addend: Self) -> Self {
        let minus = T::from_f64(-0.0);
        Array(std::array::from_fn(|i| minus.sub(self.0[i]).mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    unsafe fn transpose(from: (*const T, usize), to: (*mut T, usize)) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: within the two squares, for which the caller vouches.
                unsafe { *to.0.add(j * to.1 + i) = *from.0.add(i * from.1 + j) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::Wave;

    macro_rules! wave {
        ($register:ident, $element:ident, $products:expr, $sub:ident, $mul:ident, $nmadd:ident,
         $transpose:ident) => {
            // SAFETY: `transpose` loads and stores whole rows of the two squares.
            unsafe impl Wave for $register {
                const PRODUCTS: (usize, usize) = $products;
                #[inline(always)]
                unsafe fn sub(self, other: Self) -> Self {
                    // SAFETY: the caller vouches for the instructions; so in all of these.
                    unsafe { $sub(self, other) }
                }
                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    // SAFETY: as for `sub`.
                    unsafe { $mul(self, other) }
                }
                #[inline(always)]
                unsafe fn neg_mul_add(self, factor: Self, addend: Self) -> Self {
                    // SAFETY: as for `sub`.
                    unsafe { $nmadd(self, factor, addend) }
                }
                #[inline(always)]
                unsafe fn transpose(from: (*const $element, usize), to: (*mut $element, usize)) {
                    // SAFETY: the caller vouches for both squares.
                    unsafe { $transpose(from, to) }
                }
            }
        };
    }

    wave!(__m512, f32, (4, 3), _mm512_sub_ps, _mm512_mul_ps, _mm512_fnmadd_ps, transpose_16);
    wave!(__m512d, f64, (4, 3), _mm512_sub_pd, _mm512_mul_pd, _mm512_fnmadd_pd, transpose_8_wide);
    wave!(__m256, f32, (2, 2), _mm256_sub_ps, _mm256_mul_ps, _mm256_fnmadd_ps, transpose_8);
    wave!(__m256d, f64, (2, 2), _mm256_sub_pd, _mm256_mul_pd, _mm256_fnmadd_pd, transpose_4);

    // All four read each row in pieces of 128 bits, and put those of rows that lie a quarter (half) of
    // the square apart into one register: inserting from memory is a load, while moving pieces between
    // registers keeps the one port for shuffles busy, which is what a transpose waits for.

    /// Pieces of four rows, `step` elements apart.
    #[inline(always)]
    unsafe fn quad(from: *const f32, step: usize) -> __m512 {
        // SAFETY: the caller vouches for the pieces and the instructions; so in all that follow.
        unsafe {
            let v = _mm512_castps128_ps512(_mm_loadu_ps(from));
            let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(from.add(step)));
            let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(from.add(2 * step)));
            _mm512_insertf32x4::<3>(v, _mm_loadu_ps(from.add(3 * step)))
        }
    }

    /// Pieces of two rows, `step` elements apart.
    #[inline(always)]
    unsafe fn pair(from: *const f32, step: usize) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_castps128_ps256(_mm_loadu_ps(from));
            _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add(step)))
        }
    }

    #[inline(always)]
    unsafe fn transpose_16((from, row): (*const f32, usize), (to, column): (*mut f32, usize)) {
        for q in 0..4 {
            // SAFETY: the caller vouches for 16 rows of 16, on both sides.
            unsafe {
                let (from, to) = (from.add(4 * q), to.add(4 * q * column));
                let (v0, v1) = (quad(from, 4 * row), quad(from.add(row), 4 * row));
                let (v2, v3) = (quad(from.add(2 * row), 4 * row), quad(from.add(3 * row), 4 * row));
                let t0 = _mm512_castps_pd(_mm512_unpacklo_ps(v0, v1));
                let t1 = _mm512_castps_pd(_mm512_unpackhi_ps(v0, v1));
                let t2 = _mm512_castps_pd(_mm512_unpacklo_ps(v2, v3));
                let t3 = _mm512_castps_pd(_mm512_unpackhi_ps(v2, v3));
                let (to, column) = (to.cast::<f64>(), column / 2);
                _mm512_storeu_pd(to, _mm512_unpacklo_pd(t0, t2));
                _mm512_storeu_pd(to.add(column), _mm512_unpackhi_pd(t0, t2));
                _mm512_storeu_pd(to.add(2 * column), _mm512_unpacklo_pd(t1, t3));
                _mm512_storeu_pd(to.add(3 * column), _mm512_unpackhi_pd(t1, t3));
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose_8_wide((from, row): (*const f64, usize), (to, column): (*mut f64, usize)) {
        for q in 0..4 {
            // SAFETY: the caller vouches for 8 rows of 8, on both sides.
            unsafe {
                let (from, to) = (from.add(2 * q), to.add(2 * q * column));
                let v0 = _mm512_castps_pd(quad(from.cast(), 4 * row));
                let v1 = _mm512_castps_pd(quad(from.add(row).cast(), 4 * row));
                _mm512_storeu_pd(to, _mm512_unpacklo_pd(v0, v1));
                _mm512_storeu_pd(to.add(column), _mm512_unpackhi_pd(v0, v1));
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose_8((from, row): (*const f32, usize), (to, column): (*mut f32, usize)) {
        for q in 0..2 {
            // SAFETY: the caller vouches for 8 rows of 8, on both sides.
            unsafe {
                let (from, to) = (from.add(4 * q), to.add(4 * q * column));
                let (v0, v1) = (pair(from, 4 * row), pair(from.add(row), 4 * row));
                let (v2, v3) = (pair(from.add(2 * row), 4 * row), pair(from.add(3 * row), 4 * row));
                let t0 = _mm256_castps_pd(_mm256_unpacklo_ps(v0, v1));
                let t1 = _mm256_castps_pd(_mm256_unpackhi_ps(v0, v1));
                let t2 = _mm256_castps_pd(_mm256_unpacklo_ps(v2, v3));
                let t3 = _mm256_castps_pd(_mm256_unpackhi_ps(v2, v3));
                let (to, column) = (to.cast::<f64>(), column / 2);
                _mm256_storeu_pd(to, _mm256_unpacklo_pd(t0, t2));
                _mm256_storeu_pd(to.add(column), _mm256_unpackhi_pd(t0, t2));
                _mm256_storeu_pd(to.add(2 * column), _mm256_unpacklo_pd(t1, t3));
                _mm256_storeu_pd(to.add(3 * column), _mm256_unpackhi_pd(t1, t3));
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose_4((from, row): (*const f64, usize), (to, column): (*mut f64, usize)) {
        for q in 0..2 {
            // SAFETY: the caller vouches for 4 rows of 4, on both sides.
            unsafe {
                let (from, to) = (from.add(2 * q), to.add(2 * q * column));
                let v0 = _mm256_castps_pd(pair(from.cast(), 4 * row));
                let v1 = _mm256_castps_pd(pair(from.add(row).cast(), 4 * row));
                _mm256_storeu_pd(to, _mm256_unpacklo_pd(v0, v1));
                _mm256_storeu_pd(to.add(column), _mm256_unpackhi_pd(v0, v1));
            }
        }
    }
}
