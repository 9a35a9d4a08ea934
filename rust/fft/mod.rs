//! Convolution by transforms, for long kernels: overlap-save.
//!
//! `docs/fft.md` has the method, its error and what was measured. In short: blocks of the input are
//! staged as a [slab](crate::slab) is, transformed ([`block`]), multiplied by the transforms of the
//! weights, summed over channels, and transformed back; what wrapped around is dropped. Transforms of
//! an input channel serve all outputs, those of the weights all blocks and images.
//!
//! Every step is made of fused multiply-adds in an order that the problem alone decides
//! ([`tiling`]), so the promise of the direct method holds here as well: the same bits for any number of
//! threads, layout, batch and instruction set.
//!
//! What is not finite never enters a transform, where it would reach every result: it is set aside while
//! staging, and its own products are added to those results whose windows hold it. Numbers so large
//! that a sum in a transform might overflow are scaled by a power of two.

pub mod block;
pub mod tiling;
mod tree;
mod vector;

use std::any::Any;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use block::Transformed;

use crate::contract::{self, Problem};
use crate::error::{Error, room};
use crate::geometry::{Activation, Axis, Geometry};
use crate::parallel::{Stopped, Team, Turn, even_part, with_scratch};
use crate::slab::{row, split};
use crate::tile::Kernels;
use crate::view::{Element, Run, Runs, ViewMut, advance};
use block::{Engine, Products, Touch, Transform, Values};
use tiling::Tiling;

/// Bytes of the weights' values that are held at a time.
const SPECTRA_BYTES: usize = 64 << 20;

/// Bytes of values of the input and the result that a thread holds at a time.
const VALUES_BYTES: usize = 3 << 20;

/// Items that each thread gets at least where there is work enough.
const ITEMS_PER_THREAD: usize = 4;

/// Results below which a call stays on its caller's thread, counted with the transforms of weights.
const SERIAL: usize = 1 << 15;

/// Blocks and their transform, with where elements lie in a block.
#[derive(Debug)]
pub struct Blocks<T> {
    tiling: Tiling,
    transform: Transform<T>,
    /// Elements between neighbours on each axis.
    pitches: Vec<usize>,
}

impl<T: Transformed> Blocks<T> {
    /// For a convolution, with vectors of some lanes.
    pub fn new(geometry: &Geometry, lanes: usize) -> Result<Self, Error> {
        let tiling = Tiling::new(geometry, size_of::<T>())?;
        let transform = Transform::new(&tiling.shape, lanes)?;
        let mut pitches = vec![0; tiling.sides.len()];
        let mut pitch = 1;
        for (a, side) in tiling.sides.iter().enumerate().rev() {
            if side.size > 1 || a == tiling.inner {
                pitches[a] = pitch;
                pitch = if a == tiling.inner { transform.pitch() } else { pitch * side.size };
            }
        }
        Ok(Blocks { tiling, transform, pitches })
    }

    /// Where element `q` of an axis lies.
    fn place(&self, axis: usize, q: usize) -> usize {
        if axis != self.tiling.fold {
            return q * self.pitches[axis];
        }
        let half = self.tiling.sides[axis].size / 2;
        if q < half {
            q * self.pitches[axis]
        } else {
            self.transform.plane() + (q - half) * self.pitches[axis]
        }
    }

    /// The element of each axis that lies at `at`.
    fn coordinates(&self, at: usize) -> Vec<usize> {
        let plane = self.transform.plane();
        let mut left = at % plane;
        let mut found: Vec<usize> = self
            .pitches
            .iter()
            .map(|&pitch| {
                let q = left.checked_div(pitch).unwrap_or(0);
                left -= q * pitch;
                q
            })
            .collect();
        found[self.tiling.fold] += at / plane * (self.tiling.sides[self.tiling.fold].size / 2);
        found
    }

    /// Channels and their phases.
    fn inputs(&self, geometry: &Geometry) -> usize {
        geometry.channels * self.tiling.phases()
    }

