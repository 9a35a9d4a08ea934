//! Depthwise convolution where channels are neighbours: vectors of channels, read and written where they lie.
//!
//! Lines, which are rows of outputs along the last axis, are computed one after the other or two at a time, in
//! stretches of a few outputs and all channels of a block: see [`Stretch`]. So kernels may be of any rank, stride and
//! dilation: of a line all that matters is where the input rows lie that its kernel's rows read. Outputs of one
//! residue of the dilation along the line (over its common divisor with the stride) are stretches of their own, as
//! if the others did not exist; and lines that are computed together are of one such residue.
//!
//! Weights are copied, so that those of a tap are neighbours too; and so are planes so small that windows which slide
//! over them (`windows/`) would be slower than a copy: it is turned as it is made, and so are the results.

use std::ops::Range;

use super::Problem;
use super::split::wanted_items;
use crate::error::Error;
use crate::geometry::{Axis, Geometry, gcd};
use crate::memory::with_scratch;
use crate::offer::Description;
use crate::parallel::{Turn, even_part, even_parts};
use crate::tile::{
    Bias, CHAIN, Finish, Kernels, MOST_LINES, NOWHERE, Row, Stretch, Stretches, Stretching, Tiled,
};
use crate::view::{Memory, ViewMut, contiguous};

/// Bytes of the weights of a block of channels, so that they stay in the first-level cache.
const WEIGHT_BYTES: usize = 16 << 10;

/// Bytes of the input of a block of channels that an item reads where there are several blocks, so that what its
/// lines share stays in the second-level cache.
const ITEM_BYTES: usize = 512 << 10;

/// Bytes of the input and the results of a block of channels that are turned, so that they stay in the first-level
/// cache.
const TURNED_BYTES: usize = 24 << 10;

/// Elements of a plane of the input that is turned, at most, where rows of outputs fill half a vector at most. Wider ones
/// are better as they are: 3x3 on 512 channels of 14 x 14 takes 0.093 ms instead of 0.061, 7x7 on 384 as long
/// either way, while 7x7 on 768 of 7 x 7 takes 0.066 instead of 0.151 (Sapphire Rapids).
const MOST_TURNED: usize = 256;

/// A depthwise convolution, as all threads share it.
pub(super) struct Channels<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    memory: Memory<'a, T>,
    /// If planes are turned: elements of one of the input, and of the result.
    turned: Option<[usize; 2]>,
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

