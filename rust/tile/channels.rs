//! Depthwise sums of vectors of channels: neighbouring outputs of a row or two, in one channel a lane.
//!
//! Where channels are neighbours in memory, a position is a few vectors, and so is a tap of the kernel.
//! So there is nothing to stage or to turn: a stretch of outputs keeps a vector of sums each, the inputs of a row
//! that their windows share are read once into registers, and each tap of the kernel's row on it is a vector of
//! weights that all outputs use. Two lines of outputs are computed together, since most of their windows' rows
//! are the same: inputs come from the second-level cache, and without that 5x5 on 240 channels of 28x28 takes 92 us
//! instead of 67, 7x7 on 96 of 56x56 0.28 ms instead of 0.20 (Sapphire Rapids).
//!
//! What lies beyond an end of a row is a vector of zeros, and a row that lies beyond the plane is one step instead
//! of one a tap: its products are zeros, added up beforehand. The order of a sum is that of its taps, as elsewhere.

use std::ops::Range;

use super::kernel::{Bias, Finish};
use super::vector::Vector;
use crate::number::Element;

/// In the place of where a row lies: beyond the input.
pub const NOWHERE: isize = isize::MIN;

/// Lines that are computed together, at most.
pub const MOST_LINES: usize = 2;

/// A row of the input that windows read.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where it begins, in elements, or [`NOWHERE`].
    pub x: isize,
    /// Which row of the kernel lies on it for each line, if one does.
    pub taps: [Option<usize>; MOST_LINES],
}

/// Neighbouring outputs of a line, or of two, in a block of channels.
#[derive(Clone, Debug)]
pub struct Stretch<'a, T> {
    /// The input at the first output's first tap, in a row that begins at element 0, in the first channel. It
    /// need not exist.
    pub x: *const T,
    /// The rows that windows read, in the order of the kernel's for each line.
    pub rows: &'a [Row],
    /// How many the kernel has.
    pub kernel_rows: usize,
    /// Elements between inputs that taps of neighbouring numbers read.
    pub step: isize,
    /// By how many of those the windows of neighbouring outputs are apart.
    pub stride: usize,
    /// Taps of a row.
    pub taps: usize,
    /// Which inputs of a row exist, counted from the first output's first tap.
    pub inside: Range<usize>,
    /// The weights: those of a tap in all channels, then those of the next; behind all taps, for each row the
    /// sum of its weights' products with zero, which is what a row adds that lies nowhere.
    pub weights: &'a [T],
    /// Elements from a tap to the next.
    pub pitch: usize,
    /// How many channels, at least a vector's. The last vector repeats some of those before it if need be.
    pub channels: usize,
    /// Where the first output's first channel goes, for each line; null if there is none.
    pub out: [*mut T; MOST_LINES],
    /// Bytes between outputs.
    pub out_step: isize,
    /// What is done to sums before they are written; the bias, if any, is of lanes.
    pub finish: Finish<T>,
}

/// Computes a stretch.
pub type Stretching<T> = unsafe fn(&Stretch<'_, T>);

/// The functions for rows of some taps and some stride.
#[derive(Debug)]
pub struct Stretches<T: 'static> {
    /// Taps of a row, or 0 for any.
    pub taps: usize,
    /// See [`Stretch::stride`]; 0 for any.
    pub stride: usize,
    /// Lines that are computed together.
    pub lines: usize,
    /// For 1, 2, 3... outputs.
    pub outputs: &'static [Stretching<T>],
    /// For as many as the last of those, all inputs of which exist.
    pub whole: Stretching<T>,
}

/// The most inputs that the taps of a row of a stretch read: those of 7 outputs 1 apart or of 6 2 apart, of 7 taps.
const MOST_INPUTS: usize = 17;

/// Adds the products of a row's inputs with a row of `K` taps to the sums of `R` outputs, `S` inputs apart.
///
/// # Safety
/// As for [`stretch`]; `weights` are those of that row.
#[inline(always)]
unsafe fn add<V: Vector, const K: usize, const S: usize, const R: usize>(
    sums: &mut [V; R],
    inputs: &[V; MOST_INPUTS],
    (weights, pitch): (*const V::Element, usize),
) {
    for tap in 0..K {
        // SAFETY: the caller vouches for the instructions and the weights.
        unsafe {
            let weight = V::load(weights.wrapping_add(tap * pitch));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = weight.mul_add(inputs[S * r + tap], *sum);
            }
        }
    }
}

