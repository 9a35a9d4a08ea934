//! The gradient of a convolution's weights,
//!
//! ```text
//! dw[m, c, k] = sum over n, p of   g[n, m, p] * x[n, c, p * stride + k * dilation]
//! ```
//!
//! on the slab and the tile of the forward sum, contracted over positions instead of taps. The
//! positions are cut into blocks by the problem alone; a block's part of the input is staged as for
//! the forward, so that a tap is a constant shift, and there are two forms for what follows:
//!
//! - [`Form::Outer`]: rows of a tile are input channels, read in place from the slab under one tap;
//!   its columns are vectors of output channels, for which the gradient is transposed once a block to
//!   `[position][output channel]`. Only positions of the output are steps.
//! - [`Form::Dot`], where there are few output channels: rows are output channels, columns are taps,
//!   and a step multiplies 16 neighbouring positions of both, so nothing is transposed and no lane
//!   waits for an output channel that does not exist. The gradient is staged with the pitch of the
//!   slab, zeros between its rows.
//!
//! # The order of a sum
//!
//! In a block, positions are summed in C order (batch, then the spatial axes), in chains of
//! [`CHAIN`] fused multiply-adds, and chains are added in order; blocks follow
//! each other in the same way. With [`Form::Dot`] each of 16 interleaved sums is such a sum, of every
//! 16th of the slab's positions, and they are added as a tree: halves, quarters, and so on. Where a
//! gradient has few elements and many positions, blocks are dealt to up to [`SLICES`] slices, each
//! summed by itself, and those are added as a tree of neighbours. All of this depends on shapes and
//! options alone.

mod bias;
mod dot;
mod outer;
mod sink;

use std::ops::Range;

use crate::contract::{SERIAL_FLOPS, block_lens, nth_block, wanted_items};
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::memory::with_scratch;
use crate::parallel::{Stopped, Team, Turn, even_part};
use crate::slab::{Block, Layout};
use crate::tile::{ALL_ROWS, Kernels, Segment, Step, Strip, Sum, TileShape, Tiled};
use crate::view::{Element, Memory, Run, Runs, View, ViewMut, advance, contiguous};

pub use bias::{Bias, bias};
use sink::Sink;

/// Positions that are summed in one chain of fused multiply-adds at most.
const CHAIN: usize = 256;

/// Elements of a slab's plane with [`Form::Outer`]: as many positions, about. The sums depend on it.
const OUTER_PLANE: usize = 2048;

/// Elements of a slab's plane with [`Form::Dot`].
const DOT_PLANE: usize = 16 << 10;

/// Interleaved sums of [`Form::Dot`]: the lanes of the widest vector of today.
const LANES: usize = 16;

/// Most slices of a sum.
const SLICES: usize = 16;

/// Elements of all planes that a thread stages at once, of the input or of the gradient: a quarter
/// of the second-level cache of today's cores.
const STAGED: usize = 128 << 10;

/// Taps that are summed before their sums are transposed, so that these stay in the first-level
/// cache.
const TAPS: usize = 32;

/// Positions that are transposed at once.
const PACKED: usize = 64;

/// The gradient of weights, with its arrays.
pub struct Problem<'a, T> {
    /// Of the convolution.
    pub geometry: &'a Geometry,
    /// Input, canonical strides `[channel, batch, *spatial]`.
    pub x: &'a View<'a>,
    /// The gradient of the output, canonical strides `[output channel, batch, *positions]`.
    pub gradient: &'a View<'a>,
    /// What lies outside the input in constant mode.
    pub padding: T,
    /// Whether the convolution flips its kernels.
    pub flip: bool,
    /// Where the gradient of the weights goes.
    pub out: &'a ViewMut<'a, T>,
    /// Whether it is added to what is there.
    pub accumulate: bool,
    /// Whether each image has a gradient of its own. Strides of `out` are `[image, output, channel,
    /// *kernel]`, that of the image 0 where all have one.
    pub per_sample: bool,
}

/// What rows, columns and steps of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Rows: channels. Columns: vectors of output channels. Steps: positions.
    Outer,
    /// Rows: output channels. Columns: taps of channels. Steps: 16 positions.
    Dot,
}

