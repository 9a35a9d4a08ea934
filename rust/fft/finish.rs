//! What becomes of a block of results: where it goes, and what is added to it on the way.

use std::ops::Range;

use crate::view::advance;

use super::block::{Touch, Transformed};
use super::frame::Frame;
use super::power;
use super::stage::Odd;

/// Bytes of rows that are asked for before they are written, at most: the CPU sees by itself where longer
/// ones go on. (3x3x3 on 32 channels of 32 x 64 x 64, rows of 56 bytes: 74 ms without asking, 50 with; 1025
/// taps on a signal, rows of 28 KiB: 0.67 ms, and 0.74; Sapphire Rapids.)
const ASKED_BYTES: usize = 256;

/// What has become of a block's inputs.
pub struct Staged<'a, T> {
    /// Whether they were made smaller.
    pub shrunk: bool,
    /// What was subtracted from each of them.
    pub levels: &'a [f64],
    /// What is not finite.
    pub odd: &'a [Odd<T>],
}

/// What becomes of a block's results, in any output channel.
pub struct Outcome<'a, T> {
    staged: Staged<'a, T>,
    /// Which outputs they are, on each axis.
    ranges: Vec<Range<usize>>,
    /// Where each row of them lies in the block, and goes, in bytes from the channel's first.
    rows: Vec<(usize, isize)>,
    /// Where those lie that see a NaN.
    nan: Vec<usize>,
    /// What else is not finite.
    infinite: Vec<Odd<T>>,
}

impl<T: Transformed> Frame<'_, T> {
    /// What becomes of block `position`, whose inputs are staged.
    pub fn outcome<'b>(&self, position: usize, staged: Staged<'b, T>) -> Outcome<'b, T> {
        let ranges = self.blocks.outputs(position);
        let counts: Vec<usize> = ranges.iter().map(Range::len).collect();
        let strides = &self.problem.store.out.strides()[1..];
        let mut rows = Vec::with_capacity(counts[..self.blocks.tiling.inner].iter().product());
        self.blocks.rows(&counts, |at, index| {
            let places = index.iter().zip(&ranges).zip(strides);
            rows.push((at, places.map(|((&i, range), &s)| (range.start + i) as isize * s).sum()));
        });
        let is_nan = |odd: &&Odd<T>| odd.value.to_f64().is_nan();
        let nan = self.spoiled(&ranges, staged.odd.iter().filter(is_nan));
        let infinite = staged.odd.iter().filter(|odd| !is_nan(odd)).copied().collect();
        Outcome { staged, ranges, rows, nan, infinite }
    }

    /// Asks for the memory that a block's results in output channel `output` will be written to.
    pub fn ask(&self, output: usize, outcome: &Outcome<'_, T>) {
        let (out, inner) = (&self.problem.store.out, self.blocks.tiling.inner);
        let bytes = outcome.ranges[inner].len() * size_of::<T>();
        let together = out.strides()[inner + 1] == size_of::<T>() as isize;
        if bytes <= ASKED_BYTES && together && self.problem.store.is_direct() {
            let first = out.at(output as isize * out.strides()[0], 0, 0);
            (self.engine.ask)(first.cast(), &outcome.rows, bytes);
        }
    }

    /// Writes a block's results in output channel `output`, whose weights have these sums.
    pub fn store(&self, output: usize, block: &mut [T], outcome: &Outcome<'_, T>, sums: &[f64]) {
        let Outcome { staged, ranges, rows, nan, infinite } = outcome;
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
        for odd in infinite {
            self.add(output, ranges, odd, block);
        }
        for &at in nan {
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
        let first = output as isize * strides[0];
        let len = ranges[inner].len();
        for &(at, to) in rows {
            let row = &mut block[at..];
            if !plain {
                let whole = len.next_multiple_of(self.engine.lanes);
                // SAFETY: rows begin at whole vectors of the block, which ends with one.
                unsafe { (self.engine.touch)(row[..whole].as_mut_ptr(), whole, &touch) }
            }
            // SAFETY: each item has outputs and blocks of its own, and one thread takes it.
            unsafe { store.run(first + to, strides[inner + 1], &row[..len]) }
        }
    }

    /// Where those results of a block lie that see a NaN. A picture may have NaN in half of its pixels, so
    /// they are not gone through one by one: windows are products of axes, and each axis takes its turn.
    fn spoiled<'b>(
        &self,
        ranges: &[Range<usize>],
        nan: impl Iterator<Item = &'b Odd<T>>,
    ) -> Vec<usize> {
        let mut spoiled = Vec::new();
        let nan: Vec<&Odd<T>> = nan.collect();
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
                spoiled.push(places.sum());
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
