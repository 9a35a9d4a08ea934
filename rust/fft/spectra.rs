//! Transforms of weights.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, room};
use crate::memory::{Workspace, with_scratch};
use crate::parallel::{Stopped, Team};
use crate::problem::Problem;
use crate::view::{ViewMut, advance};

use super::block::{Engine, Transformed, Values};
use super::blocks::Blocks;
use super::power;

/// Output channels whose weights are transformed at a time, times input channels.
const PAIRS_PER_ITEM: usize = 16;

/// What there is to know about weights once all have been transformed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Some are so large that a transform might overflow.
    large: AtomicBool,
    /// Some are not finite.
    odd: AtomicBool,
}

impl Seen {
    /// Whether some weights are not finite, which leaves the plain sum.
    pub fn odd(&self) -> bool {
        self.odd.load(Ordering::Relaxed)
    }

    /// Whether some weights are so large that all should be shrunk.
    pub fn large(&self) -> bool {
        self.large.load(Ordering::Relaxed)
    }
}

/// Transforms weights, one output and one input channel at a time.
pub struct Stager<'a, T: Transformed> {
    problem: &'a Problem<'a, T>,
    blocks: &'a Blocks<T>,
    engine: &'a Engine<T>,
    seen: &'a Seen,
    /// For each phase of a channel, on each spatial axis: taps, where they go, and a factor.
    phases: Vec<Vec<Vec<(usize, usize, T)>>>,
    row: Vec<T>,
}

