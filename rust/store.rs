//! What happens to a finished tile: bias, activation, dropping of junk lanes, any output strides.
//!
//! Whole vectors are written by the tile kernel itself; cut ones are set aside, and their useful lanes
//! written from there.

use crate::convert::copy;
use crate::cover::{Lanes, Span};
use crate::geometry::Activation;
use crate::tile::{Bias, Finish, Kernels, Rows, Tiled};
use crate::view::ViewMut;

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

/// Which results the rows of a tile are.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// How many rows.
    pub rows: usize,
    /// Byte offset of the first row's first result.
    pub to: isize,
    /// Bytes between rows.
    pub row: isize,
}

impl<'a, T: Tiled> Store<'a, T> {
    /// Of sums as they are.
    pub fn plain(out: ViewMut<'a, T>) -> Self {
        Store { out, bias: &[], activation: Activation::None, accumulate: false }
    }

    /// Whether vectors may be written to the result as they are.
    pub fn is_direct(&self) -> bool {
        !self.accumulate && self.out.is_native()
    }

    /// What is done to sums before they are written. Rows belong to output channels from `channel` on,
    /// each to the next, or all to that one.
    pub fn finish(&self, channel: usize, rows: usize, each: bool) -> Finish<T> {
        let channels = if each { rows } else { 1 };
        let bias = match self.bias {
            [] => Bias::None,
            bias => Bias::Rows(bias[channel..channel + channels].as_ptr(), usize::from(each)),
        };
        Finish { bias, clip: self.clip() }
    }

    /// The bounds that the activation keeps to.
    pub fn clip(&self) -> Option<(T, T)> {
        self.activation.bounds().map(|(low, high)| (T::from_f64(low), T::from_f64(high)))
    }

    /// Where the rows of whole vectors go.
    #[inline]
    pub fn rows(&self, target: &Target, span: &Span, lanes: usize) -> Rows<T> {
        let Target { rows, to, row } = *target;
        let reach = row * (rows as isize - 1);
        let vector = (lanes * size_of::<T>()) as isize;
        let (first, last) = (span.to.0 + reach.min(0), span.to.1 + reach.max(0) + vector);
        Rows { first: self.out.at(to, first, last), row }
    }

    /// Writes the useful lanes of a cut vector from `values`, the rows of which are `pitch` elements
    /// apart. Lanes are `step` bytes apart in the result.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    #[inline]
    pub unsafe fn write(
        &self,
        target: &Target,
        (lanes, step): (&[Lanes], isize),
        (values, pitch): (&[T], usize),
        kernels: &Kernels<T>,
    ) {
        let size = self.out.size();
        for part in lanes {
            let rows = target.rows.min(part.rows);
            let to = target.to + part.to;
            if target.row == size && step != size && self.is_direct() {
                // Rows are neighbours in the result: each lane of all of them is one run.
                let reach = step * (part.len as isize - 1);
                let run = rows as isize * size;
                let to = self.out.at(to, reach.min(0), reach.max(0) + run);
                // SAFETY: `at` checked that all runs are results, and the caller keeps others away.
                unsafe {
                    kernels.transpose((&values[part.lane..], pitch), (rows, part.len), (to, step))
                }
                continue;
            }
            if step == size && self.is_direct() {
                let reach = target.row * (rows as isize - 1);
                let run = part.len as isize * size;
                let to = self.out.at(to, reach.min(0), reach.max(0) + run);
                let values = &values[part.lane..][..(rows - 1) * pitch + part.len];
                for row in 0..rows {
                    // SAFETY: `at` checked that the runs of all rows are results, and the caller keeps others
                    // away; the slice was just cut to hold them.
                    unsafe {
                        let from = values.as_ptr().add(row * pitch);
                        copy(from, to.wrapping_byte_offset(row as isize * target.row), part.len);
                    }
                }
                continue;
            }
            for row in 0..rows {
                let values = &values[row * pitch + part.lane..][..part.len];
                // SAFETY: the caller keeps other threads away.
                unsafe { self.run(to + row as isize * target.row, step, values) }
            }
        }
    }

    /// Writes or adds a run of results, `step` bytes apart from byte `to` on.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    #[inline(always)]
    pub unsafe fn run(&self, to: isize, step: isize, values: &[T]) {
        // SAFETY: the caller keeps other threads away.
        unsafe {
            if self.accumulate {
                self.out.add(to, step, values);
            } else {
                self.out.write(to, step, values);
            }
        }
    }