    /// The phase of each axis that phase `index` of a channel is.
    fn phase(&self, index: usize) -> Vec<usize> {
        let mut left = index;
        let mut phase = vec![0; self.tiling.sides.len()];
        for (to, side) in phase.iter_mut().zip(&self.tiling.sides).rev() {
            *to = left % side.phases.len();
            left /= side.phases.len();
        }
        phase
    }

    /// Blocks of all images.
    fn count(&self, geometry: &Geometry) -> usize {
        geometry.axes[0].output * self.tiling.blocks().product::<usize>()
    }

    /// The outputs of block `index`, on each axis.
    fn outputs(&self, index: usize) -> Vec<Range<usize>> {
        let counts: Vec<usize> = self.tiling.blocks().collect();
        let mut left = index;
        let mut ranges = vec![0..0; counts.len()];
        for ((range, n), side) in ranges.iter_mut().zip(counts).zip(&self.tiling.sides).rev() {
            let start = left % n * side.len;
            *range = start..side.axis.output.min(start + side.len);
            left /= n;
        }
        // These blocks are of one image, whichever it is.
        ranges[0] = left..left + 1;
        ranges
    }

    /// The runs that fill a block of one phase, and how many elements they are.
    fn runs(
        &self,
        geometry: &Geometry,
        outputs: &[Range<usize>],
        phase: &[usize],
        strides: &[isize],
    ) -> (Runs, usize) {
        let mut runs = vec![Run { to: 0, len: 1, from: Some((0, 0)) }];
        let inner = self.tiling.inner;
        let mut read = 1;
        // The inner axis last: it alone has runs of more than one.
        let order = (0..self.pitches.len()).filter(|&a| a != inner).chain([inner]);
        for a in order {
            let (side, range) = (&self.tiling.sides[a], &outputs[a]);
            let axis = &geometry.axes[a];
            let count = range.len() + side.reach;
            read *= count;
            let first = range.start * axis.stride + side.phases[phase[a]].residue;
            let mut along = Vec::new();
            row(axis, first..first + count * axis.stride, strides[a], &mut along);
            if a != inner {
                split(&mut along, 0);
            }
            along.iter_mut().for_each(|run| run.to = self.place(a, run.to));
            let join = |outer: &Run, inner: &Run| Run {
                to: outer.to + inner.to,
                len: inner.len,
                from: outer.from.zip(inner.from).map(|((row, _), (at, step))| (row + at, step)),
            };
            runs = runs.iter().flat_map(|o| along.iter().map(move |i| join(o, i))).collect();
        }
        (Runs::new(runs), read)
    }
}

/// Keeps the blocks of the last few problems of a thread, since their tables take longer to make than a
/// small call: those of 4096 numbers some 100 us. A thread's own: a lock that another held in a fork
/// would never be released in the child.
fn cached<T: Transformed>(geometry: &Geometry, lanes: usize) -> Result<Arc<Blocks<T>>, Error> {
    /// Most problems that are kept.
    const KEPT: usize = 8;
    /// Most bytes of tables that one of them may have.
    const KEPT_BYTES: usize = 2 << 20;
    type Kept = (Geometry, usize, Arc<dyn Any + Send + Sync>);
    thread_local!(static CACHE: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) });
    // Neither the batch nor the order of axes in memory matters to blocks.
    let mut key = Geometry { batched: true, channels_last: false, ..geometry.clone() };
    key.axes[0] = Axis::plain(1);
    CACHE.with_borrow_mut(|cache| {
        let mut entries = cache.iter();
        let found = entries.position(|(geometry, n, blocks)| {
            *geometry == key && *n == lanes && blocks.is::<Blocks<T>>()
        });
        if let Some(index) = found {
            let entry = cache.remove(index);
            let blocks = entry.2.clone();
            cache.push(entry);
            return Ok(blocks.downcast().expect("found by its type"));
        }
        let blocks = Arc::new(Blocks::<T>::new(&key, lanes)?);
        if blocks.transform.bytes() <= KEPT_BYTES {
            if cache.len() == KEPT {
                cache.remove(0);
            }
            cache.push((key, lanes, blocks.clone()));
        }
        Ok(blocks)
    })
}

