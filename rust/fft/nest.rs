//! The loop nest: which blocks are transformed when, by which thread, and what becomes of them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::contract::wanted_items;
use crate::error::Error;
use crate::memory::{Workspace, with_scratch};
use crate::parallel::{Stopped, Team, Turn, even_part, even_parts};
use crate::problem::Problem;
use crate::view::{Runs, ViewMut, advance};

use super::block::{Engine, Products, Touch, Transformed, Values};
use super::blocks::Blocks;
use super::power;
use super::spectra::{Seen, Spectra, Stager};

/// Bytes of values of the input and the result that a thread holds at a time: more than a second-level
/// cache where the weights' values are more than that as well, and are better read seldom.
const VALUES_BYTES: usize = 3 << 20;
/// The most of them.
pub const MOST_VALUES_BYTES: usize = 16 << 20;

/// Bytes of the values of a whole input that threads share, at most.
pub const SHARED_BYTES: usize = 32 << 20;

/// Bytes of the weights' values that a thread makes at a time from a shared input, and of how many
/// outputs: each time the input is read, from the last cache or beyond.
pub const WEIGHTS_BYTES: usize = 8 << 20;
const MOST_ROWS: usize = 16;

/// Bytes of the weights' values that are as good as nothing.
const FEW_BYTES: usize = 1 << 20;

/// Inputs of a block that are transformed at a time.
const INPUTS_PER_ITEM: usize = 8;

/// What all threads share.
pub struct Nest<'a, T: Transformed> {
    /// The convolution.
    pub problem: &'a Problem<'a, T>,
    /// Its blocks.
    pub blocks: &'a Blocks<T>,
    /// What transforms them.
    pub engine: &'a Engine<T>,
    /// Whether the weights were made smaller.
    pub heavy: bool,
}

/// An element that is not finite: in which block, of which input, where, and what.
#[derive(Clone, Copy, Debug)]
struct Odd<T> {
    position: usize,
    input: usize,
    at: usize,
    value: T,
}

/// How the inputs of a block are read.
struct Reads {
    /// Elements on each axis.
    counts: Vec<usize>,
    /// The runs of each phase of a channel.
    phases: Vec<Runs>,
}

/// What has become of a block's inputs.
struct Staged<'a, T> {
    /// Whether they were made smaller.
    shrunk: bool,
    /// What was subtracted from each of them.
    levels: &'a [f64],
    /// What is not finite.
    odd: &'a [Odd<T>],
}

/// What becomes of results that see something that is not finite.
struct Spoiled<T> {
    /// Where those lie that see a NaN.
    nan: Vec<usize>,
    /// What else there is.
    infinite: Vec<Odd<T>>,
}

/// What a thread does at a time.
struct Item {
    /// Blocks, counted through all images.
    positions: Range<usize>,
    /// Output channels of one group.
    outputs: Range<usize>,
}

/// How a convolution with some spectra is cut into items.
#[derive(Clone, Copy, Debug)]
struct Split {
    /// Parts of the blocks.
    parts: usize,
    /// Parts of a group's outputs.
    cuts: usize,
}

/// A block and a panel to work in.
struct Desk<'a, T> {
    block: &'a mut [T],
    panel: &'a mut [T],
}

