//! The loop nest: blocks of tiles, points, strips of vectors, groups of output channels.
//!
//! One point at a time against all output channels of a part, so that its values of the input stay in the
//! first-level cache while the weights go by; all points for a few channels at a time lost a third.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::contract::wanted_items;
use crate::cover::Span;
use crate::error::Error;
use crate::memory::{LINE, with_scratch};
use crate::operand::{Forward, Taps};
use crate::parallel::{Turn, even_part, even_parts};
use crate::problem::Problem;
use crate::tile::{Bias, Contraction, Ending, Finish, Kernels, Rows, Strip, Sum, Tiled};
use crate::view::Memory;

use super::engine::{Analysis, Engine, Synthesis};
use super::filters::{self, Filters};
use super::form::Form;
use super::odd::{self, Spot};
use super::region::{Cuts, Plane, Region, Shape};
use super::tiling::Tiling;

/// Channels that are summed in one chain of fused multiply-adds, with the taps that are left. Shorter than
/// the direct method's, so that the bound of the error, which transforms make greater, stays beside its; to
/// add twice as many chains costs 1 to 2 % of the products' time.
pub const CHAIN: usize = 64;

/// Bytes of sums that a part of the output channels has at all points; and the most of them where a block's
/// values of the input, which each part reads, are beyond the second-level cache. (256 to 256 channels,
/// 56 x 56, F(4,3): 10.7 ms with the less, 8.1 with the more; Sapphire Rapids.)
const SUMS_BYTES: usize = 512 << 10;
const MOST_SUMS_BYTES: usize = 8 << 20;
const CACHED_BYTES: usize = 3 << 19;

/// Vectors of a strip: with a chain of channels they fill half of the first-level cache.
const STRIP: usize = 6;

/// Panels of weights that a part of the output channels has at least.
const FEWEST_PANELS: usize = 2;

/// What all threads share.
pub struct Nest<'a, T: Tiled> {
    pub problem: &'a Problem<'a, T>,
    pub kernels: &'a Kernels<T>,
    tiling: &'a Tiling,
    /// Its transforms.
    forms: Vec<Form>,
    filters: &'a Filters<T>,
    engine: &'a Engine<T>,
    cuts: Cuts,
    plane: Plane,
    sum: Sum,
    /// Parts of a group's output channels.
    parts: usize,
    /// What a thread needs for the largest block.
    sizes: Sizes,
    /// What is not finite.
    pub odd: Mutex<Vec<Spot>>,
}

/// Elements of a thread's scratch memory.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// A staged plane, and the same dealt.
    staged: usize,
    dealt: usize,
    /// Results of some output channels.
    results: usize,
    /// Values of the input at all points: between channels, and between points.
    value: usize,
    values: usize,
    /// Sums of a part of the output channels: between channels, and between points.
    row: usize,
    sums: usize,
    /// Panels of a part at most.
    panels: usize,
    totals: usize,
}

impl Sizes {
    /// All of them at so many points: of each part of a [`Desk`].
    fn parts(&self, points: usize) -> [usize; 6] {
        let (values, sums) = (self.values * points, self.sums * points);
        [self.staged, self.dealt, self.results, values, sums, self.totals]
    }
}

/// How the work is cut, and what that needs.
pub struct Frame {
    cuts: Cuts,
    plane: Plane,
    parts: usize,
    sizes: Sizes,
}