impl Form {
    /// The form for a problem: no machine has a say, since sums differ.
    ///
    /// Fewer than 8 sums in registers do not hide the latency of a multiply-add, and output channels
    /// that fill no more than half a vector of 16 waste more than rows of 16 positions do.
    fn of(geometry: &Geometry) -> Self {
        let sums = geometry.channels * geometry.outputs.div_ceil(16);
        if geometry.outputs <= 8 || sums < 8 { Form::Dot } else { Form::Outer }
    }
}

/// Computes the gradient of weights.
pub fn weight<T: Tiled>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    let taps = geometry.kernel_taps();
    if geometry.groups * geometry.outputs * geometry.channels == 0 {
        return Ok(());
    }
    let serial = geometry.flops() < SERIAL_FLOPS;
    let team = Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    let plan = Plan::new(problem, kernels, team.threads)?;
    let images = if problem.per_sample { geometry.axes[0].output } else { 1 };
    let sink = Sink::new(problem)?;
    if plan.slices == 1 {
        return team.share(images * plan.parts(), |turn| plan.work(turn, &sink));
    }
    // Every slice by itself, and then their sum.
    let row = geometry.channels * taps;
    let outputs = geometry.groups * geometry.outputs;
    let len = (images * plan.slices).saturating_mul(outputs * row);
    let mut partial = room("the partial sums", len)?;
    partial.resize(len, T::default());
    let shape = [images * plan.slices, outputs, row];
    {
        let partial = ViewMut::from_slice(&mut partial, &shape);
        let sink = Sink::dense(&partial, geometry)?;
        team.share(images * plan.slices * plan.parts(), |turn| plan.work(turn, &sink))?;
    }
    team.share(images * outputs, |turn| {
        let mut sums = room("the partial sums", row)?;
        sums.resize(row, T::default());
        while let Some(item) = turn.next() {
            let (image, output) = (item / outputs, item % outputs);
            let of = |slice: usize| {
                let at = ((image * plan.slices + slice) * outputs + output) * row;
                &partial[at..at + row]
            };
            tree(0..plan.slices, &of, &mut sums)?;
            // SAFETY: each output is written by the one thread that took it.
            unsafe { sink.write((image, output), (0..geometry.channels, 0..taps), &sums) };
        }
        Ok(())
    })
}

/// The sum of rows, halves of them first, down to neighbours.
fn tree<'a, T: Element>(
    rows: Range<usize>,
    of: &impl Fn(usize) -> &'a [T],
    sums: &mut [T],
) -> Result<(), Error> {
    if rows.len() == 1 {
        sums.copy_from_slice(of(rows.start));
        return Ok(());
    }
    let middle = rows.start + rows.len() / 2;
    tree(rows.start..middle, of, sums)?;
    let mut right = room("the partial sums", sums.len())?;
    right.resize(sums.len(), T::default());
    tree(middle..rows.end, of, &mut right)?;
    sums.iter_mut().zip(&right).for_each(|(sum, &other)| *sum = sum.add(other));
    Ok(())
}

/// How a gradient is computed: what all threads share.
struct Plan<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    form: Form,
    /// Whether rows and columns of [`Form::Outer`] have changed places: see [`Plan::outer`].
    swapped: bool,
    layout: Layout,
    /// The offset of each tap in a plane of the slab.
    taps: Vec<isize>,
    /// Blocks on each axis.
    blocks: Vec<usize>,
    /// Slices of the sum, of one image with gradients of their own.
    slices: usize,
    shape: TileShape,
    /// Parts of a group's channels and of its outputs.
    cuts: (usize, usize),
    /// Channels and outputs that parts have a multiple of.
    unit: (usize, usize),
    sizes: Sizes,
    /// The geometry that blocks cut: of one image, if each has a gradient of its own.
    one: Geometry,
}

/// Elements of each part of a thread's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    slab: usize,
    gradient: usize,
    turned: usize,
    results: usize,
    sums: usize,
}

/// One thread's next piece of work.
struct Item {
    image: usize,
    /// Where the result goes: the image, or the slice of all.
    target: usize,
    blocks: Range<usize>,
    group: usize,
    /// Of the group.
    channels: Range<usize>,
    /// Of the group.
    outputs: Range<usize>,
}

