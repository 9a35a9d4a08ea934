//! What happens to a finished tile: bias, activation, dropping of junk lanes, any output strides.

use std::ops::Range;

use crate::geometry::Activation;
use crate::slab::Cover;
use crate::view::{Element, ViewMut};

/// Where and how results are stored.
#[derive(Debug)]
pub struct Store<'a, T> {
    /// The result, canonical strides.
    pub out: ViewMut<'a, T>,
    /// One number an output channel, or none at all.
    pub bias: &'a [T],
    /// Applied after the bias.
    pub activation: Activation,
}

/// Which results a tile holds.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Output channels, one a row.
    pub channels: Range<usize>,
    /// Positions of a block.
    pub cover: &'a Cover,
    /// Vectors of the cover.
    pub vectors: Range<usize>,
    /// Byte offset of the block's first result in its channel.
    pub block: isize,
}

impl<T: Element> Store<'_, T> {
    /// Finishes the sums of a tile, in place, and writes those that are results.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    pub unsafe fn tile(&self, target: &Target<'_>, sums: &mut [T]) {
        let row_len = sums.len() / target.channels.len();
        let lanes = row_len / target.vectors.len();
        let (channel_stride, step) =
            (self.out.strides()[0], *self.out.strides().last().expect("a result has axes"));
        for (channel, row) in target.channels.clone().zip(sums.chunks_exact_mut(row_len)) {
            if let Some(&bias) = self.bias.get(channel) {
                row.iter_mut().for_each(|y| *y = y.add(bias));
            }
            activate(self.activation, row);
            let start = target.block + channel as isize * channel_stride;
            for (vector, values) in target.vectors.clone().zip(row.chunks_exact(lanes)) {
                for segment in target.cover.segments(vector) {
                    let values = &values[segment.lane..segment.lane + segment.len];
                    // SAFETY: the caller keeps other threads away.
                    unsafe { self.out.write(start + segment.to, step, values) }
                }
            }
        }
    }
}

/// Applies an activation. NaN stays NaN: it is neither below nor above anything.
fn activate<T: Element>(activation: Activation, values: &mut [T]) {
    let (low, high) = match activation {
        Activation::None => return,
        Activation::Relu => (0.0, f64::INFINITY),
        Activation::Clip { low, high } => (low, high),
    };
    let (low, high) = (T::from_f64(low), T::from_f64(high));
    for y in values {
        if *y < low {
            *y = low;
        }
        if *y > high {
            *y = high;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Positions;

    #[test]
    fn a_tile_is_finished_and_written_where_it_belongs() {
        // Two channels of 2 x 3 results, from vectors of 4 over rows 5 apart.
        let (lens, pitches) = ([1, 2, 3], [10, 5, 1]);
        let mut out = [9.0f32; 12];
        for channels_last in [false, true] {
            let strides = if channels_last { [4, 48, 24, 8] } else { [24, 48, 12, 4] };
            // SAFETY: 12 distinct elements of a local array.
            let view =
                unsafe { ViewMut::new(out.as_mut_ptr().cast(), &[2, 1, 2, 3], strides.to_vec()) };
            let positions = Positions { lens: &lens, pitches: &pitches, strides: &strides[1..] };
            let cover = Cover::new(positions, 4, isize::MAX);
            assert_eq!(cover.starts, [0, 5]);
            let activation = Activation::Clip { low: -1.0, high: 12.0 };
            let store = Store { out: view, bias: &[-1.0, 0.5], activation };
            let mut sums: Vec<f32> = (0..16).map(|i| i as f32).collect();
            sums[4] = f32::NAN;
            let target = Target { channels: 0..2, cover: &cover, vectors: 0..2, block: 0 };
            // SAFETY: one thread.
            unsafe { store.tile(&target, &mut sums) };
            let at = |c: usize, p: usize| out[if channels_last { p * 2 + c } else { c * 6 + p }];
            let found: Vec<f32> = (0..12).map(|i| at(i / 6, i % 6)).collect();
            assert_eq!(found[..3], [-1.0, 0.0, 1.0]);
            assert!(found[3].is_nan());
            assert_eq!(found[4..], [4.0, 5.0, 8.5, 9.5, 10.5, 12.0, 12.0, 12.0]);
        }
    }
}
