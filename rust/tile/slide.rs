//! Windows of one channel that slide down a plane: sums of few taps, each of which is used by no
//! other output channel.
//!
//! A tile of neighbouring outputs computes the same sums, but with so few taps most of its steps are
//! of some rows only, and what decides which ones takes longer than the products. Here the sums move:
//! each input row is read once and added to all outputs whose windows hold it, the oldest of which
//! is then finished, and the others age by one. A vector is of neighbouring positions of a channel, with
//! a number a weight; or of neighbouring channels at a position, with a vector a weight.
//!
//! A plane that is padded with zeros is read where it lies: what a vector of it has beyond a row's ends is
//! masked, and a row beyond the plane takes one step instead of one a tap: all of its products are zeros, so they
//! are added up beforehand (7x7 on planes of 14 x 14 has six such rows beside its 14). So memory is read once, in
//! order, and nothing else is touched; staging a plane first took as long again as copying it.

use std::ops::Range;

use super::kernel::{Bias, Column, Finish};
use super::vector::{Level, Vector};
use crate::number::Element;

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

/// Vectors of outputs below one another, of a plane that is read where it lies.
#[derive(Clone, Debug)]
pub struct SlideInPlace<'a, T> {
    /// The same as of others, with rows that need not exist. Kernels are square, and the stride is that of rows
    /// too; taps and columns do not go below 0. Behind the weights is another column: for each row, the sum
    /// of its weights' products with zero, which is what a row that does not exist adds.
    pub slide: Slide<'a, T>,
    /// Which rows exist.
    pub inside: Range<usize>,
    /// Which elements of each vector exist at each tap, the first in the lowest bit.
    pub taken: &'a [[u32; MOST_VECTORS]],
    /// Which lanes of each vector are results.
    pub kept: &'a [u32; MOST_VECTORS],
    /// Elements between the weights of a vector and those of the next, where vectors are cut: 0 if all are of one
    /// channel. As many channels as make up for the latency of sums slide together where planes are narrow.
    pub apart: usize,
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

impl Ahead {
    /// Nothing: planes that are read where they lie come in the order that the CPU expects.
    pub const NOTHING: Ahead =
        Ahead { first: std::ptr::null(), row: 0, columns: [0; MOST_VECTORS] };
}

/// Most vectors that slide together.
pub const MOST_VECTORS: usize = 7;

