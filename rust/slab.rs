//! The slab: one block of the input, staged into a flat buffer in which every tap is a shift.
//!
//! Padding of every mode, stride, element conversion and any memory layout are absorbed in this one
//! copy; nothing after it knows of them. A slab has one plane a channel. A plane has one part for
//! each combination of the axes' *phases* (residues of padded positions modulo the stride), and in a
//! part the positions of all axes, the batch among them, in C order: stepping to the next output is
//! stepping by one pitch, and a tap is a constant offset.
//!
//! Positions flatten into one index `p`. Vectors of columns are laid over the useful positions
//! greedily ([`Cover`]), across the few junk columns between rows where that is shorter, so that
//! neither odd widths nor large dilations waste vectors.

use std::ops::Range;

use crate::geometry::{Axis, Geometry};
use crate::view::{Element, View};

/// A block of output positions: a range on each of [`Geometry::axes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block(pub Vec<Range<usize>>);

/// How one axis of a slab is laid out.
#[derive(Clone, Debug)]
struct SlabAxis {
    axis: Axis,
    /// Residues modulo the stride that taps use, in order.
    phases: Vec<usize>,
    /// Positions that a part holds beyond those of the outputs.
    reach: usize,
    /// Elements between positions.
    pitch: usize,
}

impl SlabAxis {
    fn new(axis: Axis) -> Self {
        // Phases repeat with the taps, after at most `stride` of them.
        let mut phases: Vec<usize> = (0..axis.kernel.min(axis.stride))
            .map(|tap| tap * axis.dilation % axis.stride)
            .collect();
        phases.sort_unstable();
        phases.dedup();
        let reach = (axis.kernel - 1) * axis.dilation / axis.stride;
        SlabAxis { axis, phases, reach, pitch: 0 }
    }

    /// Which phase a tap is in, by index, and how far along it.
    fn tap(&self, tap: usize) -> (usize, usize) {
        let at = tap * self.axis.dilation;
        let phase = self.phases.binary_search(&(at % self.axis.stride));
        (phase.expect("`new` listed the phases of all taps"), at / self.axis.stride)
    }

    /// Whether some tap of a phase reads position `index` of a block of `len` outputs.
    fn used(&self, phase: usize, index: usize, len: usize) -> bool {
        if self.axis.dilation == 1 && self.axis.stride == 1 {
            return true;
        }
        (0..self.axis.kernel).any(|tap| {
            let (of, shift) = self.tap(tap);
            of == phase && (shift..shift + len).contains(&index)
        })
    }
}