impl<T: Transformed> Nest<'_, T> {
    /// Blocks of all images.
    fn positions(&self) -> usize {
        self.blocks.count(self.problem.geometry)
    }

    /// Input channels of a group, phases counted.
    fn inputs(&self) -> usize {
        self.blocks.inputs(self.problem.geometry)
    }

    /// Whether a group is one channel to one, which needs no values but a panel's.
    fn lone(&self) -> bool {
        self.inputs() == 1 && self.problem.geometry.outputs == 1
    }

    /// Elements between vectors of the values of `positions` blocks of some channels.
    fn pitch(&self, positions: usize, channels: usize) -> usize {
        // Odd, so that neighbouring vectors do not share a set of the cache.
        (positions.saturating_mul(channels) | 1).saturating_mul(self.blocks.transform.unit())
    }

    /// Elements of such values.
    fn values(&self, positions: usize, channels: usize) -> usize {
        self.pitch(positions, channels).saturating_mul(self.blocks.transform.units())
    }

    /// Scratch of a block and a panel.
    fn desk(&self) -> usize {
        self.blocks.transform.size() + self.blocks.transform.panel()
    }

    fn split_desk<'b>(&self, scratch: &'b mut [T]) -> (Desk<'b, T>, &'b mut [T]) {
        let (block, rest) = scratch.split_at_mut(self.blocks.transform.size());
        let (panel, rest) = rest.split_at_mut(self.blocks.transform.panel());
        (Desk { block, panel }, rest)
    }

    /// Output channels whose weights are made at a time from a shared input, if that is how less memory
    /// goes through the caches than if weights are made once and read for every part of the input. Both
    /// ways give the same bits.
    pub fn shares_input(&self, threads: usize) -> Option<usize> {
        let outputs = self.problem.geometry.outputs;
        let bytes =
            |positions, channels| self.values(positions, channels) as f64 * size_of::<T>() as f64;
        let row = bytes(self.inputs(), 1);
        let weights = row * outputs as f64;
        let (from, to) = (bytes(self.positions(), self.inputs()), bytes(self.positions(), outputs));
        if weights <= FEW_BYTES as f64 || from > SHARED_BYTES as f64 {
            return None;
        }
        let fits = (WEIGHTS_BYTES as f64 / row)
            .min(MOST_VALUES_BYTES as f64 / bytes(self.positions(), 1))
            .min(MOST_ROWS as f64) as usize;
        if fits < outputs.min(4) {
            return None;
        }
        let rows = fits.min(outputs.div_ceil(threads));
        let parts = ((from + to) / MOST_VALUES_BYTES as f64).ceil();
        let shared = from * (1.0 + (outputs as f64 / rows as f64).ceil()) + to;
        let parted = weights * (1.0 + parts) + 2.0 * (from + to);
        (shared < parted).then_some(rows)
    }

    /// All results of the outputs that some spectra are of.
    pub fn with_spectra(&self, spectra: &Spectra, team: &Team<'_>) -> Result<(), Stopped> {
        let split = self.split(spectra, team.threads);
        let groups = spectra.outputs.len() / spectra.rows;
        let most = self.positions().div_ceil(split.parts);
        let values = if self.lone() {
            0
        } else {
            let outputs = spectra.rows.div_ceil(split.cuts);
            self.values(most, self.inputs()).saturating_add(self.values(most, outputs))
        };
        team.share(groups * split.parts * split.cuts, |turn| {
            with_scratch(self.desk().saturating_add(values), |scratch: &mut [T]| {
                let (mut desk, values) = self.split_desk(scratch);
                while let Some(item) = turn.next() {
                    let (left, cut) = (item / split.cuts, item % split.cuts);
                    let (group, part) = (left / split.parts, left % split.parts);
                    let positions = even_part(&(0..self.positions()), split.parts, part);
                    let first = spectra.outputs.start + group * spectra.rows;
                    let outputs = even_part(&(first..first + spectra.rows), split.cuts, cut);
                    let item = Item { positions, outputs };
                    if self.lone() {
                        self.filter(turn, &item, spectra, &mut desk)?;
                    } else {
                        self.multiply(turn, &item, spectra, (&mut desk, values))?;
                    }
                }
                Ok(())
            })?
        })
    }

    fn split(&self, spectra: &Spectra, threads: usize) -> Split {
        let positions = self.positions();
        let wanted = wanted_items(threads);
        let groups = spectra.outputs.len() / spectra.rows;
        if self.lone() {
            return Split { parts: wanted.div_ceil(groups).min(positions), cuts: 1 };
        }
        let weights = self.values(self.inputs(), spectra.rows) * size_of::<T>();
        let budget = weights.clamp(VALUES_BYTES, MOST_VALUES_BYTES) / size_of::<T>();
        let one = self.values(1, self.inputs()) + self.values(1, spectra.rows);
        let mut parts = positions.div_ceil((budget / one).max(1));
        let mut cuts = 1;
        if parts * groups < wanted {
            // As many parts as blocks allow, then parts of the outputs, each of which transforms the input
            // anew.
            parts = wanted.div_ceil(groups).min(positions);
            cuts = wanted.div_ceil(parts * groups).min(spectra.rows.div_ceil(4));
        }
        Split { parts, cuts }
    }

    /// An item of one channel to one.
    fn filter(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        spectra: &Spectra,
        desk: &mut Desk<'_, T>,
    ) -> Result<(), Error> {
        let transform = &self.blocks.transform;
        let (output, group) = (item.outputs.start, item.outputs.start);
        let values = spectra.of(output, transform.unit());
        for position in item.positions.clone() {
            let ranges = self.blocks.outputs(position);
            let reads = self.reads(&ranges);
            let mut odd = Vec::new();
            let mut level = self.stage(group, (0, &reads), false, desk.block, (0, &mut odd))?;
            let shrunk = level.is_none();
            if shrunk {
                odd.clear();
                level = self.stage(group, (0, &reads), true, desk.block, (0, &mut odd))?;
            }
            let levels = [level.unwrap_or(0.0)];
            let (block, panel) = (desk.block.as_mut_ptr(), desk.panel.as_mut_ptr());
            // SAFETY: the engine is this CPU's; block and panel have their sizes, and the spectra a value
            // for each of the block's.
            unsafe { (self.engine.filter)(transform, block, panel, values) }
            let staged = Staged { shrunk, levels: &levels, odd: &odd };
            let spoiled = self.spoiled(&ranges, &odd);
            self.store(output, &ranges, desk.block, (&staged, &spoiled, spectra.sums(output)));
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
        spectra: &Spectra,
        (desk, values): (&mut Desk<'_, T>, &mut [T]),
    ) -> Result<(), Error> {
        let (inputs, unit) = (self.inputs(), self.blocks.transform.unit());
        let group = item.outputs.start / self.problem.geometry.outputs;
        let count = item.positions.len();
        let (from, to) = values.split_at_mut(self.values(count, inputs));
        let from = Values { at: from.as_mut_ptr(), pitch: self.pitch(count, inputs) };
        let mut odd = Vec::new();
        let mut shrunk = vec![false; count];
        let mut levels = vec![0.0; count * inputs];
        for (p, position) in item.positions.clone().enumerate() {
            let reads = self.reads(&self.blocks.outputs(position));
            let known = odd.len();
            let mut input = 0;
            while input < inputs {
                let to = Values { at: from.at.wrapping_add((p * inputs + input) * unit), ..from };
                let found = (position, &mut odd);
                // SAFETY: each vector of `from` has a unit for each input of each block.
                let level =
                    unsafe { self.analyse(group, (input, &reads), shrunk[p], desk, found, to)? };
                match level {
                    Some(level) => {
                        levels[p * inputs + input] = level;
                        input += 1;
                    }
                    None => {
                        // Once more from the first channel, all of them smaller.
                        (shrunk[p], input) = (true, 0);
                        odd.truncate(known);
                    }
                }
                if !turn.goes_on(self.blocks.transform.size()) {
                    return Ok(());
                }
            }
        }
        let weights = (spectra.of(item.outputs.start, unit), spectra.sums(item.outputs.start));
        let staged = |p: usize| Staged {
            shrunk: shrunk[p],
            levels: &levels[p * inputs..(p + 1) * inputs],
            odd: &odd,
        };
        self.results(turn, item, (weights, from), (desk, to), staged);
        Ok(())
    }

    /// All results of a group, from the values of its whole input, which all threads share. Each makes the
    /// values of `rows` outputs' weights at a time.
    pub fn with_input(
        &self,
        (group, rows): (usize, usize),
        seen: &Seen,
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        let (inputs, positions) = (self.inputs(), self.positions());
        let (transform, phases) = (&self.blocks.transform, self.blocks.tiling.phases());
        let unit = transform.unit();
        let (size, pitch) = (self.values(positions, inputs), self.pitch(positions, inputs));
        let bytes = |elements: usize| (elements * size_of::<T>()) as isize;
        let mut from = Workspace::new::<T>("the transformed input", size)?;
        let large: Vec<AtomicBool> = (0..positions).map(|_| AtomicBool::new(false)).collect();
        let mut odd = Mutex::new(Vec::new());
        let mut levels = vec![0.0; positions * inputs];
        let pieces = inputs.div_ceil(INPUTS_PER_ITEM);
        for again in [false, true] {
            let values = ViewMut::from_slice(&mut from.elements_mut::<T>()[..size], &[size]);
            let shape = [levels.len()];
            let all_levels = ViewMut::from_slice(&mut levels, &shape);
            team.share(positions * pieces, |turn| {
                with_scratch(self.desk(), |scratch: &mut [T]| {
                    let (mut desk, _) = self.split_desk(scratch);
                    while let Some(item) = turn.next() {
                        let position = item / pieces;
                        let reads = self.reads(&self.blocks.outputs(position));
                        let shrink = again && large[position].load(Ordering::Relaxed);
                        let mut found = Vec::new();
                        for input in even_part(&(0..inputs), pieces, item % pieces) {
                            let place = position * inputs + input;
                            let at = values.at(bytes(place * unit), 0, bytes(size - pitch + unit));
                            let (to, odd) = (Values { at, pitch }, (position, &mut found));
                            // SAFETY: `at` checked that every vector's unit lies in `from`, and each item
                            // has places of its own, in `levels` as well.
                            unsafe {
                                let input = (input, &reads);
                                match self.analyse(group, input, shrink, &mut desk, odd, to)? {
                                    Some(level) => {
                                        all_levels.write(8 * place as isize, 8, &[level])
                                    }
                                    None => large[position].store(true, Ordering::Relaxed),
                                }
                            }
                            if !turn.goes_on(transform.size()) {
                                break;
                            }
                        }
                        odd.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
                    }
                    Ok(())
                })?
            })?;
            if again || !large.iter().any(|large| large.load(Ordering::Relaxed)) {
                break;
            }
            odd.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let mut odd = odd.into_inner().unwrap_or_else(PoisonError::into_inner);
        odd.sort_by_key(|o: &Odd<T>| (o.position, o.input, o.at));
        let from = ViewMut::from_slice(&mut from.elements_mut::<T>()[..size], &[size]);
        let all =
            group * self.problem.geometry.outputs..(group + 1) * self.problem.geometry.outputs;
        let chunks: Vec<_> = even_parts(all, rows).collect();
        let weights_pitch = self.pitch(rows, inputs);
        let weights_size = self.values(rows, inputs);
        let scratch = self.desk().saturating_add(weights_size);
        let scratch = scratch.saturating_add(self.values(positions, rows));
        team.share(chunks.len(), |turn| {
            let (problem, blocks, engine) = (self.problem, self.blocks, self.engine);
            let mut stager = Stager::new(problem, blocks, engine, (self.heavy, seen))?;
            with_scratch(scratch, |scratch: &mut [T]| {
                while let Some(item) = turn.next() {
                    let item = Item { positions: 0..positions, outputs: chunks[item].clone() };
                    let (weights, scratch) = scratch.split_at_mut(weights_size);
                    let at = weights.as_mut_ptr();
                    let mut sums = vec![0.0; item.outputs.len() * inputs];
                    let weights = Values { at, pitch: weights_pitch };
                    for (o, output) in item.outputs.clone().enumerate() {
                        for c in 0..inputs / phases {
                            let first = o * inputs + c * phases;
                            let at = weights.at.wrapping_add(first * unit);
                            let sums = &mut sums[first..first + phases];
                            // SAFETY: each of the weights' vectors has a unit for each input of `rows`
                            // outputs.
                            unsafe {
                                stager.put((output, c), scratch, Values { at, ..weights }, sums)
                            }
                            if !turn.goes_on(transform.size()) {
                                return;
                            }
                        }
                    }
                    let from = Values { at: from.at(0, 0, bytes(size)), pitch };
                    let (mut desk, to) = self.split_desk(scratch);
                    let staged = |p: usize| Staged {
                        shrunk: large[p].load(Ordering::Relaxed),
                        levels: &levels[p * inputs..(p + 1) * inputs],
                        odd: &odd,
                    };
                    let weights = (weights, &sums[..]);
                    self.results(turn, &item, (weights, from), (&mut desk, to), staged);
                }
            })
        })
    }

    /// Multiplies values and writes the results that they are of.
    fn results<'b>(
        &self,
        turn: &Turn<'_>,
        item: &Item,
        ((weights, sums), from): ((Values<T>, &[f64]), Values<T>),
        (desk, to): (&mut Desk<'_, T>, &mut [T]),
        staged: impl Fn(usize) -> Staged<'b, T>,
    ) {
        let (transform, inputs) = (&self.blocks.transform, self.inputs());
        let (count, outputs) = (item.positions.len(), item.outputs.len());
        let unit = transform.unit();
        let to = &mut to[..self.values(count, outputs)];
        let to = Values { at: to.as_mut_ptr(), pitch: self.pitch(count, outputs) };
        let products = Products {
            weights,
            from,
            to,
            channels: inputs,
            outputs,
            positions: count,
            units: transform.units(),
        };
        // SAFETY: the engine is this CPU's; `weights` hold the inputs of each output, `from` those of each
        // block, and `to` has room for the outputs of each.
        unsafe { (self.engine.products)(&products) }
        for (p, position) in item.positions.clone().enumerate() {
            let ranges = self.blocks.outputs(position);
            let mut staged = staged(p);
            let start = staged.odd.partition_point(|o| o.position < position);
            let end = staged.odd.partition_point(|o| o.position <= position);
            staged.odd = &staged.odd[start..end];
            let spoiled = self.spoiled(&ranges, staged.odd);
            for (o, output) in item.outputs.clone().enumerate() {
                let from = Values { at: to.at.wrapping_add((p * outputs + o) * unit), ..to };
                let (block, panel) = (desk.block.as_mut_ptr(), desk.panel.as_mut_ptr());
                // SAFETY: as above; block and panel have their sizes.
                unsafe { (self.engine.synthesise)(transform, block, panel, from) }
                self.store(output, &ranges, desk.block, (&staged, &spoiled, &sums[o * inputs..]));
                if !turn.goes_on(transform.size()) {
                    return;
                }
            }
        }
    }

    /// How a block is read.
    fn reads(&self, ranges: &[Range<usize>]) -> Reads {
        let strides = &self.problem.x.strides()[1..];
        let sides = self.blocks.tiling.sides.iter().zip(ranges);
        let phases = (0..self.blocks.tiling.phases()).map(|phase| {
            self.blocks.runs(self.problem.geometry, ranges, &self.blocks.phase(phase), strides)
        });
        Reads {
            counts: sides.map(|(side, range)| range.len() + side.reach).collect(),
            phases: phases.collect(),
        }
    }

    /// [Stages](Self::stage) one input of a block, and writes its values.
    ///
    /// # Safety
    /// `to` must be writable for a unit of each of the transform's vectors, which nothing else accesses
    /// meanwhile.
    unsafe fn analyse(
        &self,
        group: usize,
        input: (usize, &Reads),
        shrink: bool,
        desk: &mut Desk<'_, T>,
        odd: (usize, &mut Vec<Odd<T>>),
        to: Values<T>,
    ) -> Result<Option<f64>, Error> {
        let level = self.stage(group, input, shrink, desk.block, odd)?;
        if level.is_some() {
            let (block, panel) = (desk.block.as_mut_ptr(), desk.panel.as_mut_ptr());
            // SAFETY: the engine is this CPU's; block and panel have their sizes; the caller vouches for
            // `to`.
            unsafe { (self.engine.analyse)(&self.blocks.transform, block, panel, to) }
        }
        Ok(level)
    }

    /// Stages one input of a block. What is not finite goes to `odd`, and zeros stand in its place.
    /// Returns what was subtracted from each element, or `None` where there are numbers too large for a
    /// transform, unless they were shrunk.
    fn stage(
        &self,
        group: usize,
        (input, runs): (usize, &Reads),
        shrink: bool,
        block: &mut [T],
        (position, odd): (usize, &mut Vec<Odd<T>>),
    ) -> Result<Option<f64>, Error> {
        let (channel, phase) = (input / runs.phases.len(), input % runs.phases.len());
        let Reads { counts, phases, .. } = runs;
        let runs = &phases[phase];
        if counts.iter().product::<usize>() < block.len() {
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
                return Ok(Some(0.0));
            }
            return Ok(Some(self.level(counts, block)));
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
        Ok((shrink || !large).then_some(0.0))
    }

    /// Subtracts the level of a block, if it has one: what most of it is would be as large as all else in
    /// a transform, and so would the rounding errors made in it. It is found from a few elements, the same
    /// in every layout, and returned.
    fn level(&self, counts: &[usize], block: &mut [T]) -> f64 {
        /// Elements that are looked at, one a step of a lattice.
        const LOOKS: usize = 64;
        /// How many of them are enough to see that there is no level, mostly.
        const FIRST: usize = 8;
        let tiling = &self.blocks.tiling;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..LOOKS {
            // Far ones first: 8 times i, turned.
            let (mut at, mut look) = (0, i * FIRST % LOOKS + i * FIRST / LOOKS);
            for a in (tiling.fold..=tiling.inner).rev() {
                at += self.blocks.place(a, look * counts[a] / LOOKS);
                look = look * 27 % LOOKS;
            }
            let value = block[at].to_f64();
            sum += value;
            squares += value * value;
            if i + 1 == FIRST && sum * sum <= 2.0 * squares {
                return 0.0;
            }
        }
        let mean = T::from_f64(sum / LOOKS as f64);
        // The square of the mean against that of what is left: with less to gain, it stays.
        let (share, rest) = (mean.to_f64().powi(2), squares / LOOKS as f64 - mean.to_f64().powi(2));
        if share <= rest || !share.is_finite() {
            return 0.0;
        }
        let touch = Touch { scale: None, bias: Some(T::from_f64(-mean.to_f64())), clip: None };
        let (engine, inner) = (self.engine, self.blocks.tiling.inner);
        self.blocks.rows(counts, |at, _| {
            let (whole, rest) = block[at..at + counts[inner]]
                .split_at_mut(counts[inner] / engine.lanes * engine.lanes);
            // SAFETY: the engine is this CPU's; these are whole vectors.
            unsafe { (engine.touch)(whole.as_mut_ptr(), whole.len(), &touch) }
            rest.iter_mut().for_each(|value| *value = value.sub(mean));
        });
        mean.to_f64()
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
        (staged, spoiled, sums): (&Staged<'_, T>, &Spoiled<T>, &[f64]),
    ) {
        let store = self.problem.store;
        let touch = Touch { scale: None, bias: None, clip: None };
        let large = staged.shrunk.then(|| power(T::MOST_BITS - T::INPUT_BITS));
        let heavy = self.heavy.then(|| power(T::MOST_BITS - T::WEIGHT_BITS));
        for scale in [large, heavy].into_iter().flatten() {
            // SAFETY: the engine is this CPU's; the block is whole vectors.
            unsafe {
                let touch = Touch { scale: Some(scale), ..touch };
                (self.engine.touch)(block.as_mut_ptr(), block.len(), &touch);
            }
        }
        for odd in &spoiled.infinite {
            self.add(output, ranges, odd, block);
        }
        for &at in &spoiled.nan {
            block[at] = T::from_f64(f64::NAN);
        }
        let clip = store.clip();
        // What was subtracted from the input, summed by the weights, and the bias.
        let levels = staged.levels.iter().zip(sums).map(|(level, sum)| level * sum);
        let mut bias = store.bias.get(output).map(|bias| bias.to_f64());
        if staged.levels.iter().any(|&level| level != 0.0) {
            bias = Some(bias.unwrap_or(0.0) + levels.sum::<f64>());
        }
        let touch = Touch { bias: bias.map(T::from_f64), clip, ..touch };
        let plain = touch.bias.is_none() && touch.clip.is_none();
        let inner = self.blocks.tiling.inner;
        let strides = store.out.strides();
        let counts: Vec<usize> = ranges.iter().map(Range::len).collect();
        let first: isize =
            ranges.iter().zip(&strides[1..]).map(|(r, &s)| r.start as isize * s).sum();
        let first = first + output as isize * strides[0];
        let len = counts[inner];
        self.blocks.rows(&counts, |at, index| {
            let to = index.iter().zip(&strides[1..]).map(|(&i, &s)| i as isize * s);
            let row = &mut block[at..];
            if !plain {
                let whole = len.next_multiple_of(self.engine.lanes);
                // SAFETY: rows begin at whole vectors of the block, which ends with one.
                unsafe { (self.engine.touch)(row[..whole].as_mut_ptr(), whole, &touch) }
            }
            let to = first + to.sum::<isize>();
            // SAFETY: each item has outputs and blocks of its own, and one thread takes it.
            unsafe { store.run(to, strides[inner + 1], &row[..len]) }
        });
    }

    /// Which results of a block see what is not finite. A picture may have NaN in half of its pixels, so
    /// they are not gone through one by one: windows are products of axes, and each axis takes its turn.
    fn spoiled(&self, ranges: &[Range<usize>], odd: &[Odd<T>]) -> Spoiled<T> {
        let is_nan = |odd: &&Odd<T>| odd.value.to_f64().is_nan();
        let infinite = odd.iter().filter(|odd| !is_nan(odd)).copied().collect();
        let mut spoiled = Spoiled { nan: Vec::new(), infinite };
        let nan: Vec<&Odd<T>> = odd.iter().filter(is_nan).collect();
        if nan.is_empty() {
            return spoiled;
        }
        let (sides, phases) = (&self.blocks.tiling.sides, self.blocks.tiling.phases());
        let lens: Vec<usize> = ranges.iter().map(Range::len).collect();
        let mut seen = vec![false; lens.iter().product()];
        for phase in 0..phases {
            let mut counts: Vec<usize> =
                sides.iter().zip(&lens).map(|(side, &len)| len + side.reach).collect();
            let mut mask = vec![false; counts.iter().product()];
            for odd in nan.iter().filter(|odd| odd.input % phases == phase) {
                let at = self.blocks.coordinates(odd.at);
                mask[at.iter().zip(&counts).fold(0, |flat, (&i, &n)| flat * n + i)] = true;
            }
            for (a, (side, &index)) in sides.iter().zip(&self.blocks.phase(phase)).enumerate() {
                let inner: usize = counts[a + 1..].iter().product();
                let (from, to) = (counts[a] * inner, lens[a] * inner);
                let mut along = vec![false; mask.len() / from * to];
                for (mask, along) in mask.chunks_exact(from).zip(along.chunks_exact_mut(to)) {
                    for &(_, shift) in &side.phases[index].taps {
                        let mask = &mask[shift * inner..];
                        along.iter_mut().zip(mask).for_each(|(to, &from)| *to |= from);
                    }
                }
                (mask, counts[a]) = (along, lens[a]);
            }
            seen.iter_mut().zip(mask).for_each(|(to, from)| *to |= from);
        }
        let mut index = vec![0; lens.len()];
        for seen in seen {
            if seen {
                let places = index.iter().enumerate().map(|(a, &i)| self.blocks.place(a, i));
                spoiled.nan.push(places.sum());
            }
            advance(&mut index, &lens);
        }
        spoiled
    }

    /// Adds the products of what is infinite with the weights that see it.
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
