//! What happens to a finished tile: bias, activation, dropping of junk lanes, any output strides.
//!
//! Vectors whose lanes are all neighbours in the result are written there by the tile kernel itself;
//! the others are set aside, and their useful lanes written from there.

use std::ops::Range;

use crate::geometry::Activation;
use crate::slab::Cover;
use crate::tile::{Finish, Rows};
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
    /// Whether results are added to what the array holds. They have no bias and no activation then.
    pub accumulate: bool,
}

/// Which results a tile holds.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Output channels, one a row.
    pub channels: Range<usize>,
    /// Positions of a block.
    pub cover: &'a Cover,
    /// Byte offset of the block's first result in its channel.
    pub block: isize,
}

impl<T: Element> Store<'_, T> {
    /// What is done to sums before they are written.
    pub fn finish(&self, channels: &Range<usize>) -> Finish<T> {
        let bias = match self.bias {
            [] => std::ptr::null(),
            bias => bias[channels.clone()].as_ptr(),
        };
        let clip = match self.activation {
            Activation::None => None,
            Activation::Relu => Some((0.0, f64::INFINITY)),
            Activation::Clip { low, high } => Some((low, high)),
        };
        Finish { bias, clip: clip.map(|(low, high)| (T::from_f64(low), T::from_f64(high))) }
    }

    /// Where the sums of vector `vector` go straight to the result: if all its lanes are neighbours
    /// there.
    #[inline]
    pub fn rows(&self, target: &Target<'_>, vector: usize, lanes: usize) -> Option<Rows<T>> {
        let size = size_of::<T>() as isize;
        match target.cover.segments(vector) {
            [segment] if segment.len == lanes && self.step() == size && !self.accumulate => {
                let row = self.out.strides()[0];
                let reach = row * (target.channels.len() as isize - 1);
                let from = self.start(target) + segment.to;
                let last = reach.max(0) + lanes as isize * size;
                Some(Rows { first: self.out.at(from, reach.min(0), last), row })
            }
            _ => None,
        }
    }

    /// Writes the useful lanes of vector `vector` from `aside`, which holds a vector of each row.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    pub unsafe fn write(&self, target: &Target<'_>, vector: usize, aside: &[T]) {
        let lanes = aside.len() / target.channels.len();
        let segments = target.cover.segments(vector);
        let step = self.step();
        let mut start = self.start(target);
        for row in aside.chunks_exact(lanes) {
            for segment in segments {
                let values = &row[segment.lane..segment.lane + segment.len];
                // SAFETY: the caller keeps other threads away.
                unsafe {
                    if self.accumulate {
                        self.out.add(start + segment.to, step, values);
                    } else {
                        self.out.write(start + segment.to, step, values);
                    }
                }
            }
            start += self.out.strides()[0];
        }
    }

    /// A sum of output channel `channel` with its bias and activation.
    pub fn finished(&self, channel: usize, sum: T) -> T {
        let Finish { bias, clip } = self.finish(&(channel..channel + 1));
        // SAFETY: `finish` gave null or the address of the bias of a row.
        let sum = if bias.is_null() { sum } else { sum.add(unsafe { *bias }) };
        match clip {
            // As the tile kernels do: of a NaN and a number, the NaN.
            Some((low, _)) if low > sum => low,
            Some((_, high)) if high < sum => high,
            _ => sum,
        }
    }

    /// Writes a row along the innermost axis as it is: that of `index` (the batch and the outer
    /// axes) of channel `channel`.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    pub unsafe fn put(&self, (channel, index): (usize, &[usize]), row: &[T]) {
        let strides = self.out.strides();
        let outer = index.iter().zip(&strides[1..]).map(|(&i, s)| i as isize * s);
        let at = channel as isize * strides[0] + outer.sum::<isize>();
        // SAFETY: the caller keeps other threads away.
        unsafe {
            if self.accumulate {
                self.out.add(at, self.step(), row);
            } else {
                self.out.write(at, self.step(), row);
            }
        }
    }

    /// Byte offset of the first result of a target's block.
    fn start(&self, target: &Target<'_>) -> isize {
        target.block + target.channels.start as isize * self.out.strides()[0]
    }

    /// Bytes between neighbouring results.
    fn step(&self) -> isize {
        *self.out.strides().last().expect("a result has axes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Positions;

    #[test]
    fn lanes_are_written_where_they_belong() {
        // Two channels of 2 x 5 results, from vectors of 4 over rows 7 apart: whole, cut, whole, cut.
        let (lens, pitches) = ([1, 2, 5], [14, 7, 1]);
        let mut out = [9.0f32; 20];
        for channels_last in [false, true] {
            let strides = if channels_last { [4, 80, 40, 8] } else { [40, 80, 20, 4] };
            let shape = [2, 1, 2, 5];
            // SAFETY: 20 distinct elements of a local array.
            let view = unsafe { ViewMut::new(out.as_mut_ptr().cast(), &shape, strides.to_vec()) };
            let positions = Positions { lens: &lens, pitches: &pitches, strides: &strides[1..] };
            let cover = Cover::new(positions, 4, isize::MAX);
            assert_eq!(cover.starts, [0, 4, 8]);
            let store =
                Store { out: view, bias: &[], activation: Activation::None, accumulate: false };
            let target = Target { channels: 0..2, cover: &cover, block: 0 };
            for vector in 0..3 {
                let mut aside = [0.0; 8];
                let direct = store.rows(&target, vector, 4);
                assert_eq!(direct.is_some(), !channels_last && vector != 1);
                let rows = direct.unwrap_or(Rows { first: aside.as_mut_ptr(), row: 16 });
                for row in 0..2isize {
                    let to = rows.first.wrapping_byte_offset(row * rows.row);
                    for lane in 0..4 {
                        let value = (100 * row + 10 * vector as isize + lane) as f32;
                        // SAFETY: a vector of a row of the tile, in `out` or in `aside`.
                        unsafe { to.add(lane as usize).write(value) }
                    }
                }
                if direct.is_none() {
                    // SAFETY: one thread.
                    unsafe { store.write(&target, vector, &aside) };
                }
            }
            let at = |i: usize| out[if channels_last { i % 10 * 2 + i / 10 } else { i }];
            let found: Vec<f32> = (0..20).map(at).collect();
            assert_eq!(found[..10], [0., 1., 2., 3., 10., 13., 20., 21., 22., 23.]);
            assert_eq!(found[10..], [100., 101., 102., 103., 110., 113., 120., 121., 122., 123.]);
        }
    }

    #[test]
    fn bias_and_activation_are_those_of_the_rows() {
        let mut out = [0.0f32; 3];
        let view = ViewMut::from_slice(&mut out, &[3, 1, 1]);
        let activation = Activation::Clip { low: -1.0, high: 2.0 };
        let store = Store { out: view, bias: &[1.0, 2.0, 3.0], activation, accumulate: false };
        let finish = store.finish(&(1..3));
        // SAFETY: the first of two numbers of a slice.
        assert_eq!(unsafe { *finish.bias }, 2.0);
        assert_eq!(finish.clip, Some((-1.0, 2.0)));
    }
}
