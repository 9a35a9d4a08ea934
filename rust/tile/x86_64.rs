//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::channels::{Stretch, stretch, stretches};
use super::kernel::{Tile, run, table};
use super::pieces::{Pieces, sum};
use super::slide::{Slide, SlideInPlace, slide, slide_in_place, slides};
use super::transpose::{Matrix, blocks};
use super::vector::{Level, Vector};
use super::{Isa, Kernels, Tables};

mod integer;
mod part;
mod quads;

use integer::{Ints256, Ints512, Longs256, Longs512};
pub use quads::{signed_quads, unsigned_quads};

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
            unsafe fn load_some(from: *const $element, stride: usize, bits: u32) -> Self {
                // SAFETY: the caller vouches for elements whose bits are set.
                unsafe { part::Part::load(from, stride, bits) }
            }
            #[inline(always)]
            unsafe fn store_some(self, to: *mut $element, bits: u32) {
                // SAFETY: the caller vouches for elements whose bits are set.
                unsafe { part::Part::store(self, to, bits) }
            }
            #[inline(always)]
            fn prefetch(at: *const u8, level: Level) {
                // SAFETY: every x86_64 has the instruction, and no address is wrong.
                unsafe {
                    match level {
                        Level::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
                        Level::Written => _mm_prefetch::<_MM_HINT_ET0>(at.cast()),
                        Level::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
                    }
                }
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
    ($tables:ident, $isa:expr, $features:literal,
     [$single:ident $double:ident $int:ident $long:ident],
     $($columns:literal: $rows:tt),*; $($kernel:literal / $stride:literal: $vectors:tt $place:tt $cut:tt),*; $stretches:tt) => {
        static $tables: Tables = Tables {
            single: isa!(@one $isa, $features, f32, $single, transpose_single,
                $($columns: $rows),*; $($kernel / $stride: $vectors $place $cut),*; $stretches),
            double: isa!(@one $isa, $features, f64, $double, transpose_double,
                $($columns: $rows),*; $($kernel / $stride: $vectors $place $cut),*; $stretches),
            int: isa!(@one $isa, $features, i32, $int, transpose_int,
                $($columns: $rows),*; $($kernel / $stride: $vectors $place $cut),*; $stretches),
            long: isa!(@one $isa, $features, i64, $long, transpose_long,
                $($columns: $rows),*; $($kernel / $stride: $vectors $place $cut),*; $stretches),
        };
    };
    (@one $isa:expr, $features:literal, $element:ident, $vector:ident, $transpose:ident,
     $($columns:literal: $rows:tt),*; $($kernel:literal / $stride:literal: $vectors:tt $place:tt $cut:tt),*; $stretches:tt) => {{
        #[target_feature(enable = $features)]
        unsafe fn tile<const MR: usize, const NV: usize, const DOT: bool>(tile: &Tile<'_, $element>) {
            // SAFETY: the caller vouches for the tile; this function's features are the vector's.
            unsafe { run::<$vector, MR, NV, DOT>(tile) }
        }
        #[target_feature(enable = $features)]
        unsafe fn window<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(
            window: &Slide<'_, $element>,
        ) {
            // SAFETY: as for tiles.
            unsafe { slide::<$vector, K, S, NV, CHANNELS>(window) }
        }
        #[target_feature(enable = $features)]
        unsafe fn in_place<const K: usize, const S: usize, const NV: usize, const CUT: bool>(
            window: &SlideInPlace<'_, $element>,
        ) {
            // SAFETY: as for tiles.
            unsafe { slide_in_place::<$vector, K, S, NV, CUT>(window) }
        }
        #[target_feature(enable = $features)]
        unsafe fn line<
            const K: usize,
            const S: usize,
            const R: usize,
            const L: usize,
            const WHOLE: bool,
        >(
            outputs: &Stretch<'_, $element>,
        ) {
            // SAFETY: as for tiles.
            unsafe { stretch::<$vector, K, S, R, L, WHOLE>(outputs) }
        }
        #[target_feature(enable = $features)]
        unsafe fn pieces(pieces: &Pieces<'_, $element>) {
            // SAFETY: as for tiles.
            unsafe { sum::<$vector>(pieces) }
        }
        Kernels {
            isa: $isa,
            lanes: <$vector as Vector>::LANES,
            table: table!(tile, false, $($columns: $rows),*),
            dots: table!(tile, true, $($columns: $rows),*),
            slides: slides!(window, in_place, $($kernel / $stride: $vectors $place $cut),*),
            stretches: isa!(@stretches line $stretches),
            transpose: $transpose,
            sum: pieces,
        }
    }};
    (@stretches $line:ident ($($stretches:tt)*)) => { stretches!($line, $($stretches)*) };
}

