//! Quads: products and sums of four 8-bit numbers in one instruction, AVX512-VNNI or AVX-VNNI.

use std::arch::x86_64::*;

use super::super::kernel::{Tile, run, table};
use super::super::transpose::Matrix;
use super::super::vector::Vector;
use super::super::{Isa, Kernels};
use super::transpose_single;
use crate::number::Quad;

macro_rules! quads {
    ($(#[$doc:meta])* $vector:ident, $register:ident, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $add:ident, $dot:ident, $max:ident, $min:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $vector<const SIGNED: bool>($register);

        // SAFETY: the unaligned load and store of exactly one register.
        unsafe impl<const SIGNED: bool> Vector for $vector<SIGNED> {
            type Element = Quad<SIGNED>;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller vouches for the instructions; so in all of these.
                $vector(unsafe { $zero() })
            }
            #[inline(always)]
            unsafe fn load(from: *const Quad<SIGNED>) -> Self {
                // SAFETY: the caller vouches for the quads.
                $vector(unsafe { $load(from.cast()) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut Quad<SIGNED>) {
                // SAFETY: the caller vouches for the room.
                unsafe { $store(to.cast(), self.0) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const Quad<SIGNED>) -> Self {
                // SAFETY: the caller vouches for the quad.
                $vector(unsafe { $splat((*from).0) })
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as for `zero`.
                $vector(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                let (signed, unsigned) = if SIGNED { (self, factor) } else { (factor, self) };
                // SAFETY: as for `zero`. Products of 8-bit numbers and sums of four are kept whole.
                $vector(unsafe { $dot(addend.0, unsigned.0, signed.0) })
            }
            #[inline(always)]
            unsafe fn clip(self, low: Self, high: Self) -> Self {
                // SAFETY: as for `zero`.
                $vector(unsafe { $min(high.0, $max(low.0, self.0)) })
            }
        }
    };
}

quads!(
    /// 16 quads.
    Quads512,
    __m512i,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_set1_epi32,
    _mm512_add_epi32,
    _mm512_dpbusd_epi32,
    _mm512_max_epi32,
    _mm512_min_epi32
);
quads!(
    /// 8 quads.
    Quads256,
    __m256i,
    8,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_set1_epi32,
    _mm256_add_epi32,
    _mm256_dpbusd_avx_epi32,
    _mm256_max_epi32,
    _mm256_min_epi32
);

/// Kernels of an instruction set for both kinds of quads, and which of them this CPU has.
macro_rules! tables {
    ($function:ident, $signed:literal) => {
        /// Those of `isa`, if this CPU has its dot products.
        pub fn $function(isa: Isa) -> Option<&'static Kernels<Quad<$signed>>> {
            static AVX512: Kernels<Quad<$signed>> = tables!(@one Isa::Avx512,
                "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Quads512, $signed,
                1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
                2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
                3: [1 2 3 4 5 6 7 8 9],
                4: [1 2 3 4 5 6]);
            static AVX2: Kernels<Quad<$signed>> = tables!(@one Isa::Avx2,
                "avx2,fma,avxvnni", Quads256, $signed,
                1: [1 2 3 4 5 6 7 8 9 10 11 12],
                2: [1 2 3 4 5 6],
                3: [1 2 3],
                4: [1 2]);
            super::tables(isa)?;
            match isa {
                Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => Some(&AVX512),
                Isa::Avx2 if is_x86_feature_detected!("avxvnni") => Some(&AVX2),
                _ => None,
            }
        }
    };
    (@one $isa:expr, $features:literal, $vector:ident, $signed:literal,
     $($columns:literal: $rows:tt),*) => {{
        #[target_feature(enable = $features)]
        unsafe fn tile<const MR: usize, const NV: usize, const DOT: bool>(
            tile: &Tile<'_, Quad<$signed>>,
        ) {
            // SAFETY: the caller vouches for the tile; this function's features are the vector's.
            unsafe { run::<$vector<$signed>, MR, NV, DOT>(tile) }
        }
        /// Quads are moved as floats of their size.
        ///
        /// # Safety
        /// As for [`transpose_single`].
        #[target_feature(enable = "avx2")]
        unsafe fn transpose(matrix: &Matrix<Quad<$signed>>) {
            // SAFETY: the caller vouches for the same addresses.
            unsafe { transpose_single(&matrix.cast()) }
        }
        Kernels {
            isa: $isa,
            lanes: <$vector<$signed> as Vector>::LANES,
            table: table!(tile, false, $($columns: $rows),*),
            dots: &[],
            slides: &[],
            transpose,
        }
    }};
}

tables!(signed_quads, true);
tables!(unsigned_quads, false);