/// The same of any taps and any stride, with inputs from memory: those of the row from `x` on.
///
/// # Safety
/// As for [`stretch`].
#[inline(always)]
unsafe fn add_any<V: Vector, const R: usize, const WHOLE: bool>(
    sums: &mut [V; R],
    stretch: &Stretch<'_, V::Element>,
    (x, weights): (*const V::Element, *const V::Element),
) {
    for tap in 0..stretch.taps {
        // SAFETY: the caller vouches for the instructions, the weights, and inputs that exist.
        unsafe {
            let weight = V::load(weights.wrapping_add(tap * stretch.pitch));
            for (r, sum) in sums.iter_mut().enumerate() {
                let i = r * stretch.stride + tap;
                let exists = WHOLE || stretch.inside.contains(&i);
                let at = x.wrapping_offset(i as isize * stretch.step);
                let value = if exists { V::load(at) } else { V::zero() };
                *sum = weight.mul_add(value, *sum);
            }
        }
    }
}

/// Computes `R` outputs of each of `L` lines, of rows of `K` taps whose windows are `S` inputs apart; with `K` 0,
/// of any. With `WHOLE`, all inputs exist.
///
/// # Safety
/// The CPU must have the instructions of `V`. There must be a vector of channels; all inputs that exist, in
/// rows that lie somewhere, must be readable in all channels, as must be the bias, if any, and weights of all
/// taps and of all rows behind them; results of lines that there are must be writable in all channels.
#[allow(clippy::needless_range_loop)] // iterators over sums keep them in memory: it takes twice as long
#[inline(always)]
pub unsafe fn stretch<
    V: Vector,
    const K: usize,
    const S: usize,
    const R: usize,
    const L: usize,
    const WHOLE: bool,
>(
    stretch: &Stretch<'_, V::Element>,
) {
    let taps = if K == 0 { stretch.taps } else { K };
    // SAFETY: the caller vouches for the instructions and every address.
    unsafe {
        for v in 0..stretch.channels.div_ceil(V::LANES) {
            let channel = (v * V::LANES).min(stretch.channels - V::LANES);
            let mut sums = [[V::zero(); R]; L];
            let weights = stretch.weights.as_ptr().wrapping_add(channel);
            for row in stretch.rows {
                if row.x == NOWHERE {
                    let one = V::splat(&V::Element::from_f64(1.0));
                    for l in 0..L {
                        let Some(y) = row.taps[l] else { continue };
                        let padding = (stretch.kernel_rows * taps + y) * stretch.pitch;
                        let padding = V::load(weights.wrapping_add(padding));
                        for r in 0..R {
                            sums[l][r] = padding.mul_add(one, sums[l][r]);
                        }
                    }
                    continue;
                }
                let x = stretch.x.wrapping_offset(row.x + channel as isize);
                let mut inputs = [V::zero(); MOST_INPUTS];
                if K > 0 {
                    for (i, input) in inputs.iter_mut().enumerate().take(S * (R - 1) + K) {
                        if WHOLE || stretch.inside.contains(&i) {
                            *input = V::load(x.wrapping_offset(i as isize * stretch.step));
                        }
                    }
                }
                for l in 0..L {
                    let Some(y) = row.taps[l] else { continue };
                    let weights = weights.wrapping_add(y * taps * stretch.pitch);
                    if K > 0 {
                        add::<V, K, S, R>(&mut sums[l], &inputs, (weights, stretch.pitch));
                    } else {
                        add_any::<V, R, WHOLE>(&mut sums[l], stretch, (x, weights));
                    }
                }
            }
            for l in 0..L {
                let to = stretch.out[l];
                if to.is_null() {
                    continue;
                }
                for r in 0..R {
                    let mut sum = sums[l][r];
                    if let Bias::Lanes(bias) = stretch.finish.bias {
                        sum = sum.add(V::load(bias.wrapping_add(channel)));
                    }
                    if let Some((low, high)) = stretch.finish.clip {
                        sum = sum.clip(V::splat(&low), V::splat(&high));
                    }
                    let to = to.wrapping_byte_offset(r as isize * stretch.out_step);
                    sum.store(to.wrapping_add(channel));
                }
            }
        }
    }
}

/// A table of stretches for one instruction set, from a function that is generic over the taps of a row, the
/// stride, outputs, lines, and whether all inputs exist: [`stretch`]. Outputs are as many as registers hold
/// with all inputs.
macro_rules! stretches {
    ($run:ident, $($taps:literal / $stride:literal: $lines:literal * [$($outputs:literal)*] $most:literal),*) => {
        &[$($crate::tile::channels::Stretches {
            taps: $taps,
            stride: $stride,
            lines: $lines,
            outputs: &[$($run::<$taps, $stride, $outputs, $lines, false>),*],
            whole: $run::<$taps, $stride, $most, $lines, true>,
        }),*]
    };
}
pub(super) use stretches;