    /// A sum of output channel `channel` with its bias and activation.
    pub fn finished(&self, channel: usize, sum: T) -> T {
        let sum = self.bias.get(channel).map_or(sum, |&bias| sum.add(bias));
        match self.clip() {
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
        unsafe { self.run(at, self.step(), row) }
    }

    /// Bytes between neighbouring results along the last axis.
    pub fn step(&self) -> isize {
        *self.out.strides().last().expect("a result has axes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::{Cover, Positions};
    use crate::number::Scalar;
    use crate::tile::{Column, kernels};

    #[test]
    fn lanes_are_written_where_they_belong() {
        // Two channels of 2 x 5 results, from vectors of 4 over rows 7 apart: whole, cut, whole, cut.
        let (lens, pitches) = ([1, 2, 5], [14, 7, 1]);
        let kernels = kernels::<f32>().unwrap();
        let mut out = [9.0f32; 20];
        for channels_last in [false, true] {
            let strides = if channels_last { [4, 80, 40, 8] } else { [40, 80, 20, 4] };
            let shape = [2, 1, 2, 5];
            // SAFETY: 20 distinct elements of a local array.
            let view = unsafe {
                ViewMut::<f32>::new(out.as_mut_ptr().cast(), Scalar::F32, &shape, strides.to_vec())
            };
            let positions = Positions {
                lens: &lens,
                pitches: &pitches,
                strides: &strides[1..],
                short: None,
                end: isize::MAX,
                direct: true,
                apart: false,
            };
            let cover = Cover::new(&positions, 4, 4);
            let starts = |list: &[Column]| list.iter().map(|c| c.from).collect::<Vec<_>>();
            let (whole, cut) = (starts(&cover.whole), starts(&cover.cut));
            assert_eq!((whole.len(), cut.len()), if channels_last { (0, 3) } else { (2, 1) });
            let store = Store::plain(view);
            let target = Target { rows: 2, to: 0, row: strides[0] };
            // The value of each lane is its flat position, and 100 a row more.
            let value =
                |row: usize, from: isize, lane: usize| (100 * row + from as usize + lane) as f32;
            for span in cover.strips(1, 64) {
                let columns = if span.whole { &cover.whole } else { &cover.cut };
                for i in span.columns.clone() {
                    let from = columns[i].from;
                    if span.whole {
                        let rows = store.rows(&target, &span, 4);
                        for row in 0..2 {
                            let to = row as isize * rows.row + columns[i].to;
                            let to = rows.first.wrapping_byte_offset(to);
                            for lane in 0..4 {
                                // SAFETY: a vector of a row of `out`.
                                unsafe { to.add(lane).write(value(row, from, lane)) }
                            }
                        }
                    } else {
                        let aside: Vec<f32> = (0..8).map(|i| value(i / 4, from, i % 4)).collect();
                        // SAFETY: one thread.
                        unsafe {
                            store.write(
                                &target,
                                (cover.lanes(i), store.step()),
                                (&aside, 4),
                                kernels,
                            )
                        };
                    }
                }
            }
            let at = |i: usize| out[if channels_last { i % 10 * 2 + i / 10 } else { i }];
            let found: Vec<f32> = (0..20).map(at).collect();
            assert_eq!(found[..10], [0., 1., 2., 3., 4., 7., 8., 9., 10., 11.]);
            assert_eq!(found[10..], [100., 101., 102., 103., 104., 107., 108., 109., 110., 111.]);
        }
    }

    #[test]
    fn bias_and_activation_are_those_of_the_rows() {
        let mut out = [0.0f32; 3];
        let view = ViewMut::from_slice(&mut out, &[3, 1, 1]);
        let activation = Activation::Clip { low: -1.0, high: 2.0 };
        let store = Store { out: view, bias: &[1.0, 2.0, 3.0], activation, accumulate: false };
        for (each, step) in [(true, 1), (false, 0)] {
            let finish = store.finish(1, 2, each);
            let Bias::Rows(first, found) = finish.bias else { panic!("there is a bias") };
            // SAFETY: a number of a slice.
            assert_eq!((unsafe { *first }, found), (2.0, step));
            assert_eq!(finish.clip, Some((-1.0, 2.0)));
        }
    }
}