/// Computes vectors of outputs below one another.
pub type Sliding<T> = unsafe fn(&Slide<'_, T>);

/// The same of a plane that is read where it lies.
pub type SlidingInPlace<T> = unsafe fn(&SlideInPlace<'_, T>);

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
    /// For vectors of positions that are read where they lie, of square kernels. Of those that are not
    /// [`is_masked`], all elements exist, and so do all results.
    pub in_place: &'static [SlidingInPlace<T>],
    /// The same where any element may be missing, and any lane no result; vectors may be of channels of their own.
    pub cut: &'static [SlidingInPlace<T>],
}

/// The largest stride that there are functions for.
pub const MOST_STRIDE: usize = 2;

/// Whether vector `v` of `vectors` may miss elements at a tap of `kernel`: the first one those before a row's
/// start, the last one those behind its end. Masks for all would take a tenth of the time of large kernels. With a
/// stride a vector is read in two, and the products are too few for masks to matter.
pub const fn is_masked(
    (tap, kernel): (usize, usize),
    (v, vectors): (usize, usize),
    stride: usize,
) -> bool {
    stride > 1 || (v == 0 && tap < kernel / 2) || (v + 1 == vectors && tap >= kernel / 2)
}

/// Sums of `NV` vectors of outputs whose windows are `K` rows high: those of output `i - age` when rows `i` are
/// added.
struct Sums<V, const K: usize, const NV: usize>([[V; NV]; K]);

// No closures with vectors in them: those are compiled without the instructions of the functions below,
// unless they disappear in them.
impl<V: Vector, const K: usize, const NV: usize> Sums<V, K, NV> {
    /// Adds the products of one tap of row `j` of those that are `S` rows further for each output, with the
    /// weights of its column: numbers, or vectors. Those of each vector of values lie `apart` elements further.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and there must be `K` weights.
    #[inline(always)]
    unsafe fn add<const S: usize, const CHANNELS: bool>(
        &mut self,
        values: [V; NV],
        (weights, apart): (*const V::Element, usize),
        j: usize,
    ) {
        for (age, sums) in self.0.iter_mut().enumerate().take(K.div_ceil(S)) {
            let y = age * S + j;
            if y < K {
                let at = weights.wrapping_add(y * if CHANNELS { V::LANES } else { 1 });
                for (v, (sum, value)) in sums.iter_mut().zip(values).enumerate() {
                    let at = at.wrapping_add(v * apart);
                    // SAFETY: the caller vouches for the instructions and the weights.
                    unsafe {
                        let factor = if CHANNELS { V::load(at) } else { V::splat(at) };
                        *sum = factor.mul_add(value, *sum);
                    }
                }
            }
        }
    }

    /// The oldest sums, which have met their last rows, with bias and activation. The others age.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`, and the bias be readable.
    #[inline(always)]
    unsafe fn next<const S: usize>(&mut self, finish: &Finish<V::Element>) -> [V; NV] {
        let oldest = K.div_ceil(S) - 1;
        let mut done = self.0[oldest];
        // SAFETY: the caller vouches for the instructions and the bias.
        unsafe {
            for (v, sum) in done.iter_mut().enumerate() {
                match finish.bias {
                    Bias::None => {}
                    Bias::Rows(bias, each) => *sum = sum.add(V::splat(bias.wrapping_add(v * each))),
                    Bias::Lanes(bias) => *sum = sum.add(V::load(bias)),
                }
                if let Some((low, high)) = finish.clip {
                    *sum = sum.clip(V::splat(&low), V::splat(&high));
                }
            }
            for age in (0..oldest).rev() {
                self.0[age + 1] = self.0[age];
            }
            self.0[0] = [V::zero(); NV];
        }
        done
    }
}

/// Whether no window is left that holds row `j` of output `i` and those that are further. Else rows are added to
/// all sums, those before the first output and behind the last among them, which nobody will see: to tell them
/// apart takes longer.
#[inline(always)]
fn is_below<const K: usize, const S: usize>(outputs: usize, i: usize, j: usize) -> bool {
    i >= outputs && (i + 1 - outputs) * S + j >= K
}

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
    let columns: [Column; NV] = std::array::from_fn(|v| slide.columns[v]);
    let column = K * if CHANNELS { V::LANES } else { 1 };
    let oldest = K.div_ceil(S) - 1;
    let mut to = slide.out;
    // SAFETY: the caller vouches for the instructions and every address.
    unsafe {
        let mut sums = Sums::<V, K, NV>([[V::zero(); NV]; K]);
        for i in 0..slide.outputs + oldest {
            for &column in &slide.ahead.columns[..NV] {
                for j in 0..S {
                    let row = (i * S + j) as isize * slide.ahead.row;
                    let at = slide.ahead.first.wrapping_offset(row + column);
                    V::prefetch(at, Level::Second);
                }
            }
            for j in 0..S {
                if is_below::<K, S>(slide.outputs, i, j) {
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
                    sums.add::<S, CHANNELS>(values, (weights, 0), j);
                    weights = weights.wrapping_add(column);
                }
            }
            let done = sums.next::<S>(&slide.finish);
            if i >= oldest {
                for (sum, column) in done.iter().zip(&columns) {
                    sum.store(to.wrapping_byte_offset(column.to));
                }
                to = to.wrapping_byte_offset(slide.out_row);
            }
        }
    }
}

/// How many outputs ahead their rows, and the results', are asked for where planes are read where they lie. In a
/// prototype of 3x3 on 51 MB, which no cache holds, that took 4.5 ms, rows alone 5.6, nothing 5.9, and a copy 3.5;
/// 12 outputs ahead are no better (Sapphire Rapids).
const ROWS_AHEAD: isize = 4;

