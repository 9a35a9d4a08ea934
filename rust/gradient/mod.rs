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
//! - [`Form::Dot`], where there are few channels: rows are taps that lie whole steps apart, or output
//!   channels, columns are the other taps, and a step multiplies 16 neighbouring positions of both, so
//!   nothing is transposed and no lane waits for an output channel that does not exist. The gradient is
//!   staged with zeros around each block: see [`dot::Dots`].
//!
//! Without a kernel (1x1), with few channels or with few positions, all taps of all channels may be rows of one product
//! instead, where a cost says that it saves time: see [`inner`].
//!
//! Where three taps and a cost ([`method`]) allow it, products are summed at points of tiles instead, and their
//! sums transformed to taps: see [`tiles`].
//!
//! # The order of a sum
//!
//! In a block, positions are summed in C order (batch, then the spatial axes), in chains of
//! [`CHAIN`] fused multiply-adds, and chains are added in order; blocks follow
//! each other in the same way. With [`Form::Dot`] a chain is a strip of a block's rows ([`dot::chains`]), and each
//! of 16 interleaved sums is such a sum, of every 16th position of these; they are added as a tree: halves,
//! quarters, and so on. Where a
//! gradient has few elements and many positions, blocks are dealt to up to [`SLICES`] slices, each
//! summed by itself, and those are added as a tree of neighbours. All of this depends on shapes and
//! options alone.

mod bias;
mod division;
mod dot;
mod inner;
mod method;
mod outer;
mod sink;
mod stage;
mod tiles;

use std::ops::Range;

use crate::contract::{SERIAL_FLOPS, block_lens, wanted_items};
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::memory::{Workspace, with_scratch};
use crate::parallel::{Stopped, Team, Turn};
use crate::plan::Asked;
use crate::slab::Layout;
use crate::tile::{Kernels, Rows, Strip, TileShape, Tiled};
use crate::view::{Element, View, ViewMut, advance};

pub use bias::{Bias, bias};
use division::{Division, Item, evened, slices};
use dot::Dots;
use inner::Inner;
pub use method::asked;
use sink::Sink;
use stage::{Planes, Room, Staged, Surrounded};
use tiles::Tiles;

/// Positions that are summed in one chain of fused multiply-adds at most.
const CHAIN: usize = 256;

/// Elements of a slab's plane with [`Form::Outer`]: as many positions, about. The sums depend on it.
const OUTER_PLANE: usize = 2048;

/// Interleaved sums of [`Form::Dot`]: the lanes of the widest vector of today.
const LANES: usize = 16;

/// Most slices of a sum.
const SLICES: usize = 16;

/// Elements of all planes that a thread stages at once, of the operand that tiles have as rows: a quarter
/// of the second-level cache of today's cores, since all of them are read for each vector of columns.
const STAGED: usize = 128 << 10;

/// The same of the operand that tiles have as columns, a panel of which serves all rows before the next is
/// read. The more of them, the fewer times rows are staged: 1x1 on 128 channels of 128x128 from 5.5 to 5.0 ms
/// (Sapphire Rapids).
const STAGED_COLUMNS: usize = 512 << 10;

/// Taps that are summed before their sums are transposed, so that these stay in the first-level
/// cache.
const TAPS: usize = 32;

/// Cycles that an element takes to be transposed, about, and to be copied.
const TURNED: f64 = 0.8;
const STAGED_ELEMENT: f64 = 0.4;

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
    /// Whether no sum may be rounded: of integers, which floats may hold as well.
    pub exact: bool,
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

impl<T> Problem<'_, T> {
    /// The geometry of what is summed: that of one image, if each has a gradient of its own.
    fn one(&self) -> Geometry {
        let mut one = self.geometry.clone();
        if self.per_sample {
            one.axes[0] = Axis::plain(one.axes[0].output.min(1));
        }
        one
    }
}

