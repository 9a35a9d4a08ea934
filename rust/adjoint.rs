//! The gradient of a convolution's input, which is the transposed convolution.
//!
//! With `y[m, p] = sum over c, k of w[m, c, k] x[c, p * stride + k * dilation]`, the gradient of `x` is
//!
//! ```text
//! dx[c, q] = sum over m and the k, p with p * stride + k * dilation = q of   w[m, c, k] g[m, p]
//! ```
//!
//! Of the taps, those with the same residue of `k * dilation` modulo the stride reach the positions
//! `q` of that residue, and no others. So an axis falls into *phases*, one a residue, and each
//! combination of phases is a forward convolution of `g` with unit stride, whose weights are some of
//! the taps, flipped, with outputs and channels swapped: all by addresses alone, and no product with
//! a zero between strides is ever computed. Positions that no tap reaches are zero.
//!
//! Padding other than zeros shows elements of the input again, so there the gradient of the padded
//! input is computed first and then folded: what stands for an element is added to it, in order.

use std::ops::Range;

use crate::contract::wanted_items;
use crate::error::{Error, room};
use crate::geometry::{Axis, Geometry, PaddingMode, gcd};
use crate::operand::{Every, Weights};
use crate::parallel::{Stopped, Team, even_part};
use crate::plan::{Asked, Method, Planned};
use crate::prepared::Prepared;
use crate::problem::Problem;
use crate::store::Store;
use crate::tile::{Kernels, Tiled};
use crate::view::{View, ViewMut, advance};

/// Positions that a thread fills or folds without asking for more: some 10 us.
const PLANES_WORK: usize = 1 << 16;

/// The gradient of an input, with its arrays.
pub struct Adjoint<'a, T> {
    /// Of the convolution whose adjoint it is. An output may be longer or shorter than the
    /// convolution would have it: what its positions would need beyond the input counts for nothing.
    pub geometry: &'a Geometry,
    /// The gradient of the output, canonical strides `[output channel, batch, *positions]`.
    pub gradient: &'a View<'a>,
    /// Weights of the convolution.
    pub weights: &'a Weights<'a, T>,
    /// The gradient of the input, canonical strides, and what is done to it.
    pub store: &'a Store<'a, T>,
}

/// Computes the gradient of an input.
pub fn input<T: Planned>(
    asked: Asked,
    problem: &Adjoint<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let Adjoint { geometry, store, .. } = problem;
    let spatial = &geometry.axes[1..];
    let whole: usize = geometry.axes.iter().map(|axis| axis.input).product();
    if whole * geometry.channels * geometry.groups == 0 {
        return Ok(());
    }
    let run = (asked, kernels, team);
    let shows_again =
        |axis: &Axis| axis.mode != PaddingMode::Constant && (axis.before > 0 || axis.after > 0);
    if !spatial.iter().any(shows_again) {
        let windows = spatial.iter().map(|a| a.before..a.before + a.input as isize).collect();
        return phases(problem, store, windows, run);
    }
    let window = |axis: &Axis| {
        let padded = axis.input as isize + axis.before + axis.after;
        if shows_again(axis) { 0..padded } else { axis.before..axis.before + axis.input as isize }
    };
    let windows: Vec<Range<isize>> = spatial.iter().map(window).collect();
    let channels = geometry.groups * geometry.channels;
    let shape: Vec<usize> = [channels, geometry.axes[0].input]
        .into_iter()
        .chain(windows.iter().map(|window| window.len()))
        .collect();
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n)).unwrap_or(usize::MAX);
    let mut padded = room("the gradient of the padded input", len)?;
    padded.resize(len, T::default());
    let out = ViewMut::from_slice(&mut padded, &shape);
    let inner = Store::plain(out);
    phases(problem, &inner, windows, run)?;
    drop(inner);
    fold(geometry, &View::from_slice(&padded, &shape), store, team)
}

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