impl<'a, T: Tiled> Plan<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let form = Form::of(geometry);
        let (channels, outputs) = (geometry.channels, geometry.outputs);
        let plane = match form {
            Form::Outer => OUTER_PLANE,
            Form::Dot => DOT_PLANE,
        };
        let mut one = Geometry { channels: 1, ..geometry.clone() };
        let images = geometry.axes[0].output;
        if problem.per_sample {
            one.axes[0] = Axis::plain(images.min(1));
        }
        let lens =
            if one.positions() == 0 { vec![1; one.axes.len()] } else { block_lens(&one, plane) };
        let axes = one.axes.iter().zip(&lens);
        let blocks: Vec<usize> = axes.map(|(axis, &len)| axis.output.div_ceil(len)).collect();
        let axes = one.axes.iter().zip(&blocks);
        let lens: Vec<usize> = axes.map(|(axis, &n)| axis.output.div_ceil(n.max(1))).collect();
        let layout = Layout::new(geometry, &lens, size_of::<T>())?;
        let taps = flat(&layout.offsets()?, geometry)?;
        // Slices whose sums take no more room than the operands.
        let inputs: usize = one.axes.iter().map(|axis| axis.input).product();
        let operands = geometry.groups * (channels * inputs + outputs * one.positions());
        let elements = geometry.groups * outputs * channels * taps.len();
        let slices = blocks.iter().product::<usize>().clamp(1, SLICES.min(1 + operands / elements));

        let lanes = kernels.lanes;
        let swapped = form == Form::Outer && taps.len() == 1 && {
            // Lanes that are computed for each product that is wanted.
            let waste = |n: usize| (n.div_ceil(lanes) * lanes) as f64 / n as f64;
            waste(channels) < 1.1 * waste(outputs)
        };
        let unlimited = |aligned| (usize::MAX, aligned);
        let (shape, unit) = match (form, swapped) {
            (Form::Dot, _) => {
                (kernels.choose(outputs, &[channels * taps.len()], unlimited(false)).0, (1, 1))
            }
            (Form::Outer, false) => {
                let shape = kernels.choose(channels, &[outputs.div_ceil(lanes)], unlimited(true)).0;
                (shape, (1, shape.columns * lanes))
            }
            (Form::Outer, true) => {
                let shape = kernels.choose(outputs, &[channels.div_ceil(lanes)], unlimited(true)).0;
                (shape, (shape.columns * lanes, 1))
            }
        };
        let mut plan = Plan {
            problem,
            kernels,
            form,
            swapped,
            layout,
            taps,
            blocks,
            slices,
            shape,
            unit,
            cuts: (1, 1),
            sizes: Sizes::default(),
            one,
        };
        plan.cut(&lens, threads);
        plan.sizes = plan.sizes(&lens);
        Ok(plan)
    }

    /// Cuts channels and outputs into parts: as many as a thread's memory asks for, and then as all
    /// threads need to have enough to do.
    fn cut(&mut self, lens: &[usize], threads: usize) {
        let geometry = self.problem.geometry;
        let (channels, outputs) = (geometry.channels, geometry.outputs);
        let least = |all: usize, plane: usize| all.saturating_mul(plane).div_ceil(STAGED).max(1);
        let positions = lens.iter().product::<usize>();
        let (most_channels, most_outputs) = match (self.form, self.swapped) {
            (Form::Dot, _) => (channels, 1),
            (Form::Outer, false) => {
                (channels.div_ceil(self.shape.rows), outputs.div_ceil(self.unit.1))
            }
            (Form::Outer, true) => {
                (channels.div_ceil(self.unit.0), outputs.div_ceil(self.shape.rows))
            }
        };
        let images = if self.problem.per_sample { geometry.axes[0].output } else { 1 };
        let targets = (geometry.groups * self.slices * images).max(1);
        let wanted = wanted_items(threads);
        let mut cuts = (least(channels, self.layout.plane()), least(outputs, positions));
        cuts.0 = cuts.0.max(wanted.div_ceil(targets * cuts.1)).min(most_channels);
        cuts.1 = cuts.1.max(wanted.div_ceil(targets * cuts.0)).min(most_outputs);
        self.cuts = cuts;
    }

    /// What a thread needs, for parts as large as they are.
    fn sizes(&self, lens: &[usize]) -> Sizes {
        let geometry = self.problem.geometry;
        let (lanes, taps) = (self.kernels.lanes, self.taps.len());
        let (channels, outputs) = (
            geometry.channels.div_ceil(self.unit.0).div_ceil(self.cuts.0) * self.unit.0,
            geometry.outputs.div_ceil(self.unit.1).div_ceil(self.cuts.1) * self.unit.1,
        );
        let positions = lens.iter().product::<usize>();
        let plane = self.layout.plane();
        let width = self.shape.columns * lanes;
        let tile = self.shape.rows * Strip::<T>::row_vectors(self.shape.columns) * lanes;
        let (gradient, turned, results, sums) = match (self.form, self.swapped) {
            (Form::Dot, _) => {
                let results = self.shape.rows * (self.shape.columns * LANES + channels * taps);
                let tiles = outputs.div_ceil(self.shape.rows)
                    * (channels * taps).div_ceil(self.shape.columns);
                let sums = tiles.saturating_mul(tile * (LANES / lanes));
                (outputs * self.gradient_plane(lens), 0, results, sums)
            }
            (Form::Outer, false) => {
                let regions = channels.div_ceil(self.shape.rows) * outputs.div_ceil(width);
                let results = 2 * (self.shape.rows * TAPS).max(PACKED) * width;
                let sums = regions.saturating_mul(tile * taps);
                (outputs * positions, 0, results, sums)
            }
            (Form::Outer, true) => {
                let regions = outputs.div_ceil(self.shape.rows) * channels.div_ceil(width);
                let sums = regions.saturating_mul(tile);
                (
                    outputs * self.gradient_plane(lens),
                    channels * plane,
                    self.shape.rows * width,
                    sums,
                )
            }
        };
        let alone = self.blocks.iter().product::<usize>() <= self.slices;
        let slab = self.layout.size(channels, LANES) + LANES;
        let once = if self.form == Form::Dot { tile } else { (STAGED / 2).max(tile * TAPS) };
        let sums = if alone { sums.min(once) } else { sums };
        // Each part starts at a whole line of a cache.
        let [gradient, turned, results] =
            [gradient, turned, results].map(|size| size.next_multiple_of(LANES));
        Sizes { slab, gradient, turned, results, sums }
    }

    /// Items of one slice.
    fn parts(&self) -> usize {
        self.problem.geometry.groups * self.cuts.0 * self.cuts.1
    }

    fn item(&self, item: usize) -> Item {
        let geometry = self.problem.geometry;
        let (item, cut) = (item / self.cuts.0, item % self.cuts.0);
        let (item, part) = (item / self.cuts.1, item % self.cuts.1);
        let (target, group) = (item / geometry.groups, item % geometry.groups);
        let blocks = self.blocks.iter().product::<usize>();
        let part_of = |all: usize, unit: usize, n: usize, i: usize| {
            let units = even_part(&(0..all.div_ceil(unit)), n, i);
            all.min(units.start * unit)..all.min(units.end * unit)
        };
        Item {
            image: target / self.slices,
            target,
            blocks: even_part(&(0..blocks), self.slices, target % self.slices),
            group,
            channels: part_of(geometry.channels, self.unit.0, self.cuts.0, cut),
            outputs: part_of(geometry.outputs, self.unit.1, self.cuts.1, part),
        }
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>, sink: &Sink<'_, T>) -> Result<(), Error> {
        let Sizes { slab, gradient, turned, results, sums } = self.sizes;
        let sizes = [slab, gradient, turned, results, sums];
        let len = sizes.into_iter().fold(0, usize::saturating_add);
        with_scratch(len, |scratch: &mut [T]| {
            let (slab, scratch) = scratch.split_at_mut(slab);
            let (gradient, scratch) = scratch.split_at_mut(gradient);
            let (turned, scratch) = scratch.split_at_mut(turned);
            let (results, sums) = scratch.split_at_mut(results);
            let mut room = Room { slab, gradient, turned, sums, results };
            let mut staged = Staged::default();
            while let Some(item) = turn.next() {
                let item = self.item(item);
                let last = item.blocks.end.saturating_sub(1);
                if item.blocks.is_empty() {
                    self.nothing(&item, sink)?;
                }
                for number in item.blocks.clone() {
                    let ends = (number == item.blocks.start, number == last);
                    self.stage(&item, number, (&mut room, &mut staged))?;
                    match self.form {
                        Form::Outer => self.outer(turn, &item, (&staged, ends), &mut room, sink),
                        Form::Dot => self.dot(turn, &item, (&staged, ends), &mut room, sink)?,
                    }
                }
            }
            Ok(())
        })?
    }

    /// The sums of nothing, where the batch is empty.
    fn nothing(&self, item: &Item, sink: &Sink<'_, T>) -> Result<(), Error> {
        let len = item.channels.len() * self.taps.len();
        let mut zeros = room("the partial sums", len)?;
        zeros.resize(len, T::default());
        for output in 0..item.outputs.len() {
            self.put(item, output, (0..item.channels.len(), 0..self.taps.len()), &zeros, sink);
        }
        Ok(())
    }

    /// Stages what an item needs of a block, unless it is there already.
    fn stage(
        &self,
        item: &Item,
        number: usize,
        (room, staged): (&mut Room<'_, T>, &mut Staged),
    ) -> Result<(), Error> {
        let Problem { geometry, x, gradient, padding, .. } = self.problem;
        let (_, mut block) = nth_block(&self.one, &self.blocks, number);
        if self.problem.per_sample {
            block.0[0] = item.image..item.image + 1;
        }
        let lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
        if staged.lens != lens {
            staged.sum = self.sum(&lens)?;
            staged.lens = lens;
            staged.input = None;
            staged.gradient = None;
        }
        let input = (item.group, item.channels.clone(), block.clone());
        if staged.input.as_ref() != Some(&input) {
            let first = item.group * geometry.channels;
            let channels = first + item.channels.start..first + item.channels.end;
            if self.form == Form::Dot {
                // What is left over from other blocks might not be a number, and would be multiplied
                // by the zeros between rows.
                room.slab.fill(T::default());
            }
            let runs = self.layout.runs(&block, &x.strides()[1..]);
            self.layout.stage((&runs, channels), x, *padding, room.slab);
            if self.swapped {
                let (plane, width) = (self.layout.plane(), self.shape.columns * self.kernels.lanes);
                for first in (0..item.channels.len()).step_by(width) {
                    let (from, to) =
                        (&room.slab[first * plane..], &mut room.turned[first * plane..]);
                    let rows = width.min(item.channels.len() - first);
                    turned((from, plane), (rows, plane), (to, width), self.kernels);
                }
            }
            staged.input = Some(input);
        }
        let output = (item.group, item.outputs.clone(), block);
        if staged.gradient.as_ref() != Some(&output) {
            let first = item.group * geometry.outputs;
            let outputs = first + item.outputs.start..first + item.outputs.end;
            let block = &output.2;
            if self.form == Form::Outer && !self.swapped {
                let width = self.shape.columns * self.kernels.lanes;
                let panel = width * staged.sum.steps.len();
                for (i, first) in outputs.clone().step_by(width).enumerate() {
                    let outputs = first..outputs.end.min(first + width);
                    let to = (&mut room.gradient[i * panel..], width);
                    self.pack((outputs, block), to, room.results);
                }
            } else {
                let plane = self.gradient_plane(&staged.lens);
                let pitches = self.gradient_pitches(&staged.lens);
                let runs = rows(block, &pitches, &gradient.strides()[1..]);
                for (plane, output) in room.gradient.chunks_mut(plane).zip(outputs) {
                    if self.form == Form::Dot {
                        plane.fill(T::default());
                    }
                    let start = output as isize * gradient.strides()[0];
                    gradient.read_runs(start, &runs, T::default(), plane);
                }
            }
            staged.gradient = Some(output);
        }
        Ok(())
    }

    /// Copies output channels of a block of the gradient to `[position][output channel]`, `width` of
    /// these a position.
    fn pack(
        &self,
        (outputs, block): (Range<usize>, &Block),
        (panel, width): (&mut [T], usize),
        aside: &mut [T],
    ) {
        let gradient = self.problem.gradient;
        let strides = gradient.strides();
        let (channel, step) = (strides[0], strides[strides.len() - 1]);
        let start = outputs.start as isize * channel + block.start(&strides[1..]);
        // Axes without gaps between their rows are one row.
        let mut lens: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
        let mut inner = lens.pop().expect("a geometry has axes");
        while let Some(&len) = lens.last()
            && strides[lens.len()] == inner as isize * step
        {
            inner *= len;
            lens.pop();
        }
        let mut index = vec![0; lens.len()];
        let mut to = 0;
        for _ in 0..lens.iter().product() {
            let row: isize = index.iter().zip(&strides[1..]).map(|(&i, &s)| i as isize * s).sum();
            advance(&mut index, &lens);
            for first in (0..inner).step_by(PACKED) {
                let len = PACKED.min(inner - first);
                let from = start + row + first as isize * step;
                let panel = &mut panel[to * width..];
                if channel.unsigned_abs() < step.unsigned_abs() {
                    // The channels are neighbours: as they are wanted.
                    for (i, panel) in panel.chunks_mut(width).take(len).enumerate() {
                        let from = from + i as isize * step;
                        gradient.read(from, channel, &mut panel[..outputs.len()]);
                    }
                } else {
                    for (o, aside) in aside.chunks_exact_mut(PACKED).take(outputs.len()).enumerate()
                    {
                        gradient.read(from + o as isize * channel, step, &mut aside[..len]);
                    }
                    let size = (outputs.len(), len);
                    turned((aside, PACKED), size, (panel, width), self.kernels);
                }
                to += len;
            }
        }
    }

    /// How far apart positions of each axis lie in the gradient's planes: as in the slab with
    /// [`Form::Dot`], else without gaps.
    fn gradient_pitches(&self, lens: &[usize]) -> Vec<isize> {
        match self.form {
            Form::Dot => self.layout.pitches(),
            Form::Outer => contiguous(lens, 1),
        }
    }

    /// Elements between the gradient's planes of a block: an odd number of [`LANES`], so that planes
    /// spread over the sets of a cache.
    fn gradient_plane(&self, lens: &[usize]) -> usize {
        (flat_len(&self.gradient_pitches(lens), lens).div_ceil(LANES) | 1) * LANES
    }

    /// The sum over a block's positions.
    fn sum(&self, lens: &[usize]) -> Result<Sum, Error> {
        let pitches = self.layout.pitches();
        let count = match self.form {
            Form::Outer => lens.iter().product(),
            Form::Dot => flat_len(&pitches, lens).div_ceil(LANES),
        };
        let mut steps = room("the table of positions", count)?;
        let width = (self.shape.columns * self.kernels.lanes) as isize;
        let each = positions(lens, &pitches).zip(0..);
        match (self.form, self.swapped) {
            (Form::Outer, false) => steps.extend(each.map(|(at, p)| Step { a: at, b: p * width })),
            (Form::Outer, true) => steps.extend(each.map(|(at, p)| Step { a: p, b: at * width })),
            (Form::Dot, _) => steps.extend((0..count).map(|step| {
                let at = (step * LANES) as isize;
                Step { a: at, b: at }
            })),
        }
        let row = match (self.form, self.swapped) {
            (Form::Outer, false) => self.layout.plane(),
            _ => self.gradient_plane(lens),
        };
        Ok(whole(steps, row))
    }

    /// Hands over sums of an output, both it and the channels as an item counts them.
    fn put(
        &self,
        item: &Item,
        output: usize,
        (channels, taps): (Range<usize>, Range<usize>),
        sums: &[T],
        sink: &Sink<'_, T>,
    ) {
        let output = item.group * self.problem.geometry.outputs + item.outputs.start + output;
        let first = item.channels.start;
        let channels = first + channels.start..first + channels.end;
        // SAFETY: each item has outputs and channels of its own, and one thread takes it.
        unsafe { sink.write((item.target, output), (channels, taps), sums) };
    }
}

