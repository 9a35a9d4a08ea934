//! All taps of all channels as rows of one product.
//!
//! The gradient of the weights is a product of two matrices, `dw[m, r] = sum over p of g[m, p] * x[r, p]`, where a
//! row `r` is a channel as a tap sees it. Without a kernel (1x1) both operands are read where the caller has them;
//! else rows are copied from a slab, a block of positions at a time. There are two ways to sum ([`Way`]):
//!
//! - inner products: a step of a tile multiplies [`LANES`] neighbouring positions of some outputs with those of some
//!   rows, lane by lane, so nothing is turned, and each sum is added across its lanes once. That pays where there are
//!   few sums for the positions;
//! - a position a step, of outputs where the caller has them and of rows that are turned to `[position][row]`. That pays
//!   where a tap alone would have tiles of few rows, or few positions.
//!
//! [`cost`] decides.

mod blocks;
mod cost;
mod operand;

use std::ops::Range;

use super::division::{Division, Item};
use super::dot::finished;
use super::stage::whole;
use super::{CHAIN, LANES, Problem, Sink};
use crate::contract::wanted_items;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry};
use crate::memory::with_parts;
use crate::parallel::{Turn, even_parts};
use crate::tile::{
    ALL_ROWS, Contraction, Kernels, MAX_COLUMNS, Results, Segment, Step, Strip, Sum, TileShape,
    Tiled,
};
use crate::view::Memory;
use blocks::{Block, Blocks};
use operand::{Operand, Rows, Staged};

/// Elements of rows of an operand that a thread has, where they are not read in place.
const STAGED: usize = 384 << 10;

/// Whether each position sees one element of the input, and neighbours see neighbours.
fn is_plain(geometry: &Geometry) -> bool {
    let plain = |axis: &Axis| axis.kernel * axis.stride == 1 && axis.before <= 0 && axis.after <= 0;
    geometry.axes.iter().all(plain)
}

/// How products of rows are computed: what all threads share.
pub(super) struct Inner<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    input: Operand<'a, T>,
    gradient: Operand<'a, T>,
    /// Rows of the input for each channel.
    taps: usize,
    blocks: Blocks,
    way: Way,
    shape: TileShape,
    pub division: Division,
    sizes: Sizes,
}

/// What a step of a tile multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// [`LANES`] positions of outputs and of rows of the input, lane by lane.
    Across,
    /// A position of outputs with vectors of rows of the input, which are turned to `[position][row]` for that.
    Turned,
}

impl Way {
    /// Rows of the input that a tile of some shape has, of vectors of so many lanes.
    fn width(self, shape: TileShape, lanes: usize) -> usize {
        match self {
            Way::Across => shape.columns,
            Way::Turned => shape.columns * lanes,
        }
    }
}

/// Elements of each part of a thread's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    input: usize,
    slab: usize,
    gradient: usize,
    /// The input with [`Way::Turned`].
    panels: usize,
    tile: usize,
    totals: usize,
    results: usize,
}

/// Memory for sums.
struct Room<'a, T> {
    /// Those of one tile.
    tile: &'a mut [T],
    /// Sums between chains, a tile after the other.
    totals: &'a mut [T],
    /// `[output][row of the input]`
    results: &'a mut [T],
}

/// Chains that threads have had, by how they go through rows: those of whole vectors, and those of what is left.
type Sums = [Option<(Through, Sum)>; 2];

/// How a chain goes through both operands: elements from a row to the next, from an image to the next in both, images,
/// and vectors of each.
type Through = (isize, (isize, isize), (usize, usize));

