//! The slab: one block of the input, staged into a flat buffer in which every tap is a shift.
//!
//! Padding of every mode, stride, element conversion and any memory layout are absorbed in this one
//! copy; nothing after it knows of them. A slab has one plane a channel. A plane has one part for
//! each combination of the axes' *phases* (residues of padded positions modulo the stride), and in a
//! part the positions of all axes, the batch among them, in C order: stepping to the next output is
//! stepping by one pitch, and a tap is a constant offset.
//! Positions flatten into one index `p`, over which [`cover`](crate::cover) lays vectors.
use std::ops::Range;

use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry, gcd};
use crate::view::{Element, Run, Runs, View};

/// A block of output positions: a range on each of [`Geometry::axes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block(pub Vec<Range<usize>>);

impl Block {
    /// What its first position adds to an offset, with these strides.
    pub fn start(&self, strides: &[isize]) -> isize {
        self.0.iter().zip(strides).map(|(range, &stride)| range.start as isize * stride).sum()
    }
}

/// How one axis of a slab is laid out: the same for each of its phases, except where they start.
#[derive(Clone, Debug)]
struct SlabAxis {
    axis: Axis,
    /// Residues modulo the stride that taps use, in order.
    phases: Vec<usize>,
    /// The positions that taps read. Packed together, they are a part's positions.
    pieces: Vec<Piece>,
    /// Elements between positions.
    pitch: usize,
}

/// Positions that taps read without a gap, counted from where the first output's first tap is.
#[derive(Clone, Debug)]
struct Piece {
    read: Range<usize>,
    /// The position in a part where the first of them is held.
    at: usize,
}

impl SlabAxis {
    fn new(axis: Axis, len: usize) -> Self {
        // Phases repeat with the taps, after at most `stride` of them.
        let mut phases: Vec<usize> = (0..axis.kernel.min(axis.stride))
            .map(|tap| tap * axis.dilation % axis.stride)
            .collect();
        phases.sort_unstable();
        phases.dedup();
        let mut pieces: Vec<Piece> = Vec::new();
        for tap in 0..axis.kernel {
            // Shifts never fall from tap to tap, so a tap's positions join the last piece or follow.
            let shift = tap * axis.dilation / axis.stride;
            match pieces.last_mut() {
                Some(Piece { read, .. }) if shift <= read.end => read.end = shift + len,
                last => {
                    let at = last.map_or(0, |piece| piece.at + piece.read.len());
                    pieces.push(Piece { read: shift..shift + len, at });
                }
            }
        }
        SlabAxis { axis, phases, pieces, pitch: 0 }
    }

    /// Positions of a part.
    fn extent(&self) -> usize {
        self.pieces.last().map_or(0, |piece| piece.at + piece.read.len())
    }

    /// Which phase a tap is in, by index, and how far along the part.
    fn tap(&self, tap: usize) -> (usize, usize) {
        let at = tap * self.axis.dilation;
        let (residue, shift) = (at % self.axis.stride, at / self.axis.stride);
        let phase = self.phases.binary_search(&residue).expect("`new` listed those of all taps");
        let piece = &self.pieces[self.pieces.partition_point(|p| p.read.start <= shift) - 1];
        (phase, piece.at + shift - piece.read.start)
    }
}

/// An upper bound of the positions that a slab holds along an axis for `len` outputs.
pub fn extent(axis: &Axis, len: usize) -> usize {
    let reach = (axis.kernel - 1).saturating_mul(axis.dilation) / axis.stride;
    let phases = axis.kernel.min(axis.stride / gcd(axis.stride, axis.dilation));
    len.saturating_add(reach).min(len.saturating_mul(axis.kernel)).saturating_mul(phases)
}

/// The layout of slabs for blocks of up to some size.
#[derive(Clone, Debug)]
pub struct Layout {
    axes: Vec<SlabAxis>,
    /// Elements of one part of a plane.
    part: usize,
    /// Elements between planes.
    plane: usize,
}

impl Layout {
    /// For blocks of at most `lens` output positions on each axis, of elements of some bytes.
    pub fn new(geometry: &Geometry, lens: &[usize], element: usize) -> Result<Self, Error> {
        for axis in &geometry.axes {
            // What follows takes time and memory for each tap: a kernel that is only a view of one
            // number may have more of them than any machine can count.
            room::<Piece>("the table of taps", axis.kernel)?;
        }
        let axes = geometry.axes.iter().zip(lens);
        let mut axes: Vec<SlabAxis> = axes.map(|(&a, &len)| SlabAxis::new(a, len)).collect();
        let line = 64 / element;
        let mut pitch = 1;
        for axis in axes.iter_mut().rev() {
            axis.pitch = pitch;
            pitch *= axis.extent();
            // Rows a multiple of 4 KiB apart would share one set of the first-level cache.
            if axis.pitch == 1 && pitch.is_multiple_of(64 * line) {
                pitch += line;
            }
        }
        let part = pitch;
        let parts: usize = axes.iter().map(|axis| axis.phases.len()).product();
        // An odd number of cache lines: planes then spread over all sets of a cache.
        let plane = ((part * parts).div_ceil(line) | 1) * line;
        Ok(Layout { axes, part, plane })
    }

