//! Convolutions from many channels to few, a tap at a time: the sums over channels of each tap by itself are a layer of
//! one tap (a dense product, which reads its input once, in place, and fills whole tiles), whose planes are then
//! moved and added.
//!
//! ```text
//! P[m, k][q] = sum over c of w[m, c, k] x[c, q]        y[m, p] = sum over k of P[m, k][p * stride + k * dilation]
//! ```
//!
//! The field knows it as kn2row, and where it is the gradient of an input, or a transposed convolution, as a product
//! and col2im. It takes as many multiply-adds as the plain sum and an addition a tap more, so it pays where few outputs
//! would leave tiles or vectors empty: and in gradients with a stride, whose phases have few taps each.
//!
//! A plane is moved by limits alone, so that nothing is multiplied with padding, or added where it does not belong.
//! Each result is the sum of its taps in their order, each of which is the sum over channels as chains: so bits depend
//! on the problem alone here too.

mod cost;
mod fold;
mod line;

use std::ops::Range;

use crate::contract::{self, Cuts, SERIAL_FLOPS, wanted_items};
use crate::error::Error;
use crate::geometry::{Axis, Geometry};
use crate::memory::Workspace;
use crate::offer::{Declined, Description};
use crate::operand::{self, EachTap, Every, Weights};
use crate::parallel::{Stopped, Team, even_part};
use crate::prepared::{Made, Phases, Prepared, Slot};
use crate::problem::{Adjoint, Problem};
use crate::store::Store;
use crate::tile::{CHAIN, Kernels, Tiled};
use crate::view::{View, ViewMut};

pub use cost::{adjoint_offer, offer};
use fold::Fold;
use line::Line;

/// Bytes of the planes of a block, which are in the second-level cache then when they are added.
const BLOCK_BYTES: usize = 1 << 20;

/// Positions that a block has along its first axis at least: rows, or a signal's.
const BLOCK_ROWS: usize = 4;
const BLOCK_SIGNAL: usize = 256;

/// Of a block's positions along its first axis, how many there are at least for each that the next one computes again.
const BLOCK_SHARE: usize = 4;

/// Why it cannot compute a convolution of this geometry, if so.
fn cannot(geometry: &Geometry) -> Option<Declined> {
    let cannot = |reason: &str| Some(Declined::Cannot(reason.to_owned().into()));
    if geometry.axes.iter().any(|axis| axis.stride > 1) {
        return cannot("it has a stride, which would leave most of what is multiplied unused");
    }
    if geometry.axes.iter().any(Axis::shows_again) {
        return cannot("its padding shows elements of the input again");
    }
    if geometry.channels == 0 {
        return cannot("there are no channels to sum over");
    }
    None
}

/// Whether the padding is such that it may be left out.
pub fn suits<T: Tiled>(problem: &Problem<'_, T>) -> Result<(), Declined> {
    if problem.padding != T::default() && problem.geometry.axes.iter().any(Axis::pads) {
        return Err(Declined::Cannot("the padding holds another number than 0".into()));
    }
    Ok(())
}

/// The layer of one tap for some groups and images, and positions of each axis.
fn product(geometry: &Geometry, outputs: usize, groups: usize, lens: &[usize]) -> Geometry {
    Geometry {
        groups,
        outputs,
        axes: lens.iter().map(|&len| Axis::plain(len)).collect(),
        ..*geometry
    }
}

/// Most roundings that a term of a result takes part in: those of a sum over channels, and one as each other tap's is
/// added.
fn roundings(channels: usize, taps: usize) -> usize {
    operand::roundings(&[1], channels, CHAIN) + taps
}

/// Whether it may round a term of a result, which has a kernel of so many taps on each axis, as often as it does: three
/// times as often as the plain sum.
fn is_near(channels: usize, kernel: &[usize]) -> bool {
    let own = roundings(channels, kernel.iter().product());
    own <= 3 * operand::roundings(kernel, channels, CHAIN)
}

/// How a convolution would be computed.
pub fn describe(geometry: &Geometry, element: usize, threads: usize) -> Description {
    let rows = geometry.outputs * geometry.kernel_taps();
    let lines: Vec<Line> = geometry.axes[1..].iter().map(Line::forward).collect();
    let sizes = Sizes { groups: geometry.groups, rows, images: geometry.axes[0].input };
    let threads = if geometry.flops() < SERIAL_FLOPS { 1 } else { threads };
    let cuts = cuts(&sizes, &lines, element, threads);
    let lens: Vec<usize> = geometry.axes.iter().map(|axis| axis.input).collect();
    let product = product(geometry, rows, geometry.groups, &lens);
    let mut block: Vec<usize> = geometry.axes.iter().map(|axis| axis.output).collect();
    block[0] = block[0].div_ceil(cuts.images);
    block[1] = block[1].div_ceil(cuts.rows);
    let all: usize = lens.iter().product::<usize>().saturating_mul(geometry.groups * rows);
    let at_once = if cuts.count() > 1 { threads } else { 1 };
    let planes = all.saturating_mul(element).div_ceil(cuts.count()).saturating_mul(at_once);
    let adds = (rows * geometry.groups) as f64 * geometry.positions() as f64;
    Description {
        flops: product.flops() + adds,
        workspace: planes + rows * geometry.groups * geometry.channels * element,
        roundings: Some(roundings(geometry.channels, geometry.kernel_taps())),
        block,
        ..Description::default()
    }
}

