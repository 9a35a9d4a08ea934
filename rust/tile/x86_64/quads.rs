//! Quads: products and sums of four 8-bit numbers in one instruction, AVX512-VNNI or AVX-VNNI.

use std::arch::x86_64::*;

use super::super::kernel::{Tile, run, table};
use super::super::pieces::{Pieces, sum};
use super::super::transpose::Matrix;
use super::super::vector::Vector;
use super::super::{Isa, Kernels};
use super::integer::{Ints256, Ints512};
use super::transpose_single;
use crate::number::Quad;

/// Integers of 32 bits that can also be four of 8.
trait Dot: Vector<Element = i32> {
    /// `sum` and the products of four numbers without signs and four with them, all kept whole.
    ///
    /// # Safety
    /// The CPU must have the instruction.
    unsafe fn dot(sum: Self, unsigned: Self, signed: Self) -> Self;
}

impl Dot for Ints512 {
    #[inline(always)]
    unsafe fn dot(sum: Self, unsigned: Self, signed: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        Ints512(unsafe { _mm512_dpbusd_epi32(sum.0, unsigned.0, signed.0) })
    }
}

impl Dot for Ints256 {
    #[inline(always)]
    unsafe fn dot(sum: Self, unsigned: Self, signed: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        Ints256(unsafe { _mm256_dpbusd_avx_epi32(sum.0, unsigned.0, signed.0) })
    }
}

/// As many quads as `V` has integers: all but their products is as for those.
#[derive(Clone, Copy)]
struct Quads<V, const SIGNED: bool>(V);

// SAFETY: loads and stores are those of `V`, and a quad is as large as an integer.
unsafe impl<V: Dot, const SIGNED: bool> Vector for Quads<V, SIGNED> {
    type Element = Quad<SIGNED>;
    const LANES: usize = V::LANES;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the instructions; so in all of these.
        Quads(unsafe { V::zero() })
    }
    #[inline(always)]
    unsafe fn load(from: *const Quad<SIGNED>) -> Self {
        // SAFETY: the caller vouches for the quads.
        Quads(unsafe { V::load(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut Quad<SIGNED>) {
        // SAFETY: the caller vouches for the room.
        unsafe { self.0.store(to.cast()) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const Quad<SIGNED>, stride: usize, bits: u32) -> Self {
        // SAFETY: the caller vouches for quads whose bits are set.
        Quads(unsafe { V::load_some(from.cast(), stride, bits) })
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut Quad<SIGNED>, bits: u32) {
        // SAFETY: the caller vouches for quads whose bits are set.
        unsafe { self.0.store_some(to.cast(), bits) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const Quad<SIGNED>) -> Self {
        // SAFETY: the caller vouches for the quad.
        Quads(unsafe { V::splat(from.cast()) })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as for `zero`.
        Quads(unsafe { self.0.add(other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        let (signed, unsigned) = if SIGNED { (self, factor) } else { (factor, self) };
        // SAFETY: as for `zero`.
        Quads(unsafe { V::dot(addend.0, unsigned.0, signed.0) })
    }
    #[inline(always)]
    unsafe fn clip(self, low: Self, high: Self) -> Self {
        // SAFETY: as for `zero`.
        Quads(unsafe { self.0.clip(low.0, high.0) })
    }
}

/// Kernels of an instruction set for both kinds of quads, and which of them this CPU has.
macro_rules! tables {
    ($function:ident, $signed:literal) => {
        /// Those of `isa`, if this CPU has its dot products.
        pub fn $function(isa: Isa) -> Option<&'static Kernels<Quad<$signed>>> {
            static AVX512: Kernels<Quad<$signed>> = tables!(@one Isa::Avx512,
                "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Ints512, $signed,
                1: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
                2: [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
                3: [1 2 3 4 5 6 7 8 9],
                4: [1 2 3 4 5 6]);
            static AVX2: Kernels<Quad<$signed>> = tables!(@one Isa::Avx2,
                "avx2,fma,avxvnni", Ints256, $signed,
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
            unsafe { run::<Quads<$vector, $signed>, MR, NV, DOT>(tile) }
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
        #[target_feature(enable = $features)]
        unsafe fn pieces(pieces: &Pieces<'_, Quad<$signed>>) {
            // SAFETY: as for tiles.
            unsafe { sum::<Quads<$vector, $signed>>(pieces) }
        }
        Kernels {
            isa: $isa,
            lanes: <$vector as Vector>::LANES,
            table: table!(tile, false, $($columns: $rows),*),
            dots: &[],
            slides: &[],
            stretches: &[],
            transpose,
            sum: pieces,
        }
    }};
}

tables!(signed_quads, true);
tables!(unsigned_quads, false);