impl<'a, T: Transformed> Stager<'a, T> {
    /// For weights that are made smaller, or not.
    pub fn new(
        problem: &'a Problem<'a, T>,
        blocks: &'a Blocks<T>,
        engine: &'a Engine<T>,
        (shrink, seen): (bool, &'a Seen),
    ) -> Result<Self, Error> {
        let tiling = &blocks.tiling;
        let bits = if shrink { T::WEIGHT_BITS - T::MOST_BITS } else { 0 };
        // What transforming there and back multiplies by is taken out here.
        let gain = f64::powi(2.0, bits) / blocks.transform.gain() as f64;
        let of = |phase: usize| {
            let phase = blocks.phase(phase);
            let sides = tiling.sides.iter().enumerate().skip(1);
            sides
                .map(|(a, side)| {
                    let taps = side.phases[phase[a]].taps.iter();
                    taps.map(|&(tap, shift)| {
                        // Tap t at -t: products with a block are then sums over windows.
                        let at = blocks.place(a, if shift == 0 { 0 } else { side.size - shift });
                        // The axis that is folded wraps around with the other sign.
                        let sign = if a == tiling.fold && shift > 0 { -1.0 } else { 1.0 };
                        let gain = if a + 1 == tiling.sides.len() { gain } else { 1.0 };
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
        Ok(Stager { problem, blocks, engine, seen, phases, row })
    }

    /// Elements of scratch that it needs.
    pub fn scratch(blocks: &Blocks<T>) -> usize {
        blocks.transform.size() + blocks.transform.panel()
    }

    /// Writes the values of one pair of channels, all its phases, `unit` elements apart, from `to` on, and
    /// the sum of the weights of each phase.
    ///
    /// # Safety
    /// `to` must be writable for a unit of each phase of each of the transform's vectors, which nothing
    /// else accesses meanwhile.
    pub unsafe fn put(
        &mut self,
        pair: (usize, usize),
        scratch: &mut [T],
        to: Values<T>,
        sums: &mut [f64],
    ) {
        let transform = &self.blocks.transform;
        let (block, panel) = scratch.split_at_mut(transform.size());
        assert!(panel.len() >= transform.panel());
        for (phase, sum) in sums.iter_mut().enumerate() {
            *sum = self.stage(pair, phase, block);
            let limit = power(T::MOST_BITS - T::WEIGHT_BITS);
            // SAFETY: the engine is this CPU's, the block whole vectors.
            if !unsafe { (self.engine.tame)(block.as_ptr(), block.len(), limit) } {
                let finite = block.iter().all(|v| v.to_f64().is_finite());
                let seen = if finite { &self.seen.large } else { &self.seen.odd };
                seen.store(true, Ordering::Relaxed);
            }
            let to = Values { at: to.at.wrapping_add(phase * transform.unit()), ..to };
            // SAFETY: the engine is this CPU's; block and panel have their sizes; the caller vouches for
            // `to`.
            unsafe { (self.engine.analyse)(transform, block.as_mut_ptr(), panel.as_mut_ptr(), to) }
        }
    }

    fn stage(&mut self, (output, channel): (usize, usize), phase: usize, block: &mut [T]) -> f64 {
        let mut sum = 0.0;
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
            self.problem.weights.read_row(output, channel, &taps, &mut self.row);
            for &(tap, place, factor) in inner {
                block[at + place] = self.row[tap].mul(sign.mul(factor));
                sum += self.row[tap].to_f64();
            }
            advance(&mut index, &counts);
        }
        sum
    }
}

/// The values of some outputs' weights. They serve all blocks of all images.
#[derive(Debug)]
pub struct Spectra {
    values: Workspace,
    /// The sum of the weights of each.
    sums: Vec<f64>,
    /// The output channels that they are of.
    pub outputs: Range<usize>,
    /// Outputs of one group among them.
    pub rows: usize,
    /// Input channels of each, phases counted.
    inputs: usize,
    /// Elements between vectors.
    pitch: usize,
    /// Elements of one group.
    group: usize,
}

impl Spectra {
    /// Of output channels `outputs`, which must be whole groups or lie within one.
    pub fn new<T: Transformed>(
        problem: &Problem<'_, T>,
        blocks: &Blocks<T>,
        outputs: Range<usize>,
        (engine, team): (&Engine<T>, &Team<'_>),
        (shrink, seen): (bool, &Seen),
    ) -> Result<Self, Stopped> {
        let geometry = problem.geometry;
        let (transform, inputs) = (&blocks.transform, blocks.inputs(geometry));
        let rows = outputs.len().min(geometry.outputs);
        let pitch = ((rows * inputs) | 1) * transform.unit();
        let group = pitch * transform.units();
        let size = group.saturating_mul(outputs.len() / rows);
        let mut values = Workspace::new::<T>("the transformed weights", size)?;
        let to = ViewMut::from_slice(&mut values.elements_mut::<T>()[..size], &[size]);
        let phases = blocks.tiling.phases();
        let mut sums = room("the sums of weights", outputs.len() * inputs)?;
        sums.resize(outputs.len() * inputs, 0.0);
        let shape = [sums.len()];
        let to_sums = ViewMut::from_slice(&mut sums, &shape);
        let channels = geometry.channels;
        let count = outputs.len() * channels;
        team.share(count.div_ceil(PAIRS_PER_ITEM), |turn| {
            let mut stager = Stager::new(problem, blocks, engine, (shrink, seen))?;
            let mut sums = vec![0.0; phases];
            with_scratch(Stager::scratch(blocks), |scratch: &mut [T]| {
                while let Some(item) = turn.next() {
                    let from = item * PAIRS_PER_ITEM;
                    for pair in from..count.min(from + PAIRS_PER_ITEM) {
                        let (o, c) = (pair / channels, pair % channels);
                        let row = o % rows * inputs + c * phases;
                        let at = o / rows * group + row * transform.unit();
                        let reach = group - pitch + phases * transform.unit();
                        let bytes = |elements: usize| (elements * size_of::<T>()) as isize;
                        let at = to.at(bytes(at), 0, bytes(reach));
                        // SAFETY: `at` checked that every vector's phases lie in `values`, and each pair
                        // has places of its own, there and among the sums.
                        unsafe {
                            let to = Values { at, pitch };
                            stager.put((outputs.start + o, c), scratch, to, &mut sums);
                            to_sums.write((8 * pair * phases) as isize, 8, &sums);
                        }
                        if !turn.goes_on(transform.size()) {
                            break;
                        }
                    }
                }
            })
        })?;
        Ok(Spectra { values, sums, outputs, rows, inputs, pitch, group })
    }

    /// The values of an output channel and of those that follow it in its group, for reading.
    pub fn of<T: Transformed>(&self, output: usize, unit: usize) -> Values<T> {
        let at = output - self.outputs.start;
        let start = at / self.rows * self.group + at % self.rows * self.inputs * unit;
        let at = self.values.elements::<T>()[start..].as_ptr().cast_mut();
        Values { at, pitch: self.pitch }
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    /// The sums of the weights of an output channel, and of those that follow it.
    pub fn sums(&self, output: usize) -> &[f64] {
        &self.sums[(output - self.outputs.start) * self.inputs..]
    }
}
