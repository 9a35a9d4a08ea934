//! The phases of a stride: each a forward convolution, and their results side by side.

use std::ops::Range;

use super::{fill, planes};
use crate::contract::{Cuts, wanted_items};
use crate::convert::interleave;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry, PaddingMode, gcd};
use crate::memory::Workspace;
use crate::offer::Precision;
use crate::operand::Every;
use crate::parallel::{Stopped, Team, even_part};
use crate::plan::{Asked, Method, Planned};
use crate::prepared::{Phases, Prepared};
use crate::problem::{Adjoint, Problem};
use crate::store::Store;
use crate::tile::{Kernels, Tiled};
use crate::view::{ViewMut, advance};

/// Floating-point operations of a gradient whose phases are computed without asking what else there is.
const LEAST_FLOPS: f64 = 2e5;

/// Those of a gradient that is too short for any choice.
const TINY_FLOPS: f64 = 5e4;

/// Between these, so many phases take their time, however little is to be summed.
const MANY_PHASES: usize = 4;

/// Nanoseconds of a gradient beside its phases, of each beside its sums, of a byte of the gradient of the output that
/// each reads, and of a result that is put beside others, of two phases or more.
const PHASES: f64 = 7000.0;
const PHASE: f64 = 8000.0;
const PHASE_BYTE: f64 = 0.05;
const BESIDE_ONE: f64 = 0.8;
const BESIDE_MORE: f64 = 1.8;

/// The positions of one residue on an axis, and the taps that reach them.
#[derive(Clone, Copy, Debug)]
struct Phase {
    /// Of the forward convolution that computes them.
    axis: Axis,
    taps: Every,
    /// Where the first of them lies in the window.
    first: usize,
}

/// Residues that the taps of an axis have.
fn residues(axis: &Axis) -> usize {
    axis.kernel.min(axis.stride / gcd(axis.stride, axis.dilation))
}

/// The phases of an axis whose input shows the padded positions `window`. Residues that no tap has
/// are left out.
fn phases_of(axis: &Axis, window: &Range<isize>) -> Result<Vec<Phase>, Error> {
    let (stride, dilation) = (axis.stride, axis.dilation);
    let shared = gcd(stride, dilation);
    // From one tap to the next of the same residue, and how far apart these read the gradient.
    let (step, apart) = (stride / shared, dilation / shared);
    let mut phases = room("the table of taps", residues(axis))?;
    for tap in 0..residues(axis) {
        let count = (axis.kernel - 1 - tap) / step + 1;
        let (residue, shift) = (tap * dilation % stride, tap * dilation / stride);
        let position = |q: isize| {
            let beyond = q - residue as isize;
            beyond.div_euclid(stride as isize) + isize::from(beyond.rem_euclid(stride as isize) > 0)
        };
        let (start, end) = (position(window.start), position(window.end));
        if start >= end {
            continue;
        }
        let (output, reach) = ((end - start) as usize, apart * (count - 1));
        let before = (shift + reach) as isize - start;
        let mut forward = Axis {
            input: axis.output,
            kernel: count,
            stride: 1,
            dilation: if count > 1 { apart } else { 1 },
            before,
            after: (output + reach) as isize - axis.output as isize - before,
            mode: PaddingMode::Constant,
            output,
        };
        if axis.output as isize + forward.before.min(0) + forward.after.min(0) <= 0 {
            // None of the gradient is within reach.
            forward = Axis { input: 0, before: (output + reach) as isize, after: 0, ..forward };
        }
        phases.push(Phase {
            axis: forward,
            taps: Every { first: tap, step, count },
            first: (start * stride as isize + residue as isize - window.start) as usize,
        });
    }
    Ok(phases)
}

