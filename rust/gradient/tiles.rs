//! The gradient of weights by transforms of tiles, for kernels of three taps: the adjoint of Winograd's F(2,3).
//!
//! Each tile of outputs has gradients `g` and the inputs `d` that its windows hold. Both are transformed to points
//! ([`Transforms`]); at each point the products of channels and output channels are summed over all tiles, by
//! the same tile kernel as all else: rows are channels, columns vectors of output channels, steps tiles. Only the
//! sums are transformed to taps. That takes 4 products where the plain sum takes 6, on each axis.
//!
//! The input's side is staged as for a convolution with as many taps as a tile has points and a stride of as many
//! positions as it has outputs; so padding, batches and layouts are the slab's business.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stage::{Padded, Planes, positions, turned, whole};
use super::{CHAIN, Division, Item, LANES, PACKED, Problem, Sink, flat};
use crate::contract::{block_lens, nth_block, wanted_items};
use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::memory::with_parts;
use crate::offer::Declined;
use crate::parallel::{Turn, even_parts};
use crate::slab::{Block, Layout};
use crate::tile::{Contraction, Kernels, MAX_COLUMNS, Results, Strip, Sum, TileShape, Tiled};
use crate::view::{Memory, advance, contiguous};
use crate::winograd::{Form, Place, Transforms, is_able};

/// Values of a channel in a block at all points, about. The sums depend on it.
pub(super) const VALUES: usize = 4096;

/// Values of all channels, or of all outputs, that a thread has at once: few megabytes, since others are staged again
/// for these.
const STAGED: usize = 1 << 20;

/// Sums of a panel of columns and some rows, at all points: they are transformed while the second-level cache
/// has them.
const SUMS: usize = 64 << 10;

/// Values of these rows, which the second-level cache keeps for all columns.
const ROWS: usize = 280 << 10;

/// Elements of the planes that are staged one after the other before the first is transformed: vectors that are
/// read as soon as parts of them were stored wait for these stores.
const PLANES: usize = 2048;
const MOST_PLANES: usize = 8;

/// Most axes that are transformed.
const MOST_AXES: usize = 3;

/// Blocks of a slice of the sum at least, about: each slice is transformed, written and added by itself.
pub(super) const SLICE: usize = 2;

/// The transform of each axis that has one, or why there is none.
pub(super) fn forms(geometry: &Geometry) -> Result<Vec<Option<Form>>, Declined> {
    let of = |axis: &Axis| (is_able(axis) && axis.dilation == 1).then_some(Form::Two);
    let forms: Vec<Option<Form>> = geometry.axes.iter().map(of).collect();
    let fits = |(axis, form): (&Axis, &Option<Form>)| form.is_some() || axis.kernel == 1;
    let count = forms.iter().flatten().count();
    if count == 0 || count > MOST_AXES || !geometry.axes.iter().zip(&forms).all(fits) {
        return Err(Declined::Cannot(
            "it is transformed along one to three axes with a kernel of 3, a stride and a dilation of 1, and several \
             outputs, and other axes must have a kernel of 1"
                .into(),
        ));
    }
    Ok(forms)
}

/// How a gradient is computed: what all threads share.
pub(super) struct Tiles<'a, T: Tiled> {
    problem: &'a Problem<'a, T>,
    kernels: &'a Kernels<T>,
    transforms: Transforms<T>,
    gradient: Planes<'a, T>,
    /// Outputs of a tile on each axis.
    outputs: Vec<usize>,
    /// The geometry whose positions are tiles, and whose taps are the elements of one: of one image, if each
    /// has a gradient of its own.
    one: Geometry,
    layout: Layout,
    /// Where the elements of a tile lie in a plane.
    offsets: Vec<isize>,
    /// Blocks on each axis.
    blocks: Vec<usize>,
    shape: TileShape,
    pub division: Division,
    sizes: Sizes,
    /// Whether some sum is not finite.
    odd: AtomicBool,
}

