//! The loop nest: blocks of tiles, points, strips of vectors, groups of output channels.
//!
//! One point at a time against all output channels of a part, so that its values of the input stay in the
//! first-level cache while the weights go by; all points for a few channels at a time lost a third.
//!
//! Where there are fewer blocks than threads can share evenly, threads transform the input of all blocks together
//! and then take parts of the output channels; else each takes whole blocks.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cover::Span;
use crate::error::Error;
use crate::memory::{LINE, Workspace, with_parts};
use crate::operand::{Forward, Taps};
use crate::parallel::{Turn, even_part, even_parts};
use crate::problem::Problem;
use crate::tile::{
    Bias, Column, Contraction, Ending, Finish, Kernels, Next, Rows, Strip, Sum, Tiled,
};
use crate::view::{Memory, ViewMut};

use super::engine::{Across, Analysis, Engine, Synthesis};
use super::filters::{Filters, Layout, Panels, Stager};
use super::form::Form;
use super::frame::{Frame, Sizes};
use super::odd::{self, Spot};
use super::ready::{Pledge, Ready};
use super::region::{Cuts, Plane, Region, Row, Shape, Weave};
use super::role::Role;
use super::tiling::{Tiling, WEIGHTS_BYTES};

/// Channels that are summed in one chain of fused multiply-adds, with the taps that are left. Shorter than
/// the direct method's, so that the bound of the error, which transforms make greater, stays beside its; to
/// add twice as many chains costs 1 to 2 % of the products' time.
pub const CHAIN: usize = 64;

/// Vectors of a strip: with a chain of channels they fill half of the first-level cache.
const STRIP: usize = 6;

/// Most elements of a vector.
const MOST_LANES: usize = 16;

/// Transformed weights.
pub enum Weights<'a, T: Tiled> {
    /// All of them.
    Kept(&'a Filters<T>),
    /// A panel at a time, as it is wanted.
    Staged(Stager<'a, T>),
}

/// What all threads share.
pub struct Nest<'a, T: Tiled> {
    pub problem: &'a Problem<'a, T>,
    pub kernels: &'a Kernels<T>,
    tiling: &'a Tiling,
    /// Its transforms.
    forms: Vec<Form>,
    weights: Weights<'a, T>,
    layout: Layout,
    engine: &'a Engine<T>,
    cuts: Cuts,
    plane: Plane,
    sum: Sum,
    /// Parts of a group's output channels.
    parts: usize,
    /// What a thread needs for the largest block.
    sizes: Sizes,
    /// Where threads put values of the input together: of each block of each group, what is ready of it.
    values: Option<(ViewMut<'a, T>, Vec<Ready>)>,
    /// What is not finite.
    odd: Mutex<Vec<Spot>>,
    /// Whether weights are not.
    odd_weights: AtomicBool,
}

/// A thread's scratch memory.
struct Desk<'a, T> {
    staged: &'a mut [T],
    dealt: &'a mut [T],
    results: &'a mut [T],
    values: &'a mut [T],
    sums: &'a mut [T],
    totals: &'a mut [T],
    weights: &'a mut [T],
    turned: &'a mut [T],
}

