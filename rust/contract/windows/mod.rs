//! Depthwise convolution with small kernels: windows that slide down a plane.
//!
//! Each of a group's output channels is computed from its plane, or from a block of rows, one strip of a few
//! vectors after the other from the top down: see [`Slide`]. So memory is read once and written once, in order.
//! Planes are read where they lie (`place.rs`), or staged as far as the second-level cache holds them, where
//! padding is no zeros, elements are no neighbours or others, or the kernel is no square.
//!
//! Vectors are of positions, where those are neighbours in the result: the last one of a row ends where
//! the row ends and repeats some of the one before it, so that all go to the result as they are. Where
//! channels are neighbours, vectors are of channels, and so is each element of the slab. Results of other
//! numbers or strides are set aside, a plane of a block at a time, and converted as they are written.

mod place;

use super::Problem;
use super::split::{block_lens, nth_block, wanted_items};
use crate::error::Error;
use crate::geometry::{Geometry, gcd};
use crate::memory::with_scratch;
use crate::offer::Description;
use crate::parallel::{Turn, even_parts};
use crate::slab::{Block, Layout};
use crate::tile::{
    Ahead, Bias, CHAIN, Column, Finish, Kernels, MOST_STRIDE, MOST_VECTORS, Slide, Slides, Sliding,
    Tiled,
};
use crate::view::{Gather, Memory, Runs, ViewMut};

use place::InPlace;

/// Bytes of a slab, so that it stays in the second-level cache beside the rows of the result.
const SLAB_BYTES: usize = 128 << 10;

/// Bytes of a block that is read where it lies, so that what strips share stays in the second-level cache.
const PLACE_BYTES: usize = 512 << 10;

/// Rows that a block has at least where blocks are made smaller for more threads.
const LEAST_ROWS: usize = 8;

/// Most output channels to a group: with more, tiles that have them as rows read their input once for all.
pub(super) const MOST_OUTPUTS: usize = 7;

/// A depthwise convolution, as all threads share it.
pub(super) struct Windows<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    slides: &'static Slides<T>,
    source: Source<'a, T>,
    /// The weights, and where those of an output channel lie in them, column by column.
    weights: Memory<'a, T>,
    taps: Gather,
    /// Elements of a cell: one, or a vector of channels.
    cell: usize,
    /// Elements of a plane of results that is set aside; 0 where they go to the result at once.
    aside: usize,
    /// Blocks on each axis.
    blocks: Vec<usize>,
    /// Rows of outputs that are computed apart, since no input row belongs to windows of two of them.
    phases: usize,
}

/// Where windows read.
enum Source<'a, T> {
    InPlace(InPlace<'a, T>),
    Slab(Slab),
}

/// A slab of cells.
struct Slab {
    layout: Layout,
    /// Elements between neighbouring rows of outputs.
    pitch: isize,
    /// Where the taps of the first column of a kernel lie, and those of its first row.
    rows: Vec<isize>,
    taps: Vec<isize>,
}

impl<'a, T: Tiled> Windows<'a, T> {
    /// Of a problem, if it is one of those for which there are functions.
    pub fn new(
        problem: &'a Problem<'a, T>,
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Option<Self>, Error> {
        let Problem { geometry, store, .. } = problem;
        let (lanes, size) = (kernels.lanes, size_of::<T>() as isize);
        let Some((stride, phases)) = steps(geometry) else { return Ok(None) };
        let [.., along, row] = geometry.axes.as_slice() else { unreachable!("windows have rows") };
        let Some(slides) = kernels.slides(along.kernel, stride) else { return Ok(None) };
        let neighbours = store.is_direct() && store.step() == size;
        let fits = row.output >= lanes;
        let apart = store.out.strides()[0] == size && geometry.outputs == 1;
        let place = if neighbours && row.output >= narrowest(lanes) {
            InPlace::new(problem, slides, lanes)
        } else {
            None
        };
        let (cell, aside) = match place {
            Some(_) => (1, false),
            None if fits && neighbours => (1, false),
            None if store.is_direct() && apart && geometry.groups >= lanes => (lanes, false),
            None if fits => (1, true),
            None => return Ok(None),
        };
        let bytes = if place.is_some() { PLACE_BYTES } else { SLAB_BYTES };
        // Of channels that are neighbours too: blocks that the second-level cache holds in all channels had so
        // few rows of many of them that 7x7 on 256 channels of 112 x 112 took four times as long.
        let lens = lens(geometry, bytes / (cell * size_of::<T>()), threads);
        let aside = if aside { lens[lens.len() - 2..].iter().product() } else { 0 };
        let source = match place {
            Some(place) => Source::InPlace(place),
            None => match Slab::new(geometry, (&lens, stride, phases), (cell, size_of::<T>()))? {
                Some(slab) => Source::Slab(slab),
                None => return Ok(None),
            },
        };
        let blocks = geometry.axes.iter().zip(&lens).map(|(a, &len)| a.output.div_ceil(len));
        let blocks = blocks.collect();
        let (weights, of_axis) = (problem.weights.memory(), problem.weights.taps()?.axes);
        let [.., of_rows, of_columns] = of_axis.as_slice() else {
            unreachable!("windows have rows")
        };
        let taps = of_columns.iter().flat_map(|x| of_rows.iter().map(move |y| x + y)).collect();
        let taps = Gather::new(taps);
        Ok(Some(Windows {
            problem,
            kernels,
            slides,
            source,
            weights,
            taps,
            cell,
            aside,
            blocks,
            phases,
        }))
    }

    /// How the convolution is computed.
    pub fn describe(&self, threads: usize) -> Description {
        let blocks = self.problem.geometry.axes.iter().zip(&self.blocks);
        let lanes = self.kernels.lanes;
        let columns = match self.source {
            Source::InPlace(_) => self.slides.in_place.len(),
            Source::Slab(_) => self.columns().len(),
        };
        let vectors = if self.cell == 1 { "positions" } else { "channels" };
        Description {
            workspace: self.scratch() * threads * size_of::<T>(),
            tile: Some((self.slides.kernel.div_ceil(self.slides.stride), columns * lanes)),
            roles: Some(("neighbouring outputs", vectors)),
            block: blocks.map(|(axis, &n)| axis.output.div_ceil(n)).collect(),
            ..Description::default()
        }
    }

    /// The functions for 1, 2, 3... vectors.
    fn columns(&self) -> &'static [Sliding<T>] {
        let Slides { positions, channels, .. } = self.slides;
        if self.cell == 1 { positions } else { channels }
    }

