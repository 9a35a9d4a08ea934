//! One axis: where taps move what they multiply.

use std::ops::Range;

use crate::geometry::Axis;

/// An axis of a sum: tap `k` adds what it made of position `p` to result `p * stride + shifts[k]`, if there is one.
#[derive(Clone, Debug)]
pub struct Line {
    /// Positions of the input.
    pub input: usize,
    /// Results.
    pub result: usize,
    pub stride: usize,
    /// Of each tap, in the order in which they are added.
    pub shifts: Vec<isize>,
}

impl Line {
    /// Of a convolution with unit stride.
    pub fn forward(axis: &Axis) -> Self {
        let shift = |tap: usize| axis.before - (tap * axis.dilation) as isize;
        Line {
            input: axis.input,
            result: axis.output,
            stride: 1,
            shifts: (0..axis.kernel).map(shift).collect(),
        }
    }

    /// Of the gradient of a convolution's input at the padded positions `window`, the last tap first: so the order is
    /// that of the convolution which the gradient is where the stride is one.
    pub fn adjoint(axis: &Axis, window: &Range<isize>) -> Self {
        let shift = |tap: usize| (tap * axis.dilation) as isize - window.start;
        Line {
            input: axis.output,
            result: window.len(),
            stride: axis.stride,
            shifts: (0..axis.kernel).rev().map(shift).collect(),
        }
    }

    /// The positions that a tap adds to some of the results.
    pub fn taken(&self, tap: usize, results: &Range<usize>) -> Range<usize> {
        let first = |result: usize| {
            let apart = result as isize - self.shifts[tap];
            (apart.max(0) as usize).div_ceil(self.stride).min(self.input)
        };
        first(results.start)..first(results.end)
    }

    /// The result of a position for a tap, which must be there.
    pub fn result(&self, tap: usize, position: usize) -> usize {
        ((position * self.stride) as isize + self.shifts[tap]) as usize
    }

    /// The positions that taps add to some of the results, from the first to the last.
    pub fn reached(&self, results: &Range<usize>) -> Range<usize> {
        let taps = 0..self.shifts.len();
        let taken = taps.map(|tap| self.taken(tap, results)).filter(|taken| !taken.is_empty());
        let join = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        taken.reduce(join).unwrap_or(0..0)
    }

    /// Positions beyond those of its results that a stretch of results takes at most.
    pub fn reach(&self) -> usize {
        let (low, high) = (self.shifts.iter().min(), self.shifts.iter().max());
        low.zip(high).map_or(0, |(low, high)| (high - low) as usize).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PaddingMode;

    /// Every position that a tap adds to a result is taken once, and none that it does not, by parts of the results as
    /// by all.
    #[test]
    fn positions_are_taken_once() {
        for (input, kernel, stride, dilation) in
            [(9, 3, 1, 1), (10, 3, 2, 1), (11, 4, 3, 2), (20, 3, 4, 6), (7, 1, 3, 1), (4, 9, 1, 2)]
        {
            for before in [0isize, 2, -1, 9] {
                let mode = PaddingMode::Constant;
                let axis = Axis { kernel, stride, dilation, before, mode, ..Axis::plain(input) };
                let window = before..before + 13;
                let forward = Axis { stride: 1, output: 13, ..axis };
                for line in [Line::adjoint(&axis, &window), Line::forward(&forward)] {
                    let mut found = Vec::new();
                    for part in [0..5, 5..6, 6..13] {
                        let reached = line.reached(&part);
                        for tap in 0..kernel {
                            for position in line.taken(tap, &part) {
                                assert!(reached.contains(&position));
                                let result = line.result(tap, position);
                                assert!(part.contains(&result));
                                found.push((tap, position, result));
                            }
                        }
                    }
                    let mut expected = Vec::new();
                    for (tap, shift) in line.shifts.iter().enumerate() {
                        for position in 0..input {
                            let result = (position * line.stride) as isize + shift;
                            if (0..13).contains(&result) {
                                expected.push((tap, position, result as usize));
                            }
                        }
                    }
                    found.sort_unstable();
                    assert_eq!(found, expected, "{axis:?}");
                }
            }
        }
    }
}
