//! Depthwise convolution where channels are neighbours: vectors of channels, read and written where they lie.
//!
//! Lines, which are rows of outputs along the last axis, are computed one after the other or two at a time, in
//! stretches of a few outputs and all channels of a block: see [`Stretch`]. So kernels may be of any rank, stride and
//! dilation: of a line all that matters is where the input rows lie that its kernel's rows read. Outputs of one
//! residue of the dilation along the line (over its common divisor with the stride) are stretches of their own, as
//! if the others did not exist; and lines that are computed together are of one such residue.
//!
//! Only weights are copied, so that those of a tap are neighbours too.

use std::ops::Range;

use super::Problem;
use super::split::wanted_items;
use crate::error::Error;
use crate::geometry::{Axis, Geometry, PaddingMode, gcd};
use crate::memory::with_scratch;
use crate::offer::Description;
use crate::parallel::{Turn, even_part, even_parts};
use crate::tile::{
    Bias, CHAIN, Finish, Kernels, MOST_LINES, NOWHERE, Row, Stretch, Stretches, Stretching, Tiled,
};
use crate::view::{Memory, ViewMut};

/// Bytes of the weights of a block of channels, so that they stay in the first-level cache.
const WEIGHT_BYTES: usize = 16 << 10;

/// Bytes of the input of a block of channels that an item reads where there are several blocks, so that what its
/// lines share stays in the second-level cache.
const ITEM_BYTES: usize = 512 << 10;

/// A depthwise convolution, as all threads share it.
pub(super) struct Channels<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    memory: Memory<'a, T>,
    lines: Lines<T>,
    /// Blocks of channels, and parts of the lines.
    blocks: usize,
    parts: usize,
    /// Outputs of a stretch, at most.
    most: usize,
}

/// The lines of an image, and how each is computed.
struct Lines<T: 'static> {
    /// The axes but the last two, and the one before the last.
    outer: Vec<Outer>,
    along: Outer,
    /// The outputs along that which are computed together, and by how many taps the second's window is further.
    together: Vec<[Option<usize>; MOST_LINES]>,
    shift: usize,
    stretches: Vec<Part<T>>,
    /// Inputs that taps of neighbouring numbers read: elements between them, and by how many the windows of
    /// neighbouring outputs of a stretch are apart.
    step: isize,
    stride: usize,
    /// Bytes between outputs of a stretch.
    out_step: isize,
    /// The lowest and the highest element that is read of a line's input row, in the first channel.
    reach: (isize, isize),
    /// The same of a line's results, in bytes.
    results: (isize, isize),
}

/// An axis along which lines lie.
struct Outer {
    outputs: usize,
    taps: usize,
    /// Where the input row of each tap of each output lies, in elements, or [`NOWHERE`].
    rows: Vec<isize>,
    /// Bytes between results.
    out: isize,
}

/// A stretch of each line.
struct Part<T: 'static> {
    run: Stretching<T>,
    /// Where the first output's first tap lies in an input row.
    x: isize,
    inside: Range<usize>,
    /// Where the first result lies in a line, in bytes.
    to: isize,
}

impl<T: Tiled> Lines<T> {
    /// Of inputs and results of some strides: in elements and in bytes, of the batch and the spatial axes.
    fn new(geometry: &Geometry, (x, out): (&[isize], &[isize]), table: &Stretches<T>) -> Self {
        let axes = geometry.axes.iter().zip(x).zip(out);
        let mut outer: Vec<Outer> =
            axes.rev().skip(1).rev().map(|((axis, &x), &out)| Outer::new(axis, x, out)).collect();
        let last = outer.len();
        let (column, column_out) = (x[last], out[last]);
        let [.., along, row] = geometry.axes.as_slice() else { unreachable!("there is a batch") };
        let (shift, apart) = steps(along);
        let pairs = table.lines > 1 && shift < along.kernel;
        let together = (0..if pairs { apart.min(along.output) } else { 1 }).flat_map(|phase| {
            let step = if pairs { apart } else { 1 };
            let outputs = (phase..along.output).step_by(step * if pairs { 2 } else { 1 });
            let second = move |first| Some(first + step).filter(|&n| pairs && n < along.output);
            outputs.map(move |first| [Some(first), second(first)])
        });
        let together = together.collect();
        let (stride, phases) = steps(row);
        let mut stretches = Vec::new();
        for phase in 0..phases.min(row.output) {
            let outputs = (row.output - phase).div_ceil(phases);
            for part in even_parts(0..outputs, table.outputs.len()) {
                let first = phase + part.start * phases;
                let inputs = (part.len() - 1) * stride + row.kernel;
                let inside = row.inside(first * row.stride, row.dilation, inputs);
                let whole = part.len() == table.outputs.len() && inside == (0..inputs);
                stretches.push(Part {
                    run: if whole { table.whole } else { table.outputs[part.len() - 1] },
                    x: ((first * row.stride) as isize - row.before) * column,
                    inside,
                    to: first as isize * column_out,
                });
            }
        }
        let (kept, len) = row.kept();
        let (first, end) = (kept as isize * column, (kept + len.max(1) - 1) as isize * column);
        let furthest = (row.output - 1) as isize * column_out;
        Lines {
            along: outer.pop().expect("there is a batch"),
            outer,
            together,
            shift,
            stretches,
            step: row.dilation as isize * column,
            stride,
            out_step: phases as isize * column_out,
            reach: (first.min(end), first.max(end)),
            results: (furthest.min(0), furthest.max(0)),
        }
    }