/// What rows, columns and steps of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Rows: channels. Columns: vectors of output channels. Steps: positions.
    Outer,
    /// Rows: taps, or output channels. Columns: taps of channels. Steps: 16 positions.
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
    asked: Asked,
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    if geometry.groups * geometry.outputs * geometry.channels == 0 {
        return Ok(());
    }
    let serial = geometry.flops() < SERIAL_FLOPS;
    let team = Team { threads: if serial { 1 } else { team.threads }, stop: team.stop };
    if let Some(forms) = method::forms(asked, problem)? {
        let tiles = Tiles::new(problem, &forms, kernels, team.threads)?;
        let work = |turn: &Turn<'_>, sink: &Sink<'_, T>| tiles.work(turn, sink);
        // What is added to is not touched before all is known to be finite.
        let apart = problem.accumulate;
        if summed(problem, &team, (&tiles.division, apart), &work, &|| !tiles.odd())? {
            return Ok(());
        }
    }
    if let Some(inner) = Inner::new(problem, kernels, team.threads)? {
        let work = |turn: &Turn<'_>, sink: &Sink<'_, T>| inner.work(turn, sink);
        return summed(problem, &team, (&inner.division, false), &work, &|| true).map(|_| ());
    }
    let plan = Plan::new(problem, kernels, team.threads)?;
    let work = |turn: &Turn<'_>, sink: &Sink<'_, T>| plan.work(turn, sink);
    summed(problem, &team, (&plan.division, false), &work, &|| true).map(|_| ())
}