impl<'a, T: Tiled> Inner<'a, T> {
    /// Where products of rows are preferred.
    pub fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Option<Self>, Error> {
        let geometry = problem.geometry;
        let one = problem.one();
        let way = if one.positions() == 0 { None } else { cost::preferred(&one) };
        let Some(way) = way else { return Ok(None) };
        let blocks = Blocks::new(&one);
        let input = Operand::of_input(problem, &blocks)?;
        let gradient = Operand::of_gradient(problem, &blocks, way == Way::Turned);
        let (channels, outputs, taps) =
            (geometry.channels, geometry.outputs, geometry.kernel_taps());
        let lanes = kernels.lanes;
        let shape = match way {
            Way::Across => cost::choose(&kernels.registers(), (outputs, channels * taps)).0,
            Way::Turned => {
                let vectors = (channels * taps).div_ceil(lanes);
                kernels.choose(outputs, &[vectors], (usize::MAX, true)).0
            }
        };
        let slices = blocks.slices(geometry, &one, problem.per_sample);
        let images = if problem.per_sample { geometry.axes[0].output } else { 1 };
        let targets = (geometry.groups * slices * images).max(1);
        let least = |operand: &Operand<'_, T>, channels: usize| {
            operand.need(channels).rows.div_ceil(STAGED).clamp(1, channels)
        };
        let mut cuts = (least(&input, channels), least(&gradient, outputs));
        // Parts of what there is more of, each of a tile's size at least; where the input is staged anew for each part
        // of the outputs, parts of it first, and of these no more than threads.
        let width = way.width(shape, lanes);
        let most = (channels.min(channels * taps / width), outputs / shape.rows);
        let more = |n: usize, other: usize, most: usize, wanted: usize| {
            n.max(wanted.div_ceil(targets).div_ceil(other).min(most))
        };
        let wanted = wanted_items(threads);
        let of_outputs = if input.in_place() { wanted } else { threads };
        if channels >= outputs || !input.in_place() {
            cuts.0 = more(cuts.0, cuts.1, most.0, wanted);
            cuts.1 = more(cuts.1, cuts.0, most.1, of_outputs);
        } else {
            cuts.1 = more(cuts.1, cuts.0, most.1, of_outputs);
            cuts.0 = more(cuts.0, cuts.1, most.0, wanted);
        }
        let division = Division { cuts, unit: (1, 1), blocks: blocks.count(), slices };
        let (channels, outputs) = (channels.div_ceil(cuts.0), outputs.div_ceil(cuts.1));
        let rows = channels * taps;
        // Whether a block is one chain, and elements of a column of a tile.
        let (alone, of_column) = match way {
            Way::Across => (blocks.kinds() != (true, true), LANES),
            Way::Turned => {
                let (lens, together) = blocks.most();
                let steps = lens.iter().product::<usize>() * together;
                (steps <= CHAIN, lanes)
            }
        };
        let tiles = rows.div_ceil(width);
        // Sums of one chain need no place between chains.
        let alone = alone && blocks.count() <= slices;
        let tiles_rows = if alone { shape.rows } else { outputs.saturating_mul(tiles) };
        let need = input.need(channels);
        let (tile, panels) = match way {
            Way::Across => (shape.rows * shape.columns * LANES, 0),
            Way::Turned => (0, tiles * self::panel(&blocks, width)),
        };
        let sizes = Sizes {
            input: need.rows,
            slab: need.slab,
            gradient: gradient.need(outputs).rows,
            panels,
            tile,
            totals: tiles_rows.saturating_mul(Strip::<T>::row_vectors(shape.columns) * of_column),
            results: (outputs * rows.next_multiple_of(width)).next_multiple_of(LANES),
        };
        Ok(Some(Inner {
            problem,
            kernels,
            input,
            gradient,
            taps,
            blocks,
            way,
            shape,
            division,
            sizes,
        }))
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>, sink: &Sink<'_, T>) -> Result<(), Error> {
        let geometry = self.problem.geometry;
        let Sizes { input, slab, gradient, panels, tile, totals, results } = self.sizes;
        let sizes = [input, slab, gradient, panels, tile, totals, results];
        with_parts(sizes, |parts: [&mut [T]; _]| {
            let [input, slab, gradient, panels, tile, totals, results] = parts;
            let mut room = Room { tile, totals, results };
            let (mut of_input, mut of_gradient) = (Staged::default(), Staged::default());
            let mut sums = Sums::default();
            while let Some(item) = turn.next() {
                let item = self.division.item(geometry, item);
                let image = if self.problem.per_sample { item.image } else { 0 };
                let of_group = |part: &Range<usize>, all: usize| {
                    let first = item.group * all;
                    first + part.start..first + part.end
                };
                let channels = of_group(&item.channels, geometry.channels);
                let outputs = of_group(&item.outputs, geometry.outputs);
                for number in item.blocks.clone() {
                    let block = self.blocks.nth(number);
                    let at = (number, &block);
                    let of = (channels.clone(), image);
                    let is_new = self.input.stage(of, at, (&mut *input, &mut *slab), &mut of_input);
                    let of = (outputs.clone(), image);
                    self.gradient.stage(of, at, (&mut *gradient, &mut []), &mut of_gradient);
                    let (first, last) =
                        (number == item.blocks.start, number + 1 == item.blocks.end);
                    if self.way == Way::Turned {
                        let rows = item.channels.len() * self.taps;
                        if is_new {
                            let b = self.input.whole((&channels, image), &block, input);
                            self.turn(rows, &block, &b, panels);
                        }
                        let a = self.gradient.whole((&outputs, image), &block, gradient);
                        let ends = (first, last);
                        if !self.turned(turn, &item, (&a, panels), (&block, ends), &mut room)? {
                            return Ok(());
                        }
                        continue;
                    }
                    let (vectors, left) = (block.vectors(), block.left());
                    if vectors > 0 {
                        let a = self.gradient.whole((&outputs, image), &block, gradient);
                        let b = self.input.whole((&channels, image), &block, input);
                        let size = (block.images.len(), vectors);
                        let ends = (first, last && left == 0);
                        let of = (&item, &mut sums[0]);
                        if !self.chain(turn, of, (&a, &b), (size, ends), &mut room)? {
                            return Ok(());
                        }
                    }
                    if left > 0 {
                        let a = self.gradient.left(&block, gradient);
                        let b = self.input.left(&block, input);
                        let size = (block.images.len(), 1);
                        let ends = (first && vectors == 0, last);
                        let of = (&item, &mut sums[1]);
                        if !self.chain(turn, of, (&a, &b), (size, ends), &mut room)? {
                            return Ok(());
                        }
                    }
                }
                let row = item.channels.len() * self.taps;
                let pitch = row.next_multiple_of(self.width());
                let all = (0..item.channels.len(), 0..self.taps);
                let results = room.results.chunks_exact(pitch.max(1));
                for (output, sums) in (0..item.outputs.len()).zip(results) {
                    item.put(geometry, output, all.clone(), &sums[..row], sink);
                }
            }
            Ok(())
        })?
    }

    /// Rows of the input that a tile has.
    fn width(&self) -> usize {
        self.way.width(self.shape, self.kernels.lanes)
    }

    /// Turns rows of the input to panels of `[position][row]`.
    fn turn(&self, rows: usize, block: &Block, from: &Rows<'_, T>, panels: &mut [T]) {
        let (width, len) = (self.width(), block.positions);
        let panels = panels.chunks_exact_mut(panel(&self.blocks, width));
        for (first, panel) in (0..rows).step_by(width).zip(panels) {
            let size = (width.min(rows - first), len);
            for (i, to) in (0..block.images.len()).zip(panel.chunks_mut(len * width)) {
                let at = from.first + first as isize * from.row + i as isize * from.image;
                self.kernels.transposed((&from.memory, at, from.row), size, (to, width));
            }
        }
    }

    /// Adds a block to all sums of an item, a position a step. False where the call is to stop.
    fn turned(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        (a, panels): (&Rows<'_, T>, &[T]),
        (block, (first, last)): (&Block, (bool, bool)),
        room: &mut Room<'_, T>,
    ) -> Result<bool, Error> {
        let (lanes, width, len) = (self.kernels.lanes, self.width(), block.positions);
        let steps = steps_through((block.images.len(), len), (a.image, width))?;
        let sum = whole(steps, a.row);
        let contraction = Contraction { a: a.memory.clone(), b: Memory::of(panels), sum: &sum };
        let rows = item.channels.len() * self.taps;
        let pitch = rows.next_multiple_of(width);
        let panel = panel(&self.blocks, width);
        let (mut region, chains) = (0, sum.chains());
        for (number, column) in (0..rows).step_by(width).enumerate() {
            let vectors = width.min(rows - column).div_ceil(lanes);
            let from: [isize; MAX_COLUMNS] =
                std::array::from_fn(|v| (number * panel + v * lanes) as isize);
            // A chain after the other, so that its part of the columns stays in the first-level cache.
            let begin = region;
            for chain in 0..chains {
                let ends = (first && chain == 0, last && chain + 1 == chains);
                region = begin;
                for outputs in even_parts(0..item.outputs.len(), self.shape.rows) {
                    let size = (outputs.len(), vectors);
                    if !turn.goes_on(CHAIN.min(sum.steps.len()) * size.0 * size.1) {
                        return Ok(false);
                    }
                    let size_of = size.0 * Strip::<T>::row_vectors(vectors) * lanes;
                    let to = ends.1.then(|| {
                        let results = &mut room.results[outputs.start * pitch + column..];
                        Results::of(results, (pitch, lanes), size, lanes)
                    });
                    contraction.total(
                        (self.kernels, chain),
                        (a.first + outputs.start as isize * a.row, size.0),
                        &from[..vectors],
                        (&mut room.totals[region..region + size_of], to),
                        (ends.0, false),
                    );
                    region += if ends.0 && ends.1 { 0 } else { size_of };
                }
            }
        }
        Ok(true)
    }

    /// Adds a chain of so many images and vectors of each to all sums of an item, which it may begin or
    /// finish. False where the call is to stop.
    fn chain(
        &self,
        turn: &Turn<'_>,
        (item, sum): (&Item, &mut Option<(Through, Sum)>),
        (a, b): (&Rows<'_, T>, &Rows<'_, T>),
        (size, (first, last)): ((usize, usize), (bool, bool)),
        room: &mut Room<'_, T>,
    ) -> Result<bool, Error> {
        let lanes = self.kernels.lanes;
        let through = (a.row, (a.image, b.image), size);
        let sum = match sum {
            Some((had, sum)) if *had == through => sum,
            _ => &mut sum.insert((through, chain_through(through)?)).1,
        };
        let contraction = Contraction { a: a.memory.clone(), b: b.memory.clone(), sum };
        let rows = item.channels.len() * self.taps;
        let pitch = rows.next_multiple_of(self.width());
        let mut region = 0;
        // Some columns stay in the first-level cache while outputs go by.
        for columns in even_parts(0..rows, self.shape.columns) {
            let from: [isize; MAX_COLUMNS] =
                std::array::from_fn(|v| b.first + (columns.start + v) as isize * b.row);
            for outputs in even_parts(0..item.outputs.len(), self.shape.rows) {
                let size = (outputs.len(), columns.len());
                if !turn.goes_on(sum.steps.len() * size.0 * size.1) {
                    return Ok(false);
                }
                for lane in (0..LANES).step_by(lanes) {
                    let len = size.0 * Strip::<T>::row_vectors(size.1) * lanes;
                    let steps = (size.1 * LANES, LANES);
                    let to = last.then(|| Results::of(&mut room.tile[lane..], steps, size, lanes));
                    let at = a.first + outputs.start as isize * a.row + lane as isize;
                    contraction.total(
                        (self.kernels, 0),
                        (at, size.0),
                        &from.map(|from| from + lane as isize)[..size.1],
                        (&mut room.totals[region..region + len], to),
                        (first, true),
                    );
                    region += if first && last { 0 } else { len };
                }
                if last {
                    for (output, sums) in outputs.zip(room.tile.chunks_exact(size.1 * LANES)) {
                        let to = &mut room.results[output * pitch..][columns.clone()];
                        for (to, sums) in to.iter_mut().zip(sums.chunks_exact(LANES)) {
                            *to = finished(sums);
                        }
                    }
                }
            }
        }
        Ok(true)
    }
}