    /// Elements of weights, of results, and of a slab, which each thread needs.
    fn scratch(&self) -> usize {
        match &self.source {
            Source::InPlace(place) => place.weights(),
            Source::Slab(slab) => {
                self.cell * (CHAIN + slab.layout.size(1, self.kernels.lanes)) + self.aside
            }
        }
    }

    /// A cell of a block each.
    pub fn items(&self) -> usize {
        self.cells() * self.blocks.iter().product::<usize>()
    }

    /// Groups, or as many as a cell holds, of which the last one may hold more; or output channels that slide
    /// together.
    fn cells(&self) -> usize {
        let Geometry { groups, outputs, .. } = self.problem.geometry;
        match &self.source {
            Source::InPlace(place) => (groups * outputs).div_ceil(place.together),
            Source::Slab(_) => groups / self.cell,
        }
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        with_scratch(self.scratch(), |scratch: &mut [T]| match &self.source {
            Source::InPlace(place) => self.work_in_place(turn, place, scratch),
            Source::Slab(slab) => {
                let (weights, scratch) = scratch.split_at_mut(CHAIN * self.cell);
                let (aside, staged) = scratch.split_at_mut(self.aside);
                self.work_staged(turn, slab, &mut Desk { weights, staged, aside });
            }
        })
    }

    fn work_staged(&self, turn: &Turn<'_>, slab: &Slab, desk: &mut Desk<'_, T>) {
        let Problem { geometry, x, .. } = self.problem;
        let (mut block, mut runs) = (Block::default(), Runs::default());
        // Taken one ahead, as its input is asked for meanwhile.
        let mut taken = turn.next();
        while let Some(item) = taken {
            taken = turn.next();
            let (cell, now) = self.item(item);
            let fresh = now != block;
            if fresh {
                runs = slab.layout.runs(&now, &x.strides()[1..]);
                block = now;
            }
            let next = taken.map(|item| self.item(item));
            let next = next.as_ref().map_or((cell, &block), |(cell, block)| (*cell, block));
            let ahead = self.input(next);
            let mut group =
                |group, runs: &Runs| self.group((group, slab), (&block, runs, ahead), desk);
            let mut done = group(cell * self.cell, &runs);
            if fresh {
                runs.drop_padding();
            }
            // Groups that fill no cell of their own are in one that begins earlier.
            let last = geometry.groups - self.cell;
            if cell + 1 == self.cells() && cell * self.cell < last {
                done += group(last, &runs);
            }
            if !turn.goes_on(done) {
                return;
            }
        }
    }

    /// The cell and the block of an item.
    fn item(&self, item: usize) -> (usize, Block) {
        let (part, cell) = (item / self.cells(), item % self.cells());
        (cell, self.block(part))
    }

    fn block(&self, part: usize) -> Block {
        nth_block(self.problem.geometry, &self.blocks, part).1
    }