/// Does the work of a division: at once, or every slice by itself and then their sum, as it must be where
/// sums are to be kept `apart`. Whether they were `sound`.
fn summed<T: Tiled>(
    problem: &Problem<'_, T>,
    team: &Team<'_>,
    (division, apart): (&Division, bool),
    work: &(impl Fn(&Turn<'_>, &Sink<'_, T>) -> Result<(), Error> + Sync),
    sound: &impl Fn() -> bool,
) -> Result<bool, Stopped> {
    let geometry = problem.geometry;
    let (taps, slices) = (geometry.kernel_taps(), division.slices);
    let images = if problem.per_sample { geometry.axes[0].output } else { 1 };
    let sink = Sink::new(problem)?;
    if slices == 1 && !apart {
        team.share(images * division.parts(geometry), |turn| work(turn, &sink))?;
        return Ok(sound());
    }
    let row = geometry.channels * taps;
    let outputs = geometry.groups * geometry.outputs;
    let len = (images * slices).saturating_mul(outputs * row);
    let mut partial = Workspace::new::<T>("the partial sums", len)?;
    let partial = &mut partial.elements_mut()[..len];
    let shape = [images * slices, outputs, row];
    {
        let partial = ViewMut::from_slice(partial, &shape);
        let sink = Sink::dense(&partial, geometry)?;
        team.share(images * slices * division.parts(geometry), |turn| work(turn, &sink))?;
    }
    if !sound() {
        return Ok(false);
    }
    team.share(images * outputs, |turn| {
        let mut sums = room("the partial sums", row)?;
        sums.resize(row, T::default());
        while let Some(item) = turn.next() {
            let (image, output) = (item / outputs, item % outputs);
            let of = |slice: usize| {
                let at = ((image * slices + slice) * outputs + output) * row;
                &partial[at..at + row]
            };
            tree(0..slices, &of, &mut sums)?;
            // SAFETY: each output is written by the one thread that took it.
            unsafe { sink.write((image, output), (0..geometry.channels, 0..taps), &sums) };
        }
        Ok(())
    })?;
    Ok(true)
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
    /// The input, where it is turned without a slab between.
    turned: Option<Planes<'a, T>>,
    gradient: Planes<'a, T>,
    layout: Layout,
    /// The offset of each tap in a plane of the slab.
    taps: Vec<isize>,
    /// Blocks on each axis.
    blocks: Vec<usize>,
    division: Division,
    shape: TileShape,
    /// The same of [`Form::Dot`].
    dots: Option<Dots>,
    /// Most positions of a block on each axis.
    lens: Vec<usize>,
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
    /// Of the results: those of a tile of [`Form::Dot`].
    tile: usize,
    sums: usize,
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
        let one = Geometry { channels: 1, ..problem.one() };
        let lens = match form {
            _ if one.positions() == 0 => vec![1; one.axes.len()],
            Form::Outer => block_lens(&one, OUTER_PLANE),
            Form::Dot => dot::lens(&one),
        };
        let (blocks, lens) = evened(&one, &lens);
        let layout = Layout::new(geometry, &lens, size_of::<T>())?;
        let taps = flat(&layout.offsets()?, geometry)?;
        let count = blocks.iter().product();
        let slices = slices(geometry, &one, count, problem.per_sample);

        let lanes = kernels.lanes;
        // Cycles of a position: products, and what is turned and staged for them.
        let cycles = |rows: usize, columns: usize, staged: usize| {
            let (_, tiles) = kernels.choose(rows, &[columns.div_ceil(lanes)], (usize::MAX, true));
            tiles + columns as f64 * TURNED + staged as f64 * STAGED_ELEMENT
        };
        let swapped = form == Form::Outer
            && taps.len() == 1
            && cycles(outputs, channels, 0) < 1.1 * cycles(channels, outputs, channels);
        let turned = Planes::of_input(geometry, problem.x).filter(|_| swapped);
        let unlimited = (usize::MAX, true);
        let dots = match form {
            Form::Outer => None,
            Form::Dot => Some(Dots::new(geometry, kernels, (&layout, &lens))?),
        };
        let (shape, unit) = match (form, swapped) {
            (Form::Dot, _) => (TileShape::default(), (1, 1)),
            (Form::Outer, false) => {
                let shape = kernels.choose(channels, &[outputs.div_ceil(lanes)], unlimited).0;
                (shape, (1, shape.columns * lanes))
            }
            (Form::Outer, true) => {
                let shape = kernels.choose(outputs, &[channels.div_ceil(lanes)], unlimited).0;
                (shape, (shape.columns * lanes, 1))
            }
        };
        let mut plan = Plan {
            problem,
            kernels,
            form,
            swapped,
            turned,
            gradient: Planes::of_gradient(problem.gradient),
            layout,
            taps,
            blocks,
            division: Division { cuts: (1, 1), unit, blocks: count, slices },
            shape,
            dots,
            lens,
            sizes: Sizes::default(),
            one,
        };
        plan.cut(threads);
        plan.sizes = plan.sizes();
        Ok(plan)
    }

    /// Cuts channels and outputs into parts: as many as a thread's memory asks for, and then as all
    /// threads need to have enough to do.
    fn cut(&mut self, threads: usize) {
        let geometry = self.problem.geometry;
        let (channels, outputs) = (geometry.channels, geometry.outputs);
        let least = |all: usize, plane: usize, are_columns: bool| {
            let most = if are_columns { STAGED_COLUMNS } else { STAGED };
            all.saturating_mul(plane).div_ceil(most).max(1)
        };
        // Rows that are read in place are not staged again for other columns.
        let (outer, staged) = (self.form == Form::Outer, self.rows_in_place().is_none());
        let positions = self.lens.iter().product::<usize>();
        let (most_channels, most_outputs) = match (self.form, self.swapped) {
            (Form::Dot, _) => (channels, 1),
            (Form::Outer, false) => {
                (channels.div_ceil(self.shape.rows), outputs.div_ceil(self.division.unit.1))
            }
            (Form::Outer, true) => {
                (channels.div_ceil(self.division.unit.0), outputs.div_ceil(self.shape.rows))
            }
        };
        let images = if self.problem.per_sample { geometry.axes[0].output } else { 1 };
        let targets = (geometry.groups * self.division.slices * images).max(1);
        let wanted = wanted_items(threads);
        let plane = if self.turned.is_some() { positions } else { self.layout.plane() };
        let mut cuts = (
            least(channels, plane, outer && self.swapped && staged),
            least(outputs, positions, outer && !self.swapped),
        );
        cuts.0 = cuts.0.max(wanted.div_ceil(targets * cuts.1)).min(most_channels);
        cuts.1 = cuts.1.max(wanted.div_ceil(targets * cuts.0)).min(most_outputs);
        self.division.cuts = cuts;
    }

    /// What a thread needs, for parts as large as they are.
    fn sizes(&self) -> Sizes {
        let geometry = self.problem.geometry;
        let (lanes, taps) = (self.kernels.lanes, self.taps.len());
        let Division { unit, cuts, .. } = self.division;
        let (channels, outputs) = (
            geometry.channels.div_ceil(unit.0).div_ceil(cuts.0) * unit.0,
            geometry.outputs.div_ceil(unit.1).div_ceil(cuts.1) * unit.1,
        );
        let positions = self.lens.iter().product::<usize>();
        let width = self.width();
        let tile = self.shape.rows * Strip::<T>::row_vectors(self.shape.columns) * lanes;
        let mut once = (STAGED / 2).max(tile * TAPS);
        let mut of_tile = 0;
        let (gradient, turned, results, sums) = match (&self.dots, self.swapped) {
            (Some(dots), _) => {
                let (sums, tile) = dots.room(taps, channels, outputs);
                // One chain needs no place between chains.
                let alone = dot::chains(&self.lens).count() == 1;
                (once, of_tile) = (if alone { tile } else { sums }, tile);
                let results = tile + dots.together() * channels * taps;
                (outputs * dots.planes.plane, 0, results, sums)
            }
            (None, false) => {
                let regions = channels.div_ceil(self.shape.rows) * outputs.div_ceil(width);
                let results = 2 * (self.shape.rows * TAPS).max(PACKED) * width;
                let sums = regions.saturating_mul(tile * taps);
                (outputs * positions, 0, results, sums)
            }
            (None, true) => {
                let regions = outputs.div_ceil(self.shape.rows) * channels.div_ceil(width);
                let sums = regions.saturating_mul(tile);
                let in_place = self.rows_in_place().is_some();
                let gradient =
                    if in_place { 0 } else { outputs * Surrounded::new(&self.lens, 0).plane };
                // Panels of the input are of whole tiles' columns.
                let turned = channels.next_multiple_of(width) * self.panel(positions);
                (gradient, turned, self.shape.rows.max(PACKED) * width, sums)
            }
        };
        let alone = self.division.blocks <= self.division.slices;
        let slab = match self.turned {
            Some(_) => 0,
            None => self.layout.size(channels, LANES) + LANES,
        };
        let sums = if alone { sums.min(once) } else { sums };
        // Each part starts at a whole line of a cache.
        let [gradient, turned, results] =
            [gradient, turned, results].map(|size| size.next_multiple_of(LANES));
        Sizes { slab, gradient, turned, results, tile: of_tile, sums }
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>, sink: &Sink<'_, T>) -> Result<(), Error> {
        let Sizes { slab, gradient, turned, results, sums, .. } = self.sizes;
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
                let item = self.division.item(self.problem.geometry, item);
                let last = item.blocks.end.saturating_sub(1);
                if item.blocks.is_empty() {
                    self.nothing(&item, sink)?;
                }
                for number in item.blocks.clone() {
                    let ends = (number == item.blocks.start, number == last);
                    self.stage(&item, number, (&mut room, &mut staged))?;
                    match &self.dots {
                        None => self.outer(turn, &item, (&staged, ends), &mut room, sink),
                        Some(dots) => {
                            self.dot(turn, (&item, dots), (&staged, ends), &mut room, sink)?;
                        }
                    }
                }
            }
            Ok(())
        })?
    }

    /// The sums of nothing, where the batch is empty.
    fn nothing(&self, item: &Item, sink: &Sink<'_, T>) -> Result<(), Error> {
        let (geometry, len) = (self.problem.geometry, item.channels.len() * self.taps.len());
        let mut zeros = room("the partial sums", len)?;
        zeros.resize(len, T::default());
        for output in 0..item.outputs.len() {
            item.put(geometry, output, (0..item.channels.len(), 0..self.taps.len()), &zeros, sink);
        }
        Ok(())
    }

    /// Where sums of some outputs and channels go, as an item counts them, if their vectors can be written
    /// there as they are.
    fn rows(
        &self,
        item: &Item,
        outputs: &Range<usize>,
        channels: &Range<usize>,
        sink: &Sink<'_, T>,
    ) -> Option<Rows<T>> {
        let first = item.group * self.problem.geometry.outputs + item.outputs.start;
        let outputs = first + outputs.start..first + outputs.end;
        let first = item.channels.start;
        let channels = first + channels.start..first + channels.end;
        sink.rows((item.target, outputs), channels)
    }
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
