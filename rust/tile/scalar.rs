//! Vectors for any machine: arrays of 16 bytes, which LLVM turns into what the baseline has (NEON on
//! aarch64; on x86-64 a call to `fma` a lane, so it serves there as the reference for the others).

use super::channels::{Stretch, stretch, stretches};
use super::kernel::{Tile, run, table};
use super::pieces::sum;
use super::slide::{Slide, SlideInPlace, slide, slide_in_place, slides};
use super::transpose::plain;
use super::vector::Vector;
use super::{Isa, Kernels, Tables};
use crate::number::{Element, Quad};

/// A vector of `LANES` elements.
#[derive(Clone, Copy)]
pub struct Array<T, const LANES: usize>(pub(crate) [T; LANES]);

// SAFETY: `read_unaligned` and `write_unaligned` of exactly one array.
unsafe impl<T: Element, const LANES: usize> Vector for Array<T, LANES> {
    type Element = T;
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Array([T::default(); LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller vouches for the elements.
        Array(unsafe { from.cast::<[T; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller vouches for the room.
        unsafe { to.cast::<[T; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const T, stride: usize, bits: u32) -> Self {
        let mut values = [T::default(); LANES];
        for (i, value) in
            values.iter_mut().enumerate().filter(|(i, _)| bits >> (i * stride) & 1 == 1)
        {
            // SAFETY: the caller vouches for elements whose bits are set.
            *value = unsafe { from.wrapping_add(i * stride).read_unaligned() };
        }
        Array(values)
    }

    #[inline(always)]
    unsafe fn store_some(self, to: *mut T, bits: u32) {
        for (i, value) in self.0.into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1) {
            // SAFETY: the caller vouches for elements whose bits are set.
            unsafe { to.wrapping_add(i).write_unaligned(value) }
        }
    }

    #[inline(always)]
    unsafe fn splat(from: *const T) -> Self {
        // SAFETY: the caller vouches for the element.
        Array([unsafe { *from }; LANES])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].add(other.0[i])))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    unsafe fn clip(self, low: Self, high: Self) -> Self {
        Array(std::array::from_fn(|i| {
            let y = if low.0[i] > self.0[i] { low.0[i] } else { self.0[i] };
            if high.0[i] < y { high.0[i] } else { y }
        }))
    }
}

/// The function that a table is of, and the kernels.
macro_rules! portable {
    ($function:ident, $element:ident, $lanes:literal) => {{
        unsafe fn $function<const MR: usize, const NV: usize, const DOT: bool>(
            tile: &Tile<'_, $element>,
        ) {
            // SAFETY: the caller vouches for the tile; arrays need no instructions.
            unsafe { run::<Array<$element, $lanes>, MR, NV, DOT>(tile) }
        }
        unsafe fn window<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(
            window: &Slide<'_, $element>,
        ) {
            // SAFETY: as for tiles.
            unsafe { slide::<Array<$element, $lanes>, K, S, NV, CHANNELS>(window) }
        }
        unsafe fn in_place<const K: usize, const S: usize, const NV: usize, const CUT: bool>(
            window: &SlideInPlace<'_, $element>,
        ) {
            // SAFETY: as for tiles.
            unsafe { slide_in_place::<Array<$element, $lanes>, K, S, NV, CUT>(window) }
        }
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
            unsafe { stretch::<Array<$element, $lanes>, K, S, R, L, WHOLE>(outputs) }
        }
        Kernels {
            isa: Isa::Scalar,
            lanes: $lanes,
            table: table!($function, false,
                1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
            dots: table!($function, true,
                1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
            slides: slides!(window, in_place,
                3 / 1: [1 2 3] [1 2 3] [1 2], 3 / 2: [1 2 3] [1 2 3] [1 2],
                5 / 1: [1 2 3] [1 2 3] [1 2], 5 / 2: [1 2 3] [1 2 3] [1 2],
                7 / 1: [1 2 3] [1 2 3] [1 2], 7 / 2: [1 2 3] [1 2 3] [1 2]),
            stretches: stretches!(line,
                3 / 1: 2 * [1 2 3] 3, 3 / 2: 2 * [1 2] 2, 5 / 1: 2 * [1 2] 2, 7 / 1: 2 * [1 2] 2,
                0 / 0: 1 * [1 2 3 4] 4),
            transpose: plain,
            sum: sum::<Array<$element, $lanes>>,
        }
    }};
}

/// The same of quads, of which there are neither dot products over positions nor windows.
macro_rules! portable_quads {
    ($signed:literal) => {{
        unsafe fn quads<const MR: usize, const NV: usize, const DOT: bool>(
            tile: &Tile<'_, Quad<$signed>>,
        ) {
            // SAFETY: as for other elements.
            unsafe { run::<Array<Quad<$signed>, 4>, MR, NV, DOT>(tile) }
        }
        Kernels {
            isa: Isa::Scalar,
            lanes: 4,
            table: table!(quads, false,
                1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
            dots: &[],
            slides: &[],
            stretches: &[],
            transpose: plain,
            sum: sum::<Array<Quad<$signed>, 4>>,
        }
    }};
}

/// Quads whose rows have signs, and those whose columns do.
pub static SIGNED_QUADS: Kernels<Quad<true>> = portable_quads!(true);
pub static UNSIGNED_QUADS: Kernels<Quad<false>> = portable_quads!(false);

/// The portable kernels, which every machine has.
pub static TABLES: Tables = Tables {
    single: portable!(single, f32, 4),
    double: portable!(double, f64, 2),
    int: portable!(int, i32, 4),
    long: portable!(long, i64, 2),
};