// 32 registers.
isa!(AVX512, Isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl", [__m512 __m512d Ints512 Longs512],
    1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    3: [1 2 3 4 5 6 7 8 9],
    4: [1 2 3 4 5 6],
    5: [1 2 3 4 5],
    6: [1 2 3 4],
    7: [1 2 3],
    8: [1 2];
    3 / 1: [1 2 3 4] [1 2 3 4 5 6 7] [1 2 3 4], 3 / 2: [1 2 3 4] [1 2 3 4] [1 2 3 4],
    5 / 1: [1 2 3 4] [1 2 3 4 5] [1 2 3 4], 5 / 2: [1 2 3 4] [1 2 3 4] [1 2 3 4],
    7 / 1: [1 2 3] [1 2 3] [1 2 3], 7 / 2: [1 2 3 4] [1 2 3 4] [1 2 3 4];
    (3 / 1: 2 * [1 2 3 4 5 6 7] 7, 3 / 2: 2 * [1 2 3 4 5 6 7] 7, 5 / 1: 2 * [1 2 3 4 5 6 7] 7,
     5 / 2: 2 * [1 2 3 4 5 6] 6, 7 / 1: 2 * [1 2 3 4 5 6 7] 7, 7 / 2: 2 * [1 2 3 4 5 6] 6,
     0 / 0: 1 * [1 2 3 4 5 6 7 8] 8));
// 16 registers.
isa!(AVX2, Isa::Avx2, "avx2,fma", [__m256 __m256d Ints256 Longs256],
    1: [1 2 3 4 5 6 7 8 9 10 11 12],
    2: [1 2 3 4 5 6],
    3: [1 2 3],
    4: [1 2];
    3 / 1: [1 2 3] [1 2 3] [1 2 3], 3 / 2: [1 2 3 4] [1 2 3] [1 2 3],
    5 / 1: [1 2] [1 2] [1 2], 5 / 2: [1 2 3] [1 2 3] [1 2 3],
    7 / 1: [1] [1] [1], 7 / 2: [1 2] [1 2] [1 2];
    (3 / 1: 2 * [1 2 3 4] 4, 3 / 2: 2 * [1 2 3] 3, 5 / 1: 2 * [1 2 3] 3, 5 / 2: 2 * [1 2] 2,
     7 / 1: 2 * [1 2] 2, 7 / 2: 2 * [1 2] 2, 0 / 0: 1 * [1 2 3 4 5 6] 6));

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

/// Integers are moved as floats of their size: nothing but loads, shuffles and stores.
///
/// # Safety
/// As for [`transpose_single`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_int(matrix: &Matrix<i32>) {
    // SAFETY: the caller vouches for the same addresses.
    unsafe { transpose_single(&matrix.cast()) }
}

/// # Safety
/// As for [`transpose_single`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_long(matrix: &Matrix<i64>) {
    // SAFETY: as for `transpose_int`.
    unsafe { transpose_double(&matrix.cast()) }
}

/// The kernels of `isa`, if it is one of x86 and this CPU has it.
pub fn tables(isa: Isa) -> Option<&'static Tables> {
    match isa {
        // All but the first of these came together, in 2017.
        Isa::Avx512
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl") =>
        {
            Some(&AVX512)
        }
        Isa::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => {
            Some(&AVX2)
        }
        _ => None,
    }
}