/// Steps through positions of images that lie so far apart in A, and in B one behind the other.
fn steps_through(
    (images, len): (usize, usize),
    (of_image, width): (isize, usize),
) -> Result<Vec<Step>, Error> {
    let mut steps = room("the table of positions", images * len)?;
    for image in 0..images {
        let a = image as isize * of_image;
        let b = (image * len * width) as isize;
        steps.extend((0..len as isize).map(|p| Step { a: a + p, b: b + p * width as isize }));
    }
    Ok(steps)
}

/// Elements of a panel of so many rows of the input.
fn panel(blocks: &Blocks, width: usize) -> usize {
    let (lens, together) = blocks.most();
    (lens.iter().product::<usize>() * together * width).next_multiple_of(LANES)
}

/// The sum over vectors that follow each other in each image.
fn chain_through((row, of_image, (images, vectors)): Through) -> Result<Sum, Error> {
    let mut sum = Sum::new(row, None, (1, Step::default()));
    sum.steps = room("the table of positions", images * vectors)?;
    sum.steps.extend((0..images as isize).flat_map(|image| {
        (0..vectors as isize).map(move |v| {
            let at = v * LANES as isize;
            Step { a: image * of_image.0 + at, b: image * of_image.1 + at }
        })
    }));
    sum.segments.push(Segment { steps: 0..sum.steps.len(), rows: ALL_ROWS });
    sum.push(0);
    Ok(sum)
}