/// What is kept of weights: a copy, where they cannot be read in place, and what the product makes of them.
struct Kept {
    copy: Option<Workspace>,
    products: Phases,
}

impl Made for Kept {
    fn bytes(&self) -> usize {
        self.copy.as_ref().map_or(0, Workspace::bytes) + self.products.bytes()
    }
}

/// Computes a convolution whose [`offer`] and [`suits`] were good.
pub fn convolve<T: Tiled>(
    problem: &Problem<'_, T>,
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    let Problem { x, weights, prepared, store, .. } = *problem;
    let lines = geometry.axes[1..].iter().map(Line::forward).collect();
    Shifted { geometry, outputs: geometry.outputs, lines, x, weights, prepared, store, kernels }
        .run(team)
}

/// Computes the gradient of an input, which must sum over channels, at the padded positions `windows`, which are the
/// positions of `store`.
pub fn adjoint<T: Tiled>(
    problem: &Adjoint<'_, T>,
    (store, windows): (&Store<'_, T>, &[Range<isize>]),
    kernels: &Kernels<T>,
    team: &Team<'_>,
) -> Result<(), Stopped> {
    let geometry = problem.geometry;
    // As it is of the gradient: outputs and channels have changed places, and the last taps come first.
    let swapped = Geometry {
        channels: geometry.outputs,
        outputs: geometry.channels,
        axes: geometry.axes.clone(),
        ..*geometry
    };
    let every = |axis: &Axis| Every { first: 0, step: 1, count: axis.kernel };
    let taps: Vec<Every> = geometry.axes[1..].iter().map(every).collect();
    let weights = &problem.weights.adjoint((geometry.outputs, geometry.channels), 0, &taps);
    let axes = geometry.axes[1..].iter().zip(windows);
    let lines = axes.map(|(axis, window)| Line::adjoint(axis, window)).collect();
    let own = Phases::default();
    let places = problem.kept.and_then(|kept| kept.of(1, true));
    let prepared = &places.or_else(|| own.of(1, false)).expect("nobody has asked for others")[0];
    let x = problem.gradient;
    let outputs = swapped.outputs;
    Shifted { geometry: &swapped, outputs, lines, x, weights, prepared, store, kernels }.run(team)
}

/// A sum of products that are moved.
struct Shifted<'a, T: 'static> {
    /// For its groups, its images and the channels that are summed over.
    geometry: &'a Geometry,
    outputs: usize,
    /// The spatial axes.
    lines: Vec<Line>,
    x: &'a View<'a>,
    weights: &'a Weights<'a, T>,
    prepared: &'a Prepared,
    store: &'a Store<'a, T>,
    kernels: &'a Kernels<T>,
}

/// What cuts depend on.
struct Sizes {
    groups: usize,
    /// Of a group, of the product.
    rows: usize,
    images: usize,
}

/// How results are cut so that planes stay in the second-level cache until they are added.
fn cuts(sizes: &Sizes, lines: &[Line], element: usize, threads: usize) -> Cuts {
    let plane = lines.iter().map(|line| line.reached(&(0..line.result)).len());
    let plane = plane.fold(sizes.images, usize::saturating_mul);
    let all = plane.saturating_mul(sizes.groups.saturating_mul(sizes.rows));
    let parts = all.saturating_mul(element).div_ceil(BLOCK_BYTES);
    if parts <= 1 {
        return Cuts::ONE;
    }
    let parts = parts.max(wanted_items(threads));
    let groups = sizes.groups.min(parts);
    let images = sizes.images.min(parts.div_ceil(groups));
    let line = &lines[0];
    let least = if lines.len() == 1 { BLOCK_SIGNAL } else { BLOCK_ROWS };
    let least = least.max(BLOCK_SHARE * line.reach()).saturating_mul(line.stride);
    let rows = (line.result / least).clamp(1, parts.div_ceil(groups * images));
    Cuts { groups, images, rows }
}

/// Some of the results.
struct Part {
    groups: Range<usize>,
    images: Range<usize>,
    /// On each axis, and the positions of the input that they take.
    results: Vec<Range<usize>>,
    taken: Vec<Range<usize>>,
}

impl<T: Tiled> Shifted<'_, T> {
    fn run(&self, team: &Team<'_>) -> Result<(), Stopped> {
        let geometry = self.geometry;
        let images = geometry.axes[0].input;
        let results = self.lines.iter().map(|line| line.result).product::<usize>();
        if geometry.groups * self.outputs * images * results == 0 {
            return Ok(());
        }
        let taps = geometry.kernel_taps();
        let rows = self.outputs * taps;
        let positions = self.lines.iter().map(|line| line.input as f64).product::<f64>();
        let rows_all = (geometry.groups * rows) as f64;
        let flops = 2.0 * rows_all * geometry.channels as f64 * positions * images as f64;
        let threads = if flops < SERIAL_FLOPS { 1 } else { team.threads };
        let team = &Team { threads, stop: team.stop };
        let sizes = Sizes { groups: geometry.groups, rows, images };
        let cuts = cuts(&sizes, &self.lines, size_of::<T>(), threads);
        let kept = self.prepared.once(Slot::Pointwise, || {
            let all = (geometry.groups * self.outputs, geometry.channels);
            let copy = match EachTap::in_place(self.weights, self.outputs) {
                Some(_) => None,
                None => Some(EachTap::copy(self.weights, all)?),
            };
            Ok::<_, Error>(Kept { copy, products: Phases::default() })
        })?;
        let own = Phases::default();
        let places = kept.products.of(cuts.groups, self.prepared.kept);
        let places = places.or_else(|| own.of(cuts.groups, false));
        let places = places.expect("nobody has asked for others");
        let count = cuts.count();
        let place = |number: usize| &places[cuts.nth(number).0];
        if threads > 1 && count < wanted_items(threads) {
            for number in 0..count {
                self.part(&self.nth(number, cuts), (kept, place(number)), team)?;
            }
            return Ok(());
        }
        // In vector operations. A part is too short to ask by itself whether to stop.
        let work = (flops / (2 * self.kernels.lanes * count) as f64) as usize;
        team.share(count, |turn| {
            while let Some(number) = turn.next() {
                if !turn.goes_on(work) {
                    break;
                }
                let team = Team { threads: 1, stop: &|| !turn.goes_on(usize::MAX) };
                match self.part(&self.nth(number, cuts), (kept, place(number)), &team) {
                    Err(Stopped::Failed(error)) => return Err(error),
                    // Whoever stopped this has told the others.
                    Err(Stopped::Interrupted) | Ok(()) => {}
                }
            }
            Ok(())
        })
    }

    fn nth(&self, number: usize, cuts: Cuts) -> Part {
        let (group, image, row) = cuts.nth(number);
        let mut results: Vec<Range<usize>> = self.lines.iter().map(|line| 0..line.result).collect();
        results[0] = even_part(&results[0], cuts.rows, row);
        let taken = self.lines.iter().zip(&results).map(|(line, of)| line.reached(of)).collect();
        Part {
            groups: even_part(&(0..self.geometry.groups), cuts.groups, group),
            images: even_part(&(0..self.geometry.axes[0].input), cuts.images, image),
            results,
            taken,
        }
    }

    /// Computes some of the results: their products, then their sums.
    fn part(
        &self,
        part: &Part,
        (kept, prepared): (&Kept, &Prepared),
        team: &Team<'_>,
    ) -> Result<(), Stopped> {
        let kernel: Vec<usize> = self.lines.iter().map(|line| line.shifts.len()).collect();
        let channels = self.geometry.channels;
        let EachTap { weights, rows } = match &kept.copy {
            Some(copy) => EachTap::of_copy(copy, channels, &kernel),
            None => EachTap::in_place(self.weights, self.outputs).expect("there is no copy"),
        }
        .from_group(part.groups.start, self.outputs * self.geometry.kernel_taps());
        let outputs = self.outputs * self.geometry.kernel_taps();
        let lens: Vec<usize> =
            [&part.images].into_iter().chain(&part.taken).map(|range| range.len()).collect();
        let geometry = product(self.geometry, outputs, part.groups.len(), &lens);
        let shape: Vec<usize> = [part.groups.len() * outputs].into_iter().chain(lens).collect();
        let len = shape.iter().fold(1usize, |len, &n| len.saturating_mul(n));
        let mut planes = Workspace::new::<T>("the products of taps", len)?;
        if len > 0 {
            let from = self.x.strides();
            let first = (part.groups.start * channels) as isize * from[0]
                + part.images.start as isize * from[1]
                + part
                    .taken
                    .iter()
                    .zip(&from[2..])
                    .map(|(r, s)| r.start as isize * s)
                    .sum::<isize>();
            let out = ViewMut::from_slice(&mut planes.elements_mut::<T>()[..len], &shape);
            let product = Problem {
                geometry: &geometry,
                x: &self.x.part(first),
                weights: &weights,
                prepared,
                padding: T::default(),
                exact: false,
                store: &Store::plain(out),
            };
            contract::direct(&product, self.kernels, team)?;
        }
        let fold = Fold {
            lines: &self.lines,
            rows: &rows,
            results: &part.results,
            taken: &part.taken,
            planes: &planes.elements()[..len],
            images: part.images.clone(),
            channels: part.groups.start * self.outputs..part.groups.end * self.outputs,
            store: self.store,
            kernels: self.kernels,
        };
        fold.run(team)
    }
}