/// Elements of each part of a thread's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    /// Planes that are staged at once.
    planes: usize,
    slab: usize,
    /// Values of a channel at a point, of all at a point, and of all.
    value: usize,
    point: usize,
    values: usize,
    /// The gradient as `[position][output]`, a panel of it; one that is transformed at a point; and all.
    packed: usize,
    panel: usize,
    spread: usize,
    aside: usize,
    /// Groups of rows whose sums are finished together, and these sums; those of taps, which are turned.
    together: usize,
    results: usize,
    gathered: usize,
    /// Sums of a tile between blocks, and all.
    total: usize,
    totals: usize,
}

/// A thread's memory.
struct Room<'a, T> {
    slab: &'a mut [T],
    values: &'a mut [T],
    packed: &'a mut [T],
    spread: &'a mut [T],
    aside: &'a mut [T],
    results: &'a mut [T],
    gathered: &'a mut [T],
    turned: &'a mut [T],
    totals: &'a mut [T],
}

/// What a thread has staged.
#[derive(Default)]
struct Staged {
    /// Which image or all, and which block.
    block_of: Option<(usize, usize)>,
    /// Tiles on each axis, the vectors of them in a plane, and their sum.
    lens: Vec<usize>,
    places: Vec<Place>,
    sum: Sum,
    /// Positions, and how many of them on each axis; where tiles have theirs.
    block: Block,
    held: Vec<usize>,
    of_tiles: Vec<isize>,
    /// The first image, and the tiles as they are from there on; how planes are read.
    image: usize,
    of_first: Block,
    of_input: Option<Padded>,
    /// Group and channels, and group and outputs.
    input: Option<(usize, Range<usize>)>,
    gradient: Option<(usize, Range<usize>)>,
}

impl<'a, T: Tiled> Tiles<'a, T> {
    pub fn new(
        problem: &'a Problem<'a, T>,
        forms: &[Option<Form>],
        kernels: &'a Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let lanes = kernels.lanes;
        let mut one = Geometry { channels: 1, ..problem.one() };
        let outputs: Vec<usize> = forms.iter().map(|form| form.map_or(1, Form::outputs)).collect();
        for ((axis, form), outputs) in one.axes.iter_mut().zip(forms).zip(&outputs) {
            if let Some(form) = form {
                axis.output = axis.output.div_ceil(*outputs);
                (axis.kernel, axis.stride) = (form.points(), *outputs);
            }
        }
        let transforms = Transforms::new(kernels.isa, forms.iter().flatten().copied().collect());
        let Transforms { points, .. } = transforms;
        let lens = block_lens(&one, VALUES / points * transforms.outputs);
        let (blocks, lens) = super::division::evened(&one, &lens);
        let layout = Layout::new(&one, &lens, size_of::<T>())?;
        let offsets = flat(&layout.offsets()?, &one)?;
        let vectors = geometry.outputs.div_ceil(lanes);
        let (shape, _) = kernels.choose(geometry.channels, &[vectors], (usize::MAX, true));
        let count = blocks.iter().product::<usize>();
        let division = Division {
            cuts: (1, 1),
            unit: (1, shape.columns * lanes),
            slices: super::division::slices(geometry, &one, count / SLICE, problem.per_sample),
            blocks: count,
        };
        let mut tiles = Tiles {
            problem,
            kernels,
            transforms,
            gradient: Planes::of_gradient(problem.gradient),
            outputs,
            one,
            layout,
            offsets,
            blocks,
            shape,
            division,
            sizes: Sizes::default(),
            odd: AtomicBool::new(false),
        };
        tiles.cut(&lens, threads);
        Ok(tiles)
    }

