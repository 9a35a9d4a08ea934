//! Parts of vectors: elements some of which are missing, and every other one.

use std::arch::x86_64::*;

/// A register of floats of which some elements are read or written.
pub trait Part: Copy {
    /// What it holds.
    type Element;

    /// See [`Vector::load_some`](crate::tile::Vector::load_some).
    ///
    /// # Safety
    /// The CPU must have the instructions; elements whose bits are set must be readable.
    unsafe fn load(from: *const Self::Element, stride: usize, bits: u32) -> Self;

    /// See [`Vector::store_some`](crate::tile::Vector::store_some).
    ///
    /// # Safety
    /// The CPU must have the instructions; elements whose bits are set must be writable.
    unsafe fn store(self, to: *mut Self::Element, bits: u32);
}

macro_rules! part {
    ($register:ident, $element:ident, $lanes:literal, $load:expr, $store:expr, $even:expr) => {
        impl Part for $register {
            type Element = $element;
            #[inline(always)]
            unsafe fn load(from: *const $element, stride: usize, bits: u32) -> Self {
                // SAFETY: the caller vouches for the instructions, and for elements whose bits are set.
                unsafe {
                    let first = $load(from, bits);
                    if stride == 1 {
                        return first;
                    }
                    $even(first, $load(from.wrapping_add($lanes), bits >> $lanes))
                }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $element, bits: u32) {
                // SAFETY: the caller vouches for the instructions, and for elements whose bits are set.
                unsafe { $store(to, bits, self) }
            }
        }
    };
}

// In functions, not in closures, so that they are part of their callers.

#[inline(always)]
unsafe fn load_512(from: *const f32, bits: u32) -> __m512 {
    // SAFETY: as for `Part::load`; so below.
    unsafe { _mm512_maskz_loadu_ps(bits as u16, from) }
}

#[inline(always)]
unsafe fn store_512(to: *mut f32, bits: u32, from: __m512) {
    // SAFETY: as for `Part::store`; so below.
    unsafe { _mm512_mask_storeu_ps(to, bits as u16, from) }
}

#[inline(always)]
unsafe fn even_512(first: __m512, second: __m512) -> __m512 {
    // SAFETY: the caller vouches for the instructions; so below.
    unsafe {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        _mm512_permutex2var_ps(first, even, second)
    }
}

#[inline(always)]
unsafe fn load_512d(from: *const f64, bits: u32) -> __m512d {
    // SAFETY: see above.
    unsafe { _mm512_maskz_loadu_pd(bits as u8, from) }
}

#[inline(always)]
unsafe fn store_512d(to: *mut f64, bits: u32, from: __m512d) {
    // SAFETY: see above.
    unsafe { _mm512_mask_storeu_pd(to, bits as u8, from) }
}

#[inline(always)]
unsafe fn even_512d(first: __m512d, second: __m512d) -> __m512d {
    // SAFETY: see above.
    unsafe { _mm512_permutex2var_pd(first, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), second) }
}

/// All ones in lanes whose bits are set.
#[inline(always)]
unsafe fn mask_256(bits: u32) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits as i32), each), each)
    }
}

#[inline(always)]
unsafe fn load_256(from: *const f32, bits: u32) -> __m256 {
    // SAFETY: see above.
    unsafe { _mm256_maskload_ps(from, mask_256(bits)) }
}

#[inline(always)]
unsafe fn store_256(to: *mut f32, bits: u32, from: __m256) {
    // SAFETY: see above.
    unsafe { _mm256_maskstore_ps(to, mask_256(bits), from) }
}

#[inline(always)]
unsafe fn even_256(first: __m256, second: __m256) -> __m256 {
    // SAFETY: see above.
    unsafe {
        // Of both in each half; then the halves' pairs in order.
        let pairs = _mm256_castps_pd(_mm256_shuffle_ps(first, second, 0x88));
        _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0b11_01_10_00))
    }
}

/// All ones in lanes whose bits are set.
#[inline(always)]
unsafe fn mask_256d(bits: u32) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let each = _mm256_setr_epi64x(1, 2, 4, 8);
        _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(i64::from(bits)), each), each)
    }
}

#[inline(always)]
unsafe fn load_256d(from: *const f64, bits: u32) -> __m256d {
    // SAFETY: see above.
    unsafe { _mm256_maskload_pd(from, mask_256d(bits)) }
}

#[inline(always)]
unsafe fn store_256d(to: *mut f64, bits: u32, from: __m256d) {
    // SAFETY: see above.
    unsafe { _mm256_maskstore_pd(to, mask_256d(bits), from) }
}

#[inline(always)]
unsafe fn even_256d(first: __m256d, second: __m256d) -> __m256d {
    // SAFETY: see above.
    unsafe { _mm256_permute4x64_pd(_mm256_unpacklo_pd(first, second), 0b11_01_10_00) }
}

part!(__m512, f32, 16, load_512, store_512, even_512);
part!(__m512d, f64, 8, load_512d, store_512d, even_512d);
part!(__m256, f32, 8, load_256, store_256, even_256);
part!(__m256d, f64, 4, load_256d, store_256d, even_256d);