    /// Elements between planes.
    pub fn plane(&self) -> usize {
        self.plane
    }

    /// Elements of a slab of `channels`, with room for a vector that starts at its last position.
    pub fn size(&self, channels: usize, lanes: usize) -> usize {
        channels * self.plane + lanes
    }

    /// The offsets of taps: on each axis, one a tap of its kernel.
    pub fn offsets(&self) -> Result<Vec<Vec<isize>>, Error> {
        let axes = self.axes.iter().enumerate();
        axes.map(|(a, axis)| {
            let mut offsets = room("the table of taps", axis.axis.kernel)?;
            offsets.extend((0..axis.axis.kernel).map(|tap| {
                let (phase, shift) = axis.tap(tap);
                (phase * self.part_pitch(a) + shift * axis.pitch) as isize
            }));
            Ok(offsets)
        })
        .collect()
    }

    /// How far apart neighbouring positions of each axis lie.
    pub fn pitches(&self) -> Vec<isize> {
        self.axes.iter().map(|axis| axis.pitch as isize).collect()
    }

    /// Phases of an axis.
    pub fn phases(&self, axis: usize) -> usize {
        self.axes[axis].phases.len()
    }

    /// Which phase of its axis a tap is in, and how far along a part.
    pub fn tap(&self, axis: usize, tap: usize) -> (usize, usize) {
        self.axes[axis].tap(tap)
    }

    /// Elements of one part of a plane.
    pub fn part(&self) -> usize {
        self.part
    }

    /// The runs that fill one plane for a block. `strides` are the input's, in bytes, an axis each.
    pub fn runs(&self, block: &Block, strides: &[isize]) -> Runs {
        Runs::new(self.runs_from(block, &vec![0; strides.len()], strides))
    }

    /// The same with all windows so many padded positions further on each axis.
    pub fn runs_from(&self, block: &Block, further: &[usize], strides: &[isize]) -> Vec<Run> {
        let mut runs = vec![Run { to: 0, len: 1, from: Some((0, 0)) }];
        let last = self.axes.len() - 1;
        // From the outermost axis in: each run so far is one row of what is left.
        for (a, (axis, &stride)) in self.axes.iter().zip(strides).enumerate() {
            let mut along = Vec::new();
            for (phase, residue) in axis.phases.iter().enumerate() {
                for Piece { read, at } in &axis.pieces {
                    let to = phase * self.part_pitch(a) + at * axis.pitch;
                    let first =
                        (block.0[a].start + read.start) * axis.axis.stride + residue + further[a];
                    let start = along.len();
                    row(
                        &axis.axis,
                        first..first + read.len() * axis.axis.stride,
                        stride,
                        &mut along,
                    );
                    if a < last {
                        // Only the innermost axis has runs of more than one.
                        split(&mut along, start);
                    }
                    along[start..].iter_mut().for_each(|run| run.to = to + run.to * axis.pitch);
                }
            }
            let join = |outer: &Run, inner: &Run| Run {
                to: outer.to + inner.to,
                len: inner.len,
                from: outer.from.zip(inner.from).map(|((row, _), (at, step))| (row + at, step)),
            };
            runs = runs
                .iter()
                .flat_map(|outer| along.iter().map(move |inner| join(outer, inner)))
                .collect();
        }
        runs
    }

    /// Stages `cell` neighbouring channels from `channel` on into one plane of vectors.
    pub fn stage_cells<T: Element>(
        &self,
        (runs, channel, cell): (&Runs, usize, usize),
        x: &View<'_>,
        padding: T,
        slab: &mut [T],
    ) {
        let step = x.strides()[0];
        x.read_cells(channel as isize * step, (runs, cell, step), padding, slab);
    }

    /// Elements between the parts of neighbouring phases of an axis.
    fn part_pitch(&self, axis: usize) -> usize {
        self.part * self.axes[axis + 1..].iter().map(|a| a.phases.len()).product::<usize>()
    }

    /// Stages channels `channels` of the input, `runs` each. `x` has canonical strides; outside lies
    /// `padding`.
    pub fn stage<T: Element>(
        &self,
        (runs, channels): (&Runs, Range<usize>),
        x: &View<'_>,
        padding: T,
        slab: &mut [T],
    ) {
        for (plane, channel) in slab.chunks_exact_mut(self.plane).zip(channels) {
            x.read_runs(channel as isize * x.strides()[0], runs, padding, plane);
        }
    }
}