impl Frame {
    /// For some threads.
    pub fn new<T: Tiled>(
        problem: &Problem<'_, T>,
        tiling: &Tiling,
        kernels: &Kernels<T>,
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let wanted = wanted_items(threads);
        let cuts = Cuts::new(tiling, geometry, size_of::<T>(), wanted.div_ceil(geometry.groups));
        let largest = cuts.region(tiling, 0);
        let plane = Plane::new(tiling, geometry, &largest, (size_of::<T>(), kernels.lanes))?;
        let items = cuts.count() * geometry.groups;
        let (tile, all) = filters::tiles(kernels, geometry.outputs);
        // Each thread transforms the input of the blocks that it has parts of.
        let parts = if items < 2 * threads { wanted.div_ceil(items) } else { 1 };
        let parts = parts.min(all.div_ceil(FEWEST_PANELS)).max(1);
        let strides = &problem.x.strides()[1..];
        let shape = plane.shape(tiling, &largest, strides, (problem.store, kernels.lanes))?;
        let line = LINE / size_of::<T>();
        let odd_lines = |n: usize| (n.div_ceil(line) | 1) * line;
        // A smaller block may round its rows up once more.
        let value = odd_lines(shape.values + kernels.lanes);
        let row = odd_lines(shape.sums + kernels.lanes);
        let panel = tile.rows.min(geometry.outputs);
        let values = value * geometry.channels * tiling.points() * size_of::<T>();
        let bytes = if values > CACHED_BYTES { MOST_SUMS_BYTES } else { SUMS_BYTES };
        let panels = (bytes / size_of::<T>() / (row * tiling.points() * panel))
            .clamp(FEWEST_PANELS, all.div_ceil(parts).max(FEWEST_PANELS));
        let rows = (panels * panel).min(geometry.outputs);
        let sizes = Sizes {
            staged: shape.staged,
            dealt: if tiling.dealt().is_some() { shape.staged } else { 0 },
            results: shape.plane * shape.planes,
            value,
            values: value * geometry.channels + line,
            row,
            sums: row * rows + line,
            panels,
            totals: kernels.most_totals(),
        };
        Ok(Frame { cuts, plane, parts, sizes })
    }

    /// Elements of a thread's scratch memory.
    pub fn scratch(&self, tiling: &Tiling) -> usize {
        self.sizes.parts(tiling.points()).iter().fold(0, |sum: usize, &n| sum.saturating_add(n))
    }

    /// Outputs of a block on each axis, of each residue.
    pub fn block(&self, tiling: &Tiling) -> Vec<usize> {
        self.cuts.region(tiling, 0).outputs(tiling)
    }
}

/// A thread's scratch memory.
struct Desk<'a, T> {
    staged: &'a mut [T],
    dealt: &'a mut [T],
    results: &'a mut [T],
    values: &'a mut [T],
    sums: &'a mut [T],
    totals: &'a mut [T],
}

impl<'a, T: Tiled> Nest<'a, T> {
    pub fn new(
        problem: &'a Problem<'a, T>,
        tiling: &'a Tiling,
        filters: &'a Filters<T>,
        (kernels, engine): (&'a Kernels<T>, &'a Engine<T>),
        threads: usize,
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let frame = Frame::new(problem, tiling, kernels, threads)?;
        let kernel: Vec<usize> = tiling.sides.iter().map(|side| side.taps()).collect();
        let taps = Taps { channel: frame.sizes.value as isize, axes: frame.plane.taps.clone() };
        let sum = Forward {
            channels: geometry.channels,
            kernel: &kernel,
            a: &filters.taps(&kernel),
            a_row: 1,
            b: &taps,
            ramp: None,
            chain: CHAIN,
        }
        .sum()?;
        let odd = Mutex::new(Vec::new());
        let Frame { cuts, plane, parts, sizes } = frame;
        let forms = tiling.forms();
        Ok(Nest {
            problem,
            kernels,
            tiling,
            forms,
            filters,
            engine,
            cuts,
            plane,
            sum,
            parts,
            sizes,
            odd,
        })
    }

