//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::kernel::{Tile, run, table};
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
/// (rows * columns sums, columns, and one factor).
macro_rules! isa {
    ($tables:ident, $isa:expr, $features:literal, $single:ident, $double:ident,
     $($columns:literal: $rows:tt),*) => {
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

            pub static SINGLE: Kernels<f32> = Kernels {
                isa: $isa,
                lanes: <$single as Vector>::LANES,
                table: table!(single, false, $($columns: $rows),*),
                dots: table!(single, true, $($columns: $rows),*),
            };
            pub static DOUBLE: Kernels<f64> = Kernels {
                isa: $isa,
                lanes: <$double as Vector>::LANES,
                table: table!(double, false, $($columns: $rows),*),
                dots: table!(double, true, $($columns: $rows),*),
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
    8: [1 2]);
// 16 registers.
isa!(avx2, Isa::Avx2, "avx2,fma", __m256, __m256d,
    1: [1 2 3 4 5 6 7 8 9 10 11 12],
    2: [1 2 3 4 5 6],
    3: [1 2 3],
    4: [1 2]);

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