/// The same of vectors of positions that are read where they lie, of a kernel of `K` taps a row too. With `CUT`,
/// any element may be missing, and any lane no result, and each vector may be of a channel of its own.
///
/// # Safety
/// As for [`slide`], but elements need to be there only as `inside`, `taken` and [`is_masked`] say, and results
/// as `kept` does; there must be a column more of weights, for each vector `apart` elements further.
#[inline(always)]
pub unsafe fn slide_in_place<
    V: Vector,
    const K: usize,
    const S: usize,
    const NV: usize,
    const CUT: bool,
>(
    place: &SlideInPlace<'_, V::Element>,
) {
    let slide = &place.slide;
    let columns: [Column; NV] = std::array::from_fn(|v| slide.columns[v]);
    let taps: [isize; K] = std::array::from_fn(|tap| slide.taps[tap]);
    let taken: [[u32; NV]; K] =
        std::array::from_fn(|tap| std::array::from_fn(|v| place.taken[tap][v]));
    let apart = if CUT { place.apart } else { 0 };
    let oldest = K.div_ceil(S) - 1;
    let mut to = slide.out;
    // SAFETY: the caller vouches for the instructions and every address.
    unsafe {
        let mut sums = Sums::<V, K, NV>([[V::zero(); NV]; K]);
        for i in 0..slide.outputs + oldest {
            for column in &columns {
                let to = to.wrapping_byte_offset(ROWS_AHEAD * slide.out_row + column.to);
                V::prefetch(to.cast(), Level::Written);
            }
            for j in 0..S {
                if is_below::<K, S>(slide.outputs, i, j) {
                    break;
                }
                let row = slide.b.wrapping_offset(slide.rows[j] + i as isize * slide.pitch);
                for column in &columns {
                    let ahead = row.wrapping_offset(ROWS_AHEAD * slide.pitch + column.from);
                    V::prefetch(ahead.cast(), Level::First);
                }
                if !place.inside.contains(&(i * S + j)) {
                    let one = V::splat(&V::Element::from_f64(1.0));
                    let padding = slide.weights.as_ptr().wrapping_add(K * K);
                    sums.add::<S, false>([one; NV], (padding, apart), j);
                    continue;
                }
                for tap in 0..K {
                    let at = row.wrapping_offset(taps[tap]);
                    let mut values = [V::zero(); NV];
                    for (v, value) in values.iter_mut().enumerate() {
                        let at = at.wrapping_offset(columns[v].from);
                        *value = if CUT || is_masked((tap, K), (v, NV), S) {
                            V::load_some(at, S, taken[tap][v])
                        } else {
                            V::load(at)
                        };
                    }
                    let weights = slide.weights.as_ptr().wrapping_add(tap * K);
                    sums.add::<S, false>(values, (weights, apart), j);
                }
            }
            let done = sums.next::<S>(&slide.finish);
            if i >= oldest {
                for (v, sum) in done.iter().enumerate() {
                    let to = to.wrapping_byte_offset(columns[v].to);
                    if CUT { sum.store_some(to, place.kept[v]) } else { sum.store(to) }
                }
                to = to.wrapping_byte_offset(slide.out_row);
            }
        }
    }
}

/// A table of windows for one instruction set, from two functions that are generic over the height of
/// the kernel, the stride, and vectors: [`slide`] and [`slide_in_place`].
macro_rules! slides {
    ($run:ident, $in_place:ident,
     $($kernel:literal / $stride:literal:
        [$($vectors:literal)*] [$($place:literal)*] [$($cut:literal)*]),*) => {
        &[$($crate::tile::slide::Slides {
            kernel: $kernel,
            stride: $stride,
            positions: &[$($run::<$kernel, $stride, $vectors, false>),*],
            channels: &[$($run::<$kernel, $stride, $vectors, true>),*],
            in_place: &[$($in_place::<$kernel, $stride, $place, false>),*],
            cut: &[$($in_place::<$kernel, $stride, $cut, true>),*],
        }),*]
    };
}
pub(super) use slides;
