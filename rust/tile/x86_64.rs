//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::kernel::{Tile, run, table};
use super::slide::{Slide, slide, slides};
use super::transpose::{Matrix, blocks};
use super::vector::Vector;
use super::{Isa, Kernels, Tiled};

macro_rules! vector {
    ($register:ident, $element:ident, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $add:ident, $mul_add:ident, $max:ident, $min:ident) => {
        // SAFETY: the unaligned load and store of exactly one register.
        unsafe impl Vector for $register {
            type Element = $element;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller vouches for the instructions; so in all of these.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(from: *const $element) -> Self {
                // SAFETY: the caller vouches for the elements.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $element) {
                // SAFETY: the caller vouches for the room.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const $element) -> Self {
                // SAFETY: the caller vouches for the element.
                unsafe { $splat(*from) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as for `zero`.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: as for `zero`.
                unsafe { $mul_add(self, factor, addend) }
            }
            #[inline(always)]
            unsafe fn clip(self, low: Self, high: Self) -> Self {
                // SAFETY: as for `zero`. Of a NaN and a number, both give their second operand.
                unsafe { $min(high, $max(low, self)) }
            }
        }
    };
}

vector!(
    __m512,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps,
    _mm512_min_ps
);
vector!(
    __m512d,
    f64,
    8,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_set1_pd,
    _mm512_add_pd,
    _mm512_fmadd_pd,
    _mm512_max_pd,
    _mm512_min_pd
);
vector!(
    __m256,
    f32,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    _mm256_min_ps
);
vector!(
    __m256d,
    f64,
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_set1_pd,
    _mm256_add_pd,
    _mm256_fmadd_pd,
    _mm256_max_pd,
    _mm256_min_pd
);

/// Tables of kernels for one instruction set: every tile that its registers hold without a spill
/// (rows * columns sums, columns, and one factor), and windows of which they do (sums of each output
/// that a row belongs to).
macro_rules! isa {
    ($tables:ident, $isa:expr, $features:literal, $single:ident, $double:ident,
     $($columns:literal: $rows:tt),*;
     $($kernel:literal / $stride:literal: $vectors:tt),*) => {
        mod $tables {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn single<const MR: usize, const NV: usize, const DOT: bool>(tile: &Tile<'_, f32>) {
                // SAFETY: the caller vouches for the tile; this function's features are `V`'s.
                unsafe { run::<$single, MR, NV, DOT>(tile) }
            }

            #[target_feature(enable = $features)]
            unsafe fn double<const MR: usize, const NV: usize, const DOT: bool>(tile: &Tile<'_, f64>) {
                // SAFETY: as for `single`.
                unsafe { run::<$double, MR, NV, DOT>(tile) }
            }

            #[target_feature(enable = $features)]
            unsafe fn slide_single<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(window: &Slide<'_, f32>) {
                // SAFETY: as for `single`.
                unsafe { slide::<$single, K, S, NV, CHANNELS>(window) }
            }

            #[target_feature(enable = $features)]
            unsafe fn slide_double<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(window: &Slide<'_, f64>) {
                // SAFETY: as for `single`.
                unsafe { slide::<$double, K, S, NV, CHANNELS>(window) }
            }

            pub static SINGLE: Kernels<f32> = Kernels {
                isa: $isa,
                lanes: <$single as Vector>::LANES,
                table: table!(single, false, $($columns: $rows),*),
                dots: table!(single, true, $($columns: $rows),*),
                slides: slides!(slide_single, $($kernel / $stride: $vectors),*),
                transpose: transpose_single,
            };
            pub static DOUBLE: Kernels<f64> = Kernels {
                isa: $isa,
                lanes: <$double as Vector>::LANES,
                table: table!(double, false, $($columns: $rows),*),
                dots: table!(double, true, $($columns: $rows),*),
                slides: slides!(slide_double, $($kernel / $stride: $vectors),*),
                transpose: transpose_double,
            };
        }
    };
}

// 32 registers.
isa!(avx512, Isa::Avx512, "avx512f", __m512, __m512d,
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    3: [1 2 3 4 5 6 7 8 9],
    4: [1 2 3 4 5 6],
    5: [1 2 3 4 5],
    6: [1 2 3 4],
    7: [1 2 3],
    8: [1 2];
    3 / 1: [1 2 3 4], 3 / 2: [1 2 3 4],
    5 / 1: [1 2 3 4], 5 / 2: [1 2 3 4],
    7 / 1: [1 2 3], 7 / 2: [1 2 3 4]);
// 16 registers.
isa!(avx2, Isa::Avx2, "avx2,fma", __m256, __m256d,
    1: [1 2 3 4 5 6 7 8 9 10 11 12],
    2: [1 2 3 4 5 6],
    3: [1 2 3],
    4: [1 2];
    3 / 1: [1 2 3], 3 / 2: [1 2 3 4],
    5 / 1: [1 2], 5 / 2: [1 2 3],
    7 / 1: [1], 7 / 2: [1 2]);

/// # Safety
/// The CPU must have AVX2; as for [`super::transpose::plain`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_single(matrix: &Matrix<f32>) {
    // SAFETY: a block reads 8 columns of its rows, the last row for those that it has not got, and
    // writes as many elements of 8 rows of the result as it has rows.
    unsafe {
        blocks::<f32, 8>(matrix, |block| {
            let row = |i: usize| {
                _mm256_loadu_ps(
                    block.from.wrapping_offset(i.min(block.rows - 1) as isize * block.pitch),
                )
            };
            let rows: [__m256; 8] = std::array::from_fn(row);
            // Pairs of rows, then fours, then both halves.
            let pairs: [__m256; 8] = std::array::from_fn(|i| {
                let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
            });
            let fours: [__m256; 8] = std::array::from_fn(|i| {
                let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
                if i % 2 == 0 {
                    _mm256_shuffle_ps(a, b, 0x44)
                } else {
                    _mm256_shuffle_ps(a, b, 0xee)
                }
            });
            let mask = _mm256_cmpgt_epi32(
                _mm256_set1_epi32(block.rows.min(8) as i32),
                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            );
            for j in 0..8 {
                let (a, b) = (fours[j % 4], fours[j % 4 + 4]);
                let column = if j < 4 {
                    _mm256_permute2f128_ps(a, b, 0x20)
                } else {
                    _mm256_permute2f128_ps(a, b, 0x31)
                };
                let to = block.to.wrapping_byte_offset(j as isize * block.row);
                if block.rows >= 8 {
                    _mm256_storeu_ps(to, column);
                } else {
                    _mm256_maskstore_ps(to, mask, column);
                }
            }
        });
    }
}