/// Computes the gradient at the padded positions `windows`, which are the positions of `store`.
fn phases<T: Planned>(
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
    let phased = Phased { problem, store, windows };
    let mut cuts = phased.cuts(size_of::<T>(), team.threads);
    if cuts.count() > 1 {
        // Of the methods, only the plain sum has the same bits in parts.
        phased.each(&phased.part(0, Cuts::ONE), |_, forward| {
            let chosen = allowed(asked, forward).choose(forward);
            cuts = if chosen == Method::Direct { cuts } else { Cuts::ONE };
            Ok(())
        })?;
    }
    if cuts.count() == 1 {
        let whole = phased.part(0, cuts);
        return phased
            .each(&whole, |_, forward| T::run(allowed(asked, forward), forward, kernels, team));
    }
    // What is made of the weights of a phase serves all parts of the same groups.
    let phases = phased.keys();
    let prepared = (0..cuts.groups * phases).map(|_| Prepared::new(false)).collect::<Vec<_>>();
    team.share(cuts.count(), |turn| {
        while let Some(number) = turn.next() {
            let part = phased.part(number, cuts);
            let team = Team { threads: 1, stop: &|| !turn.goes_on(usize::MAX) };
            let run = |key: usize, forward: &Problem<'_, T>| {
                if !turn.goes_on((forward.geometry.flops() / 16.0) as usize) {
                    return Err(Stopped::Interrupted);
                }
                let forward = Problem { prepared: &prepared[part.cut * phases + key], ..*forward };
                T::run(Asked::direct(), &forward, kernels, &team)
            };
            match phased.each(&part, run) {
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

/// Into how many parts the groups, the images and the first axis of an image are cut.
#[derive(Clone, Copy, Debug)]
struct Cuts {
    groups: usize,
    images: usize,
    rows: usize,
}

impl Cuts {
    /// A single part.
    const ONE: Cuts = Cuts { groups: 1, images: 1, rows: 1 };

    fn count(self) -> usize {
        self.groups * self.images * self.rows
    }
}

/// Some of the positions of a [`Phased`] gradient.
struct Part {
    /// Which cut of the groups it is in, and these.
    cut: usize,
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
}

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

    /// How many different weights the phases have at most.
    fn keys(&self) -> usize {
        self.problem.geometry.axes[1..].iter().map(residues).product()
    }

    fn part(&self, number: usize, cuts: Cuts) -> Part {
        let geometry = self.problem.geometry;
        let (number, row) = (number / cuts.rows, number % cuts.rows);
        let (cut, image) = (number / cuts.images, number % cuts.images);
        let mut windows = self.windows.clone();
        let (stride, Range { start, end }) = (geometry.axes[1].stride, windows[0].clone());
        let rows = even_part(&(0..windows[0].len().div_ceil(stride)), cuts.rows, row);
        let at = |row: usize| end.min(start.saturating_add((row * stride) as isize));
        windows[0] = at(rows.start)..at(rows.end);
        Part {
            cut,
            groups: even_part(&(0..geometry.groups), cuts.groups, cut),
            images: even_part(&(0..geometry.axes[0].input), cuts.images, image),
            windows,
        }
    }

    /// Calls `work` for each phase of a part: with a number that tells which of the weights it has, and
    /// as the forward convolution that it is.
    fn each(
        &self,
        part: &Part,
        mut work: impl FnMut(usize, &Problem<'_, T>) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        let Adjoint { geometry, gradient, weights, .. } = self.problem;
        let store = self.store;
        let spatial = &geometry.axes[1..];
        let axes = spatial.iter().zip(&part.windows).map(|(axis, window)| phases_of(axis, window));
        let axes = axes.collect::<Result<Vec<_>, _>>()?;
        let (to, from) = (store.out.strides(), gradient.strides());
        let gradient = gradient.part(
            (part.groups.start * geometry.outputs) as isize * from[0]
                + part.images.start as isize * from[1],
        );
        let channels = part.groups.start * geometry.channels;
        let begins = part.windows.iter().zip(&self.windows).map(|(a, b)| a.start - b.start);
        let begin = channels as isize * to[0]
            + part.images.start as isize * to[1]
            + begins.zip(&to[2..]).map(|(position, s)| position * s).sum::<isize>();
        let counts: Vec<usize> = axes.iter().map(Vec::len).collect();
        let mut index = vec![0; axes.len()];
        for _ in 0..counts.iter().product() {
            let chosen: Vec<&Phase> = axes.iter().zip(&index).map(|(axis, &i)| &axis[i]).collect();
            advance(&mut index, &counts);
            let first = chosen.iter().zip(&to[2..]).map(|(p, s)| p.first as isize * s);
            let first = begin + first.sum::<isize>();
            let apart = spatial.iter().zip(&to[2..]).map(|(axis, s)| axis.stride as isize * s);
            let batch = Axis::plain(part.images.len());
            let forward = Geometry {
                groups: part.groups.len(),
                channels: geometry.outputs,
                outputs: geometry.channels,
                axes: [batch].into_iter().chain(chosen.iter().map(|phase| phase.axis)).collect(),
                ..**geometry
            };
            let taps: Vec<Every> = chosen.iter().map(|phase| phase.taps).collect();
            let key = taps.iter().zip(spatial).fold(0, |key, (t, a)| key * residues(a) + t.first);
            let sizes = (geometry.outputs, geometry.channels);
            let forward = Problem {
                geometry: &forward,
                x: &gradient,
                weights: &weights.adjoint(sizes, part.groups.start, &taps),
                prepared: &Prepared::new(false),
                padding: T::default(),
                exact: T::SCALAR.is_integer(),
                store: &Store {
                    out: store.out.part(first, to[..2].iter().copied().chain(apart).collect()),
                    bias: store.bias.get(channels..).unwrap_or_default(),
                    ..*store
                },
            };
            work(key, &forward)?;
        }
        Ok(())
    }
}

/// Writes what a sum of nothing gives to every position.
fn fill<T: Tiled>(
    geometry: &Geometry,
    windows: &[Range<isize>],
    store: &Store<'_, T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let lens: Vec<usize> = windows.iter().map(|window| window.len()).collect();
    let (&len, outer) = lens.split_last().expect("a geometry has axes");
    let outer: Vec<usize> = [geometry.axes[0].input].into_iter().chain(outer.to_vec()).collect();
    planes(geometry, &lens, team, |channels| {
        let mut row = room("a row of the result", len)?;
        row.resize(len, T::default());
        for channel in channels {
            row.fill(store.finished(channel, T::default()));
            let mut index = vec![0; outer.len()];
            for _ in 0..outer.iter().product() {
                // SAFETY: each channel is filled by one thread.
                unsafe { store.put((channel, &index), &row) };
                advance(&mut index, &outer);
            }
        }
        Ok(())
    })
}

/// Adds up what padding shows of each element: `padded`, at all padded positions of the axes that
/// show elements again, into the result.
fn fold<T: Tiled>(
    geometry: &Geometry,
    padded: &View<'_>,
    store: &Store<'_, T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let size = size_of::<T>() as isize;
    let shown = geometry.axes.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    let (inner, outer) = shown.split_last().expect("a geometry has axes");
    let lens: Vec<usize> = geometry.axes[1..].iter().map(|axis| axis.input).collect();
    let strides = padded.strides();
    let positions = strides[strides.len() - 2] / size;
    planes(geometry, &lens, team, |channels| {
        let mut row = room("a row of the result", inner.items.len())?;
        row.resize(inner.items.len(), T::default());
        let mut sums = room("a row of the result", inner.starts.len() - 1)?;
        sums.resize(inner.starts.len() - 1, T::default());
        let outer_lens: Vec<usize> = outer.iter().map(|axis| axis.starts.len() - 1).collect();
        for channel in channels {
            let mut index = vec![0; outer.len()];
            for _ in 0..outer_lens.iter().product() {
                sums.fill(T::default());
                let lists: Vec<&[usize]> =
                    outer.iter().zip(&index).map(|(axis, &i)| axis.of(i)).collect();
                let counts: Vec<usize> = lists.iter().map(|list| list.len()).collect();
                let mut at = vec![0; outer.len()];
                for _ in 0..counts.iter().product() {
                    let places = lists.iter().zip(&at).map(|(list, &i)| list[i]);
                    let offset = places.zip(&strides[1..]).map(|(q, s)| q as isize * s);
                    let offset = channel as isize * strides[0] + offset.sum::<isize>();
                    inner.add(padded, offset, positions, (&mut row, &mut sums));
                    advance(&mut at, &counts);
                }
                for sum in &mut sums {
                    *sum = store.finished(channel, *sum);
                }
                // SAFETY: each channel is written by one thread.
                unsafe { store.put((channel, &index), &sums) };
                advance(&mut index, &outer_lens);
            }
        }
        Ok(())
    })
}

/// Where padding shows each element of an axis.
struct Shown {
    /// The padded positions, those of element `i` at `starts[i]..starts[i + 1]`, in order.
    items: Vec<usize>,
    starts: Vec<usize>,
    /// Elements that are shown once, and where the first of them is.
    once: Range<usize>,
    at: usize,
}

/// Where the padded positions of an axis, as [`input`] computes their gradient, show its elements.
fn shown(axis: &Axis) -> Result<Shown, Error> {
    let again = axis.mode != PaddingMode::Constant && (axis.before > 0 || axis.after > 0);
    let padded = if again { axis.input as isize + axis.before + axis.after } else { 0 };
    let mut lists: Vec<(usize, usize)> = room("a table of the padding", padded as usize)?;
    if again {
        lists.extend((0..padded).filter_map(|q| Some((axis.source(q)?, q as usize))));
    } else {
        lists = room("a table of the padding", axis.input)?;
        lists.extend((0..axis.input).map(|i| (i, i)));
    }
    lists.sort_unstable();
    let starts = (0..=axis.input).map(|i| lists.partition_point(|&(source, _)| source < i));
    let starts: Vec<usize> = starts.collect();
    let items: Vec<usize> = lists.into_iter().map(|(_, q)| q).collect();
    // The longest run of elements that are shown once, each behind the last.
    let single = |i: usize| starts[i + 1] - starts[i] == 1;
    let (mut once, mut first) = (0..0, 0);
    for i in 0..axis.input {
        if !single(i) {
            first = i + 1;
        } else if i > first && items[starts[i]] != items[starts[i - 1]] + 1 {
            first = i;
        }
        if i + 1 - first > once.len() {
            once = first..i + 1;
        }
    }
    let at = if once.is_empty() { 0 } else { items[starts[once.start]] };
    Ok(Shown { items, starts, once, at })
}

impl Shown {
    fn of(&self, element: usize) -> &[usize] {
        &self.items[self.starts[element]..self.starts[element + 1]]
    }

    /// Adds a row of padded positions, from byte `offset` on, to the elements that they show.
    fn add<T: Tiled>(
        &self,
        padded: &View<'_>,
        offset: isize,
        len: isize,
        (row, sums): (&mut Vec<T>, &mut [T]),
    ) {
        row.resize(len as usize, T::default());
        padded.read(offset, size_of::<T>() as isize, row);
        let edges = (0..self.once.start).chain(self.once.end..sums.len());
        for i in edges {
            for &q in self.of(i) {
                sums[i] = sums[i].add(row[q]);
            }
        }
        let shown = &row[self.at..self.at + self.once.len()];
        for (sum, &value) in sums[self.once.clone()].iter_mut().zip(shown) {
            *sum = sum.add(value);
        }
    }
}

/// Deals the channels of the result to the threads, a range of them at a time.
fn planes(
    geometry: &Geometry,
    lens: &[usize],
    team: &Team<'_>,
    work: impl Fn(Range<usize>) -> Result<(), Error> + Sync,
) -> Result<(), Stopped> {
    let channels = geometry.groups * geometry.channels;
    let plane = lens.iter().product::<usize>().max(1) * geometry.axes[0].input;
    let each = (PLANES_WORK / plane).max(1);
    team.share(channels.div_ceil(each), |turn| {
        while let Some(item) = turn.next() {
            work(item * each..channels.min((item + 1) * each))?;
        }
        Ok(())
    })
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

    #[test]
    fn padding_shows_elements_where_numpy_pad_does() {
        let axis = Axis { before: 2, after: 3, mode: PaddingMode::Symmetric, ..Axis::plain(4) };
        let shown = shown(&axis).unwrap();
        let lists: Vec<&[usize]> = (0..4).map(|i| shown.of(i)).collect();
        assert_eq!(lists, [&[1, 2][..], &[0, 3, 8], &[4, 7], &[5, 6]]);
        let cropped = Axis { before: -1, after: 1, mode: PaddingMode::Replicate, ..axis };
        let shown = super::shown(&cropped).unwrap();
        assert_eq!(shown.of(0), [0; 0]);
        assert_eq!((shown.of(3), shown.once.clone(), shown.at), (&[2, 3][..], 1..3, 0));
    }
}