    /// Items of work: blocks of each group, and parts of its output channels.
    pub fn items(&self) -> usize {
        self.problem.geometry.groups * self.cuts.count() * self.parts
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let sizes = self.sizes;
        let parts = sizes.parts(self.tiling.points());
        let all = parts.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        with_scratch(all, |scratch: &mut [T]| {
            let mut left = scratch;
            let mut next = |n: usize| {
                let (first, rest) = std::mem::take(&mut left).split_at_mut(n);
                left = rest;
                first
            };
            let [staged, dealt, results, values, sums, totals] = parts.map(&mut next);
            let mut desk = Desk { staged, dealt, results, values, sums, totals };
            let (mut region, mut shape) = (Region::default(), Shape::default());
            let mut analysed = None;
            while let Some(item) = turn.next() {
                let (left, part) = (item / self.parts, item % self.parts);
                let (group, block) = (left / self.cuts.count(), left % self.cuts.count());
                let wanted = self.cuts.region(self.tiling, block);
                if region != wanted {
                    region = wanted;
                    shape = self.plane.shape(
                        self.tiling,
                        &region,
                        &self.problem.x.strides()[1..],
                        (self.problem.store, self.kernels.lanes),
                    )?;
                    desk.staged.fill(T::default());
                    for (r, runs) in shape.fills.iter().enumerate() {
                        let to = &mut desk.staged[r * shape.residue..];
                        self.problem.x.read_runs(0, runs, self.problem.padding, to);
                    }
                }
                if analysed != Some(left) {
                    if !self.analyse(turn, group, &shape, &mut desk) {
                        break;
                    }
                    analysed = Some(left);
                }
                let panels = even_part(&(0..self.filters.panels()), self.parts, part);
                for panels in even_parts(panels, sizes.panels) {
                    if !self.multiply(turn, (group, panels.clone()), &shape, &mut desk) {
                        return Ok(());
                    }
                    self.synthesise(self.outputs(group, &panels), &shape, &mut desk)?;
                }
            }
            Ok(())
        })?
    }

    /// From one result of a row to the next: bytes, and positions.
    pub fn step(&self) -> (isize, usize) {
        let last = &self.tiling.sides[self.tiling.sides.len() - 1];
        let apart = if last.tiled() { last.axis.dilation } else { 1 };
        (self.problem.store.step() * apart as isize, apart)
    }

    /// Stages the channels of a group, and transforms them to their values at all points.
    fn analyse(
        &self,
        turn: &Turn<'_>,
        group: usize,
        shape: &Shape,
        desk: &mut Desk<'_, T>,
    ) -> bool {
        let Problem { geometry, x, padding, .. } = self.problem;
        let staged = &mut desk.staged[..shape.staged];
        for channel in 0..geometry.channels {
            let start = (group * geometry.channels + channel) as isize * x.strides()[0];
            for (r, runs) in shape.reads.iter().enumerate() {
                x.read_runs(start, runs, *padding, &mut staged[r * shape.residue..]);
            }
            let from = match self.tiling.dealt() {
                Some(form) => {
                    self.engine.deal(form, staged, desk.dealt);
                    desk.dealt.as_ptr()
                }
                None => staged.as_ptr(),
            };
            let analysis = Analysis {
                forms: &self.forms,
                from,
                offsets: &shape.offsets,
                places: &shape.analysis,
                to: desk.values[channel * self.sizes.value..].as_mut_ptr(),
                pitch: self.sizes.values,
            };
            assert!(shape.values <= self.sizes.value);
            // SAFETY: the engine is this CPU's; a shape's planes have room for a vector at each element of
            // each of its places, and its values for one at each place, in each channel of each point.
            unsafe { (self.engine.analyse)(&analysis) }
            if !turn.goes_on(shape.analysis.len() * self.tiling.points()) {
                return false;
            }
        }
        true
    }

    /// The output channels of some panels of a group.
    fn outputs(&self, group: usize, panels: &Range<usize>) -> Range<usize> {
        let first = group * self.problem.geometry.outputs;
        first + self.filters.rows(panels.start).start..first + self.filters.rows(panels.end - 1).end
    }