    /// How often lines are computed together.
    fn count(&self) -> usize {
        self.outer.iter().map(|axis| axis.outputs).product::<usize>() * self.together.len()
    }

    /// The rows that those lines read which are computed together at some time, and where their results begin, in
    /// bytes.
    fn place(&self, at: usize, rows: &mut Vec<Row>) -> [Option<isize>; MOST_LINES] {
        let (mut below, mut left, mut to) = (self.count(), at, 0);
        rows.clear();
        rows.push(Row { x: 0, taps: [Some(0), None] });
        for axis in &self.outer {
            below /= axis.outputs;
            let output = left / below;
            left %= below;
            to += output as isize * axis.out;
            replace(
                rows,
                axis.taps,
                |tap| axis.row(output, tap),
                |y, tap| [y.map(|y| y * axis.taps + tap), None],
            );
        }
        let (along, shift, lines) = (&self.along, self.shift, self.together[left]);
        let [Some(first), second] = lines else { unreachable!("there is a first line") };
        let tap_of = |line: usize, i: usize| {
            i.checked_sub(line * shift).filter(|&tap| lines[line].is_some() && tap < along.taps)
        };
        let all = along.taps + if second.is_some() { shift } else { 0 };
        let row = |i: usize| match second {
            Some(second) if i >= along.taps => along.row(second, i - shift),
            _ => along.row(first, i),
        };
        replace(rows, all, row, |y, i| {
            let y = y.unwrap_or(0) * along.taps;
            std::array::from_fn(|line| tap_of(line, i).map(|tap| y + tap))
        });
        lines.map(|line| line.map(|output| to + output as isize * along.out))
    }
}

/// In the place of each row puts `count` that are `x` further, with the taps that `taps` makes of those of its first line.
fn replace(
    rows: &mut Vec<Row>,
    count: usize,
    x: impl Fn(usize) -> isize,
    taps: impl Fn(Option<usize>, usize) -> [Option<usize>; MOST_LINES],
) {
    let before = rows.len();
    rows.resize(before * count, Row { x: NOWHERE, taps: [None; MOST_LINES] });
    // From the last one on, so that none is overwritten before its turn.
    for i in (0..before).rev() {
        let row = rows[i];
        for (j, to) in rows[i * count..][..count].iter_mut().enumerate() {
            let nowhere = row.x == NOWHERE || x(j) == NOWHERE;
            let at = if nowhere { NOWHERE } else { row.x + x(j) };
            *to = Row { x: at, taps: taps(row.taps[0], j) };
        }
    }
}

impl Outer {
    fn new(axis: &Axis, x: isize, out: isize) -> Self {
        let place = |(output, tap)| {
            let at = output * axis.stride + tap * axis.dilation;
            axis.source(at as isize).map_or(NOWHERE, |at| at as isize * x)
        };
        let taps = |output| (0..axis.kernel).map(move |tap| (output, tap));
        let rows = (0..axis.output).flat_map(taps).map(place).collect();
        Outer { outputs: axis.output, taps: axis.kernel, rows, out }
    }

    /// Where the row of a tap of an output lies.
    fn row(&self, output: usize, tap: usize) -> isize {
        self.rows[output * self.taps + tap]
    }
}