/// The sum over all steps, of rows so far apart.
fn whole(steps: Vec<Step>, row: usize) -> Sum {
    let mut sum = Sum::new(row as isize, None, (1, Step::default()));
    let count = steps.len();
    sum.steps = steps;
    for start in (0..count).step_by(CHAIN) {
        let steps = start..count.min(start + CHAIN);
        sum.segments.push(Segment { steps, rows: ALL_ROWS });
        sum.push(sum.segments.len() - 1);
    }
    sum
}

/// Offsets of a block's positions in a plane, in C order.
fn positions<'a>(lens: &'a [usize], pitches: &'a [isize]) -> impl Iterator<Item = isize> + 'a {
    let mut index = vec![0; lens.len()];
    (0..lens.iter().product()).map(move |_| {
        let at = index.iter().zip(pitches).map(|(&i, &p)| i as isize * p).sum();
        advance(&mut index, lens);
        at
    })
}

/// Positions of a plane from the first of a block to the last.
fn flat_len(pitches: &[isize], lens: &[usize]) -> usize {
    let last: isize = lens.iter().zip(pitches).map(|(&n, p)| (n as isize - 1).max(0) * p).sum();
    last as usize + 1
}

/// Where a block's rows lie in a plane of these pitches, and where they come from.
fn rows(block: &Block, pitches: &[isize], strides: &[isize]) -> Runs {
    let (inner, outer) = block.0.split_last().expect("a geometry has axes");
    let lens: Vec<usize> = outer.iter().map(|range| range.len()).collect();
    let step = strides[outer.len()];
    let mut index = vec![0; outer.len()];
    let runs = (0..lens.iter().product()).map(|_| {
        let to: isize = index.iter().zip(pitches).map(|(&i, &p)| i as isize * p).sum();
        let from: isize = index.iter().zip(strides).map(|(&i, &s)| i as isize * s).sum();
        advance(&mut index, &lens);
        let from = Some((block.start(strides) + from, step));
        Run { to: to as usize, len: inner.len(), from }
    });
    Runs::new(runs.collect())
}