    /// The sums of some panels of output channels at all points.
    fn multiply(
        &self,
        turn: &Turn<'_>,
        (group, panels): (usize, Range<usize>),
        shape: &Shape,
        desk: &mut Desk<'_, T>,
    ) -> bool {
        let (lanes, sizes) = (self.kernels.lanes, self.sizes);
        let columns = &shape.columns;
        let tile = self.filters.shape();
        let spans = columns.strips(tile.columns, STRIP);
        let contraction =
            Contraction { a: self.filters.memory(), b: Memory::of(&*desk.values), sum: &self.sum };
        let outputs = self.filters.rows(panels.start).start..self.filters.rows(panels.end - 1).end;
        assert!(outputs.len() * sizes.row <= sizes.sums && shape.sums <= sizes.row);
        let panels: Vec<(usize, Range<usize>)> =
            panels.map(|panel| (panel, self.filters.rows(panel))).collect();
        let row = (sizes.row * size_of::<T>()) as isize;
        let finish = Finish { bias: Bias::None, clip: None };
        for point in 0..self.tiling.points() {
            for Span { columns: range, vectors, from, .. } in &spans {
                let columns = &columns.whole[range.clone()];
                let room = tile.rows * Strip::<T>::row_vectors(columns.len()) * lanes;
                for panels in panels.chunks(desk.totals.len() / room) {
                    for chain in 0..self.sum.chains() {
                        if !turn.goes_on(self.sum.work(tile.rows) * columns.len() * panels.len()) {
                            return false;
                        }
                        let totals = desk.totals.chunks_exact_mut(room);
                        for ((panel, rows), totals) in panels.iter().zip(totals) {
                            let strip = Strip {
                                a: self.filters.at(point, group, *panel),
                                rows: rows.len(),
                                b: (point * sizes.values) as isize,
                                columns,
                                from: *from,
                                vectors: *vectors,
                                streams: false,
                                totals: totals.as_mut_ptr(),
                            };
                            let at = point * sizes.sums + (rows.start - outputs.start) * sizes.row;
                            let first = desk.sums[at..].as_mut_ptr();
                            let ending = Ending { finish, out: Some(Rows { first, row }) };
                            // SAFETY: these totals have room for the strip; the sums have a row of as
                            // many vectors as there are columns for each output channel, as just asserted;
                            // and both are borrowed for this alone. There is no bias.
                            unsafe { contraction.chain(self.kernels, chain, &strip, &ending) }
                        }
                    }
                }
            }
        }
        true
    }

    /// Transforms the sums of some output channels back and writes the results.
    fn synthesise(
        &self,
        outputs: Range<usize>,
        shape: &Shape,
        desk: &mut Desk<'_, T>,
    ) -> Result<(), Error> {
        let store = self.problem.store;
        let synthesise = self.engine.synthesise[usize::from(self.tiling.dealt().is_some())];
        let strides = store.out.strides();
        let (step, apart) = self.step();
        assert!(shape.plane * shape.planes <= desk.results.len() && shape.sums <= self.sizes.row);
        for output in outputs.clone() {
            let from = &desk.sums[(output - outputs.start) * self.sizes.row..];
            let mut plain = Synthesis {
                forms: &self.forms,
                from: from.as_ptr(),
                pitch: self.sizes.sums,
                places: &shape.synthesis,
                to: desk.results.as_mut_ptr(),
                plane: shape.plane,
                bias: None,
                clip: None,
            };
            let finished =
                Synthesis { bias: store.bias.get(output).copied(), clip: store.clip(), ..plain };
            // SAFETY: the engine is this CPU's; the sums hold a vector at each place of each point, and
            // planes of results have room for those of each place, as a shape says.
            let finite = unsafe { synthesise(&finished) };
            let to = output as isize * strides[0];
            let first = output * self.problem.geometry.positions();
            if finite {
                for row in &shape.rows {
                    // SAFETY: each item has output channels and tiles of its own, and one thread takes it.
                    unsafe { store.run(to + row.to, step, &desk.results[row.from..][..row.len]) }
                }
                continue;
            }
            // Which they are is seen before the activation, and after it they may not be told.
            plain.to = desk.results.as_mut_ptr();
            // SAFETY: as above.
            unsafe { synthesise(&plain) };
            let spoiled = odd::spoiled(self.tiling, shape, desk.results);
            // SAFETY: as above.
            unsafe { synthesise(&finished) };
            let mut spots = Vec::new();
            for (rows, spoiled) in shape.rows.chunks(shape.together).zip(&spoiled) {
                for row in rows {
                    for part in odd::sound(spoiled, row.len) {
                        let to = to + row.to + part.start as isize * step;
                        // SAFETY: as above.
                        unsafe { store.run(to, step, &desk.results[row.from..][part]) }
                    }
                    spots.extend(odd::spots(spoiled, row, (first, to, (step, apart))));
                }
            }
            let mut odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
            odd.try_reserve(spots.len()).map_err(|_| Error::NoMemory {
                what: "the list of tiles that are not finite",
                bytes: (odd.len() * size_of::<Spot>()) as u128,
            })?;
            odd.extend(spots);
        }
        Ok(())
    }
}