impl<'a, T: Tiled> Channels<'a, T> {
    /// Of a problem, if channels are neighbours both in the input and in the result.
    pub fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Option<Self> {
        let Problem { geometry, x, store, .. } = problem;
        let size = size_of::<T>() as isize;
        let [.., row] = geometry.axes.as_slice() else { return None };
        let neighbours = x.strides()[0] == size && store.out.strides()[0] == size;
        let depthwise = (geometry.channels, geometry.outputs) == (1, 1)
            && geometry.groups >= kernels.lanes
            && geometry.kernel_taps() <= CHAIN;
        if !(depthwise && neighbours && store.is_direct() && has_zeros_around(problem)) {
            return None;
        }
        let memory = x.memory::<T>()?;
        let table = kernels.stretches(row.kernel, steps(row).0)?;
        let strides: Vec<isize> = x.strides()[1..].iter().map(|stride| stride / size).collect();
        let lines = Lines::new(geometry, (&strides, &store.out.strides()[1..]), table);
        let tap = geometry.kernel_taps() * kernels.lanes * size_of::<T>();
        let blocks = (geometry.groups / kernels.lanes).div_ceil((WEIGHT_BYTES / tap).max(1));
        let parts = match blocks {
            1 => 1,
            _ => {
                let line = row.input * geometry.groups / blocks * size_of::<T>() * table.lines;
                lines.count().div_ceil((ITEM_BYTES / line.max(1)).max(1))
            }
        };
        let parts = parts.max(wanted_items(threads).div_ceil(blocks)).min(lines.count());
        let most = table.outputs.len().min(row.output);
        Some(Channels { problem, kernels, memory, lines, blocks, parts, most })
    }

    /// How the convolution is computed.
    pub fn describe(&self, threads: usize) -> Description {
        let axes = &self.problem.geometry.axes;
        Description {
            workspace: self.scratch() * threads * size_of::<T>(),
            tile: Some((self.most, self.kernels.lanes)),
            roles: Some(("positions", "channels")),
            block: axes.iter().map(|axis| axis.output).collect(),
            in_place: true,
            ..Description::default()
        }
    }

    /// A block of channels of a part of the lines each.
    pub fn items(&self) -> usize {
        self.blocks * self.parts
    }

    /// The channels of a block: whole vectors, but for those that are left of the last.
    fn block(&self, block: usize) -> Range<usize> {
        let (groups, lanes) = (self.problem.geometry.groups, self.kernels.lanes);
        let vectors = even_part(&(0..groups / lanes), self.blocks, block);
        let end = if block + 1 == self.blocks { groups } else { vectors.end * lanes };
        vectors.start * lanes..end
    }

    /// Elements from a tap of a block's weights to the next: whole vectors, with room for those that are left.
    fn pitch(&self) -> usize {
        let lanes = self.kernels.lanes;
        ((self.problem.geometry.groups / lanes).div_ceil(self.blocks) + 1) * lanes
    }

    /// Taps of a kernel and its rows.
    fn weights(&self) -> usize {
        let taps = self.problem.geometry.kernel_taps();
        let [.., row] = self.problem.geometry.axes.as_slice() else { unreachable!("see above") };
        taps + taps / row.kernel
    }

    /// Elements that each thread needs: the weights of all blocks.
    fn scratch(&self) -> usize {
        self.weights() * self.pitch() * self.blocks
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let store = self.problem.store;
        let of_taps = self.problem.weights.taps()?;
        with_scratch(self.scratch(), |scratch: &mut [T]| {
            let mut read = vec![false; self.blocks];
            let mut rows = Vec::new();
            while let Some(item) = turn.next() {
                let (part, block) = (item / self.blocks, item % self.blocks);
                let channels = self.block(block);
                let len = self.weights() * self.pitch();
                let weights = &mut scratch[block * len..][..len];
                if !std::mem::replace(&mut read[block], true) {
                    self.read_weights(&channels, &of_taps.axes, weights);
                }
                let finish = Finish {
                    bias: match store.bias {
                        [] => Bias::None,
                        bias => Bias::Lanes(bias[channels.clone()].as_ptr()),
                    },
                    clip: store.clip(),
                };
                for line in even_part(&(0..self.lines.count()), self.parts, part) {
                    let to = self.lines.place(line, &mut rows);
                    let operations = self.lines(
                        (&channels, &*weights, finish),
                        (&rows, &self.memory),
                        (to, &store.out),
                    );
                    if !turn.goes_on(operations) {
                        return;
                    }
                }
            }
        })
    }

