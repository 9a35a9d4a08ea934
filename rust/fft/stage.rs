//! How a block's input is read, and made fit for a transform.

use std::ops::Range;

use crate::error::Error;
use crate::view::Runs;

use super::block::{Touch, Transformed};
use super::frame::Frame;
use super::power;

/// An element that is not finite: in which block, of which input, where, and what.
#[derive(Clone, Copy, Debug)]
pub struct Odd<T> {
    pub position: usize,
    pub input: usize,
    pub at: usize,
    pub value: T,
}

/// How the inputs of a block are read.
pub struct Reads {
    /// Elements on each axis.
    counts: Vec<usize>,
    /// The runs of each phase of a channel.
    phases: Vec<Runs>,
}

impl<T: Transformed> Frame<'_, T> {
    /// How a block is read.
    pub fn reads(&self, ranges: &[Range<usize>]) -> Reads {
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

    /// Stages one input of a block. What is not finite goes to `odd`, and zeros stand in its place.
    /// Returns what was subtracted from each element, or `None` where there are numbers too large for a
    /// transform, unless they were shrunk.
    pub fn stage(
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
}
