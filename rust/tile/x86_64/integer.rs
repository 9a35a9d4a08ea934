//! Vectors of integers, modulo 2 to the 32 and 64.

use std::arch::x86_64::*;

use super::part::Part;
use crate::tile::vector::Vector;

macro_rules! integer {
    ($(#[$doc:meta])* $vector:ident, $register:ident, $element:ident, $lanes:literal, $zero:ident,
     $load:ident, $store:ident, $splat:ident, $add:ident, $mul:ident, $max:ident, $min:ident,
     $from_float:ident, $to_float:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $vector(pub $register);

        // SAFETY: the unaligned load and store of exactly one register.
        unsafe impl Vector for $vector {
            type Element = $element;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller vouches for the instructions; so in all of these.
                $vector(unsafe { $zero() })
            }
            #[inline(always)]
            unsafe fn load(from: *const $element) -> Self {
                // SAFETY: the caller vouches for the elements.
                $vector(unsafe { $load(from.cast()) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $element) {
                // SAFETY: the caller vouches for the room.
                unsafe { $store(to.cast(), self.0) }
            }
            #[inline(always)]
            unsafe fn load_some(from: *const $element, stride: usize, bits: u32) -> Self {
                // Bits are moved as those of floats are.
                // SAFETY: the caller vouches for elements whose bits are set.
                unsafe { $vector($from_float(Part::load(from.cast(), stride, bits))) }
            }
            #[inline(always)]
            unsafe fn store_some(self, to: *mut $element, bits: u32) {
                // SAFETY: the caller vouches for elements whose bits are set.
                unsafe { Part::store($to_float(self.0), to.cast(), bits) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const $element) -> Self {
                // SAFETY: the caller vouches for the element.
                $vector(unsafe { $splat(*from) })
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as for `zero`.
                $vector(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: as for `zero`.
                $vector(unsafe { $add($mul(self.0, factor.0), addend.0) })
            }
            #[inline(always)]
            unsafe fn clip(self, low: Self, high: Self) -> Self {
                // SAFETY: as for `zero`.
                $vector(unsafe { $min(high.0, $max(low.0, self.0)) })
            }
        }
    };
}

integer!(
    /// 16 integers of 32 bits.
    Ints512,
    __m512i,
    i32,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi32,
    _mm512_add_epi32,
    _mm512_mullo_epi32,
    _mm512_max_epi32,
    _mm512_min_epi32,
    _mm512_castps_si512,
    _mm512_castsi512_ps
);
integer!(
    /// 8 integers of 64 bits.
    Longs512,
    __m512i,
    i64,
    8,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi64,
    _mm512_add_epi64,
    _mm512_mullo_epi64,
    _mm512_max_epi64,
    _mm512_min_epi64,
    _mm512_castpd_si512,
    _mm512_castsi512_pd
);
integer!(
    /// 8 integers of 32 bits.
    Ints256,
    __m256i,
    i32,
    8,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi32,
    _mm256_add_epi32,
    _mm256_mullo_epi32,
    _mm256_max_epi32,
    _mm256_min_epi32,
    _mm256_castps_si256,
    _mm256_castsi256_ps
);
integer!(
    /// 4 integers of 64 bits.
    Longs256,
    __m256i,
    i64,
    4,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi64x,
    _mm256_add_epi64,
    multiply,
    greater,
    less,
    _mm256_castpd_si256,
    _mm256_castsi256_pd
);

// What AVX2 has not got of 64 bits.

/// The products' lower halves: that of the lower halves, and both that cross, moved up.
#[inline(always)]
unsafe fn multiply(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for AVX2; so in all of these.
    unsafe {
        let cross = _mm256_add_epi64(
            _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), b),
            _mm256_mul_epu32(a, _mm256_srli_epi64::<32>(b)),
        );
        _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64::<32>(cross))
    }
}

#[inline(always)]
unsafe fn greater(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi64(a, b)) }
}

#[inline(always)]
unsafe fn less(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_blendv_epi8(a, b, _mm256_cmpgt_epi64(a, b)) }
}
