//! The loop nest: which blocks are transformed when, by which thread, and what becomes of them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::contract::wanted_items;
use crate::error::Error;
use crate::memory::{Workspace, with_scratch};
use crate::parallel::{Stopped, Team, Turn, even_part, even_parts};
use crate::view::ViewMut;

use super::block::{Products, Transformed, Values};
use super::finish::Staged;
use super::frame::Frame;
use super::spectra::{Seen, Spectra, Stager};
use super::stage::{Odd, Reads};

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

impl<T: Transformed> Frame<'_, T> {
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
        // A part's values are read where they were just written; but the whole input's come from farther
        // away each time. (9x9 from 16 to 8 channels of 512 x 512: 17 ms shared, 12.6 in parts; Sapphire
        // Rapids.)
        let parted = weights * (1.0 + parts) + from + to;
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
            let reads = self.reads(&self.blocks.outputs(position));
            let mut odd = Vec::new();
            let mut level = self.stage(group, (0, &reads), false, desk.block, (0, &mut odd))?;
            let shrunk = level.is_none();
            if shrunk {
                odd.clear();
                level = self.stage(group, (0, &reads), true, desk.block, (0, &mut odd))?;
            }
            let levels = [level.unwrap_or(0.0)];
            let outcome = self.outcome(position, Staged { shrunk, levels: &levels, odd: &odd });
            self.ask(output, &outcome);
            let (block, panel) = (desk.block.as_mut_ptr(), desk.panel.as_mut_ptr());
            // SAFETY: the engine is this CPU's; block and panel have their sizes, and the spectra a value
            // for each of the block's.
            unsafe { (self.engine.filter)(transform, block, panel, values) }
            self.store(output, desk.block, &outcome, spectra.sums(output));
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
            let mut staged = staged(p);
            let start = staged.odd.partition_point(|o| o.position < position);
            let end = staged.odd.partition_point(|o| o.position <= position);
            staged.odd = &staged.odd[start..end];
            let outcome = self.outcome(position, staged);
            for (o, output) in item.outputs.clone().enumerate() {
                let from = Values { at: to.at.wrapping_add((p * outputs + o) * unit), ..to };
                self.ask(output, &outcome);
                let (block, panel) = (desk.block.as_mut_ptr(), desk.panel.as_mut_ptr());
                // SAFETY: as above; block and panel have their sizes.
                unsafe { (self.engine.synthesise)(transform, block, panel, from) }
                self.store(output, desk.block, &outcome, &sums[o * inputs..]);
                if !turn.goes_on(transform.size()) {
                    return;
                }
            }
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
}
