//! AVX-512, and AVX2 with FMA.

use std::arch::x86_64::*;

use super::kernel::{Tile, run, table};
use super::vector::Vector;
use super::{Isa, Kernels, Tiled, transpose};

macro_rules! vector {
    ($register:ident, $element:ident, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $add:ident, $mul_add:ident, $max:ident, $min:ident, $zip:expr) => {
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
            #[inline(always)]
            unsafe fn zip(self, other: Self) -> (Self, Self) {
                // SAFETY: as for `zero`.
                unsafe { $zip(self, other) }
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
    _mm512_min_ps,
    zip512_single
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
    _mm512_min_pd,
    zip512_double
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
    _mm256_min_ps,
    zip256_single
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
    _mm256_min_pd,
    zip256_double
);

/// The lanes of two registers in turn, from lane `first` of both on, as `permutex2var` wants them.
const fn in_turn<const LANES: usize>(first: usize) -> [usize; LANES] {
    let mut order = [0; LANES];
    let mut i = 0;
    while i < LANES {
        order[i] = first + i / 2 + i % 2 * LANES;
        i += 1;
    }
    order
}

macro_rules! zip512 {
    ($name:ident, $register:ident, $lanes:literal, $index:ident, $permute:ident) => {
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(a: $register, b: $register) -> ($register, $register) {
            const LOWER: [$index; $lanes] = {
                let order = in_turn::<$lanes>(0);
                let mut lower = [0; $lanes];
                let mut i = 0;
                while i < $lanes {
                    lower[i] = order[i] as $index;
                    i += 1;
                }
                lower
            };
            const UPPER: [$index; $lanes] = {
                let order = in_turn::<$lanes>($lanes / 2);
                let mut upper = [0; $lanes];
                let mut i = 0;
                while i < $lanes {
                    upper[i] = order[i] as $index;
                    i += 1;
                }
                upper
            };
            // SAFETY: arrays of one register each.
            let (lower, upper): (__m512i, __m512i) =
                unsafe { (std::mem::transmute(LOWER), std::mem::transmute(UPPER)) };
            ($permute(a, lower, b), $permute(a, upper, b))
        }
    };
}
zip512!(zip512_single, __m512, 16, i32, _mm512_permutex2var_ps);
zip512!(zip512_double, __m512d, 8, i64, _mm512_permutex2var_pd);

macro_rules! zip256 {
    ($name:ident, $register:ident, $lower:ident, $upper:ident, $permute:ident) => {
        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn $name(a: $register, b: $register) -> ($register, $register) {
            // Interleaved in each half of the registers; then the halves change places.
            let (lower, upper) = ($lower(a, b), $upper(a, b));
            ($permute::<0x20>(lower, upper), $permute::<0x31>(lower, upper))
        }
    };
}
zip256!(zip256_single, __m256, _mm256_unpacklo_ps, _mm256_unpackhi_ps, _mm256_permute2f128_ps);
zip256!(zip256_double, __m256d, _mm256_unpacklo_pd, _mm256_unpackhi_pd, _mm256_permute2f128_pd);

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

            #[target_feature(enable = $features)]
            unsafe fn single_square(from: (*const f32, usize), to: (*mut f32, usize)) {
                // SAFETY: the caller vouches for the rows; this function's features are `V`'s.
                unsafe { transpose::square::<$single, { <$single>::LANES }>(from, to) }
            }

            #[target_feature(enable = $features)]
            unsafe fn double_square(from: (*const f64, usize), to: (*mut f64, usize)) {
                // SAFETY: as for `single_square`.
                unsafe { transpose::square::<$double, { <$double>::LANES }>(from, to) }
            }

            pub static SINGLE: Kernels<f32> = Kernels {
                isa: $isa,
                lanes: <$single as Vector>::LANES,
                square: single_square,
                table: table!(single, false, $($columns: $rows),*),
                dots: table!(single, true, $($columns: $rows),*),
            };
            pub static DOUBLE: Kernels<f64> = Kernels {
                isa: $isa,
                lanes: <$double as Vector>::LANES,
                square: double_square,
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