/// A run of slab elements: where they go, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    to: usize,
    len: usize,
    /// Byte offset of the first in a channel of the input and bytes to the next; `None` is padding.
    from: Option<(isize, isize)>,
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
    pub fn new(geometry: &Geometry, lens: &[usize], element: usize) -> Self {
        let mut axes: Vec<SlabAxis> = geometry.axes.iter().map(|&a| SlabAxis::new(a)).collect();
        let line = 64 / element;
        let mut pitch = 1;
        for (axis, &len) in axes.iter_mut().zip(lens).rev() {
            axis.pitch = pitch;
            pitch *= len + axis.reach;
            // Rows a multiple of 4 KiB apart would share one set of the first-level cache.
            if axis.pitch == 1 && pitch % (64 * line) == 0 {
                pitch += line;
            }
        }
        let part = pitch;
        let parts: usize = axes.iter().map(|axis| axis.phases.len()).product();
        // An odd number of cache lines: planes then spread over all sets of a cache.
        let plane = ((part * parts).div_ceil(line) | 1) * line;
        Layout { axes, part, plane }
    }

    /// Elements between planes.
    pub fn plane(&self) -> usize {
        self.plane
    }

    /// Elements of a slab of `channels`, with room for a vector that starts at its last position.
    pub fn size(&self, channels: usize, lanes: usize) -> usize {
        channels * self.plane + lanes
    }

    /// The offset of every tap of one channel, in C order of the kernel's axes.
    pub fn offsets(&self) -> Vec<isize> {
        let mut offsets = vec![(0usize, 0usize)];
        for axis in &self.axes {
            let taps: Vec<(usize, usize)> = (0..axis.axis.kernel).map(|t| axis.tap(t)).collect();
            offsets = offsets
                .iter()
                .flat_map(|&(part, at)| {
                    taps.iter().map(move |&(phase, shift)| {
                        (part * axis.phases.len() + phase, at + shift * axis.pitch)
                    })
                })
                .collect();
        }
        offsets.into_iter().map(|(part, at)| (part * self.part + at) as isize).collect()
    }

    /// How far apart neighbouring positions of each axis lie.
    pub fn pitches(&self) -> Vec<isize> {
        self.axes.iter().map(|axis| axis.pitch as isize).collect()
    }

    /// The runs that fill one plane for a block. `strides` are the input's, in bytes, an axis each.
    fn runs(&self, block: &Block, strides: &[isize]) -> Vec<Run> {
        let mut runs = vec![Run { to: 0, len: 1, from: Some((0, 0)) }];
        let mut parts = 1;
        let last = self.axes.len() - 1;
        // From the outermost axis in: each run so far is one row of what is left.
        for (a, (axis, &stride)) in self.axes.iter().zip(strides).enumerate() {
            let len = block.0[a].len();
            let extent = len + axis.reach;
            let mut next = Vec::new();
            for (phase, &residue) in axis.phases.iter().enumerate() {
                let first = block.0[a].start * axis.axis.stride + residue;
                let along: Vec<Run> = if a == last {
                    row(&axis.axis, first, extent, stride)
                } else {
                    (0..extent)
                        .filter(|&i| axis.used(phase, i, len))
                        .map(|i| {
                            let from = axis.axis.source((first + i * axis.axis.stride) as isize);
                            let from = from.map(|source| (source as isize * stride, 0));
                            Run { to: i * axis.pitch, len: 1, from }
                        })
                        .collect()
                };
                next.push(along);
            }
            // Parts are in C order of phases, so the part index of a run grows by one digit an axis.
            runs = runs
                .iter()
                .flat_map(|outer| {
                    next.iter().enumerate().flat_map(move |(phase, along)| {
                        along.iter().map(move |inner| Run {
                            to: outer.to + inner.to + phase * self.part_pitch(a),
                            len: inner.len,
                            from: match (outer.from, inner.from) {
                                (Some((row, _)), Some((at, step))) => Some((row + at, step)),
                                _ => None,
                            },
                        })
                    })
                })
                .collect();
            parts *= axis.phases.len();
        }
        debug_assert!(parts * self.part <= self.plane);
        runs
    }

    /// Elements between the parts of neighbouring phases of an axis.
    fn part_pitch(&self, axis: usize) -> usize {
        self.part * self.axes[axis + 1..].iter().map(|a| a.phases.len()).product::<usize>()
    }

    /// Stages channels `channels` of the input for a block. `x` has canonical strides; outside lies
    /// `padding`.
    pub fn stage<T: Element>(
        &self,
        (block, channels): (&Block, Range<usize>),
        x: &View<'_>,
        padding: T,
        slab: &mut [T],
    ) {
        let runs = self.runs(block, &x.strides()[1..]);
        for (plane, channel) in slab.chunks_exact_mut(self.plane).zip(channels) {
            let start = channel as isize * x.strides()[0];
            for run in &runs {
                let to = &mut plane[run.to..run.to + run.len];
                match run.from {
                    Some((at, step)) => x.read(start + at, step, to),
                    None => to.fill(padding),
                }
            }
        }
    }
}

/// The runs of one row: `len` positions of one phase from padded position `first` on.
fn row(axis: &Axis, first: usize, len: usize, stride: isize) -> Vec<Run> {
    let (kept, kept_len) = axis.kept();
    // Positions first + i * axis.stride lie in the kept input for i in inside.
    let before = axis.before.max(0) as usize;
    let reach = |end: usize| end.saturating_sub(first).div_ceil(axis.stride).min(len);
    let inside = reach(before)..reach(before + kept_len);
    let mut runs: Vec<Run> = Vec::new();
    let edge = |i: usize, runs: &mut Vec<Run>| {
        let source = axis.source((first + i * axis.stride) as isize);
        let from = source.map(|s| (s as isize * stride, 0));
        match (runs.last_mut(), from) {
            (Some(run), None) if run.from.is_none() && run.to + run.len == i => run.len += 1,
            _ => runs.push(Run { to: i, len: 1, from }),
        }
    };
    for i in 0..inside.start {
        edge(i, &mut runs);
    }
    if !inside.is_empty() {
        let source = kept + first + inside.start * axis.stride - before;
        runs.push(Run {
            to: inside.start,
            len: inside.len(),
            from: Some((source as isize * stride, axis.stride as isize * stride)),
        });
    }
    for i in inside.end..len {
        edge(i, &mut runs);
    }
    runs
}

/// Vectors laid over the useful positions of a block, and where their lanes go.
#[derive(Clone, Debug, Default)]
pub struct Cover {
    /// Where each vector starts, as a flat position.
    pub starts: Vec<isize>,
    /// The lanes of vector `v` that are results: `segments[ends[v - 1]..ends[v]]`.
    segments: Vec<Segment>,
    ends: Vec<usize>,
}

