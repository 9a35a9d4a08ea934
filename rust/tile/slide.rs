//! Windows of one channel that slide down a plane: sums of few taps, each of which is used by no
//! other output channel.
//!
//! A tile of neighbouring outputs computes the same sums, but with so few taps most of its steps are
//! of some rows only, and what decides which ones takes longer than the products. Here the sums move:
//! each input row is read once and added to all outputs whose windows hold it, the oldest of which
//! is then finished, and the others age by one. A vector is of neighbouring positions of a channel, with
//! a number a weight; or of neighbouring channels at a position, with a vector a weight.

use super::kernel::{Bias, Column, Finish};
use super::vector::Vector;

/// Vectors of outputs below one another.
#[derive(Clone, Copy, Debug)]
pub struct Slide<'a, T> {
    /// The input.
    pub b: *const T,
    /// Where in it the first rows of the first window start, in elements: as many as the stride.
    pub rows: [isize; MOST_STRIDE],
    /// Elements from a row to the one that is a stride lower.
    pub pitch: isize,
    /// Where the taps along a row lie, in elements.
    pub taps: &'a [isize],
    /// The weights, column by column of the kernel: a number or a vector each.
    pub weights: &'a [T],
    /// Where vectors start in a row of the input and of the result.
    pub columns: &'a [Column],
    /// How many outputs lie below one another.
    pub outputs: usize,
    /// Where the first one goes.
    pub out: *mut T,
    /// Bytes to the next.
    pub out_row: isize,
    /// What is done to sums before they are written; a bias of lanes is the same for all columns.
    pub finish: Finish<T>,
    /// What will be read next.
    pub ahead: Ahead,
}

/// Lines to ask for while windows slide, so that they are in the second-level cache when they are staged.
/// (Asking for those of results as well, up to 24 outputs ahead, changed nothing on a Sapphire Rapids.)
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// The first row.
    pub first: *const u8,
    /// Bytes to the next: a stride of them are asked for an output.
    pub row: isize,
    /// Where the columns are in a row.
    pub columns: [isize; MOST_VECTORS],
}

/// Most vectors that slide together.
pub const MOST_VECTORS: usize = 4;

/// Computes vectors of outputs below one another.
pub type Sliding<T> = unsafe fn(&Slide<'_, T>);

/// The functions for kernels of some height and some stride.
#[derive(Debug)]
pub struct Slides<T: 'static> {
    /// Rows of the kernel.
    pub kernel: usize,
    /// Input rows between outputs.
    pub stride: usize,
    /// For 1, 2, 3... vectors of positions.
    pub positions: &'static [Sliding<T>],
    /// The same for vectors of channels.
    pub channels: &'static [Sliding<T>],
}

/// The largest stride that there are functions for.
pub const MOST_STRIDE: usize = 2;

/// Computes `NV` vectors of outputs of windows `K` rows high and `S` rows apart, each a chain of
/// multiply-adds in the order of its taps. With `CHANNELS`, vectors are of channels.
///
/// # Safety
/// The CPU must have the instructions of `V`; there must be weights for `K` rows of all taps, and `NV`
/// columns; the input must be readable for a vector at every column, tap and row that a window has, and
/// the result writable for a vector at every column of every output; the bias, if any, readable.
#[inline(always)]
pub unsafe fn slide<
    V: Vector,
    const K: usize,
    const S: usize,
    const NV: usize,
    const CHANNELS: bool,
>(
    slide: &Slide<'_, V::Element>,
) {
    // No closures with vectors in them: those are compiled without the instructions of this function,
    // unless they disappear in it.
    let columns: [Column; NV] = std::array::from_fn(|v| slide.columns[v]);
    let weight = if CHANNELS { V::LANES } else { 1 };
    // The sums of output `i - age`; the oldest has met its last rows when output `i + 1` begins.
    let oldest = K.div_ceil(S) - 1;
    let mut to = slide.out;
    // SAFETY: the caller vouches for the instructions and every address.
    unsafe {
        let mut acc = [[V::zero(); NV]; K];
        for i in 0..slide.outputs + oldest {
            for &column in &slide.ahead.columns[..NV] {
                for j in 0..S {
                    let row = (i * S + j) as isize * slide.ahead.row;
                    V::prefetch(slide.ahead.first.wrapping_offset(row + column));
                }
            }
            for j in 0..S {
                // The last windows may end above this row. Else it is added to all sums, those before the
                // first output and behind the last among them, which nobody will see: to tell them
                // apart takes longer.
                if i >= slide.outputs && (i + 1 - slide.outputs) * S + j >= K {
                    break;
                }
                let row = slide.b.wrapping_offset(slide.rows[j] + i as isize * slide.pitch);
                let mut weights = slide.weights.as_ptr();
                for &tap in slide.taps {
                    let at = row.wrapping_offset(tap);
                    let mut values = [V::zero(); NV];
                    for (value, column) in values.iter_mut().zip(&columns) {
                        *value = V::load(at.wrapping_offset(column.from));
                    }
                    for (age, sums) in acc.iter_mut().enumerate().take(oldest + 1) {
                        let y = age * S + j;
                        if y < K {
                            let at = weights.wrapping_add(y * weight);
                            let factor = if CHANNELS { V::load(at) } else { V::splat(at) };
                            for (sum, value) in sums.iter_mut().zip(values) {
                                *sum = factor.mul_add(value, *sum);
                            }
                        }
                    }
                    weights = weights.wrapping_add(K * weight);
                }
            }
            if i >= oldest {
                let Finish { bias, clip } = slide.finish;
                for (&sum, column) in acc[oldest].iter().zip(&columns) {
                    let mut sum = match bias {
                        Bias::None => sum,
                        Bias::Rows(bias, _) => sum.add(V::splat(bias)),
                        Bias::Lanes(bias) => sum.add(V::load(bias)),
                    };
                    if let Some((low, high)) = clip {
                        sum = sum.clip(V::splat(&low), V::splat(&high));
                    }
                    sum.store(to.wrapping_byte_offset(column.to));
                }
                to = to.wrapping_byte_offset(slide.out_row);
            }
            for age in (0..oldest).rev() {
                acc[age + 1] = acc[age];
            }
            acc[0] = [V::zero(); NV];
        }
    }
}

/// A table of [`slide`] for one instruction set, from a function that is generic over the height of
/// the kernel, the stride, and vectors.
macro_rules! slides {
    ($run:ident, $($kernel:literal / $stride:literal: [$($vectors:literal)*]),*) => {
        &[$($crate::tile::slide::Slides {
            kernel: $kernel,
            stride: $stride,
            positions: &[$($run::<$kernel, $stride, $vectors, false>),*],
            channels: &[$($run::<$kernel, $stride, $vectors, true>),*],
        }),*]
    };
}
pub(super) use slides;