/// Appends the runs of one row: every `axis.stride`th of padded positions `padded`.
pub(crate) fn row(axis: &Axis, padded: Range<usize>, stride: isize, runs: &mut Vec<Run>) {
    let len = padded.len() / axis.stride;
    let (kept, kept_len) = axis.kept();
    // Which of them lie in the kept input.
    let before = axis.before.max(0) as usize;
    let reach = |end: usize| end.saturating_sub(padded.start).div_ceil(axis.stride).min(len);
    let inside = reach(before)..reach(before + kept_len);
    let start = runs.len();
    let edge = |i: usize, runs: &mut Vec<Run>| {
        let source = axis.source((padded.start + i * axis.stride) as isize);
        let from = source.map(|s| (s as isize * stride, 0));
        match runs[start..].last_mut() {
            Some(run) if from.is_none() && run.from.is_none() => run.len += 1,
            _ => runs.push(Run { to: i, len: 1, from }),
        }
    };
    for i in 0..inside.start {
        edge(i, runs);
    }
    if !inside.is_empty() {
        let source = kept + padded.start + inside.start * axis.stride - before;
        let from = Some((source as isize * stride, axis.stride as isize * stride));
        runs.push(Run { to: inside.start, len: inside.len(), from });
    }
    for i in inside.end..len {
        edge(i, runs);
    }
}

/// Cuts the runs from `start` on into runs of one.
pub(crate) fn split(runs: &mut Vec<Run>, start: usize) {
    for run in runs.split_off(start) {
        runs.extend((0..run.len).map(|i| Run {
            to: run.to + i,
            len: 1,
            from: run.from.map(|(at, step)| (at + i as isize * step, 0)),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PaddingMode;

    fn geometry(axes: Vec<Axis>) -> Geometry {
        let mut all = vec![Axis::plain(1)];
        all.extend(axes);
        Geometry {
            batched: true,
            channels_last: false,
            groups: 1,
            channels: 2,
            outputs: 1,
            axes: all,
        }
    }

    fn axis(input: usize, kernel: usize, (stride, dilation, pad): (usize, usize, isize)) -> Axis {
        let mut axis =
            Axis { kernel, stride, dilation, before: pad, after: pad, ..Axis::plain(input) };
        let padded = input as isize + 2 * pad;
        axis.output = (padded as usize - dilation * (kernel - 1) - 1) / stride + 1;
        axis
    }

    /// Every tap of every output, read from a slab, is the input element that the formula names.
    fn check(axes: Vec<Axis>) {
        let geometry = geometry(axes);
        let inputs: Vec<usize> = geometry.axes.iter().map(|a| a.input).collect();
        let shape: Vec<usize> = [2].into_iter().chain(inputs).collect();
        let data: Vec<f64> = (0..shape.iter().product()).map(|i| i as f64 + 1.0).collect();
        let x = View::from_slice(&data, &shape);
        let outputs: Vec<usize> = geometry.axes.iter().map(|a| a.output).collect();
        let each = |lens: &[usize]| -> Vec<Vec<usize>> {
            lens.iter().fold(vec![vec![]], |all, &n| {
                all.iter()
                    .flat_map(|i: &Vec<usize>| (0..n).map(move |j| [&i[..], &[j]].concat()))
                    .collect()
            })
        };
        // Whole, and in blocks from each position on its own.
        for block in each(&outputs)
            .into_iter()
            .map(|i| Block(i.into_iter().map(|i| i..i + 1).collect()))
            .chain([Block(outputs.iter().map(|&n| 0..n).collect())])
        {
            let lens: Vec<usize> = block.0.iter().map(|r| r.len()).collect();
            let layout = Layout::new(&geometry, &lens, 8).unwrap();
            let mut slab = vec![f64::NAN; layout.size(2, 8)];
            let runs = layout.runs(&block, &x.strides()[1..]);
            layout.stage((&runs, 0..2), &x, -7.0, &mut slab);
            let offsets = layout.offsets().unwrap();
            let kernel: Vec<usize> = geometry.axes.iter().map(|a| a.kernel).collect();
            for position in each(&lens) {
                for tap in each(&kernel) {
                    let mut at: isize = tap.iter().zip(&offsets).map(|(&t, axis)| axis[t]).sum();
                    let mut expected = Some(0);
                    for (a, axis) in geometry.axes.iter().enumerate() {
                        at += position[a] as isize * layout.pitches()[a];
                        let q =
                            (block.0[a].start + position[a]) * axis.stride + tap[a] * axis.dilation;
                        let source = axis.source(q as isize);
                        expected = expected.zip(source).map(|(e, s)| e * axis.input + s);
                    }
                    for channel in 0..2 {
                        let plane = channel * data.len() / 2;
                        let expected = expected.map_or(-7.0, |e| data[plane + e]);
                        let found = slab[at as usize + channel * layout.plane()];
                        assert_eq!(found, expected, "{geometry:?} {position:?} {tap:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_tap_is_a_shift() {
        for stride in 1..4 {
            for dilation in 1..4 {
                for pad in -1..4 {
                    for mode in [
                        PaddingMode::Constant,
                        PaddingMode::Reflect,
                        PaddingMode::Symmetric,
                        PaddingMode::Replicate,
                        PaddingMode::Circular,
                    ] {
                        let first = Axis { mode, ..axis(9, 3, (stride, dilation, pad)) };
                        check(vec![first]);
                        check(vec![first, axis(4, 2, (2, 1, 1))]);
                        check(vec![axis(3, 1, (2, 1, 0)), first]);
                    }
                }
            }
        }
    }
}