/// Neighbouring lanes of a vector that are neighbouring results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first lane.
    pub lane: usize,
    /// How many.
    pub len: usize,
    /// Byte offset of the first result from the block's first.
    pub to: isize,
}

/// What a [`Cover`] lays vectors over.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// Positions on each axis.
    pub lens: &'a [usize],
    /// Elements between neighbours on each axis.
    pub pitches: &'a [isize],
    /// Bytes between neighbouring results on each axis.
    pub strides: &'a [isize],
}

impl Cover {
    /// Lays vectors of `lanes` from the first position to the last, each where the last one ended or,
    /// if that is junk, at the next useful position: no cover has fewer. No vector reaches `end`
    /// (the memory from there on is not ours to read): the last one starts earlier instead, perhaps
    /// before the block, and repeats a few lanes.
    pub fn new(positions: Positions<'_>, lanes: usize, end: isize) -> Self {
        let Positions { lens, pitches, strides } = positions;
        let mut cover = Cover::default();
        if lens.contains(&0) {
            return cover;
        }
        let (&row_len, outer) = lens.split_last().expect("a geometry has axes");
        let row_stride = strides[outer.len()];
        let limit = end - lanes as isize;
        let mut index = vec![0; outer.len()];
        let mut covered = 0;
        for _ in 0..outer.iter().product() {
            let at = |by: &[isize]| -> isize {
                index.iter().zip(by).map(|(&i, &s)| i as isize * s).sum()
            };
            let (first, to) = (at(pitches), at(strides));
            let row_end = first + row_len as isize;
            let mut next = first;
            while next < row_end {
                if next >= covered {
                    cover.starts.push(next.min(limit));
                    cover.ends.push(cover.segments.len());
                    covered = next.min(limit) + lanes as isize;
                }
                let start = *cover.starts.last().expect("nothing is covered before the first");
                let len = covered.min(row_end) - next;
                cover.segments.push(Segment {
                    lane: (next - start) as usize,
                    len: len as usize,
                    to: to + (next - first) * row_stride,
                });
                *cover.ends.last_mut().expect("pushed with the start") = cover.segments.len();
                next += len;
            }
            for (i, &n) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        cover
    }

    /// The lanes of a vector that are results.
    pub fn segments(&self, vector: usize) -> &[Segment] {
        let start = if vector == 0 { 0 } else { self.ends[vector - 1] };
        &self.segments[start..self.ends[vector]]
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
            let layout = Layout::new(&geometry, &lens, 8);
            let mut slab = vec![f64::NAN; layout.size(2, 8)];
            layout.stage((&block, 0..2), &x, -7.0, &mut slab);
            let offsets = layout.offsets();
            let kernel: Vec<usize> = geometry.axes.iter().map(|a| a.kernel).collect();
            for position in each(&lens) {
                for (tap, offset) in each(&kernel).iter().zip(&offsets) {
                    let mut at = 0isize;
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
                        let found = slab[(at + offset) as usize + channel * layout.plane()];
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

    #[test]
    fn covers_reach_every_position_once() {
        for lens in [[1, 1, 1], [2, 3, 5], [3, 1, 17], [2, 7, 7], [1, 4, 33]] {
            for junk in [0, 1, 2, 40] {
                for lanes in [2, 4, 16] {
                    for inside in [false, true] {
                        let row = lens[2] as isize + junk;
                        let pitches = [row * (lens[1] as isize + junk), row, 1];
                        let strides = [(lens[1] * lens[2]) as isize, lens[2] as isize, 1];
                        let positions =
                            Positions { lens: &lens, pitches: &pitches, strides: &strides };
                        let last: isize = (0..3).map(|a| (lens[a] as isize - 1) * pitches[a]).sum();
                        let end = if inside { last + 1 } else { isize::MAX };
                        let cover = Cover::new(positions, lanes as usize, end);
                        let mut seen = vec![0; lens.iter().product()];
                        for (v, &start) in cover.starts.iter().enumerate() {
                            assert!(start <= last && start + lanes <= end);
                            for s in cover.segments(v) {
                                assert!(s.lane + s.len <= lanes as usize);
                                for i in 0..s.len {
                                    let to = s.to as usize + i;
                                    seen[to] += 1;
                                    let index = [
                                        to / (lens[1] * lens[2]),
                                        to / lens[2] % lens[1],
                                        to % lens[2],
                                    ];
                                    let flat: isize =
                                        (0..3).map(|a| index[a] as isize * pitches[a]).sum();
                                    assert_eq!(flat, start + (s.lane + i) as isize);
                                }
                            }
                        }
                        assert!(seen.iter().all(|&n| n == 1), "{lens:?} {junk} {lanes}");
                    }
                }
            }
        }
    }
}