    /// Cuts channels and outputs into parts, and sizes a thread's memory for these.
    fn cut(&mut self, lens: &[usize], threads: usize) {
        let geometry = self.problem.geometry;
        let (shape, width) = (self.shape, self.width());
        let Transforms { points, outputs, taps, .. } = self.transforms;
        let tiles = lens.iter().product::<usize>();
        let odd_lines = |n: usize| (n.div_ceil(LANES) | 1) * LANES;
        let last = lens.iter().zip(self.layout.pitches()).map(|(&n, p)| (n - 1) as isize * p);
        let value = odd_lines(last.sum::<isize>() as usize + 1);

        let (channels, panels) = (geometry.channels, geometry.outputs.div_ceil(width));
        let images = if self.problem.per_sample { geometry.axes[0].output } else { 1 };
        let targets = (geometry.groups * self.division.slices * images).max(1);
        let wanted = wanted_items(threads);
        let least = |all: usize, most: usize| all.saturating_mul(points).div_ceil(most).max(1);
        let mut cuts = (
            least(channels * value, STAGED).min(channels),
            least(geometry.outputs * tiles, STAGED).min(panels),
        );
        cuts.0 = cuts.0.max(wanted.div_ceil(targets * cuts.1)).min(channels.div_ceil(shape.rows));
        cuts.1 = cuts.1.max(wanted.div_ceil(targets * cuts.0)).min(panels);
        self.division.cuts = cuts;

        let (channels, panels) = (channels.div_ceil(cuts.0), panels.div_ceil(cuts.1));
        let panel = odd_lines(tiles * width);
        let row = points * width;
        let plane = self.layout.plane();
        let planes = (PLANES / plane.max(1)).clamp(1, MOST_PLANES).min(channels);
        let groups = channels.div_ceil(shape.rows);
        let of_group = shape.rows * points * value;
        let together = (SUMS / (shape.rows * row)).min(ROWS / of_group).clamp(1, groups);
        let total = shape.rows * Strip::<T>::row_vectors(shape.columns) * self.kernels.lanes;
        let alone = self.division.blocks <= self.division.slices;
        let kept = if alone { together } else { groups * panels };
        let gathered = (shape.rows * taps * width).next_multiple_of(LANES);
        let point = odd_lines(channels * value);
        self.sizes = Sizes {
            planes,
            slab: self.layout.size(planes, 2 * LANES).next_multiple_of(LANES),
            value,
            point,
            values: points * point,
            packed: (tiles * outputs + 1) * width,
            panel,
            spread: panels * points * panel,
            aside: PACKED * width,
            together,
            results: together * shape.rows * row,
            gathered,
            total,
            totals: (kept * points).saturating_mul(total),
        };
    }

    /// Whether some sum is not finite, so that the plain sum is to be taken.
    pub fn odd(&self) -> bool {
        self.odd.load(Ordering::Relaxed)
    }