/// The offset of each tap in a plane, in C order.
fn flat(offsets: &[Vec<isize>], geometry: &Geometry) -> Result<Vec<isize>, Error> {
    let lens: Vec<usize> = geometry.axes.iter().map(|axis| axis.kernel).collect();
    let mut taps = room("the table of taps", lens.iter().product())?;
    let mut index = vec![0; lens.len()];
    for _ in 0..geometry.kernel_taps() {
        taps.push(index.iter().zip(offsets).map(|(&i, axis)| axis[i]).sum());
        advance(&mut index, &lens);
    }
    Ok(taps)
}

/// Transposes a matrix: element (i, j) of `from` goes to element i of row j of `to`.
fn turned<T: Tiled>(
    (from, pitch): (&[T], usize),
    size: (usize, usize),
    to: (&mut [T], usize),
    kernels: &Kernels<T>,
) {
    kernels.transposed((&Memory::of(from), 0, pitch as isize), size, to);
}

/// A thread's memory.
struct Room<'a, T> {
    slab: &'a mut [T],
    gradient: &'a mut [T],
    /// The slab as `[position][channel]`, a panel of columns after the other.
    turned: &'a mut [T],
    /// Sums between blocks, a tile after the other.
    sums: &'a mut [T],
    /// Finished sums, and what is turned on the way.
    results: &'a mut [T],
}

/// What a thread has staged.
#[derive(Default)]
struct Staged {
    lens: Vec<usize>,
    sum: Sum,
    input: Option<(usize, Range<usize>, Block)>,
    gradient: Option<(usize, Range<usize>, Block)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_adds_neighbours_first() {
        let rows: Vec<Vec<f32>> = [1.0, 2.0, 3e8, -3e8, 4.0].map(|v| vec![v]).to_vec();
        let mut sums = vec![0.0];
        tree(0..5, &|i| &rows[i][..], &mut sums).unwrap();
        assert_eq!(sums, [(1.0f32 + 2.0) + (3e8 + (-3e8 + 4.0))]);
    }
}