/// The predicted time of all phases, or `None` where it is so short that it is not worth to know.
pub(super) fn cost(
    geometry: &Geometry,
    windows: &[Range<isize>],
    element: usize,
    precision: Precision,
) -> Option<f64> {
    let phases = geometry.axes[1..].iter().map(residues).product::<usize>();
    let flops = geometry.flops();
    if flops < TINY_FLOPS || (flops < LEAST_FLOPS && phases < MANY_PHASES) {
        return None;
    }
    // Phases that are alike but for their padding cost the same.
    let mut axes: Vec<Vec<(Axis, usize)>> = Vec::with_capacity(windows.len());
    for (axis, window) in geometry.axes[1..].iter().zip(windows) {
        let mut kinds: Vec<(Axis, usize)> = Vec::new();
        for Phase { axis, .. } in phases_of(axis, window).ok()? {
            let alike = |(kind, _): &&mut (Axis, usize)| {
                (kind.input, kind.kernel, kind.output) == (axis.input, axis.kernel, axis.output)
            };
            match kinds.iter_mut().find(alike) {
                Some((_, count)) => *count += 1,
                None => kinds.push((axis, 1)),
            }
        }
        axes.push(kinds);
    }
    let counts: Vec<usize> = axes.iter().map(Vec::len).collect();
    let mut index = vec![0; axes.len()];
    let positions = geometry.axes.iter().map(|axis| axis.output as f64).product::<f64>();
    let bytes = (geometry.groups * geometry.outputs * element) as f64 * positions;
    let each = PHASE + PHASE_BYTE * bytes;
    let beside = match geometry.axes[geometry.axes.len() - 1].stride {
        1 => 0.0,
        2 => BESIDE_ONE,
        _ => BESIDE_MORE,
    };
    let results = windows.iter().map(|window| window.len() as f64).product::<f64>()
        * (geometry.groups * geometry.channels) as f64;
    let mut cost = PHASES + beside * results * (element as f64 / 4.0);
    for _ in 0..counts.iter().product() {
        let chosen: Vec<(Axis, usize)> = axes.iter().zip(&index).map(|(a, &i)| a[i]).collect();
        advance(&mut index, &counts);
        let phase = Geometry {
            channels: geometry.outputs,
            outputs: geometry.channels,
            axes: [geometry.axes[0]].into_iter().chain(chosen.iter().map(|c| c.0)).collect(),
            ..*geometry
        };
        let times = chosen.iter().map(|c| c.1 as f64).product::<f64>();
        cost += times * (each + Method::least(&phase, element, precision));
    }
    Some(cost)
}