impl<'a, T: Tiled> Nest<'a, T> {
    pub fn new(
        problem: &'a Problem<'a, T>,
        tiling: &'a Tiling,
        weights: Weights<'a, T>,
        (kernels, engine): (&'a Kernels<T>, &'a Engine<T>),
        (frame, space): (Frame, &'a mut Workspace),
    ) -> Result<Self, Error> {
        let geometry = problem.geometry;
        let kernel: Vec<usize> = tiling.sides.iter().map(|side| side.taps()).collect();
        let taps = Taps { channel: frame.sizes.value as isize, axes: frame.plane.taps.clone() };
        let layout = match &weights {
            Weights::Kept(filters) => *filters.layout(),
            Weights::Staged(_) => Layout::new(geometry, tiling, kernels).of_one(),
        };
        let filters = layout.taps(&kernel);
        let (a, b) = match layout.panels.role {
            Role::Outputs => (&filters, &taps),
            Role::Tiles => (&taps, &filters),
        };
        let (channels, ramp) = (geometry.channels, None);
        let sum =
            Forward { channels, kernel: &kernel, a, a_row: 1, b, ramp, chain: CHAIN }.sum()?;
        let odd = Mutex::new(Vec::new());
        let len = frame.values();
        let Frame { cuts, plane, parts, sizes, shared, .. } = frame;
        let values = shared.map(|(_, blocks)| {
            let values = ViewMut::from_slice(&mut space.elements_mut::<T>()[..len], &[len]);
            (values, (0..blocks).map(|_| Ready::default()).collect())
        });
        let forms = tiling.forms();
        Ok(Nest {
            problem,
            kernels,
            tiling,
            forms,
            weights,
            layout,
            engine,
            cuts,
            plane,
            sum,
            parts,
            sizes,
            values,
            odd,
            odd_weights: AtomicBool::new(false),
        })
    }

    /// Blocks of each group.
    fn blocks(&self) -> usize {
        self.problem.geometry.groups * self.cuts.count()
    }

    /// Whether weights are not finite, which leaves the plain sum.
    pub fn odd_weights(&self) -> bool {
        self.odd_weights.load(Ordering::Relaxed)
    }

    /// Parts of the channels of a block, as they are transformed to values that threads share.
    fn shares(&self) -> usize {
        if self.values.is_some() { self.parts.min(self.problem.geometry.channels) } else { 0 }
    }

    /// Items of work: parts of the input of blocks where these are shared; then blocks of each group and parts
    /// of its output channels.
    pub fn stages(&self) -> [usize; 2] {
        [self.shares(), self.parts].map(|parts| self.blocks() * parts)
    }

    /// One thread's part: takes items until there are none.
    pub fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let sizes = self.sizes;
        let parts = sizes.parts((self.tiling.points(), self.values.is_some()));
        with_parts(parts, |parts: [&mut [T]; _]| {
            let [staged, dealt, results, values, sums, totals, weights, turned] = parts;
            turned.fill(T::default());
            let mut desk = Desk { staged, dealt, results, values, sums, totals, weights, turned };
            let (mut region, mut shape) = (Region::default(), Shape::default());
            let mut analysed = None;
            let [first, _] = self.stages();
            while let Some(item) = turn.next() {
                let (parts, at) = match item.checked_sub(first) {
                    None => (self.shares(), item),
                    Some(at) => (self.parts, at),
                };
                let (left, part) = (at / parts, at % parts);
                // Whatever happens to this thread from here on, those that wait for its part hear of it.
                let pledge = match &self.values {
                    Some((_, ready)) if item < first => Some(Pledge::of(&ready[left])),
                    _ => None,
                };
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
                    for plane in desk.staged.chunks_exact_mut(shape.staged).take(sizes.planes) {
                        for (r, runs) in shape.fills.iter().enumerate() {
                            let to = &mut plane[r * shape.residue..];
                            self.problem.x.read_runs(0, runs, self.problem.padding, to);
                        }
                    }
                }
                let channels = 0..self.problem.geometry.channels;
                let values = match &self.values {
                    Some((values, ready)) => {
                        let ready = &ready[left];
                        let len = sizes.values * self.tiling.points();
                        let bytes = (len * size_of::<T>()) as isize;
                        let to = values.at(left as isize * bytes, 0, bytes);
                        if let Some(pledge) = pledge {
                            let channels = even_part(&channels, parts, part);
                            // SAFETY: `at` checked that the block's values are there, and no other thread
                            // has these channels.
                            if !unsafe {
                                self.analyse(turn, (group, channels), &shape, &mut desk, to)
                            } {
                                break;
                            }
                            pledge.keep();
                            continue;
                        }
                        if !ready.wait(self.shares(), turn) {
                            break;
                        }
                        // SAFETY: all of it was written, as was just seen, and will not be again.
                        Memory::of(unsafe { std::slice::from_raw_parts(to, len) })
                    }
                    None => {
                        let to = desk.values.as_mut_ptr();
                        if analysed != Some(left) {
                            // SAFETY: the desk has room for the values of a block.
                            if !unsafe {
                                self.analyse(turn, (group, channels), &shape, &mut desk, to)
                            } {
                                break;
                            }
                            analysed = Some(left);
                        }
                        // SAFETY: they are the desk's, which nobody writes to as long as they are read.
                        Memory::of(unsafe { std::slice::from_raw_parts(to, desk.values.len()) })
                    }
                };
                let panels = even_part(&(0..self.layout.panels.count), self.parts, part);
                for panels in even_parts(panels, sizes.panels) {
                    let part = (group, panels);
                    let weights = match &self.weights {
                        Weights::Kept(filters) => filters.memory(),
                        Weights::Staged(stager) => {
                            let of = (group, part.1.start);
                            let to = (&mut *desk.weights, &self.layout, self.tiling.points());
                            if !stager.put_panel(turn, of, desk.turned, to) {
                                self.odd_weights.store(true, Ordering::Relaxed);
                            }
                            if self.odd_weights() {
                                return Ok(());
                            }
                            let (first, len) = (desk.weights.as_ptr(), desk.weights.len());
                            // SAFETY: they are the desk's, which nobody writes to as long as they are read.
                            Memory::of(unsafe { std::slice::from_raw_parts(first, len) })
                        }
                    };
                    let operands = (&shape, &values, &weights);
                    let goes_on = match self.layout.panels.role {
                        Role::Outputs => self.multiply(turn, &part, operands, &mut desk),
                        Role::Tiles => self.multiply_tiles(turn, &part, operands, &mut desk),
                    };
                    if !goes_on {
                        return Ok(());
                    }
                    match self.layout.panels.role {
                        Role::Outputs => self.synthesise(&part, &shape, &mut desk)?,
                        Role::Tiles => self.synthesise_across(&part, &shape, &mut desk)?,
                    }
                }
            }
            Ok(())
        })?
    }

    /// What the plain sum has to give.
    pub fn spots(&self) -> MutexGuard<'_, Vec<Spot>> {
        self.odd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From one result of a run to the next: bytes, and positions.
    pub fn step(&self) -> (isize, usize) {
        let apart = self.plane.weave.step();
        (self.problem.store.step() * apart as isize, apart)
    }

    /// Writes the results of a part of a row that starts at byte `to`.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    unsafe fn put(&self, to: isize, part: Range<usize>, values: &[T]) {
        let (store, (step, _)) = (self.problem.store, self.step());
        let first = part.start;
        for (run, behind) in self.plane.weave.runs(part) {
            let to = to + behind as isize * store.step();
            // SAFETY: the caller keeps other threads away.
            unsafe { store.run(to, step, &values[run.start - first..run.end - first]) }
        }
    }

    /// Stages some channels of a group, and transforms them to their values at all points.
    ///
    /// # Safety
    /// `to` must be writable for the values of a block, of these channels, and nobody else use them.
    unsafe fn analyse(
        &self,
        turn: &Turn<'_>,
        (group, channels): (usize, Range<usize>),
        shape: &Shape,
        desk: &mut Desk<'_, T>,
        to: *mut T,
    ) -> bool {
        let Problem { geometry, x, padding, .. } = self.problem;
        assert!(shape.values <= self.sizes.value && channels.end <= geometry.channels);
        let plane = shape.staged;
        for channels in even_parts(channels, self.sizes.planes) {
            let planes = plane * channels.len();
            for (channel, staged) in channels.clone().zip(desk.staged.chunks_exact_mut(plane)) {
                let start = (group * geometry.channels + channel) as isize * x.strides()[0];
                for (r, runs) in shape.reads.iter().enumerate() {
                    x.read_runs(start, runs, *padding, &mut staged[r * shape.residue..]);
                }
            }
            let from = match self.tiling.dealt() {
                Some(form) => {
                    let staged = desk.staged[..planes].chunks_exact(plane);
                    let Weave { width, blocks, .. } = self.plane.weave;
                    for (staged, dealt) in staged.zip(desk.dealt.chunks_exact_mut(plane)) {
                        if width == 1 {
                            self.engine.deal(form, staged, dealt);
                        } else {
                            let rows = (staged, &shape.staged_rows[..]);
                            self.engine.deal_blocks(form, rows, (width, blocks), dealt);
                        }
                    }
                    &desk.dealt[..planes]
                }
                None => &desk.staged[..planes],
            };
            for (channel, from) in channels.clone().zip(from.chunks_exact(plane)) {
                let analysis = Analysis {
                    forms: &self.forms,
                    from: from.as_ptr(),
                    offsets: &shape.offsets,
                    places: &shape.analysis,
                    to: to.wrapping_add(channel * self.sizes.value),
                    pitch: self.sizes.values,
                };
                // SAFETY: the engine is this CPU's; a shape's planes have room for a vector at each element
                // of each of its places, and its values for one at each place, in each channel of each
                // point, as just asserted.
                unsafe { (self.engine.analyse)(&analysis) }
            }
            let work = shape.analysis.len() * self.tiling.points();
            if !turn.goes_on(work * channels.len()) {
                return false;
            }
        }
        true
    }

    /// The output channels of some panels of a group.
    fn outputs(&self, (group, panels): &(usize, Range<usize>)) -> Range<usize> {
        let first = group * self.problem.geometry.outputs;
        let of = |panel| self.layout.panels.outputs(panel);
        first + of(panels.start).start..first + of(panels.end - 1).end
    }

    /// The sums of some panels of output channels at all points, in vectors of tiles.
    fn multiply(
        &self,
        turn: &Turn<'_>,
        (group, panels): &(usize, Range<usize>),
        (shape, values, weights): (&Shape, &Memory<'_, T>, &Memory<'_, T>),
        desk: &mut Desk<'_, T>,
    ) -> bool {
        let (lanes, sizes) = (self.kernels.lanes, self.sizes);
        let columns = &shape.columns;
        let all = self.layout.panels;
        let tile = all.shape;
        let spans = columns.strips(tile.columns, STRIP);
        let contraction = Contraction { a: weights.clone(), b: values.clone(), sum: &self.sum };
        let outputs = all.outputs(panels.start).start..all.outputs(panels.end - 1).end;
        assert!(outputs.len() * sizes.row <= sizes.sums && shape.sums <= sizes.row);
        let panels: Vec<(usize, Range<usize>)> =
            panels.clone().map(|panel| (panel, all.outputs(panel))).collect();
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
                                a: self.layout.at(point, *group, *panel),
                                rows: rows.len(),
                                b: (point * sizes.values) as isize,
                                columns,
                                from: *from,
                                vectors: *vectors,
                                next: Next::Nothing,
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

    /// The same in vectors of output channels.
    fn multiply_tiles(
        &self,
        turn: &Turn<'_>,
        (group, panels): &(usize, Range<usize>),
        (shape, values, weights): (&Shape, &Memory<'_, T>, &Memory<'_, T>),
        desk: &mut Desk<'_, T>,
    ) -> bool {
        let (lanes, sizes) = (self.kernels.lanes, self.sizes);
        let Panels { shape: tile, width, .. } = self.layout.panels;
        let contraction = Contraction { a: values.clone(), b: weights.clone(), sum: &self.sum };
        assert!(panels.len() * sizes.row <= sizes.sums && shape.tiles * width <= sizes.row);
        let column = |v: usize| Column {
            from: (v * lanes) as isize,
            to: (v * lanes * size_of::<T>()) as isize,
        };
        let columns: Vec<Column> = (0..tile.columns).map(column).collect();
        let groups: Vec<Range<usize>> = even_parts(0..shape.tiles, tile.rows).collect();
        let room = tile.rows * Strip::<T>::row_vectors(tile.columns) * lanes;
        let row = (width * size_of::<T>()) as isize;
        let finish = Finish { bias: Bias::None, clip: None };
        let points = self.tiling.points();
        let far = self.layout.size(points) * size_of::<T>() > WEIGHTS_BYTES
            && matches!(self.weights, Weights::Kept(_));
        // The next chain's weights are asked for meanwhile, where they come from afar: a line a step, so that
        // the first groups of tiles ask for all.
        let steps = CHAIN.min(self.problem.geometry.channels);
        let (chunk, asked) = (self.layout.channels(steps), steps * LINE / size_of::<T>());
        for point in 0..points {
            for panel in panels.clone() {
                let vectors = self.layout.panels.outputs(panel).len().div_ceil(lanes);
                let columns = &columns[..vectors];
                let sums = point * sizes.sums + (panel - panels.start) * sizes.row;
                for groups in groups.chunks(desk.totals.len() / room) {
                    // A chain's part of the weights stays in the first-level cache for all tiles.
                    for chain in 0..self.sum.chains() {
                        if !turn.goes_on(self.sum.work(tile.rows) * vectors * groups.len()) {
                            return false;
                        }
                        let next = if !far {
                            None
                        } else if chain + 1 < self.sum.chains() {
                            Some((point, panel, (chain + 1) * chunk))
                        } else if panel + 1 < panels.end {
                            Some((point, panel + 1, 0))
                        } else {
                            (point + 1 < points).then_some((point + 1, panels.start, 0))
                        };
                        let next = next.map(|(point, panel, behind)| {
                            weights.at(self.layout.at(point, *group, panel) + behind as isize, 0, 0)
                        });
                        let totals = desk.totals.chunks_exact_mut(room);
                        for (i, (rows, totals)) in groups.iter().zip(totals).enumerate() {
                            let next = match next {
                                Some(next) if i * asked < chunk => {
                                    Next::From(next.wrapping_add(i * asked))
                                }
                                _ => Next::Nothing,
                            };
                            let strip = Strip {
                                a: (point * sizes.values + rows.start) as isize,
                                rows: rows.len(),
                                b: self.layout.at(point, *group, panel),
                                columns,
                                from: (0, columns[vectors - 1].from),
                                vectors,
                                next,
                                totals: totals.as_mut_ptr(),
                            };
                            let first = desk.sums[sums + rows.start * width..].as_mut_ptr();
                            let ending = Ending { finish, out: Some(Rows { first, row }) };
                            // SAFETY: these totals have room for the strip; the sums have as many vectors
                            // as a panel is wide for each tile, as just asserted; and both are borrowed for
                            // this alone. There is no bias.
                            unsafe { contraction.chain(self.kernels, chain, &strip, &ending) }
                        }
                    }
                }
            }
        }
        true
    }

    /// Transforms the sums of some output channels back, in vectors of tiles, and writes the results.
    fn synthesise(
        &self,
        part: &(usize, Range<usize>),
        shape: &Shape,
        desk: &mut Desk<'_, T>,
    ) -> Result<(), Error> {
        let store = self.problem.store;
        // Outputs of several residues are woven as they are written.
        let woven = self.tiling.dealt().filter(|_| self.plane.weave.width > 1);
        let dealt = self.tiling.dealt().is_some() && woven.is_none();
        let synthesise = self.engine.synthesise[usize::from(dealt)];
        let (results, space) = desk.results.split_at_mut(shape.plane * shape.planes);
        let room = woven.map_or(0, |form| shape.line * form.outputs() + self.kernels.lanes);
        assert!(shape.sums <= self.sizes.row);
        for (i, output) in self.outputs(part).enumerate() {
            let mut synthesis = Synthesis {
                forms: &self.forms,
                from: desk.sums[i * self.sizes.row..].as_ptr(),
                pitch: self.sizes.sums,
                places: &shape.synthesis,
                to: results.as_mut_ptr(),
                plane: shape.plane / woven.map_or(1, Form::outputs),
                bias: store.bias.get(output).copied(),
                clip: store.clip(),
            };
            // SAFETY: the engine is this CPU's; the sums hold a vector at each place of each point, and
            // planes of results have room for those of each place, as a shape says.
            let finite = unsafe { synthesise(&synthesis) };
            let to = output as isize * store.out.strides()[0];
            if finite {
                for row in &shape.rows {
                    let line = self.line(woven, (shape, row), results, space);
                    // SAFETY: each item has output channels and tiles of its own, and one thread takes it.
                    unsafe { self.put(to + row.to, 0..row.len, line) }
                }
                continue;
            }
            // Which they are is seen before the activation, and after it they may not be told.
            (synthesis.bias, synthesis.clip, synthesis.to) = (None, None, results.as_mut_ptr());
            // SAFETY: as above.
            unsafe { synthesise(&synthesis) };
            for rows in shape.rows.chunks(shape.together) {
                let mut left = &mut *space;
                let mut line = |row| {
                    let (to, rest) = std::mem::take(&mut left).split_at_mut(room);
                    left = rest;
                    self.line(woven, (shape, row), results, to)
                };
                let lines: Vec<&[T]> = rows.iter().map(&mut line).collect();
                // SAFETY: as above.
                unsafe { self.set_apart(output, rows, &lines)? };
            }
        }
        Ok(())
    }

    /// A row of results: from its planes, or woven from these.
    fn line<'r>(
        &self,
        woven: Option<Form>,
        (shape, row): (&Shape, &Row),
        results: &'r [T],
        to: &'r mut [T],
    ) -> &'r [T] {
        let from = &results[row.from..];
        let Some(form) = woven else { return &from[..row.len] };
        if row.len > 0 {
            let (plane, width) = (shape.plane / form.outputs(), self.plane.weave.width);
            let count = shape.line / width;
            self.engine.weave(form, (from, plane), (width, count), to);
        }
        &to[..row.len]
    }

    /// The same in vectors of output channels: a row of tiles at a time.
    fn synthesise_across(
        &self,
        part: &(usize, Range<usize>),
        shape: &Shape,
        desk: &mut Desk<'_, T>,
    ) -> Result<(), Error> {
        let (store, sizes) = (self.problem.store, self.sizes);
        let Panels { width, .. } = self.layout.panels;
        let lanes = self.kernels.lanes;
        let across = self.engine.across[usize::from(self.tiling.dealt().is_some())];
        let dealt = self.tiling.dealt().map_or(1, Form::outputs);
        let plane = shape.line * dealt * lanes;
        let (vectors, turned) = desk.results.split_at_mut(sizes.results / 2);
        assert!(shape.together * plane <= vectors.len() && shape.tiles * width <= sizes.row);
        let outputs = self.outputs(part);
        for first in outputs.clone().step_by(lanes) {
            let channels = (outputs.end - first).min(lanes);
            let mut bias = [T::default(); MOST_LANES];
            if !store.bias.is_empty() {
                bias[..channels].copy_from_slice(&store.bias[first..][..channels]);
            }
            // Panels are whole vectors, so this is one of them.
            let (panel, lane) = ((first - outputs.start) / width, (first - outputs.start) % width);
            for (line, rows) in shape.rows.chunks(shape.together).enumerate() {
                let at = panel * sizes.row + line * shape.line * width + lane;
                let mut transform = Across {
                    forms: &self.forms,
                    from: desk.sums[at..].as_ptr(),
                    pitch: sizes.sums,
                    step: width,
                    tiles: shape.line,
                    width: self.plane.weave.width,
                    to: vectors.as_mut_ptr(),
                    plane,
                    bias: (!store.bias.is_empty()).then_some(bias.as_ptr()),
                    clip: store.clip(),
                };
                // SAFETY: the engine is this CPU's; the sums hold a vector of each tile of each point, and
                // planes of results have room for those of each output of a line, as just asserted.
                let finite = unsafe { across(&transform) };
                if finite {
                    for (row, vectors) in rows.iter().zip(vectors.chunks_exact(plane)) {
                        // SAFETY: each item has output channels and tiles of its own, and one thread takes
                        // it.
                        unsafe { self.put_across((first, channels), row, vectors, turned) }
                    }
                    continue;
                }
                // As in `synthesise`.
                (transform.bias, transform.clip, transform.to) = (None, None, vectors.as_mut_ptr());
                // SAFETY: as above.
                unsafe { across(&transform) };
                for channel in 0..channels {
                    for (i, value) in turned[..rows.len() * plane / lanes].iter_mut().enumerate() {
                        *value = vectors[i * lanes + channel];
                    }
                    let planes = turned.chunks_exact(plane / lanes);
                    let lines: Vec<&[T]> =
                        rows.iter().zip(planes).map(|(row, line)| &line[..row.len]).collect();
                    // SAFETY: as above.
                    unsafe { self.set_apart(first + channel, rows, &lines)? };
                }
            }
        }
        Ok(())
    }

    /// Writes a row of results of some output channels, which are vectors, from there or `turned`.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    unsafe fn put_across(
        &self,
        (first, channels): (usize, usize),
        row: &Row,
        vectors: &[T],
        turned: &mut [T],
    ) {
        let (store, lanes) = (self.problem.store, self.kernels.lanes);
        let (step, size) = (self.step().0, store.out.size());
        let apart = store.out.strides()[0];
        let to = first as isize * apart + row.to;
        if row.len == 0 {
            return;
        }
        // SAFETY: the caller keeps other threads away, and `at` checks that all runs are results.
        unsafe {
            if apart == size {
                // Channels are neighbours in the result.
                for (run, behind) in self.plane.weave.runs(0..row.len) {
                    let to = to + behind as isize * store.step();
                    let vectors = vectors.chunks_exact(lanes).skip(run.start).take(run.len());
                    for (i, values) in vectors.enumerate() {
                        store.run(to + i as isize * step, size, &values[..channels]);
                    }
                }
            } else if step == size && store.is_direct() {
                let reach = (channels as isize - 1) * apart;
                for (run, behind) in self.plane.weave.runs(0..row.len) {
                    let (to, end) = (to + behind as isize * size, run.len() as isize * size);
                    let to = store.out.at(to, reach.min(0), reach.max(0) + end);
                    let from = (&vectors[run.start * lanes..], lanes);
                    self.kernels.transpose(from, (run.len(), channels), (to, apart));
                }
            } else {
                let pitch = (row.len * size_of::<T>()) as isize;
                assert!(turned.len() >= row.len * channels);
                let rows = (turned.as_mut_ptr(), pitch);
                self.kernels.transpose((vectors, lanes), (row.len, channels), rows);
                for (channel, values) in turned.chunks_exact(row.len).take(channels).enumerate() {
                    self.put(to + channel as isize * apart, 0..row.len, values);
                }
            }
        }
    }

    /// Writes rows of results of the same tiles of an output channel, not yet with bias and activation, but
    /// those of tiles that are not finite, which it takes down.
    ///
    /// # Safety
    /// No other thread may access these results meanwhile.
    unsafe fn set_apart(&self, output: usize, rows: &[Row], lines: &[&[T]]) -> Result<(), Error> {
        let (store, weave) = (self.problem.store, self.plane.weave);
        let to = output as isize * store.out.strides()[0];
        let first = output * self.problem.geometry.positions();
        let each = self.tiling.dealt().map_or(1, Form::outputs);
        let spoiled = odd::spoiled((each, weave.width), lines);
        let (mut spots, mut finished) = (Vec::new(), Vec::new());
        for (row, line) in rows.iter().zip(lines) {
            for part in odd::sound(&spoiled, row.len) {
                finished.clear();
                let sums = line[part.clone()].iter();
                finished.extend(sums.map(|&sum| store.finished(output, sum)));
                // SAFETY: the caller keeps other threads away.
                unsafe { self.put(to + row.to, part, &finished) }
            }
            spots.extend(odd::spots(&spoiled, (row, weave), (first, to, store.step())));
        }
        let mut odd = self.spots();
        odd.try_reserve(spots.len()).map_err(|_| Error::NoMemory {
            what: "the list of tiles that are not finite",
            bytes: (odd.len() * size_of::<Spot>()) as u128,
        })?;
        odd.extend(spots);
        Ok(())
    }
}