    /// About where the input of a cell's block begins.
    fn input(&self, (cell, block): (usize, &Block)) -> *const u8 {
        let Problem { geometry, x, .. } = self.problem;
        let axes = block.0.iter().zip(&geometry.axes).zip(&x.strides()[1..]);
        let within =
            axes.map(|((range, axis), stride)| (range.start * axis.stride) as isize * stride);
        x.hint((cell * self.cell) as isize * x.strides()[0] + within.sum::<isize>())
    }

    /// Stages and computes a group, or those of a cell. Returns how many vector operations it took.
    fn group(
        &self,
        (group, slab): (usize, &Slab),
        (block, runs, ahead): (&Block, &Runs, *const u8),
        desk: &mut Desk<'_, T>,
    ) -> usize {
        let Problem { geometry, x, padding, .. } = self.problem;
        if self.cell == 1 {
            slab.layout.stage((runs, group..group + 1), x, *padding, desk.staged);
        } else {
            slab.layout.stage_cells((runs, group, self.cell), x, *padding, desk.staged);
        }
        let outputs = group * geometry.outputs..(group + 1) * geometry.outputs;
        let output = |output| {
            self.read_weights(output, desk.weights);
            self.output((output, slab), (block, ahead), desk)
        };
        outputs.map(output).sum()
    }

    /// The weights of an output channel or of a cell of them, column by column.
    fn read_weights(&self, output: usize, to: &mut [T]) {
        let weights = &self.problem.weights;
        for lane in 0..self.cell {
            let of_lane = to[lane..].iter_mut().step_by(self.cell);
            let values = self.taps.read(&self.weights, weights.output(output + lane));
            of_lane.zip(values).for_each(|(to, value)| *to = value);
        }
    }

    /// Computes an output channel of a block from its slab, or those of a cell.
    fn output(
        &self,
        (output, slab): (usize, &Slab),
        (block, ahead): (&Block, *const u8),
        desk: &mut Desk<'_, T>,
    ) -> usize {
        let Problem { store, x, .. } = self.problem;
        let [.., ahead_row, ahead_column] = *x.strides() else { unreachable!("see above") };
        let (lanes, size) = (self.kernels.lanes, size_of::<T>() as isize);
        let [.., height, width] = block.0.as_slice() else { unreachable!("windows have rows") };
        let [channel, ref between @ ..] = *store.out.strides() else { unreachable!("see above") };
        let [.., row, column] = *between else { unreachable!("see above") };
        let to = output as isize * channel + block.start(between);
        let result = (to, row, column);
        // A plane that is set aside begins where it does, and has its rows one after the other.
        let (to, row, column) = match self.aside {
            0 => result,
            _ => (0, width.len() as isize * size, size),
        };
        let plane = ViewMut::from_slice(&mut *desk.aside, &[self.aside]);
        let (row_out, row_in) = (row * self.phases as isize, slab.pitch * self.phases as isize);
        let reach = |offsets: &[isize]| *offsets.iter().max().expect("kernels have taps");
        let window = reach(&slab.rows) + reach(&slab.taps) + lanes as isize - 1;
        let mut rows = [0; MOST_STRIDE];
        rows.iter_mut().zip(&slab.rows).for_each(|(to, from)| *to = *from);
        // Positions from one vector to the next, and the last that one may start at.
        let (pace, last) =
            if self.cell == 1 { (lanes, width.len() - lanes) } else { (1, width.len()) };
        let table = self.columns();
        let vectors = width.len().div_ceil(pace);
        for strip in even_parts(0..vectors, table.len().min(MOST_VECTORS)) {
            let mut list = [Column::default(); MOST_VECTORS];
            let columns = &mut list[..strip.len()];
            let mut ahead_columns = [0; MOST_VECTORS];
            for (i, v) in strip.enumerate() {
                let at = (v * pace).min(last) as isize;
                columns[i] = Column { from: at * self.cell as isize, to: at * column };
                ahead_columns[i] = (at * ahead_column)
                    * self.problem.geometry.axes[self.blocks.len() - 1].stride as isize;
            }
            let ends = [columns[0].to, columns[columns.len() - 1].to];
            let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]) + lanes as isize * size);
            for phase in 0..self.phases.min(height.len()) {
                let outputs = (height.len() - phase).div_ceil(self.phases);
                let last = (outputs - 1) as isize;
                let first = phase as isize * slab.pitch;
                let reach = last * row_in + columns[columns.len() - 1].from + window;
                let from = Memory::of(desk.staged).at(first, 0, reach);
                let below = last * row_out;
                let first = to + phase as isize * row;
                let out = if self.aside > 0 { &plane } else { &store.out };
                let out = out.at(first, low + below.min(0), high + below.max(0));
                let slide = Slide {
                    b: from,
                    rows,
                    pitch: row_in,
                    taps: &slab.taps,
                    weights: desk.weights,
                    columns,
                    outputs,
                    out,
                    out_row: row_out,
                    finish: self.finish(output),
                    ahead: Ahead {
                        first: ahead.wrapping_offset(phase as isize * ahead_row),
                        row: ahead_row * self.phases as isize,
                        columns: ahead_columns,
                    },
                };
                // SAFETY: the table is only reached through `kernels_of`, which checked the CPU; offsets
                // of a layout are not negative, so the first `at` checked every address that is read, and
                // the second every one that is written, by this thread alone, since each item has results
                // of its own; `read_weights` read weights for all taps.
                unsafe { table[columns.len() - 1](&slide) }
            }
        }
        if self.aside > 0 {
            let (to, row, column) = result;
            let plane = &desk.aside[..height.len() * width.len()];
            // Rows that go on where the one before ends are as one.
            let joined = row == column * width.len() as isize;
            let run = if joined { plane.len() } else { width.len() };
            for (i, values) in plane.chunks_exact(run).enumerate() {
                // SAFETY: each item has results of its own, and one thread takes it.
                unsafe { store.run(to + i as isize * row, column, values) }
            }
        }
        vectors * height.len() * slab.rows.len() * slab.taps.len()
    }

    /// What is done to the sums of an output channel, or of a cell of them.
    fn finish(&self, output: usize) -> Finish<T> {
        let store = self.problem.store;
        match store.bias {
            bias if self.cell > 1 && !bias.is_empty() => {
                let bias = &bias[output..output + self.cell];
                Finish { bias: Bias::Lanes(bias.as_ptr()), clip: store.clip() }
            }
            _ => store.finish(output, 1, false),
        }
    }
}

