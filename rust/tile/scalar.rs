//! Vectors for any machine: arrays of 16 bytes, which LLVM turns into what the baseline has (NEON on
//! aarch64; on x86-64 a call to `fma` a lane, so it serves there as the reference for the others).

use super::kernel::{Tile, run, table};
use super::slide::{Slide, slide, slides};
use super::transpose::plain;
use super::vector::Vector;
use super::{Isa, Kernels, Tiled};
use crate::view::Element;

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

unsafe fn single<const MR: usize, const NV: usize, const DOT: bool>(tile: &Tile<'_, f32>) {
    // SAFETY: the caller vouches for the tile; arrays need no instructions.
    unsafe { run::<Array<f32, 4>, MR, NV, DOT>(tile) }
}

unsafe fn double<const MR: usize, const NV: usize, const DOT: bool>(tile: &Tile<'_, f64>) {
    // SAFETY: as for `single`.
    unsafe { run::<Array<f64, 2>, MR, NV, DOT>(tile) }
}

unsafe fn slide_single<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(
    window: &Slide<'_, f32>,
) {
    // SAFETY: as for `single`.
    unsafe { slide::<Array<f32, 4>, K, S, NV, CHANNELS>(window) }
}

unsafe fn slide_double<const K: usize, const S: usize, const NV: usize, const CHANNELS: bool>(
    window: &Slide<'_, f64>,
) {
    // SAFETY: as for `single`.
    unsafe { slide::<Array<f64, 2>, K, S, NV, CHANNELS>(window) }
}

static SINGLE: Kernels<f32> = Kernels {
    isa: Isa::Scalar,
    lanes: 4,
    table: table!(single, false, 1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
    dots: table!(single, true, 1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
    slides: slides!(
        slide_single,
        3 / 1: [1 2 3], 3 / 2: [1 2 3],
        5 / 1: [1 2 3], 5 / 2: [1 2 3],
        7 / 1: [1 2 3], 7 / 2: [1 2 3]
    ),
    transpose: plain,
};

static DOUBLE: Kernels<f64> = Kernels {
    isa: Isa::Scalar,
    lanes: 2,
    table: table!(double, false, 1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
    dots: table!(double, true, 1: [1 2 3 4 5 6 7 8], 2: [1 2 3 4 5 6 7 8], 3: [1 2 3 4 5 6 7 8]),
    slides: slides!(
        slide_double,
        3 / 1: [1 2 3], 3 / 2: [1 2 3],
        5 / 1: [1 2 3], 5 / 2: [1 2 3],
        7 / 1: [1 2 3], 7 / 2: [1 2 3]
    ),
    transpose: plain,
};

/// The portable kernels, which every machine has.
pub fn kernels<T: Tiled>() -> &'static Kernels<T> {
    T::pick(&SINGLE, &DOUBLE)
}
