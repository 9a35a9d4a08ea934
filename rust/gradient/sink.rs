//! Where finished sums of weights go.

use std::ops::Range;

use super::Problem;
use crate::error::{Error, room};
use crate::geometry::Geometry;
use crate::tile::Rows;
use crate::view::{Element, ViewMut, advance};

/// Where finished sums go: rows of an output's channels and taps.
pub(super) struct Sink<'a, T> {
    out: &'a ViewMut<'a, T>,
    /// Bytes between images, outputs and channels.
    strides: [isize; 3],
    /// The byte offset of each tap.
    taps: Vec<isize>,
    /// Bytes between taps, where these lie evenly, and whether the next channel goes on so.
    step: Option<(isize, bool)>,
    accumulate: bool,
}

impl<'a, T: Element> Sink<'a, T> {
    /// To the array of the caller.
    pub fn new(problem: &'a Problem<'a, T>) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let (head, kernel) = problem.out.strides().split_at(3);
        let lens: Vec<usize> = geometry.axes[1..].iter().map(|axis| axis.kernel).collect();
        let len = geometry.kernel_taps();
        let mut taps = room("the table of taps", len)?;
        let mut index = vec![0; lens.len()];
        for _ in 0..len {
            let at = index
                .iter()
                .zip(&lens)
                .zip(kernel)
                .map(|((&i, &n), s)| s * (if problem.flip { n - 1 - i } else { i }) as isize);
            taps.push(at.sum());
            advance(&mut index, &lens);
        }
        let strides = head.try_into().expect("split at 3");
        Ok(Sink::of(problem.out, strides, taps, problem.accumulate))
    }

    /// To an array `[slice][output][channel, tap]` in C order.
    pub fn dense(out: &'a ViewMut<'a, T>, geometry: &Geometry) -> Result<Self, Error> {
        let size = size_of::<T>() as isize;
        let len = geometry.kernel_taps();
        let mut taps = room("the table of taps", len)?;
        taps.extend((0..len as isize).map(|tap| tap * size));
        let strides = [out.strides()[0], out.strides()[1], len as isize * size];
        Ok(Sink::of(out, strides, taps, false))
    }

    pub fn of(
        out: &'a ViewMut<'a, T>,
        strides: [isize; 3],
        taps: Vec<isize>,
        accumulate: bool,
    ) -> Self {
        let step = match taps[..] {
            [_] => Some((strides[2], true)),
            _ => {
                let step = taps[1] - taps[0];
                let even = taps.windows(2).all(|pair| pair[1] - pair[0] == step);
                even.then(|| (step, step * taps.len() as isize == strides[2]))
            }
        };
        Sink { out, strides, taps, step, accumulate }
    }

    /// Where the sums of some outputs and channels are, rows of outputs, if they can be written there as
    /// vectors of channels: with one tap, and nothing to convert or add to.
    pub fn rows(
        &self,
        (image, outputs): (usize, Range<usize>),
        channels: Range<usize>,
    ) -> Option<Rows<T>> {
        let size = size_of::<T>() as isize;
        let lie = self.step == Some((size, true)) && self.taps.len() == 1;
        if self.accumulate || !self.out.is_native() || !lie || outputs.is_empty() {
            return None;
        }
        let [of_image, row, channel] = self.strides;
        let start = image as isize * of_image + outputs.start as isize * row;
        let start = start + channels.start as isize * channel + self.taps[0];
        let reach = row * (outputs.len() as isize - 1);
        let vectors = channels.len() as isize * size;
        let first = self.out.at(start, reach.min(0), reach.max(0) + vectors);
        Some(Rows { first, row })
    }

    /// Writes sums of an output, those of `taps` of the first of `channels` first.
    ///
    /// # Safety
    /// No other thread may access these elements meanwhile.
    pub unsafe fn write(
        &self,
        (image, output): (usize, usize),
        (channels, taps): (Range<usize>, Range<usize>),
        sums: &[T],
    ) {
        let put = |offset: isize, step: isize, sums: &[T]| {
            // SAFETY: the caller keeps other threads away.
            unsafe {
                if self.accumulate {
                    self.out.add(offset, step, sums);
                } else {
                    self.out.write(offset, step, sums);
                }
            }
        };
        let start = image as isize * self.strides[0] + output as isize * self.strides[1];
        let channel = |c: usize| start + c as isize * self.strides[2];
        match self.step {
            Some((step, true)) if taps.len() == self.taps.len() => {
                put(channel(channels.start) + self.taps[0], step, sums);
            }
            Some((step, _)) => {
                for (c, sums) in channels.zip(sums.chunks_exact(taps.len())) {
                    put(channel(c) + self.taps[taps.start], step, sums);
                }
            }
            None => {
                for (c, sums) in channels.zip(sums.chunks_exact(taps.len())) {
                    for (&tap, sum) in self.taps[taps.clone()].iter().zip(sums) {
                        put(channel(c) + tap, 0, std::slice::from_ref(sum));
                    }
                }
            }
        }
    }
}