/// What a thread works in.
struct Desk<'a, T> {
    weights: &'a mut [T],
    staged: &'a mut [T],
    aside: &'a mut [T],
}

impl Slab {
    /// Of cells for blocks of `lens` outputs. Windows whose rows are so far apart that they are not in step with
    /// the slab's have none.
    fn new(
        geometry: &Geometry,
        (lens, stride, phases): (&[usize], usize, usize),
        (cell, element): (usize, usize),
    ) -> Result<Option<Self>, Error> {
        let layout = Layout::new(geometry, lens, cell * element)?;
        let axis = geometry.axes.len() - 2;
        let cells = |at: isize| at * cell as isize;
        let pitch = cells(layout.pitches()[axis]);
        let mut offsets = layout.offsets()?;
        let mut of_axis = |axis| offsets.swap_remove(axis).into_iter().map(cells).collect();
        let (taps, rows): (Vec<isize>, Vec<isize>) = (of_axis(axis + 1), of_axis(axis));
        // Rows that no window reads may be left out between those that some do.
        let even = |(y, &at): (usize, &isize)| {
            at == rows[y % stride] + (y / stride * phases) as isize * pitch
        };
        let even = rows.iter().enumerate().all(even);
        Ok(even.then_some(Slab { layout, pitch, rows, taps }))
    }
}

/// By how many rows the windows of one column of outputs go on, and in how many phases that share no row; `None`
/// where sums are not of one channel's windows of rows, for few outputs.
pub(super) fn steps(geometry: &Geometry) -> Option<(usize, usize)> {
    let [outer @ .., along, row] = geometry.axes.as_slice() else { return None };
    let step = gcd(along.stride, along.dilation);
    let few = geometry.channels == 1
        && (1..=MOST_OUTPUTS).contains(&geometry.outputs)
        && !outer.is_empty()
        && outer.iter().all(|axis| axis.kernel == 1)
        && along.kernel.saturating_mul(row.kernel) <= CHAIN;
    few.then_some((along.stride / step, along.dilation / step))
}

/// The shortest rows of outputs that slide, of which shorter ones were not timed: 5 of 16 lanes take a quarter of the
/// time that tiles of neighbouring outputs do (Sapphire Rapids).
pub(super) fn narrowest(lanes: usize) -> usize {
    lanes / 4
}

/// How many outputs a block of so many cells has on each axis.
fn lens(geometry: &Geometry, cells: usize, threads: usize) -> Vec<usize> {
    let mut plane = geometry.clone();
    let along = plane.axes.len() - 2;
    plane.axes[..along].iter_mut().for_each(|axis| axis.output = 1);
    let mut lens = block_lens(&plane, cells);
    let planes: usize = geometry.axes[..along].iter().map(|axis| axis.output).product();
    let items = |lens: &[usize]| -> usize {
        let blocks = geometry.axes.iter().zip(lens).skip(along);
        blocks.map(|(a, &len)| a.output.div_ceil(len)).product::<usize>() * planes * geometry.groups
    };
    while items(&lens) < wanted_items(threads) && lens[along] > LEAST_ROWS {
        lens[along] = lens[along].div_ceil(2);
    }
    lens
}