    /// The weights of some channels tap by tap, and behind them for each row the sum of its weights' products with
    /// zero: zero, or NaN where a weight is not finite.
    fn read_weights(&self, channels: &Range<usize>, of_axis: &[Vec<isize>], to: &mut [T]) {
        let (weights, pitch) = (self.problem.weights, self.pitch());
        let [.., row] = self.problem.geometry.axes.as_slice() else { unreachable!("see above") };
        let all = self.problem.geometry.kernel_taps();
        let (taps, padding) = to.split_at_mut(all * pitch);
        let mut offsets = vec![0];
        for axis in of_axis {
            offsets = offsets.iter().flat_map(|x| axis.iter().map(move |y| x + y)).collect();
        }
        let (memory, first) = (weights.memory(), weights.output(channels.start));
        let apart = weights.output(1) - weights.output(0);
        let dense = offsets.iter().enumerate().all(|(i, &at)| at == i as isize);
        if dense {
            let matrix = (channels.len(), all);
            self.kernels.transposed((&memory, first, apart), matrix, (taps, pitch));
        } else {
            for (to, at) in taps.chunks_exact_mut(pitch).zip(&offsets) {
                memory.read(first + at, apart, &mut to[..channels.len()]);
            }
        }
        let rows = taps.chunks_exact(row.kernel * pitch);
        for (row, sums) in rows.zip(padding.chunks_exact_mut(pitch)) {
            // Of minus zeros, the sum is minus zero.
            sums.fill(T::default().neg());
            for tap in row.chunks_exact(pitch) {
                for (sum, weight) in sums.iter_mut().zip(tap) {
                    *sum = sum.add(weight.mul(T::default()));
                }
            }
        }
    }

    /// Computes lines in some channels. Returns how many vector operations it took.
    fn lines(
        &self,
        (channels, weights, finish): (&Range<usize>, &[T], Finish<T>),
        (rows, from): (&[Row], &Memory<'_, T>),
        (to, out): ([Option<isize>; MOST_LINES], &ViewMut<'_, T>),
    ) -> usize {
        let (lines, size) = (&self.lines, size_of::<T>() as isize);
        let first = channels.start as isize;
        let exist = || rows.iter().map(|row| row.x).filter(|&x| x != NOWHERE);
        let x = match (exist().min(), exist().max()) {
            (Some(low), Some(high)) => {
                let last = channels.len() as isize - 1;
                from.at(first, low + lines.reach.0, high + lines.reach.1 + last)
            }
            _ => std::ptr::null(),
        };
        let (low, high) = lines.results;
        let of_line = |to| out.at(to + first * size, low, high + channels.len() as isize * size);
        let out = to.map(|to| to.map_or(std::ptr::null_mut(), of_line));
        let geometry = self.problem.geometry;
        let [.., row] = geometry.axes.as_slice() else { unreachable!("there is a batch") };
        for part in &lines.stretches {
            let stretch = Stretch {
                x: x.wrapping_offset(part.x),
                rows,
                kernel_rows: geometry.kernel_taps() / row.kernel,
                step: lines.step,
                stride: lines.stride,
                taps: row.kernel,
                inside: part.inside.clone(),
                weights,
                pitch: self.pitch(),
                channels: channels.len(),
                out: out.map(|to| if to.is_null() { to } else { to.wrapping_byte_offset(part.to) }),
                out_step: lines.out_step,
                finish,
            };
            // SAFETY: the table is only reached through `kernels_of`, which checked the CPU. Blocks have a vector
            // of channels at least. What is read lies in rows that exist, and in the part of them that is kept, as
            // `inside` says: the first `at` checked the ends of that part in the lowest and the highest row. The
            // second `at` checked every result, which this thread alone writes, since each item has channels of
            // lines of its own; `read_weights` read weights for all taps, and a row more for each row.
            unsafe { (part.run)(&stretch) }
        }
        row.output * rows.len() * row.kernel * channels.len().div_ceil(self.kernels.lanes)
    }
}

/// By how many inputs of its stretch the windows of neighbouring outputs are apart, and in how many stretches that
/// share no input a line is.
fn steps(row: &Axis) -> (usize, usize) {
    let step = gcd(row.stride, row.dilation);
    (row.stride / step, row.dilation / step)
}

/// Whether what lies around images, if they are padded, is zeros.
fn has_zeros_around<T: Tiled>(problem: &Problem<'_, T>) -> bool {
    let padded = |axis: &&Axis| axis.before > 0 || axis.after > 0;
    let mut padded = problem.geometry.axes.iter().filter(padded);
    // Of minus zero, sums of products that underflow would be others.
    let zero = problem.padding.to_f64().to_bits() == 0;
    padded.all(|axis| zero && axis.mode == PaddingMode::Constant)
}