/// # Safety
/// As for [`transpose_single`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_double(matrix: &Matrix<f64>) {
    // SAFETY: as for `transpose_single`, with 4 for 8.
    unsafe {
        blocks::<f64, 4>(matrix, |block| {
            let row = |i: usize| {
                _mm256_loadu_pd(
                    block.from.wrapping_offset(i.min(block.rows - 1) as isize * block.pitch),
                )
            };
            let rows: [__m256d; 4] = std::array::from_fn(row);
            let pairs: [__m256d; 4] = std::array::from_fn(|i| {
                let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm256_unpacklo_pd(a, b) } else { _mm256_unpackhi_pd(a, b) }
            });
            let mask = _mm256_cmpgt_epi64(
                _mm256_set1_epi64x(block.rows.min(4) as i64),
                _mm256_setr_epi64x(0, 1, 2, 3),
            );
            for j in 0..4 {
                let (a, b) = (pairs[j % 2], pairs[j % 2 + 2]);
                let column = if j < 2 {
                    _mm256_permute2f128_pd(a, b, 0x20)
                } else {
                    _mm256_permute2f128_pd(a, b, 0x31)
                };
                let to = block.to.wrapping_byte_offset(j as isize * block.row);
                if block.rows >= 4 {
                    _mm256_storeu_pd(to, column);
                } else {
                    _mm256_maskstore_pd(to, mask, column);
                }
            }
        });
    }
}

/// The kernels of `isa`, if it is one of x86 and this CPU has it.
pub fn kernels<T: Tiled>(isa: Isa) -> Option<&'static Kernels<T>> {
    match isa {
        Isa::Avx512 if is_x86_feature_detected!("avx512f") => {
            Some(T::pick(&avx512::SINGLE, &avx512::DOUBLE))
        }
        Isa::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => {
            Some(T::pick(&avx2::SINGLE, &avx2::DOUBLE))
        }
        _ => None,
    }
}