/// 2 to a power.
fn power<T: Element>(bits: i32) -> T {
    T::from_f64(f64::powi(2.0, bits))
}

/// The values of some outputs' weights. They serve all blocks of all images.
#[derive(Debug)]
pub struct Spectra<T> {
    values: Vec<T>,
    /// The output channels that they are of.
    outputs: Range<usize>,
    /// Outputs of one group among them.
    rows: usize,
    /// Elements between vectors.
    pitch: usize,
    /// Elements of one group.
    group: usize,
    /// What results must be multiplied by.
    scale: Option<T>,
}

impl<T: Transformed> Spectra<T> {
    /// Of output channels `outputs`, which must be whole groups or lie within one. `None` where a weight
    /// is not finite.
    pub fn new(
        problem: &Problem<'_, T>,
        blocks: &Blocks<T>,
        outputs: Range<usize>,
        (engine, team): (&Engine<T>, &Team<'_>),
    ) -> Result<Option<Self>, Stopped> {
        let geometry = problem.geometry;
        let (transform, inputs) = (&blocks.transform, blocks.inputs(geometry));
        let rows = outputs.len().min(geometry.outputs);
        let pitch = ((rows * inputs) | 1) * transform.unit();
        let group = pitch * transform.units();
        let size = group.saturating_mul(outputs.len().div_ceil(rows));
        let mut spectra = Spectra { values: Vec::new(), outputs, rows, pitch, group, scale: None };
        spectra.values = room("the transformed weights", size)?;
        // SAFETY: room for `size` was made; every bit pattern is a float, but what is never written must
        // not be read: the loop below writes all that `values` hands out.
        spectra.values.resize(size, T::default());
        for shrink in [None, Some(T::MOST_BITS - T::WEIGHT_BITS)] {
            let (large, wrong) = (AtomicBool::new(false), AtomicBool::new(false));
            let (count, len) = (spectra.outputs.len() * geometry.channels, spectra.values.len());
            let first = spectra.outputs.start;
            let values = ViewMut::from_slice(&mut spectra.values, &[len]);
            team.share(count.div_ceil(WEIGHTS_PER_ITEM), |turn| {
                with_scratch(transform.size() + transform.panel(), |scratch: &mut [T]| {
                    let mut stager = Stager::new(blocks, shrink)?;
                    while let Some(item) = turn.next() {
                        let from = item * WEIGHTS_PER_ITEM;
                        for at in from..count.min(from + WEIGHTS_PER_ITEM) {
                            let (o, c) = (at / geometry.channels, at % geometry.channels);
                            for phase in 0..stager.phases.len() {
                                let (block, panel) = scratch.split_at_mut(transform.size());
                                stager.stage(problem, (first + o, c), phase, block);
                                let limit = power(T::MOST_BITS - T::WEIGHT_BITS);
                                // SAFETY: the engine is this CPU's, the block whole vectors.
                                if !unsafe { (engine.tame)(block.as_ptr(), block.len(), limit) } {
                                    let finite = block.iter().all(|v| v.to_f64().is_finite());
                                    (if finite { &large } else { &wrong })
                                        .store(true, Ordering::Relaxed);
                                }
                                let at = (o / rows) * group
                                    + (o % rows * inputs + c * stager.phases.len() + phase)
                                        * transform.unit();
                                let bytes = (size_of::<T>() * at) as isize;
                                let reach = (transform.units() - 1) * pitch + transform.unit();
                                let to = values.at(bytes, 0, (reach * size_of::<T>()) as isize);
                                // SAFETY: the engine is this CPU's; block and panel have their sizes;
                                // `at` checked the reach, and each item has vectors of its own.
                                unsafe {
                                    let to = Values { at: to, pitch };
                                    (engine.analyse)(
                                        transform,
                                        block.as_mut_ptr(),
                                        panel.as_mut_ptr(),
                                        to,
                                    );
                                }
                            }
                            if !turn.goes_on(transform.size()) {
                                break;
                            }
                        }
                    }
                    Ok(())
                })?
            })?;
            if wrong.into_inner() {
                return Ok(None);
            }
            if shrink.is_none() && large.into_inner() {
                spectra.scale = Some(power(T::MOST_BITS - T::WEIGHT_BITS));
                continue;
            }
            break;
        }
        Ok(Some(spectra))
    }

    /// The values of an output channel and those that follow it in its group.
    fn from(&self, output: usize, inputs: usize, unit: usize) -> Values<T> {
        let at = output - self.outputs.start;
        let start = at / self.rows * self.group + at % self.rows * inputs * unit;
        Values { at: self.values[start..].as_ptr().cast_mut(), pitch: self.pitch }
    }
}

/// Pairs of an output and an input channel whose weights are transformed at a time.
const WEIGHTS_PER_ITEM: usize = 16;

/// Puts weights where products with blocks become sums over windows: tap t at -t.
struct Stager<T> {
    /// For each phase of a channel, on each spatial axis: taps, where they go, and their sign there.
    phases: Vec<Vec<Vec<(usize, usize, T)>>>,
    row: Vec<T>,
}

impl<T: Transformed> Stager<T> {
    fn new(blocks: &Blocks<T>, shrink: Option<i32>) -> Result<Self, Error> {
        let tiling = &blocks.tiling;
        let gain = f64::powi(2.0, -shrink.unwrap_or(0)) / blocks.transform.gain() as f64;
        let of = |phase: usize| {
            let phase = blocks.phase(phase);
            let sides = tiling.sides.iter().enumerate().skip(1);
            sides
                .map(|(a, side)| {
                    let taps = side.phases[phase[a]].taps.iter();
                    taps.map(|&(tap, shift)| {
                        let at = blocks.place(a, if shift == 0 { 0 } else { side.size - shift });
                        // The axis that is folded wraps around with the other sign.
                        let sign = if a == tiling.fold && shift > 0 { -1.0 } else { 1.0 };
                        let gain = if a == tiling.inner { gain } else { 1.0 };
                        (tap, at, T::from_f64(sign * gain))
                    })
                    .collect()
                })
                .collect()
        };
        let phases = (0..tiling.phases()).map(of).collect();
        let taps = tiling.sides[tiling.sides.len() - 1].axis.kernel;
        let mut row = room("a row of weights", taps)?;
        row.resize(taps, T::default());
        Ok(Stager { phases, row })
    }