/// Computes the gradient at the padded positions `windows`, which are the positions of `store`.
pub(super) fn phases<T: Planned>(
    problem: &Adjoint<'_, T>,
    store: &Store<'_, T>,
    windows: Vec<Range<isize>>,
    (asked, kernels, team): (Asked, &Kernels<T>, &Team<'_>),
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    let mut all_reached = true;
    for (axis, window) in geometry.axes[1..].iter().zip(&windows) {
        let reached: usize = phases_of(axis, window)?.iter().map(|p| p.axis.output).sum();
        all_reached &= reached == window.len();
    }
    if !all_reached && !store.accumulate {
        fill(geometry, &windows, store, team)?;
    }
    let mut phased = Phased { problem, store, windows, side_by_side: false };
    let mut cuts = phased.cuts(size_of::<T>(), team.threads);
    let neighbours = store.step() == store.out.size();
    let interleaves = neighbours && residues(&geometry.axes[geometry.axes.len() - 1]) > 1;
    // What is made of the weights of a phase serves all parts of the same groups. Whole groups may be asked
    // for before it is known how they are cut.
    let keys = phased.keys();
    let (whole, own) = (Phases::default(), Phases::default());
    let empty = "nobody has asked for other places";
    if cuts.count() > 1 || interleaves {
        // Of the methods, only the plain sum has the same bits in parts.
        let mut direct = true;
        let places = whole.of(keys, false).expect(empty);
        phased.each(&phased.part(0, (Cuts::ONE, places)), team, &mut |forward| {
            direct &= allowed(asked, forward).choose(forward) == Method::Direct;
            Ok(())
        })?;
        phased.side_by_side = direct && interleaves;
        cuts = if direct { cuts } else { Cuts::ONE };
    }
    let parallel = cuts.count() > 1;
    if phased.side_by_side && !parallel {
        cuts = phased.cuts_in_turn(size_of::<T>());
    }
    let count = cuts.groups * keys;
    let places = problem.kept.and_then(|kept| kept.of(count, true));
    let places = places.or_else(|| [&whole, &own].iter().find_map(|own| own.of(count, false)));
    let places = places.expect(empty);
    if !parallel {
        for number in 0..cuts.count() {
            phased.each(&phased.part(number, (cuts, places)), team, &mut |forward| {
                T::run(allowed(asked, forward), forward, kernels, team)
            })?;
        }
        return Ok(());
    }
    team.share(cuts.count(), |turn| {
        while let Some(number) = turn.next() {
            let part = phased.part(number, (cuts, places));
            let team = Team { threads: 1, stop: &|| !turn.goes_on(usize::MAX) };
            let run = &mut |forward: &Problem<'_, T>| {
                if !turn.goes_on((forward.geometry.flops() / 16.0) as usize) {
                    return Err(Stopped::Interrupted);
                }
                T::run(Asked::direct(), forward, kernels, &team)
            };
            match phased.each(&part, &team, run) {
                Err(Stopped::Failed(error)) => return Err(error),
                // Whoever stopped this has told the others.
                Err(Stopped::Interrupted) | Ok(()) => {}
            }
        }
        Ok(())
    })
}

/// What was asked for, or the plain sum where the method of that name cannot compute a phase.
fn allowed<T: Tiled>(asked: Asked, forward: &Problem<'_, T>) -> Asked {
    let refuses = |method: Method| method.refuses(forward, asked.precision).is_some();
    if asked.method.is_some_and(refuses) { Asked::direct() } else { asked }
}

/// Bytes of both gradients in a part: as much of the second-level cache as their weights leave, so that
/// all phases of a part find the gradient of the output there, and the lines of the result that they have
/// in common.
const PART_BYTES: usize = 768 << 10;

/// Bytes of weights that parts can take up again and again: with more of them, phases of all
/// positions follow each other.
const PART_WEIGHTS: usize = 512 << 10;

/// Positions that a part has along its first axis at least, in steps of the stride: rows, or a signal's.
const PART_ROWS: usize = 4;
const PART_SIGNAL: usize = 256;

/// Bytes of phases that wait to be put side by side where all threads work on one part after another.
const SIDES_BYTES: usize = 2 << 20;

/// Some of the positions of a [`Phased`] gradient.
struct Part<'a> {
    /// Places for what methods make of the weights of each phase, in these groups.
    places: &'a [Prepared],
    groups: Range<usize>,
    images: Range<usize>,
    windows: Vec<Range<isize>>,
}

/// A gradient that falls into phases.
struct Phased<'a, T> {
    problem: &'a Adjoint<'a, T>,
    store: &'a Store<'a, T>,
    /// The padded positions on each axis.
    windows: Vec<Range<isize>>,
    /// Whether the phases of the last axis are computed by themselves and then put side by side, so that results
    /// are written whole vectors at a time rather than a number at every `stride`-th position.
    side_by_side: bool,
}