/// What a block of channels sums.
struct Sums<'a, T> {
    weights: &'a [T],
    finish: Finish<T>,
    channels: usize,
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
    /// Of a problem, if channels are neighbours both in the input and in the result, or planes are small.
    pub fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Option<Self> {
        let Problem { geometry, x, store, .. } = problem;
        let size = size_of::<T>() as isize;
        let [.., row] = geometry.axes.as_slice() else { return None };
        let depthwise = (geometry.channels, geometry.outputs) == (1, 1)
            && geometry.groups >= kernels.lanes
            && geometry.kernel_taps() <= CHAIN;
        if !(depthwise && store.is_direct() && problem.has_zeros_around()) {
            return None;
        }
        let neighbours = x.strides()[0] == size && store.out.strides()[0] == size;
        let turned = if neighbours { None } else { Some(turned(problem, kernels.lanes)?) };
        let memory = x.memory::<T>()?;
        let table = kernels.stretches(row.kernel, steps(row).0)?;
        let vectors = geometry.groups / kernels.lanes;
        let most = |bytes: usize, elements: usize| {
            (bytes / (elements * kernels.lanes * size_of::<T>()).max(1)).max(1)
        };
        let most_weights = most(WEIGHT_BYTES, geometry.kernel_taps());
        let chosen = |turned, lines: Lines<T>, blocks, parts| {
            let most = table.outputs.len().min(row.output);
            Some(Channels { problem, kernels, memory, turned, lines, blocks, parts, most })
        };
        if let Some(turned) = turned {
            let most = most_weights.min(most(TURNED_BYTES, turned.iter().sum()));
            let blocks = vectors.div_ceil(most).max(wanted_items(threads).min(vectors));
            let mut image = (*geometry).clone();
            let images = std::mem::replace(&mut image.axes[0], Axis::plain(1)).output;
            let pitch = pitch(geometry.groups, blocks, kernels.lanes) as isize;
            let strides = |of: fn(&Axis) -> usize, by: isize| -> Vec<isize> {
                let shape: Vec<usize> = image.axes.iter().map(of).collect();
                contiguous(&shape, 1).iter().map(|stride| stride * by).collect()
            };
            let x = strides(|axis| axis.input, pitch);
            let out = strides(|axis| axis.output, pitch * size);
            return chosen(Some(turned), Lines::new(&image, (&x, &out), table), blocks, images);
        }
        let strides: Vec<isize> = x.strides()[1..].iter().map(|stride| stride / size).collect();
        let lines = Lines::new(geometry, (&strides, &store.out.strides()[1..]), table);
        let blocks = vectors.div_ceil(most_weights);
        let parts = match blocks {
            1 => 1,
            _ => {
                let line = row.input * geometry.groups / blocks * size_of::<T>() * table.lines;
                lines.count().div_ceil((ITEM_BYTES / line.max(1)).max(1))
            }
        };
        let parts = parts.max(wanted_items(threads).div_ceil(blocks)).min(lines.count());
        chosen(None, lines, blocks, parts)
    }

    /// How the convolution is computed.
    pub fn describe(&self, threads: usize) -> Description {
        let axes = &self.problem.geometry.axes;
        Description {
            workspace: self.scratch() * threads * size_of::<T>(),
            tile: Some((self.most, self.kernels.lanes)),
            roles: Some(("positions", "channels")),
            block: axes.iter().map(|axis| axis.output).collect(),
            in_place: self.turned.is_none(),
            ..Description::default()
        }
    }

    /// A block of channels of a part of the lines each, or of an image.
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

    /// Elements from a tap of a block's weights to the next, and between positions of planes that are turned.
    fn pitch(&self) -> usize {
        pitch(self.problem.geometry.groups, self.blocks, self.kernels.lanes)
    }

    /// Taps of a kernel and its rows.
    fn weights(&self) -> usize {
        let taps = self.problem.geometry.kernel_taps();
        let [.., row] = self.problem.geometry.axes.as_slice() else { unreachable!("see above") };
        taps + taps / row.kernel
    }

    /// Elements that each thread needs: the weights of all blocks, and turned planes and results of one.
    fn scratch(&self) -> usize {
        let turned = self.turned.map_or(0, |planes| planes.iter().sum());
        (self.weights() * self.blocks + turned) * self.pitch()
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let store = self.problem.store;
        let of_taps = self.problem.weights.taps()?;
        with_scratch(self.scratch(), |scratch: &mut [T]| {
            let len = self.weights() * self.pitch();
            let (all, turned) = scratch.split_at_mut(self.blocks * len);
            let mut read = vec![false; self.blocks];
            let mut rows = Vec::new();
            while let Some(item) = turn.next() {
                let (part, block) = (item / self.blocks, item % self.blocks);
                let channels = self.block(block);
                let weights = &mut all[block * len..][..len];
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
                let sums = Sums { weights, finish, channels: channels.len() };
                let goes_on = match self.turned {
                    Some(planes) => {
                        let done =
                            self.image((part, &channels), planes, &sums, (turned, &mut rows));
                        turn.goes_on(done)
                    }
                    None => even_part(&(0..self.lines.count()), self.parts, part).all(|at| {
                        let first = channels.start as isize;
                        let to = self.lines.place(at, &mut rows);
                        let (from, to) = ((&self.memory, first), (&store.out, first, to));
                        turn.goes_on(self.lines(&sums, &rows, from, to))
                    }),
                };
                if !goes_on {
                    return;
                }
            }
        })
    }

    /// Turns the planes of some channels of an image, computes all lines, and turns the results. Returns how many
    /// vector operations it took.
    fn image(
        &self,
        (image, channels): (usize, &Range<usize>),
        planes: [usize; 2],
        sums: &Sums<'_, T>,
        (scratch, rows): (&mut [T], &mut Vec<Row>),
    ) -> usize {
        let Problem { x, store, .. } = self.problem;
        let (pitch, size) = (self.pitch(), size_of::<T>() as isize);
        let (staged, results) = scratch.split_at_mut(planes[0] * pitch);
        let at =
            |strides: &[isize]| channels.start as isize * strides[0] + image as isize * strides[1];
        let from = (&self.memory, at(x.strides()) / size, x.strides()[0] / size);
        self.kernels.transposed(from, (channels.len(), planes[0]), (staged, pitch));
        let operations = {
            let out = ViewMut::from_slice(&mut *results, &[planes[1] * pitch]);
            let line = |at| {
                let to = self.lines.place(at, rows);
                self.lines(sums, rows, (&Memory::of(staged), 0), (&out, 0, to))
            };
            (0..self.lines.count()).map(line).sum::<usize>()
        };
        let (to, row) = (at(store.out.strides()), store.out.strides()[0]);
        let reach = row * (channels.len() as isize - 1);
        let to = store.out.at(to, reach.min(0), reach.max(0) + planes[1] as isize * size);
        // SAFETY: `at` checked the first and the last channel's plane of results, which this thread alone writes.
        unsafe {
            self.kernels.transpose((results, pitch), (planes[1], channels.len()), (to, row));
        }
        operations + (planes[0] + planes[1]) * channels.len() / self.kernels.lanes
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

    /// Computes lines from and to some memory, where the first channel is. Returns how many vector operations it
    /// took.
    fn lines(
        &self,
        &Sums { weights, finish, channels }: &Sums<'_, T>,
        rows: &[Row],
        (from, first): (&Memory<'_, T>, isize),
        (out, first_out, to): (&ViewMut<'_, T>, isize, [Option<isize>; MOST_LINES]),
    ) -> usize {
        let (lines, size) = (&self.lines, size_of::<T>() as isize);
        let exist = || rows.iter().map(|row| row.x).filter(|&x| x != NOWHERE);
        let x = match (exist().min(), exist().max()) {
            (Some(low), Some(high)) => {
                let last = channels as isize - 1;
                from.at(first, low + lines.reach.0, high + lines.reach.1 + last)
            }
            _ => std::ptr::null(),
        };
        let (low, high) = lines.results;
        let of_line = |to| out.at(to + first_out * size, low, high + channels as isize * size);
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
                channels,
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
        row.output * rows.len() * row.kernel * channels.div_ceil(self.kernels.lanes)
    }
}

/// Elements between positions of a block of channels: whole vectors, with room for channels that are left of the last.
fn pitch(groups: usize, blocks: usize, lanes: usize) -> usize {
    ((groups / lanes).div_ceil(blocks) + 1) * lanes
}

/// Elements of a plane of the input and of the result, if planes are dense, and so small that vectors of channels are
/// worth it that they are turned.
fn turned<T: Tiled>(problem: &Problem<'_, T>, lanes: usize) -> Option<[usize; 2]> {
    let Problem { geometry, x, store, .. } = problem;
    let dense = |strides: &[isize], of: fn(&Axis) -> usize| {
        let shape: Vec<usize> = geometry.axes[1..].iter().map(of).collect();
        (strides[2..] == contiguous(&shape, size_of::<T>())).then(|| shape.iter().product())
    };
    let input: usize = dense(x.strides(), |axis| axis.input)?;
    let output: usize = dense(store.out.strides(), |axis| axis.output)?;
    let [.., row] = geometry.axes.as_slice() else { return None };
    let small = 2 * row.output <= lanes && (1..=MOST_TURNED).contains(&input);
    small.then_some([input, output])
}

/// By how many inputs of its stretch the windows of neighbouring outputs are apart, and in how many stretches that
/// share no input a line is.
fn steps(row: &Axis) -> (usize, usize) {
    let step = gcd(row.stride, row.dilation);
    (row.stride / step, row.dilation / step)
}