    fn stage(
        &mut self,
        problem: &Problem<'_, T>,
        (output, channel): (usize, usize),
        phase: usize,
        block: &mut [T],
    ) {
        block.fill(T::default());
        let (inner, outer) = self.phases[phase].split_last().expect("spatial axes");
        let counts: Vec<usize> = outer.iter().map(Vec::len).collect();
        let (mut index, mut taps) = (vec![0; outer.len()], vec![0; outer.len()]);
        for _ in 0..counts.iter().product() {
            let (mut at, mut sign) = (0, T::from_f64(1.0));
            for ((axis, &i), tap) in outer.iter().zip(&index).zip(&mut taps) {
                *tap = axis[i].0;
                at += axis[i].1;
                sign = sign.mul(axis[i].2);
            }
            problem.weights.read_row(output, channel, &taps, &mut self.row);
            for &(tap, place, factor) in inner {
                block[at + place] = self.row[tap].mul(sign.mul(factor));
            }
            advance(&mut index, &counts);
        }
    }
}

/// Computes a convolution by transforms.
pub fn convolve<T: Transformed>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    if geometry.positions() * geometry.outputs * geometry.groups == 0 || geometry.channels == 0 {
        return contract::direct(problem, kernels, team);
    }
    let engine = T::engine(kernels.isa);
    let blocks = cached::<T>(geometry, engine.lanes)?;
    let outputs = geometry.groups * geometry.outputs;
    let work =
        geometry.positions() * outputs + outputs * geometry.channels * blocks.transform.size();
    let threads = if work < SERIAL { 1 } else { team.threads };
    let team = Team { threads, stop: team.stop };
    let each = blocks.inputs(geometry) * blocks.transform.units() * blocks.transform.unit();
    let most = (SPECTRA_BYTES / size_of::<T>() / each).max(1);
    // Whole groups, or parts of one.
    let step =
        if most >= geometry.outputs { most / geometry.outputs * geometry.outputs } else { most };
    let mut first = 0;
    while first < outputs {
        let group_end = (first / geometry.outputs + 1) * geometry.outputs;
        let end = if step >= geometry.outputs { first + step } else { group_end.min(first + step) };
        let part = first..end.min(outputs);
        first = part.end;
        let Some(spectra) = Spectra::new(problem, &blocks, part, (engine, &team))? else {
            // What is not finite among the weights is for the plain sum.
            return contract::direct(problem, kernels, &team);
        };
        let nest = Nest::new(problem, &blocks, &spectra, (engine, team.threads));
        team.share(nest.items(), |turn| nest.work(turn))?;
    }
    Ok(())
}