/// What computes a phase, as the forward convolution that it is.
type Run<'a, T> = &'a mut dyn FnMut(&Problem<'_, T>) -> Result<(), Stopped>;

impl<T: Planned> Phased<'_, T> {
    /// Parts that stay in the second-level cache while all of their phases are computed, or one.
    fn cuts(&self, element: usize, threads: usize) -> Cuts {
        let geometry = self.problem.geometry;
        let first = &geometry.axes[1];
        let product = |lens: &mut dyn Iterator<Item = usize>| lens.fold(1, usize::saturating_mul);
        let images = geometry.axes[0].input;
        let inputs = product(&mut self.windows.iter().map(|window| window.len()));
        let outputs = product(&mut geometry.axes[1..].iter().map(|axis| axis.output));
        let channels = geometry.channels.saturating_mul(inputs);
        let channels = channels.saturating_add(geometry.outputs.saturating_mul(outputs));
        let elements = product(&mut [images, geometry.groups, channels].into_iter());
        let weights = [geometry.groups, geometry.outputs, geometry.channels];
        let weights = product(&mut weights.into_iter()).saturating_mul(geometry.kernel_taps());
        let parts = elements.saturating_mul(element).div_ceil(PART_BYTES);
        if self.keys() == 1 || parts == 1 || weights.saturating_mul(element) > PART_WEIGHTS {
            return Cuts::ONE;
        }
        let parts = parts.max(wanted_items(threads));
        let groups = geometry.groups.min(parts);
        let images = images.min(parts.div_ceil(groups));
        let least = if self.windows.len() == 1 { PART_SIGNAL } else { PART_ROWS };
        let rows = (self.windows[0].len() / (first.stride * least)).max(1);
        let cuts = Cuts { groups, images, rows: rows.min(parts.div_ceil(groups * images)) };
        if cuts.count() < wanted_items(threads) { Cuts::ONE } else { cuts }
    }

    /// Parts that follow each other so that few phases wait to be put side by side.
    fn cuts_in_turn(&self, element: usize) -> Cuts {
        let Geometry { groups, channels, axes, .. } = self.problem.geometry;
        let positions = self.windows.iter().map(|window| window.len()).product::<usize>();
        let outer = if axes.len() > 2 { axes[1].stride } else { 1 };
        let image = groups * channels * positions / outer * element;
        let images = (axes[0].input * image).div_ceil(SIDES_BYTES).clamp(1, axes[0].input);
        let least = if self.windows.len() == 1 { PART_SIGNAL } else { PART_ROWS };
        let rows = (self.windows[0].len() / (axes[1].stride * least)).max(1);
        let rows = if images < axes[0].input { 1 } else { rows.min(image.div_ceil(SIDES_BYTES)) };
        Cuts { groups: 1, images, rows: rows.max(1) }
    }

    /// How many different weights the phases have at most.
    fn keys(&self) -> usize {
        self.problem.geometry.axes[1..].iter().map(residues).product()
    }

    /// A part, with the places of its groups among those of all.
    fn part<'a>(&self, number: usize, (cuts, places): (Cuts, &'a [Prepared])) -> Part<'a> {
        let geometry = self.problem.geometry;
        let (cut, image, row) = cuts.nth(number);
        let mut windows = self.windows.clone();
        let (stride, Range { start, end }) = (geometry.axes[1].stride, windows[0].clone());
        let rows = even_part(&(0..windows[0].len().div_ceil(stride)), cuts.rows, row);
        let at = |row: usize| end.min(start.saturating_add((row * stride) as isize));
        windows[0] = at(rows.start)..at(rows.end);
        let keys = self.keys();
        Part {
            places: &places[cut * keys..(cut + 1) * keys],
            groups: even_part(&(0..geometry.groups), cuts.groups, cut),
            images: even_part(&(0..geometry.axes[0].input), cuts.images, image),
            windows,
        }
    }

    /// Calls `run` for each phase of a part.
    fn each(&self, part: &Part<'_>, team: &Team<'_>, run: Run<'_, T>) -> Result<(), Stopped> {
        let Adjoint { geometry, .. } = self.problem;
        let spatial = &geometry.axes[1..];
        let axes = spatial.iter().zip(&part.windows).map(|(axis, window)| phases_of(axis, window));
        let mut axes = axes.collect::<Result<Vec<_>, _>>()?;
        let mut inner = axes.pop().expect("a geometry has axes");
        inner.sort_by_key(|phase| phase.first);
        // Where a residue has no position, or a position no residue, there is nothing to put beside it.
        let whole = inner.len() == spatial[spatial.len() - 1].stride;
        let strides = self.store.out.strides();
        let begins = part.windows.iter().zip(&self.windows).map(|(a, b)| a.start - b.start);
        let begin = (part.groups.start * geometry.channels) as isize * strides[0]
            + part.images.start as isize * strides[1]
            + begins.zip(&strides[2..]).map(|(position, s)| position * s).sum::<isize>();
        // Positions of a phase are a stride apart.
        let apart = spatial.iter().zip(&strides[2..]).map(|(axis, s)| axis.stride as isize * s);
        let apart: Vec<isize> = strides[..2].iter().copied().chain(apart).collect();
        let counts: Vec<usize> = axes.iter().map(Vec::len).collect();
        let mut index = vec![0; axes.len()];
        for _ in 0..counts.iter().product() {
            let mut chosen: Vec<&Phase> =
                axes.iter().zip(&index).map(|(axis, &i)| &axis[i]).collect();
            advance(&mut index, &counts);
            let first = chosen.iter().zip(&strides[2..]).map(|(p, s)| p.first as isize * s);
            let first = begin + first.sum::<isize>();
            if self.side_by_side && whole {
                let rows = &apart[..apart.len() - 1];
                self.beside((part, first, rows), (chosen, &inner), team, run)?;
                continue;
            }
            for phase in &inner {
                chosen.push(phase);
                let at = first + phase.first as isize * self.store.step();
                let store = Store { out: self.store.out.part(at, apart.clone()), ..*self.store };
                self.phase(part, &chosen, &store, run)?;
                chosen.pop();
            }
        }
        Ok(())
    }

    /// Computes all phases of the last axis that go with some of the other axes, and puts their results side
    /// by side from byte `first` of the result on, in rows that are so many bytes apart along each axis.
    fn beside(
        &self,
        (part, first, apart): (&Part<'_>, isize, &[isize]),
        (mut chosen, inner): (Vec<&Phase>, &[Phase]),
        team: &Team<'_>,
        run: Run<'_, T>,
    ) -> Result<(), Stopped> {
        let channels = part.groups.len() * self.problem.geometry.channels;
        let mut lens = vec![channels, part.images.len()];
        lens.extend(chosen.iter().map(|phase| phase.axis.output));
        let rows = lens.iter().product::<usize>();
        let width = inner.iter().map(|phase| phase.axis.output).sum::<usize>();
        let mut space = Workspace::new::<T>("the phases of a result", rows.saturating_mul(width))?;
        let mut rest = &mut space.elements_mut()[..rows * width];
        let mut sides: Vec<(&[T], usize)> = Vec::with_capacity(inner.len());
        for phase in inner {
            let len = phase.axis.output;
            let (side, others) = std::mem::take(&mut rest).split_at_mut(rows * len);
            rest = others;
            chosen.push(phase);
            lens.push(len);
            let out = ViewMut::from_slice(&mut *side, &lens);
            self.phase(part, &chosen, &Store { out, accumulate: false, ..*self.store }, run)?;
            chosen.pop();
            lens.pop();
            sides.push((side, len));
        }
        let store = Store { out: self.store.out.part(first, apart.to_vec()), ..*self.store };
        let (row_lens, step) = (&lens[1..], self.store.step());
        let plane = row_lens.iter().product::<usize>();
        planes(channels, plane * width, team, |channels| {
            let mut row = room("a row of the result", width)?;
            row.resize(width, T::default());
            let mut parts = vec![&[][..]; sides.len()];
            for channel in channels {
                let mut index = vec![0; row_lens.len()];
                for number in channel * plane..(channel + 1) * plane {
                    for (part, &(side, len)) in parts.iter_mut().zip(&sides) {
                        *part = &side[number * len..(number + 1) * len];
                    }
                    interleave(&parts, &mut row);
                    let at = index.iter().zip(&apart[1..]).map(|(&i, s)| i as isize * s);
                    let at = channel as isize * apart[0] + at.sum::<isize>();
                    // SAFETY: each channel is written by one thread.
                    unsafe { store.run(at, step, &row) };
                    advance(&mut index, row_lens);
                }
            }
            Ok(())
        })
    }

    /// Calls `run` for the phase of a part that is `chosen` on each axis, with results where `store` has them.
    fn phase(
        &self,
        part: &Part<'_>,
        chosen: &[&Phase],
        store: &Store<'_, T>,
        run: Run<'_, T>,
    ) -> Result<(), Stopped> {
        let Adjoint { geometry, gradient, weights, .. } = self.problem;
        let from = gradient.strides();
        let gradient = gradient.part(
            (part.groups.start * geometry.outputs) as isize * from[0]
                + part.images.start as isize * from[1],
        );
        let batch = Axis::plain(part.images.len());
        let forward = Geometry {
            groups: part.groups.len(),
            channels: geometry.outputs,
            outputs: geometry.channels,
            axes: [batch].into_iter().chain(chosen.iter().map(|phase| phase.axis)).collect(),
            ..**geometry
        };
        let taps: Vec<Every> = chosen.iter().map(|phase| phase.taps).collect();
        let residues = geometry.axes[1..].iter().map(residues);
        let key = taps.iter().zip(residues).fold(0, |key, (taps, n)| key * n + taps.first);
        let sizes = (geometry.outputs, geometry.channels);
        let channels = part.groups.start * geometry.channels;
        let store = Store {
            out: store.out.part(0, store.out.strides().to_vec()),
            bias: store.bias.get(channels..).unwrap_or_default(),
            ..*store
        };
        let forward = Problem {
            geometry: &forward,
            x: &gradient,
            weights: &weights.adjoint(sizes, part.groups.start, &taps),
            prepared: &part.places[key],
            padding: T::default(),
            exact: T::SCALAR.is_integer(),
            store: &store,
        };
        run(&forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of a tap and an output is in exactly one phase, at the position that it reaches.
    #[test]
    fn phases_hold_every_product_once() {
        for (input, kernel, stride, dilation) in
            [(9, 3, 1, 1), (10, 3, 2, 1), (11, 4, 3, 2), (20, 3, 4, 6), (7, 1, 3, 1), (12, 5, 2, 2)]
        {
            for (before, after) in [(0isize, 0isize), (2, 1), (-1, 3), (1, -2), (5, 4)] {
                let padded = input as isize + before + after;
                let reach = (dilation * (kernel - 1)) as isize;
                if padded <= reach {
                    continue;
                }
                let output = (padded - reach - 1) as usize / stride + 1;
                let axis = Axis {
                    input,
                    kernel,
                    stride,
                    dilation,
                    before,
                    after,
                    mode: PaddingMode::Constant,
                    output,
                };
                let window = before..before + input as isize;
                let mut found = Vec::new();
                for phase in phases_of(&axis, &window).unwrap() {
                    for u in 0..phase.axis.output {
                        let q = phase.first + u * stride;
                        assert!(q < input);
                        for m in 0..phase.taps.count {
                            let taps = phase.taps;
                            let tap = taps.first + (taps.count - 1 - m) * taps.step;
                            let at = (u + m * phase.axis.dilation) as isize;
                            if let Some(p) = phase.axis.source(at) {
                                found.push((q, tap, p));
                            }
                        }
                    }
                }
                let mut expected = Vec::new();
                for q in 0..input {
                    for tap in 0..kernel {
                        for p in 0..output {
                            if p * stride + tap * dilation == (q as isize + before) as usize {
                                expected.push((q, tap, p));
                            }
                        }
                    }
                }
                found.sort_unstable();
                expected.retain(|&(q, ..)| q as isize + before >= 0);
                expected.sort_unstable();
                assert_eq!(found, expected, "{axis:?}");
            }
        }
    }
}