    /// Elements of a tile's columns.
    fn width(&self) -> usize {
        self.shape.columns * self.kernels.lanes
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>, sink: &Sink<'_, T>) -> Result<(), Error> {
        let Sizes { slab, values, packed, spread, aside, results, gathered, totals, .. } =
            self.sizes;
        let sizes = [slab, values, packed, spread, aside, results, gathered, gathered, totals];
        with_parts(sizes, |parts: [&mut [T]; _]| {
            let [slab, values, packed, spread, aside, results, gathered, turned, totals] = parts;
            let mut room =
                Room { slab, values, packed, spread, aside, results, gathered, turned, totals };
            let mut staged = Staged::default();
            while let Some(item) = turn.next() {
                let item = self.division.item(self.problem.geometry, item);
                let last = item.blocks.end.saturating_sub(1);
                for number in item.blocks.clone() {
                    self.stage(&item, number, (&mut room, &mut staged))?;
                    let ends = (number == item.blocks.start, number == last);
                    if !self.sum(turn, &item, (&staged, ends), &mut room, sink) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?
    }

    /// Stages what an item needs of a block, unless it is there already.
    fn stage(
        &self,
        item: &Item,
        number: usize,
        (room, staged): (&mut Room<'_, T>, &mut Staged),
    ) -> Result<(), Error> {
        let Problem { geometry, x, padding, .. } = self.problem;
        if staged.block_of != Some((item.image, number)) {
            self.stage_block((item.image, number), staged)?;
        }
        let sizes = self.sizes;
        let input = (item.group, item.channels.clone());
        if staged.input.as_ref() != Some(&input) {
            let x = x.part(staged.image as isize * x.strides()[1]);
            let strides = &x.strides()[1..];
            let runs = || Padded::new(self.layout.runs(&staged.of_first, strides));
            let runs = staged.of_input.get_or_insert_with(runs).of(sizes.planes);
            let plane = self.layout.plane();
            for first in item.channels.clone().step_by(sizes.planes) {
                let some = first..item.channels.end.min(first + sizes.planes);
                let all = item.group * geometry.channels;
                let planes = all + some.start..all + some.end;
                self.layout.stage((runs, planes), &x, *padding, room.slab);
                for (i, channel) in some.enumerate() {
                    let from = (&room.slab[i * plane..], &*self.offsets);
                    let to = &mut room.values[(channel - item.channels.start) * sizes.value..];
                    self.transforms.analyse(from, &staged.places, (to, sizes.point));
                }
            }
            staged.input = Some(input);
        }
        let output = (item.group, item.outputs.clone());
        if staged.gradient.as_ref() != Some(&output) {
            let width = self.width();
            let of_group = item.group * geometry.outputs;
            let panels = room.spread.chunks_exact_mut(self.transforms.points * sizes.panel);
            for (first, panel) in item.outputs.clone().step_by(width).zip(panels) {
                let channels = first..item.outputs.end.min(first + width);
                if channels.len() < width {
                    // What is no output channel must not look like a sum that is not finite.
                    room.packed.fill(T::default());
                }
                let channels = of_group + channels.start..of_group + channels.end;
                let to = (&mut *room.packed, width);
                self.gradient.pack(self.kernels, (channels, &staged.block), to, room.aside);
                let count = staged.held.iter().product::<usize>();
                room.packed[count * width..][..width].fill(T::default());
                let from = (&*room.packed, &*staged.of_tiles);
                self.transforms.spread(from, width, (panel, sizes.panel));
            }
            staged.gradient = Some(output);
        }
        Ok(())
    }

    /// What is the same for all channels of a block.
    fn stage_block(
        &self,
        (image, number): (usize, usize),
        staged: &mut Staged,
    ) -> Result<(), Error> {
        let (_, mut tiles) = nth_block(&self.one, &self.blocks, number);
        if self.problem.per_sample {
            tiles.0[0] = image..image + 1;
        }
        let (width, lanes) = (self.width(), self.kernels.lanes);
        let lens: Vec<usize> = tiles.0.iter().map(|range| range.len()).collect();
        let axes = self.problem.geometry.axes.iter();
        let in_positions = tiles.0.iter().zip(&self.outputs).zip(axes);
        let block = Block(
            in_positions
                .map(|((range, &n), axis)| range.start * n..axis.output.min(range.end * n))
                .collect(),
        );
        let held: Vec<usize> = block.0.iter().map(|range| range.len()).collect();
        if staged.lens != lens {
            let pitches = self.layout.pitches();
            let last: isize = lens.iter().zip(&pitches).map(|(&n, p)| (n as isize - 1) * p).sum();
            let place = |i: isize| Place { slab: i, flat: i };
            staged.places = (0..=last).step_by(lanes).map(place).collect();
            let steps = positions(&lens, &pitches).zip(0..);
            let step = |(a, tile)| crate::tile::Step { a, b: tile * width as isize };
            staged.sum = whole(steps.map(step).collect(), self.sizes.value as isize);
        }
        if staged.lens != lens || staged.held != held {
            let pitches = contiguous(&held, width);
            let nothing = (held.iter().product::<usize>() * width) as isize;
            let mut tile = vec![0; lens.len()];
            let mut output = vec![0; lens.len()];
            staged.of_tiles.clear();
            for _ in 0..lens.iter().product() {
                for _ in 0..self.transforms.outputs {
                    let mut at = 0;
                    for a in 0..lens.len() {
                        let position = tile[a] * self.outputs[a] + output[a];
                        at += position as isize * pitches[a];
                        if position >= held[a] {
                            at = isize::MIN;
                            break;
                        }
                    }
                    staged.of_tiles.push(if at < 0 { nothing } else { at });
                    advance(&mut output, &self.outputs);
                }
                advance(&mut tile, &lens);
            }
            (staged.lens, staged.held) = (lens, held);
        }
        staged.image = tiles.0[0].start;
        tiles.0[0] = 0..tiles.0[0].len();
        if staged.of_first != tiles {
            staged.of_first = tiles;
            staged.of_input = None;
        }
        staged.block = block;
        staged.block_of = Some((image, number));
        (staged.input, staged.gradient) = (None, None);
        Ok(())
    }

    /// Adds a block to all sums of an item, or finishes these. False where the call is to stop.
    fn sum(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        (staged, (first, last)): (&Staged, (bool, bool)),
        room: &mut Room<'_, T>,
        sink: &Sink<'_, T>,
    ) -> bool {
        let (sizes, lanes, width) = (self.sizes, self.kernels.lanes, self.width());
        let points = self.transforms.points;
        let (a, b) = (Memory::of(room.values), Memory::of(room.spread));
        let contraction = Contraction { a, b, sum: &staged.sum };
        let (steps, chains) = (staged.sum.steps.len(), staged.sum.chains());
        let groups: Vec<Range<usize>> =
            even_parts(0..item.channels.len(), self.shape.rows).collect();
        let mut region = 0;
        // Some rows at a time, whose values the second-level cache keeps for all columns.
        for groups in groups.chunks(sizes.together) {
            for (panel, column) in (0..item.outputs.len()).step_by(width).enumerate() {
                let columns = column..item.outputs.len().min(column + width);
                let vectors = columns.len().div_ceil(lanes);
                let wide = vectors * lanes;
                let each = self.shape.rows * points * wide;
                // A point at a time, so that the first-level cache keeps its columns.
                for point in 0..points {
                    let from = ((panel * points + point) * sizes.panel) as isize;
                    let from: [isize; MAX_COLUMNS] =
                        std::array::from_fn(|v| from + (v * lanes) as isize);
                    for chain in 0..chains {
                        let work = CHAIN.min(steps) * vectors * self.shape.rows * groups.len();
                        if self.odd() || !turn.goes_on(work) {
                            return false;
                        }
                        for (i, rows) in groups.iter().enumerate() {
                            let at = region + (i * points + point) * sizes.total;
                            let to = &mut room.results[i * each + point * wide..];
                            let size = (rows.len(), vectors);
                            let result = (last && chain + 1 == chains)
                                .then(|| Results::of(to, (points * wide, lanes), size, lanes));
                            let first_row = point * sizes.point + rows.start * sizes.value;
                            contraction.total(
                                (self.kernels, chain),
                                (first_row as isize, rows.len()),
                                &from[..vectors],
                                (&mut room.totals[at..at + sizes.total], result),
                                (first && chain == 0, false),
                            );
                        }
                    }
                }
                if last {
                    for (rows, sums) in groups.iter().zip(room.results.chunks_exact(each)) {
                        let sums = (sums, (wide, &columns));
                        self.hand_over(item, rows, sums, (room.gathered, room.turned), sink);
                    }
                }
                if !(first && last) {
                    region += groups.len() * points * sizes.total;
                }
            }
        }
        true
    }

    /// Transforms the sums of some rows, and hands them over.
    fn hand_over(
        &self,
        item: &Item,
        rows: &Range<usize>,
        (sums, (wide, columns)): (&[T], (usize, &Range<usize>)),
        (gathered, aside): (&mut [T], &mut [T]),
        sink: &Sink<'_, T>,
    ) {
        let taps = self.transforms.taps;
        if !self.transforms.gather(sums, (rows.len(), wide), gathered) {
            self.odd.store(true, Ordering::Relaxed);
            return;
        }
        let row = rows.len() * taps;
        turned((gathered, wide), (row, columns.len()), (&mut *aside, row), self.kernels);
        for (output, sums) in columns.clone().zip(aside.chunks_exact(row)) {
            item.put(self.problem.geometry, output, (rows.clone(), 0..taps), sums, sink);
        }
    }
}