/// What all threads share while they convolve with some spectra.
struct Nest<'a, T: Transformed> {
    problem: &'a Problem<'a, T>,
    blocks: &'a Blocks<T>,
    spectra: &'a Spectra<T>,
    engine: &'a Engine<T>,
    /// Blocks of all images.
    positions: usize,
    /// Parts that they are cut into.
    parts: usize,
    /// Parts that outputs are cut into.
    cuts: usize,
}

/// An element that is not finite: which block of a part, which input, where, and what.
struct Odd<T> {
    position: usize,
    input: usize,
    at: usize,
    value: T,
}

impl<'a, T: Transformed> Nest<'a, T> {
    fn new(
        problem: &'a Problem<'a, T>,
        blocks: &'a Blocks<T>,
        spectra: &'a Spectra<T>,
        (engine, threads): (&'a Engine<T>, usize),
    ) -> Self {
        let positions = blocks.count(problem.geometry);
        let mut nest = Nest { problem, blocks, spectra, engine, positions, parts: 1, cuts: 1 };
        let wanted = if threads > 1 { ITEMS_PER_THREAD * threads } else { 1 };
        let groups = nest.groups();
        let fits = (VALUES_BYTES / size_of::<T>()) / nest.values(1).max(1);
        nest.parts = positions.div_ceil(fits.max(1)).max(wanted.div_ceil(groups)).min(positions);
        if nest.parts * groups < wanted {
            nest.cuts = wanted.div_ceil(nest.parts * groups).min(spectra.rows.div_ceil(4));
        }
        nest
    }

    fn groups(&self) -> usize {
        self.spectra.outputs.len() / self.spectra.rows
    }

    fn items(&self) -> usize {
        self.groups() * self.parts * self.cuts
    }

    /// Whether a group is one channel to one, which needs no values but a panel's.
    fn lone(&self) -> bool {
        self.blocks.inputs(self.problem.geometry) == 1 && self.problem.geometry.outputs == 1
    }

    /// Elements between vectors of the values of `positions` blocks of some channels.
    fn pitch(&self, positions: usize, channels: usize) -> usize {
        // Odd, so that neighbouring vectors do not share a set of the cache.
        ((positions * channels) | 1) * self.blocks.transform.unit()
    }

    /// Elements of all values of `positions` blocks.
    fn values(&self, positions: usize) -> usize {
        if self.lone() {
            return 0;
        }
        let inputs = self.blocks.inputs(self.problem.geometry);
        let outputs = self.spectra.rows.div_ceil(self.cuts);
        let pitches = self.pitch(positions, inputs).saturating_add(self.pitch(positions, outputs));
        pitches.saturating_mul(self.blocks.transform.units())
    }

    /// One thread's part: takes items until there are none.
    fn work(&self, turn: &Turn<'_>) -> Result<(), Error> {
        let transform = &self.blocks.transform;
        let (size, panel) = (transform.size(), transform.panel());
        let values = self.values(self.positions.div_ceil(self.parts));
        with_scratch(size.saturating_add(panel).saturating_add(values), |scratch: &mut [T]| {
            let (block, scratch) = scratch.split_at_mut(size);
            let (panel, values) = scratch.split_at_mut(panel);
            while let Some(item) = turn.next() {
                let (left, cut) = (item / self.cuts, item % self.cuts);
                let (group, part) = (left / self.parts, left % self.parts);
                let positions = even_part(&(0..self.positions), self.parts, part);
                let first = self.spectra.outputs.start + group * self.spectra.rows;
                let outputs = even_part(&(first..first + self.spectra.rows), self.cuts, cut);
                let item = Item { positions, outputs };
                if self.lone() {
                    self.filter(turn, &item, block, panel)?;
                } else {
                    self.multiply(turn, &item, [block, panel, values])?;
                }
            }
            Ok(())
        })?
    }

    /// An item of one channel to one.
    fn filter(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        block: &mut [T],
        panel: &mut [T],
    ) -> Result<(), Error> {
        let transform = &self.blocks.transform;
        let group = item.outputs.start / self.problem.geometry.outputs;
        let values = self.spectra.from(item.outputs.start, 1, transform.unit());
        for position in item.positions.clone() {
            let ranges = self.blocks.outputs(position);
            let runs = [self.runs(&ranges, 0)];
            let mut odd = Vec::new();
            let mut shrink = false;
            while self.stage(group, (0, &runs), shrink, block, (0, &mut odd))? {
                shrink = true;
                odd.clear();
            }
            // SAFETY: the engine is this CPU's; block and panel have their sizes, and the spectra a value
            // for each of the block's.
            unsafe {
                (self.engine.filter)(transform, block.as_mut_ptr(), panel.as_mut_ptr(), values)
            }
            self.store(item.outputs.start, &ranges, block, (shrink, &odd));
            if !turn.goes_on(transform.size()) {
                break;
            }
        }
        Ok(())
    }

    /// An item of several channels.
    fn multiply(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        [block, panel, values]: [&mut [T]; 3],
    ) -> Result<(), Error> {
        let (geometry, transform) = (self.problem.geometry, &self.blocks.transform);
        let (inputs, phases) = (self.blocks.inputs(geometry), self.blocks.tiling.phases());
        let group = item.outputs.start / geometry.outputs;
        let (count, outputs) = (item.positions.len(), item.outputs.len());
        let (units, unit) = (transform.units(), transform.unit());
        let from_pitch = self.pitch(count, inputs);
        let (from, to) = values.split_at_mut(from_pitch * units);
        let from = Values { at: from.as_mut_ptr(), pitch: from_pitch };
        let to_pitch = self.pitch(count, outputs);
        let to = Values { at: to[..to_pitch * units].as_mut_ptr(), pitch: to_pitch };
        let mut odd = Vec::new();
        let mut shrunk = room("the list of blocks", count)?;
        for (p, position) in item.positions.clone().enumerate() {
            let ranges = self.blocks.outputs(position);
            let runs: Vec<_> = (0..phases).map(|phase| self.runs(&ranges, phase)).collect();
            let mut shrink = false;
            let known = odd.len();
            let mut input = 0;
            while input < inputs {
                if self.stage(group, (input, &runs), shrink, block, (p, &mut odd))? {
                    // Once more from the first channel, all of them smaller.
                    (shrink, input) = (true, 0);
                    odd.truncate(known);
                    continue;
                }
                let to = Values { at: from.at.wrapping_add((p * inputs + input) * unit), ..from };
                // SAFETY: the engine is this CPU's; block and panel have their sizes, and each vector of
                // `from` one unit for each input of each position.
                unsafe {
                    (self.engine.analyse)(transform, block.as_mut_ptr(), panel.as_mut_ptr(), to)
                }
                input += 1;
                if !turn.goes_on(transform.size()) {
                    return Ok(());
                }
            }
            shrunk.push(shrink);
        }
        let weights = self.spectra.from(item.outputs.start, inputs, unit);
        let products =
            Products { weights, from, to, channels: inputs, outputs, positions: count, units };
        // SAFETY: as above; the spectra hold `inputs` values of each output from the first on.
        unsafe { (self.engine.products)(&products) }
        for (p, position) in item.positions.clone().enumerate() {
            let ranges = self.blocks.outputs(position);
            let start = odd.partition_point(|o: &Odd<T>| o.position < p);
            let end = odd.partition_point(|o| o.position <= p);
            for (o, output) in item.outputs.clone().enumerate() {
                let from = Values { at: to.at.wrapping_add((p * outputs + o) * unit), ..to };
                // SAFETY: as above.
                unsafe {
                    (self.engine.synthesise)(
                        transform,
                        block.as_mut_ptr(),
                        panel.as_mut_ptr(),
                        from,
                    );
                }
                self.store(output, &ranges, block, (shrunk[p], &odd[start..end]));
                if !turn.goes_on(transform.size()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn runs(&self, ranges: &[Range<usize>], phase: usize) -> (Runs, usize) {
        let strides = &self.problem.x.strides()[1..];
        self.blocks.runs(self.problem.geometry, ranges, &self.blocks.phase(phase), strides)
    }

    /// Stages one input of a block. What is not finite goes to `odd`, and zeros stand in its place.
    /// Returns whether there are numbers too large for a transform, unless they have been shrunk.
    fn stage(
        &self,
        group: usize,
        (input, runs): (usize, &[(Runs, usize)]),
        shrink: bool,
        block: &mut [T],
        (position, odd): (usize, &mut Vec<Odd<T>>),
    ) -> Result<bool, Error> {
        let (channel, phase) = (input / runs.len(), input % runs.len());
        let (runs, read) = &runs[phase];
        if *read < block.len() {
            block.fill(T::default());
        }
        let x = self.problem.x;
        let channel = (group * self.problem.geometry.channels + channel) as isize;
        x.read_runs(channel * x.strides()[0], runs, self.problem.padding, block);
        let limit = power(T::MOST_BITS - T::INPUT_BITS);
        // SAFETY: the engine is this CPU's; the block is whole vectors.
        if unsafe { (self.engine.tame)(block.as_ptr(), block.len(), limit) } {
            if shrink {
                self.shrink(block);
            }
            return Ok(false);
        }
        let mut large = false;
        let bound = f64::powi(2.0, T::INPUT_BITS);
        for (at, value) in block.iter_mut().enumerate() {
            if !value.to_f64().is_finite() {
                odd.try_reserve(1).map_err(|_| Error::NoMemory {
                    what: "the list of numbers that are not finite",
                    bytes: (odd.len() * size_of::<Odd<T>>()) as u128,
                })?;
                odd.push(Odd { position, input, at, value: *value });
                *value = T::default();
            }
            large |= value.to_f64().abs() >= bound;
        }
        if shrink {
            self.shrink(block);
        }
        Ok(large && !shrink)
    }

    fn shrink(&self, block: &mut [T]) {
        let factor = power::<T>(T::INPUT_BITS - T::MOST_BITS);
        block.iter_mut().for_each(|value| *value = value.mul(factor));
    }

    /// Writes a block of results.
    fn store(
        &self,
        output: usize,
        ranges: &[Range<usize>],
        block: &mut [T],
        (shrunk, odd): (bool, &[Odd<T>]),
    ) {
        let store = self.problem.store;
        let touch = Touch { scale: None, bias: None, clip: None };
        let grown = shrunk.then(|| power(T::MOST_BITS - T::INPUT_BITS));
        for scale in [grown, self.spectra.scale].into_iter().flatten() {
            // SAFETY: the engine is this CPU's; the block is whole vectors.
            unsafe {
                let touch = Touch { scale: Some(scale), ..touch };
                (self.engine.touch)(block.as_mut_ptr(), block.len(), &touch);
            }
        }
        for odd in odd {
            self.add(output, ranges, odd, block);
        }
        let clip = match store.activation {
            Activation::None => None,
            Activation::Relu => Some((0.0, f64::INFINITY)),
            Activation::Clip { low, high } => Some((low, high)),
        };
        let clip = clip.map(|(low, high)| (T::from_f64(low), T::from_f64(high)));
        let touch = Touch { bias: store.bias.get(output).copied(), clip, ..touch };
        let plain = touch.bias.is_none() && touch.clip.is_none();
        let inner = self.blocks.tiling.inner;
        let strides = store.out.strides();
        let counts: Vec<usize> = ranges
            .iter()
            .enumerate()
            .map(|(a, range)| if a == inner { 1 } else { range.len() })
            .collect();
        let first: isize =
            ranges.iter().zip(&strides[1..]).map(|(r, &s)| r.start as isize * s).sum();
        let first = first + output as isize * strides[0];
        let mut index = vec![0; counts.len()];
        let len = ranges[inner].len();
        for _ in 0..counts.iter().product() {
            let (mut at, mut to) = (0, first);
            for (a, &i) in index.iter().enumerate() {
                at += self.blocks.place(a, i);
                to += i as isize * strides[a + 1];
            }
            let row = &mut block[at..];
            if !plain {
                let whole = len.next_multiple_of(self.engine.lanes);
                // SAFETY: rows begin at whole vectors of the block, which ends with one.
                unsafe { (self.engine.touch)(row[..whole].as_mut_ptr(), whole, &touch) }
            }
            // SAFETY: each item has outputs and blocks of its own, and one thread takes it.
            unsafe { store.out.write(to, strides[inner + 1], &row[..len]) }
            advance(&mut index, &counts);
        }
    }

    /// Adds the products of what is not finite with the weights that see it.
    fn add(&self, output: usize, ranges: &[Range<usize>], odd: &Odd<T>, block: &mut [T]) {
        let blocks = self.blocks;
        let phases = blocks.tiling.phases();
        let (channel, phase) = (odd.input / phases, blocks.phase(odd.input % phases));
        let position = blocks.coordinates(odd.at);
        // On each spatial axis, taps that see it, and the outputs that they are of.
        let sides = blocks.tiling.sides.iter().enumerate().skip(1);
        let seen: Vec<Vec<(usize, usize)>> = sides
            .map(|(a, side)| {
                let taps = side.phases[phase[a]].taps.iter();
                let at = |shift: &usize| {
                    position[a].checked_sub(*shift).filter(|&p| p < ranges[a].len())
                };
                taps.filter_map(|(tap, shift)| Some((*tap, blocks.place(a, at(shift)?)))).collect()
            })
            .collect();
        let (inner, outer) = seen.split_last().expect("spatial axes");
        let counts: Vec<usize> = outer.iter().map(Vec::len).collect();
        let (mut index, mut taps) = (vec![0; outer.len()], vec![0; outer.len()]);
        let mut row = vec![T::default(); blocks.tiling.sides[ranges.len() - 1].axis.kernel];
        for _ in 0..counts.iter().product() {
            let mut at = 0;
            for ((axis, &i), tap) in outer.iter().zip(&index).zip(&mut taps) {
                *tap = axis[i].0;
                at += axis[i].1;
            }
            self.problem.weights.read_row(output, channel, &taps, &mut row);
            for &(tap, place) in inner {
                let sum = &mut block[at + place];
                *sum = row[tap].mul_add(odd.value, *sum);
            }
            advance(&mut index, &counts);
        }
    }
}

/// What a thread does at a time.
struct Item {
    /// Blocks, counted through all images.
    positions: Range<usize>,
    /// Output channels of one group.
    outputs: Range<usize>,
}
